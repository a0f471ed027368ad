"""What may be chosen about a pretraining run: the shape of a new model, and how it is trained."""

import math
from typing import NamedTuple

from xlmr_np.training.adamw import AdamWSetting
from xlmr_np.training.masking import MaskingSetting
from xlmr_np.training.trainer import TrainingSetting
from xlmr_np.training.vocabulary_training import CHARACTER_COVERAGE, LEAST_CHARACTER_COVERAGE, LEAST_PIECES


class ModelShape(NamedTuple):
    """A new model.

    Attributes:
        pieces: of its vocabulary, if that is trained.
        character_coverage: see `train_vocabulary`.
        layers: of the encoder.
        hidden_size: of the hidden states.
        heads: of attention.
        feed_forward: width within the feed-forward sublayers.
        max_length: the most tokens of a sequence.
    """

    pieces: int = 10_000
    character_coverage: float = CHARACTER_COVERAGE
    layers: int = 4
    hidden_size: int = 256
    heads: int = 4
    feed_forward: int = 1024
    max_length: int = 256

    def check(self) -> "ModelShape":
        """The shape itself.

        Raises:
            ValueError: no model has it.
        """
        least = {"layers": 1, "hidden_size": 1, "heads": 1, "feed_forward": 1, "max_length": 3}  # <s>, a token, </s>
        for name, smallest in {"pieces": LEAST_PIECES, **least}.items():
            _check_whole_number(name, getattr(self, name), smallest)
        if not LEAST_CHARACTER_COVERAGE <= self.character_coverage <= 1.0:
            raise ValueError(
                f"character_coverage must be from {LEAST_CHARACTER_COVERAGE} to 1; it is {self.character_coverage!r}."
            )
        if self.hidden_size % self.heads:
            raise ValueError(f"hidden_size must be a multiple of heads; {self.hidden_size} is none of {self.heads}.")
        return self


class PretrainingSetting(NamedTuple):
    """How it is trained.

    Attributes:
        steps: updates in all.
        batch_tokens: the most tokens of a batch, `<s>` and `</s>` included.
        batches: how many make a step.
        learning_rate: the highest.
        schedule: a name in `SCHEDULES`.
        warmup: steps, or a share of all steps below 1.
        weight_decay: AdamW's.
        beta2: AdamW's; this and eps are those of RoBERTa (arXiv:1907.11692, section 2.4).
        eps: AdamW's.
        max_gradient_norm: to which gradients are clipped; infinity for never.
        dropout: of hidden states and attention.
        mlm_probability: the share of tokens that the model is to guess.
        whole_words: choose these word by word.
        label_smoothing: of the loss.
        hold_out_every: keep every line whose number is a multiple of this back to measure on; 0 keeps none.
        checkpoint_every: steps.
        seed: of all that is drawn.
        precision: what is computed in, see `TrainingSetting`; weights are in float32.
    """

    steps: int
    batch_tokens: int = 8192
    batches: int = 1
    learning_rate: float = 1e-3
    schedule: str = "linear"
    warmup: float = 0.06
    weight_decay: float = 0.01
    beta2: float = 0.98
    eps: float = 1e-6
    max_gradient_norm: float = 1.0
    dropout: float = 0.1
    mlm_probability: float = 0.15
    whole_words: bool = False
    label_smoothing: float = 0.0
    hold_out_every: int = 0
    checkpoint_every: int = 500
    seed: int = 0
    precision: str = "float32"

    def check(self) -> "PretrainingSetting":
        """The setting itself.

        Raises:
            ValueError: a number, the schedule or the precision makes no sense.
        """
        least = {"steps": 1, "batch_tokens": 1, "batches": 1, "checkpoint_every": 1, "hold_out_every": 0, "seed": 0}
        for name, smallest in least.items():
            _check_whole_number(name, getattr(self, name), smallest)
        for name, is_fine, wanted in (
            ("hold_out_every", self.hold_out_every != 1, "0 or at least 2, as 1 leaves nothing to learn from"),
            ("learning_rate", 0.0 < self.learning_rate < math.inf, "above 0"),
            ("warmup", 0.0 <= self.warmup < math.inf, "at least 0"),
            ("weight_decay", 0.0 <= self.weight_decay < math.inf, "at least 0"),
            ("beta2", 0.0 <= self.beta2 < 1.0, "from 0 to below 1"),
            ("eps", 0.0 < self.eps < math.inf, "above 0"),
            ("max_gradient_norm", self.max_gradient_norm > 0.0, "above 0"),
            ("dropout", 0.0 <= self.dropout < 1.0, "from 0 to below 1"),
            ("mlm_probability", 0.0 < self.mlm_probability <= 1.0, "above 0 and at most 1"),
        ):
            if not is_fine:
                raise ValueError(f"{name} must be {wanted}; it is {getattr(self, name)!r}.")
        self.for_trainer().check()
        return self

    def for_trainer(self) -> TrainingSetting:
        """What of it a trainer needs."""
        return TrainingSetting(
            self.steps,
            self.learning_rate,
            self.schedule,
            self.warmup,
            self.max_gradient_norm,
            AdamWSetting(beta2=self.beta2, eps=self.eps, weight_decay=self.weight_decay),
            label_smoothing=self.label_smoothing,
            precision=self.precision,
        )

    def for_masking(self) -> MaskingSetting:
        """What of it choosing tokens needs."""
        return MaskingSetting(self.mlm_probability)


def _check_whole_number(name: str, value: int, smallest: int) -> None:
    if type(value) is not int or value < smallest:
        raise ValueError(f"{name} must be a whole number of at least {smallest}; it is {value!r}.")
