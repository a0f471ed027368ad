"""The readable unigram model equals sentencepiece and the `tokenizers` library, to the last tie."""

import copy
import itertools
import math
import pickle
import random
import re
import struct
import time
from collections import Counter
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor
from tokenizers.models import Unigram as TokenizersUnigram

from xlmr_np.tokenizer.unigram import LONGEST_PIECE, Node, Unigram

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = range(1, 6)  # types of sentencepiece_model.proto


class Pieces(NamedTuple):
    """A vocabulary as both libraries take it; every text is its own normalisation."""

    texts: list[str]
    scores: list[float]
    types: list[int]

    def sentencepiece(self) -> SentencePieceProcessor:
        def field(number: int, content: bytes) -> bytes:
            return bytes([number << 3 | 2]) + bytes([len(content)]) + content

        pieces = b"".join(
            field(1, field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + bytes([3 << 3, kind]))
            for text, score, kind in zip(*self, strict=True)
        )
        unigram = b"\x18\x01"
        without_changes = b"\x18\x00\x20\x00\x28\x00"  # no prefix, no removal, no escape of spaces
        model = pieces + field(2, unigram) + field(3, field(1, b"identity") + without_changes)
        return SentencePieceProcessor(model_proto=model)

    def unigram(self) -> Unigram:
        hidden = [i for i, kind in enumerate(self.types) if kind not in (NORMAL, USER_DEFINED)]
        user_defined = [i for i, kind in enumerate(self.types) if kind == USER_DEFINED]
        return Unigram(self.texts, self.scores, self.types.index(UNKNOWN), hidden, user_defined)


def of_processor(processor: SentencePieceProcessor) -> Unigram:
    ids = range(len(processor))
    return Unigram(
        [processor.id_to_piece(i) for i in ids],
        [processor.get_score(i) for i in ids],
        processor.unk_id(),
        hidden=[i for i in ids if processor.is_control(i) or processor.is_unknown(i)],
    )


def vocabulary(scores: dict[str, float], user_defined: tuple[str, ...] = ()) -> Pieces:
    return Pieces(
        ["<unk>", *scores, *user_defined],
        [0.0, *scores.values(), *(0.0 for _ in user_defined)],
        [UNKNOWN, *(NORMAL for _ in scores), *(USER_DEFINED for _ in user_defined)],
    )


def float32(number: float) -> float:
    return struct.unpack("f", struct.pack("f", number))[0]


def texts_of(path: list[Node], text: str) -> list[str]:
    return [text[node.start : node.end] for node in path]


def ids_of(path: list[Node]) -> list[int]:
    return [node.piece_id for node in path]


@st.composite
def made_up(draw, signs=(-1,), user_defined=False) -> Pieces:
    """Few letters and scores in whole multiples of the length, so that most texts have ties."""
    letters = draw(st.sampled_from(["a", "ab", "abé", "ab▁", "aé𝒳"]))
    words = draw(st.lists(st.text(letters, min_size=1, max_size=4), min_size=1, max_size=9, unique=True))
    scale = draw(st.sampled_from([1.0, 0.1, 7.3, 4e4, 3e5])) * draw(st.sampled_from(signs))
    part = st.one_of(st.sampled_from([1.0, 2.0]), st.floats(0.01, 1.0))
    scores = [float32(scale * len(word) * draw(part)) for word in words]
    types = [NORMAL, *(draw(st.sampled_from([NORMAL] * 4 + [UNUSED])) for _ in words[1:])]
    if user_defined:
        types = [NORMAL, *(draw(st.sampled_from([NORMAL, USER_DEFINED])) for _ in words[1:])]
    return Pieces(["<unk>", "<s>", *words], [0.0, 0.0, *scores], [UNKNOWN, CONTROL, *types])


MADE_UP_TEXTS = st.text("abé▁𝒳x<s>", max_size=40)


def assert_as_sentencepiece(pieces: Pieces, text: str) -> None:
    path, processor = pieces.unigram().best_path(text), pieces.sentencepiece()
    assert texts_of(path, text) == processor.encode(text, out_type=str)
    assert ids_of(path) == processor.encode(text)


def assert_n_best_as_sentencepiece(pieces: Pieces, text: str, n: int) -> None:
    ours = [texts_of(path, text) for path in pieces.unigram().n_best(text, n)]
    assert ours == pieces.sentencepiece().nbest_encode(text, nbest_size=n, out_type=str)


def assert_as_tokenizers(pieces: Pieces, text: str) -> None:
    ours = Unigram(pieces.texts, pieces.scores, 0, library="huggingface").best_path(text)
    theirs = TokenizersUnigram(list(zip(pieces.texts, pieces.scores, strict=True)), 0, False).tokenize(text)
    assert [(texts_of([node], text)[0], node.piece_id) for node in ours] == [(t.value, t.id) for t in theirs]


