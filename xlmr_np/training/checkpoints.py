"""Checkpoints of a training run: directories checkpoint-N with a model, and all that the run needs to go on from it.

A checkpoint is written beside its place and renamed when it is complete, so that one which has its name is whole, and
one that could not be written leaves those before it as they were.
"""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from xlmr_np.arrays import to_numpy
from xlmr_np.tokenizer import XLMRobertaTokenizer
from xlmr_np.training.trainer import Trainer, TrainerState
from xlmr_np.weights.errors import CheckpointError
from xlmr_np.weights.safetensors_format import read_safetensors, write_safetensors

OPTIMIZER_FILE = "optimizer.safetensors"
PROGRESS_FILE = "training_state.json"
_NAME = re.compile(r"checkpoint-(\d+)")


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
    beside = run / f".{directory.name}.{os.getpid()}.partial"
    state = trainer.state()
    try:
        trainer.model.save_pretrained(beside)
        tokenizer.save_pretrained(beside)
        arrays = {name: to_numpy(array) for name, array in state.optimizer.items()}
        write_safetensors(beside / OPTIMIZER_FILE, arrays, {})
        text = json.dumps({"generator": state.generator, "progress": progress}, indent=2)
        (beside / PROGRESS_FILE).write_text(text + "\n", encoding="utf-8")
        os.rename(beside, directory)
    except OSError as error:
        if error.filename is None:  # a full disk does not say whose write it was
            error.filename = str(directory)
        raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    trainer.rebase(directory)
    for old in checkpoints_of(run)[:-kept]:
        shutil.rmtree(old, ignore_errors=True)
    return directory


def checkpoints_of(run: Path) -> list[Path]:
    """The checkpoints of a run, the earliest first."""
    steps = {int(match[1]): path for path in run.iterdir() if (match := _NAME.fullmatch(path.name)) and path.is_dir()}
    return [steps[step] for step in sorted(steps)]


def restore_checkpoint(directory: Path, trainer: Trainer) -> dict[str, Any]:
    """Go on where a checkpoint was saved, with a trainer of the model that was loaded from it.

    Returns:
        What else was saved of the run's progress.

    Raises:
        CheckpointError: a file is damaged, or of another model.
    """
    try:
        record = json.loads((directory / PROGRESS_FILE).read_text(encoding="utf-8"))
        trainer.restore(TrainerState(read_safetensors(directory / OPTIMIZER_FILE), record["generator"]))
        return record["progress"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"The checkpoint {directory} is damaged: {error}") from error


def remove_remains(run: Path) -> None:
    """Remove what a killed process has left of a checkpoint that it was writing."""
    for path in run.glob(".checkpoint-*.partial"):
        shutil.rmtree(path, ignore_errors=True)
