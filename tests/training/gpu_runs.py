"""Training on a GPU, an emulated one or a card, beside the same training on the CPU in float64."""

from collections.abc import Callable
from typing import Any

import numpy as np

import xlmr_np
from tests.reference_models import TINY
from tests.training.test_trainer import batch_of
from xlmr_np import XLMRobertaConfig, trees
from xlmr_np.arrays import to_numpy
from xlmr_np.row_sparse import RowSparse
from xlmr_np.training.adamw import AdamWSetting
from xlmr_np.training.trainer import Trainer, TrainingSetting, TrainingStep

TRAINED_CLASSES = (
    "XLMRobertaForMaskedLM",
    "XLMRobertaForCausalLM",
    "XLMRobertaForSequenceClassification",
    "XLMRobertaForTokenClassification",
    "XLMRobertaForQuestionAnswering",
    "XLMRobertaForMultipleChoice",
)
SHAPE = {**TINY, "hidden_size": 64, "num_attention_heads": 2, "initializer_range": 0.1, "use_cache": False}
# Of the largest entry of all gradients: a dozen roundings forward and as many back, to 2^-11 and 2^-8 of each number.
GRADIENT_TOLERANCE = {"float16": 0.01, "bfloat16": 0.08, "float32": 2e-5, "float64": 1e-10}
# Of losses of order one, over ten steps, which add up what gradients differ by.
LOSS_TOLERANCE = {"float16": 0.01, "bfloat16": 0.08, "float32": 1e-4, "float64": 1e-9}
STEPS = 10
SETTING = TrainingSetting(STEPS, learning_rate=2e-3, warmup=2, adamw=AdamWSetting(weight_decay=0.1))


def model_of(class_name: str, dtype: str = "float64", **changes: Any) -> Any:
    """A random model on the CPU; the same numbers, as float16 and bfloat16 both hold them, in every type."""
    labels = {} if class_name.endswith("QuestionAnswering") else {"num_labels": 3}
    config = XLMRobertaConfig(**{**SHAPE, **labels, **changes})
    model = getattr(xlmr_np, class_name)(config, generator=np.random.default_rng(0), dtype=dtype)
    exact = getattr(xlmr_np, class_name)(config, generator=np.random.default_rng(0), dtype="float64")
    model.params = trees.map_leaves(
        lambda leaf: (np.round(leaf * 256) / 256).astype(np.float32).astype(model.dtype), exact.params
    )
    return model


def dense(gradients: Any) -> list[np.ndarray]:
    """All gradients as arrays of the host, in float64."""
    leaves = (leaf.to_dense() if isinstance(leaf, RowSparse) else leaf for leaf in trees.leaves(gradients))
    return [to_numpy(leaf).astype(np.float64) for leaf in leaves]


def check_gradients(model: Any, class_name: str, dtype: str, batch: dict[str, Any], **settings: Any) -> None:
    """That loss and gradients of a model on a GPU are those of the same numbers on the CPU, with the same dropout."""
    exact = model_of(class_name, **settings)
    outputs, gradients = zip(
        *(each.loss_and_gradients(np.random.default_rng(3), **batch) for each in (model, exact)), strict=True
    )
    loss, expected_loss = (float(to_numpy(output.loss)) for output in outputs)
    assert abs(loss - expected_loss) <= LOSS_TOLERANCE[dtype] * max(1, abs(expected_loss))
    ours, expected = map(dense, gradients)
    size = max(np.abs(each).max(initial=0) for each in expected)
    assert size > 0
    for our, their in zip(ours, expected, strict=True):
        assert our.shape == their.shape
        assert np.abs(our - their).max(initial=0) <= GRADIENT_TOLERANCE[dtype] * size


def run(place: Callable[[Any], Any], class_name: str, dtype: str, **changes: Any) -> tuple[list[TrainingStep], Any]:
    """Ten steps with dropout on three batches in turn: what they report, and the model.

    Args:
        place: brings a model to where it is trained.
        class_name: of the model.
        dtype: of the weights: half ones make for mixed precision on a GPU.
        **changes: to the config.
    """
    model = place(model_of(class_name, dtype, **changes))
    trainer = Trainer(model, SETTING, np.random.default_rng(5))
    # In float16, one from which no step is left out: its dropout would have been drawn on one of two devices only.
    trainer.restore(trainer.state()._replace(loss_scale=(256.0, 0)))
    steps = []
    while trainer.optimizer.steps < STEPS:
        batch = batch_of(class_name, trainer.optimizer.steps % 3)
        if class_name.endswith("CausalLM"):
            batch["labels"] = np.where(batch["input_ids"] == 1, -100, batch["input_ids"])
        steps.append(trainer.step(batch))
        assert not steps[-1].is_skipped
    return steps, model


def check_ten_steps(place: Callable[[Any], Any], class_name: str, dtype: str) -> None:
    """That they follow the CPU's, and that a second run has the same bits."""
    (steps, model), (again, same_model) = (run(place, class_name, dtype) for _ in range(2))
    assert steps == again
    for name, array in model.state_dict().items():
        one, other = (to_numpy(each) for each in (array, same_model.state_dict()[name]))
        assert one.dtype == np.dtype("float64" if dtype == "float64" else "float32")
        np.testing.assert_array_equal(one.view(np.uint8), other.view(np.uint8))
    expected, _ = run(lambda model: model, class_name, "float64")
    for ours, theirs in zip(steps, expected, strict=True):
        assert abs(ours.loss - theirs.loss) <= LOSS_TOLERANCE[dtype] * max(1, theirs.loss)
        assert ours.rate == theirs.rate
