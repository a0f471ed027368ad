"""Greedy decoding and sampling: every text takes one token at a time, the likeliest or a drawn one."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from xlmr_np.arrays import Array, array_namespace
from xlmr_np.decoding.continuation import Continuation
from xlmr_np.decoding.processors import Processor, process
from xlmr_np.decoding.stopping import Criterion, is_finished


class Steps(NamedTuple):
    """What each step had, as far as it was asked for."""

    scores: list[Float[Array, "B V"]]  # as processors left them
    logits: list[Float[Array, "B V"]]

    def keep(self, scores: Float[Array, "B V"], logits: Float[Array, "B V"], keeps: tuple[bool, bool]) -> None:
        """Another step's scores, and its logits, each if it is asked for."""
        for kept, each, is_asked_for in zip(self, (scores, logits), keeps, strict=True):
            if is_asked_for:
                kept.append(each)


def continue_token_by_token(
    texts: Continuation,
    logits: Float[Array, "B V"],
    processors: Sequence[Processor],
    criteria: Sequence[Criterion],
    choose: Callable[[Float[Array, "B V"]], Int[np.ndarray, " B"]],
    pad_id: int,
    keeps: tuple[bool, bool] = (False, False),
    streamer: Any = None,
) -> Steps:
    """Continue the texts until each of them is finished; what follows the end of one in the batch is padding.

    Args:
        texts: to be continued.
        logits: of their first new tokens.
        processors: change the logits of each step.
        criteria: say which texts are finished.
        choose: the tokens, given the changed scores.
        pad_id: stands behind the end of a text.
        keeps: whether to keep the scores, and the logits, of all steps.
        streamer: its `put` gets the tokens of each step; None for none.
    """
    goes_on: Bool[np.ndarray, " B"] = np.ones(len(texts.ids), bool)
    steps = Steps([], [])
    while True:
        scores = process(processors, texts.ids, texts.are_real, logits)
        steps.keep(scores, logits, keeps)
        tokens = np.where(goes_on, choose(_without_ended(scores, goes_on)), pad_id)
        texts.append(tokens, goes_on)
        if streamer is not None:
            streamer.put(tokens)
        goes_on = goes_on & ~is_finished(criteria, texts.ids, steps.scores)
        if not goes_on.any():
            return steps
        logits = texts.logits()


def _without_ended(scores: Float[Array, "B V"], goes_on: Bool[np.ndarray, " B"]) -> Float[Array, "B V"]:
    """The scores with zeros for texts that have ended, of which nobody knows what processors leave."""
    if goes_on.all():
        return scores
    xp = array_namespace(scores)
    return xp.where(xp.asarray(goes_on, device=scores.device)[:, None], scores, xp.zeros_like(scores))
