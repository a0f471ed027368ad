"""The GPU engine for inference: matrix products by cuBLAS, everything around them by the kernels of `ops/cuda`.

Arrays are row-major, [N, D]; every operation has the signature and meaning of the reference's and returns no cache. A
product is followed by one kernel that does all there is to do before the next. Sums, norms and softmax are in float32
whatever the storage type (float64 for float64), and a product's result is rounded to the storage type once.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from jaxtyping import Float, Int

from xlmr_np.arrays import Array, array_namespace, at_least_float32, or_minus_infinity
from xlmr_np.layers.add_norm import AddNormParams
from xlmr_np.layers.attention import AttentionCache, Mask, PackedMask, PaddedMask, Spans
from xlmr_np.layers.embeddings import EmbeddingsParams
from xlmr_np.layers.feed_forward import FeedForwardParams
from xlmr_np.layers.layer_norm import LayerNormParams
from xlmr_np.layers.linear import LinearParams
from xlmr_np.ops import Op, Ops, without_caches
from xlmr_np.ops.cuda import activations, attention, embeddings, norms, vocabulary
from xlmr_np.ops.cuda.kernels import Gpu
from xlmr_np.ops.reference import REFERENCE, TopK


def embed_forward(
    gpu: Gpu,
    ids: Int[Array, "*batch"],
    token_types: Int[Array, "*batch"],
    positions: Int[Array, "*batch"],
    params: EmbeddingsParams,
    eps: float,
    dropout: None = None,
) -> tuple[Float[Array, "*batch D"], None]:
    """See `layers.embeddings.embeddings_forward`; an index outside its table gives a row of NaN."""
    rows, _ = embeddings.embed(gpu, _flat(ids), _flat(token_types), _flat(positions), params, eps)
    return _tokens(rows, ids.shape), None


def linears_forward(
    gpu: Gpu, x: Float[Array, "*batch in"], params: tuple[LinearParams, ...]
) -> tuple[tuple[Float[Array, "*batch _"], ...], None]:
    """See `ops.reference.linears_forward`."""
    rows = _rows(x)
    return tuple(_tokens(_linear(gpu, rows, each, None), x.shape[:-1]) for each in params), None


def linear_activation_forward(
    gpu: Gpu, x: Float[Array, "*batch in"], params: LinearParams, activation: str
) -> tuple[Float[Array, "*batch out"], None]:
    """See `ops.reference.linear_activation_forward`."""
    return _tokens(_linear(gpu, _rows(x), params, activation), x.shape[:-1]), None


def _linear(gpu: Gpu, x: Float[Array, "N in"], params: LinearParams, activation: str | None) -> Float[Array, "N out"]:
    return activations.bias_activation(gpu, _product(gpu, x, params), params.bias, activation)


def _product(gpu: Gpu, x: Float[Array, "N in"], params: LinearParams) -> Float[Array, "N out"]:
    """x Wᵀ in the type of x, to which the bias is still to be added."""
    xp = array_namespace(x)
    return gpu.matmul(x, xp.matrix_transpose(xp.astype(params.weight, x.dtype, copy=False)))


def attention_forward(
    gpu: Gpu,
    query: Float[Array, "*batch H W"],
    key: Float[Array, "*keys H W"],
    value: Float[Array, "*keys H W"],
    mask: Mask,
    dropout: None = None,
) -> tuple[Float[Array, "*batch H W"], None]:
    """See `layers.attention.attention_forward`; a padded mask is a bias on the scores of sentences of equal length."""
    if isinstance(mask, PackedMask):
        return attention.attention(gpu, query, key, value, mask)[0], None
    xp = array_namespace(query)
    packed_query, packed_key, packed_value = (xp.reshape(x, (-1, *x.shape[2:])) for x in (query, key, value))
    spans = PackedMask(_equal_spans(query), _equal_spans(key))
    context, _ = attention.attention(gpu, packed_query, packed_key, packed_value, spans, _bias(mask, query))
    return xp.reshape(context, query.shape), None


def attention_with_probabilities_forward(
    query: Float[Array, "B T H W"],
    key: Float[Array, "B S H W"],
    value: Float[Array, "B S H W"],
    mask: PaddedMask,
    dropout: None = None,
) -> tuple[Float[Array, "B T H W"], AttentionCache]:
    """The textbook's, in at least float32, as CuPy cannot multiply stacks of matrices of half types."""
    wide = (at_least_float32(x) for x in (query, key, value))
    context, cache = REFERENCE.attention.forward(*wide, mask, dropout)
    return array_namespace(context).astype(context, query.dtype, copy=False), cache


