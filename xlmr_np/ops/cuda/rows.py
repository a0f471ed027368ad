"""How rows lie in memory before kernels that take a warp or a block for each, see rows.cuh."""

from collections.abc import Iterator
from itertools import product as pairs
from typing import Any

import numpy as np
from jaxtyping import Float

from xlmr_np.arrays import Array, address, array_namespace

from .kernels import LaunchShape

VECTOR_BYTES = 16  # that a thread loads at once
WARPS_OF_BLOCK = 4
SHARED_MEMORY_OF_BLOCK = 48 * 1024  # bytes that rows of one block share, where they are not wider than this
MOST_SHARED_MEMORY = 96 * 1024  # bytes that every GPU from sm_80 on lets a block have
ELEMENT_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}  # of the types with kernels


def in_rows(x: Array, dtype: Any) -> Array:
    """`x` in C order and of this element type; a copy only if it is not."""
    if x.dtype == dtype and x.flags.c_contiguous:  # as it nearly always is; a small batch is all such calls
        return x
    xp = array_namespace(x)
    return xp.ascontiguousarray(xp.astype(x, dtype, copy=False))


def with_whole_rows(x: Float[Array, "N H W"], alignment: int) -> Float[Array, "N H W"]:
    """`x` itself if the heads of a token lie end to end and begin at a multiple of `alignment`; otherwise a copy."""
    _, heads, width = x.shape
    row, head, feature = x.strides
    is_whole = feature == x.dtype.itemsize and (heads == 1 or head == width * x.dtype.itemsize)
    if is_whole and row % alignment == 0 and address(x) % alignment == 0:
        return x
    whole = array_namespace(x).empty(x.shape, dtype=x.dtype, device=x.device)
    whole[...] = x
    return whole


def row_stride(x: Float[Array, "N H W"]) -> int:
    """From a row to the next, in elements."""
    return int(x.strides[0] // x.dtype.itemsize)


def vector_length(width: int, *arrays: Array | None) -> int:
    """How many elements a thread may load at once from rows of `width` of all these arrays: 16 bytes of them, or 1.

    Args:
        width: of the rows, which lie end to end.
        arrays: of one element type, in C order; None is none.
    """
    given = [x for x in arrays if x is not None]
    length = VECTOR_BYTES // given[0].dtype.itemsize
    is_aligned = width % length == 0 and all(address(x) % VECTOR_BYTES == 0 for x in given)
    return length if is_aligned else 1


def vector_lengths() -> Iterator[tuple[str, int]]:
    """The names of all element types, each with every length that `vector_length` may give for it."""
    for (dtype, element_bytes), is_aligned in pairs(ELEMENT_BYTES.items(), (True, False)):
        yield dtype, VECTOR_BYTES // element_bytes if is_aligned else 1


def wide_type(dtype: Any) -> type[np.floating]:
    """The NumPy type of the numbers in which kernels add up elements of type `dtype`."""
    return np.float64 if dtype.itemsize == 8 else np.float32


def row_launch(number_of_rows: int, width: int, length: int, dtype: Any) -> LaunchShape:
    """For kernels with a warp for each row, which keeps it in shared memory, in rounds of `length` numbers a lane.

    Raises:
        ValueError: a row does not fit into shared memory.
    """
    round_of_warp = 32 * length
    row_bytes = -(-width // round_of_warp) * round_of_warp * np.dtype(wide_type(dtype)).itemsize
    if row_bytes > MOST_SHARED_MEMORY:
        raise ValueError(f"Rows of {width} numbers are too wide for the GPU's layer norm; use the CPU.")
    warps = min(WARPS_OF_BLOCK, max(1, SHARED_MEMORY_OF_BLOCK // row_bytes), number_of_rows)
    return LaunchShape((-(-number_of_rows // warps),), (32 * warps,), warps * row_bytes)
