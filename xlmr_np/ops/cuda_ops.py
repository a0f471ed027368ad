"""The GPU engine: matrix products by cuBLAS, everything around them by the kernels of `ops/cuda`.

Arrays are row-major, [N, D]; every operation has the signature and meaning of the reference's. A product is followed by
one kernel that does all there is to do before the next. Sums, norms and softmax are in float32 whatever the storage
type (float64 for float64), and a product's result is rounded to the storage type once.

The functions take first the GPU, and a forward pass that keeps something for its backward pass whether it is to. Of
weights and activations the gradients are in the type of the activations; of biases, norms and tables, which are sums
over all tokens, in at least float32. All of them are the same, bit for bit, in every run.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from jaxtyping import Float, Int

from xlmr_np.arrays import Array, array_namespace, at_least_float32, or_minus_infinity
from xlmr_np.layers.add_norm import AddNormParams
from xlmr_np.layers.attention import AttentionCache, Mask, PackedMask, PaddedMask, Spans
from xlmr_np.layers.dropout import Dropout
from xlmr_np.layers.embeddings import EmbeddingsParams
from xlmr_np.layers.feed_forward import FeedForwardParams
from xlmr_np.layers.layer_norm import LayerNormParams
from xlmr_np.layers.linear import LinearCache, LinearParams
from xlmr_np.ops import Op, Ops, without_caches
from xlmr_np.ops.cuda import activations, attention, embeddings, norms, vocabulary, vocabulary_loss
from xlmr_np.ops.cuda import attention_backward as attention_gradients
from xlmr_np.ops.cuda.kernels import Gpu
from xlmr_np.ops.cuda.norms import NormCache
from xlmr_np.ops.cuda.sums import column_sums
from xlmr_np.ops.reference import REFERENCE, TopK, VocabularyCrossEntropyCache


class PackedAttentionCache(NamedTuple):
    """What the scores are computed from again, the result, and the logarithm of each row's sum of exponentials."""

    query: Float[Array, "N H W"]
    key: Float[Array, "M H W"]
    value: Float[Array, "M H W"]
    context: Float[Array, "N H W"]
    log_sum_exp: Float[Array, "H N"]


class AddNormCache(NamedTuple):
    """The input, and what was normalised."""

    x: Float[Array, "*batch in"]
    layer_norm: NormCache


class FeedForwardCache(NamedTuple):
    """The input, its product with the intermediate matrix before bias and activation, and what was normalised."""

    x: Float[Array, "*batch D"]
    product: Float[Array, "N F"]
    layer_norm: NormCache


class LinearActivationCache(NamedTuple):
    """The input, and its product with the matrix before bias and activation."""

    x: Float[Array, "*batch in"]
    product: Float[Array, "N out"]


# embed


def embed_forward(
    gpu: Gpu,
    with_cache: bool,
    ids: Int[Array, "*batch"],
    token_types: Int[Array, "*batch"],
    positions: Int[Array, "*batch"],
    params: EmbeddingsParams,
    eps: float,
    dropout: Dropout | None = None,
) -> tuple[Float[Array, "*batch D"], NormCache | None]:
    """See `layers.embeddings.embeddings_forward`; an index outside its table gives a row of NaN."""
    ids_and_types = _flat(ids), _flat(token_types)
    rows, cache = embeddings.embed(gpu, *ids_and_types, _flat(positions), params, eps, dropout, with_cache)
    return _tokens(rows, ids.shape), cache


def embed_backward(
    gpu: Gpu,
    d_y: Float[Array, "*batch D"],
    cache: NormCache,
    ids: Int[Array, "*batch"],
    token_types: Int[Array, "*batch"],
    positions: Int[Array, "*batch"],
    params: EmbeddingsParams,
    pad_id: int | None,
    dropout: Dropout | None = None,
) -> EmbeddingsParams:
    """See `layers.embeddings.embeddings_backward`."""
    ids_and_types = _flat(ids), _flat(token_types)
    return embeddings.embed_backward(gpu, _rows(d_y), cache, *ids_and_types, _flat(positions), params, pad_id, dropout)


# linears


def linears_forward(
    gpu: Gpu, x: Float[Array, "*batch in"], params: tuple[LinearParams, ...]
) -> tuple[tuple[Float[Array, "*batch _"], ...], LinearCache]:
    """See `ops.reference.linears_forward`."""
    rows = _rows(x)
    ys = (activations.bias_activation(gpu, _product(gpu, rows, each), each.bias, None) for each in params)
    return tuple(_tokens(y, x.shape[:-1]) for y in ys), LinearCache(x)


