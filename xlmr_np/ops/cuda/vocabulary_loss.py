"""Launches of vocabulary_loss.cu."""

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Int64

from xlmr_np.arrays import Array, array_namespace
from xlmr_np.layers.linear import LinearParams
from xlmr_np.losses.cross_entropy import IGNORED_LABEL
from xlmr_np.ops.reference import VOCABULARY_CHUNK

from .kernels import Gpu, Kernel, LaunchShape
from .rows import in_rows, vector_length, vector_lengths, wide_type
from .sums import column_sums
from .types import c_type

THREADS = 256  # as in vocabulary_loss.cu


class Targets(NamedTuple):
    """What both directions need besides logits."""

    labels: Int64[Array, " N"]
    counted: Int64[Array, "1"]  # how many are not ignored
    possible: Int64[Array, "1"] | None  # how many tokens their bias does not rule out, if labels are smoothed


def vocabulary_cross_entropy(
    gpu: Gpu, x: Float[Array, "N D"], params: LinearParams, labels: Int[Array, " N"], smoothing: float = 0.0
) -> tuple[Float[Array, ""], Float[Array, " N"]]:
    """The cross-entropy of `labels` under the logits `x Wᵀ + b`, and log Σ exp of the logits of each row.

    The logits of `VOCABULARY_CHUNK` rows of the vocabulary exist at a time: as products in the type of `x`, to which
    the bias, in the type of `x` too, is added in float32 (float64 for float64), which is the type of both results.

    Args:
        gpu: where the arrays are.
        x: of any strides.
        params: the token table [V, D] and the bias [V]; a chunk at a time is converted to the type of `x` where they
            have another.
        labels: see `losses.cross_entropy`.
        smoothing: likewise.
    """
    xp = array_namespace(x)
    wide = wide_type(x.dtype)
    x, number_of_rows = in_rows(x, x.dtype), x.shape[0]
    bias = in_rows(params.bias, x.dtype)
    targets = _targets(labels, bias, smoothing)
    rows_so_far = xp.empty((number_of_rows, 4), dtype=wide, device=x.device)  # RowSoFar of vocabulary_loss.cu
    for rows in _chunks(params, x):
        product = _product(gpu, x, _table_rows(params, rows, x))
        arguments = [product, bias[rows], np.int32(product.shape[1]), np.int64(rows.start)]
        arguments += [targets.labels, np.int32(smoothing > 0.0), rows_so_far]
        _launch(gpu, "add_logits", product, bias[rows], arguments)
    log_sum_exp = xp.empty(number_of_rows, dtype=wide, device=x.device)
    loss = xp.empty((), dtype=wide, device=x.device)
    arguments = [rows_so_far, *targets, wide(smoothing), log_sum_exp, loss, np.int64(number_of_rows)]
    gpu.launch(_mean_loss(np.dtype(wide).name), LaunchShape((1,), (THREADS,)), arguments)
    return loss, log_sum_exp


