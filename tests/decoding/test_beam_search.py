"""Beam search against the reference's: texts, scores, and where each token came from."""

from itertools import product
from typing import Any

import numpy as np
import pytest

from tests.decoding.decoders import VOCABULARY, decoder
from tests.decoding.test_generate import ENDS, MODES, PROMPTS, mask_of, pair, reference_tokens
from tests.reference_models import TINY, random_ids

pytestmark = pytest.mark.usefixtures("quick_steps")

RECORD = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}


def check_record(position_mode: str, prompts: np.ndarray = PROMPTS, **settings: Any) -> Any:
    reference, model = pair()
    settings = {"max_new_tokens": 12, **RECORD, **settings}
    theirs = reference_tokens(reference, prompts, position_mode, **settings)
    ours = model.generate(prompts, attention_mask=mask_of(prompts), position_mode=position_mode, **settings)
    assert set(ours.keys()) == set(theirs.keys())
    np.testing.assert_array_equal(ours.sequences, theirs.sequences.numpy())
    np.testing.assert_array_equal(ours.beam_indices, theirs.beam_indices.numpy())
    np.testing.assert_allclose(ours.sequences_scores, theirs.sequences_scores.numpy(), atol=1e-4, rtol=1e-4)  # float32
    for name in ("scores", "logits"):
        assert len(ours[name]) == len(theirs[name])
        for our, their in zip(ours[name], theirs[name], strict=True):
            assert our.shape == (len(prompts) * settings["num_beams"], VOCABULARY)
            np.testing.assert_allclose(our, their.numpy(), atol=5e-4, rtol=1e-4)  # sums of float32 of order ten
    return ours


@MODES
@pytest.mark.parametrize("length_penalty", [0.0, 0.5, 1.0, 2.0, -1.0])
@pytest.mark.parametrize("early_stopping", [False, True, "never"])
def test_when_a_search_ends(early_stopping: bool | str, length_penalty: float, position_mode: str) -> None:
    record = check_record(
        position_mode,
        num_beams=3,
        num_return_sequences=3,
        early_stopping=early_stopping,
        length_penalty=length_penalty,
        eos_token_id=ENDS,
    )
    assert np.isin(record.sequences[:, 5:], ENDS).any()
    by_prompt = record.sequences_scores.reshape(3, 3)
    assert (by_prompt == -np.sort(-by_prompt, axis=1)).all()


@pytest.mark.exhaustive
@pytest.mark.parametrize("seed", range(40))
def test_many_searches(seed: int) -> None:
    random = np.random.default_rng(seed)
    prompts = random_ids(random.integers(1, 9, random.integers(1, 5)).tolist(), side="left")
    for _ in range(10):
        beams = int(random.integers(2, 7))
        check_record(
            str(random.choice(["model", "huggingface"])),
            prompts,
            num_beams=beams,
            num_return_sequences=int(random.integers(1, beams + 1)),
            early_stopping=[False, True, "never"][random.integers(3)],
            length_penalty=float(random.choice([0.0, 0.5, 1.0, 2.0, -1.0])),
            eos_token_id=random.choice(VOCABULARY, random.integers(1, 9), replace=False).tolist(),
            max_new_tokens=int(random.integers(1, 15)),
            repetition_penalty=float(random.choice([1.0, 1.3])),
        )


@MODES
@pytest.mark.parametrize(("beams", "returned"), [(2, 1), (5, 5), (4, 2)])
def test_how_many_beams_and_texts(beams: int, returned: int, position_mode: str) -> None:
    record = check_record(position_mode, num_beams=beams, num_return_sequences=returned, repetition_penalty=1.4)
    assert record.sequences.shape[0] == record.sequences_scores.shape[0] == 3 * returned


@MODES
def test_one_end_token_and_none_that_comes(position_mode: str) -> None:
    for end in (7, 60):
        check_record(position_mode, num_beams=3, eos_token_id=end, num_return_sequences=2)


def test_without_a_cache() -> None:
    _, model = pair()
    settings = {"num_beams": 3, "max_new_tokens": 8, "num_return_sequences": 3, "eos_token_id": ENDS, **RECORD}
    ours, expected = (model.generate(PROMPTS, use_cache=use_cache, **settings) for use_cache in (False, True))
    np.testing.assert_array_equal(ours.sequences, expected.sequences)
    np.testing.assert_array_equal(ours.beam_indices, expected.beam_indices)
    np.testing.assert_allclose(ours.sequences_scores, expected.sequences_scores, rtol=1e-5)  # float32


