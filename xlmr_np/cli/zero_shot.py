"""`xlmr-np zero-shot`: which of any labels fits a text."""

import argparse
from collections.abc import Iterable
from typing import Any

from .answering import answer_records, loaded_pipeline
from .records import Source, Taken, add_input_arguments
from .results import Fields, Form, add_output_arguments
from .source import LONG_TEXTS, add_running_arguments, add_trained_model_argument, trained_model
from .terminal import printable, scored_lines

SUMMARY = "which of any labels fits a text"
DESCRIPTION = """\
Labels texts with labels that the model was not trained for, by a model that tells whether one text follows from
another.

Texts are the arguments, or the lines of a file (--input), or the lines of standard input.

  xlmr-np zero-shot --model joeddav/xlm-roberta-large-xnli --labels "sport,politics,art" "Das Spiel endete 3:1."
  xlmr-np zero-shot --model ./xnli --labels "Sport,Kunst" --template "Hier geht es um {}." --input lines.txt --json
"""

TAKEN = Taken(("text",), "a text")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    add_input_arguments(parser, "TEXT", "texts")
    add_trained_model_argument(parser, "natural language inference", "joeddav/xlm-roberta-large-xnli")
    parser.add_argument("--labels", required=True, help="the labels to choose from, separated by commas")
    parser.add_argument(
        "--template",
        default="This example is {}.",
        help='what is said of a text, with {} for the label (default: "This example is {}.")',
    )
    parser.add_argument("--multi-label", action="store_true", help="several labels may fit a text, or none")
    add_output_arguments(parser)
    add_running_arguments(parser, LONG_TEXTS)


def run(options: argparse.Namespace) -> int:
    """Label the texts in their order."""
    if not any(label.strip() for label in options.labels.split(",")):
        raise ValueError(f"--labels {options.labels!r} has no label; write labels with commas between them.")
    source = Source.of(options, TAKEN)
    model = trained_model(options)

    def load() -> Any:
        return loaded_pipeline(
            "zero-shot-classification",
            model,
            options,
            candidate_labels=options.labels,
            hypothesis_template=options.template,
            multi_label=options.multi_label,
        )

    form = Form(_table, _as_json, _rows, ("label", "score"), cuts_lines=True)
    return answer_records(options, source, form, load, lambda fields: fields["text"])


def _as_json(fields: Fields, answer: dict[str, Any]) -> dict[str, Any]:
    return {**fields, "labels": answer["labels"], "scores": answer["scores"]}


def _rows(answer: dict[str, Any]) -> Iterable[dict[str, Any]]:
    for label, score in zip(answer["labels"], answer["scores"], strict=True):
        yield {"label": label, "score": score}


def _table(fields: Fields, answer: dict[str, Any]) -> Iterable[str]:
    yield printable(fields["text"])
    yield from scored_lines((each["score"], each["label"], "") for each in _rows(answer))
