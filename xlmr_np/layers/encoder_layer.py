"""One layer: self-attention, cross-attention if a source is seen, and feed-forward, each with its residual and norm."""

from typing import NamedTuple

from jaxtyping import Float, Int

from xlmr_np.arrays import Array
from xlmr_np.layers.attention import Mask
from xlmr_np.layers.cross_attention import (
    CrossAttentionCache,
    SourceKeysValues,
    cross_attention_backward,
    cross_attention_forward,
    source_backward,
    source_forward,
)
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
    """The parameters of the sublayers; of cross-attention, which comes second, None where there is none."""

    attention: AttentionParams
    feed_forward: FeedForwardParams
    cross_attention: AttentionParams | None = None


class EncoderLayerCache(NamedTuple):
    """The caches of the sublayers, and of the source's keys and values."""

    attention: SelfAttentionCache
    feed_forward: object
    cross_attention: CrossAttentionCache | None = None
    source: object = None


class EncoderSetting(NamedTuple):
    """The numbers and names that every layer of an encoder shares."""

    num_heads: int
    activation: str
    eps: float


class Source(NamedTuple):
    """What the cross-attention of a layer sees, and who sees it.

    The hidden states, padded [B, S, D] or packed [M, D], are what a gradient flows back to. Where a source is seen more
    than once, its keys and values are made before, by `source_forward`.
    """

    states: Float[Array, "*source D"] | SourceKeysValues
    mask: Mask


def encoder_layer_forward(
    x: Float[Array, "*batch D"],
    params: EncoderLayerParams,
    mask: Mask,
    setting: EncoderSetting,
    ops: Ops,
    dropout: LayerDropout = LayerDropout(),
    past: Past | None = None,
    asking: Int[Array, " n"] | None = None,
    source: Source | None = None,
) -> tuple[Float[Array, "*asked D"], EncoderLayerCache]:
    """Self-attention between the tokens of `x`, cross-attention to their source, then feed-forward on each of them.

    Args:
        x: padded [B, T, D] or packed [N, D], as `mask` says.
        params: of the sublayers.
        mask: who sees whom.
        setting: number of heads, activation, eps.
        ops: the engine.
        dropout: of this layer.
        past: earlier keys and values, or None.
        asking: the rows of `x` for which alone there is a result, see `self_attention_forward`.
        source: for cross-attention, of which its mask has query spans of the rows that ask; None without any.

    Raises:
        ValueError: there is a source and no cross-attention, or the other way round.
    """
    if (source is None) != (params.cross_attention is None):
        raise ValueError("A layer with cross-attention needs a source, and a layer without it can see none.")
    attended, attention_cache = self_attention_forward(
        x, params.attention, mask, setting.num_heads, setting.eps, ops, dropout, past, asking
    )
    if source is None or params.cross_attention is None:
        gathered, cross_attention_cache, source_cache = attended, None, None
    else:
        keys_values, source_cache = _keys_values(source, params.cross_attention, setting, ops)
        gathered, cross_attention_cache = cross_attention_forward(
            attended, keys_values, params.cross_attention, source.mask, setting.num_heads, setting.eps, ops, dropout
        )
    y, feed_forward_cache = ops.feed_forward.forward(
        gathered, params.feed_forward, setting.activation, setting.eps, dropout.feed_forward
    )
    return y, EncoderLayerCache(attention_cache, feed_forward_cache, cross_attention_cache, source_cache)


def _keys_values(
    source: Source, params: AttentionParams, setting: EncoderSetting, ops: Ops
) -> tuple[SourceKeysValues, object]:
    """Those of a source, made before or here, and then what `source_backward` needs."""
    if isinstance(source.states, SourceKeysValues):
        return source.states, None
    return source_forward(source.states, params, setting.num_heads, ops)


def encoder_layer_backward(
    d_y: Float[Array, "*asked D"],
    cache: EncoderLayerCache,
    params: EncoderLayerParams,
    mask: Mask,
    setting: EncoderSetting,
    ops: Ops,
    dropout: LayerDropout = LayerDropout(),
    asking: Int[Array, " n"] | None = None,
    source: Source | None = None,
) -> tuple[Float[Array, "*batch D"], Float[Array, "*source D"] | None, EncoderLayerParams]:
    """The gradients of x [..., D], of the source's states and of the parameters (EL.3, EL.4; with a source EL.6).

    The source's gradient is None if there is no source.
    """
    d_gathered, d_feed_forward = ops.feed_forward.backward(
        d_y, cache.feed_forward, params.feed_forward, setting.activation, setting.eps, dropout.feed_forward
    )
    if source is None or params.cross_attention is None:
        d_attended, d_source, d_cross_attention = d_gathered, None, None
    else:
        assert cache.cross_attention is not None  # as in the forward pass
        d_attended, d_keys_values, d_query, d_output = cross_attention_backward(
            d_gathered,
            cache.cross_attention,
            params.cross_attention,
            source.mask,
            setting.num_heads,
            setting.eps,
            ops,
            dropout,
        )
        d_source, d_key, d_value = source_backward(d_keys_values, cache.source, params.cross_attention, ops)
        d_cross_attention = AttentionParams(d_query, d_key, d_value, d_output)
    d_x, d_attention = self_attention_backward(
        d_attended, cache.attention, params.attention, mask, setting.num_heads, setting.eps, ops, dropout, asking
    )
    return d_x, d_source, EncoderLayerParams(d_attention, d_feed_forward, d_cross_attention)
