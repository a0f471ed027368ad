"""What the pipelines of all tasks share: their settings, how they take inputs, and how texts become rows."""

import dataclasses
import difflib
import logging
import os
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from xlmr_np.arrays import Array, to_numpy
from xlmr_np.inputs import longest_sequence
from xlmr_np.pipelines.pairing import check_pair, is_empty_text
from xlmr_np.pipelines.streaming import BatchLimits, OnError, Reading, Row, streamed
from xlmr_np.progress import with_progress_bar
from xlmr_np.tokenizer import XLMRobertaTokenizer
from xlmr_np.tokenizer.arguments import checked_flag, whole_number
from xlmr_np.tokenizer.truncation import Limit, windows

logger = logging.getLogger("xlmr_np")

BATCH_TOKENS = 4096

Location = dict[str, Any]  # where a model is, as `xlmr_np.weights.files.locate` takes it

# What code written for the reference passes, and what changes nothing here: batches are never padded, and there is one
# implementation of everything.
MEANINGLESS_SETTINGS = ("padding", "num_workers", "framework", "use_fast", "trust_remote_code")


@dataclass(frozen=True, kw_only=True)
class RunSetting:
    """What may be asked of every task.

    Attributes:
        batch_size: how many rows (texts, pairs, or parts of long ones) are run together; None goes by `batch_tokens`.
        batch_tokens: how many tokens are run together.
        progress_bar: None shows one on a terminal, for lists, after a second; True always; False never.
        on_error: called with the number of an input that cannot be answered, from 1, and the error; what it returns
            stands in the place of the answer, and the rest goes on. None raises the error.
    """

    batch_size: int | None = None
    batch_tokens: int = BATCH_TOKENS
    progress_bar: bool | None = None
    on_error: OnError | None = None

    def __post_init__(self) -> None:
        if self.batch_size is not None:
            whole_number("batch_size", self.batch_size, minimum=1)
        whole_number("batch_tokens", self.batch_tokens, minimum=1)
        if self.progress_bar is not None:
            checked_flag("progress_bar", self.progress_bar)
        if self.on_error is not None and not callable(self.on_error):
            raise TypeError(f"on_error={self.on_error!r} cannot be called; give a function of a number and an error.")


@dataclass(frozen=True, kw_only=True)
class TruncationSetting(RunSetting):
    """What may be asked of tasks that read the beginning of texts that are too long.

    Attributes:
        truncation: cut what is longer than the model takes, with one warning a call; False makes it an error.
        max_length: cut to so many tokens, special ones included; None: as many as model and tokenizer allow.
    """

    truncation: bool = True
    max_length: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_flag("truncation", self.truncation)
        if self.max_length is not None:
            whole_number("max_length", self.max_length, minimum=1)


Setting = TypeVar("Setting", bound=RunSetting)


