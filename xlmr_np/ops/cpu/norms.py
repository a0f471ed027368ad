"""Layer normalisation in place, some tokens at a time, together with what comes before it."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from xlmr_np.arrays import Array
from xlmr_np.layers.layer_norm import LayerNormCache, LayerNormParams
from xlmr_np.ops.cpu.drops import Dropped, drop
from xlmr_np.ops.cpu.memory import BLOCK, scratch
from xlmr_np.ops.threads import Threads

FEWEST_TOKENS = 32  # fewer are not worth waking a thread for


def _blocks(tokens: slice, features: int) -> Iterator[slice]:
    """Ranges of so many tokens as fit into cache with all their features."""
    step = max(1, 3 * BLOCK // features)
    for start in range(tokens.start, tokens.stop, step):
        yield slice(start, min(start + step, tokens.stop))


def normalize(
    x: Float[Array, "D N"],
    residual: Float[Array, "D N"] | None,
    params: LayerNormParams,
    eps: float,
    threads: Threads,
    dropped: Dropped | None = None,
    cache: LayerNormCache | None = None,
) -> None:
    """x becomes layer_norm(drop(x) + residual); a cache, if there is one, is filled (its arrays are [D, N] and [N])."""
    weight = params.weight.astype(x.dtype, copy=False)[:, None]
    bias = params.bias.astype(x.dtype, copy=False)[:, None]
    features = x.dtype.type(len(x))

    def part(tokens: slice) -> None:
        for block in _blocks(tokens, len(x)):
            y = x[:, block]
            if dropped is not None:
                drop(y, dropped.at[:, block], dropped.rate)
            if residual is not None:
                y += residual[:, block]
            y -= np.add.reduce(y, axis=0) / features
            square = scratch("square", y.shape, y.dtype)
            np.multiply(y, y, out=square)
            inverse_std = 1 / np.sqrt(np.add.reduce(square, axis=0) / features + y.dtype.type(eps))
            y *= inverse_std
            if cache is not None:
                cache.normalized[:, block] = y
                cache.inverse_std[block] = inverse_std
            y *= weight
            y += bias

    threads.run(part, threads.ranges(x.shape[1], FEWEST_TOKENS))


def normalize_backward(
    d_y: Float[Array, "D N"], cache: LayerNormCache, params: LayerNormParams, threads: Threads
) -> tuple[Float[Array, "D N"], LayerNormParams]:
    """The gradients of what was normalised (LN.7) and of weight and bias (LN.8, LN.9)."""
    d_x = np.empty_like(d_y)
    weight = params.weight.astype(d_y.dtype, copy=False)[:, None]
    features = d_y.dtype.type(len(d_y))

    def part(tokens: slice) -> LayerNormParams:
        d_weight, d_bias = np.zeros((2, len(d_y)), d_y.dtype)
        for block in _blocks(tokens, len(d_y)):
            normalized, d = cache.normalized[:, block], d_x[:, block]
            product = scratch("square", d.shape, d.dtype)
            np.multiply(d_y[:, block], normalized, out=product)
            d_weight += np.add.reduce(product, axis=1)
            d_bias += np.add.reduce(d_y[:, block], axis=1)
            np.multiply(d_y[:, block], weight, out=d)
            np.multiply(d, normalized, out=product)
            along = np.add.reduce(product, axis=0) / features
            d -= np.add.reduce(d, axis=0) / features
            np.multiply(normalized, along, out=product)
            d -= product
            d *= cache.inverse_std[block]
        return LayerNormParams(d_weight, d_bias)

    first, *others = threads.run(part, threads.ranges(d_y.shape[1], FEWEST_TOKENS))
    for other in others:
        np.add(first.weight, other.weight, out=first.weight)
        np.add(first.bias, other.bias, out=first.bias)
    return d_x, first