def linears_backward(
    gpu: Gpu,
    d_ys: tuple[Float[Array, "*batch _"], ...],
    cache: LinearCache,
    params: tuple[LinearParams, ...],
) -> tuple[Float[Array, "*batch in"], tuple[LinearParams, ...]]:
    """See `ops.reference.linears_backward`."""
    x = _rows(cache.x)
    own_d_ys = [_rows(_as(d_y, x)) for d_y in d_ys]
    d_x, *others = (_input_gradient(gpu, d_y, each) for d_y, each in zip(own_d_ys, params, strict=True))
    for other in others:
        d_x += other
    d_params = tuple(LinearParams(_weight_gradient(gpu, d_y, x), column_sums(gpu, d_y)) for d_y in own_d_ys)
    return _tokens(d_x, cache.x.shape[:-1]), d_params


def _product(gpu: Gpu, x: Float[Array, "N in"], params: LinearParams) -> Float[Array, "N out"]:
    """x Wᵀ in the type of x, to which the bias is still to be added."""
    return gpu.matmul(x, array_namespace(x).matrix_transpose(_as(params.weight, x)))


def _input_gradient(gpu: Gpu, d_y: Float[Array, "N out"], params: LinearParams) -> Float[Array, "N in"]:
    """d_y W (LIN.3)."""
    return gpu.matmul(d_y, _as(params.weight, d_y))


def _weight_gradient(gpu: Gpu, d_y: Float[Array, "N out"], x: Float[Array, "N in"]) -> Float[Array, "out in"]:
    """d_yᵀ x (LIN.4)."""
    return gpu.matmul(array_namespace(d_y).matrix_transpose(d_y), x)


# linear_activation


def linear_activation_forward(
    gpu: Gpu, with_cache: bool, x: Float[Array, "*batch in"], params: LinearParams, activation: str
) -> tuple[Float[Array, "*batch out"], LinearActivationCache | None]:
    """See `ops.reference.linear_activation_forward`."""
    product = _product(gpu, _rows(x), params)
    y = activations.bias_activation(gpu, product, params.bias, activation, in_place=not with_cache)
    return _tokens(y, x.shape[:-1]), LinearActivationCache(x, product) if with_cache else None


def linear_activation_backward(
    gpu: Gpu,
    d_y: Float[Array, "*batch out"],
    cache: LinearActivationCache,
    params: LinearParams,
    activation: str,
) -> tuple[Float[Array, "*batch in"], LinearParams]:
    """See `ops.reference.linear_activation_backward`."""
    xp, x = array_namespace(d_y), _rows(cache.x)
    own_d_y = xp.empty(cache.product.shape, dtype=x.dtype, device=x.device)  # becomes the gradient of the product
    own_d_y[...] = _rows(d_y)
    gradients = activations.activation_backward(gpu, own_d_y, cache.product, params.bias, activation, with_y=False)
    d_x = _input_gradient(gpu, gradients.d_product, params)
    d_params = LinearParams(_weight_gradient(gpu, gradients.d_product, x), gradients.d_bias)
    return _tokens(d_x, cache.x.shape[:-1]), d_params


# attention


def attention_forward(
    gpu: Gpu,
    with_cache: bool,
    query: Float[Array, "*batch H W"],
    key: Float[Array, "*keys H W"],
    value: Float[Array, "*keys H W"],
    mask: Mask,
    dropout: Dropout | None = None,
) -> tuple[Float[Array, "*batch H W"], PackedAttentionCache | AttentionCache | None]:
    """See `layers.attention.attention_forward`.

    A padded mask is a bias on the scores of sentences of equal length; in training, it is the textbook's.
    """
    if isinstance(mask, PackedMask):
        context, log_sum_exp = attention.attention(
            gpu, query, key, value, mask, with_log_sum_exp=with_cache, dropout=dropout
        )
        return context, None if log_sum_exp is None else PackedAttentionCache(query, key, value, context, log_sum_exp)
    if with_cache or dropout is not None:
        context, cache = attention_with_probabilities_forward(query, key, value, mask, dropout)
        return context, cache if with_cache else None
    xp = array_namespace(query)
    packed_query, packed_key, packed_value = (xp.reshape(x, (-1, *x.shape[2:])) for x in (query, key, value))
    spans = PackedMask(_equal_spans(query), _equal_spans(key))
    context, _ = attention.attention(gpu, packed_query, packed_key, packed_value, spans, _bias(mask, query))
    return xp.reshape(context, query.shape), None


def attention_backward(
    gpu: Gpu,
    d_context: Float[Array, "*batch H W"],
    cache: PackedAttentionCache | AttentionCache,
    mask: Mask,
    dropout: Dropout | None = None,
) -> tuple[Float[Array, "*batch H W"], Float[Array, "*keys H W"], Float[Array, "*keys H W"]]:
    """See `layers.attention.attention_backward`."""
    if isinstance(cache, PackedAttentionCache):
        assert isinstance(mask, PackedMask)  # as it was in the forward pass
        return attention_gradients.attention_backward(gpu, _as(d_context, cache.query), *cache, mask, dropout)
    gradients = REFERENCE.attention.backward(at_least_float32(d_context), cache, mask, dropout)
    return tuple(_as(gradient, d_context) for gradient in gradients)


