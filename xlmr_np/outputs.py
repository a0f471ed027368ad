"""What a model's forward pass returns: records read by attribute, by key, or like a tuple."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from xlmr_np.arrays import Array

__all__ = [
    "BaseModelOutput",
    "CausalLMOutput",
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
        attentions: on request, L arrays [B, H, T, T] of attention probabilities; zeros at padding.
        cross_attentions: with them, where there is cross-attention, L arrays [B, H, T, S]; zeros at padding.
    """

    last_hidden_state: Array = None
    pooler_output: Array | None = None
    hidden_states: tuple[Array | None, ...] | None = None
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
class CausalLMOutput(LogitsOutput):
    """What `XLMRobertaForCausalLM` returns: logits [B, T, V] of each next token, zeros at padding.

    With `logits_to_keep`, the logits are of those places.

    Attributes:
        cross_attentions: see `BaseModelOutput`.
    """

    cross_attentions: tuple[Array, ...] | None = None


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
