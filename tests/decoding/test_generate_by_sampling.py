"""Texts that are drawn: with which probabilities, and again with the same generator."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from tests.decoding.decoders import VOCABULARY, decoder
from tests.reference_models import random_ids

pytestmark = pytest.mark.usefixtures("quick_steps")

NUMBER = 100_000
PROMPT = random_ids([4])


def probabilities(model: Any, temperature: float = 1.0) -> np.ndarray:
    logits = model(PROMPT, use_cache=False).logits[0, -1] / temperature
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def first_tokens(model: Any, **settings: Any) -> np.ndarray:
    """Drawn in one call, in two of 50,000 as a prompt has no more than 65,536 texts."""
    generator = np.random.default_rng(0)
    settings = {"do_sample": True, "top_k": 0, "max_new_tokens": 1, "num_return_sequences": NUMBER // 2, **settings}
    return np.concatenate([model.generate(PROMPT, generator=generator, **settings)[:, -1] for _ in range(2)])


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_first_tokens_have_the_models_probabilities(temperature: float) -> None:
    """Chi-square over 10^5 draws.

    Tokens of which fewer than five are expected are counted together, as the approximation asks for (Cochran 1954). The
    bound is what the statistic exceeds once in 10^6 generators; this one is fixed.
    """
    model = decoder()
    expected = NUMBER * probabilities(model, temperature)
    counts = np.bincount(first_tokens(model, temperature=temperature), minlength=VOCABULARY)
    is_rare = expected < 5
    if is_rare.any():
        counts, expected = (np.append(each[~is_rare], each[is_rare].sum()) for each in (counts, expected))
    assert len(counts) > 10
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert statistic < stats.chi2.isf(1e-6, len(counts) - 1)
    wrong = np.roll(expected, 1)
    assert ((counts - wrong) ** 2 / wrong).sum() > 100 * statistic


def test_top_k_and_top_p_are_respected() -> None:
    model = decoder()
    probability = probabilities(model)
    order = np.argsort(-probability)
    assert set(first_tokens(model, top_k=3)) == set(order[:3])
    nucleus = order[: np.searchsorted(probability[order].cumsum(), 0.8) + 1]
    assert set(first_tokens(model, top_p=0.8)) == set(nucleus)
    large = np.flatnonzero(probability >= 0.2 * probability.max())
    assert set(first_tokens(model, min_p=0.2)) == set(large)
    kept = probability[order[:3]] / probability[order[:3]].sum()
    shares = np.bincount(first_tokens(model, top_k=3), minlength=VOCABULARY)[order[:3]] / NUMBER
    np.testing.assert_allclose(shares, kept, atol=5 * np.sqrt(0.25 / NUMBER))  # five standard deviations, of the widest


def test_the_default_is_the_fifty_likeliest() -> None:
    model = decoder()
    likeliest = np.argsort(-probabilities(model, 9.0))[:50]
    drawn = model.generate(
        PROMPT,
        do_sample=True,
        temperature=9.0,
        max_new_tokens=1,
        num_return_sequences=20_000,
        generator=np.random.default_rng(0),
    )
    assert set(drawn[:, -1]) == set(likeliest)


@pytest.mark.parametrize("use_cache", [True, False])
def test_the_same_generator_draws_the_same_texts(use_cache: bool) -> None:
    model, prompts = decoder(), random_ids([5, 3], side="left")
    settings = {"do_sample": True, "num_return_sequences": 4, "max_new_tokens": 10, "eos_token_id": [7, 43]}
    first, again, other = (
        model.generate(prompts, generator=np.random.default_rng(seed), use_cache=use_cache, **settings)
        for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, again)
    assert first.shape != other.shape or (first != other).any()
    for row, prompt in enumerate(prompts):
        np.testing.assert_array_equal(first[4 * row : 4 * row + 4, :5], np.tile(prompt, (4, 1)))
        assert len({tuple(text) for text in first[4 * row : 4 * row + 4]}) == 4
    cached = model.generate(prompts, generator=np.random.default_rng(3), **settings)
    np.testing.assert_array_equal(cached, first)


def test_without_a_generator_texts_differ() -> None:
    model = decoder()
    settings = {"do_sample": True, "temperature": 5.0, "top_k": 0, "max_new_tokens": 25}
    texts = [model.generate(PROMPT, **settings) for _ in range(2)]
    assert texts[0].shape != texts[1].shape or (texts[0] != texts[1]).any()


def test_later_tokens_follow_from_those_drawn_before() -> None:
    """Greedily from every drawn beginning: each of the texts has a cache of its own."""
    model = decoder()
    beginnings = model.generate(
        PROMPT,
        do_sample=True,
        max_new_tokens=3,
        min_new_tokens=3,
        num_return_sequences=6,
        generator=np.random.default_rng(1),
        return_dict_in_generate=True,
        output_logits=True,
    )
    for row, text in enumerate(beginnings.sequences):
        logits = model(text[None, :-1], use_cache=False).logits[0, 3:]
        for step in range(3):
            np.testing.assert_allclose(beginnings.logits[step][row], logits[step], atol=1e-10)  # the order of sums
