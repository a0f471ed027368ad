"""Where tokens come from: every question that a result answers, for every token, word and character."""

import copy
import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xlmr_np.tokenizer import BatchEncoding, XLMRobertaTokenizer

from .comparison import EVERYTHING, all_of, any_texts

BEYOND = 3  # indices beyond the last that are asked for too


@pytest.fixture(scope="module")
def huggingface(small_vocabulary) -> XLMRobertaTokenizer:
    return XLMRobertaTokenizer(small_vocabulary, normalization="huggingface")


ABOUT_TOKENS = ["token_to_sequence", "token_to_word", "token_to_chars"]
ABOUT_PLACES = ["word_to_tokens", "word_to_chars", "char_to_token", "char_to_word"]


def answers(encoding: Any, sequences: int, longest: int) -> dict[tuple, Any]:
    """All answers of an `Encoding`, ours or that of `tokenizers`, about so many texts of at most so many characters."""
    tokens, places = range(len(encoding.ids) + BEYOND), range(longest + BEYOND)
    return {(name, token): getattr(encoding, name)(token) for name in ABOUT_TOKENS for token in tokens} | {
        (name, place, sequence): getattr(encoding, name)(place, sequence)
        for name in ABOUT_PLACES
        for place in places
        for sequence in range(sequences)
    }


def check(tokenizer, reference, first: list, second: list | None, **asked: Any) -> None:
    ours, theirs = (one(first, second, **EVERYTHING, **asked) for one in (tokenizer, reference))
    assert all_of(ours) == all_of(theirs)
    about = 1 if second is None else 2, max(sum(map(len, text)) for text in [*first, *(second or [])])
    for our_row, their_row in zip(ours.encodings, theirs.encodings, strict=True):
        assert answers(our_row, *about) == answers(their_row, *about)


settings_of_rows = st.fixed_dictionaries(
    {},
    optional={
        "padding": st.just(True),
        "padding_side": st.sampled_from(["left", "right"]),
        "add_special_tokens": st.booleans(),
    },
) | st.fixed_dictionaries(
    {"truncation": st.just(True), "max_length": st.integers(9, 20), "return_overflowing_tokens": st.just(True)},
    optional={"stride": st.integers(0, 1), "padding": st.just(True)},
)


@settings(max_examples=300)
@given(st.lists(any_texts, min_size=1, max_size=4), settings_of_rows)
def test_texts(huggingface, small_reference, texts, asked):
    check(huggingface, small_reference, texts, None, **asked)


@settings(max_examples=200)
@given(st.lists(st.tuples(any_texts, any_texts), min_size=1, max_size=3), settings_of_rows)
def test_pairs(huggingface, small_reference, pairs, asked):
    first, second = map(list, zip(*pairs, strict=True))
    check(huggingface, small_reference, first, second, **asked)


words = st.lists(st.one_of(any_texts, st.sampled_from(["", " ", "the", "▁the", "New York", "<mask>"])), max_size=5)


@pytest.mark.parametrize("examples", [80, pytest.param(200, marks=pytest.mark.exhaustive)])
def test_words(huggingface, small_reference, examples):
    @settings(max_examples=examples)
    @given(st.lists(st.tuples(words, words), min_size=1, max_size=3), st.booleans(), settings_of_rows)
    def compare(pairs, are_pairs, asked):
        first, second = map(list, zip(*pairs, strict=True))
        check(huggingface, small_reference, first, second if are_pairs else None, is_split_into_words=True, **asked)

    compare()


@pytest.fixture(params=["sentencepiece", "huggingface"])
def batch(small_vocabulary, request) -> BatchEncoding:
    """A pair whose second text is empty, with padding, and a pair."""
    tokenizer = XLMRobertaTokenizer(small_vocabulary, normalization=request.param)
    return tokenizer(["the garden", "the"], ["", "the garden"], padding=True, **EVERYTHING)


def test_the_number_of_the_row_may_be_left_out(batch):
    for name, index in [("token_to_sequence", 1), ("token_to_word", 2), ("token_to_chars", 3), ("char_to_token", 5),
                        ("char_to_word", 4), ("word_to_tokens", 1), ("word_to_chars", 1)]:  # fmt: skip
        question = getattr(batch, name)
        assert question(index) == question(0, index) == getattr(batch[0], name)(index) is not None
        assert question(1, index) == getattr(batch[1], name)(index)
    for name in ("tokens", "word_ids", "sequence_ids"):
        assert getattr(batch, name)() == getattr(batch, name)(0) == getattr(batch[0], name)
        assert getattr(batch, name)(1) == getattr(batch, name)(-1) == getattr(batch[1], name)


