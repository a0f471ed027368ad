"""When texts end, against transformers."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.generation import stopping_criteria as reference

from xlmr_np.decoding import GenerationConfig
from xlmr_np.decoding.stopping import (
    Custom,
    EndTokens,
    MaxLength,
    MaxTime,
    StopStrings,
    is_finished,
    stopping_for,
)
from xlmr_np.tokenizer import XLMRobertaTokenizer


@pytest.fixture(scope="module")
def tokenizer(small_vocabulary: Path) -> XLMRobertaTokenizer:
    return XLMRobertaTokenizer(small_vocabulary)


class _AsTheReferenceNeedsIt:
    """Our tokenizer, with the private method that the reference calls."""

    def __init__(self, tokenizer: XLMRobertaTokenizer) -> None:
        self.tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)

    def __call__(self, *texts: Any, **settings: Any) -> Any:
        return self.tokenizer(*texts, **settings)

    def _convert_id_to_token(self, token_id: int) -> str:
        return self.tokenizer.convert_ids_to_tokens(token_id)


@given(st.integers(1, 5), st.integers(1, 8), st.integers(1, 8))
def test_greatest_length(rows: int, length: int, limit: int) -> None:
    ids = np.zeros((rows, length), int)
    theirs = reference.MaxLengthCriteria(limit)(torch.tensor(ids), None)
    np.testing.assert_array_equal(MaxLength(limit)(ids, None), theirs.numpy())


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.lists(st.integers(0, 5), min_size=1, max_size=3))
def test_end_tokens(last: list[int], end: list[int]) -> None:
    ids = np.array([[end[0], token] for token in last])  # an earlier end token ends nothing
    theirs = reference.EosTokenCriteria(end)(torch.tensor(ids), None)
    np.testing.assert_array_equal(EndTokens(tuple(end))(ids, None), theirs.numpy())


def test_time(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = np.zeros((2, 4), int)
    for now, is_over in ((102.5, False), (102.6, True)):
        monkeypatch.setattr(time, "monotonic", lambda now=now: now)
        assert MaxTime(2.5, start=100.0)(ids, None).tolist() == [is_over, is_over]


def test_time_begins_with_the_criteria() -> None:
    before = time.monotonic()
    (_, criterion) = stopping_for(GenerationConfig(max_time=2.5), 3, ())
    assert isinstance(criterion, MaxTime)
    assert before <= criterion.start <= time.monotonic()


TEXTS = ["The stopping of stop signs, stop.", "One two three", "naïve opera! Stopper? never", "a b c d e f g"]


@pytest.mark.parametrize(
    "strings",
    [("stop",), (".",), ("e s", "two"), ("never",), (" ",), ("s>", "pad"), ("The sto", "a b c d", "!"), ("op",)],
)
def test_stop_strings_are_the_references(strings: tuple[str, ...], tokenizer: XLMRobertaTokenizer) -> None:
    theirs = reference.StopStringCriteria(_AsTheReferenceNeedsIt(tokenizer), list(strings))
    ours = StopStrings(strings, tokenizer)
    random = np.random.default_rng(0)
    rows = [tokenizer(text)["input_ids"] for text in TEXTS]
    rows += [random.integers(0, len(tokenizer), 12).tolist() for _ in range(30)]
    ends = 0
    for row in rows:
        for length in range(1, len(row) + 1):
            ids = np.array([row[:length]])
            expected = theirs(torch.tensor(ids), None).tolist()
            assert ours(ids, None).tolist() == expected, tokenizer.convert_ids_to_tokens(row[:length])
            ends += expected[0]
    assert ends > 0


def test_stop_strings_within_tokens_of_the_real_vocabulary(real_vocabulary: Path) -> None:
    tokenizer = XLMRobertaTokenizer(real_vocabulary)
    ids = np.array([tokenizer.convert_tokens_to_ids(["▁hel", "lo", "▁world"])])
    assert tokenizer.unk_token_id not in ids
    for string in ("lo w", "ello worl", "hello world", "d", " hello world", "world", "lo "):
        assert StopStrings((string,), tokenizer)(ids, None).tolist() == [True], string
    for string in ("hello", "worlds", "xhello world", "lo  w"):  # at its end before the last token, or never there
        assert StopStrings((string,), tokenizer)(ids, None).tolist() == [False], string


def test_each_row_has_its_own_text(tokenizer: XLMRobertaTokenizer) -> None:
    token, other = tokenizer.convert_tokens_to_ids(["s", "t"])
    assert StopStrings(("st",), tokenizer)(np.array([[token, other], [other, token]]), None).tolist() == [True, False]


def test_ids_beyond_the_tokenizer_spell_nothing(tokenizer: XLMRobertaTokenizer) -> None:
    token, other = tokenizer.convert_tokens_to_ids(["s", "t"])
    beyond = len(tokenizer)
    ids = np.array([[token, beyond, other], [beyond, token, other], [token, other, beyond]])
    assert StopStrings(("st",), tokenizer)(ids, None).tolist() == [False, True, False]


@pytest.mark.parametrize(("answer", "rows"), [(True, [True, True]), (np.array([False, True]), [False, True])])
def test_custom_functions(answer: Any, rows: list[bool]) -> None:
    seen = []

    def function(ids: np.ndarray, scores: Any) -> Any:
        seen.append((ids.tolist(), scores, ids.flags.writeable))
        return answer

    assert Custom(function)(np.array([[1], [2]]), "scores").tolist() == rows
    assert seen == [([[1], [2]], "scores", False)]


@pytest.mark.parametrize("answer", [None, 1, [True], np.zeros((2, 1), bool)])
def test_custom_functions_that_do_not_decide(answer: Any) -> None:
    def undecided(ids: np.ndarray, scores: Any) -> Any:
        return answer

    with pytest.raises(ValueError, match="criterion undecided must return a boolean, or one for each of 2 rows; it"):
        Custom(undecided)(np.array([[1], [2]]), None)


def test_any_criterion_ends_a_row() -> None:
    ids = np.array([[5, 2], [5, 3], [5, 4]])
    criteria = [MaxLength(3), EndTokens((2,)), Custom(lambda ids, scores: ids[:, -1] == 4)]
    assert is_finished(criteria, ids, None).tolist() == [True, False, True]
    assert is_finished([], ids, None).tolist() == [False, False, False]


def test_all_that_a_config_asks_for(tokenizer: XLMRobertaTokenizer) -> None:
    config = GenerationConfig(max_new_tokens=4, max_time=9.0, stop_strings="x")
    length, seconds, strings, end, custom = stopping_for(config, 3, (2, 5), tokenizer, [len])
    assert (length, end, custom) == (MaxLength(7), EndTokens((2, 5)), Custom(len))  # type: ignore[arg-type]
    assert isinstance(seconds, MaxTime)
    assert seconds.seconds == 9.0
    assert strings == StopStrings(("x",), tokenizer)


def test_stop_strings_without_a_tokenizer() -> None:
    with pytest.raises(ValueError, match=r"stop_strings=\['x'\] are found in the text; pass tokenizer= too"):
        stopping_for(GenerationConfig(stop_strings=["x"]), 3, ())


def test_a_criterion_that_is_no_function() -> None:
    with pytest.raises(TypeError, match=r"stopping_criteria must hold functions of .* 'x' cannot be called"):
        stopping_for(GenerationConfig(), 3, (), custom=["x"])


def test_a_prompt_without_room() -> None:
    with pytest.raises(ValueError, match="max_length=3 leaves no token"):
        stopping_for(GenerationConfig(max_length=3), 3, ())
