"""Launches of embeddings.cu and embeddings_backward.cu."""

from collections.abc import Iterator
from functools import cache

import numpy as np
from jaxtyping import Bool, Float, Int

from xlmr_np.arrays import Array, array_namespace
from xlmr_np.layers.dropout import Dropout
from xlmr_np.layers.embeddings import EmbeddingsParams
from xlmr_np.row_sparse import RowSparse

from .dropouts import drops, token_arguments
from .kernels import Gpu, Kernel, LaunchShape
from .norms import NormCache, empty_cache, norm_backward
from .rows import in_rows, row_launch, vector_length, vector_lengths, wide_type
from .types import c_type

ROWS_OF_TILE, THREADS_OF_TILE = 32, 128  # as in embeddings_backward.cu


def embed(
    gpu: Gpu,
    ids: Int[Array, " N"],
    token_types: Int[Array, " N"],
    positions: Int[Array, " N"],
    params: EmbeddingsParams,
    eps: float,
    dropout: Dropout | None = None,
    with_cache: bool = False,
) -> tuple[Float[Array, "N D"], NormCache | None]:
    """dropout(LayerNorm(token + token type + position)) of every token, in the type of the token table, a new array.

    A token of which one of the indices is outside its table gets a row of NaN. (CuPy's own `take` would wrap it.)

    Args:
        gpu: where the arrays are.
        ids: rows of the token table.
        token_types: rows of the token-type table.
        positions: rows of the position table.
        params: tables and norm, converted to the type of the token table where they have another.
        eps: added to the variance.
        dropout: with a `TokenKey`; None drops nothing.
        with_cache: whether to keep what `embed_backward` needs; without, None comes in its place.

    Raises:
        TypeError: something is dropped, and not by a `TokenKey`.
        ValueError: rows are wider than 24,576 numbers (12,288 in float64).
    """
    xp = array_namespace(ids, params.token)
    dtype, width = params.token.dtype, params.token.shape[1]
    number_of_rows = ids.shape[0]
    result = xp.empty((number_of_rows, width), dtype=dtype, device=ids.device)
    cache = empty_cache(result) if with_cache or drops(dropout) else None
    if number_of_rows > 0 and width > 0:
        indices = [in_rows(index, xp.int64) for index in (ids, token_types, positions)]
        tables = [in_rows(table, dtype) for table in (params.token, params.token_type, params.position)]
        norm = [in_rows(leaf, dtype) for leaf in params.layer_norm]
        given = [
            *indices,
            *(argument for table in tables for argument in (table, np.int64(table.shape[0]))),
            *norm,
            wide_type(dtype)(eps),
        ]
        size = [np.int64(number_of_rows), np.int32(width)]
        if cache is None:
            length = vector_length(width, result, *tables, *norm)
            kernel, arguments = _kernel(dtype.name, length), [*given, result, *size]
        else:
            length = vector_length(width, result, cache.normalized, *tables, *norm)
            kernel = _caching_kernel(dtype.name, length)
            arguments = [*given, *token_arguments(dropout, dtype), result, *cache, *size]
        gpu.launch(kernel, row_launch(number_of_rows, width, length, dtype), arguments)
    return result, cache if with_cache else None


def embed_backward(
    gpu: Gpu,
    d_y: Float[Array, "N D"],
    cache: NormCache,
    ids: Int[Array, " N"],
    token_types: Int[Array, " N"],
    positions: Int[Array, " N"],
    params: EmbeddingsParams,
    pad_id: int | None,
    dropout: Dropout | None = None,
) -> EmbeddingsParams:
    """See `layers.embeddings.embeddings_backward`; the same bits in every run, all in at least float32.

    It waits for the GPU once, to learn how many rows of the token table are touched. What an index outside its table
    has asked for is left out.
    """
    d_total, _, d_layer_norm, d_sum = norm_backward(gpu, d_y, cache, params.layer_norm, dropout, drops_y=True)
    order, sorted_ids = _sorted(ids)
    is_trained = _is_trained(sorted_ids, params.token.shape[0], pad_id)
    xp = array_namespace(d_total)
    is_first = xp.concat([is_trained[:1], is_trained[1:] & (sorted_ids[1:] != sorted_ids[:-1])])
    touched = sorted_ids[is_first]
    number_of_touched = xp.where(is_trained, xp.cumulative_sum(xp.astype(is_first, xp.int64)) - 1, -1)
    token_rows = _add_runs(gpu, d_total, order, number_of_touched, touched.shape[0])
    return EmbeddingsParams(
        RowSparse(touched, token_rows, params.token.shape[0]),
        _table_gradient(gpu, d_total, positions, params.position.shape[0], pad_id),
        d_sum[None, :]  # which all tokens share
        if params.token_type.shape[0] == 1
        else _table_gradient(gpu, d_total, token_types, params.token_type.shape[0], None),
        d_layer_norm,
    )


