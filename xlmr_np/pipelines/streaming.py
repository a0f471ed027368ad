"""Running any number of inputs through a model: by windows, sorted by length, answered in order."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

BATCHES_IN_WINDOW = 8  # so many batches of rows are sorted by length
PLACES_FOR_A_TOKEN = 8  # with padding; hidden states have places for all of it, though nothing is computed there

OnError = Callable[[int, Exception], Any]  # (number of an input, what is wrong with it) -> what stands for its answer


class Row(NamedTuple):
    """What a model reads at once: a text, a pair, or a part of one that is too long.

    Attributes:
        ids: its tokens, special ones included, without padding.
        kind: only rows of one kind are run together.
    """

    ids: Sequence[int]
    kind: Hashable = None


class Reading(Protocol):
    """An input as the model reads it; a task adds what it needs to make its answer."""

    @property
    def rows(self) -> Sequence[Row]:
        """What is run for it."""


class BatchLimits(NamedTuple):
    """How much is run at once.

    Attributes:
        rows: at most so many rows; None goes by `tokens`.
        tokens: at most so many tokens, though one row at least, and with padding at most eight times as many.
    """

    rows: int | None
    tokens: int

    def is_full(self, rows: int, tokens: int) -> bool:
        """Whether a batch of so much has reached its limit."""
        return tokens >= self.tokens if self.rows is None else rows >= self.rows

    @property
    def of_window(self) -> "BatchLimits":
        """How much is read before it is sorted; where rows are run one by one, there is nothing to sort."""
        if self.rows == 1:
            return self
        return BatchLimits(self.rows and self.rows * BATCHES_IN_WINDOW, self.tokens * BATCHES_IN_WINDOW)


class _Answered(NamedTuple):
    """What stands for an answer."""

    answer: Any


def streamed(
    inputs: Iterable[Any],
    read: Callable[[int, Any], Reading],
    compute: Callable[[list[Row]], Iterable[Any]],
    answer: Callable[[Any, list[Any]], Any],
    limits: BatchLimits,
    on_error: OnError | None = None,
) -> Iterator[Any]:
    """The answers to inputs in their order; no more than a window of them is held.

    What fails does so after everything before it has been answered.

    Args:
        inputs: of the task.
        read: (number from 1, input) -> its reading; raises ValueError or TypeError where that cannot be.
        compute: a batch of rows -> what the model says to each of them.
        answer: (reading, what the model says to its rows) -> the answer.
        limits: of a batch.
        on_error: takes what `read` raises; None raises it.

    Raises:
        ValueError, TypeError: as for `read`.
        Exception: what `inputs` or `on_error` raises.
    """
    source = enumerate(inputs, 1)
    is_over = False
    while not is_over:
        window: list[Any] = []
        failure: Exception | None = None
        rows = tokens = 0
        while not window or not limits.of_window.is_full(rows, tokens):
            try:
                number, value = next(source)
            except StopIteration:
                is_over = True
                break
            except Exception as error:  # of the inputs' own making
                failure = error
                break
            try:
                reading = _read(number, value, read, on_error)
            except Exception as error:  # of `read`, or of `on_error`
                failure = error
                break
            window.append(reading)
            of_reading = () if isinstance(reading, _Answered) else reading.rows
            rows += max(len(of_reading), 1)  # what has no rows is held, too
            tokens += max(sum(len(row.ids) for row in of_reading), 1)
        results = _run([each for each in window if not isinstance(each, _Answered)], compute, limits)
        for each in window:
            yield each.answer if isinstance(each, _Answered) else answer(each, next(results))
        if failure is not None:
            raise failure


def _read(number: int, value: Any, read: Callable[[int, Any], Reading], on_error: OnError | None) -> Any:
    """The reading of an input, or what stands for its answer."""
    try:
        return read(number, value)
    except (ValueError, TypeError) as error:
        if on_error is None:
            raise
        return _Answered(on_error(number, error))


def _run(
    readings: list[Any], compute: Callable[[list[Row]], Iterable[Any]], limits: BatchLimits
) -> Iterator[list[Any]]:
    """What the model says to the rows of each reading."""
    places = [(owner, place) for owner, reading in enumerate(readings) for place in range(len(reading.rows))]
    by_kind: dict[Hashable, list[tuple[int, int]]] = {}
    for owner, place in places:
        by_kind.setdefault(readings[owner].rows[place].kind, []).append((owner, place))
    results: list[list[Any]] = [[None] * len(reading.rows) for reading in readings]
    for of_kind in by_kind.values():
        of_kind.sort(key=lambda where: len(readings[where[0]].rows[where[1]].ids))
        for batch in _batches(of_kind, lambda where: len(readings[where[0]].rows[where[1]].ids), limits):
            computed = compute([readings[owner].rows[place] for owner, place in batch])
            for (owner, place), result in zip(batch, computed, strict=True):
                results[owner][place] = result
    return iter(results)


def _batches(
    rows: list[tuple[int, int]], length: Callable[[tuple[int, int]], int], limits: BatchLimits
) -> Iterator[list[tuple[int, int]]]:
    batch: list[tuple[int, int]] = []
    tokens = 0
    for place in rows:
        places = (len(batch) + 1) * length(place)  # this is the longest so far
        too_many = limits.rows is None and (
            tokens + length(place) > limits.tokens or places > PLACES_FOR_A_TOKEN * limits.tokens
        )
        if batch and (too_many or limits.is_full(len(batch), tokens)):
            yield batch
            batch, tokens = [], 0
        batch.append(place)
        tokens += length(place)
    if batch:
        yield batch
