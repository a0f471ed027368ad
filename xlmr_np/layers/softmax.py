"""The softmax over the last axis, in which some entries may be hidden."""

from typing import NamedTuple

from jaxtyping import Bool, Float

from xlmr_np.arrays import Array, array_namespace, at_least_float32


class SoftmaxCache(NamedTuple):
    """What the backward pass needs: the result alone."""

    probabilities: Float[Array, "*batch S"]


def softmax_forward(
    scores: Float[Array, "*batch S"], is_visible: Bool[Array, "..."] | None = None
) -> tuple[Float[Array, "*batch S"], SoftmaxCache]:
    """exp(scores) divided by its sum over the visible entries of the last axis.

    Args:
        scores: [..., S].
        is_visible: broadcasts to the shape of `scores`; a hidden entry counts as -inf, and its probability
            is exactly 0. A row without a visible entry yields zeros, never NaN. None: all are visible.

    Returns:
        Probabilities [..., S] in at least float32, and the cache. The largest visible score is subtracted
        first, so that no exponential overflows and adding a constant to a row changes nothing.
    """
    xp = array_namespace(scores)
    wide = at_least_float32(scores)
    if wide.shape[-1] == 0:
        return wide, SoftmaxCache(wide)
    hidden = xp.asarray(-xp.inf, dtype=wide.dtype, device=wide.device)
    masked = wide if is_visible is None else xp.where(is_visible, wide, hidden)
    largest = xp.max(masked, axis=-1, keepdims=True)
    exponentials = xp.exp(masked - xp.where(xp.isfinite(largest), largest, xp.zeros_like(largest)))
    total = xp.sum(exponentials, axis=-1, keepdims=True)
    probabilities = exponentials / xp.where(total == 0.0, xp.ones_like(total), total)
    return probabilities, SoftmaxCache(probabilities)


def softmax_backward(d_probabilities: Float[Array, "*batch S"], cache: SoftmaxCache) -> Float[Array, "*batch S"]:
    """The gradient of the scores [..., S] (SM.5); exactly 0 at hidden entries, whose probability is 0."""
    xp = array_namespace(d_probabilities)
    probabilities = cache.probabilities
    along = xp.sum(d_probabilities * probabilities, axis=-1, keepdims=True)
    return probabilities * (d_probabilities - along)
