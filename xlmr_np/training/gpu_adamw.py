"""AdamW on a GPU: norm, clipping and all updates in a handful of launches, without waiting for the GPU in between.

The formula is that of `training.adamw`, computed by `ops/cuda/adamw.cu`. Parameters are float32 (or float64); where a
model computes in half precision, they are the master weights, and the half-precision copies follow them.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from xlmr_np import trees
from xlmr_np.arrays import Array, address, array_namespace, to_numpy
from xlmr_np.ops.cuda.adamw import BLOCK, TYPE_CODES, Gradient, Step, Tensor, clip, parts_of, update, update_rows
from xlmr_np.ops.cuda.kernels import Gpu
from xlmr_np.ops.cuda.rows import in_rows
from xlmr_np.row_sparse import RowSparse
from xlmr_np.training.adamw import AdamWSetting, distinct_rows, saved_means
from xlmr_np.training.clipping import ADDED_TO_NORM

MASTERS = ("float32", "float64")
HALVES = ("float16", "bfloat16")
MEANS = ("mean", "square")  # their names in a state


class _Gradients(NamedTuple):
    """Gradients as kernels get them, in the order of the tensors."""

    arrays: list[Array]  # which must stay while kernels read them
    described: Array  # a `Gradient` in each row
    number_of_parts: int  # that cover them
    table_index: Array | None  # the rows that the table's is of


class GpuAdamW:
    """Updates parameters in place, and remembers the means of their gradients.

    Of a table with row-sparse gradients, the rows that no gradient has ever reached only decay, as their means are
    zero; the means are there all the same, so that nothing needs to grow.

    Attributes:
        setting: see there.
        steps: how many updates there have been.
    """

    def __init__(
        self,
        gpu: Gpu,
        params: trees.Tree,
        decays: trees.Tree,
        setting: AdamWSetting,
        copies: trees.Tree = None,
        table: Array | None = None,
    ) -> None:
        """Begin with means of zero.

        Args:
            gpu: where the arrays are.
            params: writable arrays in C order, all float32 or all float64.
            decays: for each of them, whether it decays.
            setting: see there.
            copies: writable float16 or bfloat16 arrays in C order, in the tree of `params`, which are float32 then:
                each update writes the parameters, rounded, there.
            table: the parameter whose gradients are row-sparse; a row-sparse gradient of another is made dense.

        Raises:
            ValueError: parameters, copies or table are not like that.
        """
        self.setting, self.steps, self._gpu = setting, 0, gpu
        self._leaves = list(trees.leaves(params))
        self._decays = list(trees.leaves(decays))
        self._copies = [None] * len(self._leaves) if copies is None else list(trees.leaves(copies))
        for leaf, copied in zip(self._leaves, self._copies, strict=True):
            _check(leaf, self._leaves[0], copied)
        self._dtype = self._leaves[0].dtype
        self._xp, self._device = array_namespace(self._leaves[0]), self._leaves[0].device
        self._means = [self._xp.zeros_like(leaf) for leaf in self._leaves]
        self._squares = [self._xp.zeros_like(leaf) for leaf in self._leaves]
        self._table = None if table is None else self._number_of(table)
        # Kernels get the table last, as its gradient has another size at every step.
        self._order = [number for number in range(len(self._leaves)) if number != self._table]
        self._number_of_dense_parts = len(parts_of([self._leaves[number].size for number in self._order]))
        if self._table is not None:
            self._order.append(self._table)
            rows = self._leaves[self._table].shape[0]
            self._reached = self._xp.zeros(rows, dtype=self._xp.bool, device=self._device)
        self._parts = self._uploaded(parts_of([self._leaves[number].size for number in self._order]))
        self._tensors = self._uploaded(np.array([self._tensor(number) for number in self._order], np.int64))

    def norm(self, gradients: trees.Tree, losses: Sequence[Array] = (), loss_scale: float = 1.0) -> float:
        """See `AdamW.norm`; gradients may be of any types and strides, that of the table is row-sparse.

        Raises:
            ValueError: a gradient has another shape than its parameter.
        """
        return float(to_numpy(self._clipping(self._described(gradients), math.inf, loss_scale, losses))[0])

    def clipped_update(
        self,
        gradients: trees.Tree,
        rate: float,
        largest_norm: float,
        loss_scale: float = 1.0,
        losses: Sequence[Array] = (),
    ) -> float:
        """See `AdamW.clipped_update`. Everything is enqueued before the norm is waited for.

        Raises:
            ValueError: a gradient has another shape than its parameter.
        """
        own = self._described(gradients)
        clipping, step = self._clipping(own, largest_norm, loss_scale, losses), self._step(rate)
        dense_parts = self._parts[: self._number_of_dense_parts, :]
        update(self._gpu, self._tensors, own.described, dense_parts, clipping, self._dtype, step)
        if self._table is not None:
            table, gradient, width = self._tensors[-1, :], own.described[-1, :], self._leaves[self._table].shape[1]
            update_rows(self._gpu, table, self._reached, gradient, own.table_index, clipping, width, self._dtype, step)
        norm = float(to_numpy(clipping)[0])
        if math.isfinite(norm):
            self.steps += 1
        return norm

    def state(self) -> dict[str, Array]:
        """What `AdamW.state` has, by the same names: of the table, the means of the rows that were reached."""
        arrays: dict[str, Array] = {"steps": np.asarray(self.steps)}
        for number, (mean, square) in enumerate(zip(self._means, self._squares, strict=True)):
            if number == self._table:
                (reached,) = self._xp.nonzero(self._reached)
                arrays[f"reached.{number}"] = reached
                mean, square = mean[reached, :], square[reached, :]
            arrays |= {f"{kind}.{number}": array for kind, array in zip(MEANS, (mean, square), strict=True)}
        return arrays

    def restore(self, state: dict[str, Array]) -> None:
        """Go on where `state` was taken, here or by `AdamW`, with parameters as they were then.

        Raises:
            ValueError: it is of other parameters.
            KeyError: it lacks something.
        """
        saved = []
        for number, leaf in enumerate(self._leaves):
            shape, rows = leaf.shape, None
            if number == self._table:
                rows = distinct_rows(to_numpy(state[f"reached.{number}"]), shape[0])
                shape = len(rows), shape[1]
            saved.append((rows, *(saved_means(state, f"{kind}.{number}", shape, leaf.dtype) for kind in MEANS)))
        steps = int(state["steps"])
        for number, (rows, *means) in enumerate(saved):
            for own, values in zip((self._means[number], self._squares[number]), means, strict=True):
                uploaded = self._uploaded(values)
                if rows is None:
                    own[...] = uploaded
                else:
                    own[...] = 0
                    own[self._uploaded(rows), :] = uploaded
            if rows is not None:
                self._reached[...] = False
                self._reached[self._uploaded(rows)] = True
        self.steps = steps

    def _number_of(self, table: Array) -> int:
        """Where the table is among the parameters."""
        numbers = [number for number, leaf in enumerate(self._leaves) if leaf is table]
        if len(numbers) != 1 or table.ndim != 2:
            raise ValueError(f"The table of shape {table.shape} is no matrix that is once among the parameters.")
        return numbers[0]

    def _tensor(self, number: int) -> Tensor:
        copied = self._copies[number]
        copy, copy_type = (0, 0) if copied is None else (address(copied), TYPE_CODES[copied.dtype.name])
        parameter, mean, square = (address(own[number]) for own in (self._leaves, self._means, self._squares))
        return Tensor(parameter, mean, square, copy, copy_type, int(self._decays[number]))

    def _in_rows(self, gradient: Array | RowSparse, number: int) -> Array:
        """The numbers of a gradient in C order; of the table's, those of its rows."""
        shape = self._leaves[number].shape
        if gradient.shape != shape:
            raise ValueError(f"A gradient of shape {gradient.shape} came for parameter {number} of shape {shape}.")
        if number == self._table:
            gradient = gradient.rows
        elif isinstance(gradient, RowSparse):
            gradient = gradient.to_dense()
        return in_rows(gradient, gradient.dtype)

    def _described(self, gradients: trees.Tree) -> _Gradients:
        """Gradients as they come, for kernels."""
        given = list(trees.leaves(gradients))
        own = [self._in_rows(given[number], number) for number in self._order]
        described = self._uploaded(np.array([_described(each) for each in own], np.int64))
        if self._table is None:
            return _Gradients(own, described, self._number_of_dense_parts, None)
        number_of_parts = self._number_of_dense_parts + -(-own[-1].size // BLOCK)
        return _Gradients(own, described, number_of_parts, in_rows(given[self._table].index, np.int64))

    def _clipping(self, own: _Gradients, largest_norm: float, loss_scale: float, losses: Sequence[Array]) -> Array:
        """What `clip` says of gradients, with a norm of NaN if a loss is not finite."""
        parts = self._parts[: own.number_of_parts, :]
        clipping = clip(self._gpu, own.described, parts, largest_norm, ADDED_TO_NORM, loss_scale)
        for loss in losses:
            clipping += self._xp.where(self._xp.isfinite(loss), 0.0, math.nan)
        return clipping

    def _step(self, rate: float) -> Step:
        """The numbers of the next step."""
        setting, number = self.setting, self.steps + 1
        root_scale, corrected_rate = setting.root_scale(number), setting.corrected_rate(number, rate)
        return Step(setting.beta1, setting.beta2, setting.eps, root_scale, corrected_rate, setting.kept(rate, True))

    def _uploaded(self, array: Array) -> Array:
        return self._xp.asarray(array, device=self._device)


def _check(leaf: Array, first: Array, copied: Array | None) -> None:
    """That kernels may write to a parameter and its copy, knowing nothing but their addresses."""
    for name, x in (("parameter", leaf), ("copy", copied)):
        # CuPy's arrays are always writable.
        if x is not None and not (x.flags.c_contiguous and getattr(x.flags, "writeable", True)):
            raise ValueError(f"A {name} of shape {x.shape} is no writable array in C order, as updates need.")
    if leaf.dtype.name not in MASTERS or leaf.dtype != first.dtype:
        raise ValueError(f"Parameters of {first.dtype} and {leaf.dtype}; all must be float32, or all float64.")
    if copied is None:
        return
    if copied.shape != leaf.shape or copied.dtype.name not in HALVES or leaf.dtype.name != "float32":
        raise ValueError(
            f"A copy is {copied.dtype} {copied.shape} of a parameter {leaf.dtype} {leaf.shape}; it must be float16 or "
            "bfloat16 of the same shape, the parameter float32."
        )


def _described(gradient: Array) -> Gradient:
    """Where a gradient is, and what.

    Raises:
        ValueError: kernels do not know its type.
    """
    if gradient.dtype.name not in TYPE_CODES:
        raise ValueError(f"A gradient is {gradient.dtype}; it must be one of {', '.join(TYPE_CODES)}.")
    return Gradient(address(gradient), TYPE_CODES[gradient.dtype.name], gradient.size)
