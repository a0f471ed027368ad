"""The training step: loss and gradients of some batches, their weighted mean, clipping, AdamW."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xlmr_np import trees
from xlmr_np.arrays import Array, array_namespace, as_generator, compute_dtype, is_numpy_array, to_numpy
from xlmr_np.labels import check_smoothing
from xlmr_np.models.encoding import TaskModel
from xlmr_np.models.language_models import LanguageModel
from xlmr_np.ops.threads import Threads
from xlmr_np.row_sparse import RowSparse
from xlmr_np.training.adamw import AdamW, AdamWSetting, is_decayed
from xlmr_np.training.clipping import clipping_factor, global_norm
from xlmr_np.training.lazy_table import LazyTable
from xlmr_np.training.schedules import SCHEDULES, warmup_steps_of
from xlmr_np.weights.safetensors_format import release_pages


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
    """

    total_steps: int
    learning_rate: float = 5e-5
    schedule: str = "linear"
    warmup: float = 0.0
    max_gradient_norm: float = 1.0
    adamw: AdamWSetting = AdamWSetting()
    label_smoothing: float = 0.0

    def check(self) -> "TrainingSetting":
        """The setting itself.

        Raises:
            ValueError: it names no schedule, a negative warm-up, or a label smoothing that is no share.
        """
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


class TrainerState(NamedTuple):
    """What a trainer remembers between steps: see `AdamW.state`, and what the generator has come to."""

    optimizer: dict[str, Array]
    generator: dict[str, Any] | None


class Trainer:
    """Trains a model in place: it replaces the model's parameters by arrays of its own, and updates these.

    Attributes:
        model: as it is after the last step.
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
            ValueError: see `TrainingSetting.check`.
        """
        self.model, self.setting = model, setting.check()
        self.generator = None if generator is None else as_generator(generator)
        self._warmup_steps = warmup_steps_of(setting.warmup, setting.total_steps)
        model.params = trainable(model)
        decays = tuple(is_decayed(name) for name in model.named(model.params))  # in the order of the leaves
        self.optimizer = AdamW(model.params, decays, setting.adamw, Threads(model.num_threads))

    def step(self, *batches: dict[str, Any]) -> TrainingStep:
        """One update, from one batch or several that do not fit into memory together.

        Every token, sentence or question with a label counts the same, whichever batch it is in.

        Raises:
            FloatingPointError: the loss or the gradient is not finite; the parameters are as they were.
            ValueError, TypeError: as for the model's `loss_and_gradients`; or there is no batch.
        """
        if not batches:
            raise ValueError("A training step needs at least one batch.")
        weights = [1] if len(batches) == 1 else [self.model.number_of_labels(**batch) for batch in batches]
        total = max(1, sum(weights))
        loss, norm, gradients = 0.0, 0.0, None
        for number, (batch, weight) in enumerate(zip(batches, weights, strict=True)):
            output, own = self.model.loss_and_gradients(
                self.generator, label_smoothing=self.setting.label_smoothing, **batch
            )
            own_loss = float(to_numpy(output.loss if hasattr(output, "loss") else output))
            norm = global_norm(own)
            for what, value in (("loss", own_loss), ("norm of the gradient", norm)):
                if not math.isfinite(value):
                    raise FloatingPointError(
                        f"The {what} of batch {number + 1} of step {self.optimizer.steps + 1} is {value}; nothing was "
                        "updated. A smaller learning rate, a longer warm-up or stronger clipping may help."
                    )
            loss += own_loss * weight / total
            share = weight / total
            if share != 1.0:
                own = trees.map_leaves(lambda leaf, share=share: _scaled(leaf, share), own)
            gradients = own if gradients is None else trees.map_leaves(_sum, gradients, own)
        if len(batches) > 1:
            norm = global_norm(gradients)
        schedule = SCHEDULES[self.setting.schedule]
        rate = self.setting.learning_rate * schedule(self.optimizer.steps, self._warmup_steps, self.setting.total_steps)
        self.optimizer.update(gradients, rate, clipping_factor(norm, self.setting.max_gradient_norm))
        return TrainingStep(loss, norm, rate)

    def state(self) -> TrainerState:
        """What a run needs to go on besides the parameters; to be taken when these are saved."""
        generator = None if self.generator is None else dict(self.generator.bit_generator.state)
        return TrainerState(self.optimizer.state(), generator)

    def restore(self, state: TrainerState) -> None:
        """Go on where the state was taken, with a model of the parameters that were saved then.

        Raises:
            ValueError: it is of another model, or of a run with another kind of generator.
            KeyError, TypeError, OverflowError: it is none.
        """
        if (self.generator is None) != (state.generator is None):
            raise ValueError("Only one of this run and that of the state has a generator; go on with the same kind.")
        self.optimizer.restore(state.optimizer)
        if self.generator is not None and state.generator is not None:
            self.generator.bit_generator.state = state.generator

    def rebase(self, directory: Path) -> None:
        """Read those rows of the token table that no gradient has reached from where all of them have been saved.

        So that a run which goes on computes, bit for bit, what one that is taken up from these files does.
        """
        table = self.model.params.encoder.embeddings.token
        if isinstance(table, LazyTable):
            table.rebase(type(self.model).from_pretrained(directory).params.encoder.embeddings.token)


def trainable(model: TaskModel) -> trees.Tree:
    """The parameters as writable arrays in the type that is computed in.

    The token table stays where it is, with the rows that gradients reach in memory of their own, unless it is the
    decoder too, whose gradient reaches all of it.
    """
    table = model.params.encoder.embeddings.token
    is_decoder = isinstance(model, LanguageModel) and model.is_tied
    is_lazy = isinstance(table, LazyTable) or (is_numpy_array(table) and not is_decoder)  # lazy: trained before
    params = trees.map_leaves(
        lambda leaf: LazyTable(np.asarray(leaf, compute_dtype(leaf))) if is_lazy and leaf is table else _writable(leaf),
        model.params,
    )
    release_pages(leaf for leaf in trees.leaves(model.params) if is_numpy_array(leaf))
    return params


def _writable(leaf: Array) -> Array:
    """A copy in the order that the optimiser needs, its rows one after the other."""
    if is_numpy_array(leaf):
        return np.array(leaf, compute_dtype(leaf), order="C")
    return array_namespace(leaf).asarray(leaf, dtype=compute_dtype(leaf), copy=True)


def _scaled(gradient: Array | RowSparse, share: float) -> Array | RowSparse:
    if isinstance(gradient, RowSparse):
        return RowSparse(gradient.index, gradient.rows * share, gradient.number_of_rows)
    return gradient * share


def _sum(first: Array | RowSparse, second: Array | RowSparse) -> Array | RowSparse:
    return first.plus(second) if isinstance(first, RowSparse) else first + second
