"""The decoder onto the vocabulary: logits exist for some rows of the table at a time, and each thread has its own."""

from math import prod

import numpy as np
from jaxtyping import Float, Int

from xlmr_np.arrays import Array
from xlmr_np.layers.linear import LinearParams
from xlmr_np.losses.cross_entropy import IGNORED_LABEL, number_of_counted
from xlmr_np.ops.cpu.memory import features_first, scratch, tokens_first
from xlmr_np.ops.cpu.products import linears
from xlmr_np.ops.reference import (
    TopK,
    VocabularyCrossEntropyCache,
    largest,
    merge_top_k,
    uniform_over_vocabulary,
)
from xlmr_np.ops.threads import ALONE, Threads

LOGITS = 1_000_000  # how many a thread computes at a time
MOST_ROWS = 16384  # of the table that are looked at together
CANDIDATES = 64  # logits of which only the largest is looked at first


def _chunks(rows: slice, tokens: int) -> list[slice]:
    """Ranges of a thread's rows of the vocabulary, whose logits for all tokens are about `LOGITS`."""
    step = min(max(1024, LOGITS // max(1, tokens)), MOST_ROWS)
    return [slice(start, min(start + step, rows.stop)) for start in range(rows.start, rows.stop, step)]


def _logits(x: Float[Array, "D N"], params: LinearParams, rows: slice) -> Float[Array, "chunk N"]:
    """The logits of some rows of the vocabulary, in scratch memory unless they are many."""
    shape = rows.stop - rows.start, x.shape[1]
    y = scratch("logits", shape, x.dtype) if prod(shape) <= 2 * LOGITS else np.empty(shape, x.dtype)
    linears((LinearParams(params.weight[rows], params.bias[rows]),), x, [y], ALONE)
    return y


def _log_sum_exp(logits: Float[Array, "chunk N"]) -> Float[Array, " N"]:
    """log Σ exp for each token; the logits become something else."""
    shift = logits.max(axis=0)
    shift[~np.isfinite(shift)] = 0
    logits -= shift
    np.exp(logits, out=logits)
    with np.errstate(divide="ignore"):  # the logarithm of 0, if no logit is more than -inf
        return np.log(np.add.reduce(logits, axis=0)) + shift


def vocabulary_cross_entropy_forward(
    threads: Threads, x: Float[Array, "N D"], params: LinearParams, labels: Int[Array, " N"], smoothing: float = 0.0
) -> tuple[Float[Array, ""], VocabularyCrossEntropyCache]:
    """The mean loss at the labels that count, as `losses.cross_entropy` defines it (MLM.10, MLM.13)."""
    own_x = features_first(x)
    share = uniform_over_vocabulary(params, x)

    def part(rows: slice) -> tuple[Array, Array, Array]:
        log_sum_exp = np.full(len(labels), -np.inf, x.dtype)
        of_label = np.full(len(labels), -np.inf, x.dtype)
        of_all = np.zeros(len(labels), x.dtype)
        for chunk in _chunks(rows, len(labels)):
            logits = _logits(own_x, params, chunk)
            (here,) = np.nonzero((labels >= chunk.start) & (labels < chunk.stop))
            of_label[here] = logits[labels[here] - chunk.start, here]
            if smoothing:
                (possible,) = np.nonzero(share[chunk])
                of_all += share[chunk][possible] @ logits[possible]
            np.logaddexp(log_sum_exp, _log_sum_exp(logits), out=log_sum_exp)
        return log_sum_exp, of_label, of_all

    parts = threads.run(part, threads.ranges(params.weight.shape[0]))
    log_sum_exp = np.logaddexp.reduce([each for each, _, _ in parts])
    of_label = np.max([each for _, each, _ in parts], axis=0)
    of_all = np.sum([each for _, _, each in parts], axis=0)
    is_counted = labels != IGNORED_LABEL
    expected = (1.0 - smoothing) * of_label + smoothing * of_all
    losses = np.where(is_counted, log_sum_exp - expected, x.dtype.type(0))
    return losses.sum() / number_of_counted(is_counted, losses), VocabularyCrossEntropyCache(x, log_sum_exp)


def vocabulary_cross_entropy_backward(
    threads: Threads,
    d_loss: Float[Array, ""],
    cache: VocabularyCrossEntropyCache,
    params: LinearParams,
    labels: Int[Array, " N"],
    smoothing: float = 0.0,
) -> tuple[Float[Array, "N D"], LinearParams]:
    """The gradients of x and of the parameters: MLM.14 and MLM.12, on logits computed again."""
    x, log_sum_exp = cache
    own_x = features_first(x)
    is_counted = labels != IGNORED_LABEL
    scale = np.where(is_counted, d_loss / number_of_counted(is_counted, log_sum_exp), x.dtype.type(0))
    share = uniform_over_vocabulary(params, x)
    d_weight, d_bias = np.empty(params.weight.shape, x.dtype), np.empty(params.bias.shape, x.dtype)

    def part(rows: slice) -> Array:
        d_x = np.zeros_like(own_x)
        for chunk in _chunks(rows, len(labels)):
            d_logits = _logits(own_x, params, chunk)
            d_logits -= log_sum_exp
            np.exp(d_logits, out=d_logits)
            (here,) = np.nonzero((labels >= chunk.start) & (labels < chunk.stop))
            d_logits[labels[here] - chunk.start, here] -= 1.0 - smoothing
            if smoothing:
                d_logits -= smoothing * share[chunk, None]
            d_logits *= scale
            np.matmul(d_logits, own_x.T, out=d_weight[chunk])
            np.add.reduce(d_logits, axis=1, out=d_bias[chunk])
            d_x += params.weight[chunk].astype(x.dtype, copy=False).T @ d_logits
        return d_x

    d_x = sum(threads.run(part, threads.ranges(params.weight.shape[0])))
    return tokens_first(d_x, x.shape[:-1]), LinearParams(d_weight, d_bias)


def vocabulary_top_k_forward(
    threads: Threads, x: Float[Array, "N D"], params: LinearParams, k: int
) -> tuple[TopK, None]:
    """The k tokens with the largest logits, in falling order; of equal ones the smaller id first."""
    own_x = features_first(x)

    def part(rows: slice) -> list[TopK]:
        found = []
        for chunk in _chunks(rows, len(x)):
            logits = np.ascontiguousarray(_logits(own_x, params, chunk).T)
            best, places = _largest(logits, min(k, logits.shape[1]))
            found.append(TopK(best, places + chunk.start, _log_sum_exp(logits.T)))
        return found

    first, *others = [top for tops in threads.run(part, threads.ranges(params.weight.shape[0])) for top in tops]
    for other in others:
        first = merge_top_k(first, other, k)
    return first, None


def _largest(logits: Float[Array, "N C"], k: int) -> tuple[Float[Array, "N k"], Int[Array, "N k"]]:
    """The k largest of each row in falling order, and where they stand; of equal ones the first comes first.

    They lie in the k blocks with the largest maxima, or in what is left over after the last whole block: of equal
    maxima the first blocks are taken, in which k numbers stand before any other of that value.
    """
    tokens, columns = logits.shape
    blocks = columns // CANDIDATES
    if blocks <= k:
        return largest(logits, k)
    maxima = logits[:, : blocks * CANDIDATES].reshape(tokens, blocks, CANDIDATES).max(axis=2)
    if np.isnan(maxima).any() or np.isnan(logits[:, blocks * CANDIDATES :]).any():
        return largest(logits, k)
    chosen = np.sort(np.argsort(-maxima, axis=1, kind="stable")[:, :k], axis=1)
    inside = (chosen[:, :, None] * CANDIDATES + np.arange(CANDIDATES)).reshape(tokens, k * CANDIDATES)
    after = np.broadcast_to(np.arange(blocks * CANDIDATES, columns), (tokens, columns - blocks * CANDIDATES))
    candidates = np.concatenate([inside, after], axis=1)
    order = np.argsort(-np.take_along_axis(logits, candidates, axis=1), axis=1, kind="stable")[:, :k]
    places = np.take_along_axis(candidates, order, axis=1)
    return np.take_along_axis(logits, places, axis=1), places
