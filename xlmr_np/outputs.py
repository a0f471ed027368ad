"""What a model's forward pass returns: records read by attribute, by key, or like a tuple."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from xlmr_np.arrays import Array

__all__ = ["BaseModelOutput", "MaskedLMOutput", "ModelOutput"]


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
    """

    last_hidden_state: Array = None
    pooler_output: Array | None = None
    hidden_states: tuple[Array | None, ...] | None = None
    attentions: tuple[Array, ...] | None = None


@dataclass(frozen=True, eq=False)
class MaskedLMOutput(ModelOutput):
    """What `XLMRobertaForMaskedLM` returns; V is the size of the vocabulary.

    Attributes:
        loss: the mean cross-entropy over the labelled tokens, when labels were given.
        logits: [B, T, V]; zeros at padding.
        hidden_states: see `BaseModelOutput`.
        attentions: see `BaseModelOutput`.
    """

    loss: Array | None = None
    logits: Array = None
    hidden_states: tuple[Array | None, ...] | None = None
    attentions: tuple[Array, ...] | None = None
