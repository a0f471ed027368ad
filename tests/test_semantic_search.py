"""Similarities of embeddings, and the nearest of many, against sentence-transformers."""

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


WRONG: dict[str, tuple[tuple[Any, ...], str]] = {
    "texts": ((["a"], B), "must be embeddings, an array of numbers; got a list"),
    "objects": (([None], B), "must be embeddings"),
    "another width": ((A, B[:, :7]), "of 8 and of 7 numbers cannot be compared"),
    "three axes": ((A[None], B), r"the shape is \(1, 5, 8\)"),
    "not finite": ((A, B * np.nan), "corpus holds numbers that are not finite"),
    "no number": ((A, B, 0), "top_k=0 is too small"),
    "another similarity": ((A, B, 1, "sinus"), "similarity='sinus' is not known; there are cosine, dot"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_searched(what: str) -> None:
    arguments, message = WRONG[what]
    with pytest.raises((ValueError, TypeError), match=message):
        nearest(*arguments)
