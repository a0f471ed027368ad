"""Checkpoints of a training run: directories checkpoint-N with a model, and all that the run needs to go on from it.

A checkpoint is written beside its place and renamed when it is complete, and renamed before it is removed, so that one
which has its name is whole, and one that could not be written leaves those before it as they were.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from xlmr_np.arrays import to_numpy
from xlmr_np.models.encoding import TaskModel
from xlmr_np.tokenizer import XLMRobertaTokenizer
from xlmr_np.training.trainer import Trainer, TrainerState
from xlmr_np.weights.errors import CheckpointError
from xlmr_np.weights.safetensors_format import read_safetensors, write_safetensors

OPTIMIZER_FILE = "optimizer.safetensors"
PROGRESS_FILE = "training_state.json"
_NAME = re.compile(r"checkpoint-(0|[1-9][0-9]*)")
_REMAINS = re.compile(r"\..+\.[0-9]+\.partial")  # what is written beside its place, with the process's number


def save_checkpoint(
    run: Path, trainer: Trainer, tokenizer: XLMRobertaTokenizer, progress: dict[str, Any], kept: int
) -> Path:
    """Write a checkpoint, then remove old ones.

    Args:
        run: the directory of the run.
        trainer: to save with its model.
        tokenizer: of the model, so that the checkpoint can be used by itself.
        progress: what else the run needs to go on, for JSON.
        kept: how many checkpoints of the run there may be.

    Returns:
        Its directory.

    Raises:
        OSError: it cannot be written; those before are as they were.
    """
    directory = run / f"checkpoint-{trainer.optimizer.steps}"
    beside = _beside(directory)
    state = trainer.state()
    try:
        trainer.model.save_pretrained(beside)
        tokenizer.save_pretrained(beside)
        arrays = {name: to_numpy(array) for name, array in state.optimizer.items()}
        write_safetensors(beside / OPTIMIZER_FILE, arrays, {})
        record = {"generator": state.generator, "loss_scale": state.loss_scale, "progress": progress}
        text = json.dumps(record, indent=2)
        (beside / PROGRESS_FILE).write_text(text + "\n", encoding="utf-8")
        for path in beside.iterdir():  # or a power cut could leave the name without what it names
            with open(path, "rb+") as file:
                os.fsync(file.fileno())
        os.rename(beside, directory)
    except OSError as error:
        if error.errno is not None:  # name neither a file that is gone by then, nor none, as a full disk does
            error.filename, error.filename2 = str(directory), None
        raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    trainer.rebase(directory)
    remove_old_checkpoints(run, kept)
    return directory


def remove_old_checkpoints(run: Path, kept: int) -> None:
    """Remove all checkpoints but the last ones; those that cannot be removed stay."""
    for old in checkpoints_of(run)[:-kept]:
        beside = _beside(old)
        with suppress(OSError):
            os.rename(old, beside)
        shutil.rmtree(beside, ignore_errors=True)


def checkpoints_of(run: Path) -> list[Path]:
    """The checkpoints of a run, the earliest first."""
    steps = {int(match[1]): path for path in run.iterdir() if (match := _NAME.fullmatch(path.name)) and path.is_dir()}
    return [steps[step] for step in sorted(steps)]


@contextmanager
def reading(checkpoint: Path) -> Iterator[None]:
    """If what the block does fails because the checkpoint is damaged, say which one, and what to do.

    Raises:
        CheckpointError: it is.
    """
    try:
        yield
    except (OSError, ValueError, TypeError, LookupError, OverflowError, RecursionError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        earlier = [path.name for path in checkpoints_of(checkpoint.parent)]
        before = earlier[: earlier.index(checkpoint.name)] if checkpoint.name in earlier else []
        way_on = f"go on from {before[-1]}" if before else "begin again"
        raise CheckpointError(
            f"The checkpoint {checkpoint} is damaged ({reason.removesuffix('.')}); remove it to {way_on}."
        ) from error


def load_model(
    checkpoint: Path, model_class: type[TaskModel], num_threads: int | None, device: str | None = None
) -> Any:
    """The model of a checkpoint, on a device.

    Raises:
        CheckpointError: it is damaged.
    """
    with reading(checkpoint):
        model = model_class.from_pretrained(checkpoint, num_threads=num_threads, device=device)
        if model.load_report.missing:
            raise ValueError(f"it lacks {', '.join(model.load_report.missing)}")
        return model


def restore_checkpoint(checkpoint: Path, trainer: Trainer) -> dict[str, Any]:
    """Go on where a checkpoint was saved, with a trainer of the model that was loaded from it.

    Returns:
        What else was saved of the run's progress.

    Raises:
        CheckpointError: a file is damaged, or of another model.
    """
    with reading(checkpoint):
        record = json.loads((checkpoint / PROGRESS_FILE).read_text(encoding="utf-8"))
        optimizer = read_safetensors(checkpoint / OPTIMIZER_FILE)
        trainer.restore(TrainerState(optimizer, record["generator"], record.get("loss_scale")))
        if checkpoint.name != f"checkpoint-{trainer.optimizer.steps}":
            raise ValueError(f"its optimiser has done {trainer.optimizer.steps} steps")
        return dict(record["progress"])


def _beside(checkpoint: Path) -> Path:
    """Where it is while it is not whole."""
    return checkpoint.with_name(f".{checkpoint.name}.{os.getpid()}.partial")


def is_remains(path: Path) -> bool:
    """Whether a killed process has left this, of something that was not whole."""
    return _REMAINS.fullmatch(path.name) is not None


def remove_remains(run: Path) -> None:
    """Remove what killed processes have left of what they were writing or removing."""
    for path in filter(is_remains, list(run.iterdir())):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
