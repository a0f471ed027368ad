"""Sampling warpers against transformers', and what they do with ties, bans and large vocabularies."""

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers.generation import logits_process as reference

from tests.decoding.chains import apply_reference, assert_same_scores, random_batch
from xlmr_np.decoding import GenerationConfig, warpers
from xlmr_np.decoding.processors import Processor
from xlmr_np.decoding.warpers import (
    Epsilon,
    Eta,
    MinP,
    Renormalize,
    Temperature,
    TopK,
    TopP,
    Typical,
    log_probabilities,
    warpers_for,
)

SEEDS = st.integers(0, 2**32 - 1)
DTYPES = st.sampled_from([np.float32, np.float64])
SHARES = st.floats(0.01, 0.99)
KEEP = st.integers(1, 4)
PAIRS: dict[str, tuple[Any, Any]] = {
    "min_p": (MinP, lambda x, keep: reference.MinPLogitsWarper(x, min_tokens_to_keep=keep)),
    "typical_p": (Typical, lambda x, keep: reference.TypicalLogitsWarper(x, min_tokens_to_keep=keep)),
    "top_p": (TopP, lambda x, keep: reference.TopPLogitsWarper(x, min_tokens_to_keep=keep)),
    "epsilon_cutoff": (Epsilon, lambda x, keep: reference.EpsilonLogitsWarper(x, min_tokens_to_keep=keep)),
    "eta_cutoff": (Eta, lambda x, keep: reference.EtaLogitsWarper(x, min_tokens_to_keep=keep)),
}


def warp(warper: Processor, scores: np.ndarray) -> np.ndarray:
    return warper(np.zeros((len(scores), 1), int), None, scores)


def warp_reference(warper: Any, scores: np.ndarray) -> np.ndarray:
    return apply_reference(warper, np.zeros((len(scores), 1), int), scores)


@given(SEEDS, DTYPES, st.floats(0.1, 10.0))
def test_temperature(seed: int, dtype: Any, temperature: float) -> None:
    _, scores = random_batch(seed, dtype)
    theirs = warp_reference(reference.TemperatureLogitsWarper(temperature), scores)
    assert_same_scores(warp(Temperature(temperature), scores), theirs)


@given(SEEDS, DTYPES, st.integers(1, 70), st.booleans())
def test_top_k_with_ties_and_bans(seed: int, dtype: Any, k: int, has_ties: bool) -> None:
    _, scores = random_batch(seed, dtype)
    scores = np.where(scores < -2.0, -np.inf, np.round(scores) if has_ties else scores).astype(dtype)
    assert_same_scores(warp(TopK(k), scores), warp_reference(reference.TopKLogitsWarper(k), scores))


@pytest.mark.parametrize("name", PAIRS)
@given(seed=SEEDS, share=SHARES, keep=KEEP)
def test_warpers_are_the_references(name: str, seed: int, share: float, keep: int) -> None:
    _, scores = random_batch(seed)
    ours, theirs = PAIRS[name]
    assert_same_scores(warp(ours(share, keep), scores), warp_reference(theirs(share, keep), scores))


@pytest.mark.parametrize("name", PAIRS)
@settings(max_examples=30)
@given(seed=SEEDS, share=SHARES)
def test_warpers_in_float32(name: str, seed: int, share: float) -> None:
    _, scores = random_batch(seed, np.float32)
    ours, theirs = PAIRS[name]
    # Tokens at the very edge may fall to either side by a rounding; elsewhere both say the same.
    assume(not _is_at_an_edge(ours, share, scores))
    assert_same_scores(warp(ours(share), scores), warp_reference(theirs(share, 1), scores))


def _is_at_an_edge(warper: Any, share: float, scores: np.ndarray) -> bool:
    """Whether a slightly other share keeps other tokens."""
    kept = [np.isfinite(warp(warper(share * (1 + change)), scores.astype(np.float64))) for change in (-1e-5, 1e-5)]
    return bool((kept[0] != kept[1]).any())


