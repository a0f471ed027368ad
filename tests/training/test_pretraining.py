"""Pretraining as a function: what its settings may be, what is held out, and disks that fill up at any moment."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.full_disk import FullDisk
from tests.training.runs import TINY_SHAPE, contents
from tests.training.texts import sentences
from xlmr_np import XLMRobertaConfig, XLMRobertaForMaskedLM, XLMRobertaTokenizer
from xlmr_np.losses.cross_entropy import IGNORED_LABEL
from xlmr_np.training import pretraining
from xlmr_np.training.pretraining import ModelShape, PretrainingRun, PretrainingSetting, Progress, pretrain

SETTING = PretrainingSetting(4, batch_tokens=96, learning_rate=1e-2, warmup=1.0, dropout=0.0, checkpoint_every=3)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(sentences(60)), encoding="utf-8")
    return [path]


@pytest.fixture
def run(files: list[Path], tmp_path: Path, small_vocabulary: Path) -> Callable[..., XLMRobertaForMaskedLM]:
    """Pretrains in the directory out, with the small vocabulary."""

    def run(setting: PretrainingSetting = SETTING, **arguments: Any) -> XLMRobertaForMaskedLM:
        given = {"vocabulary": small_vocabulary, "num_threads": 1, **arguments}
        return pretrain(files, tmp_path / "out", setting, TINY_SHAPE, **given)

    return run


def test_every_step_is_reported(run: Callable[..., XLMRobertaForMaskedLM], tmp_path: Path) -> None:
    told: list[Progress] = []
    model = run(report=told.append)
    assert [(each.step, each.steps) for each in told] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert all(0 < each.tokens <= 96 and each.seconds > 0 and math.isfinite(each.loss) for each in told)
    saved = XLMRobertaForMaskedLM.from_pretrained(tmp_path / "out")
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, saved.state_dict()[name])


def test_a_finished_run_is_read_and_not_repeated(
    run: Callable[..., XLMRobertaForMaskedLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run()
    told: list[Progress] = []
    monkeypatch.setattr(pretraining, "PretrainingRun", None)  # not even begun
    again = run(report=told.append)
    assert told == []
    for name, array in first.state_dict().items():
        np.testing.assert_array_equal(array, again.state_dict()[name])


def test_the_shape_is_the_one_asked_for(run: Callable[..., XLMRobertaForMaskedLM], tmp_path: Path) -> None:
    config = run().config
    assert (config.vocab_size, config.hidden_size, config.num_hidden_layers) == (482, 16, 1)
    assert (config.num_attention_heads, config.intermediate_size, config.max_position_embeddings) == (2, 24, 26)
    assert (config.type_vocab_size, config.layer_norm_eps, config.hidden_dropout_prob) == (1, 1e-5, 0.0)
    assert XLMRobertaTokenizer.from_pretrained(tmp_path / "out").model_max_length == 24


def pretraining_run(files: list[Path], setting: PretrainingSetting, vocabulary: Path, out: Path) -> PretrainingRun:
    return PretrainingRun(files, out, setting, XLMRobertaTokenizer(vocabulary), tiny_model())


def tiny_model(**changes: Any) -> XLMRobertaForMaskedLM:
    sizes = {"vocab_size": 482, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = XLMRobertaConfig(**{**sizes, "intermediate_size": 24, "max_position_embeddings": 26, **changes})
    return XLMRobertaForMaskedLM(config, generator=np.random.default_rng(0))


@pytest.mark.parametrize("batch_tokens", [40, 96, 100_000, 10**15])
def test_every_sequence_that_is_held_out_is_measured_on_once(
    batch_tokens: int, files: list[Path], small_vocabulary: Path, tmp_path: Path
) -> None:
    setting = SETTING._replace(hold_out_every=4, batch_tokens=batch_tokens, mlm_probability=0.9)
    run = pretraining_run(files, setting, small_vocabulary, tmp_path)
    rows = sorted(
        np.where(labels != IGNORED_LABEL, labels, ids)[: mask.sum()].tolist()
        for batch in run.held_out
        for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True)
    )
    tokenizer = XLMRobertaTokenizer(small_vocabulary)
    expected = []
    for ids in tokenizer(list(sentences(60))[3::4], add_special_tokens=False).input_ids:
        expected += [[0, *ids[start : start + 22], 2] for start in range(0, len(ids), 22)]
    assert rows == sorted(expected)


def test_only_a_part_of_much_is_measured_on(
    files: list[Path], small_vocabulary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretraining, "MOST_HELD_OUT_TOKENS", 100)
    run = pretraining_run(files, SETTING._replace(hold_out_every=2, batch_tokens=60), small_vocabulary, tmp_path)
    assert 100 <= sum(batch["attention_mask"].sum() for batch in run.held_out) < 160


def test_what_is_held_out_is_the_same_each_time_and_changes_nothing(
    run: Callable[..., XLMRobertaForMaskedLM], tmp_path: Path, files: list[Path], small_vocabulary: Path
) -> None:
    setting = SETTING._replace(hold_out_every=4)
    first, second = (pretraining_run(files, setting, small_vocabulary, tmp_path) for _ in range(2))
    for one, other in zip(first.held_out, second.held_out, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
    state = first.generator.bit_generator.state
    assert first._held_out_loss() > 0
    assert first.generator.bit_generator.state == state


def test_a_held_out_loss_that_is_no_number_is_not_saved(
    run: Callable[..., XLMRobertaForMaskedLM], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PretrainingRun, "_held_out_loss", lambda self: math.nan)
    with pytest.raises(FloatingPointError, match=r"held out is nan after step 3\. There is no checkpoint yet\."):
        run(SETTING._replace(hold_out_every=4))
    assert list((tmp_path / "out").glob("*checkpoint*")) == []


def test_a_model_of_another_layout_is_refused(files: list[Path], small_vocabulary: Path, tmp_path: Path) -> None:
    model = tiny_model(pad_token_id=0)
    with pytest.raises(ValueError, match="padding token is 1, and the model's is 0"):
        PretrainingRun(files, tmp_path, SETTING, XLMRobertaTokenizer(small_vocabulary), model)


# --- full disks ---


def test_a_disk_that_fills_up_at_any_moment_loses_nothing(
    run: Callable[..., XLMRobertaForMaskedLM], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends with an error that names a file of its own; started again, it ends as it should have."""
    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        disk = FullDisk(patched, fails_at=10**9)
        run()
    expected = contents(out, "log.jsonl")  # which says how long steps took
    out.rename(tmp_path / "expected")
    for fails_at in range(1, disk.calls + 1, 23):
        with monkeypatch.context() as patched:
            FullDisk(patched, fails_at)
            with pytest.raises(OSError, match="No space left on device") as raised:
                run()
        assert str(raised.value.filename).startswith(str(out))
        if out.exists():
            assert [path.name for path in out.glob(".*")] in ([], [".lock"])
            for name, content in contents(out, "log.jsonl").items():
                assert content == expected[name] or name == "loss.svg"  # the curve so far
        run()
        assert contents(out, "log.jsonl") == expected
        out.rename(tmp_path / f"run-{fails_at}")