def attention_with_probabilities_forward(
    query: Float[Array, "B T H W"],
    key: Float[Array, "B S H W"],
    value: Float[Array, "B S H W"],
    mask: PaddedMask,
    dropout: Dropout | None = None,
) -> tuple[Float[Array, "B T H W"], AttentionCache]:
    """The textbook's, in at least float32, as CuPy cannot multiply stacks of matrices of half types."""
    wide = (at_least_float32(x) for x in (query, key, value))
    context, cache = REFERENCE.attention.forward(*wide, mask, dropout)
    return _as(context, query), cache


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


# add_norm


def add_norm_forward(
    gpu: Gpu,
    with_cache: bool,
    x: Float[Array, "*batch in"],
    residual: Float[Array, "*batch D"],
    params: AddNormParams,
    eps: float,
    dropout: Dropout | None = None,
) -> tuple[Float[Array, "*batch D"], AddNormCache | None]:
    """See `layers.add_norm.add_norm_forward`."""
    y, norm_cache = _add_norm(gpu, _rows(x), _rows(residual), params, eps, dropout, with_cache)
    return _tokens(y, residual.shape[:-1]), AddNormCache(x, norm_cache) if norm_cache else None


def _add_norm(
    gpu: Gpu,
    x: Float[Array, "N in"],
    residual: Float[Array, "N D"],
    params: AddNormParams,
    eps: float,
    dropout: Dropout | None,
    with_cache: bool,
) -> tuple[Float[Array, "N D"], NormCache | None]:
    product = _product(gpu, x, params.linear)
    return norms.add_norm(gpu, product, params.linear.bias, residual, params.layer_norm, eps, dropout, with_cache)


def add_norm_backward(
    gpu: Gpu,
    d_y: Float[Array, "*batch D"],
    cache: AddNormCache,
    params: AddNormParams,
    eps: float,
    dropout: Dropout | None = None,
) -> tuple[Float[Array, "*batch in"], Float[Array, "*batch D"], AddNormParams]:
    """See `layers.add_norm.add_norm_backward`."""
    x = _rows(cache.x)
    gradients = norms.norm_backward(gpu, _rows(_as(d_y, x)), cache.layer_norm, params.layer_norm, dropout)
    d_x = _input_gradient(gpu, gradients.d_branch, params.linear)
    d_linear = LinearParams(_weight_gradient(gpu, gradients.d_branch, x), gradients.d_bias)
    return (
        _tokens(d_x, cache.x.shape[:-1]),
        _tokens(gradients.d_x, d_y.shape[:-1]),
        AddNormParams(d_linear, gradients.d_params),
    )


# feed_forward


def feed_forward_forward(
    gpu: Gpu,
    with_cache: bool,
    x: Float[Array, "*batch D"],
    params: FeedForwardParams,
    activation: str,
    eps: float,
    dropout: Dropout | None = None,
) -> tuple[Float[Array, "*batch D"], FeedForwardCache | None]:
    """See `layers.feed_forward.feed_forward_forward`."""
    rows = _rows(x)
    product = _product(gpu, rows, params.intermediate)
    hidden = activations.bias_activation(gpu, product, params.intermediate.bias, activation, in_place=not with_cache)
    y, norm_cache = _add_norm(gpu, hidden, rows, params.output, eps, dropout, with_cache)
    return _tokens(y, x.shape[:-1]), FeedForwardCache(x, product, norm_cache) if norm_cache else None


def feed_forward_backward(
    gpu: Gpu,
    d_y: Float[Array, "*batch D"],
    cache: FeedForwardCache,
    params: FeedForwardParams,
    activation: str,
    eps: float,
    dropout: Dropout | None = None,
) -> tuple[Float[Array, "*batch D"], FeedForwardParams]:
    """See `layers.feed_forward.feed_forward_backward`; the activations are computed again, with their slopes."""
    x, output = _rows(cache.x), params.output
    of_norm = norms.norm_backward(gpu, _rows(_as(d_y, x)), cache.layer_norm, output.layer_norm, dropout)
    d_hidden = _input_gradient(gpu, of_norm.d_branch, output.linear)
    d_product, hidden, d_bias = activations.activation_backward(
        gpu, d_hidden, cache.product, params.intermediate.bias, activation
    )
    d_second = LinearParams(_weight_gradient(gpu, of_norm.d_branch, hidden), of_norm.d_bias)
    d_first = LinearParams(_weight_gradient(gpu, d_product, x), d_bias)
    d_x = _input_gradient(gpu, d_product, params.intermediate)
    d_x += of_norm.d_x
    return _tokens(d_x, d_y.shape[:-1]), FeedForwardParams(d_first, AddNormParams(d_second, of_norm.d_params))


