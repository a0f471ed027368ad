"""What kernels are told of a dropout: see dropout.cuh."""

from typing import Any

import numpy as np

from xlmr_np.layers.dropout import Dropout, Philox, TokenKey

from .rows import in_rows, wide_type

WORDS = 2**32  # that a random word may be


def drops(dropout: Dropout | None) -> bool:
    """Whether anything may be dropped at all."""
    return dropout is not None and _threshold(dropout.rate) < WORDS


def key_arguments(dropout: Dropout | None, dtype: Any) -> list[Any]:
    """The fields of a `DropoutKey`, one by one, for kernels over elements of type `dtype`; zeros where nothing drops.

    Raises:
        TypeError: the bits are given, and no key from which a kernel could draw them.
    """
    wide = wide_type(np.dtype(dtype))
    if dropout is None or not drops(dropout):
        return [np.uint32(0), np.uint32(0), np.uint32(0), wide(0)]
    keep = dropout.keep
    if not isinstance(keep, Philox | TokenKey):
        raise TypeError("On a GPU, what is dropped is drawn from a key; pass a Philox or a TokenKey as keep.")
    key = keep.key if isinstance(keep, TokenKey) else keep
    scale = 0.0 if dropout.rate == 1.0 else 1.0 / (1.0 - dropout.rate)
    return [np.uint32(key.low), np.uint32(key.high), np.uint32(_threshold(dropout.rate)), wide(scale)]


def probability_arguments(dropout: Dropout | None, dtype: Any) -> list[Any]:
    """Those of `key_arguments` for kernels of attention, which know themselves where their probabilities stand.

    Raises:
        TypeError: `keep` is no `Philox`.
    """
    if dropout is not None and drops(dropout) and not isinstance(dropout.keep, Philox):
        raise TypeError("On a GPU, packed attention drops by a Philox, and by no TokenKey and no bits.")
    return key_arguments(dropout, dtype)


def token_arguments(dropout: Dropout | None, dtype: Any) -> list[Any]:
    """Those of `key_arguments`, then the sentence and the row of each token, which are None where nothing is dropped.

    Raises:
        TypeError: `keep` is no `TokenKey`.
    """
    places: list[Any] = [None, None]
    if dropout is not None and drops(dropout):
        if not isinstance(dropout.keep, TokenKey):
            raise TypeError("On a GPU, features are dropped by a TokenKey, which says where each token stands.")
        places = [in_rows(each, np.int64).reshape(-1) for each in (dropout.keep.sentences, dropout.keep.rows)]
    return [*key_arguments(dropout, dtype), *places]


def _threshold(rate: float) -> int:
    """Words below it survive (DO.6)."""
    return round((1.0 - rate) * WORDS)
