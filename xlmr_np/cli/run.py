"""`xlmr-np run`: any task, with the options that `transformers run` had."""

import argparse
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from .answering import answer_records
from .records import Source, Taken
from .results import SUFFIXES, Form, add_output_argument
from .source import (
    add_device_arguments,
    add_model_argument,
    add_source_arguments,
    add_variant_argument,
    loading,
    model_or_demo,
)
from .terminal import warnings_on_one_line

SUMMARY = "any task, with the options of transformers run"
DESCRIPTION = """\
Runs the pipeline of a task on the lines of standard input (pipe), on a CSV file, or on a JSON file that is a list of
objects, and writes its answers in the same format: pipe prints a JSON value for each line. With several columns, as for
question-answering, the lines of a pipe have tabs between them.

  echo "Plants create <mask> through a process known as photosynthesis." | xlmr-np run --task fill-mask --device -1
  xlmr-np run --task text-classification --model ./my-model --input reviews.csv --column review --output labels.csv
  xlmr-np run --task question-answering --model ./my-model --input asked.json --column question=q,context=article
"""

FORMATS = ("json", "csv", "pipe")
WRITTEN = {"json": "json", "csv": "csv", "pipe": "jsonl"}
TEXT = Taken(("text",), "a text")
TAKEN = {
    "question-answering": Taken(("question", "context"), "a question with its context"),
    "reranking": Taken(("query", "documents"), "a query with its documents", lists=("documents",)),
    "text-classification": Taken(("text",), "a text", optional=("text_pair",)),
    "zero-shot-classification": Taken(("sequences", "candidate_labels"), "a text with labels to choose from"),
}
DEMO_TASKS = ("fill-mask", "feature-extraction", "text-generation")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("--task", required=True, help="the task, as the Python function pipeline() calls it")
    parser.add_argument("--input", type=Path, metavar="FILE", help="the file to read (default: standard input)")
    add_output_argument(parser, "the file to write (default: standard output)")
    add_model_argument(parser, "--model")
    parser.add_argument("--config", help="a directory, a file, or a hub id; in place of the model's own config")
    parser.add_argument("--tokenizer", help="a directory, or a hub id; in place of the model's own tokenizer")
    parser.add_argument("--column", help="columns or keys to read, as NAME, NAME,NAME or FIELD=NAME,FIELD=NAME")
    parser.add_argument(
        "--format", choices=("infer", *FORMATS), default="infer", help="of input and output (default: as --input ends)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the file of --output if there is one")
    add_device_arguments(parser)
    add_source_arguments(parser)
    add_variant_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Answer all that is to be read."""
    from xlmr_np.pipelines import ALIASES, pipeline

    task = ALIASES.get(options.task, options.task)
    if options.format == "infer":
        options.format = _format_of(options.input)
        written = WRITTEN[options.format]
        named = None if options.output is None else SUFFIXES.get(options.output.suffix.lower())
        if named not in (None, "table", written):
            raise ValueError(
                f"The input makes the answers {written}, and {options.output} is named as {named}; name it "
                f"{options.output.with_suffix('.' + written)}, or say with --format what both are."
            )
    source = Source(TAKEN.get(task, TEXT), (), options.input, options.format, options.column)
    options.format = WRITTEN[options.format]
    if options.model is None and task not in DEMO_TASKS:
        raise ValueError(f"The task {task!r} needs a model that was trained for it; give one with --model.")

    def load() -> Callable[..., Iterable[Any]]:
        with warnings_on_one_line():
            pipe = pipeline(task, model_or_demo(options), options.config, options.tokenizer, **loading(options))
        return _with_own_labels(pipe) if task == "zero-shot-classification" else pipe

    form = Form(lambda fields, answer: (), _as_json, _rows, None, shows_fields=False)
    return answer_records(
        options, source, form, load, lambda fields: fields.get("text", fields) if len(fields) == 1 else fields
    )


def _format_of(file: Path | None) -> str:
    """The format of a file by its name.

    Raises:
        ValueError: its name does not tell.
    """
    if file is None:
        return "pipe"
    suffix = file.suffix.lower().removeprefix(".")
    if suffix not in FORMATS:
        raise ValueError(f"The name of {file} does not tell its format; give --format {', '.join(FORMATS)}.")
    return suffix


def _with_own_labels(pipe: Any) -> Callable[..., Iterable[Any]]:
    """Zero-shot classification in which each text has its own labels."""

    def classify(
        values: Iterable[dict[str, str]], on_error: Callable[[int, Exception], Any], **changes: Any
    ) -> Iterator[Any]:
        for number, value in enumerate(values, 1):
            try:
                yield pipe(value["sequences"], candidate_labels=value["candidate_labels"], **changes)
            except (ValueError, TypeError) as error:
                yield on_error(number, error)

    return classify


def _as_json(fields: dict[str, Any], answer: Any) -> Any:
    """The answer alone, arrays as lists."""
    return answer.tolist() if hasattr(answer, "tolist") else answer


def _rows(answer: Any) -> Iterable[dict[str, Any]]:
    """The dicts of an answer.

    Raises:
        ValueError: it has other parts.
    """
    rows = answer if isinstance(answer, list) else [answer]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("These answers are no rows of a table; have them written as JSON (--format json or pipe).")
    return rows
