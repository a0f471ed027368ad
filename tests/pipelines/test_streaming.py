"""The stream that all pipelines share: order, windows, bounded memory, batches, and what becomes of errors."""

import itertools
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.pipelines.saved_models import LONGEST, save_model
from xlmr_np import pipeline
from xlmr_np.pipelines.base import TaskPipeline, padded
from xlmr_np.pipelines.streaming import BATCHES_IN_WINDOW, BatchLimits, Row, streamed

LENGTHS = st.lists(st.lists(st.integers(1, 9), max_size=4), max_size=40)
LIMITS = st.builds(BatchLimits, st.one_of(st.none(), st.integers(1, 5)), st.integers(1, 30))


class Parts(NamedTuple):
    """An input as a list of rows."""

    rows: tuple[Row, ...]


class Machine:
    """Reads lists of lengths as rows of so many equal tokens, and notes what is run together."""

    def __init__(self) -> None:
        self.batches: list[list[Row]] = []

    def read(self, number: int, value: Any) -> Parts:
        if not isinstance(value, list):
            raise ValueError(f"input {number} is {value}")
        return Parts(tuple(Row([number] * length, length % 2) for length in value))

    def compute(self, rows: list[Row]) -> Iterable[tuple[int, int]]:
        self.batches.append(rows)
        return [(row.ids[0], len(row.ids)) for row in rows]

    def answer(self, reading: Any, results: list[Any]) -> list[int]:
        assert len({number for number, _ in results}) <= 1  # an input's results are its own
        return [length for _, length in results]

    def answers(self, inputs: Iterable[Any], limits: BatchLimits, on_error: Any = None) -> Iterator[Any]:
        return streamed(inputs, self.read, self.compute, self.answer, limits, on_error)


class Counted:
    """An iterable that knows how far it was read."""

    def __init__(self, values: Iterable[Any]) -> None:
        self.values = values
        self.number = 0

    def __iter__(self) -> Iterator[Any]:
        for value in self.values:
            self.number += 1
            yield value


# --- order and batches ---


@given(LENGTHS, LIMITS)
def test_answers_come_in_order_whatever_the_batches(inputs: list[list[int]], limits: BatchLimits) -> None:
    assert list(Machine().answers(inputs, limits)) == inputs


@given(LENGTHS, LIMITS)
def test_batches_keep_their_limits_and_hold_one_kind(inputs: list[list[int]], limits: BatchLimits) -> None:
    machine = Machine()
    list(machine.answers(inputs, limits))
    for batch in machine.batches:
        assert len({row.kind for row in batch}) == 1
        if limits.rows is not None:
            assert len(batch) <= limits.rows
        else:
            assert len(batch) == 1 or sum(len(row.ids) for row in batch) <= limits.tokens
    assert sum(map(len, machine.batches)) == sum(map(len, inputs))


def test_a_window_is_sorted_by_length() -> None:
    machine = Machine()
    lengths = [8, 2, 6, 4, 2, 8, 4, 6]
    assert list(machine.answers([[length] for length in lengths], BatchLimits(2, 1))) == [[each] for each in lengths]
    assert [[len(row.ids) for row in batch] for batch in machine.batches] == [[2, 2], [4, 4], [6, 6], [8, 8]]


def test_rows_one_by_one_are_run_in_their_order() -> None:
    machine = Machine()
    list(machine.answers([[8], [2], [6]], BatchLimits(1, 1)))
    assert [len(batch[0].ids) for batch in machine.batches] == [8, 2, 6]


def test_no_inputs() -> None:
    assert list(Machine().answers([], BatchLimits(None, 10))) == []