def test_hidden_states_and_attentions_are_of_all_beams() -> None:
    reference, model = pair()
    settings = {"num_beams": 2, "max_new_tokens": 4, "output_hidden_states": True, "output_attentions": True, **RECORD}
    ours = model.generate(PROMPTS, position_mode="huggingface", **settings)
    theirs = reference_tokens(reference, PROMPTS, "huggingface", **settings)
    for name in ("hidden_states", "attentions"):
        for our_step, their_step in zip(ours[name], theirs[name], strict=True):
            shapes = [each.shape for each in our_step]
            if our_step is ours[name][0]:  # of the prompts: here each computed once, and repeated
                assert shapes[0][0] == 6
            assert shapes == [tuple(each.shape) for each in their_step]
            for our, their in zip(our_step, their_step, strict=True):
                last = their[:2, ..., -1, :].numpy()
                np.testing.assert_allclose(our[:2, ..., -1, :], last, atol=2e-4, rtol=1e-3)  # float32, through layers


def test_scores_are_sums_over_lengths() -> None:
    """Recomputed from the logits of a plain forward pass over each text."""
    model = decoder()
    for penalty in (0.0, 1.0, 1.7):
        settings = {"num_beams": 4, "num_return_sequences": 4, "eos_token_id": ENDS, "max_new_tokens": 9}
        record = model.generate(PROMPTS, length_penalty=penalty, **settings, **RECORD)
        for text, score, rows in zip(record.sequences, record.sequences_scores, record.beam_indices, strict=True):
            number = int((rows >= 0).sum())
            logits = model(text[None, : 5 + number], use_cache=False).logits[0]
            log_probabilities = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
            total = sum(log_probabilities[4 + step, text[5 + step]] for step in range(number))
            np.testing.assert_allclose(score, total / number**penalty, rtol=1e-9)  # float64, sums in another order
            assert (text[5 + number :] == 1).all()


def test_the_rows_that_tokens_came_from() -> None:
    model = decoder()
    record = model.generate(PROMPTS, num_beams=3, num_return_sequences=3, max_new_tokens=8, eos_token_id=ENDS, **RECORD)
    for number, (text, rows, score) in enumerate(
        zip(record.sequences, record.beam_indices, record.sequences_scores, strict=True)
    ):
        steps = int((rows >= 0).sum())
        assert (rows[:steps] // 3 == number // 3).all()
        total = sum(record.scores[step][rows[step], text[5 + step]] for step in range(steps))
        np.testing.assert_allclose(score, total / steps, rtol=1e-9)  # float64, sums in another order


def test_enough_beams_find_the_best_text_of_all() -> None:
    """A search as wide as the vocabulary leaves out nothing, over two steps."""
    model = decoder(vocab_size=9)
    prompt = np.array([[5, 6]])
    record = model.generate(prompt, num_beams=9, max_new_tokens=2, eos_token_id=2, suppress_tokens=[2], **RECORD)
    every = np.array(
        [[5, 6, first, second] for first, second in product(range(9), repeat=2) if 2 not in (first, second)]
    )
    logits = model(every, np.ones(every.shape), use_cache=False).logits
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    totals = sum(log_probabilities[np.arange(len(every)), 1 + step, every[:, 2 + step]] for step in range(2))
    np.testing.assert_array_equal(record.sequences[0], every[totals.argmax()])
    np.testing.assert_allclose(record.sequences_scores[0], totals.max() / 2, rtol=1e-9)  # the order of sums


# --- beams that are drawn ---


def test_drawn_beams_can_be_drawn_again() -> None:
    model = decoder()
    settings = {"num_beams": 3, "num_return_sequences": 3, "do_sample": True, "max_new_tokens": 8, **RECORD}
    first, again, other = (
        model.generate(PROMPTS, generator=np.random.default_rng(seed), **settings) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first.sequences, again.sequences)
    np.testing.assert_array_equal(first.sequences_scores, again.sequences_scores)
    assert first.sequences.shape != other.sequences.shape or (first.sequences != other.sequences).any()
    texts = {tuple(text) for text in first.sequences}
    assert len(texts) == 9
    for number, (text, rows) in enumerate(zip(first.sequences, first.beam_indices, strict=True)):
        steps = int((rows >= 0).sum())
        total = sum(first.scores[step][rows[step], text[5 + step]] for step in range(steps))
        np.testing.assert_allclose(first.sequences_scores[number], total / steps, rtol=1e-9)  # the order of sums


def test_drawn_beams_keep_to_what_warpers_leave() -> None:
    """Of two beams, at least three tokens: one more than can end."""
    model = decoder()
    record = model.generate(
        PROMPTS,
        num_beams=2,
        do_sample=True,
        top_k=1,
        eos_token_id=60,
        max_new_tokens=6,
        generator=np.random.default_rng(0),
        **RECORD,
    )
    for scores in record.scores:
        assert (np.isfinite(scores).sum(axis=1) == 2).all()
    assert record.sequences.max() < TINY["vocab_size"]
