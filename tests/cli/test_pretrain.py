"""The command `xlmr-np pretrain`: runs that are killed, damaged, asked for nonsense, or finished."""

import json
import os
import pty
import re
import resource
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import transformers
from filelock import FileLock

import xlmr_np
from tests.cli.finished import Finished, Run, assert_bad_input, assert_harmless
from tests.pipelines.saved_models import save_fill_mask_model
from tests.training.runs import TINY_SHAPE, contents
from tests.training.texts import sentences
from xlmr_np import XLMRobertaConfig, XLMRobertaForMaskedLM, XLMRobertaModel, XLMRobertaTokenizer
from xlmr_np.training import pretraining
from xlmr_np.training.pretraining import ModelShape, PretrainingSetting, Progress
from xlmr_np.training.trainer import Trainer
from xlmr_np.weights.safetensors_format import read_safetensors

OF_NEW_MODELS = ("layers", "hidden_size", "heads", "feed_forward", "max_length")
SHAPE = [f"--{name.replace('_', '-')}={getattr(TINY_SHAPE, name)}" for name in OF_NEW_MODELS]
TRAINING = ["--batch-tokens", "96", "--hold-out-every", "40", "--checkpoint-every", "3", "--threads", "1"]
LEARNING = ["--learning-rate", "1e-2", "--warmup", "1"]

# A process that kills itself, as a SIGKILL would, when it is about to touch the files of the run for the Nth time.
KILLED_AT = """
import os, signal, sys
from xlmr_np.cli import main
left, out = int(sys.argv[1]), sys.argv[2]
def count(event, arguments):
    global left
    if event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir") and str(arguments[0]).startswith(out):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(count)
sys.exit(main(sys.argv[3:]))
"""

# One that kills itself when it is about to take the Nth step.
KILLED_BEFORE = """
import os, signal, sys
from xlmr_np.cli import main
from xlmr_np.training.trainer import Trainer
take = Trainer.step
def step(self, *batches):
    if self.optimizer.steps + 1 == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    return take(self, *batches)
Trainer.step = step
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two files."""
    directory = tmp_path_factory.mktemp("texts")
    for number in range(2):
        content = "\n".join(sentences(150, seed=number))
        (directory / f"{number}.txt").write_text(content, encoding="utf-8")
    return [str(directory / f"{number}.txt") for number in range(2)]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def pretrain(run: Run, texts: list[str], small_vocabulary: Path, out: Path) -> Callable[..., Finished]:
    """Runs the command on these texts, with four steps of a tiny model unless the arguments say otherwise."""

    def pretrain(*arguments: str, shape: list[str] | None = None) -> Finished:
        start = ["--vocabulary", str(small_vocabulary), *SHAPE] if shape is None else shape
        return run("pretrain", *texts, "--out", str(out), "--steps", "4", *start, *TRAINING, *LEARNING, *arguments)

    return pretrain


def command(texts: list[str], out: Path, *arguments: str) -> list[str]:
    return ["pretrain", *texts, "--out", str(out), *SHAPE, *TRAINING, *LEARNING, *arguments]


def process_of(arguments: list[str], **settings: Any) -> "subprocess.Popen[str]":
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-m", "xlmr_np", *arguments], **{**pipes, **settings})


def finished(process: "subprocess.Popen[str]") -> Finished:
    printed, err = process.communicate(timeout=120)
    return Finished(process.returncode, printed, err)


def log_of(out: Path) -> list[dict[str, float]]:
    """The lines, without the time that steps took."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def assert_same_run(out: Path, whole: Path) -> None:
    """The same losses, and the same files to the last byte; nothing else is left."""
    assert log_of(out) == log_of(whole)
    ours, theirs = contents(out, "log.jsonl"), contents(whole, "log.jsonl")
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name] == theirs[name], name


# --- runs that are killed ---

KILLED_RUN = ["--steps", "10", "--pieces", "120", "--dropout", "0.1", "--batches", "2"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> Path:
    """A run that trains its vocabulary, drops, takes two batches a step, and is never interrupted."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert finished(process_of(command(texts, out, *KILLED_RUN))).status == 0
    return out


def test_the_whole_run_shows_what_it_should(whole: Path) -> None:
    log = log_of(whole)
    assert [line["step"] for line in log if "loss" in line] == list(range(1, 11))
    assert [line["step"] for line in log if "held_out_loss" in line] == [3, 6, 9, 10]
    assert len({line["loss"] for line in log if "loss" in line}) == 10
    assert sorted(path.name for path in whole.glob("checkpoint-*")) == ["checkpoint-10", "checkpoint-9"]