def _table_gradient(
    gpu: Gpu, d_total: Float[Array, "N D"], index: Int[Array, " N"], number_of_rows: int, pad_id: int | None
) -> Float[Array, "number_of_rows D"]:
    """The dense gradient of a table of this many rows."""
    order, sorted_index = _sorted(index)
    is_trained = _is_trained(sorted_index, number_of_rows, pad_id)
    places = array_namespace(d_total).where(is_trained, sorted_index, -1)
    return _add_runs(gpu, d_total, order, places, number_of_rows)


def _sorted(index: Int[Array, " N"]) -> tuple[Int[Array, " N"], Int[Array, " N"]]:
    """The order that sorts an index, in which equal ones stay in their own, and the index in it; both in int64."""
    xp = array_namespace(index)
    index = in_rows(index, xp.int64)
    order = xp.argsort(index, stable=True)
    return in_rows(order, xp.int64), xp.take(index, order, axis=0)


def _is_trained(index: Int[Array, " N"], number_of_rows: int, pad_id: int | None) -> Bool[Array, " N"]:
    """Whether a row of the table gets a gradient: it is there, and is not that of padding (EMB.8)."""
    is_there = (index >= 0) & (index < number_of_rows)
    return is_there if pad_id is None else is_there & (index != pad_id)


def _add_runs(
    gpu: Gpu,
    d_rows: Float[Array, "N D"],
    order: Int[Array, " N"],
    places: Int[Array, " N"],
    number_of_rows: int,
) -> Float[Array, "number_of_rows D"]:
    """A new matrix in the wide type, to row places[i] of which row order[i] of `d_rows` is added, for all i in order.

    Args:
        gpu: where the arrays are.
        d_rows: what is added, in C order.
        order: rows of `d_rows`.
        places: rows of the result, of which equal ones are neighbours; negative ones get nothing.
        number_of_rows: of the result; rows that are no place are zero.
    """
    xp = array_namespace(d_rows)
    count, width = d_rows.shape
    wide = wide_type(d_rows.dtype)
    result = xp.zeros((number_of_rows, width), dtype=wide, device=d_rows.device)
    if count == 0 or width == 0 or number_of_rows == 0:
        return result
    tiles = -(-count // ROWS_OF_TILE)
    partial = xp.empty((tiles, 2, width), dtype=wide, device=d_rows.device)
    length = vector_length(width, d_rows, result, partial)
    size = [np.int64(count), np.int32(width)]
    shape = LaunchShape((tiles,), (THREADS_OF_TILE,), (2 * ROWS_OF_TILE + 2) * order.dtype.itemsize)
    gpu.launch(_adding_kernel(d_rows.dtype.name, length), shape, [d_rows, order, places, result, partial, *size])
    if tiles > 1:
        length = vector_length(width, result, partial)
        shape = LaunchShape((tiles - 1,), (THREADS_OF_TILE,))
        gpu.launch(_joining_kernel(result.dtype.name, length), shape, [partial, places, result, *size])
    return result


def kernels() -> Iterator[Kernel]:
    """All instances that `embed` and `embed_backward` may launch themselves."""
    for dtype, length in vector_lengths():
        yield _kernel(dtype, length)
        yield _caching_kernel(dtype, length)
        yield _adding_kernel(dtype, length)
        if dtype in ("float64", "float32"):
            yield _joining_kernel(dtype, length)


@cache
def _kernel(dtype: str, length: int) -> Kernel:
    return Kernel("embeddings.cu", f"embed<{c_type(dtype)}, {length}>")


@cache
def _caching_kernel(dtype: str, length: int) -> Kernel:
    return Kernel("embeddings.cu", f"embed_with_cache<{c_type(dtype)}, {length}>")


@cache
def _adding_kernel(dtype: str, length: int) -> Kernel:
    return Kernel("embeddings_backward.cu", f"add_runs<{c_type(dtype)}, {length}>")


@cache
def _joining_kernel(dtype: str, length: int) -> Kernel:
    return Kernel("embeddings_backward.cu", f"join_runs<{c_type(dtype)}, {length}>")
