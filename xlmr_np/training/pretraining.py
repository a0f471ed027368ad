"""Masked-language-model pretraining from text files: one directory, one run, which goes on where it was stopped.

The directory of a run holds

    run.json                   what was asked for; a run that asks for something else needs another directory
    sentencepiece.bpe.model    the vocabulary
    log.jsonl                  a line for each step
    loss.svg                   the curve of it
    checkpoint-N/              a model, and what is needed to go on from step N
    config.json, model.safetensors, tokenizer files     the model, at the end
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xlmr_np.config import XLMRobertaConfig
from xlmr_np.models.language_models import XLMRobertaForMaskedLM
from xlmr_np.tokenizer import XLMRobertaTokenizer
from xlmr_np.tokenizer.files import MODEL_FILE
from xlmr_np.training.adamw import AdamWSetting
from xlmr_np.training.batches import Masker, Place, rows_of_batches, sequences_of
from xlmr_np.training.checkpoints import checkpoints_of, remove_remains, restore_checkpoint, save_checkpoint
from xlmr_np.training.corpus import documents
from xlmr_np.training.masking import MaskingSetting
from xlmr_np.training.run_log import RunLog
from xlmr_np.training.trainer import Trainer, TrainingSetting
from xlmr_np.training.vocabulary_training import CHARACTER_COVERAGE, train_vocabulary
from xlmr_np.weights.errors import CheckpointError
from xlmr_np.weights.saving import replacing

RUN_FILE = "run.json"
CHECKPOINTS_KEPT = 2  # so that there is one if the last is damaged
NEW_MODEL_SEED, HELD_OUT_SEED = 1, 2  # beside the run's own, for what is drawn once
MOST_HELD_OUT_TOKENS = 200_000  # that are measured on at each checkpoint


class ModelShape(NamedTuple):
    """A new model.

    Attributes:
        pieces: of its vocabulary, if that is trained.
        character_coverage: see `train_vocabulary`.
        layers: of the encoder.
        width: of the hidden states.
        heads: of attention.
        feed_forward: width within the feed-forward sublayers.
        max_length: the most tokens of a sequence.
    """

    pieces: int = 10_000
    character_coverage: float = CHARACTER_COVERAGE
    layers: int = 4
    width: int = 256
    heads: int = 4
    feed_forward: int = 1024
    max_length: int = 256


class PretrainingSetting(NamedTuple):
    """How it is trained.

    Attributes:
        steps: updates in all.
        batch_tokens: the most tokens of a batch, `<s>` and `</s>` included.
        batches: how many make a step.
        learning_rate: the highest.
        schedule: a name in `SCHEDULES`.
        warmup: steps, or a share of all steps below 1.
        decay: AdamW's.
        beta2: AdamW's; this and eps are those of RoBERTa (arXiv:1907.11692, section 2.4).
        eps: AdamW's.
        max_gradient_norm: to which gradients are clipped.
        dropout: of hidden states and attention.
        masked: the share of tokens that the model is to guess.
        whole_words: choose these word by word.
        label_smoothing: of the loss.
        hold_out_every: keep every line whose number is a multiple of this back to measure on; 0 keeps none.
        checkpoint_every: steps.
        seed: of all that is drawn.
    """

    steps: int
    batch_tokens: int = 8192
    batches: int = 1
    learning_rate: float = 1e-3
    schedule: str = "linear"
    warmup: float = 0.06
    decay: float = 0.01
    beta2: float = 0.98
    eps: float = 1e-6
    max_gradient_norm: float = 1.0
    dropout: float = 0.1
    masked: float = 0.15
    whole_words: bool = False
    label_smoothing: float = 0.0
    hold_out_every: int = 0
    checkpoint_every: int = 500
    seed: int = 0


class Progress(NamedTuple):
    """How far a run is, after a step."""

    step: int
    steps: int
    loss: float
    tokens: int  # of this step
    seconds: float  # that it took


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
    report: Callable[[Progress], None] = lambda progress: None,
) -> XLMRobertaForMaskedLM:
    """Pretrain a model, or go on where the same run was stopped.

    Args:
        files: text files with a document a line.
        out: the directory of the run.
        setting: see there.
        shape: of a new model; None is the default one, or that of `model`.
        model: a directory or hub id of a model to go on pretraining.
        vocabulary: a sentencepiece model, or a directory with a tokenizer; None trains one, or takes that of `model`.
        dtype: of the weights that are saved at the end; checkpoints have all digits.
        num_threads: see `XLMRobertaPreTrainedModel.set_num_threads`.
        report: is told of every step.

    Returns:
        The model at the end.

    Raises:
        ValueError: the directory holds another run, the vocabulary does not fit the model, a setting makes no sense,
            or there is no text.
        FloatingPointError: the loss or gradient of a step is not finite.
        OSError: a file cannot be read or written, or is damaged.
    """
    if model is not None and shape is not None:
        raise ValueError("A model that is loaded has its own shape; give a shape or a model, and not both.")
    shape = shape or ModelShape()
    asked = {"model": None if model is None else os.fspath(model), "shape": shape._asdict(), **setting._asdict()}
    _claim(out, json.loads(json.dumps(asked)))
    tokenizer = _tokenizer(files, out, setting, shape, model, vocabulary)
    checkpoints = checkpoints_of(out)
    if checkpoints:
        begun = _loaded(checkpoints[-1], checkpoints[:-1], num_threads)
    else:
        begun = _new(model, shape, setting, tokenizer, num_threads)
    run = PretrainingRun(files, out, setting, tokenizer, begun)
    if checkpoints:
        run.restore(checkpoints[-1])
    while not run.is_done:
        report(run.step())
        if run.is_done or run.trainer.optimizer.steps % setting.checkpoint_every == 0:
            run.save()
    trained = XLMRobertaForMaskedLM.from_pretrained(checkpoints_of(out)[-1], dtype=dtype, num_threads=num_threads)
    trained.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return trained


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
        if len(tokenizer) > model.config.vocab_size:
            raise ValueError(
                f"The vocabulary has {len(tokenizer):,} tokens, and the model {model.config.vocab_size:,}; give the "
                "vocabulary that belongs to the model."
            )
        self.out, self.setting, self.tokenizer = out, setting, tokenizer
        max_length = model.config.max_position_embeddings - tokenizer.pad_token_id - 1
        tokenizer.model_max_length = None  # longer documents are cut up
        self.sequences = sequences_of(documents(files, setting.hold_out_every), tokenizer, max_length)
        self.masker = Masker(tokenizer, MaskingSetting(setting.masked), setting.whole_words)
        self.held_out = self._held_out(files, max_length) if setting.hold_out_every else []
        tokenizer.model_max_length = max_length
        self.model, self.generator = model, np.random.default_rng(setting.seed)
        self.trainer = Trainer(model, _training_setting(setting), self.generator)
        self.place = Place()
        self._begin_at(self.place)

    def _begin_at(self, place: Place) -> None:
        self.place = place
        self._batches = rows_of_batches(self.sequences, self.setting.batch_tokens, self.setting.seed, place)
        self.log = RunLog(self.out, self.trainer.optimizer.steps)

    @property
    def is_done(self) -> bool:
        """Whether all steps have been taken."""
        return self.trainer.optimizer.steps >= self.setting.steps

    def step(self) -> Progress:
        """One update.

        Raises:
            FloatingPointError: the loss or gradient is not finite.
        """
        begun = time.perf_counter()
        parts = []
        for _ in range(self.setting.batches):
            rows, self.place = next(self._batches)
            parts.append(self.masker.batch(self.sequences, rows, self.generator))
        try:
            done = self.trainer.step(*parts)
        except FloatingPointError as error:
            there = checkpoints_of(self.out)
            kept = f"The last checkpoint is {there[-1]}." if there else "There is no checkpoint yet."
            raise FloatingPointError(f"{error} {kept}") from error
        step, tokens = self.trainer.optimizer.steps, sum(int(part["attention_mask"].sum()) for part in parts)
        seconds = time.perf_counter() - begun
        self.log.write(step=step, **done._asdict(), tokens=tokens, seconds=round(seconds, 3))
        return Progress(step, self.setting.steps, done.loss, tokens, seconds)

    def save(self) -> None:
        """Measure on what was held out, write a checkpoint, and draw the curve.

        Raises:
            OSError: it cannot be written; the checkpoints before are as they were.
        """
        if self.held_out:
            loss = round(self._held_out_loss(), 6)
            self.log.write(step=self.trainer.optimizer.steps, held_out_loss=loss)
        progress = {"place": self.place, "checksum": self.sequences.checksum}
        save_checkpoint(self.out, self.trainer, self.tokenizer, progress, CHECKPOINTS_KEPT)
        self.log.draw()

    def restore(self, checkpoint: Path) -> None:
        """Go on from a checkpoint whose model this run's is.

        Raises:
            CheckpointError: it is damaged.
            ValueError: it was trained on other texts, or with another vocabulary.
        """
        progress = restore_checkpoint(checkpoint, self.trainer)
        if progress["checksum"] != self.sequences.checksum:
            raise ValueError(
                f"The texts or the vocabulary are not those that {self.out} was begun with; choose another directory."
            )
        self._begin_at(Place(*progress["place"]))

    def _held_out(self, files: Sequence[Path], max_length: int) -> list[dict[str, Any]]:
        """Batches of what was held out, or of a part of it that does not take long."""
        setting = self.setting
        sequences = sequences_of(documents(files, setting.hold_out_every, held_out=True), self.tokenizer, max_length)
        generator = np.random.default_rng([setting.seed, HELD_OUT_SEED])
        batches = []
        tokens = 0
        for rows, place in rows_of_batches(sequences, setting.batch_tokens, setting.seed, Place()):
            batches.append(self.masker.batch(sequences, rows, generator))
            tokens += int(batches[-1]["attention_mask"].sum())
            if place.epoch > 0 or tokens >= MOST_HELD_OUT_TOKENS:
                return batches
        return batches

    def _held_out_loss(self) -> float:
        """The mean over all labels."""
        numbers = [self.model.number_of_labels(**batch) for batch in self.held_out]
        losses = [float(self.model.loss(**batch)) for batch in self.held_out]
        return float(np.average(losses, weights=numbers))


def _claim(out: Path, asked: dict[str, Any]) -> None:
    """Make the directory this run's, unless it is already.

    Raises:
        ValueError: it is another run's, or holds something else.
    """
    record = out / RUN_FILE
    if not record.exists():
        if out.exists() and any(out.iterdir()):
            raise ValueError(f"{out} is not empty, and holds no run to go on with; choose a new directory.")
        out.mkdir(parents=True, exist_ok=True)
        with replacing(record) as beside:
            beside.write_text(json.dumps(asked, indent=2) + "\n", encoding="utf-8")
        return
    try:
        there = json.loads(record.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{record} is damaged ({error}); choose a new directory.") from error
    for name, value in asked.items():
        if there.get(name) != value:
            raise ValueError(
                f"{out} holds another run: its {name} is {there.get(name)!r}, and not {value!r}; choose another "
                "directory, or ask for the same."
            )
    remove_remains(out)


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
    if vocabulary is None:
        vocabulary = out / MODEL_FILE
        if not vocabulary.exists():
            train_vocabulary(
                documents(files, setting.hold_out_every), vocabulary, shape.pieces, shape.character_coverage
            )
    return XLMRobertaTokenizer.from_pretrained(vocabulary) if vocabulary.is_dir() else XLMRobertaTokenizer(vocabulary)


def _new(
    model: str | os.PathLike[str] | None,
    shape: ModelShape,
    setting: PretrainingSetting,
    tokenizer: XLMRobertaTokenizer,
    num_threads: int | None,
) -> XLMRobertaForMaskedLM:
    """The model before the first step."""
    if model is not None:
        loaded: XLMRobertaForMaskedLM = XLMRobertaForMaskedLM.from_pretrained(model, num_threads=num_threads)
        loaded.config.hidden_dropout_prob = loaded.config.attention_probs_dropout_prob = setting.dropout
        return loaded
    config = XLMRobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.feed_forward,
        max_position_embeddings=shape.max_length + tokenizer.pad_token_id + 1,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        hidden_dropout_prob=setting.dropout,
        attention_probs_dropout_prob=setting.dropout,
    )
    generator = np.random.default_rng([setting.seed, NEW_MODEL_SEED])
    return XLMRobertaForMaskedLM(config, generator=generator, num_threads=num_threads)


def _loaded(checkpoint: Path, earlier: Sequence[Path], num_threads: int | None) -> XLMRobertaForMaskedLM:
    try:
        return XLMRobertaForMaskedLM.from_pretrained(checkpoint, num_threads=num_threads)
    except (OSError, ValueError) as error:
        before = f"go on from {earlier[-1].name}" if earlier else "begin again"
        raise CheckpointError(f"The checkpoint {checkpoint} is damaged: {error} Remove it to {before}.") from error


def _training_setting(setting: PretrainingSetting) -> TrainingSetting:
    return TrainingSetting(
        setting.steps,
        setting.learning_rate,
        setting.schedule,
        setting.warmup,
        setting.max_gradient_norm,
        AdamWSetting(beta2=setting.beta2, eps=setting.eps, decay=setting.decay),
        label_smoothing=setting.label_smoothing,
    )