def test_a_run_that_is_killed_at_any_moment_is_the_run_that_never_was(texts: list[str], out: Path, whole: Path) -> None:
    """Right after the start, while the vocabulary is trained, and three times between steps."""
    arguments = command(texts, out, *KILLED_RUN)
    statuses = []
    for moment in (0.02, 0.3, 0.45):
        process = process_of(arguments)
        time.sleep(moment)
        process.kill()
        statuses.append(finished(process).status)
    for step in (2, 5, 8):
        process = process_of(arguments)
        while process.poll() is None and not has_logged(out, step):
            time.sleep(0.001)
        process.kill()
        statuses.append(finished(process).status)
    assert -signal.SIGKILL in statuses
    assert set(statuses) <= {0, -signal.SIGKILL}  # on a fast machine it may be done before
    status, printed, err = finished(process_of(arguments))
    assert (status, err) == (0, "")
    said = f"{out} has the model, after 10 steps"
    assert printed in (f"{said}\n", f"{said}; they had been taken before\n")
    assert_same_run(out, whole)


def has_logged(out: Path, step: int) -> bool:
    path = out / "log.jsonl"
    return path.exists() and f'"step": {step},' in path.read_text(encoding="utf-8")


def killed_at(moment: int, arguments: list[str], out: Path) -> int:
    script = [sys.executable, "-c", KILLED_AT, str(moment), str(out), *arguments]
    return subprocess.run(script, capture_output=True, timeout=120).returncode


def killed_before(step: int, arguments: list[str]) -> int:
    script = [sys.executable, "-c", KILLED_BEFORE, str(step), *arguments]
    return subprocess.run(script, capture_output=True, timeout=120).returncode


@pytest.mark.parametrize("moments", [(2, 4, 5, 90), (60, 61, 30)])
def test_a_run_that_is_killed_while_it_writes(
    moments: tuple[int, ...], texts: list[str], out: Path, whole: Path
) -> None:
    """Each time when it is about to touch one of its files, wherever that is."""
    arguments = command(texts, out, *KILLED_RUN)
    for moment in moments:
        assert killed_at(moment, arguments, out) == -signal.SIGKILL
    assert killed_at(10**9, arguments, out) == 0
    assert_same_run(out, whole)


@pytest.mark.exhaustive
def test_a_run_that_is_killed_at_each_of_its_writes(texts: list[str], tmp_path: Path, whole: Path) -> None:
    moment, status = 0, -signal.SIGKILL
    while status:
        moment += 1
        out = tmp_path / str(moment)
        arguments = command(texts, out, *KILLED_RUN)
        status = killed_at(moment, arguments, out)
        if status:
            assert status == -signal.SIGKILL
            assert killed_at(10**9, arguments, out) == 0
        assert_same_run(out, whole)
        shutil.rmtree(out)
    assert moment > 100


def test_a_disk_that_fills_up(texts: list[str], out: Path, whole: Path) -> None:
    """A real limit on the size of files, for a run that has a checkpoint already."""
    arguments = command(texts, out, *KILLED_RUN)
    assert killed_before(5, arguments) == -signal.SIGKILL
    assert [path.name for path in out.glob("checkpoint-*")] == ["checkpoint-3"]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, 9_000))

    status, printed, err = finished(process_of(arguments, preexec_fn=limit))
    assert (status, printed) == (2, "")
    assert err == f"xlmr-np: {out}/checkpoint-6: File too large\n"
    assert [path.name for path in out.glob("checkpoint-*")] == ["checkpoint-3"]
    assert [path.name for path in out.glob(".*")] == [".lock"]
    assert finished(process_of(arguments)).status == 0
    assert_same_run(out, whole)


# --- what a finished run has ---


def test_transformers_loads_the_model(whole: Path) -> None:
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(whole).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(whole)
    assert type(theirs).__name__ == "XLMRobertaForMaskedLM"
    ours, own_tokenizer = XLMRobertaForMaskedLM.from_pretrained(whole), XLMRobertaTokenizer.from_pretrained(whole)
    texts = list(sentences(6, seed=5))
    batch = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    own_batch = own_tokenizer(texts, padding=True, truncation=True, return_tensors="np")
    np.testing.assert_array_equal(own_batch["input_ids"], batch["input_ids"].numpy())
    is_real = own_batch["attention_mask"] == 1
    np.testing.assert_allclose(
        ours(**own_batch).logits[is_real],
        theirs(**batch).logits.detach().numpy()[is_real],
        atol=2e-5,  # float32, through all layers of both
    )  # float32, logits of order one


