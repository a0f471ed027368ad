"""Training on the GPU engine, its kernels executed in emulation, against the same training on the CPU in float64."""

import json
import logging
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cuda_emulator import EmulatedGpu, Schedule, why_not
from tests.training.gpu_runs import SETTING, TRAINED_CLASSES, check_gradients, check_ten_steps, model_of
from tests.training.runs import TINY_SHAPE, contents
from tests.training.test_trainer import batch_of
from tests.training.texts import sentences
from xlmr_np import XLMRobertaForMaskedLM
from xlmr_np.models import pretrained
from xlmr_np.ops.engines import gpu_engine
from xlmr_np.training import loss_scale
from xlmr_np.training.loss_scale import FIRST_SCALE
from xlmr_np.training.pretraining import PretrainingSetting, Progress, pretrain
from xlmr_np.training.trainer import Trainer

pytestmark = pytest.mark.skipif(why_not() is not None, reason=f"kernels cannot be executed here: {why_not()}")

DTYPES = ("float64", "float32", "float16", "bfloat16")


@cache
def gpu(seed: int = 0) -> EmulatedGpu:
    return EmulatedGpu(Schedule(seed))


def emulated(model: Any, seed: int = 0) -> Any:
    model.engine = gpu_engine(gpu(seed))
    return model


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("class_name", TRAINED_CLASSES)
def test_gradients_are_those_of_the_cpu(class_name: str, dtype: str) -> None:
    """With dropout, whose bits are the same on both."""
    batch = batch_of(class_name, 0)
    check_gradients(emulated(model_of(class_name, dtype)), class_name, dtype, batch)


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
        {"attention_probs_dropout_prob": 0.0},
        {"tie_word_embeddings": False},
        {"type_vocab_size": 3},
        {"is_decoder": True},
        {"hidden_act": "relu", "hidden_size": 40},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_other_configs(changes: dict[str, Any], dtype: str) -> None:
    class_name = "XLMRobertaForMaskedLM"
    check_gradients(
        emulated(model_of(class_name, dtype, **changes)), class_name, dtype, batch_of(class_name, 1), **changes
    )


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_padded_layout(dtype: str) -> None:
    """A mask that says who sees whom."""
    class_name = "XLMRobertaForTokenClassification"
    batch = batch_of(class_name, 0)
    batch["attention_mask"] = np.tril(np.ones((4, 9, 9), np.int64)) * batch["attention_mask"][:, None, :]
    check_gradients(emulated(model_of(class_name, dtype)), class_name, dtype, batch)


@pytest.mark.parametrize("class_name", ["XLMRobertaForMaskedLM", "XLMRobertaForSequenceClassification"])
def test_layers_that_are_run_again_have_the_same_gradients(class_name: str) -> None:
    model, batch = emulated(model_of(class_name, "float32")), batch_of(class_name, 0)
    (_, plain), (_, again) = (
        model.loss_and_gradients(np.random.default_rng(1), checkpoint_layers=checkpoints, **batch)
        for checkpoints in (False, True)
    )
    for name, gradient in model.named(plain).items():
        other = model.named(again)[name]
        one, two = (each.rows if hasattr(each, "rows") else each for each in (gradient, other))
        np.testing.assert_array_equal(one, two, err_msg=name)


IN_ORDINARY_RUNS = {("XLMRobertaForMaskedLM", "float16"), ("XLMRobertaForSequenceClassification", "bfloat16")}


@pytest.mark.parametrize(
    ("class_name", "dtype"),
    [
        pytest.param(*each, marks=() if each in IN_ORDINARY_RUNS else pytest.mark.exhaustive)
        for each in product(TRAINED_CLASSES, ("float32", "float16", "bfloat16"))
    ],
)
def test_ten_steps_follow_the_cpu_s(class_name: str, dtype: str) -> None:
    check_ten_steps(emulated, class_name, dtype)


def test_the_order_of_threads_changes_no_bit() -> None:
    class_name, states = "XLMRobertaForMaskedLM", []
    for seed in (0, 3):
        model = emulated(model_of(class_name, "float16"), seed)
        trainer = Trainer(model, SETTING, np.random.default_rng(0))
        trainer.step(batch_of(class_name, 0))
        states.append(model.state_dict())
    for name, array in states[0].items():
        np.testing.assert_array_equal(array.view(np.uint8), states[1][name].view(np.uint8), err_msg=name)


