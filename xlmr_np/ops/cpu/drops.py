"""Dropout in place."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from xlmr_np.arrays import Array
from xlmr_np.layers.dropout import Dropout, TokenKey, token_keep


class Dropped(NamedTuple):
    """Where a dropout sets zeros, and at what rate it does."""

    at: Bool[Array, "..."]
    rate: float


def dropped_features(dropout: Dropout | None, x: Float[Array, "*batch D"]) -> Dropped | None:
    """What a token-wise dropout drops of an array shaped like x, as [D, N]."""
    if dropout is None:
        return None
    keep: Any = dropout.keep
    bits = token_keep(keep, dropout.rate, x) if isinstance(keep, TokenKey) else keep
    return Dropped(~np.ascontiguousarray(bits.reshape(-1, x.shape[-1]).T), dropout.rate)


def drop(x: Float[Array, "..."], at: Bool[Array, "..."], rate: float) -> None:
    """Zero what is dropped, and divide the rest by 1 - rate, in place."""
    np.copyto(x, 0, where=at)
    if rate < 1.0:
        x /= x.dtype.type(1.0 - rate)
