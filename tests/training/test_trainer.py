"""Training steps against transformers with torch's AdamW, and what a trainer does with batches and with what breaks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import xlmr_np
from tests.reference_models import TASK_CLASSES, TINY, random_ids, save_reference
from xlmr_np import XLMRobertaConfig, trees
from xlmr_np.training.adamw import AdamWSetting, is_decayed
from xlmr_np.training.lazy_table import LazyTable
from xlmr_np.training.trainer import Trainer, TrainingSetting

STEPS = 20
LENGTHS = [9, 4, 7, 1]
SETTING = TrainingSetting(
    STEPS, learning_rate=3e-3, warmup=4, max_gradient_norm=1.0, adamw=AdamWSetting(weight_decay=0.1)
)


def batch_of(class_name: str, seed: int, lengths: list[int] = LENGTHS) -> dict[str, Any]:
    """Random inputs and labels of a class with three labels, or two for questions."""
    random = np.random.default_rng(seed)
    ids = random_ids(lengths)
    ids[ids != 1] = random.integers(4, 61, (ids != 1).sum())
    batch: dict[str, Any] = {"input_ids": ids, "attention_mask": (ids != 1).astype(np.int64)}
    if class_name.endswith("QuestionAnswering"):
        ends = np.array(lengths)
        return batch | {"start_positions": random.integers(0, ends), "end_positions": random.integers(0, ends)}
    if class_name.endswith("MultipleChoice"):
        return {name: each[None] for name, each in batch.items()} | {"labels": np.array([2])}
    if class_name.endswith("SequenceClassification"):
        return batch | {"labels": random.integers(0, 3, len(ids))}
    classes = 3 if class_name.endswith("TokenClassification") else 61
    labels = random.integers(0, classes, ids.shape)
    return batch | {"labels": np.where((ids == 1) | (random.random(ids.shape) < 0.3), -100, labels)}


def decay_groups(model: torch.nn.Module) -> list[dict[str, Any]]:
    """As transformers' trainer groups parameters."""
    named = list(model.named_parameters())
    decayed = set(transformers.trainer_pt_utils.get_parameter_names(model, [torch.nn.LayerNorm], ["bias", "layernorm"]))
    assert decayed & {name for name, _ in named} == {name for name, _ in named if is_decayed(name)}
    return [
        {"params": [each for name, each in named if name in decayed], "weight_decay": SETTING.adamw.weight_decay},
        {"params": [each for name, each in named if name not in decayed], "weight_decay": 0.0},
    ]


@pytest.mark.parametrize("class_name", [each for each in TASK_CLASSES if not each.endswith("CausalLM")])
def test_losses_follow_those_of_transformers(class_name: str, tmp_path: Path) -> None:
    """Clipping, schedule, warm-up and decay groups; in float64, 20 steps."""
    labels = {} if class_name.endswith("QuestionAnswering") else {"num_labels": 3}
    theirs = save_reference(tmp_path, class_name, **labels)
    model = getattr(xlmr_np, class_name).from_pretrained(tmp_path)
    trainer = Trainer(model, SETTING, None)
    optimizer = torch.optim.AdamW(decay_groups(theirs), lr=SETTING.learning_rate, betas=(0.9, 0.999), eps=1e-8)
    scheduler = transformers.get_scheduler("linear", optimizer, int(SETTING.warmup), STEPS)
    for step in range(STEPS):
        lengths = [9] * 4 if class_name.endswith("QuestionAnswering") else LENGTHS  # theirs answers at padding, too
        batch = batch_of(class_name, step % 3, lengths)
        loss = theirs(**{name: torch.tensor(each) for name, each in batch.items()}).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), SETTING.max_gradient_norm)
        rate = scheduler.get_last_lr()[0]
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        done = trainer.step(batch)
        assert done.loss == pytest.approx(
            loss.item(), abs=1e-6
        )  # what is asked for; Adam magnifies the noise of tiny gradients
        assert done.gradient_norm == pytest.approx(float(norm), rel=1e-6)  # as the losses
        assert done.rate == pytest.approx(rate, rel=1e-12)  # a few roundings
    ours = model.state_dict()
    for name, parameter in theirs.named_parameters():
        own = np.asarray(ours[name])
        np.testing.assert_allclose(own, parameter.detach().numpy(), atol=1e-6, err_msg=name)  # as the losses


