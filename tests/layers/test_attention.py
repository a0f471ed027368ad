"""Attention and self-attention: against torch, in both layouts, under every kind of mask."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from tests.libraries import Library, check_record, to_numpy
from xlmr_np.layers.add_norm import AddNormParams
from xlmr_np.layers.attention import (
    PackedMask,
    PaddedMask,
    Spans,
    attention_backward,
    attention_forward,
    causal_visibility,
)
from xlmr_np.layers.dropout import Dropout, Philox, attention_keep
from xlmr_np.layers.encoder_layer import EncoderLayerParams, EncoderSetting, encoder_layer_forward
from xlmr_np.layers.feed_forward import FeedForwardParams
from xlmr_np.layers.layer_norm import LayerNormParams
from xlmr_np.layers.linear import LinearParams
from xlmr_np.layers.self_attention import AttentionParams, merge_heads, split_heads
from xlmr_np.ops.reference import REFERENCE

B, T, S, H, W = 3, 4, 6, 2, 5
RANDOM = np.random.default_rng(1)


def random_heads(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=(*shape, H, W))


def expected_context(query, key, value, is_visible=None) -> np.ndarray:
    """torch's attention, for [B, T, H, W]."""
    heads_first = [torch.asarray(x).transpose(1, 2) for x in (query, key, value)]
    mask = None if is_visible is None else torch.asarray(is_visible)
    return functional.scaled_dot_product_attention(*heads_first, attn_mask=mask).transpose(1, 2).numpy()


def spans(lengths: list[int]) -> Spans:
    lengths = np.asarray(lengths, int)
    return Spans(np.cumsum(lengths) - lengths, lengths)


MASKS = {
    "none": None,
    "keys": RANDOM.random((B, 1, 1, S)) > 0.3,
    "queries and keys": RANDOM.random((B, 1, T, S)) > 0.4,
    "heads, queries and keys": RANDOM.random((B, H, T, S)) > 0.4,
    "one for the batch": RANDOM.random((1, H, T, S)) > 0.4,
}


@pytest.mark.parametrize("name", MASKS)
def test_padded_attention(library: Library, name: str) -> None:
    query, key, value = random_heads(B, T), random_heads(B, S), random_heads(B, S)
    is_visible = MASKS[name]
    if is_visible is not None:
        is_visible = is_visible.copy()
        is_visible[..., 0] = True
    mask = library.tree(PaddedMask(is_visible))
    context, cache = attention_forward(*map(library.array, (query, key, value)), mask)
    np.testing.assert_allclose(to_numpy(context), expected_context(query, key, value, is_visible), atol=1e-13)
    check_record(mask)
    check_record(cache)
    probabilities = to_numpy(cache.softmax.probabilities)
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-14)
    if is_visible is not None:
        assert (probabilities[~np.broadcast_to(is_visible, probabilities.shape)] == 0).all()


def test_a_query_that_sees_nothing_gets_exact_zeros(library: Library) -> None:
    is_visible = np.ones((B, 1, T, S), bool)
    is_visible[1, :, 2] = False
    context, _ = attention_forward(
        *map(library.array, (random_heads(B, T), random_heads(B, S), random_heads(B, S))),
        PaddedMask(library.array(is_visible)),
    )
    context = to_numpy(context)
    assert (context[1, 2] == 0).all()
    assert np.isfinite(context).all()
    assert (context[0] != 0).all()


@pytest.mark.parametrize("is_causal", [False, True])
def test_packed_attention(library: Library, is_causal: bool) -> None:
    query_lengths, key_lengths = [2, 0, 3, 1], [4, 2, 3, 0]
    query, key, value = random_heads(6), random_heads(9), random_heads(9)
    mask = PackedMask(spans(query_lengths), spans(key_lengths), is_causal)
    context, cache = attention_forward(
        *map(library.array, (query, key, value)), PackedMask(*map(library.tree, mask[:2]), is_causal)
    )
    context = to_numpy(context)
    queries, keys = mask.query, mask.key
    for sentence, (t, s) in enumerate(zip(query_lengths, key_lengths, strict=True)):
        q = slice(queries.starts[sentence], queries.starts[sentence] + t)
        k = slice(keys.starts[sentence], keys.starts[sentence] + s)
        if t == 0:
            continue
        if s == 0:
            assert (context[q] == 0).all()
            continue
        sees = np.arange(s)[None] <= np.arange(t)[:, None] + s - t if is_causal else None
        expected = expected_context(query[None, q], key[None, k], value[None, k], sees)[0]
        np.testing.assert_allclose(context[q], expected, atol=1e-13)
    for sentence in cache.sentences:
        check_record(sentence)


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (4, 4), (1, 6), (3, 6), (4, 7), (5, 3)])
def test_the_last_query_sees_up_to_the_last_key_and_each_earlier_one_a_key_less(queries: int, keys: int) -> None:
    is_visible = causal_visibility(np.zeros((B, H, queries, W)), np.zeros((B, H, keys, W)))
    expected = np.tril(np.ones((queries, keys), bool), keys - queries)
    np.testing.assert_array_equal(is_visible, expected[None, None])


