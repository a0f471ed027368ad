"""Attention a sentence and a few heads at a time, so that the scores stay in cache.

Queries, keys and values are seen as [H, W, N] here, and scores as [H, S, T]: with features before tokens in memory,
each of the products is one BLAS call a head, without copies, and sums over keys are sums of rows.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from xlmr_np.arrays import Array
from xlmr_np.layers.attention import Mask, PackedMask, sentence_slices
from xlmr_np.layers.dropout import Dropout
from xlmr_np.ops.cpu.drops import Dropped, drop, dropped_probabilities
from xlmr_np.ops.cpu.memory import activations, scratch
from xlmr_np.ops.cpu.products import columns_of_a_small_product
from xlmr_np.ops.threads import Threads

# Σ exp(score) is as good as Σ exp(score - largest) if it lies between these: numbers of float32 that are neither
# infinite nor imprecise, nor are their products with values and the terms that matter.
SMALLEST_TOTAL, LARGEST_TOTAL = 1e-25, 1e25
FEWEST_SCORES = 8192  # fewer are not worth waking a thread for
FEWEST_QUERIES = 48  # for which small products pay
SCORES = 131072  # how many scores exist at a time: with float32, half a megabyte


class Sentence(NamedTuple):
    """Where the queries and the keys of one sentence lie, what is hidden from whom, and what is dropped [H, S, T]."""

    queries: slice
    keys: slice
    hidden: Bool[Array, "#H #S #T"] | None
    dropped: Dropped | None


class AttentionCache(NamedTuple):
    """The arguments and the result, and for each query a number near its largest score and Σ exp(score - largest).

    The probabilities, of which there are as many as pairs of tokens, are computed again (Dao et al. 2022,
    arXiv:2205.14135, section 3.1); what is dropped of them, a byte each, takes longer to draw than to keep.
    """

    sentences: tuple[Sentence, ...]

    query: Float[Array, "*batch H W"]
    key: Float[Array, "*keys H W"]
    value: Float[Array, "*keys H W"]
    context: Float[Array, "*batch H W"]
    largest: Float[Array, "H N"]
    total: Float[Array, "H N"]


def attention_forward(
    threads: Threads,
    with_cache: bool,
    query: Float[Array, "*batch H W"],
    key: Float[Array, "*keys H W"],
    value: Float[Array, "*keys H W"],
    mask: Mask,
    dropout: Dropout | None = None,
) -> tuple[Float[Array, "*batch H W"], AttentionCache | None]:
    """The context, as `layers.attention.attention_forward` defines it."""
    sentences = _sentences(query.shape, key.shape, mask, dropout, threads)
    own_query, own_key, own_value = (_tokens_last(each) for each in (query, key, value))
    heads, width, tokens = own_query.shape
    context = activations((heads * width, tokens), query.dtype).reshape(own_query.shape)
    all_largest, all_total = np.zeros((2, heads, tokens), query.dtype)

    def part(own_heads: slice) -> None:
        for sentence in sentences:
            for some, queries in _blocks(sentence, own_heads, width):
                block_query, block_key = own_query[some, :, queries], own_key[some, :, sentence.keys]
                hidden = _part_of(sentence.hidden, some, queries, sentence)
                scores = _scores(block_query, block_key, hidden)
                total = _exponentials(scores)
                if not ((total > SMALLEST_TOTAL) & (total < LARGEST_TOTAL)).all():
                    scores = _scores(block_query, block_key, hidden)
                    largest = _largest(scores)
                    all_largest[some, queries] = largest[:, 0]
                    scores -= largest
                    total = _exponentials(scores)
                    total[total == 0] = 1  # of a query that sees nothing, as padding in the padded layout may
                all_total[some, queries] = total[:, 0]
                if sentence.dropped is not None:
                    drop(scores, _part_of(sentence.dropped.at, some, queries, sentence), sentence.dropped.rate)
                own_context = context[some, :, queries]
                np.matmul(own_value[some, :, sentence.keys], scores, out=own_context)
                own_context /= total

    threads.run(part, threads.ranges(heads, -(-FEWEST_SCORES * heads // max(1, _number_of_scores(sentences, heads)))))
    y = _tokens_first(context, query.shape)
    return y, AttentionCache(tuple(sentences), query, key, value, y, all_largest, all_total) if with_cache else None


def attention_backward(
    threads: Threads,
    d_context: Float[Array, "*batch H W"],
    cache: AttentionCache,
    mask: Mask,
    dropout: Dropout | None = None,
) -> tuple[Float[Array, "*batch H W"], Float[Array, "*keys H W"], Float[Array, "*keys H W"]]:
    """The gradients of query, key and value (ATT.5 to ATT.9), on probabilities computed again.

    What mask and dropout say is in the cache.
    """
    query, key, value, context, own_d_context = (
        _tokens_last(each) for each in (cache.query, cache.key, cache.value, cache.context, d_context)
    )
    d_query, d_key, d_value = (_zeros(each.shape, d_context.dtype) for each in (query, key, value))
    width = query.shape[1]
    scale = d_context.dtype.type(width**-0.5)

    def part(own_heads: slice) -> None:
        for sentence in cache.sentences:
            for some, queries in _blocks(sentence, own_heads, width):
                own, own_keys = (some, slice(None), queries), (some, slice(None), sentence.keys)
                hidden = _part_of(sentence.hidden, some, queries, sentence)
                probabilities = _scores(query[own], key[own_keys], hidden)
                probabilities -= cache.largest[some, None, queries]
                np.exp(probabilities, out=probabilities)
                probabilities /= cache.total[some, None, queries]
                d_scores = scratch("d_scores", probabilities.shape, probabilities.dtype)
                np.matmul(value[own_keys].transpose(0, 2, 1), own_d_context[own], out=d_scores)
                weights = probabilities
                if sentence.dropped is not None:
                    weights = scratch("weights", probabilities.shape, probabilities.dtype)
                    np.copyto(weights, probabilities)
                    for each in (weights, d_scores):
                        drop(each, _part_of(sentence.dropped.at, some, queries, sentence), sentence.dropped.rate)
                d_value[own_keys] += own_d_context[own] @ weights.transpose(0, 2, 1)
                d_scores -= np.add.reduce(own_d_context[own] * context[own], axis=1)[:, None]
                d_scores *= probabilities
                d_scores *= scale
                np.matmul(key[own_keys], d_scores, out=d_query[own])
                d_key[own_keys] += query[own] @ d_scores.transpose(0, 2, 1)

    threads.run(part, threads.ranges(query.shape[0]))
    return tuple(
        _tokens_first(gradient, like.shape)
        for gradient, like in zip((d_query, d_key, d_value), (cache.query, cache.key, cache.value), strict=True)
    )


def _tokens_last(x: Float[Array, "*batch H W"]) -> Float[Array, "H W N"]:
    """[..., H, W] as [H, W, N]; a view, for every order of memory that the engine makes."""
    return x.reshape(-1, *x.shape[-2:]).transpose(1, 2, 0)


def _zeros(shape: tuple[int, int, int], dtype: np.dtype) -> Float[Array, "H W N"]:
    heads, width, tokens = shape
    x = activations((heads * width, tokens), dtype)
    x[...] = 0
    return x.reshape(shape)


def _tokens_first(x: Float[Array, "H W N"], shape: tuple[int, ...]) -> Float[Array, "*batch H W"]:
    """The same numbers in their shape outside."""
    return x.transpose(2, 0, 1).reshape(shape)


def _sentences(
    query_shape: tuple[int, ...], key_shape: tuple[int, ...], mask: Mask, dropout: Dropout | None, threads: Threads
) -> list[Sentence]:
    """The sentences that have queries; in the padded layout, the rows of the rectangle."""
    heads = query_shape[-2]
    if isinstance(mask, PackedMask):
        places = list(sentence_slices(mask))
    else:
        length, keys_length = query_shape[1], key_shape[1]
        places = [
            (slice(row * length, (row + 1) * length), slice(row * keys_length, (row + 1) * keys_length))
            for row in range(query_shape[0])
        ]

    def sentence(row: int) -> Sentence:
        queries, keys = places[row]
        size = queries.stop - queries.start, keys.stop - keys.start
        hidden = None
        if isinstance(mask, PackedMask):
            if mask.is_causal:
                hidden = ~np.tri(*size, size[1] - size[0], dtype=bool).T[None]
        elif mask.is_visible is not None:
            hidden = ~mask.is_visible[row if len(mask.is_visible) > 1 else 0].transpose(0, 2, 1)
        dropped = None
        if dropout is not None:
            dropped = dropped_probabilities(dropout, row, (heads, *size), isinstance(mask, PackedMask))
        return Sentence(queries, keys, hidden, dropped)

    rows = [row for row, (queries, _) in enumerate(places) if queries.start < queries.stop]
    if dropout is None:
        return [sentence(row) for row in rows]
    return threads.run(sentence, rows)


def _blocks(sentence: Sentence, heads: slice, width: int) -> Iterator[tuple[slice, slice]]:
    """Heads, and where their queries lie, that have about `SCORES` scores together, or fewer if BLAS likes them."""
    first, last = sentence.queries.start, sentence.queries.stop
    keys = max(1, sentence.keys.stop - sentence.keys.start)
    most = SCORES // keys
    quick = columns_of_a_small_product(width, keys)
    if quick >= FEWEST_QUERIES:
        most = min(most, quick)
    step = -(-(last - first) // -(-(last - first) // max(1, most)))
    some = max(1, SCORES // (step * keys))
    for head in range(heads.start, heads.stop, some):
        for start in range(first, last, step):
            yield slice(head, min(head + some, heads.stop)), slice(start, min(start + step, last))


def _number_of_scores(sentences: list[Sentence], heads: int) -> int:
    return heads * sum((queries.stop - queries.start) * (keys.stop - keys.start) for queries, keys, *_ in sentences)


def _part_of(
    array: Bool[Array, "#H #S #T"] | None, heads: slice, queries: slice, sentence: Sentence
) -> Bool[Array, "#h #S #t"] | None:
    """What belongs to these heads and queries, of an array that has one entry for all where its axis has length 1."""
    if array is None:
        return None
    first = sentence.queries.start
    columns = slice(queries.start - first, queries.stop - first) if array.shape[2] > 1 else slice(None)
    return array[heads if array.shape[0] > 1 else slice(None), :, columns]


def _scores(
    query: Float[Array, "H W T"], key: Float[Array, "H W S"], hidden: Bool[Array, "#H #S #T"] | None
) -> Float[Array, "H S T"]:
    """query · key / √W, or -inf where a key is hidden, in scratch memory."""
    heads, width, queries = query.shape
    scaled = scratch("scaled", query.shape, query.dtype)
    np.multiply(query, query.dtype.type(width**-0.5), out=scaled)
    scores = scratch("scores", (heads, key.shape[2], queries), query.dtype)
    np.matmul(key.transpose(0, 2, 1), scaled, out=scores)
    if hidden is not None:
        np.copyto(scores, -np.inf, where=hidden)
    return scores


def _exponentials(scores: Float[Array, "H S T"]) -> Float[Array, "H 1 T"]:
    """Σ exp(score) of each query; the scores become their exponentials."""
    with np.errstate(over="ignore"):
        np.exp(scores, out=scores)
        return np.ones((1, scores.shape[1]), scores.dtype) @ scores


def _largest(scores: Float[Array, "H S T"]) -> Float[Array, "H 1 T"]:
    """The largest score of each query, or 0 if it sees nothing."""
    largest = np.max(scores, axis=1, keepdims=True, initial=-np.inf)
    largest[largest == -np.inf] = 0
    return largest
