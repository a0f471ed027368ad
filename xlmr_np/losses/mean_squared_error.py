"""The mean squared error, the loss of regression."""

import math
from typing import NamedTuple

from jaxtyping import Float

from xlmr_np.arrays import Array, array_namespace, at_least_float32


class MeanSquaredErrorCache(NamedTuple):
    """What the backward pass needs besides the targets."""

    predictions: Float[Array, "*shape"]


def mean_squared_error_forward(
    predictions: Float[Array, "*shape"], targets: Float[Array, "*shape"]
) -> tuple[Float[Array, ""], MeanSquaredErrorCache]:
    """The mean of (prediction - target)² over all elements, in at least float32 (MSE.1).

    Args:
        predictions: of any shape with at least one element.
        targets: of the same shape; nothing is broadcast.
    """
    xp = array_namespace(predictions)
    wide = at_least_float32(predictions)
    difference = wide - xp.astype(targets, wide.dtype, copy=False)
    return xp.mean(difference * difference), MeanSquaredErrorCache(wide)


def mean_squared_error_backward(
    d_loss: Float[Array, ""], cache: MeanSquaredErrorCache, targets: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """The gradient of the predictions, of their shape: 2 (prediction - target) / number of elements (MSE.3)."""
    xp = array_namespace(cache.predictions)
    difference = cache.predictions - xp.astype(targets, cache.predictions.dtype, copy=False)
    return difference * (2.0 * d_loss / math.prod(difference.shape))
