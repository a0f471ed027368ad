"""AdamW: Adam with decay beside the gradient and not within it (Loshchilov & Hutter 2019, arXiv:1711.05101).

With gradient g, decayed means of it and of its square, and t the number of this step, from 1,

    m = β₁ m + (1 - β₁) g
    v = β₂ v + (1 - β₂) g²
    p = (1 - rate · decay) p - rate · m / (1 - β₁ᵗ) / (√(v / (1 - β₂ᵗ)) + ε)

Norms and biases do not decay, everything else does, embeddings too (`decayed_parameters`).
"""

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from xlmr_np import trees
from xlmr_np.arrays import Array, array_namespace, is_numpy_array
from xlmr_np.ops.threads import Threads
from xlmr_np.row_sparse import RowSparse
from xlmr_np.training.clipping import clipping_factor, global_norm
from xlmr_np.training.lazy_table import LazyTable, grown

BLOCK = 131_072  # numbers that a thread updates at a time, so that they and the temporaries stay in cache
_NOT_DECAYED = re.compile(r"bias|layernorm|rmsnorm|(^|\.)norm(\.|$)|_norm(\.|$)")


class AdamWSetting(NamedTuple):
    """The numbers of AdamW besides the rate, which has a schedule.

    Attributes:
        beta1: how much of the mean gradient is kept at each step.
        beta2: how much of the mean square is kept.
        eps: added to the root of the mean square.
        weight_decay: of the parameters that decay, per step and rate.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0

    def root_scale(self, step: int) -> float:
        """What √v is multiplied with in this step, from 1."""
        return float((1.0 - self.beta2**step) ** -0.5)

    def corrected_rate(self, step: int, rate: float) -> float:
        """What m over the root is multiplied with in this step, from 1."""
        return rate / (1.0 - self.beta1**step)

    def kept(self, rate: float, decays: bool) -> float:
        """What a parameter is multiplied with."""
        return 1.0 - rate * self.weight_decay * decays


def is_decayed(name: str) -> bool:
    """Whether a parameter of this official name decays."""
    return _NOT_DECAYED.search(name.lower()) is None


class _Part(NamedTuple):
    """Some numbers of a parameter, all in one row."""

    parameter: Array
    gradient: Array
    mean: Array
    square: Array
    kept: float  # what the parameter is multiplied with


class AdamW:
    """Updates parameters in place, and remembers the means of their gradients.

    Attributes:
        steps: how many updates there have been.
    """

    def __init__(self, params: trees.Tree, decays: trees.Tree, setting: AdamWSetting, threads: Threads) -> None:
        """Begin with means of zero.

        Args:
            params: writable arrays in C order, and lazy tables.
            decays: for each of them, whether it decays.
            setting: see there.
            threads: that share the work on a CPU.

        Raises:
            ValueError: a parameter is neither.
        """
        self.setting, self.threads, self.steps = setting, threads, 0
        self._leaves = list(trees.leaves(params))
        for leaf in self._leaves:
            if is_numpy_array(leaf) and not (leaf.flags.c_contiguous and leaf.flags.writeable):
                raise ValueError(f"A parameter of shape {leaf.shape} is no writable array in C order, as updates need.")
        self._decays = list(trees.leaves(decays))
        self._means = [_zeros(leaf) for leaf in self._leaves]
        self._squares = [_zeros(leaf) for leaf in self._leaves]

    def update(self, gradients: trees.Tree, rate: float, factor: float = 1.0) -> None:
        """One step.

        Args:
            gradients: in the tree of the parameters; a row-sparse one only for the token table.
            rate: the learning rate of this step.
            factor: that gradients are multiplied with first, as by clipping.
        """
        self.steps += 1
        parts: list[_Part] = []
        for number, gradient in enumerate(trees.leaves(gradients)):
            leaf, kept = self._leaves[number], self.setting.kept(rate, self._decays[number])
            if isinstance(leaf, LazyTable):
                own, own_gradient = self._reached(number, leaf, gradient)
                leaf.decay *= kept
            else:
                own, own_gradient = leaf, gradient.to_dense() if isinstance(gradient, RowSparse) else gradient
            mean, square = (each[number][: len(own)] for each in (self._means, self._squares))
            flat = [each.reshape(-1) for each in (own, own_gradient, mean, square)]
            parts.extend(
                _Part(p[block], g[block], m[block], v[block], kept) for p, g, m, v in [flat] for block in _blocks(own)
            )
        self.threads.run(lambda part: self._update(part, rate, factor), parts)

    def norm(self, gradients: trees.Tree, losses: Sequence[Array] = (), loss_scale: float = 1.0) -> float:
        """The Euclidean norm of all gradients as one vector; NaN if a loss is not finite.

        Args:
            gradients: as for `update`, but `loss_scale` times too large.
            losses: whose gradients they are, each a number in an array.
            loss_scale: what the losses were multiplied with, so that small gradients do not vanish in half precision.
        """
        are_finite = all(math.isfinite(float(loss)) for loss in losses)
        return global_norm(gradients) / loss_scale if are_finite else math.nan

    def clipped_update(
        self,
        gradients: trees.Tree,
        rate: float,
        largest_norm: float,
        loss_scale: float = 1.0,
        losses: Sequence[Array] = (),
    ) -> float:
        """One step with the gradients clipped, and their norm before; if it is not finite, nothing has changed.

        Args:
            gradients: as for `norm`, as are the last two.
            rate: the learning rate of this step.
            largest_norm: to which they are clipped.
            loss_scale: see there.
            losses: see there.
        """
        norm = self.norm(gradients, losses, loss_scale)
        if math.isfinite(norm):
            self.update(gradients, rate, clipping_factor(norm, largest_norm) / loss_scale)
        return norm

    def _reached(self, number: int, leaf: LazyTable, gradient: RowSparse) -> tuple[Array, Array]:
        """The rows of a table that gradients have ever reached, and their gradients now."""
        place = leaf.reach(gradient.index)
        for means in (self._means, self._squares):
            means[number] = grown(means[number], len(leaf.rows))
        dense = np.zeros_like(leaf.rows)
        dense[place] = gradient.rows
        return leaf.rows, dense

    def _update(self, part: _Part, rate: float, factor: float) -> None:
        p, gradient, m, v, kept = part
        beta1, beta2, eps, _ = self.setting
        xp = array_namespace(p)
        g = gradient * factor
        m *= beta1
        m += (1.0 - beta1) * g
        g *= g
        g *= 1.0 - beta2
        v *= beta2
        v += g
        root = xp.sqrt(v)
        root *= self.setting.root_scale(self.steps)
        root += eps
        xp.divide(m, root, out=root)
        root *= self.setting.corrected_rate(self.steps, rate)
        p *= kept
        p -= root

    def state(self) -> dict[str, Array]:
        """All that an interrupted run needs to go on, by name; the parameters and lazy tables' decay are not in it."""
        arrays: dict[str, Any] = {"steps": np.asarray(self.steps)}
        for number, leaf in enumerate(self._leaves):
            rows = len(leaf.rows) if isinstance(leaf, LazyTable) else None
            arrays[f"mean.{number}"] = self._means[number][:rows]
            arrays[f"square.{number}"] = self._squares[number][:rows]
            if isinstance(leaf, LazyTable):
                arrays[f"reached.{number}"] = leaf.reached
        return arrays

    def restore(self, state: dict[str, Array]) -> None:
        """Go on where `state` was taken, with parameters as they were then.

        Raises:
            ValueError: it is of other parameters.
            KeyError: it lacks something.
        """
        for number, leaf in enumerate(self._leaves):
            if isinstance(leaf, LazyTable):
                leaf.reach(distinct_rows(state[f"reached.{number}"], len(leaf)))
            own = leaf.rows if isinstance(leaf, LazyTable) else leaf
            for kind, means in (("mean", self._means), ("square", self._squares)):
                saved = saved_means(state, f"{kind}.{number}", own.shape, own.dtype)
                means[number] = array_namespace(own).asarray(saved, copy=True)
        self.steps = int(state["steps"])


