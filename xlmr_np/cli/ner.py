"""`xlmr-np ner`: names and the like in texts."""

import argparse
from typing import Any

from .answering import answer_records, loaded_pipeline
from .records import Source, Taken, add_input_arguments
from .results import Fields, Form, add_output_arguments, with_fields
from .source import add_running_arguments, add_trained_model_argument, trained_model
from .terminal import Span, has_colors, marked

SUMMARY = "names of people, places and the like in texts"
DESCRIPTION = """\
Finds names, parts of speech and the like, by a model that labels tokens. In a table they are marked within the text, on
a terminal by colours (unless NO_COLOR is set). Texts of any length are read whole.

Texts are the arguments, or the lines of a file (--input), or the lines of standard input.

  xlmr-np ner --model FacebookAI/xlm-roberta-large-finetuned-conll03-english "Angela Merkel wohnt in Berlin."
  xlmr-np ner --model ./my-model --input lines.txt --output names.csv
"""

TAKEN = Taken(("text",), "a text")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    add_input_arguments(parser, "TEXT", "texts")
    example = "FacebookAI/xlm-roberta-large-finetuned-conll03-english"
    add_trained_model_argument(parser, "labelling tokens", example)
    parser.add_argument(
        "--aggregation",
        choices=("none", "simple", "first", "average", "max"),
        default="average",
        help="none: each token; simple: tokens of one label; first, average, max: whole words, labelled by their first "
        "token, by the mean, or by the surest one (default: average)",
    )
    parser.add_argument("--stride", type=int, help="tokens that windows of long texts share (default: a quarter)")
    parser.add_argument("--keep-others", action="store_true", help="return what is labelled O, too")
    add_output_arguments(parser)
    add_running_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Find names in the texts in their order."""
    source = Source.of(options, TAKEN)
    model = trained_model(options)
    is_colored = options.output is None and has_colors()
    label = "entity" if options.aggregation == "none" else "entity_group"

    def load() -> Any:
        return loaded_pipeline(
            "token-classification",
            model,
            options,
            aggregation_strategy=options.aggregation,
            stride=options.stride,
            ignore_labels=[] if options.keep_others else ["O"],
        )

    def table(fields: Fields, answer: list[dict[str, Any]]) -> list[str]:
        spans = [Span(each["start"], each["end"], each[label], each["score"]) for each in answer]
        return [marked(fields["text"], spans, is_colored)]

    index = ("index",) if label == "entity" else ()
    columns = (label, "score", *index, "word", "start", "end")
    form = Form(table, with_fields("entities"), lambda answer: answer, columns)
    return answer_records(options, source, form, load, lambda fields: fields["text"])
