"""The two readings of a vocabulary's normalisation against the two libraries that have them."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor
from tokenizers.normalizers import Precompiled

from xlmr_np.tokenizer.charsmap import Charsmap
from xlmr_np.tokenizer.model_proto import read_model_proto
from xlmr_np.tokenizer.normalization import Normalizer
from xlmr_np.weights.errors import CheckpointError

# Where the two differ: marks, Hangul in parts, half-width kana, joined emoji, spaces and what replaces several letters.
RANGES = [(0x20, 0x7F), (0x300, 0x340), (0x1100, 0x1113), (0x1161, 0x1176), (0x11A8, 0x11C3), (0xAC00, 0xAC20)]
SINGLE = "\x85\xa0\u3000\u2581\ufb01\xbd\u338f\u200d\u200f\ufeff👨👩🇩🇪\u0e33\u0bca\x00\x01\uff76\uff9e\uff66"
CHARACTERS = [chr(code) for start, stop in RANGES for code in range(start, stop)] + list(SINGLE)


class Readings:
    """A vocabulary's normaliser, and what the libraries make of its rules."""

    def __init__(self, vocabulary: Path) -> None:
        self.spec = read_model_proto(vocabulary.read_bytes()).normalizer
        self.ours = Normalizer.from_spec(self.spec.serialized)
        self.sentencepiece = SentencePieceProcessor(model_file=str(vocabulary))
        self.precompiled = Precompiled(self.spec.precompiled_charsmap)

    def check(self, text: str) -> None:
        one, other = self.ours.sentencepiece(text), self.ours.huggingface(text)
        assert one.text == self.sentencepiece.normalize(text)
        assert other.text == self.precompiled.normalize_str(text)
        for normalized in (one, other):
            assert len(normalized.starts) == len(normalized.ends) == len(normalized.text)
            assert all(
                0 <= start <= end <= len(text) for start, end in zip(normalized.starts, normalized.ends, strict=True)
            )
        if self.ours.is_same_under_both(text):
            words = "".join(f"▁{word}" for word in other.text.split(" ") if word)
            assert one.text == words or "▁" in other.text


@pytest.fixture(scope="module")
def readings(real_vocabulary: Path) -> Readings:
    return Readings(real_vocabulary)


def test_made_up_texts(readings: Readings) -> None:
    generator = random.Random(0)
    for _ in range(5000):
        readings.check("".join(generator.choices(CHARACTERS, k=generator.randint(0, 12))))


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text(readings: Readings, text: str) -> None:
    readings.check(text)


@pytest.mark.parametrize("step", [37, pytest.param(1, marks=pytest.mark.exhaustive)])
def test_every_character(readings: Readings, step: int) -> None:
    for code in range(0, 0x110000, step):
        if not 0xD800 <= code < 0xE000:
            readings.check(chr(code))
            readings.check(f"a{chr(code)}b")


@pytest.mark.parametrize("lines", [5, pytest.param(None, marks=pytest.mark.exhaustive)])
def test_real_texts(readings: Readings, shared_data: Path, lines: int | None) -> None:
    files = sorted(file for file in (shared_data / "text").rglob("*") if file.is_file())
    assert files
    for file in files:
        for line in file.read_text(encoding="utf-8", errors="ignore").splitlines()[:lines]:
            readings.check(line)


def test_what_the_two_readings_make_of_decomposed_letters(readings: Readings) -> None:
    for text, one, other in (
        ("Tie\u0302\u0301ng", "▁Tiếng", "Tiêng"),
        ("\u1100\u1161\u11a8", "▁각", "\u1100\u1161\u11a8"),
        ("\uff76\uff9e", "▁ガ", "カ\u3099"),
    ):
        assert readings.ours.sentencepiece(text).text == one
        assert readings.ours.huggingface(text).text == other
        assert not readings.ours.is_same_under_both(text)
    assert readings.ours.is_same_under_both("Ça me plaît, नमस्ते 世界!")


@given(data=st.data())
def test_a_damaged_table_is_refused_or_harmless(readings: Readings, data: st.DataObject) -> None:
    """Cut off, or with a byte changed: an exception or a table, and in no case a crash."""
    blob = bytearray(readings.spec.precompiled_charsmap)
    if data.draw(st.booleans()):
        blob = blob[: data.draw(st.integers(0, len(blob)))]
    elif blob:
        place = data.draw(st.integers(0, len(blob) - 1) | st.integers(0, 64))
        blob[place] ^= data.draw(st.integers(1, 255))
    try:
        charsmap = Charsmap(bytes(blob))
    except CheckpointError:
        return
    assert isinstance(Normalizer(charsmap).sentencepiece("ﬁ ½ e\u0301").text, str)


def test_random_bytes_are_no_table() -> None:
    generator = random.Random(1)
    for size in (1, 3, 4, 5, 100, 2000):
        with pytest.raises(CheckpointError):
            Charsmap(generator.randbytes(size))
