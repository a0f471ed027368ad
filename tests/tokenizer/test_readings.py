"""The two ways to read a text, each equal to its library: pieces, ids, offsets, words.

sentencepiece   the sentencepiece library itself, on what is between masks.
huggingface     transformers' XLMRobertaTokenizer, built from the same model.
"""

import random
import time
import unicodedata
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from sentencepiece import SentencePieceProcessor

from xlmr_np.tokenizer import XLMRobertaTokenizer

from .comparison import EVERYTHING, all_of, any_texts, by_the_library
from .reference import reference_tokenizer


class Peers(NamedTuple):
    """One vocabulary in both readings here, and in both libraries."""

    sentencepiece: XLMRobertaTokenizer
    huggingface: XLMRobertaTokenizer
    processor: SentencePieceProcessor
    transformers: Any

    @classmethod
    def of(cls, model_file: Path) -> "Peers":
        return cls(
            XLMRobertaTokenizer(model_file),
            XLMRobertaTokenizer(model_file, normalization="huggingface"),
            SentencePieceProcessor(model_file=str(model_file)),
            reference_tokenizer(model_file),
        )

    def check(self, texts: list[str], **asked: Any) -> None:
        self.check_sentencepiece(texts)
        self.check_huggingface(texts, **asked)

    def check_sentencepiece(self, texts: list[str]) -> None:
        batch = self.sentencepiece(texts, add_special_tokens=False, return_offsets_mapping=True)
        for row, text in enumerate(texts):
            ours = zip(batch["input_ids"][row], batch.tokens(row), batch["offset_mapping"][row], strict=True)
            assert list(ours) == by_the_library(self.processor, text), text
        assert self.sentencepiece(texts, add_special_tokens=False)["input_ids"] == batch["input_ids"]

    def check_huggingface(self, texts: list[str], **asked: Any) -> None:
        asked = EVERYTHING | asked
        ours, theirs = all_of(self.huggingface(texts, **asked)), all_of(self.transformers(texts, **asked))
        if ours != theirs:  # find the text, so that the difference can be read
            for text in texts if len(texts) > 1 else ():
                self.check_huggingface([text], **asked)
            assert ours == theirs, texts
        if asked == EVERYTHING:  # without offsets the ids are found in another way
            assert self.huggingface(texts)["input_ids"] == ours["input_ids"]


@pytest.fixture(scope="module")
def small_peers(small_vocabulary) -> Peers:
    return Peers.of(small_vocabulary)


@pytest.fixture(scope="module")
def real_peers(real_vocabulary) -> Peers:
    return Peers.of(real_vocabulary)


def check_lines(peers: Peers, shared_data: Path, share: float) -> int:
    """Compares this share of the lines of every file, alone and joined into long texts; returns how many."""
    chosen = random.Random(0)
    checked = 0
    for file in sorted((shared_data / "text").glob("*/*.txt")):
        lines = [line for line in file.read_text(encoding="utf-8").splitlines() if chosen.random() < share]
        peers.check(lines or [""])
        separator, form = chosen.choice([" ", "\n", "", "\t", "<mask>"]), chosen.choice(["NFC", "NFD"])
        long_text = unicodedata.normalize(form, separator.join(lines))
        peers.check([long_text], truncation=True, max_length=128, stride=32, return_overflowing_tokens=True)
        checked += len(lines)
    return checked


def test_a_tenth_of_all_lines(real_peers, shared_data):
    assert check_lines(real_peers, shared_data, share=0.1) > 12_000


@pytest.mark.exhaustive
def test_all_lines(real_peers, shared_data):
    assert check_lines(real_peers, shared_data, share=1.0) == 133_725


# An example is one text: within a longer one hypothesis repeats itself.
@settings(max_examples=7_500)
@given(any_texts)
def test_any_text_in_the_small_vocabulary(small_peers, text):
    small_peers.check([text])


@settings(max_examples=2_500)
@given(any_texts)
def test_any_text_in_the_real_vocabulary(real_peers, text):
    real_peers.check([text])


@pytest.mark.exhaustive
@settings(max_examples=110_000)
@given(any_texts)
def test_a_hundred_thousand_texts(small_peers, real_peers, text):
    small_peers.check([text])
    real_peers.check([text])


def unbroken(kind: str, shared_data: Path, size: int) -> str:
    """About `size` bytes without a space."""
    if kind == "any characters":
        chosen = random.Random(0)
        code_points = (chosen.choice([chosen.randrange(0x3100, 0xD800), chosen.randrange(0x10000, 0x110000)])
                       for _ in range(size // 4))  # fmt: skip
        return "".join(map(chr, code_points))
    language = shared_data / "text" / "udhr" / f"{kind}.txt"
    unit = "".join(language.read_text(encoding="utf-8").split()) if language.exists() else kind
    return unit * (size // len(unit.encode()))


UNBROKEN = pytest.mark.parametrize("kind", ["zh", "th", "de", "a", "ha", "的", "e\u0302\u0301", "any characters"])


@UNBROKEN
def test_long_texts_without_a_space(real_peers, shared_data, kind):
    real_peers.check([unbroken(kind, shared_data, 40_000)])


@UNBROKEN
@pytest.mark.exhaustive
def test_a_megabyte_without_a_space_takes_linear_time(real_peers, shared_data, kind):
    texts = [unbroken(kind, shared_data, size) for size in (250_000, 1_000_000)]
    for reading in (real_peers.sentencepiece, real_peers.huggingface):
        seconds = []
        for text in texts:
            start = time.process_time()
            reading(text, return_offsets_mapping=True)
            seconds.append(time.process_time() - start)
        assert seconds[1] < 12 * seconds[0] + 0.5  # 4, but for what runs beside; 16 if it were quadratic
    real_peers.check(texts[1:])
