"""Similarities of embeddings, and the nearest of many, against sentence-transformers."""

import time
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SimilarityFunction, util

from xlmr_np.semantic_search import BLOCK_ROWS, FUNCTIONS, QUERY_ROWS, nearest, similarities

RANDOM = np.random.default_rng(0)
A, B = RANDOM.normal(size=(5, 8)), RANDOM.normal(size=(7, 8))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_similarities(name: str) -> None:
    theirs = SimilarityFunction.to_similarity_fn(name)
    np.testing.assert_allclose(similarities(A, B, name), theirs(torch.asarray(A), torch.asarray(B)), rtol=1e-12)
    single = similarities(A.astype(np.float32), B[0].astype(np.float32), name)
    assert (single.shape, single.dtype) == ((5, 1), np.float32)
    np.testing.assert_allclose(single, similarities(A, B[:1], name), atol=1e-5)  # float32


def test_zeros_and_near_ones() -> None:
    assert not similarities(np.zeros((1, 8)), B).any()
    close = np.full((1, 8), 1000, np.float32)
    np.testing.assert_allclose(similarities(close, close + 0.25, "euclidean"), -np.sqrt(8) / 4, rtol=1e-4)  # of 3e3


@pytest.mark.parametrize("form", ["array", "blocks", "lists"])
@pytest.mark.parametrize("name", ["cosine", "manhattan"])
def test_the_nearest(name: str, form: str) -> None:
    found = nearest(A, {"array": B, "blocks": iter([B[:3], B[3:4], B[4], B[5:]]), "lists": [B.tolist()]}[form], 4, name)
    function = SimilarityFunction.to_similarity_fn(name)
    expected = util.semantic_search(torch.asarray(A), torch.asarray(B), top_k=4, score_function=function)
    for ours, theirs in zip(found, expected, strict=True):
        assert [hit["corpus_id"] for hit in ours] == [hit["corpus_id"] for hit in theirs]
        assert [hit["score"] for hit in ours] == pytest.approx([hit["score"] for hit in theirs], rel=1e-12)


def test_many_of_both() -> None:
    queries = RANDOM.normal(size=(QUERY_ROWS + 3, 4)).astype(np.float32)
    corpus = RANDOM.normal(size=(2 * BLOCK_ROWS + 5, 4)).astype(np.float32)
    found = nearest(queries, corpus, 3)
    best = np.argsort(-similarities(queries, corpus), axis=1, kind="stable")[:, :3]
    assert [[hit["corpus_id"] for hit in hits] for hits in found] == best.tolist()


def test_of_equally_near_ones_the_first() -> None:
    corpus = np.tile(B[:1], (2 * BLOCK_ROWS, 1))
    (hits,) = nearest(B[0], corpus, 3)
    assert [hit["corpus_id"] for hit in hits] == [0, 1, 2]
    assert [type(each) for each in hits[0].values()] == [int, float]


def test_fewer_than_asked_for() -> None:
    assert [len(hits) for hits in nearest(A, B, 100)] == [7] * 5
    assert nearest(A, np.empty((0, 8))) == [[]] * 5
    assert nearest(np.empty((0, 8)), B) == []


@pytest.mark.parametrize("form", ["list", "generator", "lists", "between blocks"])
def test_embeddings_that_come_one_by_one(form: str) -> None:
    corpus = RANDOM.normal(size=(2 * BLOCK_ROWS + 5, 8))
    forms = {
        "list": lambda: list(corpus),
        "generator": lambda: iter(corpus),
        "lists": corpus.tolist,
        "between blocks": lambda: [corpus[:3], *corpus[3:9], corpus[9:]],
    }
    found, expected = (nearest(A, each, 3) for each in (forms[form](), corpus))
    assert [[hit["corpus_id"] for hit in hits] for hits in found] == [
        [hit["corpus_id"] for hit in hits] for hits in expected
    ]


def test_rows_are_compared_together() -> None:
    corpus = RANDOM.normal(size=(3 * BLOCK_ROWS, 32))
    seconds = []
    for form in (corpus, list(corpus)):
        start = time.process_time()
        nearest(RANDOM.normal(size=(20, 32)), form)
        seconds.append(time.process_time() - start)
    assert seconds[1] < 20 * seconds[0] + 0.5  # one by one they take hundreds of times as long, which is 10 s


def test_numbers_whose_squares_are_beyond_their_type() -> None:
    large, small = (np.array([[3, 4], [4, 3]]) * np.float32(size) for size in (8e37, 1e-38))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for rows in (large.astype(np.float32), small.astype(np.float32)):
            np.testing.assert_allclose(similarities(rows, rows), [[1, 0.96], [0.96, 1]], rtol=1e-5)  # float32
            ((first, _),) = nearest(rows[0], rows)
            assert first == {"corpus_id": 0, "score": pytest.approx(1, abs=1e-5)}  # float32


WRONG: dict[str, tuple[tuple[Any, ...], str]] = {
    "texts": ((["a"], B), r"must be embeddings, an array of numbers; got \['a'\]"),
    "objects": (([None], B), "must be embeddings"),
    "one list of numbers": ((A, [1.0, 2.0]), r"corpus must be embeddings \[N, D\]; got the number 1.0\."),
    "a corpus of texts": ((A, ["a"]), "corpus must be embeddings, an array of numbers; got 'a'"),
    "a text": ((A, "abc"), "corpus must be embeddings, an array of numbers; got 'abc'"),
    "an empty text": ((A, ""), "corpus must be embeddings, an array of numbers; got ''"),
    "a number": ((A, np.array(3.0)), "corpus must be embeddings .*; got the number 3.0"),
    "no corpus": ((A, None), "corpus must be embeddings, an array of numbers; got None"),
    "complex numbers": ((A, B * 1j), "corpus must be embeddings, an array of numbers"),
    "ragged rows": ((A, [[1.0, 2.0], [1.0]]), "corpus must be embeddings of one length, and these differ in it"),
    "a ragged array": ((A, [[[1.0, 2.0], [1.0]]]), "corpus must be embeddings of one length, and these differ in it"),
    "ragged queries": (([[1.0, 2.0], [1.0]], B), "queries must be embeddings of one length"),
    "another width": ((A, B[:, :7]), "of 8 and of 7 numbers cannot be compared"),
    "three axes": ((A[None], B), r"the shape is \(1, 5, 8\)"),
    "not finite": ((A, B * np.nan), "corpus holds numbers that are not finite"),
    "no number": ((A, B, 0), "top_k=0 is too small"),
    "another similarity": ((A, B, 1, "sinus"), "similarity='sinus' is not known; there are cosine, dot"),
    "no name": ((A, B, 1, ["cosine"]), r"similarity=\['cosine'\] is not known"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_searched(what: str) -> None:
    arguments, message = WRONG[what]
    with pytest.raises((ValueError, TypeError), match=message):
        nearest(*arguments)
