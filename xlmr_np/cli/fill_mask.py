"""`xlmr-np fill-mask`: words that fit where a text says <mask>."""

import argparse
from collections.abc import Iterable
from typing import Any

from .answering import answer_records, loaded_pipeline
from .records import Source, Taken, add_input_arguments
from .results import Fields, Form, add_output_arguments, with_fields
from .source import LONG_TEXTS, add_model_argument, add_running_arguments, check_at_least, model_or_demo
from .terminal import printable, scored_lines

SUMMARY = "words that fit where a text says <mask>"
DESCRIPTION = """\
Says which words fit where a text says <mask>, the likeliest first, each with its probability.

Texts are the arguments, or the lines of a file (--input), or the lines of standard input.

  xlmr-np fill-mask --model FacebookAI/xlm-roberta-base "Le chat dort sur la <mask>."
  xlmr-np fill-mask --model ./my-model --input lines.txt --output answers.jsonl
"""

TAKEN = Taken(("text",), "a text with <mask>")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    add_input_arguments(parser, "TEXT", "texts with <mask>")
    add_model_argument(parser, "--model")
    parser.add_argument("--top-k", type=int, default=5, help="how many words for each mask (default: 5)")
    parser.add_argument("--targets", help="consider these words only, separated by commas")
    add_output_arguments(parser)
    add_running_arguments(parser, LONG_TEXTS)


def run(options: argparse.Namespace) -> int:
    """Answer the texts in their order."""
    check_at_least("--top-k", options.top_k, 1)
    source = Source.of(options, TAKEN)
    targets = None if options.targets is None else [word.strip() for word in options.targets.split(",")]

    def load() -> Any:
        return loaded_pipeline("fill-mask", model_or_demo(options), options, top_k=options.top_k, targets=targets)

    form = Form(
        _table, with_fields("predictions"), _rows, ("mask", "score", "token", "token_str", "sequence"), cuts_lines=True
    )
    return answer_records(options, source, form, load, lambda fields: fields["text"])


def _of_masks(answer: list[Any]) -> list[Any]:
    """The predictions for each mask."""
    return answer if answer and isinstance(answer[0], list) else [answer]


def _rows(answer: list[Any]) -> Iterable[dict[str, Any]]:
    for number, predictions in enumerate(_of_masks(answer), 1):
        for prediction in predictions:
            yield {"mask": number, **prediction}


def _table(fields: Fields, answer: list[Any]) -> Iterable[str]:
    """A text and its predictions; where there are several masks, what the text becomes is not shown."""
    yield printable(fields["text"])
    masks = _of_masks(answer)
    for number, predictions in enumerate(masks, 1):
        if len(masks) > 1:
            yield f"  mask {number}"
        yield from scored_lines(
            # A word start alone is a token too, and its text is empty.
            (each["score"], each["token_str"] or "▁", "" if len(masks) > 1 else each["sequence"])
            for each in predictions
        )