@pytest.mark.parametrize("name", PAIRS)
@settings(max_examples=30)
@given(seed=SEEDS, share=SHARES)
def test_banned_tokens_change_nothing(name: str, seed: int, share: float) -> None:
    _, scores = random_batch(seed)
    ours, theirs = PAIRS[name]
    banned = np.concatenate([scores, np.full((len(scores), 5), -np.inf)], axis=1)
    warped = warp(ours(share), banned)
    np.testing.assert_array_equal(warped[:, :-5], warp(ours(share), scores))
    assert_same_scores(warped, warp_reference(theirs(share, 1), banned))


@given(SEEDS, DTYPES)
def test_renormalize(seed: int, dtype: Any) -> None:
    _, scores = random_batch(seed, dtype)
    assert_same_scores(warp(Renormalize(), scores), warp_reference(reference.LogitNormalization(), scores))


@pytest.mark.parametrize("name", ["top_p", "typical_p"])
@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
@pytest.mark.parametrize("spread", [0.1, 1.0, 4.0])  # from nearly all tokens kept to a few
def test_sorting_some_is_sorting_all(name: str, share: float, spread: float) -> None:
    scores = np.random.default_rng(0).standard_normal((2, 30_000)) * spread
    ours, theirs = PAIRS[name]
    assert_same_scores(warp(ours(share), scores), warp_reference(theirs(share, 1), scores))


def test_only_what_matters_is_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    smallest = warpers._smallest
    monkeypatch.setattr(warpers, "_smallest", lambda keys, number: sizes.append(number) or smallest(keys, number))
    scores = np.zeros((2, 250_002), np.float32)
    scores[:, :10] = 20.0
    warp(TopP(0.9), scores)
    assert sizes == [1024]
    warp(TopP(0.9), np.zeros((1, 2000), np.float32))
    assert sizes == [1024, 1024, 2000]


def test_ties_at_the_edge_stay() -> None:
    scores = np.array([[2.0, 1.0, 1.0, 0.0]])
    np.testing.assert_array_equal(warp(TopP(0.6), scores), [[2.0, 1.0, 1.0, -np.inf]])
    np.testing.assert_array_equal(warp(TopK(2), scores), [[2.0, 1.0, 1.0, -np.inf]])


@pytest.mark.parametrize("warper", [TopK(2), TopP(0.5), MinP(0.5), Typical(0.5), Epsilon(0.1), Eta(0.1), Renormalize()])
def test_nan_is_not_hidden(warper: Processor) -> None:
    warped = warp(warper, np.array([[1.0, np.nan, 0.5, 0.0], [1.0, 2.0, 3.0, 4.0]]))
    assert np.isnan(warped[0]).any()
    assert not np.isnan(warped[1]).any()


def test_a_row_without_tokens_stays_one() -> None:
    np.testing.assert_array_equal(log_probabilities(np.full((1, 3), -np.inf)), np.full((1, 3), -np.inf))


def test_large_scores_do_not_overflow() -> None:
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        np.testing.assert_array_equal(log_probabilities(np.array([[1e4, 0.0]])), [[0.0, -1e4]])


@pytest.mark.parametrize(
    ("eos_ids", "num_beams", "kept"), [((2,), 1, 1), ((), 3, 2), ((2,), 3, 2), ((2, 3), 3, 3), ((2, 3), 1, 1)]
)
def test_a_beam_can_go_on(eos_ids: tuple[int, ...], num_beams: int, kept: int) -> None:
    config = GenerationConfig(do_sample=True, num_beams=num_beams, top_k=1, top_p=0.01, min_p=1.0, typical_p=0.01)
    scores = np.array([[5.0, 3.0, 2.0, 1.0]])
    for warper in warpers_for(config, eos_ids):
        scores = warp(warper, scores)
    assert np.isfinite(scores).sum() == kept


def test_warpers_are_for_sampling_and_renormalization_is_not() -> None:
    config = GenerationConfig(temperature=0.5, top_p=0.5, renormalize_logits=True)
    assert warpers_for(config, (2,)) == [Renormalize()]
