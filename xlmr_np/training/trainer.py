"""The training step: loss and gradients of some batches, their weighted mean, clipping, AdamW.

In mixed precision (Micikevicius et al. 2018, arXiv:1710.03740), on a GPU, the weights are in float32 and so are their
updates, while loss and gradients are computed with copies of them in float16 or bfloat16.
"""

import copy
import logging
import math
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from xlmr_np import trees
from xlmr_np.arrays import (
    Array,
    array_namespace,
    as_generator,
    at_least_float32,
    device_context,
    dtype_from_name,
    is_numpy_array,
    to_numpy,
)
from xlmr_np.labels import check_smoothing
from xlmr_np.models.encoding import TaskModel
from xlmr_np.models.language_models import LanguageModel
from xlmr_np.ops.threads import Threads
from xlmr_np.row_sparse import RowSparse
from xlmr_np.training.adamw import AdamW, AdamWSetting, is_decayed
from xlmr_np.training.gpu_adamw import GpuAdamW
from xlmr_np.training.lazy_table import LazyTable
from xlmr_np.training.loss_scale import LossScale
from xlmr_np.training.schedules import SCHEDULES, warmup_steps_of
from xlmr_np.weights.safetensors_format import release_pages

PRECISIONS = ("float32", "float16", "bfloat16")
logger = logging.getLogger("xlmr_np")


class TrainingSetting(NamedTuple):
    """How a model is trained; the defaults are the reference's.

    Attributes:
        total_steps: after which the rate is 0, if the schedule falls.
        learning_rate: the highest.
        schedule: a name in `SCHEDULES`.
        warmup: steps, or a share of all steps below 1, in which the rate rises.
        max_gradient_norm: to which gradients are clipped.
        adamw: the numbers of the optimiser.
        label_smoothing: the share of the loss, below 1, that asks for all classes alike in place of the right one.
        precision: what loss and gradients are computed in: "float16" or "bfloat16" on a GPU, with weights in float32;
            "float32" for the type of the weights. None is that of the model as it was loaded, on a CPU "float32".
    """

    total_steps: int
    learning_rate: float = 5e-5
    schedule: str = "linear"
    warmup: float = 0.0
    max_gradient_norm: float = 1.0
    adamw: AdamWSetting = AdamWSetting()
    label_smoothing: float = 0.0
    precision: str | None = None

    def check(self) -> "TrainingSetting":
        """The setting itself.

        Raises:
            ValueError: it names no schedule, no precision, a negative warm-up, or a label smoothing that is no share.
        """
        if self.precision is not None and self.precision not in PRECISIONS:
            raise ValueError(f"precision={self.precision!r} is not one of {', '.join(PRECISIONS)}.")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule={self.schedule!r} is not one of {', '.join(SCHEDULES)}.")
        check_smoothing(self.label_smoothing)
        warmup_steps_of(self.warmup, self.total_steps)
        return self


class TrainingStep(NamedTuple):
    """What a step reports."""

    loss: float  # the mean over everything in the batches that has a label
    gradient_norm: float  # before clipping
    rate: float
    is_skipped: bool = False  # nothing was updated, as a gradient left the range of float16


class TrainerState(NamedTuple):
    """What a trainer remembers between steps: see `AdamW.state`, and what generator and loss scale have come to."""

    optimizer: dict[str, Array]
    generator: dict[str, Any] | None
    loss_scale: tuple[float, int] | None = None


