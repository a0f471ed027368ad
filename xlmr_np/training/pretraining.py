"""Masked-language-model pretraining from text files: one directory, one run, which goes on where it was stopped.

The directory of a run holds

    run.json                   what was asked for; a run that asks for something else needs another directory
    sentencepiece.bpe.model    the vocabulary
    log.jsonl                  a line for each step
    loss.svg                   the curve of it
    checkpoint-N/              a model, and what is needed to go on from step N
    config.json, model.safetensors, tokenizer files     the model, at the end
    .lock                      held by the process that is at work there

Nothing is written there before all that was asked for has been found to make sense, texts and model included.
"""

import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock, Timeout

from xlmr_np.arrays import dtype_from_name, resolve_device
from xlmr_np.config import CONFIG_FILE, XLMRobertaConfig
from xlmr_np.inputs import longest_sequence
from xlmr_np.losses.cross_entropy import IGNORED_LABEL
from xlmr_np.models.language_models import XLMRobertaForMaskedLM
from xlmr_np.ops.threads import check_number_of_threads
from xlmr_np.tokenizer import XLMRobertaTokenizer
from xlmr_np.tokenizer.files import MODEL_FILE, VOCABULARY_FILES
from xlmr_np.training.batches import Masker, Place, Sequences, rows_of_batches, sequences_of
from xlmr_np.training.checkpoints import (
    checkpoints_of,
    is_remains,
    load_model,
    reading,
    remove_old_checkpoints,
    remove_remains,
    restore_checkpoint,
    save_checkpoint,
)
from xlmr_np.training.corpus import check_files, checksum, documents
from xlmr_np.training.pretraining_setting import ModelShape, PretrainingSetting
from xlmr_np.training.run_log import RunLog
from xlmr_np.training.trainer import Trainer
from xlmr_np.training.vocabulary_training import train_vocabulary
from xlmr_np.weights.errors import CheckpointError
from xlmr_np.weights.saving import replacing

RUN_FILE = "run.json"
LOCK_FILE = ".lock"
CHECKPOINTS_KEPT = 2  # so that there is one if the last is damaged
NEW_MODEL_SEED, HELD_OUT_SEED = 1, 2  # beside the run's own, for what is drawn once
MOST_HELD_OUT_TOKENS = 200_000  # that are measured on at each checkpoint


class Progress(NamedTuple):
    """How far a run is, after a step."""

    step: int
    steps: int
    loss: float
    tokens: int  # of this step
    seconds: float  # that it took
    is_skipped: bool = False  # an overflow in float16: nothing was updated


