"""Launches of norms.cu and norms_backward.cu."""

from collections.abc import Iterator
from functools import cache
from itertools import product as pairs
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from xlmr_np.arrays import Array, array_namespace
from xlmr_np.layers.dropout import Dropout
from xlmr_np.layers.layer_norm import LayerNormParams

from .dropouts import drops, token_arguments
from .kernels import Gpu, Kernel, LaunchShape
from .rows import in_rows, row_launch, vector_length, vector_lengths, wide_type
from .sums import sums_of_groups
from .types import c_type

ROWS_OF_GROUP, THREADS_OF_GROUP = 16, 256  # as in norms_backward.cu


class NormCache(NamedTuple):
    """The normalised input in its storage type, and in the wide one the factor that scaled each row."""

    normalized: Float[Array, "N D"]
    inverse_std: Float[Array, " N"]


class NormGradients(NamedTuple):
    """What a norm hands back; the last two are in at least float32.

    Attributes:
        d_x: of what was normalised, hence of the residual.
        d_branch: of what was dropped before the residual came to it; the same array as `d_x` where nothing was.
        d_params: of scale and shift.
        d_bias: of the bias that was added before the dropout: the sum of the rows of `d_branch`.
    """

    d_x: Float[Array, "N D"]
    d_branch: Float[Array, "N D"]
    d_params: LayerNormParams
    d_bias: Float[Array, " D"]


def add_norm(
    gpu: Gpu,
    product: Float[Array, "N D"],
    bias: Float[Array, " D"],
    residual: Float[Array, "N D"],
    params: LayerNormParams,
    eps: float,
    dropout: Dropout | None = None,
    with_cache: bool = False,
) -> tuple[Float[Array, "N D"], NormCache | None]:
    """LayerNorm(dropout(product + bias) + residual) of every row, in the type of `product`, a new array.

    Args:
        gpu: where the arrays are.
        product: of any strides, as are all others.
        bias: added to every row.
        residual: added.
        params: scale and shift. They, `bias` and `residual` are converted to the type of `product`.
        eps: added to the variance.
        dropout: with a `TokenKey`; None drops nothing.
        with_cache: whether to keep what `norm_backward` needs; without, None comes in its place.

    Raises:
        TypeError: something is dropped, and not by a `TokenKey`.
        ValueError: rows are wider than 24,576 numbers (12,288 in float64).
    """
    return _normalize(gpu, product, bias, residual, params, eps, dropout, with_cache)


def layer_norm(
    gpu: Gpu, x: Float[Array, "N D"], params: LayerNormParams, eps: float, with_cache: bool = False
) -> tuple[Float[Array, "N D"], NormCache | None]:
    """LayerNorm of every row of `x`, otherwise as `add_norm`."""
    return _normalize(gpu, x, None, None, params, eps, None, with_cache)