class TaskPipeline(ABC, Generic[Setting]):
    """A model and its tokenizer, and a task that they do on texts.

    A call takes an input and returns its answer; a list of inputs, and returns a list; or any other iterable, such as a
    generator or an open file, and returns an iterator that reads it by and by. What an input and its answer are, the
    task says.
    """

    setting_class: ClassVar[type[RunSetting]]
    input_name: ClassVar[str] = "Text"  # what messages call an input

    def __init__(self, model: Any, tokenizer: XLMRobertaTokenizer, **settings: Any) -> None:
        """Hold the model and the settings that calls may override.

        Args:
            model: of the task's class.
            tokenizer: its tokenizer.
            **settings: of `setting_class`.

        Raises:
            ValueError: model and tokenizer do not belong together, or a setting is out of its range.
            TypeError: a setting is unknown, or of another type.
        """
        check_pair(model, tokenizer)
        self.model = model
        self.tokenizer = tokenizer
        self.setting: Setting = self.setting_class(**known_settings(type(self), settings))  # type: ignore[assignment]

    def __call__(self, inputs: Any, **changes: Any) -> Any:
        """Answer one or many inputs.

        Args:
            inputs: one, a list of them, or any other iterable of them.
            **changes: settings of the pipeline that are others in this call.

        Raises:
            ValueError: an input cannot be answered, or a setting is out of its range.
            TypeError: an input is none, or a setting is unknown.
        """
        setting = self.changed(changes)
        if self.is_one(inputs):
            return next(self.answers([inputs], setting))
        if isinstance(inputs, bytes) or not isinstance(inputs, Iterable):
            raise TypeError(
                f"Give a {self.input_name.lower()}, or a list or another iterable of them; got {_kind(inputs)}."
            )
        answers = self.answers(inputs, setting)
        if not isinstance(inputs, list | tuple):
            return iter(with_progress_bar(answers, None, is_wanted=setting.progress_bar or False))
        return list(with_progress_bar(answers, len(inputs), is_wanted=setting.progress_bar))

    def answers(self, inputs: Iterable[Any], setting: Setting) -> Iterator[Any]:
        """The answers to inputs in their order, see `streamed`."""
        limits = BatchLimits(setting.batch_size, setting.batch_tokens)
        warned = WarnOnce()

        def read(number: int, value: Any) -> Reading:
            return self.read(number, value, setting, warned)

        def answer(reading: Any, results: list[Any]) -> Any:
            return self.answer(reading, results, setting)

        def compute(rows: list[Row]) -> Iterable[Any]:
            return self.compute(rows, setting)

        return streamed(inputs, read, compute, answer, limits, setting.on_error)

    def changed(self, changes: dict[str, Any]) -> Setting:
        """The pipeline's settings with those of a call in their place.

        Raises:
            ValueError, TypeError: as for the constructor.
        """
        return dataclasses.replace(self.setting, **known_settings(type(self), changes))

    def is_one(self, inputs: Any) -> bool:
        """Whether what a call was given is one input."""
        return isinstance(inputs, str | dict)

    @classmethod
    def setting_names(cls) -> Collection[str]:
        """The names of all settings."""
        return [each.name for each in dataclasses.fields(cls.setting_class)]

    @classmethod
    def from_checkpoint(cls, source: str | os.PathLike[str], location: Location) -> tuple[Location, dict[str, Any]]:
        """Where in a checkpoint the model and its tokenizer are, and what settings its other files make.

        Args:
            source: a directory or a hub id.
            location: arguments of `xlmr_np.weights.files.locate`.

        Raises:
            OSError: a file cannot be read.
            CheckpointError: a file is damaged, or asks for what is not supported.
        """
        return location, {}

    @abstractmethod
    def read(self, number: int, value: Any, setting: Setting, warned: "WarnOnce") -> Reading:
        """What the model reads of input `number`.

        Raises:
            ValueError: it cannot be answered.
            TypeError: it is no input.
        """

    @abstractmethod
    def compute(self, rows: list[Row], setting: Setting) -> Iterable[Any]:
        """What the model says to each of these rows."""

    @abstractmethod
    def answer(self, reading: Any, results: list[Any], setting: Setting) -> Any:
        """The answer to an input, given what the model says to its rows."""

    def name_of(self, number: int) -> str:
        """What messages call an input."""
        return f"{self.input_name} {number}"

    def longest(self, max_length: int | None = None) -> int:
        """How many tokens the model reads at once: as many as it can, its tokenizer says, and is asked for."""
        limits = (longest_sequence(self.model.config), self.tokenizer.model_max_length, max_length)
        return min(limit for limit in limits if limit is not None)

    def cut_row(
        self,
        name: str,
        texts: Sequence[str],
        setting: TruncationSetting,
        warned: "WarnOnce",
        strategy: str = "longest_first",
    ) -> Row:
        """A text, or a pair of texts, as a row; cut by that strategy if it is too long.

        Args:
            name: what messages call the input.
            texts: one or two, checked to be str.
            setting: whether it may be cut, and to what.
            warned: of this call.
            strategy: as for the tokenizer's `truncation`.

        Raises:
            ValueError: there is nothing to read in a text, or as for `row_of`.
        """
        return self.row_of(name, [self.tokens_of(name, text) for text in texts], setting, warned, strategy)

    def tokens_of(self, name: str, text: str) -> list[int]:
        """The ids of a text, without special tokens around it.

        Args:
            name: what messages call it.
            text: checked to be a str.

        Raises:
            ValueError: there is nothing to read in it.
        """
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
        self.check_has_tokens(name, text, ids)
        return ids

    def row_of(
        self,
        name: str,
        parts: Sequence[list[int]],
        setting: TruncationSetting,
        warned: "WarnOnce",
        strategy: str = "longest_first",
    ) -> Row:
        """The ids of a text, or of both texts of a pair, as a row: see `cut_row`, which makes it of texts.

        Raises:
            ValueError: it is too long and may not be cut, or what would be left of a text is nothing.
        """
        specials = self.tokenizer.num_special_tokens_to_add(pair=len(parts) == 2)
        length, limit = specials + sum(map(len, parts)), self.longest(setting.max_length)
        if length > limit:
            if not setting.truncation:
                raise ValueError(
                    f"{name} has {length} tokens, and at most {limit} are read: "
                    f"{reprlib.repr(self.tokenizer.decode(parts[0][:limit]))}; shorten it, or let it be cut."
                )
            least = specials + (1 + len(parts[1]) if strategy == "only_first" else len(parts))
            if least > limit:
                uncut = " and for the second text, which is not cut" if strategy == "only_first" else ""
                raise ValueError(
                    f"{name} cannot be cut to the {limit} tokens that are read: with one token of each text that is "
                    f"cut there are {least}, for the special tokens{uncut}; shorten it, or have more read (max_length)."
                )
            warned(
                "%s has %d tokens, of which %d are read, and so it is with others that are longer.",
                name, length, limit,
            )  # fmt: skip
            cut = Limit(limit - specials, strategy, 0, self.tokenizer.truncation_side, False, False)
            ((*kept,),) = windows([len(part) for part in parts], cut)
            parts = [part[start:stop] for part, (start, stop) in zip(parts, kept, strict=True)]
        return Row(self.tokenizer.build_inputs_with_special_tokens(*parts))

    def check_has_tokens(self, name: str, text: str, ids: Sequence[int]) -> None:
        """Refuse a text in which there is nothing to read (ValueError)."""
        if is_empty_text(self.tokenizer, text, ids):
            raise ValueError(f"{name} holds nothing to read: {reprlib.repr(text)}; give it words, or leave it out.")

    def forward(self, rows: list[Row]) -> tuple[Any, np.ndarray]:
        """The model's output for rows, padded on the right, and what of it is real [B, T]."""
        ids, is_real = padded([row.ids for row in rows], self.tokenizer.pad_token_id)
        output = self.model(
            ids, attention_mask=is_real, output_attentions=False, output_hidden_states=False, return_dict=True
        )
        return output, is_real


