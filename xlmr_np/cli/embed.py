"""`xlmr-np embed`: a vector for each text."""

import argparse
from typing import Any

from .answering import answer_records, loaded_pipeline
from .records import Source, Taken, add_input_arguments
from .results import Form, add_output_arguments
from .source import add_running_arguments, add_trained_model_argument, trained_model
from .vectors import EXAMPLE, LONG_TEXTS, PURPOSE, add_prompt_arguments, prompt_of, summary

SUMMARY = "a vector for each text, near those of texts of like meaning"
DESCRIPTION = """\
Turns texts into vectors, such that texts of like meaning have vectors that are near each other. Models of
sentence-transformers do all that their files say.

Texts are the arguments, or the lines of a file (--input), or the lines of standard input. Row N of an .npy file is the
vector of text N, so a blank line is an error, and none is left out.

  xlmr-np embed --model intfloat/multilingual-e5-base --prompt "passage: " --input lines.txt --output vectors.npy
  xlmr-np embed --model ./my-model --long-texts mean --input articles.jsonl --column body --output vectors.jsonl
"""

TAKEN = Taken(("text",), "a text")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    add_input_arguments(parser, "TEXT", "texts")
    add_trained_model_argument(parser, PURPOSE, EXAMPLE)
    add_prompt_arguments(parser)
    parser.add_argument("--normalize", action="store_true", default=None, help="make vectors of length one")
    parser.add_argument(
        "--pooling", help="what makes one vector of those of tokens: mean, cls, max (default: as the model says)"
    )
    add_output_arguments(parser, has_vectors=True)
    add_running_arguments(parser, LONG_TEXTS)


def run(options: argparse.Namespace) -> int:
    """Embed the texts in their order."""
    source = Source.of(options, TAKEN, keeps_blank_lines=True)
    model = trained_model(options)

    def load() -> Any:
        settings = {"normalize": options.normalize, "pooling": options.pooling, **prompt_of(options)}
        settings = {name: value for name, value in settings.items() if value is not None}
        return loaded_pipeline("sentence-embedding", model, options, **settings)

    form = Form(
        lambda fields, answer: summary(fields["text"], answer[None]),
        lambda fields, answer: {**fields, "embedding": answer.tolist()},
        lambda answer: [{str(number): value for number, value in enumerate(answer.tolist())}],
        None,
        lambda answer: answer[None],
        is_one_row=True,
        cuts_lines=True,
    )
    return answer_records(options, source, form, load, lambda fields: fields["text"])
