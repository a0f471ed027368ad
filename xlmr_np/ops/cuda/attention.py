"""Launches of the attention kernels: see attention.cu, attention_plain.cu and attention_decode.cu."""

from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from xlmr_np.arrays import Array, array_namespace
from xlmr_np.layers.attention import PackedMask
from xlmr_np.layers.dropout import Dropout

from .dropouts import drops, probability_arguments
from .kernels import Gpu, Kernel, LaunchShape
from .rows import MOST_SHARED_MEMORY, in_rows, row_stride, vector_length, vector_lengths, with_whole_rows
from .types import c_type

TENSOR_CORE_TYPES = ("float16", "bfloat16")
PLAIN_TYPES = ("float64", "float32", "float16", "bfloat16")
KEY_TILE, WARPS = 64, 4
PLAIN_QUERIES, PLAIN_KEYS = 8, 32  # as in attention_plain.cu
PLAIN_FEATURES = (1, 2, 4, 8)  # that a lane of the plain kernel may have, 32 apart
WIDEST_HEAD = 256  # with which the two kernels that have no tiles can do
DECODE_THREADS = 256  # as in attention_decode.cu
ALIGNMENT = 16  # bytes that a copy moves


class QueryTiles(NamedTuple):
    """How many queries a block takes: many where a key serves many, few where bias or dropout fill registers."""

    short: int
    long: int


QUERY_TILES = {32: QueryTiles(64, 64), 64: QueryTiles(64, 128), 128: QueryTiles(64, 64)}  # by head width