def _equal_spans(x: Float[Array, "B T H W"]) -> Spans:
    xp = array_namespace(x)
    sentences, length = x.shape[:2]
    starts = xp.arange(sentences, dtype=xp.int64, device=x.device) * length
    return Spans(starts, xp.full_like(starts, length))


def _bias(mask: PaddedMask, like: Float[Array, "..."]) -> Float[Array, "#B #H #T #S"] | None:
    """0 where a key is seen and minus infinity where it is not, in the type of `like`."""
    if mask.is_visible is None:
        return None
    xp = array_namespace(mask.is_visible)
    zeros = xp.zeros(mask.is_visible.shape, dtype=like.dtype, device=like.device)
    return or_minus_infinity(mask.is_visible, zeros)


def add_norm_forward(
    gpu: Gpu,
    x: Float[Array, "*batch in"],
    residual: Float[Array, "*batch D"],
    params: AddNormParams,
    eps: float,
    dropout: None = None,
) -> tuple[Float[Array, "*batch D"], None]:
    """See `layers.add_norm.add_norm_forward`."""
    return _tokens(_add_norm(gpu, _rows(x), _rows(residual), params, eps), residual.shape[:-1]), None


def _add_norm(
    gpu: Gpu, x: Float[Array, "N in"], residual: Float[Array, "N D"], params: AddNormParams, eps: float
) -> Float[Array, "N D"]:
    product = _product(gpu, x, params.linear)
    return norms.add_norm(gpu, product, params.linear.bias, residual, params.layer_norm, eps)[0]


def feed_forward_forward(
    gpu: Gpu,
    x: Float[Array, "*batch D"],
    params: FeedForwardParams,
    activation: str,
    eps: float,
    dropout: None = None,
) -> tuple[Float[Array, "*batch D"], None]:
    """See `layers.feed_forward.feed_forward_forward`."""
    rows = _rows(x)
    hidden = _linear(gpu, rows, params.intermediate, activation)
    return _tokens(_add_norm(gpu, hidden, rows, params.output, eps), x.shape[:-1]), None


def layer_norm_forward(
    gpu: Gpu, x: Float[Array, "*batch D"], params: LayerNormParams, eps: float
) -> tuple[Float[Array, "*batch D"], None]:
    """See `layers.layer_norm.layer_norm_forward`."""
    return _tokens(norms.layer_norm(gpu, _rows(x), params, eps)[0], x.shape[:-1]), None


def vocabulary_top_k_forward(gpu: Gpu, x: Float[Array, "N D"], params: LinearParams, k: int) -> tuple[TopK, None]:
    """See `ops.reference.vocabulary_top_k_forward`."""
    return vocabulary.vocabulary_top_k(gpu, x, params, k), None


def _flat(index: Int[Array, "*batch"]) -> Int[Array, " N"]:
    return array_namespace(index).reshape(index, (-1,))


def _rows(x: Float[Array, "*batch D"]) -> Float[Array, "N D"]:
    return array_namespace(x).reshape(x, (-1, x.shape[-1]))


def _tokens(rows: Float[Array, "N D"], batch: tuple[int, ...]) -> Float[Array, "*batch D"]:
    return array_namespace(rows).reshape(rows, (*batch, rows.shape[-1]))


def inference_ops(gpu: Gpu) -> Ops:
    """The engine on this GPU, without caches."""

    def op(forward: Callable[..., Any]) -> Op:
        return Op(partial(forward, gpu))

    return Ops(
        embed=op(embed_forward),
        linears=op(linears_forward),
        attention=op(attention_forward),
        add_norm=op(add_norm_forward),
        feed_forward=op(feed_forward_forward),
        linear_activation=op(linear_activation_forward),
        layer_norm=op(layer_norm_forward),
        vocabulary_cross_entropy=without_caches(REFERENCE).vocabulary_cross_entropy,
        vocabulary_top_k=op(vocabulary_top_k_forward),
    )
