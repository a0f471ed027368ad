"""Whole sentences, shared out among threads: each of them runs the encoder on its own."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from xlmr_np.layers.attention import PackedMask, Spans

SHARD_TOKENS = 1024  # whose activations a thread has at a time
FEWEST_TOKENS = 192  # fewer cannot keep a thread's BLAS busy
SHARING_AN_OPERATION = 1.08  # what it costs more to share out each operation in place of sentences


class Shard(NamedTuple):
    """Some sentences of a packed batch: their tokens, and who sees whom among them."""

    tokens: slice
    mask: PackedMask


def cut(mask: PackedMask, token_cost: int, number_of_threads: int, keys_are_shared: bool = False) -> list[Shard]:
    """Shards of nearly equal cost in order, or none where it is quicker to run all sentences at once.

    Args:
        mask: of self-attention.
        token_cost: of a token's own products, in units of what it spends on each token that it sees: 2 D + F.
        number_of_threads: that run them.
        keys_are_shared: whether keys lie in one store for all shards, rather than with the tokens.
    """
    is_there = np.asarray(mask.query.lengths) > 0
    query, key = (Spans(*(np.asarray(each)[is_there] for each in spans)) for spans in (mask.query, mask.key))
    lengths = query.lengths
    costs = lengths * (token_cost + key.lengths)
    total_tokens, total_cost = int(lengths.sum()), int(costs.sum())
    if total_tokens < number_of_threads * FEWEST_TOKENS:
        return []
    fewest = -(-total_tokens // (number_of_threads * SHARD_TOKENS))
    for number in (number_of_threads * fewest * finer for finer in (1, 2, 3)):  # smaller shards can be more even
        groups = _groups(costs, number)
        if _time(costs, groups, number_of_threads) <= SHARING_AN_OPERATION * total_cost / number_of_threads:
            return [_shard(query, key, group, mask.is_causal, keys_are_shared) for group in groups]
    return []


def _groups(costs: np.ndarray, number: int) -> list[slice]:
    """Consecutive sentences, in so many groups of nearly equal cost, or fewer."""
    middle = np.cumsum(costs) - costs / 2
    numbers = np.minimum(middle * number // costs.sum(), number - 1).astype(int)
    edges = [*np.flatnonzero(np.diff(numbers, prepend=-1)), len(costs)]
    return [slice(first, last) for first, last in pairwise(edges)]


def _time(costs: np.ndarray, groups: list[slice], number_of_threads: int) -> int:
    """When the last thread is done, if the threads take the groups in order."""
    busy_until = [0] * number_of_threads
    for group in groups:
        thread = busy_until.index(min(busy_until))
        busy_until[thread] += int(costs[group].sum())
    return max(busy_until)


def _shard(query: Spans, key: Spans, group: slice, is_causal: bool, keys_are_shared: bool) -> Shard:
    starts, lengths = query.starts[group], query.lengths[group]
    own_query = Spans(starts - starts[0], lengths)
    own_key = Spans(key.starts[group], key.lengths[group]) if keys_are_shared else own_query
    tokens = slice(int(starts[0]), int(starts[-1] + lengths[-1]))
    return Shard(tokens, PackedMask(own_query, own_key, is_causal))
