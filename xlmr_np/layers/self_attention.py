"""The self-attention sublayer: project, split into heads, attend, merge, add & norm."""

from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float, Int

from xlmr_np.arrays import Array, array_namespace, at_least_float32, scatter_add_rows
from xlmr_np.layers.add_norm import AddNormParams
from xlmr_np.layers.attention import Mask
from xlmr_np.layers.dropout import Dropout
from xlmr_np.layers.linear import LinearParams
from xlmr_np.ops import Ops


class AttentionParams(NamedTuple):
    """The three projections of one attention sublayer, and its output projection with the norm."""

    query: LinearParams
    key: LinearParams
    value: LinearParams
    output: AddNormParams


class SelfAttentionCache(NamedTuple):
    """The caches of its operations, in whatever form the engine keeps them."""

    projections: tuple[object, ...]  # of all three, or of the queries and of keys and values
    attention: object
    output: object


class LayerDropout(NamedTuple):
    """The dropouts of one encoder layer: on attention probabilities, and on the output of each sublayer."""

    probabilities: Dropout | None = None
    attention: Dropout | None = None
    feed_forward: Dropout | None = None
    cross_probabilities: Dropout | None = None
    cross_attention: Dropout | None = None


@runtime_checkable
class Past(Protocol):
    """A store of the keys and values of earlier tokens (cached decoding)."""

    def append(self, key: Array, value: Array) -> tuple[Array, Array]:
        """Store new keys and values [..., H, W]; return all of them, as the mask's key spans describe."""


def self_attention_forward(
    x: Float[Array, "*batch D"],
    params: AttentionParams,
    mask: Mask,
    num_heads: int,
    eps: float,
    ops: Ops,
    dropout: LayerDropout = LayerDropout(),
    past: Past | None = None,
    asking: Int[Array, " n"] | None = None,
) -> tuple[Float[Array, "*asked D"], SelfAttentionCache]:
    """Let every token of `x`, or every one that asks, gather from the tokens that `mask` shows it.

    Args:
        x: padded [B, T, D] or packed [N, D], as `mask` says.
        params: projections.
        mask: who sees whom.
        num_heads: H; the head width is D / H.
        eps: of the layer norm.
        ops: the engine.
        dropout: its fields `probabilities` and `attention` are used.
        past: earlier keys and values, or None.
        asking: rows of a packed `x`, each at most once, for which alone there is a result; `mask` has query spans of
            these (SA.5). None: all of them.
    """
    residual = x if asking is None else array_namespace(x).take(x, asking, axis=0)
    projected, projections_cache = _projections_forward(x, residual, params, ops)
    query, key, value = (split_heads(part, num_heads) for part in projected)
    if past is not None:
        key, value = past.append(key, value)
    context, attention_cache = ops.attention.forward(query, key, value, mask, dropout.probabilities)
    y, output_cache = ops.add_norm.forward(merge_heads(context), residual, params.output, eps, dropout.attention)
    return y, SelfAttentionCache(projections_cache, attention_cache, output_cache)


def _projections_forward(
    x: Float[Array, "*batch D"], asking: Float[Array, "*asked D"], params: AttentionParams, ops: Ops
) -> tuple[tuple[Array, Array, Array], tuple[object, ...]]:
    """The queries of what asks, keys and values of all: in one operation where all ask."""
    if asking is x:
        projected, cache = ops.linears.forward(x, (params.query, params.key, params.value))
        return projected, (cache,)
    (query,), query_cache = ops.linears.forward(asking, (params.query,))
    (key, value), rest_cache = ops.linears.forward(x, (params.key, params.value))
    return (query, key, value), (query_cache, rest_cache)


def self_attention_backward(
    d_y: Float[Array, "*asked D"],
    cache: SelfAttentionCache,
    params: AttentionParams,
    mask: Mask,
    num_heads: int,
    eps: float,
    ops: Ops,
    dropout: LayerDropout = LayerDropout(),
    asking: Int[Array, " n"] | None = None,
) -> tuple[Float[Array, "*batch D"], AttentionParams]:
    """The gradients of x [..., D], which feeds the residual and all projections (SA.4, SA.6), and of the parameters."""
    d_context, d_residual, d_output = ops.add_norm.backward(d_y, cache.output, params.output, eps, dropout.attention)
    d_heads = ops.attention.backward(split_heads(d_context, num_heads), cache.attention, mask, dropout.probabilities)
    d_projected = tuple(merge_heads(d_head) for d_head in d_heads)
    if asking is None:
        (projections_cache,) = cache.projections
        every = (params.query, params.key, params.value)
        d_x_branch, (d_query, d_key, d_value) = ops.linears.backward(d_projected, projections_cache, every)
        return d_residual + d_x_branch, AttentionParams(d_query, d_key, d_value, d_output)
    query_cache, rest_cache = cache.projections
    d_asking, (d_query,) = ops.linears.backward(d_projected[:1], query_cache, (params.query,))
    d_seen, (d_key, d_value) = ops.linears.backward(d_projected[1:], rest_cache, (params.key, params.value))
    d_rows = scatter_add_rows(at_least_float32(d_residual + d_asking), asking, d_seen.shape[0])
    d_x = d_seen + array_namespace(d_seen).astype(d_rows, d_seen.dtype, copy=False)
    return d_x, AttentionParams(d_query, d_key, d_value, d_output)


def split_heads(x: Float[Array, "*batch D"], num_heads: int) -> Float[Array, "*batch H W"]:
    """Cut the last axis into `num_heads` heads of equal width."""
    return array_namespace(x).reshape(x, (*x.shape[:-1], num_heads, x.shape[-1] // num_heads))


def merge_heads(x: Float[Array, "*batch H W"]) -> Float[Array, "*batch D"]:
    """The inverse of `split_heads`."""
    return array_namespace(x).reshape(x, (*x.shape[:-2], x.shape[-2] * x.shape[-1]))
