"""Activations in place, a block at a time, with an error function that NumPy's vector units can do."""

import math

import numpy as np
from jaxtyping import Float

from xlmr_np.arrays import Array
from xlmr_np.layers.activations import ACTIVATIONS, GELU, activation_backward, activation_forward
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


def activate(x: Float[Array, "rows N"], name: str, out: Float[Array, "rows N"]) -> None:
    """out = activation(x), on arrays that fit into cache; the two may be the same."""
    if _is_fast(x, name):
        np.multiply(x, _distribution(x), out=out)
    else:
        out[...] = activation_forward(x, name)[0]


def activate_and_slope(x: Float[Array, "rows N"], name: str, d_y: Float[Array, "rows N"]) -> Float[Array, "rows N"]:
    """activation(x), and d_y becomes the gradient of x; both contiguous."""
    y = np.empty_like(x)
    flat_x, flat_y, flat_d = (array.reshape(-1) for array in (x, y, d_y))
    for start in range(0, x.size, BLOCK):
        block = slice(start, start + BLOCK)
        if _is_fast(x, name):
            _gelu_and_slope(flat_x[block], flat_y[block], flat_d[block])
        else:
            flat_y[block], cache = activation_forward(flat_x[block], name)
            flat_d[block] = activation_backward(flat_d[block], cache, name)
    return y


def _is_fast(x: Float[Array, "rows N"], name: str) -> bool:
    return ACTIVATIONS.get(name) is GELU and x.dtype == np.float32


def _distribution(x: Float[Array, "*block"]) -> Float[Array, "*block"]:
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


def _gelu_and_slope(x: Float[Array, " block"], y: Float[Array, " block"], d: Float[Array, " block"]) -> None:
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