def test_a_mask_of_other_sentences_than_the_forward_pass_had_is_refused() -> None:
    x = random_heads(6)
    lengths = spans([2, 3, 1])
    _, cache = attention_forward(x, x, x, PackedMask(lengths, lengths))
    for other in (spans([2, 3]), spans([2, 3, 1, 0])):
        with pytest.raises(ValueError, match="zip"):
            attention_backward(x, cache, PackedMask(other, other))


def test_key_spans_may_leave_gaps_and_repeat() -> None:
    query, key, value = random_heads(4), random_heads(10), random_heads(10)
    mask = PackedMask(spans([2, 2]), Spans(np.array([3, 3]), np.array([5, 5])))
    context, _ = attention_forward(query, key, value, mask)
    for start in (0, 2):
        expected = expected_context(query[None, start : start + 2], key[None, 3:8], value[None, 3:8])[0]
        np.testing.assert_allclose(context[start : start + 2], expected, atol=1e-13)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=4), st.booleans(), st.booleans())
def test_both_layouts_agree(lengths: list[int], is_causal: bool, drops: bool) -> None:
    batch, longest = len(lengths), max(lengths) or 1
    query, key, value = (random_heads(batch, longest) for _ in range(3))
    is_real = np.arange(longest) < np.asarray(lengths)[:, None]
    is_visible = is_real[:, None, None, :] & is_real[:, None, :, None]
    if is_causal:
        is_visible = is_visible & np.tril(np.ones((longest, longest), bool))
    dropout = Dropout(0.4, Philox(1, 2)) if drops else None
    padded, _ = attention_forward(query, key, value, PaddedMask(is_visible), dropout)
    mask = PackedMask(spans(lengths), spans(lengths), is_causal)
    packed, _ = attention_forward(query[is_real], key[is_real], value[is_real], mask, dropout)
    np.testing.assert_allclose(packed, padded[is_real], atol=1e-13)


def test_dropout_keeps_what_its_array_says() -> None:
    query, key, value = random_heads(B, T), random_heads(B, S), random_heads(B, S)
    keep = RANDOM.random((B, H, T, S)) > 0.5
    context, cache = attention_forward(query, key, value, PaddedMask(None), Dropout(0.5, keep))
    weights = cache.softmax.probabilities * keep / 0.5
    np.testing.assert_allclose(context, np.einsum("bhts,bshw->bthw", weights, value), atol=1e-13)


@pytest.mark.parametrize("is_packed", [False, True])
def test_a_key_draws_the_bits_of_each_sentence_by_its_number(library: Library, is_packed: bool) -> None:
    key = Philox(3, 4)
    batch = [np.repeat(random_heads(1, T), B, axis=0) for _ in range(3)]  # one sentence, B times: only bits differ
    keep = np.stack([attention_keep(key, 0.4, sentence, np.zeros((H, T, T))) for sentence in range(B)])
    assert len({bits.tobytes() for bits in keep}) == B
    expected, _ = attention_forward(*batch, PaddedMask(None), Dropout(0.4, keep))
    lengths = spans([T] * B)
    mask = PackedMask(lengths, lengths) if is_packed else PaddedMask(None)
    rows = [library.array(x.reshape(B * T, H, W) if is_packed else x) for x in batch]
    context, _ = attention_forward(*rows, library.tree(mask), Dropout(0.4, key))
    np.testing.assert_allclose(to_numpy(context).reshape(B, T, H, W), expected, atol=1e-13)


def test_heads_are_split_and_merged(library: Library) -> None:
    x = RANDOM.normal(size=(B, T, H * W))
    heads = split_heads(library.array(x), H)
    np.testing.assert_array_equal(to_numpy(heads)[..., 1, :], x[..., W:])
    np.testing.assert_array_equal(to_numpy(merge_heads(heads)), x)


class Store:
    """The simplest `Past`: the keys and values of one sentence, end to end."""

    def __init__(self) -> None:
        self.key = self.value = np.zeros((0, H, W))

    def append(self, key: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.key = np.concatenate([self.key, key])
        self.value = np.concatenate([self.value, value])
        return self.key, self.value


def test_a_sentence_in_pieces_with_its_past_gives_what_the_whole_sentence_gives() -> None:
    width = H * W

    def linear() -> LinearParams:
        return LinearParams(RANDOM.normal(size=(width, width)), RANDOM.normal(size=width))

    def add_norm() -> AddNormParams:
        return AddNormParams(linear(), LayerNormParams(RANDOM.normal(size=width), RANDOM.normal(size=width)))

    params = EncoderLayerParams(
        AttentionParams(linear(), linear(), linear(), add_norm()), FeedForwardParams(linear(), add_norm())
    )
    setting = EncoderSetting(H, "gelu", 1e-5)
    x, past = RANDOM.normal(size=(7, width)), Store()
    whole, _ = encoder_layer_forward(x, params, PackedMask(spans([7]), spans([7]), True), setting, REFERENCE)
    for start, stop in ((0, 3), (3, 4), (4, 7)):
        mask = PackedMask(spans([stop - start]), spans([stop]), is_causal=True)
        piece, _ = encoder_layer_forward(x[start:stop], params, mask, setting, REFERENCE, past=past)
        np.testing.assert_allclose(piece, whole[start:stop], atol=1e-12)