def test_weights_are_in_float32_and_copies_of_them_are_computed_with() -> None:
    class_name = "XLMRobertaForSequenceClassification"
    model = emulated(model_of(class_name, "float32"))
    trainer = Trainer(model, SETTING._replace(precision="bfloat16", warmup=0), None)
    losses = [trainer.step(batch_of(class_name, 0)).loss for _ in range(4)]
    assert {array.dtype.name for array in model.state_dict().values()} == {"float32"}
    assert losses[-1] < losses[0]
    weight = model.params.encoder.layers[0].feed_forward.intermediate.weight
    assert not np.array_equal(weight, weight.astype(model_of(class_name, "bfloat16").dtype).astype(np.float32))


def test_an_overflow_leaves_a_step_out_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    """Weights so large that gradients of the loss times 65,536 are too large, though the loss itself is not."""
    class_name = "XLMRobertaForSequenceClassification"
    model = emulated(model_of(class_name, "float32"))
    head = model.params.head
    model.params = model.params._replace(
        head=head._replace(out_proj=head.out_proj._replace(weight=head.out_proj.weight * 40))
    )
    trainer = Trainer(model, SETTING._replace(precision="float16", warmup=0), None)
    before = {name: np.array(array) for name, array in model.state_dict().items()}
    with caplog.at_level(logging.WARNING, "xlmr_np"):
        done = trainer.step(batch_of(class_name, 0))
    assert done.is_skipped
    assert np.isfinite(done.loss)
    assert trainer.optimizer.steps == 0
    assert "Step 1 is left out" in caplog.text
    assert "it is 32768 from now on" in caplog.text
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    while done.is_skipped:
        done = trainer.step(batch_of(class_name, 0))
    assert trainer.optimizer.steps == 1
    value, steps_since = trainer.state().loss_scale
    assert value < FIRST_SCALE
    assert steps_since == 1


@pytest.mark.parametrize("number", [1, 2])
def test_a_loss_that_is_no_number_changes_nothing(number: int) -> None:
    class_name = "XLMRobertaForTokenClassification"
    model = emulated(model_of(class_name, "float32"))
    model.params.encoder.embeddings.token[60] = np.nan
    trainer = Trainer(model, SETTING._replace(precision="float16"), None)
    good = batch_of(class_name, 0)
    good["input_ids"] = np.where(good["input_ids"] == 60, 59, good["input_ids"])
    bad = {**good, "input_ids": np.where(good["input_ids"] == 1, 1, 60)}
    before = {name: np.array(array) for name, array in model.state_dict().items()}
    message = f"The loss of batch {number} of step 1 is nan; nothing was updated.* So may bfloat16"
    with pytest.raises(FloatingPointError, match=message):
        trainer.step(*[good] * (number - 1), bad)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_an_infinite_loss_whose_gradient_is_none_changes_nothing() -> None:
    """A label that its bias rules out."""
    class_name = "XLMRobertaForMaskedLM"
    model = emulated(model_of(class_name, "float32"))
    batch = batch_of(class_name, 0)
    label = int(batch["labels"][batch["labels"] != -100][0])
    model.params.head.decoder.bias[label] = -np.inf
    before = {name: np.array(array) for name, array in model.state_dict().items()}
    trainer = Trainer(model, SETTING._replace(warmup=0), None)
    with pytest.raises(FloatingPointError, match="The loss of batch 1 of step 1 is inf"):
        trainer.step(batch)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_several_batches_are_one_large_batch(precision: str) -> None:
    class_name = "XLMRobertaForTokenClassification"
    whole = batch_of(class_name, 1)
    parts = [{name: each[rows] for name, each in whole.items()} for rows in (slice(0, 1), slice(1, 4))]
    setting = SETTING._replace(precision=precision)
    together, apart = (Trainer(emulated(model_of(class_name, "float32")), setting, None) for _ in range(2))
    one, several = together.step(whole), apart.step(*parts)
    tolerance = 1e-5 if precision == "float32" else 0.02  # sums in another order; roundings to 2^-8 of each gradient
    assert several.loss == pytest.approx(one.loss, rel=tolerance)
    assert several.gradient_norm == pytest.approx(one.gradient_norm, rel=tolerance)


