"""Checkpoints: runs that go on from them bit for bit, damage that is named, and disks that fill up."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xlmr_np
from tests.reference_models import TINY
from tests.training.full_disk import FullDisk
from tests.training.test_adamw import DECAYS, gradients_of, own, rate_of
from tests.training.test_adamw import SETTING as ADAMW
from tests.training.test_trainer import batch_of
from xlmr_np import XLMRobertaConfig, trees
from xlmr_np.ops.threads import Threads
from xlmr_np.tokenizer import XLMRobertaTokenizer
from xlmr_np.training.adamw import AdamW, AdamWSetting
from xlmr_np.training.checkpoints import (
    checkpoints_of,
    is_remains,
    load_model,
    remove_old_checkpoints,
    remove_remains,
    restore_checkpoint,
    save_checkpoint,
)
from xlmr_np.training.lazy_table import LazyTable
from xlmr_np.training.trainer import Trainer, TrainerState, TrainingSetting
from xlmr_np.weights.errors import CheckpointError
from xlmr_np.weights.safetensors_format import read_safetensors, write_safetensors

MASKED, SEQUENCE = "XLMRobertaForMaskedLM", "XLMRobertaForSequenceClassification"
SETTING = TrainingSetting(12, learning_rate=1e-2, warmup=2, adamw=AdamWSetting(weight_decay=0.1))
TABLE = "roberta.embeddings.word_embeddings.weight"
STEPS, SAVED = 6, (2, 4)


@pytest.fixture(scope="module")
def tokenizer(small_vocabulary: Path) -> XLMRobertaTokenizer:
    return XLMRobertaTokenizer(small_vocabulary)


def trainer_of(class_name: str, dropout: float = 0.0, dtype: str = "float32", **config: Any) -> Trainer:
    settings = {**TINY, "num_labels": 3, "hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    model = getattr(xlmr_np, class_name)(
        XLMRobertaConfig(**{**settings, **config}), generator=np.random.default_rng(0), dtype=dtype
    )
    return Trainer(model, SETTING, np.random.default_rng(5))


def batch_at(class_name: str, step: int) -> dict[str, Any]:
    """Of tokens below 50, so that some rows of the table are never reached, and more at every step."""
    batch = batch_of(class_name, step)
    ids = batch["input_ids"]
    batch["input_ids"] = np.where(ids == 1, 1, 4 + ids % min(46, 10 + 3 * step))
    return batch


def parameters_of(model: Any) -> dict[str, np.ndarray]:
    return {name: np.array(array) for name, array in model.named(model.params).items()}


def assert_same(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)
        assert array.dtype == theirs[name].dtype


def taken_up(checkpoint: Path) -> Trainer:
    class_name = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))["architectures"][0]
    model = load_model(checkpoint, getattr(xlmr_np, class_name), None)
    trainer = Trainer(model, SETTING, np.random.default_rng(99))
    restore_checkpoint(checkpoint, trainer)
    return trainer


@pytest.fixture
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("elsewhere")


@pytest.mark.parametrize(
    ("class_name", "dtype", "config", "dropout"),
    [
        (MASKED, "float32", {}, 0.0),
        (MASKED, "float32", {}, 0.2),
        (MASKED, "float16", {}, 0.0),
        (MASKED, "bfloat16", {"tie_word_embeddings": False}, 0.2),
        (SEQUENCE, "float32", {}, 0.0),
        (SEQUENCE, "float64", {}, 0.2),
        (SEQUENCE, "float16", {}, 0.0),
        ("XLMRobertaForTokenClassification", "float32", {"type_vocab_size": 2}, 0.2),
    ],
)
def test_a_run_that_goes_on_is_the_run_that_was_never_stopped(
    class_name: str,
    dtype: str,
    config: dict[str, Any],
    dropout: float,
    tmp_path: Path,
    elsewhere: Path,
    tokenizer: XLMRobertaTokenizer,
) -> None:
    """In bits, from each of its checkpoints, rows of the token table that were never reached among them."""
    trainer = trainer_of(class_name, dropout, dtype, **config)
    losses = []
    for step in range(STEPS):
        losses.append(trainer.step(batch_at(class_name, step)).loss)
        if step + 1 in SAVED:
            save_checkpoint(tmp_path, trainer, tokenizer, {"step": step}, kept=2)
    table = trainer.model.params.encoder.embeddings.token
    if class_name != MASKED or not trainer.model.is_tied:
        assert isinstance(table, LazyTable)
        assert 10 < len(table.reached) < 50
    for saved in SAVED:
        again = taken_up(tmp_path / f"checkpoint-{saved}")
        for step in range(saved, STEPS):
            assert again.step(batch_at(class_name, step)).loss == losses[step]
            if step + 1 in SAVED:
                save_checkpoint(elsewhere, again, tokenizer, {}, kept=1)
        assert_same(parameters_of(again.model), parameters_of(trainer.model))


def test_a_model_can_be_trained_once_more() -> None:
    """Though a lazy table is a kind of array of its own."""
    trainer = trainer_of(SEQUENCE)
    trainer.step(batch_at(SEQUENCE, 0))
    before = parameters_of(trainer.model)
    again = Trainer(trainer.model, SETTING, None)
    assert_same(parameters_of(again.model), before)
    again.step(batch_at(SEQUENCE, 0))
    again.step(batch_at(SEQUENCE, 0))
    assert not np.array_equal(np.asarray(again.model.get_input_embeddings()), before[TABLE])


def test_a_chain_of_stopped_runs(tmp_path: Path, elsewhere: Path, tokenizer: XLMRobertaTokenizer) -> None:
    """Each of which takes two steps, and is saved by another process than the one before."""
    whole, parts = trainer_of(SEQUENCE, 0.1), trainer_of(SEQUENCE, 0.1)
    for step in range(6):
        assert parts.step(batch_at(SEQUENCE, step)) == whole.step(batch_at(SEQUENCE, step))
        if step % 2 == 1:
            save_checkpoint(elsewhere, whole, tokenizer, {}, kept=1)
            parts = taken_up(save_checkpoint(tmp_path, parts, tokenizer, {}, kept=1))
            assert_same(parameters_of(parts.model), parameters_of(whole.model))


@pytest.mark.parametrize("saved_every", [1, 4, 7])
def test_lazy_rows_equal_dense_ones_with_saves_in_between(saved_every: int) -> None:
    """To 1e-12 relative in float64, at every step, for each way of reading."""
    dense, lazy = own(), own(is_lazy=True)
    optimizers = [AdamW(params, DECAYS, ADAMW, Threads(1)) for params in (dense, lazy)]
    for step in range(40):
        for optimizer in optimizers:
            optimizer.update(gradients_of(step), rate_of(step))
        if step % saved_every == 0:
            lazy.table.rebase(np.asarray(lazy.table))
        np.testing.assert_allclose(np.asarray(lazy.table), dense.table, rtol=1e-12)  # one product of factors for many
        rows = np.random.default_rng(step).integers(0, len(dense.table), (2, 5))
        np.testing.assert_allclose(lazy.table[rows], dense.table[rows], rtol=1e-12)  # the same


# --- what is in a checkpoint ---


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tokenizer: XLMRobertaTokenizer) -> Path:
    """A run with the checkpoints 1 and 2."""
    run = tmp_path_factory.mktemp("run")
    trainer = trainer_of(SEQUENCE)
    for step in range(2):
        trainer.step(batch_at(SEQUENCE, step))
        save_checkpoint(run, trainer, tokenizer, {"place": [0, step], "note": "κ"}, kept=2)
    return run


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def test_a_checkpoint_is_a_model_with_its_tokenizer(run: Path) -> None:
    model = xlmr_np.XLMRobertaForSequenceClassification.from_pretrained(run / "checkpoint-2")
    assert model.load_report.is_as_expected
    assert len(XLMRobertaTokenizer.from_pretrained(run / "checkpoint-2")) == 482


def test_progress_comes_back(run: Path) -> None:
    trainer = trainer_of(SEQUENCE)
    assert restore_checkpoint(run / "checkpoint-2", trainer) == {"place": [0, 1], "note": "κ"}
    assert trainer.optimizer.steps == 2


def test_only_the_last_ones_stay(tmp_path: Path, tokenizer: XLMRobertaTokenizer) -> None:
    trainer = trainer_of(MASKED)
    for step in range(4):
        trainer.step(batch_at(MASKED, step))
        save_checkpoint(tmp_path, trainer, tokenizer, {}, kept=3)
    assert [path.name for path in checkpoints_of(tmp_path)] == ["checkpoint-2", "checkpoint-3", "checkpoint-4"]
    assert len(list(tmp_path.iterdir())) == 3


def test_what_else_lies_there_is_no_checkpoint(tmp_path: Path) -> None:
    for name in ("checkpoint-10", "checkpoint-9", "checkpoint-0", "checkpoint-", "checkpoint-010", "checkpoint-1x"):
        (tmp_path / name).mkdir()
    for name in ("checkpoint-٣", ".checkpoint-11.7.partial", "my-checkpoint-12", "checkpoint--3"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-13").write_text("a file", encoding="utf-8")
    assert [path.name for path in checkpoints_of(tmp_path)] == ["checkpoint-0", "checkpoint-9", "checkpoint-10"]


def test_remains_of_killed_processes_are_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / ".checkpoint-4.123.partial").mkdir()
    (tmp_path / ".checkpoint-4.123.partial" / "model.safetensors").write_bytes(b"half of it")
    (tmp_path / ".run.json.77.partial").write_text("{", encoding="utf-8")
    others = ["log.jsonl", ".partial", "checkpoint-4.partial", ".notes.partial", ".checkpoint-4.x.partial"]
    for name in others:
        (tmp_path / name).write_text("mine", encoding="utf-8")
    assert sum(map(is_remains, tmp_path.iterdir())) == 2
    remove_remains(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)


# --- damage ---


def halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def shortened(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


def overwritten(path: Path) -> None:
    path.write_bytes(b"\xff\0{[" * 64)


@pytest.mark.parametrize("damage", [halved, emptied, shortened, overwritten, Path.unlink])
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "training_state.json", "config.json"])
def test_damage_is_named_with_the_way_on(name: str, damage: Callable[[Path], None], run: Path) -> None:
    for checkpoint, way_on in (("checkpoint-2", "go on from checkpoint-1"), ("checkpoint-1", "begin again")):
        damage(run / checkpoint / name)
        with pytest.raises(CheckpointError) as raised:
            taken_up_as_classifier(run / checkpoint)
        message = str(raised.value)
        assert message.startswith(f"The checkpoint {run / checkpoint} is damaged (")
        assert message.endswith(f"); remove it to {way_on}.")
        assert "\n" not in message


def taken_up_as_classifier(checkpoint: Path) -> dict[str, Any]:
    model = load_model(checkpoint, xlmr_np.XLMRobertaForSequenceClassification, None)
    return restore_checkpoint(checkpoint, Trainer(model, SETTING, np.random.default_rng(0)))


def test_the_sound_checkpoint_is_taken_up(run: Path) -> None:
    """Or the tests of damage show nothing."""
    assert taken_up_as_classifier(run / "checkpoint-2")["place"] == [0, 1]


NUMBERS = {"state": 1, "inc": 3}
PCG = {"bit_generator": "PCG64", "state": NUMBERS, "has_uint32": 0, "uinteger": 0}


@pytest.mark.parametrize(
    "record",
    [
        None,
        [],
        "text",
        5,
        {},
        {"generator": PCG},
        {"progress": {}},
        {"generator": None, "progress": {}},
        {"generator": [], "progress": {}},
        {"generator": {}, "progress": {}},
        {"generator": "PCG64", "progress": {}},
        {"generator": {**PCG, "bit_generator": "MT19937"}, "progress": {}},
        {"generator": {**PCG, "state": {"state": -1, "inc": 3}}, "progress": {}},
        {"generator": {**PCG, "state": {"state": 2**200, "inc": 3}}, "progress": {}},
        {"generator": {**PCG, "state": {"state": "1", "inc": 3}}, "progress": {}},
        {"generator": {**PCG, "state": {"state": 1}}, "progress": {}},
        {"generator": {**PCG, "state": None}, "progress": {}},
        {"generator": {**PCG, "uinteger": 2**70}, "progress": {}},
        {"generator": PCG, "progress": None},
        {"generator": PCG, "progress": 7},
        {"generator": PCG, "progress": "place"},
        {"generator": PCG, "progress": [1, 2]},
    ],
)
def test_a_record_of_the_wrong_types_is_damage(record: Any, run: Path) -> None:
    checkpoint = run / "checkpoint-2"
    (checkpoint / "training_state.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"checkpoint-2 is damaged \(.+\); remove it to go on from checkpoint-1"):
        taken_up_as_classifier(checkpoint)


def test_a_record_that_is_nested_without_end_is_damage(run: Path) -> None:
    (run / "checkpoint-2" / "training_state.json").write_text("[" * 200_000, encoding="utf-8")
    with pytest.raises(CheckpointError, match="is damaged"):
        taken_up_as_classifier(run / "checkpoint-2")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("steps", lambda array: np.asarray(-2)),
        ("steps", lambda array: np.asarray(3)),
        ("steps", lambda array: np.asarray([2, 2])),
        ("steps", lambda array: np.asarray(np.nan)),
        ("steps", lambda array: np.asarray(np.inf)),
        ("steps", None),
        ("mean.3", lambda array: array[:-1]),
        ("mean.3", lambda array: array.astype(np.float64)),
        ("square.1", None),
        ("reached.0", None),
        ("reached.0", lambda array: array[:-1]),
        ("reached.0", lambda array: array + 60),
        ("reached.0", lambda array: array - 99),
        ("reached.0", lambda array: array * 0),
        ("reached.0", lambda array: array.astype(np.float32)),
        ("reached.0", lambda array: array.astype(np.uint64)),
        ("reached.0", lambda array: array.astype(np.int32)),
        ("reached.0", lambda array: array[:, None]),
    ],
)
def test_an_optimizer_of_another_model_is_damage(
    name: str, change: Callable[[np.ndarray], np.ndarray] | None, run: Path
) -> None:
    path = run / "checkpoint-2" / "optimizer.safetensors"
    arrays = {each: np.array(array) for each, array in read_safetensors(path).items()}
    taken = arrays.pop(name)
    if change is not None:
        arrays[name] = change(taken)
    write_safetensors(path, arrays, {})
    with pytest.raises(CheckpointError, match=r"checkpoint-2 is damaged \(.+\); remove it"):
        taken_up_as_classifier(run / "checkpoint-2")


def test_a_model_without_all_of_its_parameters_is_damage(run: Path) -> None:
    """It would load, with a head that is drawn at random."""
    path = run / "checkpoint-2" / "model.safetensors"
    arrays = {name: np.array(array) for name, array in read_safetensors(path).items()}
    del arrays["classifier.out_proj.weight"]
    write_safetensors(path, arrays, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"is damaged \(it lacks classifier\.out_proj\.weight\)"):
        taken_up_as_classifier(run / "checkpoint-2")


def test_the_state_of_another_kind_of_run_is_refused() -> None:
    dropping, other = trainer_of(SEQUENCE), Trainer(trainer_of(SEQUENCE).model, SETTING, None)
    for trainer, state in ((dropping, other.state()), (other, dropping.state())):
        with pytest.raises(ValueError, match="Only one of this run and that of the state has a generator"):
            trainer.restore(state)
    assert other.restore(TrainerState(dropping.optimizer.state(), None)) is None


def test_the_state_of_another_model_is_refused(run: Path) -> None:
    state = TrainerState(read_safetensors(run / "checkpoint-2" / "optimizer.safetensors"), PCG)
    for other in (trainer_of(SEQUENCE, hidden_size=12), trainer_of(SEQUENCE, dtype="float64")):
        with pytest.raises(ValueError, match="it belongs to another model"):
            other.restore(state)


# --- full disks ---


def error_of(function: Callable[[], Any]) -> OSError | None:
    try:
        function()
    except OSError as error:
        return error
    return None


def test_a_disk_that_fills_up_leaves_the_checkpoints_before(
    run: Path, tokenizer: XLMRobertaTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every single thing that is written."""
    trainer = taken_up(run / "checkpoint-2")
    trainer.step(batch_at(SEQUENCE, 2))
    before = parameters_of(trainer.model)
    failures = 0
    while True:
        with monkeypatch.context() as patched:
            disk = FullDisk(patched, fails_at=failures + 1)
            error = error_of(lambda: save_checkpoint(run, trainer, tokenizer, {}, kept=2))
        if error is None:
            break
        assert (error.filename, error.strerror) == (str(run / "checkpoint-3"), "No space left on device")
        failures += 1
        assert sorted(path.name for path in run.iterdir()) == ["checkpoint-1", "checkpoint-2"]
        assert_same(parameters_of(trainer.model), before)
    assert failures == disk.calls - 1 > 20  # what is last is removing, which is done another time
    remove_old_checkpoints(run, kept=2)
    assert sorted(path.name for path in run.iterdir()) == ["checkpoint-2", "checkpoint-3"]
    assert_same(parameters_of(taken_up(run / "checkpoint-3").model), before)


def test_a_run_goes_on_after_a_save_that_failed(
    tmp_path: Path, tokenizer: XLMRobertaTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(SEQUENCE)
    trainer.step(batch_at(SEQUENCE, 0))
    with monkeypatch.context() as patched:
        FullDisk(patched, fails_at=5)
        with pytest.raises(OSError, match="No space left"):
            save_checkpoint(tmp_path, trainer, tokenizer, {}, kept=1)
    trainer.step(batch_at(SEQUENCE, 1))
    saved = save_checkpoint(tmp_path, trainer, tokenizer, {}, kept=1)
    assert_same(parameters_of(taken_up(saved).model), parameters_of(trainer.model))
    assert all(np.isfinite(leaf).all() for leaf in trees.leaves(tuple(parameters_of(trainer.model).values())))
