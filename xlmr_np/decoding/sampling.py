"""Choosing tokens by their scores: the likeliest, or at random with a generator that is passed in."""

import numpy as np
from jaxtyping import Float, Int

from xlmr_np.arrays import Array, array_namespace, to_numpy


def likeliest_token(scores: Float[Array, "B V"]) -> Int[np.ndarray, " B"]:
    """The token with the largest score in each row, the first of several, on the host.

    Raises:
        ValueError: a row has NaN or inf, or nothing but -inf.
    """
    xp = array_namespace(scores)
    _check_can_be_chosen(xp.max(scores, axis=-1))
    return to_numpy(xp.argmax(scores, axis=-1)).astype(np.int64)


def likeliest(scores: Float[Array, "B K"], k: int) -> Int[np.ndarray, "B k"]:
    """The places of the k largest entries of each row, the largest first, on the host.

    Args:
        scores: [B, K], which may be -inf.
        k: from 1 to K.

    Raises:
        ValueError: a row has NaN or inf, or nothing but -inf.
    """
    xp = array_namespace(scores)
    _check_can_be_chosen(xp.max(scores, axis=-1))
    # In the order of their places first, so that of equal ones the first comes first.
    places = xp.sort(xp.argpartition(-scores, k - 1, axis=-1)[:, :k], axis=-1)
    order = xp.argsort(-xp.take_along_axis(scores, places, axis=-1), axis=-1, stable=True)
    return to_numpy(xp.take_along_axis(places, order, axis=-1)).astype(np.int64)


def draw(scores: Float[Array, "B V"], generator: np.random.Generator) -> Int[np.ndarray, " B"]:
    """One token for each row, drawn with probabilities softmax(scores), on the host.

    A uniform number per row, times the sum of all weights, falls into the span of one token among the cumulative
    weights (inversion sampling, in float64). A token of -inf is never drawn.

    Args:
        scores: logits or logarithms of probabilities, as warpers leave them.
        generator: gives one number per row, whatever the scores are.

    Raises:
        ValueError: a row has NaN or inf, or nothing but -inf.
    """
    xp = array_namespace(scores)
    largest = xp.max(scores, axis=-1, keepdims=True)
    _check_can_be_chosen(largest[:, 0])
    weights = xp.exp(scores - largest)
    # Only where the weight is positive: a GPU's partial sums may rise by a rounding where it is 0.
    cumulative = xp.where(weights > 0, xp.cumulative_sum(weights, axis=-1, dtype=xp.float64), 0.0)
    total = to_numpy(xp.max(cumulative, axis=-1))
    # Rounded up to the total itself, a number would lie behind the last span.
    number = np.minimum(generator.random(len(total)) * total, np.nextafter(total, 0.0))
    is_behind = cumulative > xp.asarray(number, device=scores.device)[:, None]
    return to_numpy(xp.argmax(xp.astype(is_behind, xp.int8), axis=-1)).astype(np.int64)


def draw_without_replacement(
    scores: Float[Array, "B K"], k: int, generator: np.random.Generator
) -> Int[np.ndarray, "B k"]:
    """The places of k different entries of each row, as if drawn one after the other with softmax(scores).

    The k largest of scores plus independent Gumbel noise are such a draw. Source: Kool et al., "Stochastic Beams and
    Where to Find Them" (2019), section 2.3.

    Args:
        scores: logits or logarithms of probabilities.
        k: at least 1.
        generator: gives one number for each score that is not -inf.

    Returns:
        Places, in the order of the draw, on the host.

    Raises:
        ValueError: a row has NaN or inf, or fewer than k scores that are not -inf.
    """
    host = to_numpy(scores)
    _check_can_be_chosen(host.max(axis=-1))
    is_possible = host > -np.inf
    numbers = is_possible.sum(axis=-1)
    if numbers.min() < k:
        row = int(numbers.argmin())
        raise ValueError(f"{k} different tokens are to be drawn, but row {row} leaves {numbers[row]}; ban fewer.")
    noisy = np.full(host.shape, -np.inf)
    noisy[is_possible] = host[is_possible] + generator.gumbel(size=int(numbers.sum()))
    return likeliest(noisy, k)


def _check_can_be_chosen(largest: Float[Array, " B"]) -> None:
    """Refuses rows whose largest score is not finite."""
    host = to_numpy(largest)
    for row in np.flatnonzero(~np.isfinite(host))[:1]:
        if host[row] == -np.inf:
            raise ValueError(f"Row {row} leaves no token to choose: every score is -inf; ban fewer tokens.")
        raise ValueError(
            f"Row {row} has a score of {host[row]}, by which nothing can be chosen; mend the model or the logits "
            "processors, or set remove_invalid_values=True."
        )
