"""Beam search: of each prompt, the K likeliest texts so far go on, and the K best that have ended are kept.

In the form of the reference, so that results agree with it to the token: Wu et al. 2016 (arXiv:1609.08144, section 7),
with a power of the number of new tokens for the length normalisation.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from xlmr_np.arrays import Array, array_namespace, to_numpy
from xlmr_np.decoding.continuation import Continuation
from xlmr_np.decoding.processors import Processor, process
from xlmr_np.decoding.sampling import draw_without_replacement, likeliest
from xlmr_np.decoding.stopping import Criterion, is_finished
from xlmr_np.decoding.token_by_token import Steps
from xlmr_np.decoding.warpers import log_probabilities

HOPELESS = -1e9  # added to the score of what may go on only where there is nothing else
NOTHING = -1  # where a text has no token


class BeamSetting(NamedTuple):
    """What a beam search is asked for; see `GenerationConfig`."""

    num_beams: int
    most_new_tokens: int
    number_of_end_tokens: int
    length_penalty: float
    early_stopping: bool | str


class Beams(NamedTuple):
    """Some texts of each of B prompts: their new tokens, where these came from, and their scores."""

    tokens: Int[np.ndarray, "B K T"]  # NOTHING where there is none yet
    rows: Int[np.ndarray, "B K T"]  # of all beams of the batch, that which each token was put behind; likewise
    scores: Float[np.ndarray, "B K"]

    def take(self, places: Int[np.ndarray, "B k"]) -> "Beams":
        """Some of each prompt's."""
        tokens, rows = (np.take_along_axis(each, places[:, :, None], axis=1) for each in self[:2])
        return Beams(tokens, rows, np.take_along_axis(self.scores, places, axis=1))


def search_beams(
    texts: Continuation,
    logits: Float[Array, "rows V"],
    processors: Sequence[Processor],
    criteria: Sequence[Criterion],
    setting: BeamSetting,
    generator: np.random.Generator | None = None,
    keeps: tuple[bool, bool] = (False, False),
) -> tuple[Beams, Steps]:
    """The best texts of each prompt that have ended, the best first; scores are divided by length ** length_penalty.

    Args:
        texts: of each prompt `num_beams` equal rows; changed.
        logits: of their first new tokens.
        processors: change the log-probabilities of each step.
        criteria: say which texts are finished; the last step finishes all.
        setting: what is asked for.
        generator: draws the candidates of each step; None takes the likeliest.
        keeps: whether to keep the scores, and the logits, of all steps.
    """
    beams, length = setting.num_beams, setting.most_new_tokens
    prompts = len(texts.ids) // beams
    number_of_candidates = max(2, 1 + setting.number_of_end_tokens) * beams  # so that enough go on if the best all end
    prompt_of_candidates = np.repeat(texts.ids[::beams], number_of_candidates, axis=0)

    empty = np.full((prompts, beams, length), NOTHING)
    zeros = np.zeros((prompts, beams), to_numpy(logits[:0, :0]).dtype)
    ended, has_ended = Beams(empty, empty, zeros - np.inf), np.zeros((prompts, beams), bool)
    running = Beams(empty, empty, zeros + HOPELESS * (np.arange(beams) > 0))  # all are equal; one is enough
    may_improve = np.ones((prompts, 1), bool)
    steps = Steps([], [])
    for step in range(length):
        # 1. What each text scores with each token behind it, and the best of these.
        log_probs = process(processors, texts.ids, texts.are_real, log_probabilities(logits))
        steps.keep(log_probs, logits, keeps)
        candidates = _candidates(running, log_probs, step, number_of_candidates, generator)
        # 2. Those that are finished, if they are among the best K, join those that ended before.
        new_tokens = candidates.tokens[:, :, : step + 1].reshape(prompts * number_of_candidates, -1)
        stops = is_finished(criteria, np.concatenate([prompt_of_candidates, new_tokens], axis=1), steps.scores)
        stops = stops.reshape(prompts, -1)
        ends = stops & (np.arange(number_of_candidates) < beams)
        is_full = has_ended.all(axis=1, keepdims=True) & (setting.early_stopping is True)
        ends &= may_improve & ~is_full
        final = np.where(ends, candidates.scores / (step + 1.0) ** setting.length_penalty, -np.inf)
        both = Beams(
            *(np.concatenate(pair, axis=1) for pair in zip(ended, candidates._replace(scores=final), strict=True))
        )
        best = _best(both.scores, beams)
        ended = both.take(best)
        has_ended = np.take_along_axis(np.concatenate([has_ended, ends], axis=1), best, axis=1)
        # 3. The others go on, while they may still become better than what has ended.
        going = candidates.scores + stops * HOPELESS
        running = candidates._replace(scores=going).take(_best(going, beams))
        final_length = length if setting.early_stopping == "never" and setting.length_penalty > 0 else step + 1.0
        best_to_come = running.scores[:, :1] / final_length**setting.length_penalty
        to_beat = np.where(has_ended, ended.scores.min(axis=1, keepdims=True), -np.inf)
        may_improve = may_improve & (best_to_come > to_beat).any(axis=1, keepdims=True)
        if not may_improve.any() or stops.all() or (has_ended.all() and setting.early_stopping is True):
            break
        texts.select(running.rows[:, :, step].ravel())
        texts.append(running.tokens[:, :, step].ravel(), np.ones(prompts * beams, bool))
        logits = texts.logits()
    return ended, steps


def _candidates(
    running: Beams, log_probs: Float[Array, "rows V"], step: int, number: int, generator: np.random.Generator | None
) -> Beams:
    """Texts with one token more: the likeliest of each prompt, or as many drawn ones, in falling order or as drawn."""
    xp, size = array_namespace(log_probs), log_probs.shape[1]
    prompts, beams = running.scores.shape
    scores = xp.reshape(xp.asarray(running.scores, dtype=log_probs.dtype, device=log_probs.device), (-1, 1)) + log_probs
    scores = xp.reshape(scores, (prompts, -1))
    chosen = likeliest(scores, number) if generator is None else _drawn(to_numpy(scores), number, generator)
    at = xp.asarray(chosen, device=scores.device)
    candidates = running.take(chosen // size)._replace(scores=to_numpy(xp.take_along_axis(scores, at, axis=1)))
    candidates.tokens[:, :, step] = chosen % size
    candidates.rows[:, :, step] = chosen // size + np.arange(prompts)[:, None] * beams
    return candidates


def _drawn(scores: Float[np.ndarray, "B V"], number: int, generator: np.random.Generator) -> Int[np.ndarray, "B k"]:
    """Places that are drawn; where fewer than `number` are possible, as at a forced token, others behind them."""
    possible = int((scores > -np.inf).sum(axis=1).min())
    drawn = draw_without_replacement(scores, max(1, min(number, possible)), generator)
    if drawn.shape[1] == number:
        return drawn
    left = np.array(scores)
    np.put_along_axis(left, drawn, -np.inf, axis=1)
    return np.concatenate([drawn, _best(left, number)[:, : number - drawn.shape[1]]], axis=1)


def _best(scores: Float[np.ndarray, "B n"], number: int) -> Int[np.ndarray, "B k"]:
    """The places of the best, in falling order; of equal ones the first."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :number]
