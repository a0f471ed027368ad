"""Launches of the backward pass of attention: see attention_backward.cu, and attention_plain_backward.cu."""

from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from xlmr_np.arrays import Array, array_namespace
from xlmr_np.layers.attention import PackedMask
from xlmr_np.layers.dropout import Dropout

from .attention import ALIGNMENT, TENSOR_CORE_TYPES
from .attention_plain_backward import plain_attention_backward
from .dropouts import drops, probability_arguments
from .kernels import Gpu, Kernel, LaunchShape
from .rows import in_rows, row_stride, with_whole_rows
from .types import c_type

WARPS = 4


class BackwardTiles(NamedTuple):
    """How many rows a block owns, and how many of the others it sees at one time."""

    own: int
    seen: int


QUERY_TILES = {32: BackwardTiles(64, 64), 64: BackwardTiles(64, 64), 128: BackwardTiles(64, 32)}  # by head width
KEY_TILES = {32: BackwardTiles(64, 64), 64: BackwardTiles(64, 64), 128: BackwardTiles(64, 32)}


def attention_backward(
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

    They are the same bits in every run. Half types and the usual head widths are for tensor cores, the others are not.

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
    number, heads, width = query.shape
    if query.dtype.name not in TENSOR_CORE_TYPES or width not in QUERY_TILES:
        return plain_attention_backward(gpu, d_context, query, key, value, context, log_sum_exp, mask, dropout)
    xp = array_namespace(d_context, query, key, value)
    arrays = query, key, value, context, d_context
    assert len({x.dtype for x in arrays}) == 1, "one kernel reads all of them"
    query, key, value, context, d_context = (with_whole_rows(x, ALIGNMENT) for x in arrays)
    d_query, d_key, d_value = (xp.empty(x.shape, dtype=x.dtype, device=x.device) for x in (query, key, value))
    delta = xp.empty((heads, number), dtype=xp.float32, device=query.device)
    log_sum_exp = in_rows(log_sum_exp, xp.float32)
    sentences = mask.query.starts.shape[0]
    places = [in_rows(x, xp.int64) for spans in (mask.query, mask.key) for x in spans]
    places += [np.int32(sentences), np.int32(mask.is_causal), np.float32(width**-0.5)]
    dropout_key = probability_arguments(dropout, query.dtype)
    if number > 0:
        kernel, tiles = _query_kernel(query.dtype.name, width, drops(dropout)), QUERY_TILES[width]
        read = [query, key, value, context, d_context]
        arguments = [*read, *(np.int64(row_stride(x)) for x in read), *places, log_sum_exp, *dropout_key]
        shape = _launch_shape(tiles, number, sentences, heads, width)
        gpu.launch(kernel, shape, [*arguments, delta, d_query, np.int64(number)])
    if key.shape[0] > 0:
        kernel, tiles = _key_kernel(query.dtype.name, width, drops(dropout)), KEY_TILES[width]
        read = [query, key, value, d_context]
        arguments = [*read, *(np.int64(row_stride(x)) for x in read), *places, log_sum_exp, delta, *dropout_key]
        shape = _launch_shape(tiles, key.shape[0], sentences, heads, width)
        gpu.launch(kernel, shape, [*arguments, d_key, d_value, np.int64(number)])
    return d_query, d_key, d_value


def _launch_shape(tiles: BackwardTiles, rows: int, sentences: int, heads: int, width: int) -> LaunchShape:
    """For blocks that own tiles of so many rows: two tiles of those, four of what they walk over, two numbers a row."""
    shared_memory = (tiles.own + 2 * tiles.seen) * 2 * width * 2 + 2 * tiles.seen * 2 * 4
    return LaunchShape((rows // tiles.own + sentences, heads), (WARPS * 32,), shared_memory)


@cache
def _query_kernel(dtype: str, width: int, has_dropout: bool) -> Kernel:
    return _kernel("attention_backward_queries", dtype, width, QUERY_TILES[width], has_dropout)


@cache
def _key_kernel(dtype: str, width: int, has_dropout: bool) -> Kernel:
    return _kernel("attention_backward_keys", dtype, width, KEY_TILES[width], has_dropout)


def _kernel(name: str, dtype: str, width: int, tiles: BackwardTiles, has_dropout: bool) -> Kernel:
    flag = "true" if has_dropout else "false"
    expression = f"{name}<{c_type(dtype)}, {width}, {tiles.own}, {tiles.seen}, {WARPS}, {flag}>"
    return Kernel("attention_backward.cu", expression)


def kernels() -> Iterator[Kernel]:
    """All instances that `attention_backward` may launch on tensor cores."""
    for dtype, width, has_dropout in product(TENSOR_CORE_TYPES, QUERY_TILES, (False, True)):
        yield _query_kernel(dtype, width, has_dropout)
        yield _key_kernel(dtype, width, has_dropout)