# --- bounded memory ---


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_a_window_is_read_ahead_and_no_more(rows: int) -> None:
    source = Counted([1] for _ in itertools.count())
    answers = Machine().answers(source, BatchLimits(rows, 1))
    window = 1 if rows == 1 else rows * BATCHES_IN_WINDOW
    for number in range(1, 3 * window):
        next(answers)
        assert source.number == -(-number // window) * window


def test_a_window_goes_by_tokens_where_no_number_of_rows_is_given() -> None:
    source = Counted([5] for _ in itertools.count())
    next(Machine().answers(source, BatchLimits(None, 10)))
    assert source.number == 10 * BATCHES_IN_WINDOW / 5


@pytest.mark.parametrize("value", [[], "bad"], ids=["without rows", "bad"])
@pytest.mark.parametrize("limits", [BatchLimits(2, 1), BatchLimits(None, 10)], ids=["rows", "tokens"])
def test_inputs_without_rows_do_not_pile_up(value: Any, limits: BatchLimits) -> None:
    source = Counted(itertools.repeat(value))
    assert next(Machine().answers(source, limits, on_error=lambda number, error: [])) == []
    assert source.number <= 10 * BATCHES_IN_WINDOW


def test_nothing_is_read_before_the_first_answer_is_asked_for() -> None:
    source = Counted([[1]])
    Machine().answers(source, BatchLimits(None, 10))
    assert source.number == 0


def test_the_end_of_the_inputs_is_asked_for_once() -> None:
    """A terminal would have to be ended twice otherwise."""

    class Terminal:
        ends = 0

        def __iter__(self) -> Iterator[Any]:
            return self

        def __next__(self) -> Any:
            self.ends += 1
            if self.ends > 2:
                raise AssertionError("read after its end")
            if self.ends == 2:
                raise StopIteration
            return [1]

    assert list(Machine().answers(Terminal(), BatchLimits(None, 10))) == [[1]]


# --- errors ---


@pytest.mark.parametrize("limits", [BatchLimits(1, 1), BatchLimits(2, 1), BatchLimits(None, 3)])
@pytest.mark.parametrize("place", [0, 1, 7])
def test_an_error_comes_after_all_answers_before_it(limits: BatchLimits, place: int) -> None:
    inputs: list[Any] = [[1 + number % 3] for number in range(10)]
    inputs[place] = "bad"
    answers = Machine().answers(inputs, limits)
    assert list(itertools.islice(answers, place)) == inputs[:place]
    with pytest.raises(ValueError, match=f"input {place + 1} is bad"):
        next(answers)
    with pytest.raises(StopIteration):
        next(answers)


def test_an_error_of_the_inputs_comes_after_all_answers_before_it() -> None:
    def broken() -> Iterator[list[int]]:
        yield [2]
        yield [1]
        raise OSError("the disk is gone")

    answers = Machine().answers(broken(), BatchLimits(None, 100))
    assert [next(answers), next(answers)] == [[2], [1]]
    with pytest.raises(OSError, match="the disk is gone"):
        next(answers)


def test_on_error_stands_in_the_place_of_answers() -> None:
    noted: list[tuple[int, str]] = []

    def note(number: int, error: Exception) -> str:
        noted.append((number, str(error)))
        return f"no {number}"

    answers = Machine().answers([[3], "bad", [1, 2], "worse"], BatchLimits(None, 100), note)
    assert list(answers) == [[3], "no 2", [1, 2], "no 4"]
    assert noted == [(2, "input 2 is bad"), (4, "input 4 is worse")]


def test_what_on_error_raises_comes_after_all_answers_before_it() -> None:
    def give_up(number: int, error: Exception) -> None:
        raise RuntimeError(f"enough at {number}")

    answers = Machine().answers([[3], [1], "bad", [2]], BatchLimits(None, 100), give_up)
    assert list(itertools.islice(answers, 2)) == [[3], [1]]
    with pytest.raises(RuntimeError, match="enough at 3"):
        next(answers)


def test_other_errors_of_reading_are_not_for_on_error() -> None:
    def read(number: int, value: Any) -> Parts:
        raise ZeroDivisionError

    answers = streamed([1], read, list, lambda reading, results: results, BatchLimits(1, 1), lambda *_: "taken")
    with pytest.raises(ZeroDivisionError):
        next(answers)


# --- pipelines ---

WORDS = ["the", "weather", "is", "lovely", "today", "and", "children", "play", "garden", "chat", "dort", "sur", "table"]


def sentences(number: int) -> list[str]:
    """Sentences of 1 to 12 words."""
    generator = np.random.default_rng(0)
    return [" ".join(generator.choice(WORDS, generator.integers(1, 13))) for _ in range(number)]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory, small_vocabulary: Path) -> TaskPipeline[Any]:
    """A classifier with random weights, in float32."""
    directory = tmp_path_factory.mktemp("classifier")
    save_model(directory, "XLMRobertaForSequenceClassification", small_vocabulary, torch.float32, num_labels=3)
    made: TaskPipeline[Any] = pipeline("text-classification", directory)
    return made


def numbers(answers: Any) -> list[float]:
    return [each["score"] for each in answers]


@pytest.mark.parametrize("changes", [{"batch_size": 1}, {"batch_size": 8}, {"batch_tokens": 40}, {"batch_tokens": 1}])
def test_an_answer_does_not_depend_on_its_batch(classifier: TaskPipeline[Any], changes: dict[str, int]) -> None:
    texts = sentences(20)
    alone = [classifier(text)[0] for text in texts]
    together = classifier(texts, **changes)
    assert [each["label"] for each in together] == [each["label"] for each in alone]
    assert numbers(together) == pytest.approx(numbers(alone), abs=2e-5)  # float32 sums of another order


def test_lists_tuples_generators_and_files(classifier: TaskPipeline[Any], tmp_path: Path) -> None:
    texts = sentences(10)
    answers = classifier(texts)
    assert isinstance(answers, list)
    assert numbers(classifier(tuple(texts))) == pytest.approx(numbers(answers), abs=2e-5)  # as above
    (tmp_path / "texts").write_text("\n".join(texts), encoding="utf-8")
    with (tmp_path / "texts").open(encoding="utf-8") as lines:
        for streamed_answers in (classifier(iter(texts)), classifier(lines)):
            assert iter(streamed_answers) is streamed_answers
            assert numbers(streamed_answers) == pytest.approx(numbers(answers), abs=2e-5)  # as above
    assert classifier([]) == []
    assert list(classifier(iter([]))) == []


