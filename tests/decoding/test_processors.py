"""Logits processors against transformers', one by one and in a row."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers.generation import logits_process as reference

from tests.decoding.chains import apply_reference, assert_same_scores, random_batch, reference_chain
from xlmr_np.decoding import GenerationConfig
from xlmr_np.decoding.processors import (
    BannedTokens,
    Custom,
    ExponentialDecay,
    ForcedTokens,
    NoRepeatNGrams,
    RemoveInvalid,
    RepetitionPenalty,
    SequenceBias,
    process,
    processors_for,
)
from xlmr_np.decoding.warpers import warpers_for

SEEDS = st.integers(0, 2**32 - 1)
DTYPES = st.sampled_from([np.float32, np.float64])


@given(SEEDS, DTYPES, st.floats(0.2, 3.0))
def test_repetition_penalty(seed: int, dtype: Any, penalty: float) -> None:
    ids, scores = random_batch(seed, dtype)
    theirs = apply_reference(reference.RepetitionPenaltyLogitsProcessor(penalty), ids, scores)
    assert_same_scores(RepetitionPenalty(penalty)(ids, None, scores), theirs)


@given(SEEDS)
def test_padding_is_not_penalised(seed: int) -> None:
    ids, scores = random_batch(seed)
    padding = np.random.default_rng(seed).integers(0, ids.shape[1], len(ids))
    is_real = np.arange(ids.shape[1]) >= padding[:, None]
    theirs = reference.RepetitionPenaltyLogitsProcessor(1.5, prompt_ignore_length=torch.tensor(padding))
    assert_same_scores(RepetitionPenalty(1.5)(ids, is_real, scores), apply_reference(theirs, ids, scores))


@given(SEEDS, st.integers(1, 4), st.integers(1, 3))
def test_no_repeated_ngrams(seed: int, size: int, number_of_tokens: int) -> None:
    ids, scores = random_batch(seed)
    ids = ids % min(number_of_tokens, scores.shape[1])  # few, so that they come again
    theirs = apply_reference(reference.NoRepeatNGramLogitsProcessor(size), ids, scores)
    assert_same_scores(NoRepeatNGrams(size)(ids, None, scores), theirs)


@st.composite
def _sequences(draw: st.DrawFn, ids: np.ndarray, size: int) -> list[tuple[int, ...]]:
    """Sequences of tokens, among them some that the text is about to complete."""
    token = st.integers(0, size - 1)
    begun = st.builds(
        lambda length, last: (*map(int, ids[0, ids.shape[1] - length :]), last), st.integers(0, ids.shape[1]), token
    )
    anything = st.lists(token, min_size=1, max_size=4).map(tuple)
    return draw(st.lists(begun | anything, min_size=1, max_size=6, unique=True))


@given(st.data(), SEEDS, DTYPES)
def test_sequence_bias(data: st.DataObject, seed: int, dtype: Any) -> None:
    ids, scores = random_batch(seed, dtype)
    sequences = data.draw(_sequences(ids, scores.shape[1]))
    # Sums of halves are exact in float32, in which the reference keeps biases.
    biases = {each: data.draw(st.integers(-20, 20)) / 2 for each in sequences}
    theirs = apply_reference(reference.SequenceBiasLogitsProcessor(biases), ids, scores)
    assert_same_scores(SequenceBias(biases)(ids, None, scores), theirs)


@given(st.data(), SEEDS)
def test_bad_words(data: st.DataObject, seed: int) -> None:
    ids, scores = random_batch(seed)
    eos, extra = scores.shape[1], np.zeros((len(ids), 2))
    scores = np.concatenate([scores, extra], axis=1)  # two tokens that are never banned
    words = [list(each) for each in data.draw(_sequences(ids, eos))]
    theirs = apply_reference(reference.NoBadWordsLogitsProcessor([*words, [eos]], eos), ids, scores)
    processors = processors_for(GenerationConfig(bad_words_ids=[*words, [eos]]), ids.shape[1], [eos], eos + 2)
    assert_same_scores(process(processors, ids, None, scores), theirs)


def test_two_bans_of_one_token_are_a_ban() -> None:
    scores = SequenceBias({(3,): -np.inf, (1, 3): -np.inf, (2, 3): 1.0})(np.array([[1], [2]]), None, np.zeros((2, 4)))
    np.testing.assert_array_equal(scores, [[0.0, 0.0, 0.0, -np.inf]] * 2)


@given(SEEDS, st.integers(0, 14), DTYPES)
def test_minimum_length(seed: int, length: int, dtype: Any) -> None:
    ids, scores = random_batch(seed, dtype)
    eos = [0, scores.shape[1] - 1]
    ours = BannedTokens(tuple(eos), range(length))(ids, None, scores)
    assert_same_scores(ours, apply_reference(reference.MinLengthLogitsProcessor(length, eos), ids, scores))


@given(SEEDS, st.integers(0, 12), st.integers(0, 14))
def test_minimum_of_new_tokens(seed: int, prompt_length: int, length: int) -> None:
    ids, scores = random_batch(seed)
    config = GenerationConfig(min_new_tokens=length)
    ours = process(processors_for(config, prompt_length, [0], scores.shape[1]), ids, None, scores)
    theirs = reference.MinNewTokensLengthLogitsProcessor(prompt_length, length, 0)
    assert_same_scores(ours, apply_reference(theirs, ids, scores))


@given(SEEDS, DTYPES)
def test_suppressed_tokens(seed: int, dtype: Any) -> None:
    ids, scores = random_batch(seed, dtype)
    tokens = [scores.shape[1] - 1, 0]
    theirs = apply_reference(reference.SuppressTokensLogitsProcessor(tokens), ids, scores)
    assert_same_scores(BannedTokens(tuple(tokens))(ids, None, scores), theirs)


@given(SEEDS, st.integers(1, 12))
def test_tokens_suppressed_at_the_beginning(seed: int, length: int) -> None:
    ids, scores = random_batch(seed)
    theirs = reference.SuppressTokensAtBeginLogitsProcessor([0], length)
    ours = BannedTokens((0,), range(length, length + 1))
    assert_same_scores(ours(ids, None, scores), apply_reference(theirs, ids, scores))


@given(SEEDS, DTYPES)
def test_forced_tokens(seed: int, dtype: Any) -> None:
    ids, scores = random_batch(seed, dtype)
    last, several = scores.shape[1] - 1, [0, scores.shape[1] - 1]
    theirs = reference.ForcedBOSTokenLogitsProcessor(last)
    assert_same_scores(ForcedTokens((last,), 1)(ids, None, scores), apply_reference(theirs, ids, scores))
    for length in (ids.shape[1], ids.shape[1] + 1):
        end = reference.ForcedEOSTokenLogitsProcessor(length, several)
        ours = ForcedTokens(tuple(several), length - 1)(ids, None, scores)
        assert_same_scores(ours, apply_reference(end, ids, scores))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_invalid_values_are_removed(dtype: Any) -> None:
    scores = np.array([[np.nan, np.inf, -np.inf, 1.5]], dtype)
    theirs = apply_reference(reference.InfNanRemoveLogitsProcessor(), np.zeros((1, 1), int), scores)
    np.testing.assert_array_equal(RemoveInvalid()(np.zeros((1, 1), int), None, scores), theirs)


@given(SEEDS, st.integers(0, 14), st.floats(0.3, 2.0), DTYPES)
def test_exponential_decay(seed: int, start: int, factor: float, dtype: Any) -> None:
    ids, scores = random_batch(seed, dtype)
    scores = scores.copy()
    scores[0, 0] = -np.inf
    eos = [0, scores.shape[1] - 1] if scores.shape[1] > 1 else [0]
    theirs = reference.ExponentialDecayLengthPenalty((start, factor), eos, 0)
    ours = ExponentialDecay(start, factor, tuple(eos))(ids, None, scores)
    assert_same_scores(ours, apply_reference(theirs, ids, scores))


def test_decay_stays_finite() -> None:
    scores = np.full((1, 2), 50.0, np.float32)
    changed = ExponentialDecay(0, 10.0, (1,))(np.zeros((1, 500), int), None, scores)
    assert changed[0, 0] == 50.0
    assert np.isfinite(changed[0, 1])
    assert changed[0, 1] > 1e30


# A few settings of each kind, so that every pair of processors comes together; tokens are below 20.
OPTIONS: dict[str, list[Any]] = {
    "sequence_bias": [[[[3, 4], 1.5], [[5], -2.5]]],
    "repetition_penalty": [1.3, 0.7],
    "no_repeat_ngram_size": [1, 2],
    "bad_words_ids": [[[6], [7, 8]]],
    "min_length": [9],
    "min_new_tokens": [3],
    "forced_bos_token_id": [9],
    "forced_eos_token_id": [10, [2, 11]],
    "remove_invalid_values": [True],
    "exponential_decay_length_penalty": [[1, 1.2]],
    "suppress_tokens": [[12, 13]],
    "begin_suppress_tokens": [[14, 2]],
    "do_sample": [True],
    "num_beams": [3],
    "temperature": [0.6],
    "top_k": [4, 15],
    "top_p": [0.8],
    "min_p": [0.05],
    "typical_p": [0.9],
    "epsilon_cutoff": [0.02],
    "eta_cutoff": [0.05],
    "renormalize_logits": [True],
    "max_length": [12],
}


@given(
    st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in OPTIONS.items()}),
    st.sampled_from([(), (2,), (2, 15)]),
    st.integers(1, 8),
    st.integers(0, 3),
    SEEDS,
)
def test_all_in_a_row_are_the_references(
    settings: dict[str, Any], eos_ids: tuple[int, ...], prompt_length: int, new_tokens: int, seed: int
) -> None:
    if not eos_ids:
        settings.pop("exponential_decay_length_penalty", None)
    random = np.random.default_rng(seed)
    ids = random.integers(0, 20, (3, prompt_length + new_tokens))
    scores = random.standard_normal((3, 20)) * 2.0
    config = GenerationConfig(**settings)
    ours = [*processors_for(config, prompt_length, eos_ids, 20, [_shifted]), *warpers_for(config, eos_ids)]
    assume(not _has_ties(ours, ids, scores))  # of which the reference keeps some by their places
    # `generate()` has set the lengths so before it makes processors.
    least, most = config.lengths(prompt_length)
    lengths = {"min_length": least, "max_length": most}
    theirs = reference_chain(settings | lengths, prompt_length, eos_ids, logits_processor=[_shifted])
    assert_same_scores(process(ours, ids, np.ones_like(ids, bool), scores), apply_reference(theirs, ids, scores))


def _shifted(ids: Any, scores: Any) -> Any:
    return scores + 0.25


def _has_ties(processors: Any, ids: np.ndarray, scores: np.ndarray) -> bool:
    """Whether at some step two finite scores of a row are nearly the same."""
    for processor in processors:
        scores = processor(ids, None, scores)
        for row in scores:
            if (np.diff(np.sort(row[np.isfinite(row)])) < 1e-9).any():
                return True
    return False


def test_the_order_is_the_references() -> None:
    settings = {name: values[0] for name, values in OPTIONS.items()}
    config = GenerationConfig(**settings)
    names = [
        type(each).__name__ for each in [*processors_for(config, 1, (2,), 20, [_shifted]), *warpers_for(config, (2,))]
    ]
    theirs = [type(each).__name__ for each in reference_chain(settings, 1, (2,), logits_processor=[_shifted])]
    theirs.remove("MinNewTokensLengthLogitsProcessor")  # min_new_tokens and min_length are one here
    assert dict(zip(theirs, names, strict=True)) == {
        "SequenceBiasLogitsProcessor": "SequenceBias",
        "RepetitionPenaltyLogitsProcessor": "RepetitionPenalty",
        "NoRepeatNGramLogitsProcessor": "NoRepeatNGrams",
        "NoBadWordsLogitsProcessor": "SequenceBias",
        "MinLengthLogitsProcessor": "BannedTokens",
        "ForcedBOSTokenLogitsProcessor": "ForcedTokens",
        "ForcedEOSTokenLogitsProcessor": "ForcedTokens",
        "InfNanRemoveLogitsProcessor": "RemoveInvalid",
        "ExponentialDecayLengthPenalty": "ExponentialDecay",
        "SuppressTokensLogitsProcessor": "BannedTokens",
        "SuppressTokensAtBeginLogitsProcessor": "BannedTokens",
        "function": "Custom",
        "TemperatureLogitsWarper": "Temperature",
        "TopKLogitsWarper": "TopK",
        "TopPLogitsWarper": "TopP",
        "MinPLogitsWarper": "MinP",
        "TypicalLogitsWarper": "Typical",
        "EpsilonLogitsWarper": "Epsilon",
        "EtaLogitsWarper": "Eta",
        "LogitNormalization": "Renormalize",
    }


def test_nothing_asked_for_is_nothing_done() -> None:
    config = GenerationConfig(suppress_tokens=[], begin_suppress_tokens=[])
    assert [*processors_for(config, 3, (2,), 20), *warpers_for(config, (2,))] == []


def test_a_custom_function_may_write_into_its_scores_and_not_into_the_ids() -> None:
    ids, scores = np.array([[1, 2]]), np.zeros((1, 3), np.float32)

    def ban(ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        scores[:, ids[0, -1]] = -np.inf
        return scores

    np.testing.assert_array_equal(Custom(ban)(ids, None, scores), [[0.0, 0.0, -np.inf]])
    np.testing.assert_array_equal(scores, 0.0)

    def write(ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        ids[0, 0] = 0
        return scores

    with pytest.raises(ValueError, match="read-only"):
        Custom(write)(ids, None, scores)


def test_a_custom_function_keeps_the_type_of_scores() -> None:
    scores = np.zeros((1, 3), np.float32)
    assert Custom(lambda _, scores: scores.astype(np.float64))(np.zeros((1, 1), int), None, scores).dtype == np.float32


@pytest.mark.parametrize("answer", [None, np.zeros((1, 2)), [[0.0, 0.0, 0.0]]])
def test_a_custom_function_that_returns_no_scores(answer: Any) -> None:
    def careless(ids: np.ndarray, scores: np.ndarray) -> Any:
        return answer

    with pytest.raises(ValueError, match=r"processor careless must return ndarray of shape \(1, 3\); it returned"):
        Custom(careless)(np.zeros((1, 1), int), None, np.zeros((1, 3)))


def test_a_custom_processor_that_is_no_function() -> None:
    with pytest.raises(TypeError, match=r"logits_processor must hold functions of .* 5 cannot be called"):
        processors_for(GenerationConfig(), 3, (2,), 20, [5])


@pytest.mark.parametrize(
    "settings",
    [
        {"sequence_bias": {(3, 20): 1.0}},
        {"bad_words_ids": [[20, 3]]},
        {"suppress_tokens": [3, 20]},
        {"begin_suppress_tokens": [20]},
        {"forced_bos_token_id": 20},
        {"forced_eos_token_id": [3, 20]},
    ],
)
def test_a_token_outside_the_vocabulary(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(settings))} names token 20, but the model knows only 0 to 19"):
        processors_for(GenerationConfig(**settings), 3, (2,), 20)


def test_an_end_token_outside_the_vocabulary() -> None:
    with pytest.raises(ValueError, match="eos_token_id names token 20"):
        processors_for(GenerationConfig(), 3, (20,), 20)


@pytest.mark.parametrize(
    "settings",
    [
        {"suppress_tokens": [0, 1, 2, 3]},
        {"suppress_tokens": [0, 1], "begin_suppress_tokens": [2, 3]},
        {"suppress_tokens": [0, 1], "bad_words_ids": [[2], [3], [1, 2]]},
    ],
)
def test_nothing_is_left(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="leave none of the 4 tokens"):
        processors_for(GenerationConfig(**settings), 3, (), 4)


def test_bad_words_that_are_all_end_tokens() -> None:
    with pytest.raises(ValueError, match=r"bad_words_ids=\[\[2\]\] holds only end tokens"):
        processors_for(GenerationConfig(bad_words_ids=[[2]]), 3, (2,), 20)


def test_a_decay_without_an_end() -> None:
    with pytest.raises(ValueError, match=r"exponential_decay_length_penalty=\[5, 1\.5\] .* set eos_token_id too"):
        processors_for(GenerationConfig(exponential_decay_length_penalty=[5, 1.5]), 3, (), 20)
