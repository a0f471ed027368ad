"""The cross-entropy of class labels under logits."""

from typing import NamedTuple

from jaxtyping import Bool, Float, Int

from xlmr_np.arrays import Array, array_namespace, at_least_float32

IGNORED_LABEL = -100


class CrossEntropyCache(NamedTuple):
    """What the backward pass needs besides the labels."""

    probabilities: Float[Array, "N C"]
    is_possible: Bool[Array, "N C"]  # False at classes that are ruled out


def cross_entropy_forward(
    logits: Float[Array, "N C"], labels: Int[Array, " N"], smoothing: float = 0.0
) -> tuple[Float[Array, ""], CrossEntropyCache]:
    """The mean of -log softmax(logits)[label] over the rows whose label is not -100, in at least float32 (CE.7).

    If every row is ignored the loss is 0: there is nothing to be wrong about.

    Args:
        logits: [N, C]; -inf rules a class out, and a counted row with such a label has an infinite loss.
        labels: [N], each from 0 to C - 1, or -100 to leave the row out, whatever its logits are.
        smoothing: the share of the loss, from 0 to below 1, that is the mean of -log softmax(logits) over all classes
            which are not ruled out, in place of the label's.
    """
    xp = array_namespace(logits)
    wide = at_least_float32(logits)
    is_counted = labels != IGNORED_LABEL
    index = xp.where(is_counted, labels, xp.zeros_like(labels))
    largest = xp.max(wide, axis=1, keepdims=True)
    shifted = wide - xp.where(xp.isfinite(largest), largest, xp.zeros_like(largest))
    exponentials = xp.exp(shifted)
    total = xp.sum(exponentials, axis=1, keepdims=True)
    divisor = xp.where(total == 0.0, xp.ones_like(total), total)  # 0: every class is ruled out
    surprisals = xp.log(divisor) - shifted
    of_label = xp.take_along_axis(surprisals, index[:, None], axis=1)[:, 0]
    is_possible = wide != -xp.inf
    possible = xp.where(is_possible, surprisals, xp.zeros_like(surprisals))
    of_all = xp.sum(uniform(is_possible, possible) * possible, axis=1)
    surprisal = (1.0 - smoothing) * of_label + smoothing * of_all
    counted = xp.where(is_counted, surprisal, xp.zeros_like(surprisal))
    cache = CrossEntropyCache(exponentials / divisor, is_possible)
    return xp.sum(counted) / number_of_counted(is_counted, counted), cache


def cross_entropy_backward(
    d_loss: Float[Array, ""], cache: CrossEntropyCache, labels: Int[Array, " N"], smoothing: float = 0.0
) -> Float[Array, "N C"]:
    """The gradient of the logits [N, C]: (softmax - smoothed one-hot of the label) / number of counted rows (CE.9).

    Exactly 0 at -inf logits other than the label, and in every row that is left out.
    """
    probabilities, is_possible = cache
    xp = array_namespace(probabilities)
    is_counted = labels != IGNORED_LABEL
    classes = xp.arange(probabilities.shape[1], device=probabilities.device)
    one_hot = xp.astype(classes[None, :] == labels[:, None], probabilities.dtype)
    target = (1.0 - smoothing) * one_hot + smoothing * uniform(is_possible, probabilities)  # CE.6
    d_logits = (probabilities - target) * (d_loss / number_of_counted(is_counted, probabilities))
    return xp.where(is_counted[:, None], d_logits, xp.zeros_like(d_logits))


def number_of_counted(is_counted: Bool[Array, " N"], like: Float[Array, "..."]) -> Float[Array, ""]:
    """How many rows count, as a number of the type of `like`; 1 if none does, as their sum is 0 then (M of CE.2)."""
    xp = array_namespace(like)
    return xp.clip(xp.sum(xp.astype(is_counted, like.dtype)), min=1.0)


def uniform(is_possible: Bool[Array, "*rows C"], like: Float[Array, "..."]) -> Float[Array, "*rows C"]:
    """The same probability for every class that is possible, as numbers of the type of `like` (u of CE.6)."""
    xp = array_namespace(like)
    possible = xp.astype(is_possible, like.dtype)
    return possible / xp.clip(xp.sum(possible, axis=-1, keepdims=True), min=1.0)  # 0 of 1 where none is
