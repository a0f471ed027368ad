"""The masked-language-model head: from a hidden state to a logit for every token of the vocabulary."""

from typing import NamedTuple

from jaxtyping import Float, Int

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


class MaskedLMLossCache(NamedTuple):
    """The caches of the transform, and of the decoder together with the loss."""

    transform: TransformCache
    cross_entropy: object


def masked_lm_transform_forward(
    x: Float[Array, "*batch D"], params: MaskedLMParams, eps: float, ops: Ops
) -> tuple[Float[Array, "*batch D"], TransformCache]:
    """LayerNorm(gelu(linear(x))): always the exact gelu, whatever the encoder's activation is (MLM.1, MLM.2)."""
    activated, dense_cache = ops.linear_activation.forward(x, params.dense, "gelu")
    y, layer_norm_cache = ops.layer_norm.forward(activated, params.layer_norm, eps)
    return y, TransformCache(dense_cache, layer_norm_cache)


def masked_lm_forward(
    x: Float[Array, "*batch D"], params: MaskedLMParams, eps: float, ops: Ops
) -> tuple[Float[Array, "*batch V"], MaskedLMCache]:
    """The logits [..., V] of hidden states [..., D] (MLM.3)."""
    transformed, transform_cache = masked_lm_transform_forward(x, params, eps, ops)
    (logits,), decoder_cache = ops.linears.forward(transformed, (params.decoder,))
    return logits, MaskedLMCache(transform_cache, decoder_cache)


def masked_lm_transform_backward(
    d_y: Float[Array, "*batch D"], cache: TransformCache, params: MaskedLMParams, eps: float, ops: Ops
) -> tuple[Float[Array, "*batch D"], LinearParams, LayerNormParams]:
    """The gradients of x [..., D], of `dense` and of `layer_norm` (MLM.7, MLM.8)."""
    d_activated, d_layer_norm = ops.layer_norm.backward(d_y, cache.layer_norm, params.layer_norm)
    d_x, d_dense = ops.linear_activation.backward(d_activated, cache.dense, params.dense, "gelu")
    return d_x, d_dense, d_layer_norm


def masked_lm_backward(
    d_logits: Float[Array, "*batch V"], cache: MaskedLMCache, params: MaskedLMParams, eps: float, ops: Ops
) -> tuple[Float[Array, "*batch D"], MaskedLMParams]:
    """The gradients of x [..., D] and of the parameters (MLM.5 to MLM.8).

    The weight of a tied decoder is the token table, whose gradient is the sum of both (MLM.9).
    """
    d_transformed, (d_decoder,) = ops.linears.backward((d_logits,), cache.decoder, (params.decoder,))
    d_x, d_dense, d_layer_norm = masked_lm_transform_backward(d_transformed, cache.transform, params, eps, ops)
    return d_x, MaskedLMParams(d_dense, d_layer_norm, d_decoder)


def masked_lm_loss_forward(
    x: Float[Array, "N D"],
    params: MaskedLMParams,
    labels: Int[Array, " N"],
    eps: float,
    ops: Ops,
    smoothing: float = 0.0,
) -> tuple[Float[Array, ""], MaskedLMLossCache]:
    """The cross-entropy of `labels` under the logits (MLM.4), without ever holding all [N, V] of them.

    Args:
        x: hidden states [N, D], best of the labelled tokens alone: the others cost as much and change nothing.
        params: of the head, with the decoder's weight also where it is tied.
        labels: [N], token ids, or -100 to leave a row out.
        eps: of the layer norm.
        ops: the engine; its `vocabulary_cross_entropy` walks the vocabulary in chunks (MLM.10, MLM.13).
        smoothing: of the labels, see `losses.cross_entropy`.
    """
    transformed, transform_cache = masked_lm_transform_forward(x, params, eps, ops)
    loss, cross_entropy_cache = ops.vocabulary_cross_entropy.forward(transformed, params.decoder, labels, smoothing)
    return loss, MaskedLMLossCache(transform_cache, cross_entropy_cache)


def masked_lm_loss_backward(
    d_loss: Float[Array, ""],
    cache: MaskedLMLossCache,
    params: MaskedLMParams,
    labels: Int[Array, " N"],
    eps: float,
    ops: Ops,
    smoothing: float = 0.0,
) -> tuple[Float[Array, "N D"], MaskedLMParams]:
    """The gradients of x [N, D] and of the parameters, as of `masked_lm_backward`, in chunks too (MLM.12, MLM.14)."""
    d_transformed, d_decoder = ops.vocabulary_cross_entropy.backward(
        d_loss, cache.cross_entropy, params.decoder, labels, smoothing
    )
    d_x, d_dense, d_layer_norm = masked_lm_transform_backward(d_transformed, cache.transform, params, eps, ops)
    return d_x, MaskedLMParams(d_dense, d_layer_norm, d_decoder)
