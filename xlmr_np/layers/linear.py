"""The affine map y = x Wᵀ + b."""

from typing import NamedTuple

from jaxtyping import Float

from xlmr_np.arrays import Array, array_namespace


class LinearParams(NamedTuple):
    """One dense layer, in the checkpoint's own orientation."""

    weight: Float[Array, "out in"]
    bias: Float[Array, " out"]


class LinearCache(NamedTuple):
    """What the backward pass needs: the input alone."""

    x: Float[Array, "*batch in"]


def linear_forward(
    x: Float[Array, "*batch in"], params: LinearParams
) -> tuple[Float[Array, "*batch out"], LinearCache]:
    """Map every vector of `x` [..., in] to `x Wᵀ + b` [..., out].

    Weights stored in another floating type than `x` (half-precision checkpoints on a CPU) are converted
    to the type of `x` here, one matrix at a time.
    """
    xp = array_namespace(x)
    weight = xp.astype(params.weight, x.dtype, copy=False)
    bias = xp.astype(params.bias, x.dtype, copy=False)
    return x @ xp.matrix_transpose(weight) + bias, LinearCache(x)


def linear_backward(
    d_y: Float[Array, "*batch out"], cache: LinearCache, params: LinearParams
) -> tuple[Float[Array, "*batch in"], LinearParams]:
    """The gradients of x [..., in] (LIN.3) and of weight and bias (LIN.4, LIN.5), given that of y [..., out]."""
    xp = array_namespace(d_y)
    rows_d_y = xp.reshape(d_y, (-1, d_y.shape[-1]))
    rows_x = xp.reshape(cache.x, (-1, cache.x.shape[-1]))
    d_x = d_y @ xp.astype(params.weight, d_y.dtype, copy=False)
    d_weight = xp.matrix_transpose(rows_d_y) @ rows_x
    return d_x, LinearParams(d_weight, xp.sum(rows_d_y, axis=0))
