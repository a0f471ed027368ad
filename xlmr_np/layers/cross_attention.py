"""The cross-attention sublayer: tokens gather from a source, the states of another model (Vaswani et al. 2017, 3.2.3).

The keys and values of a source do not depend on the tokens that look at it: they are a function of their own, called
once for each source.
"""

from typing import NamedTuple

from jaxtyping import Float

from xlmr_np.arrays import Array
from xlmr_np.layers.add_norm import AddNormParams
from xlmr_np.layers.attention import Mask
from xlmr_np.layers.linear import LinearParams
from xlmr_np.layers.self_attention import AttentionParams, LayerDropout, merge_heads, split_heads
from xlmr_np.ops import Ops


class SourceKeysValues(NamedTuple):
    """What one layer's cross-attention sees of a source: padded [B, S, H, W] or packed [M, H, W]."""

    key: Float[Array, "*source H W"]
    value: Float[Array, "*source H W"]


class CrossAttentionCache(NamedTuple):
    """The caches of its operations, in whatever form the engine keeps them."""

    query: object
    attention: object
    output: object


def source_forward(
    source: Float[Array, "*source D"], params: AttentionParams, num_heads: int, ops: Ops
) -> tuple[SourceKeysValues, object]:
    """The keys and values of a source (CA.1).

    Args:
        source: hidden states, padded [B, S, D] or packed [M, D].
        params: of the sublayer; `key` and `value` are used.
        num_heads: H; the head width is D / H.
        ops: the engine.
    """
    projected, cache = ops.linears.forward(source, (params.key, params.value))
    return SourceKeysValues(*(split_heads(part, num_heads) for part in projected)), cache


def source_backward(
    d_keys_values: SourceKeysValues, cache: object, params: AttentionParams, ops: Ops
) -> tuple[Float[Array, "*source D"], LinearParams, LinearParams]:
    """The gradients of the source [..., D] as this layer sees it (CA.6), of `key` and of `value`."""
    d_projected = tuple(merge_heads(d_part) for d_part in d_keys_values)
    d_source, (d_key, d_value) = ops.linears.backward(d_projected, cache, (params.key, params.value))
    return d_source, d_key, d_value


def cross_attention_forward(
    x: Float[Array, "*batch D"],
    keys_values: SourceKeysValues,
    params: AttentionParams,
    mask: Mask,
    num_heads: int,
    eps: float,
    ops: Ops,
    dropout: LayerDropout = LayerDropout(),
) -> tuple[Float[Array, "*batch D"], CrossAttentionCache]:
    """Let every token of `x` gather from its source (CA.2 to CA.4); one whose source is empty gathers zeros.

    Args:
        x: padded [B, T, D] or packed [N, D], as `mask` says.
        keys_values: of the sources, see `source_forward`.
        params: of the sublayer; `query` and `output` are used.
        mask: query spans of the sentences and key spans of their sources, or the real tokens of padded sources.
        num_heads: H.
        eps: of the layer norm.
        ops: the engine.
        dropout: its fields `cross_probabilities` and `cross_attention` are used.
    """
    (projected,), query_cache = ops.linears.forward(x, (params.query,))
    query = split_heads(projected, num_heads)
    context, attention_cache = ops.attention.forward(query, *keys_values, mask, dropout.cross_probabilities)
    y, output_cache = ops.add_norm.forward(merge_heads(context), x, params.output, eps, dropout.cross_attention)
    return y, CrossAttentionCache(query_cache, attention_cache, output_cache)


def cross_attention_backward(
    d_y: Float[Array, "*batch D"],
    cache: CrossAttentionCache,
    params: AttentionParams,
    mask: Mask,
    num_heads: int,
    eps: float,
    ops: Ops,
    dropout: LayerDropout = LayerDropout(),
) -> tuple[Float[Array, "*batch D"], SourceKeysValues, LinearParams, AddNormParams]:
    """The gradients of x [..., D] (CA.5), of keys and values (ATT.5, ATT.9), of `query` and of `output`."""
    d_context, d_residual, d_output = ops.add_norm.backward(
        d_y, cache.output, params.output, eps, dropout.cross_attention
    )
    d_query_heads, d_key, d_value = ops.attention.backward(
        split_heads(d_context, num_heads), cache.attention, mask, dropout.cross_probabilities
    )
    d_branch, (d_query,) = ops.linears.backward((merge_heads(d_query_heads),), cache.query, (params.query,))
    return d_residual + d_branch, SourceKeysValues(d_key, d_value), d_query, d_output
