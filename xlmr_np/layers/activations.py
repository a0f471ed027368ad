"""The elementwise nonlinearities that a checkpoint's `hidden_act` can name."""

import math
from typing import NamedTuple

from jaxtyping import Float

from xlmr_np.arrays import Array, array_namespace, erf


class ActivationCache(NamedTuple):
    """What the backward pass of every activation needs: its input."""

    x: Float[Array, "*shape"]


def gelu_forward(x: Float[Array, "*shape"]) -> tuple[Float[Array, "*shape"], ActivationCache]:
    """x Φ(x), with the exact normal distribution function Φ (Hendrycks & Gimpel 2016, arXiv:1606.08415)."""
    return 0.5 * x * (1.0 + erf(x * math.sqrt(0.5))), ActivationCache(x)


def gelu_new_forward(x: Float[Array, "*shape"]) -> tuple[Float[Array, "*shape"], ActivationCache]:
    """The tanh approximation of GELU, section 2 of the same paper."""
    xp = array_namespace(x)
    inner = math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)
    return 0.5 * x * (1.0 + xp.tanh(inner)), ActivationCache(x)


def relu_forward(x: Float[Array, "*shape"]) -> tuple[Float[Array, "*shape"], ActivationCache]:
    """max(x, 0)."""
    xp = array_namespace(x)
    return xp.where(x > 0.0, x, xp.zeros_like(x)), ActivationCache(x)


def silu_forward(x: Float[Array, "*shape"]) -> tuple[Float[Array, "*shape"], ActivationCache]:
    """x σ(x), also called swish; σ(x) = (1 + tanh(x/2)) / 2 cannot overflow."""
    xp = array_namespace(x)
    return 0.5 * x * (1.0 + xp.tanh(0.5 * x)), ActivationCache(x)


def tanh_forward(x: Float[Array, "*shape"]) -> tuple[Float[Array, "*shape"], ActivationCache]:
    """The hyperbolic tangent (the pooler's activation)."""
    return array_namespace(x).tanh(x), ActivationCache(x)


def gelu_backward(d_y: Float[Array, "*shape"], cache: ActivationCache) -> Float[Array, "*shape"]:
    """d_y (Φ(x) + x φ(x)), with the normal density φ (ACT.2)."""
    xp = array_namespace(d_y)
    x = cache.x
    distribution = 0.5 * (1.0 + erf(x * math.sqrt(0.5)))
    density = xp.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)
    return d_y * (distribution + x * density)


def gelu_new_backward(d_y: Float[Array, "*shape"], cache: ActivationCache) -> Float[Array, "*shape"]:
    """The derivative of the tanh approximation (ACT.4)."""
    xp = array_namespace(d_y)
    x = cache.x
    tanh = xp.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x))
    d_inner = math.sqrt(2.0 / math.pi) * (1.0 + 3.0 * 0.044715 * x * x)
    return d_y * (0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * d_inner)


def relu_backward(d_y: Float[Array, "*shape"], cache: ActivationCache) -> Float[Array, "*shape"]:
    """d_y where x > 0, and 0 elsewhere, at x = 0 too (ACT.5)."""
    xp = array_namespace(d_y)
    return xp.where(cache.x > 0.0, d_y, xp.zeros_like(d_y))


def silu_backward(d_y: Float[Array, "*shape"], cache: ActivationCache) -> Float[Array, "*shape"]:
    """d_y σ(x) (1 + x (1 - σ(x))) (ACT.6)."""
    xp = array_namespace(d_y)
    sigmoid = 0.5 * (1.0 + xp.tanh(0.5 * cache.x))
    return d_y * sigmoid * (1.0 + cache.x * (1.0 - sigmoid))


def tanh_backward(d_y: Float[Array, "*shape"], cache: ActivationCache) -> Float[Array, "*shape"]:
    """d_y (1 - tanh²(x)) (ACT.7)."""
    tanh = array_namespace(d_y).tanh(cache.x)
    return d_y * (1.0 - tanh * tanh)


GELU = (gelu_forward, gelu_backward)
GELU_NEW = (gelu_new_forward, gelu_new_backward)
SILU = (silu_forward, silu_backward)

# What `hidden_act` can say, and the forward and backward functions that it means.
ACTIVATIONS = {
    "gelu": GELU,
    "gelu_python": GELU,
    "gelu_new": GELU_NEW,
    "gelu_accurate": GELU_NEW,
    "gelu_python_tanh": GELU_NEW,
    "gelu_pytorch_tanh": GELU_NEW,
    "relu": (relu_forward, relu_backward),
    "silu": SILU,
    "swish": SILU,
    "tanh": (tanh_forward, tanh_backward),
}


def check_activation(name: str) -> None:
    """Refuse a name that is not a key of `ACTIVATIONS`.

    Raises:
        ValueError: naming those that are.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"hidden_act={name!r} is not implemented; the activations are {', '.join(ACTIVATIONS)}.")


def activation_forward(x: Float[Array, "*shape"], name: str) -> tuple[Float[Array, "*shape"], ActivationCache]:
    """Apply the activation that a config's `hidden_act` calls `name`.

    Raises:
        ValueError: if `name` is not a key of `ACTIVATIONS`.
    """
    check_activation(name)
    forward, _ = ACTIVATIONS[name]
    return forward(x)


def activation_backward(d_y: Float[Array, "*shape"], cache: ActivationCache, name: str) -> Float[Array, "*shape"]:
    """The gradient of the input of the activation `name`, of the shape of its output."""
    check_activation(name)
    _, backward = ACTIVATIONS[name]
    return backward(d_y, cache)
