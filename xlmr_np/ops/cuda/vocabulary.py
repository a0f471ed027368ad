"""Launches of vocabulary.cu."""

from collections.abc import Iterator
from functools import cache

import numpy as np
from jaxtyping import Float

from xlmr_np.arrays import Array, array_namespace
from xlmr_np.layers.linear import LinearParams
from xlmr_np.ops.reference import VOCABULARY_CHUNK, TopK, vocabulary_top_k_forward

from .kernels import Gpu, Kernel, LaunchShape
from .rows import in_rows, vector_length, vector_lengths, wide_type
from .types import c_type

THREADS = 256  # as in vocabulary.cu
LARGEST_K = 2048  # for which both sorted lists of a row fit into a block's shared memory


def vocabulary_top_k(gpu: Gpu, x: Float[Array, "N D"], params: LinearParams, k: int) -> TopK:
    """The k tokens with the largest logits `x Wᵀ + b` of every row, and the log of the sum of all exponentials.

    The logits of `VOCABULARY_CHUNK` rows of the vocabulary exist at a time: as products in the type of `x`, to which
    the bias is added in float32 (float64 for float64). A k beyond `LARGEST_K` is served by the reference, which sorts.

    Args:
        gpu: where the arrays are.
        x: of any strides.
        params: the token table [V, D] and the bias [V]; a chunk at a time is converted to the type of `x` where they
            have another.
        k: at least 1; of a smaller vocabulary, all tokens are returned.

    Returns:
        In falling order; of equal logits the smaller id comes first. `logits` and `log_sum_exp` are float32 (float64
        for float64). A row of which too few logits are numbers ends in logits NaN with id -1.

    Raises:
        ValueError: k is not positive.
    """
    if k < 1:
        raise ValueError(f"k is {k}; ask for at least 1 token.")
    xp = array_namespace(x)
    number_of_rows, size = x.shape[0], params.weight.shape[0]
    k = min(k, size)
    if k > LARGEST_K:
        return vocabulary_top_k_forward(x, params, k)[0]
    wide = wide_type(x.dtype)
    logits = xp.full((number_of_rows, k), xp.nan, dtype=wide, device=x.device)
    ids = xp.full((number_of_rows, k), -1, dtype=xp.int64, device=x.device)
    log_sum_exp = xp.full(number_of_rows, -xp.inf, dtype=wide, device=x.device)
    if number_of_rows == 0:
        return TopK(logits, ids, log_sum_exp)
    x = in_rows(x, x.dtype)
    number_bytes = np.dtype(wide).itemsize
    shared_memory = k * (8 + number_bytes + number_bytes + 4)  # earlier ids and logits, chosen logits and columns
    shape = LaunchShape((number_of_rows,), (THREADS,), shared_memory)
    for start in range(0, size, VOCABULARY_CHUNK):
        rows = slice(start, min(start + VOCABULARY_CHUNK, size))
        weight = xp.astype(params.weight[rows, :], x.dtype, copy=False)
        product = in_rows(gpu.matmul(x, xp.matrix_transpose(weight)), x.dtype)
        bias = in_rows(params.bias[rows], x.dtype)
        columns = product.shape[1]
        kernel = _kernel(x.dtype.name, vector_length(columns, product, bias))
        arguments = [product, bias, np.int32(columns), np.int64(start), logits, ids, log_sum_exp, np.int32(k)]
        gpu.launch(kernel, shape, arguments)
    return TopK(logits, ids, log_sum_exp)


def kernels() -> Iterator[Kernel]:
    """All instances that `vocabulary_top_k` may launch."""
    for dtype, length in vector_lengths():
        yield _kernel(dtype, length)


@cache
def _kernel(dtype: str, length: int) -> Kernel:
    return Kernel("vocabulary.cu", f"merge_top_k<{c_type(dtype)}, {length}>")
