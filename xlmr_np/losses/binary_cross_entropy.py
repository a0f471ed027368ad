"""The cross-entropy of C independent yes-or-no questions, the loss of multi-label classification."""

from typing import NamedTuple

from jaxtyping import Float

from xlmr_np.arrays import Array, array_namespace, at_least_float32


class BinaryCrossEntropyCache(NamedTuple):
    """What the backward pass needs besides the targets: σ(logits)."""

    probabilities: Float[Array, "N C"]


def binary_cross_entropy_forward(
    logits: Float[Array, "N C"], targets: Float[Array, "N C"]
) -> tuple[Float[Array, ""], BinaryCrossEntropyCache]:
    """The mean of -t log σ(z) - (1 - t) log(1 - σ(z)) over all elements, in at least float32 (BCE.4).

    No exponential overflows and no logarithm meets 0, however large the logits are.

    Args:
        logits: [N, C], with at least one element.
        targets: [N, C], each the probability of yes, from 0 to 1.
    """
    xp = array_namespace(logits)
    wide = at_least_float32(logits)
    wide_targets = xp.astype(targets, wide.dtype, copy=False)
    small = xp.exp(-xp.abs(wide))  # never above 1
    loss = xp.mean(xp.clip(wide, min=0.0) - wide * wide_targets + xp.log1p(small))
    probabilities = xp.where(wide >= 0.0, xp.ones_like(small), small) / (1.0 + small)  # BCE.7
    return loss, BinaryCrossEntropyCache(probabilities)


def binary_cross_entropy_backward(
    d_loss: Float[Array, ""], cache: BinaryCrossEntropyCache, targets: Float[Array, "N C"]
) -> Float[Array, "N C"]:
    """The gradient of the logits [N, C]: (σ(z) - t) / number of elements (BCE.6)."""
    rows, classes = cache.probabilities.shape
    xp = array_namespace(cache.probabilities)
    difference = cache.probabilities - xp.astype(targets, cache.probabilities.dtype, copy=False)
    return difference * (d_loss / (rows * classes))
