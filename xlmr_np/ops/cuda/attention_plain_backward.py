"""Launches of the backward pass of attention without tensor cores: see attention_plain_backward.cu."""

from collections.abc import Iterator
from functools import cache
from itertools import product

import numpy as np
from jaxtyping import Float

from xlmr_np.arrays import Array, array_namespace
from xlmr_np.layers.attention import PackedMask
from xlmr_np.layers.dropout import Dropout

from .attention import PLAIN_TYPES, WIDEST_HEAD
from .dropouts import drops, probability_arguments
from .kernels import Gpu, Kernel, LaunchShape
from .rows import in_rows, row_stride, wide_type, with_whole_rows
from .types import c_type

ROWS = 8  # as in attention_plain_backward.cu
FEATURES = (2, 8)  # that a lane may have, 32 apart


def plain_attention_backward(
    gpu: Gpu,
    d_context: Float[Array, "N H W"],
    query: Float[Array, "N H W"],
    key: Float[Array, "M H W"],
    value: Float[Array, "M H W"],
    context: Float[Array, "N H W"],
    log_sum_exp: Float[Array, "H N"],
    mask: PackedMask,
    dropout: Dropout | None = None,
) -> tuple[Float[Array, "N H W"], Float[Array, "M H W"], Float[Array, "M H W"]]:
    """The gradients of query, key and value, as `layers.attention.attention_backward` defines them.

    It takes all types and head widths, and gives the same bits in every run.

    Args:
        gpu: where the arrays are.
        d_context: packed, of any strides, here and in the next four.
        query: as it was in the forward pass.
        key: like `query`.
        value: like `query`.
        context: what `attention` returned.
        log_sum_exp: what it returned beside the context.
        mask: where the sentences lie: the spans of the keys lie end to end, in order, as those of the queries do.
        dropout: as it was in the forward pass.

    Raises:
        ValueError: heads are wider than 256.
        TypeError: `dropout` goes by something else than a `Philox`.
    """
    xp = array_namespace(d_context, query, key, value)
    arrays = query, key, value, context, d_context
    assert len({x.dtype for x in arrays}) == 1, "one kernel reads all of them"
    number, heads, width = query.shape
    if width > WIDEST_HEAD:
        raise ValueError(
            f"Heads of width {width} are too wide for the GPU kernels, which take up to {WIDEST_HEAD}; use the CPU."
        )
    wide = wide_type(query.dtype)
    query, key, value, context, d_context = (with_whole_rows(x, 1) for x in arrays)
    d_query, d_key, d_value = (xp.empty(x.shape, dtype=x.dtype, device=x.device) for x in (query, key, value))
    delta = xp.empty((heads, number), dtype=wide, device=query.device)
    sentences = mask.query.starts.shape[0]
    settings = [in_rows(x, xp.int64) for spans in (mask.query, mask.key) for x in spans]
    settings += [np.int32(sentences), np.int32(mask.is_causal), np.float64(width**-0.5), in_rows(log_sum_exp, wide)]
    settings += [np.int32(drops(dropout)), *probability_arguments(dropout, query.dtype), delta]
    sizes = [np.int64(number), np.int32(width)]
    if number > 0:
        kernel = _kernel("queries", query.dtype.name, width)
        read = [query, key, value, context, d_context]
        arguments = [*read, *(np.int64(row_stride(x)) for x in read), *settings, d_query, *sizes]
        gpu.launch(kernel, _launch_shape(number, sentences, heads), arguments)
    if key.shape[0] > 0:
        kernel = _kernel("keys", query.dtype.name, width)
        read = [query, key, value, d_context]
        arguments = [*read, *(np.int64(row_stride(x)) for x in read), *settings, d_key, d_value, *sizes]
        gpu.launch(kernel, _launch_shape(key.shape[0], sentences, heads), arguments)
    return d_query, d_key, d_value


def _launch_shape(rows: int, sentences: int, heads: int) -> LaunchShape:
    return LaunchShape((rows // ROWS + sentences, heads), (ROWS * 32,))


@cache
def _kernel(owners: str, dtype: str, width: int) -> Kernel:
    features = next(features for features in FEATURES if width <= 32 * features)
    expression = f"attention_plain_backward_{owners}<{c_type(dtype)}, {features}>"
    return Kernel("attention_plain_backward.cu", expression)


def kernels() -> Iterator[Kernel]:
    """All instances that `plain_attention_backward` may launch."""
    for dtype, features, owners in product(PLAIN_TYPES, FEATURES, ("queries", "keys")):
        yield _kernel(owners, dtype, 32 * features)