def test_the_second_text_of_a_pair(batch):
    assert batch.char_to_token(1, 5, 1) == batch.char_to_token(1, 5, sequence_index=1) == 5
    assert batch.char_to_token(1, 5) is None  # the first text is shorter
    assert batch.word_to_tokens(1, 1, sequence_index=1) == (5, 7)
    assert batch.word_to_chars(1, 1, 1).end == len("the garden")
    assert batch.char_to_word(1, 9, 1) == 1


def test_tokens_may_be_counted_from_the_end(batch):
    size = len(batch["input_ids"][1])
    for name in ABOUT_TOKENS:
        question = getattr(batch, name)
        assert [question(1, token - size) for token in range(size)] == [question(1, token) for token in range(size)]
        assert question(1, -size - 1) is question(1, size) is None


def test_what_is_beyond_a_row_is_nothing(batch):
    for name in ABOUT_PLACES:
        for place in (-1, 10**6):
            assert getattr(batch, name)(0, place) is None
            assert getattr(batch, name)(0, 0, 2) is None
    with pytest.raises(IndexError, match="There is no row 2, as there are 2"):
        batch.char_to_token(2, 0)


def test_a_row(batch):
    row = batch[1]
    assert row.ids == batch["input_ids"][1]
    assert row.tokens == ["<s>", "▁the", "</s>", "</s>", "▁the", "▁gar", "den", "</s>"]
    assert row.word_ids == [None, 0, None, None, 0, 1, 1, None]
    assert row.sequence_ids == [None, 0, None, None, 1, 1, 1, None]
    assert row.offsets == batch["offset_mapping"][1]
    assert row.special_tokens_mask == batch["special_tokens_mask"][1] == [1, 0, 1, 1, 0, 0, 0, 1]
    assert row.attention_mask == batch["attention_mask"][1] == [1] * 8
    assert row.type_ids == [0] * 8
    assert len(row) == 8
    assert batch.n_sequences == row.n_sequences == 2
    assert row.overflowing == []


def test_overflow_belongs_to_its_row(huggingface, small_reference):
    asked = {"truncation": True, "max_length": 6, "return_overflowing_tokens": True, "stride": 1}
    texts = ["the garden and the table and the garden", "the"]
    ours, theirs = huggingface(texts, **asked), small_reference(texts, **asked)
    assert [row.ids for row in ours[0].overflowing] == [row.ids for row in theirs.encodings[0].overflowing]
    assert len(ours[0].overflowing) == ours["overflow_to_sample_mapping"].count(0) - 1 > 1


def test_slices_are_rows_of_every_entry(batch):
    assert batch[:1] == {name: value[:1] for name, value in batch.items()}
    assert list(batch[1:]) == ["input_ids", "attention_mask", "special_tokens_mask", "offset_mapping", "length"]


def test_copies_keep_it(batch):
    for other in (copy.copy(batch), copy.deepcopy(batch), pickle.loads(pickle.dumps(batch))):
        assert all_of(other) == all_of(batch)
        assert other.encodings == batch.encodings
        assert other.is_fast


def test_arrays_keep_it(huggingface):
    batch = huggingface(["the garden", "the"], padding=True, return_tensors="np", **EVERYTHING)
    assert batch["offset_mapping"].shape == (2, 5, 2)
    assert batch["offset_mapping"][0].tolist() == [list(offsets) for offsets in batch[0].offsets]
    assert batch["length"].tolist() == [5, 5]
    assert batch.to("cpu").char_to_token(5) == batch.char_to_token(5) == 2


def test_what_was_made_otherwise_knows_nothing(small):
    batch = small.pad([{"input_ids": [0, 2]}, {"input_ids": [0, 5, 2]}])
    assert batch.encodings is batch.n_sequences is None
    assert not batch.is_fast
    with pytest.raises(ValueError, match="does not know where its tokens come from"):
        batch.word_ids(0)
