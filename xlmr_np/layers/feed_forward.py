"""The position-wise feed-forward sublayer (Vaswani et al. 2017, section 3.3)."""

from typing import NamedTuple

from jaxtyping import Float

from xlmr_np.arrays import Array
from xlmr_np.layers.activations import ActivationCache, activation_backward, activation_forward
from xlmr_np.layers.add_norm import AddNormCache, AddNormParams, add_norm_backward, add_norm_forward
from xlmr_np.layers.dropout import Dropout
from xlmr_np.layers.linear import LinearCache, LinearParams, linear_backward, linear_forward


class FeedForwardParams(NamedTuple):
    """Up to the intermediate width F, and back to the model's width D."""

    intermediate: LinearParams
    output: AddNormParams


class FeedForwardCache(NamedTuple):
    """The caches of its three steps."""

    intermediate: LinearCache
    activation: ActivationCache
    output: AddNormCache


def feed_forward_forward(
    x: Float[Array, "*batch D"],
    params: FeedForwardParams,
    activation: str,
    eps: float,
    dropout: Dropout | None = None,
) -> tuple[Float[Array, "*batch D"], FeedForwardCache]:
    """LayerNorm(x + dropout(linear(activation(linear(x))))), each token on its own."""
    intermediate, intermediate_cache = linear_forward(x, params.intermediate)
    activated, activation_cache = activation_forward(intermediate, activation)
    y, output_cache = add_norm_forward(activated, x, params.output, eps, dropout)
    return y, FeedForwardCache(intermediate_cache, activation_cache, output_cache)


def feed_forward_backward(
    d_y: Float[Array, "*batch D"],
    cache: FeedForwardCache,
    params: FeedForwardParams,
    activation: str,
    eps: float,
    dropout: Dropout | None = None,
) -> tuple[Float[Array, "*batch D"], FeedForwardParams]:
    """The gradients of x [..., D], which reaches y by the residual and by the branch (FF.4), and of the parameters."""
    d_activated, d_x_residual, d_output = add_norm_backward(d_y, cache.output, params.output, eps, dropout)
    d_intermediate = activation_backward(d_activated, cache.activation, activation)
    d_x_branch, d_linear = linear_backward(d_intermediate, cache.intermediate, params.intermediate)
    return d_x_residual + d_x_branch, FeedForwardParams(d_linear, d_output)
