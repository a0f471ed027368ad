"""Activations in place, a block at a time, with an error function that NumPy's vector units can do."""

import math

import numpy as np
from jaxtyping import Float

from xlmr_np.arrays import Array
from xlmr_np.layers.activations import ACTIVATIONS, GELU, activation_backward, activation_forward
from xlmr_np.ops.cpu.memory import activations, rows_of_a_block, scratch

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


def activate(
    product: Float[Array, "rows N"], bias: Float[Array, "rows 1"], name: str, out: Float[Array, "rows N"]
) -> None:
    """out = activation(product + bias), for a block; they may be the same array."""
    x = _biased(product, bias)
    if _is_fast(x, name):
        np.multiply(x, _distribution(x), out=out)
    else:
        out[...] = activation_forward(x, name)[0]


def activate_and_slope(
    product: Float[Array, "rows N"], bias: Float[Array, "rows 1"], name: str, d_y: Float[Array, "rows N"]
) -> Float[Array, "rows N"]:
    """activation(product + bias), and d_y becomes the gradient of its argument."""
    y = activations(product.shape, product.dtype)
    step = rows_of_a_block(product.shape[1])
    for start in range(0, len(product), step):
        block = slice(start, start + step)
        x = _biased(product[block], bias[block])
        if _is_fast(x, name):
            _gelu_and_slope(x, y[block], d_y[block])
        else:
            y[block], cache = activation_forward(x, name)
            d_y[block] = activation_backward(d_y[block], cache, name)
    return y


def _biased(product: Float[Array, "rows N"], bias: Float[Array, "rows 1"]) -> Float[Array, "rows N"]:
    """The argument of the activation, in scratch memory, where it is contiguous."""
    return np.add(product, bias, out=scratch("biased", product.shape, product.dtype))


def _is_fast(x: Float[Array, "rows N"], name: str) -> bool:
    return ACTIVATIONS.get(name) is GELU and x.dtype == np.float32


def _distribution(x: Float[Array, "rows N"]) -> Float[Array, "rows N"]:
    """Φ(x) = (1 + erf(x / √2)) / 2, in scratch memory; beside it, in "square", x²."""
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
    y *= np.float32(0.5)
    return y


def _gelu_and_slope(x: Float[Array, "rows N"], y: Float[Array, "rows N"], d: Float[Array, "rows N"]) -> None:
    """y = x Φ(x), and d becomes d (Φ(x) + x φ(x)) (ACT.2)."""
    distribution = _distribution(x)
    np.multiply(x, distribution, out=y)
    density = scratch("square", x.shape, x.dtype)
    density *= np.float32(-0.5)
    np.exp(density, out=density)
    density *= np.float32(1.0 / math.sqrt(2.0 * math.pi))
    density *= x
    density += distribution
    d *= density