def test_a_finished_run_stays_as_it_is(pretrain: Callable[..., Finished], out: Path) -> None:
    assert pretrain() == (0, f"{out} has the model, after 4 steps\n", "")
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.rglob("*") if path.is_file()}
    assert pretrain() == (0, f"{out} has the model, after 4 steps; they had been taken before\n", "")
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.rglob("*") if path.is_file()} == before


def test_a_finished_run_needs_no_checkpoints(pretrain: Callable[..., Finished], out: Path) -> None:
    pretrain()
    for path in out.glob("checkpoint-*"):
        shutil.rmtree(path)
    before = contents(out)
    assert pretrain().out.endswith("; they had been taken before\n")
    assert_bad_input(pretrain("--dtype", "float16"), "the finished model in float32, and no checkpoint to make float16")
    assert contents(out) == before


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("content", [b"", b"{", None])
def test_a_finished_model_that_is_damaged_is_saved_again(
    name: str, content: bytes | None, pretrain: Callable[..., Finished], out: Path
) -> None:
    pretrain()
    before = contents(out)
    (out / name).unlink()
    if content is not None:
        (out / name).write_bytes(content)
    assert pretrain() == (0, f"{out} has the model, after 4 steps; they had been taken before\n", "")
    assert contents(out) == before


def test_the_model_is_saved_in_half_precision(pretrain: Callable[..., Finished], out: Path) -> None:
    assert pretrain("--dtype", "float16").status == 0
    assert xlmr_np.AutoModel.from_pretrained(out).dtype == np.float16
    half = read_safetensors(out / "model.safetensors")
    for name, array in read_safetensors(out / "checkpoint-4" / "model.safetensors").items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(half[name], array.astype(np.float16))


def test_a_finished_model_is_saved_once_more_in_another_type(pretrain: Callable[..., Finished], out: Path) -> None:
    pretrain()
    before = contents(out)
    assert pretrain("--dtype", "float16").out.endswith("; they had been taken before\n")
    assert {name for name, content in contents(out).items() if content != before[name]} == {
        "model.safetensors",
        "config.json",
    }


def test_the_curve_is_of_both_losses(pretrain: Callable[..., Finished], out: Path) -> None:
    pretrain()
    lines = ElementTree.parse(out / "loss.svg").getroot().iter("{http://www.w3.org/2000/svg}polyline")
    assert {line.get("class"): len(line.get("points").split()) for line in lines} == {"training": 4, "held-out": 2}


def test_nothing_is_held_out_unless_asked_for(pretrain: Callable[..., Finished], out: Path) -> None:
    pretrain("--hold-out-every", "0")
    assert all("held_out_loss" not in line for line in log_of(out))


def losses_of(out: Path) -> list[float]:
    return [line["loss"] for line in log_of(out) if "loss" in line]


def test_each_option_changes_the_run(pretrain: Callable[..., Finished], out: Path) -> None:
    seen = []
    for options in (
        "",
        "--whole-words",
        "--label-smoothing 0.1",
        "--mlm-probability 0.4",
        "--seed 1",
        "--dropout 0",
        "--batches 2",
        "--batch-tokens 50",
        "--weight-decay 0.9",
        "--learning-rate 0.1",
        "--schedule constant",
        "--schedule cosine",
        "--warmup 0.5",
        "--max-gradient-norm 0.01",
    ):
        assert pretrain(*options.split(), "--hold-out-every", "0").status == 0
        assert losses_of(out) not in seen, options
        seen.append(losses_of(out))
        shutil.rmtree(out)


def test_a_model_is_pretrained_further(
    pretrain: Callable[..., Finished], model: str, out: Path, texts: list[str]
) -> None:
    """From its own weights and with its own vocabulary; its loss falls."""
    before = contents(Path(model))
    shape = ["--model", model]
    assert pretrain("--dropout", "0", "--steps", "12", shape=shape) == (0, f"{out} has the model, after 12 steps\n", "")
    held_out = [line["held_out_loss"] for line in log_of(out) if "held_out_loss" in line]
    assert held_out[-1] < held_out[0] - 0.1
    assert contents(Path(model)) == before


