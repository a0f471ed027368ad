"""Activations in place, a block at a time, with an error function that NumPy's vector units can do."""

import math
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from xlmr_np.arrays import Array
from xlmr_np.layers.activations import ACTIVATIONS, GELU, ActivationCache
from xlmr_np.ops.cpu.memory import BLOCK, scratch

# erf(x / √2) = tanh(x P(x²)) to 5.8e-8: P minimises the largest error over all x; lowest power first. With float32's
# own rounding the error is 1.4e-7. For large x the last coefficient rules, so that tanh saturates as erf does.
_ERF_AS_TANH = (
    0.79788494,
    0.036333084,
    -3.2594744e-05,
    -5.5306318e-05,
    3.9647730e-06,
    -1.3226628e-07,
    1.7562775e-09,
)


def _blocks(*arrays: Float[Array, "rows N"]) -> Iterator[list[Float[Array, " block"]]]:
    """The same stretches of several contiguous arrays."""
    flat = [array.reshape(-1) for array in arrays]
    for start in range(0, flat[0].size, BLOCK):
        yield [array[start : start + BLOCK] for array in flat]


def activate(x: Float[Array, "rows N"], name: str, out: Float[Array, "rows N"]) -> None:
    """out = activation(x); the two may be the same array, and are contiguous."""
    if ACTIVATIONS[name] is GELU and x.dtype == np.float32:
        for x_block, out_block in _blocks(x, out):
            _gelu(x_block, out_block)
        return
    forward, _ = ACTIVATIONS[name]
    for x_block, out_block in _blocks(x, out):
        out_block[...] = forward(x_block)[0]


def activate_and_slope(x: Float[Array, "rows N"], name: str, d_y: Float[Array, "rows N"]) -> Float[Array, "rows N"]:
    """activation(x), and d_y becomes the gradient of x."""
    y = np.empty_like(x)
    forward, backward = ACTIVATIONS[name]
    is_gelu = ACTIVATIONS[name] is GELU and x.dtype == np.float32
    for x_block, y_block, d_block in _blocks(x, y, d_y):
        if is_gelu:
            _gelu_and_slope(x_block, y_block, d_block)
        else:
            y_block[...] = forward(x_block)[0]
            d_block[...] = backward(d_block, ActivationCache(x_block))
    return y


def _twice_distribution(x: Float[Array, " block"]) -> Float[Array, " block"]:
    """1 + erf(x / √2), in scratch memory; beside it, in "square", x²."""
    square, y = scratch("square", x.shape, x.dtype), scratch("distribution", x.shape, x.dtype)
    with np.errstate(over="ignore"):  # an infinite polynomial is as good as a large one
        np.multiply(x, x, out=square)
        np.multiply(square, np.float32(_ERF_AS_TANH[-1]), out=y)
        for coefficient in _ERF_AS_TANH[-2:0:-1]:
            y += np.float32(coefficient)
            y *= square
        y += np.float32(_ERF_AS_TANH[0])
        y *= x
    np.tanh(y, out=y)
    y += np.float32(1.0)
    return y


def _gelu(x: Float[Array, " block"], out: Float[Array, " block"]) -> None:
    np.multiply(x, _twice_distribution(x), out=out)
    out *= np.float32(0.5)


def _gelu_and_slope(x: Float[Array, " block"], y: Float[Array, " block"], d: Float[Array, " block"]) -> None:
    """y = x Φ(x), and d becomes d (Φ(x) + x φ(x)) (ACT.2)."""
    distribution = _twice_distribution(x)
    distribution *= np.float32(0.5)
    np.multiply(x, distribution, out=y)
    density = scratch("square", x.shape, x.dtype)
    density *= np.float32(-0.5)
    np.exp(density, out=density)
    density *= np.float32(1.0 / math.sqrt(2.0 * math.pi))
    density *= x
    density += distribution
    d *= density
