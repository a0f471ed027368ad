"""`xlmr-np features`: the last hidden states of texts."""

import argparse
from collections.abc import Iterable
from typing import Any

from .answering import answer_records, loaded_pipeline
from .records import Source, Taken, add_input_arguments
from .results import Form, add_output_arguments
from .source import LONG_TEXTS, add_model_argument, add_running_arguments, model_or_demo
from .vectors import summary

SUMMARY = "a vector for each token of a text"
DESCRIPTION = """\
Computes the last hidden states of texts: a vector for each token, <s> and </s> included (see `xlmr-np tokenize`). An
.npy file has the vectors of all tokens of all texts one after the other. For a vector for each text see
`xlmr-np embed`.

Texts are the arguments, or the lines of a file (--input), or the lines of standard input.

  xlmr-np features --model FacebookAI/xlm-roberta-base --input lines.txt --output features.jsonl
  xlmr-np features --model ./my-model "Le chat dort." --output states.npy
"""

TAKEN = Taken(("text",), "a text")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    add_input_arguments(parser, "TEXT", "texts")
    add_model_argument(parser, "--model")
    add_output_arguments(parser, has_vectors=True)
    add_running_arguments(parser, LONG_TEXTS)


def run(options: argparse.Namespace) -> int:
    """Compute the states of the texts in their order."""
    source = Source.of(options, TAKEN, keeps_blank_lines=True)

    def load() -> Any:
        return loaded_pipeline("feature-extraction", model_or_demo(options), options, return_tensors=True)

    form = Form(
        lambda fields, answer: summary(fields["text"], answer[0]),
        lambda fields, answer: {**fields, "features": answer[0].tolist()},
        _rows,
        None,
        lambda answer: answer[0],
        cuts_lines=True,
    )
    return answer_records(options, source, form, load, lambda fields: fields["text"])


def _rows(answer: Any) -> Iterable[dict[str, Any]]:
    for token, vector in enumerate(answer[0].tolist()):
        yield {"token": token, **{str(number): value for number, value in enumerate(vector)}}
