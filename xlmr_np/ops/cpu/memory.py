"""Where the engine's numbers lie: features before tokens, and temporaries in memory that is used again."""

import math
import threading

import numpy as np
from jaxtyping import Float

from xlmr_np.arrays import Array

BLOCK = 65536  # elements that element-wise steps take at a time: fewer would wait for each other more than they compute


class _Own(threading.local):
    """The buffers of each thread, by name and element type."""

    def __init__(self) -> None:
        self.buffers: dict[tuple[str, np.dtype], Array] = {}


_own = _Own()


def features_first(x: Float[Array, "*batch D"]) -> Float[Array, "D N"]:
    """[..., D] as contiguous [D, N]; no copy of what the engine made itself."""
    return np.ascontiguousarray(x.reshape(-1, x.shape[-1]).T)


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
