"""Words cut by sentencepiece where it is certain, equal to the readable model in float64 in every case."""

import functools
import pickle
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.conftest import SMALL_VOCABULARY
from xlmr_np.tokenizer import word_pieces
from xlmr_np.tokenizer.vocabulary import Vocabulary, read_vocabulary
from xlmr_np.tokenizer.word_pieces import WordPieces

from .comparison import one_of_any_kind


@functools.cache
def read(model_file) -> Vocabulary:
    return read_vocabulary(model_file)[0]


@pytest.fixture(scope="module", params=["small_vocabulary", "real_vocabulary"])
def vocabulary(request) -> Vocabulary:
    return read(request.getfixturevalue(request.param))


@pytest.fixture(scope="module")
def pieces(vocabulary) -> WordPieces:
    return WordPieces(vocabulary, spells_special_tokens=True)


def expected(vocabulary: Vocabulary, word: str) -> tuple:
    path = vocabulary.unigram("huggingface").best_path(word)
    return tuple(node.piece_id for node in path), tuple(node.end - node.start for node in path)


def cut(pieces: WordPieces, words: list[str]) -> list[tuple]:
    """Ids and lengths of each word's pieces."""
    found = pieces(words)
    lengths = iter(pieces.lengths(words, found))
    return [(ids, tuple(islice(lengths, len(ids)))) for ids in found]


# A word starts with "▁" and has no other, nor white space.
any_words = st.lists(one_of_any_kind, max_size=5).map(
    lambda parts: "▁" + "".join("".join(parts).replace("▁", "").split())
)


@settings(max_examples=150)
@given(words=st.lists(any_words, max_size=20))
@example(words=["▁" + "a" * length for length in range(1, 40)])
@example(words=["▁" + "ha" * 99, "▁" + "lo" * 100, "▁" + "na" * 101, "▁" + "的" * 300])
@example(words=["▁", "▁the", "▁the", "▁"])
@example(words=["▁<s>", "▁a<mask>b", "▁<unk>", "▁\u0301", "▁\x01", "▁½"])
def test_equal_to_the_readable_model(vocabulary, pieces, words):
    pieces._cache.clear()
    wanted = [expected(vocabulary, word) for word in words]
    assert cut(pieces, words) == wanted  # cold
    assert cut(pieces, words[::-1]) == wanted[::-1]  # warm
    assert [cut(pieces, [word])[0] for word in words] == wanted


@given(words=st.lists(any_words, max_size=20))
def test_special_tokens_are_not_spelled_unless_they_may(words):
    found = cut(WordPieces(read(SMALL_VOCABULARY), spells_special_tokens=False), words)
    assert all(not {0, 1, 2, 481} & set(ids) for ids, _ in found)
    assert [sum(lengths) for _, lengths in found] == [len(word) for word in words]


def test_the_cache_is_bounded(vocabulary, pieces, monkeypatch):
    monkeypatch.setattr(word_pieces, "MOST_CACHED_WORDS", 8)
    pieces._cache.clear()
    words = [f"▁{number}" for number in range(50)] + ["▁" + "long" * 20]
    for start in range(0, 51, 3):
        chosen = [*words[start : start + 3], "▁the"]
        assert cut(pieces, chosen) == [expected(vocabulary, word) for word in chosen]
        assert 0 < len(pieces._cache) <= 8
    assert cut(pieces, words) == [expected(vocabulary, word) for word in words]  # more at once than are kept
    assert len(pieces._cache) <= 8
    assert words[-1] not in pieces._cache


def test_threads_that_share_a_small_cache(vocabulary, pieces, monkeypatch):
    monkeypatch.setattr(word_pieces, "MOST_CACHED_WORDS", 16)
    pieces._cache.clear()
    batches = [[f"▁{number * factor}" for number in range(10)] for factor in range(60)]
    wanted = [[expected(vocabulary, word) for word in batch] for batch in batches]
    with ThreadPoolExecutor(16) as threads:
        assert list(threads.map(lambda batch: cut(pieces, batch), batches * 4)) == wanted * 4


def test_pickles_leave_the_cache_behind():
    pieces = WordPieces(read(SMALL_VOCABULARY), spells_special_tokens=True)
    found = pieces(["▁the", "▁garden"])
    other = pickle.loads(pickle.dumps(pieces))
    assert not other._cache
    assert other(["▁the", "▁garden"]) == found