def vocabulary_cross_entropy_backward(
    gpu: Gpu,
    d_loss: Float[Array, ""],
    x: Float[Array, "N D"],
    log_sum_exp: Float[Array, " N"],
    params: LinearParams,
    labels: Int[Array, " N"],
    smoothing: float = 0.0,
) -> tuple[Float[Array, "N D"], LinearParams]:
    """The gradients of x [N, D], weight [V, D] and bias [V], from logits that are computed again by chunks.

    Those of x and weight are in the type of `x`, that of the bias in float32 (float64 for float64).

    Args:
        gpu: where the arrays are.
        d_loss: in float32 (float64 for float64), so that it may be a loss scale beyond the range of `x`.
        x: as given forward, as are `params`, `labels` and `smoothing`.
        log_sum_exp: as returned forward.
        params: see there.
        labels: see there.
        smoothing: see there.
    """
    xp = array_namespace(x)
    wide = wide_type(x.dtype)
    x, bias = in_rows(x, x.dtype), in_rows(params.bias, x.dtype)
    labels, counted, possible = _targets(labels, bias, smoothing)
    log_sum_exp, d_loss = in_rows(log_sum_exp, wide), xp.asarray(d_loss, dtype=wide, device=x.device)
    d_x = xp.zeros(x.shape, dtype=wide, device=x.device)
    make = xp.empty if x.shape[0] > 0 else xp.zeros  # without rows there are no chunks
    d_weight = make(params.weight.shape, dtype=x.dtype, device=x.device)
    d_bias = make(params.bias.shape, dtype=wide, device=x.device)
    for rows in _chunks(params, x):
        weight = _table_rows(params, rows, x)
        d_logits = _product(gpu, x, weight)  # once the kernel has run
        arguments = [d_logits, bias[rows], np.int32(d_logits.shape[1]), np.int64(rows.start), labels, counted, possible]
        arguments += [wide(smoothing), log_sum_exp, d_loss]
        _launch(gpu, "logits_gradient", d_logits, bias[rows], arguments)
        d_x += xp.astype(gpu.matmul(d_logits, weight), wide, copy=False)
        d_weight[rows, :] = gpu.matmul(xp.matrix_transpose(d_logits), x)
        d_bias[rows] = column_sums(gpu, d_logits)
    return xp.astype(d_x, x.dtype, copy=False), LinearParams(d_weight, d_bias)


def kernels() -> Iterator[Kernel]:
    """All instances that these functions may launch."""
    for dtype, length in vector_lengths():
        yield from (_kernel("add_logits", dtype, length), _kernel("logits_gradient", dtype, length))
    yield from (_mean_loss("float32"), _mean_loss("float64"))


def _targets(labels: Int[Array, " N"], bias: Float[Array, " V"], smoothing: float) -> Targets:
    """Counted on the GPU, in integers, whose sum has no order."""
    xp = array_namespace(bias)

    def count(is_one: Array) -> Int64[Array, "1"]:
        return xp.sum(is_one, dtype=xp.int64, keepdims=True)

    wide_bias = xp.astype(bias, wide_type(bias.dtype), copy=False)
    possible = count(wide_bias != -xp.inf) if smoothing > 0.0 else None
    return Targets(in_rows(labels, xp.int64), count(labels != IGNORED_LABEL), possible)


def _chunks(params: LinearParams, x: Float[Array, "N D"]) -> Iterator[slice]:
    """Ranges of rows that make up the vocabulary; none if `x` has no rows."""
    size = params.weight.shape[0] if x.shape[0] > 0 else 0
    for start in range(0, size, VOCABULARY_CHUNK):
        yield slice(start, min(start + VOCABULARY_CHUNK, size))


def _table_rows(params: LinearParams, rows: slice, x: Float[Array, "N D"]) -> Float[Array, "C D"]:
    """Some rows of the table in the type of `x`."""
    return array_namespace(x).astype(params.weight[rows, :], x.dtype, copy=False)


def _product(gpu: Gpu, x: Float[Array, "N D"], weight: Float[Array, "C D"]) -> Float[Array, "N C"]:
    return in_rows(gpu.matmul(x, array_namespace(x).matrix_transpose(weight)), x.dtype)


def _launch(
    gpu: Gpu, name: str, product: Float[Array, "N C"], bias: Float[Array, " C"], arguments: list[Array | np.generic]
) -> None:
    """The kernel of this name with a block for each row."""
    kernel = _kernel(name, product.dtype.name, vector_length(product.shape[1], product, bias))
    gpu.launch(kernel, LaunchShape((product.shape[0],), (THREADS,)), arguments)


@cache
def _kernel(name: str, dtype: str, length: int) -> Kernel:
    return Kernel("vocabulary_loss.cu", f"{name}<{c_type(dtype)}, {length}>")


@cache
def _mean_loss(wide: str) -> Kernel:
    return Kernel("vocabulary_loss.cu", f"mean_loss<{c_type(wide)}>")
