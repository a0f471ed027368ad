"""When a text ends: each criterion looks at the tokens so far and says which rows are finished."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int

from xlmr_np.decoding.generation_config import GenerationConfig
from xlmr_np.decoding.processors import checked_callable, name_of, unchangeable

StoppingFunction = Callable[[np.ndarray, Any], Any]


@runtime_checkable
class Criterion(Protocol):
    """Says which rows are finished."""

    def __call__(self, ids: Int[np.ndarray, "B T"], scores: Any) -> Bool[np.ndarray, " B"]:
        """True for rows that end here.

        Args:
            ids: the tokens so far, prompt and padding included, and at least one new token.
            scores: what the loop has kept of the scores; only a user's function looks at it.
        """


def is_finished(criteria: Iterable[Criterion], ids: Int[np.ndarray, "B T"], scores: Any) -> Bool[np.ndarray, " B"]:
    """Which rows any of the criteria ends."""
    finished = np.zeros(len(ids), bool)
    for criterion in criteria:
        finished = finished | criterion(ids, scores)
    return finished


@dataclass(frozen=True)
class MaxLength:
    """Ends all rows when they have `length` tokens, prompt and padding included."""

    length: int

    def __call__(self, ids: Int[np.ndarray, "B T"], scores: Any) -> Bool[np.ndarray, " B"]:
        """As `Criterion` says."""
        return np.full(len(ids), ids.shape[1] >= self.length)


@dataclass(frozen=True)
class MaxTime:
    """Ends all rows when more than `seconds` have passed since `start`, which is when this was made."""

    seconds: float
    start: float = field(default_factory=time.monotonic)

    def __call__(self, ids: Int[np.ndarray, "B T"], scores: Any) -> Bool[np.ndarray, " B"]:
        """As `Criterion` says."""
        return np.full(len(ids), time.monotonic() - self.start > self.seconds)


@dataclass(frozen=True)
class StopStrings:
    """Ends rows in whose text a stop string has just become complete.

    It may begin and end within a token, but the last token must have a part in it: a stop string in the prompt ends
    nothing. Special tokens count as they are written.

    Attributes:
        strings: none of them empty.
        tokenizer: has `convert_ids_to_tokens`, `convert_tokens_to_string` and a length.
    """

    strings: tuple[str, ...]
    tokenizer: Any

    def __call__(self, ids: Int[np.ndarray, "B T"], scores: Any) -> Bool[np.ndarray, " B"]:
        """As `Criterion` says."""
        longest = max(map(len, self.strings))  # and not more tokens, as each has a character or more
        return np.array([self._ends(row[-longest:]) for row in ids], bool)

    def _ends(self, tail: Int[np.ndarray, " T"]) -> bool:
        unknown = np.flatnonzero(tail >= len(self.tokenizer))  # as of a model whose table has rows to spare
        if unknown.size:
            tail = tail[unknown[-1] + 1 :]
        if tail.size == 0:
            return False
        text, last = self._text(tail), self._text(tail[-1:])
        return any(text.find(string, max(len(text) - len(last) - len(string) + 1, 0)) >= 0 for string in self.strings)

    def _text(self, ids: Int[np.ndarray, " T"]) -> str:
        """What tokens spell within a text; at its beginning, a space before the first one would be dropped."""
        tokens = self.tokenizer.convert_ids_to_tokens(ids.tolist())
        return str(self.tokenizer.convert_tokens_to_string(["a", *tokens]))[1:]


@dataclass(frozen=True)
class EndTokens:
    """Ends rows whose last token is one of these."""

    token_ids: tuple[int, ...]

    def __call__(self, ids: Int[np.ndarray, "B T"], scores: Any) -> Bool[np.ndarray, " B"]:
        """As `Criterion` says."""
        return np.isin(ids[:, -1], self.token_ids)


@dataclass(frozen=True)
class Custom:
    """A user's function of the tokens so far [B, T], which it cannot change, and of the scores.

    Attributes:
        function: returns a boolean for all rows, or one for each [B].
    """

    function: StoppingFunction

    def __call__(self, ids: Int[np.ndarray, "B T"], scores: Any) -> Bool[np.ndarray, " B"]:
        """As `Criterion` says."""
        answer = np.asarray(self.function(unchangeable(ids), scores))
        if answer.dtype != bool or answer.shape not in ((), (len(ids),)):
            raise ValueError(
                f"The stopping criterion {name_of(self.function)} must return a boolean, or one for each of "
                f"{len(ids)} rows; it returned {answer.dtype} of shape {answer.shape}."
            )
        return np.broadcast_to(answer, (len(ids),))


def stopping_for(
    config: GenerationConfig,
    prompt_length: int,
    eos_ids: Sequence[int],
    tokenizer: Any = None,
    custom: Iterable[Any] = (),
) -> list[Criterion]:
    """The criteria that a config asks for; the time of `max_time` begins now.

    Args:
        config: what is asked for.
        prompt_length: tokens of the prompt, padding included.
        eos_ids: the tokens that end a text.
        tokenizer: needed for stop strings.
        custom: functions of `(ids [B, T], scores)` that return a boolean, or one for each row.

    Raises:
        ValueError: the greatest length leaves no token to generate, or there are stop strings but no tokenizer.
        TypeError: a custom criterion cannot be called.
    """
    result: list[Criterion] = [MaxLength(config.lengths(prompt_length)[1])]
    if config.max_time is not None:
        result.append(MaxTime(config.max_time))
    if config.stop_strings is not None:
        if tokenizer is None:
            raise ValueError(f"stop_strings={config.stop_strings!r} are found in the text; pass tokenizer= too.")
        strings = [config.stop_strings] if isinstance(config.stop_strings, str) else config.stop_strings
        result.append(StopStrings(tuple(strings), tokenizer))
    if eos_ids:
        result.append(EndTokens(tuple(eos_ids)))
    return [*result, *(Custom(checked_callable("stopping_criteria", each)) for each in custom)]
