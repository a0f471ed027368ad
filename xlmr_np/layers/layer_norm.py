"""Layer normalisation (Ba, Kiros & Hinton 2016, arXiv:1607.06450)."""

from typing import NamedTuple

from jaxtyping import Float

from xlmr_np.arrays import Array, array_namespace, at_least_float32


class LayerNormParams(NamedTuple):
    """Scale and shift, one number per feature."""

    weight: Float[Array, " D"]
    bias: Float[Array, " D"]


class LayerNormCache(NamedTuple):
    """The normalised input and the factor that scaled it."""

    normalized: Float[Array, "*batch D"]
    inverse_std: Float[Array, "*batch 1"]


def layer_norm_forward(
    x: Float[Array, "*batch D"], params: LayerNormParams, eps: float
) -> tuple[Float[Array, "*batch D"], LayerNormCache]:
    """Give every vector of `x` [..., D] mean 0 and variance 1, then scale and shift its features.

    The variance is the biased one (divided by D), `eps` is added to it before the square root, and both
    statistics are taken in at least float32.
    """
    xp = array_namespace(x)
    wide = at_least_float32(x)
    centered = wide - xp.mean(wide, axis=-1, keepdims=True)
    variance = xp.mean(centered * centered, axis=-1, keepdims=True)
    inverse_std = 1.0 / xp.sqrt(variance + eps)
    normalized = centered * inverse_std
    weight = xp.astype(params.weight, wide.dtype, copy=False)
    bias = xp.astype(params.bias, wide.dtype, copy=False)
    y = xp.astype(normalized * weight + bias, x.dtype, copy=False)
    return y, LayerNormCache(normalized, inverse_std)


def layer_norm_backward(
    d_y: Float[Array, "*batch D"], cache: LayerNormCache, params: LayerNormParams
) -> tuple[Float[Array, "*batch D"], LayerNormParams]:
    """The gradients of x [..., D] (LN.7) and of weight and bias (LN.8, LN.9), given that of y [..., D]."""
    xp = array_namespace(d_y)
    normalized, inverse_std = cache
    wide_d_y = xp.astype(d_y, normalized.dtype, copy=False)
    d_normalized = wide_d_y * xp.astype(params.weight, normalized.dtype, copy=False)
    mean = xp.mean(d_normalized, axis=-1, keepdims=True)
    along = xp.mean(d_normalized * normalized, axis=-1, keepdims=True)
    d_x = inverse_std * (d_normalized - mean - normalized * along)
    rows = tuple(range(d_y.ndim - 1))
    d_weight = xp.sum(wide_d_y * normalized, axis=rows)
    return xp.astype(d_x, d_y.dtype, copy=False), LayerNormParams(d_weight, xp.sum(wide_d_y, axis=rows))