def attention(
    gpu: Gpu,
    query: Float[Array, "N H W"],
    key: Float[Array, "M H W"],
    value: Float[Array, "M H W"],
    mask: PackedMask,
    bias: Float[Array, "#B #H #T #S"] | None = None,
    with_log_sum_exp: bool = False,
    dropout: Dropout | None = None,
) -> tuple[Float[Array, "N H W"], Float[Array, "H N"] | None]:
    """The context of packed sentences, as `layers.attention.attention_forward` defines it.

    Args:
        gpu: where the arrays are.
        query: packed, of any strides, here and in the next two.
        key: packed.
        value: like `key`.
        mask: where the sentences lie.
        bias: added to the scores, in the type of the query; T and S are at least the longest sentence's numbers of
            queries and keys. Minus infinity hides a key.
        with_log_sum_exp: also return the logarithm of the sum of the exponentials of each row of scores, as training
            needs it; it is in the type that sums are in, and minus infinity where a query sees no key.
        dropout: on the probabilities, by a `Philox` (DO.4); their logarithms are those before.

    Raises:
        ValueError: heads are wider than 256, or there are both a bias and a dropout.
        TypeError: `dropout` goes by something else than a `Philox`.
    """
    xp = array_namespace(query, key, value)
    assert query.dtype == key.dtype == value.dtype, "one kernel reads all of them"
    assert bias is None or bias.dtype == query.dtype, f"a bias in {bias.dtype} for {query.dtype}"
    number, heads, width = query.shape
    if width > WIDEST_HEAD:
        raise ValueError(
            f"Heads of width {width} are too wide for the GPU kernels, which take up to {WIDEST_HEAD}; use the CPU."
        )
    has_dropout, dropout_key = drops(dropout), probability_arguments(dropout, query.dtype)
    if has_dropout and bias is not None:
        raise ValueError("The GPU kernels of attention take a bias or a dropout, not both at once.")
    wide = xp.float64 if query.dtype == xp.float64 else xp.float32
    context = xp.empty(query.shape, dtype=query.dtype, device=query.device)
    log_sum_exp = xp.empty((heads, number), dtype=wide, device=query.device) if with_log_sum_exp else None
    if number == 0:
        return context, log_sum_exp
    sentences = mask.query.starts.shape[0]
    are_few = number <= sentences  # one query a sentence, on the average
    uses_tensor_cores = not are_few and query.dtype.name in TENSOR_CORE_TYPES and width in QUERY_TILES
    query, key, value = (with_whole_rows(x, ALIGNMENT if uses_tensor_cores else 1) for x in (query, key, value))
    arguments = [query, key, value, *(np.int64(row_stride(x)) for x in (query, key, value))]
    arguments += [in_rows(x, xp.int64) for spans in (mask.query, mask.key) for x in spans]
    arguments += [np.int32(sentences), bias, *_bias_strides(bias)]
    results = [context, log_sum_exp, np.int64(number)]
    if uses_tensor_cores:
        tiles = QUERY_TILES[width]
        are_long = number > tiles.short * sentences  # on the average
        tile = tiles.short if has_dropout or bias is not None or not are_long else tiles.long
        kernel = _tensor_core_kernel(query.dtype.name, width, tile, bias is not None, has_dropout)
        arguments += [np.float32(width**-0.5), np.int32(mask.is_causal), *dropout_key, *results]
        block, shared_memory = WARPS * 32, (tile + 4 * KEY_TILE) * width * 2
    else:
        arguments += [np.float64(width**-0.5), *results, np.int32(width), np.int32(mask.is_causal)]
        numbers = PLAIN_QUERIES * width + PLAIN_KEYS * (width + 1) + PLAIN_KEYS * width
        shared_memory = numbers * np.dtype(wide).itemsize
        if are_few or shared_memory > MOST_SHARED_MEMORY:
            kernel = _decode_kernel(query.dtype.name, _vector_length(query, key, value), has_dropout)
            arguments += dropout_key
            tile, block, shared_memory = 1, DECODE_THREADS, 0
        else:
            kernel, tile, block = _plain_kernel(query.dtype.name, width), PLAIN_QUERIES, PLAIN_QUERIES * 32
            arguments += [np.int32(has_dropout), *dropout_key]
    gpu.launch(kernel, LaunchShape((number // tile + sentences, heads), (block,), shared_memory), arguments)
    return context, log_sum_exp


def _vector_length(*arrays: Float[Array, "_ H W"]) -> int:
    """How many features a lane may load at once from whole rows of all these arrays, wherever the next row begins."""
    length = vector_length(arrays[0].shape[2], *arrays)
    return length if all(row_stride(x) % length == 0 for x in arrays) else 1


def _bias_strides(bias: Float[Array, "#B #H #T #S"] | None) -> list[np.int64]:
    """In elements; 0 along the axes on which it is the same for all."""
    if bias is None:
        return [np.int64(0)] * 4
    return [
        np.int64(0 if size == 1 else stride // bias.dtype.itemsize)
        for size, stride in zip(bias.shape, bias.strides, strict=True)
    ]


@cache
def _tensor_core_kernel(dtype: str, width: int, tile: int, has_bias: bool, has_dropout: bool) -> Kernel:
    flags = ", ".join("true" if flag else "false" for flag in (has_bias, has_dropout))
    name = f"attention_forward<{c_type(dtype)}, {width}, {tile}, {KEY_TILE}, {WARPS}, {flags}>"
    return Kernel("attention.cu", name)


@cache
def _plain_kernel(dtype: str, width: int) -> Kernel:
    features = next(features for features in PLAIN_FEATURES if width <= 32 * features)
    return Kernel("attention_plain.cu", f"attention_plain_forward<{c_type(dtype)}, {features}>")


@cache
def _decode_kernel(dtype: str, length: int, has_dropout: bool) -> Kernel:
    """With dropout always by single elements: few queries come in training by accident, and are not worth instances."""
    length, flag = (1, "true") if has_dropout else (length, "false")
    return Kernel("attention_decode.cu", f"attention_decode_forward<{c_type(dtype)}, {length}, {flag}>")


def kernels() -> Iterator[Kernel]:
    """All instances that `attention` may launch."""
    flags = (False, False), (True, False), (False, True)
    for dtype, (width, tiles), (has_bias, has_dropout) in product(TENSOR_CORE_TYPES, QUERY_TILES.items(), flags):
        for tile in {tiles.short} if has_bias or has_dropout else sorted(set(tiles)):
            yield _tensor_core_kernel(dtype, width, tile, has_bias, has_dropout)
    for dtype, features in product(PLAIN_TYPES, PLAIN_FEATURES):
        yield _plain_kernel(dtype, 32 * features)
    for dtype, length in vector_lengths():
        yield _decode_kernel(dtype, length, has_dropout=False)
    for dtype in PLAIN_TYPES:
        yield _decode_kernel(dtype, 1, has_dropout=True)
