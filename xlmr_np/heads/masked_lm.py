"""The masked-language-model head: from a hidden state to a logit for every token of the vocabulary."""

from typing import NamedTuple

from jaxtyping import Float

from xlmr_np.arrays import Array
from xlmr_np.layers.layer_norm import LayerNormParams
from xlmr_np.layers.linear import LinearParams
from xlmr_np.ops import Ops


class MaskedLMParams(NamedTuple):
    """A transform at the model's width, then the decoder onto the vocabulary.

    In a model's tree the weight of a tied decoder is None: it is the token table, which stands there once.
    """

    dense: LinearParams
    layer_norm: LayerNormParams
    decoder: LinearParams


class TransformCache(NamedTuple):
    """The caches of the transform."""

    dense: object
    layer_norm: object


class MaskedLMCache(NamedTuple):
    """The caches of the whole head."""

    transform: TransformCache
    decoder: object


def masked_lm_transform_forward(
    x: Float[Array, "*batch D"], params: MaskedLMParams, eps: float, ops: Ops
) -> tuple[Float[Array, "*batch D"], TransformCache]:
    """LayerNorm(gelu(linear(x))): always the exact gelu, whatever the encoder's activation is."""
    activated, dense_cache = ops.linear_activation.forward(x, params.dense, "gelu")
    y, layer_norm_cache = ops.layer_norm.forward(activated, params.layer_norm, eps)
    return y, TransformCache(dense_cache, layer_norm_cache)


def masked_lm_forward(
    x: Float[Array, "*batch D"], params: MaskedLMParams, eps: float, ops: Ops
) -> tuple[Float[Array, "*batch V"], MaskedLMCache]:
    """The logits [..., V] of hidden states [..., D]."""
    transformed, transform_cache = masked_lm_transform_forward(x, params, eps, ops)
    (logits,), decoder_cache = ops.linears.forward(transformed, (params.decoder,))
    return logits, MaskedLMCache(transform_cache, decoder_cache)


def masked_lm_transform_backward(
    d_y: Float[Array, "*batch D"], cache: TransformCache, params: MaskedLMParams, eps: float, ops: Ops
) -> tuple[Float[Array, "*batch D"], LinearParams, LayerNormParams]:
    """The gradients of x [..., D], of `dense` and of `layer_norm`."""
    d_activated, d_layer_norm = ops.layer_norm.backward(d_y, cache.layer_norm, params.layer_norm)
    d_x, d_dense = ops.linear_activation.backward(d_activated, cache.dense, params.dense, "gelu")
    return d_x, d_dense, d_layer_norm


def masked_lm_backward(
    d_logits: Float[Array, "*batch V"], cache: MaskedLMCache, params: MaskedLMParams, eps: float, ops: Ops
) -> tuple[Float[Array, "*batch D"], MaskedLMParams]:
    """The gradients of x [..., D] and of the parameters; a tied decoder's weight is to be added to the table's."""
    d_transformed, (d_decoder,) = ops.linears.backward((d_logits,), cache.decoder, (params.decoder,))
    d_x, d_dense, d_layer_norm = masked_lm_transform_backward(d_transformed, cache.transform, params, eps, ops)
    return d_x, MaskedLMParams(d_dense, d_layer_norm, d_decoder)
