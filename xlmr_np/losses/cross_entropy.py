"""The cross-entropy of class labels under logits."""

from typing import NamedTuple

from jaxtyping import Bool, Float, Int

from xlmr_np.arrays import Array, array_namespace, at_least_float32

IGNORED_LABEL = -100


class CrossEntropyCache(NamedTuple):
    """What the backward pass needs besides the labels."""

    probabilities: Float[Array, "N C"]


def cross_entropy_forward(
    logits: Float[Array, "N C"], labels: Int[Array, " N"]
) -> tuple[Float[Array, ""], CrossEntropyCache]:
    """The mean of -log softmax(logits)[label] over the rows whose label is not -100, in at least float32.

    If every row is ignored the loss is 0: there is nothing to be wrong about.

    Args:
        logits: [N, C]; -inf rules a class out, and a counted row with such a label has an infinite loss.
        labels: [N], each from 0 to C - 1, or -100 to leave the row out, whatever its logits are.
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
    surprisal = xp.take_along_axis(xp.log(divisor) - shifted, index[:, None], axis=1)[:, 0]
    counted = xp.where(is_counted, surprisal, xp.zeros_like(surprisal))
    return xp.sum(counted) / number_of_counted(is_counted, counted), CrossEntropyCache(exponentials / divisor)


def cross_entropy_backward(
    d_loss: Float[Array, ""], cache: CrossEntropyCache, labels: Int[Array, " N"]
) -> Float[Array, "N C"]:
    """The gradient of the logits [N, C]: (softmax - one-hot of the label) / number of counted rows (CE.5).

    Exactly 0 at -inf logits other than the label, and in every row that is left out.
    """
    probabilities = cache.probabilities
    xp = array_namespace(probabilities)
    is_counted = labels != IGNORED_LABEL
    classes = xp.arange(probabilities.shape[1], device=probabilities.device)
    one_hot = xp.astype(classes[None, :] == labels[:, None], probabilities.dtype)
    d_logits = (probabilities - one_hot) * (d_loss / number_of_counted(is_counted, probabilities))
    return xp.where(is_counted[:, None], d_logits, xp.zeros_like(d_logits))


def number_of_counted(is_counted: Bool[Array, " N"], like: Float[Array, "..."]) -> Float[Array, ""]:
    """How many rows count, as a number of the type of `like`; 1 if none does, as their sum is 0 then (M of CE.2)."""
    xp = array_namespace(like)
    return xp.clip(xp.sum(xp.astype(is_counted, like.dtype)), min=1.0)
