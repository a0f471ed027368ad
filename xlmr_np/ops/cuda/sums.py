"""Launches of sums.cu."""

from collections.abc import Iterator
from functools import cache

import numpy as np
from jaxtyping import Float

from xlmr_np.arrays import Array, array_namespace

from .kernels import Gpu, Kernel, LaunchShape
from .rows import in_rows, vector_length, vector_lengths, wide_type
from .types import c_type

VECTORS_OF_BLOCK, SHARES_OF_BLOCK = 8, 32  # as in sums.cu
ROWS_OF_GROUP = 256


def column_sums(gpu: Gpu, x: Float[Array, "N D"]) -> Float[Array, " D"]:
    """The sum of all rows of `x`, of any strides, in at least float32; the same bits in every run."""
    rows = in_rows(x, x.dtype)[None, ...]
    return sums_of_groups(gpu, _sums(gpu, rows, ROWS_OF_GROUP))[0]


def sums_of_groups(gpu: Gpu, partial: Float[Array, "matrices groups D"]) -> Float[Array, "matrices D"]:
    """The sum over the groups of rows, of which a kernel has left the sums `partial`, in C order."""
    groups = partial.shape[1]
    return (partial if groups == 1 else _sums(gpu, partial, groups))[:, 0, :]


def _sums(gpu: Gpu, x: Float[Array, "matrices N D"], rows_of_group: int) -> Float[Array, "matrices groups D"]:
    """The sums of each group of rows; zeros of a single group where there are no rows."""
    xp = array_namespace(x)
    matrices, number_of_rows, width = x.shape
    wide = wide_type(x.dtype)
    if number_of_rows == 0 or width == 0:
        return xp.zeros((matrices, 1, width), dtype=wide, device=x.device)
    groups = -(-number_of_rows // rows_of_group)
    sums = xp.empty((matrices, groups, width), dtype=wide, device=x.device)
    length = vector_length(width, x)
    columns = VECTORS_OF_BLOCK * length
    shape = LaunchShape(
        (groups, -(-width // columns), matrices),
        (VECTORS_OF_BLOCK, SHARES_OF_BLOCK),
        SHARES_OF_BLOCK * columns * sums.dtype.itemsize,
    )
    arguments = [x, sums, np.int64(number_of_rows), np.int32(width), np.int32(rows_of_group)]
    gpu.launch(_kernel(x.dtype.name, length), shape, arguments)
    return sums


def kernels() -> Iterator[Kernel]:
    """All instances that `column_sums` and `sums_of_groups` may launch."""
    for dtype, length in vector_lengths():
        yield _kernel(dtype, length)


@cache
def _kernel(dtype: str, length: int) -> Kernel:
    return Kernel("sums.cu", f"column_sums<{c_type(dtype)}, {length}>")
