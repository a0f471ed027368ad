"""How commands answer records: run in batches, written in order, and reported where there is no answer."""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import tee
from typing import Any, NamedTuple

from xlmr_np.progress import with_progress_bar

from .records import Record, Source
from .results import Fields, Form, opened_results
from .source import loading, tell_of_demo
from .terminal import warnings_at_once, warnings_on_one_line

EXIT_SKIPPED = 1


class Unanswered(NamedTuple):
    """What stands in the place of an answer."""

    error: Exception


def loaded_pipeline(task: str, model: str, options: argparse.Namespace, **settings: Any) -> Any:
    """The pipeline of a task, with what was asked by `add_running_arguments`; its warnings are shown on a line each."""
    from xlmr_np.pipelines import pipeline

    if "long_texts" in options:
        settings |= long_text_settings(task, options.long_texts)
    with warnings_on_one_line():
        return pipeline(task, model, **loading(options), batch_size=options.batch_size, **settings)


def long_text_settings(task: str, wanted: str) -> dict[str, Any]:
    """What becomes of texts that are too long, as a setting of the task."""
    return {"long_texts": wanted} if task == "sentence-embedding" else {"truncation": wanted == "truncate"}


def answer_records(
    options: argparse.Namespace,
    source: Source,
    form: Form,
    load: Callable[[], Callable[..., Iterable[Any]]],
    asked_of: Callable[[Fields], Any],
) -> int:
    """Answer all records of a command.

    Args:
        options: of the command.
        source: its records.
        form: how answers are written.
        load: makes the pipeline, after it is known that answers can be written.
        asked_of: what the pipeline is asked, given the fields of a record.

    Returns:
        The exit status: 1 if records were left out.
    """
    with opened_results(options, form, source) as results:
        pipe = load()
        source.ask()
        with warnings_at_once():
            answers: Iterable[tuple[Record, Any]] = answered(pipe, source, asked_of)
            if not results.is_on_terminal and sys.stderr.isatty():  # where answers appear there is no place for a bar
                answers = with_progress_bar(answers, source.count())
            for number, (record, answer) in enumerate(answers):
                if number == 0:
                    tell_of_demo(options)
                results.write(record, answer)
    return status_of(source)


def answered(
    pipe: Callable[..., Iterable[Any]], source: Source, asked_of: Callable[[Fields], Any], **changes: Any
) -> Iterator[tuple[Record, Any]]:
    """Records with their answers, in order; what has none is reported.

    Args:
        pipe: the pipeline.
        source: the records.
        asked_of: what the pipeline is asked, given the fields of a record.
        **changes: settings of the pipeline.

    Raises:
        ValueError: a record cannot be answered, and may not be left out.
    """
    asked, shown = tee(source)
    if source.is_typed:
        changes["batch_size"] = 1  # each line is answered at once
    answers = pipe(
        (asked_of(record.fields) for record in asked), on_error=lambda _, error: Unanswered(error), **changes
    )
    for answer, record in zip(answers, shown, strict=True):
        if isinstance(answer, Unanswered):
            source.problems.report(record.place, answer.error)
        else:
            yield record, answer


def status_of(source: Source) -> int:
    """The exit status of a command whose records have been answered."""
    return EXIT_SKIPPED if source.problems.number else 0
