"""Launches of activations.cu."""

from collections.abc import Iterator
from functools import cache
from itertools import product as pairs
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from xlmr_np.arrays import Array, array_namespace
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
from .rows import in_rows, vector_length, vector_lengths, wide_type
from .sums import sums_of_groups
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
ROWS_OF_GROUP = 64  # in the backward pass


class ActivationGradients(NamedTuple):
    """What `activation_backward` gives.

    Attributes:
        d_product: in the array of `d_y`.
        y: the result of the forward pass, in a new array; None: it was not wanted.
        d_bias: the sum of the rows of `d_product`, in at least float32.
    """

    d_product: Float[Array, "N D"]
    y: Float[Array, "N D"] | None
    d_bias: Float[Array, " D"]


def bias_activation(
    gpu: Gpu,
    product: Float[Array, "N D"],
    bias: Float[Array, " D"],
    activation: str | None,
    in_place: bool = True,
) -> Float[Array, "N D"]:
    """activation(product + bias), written into `product`, which is returned, or with not `in_place` into a new array.

    Args:
        gpu: where the arrays are.
        product: in C order; in place, what the caller has allocated itself.
        bias: of any strides; converted to the type of `product`.
        activation: a name of `layers.activations.ACTIVATIONS`; None adds the bias alone.
        in_place: whether `product` is overwritten; the backward pass needs it as it was.

    Raises:
        ValueError: the activation is not known, or `product` is not in C order.
    """
    functor = IDENTITY if activation is None else _functor(activation)
    _check_order(product, "product")
    number_of_rows, width = product.shape
    result = product if in_place else array_namespace(product).empty_like(product)
    if number_of_rows == 0 or width == 0:
        return result
    bias = in_rows(bias, product.dtype)
    length = vector_length(width, product, result, bias)
    grid = (
        -(-width // (length * VECTORS_OF_BLOCK)),
        min(TALLEST_GRID, -(-number_of_rows // (ROWS_OF_BLOCK * ROWS_OF_THREAD))),
    )
    arguments = [product, bias, result, np.int64(number_of_rows), np.int32(width)]
    shape = LaunchShape(grid, (VECTORS_OF_BLOCK, ROWS_OF_BLOCK))
    gpu.launch(_kernel("bias_activation", product.dtype.name, length, functor), shape, arguments)
    return result


def activation_backward(
    gpu: Gpu,
    d_y: Float[Array, "N D"],
    product: Float[Array, "N D"],
    bias: Float[Array, " D"],
    activation: str,
    with_y: bool = True,
) -> ActivationGradients:
    """The gradients of the product and of the bias, written into `d_y` and summed up, and the result once more.

    Args:
        gpu: where the arrays are.
        d_y: what the caller has allocated itself, in C order; overwritten.
        product: as it was before the bias came to it, of any strides. It and `bias` are converted to the type of `d_y`.
        bias: of any strides.
        activation: a name of `layers.activations.ACTIVATIONS`.
        with_y: whether the result of the forward pass is wanted again, for the gradient of a weight that it went into.

    Raises:
        ValueError: the activation is not known, or `d_y` is not in C order.
    """
    functor = _functor(activation)
    _check_order(d_y, "d_y")
    xp = array_namespace(d_y)
    number_of_rows, width = d_y.shape
    y = xp.empty_like(d_y) if with_y else None
    groups = -(-number_of_rows // ROWS_OF_GROUP)
    partial = xp.empty((1, groups, width), dtype=wide_type(d_y.dtype), device=d_y.device)
    if number_of_rows > 0 and width > 0:
        product, bias = (in_rows(x, d_y.dtype) for x in (product, bias))
        length = vector_length(width, d_y, product, bias, y)
        columns = VECTORS_OF_BLOCK * length
        shape = LaunchShape(
            (groups, -(-width // columns)),
            (VECTORS_OF_BLOCK, ROWS_OF_BLOCK),
            ROWS_OF_BLOCK * columns * partial.dtype.itemsize,
        )
        arguments = [d_y, product, bias, y, partial, np.int64(number_of_rows), np.int32(width)]
        gpu.launch(_kernel("activation_backward", d_y.dtype.name, length, functor), shape, arguments)
    return ActivationGradients(d_y, y, sums_of_groups(gpu, partial)[0])


def _check_order(x: Float[Array, "N D"], name: str) -> None:
    if not x.flags.c_contiguous:
        raise ValueError(f"{name} must be in C order, to be overwritten; its strides are {x.strides}.")


def kernels() -> Iterator[Kernel]:
    """All instances that `bias_activation` and `activation_backward` may launch."""
    for (dtype, length), functor in pairs(vector_lengths(), (IDENTITY, *FUNCTORS.values())):
        yield _kernel("bias_activation", dtype, length, functor)
    for (dtype, length), functor in pairs(vector_lengths(), FUNCTORS.values()):
        yield _kernel("activation_backward", dtype, length, functor)


def _functor(activation: str) -> str:
    check_activation(activation)
    forward, _ = ACTIVATIONS[activation]
    return FUNCTORS[forward]


@cache
def _kernel(name: str, dtype: str, length: int, functor: str) -> Kernel:
    return Kernel("activations.cu", f"{name}<{c_type(dtype)}, {length}, {functor}>")
