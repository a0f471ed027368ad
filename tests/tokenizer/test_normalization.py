"""Both normalisations against their libraries, sentencepiece and tokenizers."""

import copy
import pickle
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Precompiled
from tokenizers.pre_tokenizers import Split

from tests.conftest import SMALL_VOCABULARY
from xlmr_np.tokenizer.model_proto import (
    ModelProto,
    NormalizerSpec,
    TrainerSpec,
    read_model_proto,
    read_specs,
    write_model_proto,
)
from xlmr_np.tokenizer.normalization import Normalized, Normalizer, Whitespace

from .test_charsmap import build
from .test_model_proto import delimited, varint

SMALL_PIECES = read_model_proto(SMALL_VOCABULARY.read_bytes()).pieces

ALL_CHARACTERS = [chr(code_point) for code_point in range(0x110000) if not 0xD800 <= code_point < 0xE000]


class Peers:
    """A vocabulary's normaliser, and those of the libraries."""

    def __init__(self, model: bytes) -> None:
        specs = read_specs(model)
        self.ours = Normalizer.from_specs(*specs)
        self.sentencepiece = SentencePieceProcessor(model_proto=model)
        self.precompiled = Precompiled(specs[0].precompiled_charsmap)
        self.characters = Tokenizer(WordLevel({"?": 0}, unk_token="?"))  # a token is a normalised character
        self.characters.normalizer = self.precompiled
        self.characters.pre_tokenizer = Split(Regex(r"(?m:.)"), "isolated")  # Oniguruma's m lets . match newlines too

    def check_sentencepiece(self, text: str) -> None:
        normalized, offsets = self.sentencepiece.normalize(text, with_offsets=True)
        ours = self.ours.sentencepiece(text)
        assert ours.text == normalized
        assert [*ours.starts, *ours.ends[-1:]] == (list(offsets) if normalized else [])
        assert list(ours.ends) == list(offsets[1:])

    def check_huggingface(self, text: str) -> None:
        ours = self.ours.huggingface(text)
        assert ours.text == self.precompiled.normalize_str(text)
        assert len(ours.text) == len(ours.starts) == len(ours.ends)

    def check_huggingface_alignment(self, text: str) -> None:
        ours = self.ours.huggingface(text)
        assert list(zip(ours.starts, ours.ends, strict=True)) == self.characters.encode(text).offsets

    def check_unchanged(self, text: str) -> None:
        words = [word for word in text.split(" ") if word]
        if self.ours.is_unchanged_by_sentencepiece(" ".join(words)):
            assert self.sentencepiece.normalize(" ".join(words)) == "".join("▁" + word for word in words)

    def check(self, text: str) -> None:
        self.check_sentencepiece(text)
        self.check_huggingface(text)
        self.check_huggingface_alignment(text)
        self.check_unchanged(text)


@pytest.fixture(scope="module")
def real_peers(real_vocabulary) -> Peers:
    return Peers(real_vocabulary.read_bytes())


@pytest.fixture(scope="module")
def small_peers() -> Peers:
    return Peers(SMALL_VOCABULARY.read_bytes())


def texts(shared_data: Path) -> Iterator[tuple[str, list[str]]]:
    for path in sorted((shared_data / "text").glob("*/*.txt")):
        yield f"{path.parent.name}/{path.stem}", path.read_text().split("\n")


def check_lines(peers: Peers, lines: list[str]) -> None:
    for line in lines:
        peers.check_sentencepiece(line)
        peers.check_huggingface(line)
        peers.check_unchanged(line)


def test_a_tenth_of_all_texts(shared_data, real_peers):
    chosen = random.Random(0)
    lines = [line for _, lines in texts(shared_data) for line in lines if chosen.random() < 0.1]
    assert len(lines) > 10_000
    check_lines(real_peers, lines)
    for line in lines[::10]:
        real_peers.check_huggingface_alignment(line)


@pytest.mark.exhaustive
def test_all_texts(shared_data, real_peers):
    for _, lines in texts(shared_data):
        check_lines(real_peers, lines)
        for line in lines:
            real_peers.check_huggingface_alignment(line)


def test_most_ordinary_texts_are_seen_to_be_unchanged(shared_data, real_peers):
    for name, share in (("udhr/de", 0.9), ("udhr/ru", 0.9), ("udhr/ar", 0.9), ("udhr/hi", 0.5)):
        lines = (shared_data / "text" / f"{name}.txt").read_text().split("\n")
        assert sum(map(real_peers.ours.is_unchanged_by_sentencepiece, lines)) >= share * len(lines), name


def check_joined(peers: Peers, parts: list[str]) -> None:
    """Each part between newlines, at which grapheme clusters end and which no rule but that of the newline has."""
    for start in range(0, len(parts), 2000):
        text = "\n".join(parts[start : start + 2000])
        peers.check_sentencepiece(text)
        peers.check_huggingface(text)
        peers.check_unchanged(text)