def test_a_run_goes_on_with_the_same_bits() -> None:
    class_name = "XLMRobertaForSequenceClassification"
    setting = SETTING._replace(precision="float16")

    def trainer_of(model: Any) -> Trainer:
        return Trainer(emulated(model), setting, np.random.default_rng(7))

    whole = trainer_of(model_of(class_name, "float32"))
    for step in range(2):
        whole.step(batch_of(class_name, step))
    state = whole.state()
    second = model_of(class_name, "float32")
    second.params = type(second.params)(*whole.model.params)
    resumed = trainer_of(second)
    resumed.restore(state)
    for step in range(2, 4):
        assert resumed.step(batch_of(class_name, step)) == whole.step(batch_of(class_name, step))
    assert resumed.state().loss_scale == whole.state().loss_scale


def test_half_precision_needs_a_gpu() -> None:
    model = model_of("XLMRobertaForMaskedLM", "float32")
    with pytest.raises(ValueError, match="precision='float16' needs a GPU"):
        Trainer(model, SETTING._replace(precision="float16"), None)
    with pytest.raises(ValueError, match="precision='int8' is not one of float32, float16, bfloat16"):
        Trainer(model, SETTING._replace(precision="int8"), None)


def test_a_trained_model_is_saved_with_all_digits(tmp_path: Path) -> None:
    model = emulated(model_of("XLMRobertaForMaskedLM", "float16"))
    trainer = Trainer(model, SETTING._replace(warmup=0), None)
    trainer.step(batch_of("XLMRobertaForMaskedLM", 0))
    model.save_pretrained(tmp_path)
    again = XLMRobertaForMaskedLM.from_pretrained(tmp_path)
    assert again.dtype == np.float32
    for name, array in again.state_dict().items():
        np.testing.assert_array_equal(array, model.state_dict()[name], err_msg=name)


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")  # NumPy's; a GPU overflows in silence
def test_pretraining_goes_on_with_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float16, over an overflow; a run of one precision is none of another."""
    monkeypatch.setattr(pretrained, "engine_for", lambda device, threads: gpu_engine(gpu()))
    monkeypatch.setattr(loss_scale, "FIRST_SCALE", 2.0**24)
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(sentences(60)), encoding="utf-8")
    setting = PretrainingSetting(3, batch_tokens=60, checkpoint_every=1, hold_out_every=20, precision="float16")
    shape = TINY_SHAPE._replace(pieces=200)
    pretrain([texts], tmp_path / "whole", setting, shape)

    def stop(progress: Progress) -> None:
        if progress.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain([texts], tmp_path / "stopped", setting, shape, report=stop)
    with pytest.raises(ValueError, match="its precision is 'float16', and not 'bfloat16'"):
        pretrain([texts], tmp_path / "stopped", setting._replace(precision="bfloat16"), shape)
    pretrain([texts], tmp_path / "stopped", setting, shape)
    whole, stopped = (contents(tmp_path / out, "log.jsonl", "loss.svg", ".lock") for out in ("whole", "stopped"))
    assert whole == stopped
    lines = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text("utf-8").splitlines()]
    assert lines[0]["skipped"]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3]
    assert {line["step"] for line in lines} == {1, 2, 3}


def test_a_gpu_that_is_not_there_is_said_so_before_anything_is_written(tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(sentences(60)), encoding="utf-8")
    with pytest.raises(RuntimeError, match=r"device 'cuda(:7)?' (was asked for|needs CuPy)"):
        pretrain([texts], tmp_path / "out", PretrainingSetting(1), TINY_SHAPE, device="cuda:7")
    assert not (tmp_path / "out").exists()
    shape = TINY_SHAPE._replace(pieces=200)
    with pytest.raises(ValueError, match="precision='bfloat16' needs a GPU"):
        pretrain([texts], tmp_path / "out", PretrainingSetting(1, precision="bfloat16"), shape)
    assert not (tmp_path / "out").exists()
