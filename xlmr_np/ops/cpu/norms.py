"""Layer normalisation in place, some tokens at a time, together with what comes before it."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from xlmr_np.arrays import Array
from xlmr_np.layers.layer_norm import LayerNormParams
from xlmr_np.ops.cpu.drops import Dropped, drop
from xlmr_np.ops.cpu.memory import activations, scratch
from xlmr_np.ops.threads import Threads

FEW_TOKENS = 64  # are laid end to end, as whole vectors
FEWEST_TOKENS = 128  # fewer are not worth waking a thread for
BLOCK_TOKENS = 256  # that are normalised together: they are copied together, as their features lie far apart


class NormCache(NamedTuple):
    """The normalised input and the factor that scaled it."""

    normalized: Float[Array, "D N"]
    inverse_std: Float[Array, " N"]


def _blocks(tokens: slice) -> Iterator[slice]:
    for start in range(tokens.start, tokens.stop, BLOCK_TOKENS):
        yield slice(start, min(start + BLOCK_TOKENS, tokens.stop))


def _block(name: str, shape: tuple[int, int], dtype: np.dtype) -> Float[Array, "D n"]:
    """Scratch memory for a block, in which the longer axis is the inner one."""
    features, tokens = shape
    return scratch(name, shape, dtype) if tokens >= FEW_TOKENS else scratch(name, (tokens, features), dtype).T


def normalize(
    x: Float[Array, "D N"],
    params: LayerNormParams,
    eps: float,
    threads: Threads,
    branch_bias: Float[Array, " D"] | None = None,
    dropped: Dropped | None = None,
    residual: Float[Array, "D N"] | None = None,
    cache: NormCache | None = None,
) -> None:
    """x becomes layer_norm(drop(x + branch_bias) + residual), where what is None is left out.

    A cache is filled.
    """
    weight, bias = (each.astype(x.dtype, copy=False)[:, None] for each in params)
    zero = np.zeros((len(x), 1), x.dtype)
    shift = zero if branch_bias is None else branch_bias.astype(x.dtype, copy=False)[:, None]
    features, ones = x.dtype.type(len(x)), np.ones(len(x), x.dtype)

    def part(tokens: slice) -> None:
        for block in _blocks(tokens):
            shape = len(x), block.stop - block.start
            y, square = (_block(name, shape, x.dtype) for name in ("block", "square"))
            np.add(x[:, block], shift, out=y)
            if dropped is not None:
                drop(y, dropped.at[:, block], dropped.rate)
            if residual is not None:
                y += residual[:, block]
            y -= ones @ y / features
            np.multiply(y, y, out=square)
            inverse_std = 1 / np.sqrt(ones @ square / features + x.dtype.type(eps))
            y *= inverse_std
            if cache is not None:
                cache.normalized[:, block] = y
                cache.inverse_std[block] = inverse_std
            y *= weight
            np.add(y, bias, out=x[:, block])

    threads.run(part, threads.ranges(x.shape[1], FEWEST_TOKENS))


def normalize_backward(
    d_y: Float[Array, "D N"], cache: NormCache, params: LayerNormParams, threads: Threads
) -> tuple[Float[Array, "D N"], LayerNormParams]:
    """The gradients of what was normalised (LN.7) and of weight and bias (LN.8, LN.9)."""
    d_x = activations(d_y.shape, d_y.dtype)
    weight = params.weight.astype(d_y.dtype, copy=False)[:, None]
    features = d_y.dtype.type(len(d_y))

    def part(tokens: slice) -> LayerNormParams:
        d_weight, d_bias = np.zeros((2, len(d_y)), d_y.dtype)
        for block in _blocks(tokens):
            shape = len(d_y), block.stop - block.start
            d, normalized, product = (scratch(name, shape, d_y.dtype) for name in ("block", "normalized", "square"))
            np.copyto(normalized, cache.normalized[:, block])
            np.copyto(d, d_y[:, block])
            np.multiply(d, normalized, out=product)
            d_weight += np.add.reduce(product, axis=1)
            d_bias += np.add.reduce(d, axis=1)
            d *= weight
            np.multiply(d, normalized, out=product)
            along = np.add.reduce(product, axis=0) / features
            d -= np.add.reduce(d, axis=0) / features
            normalized *= along
            d -= normalized
            np.multiply(d, cache.inverse_std[block], out=d_x[:, block])
        return LayerNormParams(d_weight, d_bias)

    first, *others = threads.run(part, threads.ranges(d_y.shape[1], FEWEST_TOKENS))
    for other in others:
        np.add(first.weight, other.weight, out=first.weight)
        np.add(first.bias, other.bias, out=first.bias)
    return d_x, first