class WarnOnce:
    """Logs the first warning that it is given, and no other."""

    def __init__(self) -> None:
        self._has_warned = False

    def __call__(self, message: str, *arguments: Any) -> None:
        """Logs the message."""
        if not self._has_warned:
            self._has_warned = True
            logger.warning(message, *arguments)


def padded(rows: Sequence[Sequence[int]], pad_token_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of ids as an array [B, T], padded on the right, and where it is no padding."""
    lengths = np.array([len(row) for row in rows])
    is_real = np.arange(lengths.max()) < lengths[:, None]
    ids = np.full(is_real.shape, pad_token_id)
    ids[is_real] = np.concatenate([np.asarray(row) for row in rows])
    return ids, is_real


def finite(output: Array, name: str = "logits") -> np.ndarray:
    """Logits or other output of a model on the host, in float32 at least.

    Raises:
        ValueError: a number is not finite; the message calls the output by its name.
    """
    array = to_numpy(output)
    array = array.astype(np.result_type(array.dtype, np.float32), copy=False)
    if not np.isfinite(array).all():
        raise ValueError(f"The model's {name} are not finite numbers: its weights are damaged.")
    return array


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """A probability for each number; both forms are the same, and neither overflows where it is used."""
    powers = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1 / (1 + powers), powers / (1 + powers))


def known_settings(pipeline_class: type[TaskPipeline[Any]], settings: dict[str, Any]) -> dict[str, Any]:
    """Settings without those that change nothing here.

    Raises:
        TypeError: one is unknown.
    """
    hint = f"{pipeline_class.setting_class.__name__} says what there is"
    return checked_names(pipeline_class.__name__, settings, pipeline_class.setting_names(), hint)


def checked_names(owner: str, settings: dict[str, Any], known: Collection[str], hint: str) -> dict[str, Any]:
    """Settings without those that change nothing here.

    Raises:
        TypeError: one is not among the known ones; the message ends with the hint.
    """
    kept = {name: value for name, value in settings.items() if name not in MEANINGLESS_SETTINGS}
    for unknown in sorted(kept.keys() - set(known))[:1]:
        near = difflib.get_close_matches(unknown, known, n=1)
        proposal = f" (did you mean {near[0]}?)" if near else ""
        raise TypeError(f"{owner} has no setting {unknown}{proposal}; {hint}.")
    return kept


def _kind(value: Any) -> str:
    return type(value).__name__
