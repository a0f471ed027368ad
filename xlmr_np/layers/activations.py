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


ACTIVATIONS = {
    "gelu": gelu_forward,
    "gelu_python": gelu_forward,
    "gelu_new": gelu_new_forward,
    "gelu_accurate": gelu_new_forward,
    "gelu_python_tanh": gelu_new_forward,
    "gelu_pytorch_tanh": gelu_new_forward,
    "relu": relu_forward,
    "silu": silu_forward,
    "swish": silu_forward,
    "tanh": tanh_forward,
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
    return ACTIVATIONS[name](x)
