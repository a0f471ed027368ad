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


class _Waiting(NamedTuple):
    """A row, and where what the model says to it is to be put."""

    row: Row
    results: list[Any]
    place: int

    @property
    def length(self) -> int:
        """Of the row, in tokens."""
        return len(self.row.ids)


def _run(
    readings: list[Any], compute: Callable[[list[Row]], Iterable[Any]], limits: BatchLimits
) -> Iterator[list[Any]]:
    """What the model says to the rows of each reading."""
    results: list[list[Any]] = [[None] * len(reading.rows) for reading in readings]
    by_kind: dict[Hashable, list[_Waiting]] = {}
    for reading, own in zip(readings, results, strict=True):
        for place, row in enumerate(reading.rows):
            by_kind.setdefault(row.kind, []).append(_Waiting(row, own, place))
    for of_kind in by_kind.values():
        of_kind.sort(key=lambda waiting: waiting.length)
        for batch in _batches(of_kind, limits):
            for waiting, result in zip(batch, compute([each.row for each in batch]), strict=True):
                waiting.results[waiting.place] = result
    return iter(results)


def _batches(sorted_rows: list[_Waiting], limits: BatchLimits) -> Iterator[list[_Waiting]]:
    """Batches of rows, the shortest first."""
    batch: list[_Waiting] = []
    tokens = 0
    for waiting in sorted_rows:
        places = (len(batch) + 1) * waiting.length  # this is the longest so far
        too_many = limits.rows is None and (
            tokens + waiting.length > limits.tokens or places > PLACES_FOR_A_TOKEN * limits.tokens
        )
        if batch and (too_many or limits.is_full(len(batch), tokens)):
            yield batch
            batch, tokens = [], 0
        batch.append(waiting)
        tokens += waiting.length
    if batch:
        yield batch
