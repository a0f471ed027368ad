"""Training on the card, against the same training on the CPU in float64, and against itself."""

from pathlib import Path
from typing import Any

import pytest

from tests.gpu.card import needs_gpu
from tests.training.gpu_runs import TRAINED_CLASSES, check_gradients, check_ten_steps, model_of
from tests.training.runs import TINY_SHAPE, contents
from tests.training.test_trainer import batch_of
from tests.training.texts import sentences
from xlmr_np.training.checkpoints import checkpoints_of
from xlmr_np.training.pretraining import PretrainingSetting, pretrain

pytestmark = needs_gpu

SHAPE = TINY_SHAPE._replace(pieces=200)


def on_card(model: Any) -> Any:
    return model.to("cuda")


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("class_name", TRAINED_CLASSES)
def test_gradients_are_those_of_the_cpu(class_name: str, dtype: str) -> None:
    check_gradients(on_card(model_of(class_name, dtype)), class_name, dtype, batch_of(class_name, 0))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("class_name", TRAINED_CLASSES)
def test_ten_steps_follow_the_cpu_s_and_have_the_same_bits_again(class_name: str, dtype: str) -> None:
    check_ten_steps(on_card, class_name, dtype)


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
def test_a_run_that_was_stopped_goes_on_with_the_same_bits(tmp_path: Path, precision: str) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(sentences(300)), encoding="utf-8")
    setting = PretrainingSetting(steps=6, batch_tokens=200, checkpoint_every=3, hold_out_every=20, precision=precision)
    for out in ("whole", "stopped"):
        stop = Stop(4 if out == "stopped" else None)
        try:
            pretrain([texts], tmp_path / out, setting, SHAPE, device="cuda", report=stop)
        except KeyboardInterrupt:
            assert [path.name for path in checkpoints_of(tmp_path / out)] == ["checkpoint-3"]
            pretrain([texts], tmp_path / out, setting, SHAPE, device="cuda")
    whole, stopped = (contents(tmp_path / out, "log.jsonl", "loss.svg", ".lock") for out in ("whole", "stopped"))
    assert whole == stopped


class Stop:
    """Interrupts a run after a step."""

    def __init__(self, step: int | None) -> None:
        self.step = step

    def __call__(self, progress: Any) -> None:
        if progress.step == self.step:
            raise KeyboardInterrupt
