"""Launches of norms.cu, and how rows are laid before kernels that take a warp for each."""

from collections.abc import Iterator
from functools import cache
from itertools import product as pairs
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from xlmr_np.arrays import Array, address, array_namespace
from xlmr_np.layers.layer_norm import LayerNormParams

from .kernels import Gpu, Kernel
from .types import c_type

VECTOR_BYTES = 16  # that a thread loads at once
WARPS_OF_BLOCK = 4
SHARED_MEMORY_OF_BLOCK = 48 * 1024  # bytes that rows of one block share, where they are not wider than this
WIDEST_ROW = 96 * 1024  # bytes; every GPU from sm_80 on lets a block have so much
ELEMENT_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}  # of the types with kernels


class RowLaunch(NamedTuple):
    """How a kernel with a warp for each row is launched."""

    grid: tuple[int]
    block: tuple[int]
    shared_memory: int


def add_norm(
    gpu: Gpu,
    product: Float[Array, "N D"],
    bias: Float[Array, " D"],
    residual: Float[Array, "N D"],
    params: LayerNormParams,
    eps: float,
) -> Float[Array, "N D"]:
    """LayerNorm(product + bias + residual) of every row, in the type of `product`, a new array.

    Args:
        gpu: where the arrays are.
        product: of any strides, as are all others.
        bias: added to every row.
        residual: added.
        params: scale and shift. They, `bias` and `residual` are converted to the type of `product`.
        eps: added to the variance.

    Raises:
        ValueError: rows are wider than 24,576 numbers (12,288 in float64).
    """
    return _normalize(gpu, product, bias, residual, params, eps)


def layer_norm(gpu: Gpu, x: Float[Array, "N D"], params: LayerNormParams, eps: float) -> Float[Array, "N D"]:
    """LayerNorm of every row of `x`, otherwise as `add_norm`."""
    return _normalize(gpu, x, None, None, params, eps)


def _normalize(
    gpu: Gpu,
    product: Float[Array, "N D"],
    bias: Float[Array, " D"] | None,
    residual: Float[Array, "N D"] | None,
    params: LayerNormParams,
    eps: float,
) -> Float[Array, "N D"]:
    """With both `bias` and `residual`, or with neither."""
    number_of_rows, width = product.shape
    result = array_namespace(product).empty(product.shape, dtype=product.dtype, device=product.device)
    if number_of_rows == 0 or width == 0:
        return result
    given = [None if x is None else in_rows(x, product.dtype) for x in (product, bias, residual, *params)]
    length = vector_length(width, result, *given)
    launch = row_launch(number_of_rows, width, length, product.dtype)
    arguments = [*given, wide_type(product.dtype)(eps), result, np.int64(number_of_rows), np.int32(width)]
    kernel = _kernel(product.dtype.name, length, residual is not None)
    gpu.launch(kernel, launch.grid, launch.block, arguments, launch.shared_memory)
    return result


def kernels() -> Iterator[Kernel]:
    """All instances that `add_norm` and `layer_norm` may launch."""
    for (dtype, length), adds in pairs(vector_lengths(), (True, False)):
        yield _kernel(dtype, length, adds)


def in_rows(x: Array, dtype: Any) -> Array:
    """`x` in C order and of this element type; a copy only if it is not."""
    if x.dtype == dtype and x.flags.c_contiguous:  # as it nearly always is; a small batch is all such calls
        return x
    xp = array_namespace(x)
    return xp.ascontiguousarray(xp.astype(x, dtype, copy=False))


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


def row_launch(number_of_rows: int, width: int, length: int, dtype: Any) -> RowLaunch:
    """For kernels with a warp for each row, which keeps it in shared memory, in rounds of `length` numbers a lane.

    Raises:
        ValueError: a row does not fit into shared memory.
    """
    round_of_warp = 32 * length
    row_bytes = -(-width // round_of_warp) * round_of_warp * np.dtype(wide_type(dtype)).itemsize
    if row_bytes > WIDEST_ROW:
        raise ValueError(f"Rows of {width} numbers are too wide for the GPU's layer norm; use the CPU.")
    warps = min(WARPS_OF_BLOCK, max(1, SHARED_MEMORY_OF_BLOCK // row_bytes), number_of_rows)
    return RowLaunch((-(-number_of_rows // warps),), (32 * warps,), warps * row_bytes)


@cache
def _kernel(dtype: str, length: int, adds: bool) -> Kernel:
    return Kernel("norms.cu", f"add_norm<{c_type(dtype)}, {length}, {str(adds).lower()}>")
