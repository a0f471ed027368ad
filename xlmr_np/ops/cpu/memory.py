"""Where the engine's numbers lie: features before tokens, and temporaries in memory that is used again."""

import math
import threading

import numpy as np
from jaxtyping import Float

from xlmr_np.arrays import Array

CACHE_LINE = 64  # bytes
SAME_PLACE = 1024  # bytes: a cache keeps only a few lines that are a multiple of 4,096 or so apart
BLOCK = 262144  # elements that element-wise steps take at a time: threads with shorter ones wait for each other


class _Own(threading.local):
    """The buffers of each thread, by name and element type."""

    def __init__(self) -> None:
        self.buffers: dict[tuple[str, np.dtype], Array] = {}


_own = _Own()


def activations(shape: tuple[int, int], dtype: np.dtype) -> Float[Array, "D N"]:
    """An uninitialised [D, N]; where rows would be a multiple of `SAME_PLACE` long they are a `CACHE_LINE` longer.

    The numbers of one token would otherwise compete for the same few places of a cache: 4 % of a product.
    """
    features, tokens = shape
    return np.empty((features, _length_of_a_row(tokens, dtype)), dtype)[:, :tokens]


def _length_of_a_row(tokens: int, dtype: np.dtype) -> int:
    size = tokens * dtype.itemsize
    return (size + CACHE_LINE if size % SAME_PLACE == 0 else size) // dtype.itemsize


def features_first(x: Float[Array, "*batch D"]) -> Float[Array, "D N"]:
    """[..., D] as [D, N] with the numbers of a feature side by side; no copy of what the engine made itself."""
    y = x.reshape(-1, x.shape[-1]).T
    if y.strides[1] == y.itemsize and y.strides[0] >= y.shape[1] * y.itemsize:
        return y
    return copied(y)


def rows_of_a_block(tokens: int) -> int:
    """How many rows of activations element-wise steps take at a time."""
    return max(1, BLOCK // max(1, tokens))


def copied(x: Float[Array, "D N"]) -> Float[Array, "D N"]:
    """A copy in memory for activations."""
    y = activations(x.shape, x.dtype)
    np.copyto(y, x)
    return y


def tokens_first(y: Float[Array, "D N"], axes: tuple[int, ...]) -> Float[Array, "*batch D"]:
    """The same numbers as [..., D], where the tokens have these axes; never a copy."""
    return y.T.reshape(*axes, y.shape[0])


def scratch(name: str, shape: tuple[int, ...], dtype: np.dtype) -> Array:
    """An uninitialised array for temporaries that never leave an operation, from the thread's own memory.

    It is the same memory each time it is asked for under this name, so that a model at work allocates nothing large.
    Ask for sizes that do not grow with the number of tokens: the memory is kept.
    """
    size = math.prod(shape)
    buffer = _own.buffers.get((name, dtype))
    if buffer is None or buffer.size < size:
        buffer = _own.buffers[name, dtype] = np.empty(size, dtype)
    return buffer[:size].reshape(shape)


def scratch_activations(name: str, shape: tuple[int, int], dtype: np.dtype) -> Float[Array, "D N"]:
    """As `activations`, from the thread's own memory."""
    features, tokens = shape
    return scratch(name, (features, _length_of_a_row(tokens, dtype)), dtype)[:, :tokens]