@settings(max_examples=300)
@given(made_up(signs=(-1, 1)), MADE_UP_TEXTS)
def test_best_path_equals_sentencepiece(pieces, text):
    assert_as_sentencepiece(pieces, text)


@given(made_up(signs=(-1, 1), user_defined=True), MADE_UP_TEXTS)
def test_user_defined_pieces(pieces, text):
    assert_as_sentencepiece(pieces, text)


@settings(max_examples=200)
@given(made_up(signs=(-1, 1)), st.text("abé▁𝒳x", max_size=15), st.integers(1, 30))
def test_n_best_equals_sentencepiece(pieces, text, n):
    assert_n_best_as_sentencepiece(pieces, text, n)


@settings(max_examples=300)
@given(made_up(signs=(-1, 1)), st.lists(st.sampled_from(["<unk>", "<s>", *"abé▁𝒳xy"])).map("".join))
def test_best_path_equals_tokenizers(pieces, text):
    assert_as_tokenizers(pieces, text)


@pytest.mark.exhaustive
@settings(max_examples=20_000, suppress_health_check=list(HealthCheck))
@given(made_up(signs=(-1, 1)), MADE_UP_TEXTS, st.integers(1, 100))
def test_many_made_up_vocabularies(pieces, text, n):
    assert_as_sentencepiece(pieces, text)
    assert_n_best_as_sentencepiece(pieces, text[:20], n)
    assert_as_tokenizers(pieces, text)


def test_a_run_of_unknown_characters_that_spells_a_piece():
    pieces = vocabulary({"xy": 100.0, "a": 100.0})  # x and y are unknown, with 90 each
    text = "axya"
    assert_as_sentencepiece(pieces, text)
    assert_as_tokenizers(pieces, text)
    assert ids_of(pieces.unigram().best_path(text)) == [2, 0, 2]
    assert ids_of(Unigram(*pieces[:2], 0, library="huggingface").best_path(text)) == [2, 1, 2]


def test_of_equal_paths_the_last_piece_starts_earliest():
    pieces = vocabulary({"a": -1.0, "aa": -2.0})
    assert texts_of(pieces.unigram().best_path("aaa"), "aaa") == ["a", "aa"]
    assert_as_sentencepiece(pieces, "aaa")
    assert_as_tokenizers(pieces, "aaa")


@pytest.mark.parametrize("filling", [0, 10, 99, 100, 101, 131, 201])  # thousands
@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("below", [6, 8, 9, 10, 12, 22])
def test_float32_and_its_counting_from_zero(filling, sign, below):
    """The piece "ab" is less likely than "a", "b", but earlier: where rounding hides that, it is chosen."""
    pieces = vocabulary({"z": 1000.0 * sign, "a": -1.0, "b": -1.0, "ab": -2.0 - 2.0**-below, "c" * 9: -3.0})
    text = "z" * filling + "ab"
    expected = pieces.sentencepiece().encode(text, out_type=str)
    assert texts_of(pieces.unigram().best_path(text), text) == expected


def test_float64_resolves_what_float32_does_not():
    pieces = vocabulary({"z": -1000.0, "a": -1.0, "b": -1.0, "ab": -2.001})
    text = "z" * 50 + "ab"
    assert_as_tokenizers(pieces, text)
    assert texts_of(Unigram(*pieces[:2], 0, library="huggingface").best_path(text), text)[-1] == "b"
    assert texts_of(pieces.unigram().best_path(text), text)[-1] == "ab"


@pytest.fixture(scope="module")
def small_processor(small_vocabulary) -> SentencePieceProcessor:
    return SentencePieceProcessor(model_file=str(small_vocabulary))


@pytest.fixture(scope="module")
def small_unigram(small_processor) -> Unigram:
    return of_processor(small_processor)


@pytest.fixture(scope="module")
def real_processor(real_vocabulary) -> SentencePieceProcessor:
    return SentencePieceProcessor(model_file=str(real_vocabulary))


@pytest.fixture(scope="module")
def real_unigram(real_processor) -> Unigram:
    return of_processor(real_processor)


@pytest.fixture(scope="module")
def real_words(real_processor):
    """The real vocabulary for words in the `tokenizers` library, and the same here."""
    pieces = [real_processor.id_to_piece(i) for i in range(len(real_processor))]
    scores = [real_processor.get_score(i) for i in range(len(real_processor))]
    return TokenizersUnigram(list(zip(pieces, scores, strict=True)), 0, False), Unigram(
        pieces, scores, 0, library="huggingface"
    )


