"""What a model's forward pass returns: records read by attribute, by key, or like a tuple."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from xlmr_np.arrays import Array
from xlmr_np.decoding.cache import KeyValueCache

__all__ = [
    "BaseModelOutput",
    "CausalLMOutput",
    "GenerateBeamDecoderOnlyOutput",
    "GenerateDecoderOnlyOutput",
    "MaskedLMOutput",
    "ModelOutput",
    "MultipleChoiceModelOutput",
    "QuestionAnsweringModelOutput",
    "SequenceClassifierOutput",
    "TokenClassifierOutput",
]


@dataclass(frozen=True, eq=False)
class ModelOutput:
    """A record whose fields may be None; absent ones are not counted as keys or tuple entries.

    `output.logits`, `output["logits"]` and `output[0]` are the same; `output[:2]` and `to_tuple()` give
    tuples; iterating gives the keys, as it does for a dict.
    """

    def to_tuple(self) -> tuple[Any, ...]:
        """The values of the fields that are present, in order."""
        return tuple(getattr(self, key) for key in self.keys())

    def keys(self) -> list[str]:
        """The names of the fields that are present, in order."""
        return [field.name for field in fields(self) if getattr(self, field.name) is not None]

    def values(self) -> list[Any]:
        """The values of the fields that are present, in order."""
        return list(self.to_tuple())

    def items(self) -> list[tuple[str, Any]]:
        """Names and values of the fields that are present, in order."""
        return list(zip(self.keys(), self.to_tuple(), strict=True))

    def __getitem__(self, key: str | int | slice) -> Any:
        if isinstance(key, str):
            if key not in self.keys():
                raise KeyError(f"{key!r} is not in this {type(self).__name__}; it has {', '.join(self.keys())}.")
            return getattr(self, key)
        return self.to_tuple()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())

    def __contains__(self, key: object) -> bool:
        return key in self.keys()


@dataclass(frozen=True, eq=False)
class BaseModelOutput(ModelOutput):
    """What `XLMRobertaModel` returns; B sentences of T tokens, width D, H heads, L layers.

    Attributes:
        last_hidden_state: [B, T, D]; zeros at padding.
        pooler_output: [B, D], or None without a pooling layer.
        hidden_states: on request, L + 1 arrays [B, T, D]: after the embeddings and after each layer.
        past_key_values: of decoders, the cache with these tokens, for the next forward pass, unless it is declined.
        attentions: on request, L arrays [B, H, T, T] of attention probabilities (with a cache, over its tokens too);
            zeros at padding.
        cross_attentions: with them, where there is cross-attention, L arrays [B, H, T, S]; zeros at padding.
    """

    last_hidden_state: Array = None
    pooler_output: Array | None = None
    hidden_states: tuple[Array | None, ...] | None = None
    past_key_values: KeyValueCache | None = None
    attentions: tuple[Array, ...] | None = None
    cross_attentions: tuple[Array, ...] | None = None


@dataclass(frozen=True, eq=False)
class LogitsOutput(ModelOutput):
    """What models with one kind of logits return; what the logits are, their classes say.

    Attributes:
        loss: when labels were given.
        logits: see the class; None from a training step of a language model, which never makes all of them.
        hidden_states: see `BaseModelOutput`.
        attentions: see `BaseModelOutput`.
    """

    loss: Array | None = None
    logits: Array | None = None
    hidden_states: tuple[Array | None, ...] | None = None
    attentions: tuple[Array, ...] | None = None


@dataclass(frozen=True, eq=False)
class MaskedLMOutput(LogitsOutput):
    """What `XLMRobertaForMaskedLM` returns: logits [B, T, V], zeros at padding."""


@dataclass(frozen=True, eq=False)
class CausalLMOutput(ModelOutput):
    """What `XLMRobertaForCausalLM` returns.

    Attributes:
        loss: when labels were given.
        logits: [B, T, V] of each next token, zeros at padding; with `logits_to_keep`, of those places. None from a
            training step, which never makes all of them.
        past_key_values: see `BaseModelOutput`; so are the others.
        hidden_states: see there.
        attentions: see there.
        cross_attentions: see there.
    """

    loss: Array | None = None
    logits: Array | None = None
    past_key_values: KeyValueCache | None = None
    hidden_states: tuple[Array | None, ...] | None = None
    attentions: tuple[Array, ...] | None = None
    cross_attentions: tuple[Array, ...] | None = None


@dataclass(frozen=True, eq=False)
class GenerateDecoderOnlyOutput(ModelOutput):
    """What `generate()` returns on request, token by token; each tuple has an entry for each step.

    Attributes:
        sequences: [texts, T] token ids, the prompts and what was generated; of embeddings as prompts, the latter alone.
        scores: on request, [texts, V] as the logits processors left them.
        logits: on request, [texts, V] as the model gave them.
        attentions: on request, what `CausalLMOutput` has under this name, of every step; so are the next two.
        hidden_states: see there.
        cross_attentions: see there.
        past_key_values: the cache in its last state.
    """

    sequences: np.ndarray
    scores: tuple[Array, ...] | None = None
    logits: tuple[Array, ...] | None = None
    attentions: tuple[Any, ...] | None = None
    hidden_states: tuple[Any, ...] | None = None
    cross_attentions: tuple[Any, ...] | None = None
    past_key_values: KeyValueCache | None = None


@dataclass(frozen=True, eq=False)
class GenerateBeamDecoderOnlyOutput(ModelOutput):
    """What `generate()` returns on request from a beam search; scores and logits are of all beams, rows of each step.

    Attributes:
        sequences: see `GenerateDecoderOnlyOutput`; so are all others not named here.
        sequences_scores: with `output_scores`, [texts]: the sum of the log-probabilities over length ** length_penalty.
        scores: on request, log-probabilities as the logits processors left them.
        logits: see there.
        beam_indices: [texts, new tokens] the row among all beams that each token was put behind; -1 behind the end.
        attentions: see there.
        hidden_states: see there.
        cross_attentions: see there.
        past_key_values: see there.
    """

    sequences: np.ndarray
    sequences_scores: np.ndarray | None = None
    scores: tuple[Array, ...] | None = None
    logits: tuple[Array, ...] | None = None
    beam_indices: np.ndarray | None = None
    attentions: tuple[Any, ...] | None = None
    hidden_states: tuple[Any, ...] | None = None
    cross_attentions: tuple[Any, ...] | None = None
    past_key_values: KeyValueCache | None = None


@dataclass(frozen=True, eq=False)
class SequenceClassifierOutput(LogitsOutput):
    """What `XLMRobertaForSequenceClassification` returns: logits [B, C]."""


@dataclass(frozen=True, eq=False)
class TokenClassifierOutput(LogitsOutput):
    """What `XLMRobertaForTokenClassification` returns: logits [B, T, C], zeros at padding."""


@dataclass(frozen=True, eq=False)
class MultipleChoiceModelOutput(LogitsOutput):
    """What `XLMRobertaForMultipleChoice` returns: logits [B, C], one for each choice of each question."""


@dataclass(frozen=True, eq=False)
class QuestionAnsweringModelOutput(ModelOutput):
    """What `XLMRobertaForQuestionAnswering` returns.

    Attributes:
        loss: when both positions were given.
        start_logits: [B, T], for the answer to start at each token; -inf at padding.
        end_logits: [B, T], for the answer to end there; -inf at padding.
        hidden_states: see `BaseModelOutput`.
        attentions: see `BaseModelOutput`.
    """

    loss: Array | None = None
    start_logits: Array = None
    end_logits: Array = None
    hidden_states: tuple[Array | None, ...] | None = None
    attentions: tuple[Array, ...] | None = None
