"""The cross-entropy of class labels under logits."""

from typing import NamedTuple

from jaxtyping import Bool, Float, Int

from xlmr_np.arrays import Array, array_namespace, at_least_float32

IGNORED_LABEL = -100


class CrossEntropyCache(NamedTuple):
    """What the backward pass needs."""

    probabilities: Float[Array, "N C"]
    is_counted: Bool[Array, " N"]


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
    number = xp.clip(xp.sum(xp.astype(is_counted, wide.dtype)), min=1.0)
    loss = xp.sum(xp.where(is_counted, surprisal, xp.zeros_like(surprisal))) / number
    return loss, CrossEntropyCache(exponentials / divisor, is_counted)


def cross_entropy_backward(
    d_loss: Float[Array, ""], cache: CrossEntropyCache, labels: Int[Array, " N"]
) -> Float[Array, "N C"]:
    """The gradient of the logits [N, C]: (softmax - one-hot of the label) / number of counted rows (CE.5).

    Exactly 0 at -inf logits other than the label, and in every row that is left out.
    """
    xp = array_namespace(cache.probabilities)
    classes = xp.arange(cache.probabilities.shape[1], device=cache.probabilities.device)
    one_hot = xp.astype(classes[None, :] == labels[:, None], cache.probabilities.dtype)
    number = xp.clip(xp.sum(xp.astype(cache.is_counted, cache.probabilities.dtype)), min=1.0)
    d_logits = (cache.probabilities - one_hot) * (d_loss / number)
    return xp.where(cache.is_counted[:, None], d_logits, xp.zeros_like(d_logits))