def small_model(class_name: str, **settings: Any) -> Any:
    labels = {} if class_name.endswith("QuestionAnswering") else {"num_labels": 3}
    config = XLMRobertaConfig(**{**TINY, "initializer_range": 0.1, **labels})
    return getattr(xlmr_np, class_name)(config, generator=np.random.default_rng(0), **settings)


@pytest.mark.parametrize("class_name", TASK_CLASSES)
def test_every_head_learns_one_batch_by_heart(class_name: str) -> None:
    trainer = Trainer(small_model(class_name), TrainingSetting(100, 1e-2, "constant", warmup=10), None)
    batch = batch_of(class_name, 0, [9, 4, 7])
    if class_name.endswith("CausalLM"):
        batch["labels"] = np.where(batch["input_ids"] == 1, -100, batch["input_ids"])
    losses = [trainer.step(batch).loss for _ in range(100)]
    assert losses[-1] < 0.01 < losses[0]


@pytest.mark.parametrize("class_name", [each for each in TASK_CLASSES if not each.endswith("MultipleChoice")])
def test_several_batches_are_one_large_batch(class_name: str) -> None:
    """Though they have different numbers of labels; a multiple choice has one, and cannot be taken apart."""
    whole = batch_of(class_name, 1)
    parts = [{name: each[rows] for name, each in whole.items()} for rows in (slice(0, 1), slice(1, 4))]
    together, apart = (Trainer(small_model(class_name, dtype="float64"), SETTING, None) for _ in range(2))
    for _ in range(6):
        one, several = together.step(whole), apart.step(*parts)
        assert several.loss == pytest.approx(one.loss, rel=1e-12)  # sums in another order, six steps
        assert several.gradient_norm == pytest.approx(one.gradient_norm, rel=1e-10)  # the same


def test_what_stays_in_the_file_and_what_does_not(tmp_path: Path) -> None:
    """Only the rows of the token table that were read are in memory, and saving writes all of them as they are now."""
    small_model("XLMRobertaForSequenceClassification").save_pretrained(tmp_path)
    model = xlmr_np.XLMRobertaForSequenceClassification.from_pretrained(tmp_path)
    trainer = Trainer(model, SETTING, np.random.default_rng(0))
    batch = batch_of("XLMRobertaForSequenceClassification", 0)
    for _ in range(5):
        trainer.step(batch)
    table = model.get_input_embeddings()
    assert isinstance(table, LazyTable)
    assert set(table.reached.tolist()) == set(np.unique(batch["input_ids"])) - {1}
    expected = model(batch["input_ids"]).logits
    model.save_pretrained(tmp_path)
    again = xlmr_np.XLMRobertaForSequenceClassification.from_pretrained(tmp_path)
    np.testing.assert_array_equal(again(batch["input_ids"]).logits, expected)
    np.testing.assert_array_equal(np.asarray(again.get_input_embeddings()), np.asarray(table))


@pytest.mark.parametrize("stored", ["float16", "bfloat16"])
def test_half_precision_trains_in_float32(stored: str) -> None:
    model = small_model("XLMRobertaForSequenceClassification", dtype=stored)
    trainer = Trainer(model, SETTING, None)
    trainer.step(batch_of("XLMRobertaForSequenceClassification", 0))
    assert {str(each.dtype) for each in model.state_dict().values()} == {"float32"}


def test_a_loss_that_is_no_number_changes_nothing() -> None:
    model = small_model("XLMRobertaForSequenceClassification")
    trainer = Trainer(model, SETTING, None)
    batch = batch_of("XLMRobertaForSequenceClassification", 0)
    trainer.step(batch)
    table = model.params.encoder.embeddings.token
    place = table.reach(np.array([60]))
    table.rows[place] = np.nan
    bad = {**batch, "input_ids": np.where(batch["input_ids"] == 1, 1, 60)}
    before = {name: np.array(each) for name, each in model.state_dict().items()}
    with pytest.raises(FloatingPointError, match="The loss of batch 2 of step 2 is nan; nothing was updated"):
        trainer.step(batch, bad)
    assert trainer.optimizer.steps == 1
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(np.array(array), before[name])


