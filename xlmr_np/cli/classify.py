"""`xlmr-np classify`: which label a text has."""

import argparse
from collections.abc import Iterable
from typing import Any

from .answering import answer_records, loaded_pipeline
from .records import Source, Taken, add_input_arguments
from .results import Fields, Form, add_output_arguments, with_fields
from .source import LONG_TEXTS, add_running_arguments, add_trained_model_argument, trained_model
from .terminal import printable, scored_lines

SUMMARY = "which label a text has: sentiment, topic, entailment, similarity"
DESCRIPTION = """\
Labels texts, or pairs of texts, by a model with a classifier; a score is a probability, or for regression a number.

Texts are the arguments, or the lines of a file (--input), or the lines of standard input. Pairs are JSON lines, CSV or
TSV with text and text_pair.

  xlmr-np classify --model cardiffnlp/twitter-xlm-roberta-base-sentiment "Quelle belle surprise !"
  xlmr-np classify --model ./my-model --input reviews.csv --column review --all --output labels.csv
  xlmr-np classify --model ./nli --input pairs.tsv --column text=premise,text_pair=hypothesis --json
"""

TAKEN = Taken(("text",), "a text", optional=("text_pair",))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    add_input_arguments(parser, "TEXT", "texts")
    add_trained_model_argument(parser, "classification", "cardiffnlp/twitter-xlm-roberta-base-sentiment")
    number = parser.add_mutually_exclusive_group()
    number.add_argument("--top-k", type=int, default=1, help="how many labels, the likeliest first (default: 1)")
    number.add_argument("--all", dest="top_k", action="store_const", const=None, help="all labels")
    parser.add_argument(
        "--function", choices=("softmax", "sigmoid", "none"), help="what makes scores (default: as the model says)"
    )
    add_output_arguments(parser)
    add_running_arguments(parser, LONG_TEXTS)


def run(options: argparse.Namespace) -> int:
    """Label the texts in their order."""
    source = Source.of(options, TAKEN)
    model = trained_model(options)

    def load() -> Any:
        settings = {"top_k": options.top_k, "function_to_apply": options.function}
        return loaded_pipeline("text-classification", model, options, **settings)

    form = Form(
        _table,
        with_fields("labels"),
        lambda answer: answer,
        ("label", "score"),
        is_one_row=options.top_k == 1,
        cuts_lines=True,
    )
    return answer_records(options, source, form, load, lambda fields: fields)


def _table(fields: Fields, answer: list[dict[str, Any]]) -> Iterable[str]:
    yield from map(printable, fields.values())
    yield from scored_lines((each["score"], each["label"], "") for each in answer)
