"""Launches of embeddings.cu."""

from collections.abc import Iterator
from functools import cache

import numpy as np
from jaxtyping import Float, Int

from xlmr_np.arrays import Array, array_namespace
from xlmr_np.layers.embeddings import EmbeddingsParams

from .kernels import Gpu, Kernel
from .rows import in_rows, row_launch, vector_length, vector_lengths, wide_type
from .types import c_type


def embed(
    gpu: Gpu,
    ids: Int[Array, " N"],
    token_types: Int[Array, " N"],
    positions: Int[Array, " N"],
    params: EmbeddingsParams,
    eps: float,
) -> Float[Array, "N D"]:
    """LayerNorm(token + token type + position) of every token, in the type of the token table, a new array.

    A token of which one of the indices is outside its table gets a row of NaN. (CuPy's own `take` would wrap it.)

    Args:
        gpu: where the arrays are.
        ids: rows of the token table.
        token_types: rows of the token-type table.
        positions: rows of the position table.
        params: tables and norm, converted to the type of the token table where they have another.
        eps: added to the variance.

    Raises:
        ValueError: rows are wider than 24,576 numbers (12,288 in float64).
    """
    xp = array_namespace(ids, params.token)
    dtype, width = params.token.dtype, params.token.shape[1]
    number_of_rows = ids.shape[0]
    result = xp.empty((number_of_rows, width), dtype=dtype, device=ids.device)
    if number_of_rows == 0 or width == 0:
        return result
    indices = [in_rows(index, xp.int64) for index in (ids, token_types, positions)]
    tables = [in_rows(table, dtype) for table in (params.token, params.token_type, params.position)]
    norm = [in_rows(leaf, dtype) for leaf in params.layer_norm]
    length = vector_length(width, result, *tables, *norm)
    arguments = [
        *indices,
        *(argument for table in tables for argument in (table, np.int64(table.shape[0]))),
        *norm,
        wide_type(dtype)(eps),
        result,
        np.int64(number_of_rows),
        np.int32(width),
    ]
    gpu.launch(_kernel(dtype.name, length), row_launch(number_of_rows, width, length, dtype), arguments)
    return result


def kernels() -> Iterator[Kernel]:
    """All instances that `embed` may launch."""
    for dtype, length in vector_lengths():
        yield _kernel(dtype, length)


@cache
def _kernel(dtype: str, length: int) -> Kernel:
    return Kernel("embeddings.cu", f"embed<{c_type(dtype)}, {length}>")