class Trainer:
    """Trains a model in place: it replaces the model's parameters by arrays of its own, and updates these.

    Attributes:
        model: as it is after the last step, with all digits of its weights.
        setting: see there.
        optimizer: counts the steps.
        generator: draws what is dropped.
    """

    def __init__(self, model: TaskModel, setting: TrainingSetting, generator: np.random.Generator | None) -> None:
        """Make the parameters writable.

        Args:
            model: with a head that has a loss.
            setting: see there.
            generator: draws what is dropped; None drops nothing.

        Raises:
            ValueError: see `TrainingSetting.check`; or a half precision is asked for on a CPU.
        """
        self.model, self.setting = model, setting.check()
        self.generator = None if generator is None else as_generator(generator)
        self._warmup_steps = warmup_steps_of(setting.warmup, setting.total_steps)
        gpu, half = model.engine.gpu, _half_precision(model, setting.precision)
        with device_context(model.device):
            model.params = trainable(model)
            decays = tuple(is_decayed(name) for name in model.named(model.params))  # in the order of the leaves
            self._computing = model if half is None else _copy_in(model, half)
            self.optimizer: AdamW | GpuAdamW
            if gpu is None:
                self.optimizer = AdamW(model.params, decays, setting.adamw, Threads(model.num_threads))
            else:
                table = None if _decodes_by_table(model) else model.params.encoder.embeddings.token
                copies = None if half is None else self._computing.params
                self.optimizer = GpuAdamW(gpu, model.params, decays, setting.adamw, copies, table)
        self._loss_scale = LossScale() if half == np.float16 else None

    def step(self, *batches: dict[str, Any]) -> TrainingStep:
        """One update, from one batch or several that do not fit into memory together.

        Every token, sentence or question with a label counts the same, whichever batch it is in. In float16, a gradient
        that is not finite halves the loss scale (see `loss_scale`), and the step is left out.

        Raises:
            FloatingPointError: the loss or the gradient is not finite; the parameters are as they were.
            ValueError, TypeError: as for the model's `loss_and_gradients`; or there is no batch.
        """
        if not batches:
            raise ValueError("A training step needs at least one batch.")
        with device_context(self.model.device):
            return self._step(batches)

    def _step(self, batches: tuple[dict[str, Any], ...]) -> TrainingStep:
        weights = [1] if len(batches) == 1 else [self.model.number_of_labels(**batch) for batch in batches]
        total = max(1, sum(weights))
        scale = 1.0 if self._loss_scale is None else self._loss_scale.value
        schedule = SCHEDULES[self.setting.schedule]
        rate = self.setting.learning_rate * schedule(self.optimizer.steps, self._warmup_steps, self.setting.total_steps)
        losses, gradients = [], None
        for number, (batch, weight) in enumerate(zip(batches, weights, strict=True), start=1):
            output, own = self._computing.loss_and_gradients(
                self.generator, label_smoothing=self.setting.label_smoothing, loss_scale=scale, **batch
            )
            losses.append(output.loss if hasattr(output, "loss") else output)
            if len(batches) == 1:
                gradients = own
                break
            norm = self.optimizer.norm(own, losses[-1:], scale)
            if not math.isfinite(norm):
                return self._refused(losses[-1], norm, rate, number)
            share = weight / total
            own = trees.map_leaves(lambda leaf, share=share: _scaled(leaf, share), own)
            gradients = own if gradients is None else trees.map_leaves(_sum, gradients, own)
        norm = self.optimizer.clipped_update(gradients, rate, self.setting.max_gradient_norm, scale, losses)
        if not math.isfinite(norm):
            return self._refused(losses[-1], norm, rate, len(batches))
        if self._loss_scale is not None:
            self._loss_scale.succeeded()
        loss = sum(float(to_numpy(own)) * weight / total for own, weight in zip(losses, weights, strict=True))
        return TrainingStep(loss, norm, rate)

    def _refused(self, loss: Array, norm: float, rate: float, number: int) -> TrainingStep:
        """What a step without an update reports.

        Raises:
            FloatingPointError: it is not float16 that is to blame.
        """
        own_loss = float(to_numpy(loss))
        if not math.isfinite(own_loss):
            self._stop("loss", own_loss, number)
        scale = None if self._loss_scale is None else self._loss_scale.value
        if self._loss_scale is None or not self._loss_scale.overflowed():
            self._stop("norm of the gradient", norm, number)
        logger.warning(
            "Step %d is left out: a gradient left the range of float16 with the loss times %g; it is %g from now on.",
            self.optimizer.steps + 1,
            scale,
            self._loss_scale.value,
        )
        return TrainingStep(own_loss, norm, rate, is_skipped=True)

    def _stop(self, what: str, value: float, number: int) -> NoReturn:
        also = " So may bfloat16, as float16 ends at 65,504." if self._loss_scale is not None else ""
        raise FloatingPointError(
            f"The {what} of batch {number} of step {self.optimizer.steps + 1} is {value}; nothing was updated. "
            f"A smaller learning rate, a longer warm-up or stronger clipping may help.{also}"
        )

    def state(self) -> TrainerState:
        """What a run needs to go on besides the parameters; to be taken when these are saved."""
        generator = None if self.generator is None else dict(self.generator.bit_generator.state)
        scale = None if self._loss_scale is None else (self._loss_scale.value, self._loss_scale.steps_since)
        with device_context(self.model.device):
            return TrainerState(self.optimizer.state(), generator, scale)

    def restore(self, state: TrainerState) -> None:
        """Go on where the state was taken, with a model of the parameters that were saved then.

        A state without a loss scale, of a run in another precision, is gone on with from a new one.

        Raises:
            ValueError: it is of another model, or of a run with another kind of generator.
            KeyError, TypeError, OverflowError: it is none.
        """
        if (self.generator is None) != (state.generator is None):
            raise ValueError("Only one of this run and that of the state has a generator; go on with the same kind.")
        with device_context(self.model.device):
            self.optimizer.restore(state.optimizer)
        if self.generator is not None and state.generator is not None:
            self.generator.bit_generator.state = state.generator
        if self._loss_scale is not None and state.loss_scale is not None:
            self._loss_scale = LossScale(*state.loss_scale)

    def rebase(self, directory: Path) -> None:
        """Read those rows of the token table that no gradient has reached from where all of them have been saved.

        So that a run which goes on computes, bit for bit, what one that is taken up from these files does.
        """
        table = self.model.params.encoder.embeddings.token
        if isinstance(table, LazyTable):
            table.rebase(type(self.model).from_pretrained(directory).params.encoder.embeddings.token)


