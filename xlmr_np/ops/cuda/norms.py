"""Launches of norms.cu."""

from collections.abc import Iterator
from functools import cache
from itertools import product as pairs

import numpy as np
from jaxtyping import Float

from xlmr_np.arrays import Array, array_namespace
from xlmr_np.layers.layer_norm import LayerNormParams

from .kernels import Gpu, Kernel
from .rows import in_rows, row_launch, vector_length, vector_lengths, wide_type
from .types import c_type


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
    arguments = [*given, wide_type(product.dtype)(eps), result, np.int64(number_of_rows), np.int32(width)]
    kernel = _kernel(product.dtype.name, length, residual is not None)
    gpu.launch(kernel, row_launch(number_of_rows, width, length, product.dtype), arguments)
    return result


def kernels() -> Iterator[Kernel]:
    """All instances that `add_norm` and `layer_norm` may launch."""
    for (dtype, length), adds in pairs(vector_lengths(), (True, False)):
        yield _kernel(dtype, length, adds)


@cache
def _kernel(dtype: str, length: int, adds: bool) -> Kernel:
    return Kernel("norms.cu", f"add_norm<{c_type(dtype)}, {length}, {str(adds).lower()}>")
