"""Comparing embeddings, and finding the nearest of many, in bounded memory."""

import reprlib
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby, islice
from typing import Any

import numpy as np

from xlmr_np.heads.sentence_pooling import normalize_forward
from xlmr_np.tokenizer.arguments import whole_number

BLOCK_ROWS = 4096  # of the corpus, compared at a time
QUERY_ROWS = 512  # compared with a block at a time

NO_NUMBERS = "OUSTMmc"  # NumPy's kinds of objects, texts, times and complex numbers


def cosine_similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The cosines [N, M] of the angles between rows of a [N, D] and of b [M, D]; 0 for a row of zeros."""
    product: np.ndarray = _of_length_one(a) @ _of_length_one(b).T
    return product


def dot_similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The products [N, M]."""
    product: np.ndarray = a @ b.T
    return product


def euclidean_similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Minus the distances [N, M].

    Near ones are small differences of large squares, which is why these are in float64.
    """
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    squares = (wide_a * wide_a).sum(axis=1)[:, None] + (wide_b * wide_b).sum(axis=1) - 2 * (wide_a @ wide_b.T)
    return -np.sqrt(np.maximum(squares, 0)).astype(a.dtype)


def manhattan_similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Minus the sums of absolute differences [N, M]."""
    scores = np.empty((len(a), len(b)), a.dtype)
    for row, each in enumerate(a):
        scores[row] = -np.abs(each - b).sum(axis=1)
    return scores


FUNCTIONS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "cosine": cosine_similarity,
    "dot": dot_similarity,
    "euclidean": euclidean_similarity,
    "manhattan": manhattan_similarity,
}


def check_similarity(name: Any) -> None:
    """Refuse what is not the name of a similarity (ValueError)."""
    if not isinstance(name, str) or name not in FUNCTIONS:
        raise ValueError(f"similarity={name!r} is not known; there are {', '.join(FUNCTIONS)}.")


def similarities(a: Any, b: Any, name: str = "cosine") -> np.ndarray:
    """How alike embeddings are, [N, M]; larger is nearer, and distances are negative.

    Args:
        a: [N, D], or [D] for one.
        b: [M, D], or [D] for one.
        name: "cosine", "dot", "euclidean" or "manhattan".

    Raises:
        ValueError: the name is unknown, a number is not finite, or the embeddings differ in length.
        TypeError: they are no numbers.
    """
    check_similarity(name)
    first, second = as_embeddings("a", a), as_embeddings("b", b)
    return FUNCTIONS[name](*_of_one_type(first, second))


def nearest(
    queries: Any, corpus: Any, top_k: int = 10, similarity: str = "cosine"
) -> list[list[dict[str, int | float]]]:
    """The embeddings of a corpus that are nearest to each query.

    Besides its arguments and its result, it holds the scores of some thousand embeddings at a time.

    Args:
        queries: [Q, D], or [D] for one.
        corpus: [N, D], such as a memory-mapped array; or an iterable of such arrays, or of embeddings [D], one after
            the other.
        top_k: how many for each query, if the corpus has so many.
        similarity: see `similarities`.

    Returns:
        For each query, dicts of `corpus_id`, a row of the corpus, and `score`, the nearest first; of equally near ones
        the one that comes first.

    Raises:
        ValueError, TypeError: as for `similarities`, or `top_k` is no positive number.
    """
    check_similarity(similarity)
    whole_number("top_k", top_k, minimum=1)
    rows = as_embeddings("queries", queries)
    best: list[tuple[np.ndarray, np.ndarray]] = [(np.empty(0), np.empty(0, int))] * len(rows)
    seen = 0
    for block in _blocks(corpus):
        ids = np.arange(seen, seen + len(block))
        seen += len(block)
        for start in range(0, len(rows), QUERY_ROWS):
            scores = FUNCTIONS[similarity](*_of_one_type(rows[start : start + QUERY_ROWS], block))
            for number, own in enumerate(scores, start):
                best[number] = _largest(np.append(best[number][0], own), np.append(best[number][1], ids), top_k)
    return [
        [{"corpus_id": index, "score": score} for score, index in zip(scores.tolist(), indices.tolist(), strict=True)]
        for scores, indices in best
    ]


def as_embeddings(name: str, values: Any) -> np.ndarray:
    """Rows of finite numbers [N, D] in at least float32; one embedding [D] is a row.

    Raises:
        ValueError: a number is not finite, or there are no rows of equal length.
        TypeError: they are no numbers.
    """
    array = _numbers(name, values)
    array = array.astype(np.result_type(array.dtype, np.float32), copy=False)
    array = array[None] if array.ndim == 1 else array
    if array.ndim != 2:
        raise ValueError(f"{name} must be embeddings [N, D]; the shape is {array.shape}.")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds numbers that are not finite.")
    return array


def are_numbers(value: Any) -> bool:
    """Whether this is a number, or an array or lists of numbers; of lists, their first number stands for all."""
    while isinstance(value, list | tuple) and value:
        value = value[0]
    return np.asarray(value).dtype.kind not in NO_NUMBERS


def _numbers(name: str, values: Any) -> np.ndarray:
    """An array of one axis or more, of whatever type, if it holds numbers."""
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(
            f"{name} must be embeddings of one length, and these differ in it: {reprlib.repr(values)}; take all from "
            "one model."
        ) from error
    if array.dtype.kind in NO_NUMBERS:
        raise TypeError(f"{name} must be embeddings, an array of numbers; got {reprlib.repr(values)}.")
    if array.ndim == 0:
        raise ValueError(f"{name} must be embeddings [N, D]; got the number {array}.")
    return array


def _blocks(corpus: Any) -> Iterator[np.ndarray]:
    """The embeddings of a corpus, at most `BLOCK_ROWS` at a time; those that come one by one are gathered."""
    if isinstance(corpus, str | bytes | dict) or not isinstance(corpus, Iterable):
        raise TypeError(f"corpus must be embeddings, an array of numbers; got {reprlib.repr(corpus)}.")
    parts: Iterable[Any] = [corpus] if hasattr(corpus, "ndim") else corpus
    for dimensions, group in groupby((_numbers("corpus", part) for part in parts), np.ndim):
        if dimensions == 1:
            while rows := list(islice(group, BLOCK_ROWS)):
                yield as_embeddings("corpus", rows)
        else:
            for part in group:
                for start in range(0, len(part), BLOCK_ROWS):
                    yield as_embeddings("corpus", part[start : start + BLOCK_ROWS])


def _of_length_one(rows: np.ndarray) -> np.ndarray:
    """Rows [N, D] divided by their lengths, whose squares may be beyond what their type can hold."""
    largest = np.abs(rows).max(axis=1, keepdims=True, initial=0)
    normalized: np.ndarray = normalize_forward(rows / np.where(largest > 0, largest, 1))[0]
    return normalized


def _of_one_type(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"Embeddings of {a.shape[1]} and of {b.shape[1]} numbers cannot be compared; take both from one model."
        )
    common = np.result_type(a, b)
    return a.astype(common, copy=False), b.astype(common, copy=False)


def _largest(scores: np.ndarray, ids: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """The largest scores in their order, and their ids; of equal ones those that come first."""
    if len(scores) > number:
        chosen = np.flatnonzero(scores >= np.partition(scores, -number)[-number])
        scores, ids = scores[chosen], ids[chosen]
    order = np.argsort(-scores, kind="stable")[:number]
    return scores[order], ids[order]
