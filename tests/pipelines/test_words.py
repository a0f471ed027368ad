"""Where tokens lie in a text, and where words start in it."""

import itertools
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from xlmr_np import XLMRobertaTokenizer
from xlmr_np.pipelines.words import boundaries, starts_of_words, token_spans


def words_of_characters(text: str) -> list[str]:
    """What words a text is cut into whose characters are tokens, and all of one word to the tokenizer."""
    size = len(text)
    spans = np.arange(size)[:, None] + [0, 1]
    starts = starts_of_words(text, spans, np.zeros(size, bool), np.zeros(size, int))
    places = [*np.flatnonzero(starts).tolist(), size]
    return [text[start:end] for start, end in itertools.pairwise(places)]


@pytest.mark.parametrize(
    "words",
    [
        ["Paris", ".", " ", "New", " ", "York"],
        ["don't", "?", "!"],
        ["a", "\t", "b", "\n", "c", "\u00a0", "d", "\r\n", "e"],
        ["3.14", "%"],
        ["北", "京", "大", "学", "。"],
        ["コンピュータ", "を", "使", "う"],
        ["ภ", "า", "ษ", "า", "ไ", "ท", "ย"],
        ["นี้", "น้\u0e33"],  # Unicode sees a word at the last character, which stands within a grapheme
        ["ພ", "າ", "ສ", "າ"],
        ["ខ្មែ", "រ"],
        ["한국어는"],
        ["हिन्दी", " ", "में"],
        ["e\u0301te\u0301"],
        ["👨\u200d👩\u200d👧", "👍🏽", "🇩🇪", "🇫🇷", "🇺"],
    ],
)
def test_words_by_unicode(words: list[str]) -> None:
    assert words_of_characters("".join(words)) == words


FLAGS = ["\U0001f1e9\U0001f1ea", "\U0001f1eb\U0001f1f7"]  # half ones before letters, regex takes for letters
CHARACTERS = [*FLAGS, "a", "1", ".", " ", "今", "👩", "\u0e33", "\r", "\n", "'", "\u0600", "\u0301", "\u200d"]


@given(st.lists(st.sampled_from(CHARACTERS)))
@settings(max_examples=300)
def test_boundaries_are_those_of_regex(characters: list[str]) -> None:
    text = "".join(characters)
    graphemes, words = boundaries(text)
    starts = {found.start() for found in regex.finditer(r"\X", text)} | {len(text)}
    assert set(np.flatnonzero(graphemes).tolist()) == starts
    found = {found.start() for found in regex.finditer(r"(?w)\b", text)}
    assert set(np.flatnonzero(words).tolist()) == found & starts


def test_many_flags_take_no_quadratic_time() -> None:
    _, words = boundaries(FLAGS[0] * 250_000 + FLAGS[0][0])  # with regex alone, a quarter of an hour
    assert words.sum() == 250_002


# --- where tokens lie ---


def spans_of(text: str, tokenizer: XLMRobertaTokenizer) -> list[tuple[str, str]]:
    """Tokens and what they lie on."""
    tokens, spans = tokens_and_spans(text, tokenizer)
    return [(token, text[start:end]) for token, (start, end) in zip(tokens, spans, strict=True)]


def tokens_and_spans(text: str, tokenizer: XLMRobertaTokenizer) -> tuple[list[str], list[list[int]]]:
    batch = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return batch.tokens(), token_spans(text, batch.tokens(), np.array(batch["offset_mapping"])).tolist()


def test_tokens_lie_on_text_without_white_space(real_vocabulary: Path) -> None:
    tokenizer = XLMRobertaTokenizer(real_vocabulary)
    spaced = "  Hello\tworld \u3000 Hello\u00a0\u200bworld\n"
    assert spans_of(spaced, tokenizer) == [("▁Hello", "Hello"), ("▁world", "world")] * 2
    assert spans_of("a\x01 \x02b", tokenizer) == [("▁a", "a"), ("▁b", "b")]
    assert spans_of("👨\u200d👩", tokenizer) == [("▁", "👨"), ("👨", "👨"), ("▁", "👩"), ("👩", "👩")]
    assert spans_of("e\u0301te\u0301 a", tokenizer) == [("▁été", "e\u0301te\u0301"), ("▁a", "a")]
    assert spans_of("a <mask>  b", tokenizer) == [("▁a", "a"), ("<mask>", "<mask>"), ("▁b", "b")]


def test_tokens_without_a_character_share_the_next(real_vocabulary: Path) -> None:
    tokenizer = XLMRobertaTokenizer(real_vocabulary)
    assert spans_of("I  💛", tokenizer) == [("▁I", "I"), ("▁", "💛"), ("💛", "💛")]
    assert spans_of("東京", tokenizer) == [("▁", "東"), ("東京", "東京")]
    nukta = spans_of("सीरी\u095b", tokenizer)  # which normalisation takes apart
    assert nukta == [("▁सीरीज", "सीरी\u095b"), ("\u093c", "\u095b")]
    ligature = spans_of("a \ufdfa", tokenizer)  # of eighteen letters
    assert {lies_on for token, lies_on in ligature[1:]} == {"\ufdfa"}
    assert len(ligature) > 3


def test_a_joiner_that_is_a_token_lies_on_itself() -> None:
    demo = XLMRobertaTokenizer.from_pretrained("demo")
    assert spans_of("👨\u200d👩", demo) == [("▁", "👨"), ("👨", "👨"), ("\u200d", "\u200d"), ("👩", "👩")]
    assert spans_of("a \u200d b", demo) == [("▁a", "a"), ("▁", "\u200d"), ("\u200d", "\u200d"), ("▁b", "b")]
    chillu = "അവന്\u200d"  # a letter that is written with a joiner
    assert spans_of(chillu, demo)[-1][1].endswith("\u200d")
    assert [lies_on for _, lies_on in spans_of("a\u200cb", demo)] == ["a", "b"]  # which is no token there


def assert_as_in_the_reference(files: Iterable[Path], vocabulary: Path, step: int) -> None:
    """The other reading has the reference's offsets, which leave out white space."""
    ours, theirs = XLMRobertaTokenizer(vocabulary), XLMRobertaTokenizer(vocabulary, normalization="huggingface")
    number_of_same = number = 0
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines()[::step]:
            number += 1
            text = "  " + regex.sub(" ", "\t ", line)
            if not unicodedata.is_normalized("NFC", text) or ours(text)["input_ids"] != theirs(text)["input_ids"]:
                continue  # of a letter and marks that are composed, the reference has the letter alone
            number_of_same += 1
            offsets = theirs(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
            assert tokens_and_spans(text, ours)[1] == [list(each) for each in offsets], text
    assert number_of_same > 0.9 * number > 20


def test_real_texts(shared_data: Path, real_vocabulary: Path) -> None:
    assert_as_in_the_reference(sorted((shared_data / "text" / "ntrex").glob("*.txt")), real_vocabulary, step=100)


@pytest.mark.exhaustive
def test_all_real_texts(shared_data: Path, real_vocabulary: Path) -> None:
    assert_as_in_the_reference(sorted((shared_data / "text").glob("*/*.txt")), real_vocabulary, step=3)