def test_a_model_is_needed_at_the_start_only(
    pretrain: Callable[..., Finished], model: str, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = ["--model", str(shutil.copytree(model, tmp_path / "start"))]
    arguments = ["--steps", "6", "--checkpoint-every", "1"]
    assert pretrain(*arguments, shape=shape).status == 0
    whole = out.rename(tmp_path / "whole")
    interrupted(pretrain, out, monkeypatch, shape=shape)
    shutil.rmtree(tmp_path / "start")
    assert pretrain(*arguments, shape=shape) == (0, f"{out} has the model, after 6 steps\n", "")
    assert_same_run(out, whole)


def test_a_model_may_have_a_larger_table_than_its_vocabulary(
    pretrain: Callable[..., Finished], small_vocabulary: Path, tmp_path: Path, out: Path
) -> None:
    """As tables are padded to round numbers of rows."""
    save_fill_mask_model(tmp_path / "padded", small_vocabulary, vocab_size=488)
    assert pretrain(shape=["--model", str(tmp_path / "padded")]).status == 0
    assert XLMRobertaForMaskedLM.from_pretrained(out).config.vocab_size == 488


def test_a_batch_is_all_texts_at_most(pretrain: Callable[..., Finished], out: Path) -> None:
    assert pretrain("--batch-tokens", str(10**15)).status == 0
    tokens = [line["tokens"] for line in log_of(out) if "tokens" in line]
    assert len(tokens) == 4
    assert len(set(tokens)) == 1
    assert tokens[0] > 300 * 3


def test_the_defaults_that_are_named_are_those_of_the_records(run: Run) -> None:
    shown = " ".join(run("pretrain", "--help").out.split())
    named = dict(re.findall(r"--([a-z-]+) (?:(?!--)[^()])*\(default: ([^)]+)\)", shown))
    assert (named.pop("threads"), named.pop("dtype"), named.pop("device")) == ("all processors", "float32", "cpu")
    defaults = {**PretrainingSetting._field_defaults, **ModelShape._field_defaults}
    for name in ("whole_words", "hold_out_every", "beta2", "eps"):  # nothing unless asked for, and what is no option
        del defaults[name]
    assert {name.replace("-", "_") for name in named} == defaults.keys()
    for name, value in named.items():
        default = defaults[name.replace("-", "_")]
        assert type(default)(value) == default, name


def test_a_head_that_a_model_lacks_is_the_same_each_time(
    pretrain: Callable[..., Finished], small_vocabulary: Path, tmp_path: Path, out: Path
) -> None:
    """It is said that it is new, on one line, whatever the directory is called."""
    directory = tmp_path / "bare \x1b[31m model"
    config = XLMRobertaConfig(vocab_size=482, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    XLMRobertaModel(config, generator=np.random.default_rng(0)).save_pretrained(directory)
    shutil.copy(small_vocabulary, directory / "sentencepiece.bpe.model")
    runs = []
    for _ in range(2):
        status, _, err = pretrain(shape=["--model", str(directory)])
        assert status == 0
        assert err.count("\n") == 1
        assert "missing, initialised at random: lm_head" in err
        assert_harmless(err)
        runs.append(contents(out)["model.safetensors"])
        shutil.rmtree(out)
    assert runs[0] == runs[1]


# --- what makes no sense ---

NONSENSE = {
    "--steps": ["0", "-1", "1.5"],
    "--pieces": ["0", "-5", "3", "1000000"],
    "--character-coverage": ["0", "1.1", "nan"],
    "--layers": ["0"],
    "--hidden-size": ["0", "15"],
    "--heads": ["0", "3", "-2"],
    "--feed-forward": ["0"],
    "--max-length": ["2", "0", "-1"],
    "--batch-tokens": ["0", "-8"],
    "--batches": ["0", "-1"],
    "--learning-rate": ["0", "-1", "nan", "inf"],
    "--schedule": ["sawtooth"],
    "--warmup": ["-1", "nan", "inf"],
    "--weight-decay": ["-0.1", "nan", "inf"],
    "--max-gradient-norm": ["0", "-1", "nan"],
    "--dropout": ["-0.1", "1", "nan"],
    "--mlm-probability": ["0", "-0.1", "1.1", "nan"],
    "--label-smoothing": ["-0.1", "1", "nan"],
    "--hold-out-every": ["-1", "1", "100000"],
    "--checkpoint-every": ["0", "-3"],
    "--seed": ["-1", "x"],
    "--threads": ["0", "-1"],
    "--dtype": ["float8", "int8", ""],
    "--vocabulary": ["nowhere.model"],
    "--model": ["./nowhere"],
}


@pytest.mark.parametrize(("option", "value"), [(name, value) for name, values in NONSENSE.items() for value in values])
def test_nonsense_is_refused_before_anything_is_written(
    option: str, value: str, run: Run, texts: list[str], out: Path
) -> None:
    arguments = ["--steps", "4", *([] if option == "--model" else SHAPE), *TRAINING]
    status, printed, err = run("pretrain", *texts, "--out", str(out), *arguments, f"{option}={value}")
    assert (status, printed) == (2, "")
    *usage, said = err.splitlines()
    assert said.startswith("xlmr-np")
    assert not usage or usage[0].startswith("usage:")
    assert "Traceback" not in err
    assert not out.exists()


def test_a_model_has_its_own_shape(pretrain: Callable[..., Finished], model: str, out: Path) -> None:
    assert_bad_input(pretrain(shape=["--model", model, "--layers", "2"]), "give a shape or a model, and not both")
    assert not out.exists()


def test_a_vocabulary_has_as_many_tokens_as_the_model(
    pretrain: Callable[..., Finished], whole: Path, model: str, small_vocabulary: Path, out: Path
) -> None:
    finished = pretrain(shape=["--model", str(whole), "--vocabulary", str(small_vocabulary)])
    assert_bad_input(finished, "The vocabulary has 482 tokens, and the model has 122; give the vocabulary that belongs")
    finished = pretrain(shape=["--model", model, "--vocabulary", str(whole)])
    assert_bad_input(finished, "The vocabulary has 122 tokens, and the model has 482; give none to use the model's own")
    assert not out.exists()


def test_standard_input_is_no_file(run: Run, out: Path) -> None:
    finished = run("pretrain", "-", "--out", str(out), "--steps", "4", stdin=b"a text\n")
    assert_bad_input(finished, "- can be read only once, and texts are read several times; give files")
    assert not out.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"nothing\.txt: No such file"),
        (b"", "There is no line to learn from"),
        (b" \n\n", "There is no line to learn from"),
        (b"a text\n\xff\xfe\n", "line 2: not UTF-8"),
        (b"a text\nx\0y\n", "line 2: a NUL character"),
        ("\u200b\n".encode(), "The documents have no tokens"),
        (b"a text\nanother\n", "There is no line that is held out"),
    ],
)
@pytest.mark.parametrize("trains_vocabulary", [False, True])
def test_texts_that_are_none(
    content: bytes | None,
    message: str,
    trains_vocabulary: bool,
    run: Run,
    small_vocabulary: Path,
    tmp_path: Path,
    out: Path,
) -> None:
    path = tmp_path / "nothing.txt"
    if content is not None:
        path.write_bytes(content)
    start = ["--pieces", "10"] if trains_vocabulary else ["--vocabulary", str(small_vocabulary)]
    finished = run("pretrain", str(path), "--out", str(out), "--steps", "4", *start, *SHAPE, *TRAINING)
    if trains_vocabulary and ("have no tokens" in message or "held out" in message):
        message = "No vocabulary of 10 pieces"  # which comes first
    assert_bad_input(finished, message)
    assert not out.exists()


