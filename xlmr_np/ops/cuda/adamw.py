"""Launches of adamw.cu."""

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64

from xlmr_np.arrays import Array, array_namespace

from .kernels import Gpu, Kernel, LaunchShape
from .rows import wide_type
from .types import c_type

THREADS, BLOCK = 256, 16384  # as in adamw.cu
TYPE_CODES = {"float64": 0, "float32": 1, "float16": 2, "bfloat16": 3}  # as in adamw.cu
SUM_SQUARES, CLIP = Kernel("adamw.cu", "sum_squares"), Kernel("adamw.cu", "clip")


class Gradient(NamedTuple):
    """A gradient as adamw.cu knows it: one row of an array of int64."""

    elements: int  # the address of the first
    type: int  # see `TYPE_CODES`
    size: int  # how many elements there are


class Tensor(NamedTuple):
    """A parameter as adamw.cu knows it, likewise."""

    parameter: int  # the address of the first element, as all that follow
    mean: int
    square: int
    copy: int  # 0: there is none
    copy_type: int  # see `TYPE_CODES`
    decays: int  # 1 or 0


class Step(NamedTuple):
    """The numbers of one step, see `training.adamw`."""

    beta1: float
    beta2: float
    eps: float
    root_scale: float  # that the root of the mean square is multiplied with
    rate: float  # that the quotient of the means is multiplied with
    kept: float  # that a parameter that decays is multiplied with

    def arguments(self, dtype: Any) -> list[np.floating]:
        """What kernels get, as numbers of this type."""
        rest1, rest2 = 1.0 - self.beta1, 1.0 - self.beta2
        values = self.beta1, rest1, self.beta2, rest2, self.eps, self.root_scale, self.rate, self.kept
        return [wide_type(dtype)(value) for value in values]


def parts_of(sizes: list[int]) -> Int64[np.ndarray, "parts 2"]:
    """Which tensor, and which of its numbers first, each block takes: `BLOCK` of a tensor, in the order of tensors."""
    parts = [(tensor, first) for tensor, size in enumerate(sizes) for first in range(0, size, BLOCK)]
    return np.array(parts, np.int64).reshape(-1, 2)


def clip(
    gpu: Gpu,
    gradients: Int64[Array, "K 3"],
    parts: Int64[Array, "parts 2"],
    largest_norm: float,
    added_to_norm: float,
    loss_scale: float,
) -> Float64[Array, "2"]:
    """The norm of all gradients, divided by the loss scale, and what they are multiplied with in an update.

    Args:
        gpu: where the arrays are.
        gradients: a `Gradient` in each row.
        parts: that cover them, see `parts_of`.
        largest_norm: to which the factor clips.
        added_to_norm: before it divides.
        loss_scale: that the gradients are too large by.
    """
    xp = array_namespace(gradients)
    sums = xp.empty(parts.shape[0], dtype=xp.float64, device=gradients.device)
    if parts.shape[0] > 0:
        gpu.launch(SUM_SQUARES, LaunchShape((parts.shape[0],), (THREADS,)), [gradients, parts, sums])
    clipping = xp.empty(2, dtype=xp.float64, device=gradients.device)
    numbers = [np.float64(number) for number in (largest_norm, added_to_norm, loss_scale)]
    gpu.launch(CLIP, LaunchShape((1,), (THREADS,)), [sums, np.int32(parts.shape[0]), *numbers, clipping])
    return clipping


def update(
    gpu: Gpu,
    tensors: Int64[Array, "K 6"],
    gradients: Int64[Array, "K 3"],
    parts: Int64[Array, "parts 2"],
    clipping: Float64[Array, "2"],
    dtype: Any,
    step: Step,
) -> None:
    """AdamW in place on the numbers in `parts`; on none if the norm is not finite.

    Args:
        gpu: where the arrays are.
        tensors: a `Tensor` in each row.
        gradients: theirs, a `Gradient` in each row.
        parts: see `parts_of`.
        clipping: what `clip` said of these gradients.
        dtype: of parameters and means, float32 or float64; copies need float32.
        step: its numbers.
    """
    if parts.shape[0] > 0:
        shape = LaunchShape((parts.shape[0],), (THREADS,))
        arguments = [tensors, gradients, parts, clipping, *step.arguments(dtype)]
        gpu.launch(_kernel("update", np.dtype(dtype).name), shape, arguments)


def update_rows(
    gpu: Gpu,
    table: Int64[Array, " 6"],
    reached: Bool[Array, " V"],
    gradient: Int64[Array, " 3"],
    index: Int64[Array, " U"],
    clipping: Float64[Array, "2"],
    width: int,
    dtype: Any,
    step: Step,
) -> None:
    """AdamW in place on a table [V, D] with a row-sparse gradient; nothing if the norm is not finite.

    Args:
        gpu: where the arrays are.
        table: a `Tensor`.
        reached: the rows that gradients have ever reached, which are marked here.
        gradient: a `Gradient`, of the rows that are not zero.
        index: which rows of the table these are, distinct and rising, in C order.
        clipping: what `clip` said of all gradients.
        width: D.
        dtype: of the table and its means, float32 or float64; a copy needs float32.
        step: its numbers.
    """
    number_of_rows = reached.shape[0]
    if number_of_rows > 0:
        shape = LaunchShape((-(-number_of_rows // (THREADS // 32)),), (THREADS,))
        arguments = [table, reached, gradient, index, np.int32(index.shape[0]), clipping, *step.arguments(dtype)]
        arguments += [np.int64(number_of_rows), np.int32(width)]
        gpu.launch(_kernel("update_rows", np.dtype(dtype).name), shape, arguments)


def kernels() -> Iterator[Kernel]:
    """All instances that these functions may launch."""
    yield from (SUM_SQUARES, CLIP)
    for dtype in ("float32", "float64"):
        yield from (_kernel("update", dtype), _kernel("update_rows", dtype))


@cache
def _kernel(name: str, dtype: str) -> Kernel:
    return Kernel("adamw.cu", f"{name}<{c_type(dtype)}>")