def test_every_tenth_code_point(real_peers):
    check_joined(real_peers, ALL_CHARACTERS[:0x3000])
    check_joined(real_peers, random.Random(0).sample(ALL_CHARACTERS, len(ALL_CHARACTERS) // 10))


@pytest.mark.exhaustive
def test_every_code_point(real_peers):
    check_joined(real_peers, ALL_CHARACTERS)


@pytest.mark.exhaustive
def test_every_code_point_alone(real_peers):
    for character in ALL_CHARACTERS:
        real_peers.check(character)


@pytest.mark.exhaustive
def test_every_code_point_in_contexts_that_decide_clusters(real_peers):
    for context in (
        "\u00aa{}", "\u00aa{}\u0301", "{}\u00aa\u0301", "\ufb01{}", "{}\u0958\u0301", "\u0915{}\u0958\u0301",
        "\u0915\u094d{}\u0958\u0301", "\u0915{}\u094d\u0958\u0301", "{}\u094d\u0958\u0301", "{}\u2122\u0301",
        "{}\u200d\u2122\u0301", "\U0001f468{}\u200d\u2122\u0301", "\u2122{}\u0301", "\ud55c{}\u11a8", "{}\u11a8\u0301",
    ):  # fmt: skip
        check_joined(real_peers, [context.format(character) for character in ALL_CHARACTERS])


def bases_and_marks(peers: Peers) -> tuple[list[str], list[str]]:
    read = peers.ours._charsmap
    marks = regex.findall(r"[\p{M}\p{GCB=Extend}\p{GCB=ZWJ}]", "".join(ALL_CHARACTERS))
    bases = {*read.single_characters, *(pair[0] for pair in read.first_pairs), *"ab1가ก\u0600\u0915\U0001f468"}
    return sorted(bases), sorted({*marks, *(pair[1] for pair in read.first_pairs)})


def test_bases_with_combining_characters(real_peers):
    bases, marks = bases_and_marks(real_peers)
    chosen = random.Random(1)
    for base in chosen.sample(bases, 20):
        check_joined(real_peers, [base + mark for mark in marks])
    triples = [chosen.choice(bases) + chosen.choice(marks) + chosen.choice(marks) for _ in range(10_000)]
    check_joined(real_peers, triples)
    for triple in triples[:2000]:
        real_peers.check(triple)


@pytest.mark.exhaustive
def test_all_bases_with_all_combining_characters(real_peers):
    bases, marks = bases_and_marks(real_peers)
    for base in bases:
        check_joined(real_peers, [base + mark for mark in marks])


# What text is made of that normalisation is about, beside arbitrary characters.
fragments = st.sampled_from(
    [" ", "  ", "\t", "\r\n", "\n", "\u00a0", "\u3000", "\u2028", "\u0085", "▁", "\ufeff", "\u200b", "\0",
     "\x01", "\x1f",
     "\x7f", "\u00ad", "\u200c", "\u200d", "\u200e", "\u200f", "\u202e", "\u061c", "a", "e", "ﬁ", "½", "ª",
     "…", "´", "ﷺ",
     "Ａ", "，", "㎏", "\u0300", "\u0301", "\u0302", "\u0323", "\u0345", "e\u0302\u0301", "Tie\u0302\u0301ng",
     "ư\u031b\u0323",
     "가", "각", "\u1100", "\u1161", "\u11a8", "\u1112\u1161\u11ab", "ﾊ", "ｶ", "ﾞ", "ﾟ", "ｶﾞ", "か\u3099", "か\u309a",
     "\u0e33", "\u0e19\u0e49\u0e33", "\u0bc6\u0bbe", "\u0928\u093c", "\u0958", "क", "\u094d", "\u093f", "\u09c7\u09be",
     "👩", "🏽", "\ufe0f", "❤", "👨\u200d👩\u200d👧", "🇩", "🇪", "©", "™", "\U0001f1ae", "\u0600", "\u06dd",
     "\U0001d400", "丽",
     "\u1ade", "\u1cf5"]
)  # fmt: skip
lively_texts = st.lists(
    st.one_of(fragments, fragments, st.text(max_size=3), st.characters(categories=["M", "Lo", "Zs", "Cc", "Cf"]))
).map("".join)


@settings(max_examples=1500)
@given(text=lively_texts)
@example(text="")
@example(text=" ")
@example(text="\x01")
@example(text=" \x01 a \x01  \x01b \x01 ")
@example(text="x\x01½\x01yz")
def test_any_text(real_peers, text: str):
    real_peers.check(text)


@settings(max_examples=500)
@given(text=st.text())
def test_random_text(small_peers, text: str):
    small_peers.check(text)


@pytest.mark.exhaustive
@settings(max_examples=100_000)
@given(text=lively_texts)
def test_any_text_exhaustive(real_peers, text: str):
    real_peers.check(text)


LONG = ["a", " ", "x ", "e\u0301", "\u0301", "½", "\x01", "\u1100\u1161\u11a8", "🇩", "👨\u200d", "\r\n", "ﷺ",
        "ｶﾞ", "ª\u0300",
        "क\u094d", "\u0600", "\u200d"]  # fmt: skip


@pytest.mark.parametrize("repeated", LONG)
def test_long_text_takes_linear_time(real_peers, repeated: str):
    text = "ª\u0300" + repeated * (50_000 // len(repeated))  # minutes if the time were quadratic
    real_peers.check_sentencepiece(text)
    real_peers.check_huggingface(text)


@pytest.mark.exhaustive
@pytest.mark.parametrize("repeated", LONG)
def test_longer_text_takes_linear_time(real_peers, repeated: str):
    real_peers.check("ª\u0300" + repeated * (1_000_000 // len(repeated.encode())))


def specs(whitespace: Whitespace, blob: bytes) -> tuple[NormalizerSpec, TrainerSpec]:
    flags = zip((3, 4, 5), whitespace[:3], strict=True)
    normalizer = delimited(2, blob) + b"".join(varint(8 * number) + varint(value) for number, value in flags)
    return NormalizerSpec(normalizer), TrainerSpec(varint(8 * 24) + varint(whitespace.treat_whitespace_as_suffix))


characters = st.sampled_from("ab \t▁Å\u0301\u0302\u200d가😀")
rules = st.dictionaries(st.text(characters, min_size=1, max_size=3), st.text(characters, max_size=4), min_size=1)


@settings(max_examples=150)
@given(rules, st.builds(Whitespace, *[st.booleans()] * 4), st.lists(st.text(characters, max_size=12), max_size=20))
@example({"a": "  b "}, Whitespace(), ["aa a", " a a ", "   a"])
@example({" \u0301": "b", "  ": "a"}, Whitespace(), ["  \u0301", "   \u0301 ", "    "])
@example({" ": ""}, Whitespace(), ["a a", " a "])
@example({"b": "▁"}, Whitespace(escape_whitespaces=False), ["a b", "b", " b a b "])
def test_any_rules(rules: dict[str, str], whitespace: Whitespace, texts: list[str]):
    model = write_model_proto(ModelProto(SMALL_PIECES, *specs(whitespace, build(rules))))
    peers = Peers(model)
    for text in texts:
        peers.check_sentencepiece(text)
        peers.check_huggingface(text)
        peers.check_unchanged(text)


@pytest.mark.parametrize(
    ("whitespace", "normalized"),
    [
        (Whitespace(), "▁b▁c"),
        (Whitespace(add_dummy_prefix=False), "b▁c"),
        (Whitespace(remove_extra_whitespaces=False), "▁▁b▁▁c▁"),
        (Whitespace(escape_whitespaces=False), " b c"),
        (Whitespace(treat_whitespace_as_suffix=True), "b▁c▁"),
    ],
)
def test_the_settings_of_a_model_are_heeded(whitespace, normalized):
    ours = Normalizer.from_specs(*specs(whitespace, build({"a": "b"})))
    assert ours.sentencepiece(" a  c ").text == normalized
    assert ours.is_unchanged_by_sentencepiece("c c") == (whitespace == Whitespace())


def test_a_model_without_settings_has_no_rules():
    assert Normalizer.from_specs(NormalizerSpec(), TrainerSpec()).sentencepiece(" a  ½ ").text == "▁a▁½"


@pytest.fixture(scope="module")
def small_normalizer(small_peers) -> Normalizer:
    return small_peers.ours


def test_examples(small_normalizer):
    """The table of differences, and what each alignment says."""
    ours = small_normalizer
    for text, huggingface, sentencepiece in (
        ("Tie\u0302\u0301ng", "Tiêng", "▁Tiếng"),
        ("ª\u0300", "a", "▁à"),
        ("\u1100\u1161\u11a8", "\u1100\u1161\u11a8", "▁각"),
        ("ｶﾞ", "カ\u3099", "▁ガ"),
        ("ﬁ\u0301", "fi", "▁fi\u0301"),
    ):
        assert ours.huggingface(text).text == huggingface
        assert ours.sentencepiece(text).text == sentencepiece
        assert not ours.is_unchanged_by_sentencepiece(text)
    assert ours.huggingface("a ½") == Normalized("a 1⁄2", [0, 1, 2, 2, 2], [1, 2, 3, 3, 3])
    assert ours.sentencepiece("a  ½") == Normalized("▁a▁1⁄2", [0, 0, 1, 3, 3, 3], [0, 1, 3, 3, 3, 4])
    assert ours.is_unchanged_by_sentencepiece("Tiếng 각 Россия 你好 😀 مرحبا e")
    for text in ("a\tb", "½", "a\u00a0b", "▁", "a\x01"):
        assert not ours.is_unchanged_by_sentencepiece(text)


def test_copies(small_normalizer):
    assert copy.deepcopy(small_normalizer) is small_normalizer
    copied = pickle.loads(pickle.dumps(small_normalizer))
    assert copied.huggingface("a ½") == small_normalizer.huggingface("a ½")