def assert_same_pieces(unigram, processor, text: str) -> None:
    normalised = processor.normalize(text)
    path = unigram.best_path(normalised)
    assert ids_of(path) == processor.encode(text)
    assert texts_of(path, normalised) == processor.encode(text, out_type=str)


@given(st.one_of(st.text(max_size=60), st.text("abcdehlorstüßéПриветаκαι今天气ال नम .,!?0123", max_size=60)))
def test_any_text_on_the_small_vocabulary(small_unigram, small_processor, text):
    assert_same_pieces(small_unigram, small_processor, text)
    normalised = small_processor.normalize(text)
    ours = [texts_of(path, normalised) for path in small_unigram.n_best(normalised, 5)]
    assert ours == small_processor.nbest_encode(text, nbest_size=5, out_type=str)


@given(st.text(max_size=60))
def test_any_text_on_the_real_vocabulary(real_unigram, real_processor, text):
    assert_same_pieces(real_unigram, real_processor, text)


@pytest.mark.exhaustive
@settings(max_examples=20_000, suppress_health_check=list(HealthCheck))
@given(st.text(max_size=200))
def test_many_texts_on_the_real_vocabulary(real_unigram, real_processor, text):
    assert_same_pieces(real_unigram, real_processor, text)


def lines(shared_data, step: int) -> list[str]:
    files = sorted((shared_data / "text").glob("*/*.txt"))
    return [line for file in files for line in file.read_text(encoding="utf-8").splitlines()[::step]]


def assert_real_texts(unigram, processor, words, texts: list[str]) -> None:
    theirs, ours = words
    for text in texts:
        assert_same_pieces(unigram, processor, text)
        for word in processor.normalize(text).split("▁")[1:]:
            path = ours.best_path("▁" + word)
            assert ids_of(path) == [token.id for token in theirs.tokenize("▁" + word)]


def test_real_texts(real_unigram, real_processor, real_words, shared_data):
    texts = lines(shared_data, step=250)
    assert len(texts) > 400
    assert_real_texts(real_unigram, real_processor, real_words, texts)
    for text in texts[::10]:
        normalised = real_processor.normalize(text)
        ours = [texts_of(path, normalised) for path in real_unigram.n_best(normalised, 10)]
        assert ours == real_processor.nbest_encode(text, nbest_size=10, out_type=str)


@pytest.mark.exhaustive
def test_all_real_texts(real_unigram, real_processor, real_words, shared_data):
    assert_real_texts(real_unigram, real_processor, real_words, lines(shared_data, step=1))


@pytest.mark.exhaustive
def test_a_megabyte_without_spaces_takes_linear_time(real_unigram, real_processor, real_words, shared_data):
    letters = "".join("".join(lines(shared_data, step=100)).split())
    text = (letters * (1 + 1_000_000 // len(letters)))[:1_000_000]
    seconds = []
    for size in (100_000, 1_000_000):
        start = time.perf_counter()
        assert_same_pieces(real_unigram, real_processor, text[:size])
        seconds.append(time.perf_counter() - start)
    assert seconds[1] < 20 * seconds[0]
    theirs, ours = real_words
    word = real_processor.normalize(text)
    assert ids_of(ours.best_path(word)) == [token.id for token in theirs.tokenize(word)]


def segmentations(unigram: Unigram, text: str, start: int = 0) -> list[list[Node]]:
    """All paths, by trying all of them."""
    if start == len(text):
        return [[]]
    nodes = [node for node in unigram.lattice(text) if node.start == start]
    return [[node, *rest] for node in nodes for rest in segmentations(unigram, text, node.end)]


def total(path: list[Node]) -> float:
    return math.fsum(node.score for node in path)


PLAIN = vocabulary({"a": -1.5, "b": -2.5, "ab": -3.0, "ba": -3.5, "aba": -4.25, "bb": -6.0})


def test_the_lattice_holds_every_piece_at_every_place():
    text = "abax"
    expected = [("a", 0), ("ab", 0), ("aba", 0), ("b", 1), ("ba", 1), ("a", 2), ("x", 3)]
    nodes = PLAIN.unigram().lattice(text)
    assert [(text[node.start : node.end], node.start) for node in nodes] == expected
    assert [node.score for node in nodes] == [-1.5, -3.0, -4.25, -2.5, -3.5, -1.5, -16.0]
    assert ids_of(nodes) == [1, 3, 5, 2, 4, 1, 0]


@given(st.text("ab", max_size=9))
def test_n_best_against_all_segmentations(text):
    unigram = PLAIN.unigram()
    expected = segmentations(unigram, text)
    found = unigram.n_best(text, 2 * len(expected))
    assert sorted(found) == sorted(expected)
    scores = [total(path) for path in found]
    assert scores == sorted(scores, reverse=True)
    assert total(unigram.best_path(text)) == scores[0]


def test_neighbouring_unknown_characters_are_one_node():
    unigram = PLAIN.unigram()
    assert unigram.best_path("axyb") == [Node(0, 1, 1, -1.5), Node(1, 3, 0, -32.0), Node(3, 4, 2, -2.5)]
    assert unigram.n_best("xy", 3) == [[Node(0, 2, 0, -32.0)]]


def test_the_empty_text():
    unigram = PLAIN.unigram()
    assert unigram.lattice("") == unigram.best_path("") == unigram.sample("", 1.0, random.Random(0)) == []
    assert unigram.n_best("", 1) == unigram.n_best("", 3) == [[]]


TIES = vocabulary({"a": -1.0, "aa": -2.0, "aaa": -3.0})


@pytest.mark.parametrize(("length", "n"), [(800, 2), (800, 60), (1500, 10)])
def test_n_best_forgets_hypotheses_as_sentencepiece_does(length, n):
    assert_n_best_as_sentencepiece(TIES, "a" * length, n)


def test_n_best_gives_up_as_sentencepiece_does():
    generator = random.Random(0)
    words = {"".join(word) for length in (1, 2, 3) for word in itertools.product("ab", repeat=length)}
    pieces = vocabulary({word: float32(-0.01 * generator.random() - len(word)) for word in sorted(words)})
    text = "".join(generator.choice("ab") for _ in range(5000))
    assert len(pieces.unigram().n_best(text, 10)) == 1
    assert_n_best_as_sentencepiece(pieces, text, 10)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0, 2.0])