def test_too_little_is_held_out(run: Run, small_vocabulary: Path, tmp_path: Path, out: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("a text\n" * 6 + "龘\n", encoding="utf-8")  # which has no piece, so that it is never hidden
    start = ["--vocabulary", str(small_vocabulary), *SHAPE, *TRAINING, "--hold-out-every", "7"]
    assert_bad_input(
        run("pretrain", str(path), "--out", str(out), "--steps", "4", *start), "too little to measure on: no token"
    )
    assert not out.exists()


# --- directories ---


def test_another_run_is_refused(pretrain: Callable[..., Finished], model: str, out: Path) -> None:
    pretrain("--pieces", "300")
    before = contents(out)
    for option, value in {
        "--steps": "5",
        "--pieces": "301",
        "--character-coverage": "0.99",
        "--layers": "2",
        "--hidden-size": "18",
        "--heads": "4",
        "--feed-forward": "23",
        "--max-length": "23",
        "--batch-tokens": "97",
        "--batches": "2",
        "--learning-rate": "0.02",
        "--schedule": "cosine",
        "--warmup": "3",
        "--weight-decay": "0.02",
        "--max-gradient-norm": "2",
        "--dropout": "0.2",
        "--mlm-probability": "0.2",
        "--label-smoothing": "0.1",
        "--hold-out-every": "8",
        "--checkpoint-every": "4",
        "--seed": "1",
    }.items():
        changed = pretrain("--pieces", "300", option, value)
        assert_bad_input(changed, "holds another run: its .* choose another directory, or ask for the same")
    assert_bad_input(pretrain("--pieces", "300", "--whole-words"), "its whole_words is False, and not True")
    assert_bad_input(pretrain(shape=["--model", model]), "holds another run: its model is None")
    assert contents(out) == before


def test_a_directory_with_something_else_is_refused(pretrain: Callable[..., Finished], out: Path) -> None:
    out.mkdir()
    (out / "thesis.tex").write_text("ten years of work", encoding="utf-8")
    assert_bad_input(pretrain(), "is not empty, and holds no run to go on with; choose a new directory")
    assert contents(out) == {"thesis.tex": b"ten years of work"}


def test_an_empty_directory_is_taken(pretrain: Callable[..., Finished], out: Path) -> None:
    out.mkdir()
    (out / ".run.json.4711.partial").write_text("{", encoding="utf-8")  # killed right at the start
    assert pretrain().status == 0
    assert [path.name for path in out.glob(".*")] == [".lock"]


def test_a_file_is_no_directory(pretrain: Callable[..., Finished], out: Path) -> None:
    out.write_text("mine", encoding="utf-8")
    assert_bad_input(pretrain(), "out: Not a directory")
    assert out.read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("record", ["", "{", "[]", "[1]", "5", "null", '"text"', "[" * 100_000, "\ufeff{}"])
def test_a_damaged_record_is_named(record: str, pretrain: Callable[..., Finished], out: Path) -> None:
    out.mkdir()
    (out / "run.json").write_text(record, encoding="utf-8")
    assert_bad_input(pretrain(), r"(run\.json is damaged|holds another run)")
    assert contents(out) == {"run.json": record.encode()}


def interrupted(
    pretrain: Callable[..., Finished],
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    at: int = 4,
    shape: list[str] | None = None,
) -> None:
    """A run of six steps that stops before that one, with a checkpoint of each of the two before."""
    step = Trainer.step

    def stopping(self: Trainer, *batches: dict[str, Any]) -> Any:
        if self.optimizer.steps + 1 == at:
            raise KeyboardInterrupt
        return step(self, *batches)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "step", stopping)
        assert pretrain("--steps", "6", "--checkpoint-every", "1", shape=shape).status == 130
    assert {path.name for path in out.glob("checkpoint-*")} == {f"checkpoint-{n}" for n in (at - 2, at - 1) if n > 0}


