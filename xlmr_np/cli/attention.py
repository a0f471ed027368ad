"""`xlmr-np attention`: a picture of which tokens a model looks at."""

import argparse
import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from xlmr_np.text_files import STANDARD_INPUT, lines_of

from .results import opened_output
from .source import (
    add_device_arguments,
    add_model_argument,
    add_source_arguments,
    add_variant_argument,
    chosen_model,
    location,
)
from .terminal import complain, printable, warnings_on_one_line, write_errors_name

if TYPE_CHECKING:
    import numpy as np

SUMMARY = "a picture of which tokens of a text look at which"
DESCRIPTION = """\
Draws the attention of every layer and head on a text as one page for a browser, which loads nothing from anywhere.

The text is the argument, or all of standard input.

  xlmr-np attention --html out.html "The bank of the river was green."
  xlmr-np attention --model FacebookAI/xlm-roberta-base --html out.html < paragraph.txt
  xlmr-np attention --html out.html "What is green?" --pair "The bank of the river was green."
  xlmr-np attention --json "Le chat dort." > attention.json
"""

DIGITS = 6  # after the point, in JSON


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("text", nargs="?", help="a text; if it is left out, standard input is read")
    parser.add_argument("--pair", metavar="TEXT", help="a second text, which the model reads with the first")
    add_model_argument(parser, "--model")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the page here")
    parser.add_argument("--overwrite", action="store_true", help="replace the page if there is one already")
    parser.add_argument(
        "--json", action="store_true", help="print a JSON object with the tokens, and attentions[layer][head][from][to]"
    )
    parser.add_argument("--max-tokens", type=int, default=128, help="how many tokens at most (default: 128)")
    add_device_arguments(parser)
    add_source_arguments(parser)
    add_variant_argument(parser)


@write_errors_name("standard output")
def run(options: argparse.Namespace) -> None:
    """Run the model on the text, then write the page, or print the numbers, or both."""
    if options.html is None and not options.json:
        raise ValueError("Say what to make: a page with --html FILE, or numbers with --json.")
    with nullcontext() if options.html is None else opened_output(options.html, options.overwrite) as file:
        text = _text(options.text)
        tokens, attentions, special_tokens = _attentions(options, text)
        if file is not None:
            from xlmr_np.visualization import attention_page

            title = text if options.pair is None else f"{text} — {options.pair}"
            file.write(attention_page(tokens, attentions, title, special_tokens=special_tokens).encode())
    if options.html is not None:
        complain(f"wrote {options.html}; open it in a browser.")
    if options.json:
        facts = {"text": text, "pair": options.pair, "tokens": tokens, "attentions": attentions.round(DIGITS).tolist()}
        print(printable(json.dumps(facts, ensure_ascii=False)))


def _attentions(options: argparse.Namespace, text: str) -> "tuple[list[str], np.ndarray, list[str]]":
    """The tokens, what they attend to [L, H, T, T], and which tokens are special."""
    from xlmr_np.models import XLMRobertaModel
    from xlmr_np.tokenizer import XLMRobertaTokenizer
    from xlmr_np.visualization import text_attentions

    source = chosen_model(options)
    with warnings_on_one_line():
        tokenizer = XLMRobertaTokenizer.from_pretrained(source, **location(options))
        model = XLMRobertaModel.from_pretrained(
            source,
            **location(options),
            variant=options.variant,
            device=options.device,
            dtype=options.dtype,
            num_threads=options.threads,
            add_pooling_layer=False,
        )
        if model.load_report.missing:
            raise ValueError(
                f"The checkpoint lacks weights: {', '.join(model.load_report.missing)}. Its attention would be noise; "
                "choose a complete one."
            )
        tokens, attentions = text_attentions(model, tokenizer, text, options.pair, max_tokens=options.max_tokens)
    return tokens, attentions, tokenizer.all_special_tokens


def _text(argument: str | None) -> str:
    """The argument, or else all of standard input, without white space around it.

    Raises:
        ValueError: it is empty, or standard input is not UTF-8.
    """
    if argument is None and sys.stdin.isatty():
        print("Type a text, and end with Ctrl-D.", file=sys.stderr)
    text = ("".join(lines_of(STANDARD_INPUT)) if argument is None else argument).strip()
    if not text:
        raise ValueError("There is no text to read; give one as an argument, or on standard input.")
    return text
