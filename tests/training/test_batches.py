"""Batches: every sequence once a round, from any place on, and what is hidden of them."""

from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.training.texts import LANGUAGES, sentences
from xlmr_np.tokenizer import XLMRobertaTokenizer
from xlmr_np.training.batches import Masker, Place, Sequences, rows_of_batches, sequences_of
from xlmr_np.training.masking import MaskingSetting

LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=40)
BUDGET = st.integers(1, 80)
SEED = st.integers(0, 3)
CHINESE = LANGUAGES[-1]


@pytest.fixture(scope="module")
def tokenizer(small_vocabulary: Path) -> XLMRobertaTokenizer:
    return XLMRobertaTokenizer(small_vocabulary)


def sequences_with(lengths: list[int]) -> Sequences:
    """Of these lengths, their ids all different."""
    return Sequences(np.arange(sum(lengths), dtype=np.int32), np.cumsum([0, *lengths], dtype=np.int64))


def batches_from(
    lengths: list[int], budget: int, seed: int, place: Place, number: int
) -> list[tuple[list[int], Place]]:
    batches = islice(rows_of_batches(sequences_with(lengths), budget, seed, place), number)
    return [(rows.tolist(), after) for rows, after in batches]


@given(lengths=LENGTHS, budget=BUDGET, seed=SEED)
@example(lengths=[30], budget=1, seed=0)  # longer than a batch
@example(lengths=[1], budget=80, seed=0)  # a batch of 80 rounds
@example(lengths=[5, 5], budget=5, seed=0)  # rounds end where batches do
@example(lengths=[30, 1, 1], budget=3, seed=0)
def test_every_sequence_is_there_once_a_round(lengths: list[int], budget: int, seed: int) -> None:
    rounds = 4
    rows: list[int] = []
    for own, after in batches_from(lengths, budget, seed, Place(), rounds * len(lengths)):
        rows += own
        assert after.epoch * len(lengths) + after.done == len(rows)  # the place says how much is done
        assert 0 <= after.done < len(lengths)
    whole = [rows[i : i + len(lengths)] for i in range(0, rounds * len(lengths), len(lengths))]
    for order in whole:
        assert sorted(order) == list(range(len(lengths)))


@given(lengths=LENGTHS, budget=BUDGET, seed=SEED)
@example(lengths=[9, 1, 9], budget=4, seed=1)
def test_batches_are_as_full_as_they_can_be(lengths: list[int], budget: int, seed: int) -> None:
    batches = batches_from(lengths, budget, seed, Place(), 30)
    sizes = [[lengths[row] for row in rows] for rows, _ in batches]
    for own, following in pairwise(sizes):
        assert sum(own) <= budget or len(own) == 1
        assert sum(own) + following[0] > budget


@given(lengths=LENGTHS, budget=BUDGET, seed=SEED, stop=st.integers(1, 15))
@example(lengths=[30, 2], budget=3, seed=0, stop=2)
@example(lengths=[1], budget=80, seed=0, stop=3)
def test_any_place_continues_with_the_same_batches(lengths: list[int], budget: int, seed: int, stop: int) -> None:
    batches = batches_from(lengths, budget, seed, Place(), 30)
    assert batches_from(lengths, budget, seed, batches[stop - 1][1], 30 - stop) == batches[stop:]


