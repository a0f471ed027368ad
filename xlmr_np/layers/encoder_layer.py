"""One layer of the encoder: self-attention, then feed-forward, each with its residual and norm."""

from typing import NamedTuple

from jaxtyping import Float, Int

from xlmr_np.arrays import Array
from xlmr_np.layers.attention import Mask
from xlmr_np.layers.feed_forward import FeedForwardParams
from xlmr_np.layers.self_attention import (
    AttentionParams,
    LayerDropout,
    Past,
    SelfAttentionCache,
    self_attention_backward,
    self_attention_forward,
)
from xlmr_np.ops import Ops


class EncoderLayerParams(NamedTuple):
    """The parameters of the two sublayers."""

    attention: AttentionParams
    feed_forward: FeedForwardParams


class EncoderLayerCache(NamedTuple):
    """The caches of the two sublayers."""

    attention: SelfAttentionCache
    feed_forward: object


class EncoderSetting(NamedTuple):
    """The numbers and names that every layer of an encoder shares."""

    num_heads: int
    activation: str
    eps: float


def encoder_layer_forward(
    x: Float[Array, "*batch D"],
    params: EncoderLayerParams,
    mask: Mask,
    setting: EncoderSetting,
    ops: Ops,
    dropout: LayerDropout = LayerDropout(),
    past: Past | None = None,
    asking: Int[Array, " n"] | None = None,
) -> tuple[Float[Array, "*asked D"], EncoderLayerCache]:
    """Self-attention between the tokens of `x`, then the feed-forward sublayer on each of them.

    Args:
        x: padded [B, T, D] or packed [N, D], as `mask` says.
        params: of the two sublayers.
        mask: who sees whom.
        setting: number of heads, activation, eps.
        ops: the engine.
        dropout: of this layer.
        past: earlier keys and values, or None.
        asking: the rows of `x` for which alone there is a result, see `self_attention_forward`.
    """
    attended, attention_cache = self_attention_forward(
        x, params.attention, mask, setting.num_heads, setting.eps, ops, dropout, past, asking
    )
    y, feed_forward_cache = ops.feed_forward.forward(
        attended, params.feed_forward, setting.activation, setting.eps, dropout.feed_forward
    )
    return y, EncoderLayerCache(attention_cache, feed_forward_cache)


def encoder_layer_backward(
    d_y: Float[Array, "*asked D"],
    cache: EncoderLayerCache,
    params: EncoderLayerParams,
    mask: Mask,
    setting: EncoderSetting,
    ops: Ops,
    dropout: LayerDropout = LayerDropout(),
    asking: Int[Array, " n"] | None = None,
) -> tuple[Float[Array, "*batch D"], EncoderLayerParams]:
    """The gradients of x [..., D] and of the parameters: the two sublayers, last to first (EL.3, EL.4)."""
    d_attended, d_feed_forward = ops.feed_forward.backward(
        d_y, cache.feed_forward, params.feed_forward, setting.activation, setting.eps, dropout.feed_forward
    )
    d_x, d_attention = self_attention_backward(
        d_attended, cache.attention, params.attention, mask, setting.num_heads, setting.eps, ops, dropout, asking
    )
    return d_x, EncoderLayerParams(d_attention, d_feed_forward)
