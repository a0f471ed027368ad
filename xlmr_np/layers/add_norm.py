"""The end of every sublayer: project, drop, add the residual, normalise ("Add & Norm", after the sum)."""

from typing import NamedTuple

from jaxtyping import Float

from xlmr_np.arrays import Array
from xlmr_np.layers.dropout import Dropout, dropout_backward, dropout_forward
from xlmr_np.layers.layer_norm import LayerNormCache, LayerNormParams, layer_norm_backward, layer_norm_forward
from xlmr_np.layers.linear import LinearCache, LinearParams, linear_backward, linear_forward


class AddNormParams(NamedTuple):
    """The projection back to the model's width, and the norm of the sum."""

    linear: LinearParams
    layer_norm: LayerNormParams


class AddNormCache(NamedTuple):
    """The caches of the two layers; addition needs none."""

    linear: LinearCache
    layer_norm: LayerNormCache


def add_norm_forward(
    x: Float[Array, "*batch in"],
    residual: Float[Array, "*batch D"],
    params: AddNormParams,
    eps: float,
    dropout: Dropout | None = None,
) -> tuple[Float[Array, "*batch D"], AddNormCache]:
    """LayerNorm(residual + dropout(linear(x))), the post-norm arrangement of Vaswani et al. 2017, section 5.4."""
    branch, linear_cache = linear_forward(x, params.linear)
    y, layer_norm_cache = layer_norm_forward(dropout_forward(branch, dropout) + residual, params.layer_norm, eps)
    return y, AddNormCache(linear_cache, layer_norm_cache)


def add_norm_backward(
    d_y: Float[Array, "*batch D"],
    cache: AddNormCache,
    params: AddNormParams,
    eps: float,
    dropout: Dropout | None = None,
) -> tuple[Float[Array, "*batch in"], Float[Array, "*batch D"], AddNormParams]:
    """The gradients of x [..., in], of the residual [..., D] (AN.3, AN.4), and of the parameters."""
    d_residual, d_layer_norm = layer_norm_backward(d_y, cache.layer_norm, params.layer_norm)
    d_x, d_linear = linear_backward(dropout_backward(d_residual, dropout), cache.linear, params.linear)
    return d_x, d_residual, AddNormParams(d_linear, d_layer_norm)
