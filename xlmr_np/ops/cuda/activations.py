"""Launches of activations.cu."""

from collections.abc import Iterator
from functools import cache
from itertools import product as pairs

import numpy as np
from jaxtyping import Float

from xlmr_np.arrays import Array
from xlmr_np.layers.activations import (
    ACTIVATIONS,
    check_activation,
    gelu_forward,
    gelu_new_forward,
    relu_forward,
    silu_forward,
    tanh_forward,
)

from .kernels import Gpu, Kernel, LaunchShape
from .rows import in_rows, vector_length, vector_lengths
from .types import c_type

# The C++ names of what `layers.activations` computes.
FUNCTORS = {
    gelu_forward: "Gelu",
    gelu_new_forward: "GeluNew",
    relu_forward: "Relu",
    silu_forward: "Silu",
    tanh_forward: "Tanh",
}
IDENTITY = "Identity"
ROWS_OF_BLOCK, VECTORS_OF_BLOCK = 8, 32  # as in activations.cu
ROWS_OF_THREAD = 4
TALLEST_GRID = 65535  # blocks along y


def bias_activation(
    gpu: Gpu, product: Float[Array, "N D"], bias: Float[Array, " D"], activation: str | None
) -> Float[Array, "N D"]:
    """activation(product + bias), written into `product`, which is returned.

    Args:
        gpu: where the arrays are.
        product: what the caller has allocated itself, in C order.
        bias: of any strides; converted to the type of `product`.
        activation: a name of `layers.activations.ACTIVATIONS`; None adds the bias alone.

    Raises:
        ValueError: the activation is not known, or `product` is not in C order.
    """
    functor = IDENTITY if activation is None else _functor(activation)
    if not product.flags.c_contiguous:
        raise ValueError(f"product must be in C order, to be overwritten; its strides are {product.strides}.")
    number_of_rows, width = product.shape
    if number_of_rows == 0 or width == 0:
        return product
    bias = in_rows(bias, product.dtype)
    length = vector_length(width, product, bias)
    grid = (
        -(-width // (length * VECTORS_OF_BLOCK)),
        min(TALLEST_GRID, -(-number_of_rows // (ROWS_OF_BLOCK * ROWS_OF_THREAD))),
    )
    arguments = [product, bias, np.int64(number_of_rows), np.int32(width)]
    shape = LaunchShape(grid, (VECTORS_OF_BLOCK, ROWS_OF_BLOCK))
    gpu.launch(_kernel(product.dtype.name, length, functor), shape, arguments)
    return product


def kernels() -> Iterator[Kernel]:
    """All instances that `bias_activation` may launch."""
    for (dtype, length), functor in pairs(vector_lengths(), (IDENTITY, *FUNCTORS.values())):
        yield _kernel(dtype, length, functor)


def _functor(activation: str) -> str:
    check_activation(activation)
    forward, _ = ACTIVATIONS[activation]
    return FUNCTORS[forward]


@cache
def _kernel(dtype: str, length: int, functor: str) -> Kernel:
    return Kernel("activations.cu", f"bias_activation<{c_type(dtype)}, {length}, {functor}>")
