"""The likeliest tokens; draws, by their distribution on 100,000 of them with a fixed seed; what cannot be chosen."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xlmr_np.decoding.sampling import draw, draw_without_replacement, likeliest, likeliest_token

DRAWS = 100_000
PROBABILITIES = np.array([0.3, 0.0, 0.25, 0.2, 0.1, 0.0, 0.08, 0.05, 0.019, 0.001])
WITHOUT_REPLACEMENT = np.array([0.5, 0.25, 0.15, 0.1])
# A right generator's sample is at least as far from what is expected once in ten thousand seeds; this one is fixed.
LEAST_CHANCE = 1e-4


def log(probabilities: Any) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(probabilities)


def chance(counts: np.ndarray, probabilities: np.ndarray) -> float:
    """How probable it is that counts are as far from what is expected (Pearson's chi-square test)."""
    expected = counts.sum() * probabilities
    statistic = ((counts - expected) ** 2 / expected).sum()
    half = torch.tensor([(len(counts) - 1) / 2, statistic / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tokens_come_with_their_probabilities(dtype: Any) -> None:
    scores = (log(PROBABILITIES) + 7.0).astype(dtype)  # not normalised
    ids = draw(np.broadcast_to(scores, (DRAWS, 10)), np.random.default_rng(0))
    counts = np.bincount(ids, minlength=10)
    possible = PROBABILITIES > 0
    assert counts[~possible].sum() == 0
    assert chance(counts[possible], PROBABILITIES[possible]) > LEAST_CHANCE


def test_a_wrong_distribution_is_found() -> None:
    ids = draw(np.broadcast_to(log(PROBABILITIES), (DRAWS, 10)), np.random.default_rng(0))
    wrong = PROBABILITIES + np.array([0.01, 0, -0.01, 0, 0, 0, 0, 0, 0, 0])
    possible = PROBABILITIES > 0
    assert chance(np.bincount(ids, minlength=10)[possible], wrong[possible]) < LEAST_CHANCE


def test_each_row_has_its_own_distribution() -> None:
    scores = log(np.eye(5)[[3, 0, 4]])
    np.testing.assert_array_equal(draw(scores, np.random.default_rng(0)), [3, 0, 4])


class _Fixed(np.random.Generator):
    """A generator whose numbers are known."""

    def __init__(self, number: float) -> None:
        super().__init__(np.random.PCG64(0))
        self.number = number

    def random(self, size: Any) -> Any:  # type: ignore[override]
        return np.full(size, self.number)


@given(st.lists(st.floats(0.0, 1.0).filter(lambda p: p == 0.0 or p > 1e-30), min_size=1, max_size=8), st.booleans())
def test_the_ends_of_the_unit_interval(weights: list[float], is_largest: bool) -> None:
    weights = [*weights, 0.5, 0.0, 0.0]
    number = np.nextafter(1.0, 0.0) if is_largest else 0.0
    (token,) = draw(log([weights]), _Fixed(number))
    possible = np.flatnonzero(weights)
    assert token == (possible[-1] if is_largest else possible[0])


def test_the_same_seed_draws_the_same_and_one_number_a_row() -> None:
    scores = np.random.default_rng(1).standard_normal((4, 50))
    first, second = np.random.default_rng(5), np.random.default_rng(5)
    np.testing.assert_array_equal(draw(scores, first), draw(scores, second))
    second = np.random.default_rng(5)
    second.random(4)
    assert first.random() == second.random()


def test_draws_without_replacement_come_with_their_probabilities() -> None:
    scores = np.broadcast_to(log([*WITHOUT_REPLACEMENT, 0.0]), (DRAWS, 5))
    ids = draw_without_replacement(scores, 2, np.random.default_rng(0))
    pairs = list(itertools.permutations(range(4), 2))
    counts = np.array([np.all(ids == pair, axis=1).sum() for pair in pairs])
    p = WITHOUT_REPLACEMENT
    assert counts.sum() == DRAWS  # none of them twice, and never the last
    assert chance(counts, np.array([p[i] * p[j] / (1 - p[i]) for i, j in pairs])) > LEAST_CHANCE


def test_all_that_is_possible_is_drawn() -> None:
    scores = np.array([[-np.inf, 1.0, -1e9, 0.0]])  # -1e9 is how a beam search begins
    (ids,) = draw_without_replacement(scores, 3, np.random.default_rng(0))
    assert sorted(ids[:2]) == [1, 3]
    assert ids[2] == 2


def test_scores_are_left_alone() -> None:
    scores = np.zeros((2, 5))
    scores.flags.writeable = False
    assert draw(scores, np.random.default_rng(0)).shape == (2,)
    assert draw_without_replacement(scores, 5, np.random.default_rng(0)).shape == (2, 5)


@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.booleans())
def test_the_likeliest_come_first(seed: int, k: int, has_ties: bool) -> None:
    scores = np.random.default_rng(seed).standard_normal((3, 30))
    scores = np.where(scores < -1.5, -np.inf, np.round(scores * 2) if has_ties else scores)
    scores[:, 7] = 5.0
    places = likeliest(scores, k)
    theirs = torch.topk(torch.tensor(scores), k)
    np.testing.assert_array_equal(np.take_along_axis(scores, places, axis=1), theirs.values.numpy())
    assert all(len(set(row)) == k for row in places.tolist())
    if not has_ties:
        finite = np.isfinite(theirs.values.numpy())
        np.testing.assert_array_equal(places[finite], theirs.indices.numpy()[finite])
    np.testing.assert_array_equal(likeliest_token(scores), scores.argmax(axis=1))


def test_of_equal_tokens_the_first_comes_first() -> None:
    np.testing.assert_array_equal(likeliest(np.array([[1.0, 2.0, 1.0, 2.0]]), 4), [[1, 3, 0, 2]])


FUNCTIONS = [
    draw,
    lambda scores, generator: draw_without_replacement(scores, 1, generator),
    lambda scores, generator: likeliest(scores, 1),
    lambda scores, generator: likeliest_token(scores),
]


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([-np.inf, -np.inf], "Row 1 leaves no token to choose: every score is -inf"),
        ([0.0, np.nan], "Row 1 has a score of nan, .* remove_invalid_values=True"),
        ([np.inf, 0.0], "Row 1 has a score of inf, .* remove_invalid_values=True"),
    ],
)
def test_what_cannot_be_chosen(function: Any, row: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        function(np.array([[0.0, 0.0], row]), np.random.default_rng(0))


def test_too_few_tokens_to_draw() -> None:
    with pytest.raises(ValueError, match="3 different tokens are to be drawn, but row 1 leaves 2"):
        draw_without_replacement(np.array([[0.0, 0, 0], [0, 0, -np.inf]]), 3, np.random.default_rng(0))
