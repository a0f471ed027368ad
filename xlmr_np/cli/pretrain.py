"""`xlmr-np pretrain`: a model of one's own, from text files."""

import argparse
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .source import add_device_argument
from .terminal import printable, warnings_at_once

if TYPE_CHECKING:
    from xlmr_np.training.pretraining import Progress

SUMMARY = "a new model from text files, or a model made at home in them"
DESCRIPTION = """\
Pretrains a model on text files with a document a line: some tokens of each are hidden, and the model learns to guess
them. Without --vocabulary a vocabulary is trained first. The same command goes on where it was stopped, with the same
losses as if it never had been (with as many threads as before, or on a GPU of the same kind). --out holds the log, the
curve of the loss, checkpoints, and at the end the model.

  xlmr-np pretrain texts/*.txt --out ./my-model --steps 20000
  xlmr-np pretrain laws.txt --model FacebookAI/xlm-roberta-base --out ./law-model --steps 2000 --learning-rate 5e-5
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes; the defaults are those of the records that the values go into."""
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a text file, a document a line")
    parser.add_argument("--out", type=Path, required=True, help="the directory of the run")
    parser.add_argument("--steps", type=int, required=True, help="how many updates in all")
    start = parser.add_argument_group("what to begin with")
    start.add_argument("--model", help="go on pretraining this one: a directory, or the id of a hub model")
    start.add_argument("--vocabulary", type=Path, help="a sentencepiece model, or a directory with a tokenizer")
    shape = parser.add_argument_group("a new model")
    shape.add_argument("--pieces", type=int, help="of a vocabulary that is trained (default: 10000)")
    shape.add_argument("--character-coverage", type=float, help="share of characters with pieces (default: 0.9995)")
    shape.add_argument("--layers", type=int, help="of the encoder (default: 4)")
    shape.add_argument("--hidden-size", type=int, help="of the hidden states (default: 256)")
    shape.add_argument("--heads", type=int, help="of attention (default: 4)")
    shape.add_argument("--feed-forward", type=int, help="width within the feed-forward layers (default: 1024)")
    shape.add_argument("--max-length", type=int, help="most tokens of a text; longer ones are cut up (default: 256)")
    way = parser.add_argument_group("how to train")
    way.add_argument("--batch-tokens", type=int, help="most tokens of a batch (default: 8192)")
    way.add_argument("--batches", type=int, help="batches that make a step (default: 1)")
    way.add_argument("--learning-rate", type=float, help="the highest (default: 1e-3)")
    way.add_argument("--schedule", choices=("linear", "cosine", "constant"), help="of the rate (default: linear)")
    way.add_argument("--warmup", type=float, help="steps, or a share of them below 1 (default: 0.06)")
    way.add_argument("--weight-decay", type=float, help="of the weights (default: 0.01)")
    way.add_argument("--max-gradient-norm", type=float, help="to which gradients are clipped (default: 1)")
    way.add_argument("--dropout", type=float, help="of hidden states and attention (default: 0.1)")
    way.add_argument("--mlm-probability", type=float, help="share of tokens to guess (default: 0.15)")
    way.add_argument("--whole-words", action="store_true", default=None, help="hide whole words")
    way.add_argument("--label-smoothing", type=float, help="of the loss (default: 0)")
    way.add_argument("--hold-out-every", type=int, metavar="N", help="keep every Nth line back, to measure on")
    way.add_argument("--checkpoint-every", type=int, metavar="N", help="steps (default: 500)")
    way.add_argument("--seed", type=int, help="of all that is drawn (default: 0)")
    way.add_argument(
        "--precision",
        choices=("float32", "float16", "bfloat16"),
        help="what is computed in on a GPU; weights are in float32 (default: float32)",
    )
    way.add_argument("--dtype", default="float32", help="of the weights that are saved at the end (default: float32)")
    add_device_argument(parser)


def run(options: argparse.Namespace) -> None:
    """Train, with a bar on standard error if that is a terminal."""
    from xlmr_np.training.pretraining import ModelShape, PretrainingSetting, pretrain

    given = {name: value for name, value in vars(options).items() if value is not None}
    setting = PretrainingSetting(**{name: given[name] for name in PretrainingSetting._fields if name in given})
    shape = {name: given[name] for name in ModelShape._fields if name in given}
    with _Bar() as bar, warnings_at_once(), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's, of numbers that overflow: the trainer says so itself
        pretrain(
            options.files,
            options.out,
            setting,
            ModelShape(**shape) if shape or options.model is None else None,
            model=options.model,
            vocabulary=options.vocabulary,
            dtype=options.dtype,
            num_threads=options.threads,
            device=options.device,
            report=bar,
        )
    before = "" if bar.has_moved else "; they had been taken before"
    print(printable(f"{options.out} has the model, after {setting.steps:,} steps{before}"))


class _Bar:
    """How far a run is, how low the loss, how many tokens a second, and how much time is left.

    Attributes:
        has_moved: whether there was a step.
    """

    def __init__(self) -> None:
        self.has_moved = False
        self._bar: Any = None
        self._loss = 0.0

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *error: object) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()

    def __call__(self, progress: "Progress") -> None:
        """Show it, if standard error is a terminal."""
        self.has_moved = True
        if not sys.stderr.isatty():
            return
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(total=progress.steps, initial=progress.step - 1, unit=" steps")
            self._loss = progress.loss
        self._loss += 0.05 * (progress.loss - self._loss)
        self._bar.set_postfix_str(f"loss {self._loss:.3f}, {progress.tokens / progress.seconds:,.0f} tokens/s", False)
        self._bar.update(1)
