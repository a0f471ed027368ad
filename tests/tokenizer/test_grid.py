"""Every combination of truncation, padding, stride, overflow, sides, special tokens and form of input, when short.

Where transformers gives an answer, normalization="huggingface" gives the same; where it raises (or panics), that is a
ValueError here.
"""

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from xlmr_np.tokenizer import XLMRobertaTokenizer

from .comparison import EVERYTHING, all_of
from .reference import reference_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:max_length=.* has no effect", "ignore:`max_length` is ignored")

SHORT, MIDDLE, LONG = "the", "the garden", "A small library with <mask> good tests."
WORDS = [["the"], ["A small", "", "library", " "], []]
INPUTS = [
    *[((text,), {}) for text in ("", SHORT, LONG)],
    *[(pair, {}) for pair in ((SHORT, SHORT), (MIDDLE, LONG), (LONG, SHORT), ("", LONG))],
    (([SHORT, "", LONG],), {}),
    (([SHORT, LONG, "", "", MIDDLE], [LONG, SHORT, MIDDLE, "", LONG]), {}),
    (([(MIDDLE, SHORT), (SHORT, LONG)],), {}),
    *[(texts, {"is_split_into_words": True}) for texts in ((WORDS[1],), (WORDS[1], WORDS[0]), (WORDS, WORDS[::-1]))],
]
GRID = {
    "truncation": [None, True, "only_first", "only_second", False],
    "padding": [False, True, "max_length"],
    "stride": [0, 1, 2, 5],
    "max_length": [*range(9), 9, 12, 20],
    "padding_side": ["right", "left"],
    "add_special_tokens": [True, False],
    "return_overflowing_tokens": [False, True],
    "pad_to_multiple_of": [None, 4],
}


def calls(share: float) -> Iterator[tuple[tuple, dict[str, Any]]]:
    """This share of all calls: texts and settings."""
    chosen = random.Random(0)
    for values in itertools.product(*GRID.values()):
        for texts, form in INPUTS:
            if chosen.random() < share:
                yield texts, dict(zip(GRID, values, strict=True)) | form


def outcome(tokenizer, texts: tuple, settings: dict[str, Any], errors: type[BaseException]) -> dict[str, Any] | None:
    """All of what the tokenizer returns, or None for an error."""
    try:
        return all_of(tokenizer(*texts, **EVERYTHING, **settings))
    except errors as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return None


def check_default(found: Any, expected: Any, texts: tuple, settings: dict[str, Any]) -> None:
    """normalization="sentencepiece" gives the same, unless there is no room, or none beside the stride."""
    is_pair = len(texts) == 2 or (isinstance(texts[0], list) and isinstance(texts[0][0], tuple))
    room = settings["max_length"] - settings["add_special_tokens"] * (4 if is_pair else 2)
    if found is None:
        has_no_room = room <= settings["return_overflowing_tokens"] or settings["stride"] >= room
        has_nothing_to_cut = settings["truncation"] == "only_second" and not is_pair
        assert expected is None or has_no_room or has_nothing_to_cut, (texts, settings)
    elif expected is None:
        # The reference always counts two special tokens.
        assert settings["max_length"] - 2 < settings["stride"] < room, (texts, settings)
    else:
        assert found | {"offset_mapping": []} == expected | {"offset_mapping": []}, (texts, settings)


def check_grid(model_file: Path, truncation_side: str, share: float) -> int:
    """Compares both readings with the reference on this share of the grid; returns the number of calls."""
    default, huggingface = (
        XLMRobertaTokenizer(model_file, normalization=normalization, truncation_side=truncation_side)
        for normalization in ("sentencepiece", "huggingface")
    )
    reference = reference_tokenizer(model_file, truncation_side=truncation_side)
    checked = 0
    for texts, settings in calls(share):
        reference.backend_tokenizer.no_truncation()  # or it takes settings that it refused in the last call
        expected = outcome(reference, texts, settings, BaseException)
        assert outcome(huggingface, texts, settings, ValueError) == expected, (texts, settings)
        check_default(outcome(default, texts, settings, ValueError), expected, texts, settings)
        checked += 1
    return checked


@pytest.fixture(autouse=True)
def brief_panics(monkeypatch):
    """Without stack traces, whose printing takes longer than the tests."""
    monkeypatch.setenv("RUST_BACKTRACE", "0")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")


SIDES = pytest.mark.parametrize("truncation_side", ["right", "left"])


@SIDES
def test_a_tenth_of_the_grid(small_vocabulary, truncation_side):
    assert check_grid(small_vocabulary, truncation_side, share=0.1) > 14_000


@SIDES
@pytest.mark.exhaustive
def test_the_grid(small_vocabulary, truncation_side):
    assert check_grid(small_vocabulary, truncation_side, share=1.0) == 11_520 * len(INPUTS)