# layer_norm


def layer_norm_forward(
    gpu: Gpu, with_cache: bool, x: Float[Array, "*batch D"], params: LayerNormParams, eps: float
) -> tuple[Float[Array, "*batch D"], NormCache | None]:
    """See `layers.layer_norm.layer_norm_forward`."""
    y, cache = norms.layer_norm(gpu, _rows(x), params, eps, with_cache)
    return _tokens(y, x.shape[:-1]), cache


def layer_norm_backward(
    gpu: Gpu, d_y: Float[Array, "*batch D"], cache: NormCache, params: LayerNormParams
) -> tuple[Float[Array, "*batch D"], LayerNormParams]:
    """See `layers.layer_norm.layer_norm_backward`."""
    gradients = norms.norm_backward(gpu, _rows(d_y), cache, params)
    return _tokens(gradients.d_x, d_y.shape[:-1]), gradients.d_params


# the vocabulary


def vocabulary_cross_entropy_forward(
    gpu: Gpu, x: Float[Array, "N D"], params: LinearParams, labels: Int[Array, " N"], smoothing: float = 0.0
) -> tuple[Float[Array, ""], VocabularyCrossEntropyCache]:
    """See `ops.reference.vocabulary_cross_entropy_forward`."""
    loss, log_sum_exp = vocabulary_loss.vocabulary_cross_entropy(gpu, x, params, labels, smoothing)
    return loss, VocabularyCrossEntropyCache(x, log_sum_exp)


def vocabulary_cross_entropy_backward(
    gpu: Gpu,
    d_loss: Float[Array, ""],
    cache: VocabularyCrossEntropyCache,
    params: LinearParams,
    labels: Int[Array, " N"],
    smoothing: float = 0.0,
) -> tuple[Float[Array, "N D"], LinearParams]:
    """See `ops.reference.vocabulary_cross_entropy_backward`."""
    return vocabulary_loss.vocabulary_cross_entropy_backward(gpu, d_loss, *cache, params, labels, smoothing)


def vocabulary_top_k_forward(gpu: Gpu, x: Float[Array, "N D"], params: LinearParams, k: int) -> tuple[TopK, None]:
    """See `ops.reference.vocabulary_top_k_forward`."""
    return vocabulary.vocabulary_top_k(gpu, x, params, k), None


def _flat(index: Int[Array, "*batch"]) -> Int[Array, " N"]:
    return array_namespace(index).reshape(index, (-1,))


def _rows(x: Float[Array, "*batch D"]) -> Float[Array, "N D"]:
    return array_namespace(x).reshape(x, (-1, x.shape[-1]))


def _tokens(rows: Float[Array, "N D"], batch: tuple[int, ...]) -> Float[Array, "*batch D"]:
    return array_namespace(rows).reshape(rows, (*batch, rows.shape[-1]))


def _as(x: Float[Array, "*shape"], like: Float[Array, "..."]) -> Float[Array, "*shape"]:
    """`x` in the type of `like`."""
    return array_namespace(x).astype(x, like.dtype, copy=False)


def training_ops(gpu: Gpu) -> Ops:
    """The engine on this GPU, for training."""

    def op(forward: Callable[..., Any], backward: Callable[..., Any], *settings: bool) -> Op:
        return Op(partial(forward, gpu, *settings), partial(backward, gpu))

    return Ops(
        embed=op(embed_forward, embed_backward, True),
        linears=op(linears_forward, linears_backward),
        attention=op(attention_forward, attention_backward, True),
        add_norm=op(add_norm_forward, add_norm_backward, True),
        feed_forward=op(feed_forward_forward, feed_forward_backward, True),
        linear_activation=op(linear_activation_forward, linear_activation_backward, True),
        layer_norm=op(layer_norm_forward, layer_norm_backward, True),
        vocabulary_cross_entropy=op(vocabulary_cross_entropy_forward, vocabulary_cross_entropy_backward),
        vocabulary_top_k=Op(partial(vocabulary_top_k_forward, gpu)),
    )


def inference_ops(gpu: Gpu) -> Ops:
    """The engine on this GPU, without caches."""

    def op(forward: Callable[..., Any]) -> Op:
        return Op(partial(forward, gpu, False))

    return without_caches(training_ops(gpu))._replace(
        embed=op(embed_forward),
        attention=op(attention_forward),
        add_norm=op(add_norm_forward),
        feed_forward=op(feed_forward_forward),
        linear_activation=op(linear_activation_forward),
        layer_norm=op(layer_norm_forward),
    )