def test_a_generator_without_end_is_answered_by_and_by(classifier: TaskPipeline[Any]) -> None:
    source = Counted(itertools.cycle(WORDS))
    answers = classifier(source, batch_size=4)
    assert len(list(itertools.islice(answers, 40))) == 40
    assert source.number <= 40 + 4 * BATCHES_IN_WINDOW


@pytest.mark.parametrize("inputs", [5, None, b"the cat", 1.5])
def test_what_is_no_input_at_all(classifier: TaskPipeline[Any], inputs: Any) -> None:
    with pytest.raises(TypeError, match="Give a text, or a list or another iterable of them; got"):
        classifier(inputs)


def test_a_bad_text_among_good_ones(classifier: TaskPipeline[Any]) -> None:
    answers = classifier(["the cat", " ", 5, "the dog"], on_error=lambda number, error: (number, type(error)))
    assert answers[1:3] == [(2, ValueError), (3, TypeError)]
    good = numbers([answers[0], answers[3]])
    assert good == pytest.approx(numbers(classifier(["the cat", "the dog"])), abs=2e-5)  # as above
    with pytest.raises(ValueError, match="Text 2 holds nothing to read: ' '"):
        classifier(["the cat", " ", 5, "the dog"])


def test_bytes_that_are_no_text_in_a_file(classifier: TaskPipeline[Any], tmp_path: Path) -> None:
    (tmp_path / "texts").write_bytes(b"the cat\n" * 3000 + b"\xff\n")
    with (tmp_path / "texts").open(encoding="utf-8") as lines:
        answers = classifier(itertools.islice(lines, 2000, None), batch_size=2)
        assert next(answers)["label"]
        with pytest.raises(UnicodeDecodeError):
            list(answers)


def test_one_warning_a_call(classifier: TaskPipeline[Any], caplog: pytest.LogCaptureFixture) -> None:
    long = "the cat " * LONGEST
    with caplog.at_level(logging.WARNING, "xlmr_np"):
        classifier(["the cat", long, long])
    (record,) = caplog.records
    assert record.getMessage().startswith("Text 2 has ")
    assert f"of which {LONGEST} are read, and so it is with others" in record.getMessage()
    classifier(long)
    assert len(caplog.records) == 2


def test_a_progress_bar_where_it_is_asked_for(classifier: TaskPipeline[Any], capsys: pytest.CaptureFixture) -> None:
    classifier(sentences(5))
    assert capsys.readouterr().err == ""  # no terminal
    classifier(sentences(5), progress_bar=True)
    assert "5/5" in capsys.readouterr().err
    list(classifier(iter(sentences(5)), progress_bar=True))
    assert "5 texts" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, "batch_size=0 is too small"),
        ({"batch_size": 2.5}, TypeError, "batch_size must be a whole number"),
        ({"batch_tokens": 0}, ValueError, "batch_tokens=0 is too small"),
        ({"progress_bar": "no"}, TypeError, "progress_bar must be True or False"),
        ({"progress_bar": 1}, TypeError, "progress_bar must be True or False"),
        ({"on_error": 5}, TypeError, "on_error=5 cannot be called; give a function"),
        ({"max_length": 0}, ValueError, "max_length=0 is too small"),
        ({"truncation": "only_first"}, TypeError, "truncation must be True or False"),
        ({"topk": 1}, TypeError, r"has no setting topk \(did you mean top_k\?\)"),
    ],
)
def test_settings_out_of_range(
    classifier: TaskPipeline[Any], changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        classifier("the cat", **changes)


@pytest.mark.parametrize("max_length", [1, 2])
def test_no_text_is_cut_to_nothing(classifier: TaskPipeline[Any], max_length: int) -> None:
    with pytest.raises(ValueError, match=f"Text 1 cannot be cut to the {max_length} tokens that are read"):
        classifier("the cat", max_length=max_length)
    assert classifier("the cat", max_length=3) != classifier("the cat")


@pytest.mark.parametrize("length", [4, 5])
def test_a_pair_keeps_a_token_of_each(classifier: TaskPipeline[Any], length: int) -> None:
    with pytest.raises(ValueError, match="one token of each text"):
        classifier({"text": "the cat and", "text_pair": "the dog and"}, max_length=length)


def test_rows_are_padded_on_the_right() -> None:
    ids, is_real = padded([[5], [6, 7, 8]], 1)
    np.testing.assert_array_equal(ids, [[5, 1, 1], [6, 7, 8]])
    np.testing.assert_array_equal(is_real, [[True, False, False], [True, True, True]])