def trainable(model: TaskModel) -> trees.Tree:
    """The parameters as writable arrays in at least float32.

    On a CPU, the token table stays where it is, with the rows that gradients reach in memory of their own, unless it is
    the decoder too, whose gradient reaches all of it.
    """
    table = model.params.encoder.embeddings.token
    can_be_lazy = model.engine.gpu is None and not _decodes_by_table(model)
    is_lazy = isinstance(table, LazyTable) or (is_numpy_array(table) and can_be_lazy)  # lazy: trained before
    params = trees.map_leaves(
        lambda leaf: (
            LazyTable(np.asarray(leaf, _trained_dtype(leaf))) if is_lazy and leaf is table else _writable(leaf)
        ),
        model.params,
    )
    release_pages(leaf for leaf in trees.leaves(model.params) if is_numpy_array(leaf))
    return params


def _decodes_by_table(model: TaskModel) -> bool:
    """Whether the token table is the decoder, too."""
    return isinstance(model, LanguageModel) and model.is_tied


def _half_precision(model: TaskModel, asked: str | None) -> np.dtype | None:
    """The half type that loss and gradients are to be computed in, if any.

    Raises:
        ValueError: one is asked for on a CPU.
    """
    is_on_gpu = model.engine.gpu is not None
    dtype = model.dtype if asked is None and is_on_gpu else dtype_from_name(asked or "float32")
    if dtype.itemsize > 2:
        return None
    if not is_on_gpu:
        raise ValueError(f"precision={asked!r} needs a GPU; on a CPU, leave it out or ask for 'float32'.")
    return np.dtype(dtype)


def _copy_in(model: TaskModel, half: np.dtype) -> TaskModel:
    """A model of its own with the same weights in a half type."""
    own = copy.copy(model)
    own.params = trees.map_leaves(lambda leaf: array_namespace(leaf).astype(leaf, half), model.params)
    return own


def _trained_dtype(leaf: Array) -> Any:
    return np.dtype(np.float32) if leaf.dtype.itemsize == 2 else leaf.dtype


def _writable(leaf: Array) -> Array:
    """A copy in the order that the optimiser needs, its rows one after the other."""
    if is_numpy_array(leaf):
        return np.array(leaf, _trained_dtype(leaf), order="C")
    xp = array_namespace(leaf)
    return xp.ascontiguousarray(xp.astype(leaf, _trained_dtype(leaf), copy=True))


def _scaled(gradient: Array | RowSparse, share: float) -> Array | RowSparse:
    if isinstance(gradient, RowSparse):
        return RowSparse(gradient.index, at_least_float32(gradient.rows) * share, gradient.number_of_rows)
    return at_least_float32(gradient) * share


def _sum(first: Array | RowSparse, second: Array | RowSparse) -> Array | RowSparse:
    return first.plus(second) if isinstance(first, RowSparse) else first + second