def _zeros(leaf: Array | LazyTable) -> Array:
    like = leaf.rows if isinstance(leaf, LazyTable) else leaf
    return array_namespace(like).zeros_like(like)


def saved_means(state: dict[str, Array], name: str, shape: tuple[int, ...], dtype: Any) -> Array:
    """The array of this name of an optimiser's state.

    Raises:
        ValueError: it is not of this shape and type.
        KeyError: there is none.
    """
    saved = state[name]
    if saved.shape != shape or saved.dtype != dtype:
        raise ValueError(
            f"The optimiser's state {name} is {saved.dtype} {saved.shape}, but the parameter is {dtype} {shape}: it "
            "belongs to another model."
        )
    return saved


def distinct_rows(index: Array, number_of_rows: int) -> Array:
    """The index itself, if it names rows of a table, and none twice.

    Raises:
        ValueError: it does not.
    """
    is_index = index.ndim == 1 and index.dtype == np.int64
    if not is_index or len(np.unique(index)) != len(index) or not ((index >= 0) & (index < number_of_rows)).all():
        raise ValueError(f"The optimiser's state has no index of distinct rows of a table of {number_of_rows:,}.")
    return index


def _blocks(x: Array) -> list[slice]:
    """Parts of an array for threads; on a GPU, all of it."""
    if not is_numpy_array(x):
        return [slice(None)]
    return [slice(start, start + BLOCK) for start in range(0, x.size, BLOCK)]
