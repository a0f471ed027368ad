"""The CPU engine: the seam's operations in NumPy, bound by BLAS and by nothing else.

The functions take the reference's arguments, and first of all the threads to work with. What makes them fast lies in
`xlmr_np.ops.cpu`: features before tokens in memory, element-wise steps in place and in long blocks, all of it on every
thread unless it is too short. Products are cut by features, so that threads read different parts of a matrix.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from xlmr_np.arrays import Array, compute_dtype
from xlmr_np.layers.add_norm import AddNormParams
from xlmr_np.layers.dropout import Dropout
from xlmr_np.layers.embeddings import EmbeddingsParams, table_gradients
from xlmr_np.layers.feed_forward import FeedForwardParams
from xlmr_np.layers.layer_norm import LayerNormParams
from xlmr_np.layers.linear import LinearCache, LinearParams
from xlmr_np.ops import Op, Ops, without_caches
from xlmr_np.ops.cpu.activations import activate, activate_and_slope
from xlmr_np.ops.cpu.attention import attention_backward, attention_forward
from xlmr_np.ops.cpu.drops import Dropped, drop, dropped_features
from xlmr_np.ops.cpu.memory import activations, copied, features_first, scratch_activations, tokens_first
from xlmr_np.ops.cpu.norms import NormCache, normalize, normalize_backward
from xlmr_np.ops.cpu.products import linears, product
from xlmr_np.ops.cpu.vocabulary import (
    vocabulary_cross_entropy_backward,
    vocabulary_cross_entropy_forward,
    vocabulary_top_k_forward,
)
from xlmr_np.ops.threads import Threads, default_number_of_threads

FEED_FORWARD_TOKENS = 1024  # whose intermediate activations exist at a time in inference


class EmbedCache(NamedTuple):
    """What was normalised, and what was dropped."""

    layer_norm: NormCache
    dropped: Dropped | None


class AddNormCache(NamedTuple):
    """The input, what was normalised, and what was dropped."""

    x: Float[Array, "*batch in"]
    layer_norm: NormCache
    dropped: Dropped | None


class FeedForwardCache(NamedTuple):
    """The input, its product with the intermediate matrix before bias and activation, and as for `AddNormCache`."""

    x: Float[Array, "*batch D"]
    product: Float[Array, "F N"]
    layer_norm: NormCache
    dropped: Dropped | None


class LinearActivationCache(NamedTuple):
    """The input, and its product with the matrix before bias and activation."""

    x: Float[Array, "*batch in"]
    product: Float[Array, "out N"]


def _empty_norm_cache(y: Float[Array, "D N"]) -> NormCache:
    return NormCache(activations(y.shape, y.dtype), np.empty(y.shape[1], y.dtype))


# embed


def embed_forward(
    threads: Threads,
    with_cache: bool,
    ids: Int[Array, "*batch"],
    token_types: Int[Array, "*batch"],
    positions: Int[Array, "*batch"],
    params: EmbeddingsParams,
    eps: float,
    dropout: Dropout | None = None,
) -> tuple[Float[Array, "*batch D"], EmbedCache | None]:
    """See `layers.embeddings.embeddings_forward`; only the rows that are asked for are read."""
    dtype = compute_dtype(params.layer_norm.weight)

    def rows(table: Array, index: Int[Array, "*batch"]) -> Float[Array, "N D"]:
        return table[index.reshape(-1)].astype(dtype, copy=False)

    total = rows(params.token, ids) + rows(params.token_type, token_types)
    total += rows(params.position, positions)
    y = copied(total.T)
    norm_cache = _empty_norm_cache(y) if with_cache else None
    normalize(y, params.layer_norm, eps, threads, cache=norm_cache)
    result = tokens_first(y, ids.shape)
    dropped = dropped_features(dropout, result, threads)
    _drop(y, dropped, threads)
    return result, EmbedCache(norm_cache, dropped) if norm_cache else None


def _drop(x: Float[Array, "D N"], dropped: Dropped | None, threads: Threads) -> None:
    if dropped is not None:
        threads.run(lambda features: drop(x[features], dropped.at[features], dropped.rate), threads.ranges(len(x)))


def embed_backward(
    threads: Threads,
    d_y: Float[Array, "*batch D"],
    cache: EmbedCache,
    ids: Int[Array, "*batch"],
    token_types: Int[Array, "*batch"],
    positions: Int[Array, "*batch"],
    params: EmbeddingsParams,
    pad_id: int | None,
    dropout: Dropout | None = None,
) -> EmbeddingsParams:
    """See `layers.embeddings.embeddings_backward`; what was dropped is in the cache, here and below."""
    d_normalized = _undropped(features_first(d_y), cache.dropped, threads)
    d_total, d_layer_norm = normalize_backward(d_normalized, cache.layer_norm, params.layer_norm, threads)
    d_tables = table_gradients(tokens_first(d_total, d_y.shape[:-1]), ids, token_types, positions, params, pad_id)
    return d_tables._replace(layer_norm=d_layer_norm)


def _undropped(d_y: Float[Array, "D N"], dropped: Dropped | None, threads: Threads) -> Float[Array, "D N"]:
    """The gradient before the dropout: the same map, on a copy, as arguments are never written to."""
    if dropped is None:
        return d_y
    d_x = copied(d_y)
    _drop(d_x, dropped, threads)
    return d_x


# linears


def linears_forward(
    threads: Threads, x: Float[Array, "*batch in"], params: tuple[LinearParams, ...]
) -> tuple[tuple[Float[Array, "*batch _"], ...], LinearCache]:
    """See `ops.reference.linears_forward`.

    One product for each matrix: side by side in memory they would be one product, which takes the same time.
    """
    own_x = features_first(x)
    ys = [activations((len(each.weight), own_x.shape[1]), own_x.dtype) for each in params]
    linears(params, own_x, ys, threads)
    return tuple(tokens_first(y, x.shape[:-1]) for y in ys), LinearCache(x)


def linears_backward(
    threads: Threads,
    d_ys: tuple[Float[Array, "*batch _"], ...],
    cache: LinearCache,
    params: tuple[LinearParams, ...],
) -> tuple[Float[Array, "*batch in"], tuple[LinearParams, ...]]:
    """See `ops.reference.linears_backward`."""
    x = features_first(cache.x)
    own_d_ys = [features_first(d_y) for d_y in d_ys]
    d_x = activations(x.shape, x.dtype)
    _input_gradient(own_d_ys, params, d_x, threads)
    d_params = tuple(_linear_gradients(d_y, x, threads) for d_y in own_d_ys)
    return tokens_first(d_x, cache.x.shape[:-1]), d_params


def _input_gradient(
    d_ys: list[Float[Array, "_ N"]],
    params: tuple[LinearParams, ...],
    d_x: Float[Array, "in N"],
    threads: Threads,
    d_residual: Float[Array, "in N"] | None = None,
) -> None:
    """d_x = Σ weightᵀ d_y (LIN.3), plus what comes by the residual if there is one."""

    def part(features: slice) -> None:
        own = d_x[features]
        for number, (d_y, each) in enumerate(zip(d_ys, params, strict=True)):
            weight = each.weight[:, features].astype(d_x.dtype, copy=False)
            if number == 0:
                np.matmul(weight.T, d_y, out=own)
            else:
                own += weight.T @ d_y
        if d_residual is not None:
            own += d_residual[features]

    threads.run(part, threads.ranges(len(d_x)))


def _linear_gradients(d_y: Float[Array, "out N"], x: Float[Array, "in N"], threads: Threads) -> LinearParams:
    """The gradients of weight and bias (LIN.4, LIN.5)."""
    d_weight, d_bias = np.empty((len(d_y), len(x)), x.dtype), np.empty(len(d_y), x.dtype)

    def part(rows: slice) -> None:
        np.matmul(d_y[rows], x.T, out=d_weight[rows])
        np.add.reduce(d_y[rows], axis=1, out=d_bias[rows])

    threads.run(part, threads.ranges(len(d_y)))
    return LinearParams(d_weight, d_bias)


# add_norm


def add_norm_forward(
    threads: Threads,
    with_cache: bool,
    x: Float[Array, "*batch in"],
    residual: Float[Array, "*batch D"],
    params: AddNormParams,
    eps: float,
    dropout: Dropout | None = None,
) -> tuple[Float[Array, "*batch D"], AddNormCache | None]:
    """See `layers.add_norm.add_norm_forward`."""
    own_residual = features_first(residual)
    norm_cache = _empty_norm_cache(own_residual) if with_cache else None
    dropped = dropped_features(dropout, residual, threads)
    y = _add_norm(threads, features_first(x), own_residual, params, eps, dropped, norm_cache)
    return tokens_first(y, residual.shape[:-1]), AddNormCache(x, norm_cache, dropped) if norm_cache else None


def _add_norm(
    threads: Threads,
    x: Float[Array, "in N"],
    residual: Float[Array, "D N"],
    params: AddNormParams,
    eps: float,
    dropped: Dropped | None,
    cache: NormCache | None,
) -> Float[Array, "D N"]:
    y = activations(residual.shape, residual.dtype)
    product(params.linear.weight, x, y, threads)
    normalize(y, params.layer_norm, eps, threads, params.linear.bias, dropped, residual, cache)
    return y


def add_norm_backward(
    threads: Threads,
    d_y: Float[Array, "*batch D"],
    cache: AddNormCache,
    params: AddNormParams,
    eps: float,
    dropout: Dropout | None = None,
) -> tuple[Float[Array, "*batch in"], Float[Array, "*batch D"], AddNormParams]:
    """See `layers.add_norm.add_norm_backward`."""
    d_residual, d_layer_norm = normalize_backward(features_first(d_y), cache.layer_norm, params.layer_norm, threads)
    d_branch = _undropped(d_residual, cache.dropped, threads)
    x = features_first(cache.x)
    d_x = activations(x.shape, x.dtype)
    _input_gradient([d_branch], (params.linear,), d_x, threads)
    d_linear = _linear_gradients(d_branch, x, threads)
    return (
        tokens_first(d_x, cache.x.shape[:-1]),
        tokens_first(d_residual, d_y.shape[:-1]),
        AddNormParams(d_linear, d_layer_norm),
    )


# feed_forward


def feed_forward_forward(
    threads: Threads,
    x: Float[Array, "*batch D"],
    params: FeedForwardParams,
    activation: str,
    eps: float,
    dropout: Dropout | None = None,
) -> tuple[Float[Array, "*batch D"], FeedForwardCache]:
    """See `layers.feed_forward.feed_forward_forward`."""
    own_x = features_first(x)
    shape = len(params.intermediate.weight), own_x.shape[1]
    own_product, activated = activations(shape, own_x.dtype), activations(shape, own_x.dtype)
    linears(
        (params.intermediate,),
        own_x,
        [own_product],
        threads,
        lambda rows, part, bias: activate(part, bias, activation, activated[rows]),
    )
    norm_cache = _empty_norm_cache(own_x)
    dropped = dropped_features(dropout, x, threads)
    y = _add_norm(threads, activated, own_x, params.output, eps, dropped, norm_cache)
    return tokens_first(y, x.shape[:-1]), FeedForwardCache(x, own_product, norm_cache, dropped)


def feed_forward_inference(
    threads: Threads,
    x: Float[Array, "*batch D"],
    params: FeedForwardParams,
    activation: str,
    eps: float,
    dropout: Dropout | None = None,
) -> tuple[Float[Array, "*batch D"], None]:
    """As `feed_forward_forward`, for some tokens at a time, so that their activations are never there for all."""
    own_x = features_first(x)
    y = activations(own_x.shape, own_x.dtype)
    features, tokens = len(params.intermediate.weight), own_x.shape[1]
    for start in range(0, tokens, FEED_FORWARD_TOKENS):
        some = slice(start, min(start + FEED_FORWARD_TOKENS, tokens))
        hidden = scratch_activations("hidden", (features, some.stop - start), own_x.dtype)
        linears(
            (params.intermediate,),
            own_x[:, some],
            [hidden],
            threads,
            lambda _, part, bias: activate(part, bias, activation, part),
        )
        product(params.output.linear.weight, hidden, y[:, some], threads)
    output = params.output
    normalize(y, output.layer_norm, eps, threads, output.linear.bias, dropped_features(dropout, x, threads), own_x)
    return tokens_first(y, x.shape[:-1]), None


def feed_forward_backward(
    threads: Threads,
    d_y: Float[Array, "*batch D"],
    cache: FeedForwardCache,
    params: FeedForwardParams,
    activation: str,
    eps: float,
    dropout: Dropout | None = None,
) -> tuple[Float[Array, "*batch D"], FeedForwardParams]:
    """See `layers.feed_forward.feed_forward_backward`; the activations are computed again, with their slopes."""
    first, second = params.intermediate.weight, params.output.linear.weight
    d_residual, d_layer_norm = normalize_backward(
        features_first(d_y), cache.layer_norm, params.output.layer_norm, threads
    )
    d_branch = _undropped(d_residual, cache.dropped, threads)
    x = features_first(cache.x)
    d_intermediate = activations(cache.product.shape, x.dtype)
    first_bias = params.intermediate.bias.astype(x.dtype, copy=False)[:, None]
    d_first = LinearParams(np.empty(first.shape, x.dtype), np.empty(len(first), x.dtype))
    d_second = np.empty(second.shape, x.dtype)

    def part(rows: slice) -> None:
        d = d_intermediate[rows]
        np.matmul(second[:, rows].astype(x.dtype, copy=False).T, d_branch, out=d)
        activated = activate_and_slope(cache.product[rows], first_bias[rows], activation, d)
        np.matmul(d_branch, activated.T, out=d_second[:, rows])
        np.matmul(d, x.T, out=d_first.weight[rows])
        np.add.reduce(d, axis=1, out=d_first.bias[rows])

    threads.run(part, threads.ranges(len(first)))
    d_x = activations(x.shape, x.dtype)
    _input_gradient([d_intermediate], (params.intermediate,), d_x, threads, d_residual)
    d_linear = LinearParams(d_second, np.add.reduce(d_branch, axis=1))
    return tokens_first(d_x, d_y.shape[:-1]), FeedForwardParams(d_first, AddNormParams(d_linear, d_layer_norm))


# linear_activation


def linear_activation_forward(
    threads: Threads, with_cache: bool, x: Float[Array, "*batch in"], params: LinearParams, activation: str
) -> tuple[Float[Array, "*batch out"], LinearActivationCache | None]:
    """See `ops.reference.linear_activation_forward`."""
    own_x = features_first(x)
    y = activations((len(params.weight), own_x.shape[1]), own_x.dtype)
    own_product = activations(y.shape, y.dtype) if with_cache else y
    linears(
        (params,), own_x, [own_product], threads, lambda rows, part, bias: activate(part, bias, activation, y[rows])
    )
    return tokens_first(y, x.shape[:-1]), LinearActivationCache(x, own_product) if with_cache else None


def linear_activation_backward(
    threads: Threads,
    d_y: Float[Array, "*batch out"],
    cache: LinearActivationCache,
    params: LinearParams,
    activation: str,
) -> tuple[Float[Array, "*batch in"], LinearParams]:
    """See `ops.reference.linear_activation_backward`."""
    d_projected, x = copied(d_y.reshape(-1, d_y.shape[-1]).T), features_first(cache.x)
    bias = params.bias.astype(x.dtype, copy=False)[:, None]
    threads.run(
        lambda rows: activate_and_slope(cache.product[rows], bias[rows], activation, d_projected[rows]),
        threads.ranges(len(d_projected)),
    )
    d_x = activations(x.shape, x.dtype)
    _input_gradient([d_projected], (params,), d_x, threads)
    return tokens_first(d_x, cache.x.shape[:-1]), _linear_gradients(d_projected, x, threads)


# layer_norm


def layer_norm_forward(
    threads: Threads, with_cache: bool, x: Float[Array, "*batch D"], params: LayerNormParams, eps: float
) -> tuple[Float[Array, "*batch D"], NormCache | None]:
    """See `layers.layer_norm.layer_norm_forward`."""
    y = copied(x.reshape(-1, x.shape[-1]).T)
    cache = _empty_norm_cache(y) if with_cache else None
    normalize(y, params, eps, threads, cache=cache)
    return tokens_first(y, x.shape[:-1]), cache


def layer_norm_backward(
    threads: Threads, d_y: Float[Array, "*batch D"], cache: NormCache, params: LayerNormParams
) -> tuple[Float[Array, "*batch D"], LayerNormParams]:
    """See `layers.layer_norm.layer_norm_backward`."""
    d_x, d_params = normalize_backward(features_first(d_y), cache, params, threads)
    return tokens_first(d_x, d_y.shape[:-1]), d_params


def training_ops(threads: Threads) -> Ops:
    """The engine with caches and backward passes, on these threads."""

    def op(forward: Callable[..., Any], backward: Callable[..., Any], *settings: bool) -> Op:
        return Op(partial(forward, threads, *settings), partial(backward, threads))

    return Ops(
        embed=op(embed_forward, embed_backward, True),
        linears=op(linears_forward, linears_backward),
        attention=op(attention_forward, attention_backward, True),
        add_norm=op(add_norm_forward, add_norm_backward, True),
        feed_forward=op(feed_forward_forward, feed_forward_backward),
        linear_activation=op(linear_activation_forward, linear_activation_backward, True),
        layer_norm=op(layer_norm_forward, layer_norm_backward, True),
        vocabulary_cross_entropy=op(vocabulary_cross_entropy_forward, vocabulary_cross_entropy_backward),
        vocabulary_top_k=Op(partial(vocabulary_top_k_forward, threads)),
    )


def inference_ops(threads: Threads) -> Ops:
    """The engine without caches, on these threads; `ALONE` is for whoever works on a part of a larger task already."""

    def op(forward: Callable[..., Any], *settings: bool) -> Op:
        return Op(partial(forward, threads, *settings))

    kept = without_caches(training_ops(threads))
    return kept._replace(
        embed=op(embed_forward, False),
        attention=op(attention_forward, False),
        add_norm=op(add_norm_forward, False),
        feed_forward=op(feed_forward_inference),
        linear_activation=op(linear_activation_forward, False),
        layer_norm=op(layer_norm_forward, False),
    )


NUMPY = training_ops(Threads(default_number_of_threads()))
NUMPY_INFERENCE = inference_ops(Threads(default_number_of_threads()))