def norm_backward(
    gpu: Gpu,
    d_y: Float[Array, "N D"],
    cache: NormCache,
    params: LayerNormParams,
    dropout: Dropout | None = None,
    drops_y: bool = False,
) -> NormGradients:
    """The gradients of what `add_norm` or `layer_norm` has added up (LN.7, DO.3) and of the parameters (LN.8, LN.9).

    Args:
        gpu: where the arrays are.
        d_y: of any strides; the type of `d_x` and `d_branch`.
        cache: of the forward pass.
        params: of the forward pass.
        dropout: as in the forward pass.
        drops_y: whether the dropout was on the result of the norm and not before it, as it is of embeddings.

    Raises:
        TypeError: something is dropped, and not by a `TokenKey`.
    """
    xp = array_namespace(d_y)
    number_of_rows, width = d_y.shape
    d_x = xp.empty(d_y.shape, dtype=d_y.dtype, device=d_y.device)
    drops_branch = drops(dropout) and not drops_y
    d_branch = xp.empty_like(d_x) if drops_branch else d_x
    wide = wide_type(d_y.dtype)
    groups = -(-number_of_rows // ROWS_OF_GROUP)
    partial = xp.empty((3, groups, width), dtype=wide, device=d_y.device)
    if number_of_rows > 0 and width > 0:
        given = [in_rows(x, d_y.dtype) for x in (d_y, cache.normalized, params.weight)]
        d_results, normalized, weight = given
        arguments = [
            d_results,
            normalized,
            in_rows(cache.inverse_std, wide),
            weight,
            *token_arguments(dropout, d_y.dtype),
            d_x,
            d_branch if drops_branch else None,
            partial,
            np.int64(number_of_rows),
            np.int32(width),
        ]
        length = vector_length(width, *given, d_x, d_branch, partial)
        means = ROWS_OF_GROUP * 2 * partial.dtype.itemsize
        kernel = _backward_kernel(d_y.dtype.name, length)
        gpu.launch(kernel, LaunchShape((groups,), (THREADS_OF_GROUP,), means), arguments)
    d_weight, d_shift, d_bias = sums_of_groups(gpu, partial)
    return NormGradients(d_x, d_branch, LayerNormParams(d_weight, d_shift), d_bias)


def _normalize(
    gpu: Gpu,
    product: Float[Array, "N D"],
    bias: Float[Array, " D"] | None,
    residual: Float[Array, "N D"] | None,
    params: LayerNormParams,
    eps: float,
    dropout: Dropout | None,
    with_cache: bool,
) -> tuple[Float[Array, "N D"], NormCache | None]:
    """With both `bias` and `residual`, or with neither."""
    xp = array_namespace(product)
    number_of_rows, width = product.shape
    dtype, wide = product.dtype, wide_type(product.dtype)
    result = xp.empty(product.shape, dtype=dtype, device=product.device)
    cache = empty_cache(result) if with_cache or drops(dropout) else None
    if number_of_rows > 0 and width > 0:
        given = [None if x is None else in_rows(x, dtype) for x in (product, bias, residual, *params)]
        size = [np.int64(number_of_rows), np.int32(width)]
        if cache is None:
            length = vector_length(width, result, *given)
            kernel = _kernel(dtype.name, length, residual is not None)
            arguments = [*given, wide(eps), result, *size]
        else:
            length = vector_length(width, result, cache.normalized, *given)
            kernel = _caching_kernel(dtype.name, length)
            arguments = [*given, wide(eps), *token_arguments(dropout, dtype), result, *cache, *size]
        gpu.launch(kernel, row_launch(number_of_rows, width, length, dtype), arguments)
    return result, cache if with_cache else None


def empty_cache(y: Float[Array, "N D"]) -> NormCache:
    """Room for the cache of the norm whose result is `y`."""
    xp = array_namespace(y)
    inverse_std = xp.empty(y.shape[0], dtype=wide_type(y.dtype), device=y.device)
    return NormCache(xp.empty_like(y), inverse_std)


def kernels() -> Iterator[Kernel]:
    """All instances that `add_norm`, `layer_norm` and `norm_backward` may launch."""
    for (dtype, length), adds in pairs(vector_lengths(), (True, False)):
        yield _kernel(dtype, length, adds)
    for dtype, length in vector_lengths():
        yield _caching_kernel(dtype, length)
        yield _backward_kernel(dtype, length)


@cache
def _kernel(dtype: str, length: int, adds: bool) -> Kernel:
    return Kernel("norms.cu", f"add_norm<{c_type(dtype)}, {length}, {str(adds).lower()}>")


@cache
def _caching_kernel(dtype: str, length: int) -> Kernel:
    return Kernel("norms.cu", f"add_norm_with_cache<{c_type(dtype)}, {length}>")


@cache
def _backward_kernel(dtype: str, length: int) -> Kernel:
    return Kernel("norms_backward.cu", f"norm_backward<{c_type(dtype)}, {length}>")