# --- settings ---


def test_the_defaults_make_sense() -> None:
    assert ModelShape().check() == ModelShape()
    assert PretrainingSetting(1).check() == PretrainingSetting(1)
    fine = {
        "warmup": 0,
        "weight_decay": 0,
        "max_gradient_norm": math.inf,
        "mlm_probability": 1.0,
        "hold_out_every": 2,
        "beta2": 0.0,
    }
    assert PretrainingSetting(1)._replace(**fine).check().warmup == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps must be a whole number of at least 1; it is 0"),
        ({"steps": 10.0}, r"steps must be a whole number of at least 1; it is 10\.0"),
        ({"steps": True}, "steps must be a whole number of at least 1; it is True"),
        ({"seed": np.int64(3)}, "seed must be a whole number"),
        ({"hold_out_every": 1}, "hold_out_every must be 0 or at least 2, as 1 leaves nothing to learn from; it is 1"),
        ({"learning_rate": math.nan}, "learning_rate must be above 0; it is nan"),
        ({"eps": 0.0}, "eps must be above 0"),
        ({"beta2": 1.0}, "beta2 must be from 0 to below 1"),
        ({"dropout": 1.0}, "dropout must be from 0 to below 1"),
        ({"mlm_probability": 0.0}, "mlm_probability must be above 0 and at most 1"),
        ({"label_smoothing": 1.0}, "label_smoothing must be a number from 0"),
        ({"schedule": "sawtooth"}, "schedule='sawtooth' is not one of linear, cosine, constant"),
        ({"warmup": -1}, "warmup must be at least 0; it is -1"),
    ],
)
def test_settings_that_make_no_sense(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PretrainingSetting(4)._replace(**changes).check()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pieces": 3}, "pieces must be a whole number of at least 4; it is 3"),
        ({"character_coverage": 0.9}, r"character_coverage must be from 0\.98 to 1; it is 0\.9"),
        ({"max_length": 2}, "max_length must be a whole number of at least 3"),
        ({"hidden_size": 255}, "hidden_size must be a multiple of heads; 255 is none of 4"),
    ],
)
def test_shapes_that_make_no_sense(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelShape()._replace(**changes).check()