def test_rounds_and_seeds_have_their_own_orders() -> None:
    lengths = [1] * 50
    orders = [batches_from(lengths, 50, seed, Place(epoch), 1)[0][0] for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


@given(words=st.lists(st.integers(0, 9), min_size=1, max_size=9), max_length=st.integers(3, 20))
def test_windows_are_together_the_ids_of_their_document(
    words: list[int], max_length: int, tokenizer: XLMRobertaTokenizer
) -> None:
    texts = [" ".join(sentences(number, seed=number)) for number in words]
    texts.append("the cat")
    sequences = sequences_of(iter(texts), tokenizer, max_length)
    windows = [sequences.ids[i:j].tolist() for i, j in pairwise(sequences.ends)]
    expected = tokenizer(texts, add_special_tokens=False).input_ids
    for ids in expected:
        joined: list[int] = []
        while len(joined) < len(ids):
            first, *middle, last = windows.pop(0)
            assert (first, last) == (0, 2)
            assert 1 <= len(middle) <= max_length - 2
            assert len(middle) == max_length - 2 or len(joined) + len(middle) == len(ids)  # only the last is shorter
            joined += middle
        assert joined == ids
    assert windows == []


def test_sequences_need_tokens_and_room_for_them(tokenizer: XLMRobertaTokenizer) -> None:
    assert sequences_of(["the cat", "\u200b"], tokenizer, 3).ends[-1] % 3 == 0
    with pytest.raises(ValueError, match="no tokens: all of their characters are invisible"):
        sequences_of(["\u200b", "\ufeff"], tokenizer, 8)
    with pytest.raises(ValueError, match="Sequences of 2 tokens have no room"):
        sequences_of(["the cat"], tokenizer, 2)


def test_texts_cannot_write_special_tokens(small_vocabulary: Path) -> None:
    """Whatever their tokenizer says: padding within a sequence would shift all positions after it."""
    tokenizer = XLMRobertaTokenizer(small_vocabulary, allow_special_tokens=True)
    sequences = sequences_of(["a </s> b <pad> c <s> d"], tokenizer, 64)
    assert set(sequences.ids[1:-1].tolist()).isdisjoint({0, 1, 2})


@pytest.mark.parametrize("whole_words", [False, True])
def test_a_batch_is_its_sequences_with_some_tokens_hidden(tokenizer: XLMRobertaTokenizer, whole_words: bool) -> None:
    texts = ["a text with <mask> in it and a 龘 that has no piece", *sentences(60)]
    sequences = sequences_of(texts, tokenizer, 12)
    masker = Masker(tokenizer, MaskingSetting(0.5, 0.2, 0.7), whole_words)
    rows = np.random.default_rng(0).permutation(len(sequences.ends) - 1)
    special = {0, 1, 2, 3, tokenizer.mask_token_id}
    drawn: set[int] = set()
    batch = masker.batch(sequences, rows, np.random.default_rng(1))
    ids, labels, is_real = (batch[name] for name in ("input_ids", "labels", "attention_mask"))
    assert ids.shape == labels.shape == is_real.shape
    for row, seen, label, mask in zip(rows, ids, labels, is_real, strict=True):
        own = sequences.ids[sequences.ends[row] : sequences.ends[row + 1]]
        np.testing.assert_array_equal(mask, np.arange(len(mask)) < len(own))
        assert (seen[len(own) :] == 1).all()
        assert (label[len(own) :] == -100).all()
        seen, label = seen[: len(own)], label[: len(own)]
        is_chosen = label != -100
        np.testing.assert_array_equal(label[is_chosen], own[is_chosen])
        np.testing.assert_array_equal(seen[~is_chosen], own[~is_chosen])
        assert special.isdisjoint(label[is_chosen].tolist())
        drawn |= set(seen[is_chosen & (seen != own)].tolist())
    assert drawn & special == {tokenizer.mask_token_id}
    assert len(drawn) > 200  # of 480
    assert 3 in sequences.ids
    assert (sequences.ids == tokenizer.mask_token_id).sum() == 1


def test_words_are_hidden_whole(tokenizer: XLMRobertaTokenizer) -> None:
    """A piece of Chinese, which has no spaces, is a word of its own."""
    sequences = sequences_of(sentences(80), tokenizer, 200)
    rows = np.arange(len(sequences.ends) - 1)
    labels = Masker(tokenizer, MaskingSetting(0.3), True).batch(sequences, rows, np.random.default_rng(0))["labels"]
    chosen = words = 0
    for row in rows:
        ids = sequences.ids[sequences.ends[row] : sequences.ends[row + 1]]
        tokens = tokenizer.convert_ids_to_tokens(ids.tolist())
        number = np.cumsum([token.startswith(("▁", "<", *CHINESE)) for token in tokens])  # < as special ones do
        for word in range(2, number[-1]):  # neither <s> nor </s>
            is_chosen = labels[row, : len(ids)][(number == word) & (ids != 3)] != -100
            assert is_chosen.all() or not is_chosen.any()
            words += 1
            chosen += bool(is_chosen.any())
    assert chosen / words == pytest.approx(0.3, abs=0.09)  # some 500 words: four standard deviations


def test_batches_depend_on_the_generator_alone(tokenizer: XLMRobertaTokenizer) -> None:
    sequences = sequences_of(sentences(20), tokenizer, 32)
    masker = Masker(tokenizer, MaskingSetting(), False)
    first, second, other = (masker.batch(sequences, np.arange(9), np.random.default_rng(seed)) for seed in (3, 3, 4))
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
    assert not np.array_equal(first["labels"], other["labels"])