@pytest.mark.parametrize("at", [None, 1, 4])
def test_other_texts_and_vocabularies_are_refused(
    at: int | None,
    pretrain: Callable[..., Finished],
    run: Run,
    texts: list[str],
    small_vocabulary: Path,
    whole: Path,
    tmp_path: Path,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whether the run is finished, or was stopped before its first checkpoint, or after it."""
    same = ["--steps", "6", "--checkpoint-every", "1"]
    if at is None:
        assert pretrain(*same).status == 0
    else:
        interrupted(pretrain, out, monkeypatch, at)
    before = contents(out)
    changed = tmp_path / "changed.txt"
    changed.write_bytes(Path(texts[1]).read_bytes() + b"\na text more")
    start = ["--vocabulary", str(small_vocabulary), *SHAPE, *TRAINING, *LEARNING]
    for others in (texts[:1], texts[::-1], [texts[0], str(changed)]):
        refused = run("pretrain", *others, "--out", str(out), *start, *same)
        assert_bad_input(refused, "holds another run: its checksum of the texts is .* choose another directory")
    vocabulary = ["--vocabulary", str(whole / "sentencepiece.bpe.model")]
    for shape in ([*vocabulary, *SHAPE], SHAPE):
        refused = pretrain(*same, shape=shape)
        assert_bad_input(refused, "holds another run: its checksum of the vocabulary is .* choose another directory")
    assert contents(out) == before
    moved = shutil.copy(small_vocabulary, tmp_path / "moved.model")
    assert pretrain(*same, shape=["--vocabulary", str(moved), *SHAPE]).status == 0
    assert len(losses_of(out)) == 6


@pytest.fixture
def another(texts: list[str], small_vocabulary: Path, out: Path) -> Callable[[], Finished]:
    """Runs the same command to its end in a process of its own."""
    arguments = command(texts, out, "--steps", "4", "--vocabulary", str(small_vocabulary))
    return lambda: finished(process_of(arguments))


def test_two_processes_are_never_at_work_in_one_directory(
    pretrain: Callable[..., Finished], another: Callable[[], Finished], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second begins in the midst of the first, which is not disturbed."""
    step, seconds = Trainer.step, []

    def joined(self: Trainer, *batches: dict[str, Any]) -> Any:
        if self.optimizer.steps in (0, 3):
            seconds.append(another())
        return step(self, *batches)

    monkeypatch.setattr(Trainer, "step", joined)
    assert pretrain() == (0, f"{out} has the model, after 4 steps\n", "")
    assert len(seconds) == 2
    for second in seconds:
        assert_bad_input(second, f"Another process is at work in {out}; wait for it, or choose another directory")
    assert [line["step"] for line in log_of(out) if "loss" in line] == [1, 2, 3, 4]
    assert pretrain().out.endswith("; they had been taken before\n")


def test_the_lock_is_asked_before_anything_is_changed(pretrain: Callable[..., Finished], out: Path) -> None:
    """In a directory that is empty so far, and in one of a run with what a killed process has left."""
    out.mkdir()
    with FileLock(out / ".lock"):
        assert_bad_input(pretrain(), "Another process is at work in")
        assert contents(out) == {".lock": b""}
    assert pretrain().status == 0
    (out / ".model.safetensors.4711.partial").write_bytes(b"half of it")
    (out / "config.json").unlink()
    before = contents(out)
    with FileLock(out / ".lock"):
        assert_bad_input(pretrain(), "Another process is at work in")
    assert contents(out) == before
    assert pretrain().status == 0
    assert not (out / ".model.safetensors.4711.partial").exists()


def test_two_processes_that_begin_at_the_same_moment(
    pretrain: Callable[..., Finished], another: Callable[[], Finished], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one begins, and ends, after this one has found no directory."""
    new, others = pretraining._new, []

    def late(*given: Any) -> Any:
        others.append(another())
        return new(*given)

    with monkeypatch.context() as patched:
        patched.setattr(pretraining, "_new", late)
        assert_bad_input(pretrain(), "Another process has begun this run in .* at the same time; start again to go on")
    assert others == [(0, f"{out} has the model, after 4 steps\n", "")]
    before = contents(out)
    assert pretrain().out.endswith("; they had been taken before\n")
    assert contents(out) == before


def test_a_damaged_checkpoint_is_removed_by_hand(
    pretrain: Callable[..., Finished], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(pretrain, out, monkeypatch)
    path = out / "checkpoint-3" / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    before = contents(out)
    again = pretrain("--steps", "6", "--checkpoint-every", "1")
    assert_bad_input(again, r"checkpoint-3 is damaged \(.*optimizer.*\); remove it to go on from checkpoint-2")
    assert contents(out) == before
    shutil.rmtree(path.parent)
    assert pretrain("--steps", "6", "--checkpoint-every", "1").status == 0
    steps = [line["step"] for line in log_of(out) if "loss" in line]
    assert steps == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    "progress",
    [{}] + [{"place": place} for place in (None, 5, [], [1], [1, 2, 3], ["0", 1], [0, -1], [0.5, 1], {})],
)
def test_a_place_that_is_none_is_damage(
    progress: Any, pretrain: Callable[..., Finished], out: Path, whole_interrupted: Path
) -> None:
    shutil.copytree(whole_interrupted, out)
    path = out / "checkpoint-3" / "training_state.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(record | {"progress": progress}), encoding="utf-8")
    assert_bad_input(
        pretrain("--steps", "6", "--checkpoint-every", "1"), r"checkpoint-3 is damaged \(.+\); remove it to go on from"
    )


@pytest.fixture(scope="module")
def whole_interrupted(tmp_path_factory: pytest.TempPathFactory, texts: list[str], small_vocabulary: Path) -> Path:
    """A run of six steps with the checkpoints 2 and 3."""
    out = tmp_path_factory.mktemp("interrupted") / "out"

    def report(progress: Progress) -> None:
        if progress.step == 4:
            raise KeyboardInterrupt

    setting = PretrainingSetting(6, 96, 1, 1e-2, warmup=1.0, hold_out_every=40, checkpoint_every=1)
    files = [Path(text) for text in texts]
    with pytest.raises(KeyboardInterrupt):
        pretraining.pretrain(files, out, setting, TINY_SHAPE, vocabulary=small_vocabulary, num_threads=1, report=report)
    return out


# --- losses that are no numbers ---


def test_a_loss_that_is_no_number_stops_the_run(
    pretrain: Callable[..., Finished], out: Path, model: str, tmp_path: Path
) -> None:
    """A model with a weight that is none, from the first step."""
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    loaded = XLMRobertaForMaskedLM.from_pretrained(broken)
    weight = np.array(loaded.params.encoder.layers[0].feed_forward.intermediate.weight)
    weight[0, 0] = np.nan
    layer = loaded.params.encoder.layers[0]
    intermediate = layer.feed_forward.intermediate._replace(weight=weight)
    layers = (layer._replace(feed_forward=layer.feed_forward._replace(intermediate=intermediate)),)
    layers += loaded.params.encoder.layers[1:]
    loaded.params = loaded.params._replace(encoder=loaded.params.encoder._replace(layers=layers))
    loaded.save_pretrained(broken)
    assert_bad_input(
        pretrain(shape=["--model", str(broken)]),
        "The loss of batch 1 of step 1 is nan; nothing was updated.* There is no checkpoint yet",
    )


def test_a_loss_that_becomes_no_number_leaves_the_last_checkpoint(
    pretrain: Callable[..., Finished], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It still loads, and the run goes on from it."""
    step = Trainer.step

    def overflowing(self: Trainer, *batches: dict[str, Any]) -> Any:
        if self.optimizer.steps + 1 == 5:
            self.model.params.head.dense.weight[...] = np.inf
        return step(self, *batches)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "step", overflowing)
        finished = pretrain("--steps", "6", "--batches", "2")
        message = f"The loss of batch 1 of step 5 is nan; .* The last checkpoint is {out}/checkpoint-3"
        assert_bad_input(finished, message)
    assert XLMRobertaForMaskedLM.from_pretrained(out / "checkpoint-3").load_report.is_as_expected
    assert pretrain("--steps", "6", "--batches", "2").status == 0
    assert [line["step"] for line in log_of(out) if "loss" in line] == [1, 2, 3, 4, 5, 6]


def test_a_gradient_that_becomes_no_number_leaves_the_last_checkpoint(
    pretrain: Callable[..., Finished], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message says where in the texts that was."""
    computed, losses = XLMRobertaForMaskedLM.loss_and_gradients, []

    def overflowing(self: XLMRobertaForMaskedLM, *given: Any, **named: Any) -> Any:
        output, gradients = computed(self, *given, **named)
        losses.append(float(output.loss))
        if len(losses) == 10:
            self.named(gradients)["lm_head.bias"][3] = np.inf
        return output, gradients

    with monkeypatch.context() as patched:
        patched.setattr(XLMRobertaForMaskedLM, "loss_and_gradients", overflowing)
        finished = pretrain("--steps", "6", "--batches", "2")
    assert_bad_input(
        finished,
        "The norm of the gradient of batch 2 of step 5 is inf; nothing was updated.* It ends at sequence [1-9][0-9]* "
        f"of round 1 through the texts. The last checkpoint is {out}/checkpoint-3: in a new directory, --model goes on",
    )
    assert len(losses) == 10
    assert np.isfinite(losses).all()
    assert [line["step"] for line in log_of(out) if "loss" in line] == [1, 2, 3, 4]
    assert pretrain("--steps", "6", "--batches", "2").status == 0


def test_a_rate_beyond_all_measure_is_one_line(texts: list[str], small_vocabulary: Path, out: Path) -> None:
    """As a process, on whose standard error NumPy's warnings would show."""
    arguments = command(texts, out, "--steps", "40", "--vocabulary", str(small_vocabulary), "--learning-rate", "1e30")
    status, printed, err = finished(process_of(arguments))
    assert (status, printed) == (2, "")
    assert err.count("\n") == 1
    assert "The last checkpoint is" in err or "There is no checkpoint yet" in err
    for checkpoint in out.glob("checkpoint-*"):
        assert XLMRobertaForMaskedLM.from_pretrained(checkpoint).load_report.is_as_expected


# --- the terminal ---


def test_progress_is_shown_on_a_terminal_only(texts: list[str], small_vocabulary: Path, out: Path) -> None:
    arguments = command(texts, out, "--steps", "4", "--vocabulary", str(small_vocabulary))
    controller, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 100))
    with os.fdopen(terminal, "wb") as theirs:
        process = process_of(arguments, stderr=theirs)
    shown = b""
    while chunk := read_from(controller):
        shown += chunk
    os.close(controller)
    assert finished(process)[:2] == (0, f"{out} has the model, after 4 steps\n")
    text = shown.decode()
    assert "4/4" in text
    assert "loss " in text
    assert "tokens/s" in text


def read_from(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # how Linux says that nobody will write any more
        return b""


def test_names_never_reach_the_terminal_as_they_are(run: Run, tmp_path: Path, small_vocabulary: Path) -> None:
    name = "a \x1b]0;title\x07\u202e b"
    texts, out = tmp_path / f"{name}.txt", tmp_path / name
    texts.write_text("a text\n" * 20, encoding="utf-8")
    start = [
        "--out",
        str(out),
        "--steps",
        "2",
        "--vocabulary",
        str(small_vocabulary),
        *SHAPE,
        *TRAINING,
        "--hold-out-every",
        "0",
    ]
    for arguments, expected in (
        ([str(texts), *start], 0),
        ([str(texts), *start, "--seed", "3"], 2),
        ([str(tmp_path / f"{name} none"), *start], 2),
        ([str(texts), *start, "--model", f"./{name}"], 2),
        ([str(texts), *start, "--schedule", name], 2),
    ):
        status, printed, err = run("pretrain", *arguments)
        assert status == expected
        assert_harmless(printed + err)
