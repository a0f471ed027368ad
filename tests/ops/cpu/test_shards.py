"""Sentences are shared out whole, in order, and evenly, or not at all."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from xlmr_np.layers.attention import PackedMask, Spans
from xlmr_np.ops.cpu.shards import SHARD_TOKENS, cut


def mask_of(lengths: list[int]) -> PackedMask:
    spans = Spans(np.cumsum(lengths) - np.asarray(lengths), np.asarray(lengths))
    return PackedMask(spans, spans, False)


@given(st.lists(st.integers(0, 600), max_size=60), st.integers(1, 5))
def test_shards_hold_every_sentence_once(lengths: list[int], threads: int) -> None:
    shards = cut(mask_of(lengths), 4608, threads)
    if shards:
        assert [length for shard in shards for length in shard.mask.query.lengths] == [n for n in lengths if n > 0]
        edges = [0, *(shard.tokens.stop for shard in shards)]
        assert [shard.tokens.start for shard in shards] == edges[:-1]
        assert edges[-1] == sum(lengths)
        for shard in shards:
            spans = shard.mask.query
            np.testing.assert_array_equal(spans.starts, np.cumsum(spans.lengths) - spans.lengths)


def test_even_batches_are_shared_out() -> None:
    shards = cut(mask_of([128] * 32), 4608, 2)
    assert [shard.tokens.stop - shard.tokens.start for shard in shards] == [SHARD_TOKENS] * 4


def test_a_few_tokens_and_uneven_batches_are_not() -> None:
    assert cut(mask_of([16]), 4608, 2) == []
    assert cut(mask_of([100, 100]), 4608, 2) == []
    assert cut(mask_of([512, 512, 512]), 4608, 2) == []
    assert cut(mask_of([]), 4608, 2) == []
    assert cut(mask_of([0, 0]), 4608, 2) == []