@pytest.mark.parametrize("number", [1, 2])
def test_a_gradient_that_is_no_number_changes_nothing(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the loss is one."""
    model = small_model("XLMRobertaForTokenClassification")
    trainer = Trainer(model, SETTING, None)
    batch = batch_of("XLMRobertaForTokenClassification", 0)
    trainer.step(batch)
    before = {name: np.array(each) for name, each in model.state_dict().items()}
    computed, calls = model.loss_and_gradients, []

    def overflowing(*given: Any, **named: Any) -> Any:
        output, gradients = computed(*given, **named)
        calls.append(output.loss)
        if len(calls) == number:
            model.named(gradients)["classifier.bias"][1] = np.inf
        return output, gradients

    monkeypatch.setattr(model, "loss_and_gradients", overflowing)
    message = f"The norm of the gradient of batch {number} of step 2 is inf; nothing was updated"
    with pytest.raises(FloatingPointError, match=message):
        trainer.step(batch, batch)
    assert np.isfinite(calls).all()
    assert len(calls) == number
    assert trainer.optimizer.steps == 1
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(np.array(array), before[name])


def in_fortran_order(model: Any) -> Any:
    model.params = trees.map_leaves(lambda leaf: np.asfortranarray(np.array(leaf)), model.params)
    assert any(not leaf.flags.c_contiguous for leaf in trees.leaves(model.params))
    return model


@pytest.mark.parametrize("class_name", ["XLMRobertaForMaskedLM", "XLMRobertaForSequenceClassification"])
def test_the_order_of_memory_changes_nothing(class_name: str) -> None:
    """Nor are arrays in Fortran order left as they were: with one token table that is tied, and one that is lazy."""
    ours, others = small_model(class_name, dtype="float64"), in_fortran_order(small_model(class_name, dtype="float64"))
    start = {name: np.array(each) for name, each in ours.state_dict().items()}
    for model in (ours, others):
        trainer = Trainer(model, SETTING, None)
        for step in range(4):
            trainer.step(batch_of(class_name, step))
    theirs = others.state_dict()
    for name, array in ours.state_dict().items():
        np.testing.assert_array_equal(np.array(theirs[name]), np.array(array), err_msg=name)
        assert not np.array_equal(np.array(array), start[name]), name


def test_a_weight_that_was_saved_transposed_is_trained(tmp_path: Path) -> None:
    """A pytorch_model.bin has strides, so that it may hold an array in Fortran order."""
    theirs = save_reference(tmp_path, "XLMRobertaForSequenceClassification", num_labels=3)
    (tmp_path / "model.safetensors").unlink()
    weights = {
        name: each.t().contiguous().t() if each.ndim == 2 else each for name, each in theirs.state_dict().items()
    }
    torch.save(weights, tmp_path / "pytorch_model.bin")
    model = xlmr_np.XLMRobertaForSequenceClassification.from_pretrained(tmp_path)
    trainer = Trainer(model, SETTING, None)
    trainer.step(batch_of("XLMRobertaForSequenceClassification", 0))
    trainer.step(batch_of("XLMRobertaForSequenceClassification", 0))  # the rate of the first one is 0
    for name, array in model.state_dict().items():
        assert not np.array_equal(np.array(array), weights[name].numpy()), name


def test_a_schedule_has_a_name() -> None:
    with pytest.raises(ValueError, match="schedule='sawtooth' is not one of linear, cosine, constant"):
        Trainer(small_model("XLMRobertaForMaskedLM"), TrainingSetting(5, schedule="sawtooth"), None)


def test_a_step_needs_a_batch() -> None:
    trainer = Trainer(small_model("XLMRobertaForMaskedLM"), SETTING, None)
    with pytest.raises(ValueError, match="needs at least one batch"):
        trainer.step()
    assert trainer.optimizer.steps == 0


@pytest.mark.parametrize("class_name", ["XLMRobertaForMaskedLM", "XLMRobertaForSequenceClassification"])
def test_labels_are_smoothed(class_name: str) -> None:
    batch, losses = batch_of(class_name, 0), []
    for smoothing in (0.0, 0.2):
        model = small_model(class_name)
        expected = float(model.loss_and_gradients(label_smoothing=smoothing, **batch)[0].loss)
        done = Trainer(model, SETTING._replace(label_smoothing=smoothing), None).step(batch)
        assert done.loss == pytest.approx(expected, rel=1e-5)  # float32
        losses.append(done.loss)
    assert abs(losses[1] - losses[0]) > 1e-3


def test_label_smoothing_is_checked_before_anything_else() -> None:
    with pytest.raises(ValueError, match=r"label_smoothing must be a number from 0 .* it is 1.0"):
        Trainer(small_model("XLMRobertaForMaskedLM"), SETTING._replace(label_smoothing=1.0), None)
