"""Dropout: where its bits come from, and what it does with them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.gradients import check_gradients
from tests.layers.test_gradients import Bits
from tests.libraries import LIBRARIES, Library, check_record, to_numpy
from xlmr_np.layers.attention import Mask, PackedMask, PaddedMask, Spans, attention_backward, attention_forward
from xlmr_np.layers.dropout import (
    Dropout,
    Philox,
    TokenKey,
    attention_keep,
    dropout_backward,
    dropout_forward,
    philox_block,
    token_keep,
)

D = 7
KEY = Philox(0x12345678, 0xFEDCBA98)
RANDOM = np.random.default_rng(3)


def word_at(column: int, row: int, head: int, sentence: int) -> int:
    """The random word of one element."""
    counter = tuple(np.array(number) for number in (column // 4, row, head, sentence))
    return int(philox_block(counter, KEY)[column % 4])


def packed_key(lengths: list[int], key: Philox = KEY) -> TokenKey:
    sentences = np.repeat(np.arange(len(lengths)), lengths)
    rows = np.concatenate([np.arange(0), *map(np.arange, lengths)])
    return TokenKey(key, sentences, rows)


def padded_key(batch: int, longest: int) -> TokenKey:
    return TokenKey(KEY, *(np.ascontiguousarray(numbers) for numbers in np.indices((batch, longest))))


def test_the_bit_of_a_token_is_the_word_at_its_place(library: Library) -> None:
    sentences, rows = np.array([[5, 5, 0], [2, 3, 2]]), np.array([[0, 1, 7], [3, 0, 500]])
    for rate in (0.1, 0.5, 0.9):
        keep = token_keep(library.tree(TokenKey(KEY, sentences, rows)), rate, library.array(np.zeros((2, 3, D))))
        expected = [
            [word_at(column, rows[place], 0, sentences[place]) / 2**32 < 1 - rate for column in range(D)]
            for place in np.ndindex(rows.shape)
        ]
        np.testing.assert_array_equal(to_numpy(keep), np.reshape(expected, (2, 3, D)), strict=True)


def test_the_bit_of_a_probability_is_the_word_at_its_place(library: Library) -> None:
    shape = heads, queries, keys = 2, 3, 6
    keep = attention_keep(KEY, 0.4, 9, library.array(np.zeros(shape)))
    expected = [
        [[word_at(key, query, head, 9) / 2**32 < 0.6 for key in range(keys)] for query in range(queries)]
        for head in range(heads)
    ]
    np.testing.assert_array_equal(to_numpy(keep), expected, strict=True)


def test_a_word_survives_if_it_is_below_the_threshold() -> None:
    key = TokenKey(KEY, np.array([1]), np.array([2]))
    word = word_at(3, 2, 0, 1)
    at, above = (token_keep(key, 1 - threshold / 2**32, np.zeros((1, 4)))[0, 3] for threshold in (word, word + 1))
    assert not at
    assert above


def test_the_ends_of_the_rate_keep_all_and_none(library: Library) -> None:
    key, like = library.tree(padded_key(2, 3)), library.array(np.zeros((2, 3, D)))
    assert to_numpy(token_keep(key, 0.0, like)).all()
    assert not to_numpy(token_keep(key, 1.0, like)).any()


def test_tokens_keep_the_right_share_and_differ() -> None:
    keep = token_keep(padded_key(8, 64), 0.1, np.zeros((8, 64, 64)))
    assert abs(keep.mean() - 0.9) < 0.01  # 32768 draws: six standard deviations
    for axis in range(3):
        assert (np.diff(keep, axis=axis) != 0).mean() == pytest.approx(2 * 0.1 * 0.9, abs=0.02)  # as if independent


@pytest.mark.parametrize("shape", [(0, D), (3, 0), (2, 0, D)])
def test_no_elements_have_no_bits(library: Library, shape: tuple[int, ...]) -> None:
    places = np.zeros(shape[:-1], np.int64)
    keep = token_keep(library.tree(TokenKey(KEY, places, places)), 0.5, library.array(np.zeros(shape)))
    assert keep.shape == shape


def test_places_may_be_32_bit_numbers(library: Library) -> None:
    key, like = padded_key(2, 3), library.array(np.zeros((2, 3, D)))
    narrow = TokenKey(KEY, key.sentences.astype(np.int32), key.rows.astype(np.int32))
    wide_bits, narrow_bits = (to_numpy(token_keep(library.tree(each), 0.5, like)) for each in (key, narrow))
    np.testing.assert_array_equal(narrow_bits, wide_bits)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=4), st.integers(1, 9))
def test_packed_and_padded_tokens_lose_the_same_features(lengths: list[int], width: int) -> None:
    longest = max(lengths)
    x = RANDOM.normal(size=(len(lengths), longest, width))
    is_real = np.arange(longest) < np.array(lengths)[:, None]
    padded = dropout_forward(x, Dropout(0.4, padded_key(*is_real.shape)))
    packed = dropout_forward(x[is_real], Dropout(0.4, packed_key(lengths)))
    np.testing.assert_array_equal(packed, padded[is_real])


def test_a_token_key_does_what_its_bits_do(library: Library) -> None:
    key, x = library.tree(packed_key([4, 0, 2])), library.array(RANDOM.normal(size=(6, D)))
    check_record(key)
    drawn, given_bits = Dropout(0.25, key), Dropout(0.25, token_keep(key, 0.25, x))
    for dropout in (drawn, given_bits):
        check_record(dropout)
    expected = to_numpy(x) * to_numpy(given_bits.keep) / 0.75
    for function in (dropout_forward, dropout_backward):
        for dropout in (drawn, given_bits):
            y = function(x, dropout)
            assert type(y) is type(x)
            np.testing.assert_allclose(to_numpy(y), expected, rtol=1e-15)


def test_a_record_of_places_that_are_not_whole_numbers_is_found_out() -> None:
    with pytest.raises(TypeError):
        check_record(Dropout(0.1, TokenKey(KEY, np.zeros(3), np.zeros(3))))
    with pytest.raises(TypeError):
        check_record(TokenKey(KEY, np.zeros(3, int), np.zeros(2, int)))
    with pytest.raises(TypeError):
        check_record(TokenKey(KEY, np.zeros(3, int), np.zeros(3, int), np.zeros(2)))


@pytest.mark.parametrize("keep", [np.ones((3, D), bool), packed_key([1, 2])], ids=["bits", "key"])
def test_a_rate_of_one_gives_zeros(library: Library, keep) -> None:
    x = library.array(np.full((3, D), np.inf))
    (keep,) = library.tree((keep,))
    for function in (dropout_forward, dropout_backward):
        y = function(x, Dropout(1.0, keep))
        assert y.dtype == x.dtype
        np.testing.assert_array_equal(to_numpy(y), np.zeros((3, D)), strict=True)


def test_a_rate_of_one_is_torchs() -> None:
    x = torch.randn(3, D, dtype=torch.float64, requires_grad=True)
    y = torch.nn.functional.dropout(x, 1.0)
    y.sum().backward()
    dropout = Dropout(1.0, packed_key([3]))
    np.testing.assert_array_equal(dropout_forward(x.detach().numpy(), dropout), y.detach().numpy())
    np.testing.assert_array_equal(dropout_backward(np.ones((3, D)), dropout), x.grad.numpy())


def test_nothing_is_dropped_without_dropout() -> None:
    x = np.ones(3)
    assert dropout_forward(x, None) is x
    assert dropout_backward(x, None) is x


def test_a_key_without_places_is_refused() -> None:
    message = r"^Philox\(low=1, high=2\) does not say where the elements of x stand; put it into a TokenKey\.$"
    for function in (dropout_forward, dropout_backward):
        with pytest.raises(TypeError, match=message):
            function(np.ones((3, 2)), Dropout(0.5, Philox(1, 2)))


@pytest.mark.parametrize("rate", [0.3, 1.0])
@pytest.mark.parametrize("key", [padded_key(2, 3), packed_key([2, 3])], ids=["padded", "packed"])
def test_gradients_of_token_dropout(key: TokenKey, rate: float) -> None:
    bits = Bits(Dropout(rate, key))
    # A constant has no gradient in torch; the input itself is added.
    check_gradients(
        lambda x: (dropout_forward(x, bits.like(x)) + x, None),
        lambda d_y, _, x: dropout_backward(d_y, bits.like(x)) + d_y,
        RANDOM.normal(size=(*key.rows.shape, D)),
    )


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.name)
def test_attention_drops_the_same_probabilities_wherever_the_padding_is(library: Library) -> None:
    is_real = np.array([[False, True, True, False, True], [False, False, False, True, True]])
    query, key, value = (np.random.default_rng(i).normal(size=(2, 5, 2, 3)) for i in range(3))
    lengths = is_real.sum(axis=1)
    spans = Spans(np.cumsum(lengths) - lengths, lengths)
    rows = np.maximum(is_real.cumsum(axis=1) - 1, 0)
    token_key = TokenKey(Philox(4, 5), np.repeat([[0], [1]], 5, axis=1), rows)

    def attend(arrays: tuple[np.ndarray, ...], mask: Mask, keep: Philox | TokenKey) -> tuple[np.ndarray, ...]:
        query, key, value = map(library.array, arrays)
        dropout = Dropout(0.4, library.tree(keep))
        context, cache = attention_forward(query, key, value, library.tree(mask), dropout)
        return to_numpy((context, *attention_backward(context, cache, library.tree(mask), dropout)))

    packed = attend(tuple(x[is_real] for x in (query, key, value)), PackedMask(spans, spans), Philox(4, 5))
    zeroed = tuple(x * is_real[..., None, None] for x in (query, key, value))
    padded = attend(zeroed, PaddedMask(is_real[:, None, None, :] & is_real[:, None, :, None]), token_key)
    for ours, expected in zip(padded, packed, strict=True):
        np.testing.assert_allclose(ours[is_real], expected, atol=1e-13)


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.name)
def test_cross_attention_drops_the_same_probabilities_wherever_the_padding_is(library: Library) -> None:
    """Columns are numbered among the real tokens of the source."""
    is_real = np.array([[False, True, True], [True, False, True]])
    source_is_real = np.array([[True, False, True, True, False], [False, False, True, False, True]])
    query, key, value = (
        np.random.default_rng(i).normal(size=(*places.shape, 2, 3))
        for i, places in enumerate((is_real, source_is_real, source_is_real))
    )

    def spans_of(places: np.ndarray) -> Spans:
        lengths = places.sum(axis=1)
        return Spans(np.cumsum(lengths) - lengths, lengths)

    rows, columns = (np.maximum(places.cumsum(axis=1) - 1, 0) for places in (is_real, source_is_real))
    token_key = TokenKey(Philox(4, 5), np.repeat([[0], [1]], 3, axis=1), rows, columns)

    def attend(arrays: tuple[np.ndarray, ...], mask: Mask, keep: Philox | TokenKey) -> tuple[np.ndarray, ...]:
        dropout, own_mask = Dropout(0.4, library.tree(keep)), library.tree(mask)
        context, cache = attention_forward(*map(library.array, arrays), own_mask, dropout)
        return to_numpy((context, *attention_backward(context, cache, own_mask, dropout)))

    packed_mask = PackedMask(spans_of(is_real), spans_of(source_is_real))
    packed = attend((query[is_real], key[source_is_real], value[source_is_real]), packed_mask, Philox(4, 5))
    seen = source_is_real[:, None, None, :] & is_real[:, None, :, None]
    padded = attend((query, key, value), PaddedMask(seen), token_key)
    for ours, expected, places in zip(padded, packed, (is_real, is_real, source_is_real, source_is_real), strict=True):
        np.testing.assert_allclose(ours[places], expected, atol=1e-13)  # float64, sums in another order


def test_packed_attention_takes_no_token_key() -> None:
    rows, spans = np.arange(3), Spans(np.array([0]), np.array([3]))
    keep = TokenKey(KEY, np.zeros(3, int), rows)
    with pytest.raises(TypeError, match="packed attention takes the Philox alone"):
        attention_forward(*np.ones((3, 3, 1, 2)), PackedMask(spans, spans), Dropout(0.5, keep))