def pretrain(
    files: Sequence[Path],
    out: Path,
    setting: PretrainingSetting,
    shape: ModelShape | None = None,
    *,
    model: str | os.PathLike[str] | None = None,
    vocabulary: Path | None = None,
    dtype: str = "float32",
    num_threads: int | None = None,
    device: str | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> XLMRobertaForMaskedLM:
    """Pretrain a model, or go on where the same run was stopped; one that is finished stays as it is.

    Args:
        files: text files with a document a line.
        out: the directory of the run.
        setting: see there.
        shape: of a new model; None is the default one, or that of `model`.
        model: a directory or hub id of a model to go on pretraining.
        vocabulary: a sentencepiece model, or a directory with a tokenizer; None trains one, or takes that of `model`.
        dtype: of the weights that are saved at the end; checkpoints have all digits.
        num_threads: see `XLMRobertaPreTrainedModel.set_num_threads`; a run that goes on with another number adds in
            another order, and differs in its last digits; so does one on another device.
        device: "cpu", "cuda" or "cuda:1", where it is trained.
        report: is told of every step.

    Returns:
        The model at the end.

    Raises:
        ValueError: the directory holds another run, the vocabulary does not fit the model, a setting makes no sense,
            or there is no text.
        FloatingPointError: the loss or gradient of a step is not finite.
        OSError: a file cannot be read or written, or is damaged.
        RuntimeError: a GPU was asked for, and there is none.
    """
    if model is not None and shape is not None:
        raise ValueError("A model that is loaded has its own shape; give a shape or a model, and not both.")
    shape = (shape or ModelShape()).check()
    setting.check()
    dtype_from_name(dtype)
    check_number_of_threads(num_threads)
    device = resolve_device(device)
    check_files(files)
    asked = {
        "model": None if model is None else os.fspath(model),
        "checksum of the texts": [checksum(file) for file in files],
        "checksum of the vocabulary": None if vocabulary is None else _checksum_of_vocabulary(vocabulary),
        "shape": shape._asdict(),
        **setting._asdict(),
    }
    _is_begun(out, asked)  # before the lock, which is not to be left in a directory of something else
    with ExitStack() as until_the_end:
        if is_alone := out.is_dir():
            until_the_end.enter_context(_alone_in(out))
        checkpoint = None
        if _is_begun(out, asked):
            remove_remains(out)
            finished = _finished(out, dtype, num_threads)
            if finished is not None:
                return finished
            checkpoint = next(reversed(checkpoints_of(out)), None)
        if checkpoint is None:
            run = _new_run(files, out, setting, shape, model, vocabulary, num_threads, device)
        else:
            run = _resumed(checkpoint, files, out, setting, num_threads, device)
        if not is_alone:
            out.mkdir(parents=True, exist_ok=True)
            until_the_end.enter_context(_alone_in(out))
            if _is_begun(out, asked):
                raise ValueError(f"Another process has begun this run in {out} at the same time; start again to go on.")
        _claim(out, asked, run.tokenizer)
        run.train(report)
        return run.finish(dtype, num_threads)


class PretrainingRun:
    """A model, the texts that it learns from, and how far it is.

    Args:
        files: see `pretrain`.
        out: see there.
        setting: see there.
        tokenizer: of the files and of the model.
        model: as it is before the next step.

    Attributes:
        generator: draws what is masked and what is dropped.
        trainer: of the model.
        place: how far it is in the texts.
    """

    def __init__(
        self,
        files: Sequence[Path],
        out: Path,
        setting: PretrainingSetting,
        tokenizer: XLMRobertaTokenizer,
        model: XLMRobertaForMaskedLM,
    ) -> None:
        _check_fits(tokenizer, model.config)
        self.out, self.setting, self.tokenizer = out, setting, tokenizer
        max_length = longest_sequence(model.config)
        tokenizer.model_max_length = None  # longer documents are cut up
        self.sequences = sequences_of(documents(files, setting.hold_out_every), tokenizer, max_length)
        self.masker = Masker(tokenizer, setting.for_masking(), setting.whole_words)
        self.held_out = self._held_out(files, max_length) if setting.hold_out_every else []
        tokenizer.model_max_length = max_length
        self.model, self.generator = model, np.random.default_rng(setting.seed)
        self.trainer = Trainer(model, setting.for_trainer(), self.generator)
        self.log = RunLog(out)
        self._begin_at(Place())

    def _begin_at(self, place: Place) -> None:
        self.place = place
        self._batches = self._rows_of_batches(self.sequences, place)

    def _rows_of_batches(self, sequences: Sequences, place: Place) -> Iterator[tuple[np.ndarray, Place]]:
        tokens = min(self.setting.batch_tokens, len(sequences.ids))  # a round through all of them at most
        return rows_of_batches(sequences, tokens, self.setting.seed, place)

    @property
    def steps(self) -> int:
        """How many have been taken."""
        return self.trainer.optimizer.steps

    def train(self, report: Callable[[Progress], None]) -> None:
        """Take all steps that are left.

        Raises:
            FloatingPointError: a loss or gradient is not finite.
            OSError: something cannot be written; the checkpoints before are as they were.
        """
        self.log.forget_after(self.steps)
        remove_old_checkpoints(self.out, CHECKPOINTS_KEPT)  # if the process that should have was killed before
        while self.steps < self.setting.steps:
            progress = self.step()
            report(progress)
            is_due = self.steps == self.setting.steps or self.steps % self.setting.checkpoint_every == 0
            if is_due and not progress.is_skipped:
                self.save()

    def step(self) -> Progress:
        """One update, or none where it overflows in float16: the log says so, and the texts go on.

        Raises:
            FloatingPointError: the loss or gradient is not finite.
            OSError: the log cannot be written.
        """
        begun = time.perf_counter()
        parts = []
        for _ in range(self.setting.batches):
            rows, self.place = next(self._batches)
            parts.append(self.masker.batch(self.sequences, rows, self.generator))
        try:
            done = self.trainer.step(*parts)
        except FloatingPointError as error:
            place = f"It ends at sequence {self.place.done} of round {self.place.epoch + 1} through the texts."
            raise FloatingPointError(f"{error} {place} {self._last_checkpoint()}") from error
        tokens = sum(int(part["attention_mask"].sum()) for part in parts)
        seconds = time.perf_counter() - begun
        if done.is_skipped:
            self.log.write(step=self.steps + 1, skipped=True, tokens=tokens, seconds=round(seconds, 3))
        else:
            facts = {"loss": done.loss, "gradient_norm": done.gradient_norm, "rate": done.rate}
            self.log.write(step=self.steps, **facts, tokens=tokens, seconds=round(seconds, 3))
        return Progress(self.steps, self.setting.steps, done.loss, tokens, seconds, done.is_skipped)

    def save(self) -> None:
        """Measure on what was held out, draw the curve, and write a checkpoint.

        Raises:
            FloatingPointError: the loss on what was held out is not finite.
            OSError: something cannot be written; the checkpoints before are as they were.
        """
        if self.held_out:
            loss = self._held_out_loss()
            if not math.isfinite(loss):
                raise FloatingPointError(
                    f"The loss on what is held out is {loss} after step {self.steps}. {self._last_checkpoint()}"
                )
            self.log.write(step=self.steps, held_out_loss=round(loss, 6))
        self.log.draw()
        save_checkpoint(self.out, self.trainer, self.tokenizer, {"place": self.place}, CHECKPOINTS_KEPT)

    def finish(self, dtype: str, num_threads: int | None) -> XLMRobertaForMaskedLM:
        """Save the model of the last checkpoint in a type of its own.

        Raises:
            OSError: something cannot be written; the checkpoint is as it was.
        """
        self.tokenizer.save_pretrained(self.out)
        last = checkpoints_of(self.out)[-1]
        trained: XLMRobertaForMaskedLM = XLMRobertaForMaskedLM.from_pretrained(
            last, dtype=dtype, num_threads=num_threads
        )
        trained.save_pretrained(self.out)
        return trained

    def restore(self, checkpoint: Path) -> None:
        """Go on from a checkpoint whose model this run's is.

        Raises:
            CheckpointError: it is damaged.
        """
        progress = restore_checkpoint(checkpoint, self.trainer)
        with reading(checkpoint):
            epoch, done = progress["place"]
            if not all(type(number) is int and number >= 0 for number in (epoch, done)):
                raise ValueError(f"its place in the texts is {epoch!r:.20}, {done!r:.20}")
        self._begin_at(Place(epoch, done))

    def _last_checkpoint(self) -> str:
        there = checkpoints_of(self.out)
        if not there:
            return "There is no checkpoint yet."
        return f"The last checkpoint is {there[-1]}: in a new directory, --model goes on from it with other settings."

    def _held_out(self, files: Sequence[Path], max_length: int) -> list[dict[str, Any]]:
        """Batches of what was held out, or of a part of it that does not take long.

        Raises:
            ValueError: it is so little that no token of it is hidden.
        """
        setting = self.setting
        sequences = sequences_of(documents(files, setting.hold_out_every, held_out=True), self.tokenizer, max_length)
        generator = np.random.default_rng([setting.seed, HELD_OUT_SEED])
        batches: list[dict[str, Any]] = []
        left, tokens = len(sequences.ends) - 1, 0
        for rows, _ in self._rows_of_batches(sequences, Place()):
            batches.append(self.masker.batch(sequences, rows[:left], generator))  # each sequence once
            left -= min(left, len(rows))
            tokens += int(batches[-1]["attention_mask"].sum())
            if left == 0 or tokens >= MOST_HELD_OUT_TOKENS:
                break
        measured = [batch for batch in batches if (batch["labels"] != IGNORED_LABEL).any()]
        if not measured:
            raise ValueError("What is held out is too little to measure on: no token of it was hidden; hold out more.")
        return measured

    def _held_out_loss(self) -> float:
        """The mean over all labels."""
        numbers = [self.model.number_of_labels(**batch) for batch in self.held_out]
        losses = [float(self.model.loss(**batch)) for batch in self.held_out]
        return float(np.average(losses, weights=numbers))


@contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """Keep other processes out of the directory.

    Raises:
        ValueError: one is at work there.
    """
    lock = FileLock(out / LOCK_FILE)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise ValueError(f"Another process is at work in {out}; wait for it, or choose another directory.") from error
    with lock:
        yield


def _checksum_of_vocabulary(path: Path) -> int:
    """Of the file, or of those files of a directory from which its vocabulary may be read."""
    files = [path] if not path.is_dir() else [path / name for name in VOCABULARY_FILES]
    return sum(checksum(file) for file in files if file.exists() or file == path)


def _is_begun(out: Path, asked: dict[str, Any]) -> bool:
    """Whether the directory is this run's already; otherwise it may become so.

    Raises:
        ValueError: it is another run's, or holds something else.
        OSError: it is a file, or cannot be read.
    """
    record = out / RUN_FILE
    if not record.exists():
        if out.exists() and not all(path.name == LOCK_FILE or is_remains(path) for path in out.iterdir()):
            raise ValueError(f"{out} is not empty, and holds no run to go on with; choose a new directory.")
        return False
    try:
        there = dict(json.loads(record.read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{record} is damaged ({error}); choose a new directory.") from error
    there.setdefault("precision", "float32")  # which runs were in before there was a choice
    for name, value in asked.items():
        if there.get(name) != value:
            raise ValueError(
                f"{out} holds another run: its {name} is {there.get(name)!r:.200}, and not {value!r}; choose another "
                "directory, or ask for the same."
            )
    return True


def _claim(out: Path, asked: dict[str, Any], tokenizer: XLMRobertaTokenizer) -> None:
    """Make the directory this run's, unless it is already."""
    if not (out / RUN_FILE).exists():
        remove_remains(out)  # of a process that was killed right here
        with replacing(out / RUN_FILE) as beside:
            beside.write_text(json.dumps(asked, indent=2) + "\n", encoding="utf-8")
    if not (out / MODEL_FILE).exists():
        tokenizer.save_vocabulary(out)


def _finished(out: Path, dtype: str, num_threads: int | None) -> XLMRobertaForMaskedLM | None:
    """The model of a run that has come to its end, unless it is still to be saved in this type.

    Raises:
        ValueError: it cannot be, as there is no checkpoint any more.
    """
    if not (out / CONFIG_FILE).exists():  # the last file that is written
        return None
    try:
        trained: XLMRobertaForMaskedLM = XLMRobertaForMaskedLM.from_pretrained(out, num_threads=num_threads)
    except CheckpointError:
        if checkpoints_of(out):  # from which it can be saved again
            return None
        raise
    if trained.dtype == dtype_from_name(dtype):
        return trained
    if not checkpoints_of(out):
        raise ValueError(f"{out} has the finished model in {trained.dtype}, and no checkpoint to make {dtype} from.")
    return None


def _resumed(
    checkpoint: Path,
    files: Sequence[Path],
    out: Path,
    setting: PretrainingSetting,
    num_threads: int | None,
    device: str,
) -> PretrainingRun:
    """A run as it was at a checkpoint of it.

    Raises:
        CheckpointError: the checkpoint is damaged.
    """
    model = load_model(checkpoint, XLMRobertaForMaskedLM, num_threads, device)
    with reading(checkpoint):
        tokenizer = XLMRobertaTokenizer.from_pretrained(checkpoint)
    run = PretrainingRun(files, out, setting, tokenizer, model)
    run.restore(checkpoint)
    return run


def _new_run(
    files: Sequence[Path],
    out: Path,
    setting: PretrainingSetting,
    shape: ModelShape,
    model: str | os.PathLike[str] | None,
    vocabulary: Path | None,
    num_threads: int | None,
    device: str,
) -> PretrainingRun:
    """A run before its first step.

    Raises:
        ValueError: the vocabulary does not fit the model, or there is no text.
        OSError: a file cannot be read, or is damaged.
    """
    tokenizer = _tokenizer(files, out, setting, shape, model, vocabulary)
    begun = _new(model, shape, setting, tokenizer, num_threads, device)
    if model is not None and vocabulary is not None and len(tokenizer) < begun.config.vocab_size:
        raise ValueError(
            f"The vocabulary has {len(tokenizer):,} tokens, and the model has {begun.config.vocab_size:,}; give none "
            "to use the model's own."
        )
    return PretrainingRun(files, out, setting, tokenizer, begun)


def _tokenizer(
    files: Sequence[Path],
    out: Path,
    setting: PretrainingSetting,
    shape: ModelShape,
    model: str | os.PathLike[str] | None,
    vocabulary: Path | None,
) -> XLMRobertaTokenizer:
    if vocabulary is None and model is not None:
        return XLMRobertaTokenizer.from_pretrained(model)
    if vocabulary is None and not (out / MODEL_FILE).exists():
        with tempfile.TemporaryDirectory() as directory:
            trained = Path(directory, MODEL_FILE)
            train_vocabulary(documents(files, setting.hold_out_every), trained, shape.pieces, shape.character_coverage)
            return XLMRobertaTokenizer(trained)
    path = vocabulary or out / MODEL_FILE
    return XLMRobertaTokenizer.from_pretrained(path) if path.is_dir() else XLMRobertaTokenizer(path)


def _new(
    model: str | os.PathLike[str] | None,
    shape: ModelShape,
    setting: PretrainingSetting,
    tokenizer: XLMRobertaTokenizer,
    num_threads: int | None,
    device: str,
) -> XLMRobertaForMaskedLM:
    """The model before the first step."""
    generator = np.random.default_rng([setting.seed, NEW_MODEL_SEED])
    if model is not None:
        loaded: XLMRobertaForMaskedLM = XLMRobertaForMaskedLM.from_pretrained(
            model, num_threads=num_threads, device=device, generator=generator
        )
        loaded.config.hidden_dropout_prob = loaded.config.attention_probs_dropout_prob = setting.dropout
        return loaded
    config = XLMRobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.feed_forward,
        max_position_embeddings=shape.max_length + tokenizer.pad_token_id + 1,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        hidden_dropout_prob=setting.dropout,
        attention_probs_dropout_prob=setting.dropout,
    )
    return XLMRobertaForMaskedLM(config, generator=generator, num_threads=num_threads).to(device)


def _check_fits(tokenizer: XLMRobertaTokenizer, config: XLMRobertaConfig) -> None:
    """Refuse a vocabulary that is not the model's.

    Raises:
        ValueError: it has more tokens, or another padding token.
    """
    if len(tokenizer) > config.vocab_size:
        raise ValueError(
            f"The vocabulary has {len(tokenizer):,} tokens, and the model has {config.vocab_size:,}; give the "
            "vocabulary that belongs to the model."
        )
    if config.pad_token_id != tokenizer.pad_token_id:
        raise ValueError(
            f"The vocabulary's padding token is {tokenizer.pad_token_id}, and the model's is {config.pad_token_id}; "
            "give a model in XLM-R's layout."
        )