def test_samples_have_the_probabilities_of_the_formula(alpha):
    unigram, text = PLAIN.unigram(), "abaabb"
    paths = unigram.n_best(text, 1000)
    weights = [math.exp(alpha * total(path)) for path in paths]
    draws, generator = 4000, random.Random(1)
    counts = Counter(tuple(unigram.sample(text, alpha, generator)) for _ in range(draws))
    assert len(paths) == 12
    assert set(counts) <= set(map(tuple, paths))
    for path, weight in zip(paths, weights, strict=True):
        p = weight / sum(weights)
        assert abs(counts[tuple(path)] - draws * p) < 4.5 * math.sqrt(draws * p * (1 - p)) + 1  # standard deviations


def test_a_large_alpha_draws_the_best_path(small_unigram, small_processor):
    text = small_processor.normalize("The children are playing in the garden today.")
    assert small_unigram.sample(text, 1e4, random.Random(0)) == small_unigram.best_path(text)


def test_samples_repeat_with_their_seed(small_unigram):
    text = "▁the▁children▁are▁playing"
    drawn = [small_unigram.sample(text, 0.2, random.Random(seed)) for seed in (3, 3, 4)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_copies_and_pickles(small_unigram):
    text = "▁the▁children"
    again = pickle.loads(pickle.dumps(small_unigram))
    assert again.best_path(text) == small_unigram.best_path(text)
    assert copy.deepcopy(small_unigram) is small_unigram


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"library": "fairseq"}, "'fairseq' is not known"),
        ({"scores": [0.0]}, "3 pieces and 1 scores"),
        ({"unk_id": 3}, "3 is no id"),
        ({"hidden": [-1]}, "-1 is no id"),
        ({"user_defined": [9]}, "9 is no id"),
        ({"hidden": [0, 1, 2]}, "No piece is left"),
        ({"scores": [0.0, float("nan"), -1.0]}, "score of 'a' is nan"),
        ({"scores": [0.0, -1.0, -float("inf")]}, "score of 'b' is -inf"),
        ({"pieces": ["<unk>", "", "b"]}, "Piece 1 has 0 characters"),
        ({"pieces": ["<unk>", "a" * (LONGEST_PIECE + 1), "b"]}, "Piece 1 has 129 characters"),
        ({"pieces": ["<unk>", "a", "a"]}, "Pieces 1 and 2 are both 'a'"),
    ],
)
def test_what_is_no_vocabulary(changes, message):
    arguments = {"pieces": ["<unk>", "a", "b"], "scores": [0.0, -1.0, -1.0], "unk_id": 0} | changes
    with pytest.raises(ValueError, match=message):
        Unigram(**arguments)


def test_what_cannot_be_asked():
    with pytest.raises(ValueError, match="n=0"):
        PLAIN.unigram().n_best("ab", 0)
    for alpha in (math.inf, math.nan, 1e7):
        with pytest.raises(ValueError, match=re.escape(f"alpha={alpha}")):
            PLAIN.unigram().sample("ab", alpha, random.Random(0))
