"""`xlmr-np fill-mask`: words that fit where a text says <mask>."""

import argparse
import json
import sys
from itertools import tee
from pathlib import Path
from typing import Any

from .source import (
    add_device_arguments,
    add_model_argument,
    add_source_arguments,
    add_variant_argument,
    chosen_model,
    loading,
)
from .terminal import columns, printable, read_texts, warnings_on_one_line, with_progress_bar

SUMMARY = "words that fit where a text says <mask>"
DESCRIPTION = """\
Says which words fit where a text says <mask>, the likeliest first, each with its probability.

Texts are the arguments, or the lines of a file (--input), or the lines of standard input.

  xlmr-np fill-mask --model FacebookAI/xlm-roberta-base "Le chat dort sur la <mask>."
  xlmr-np fill-mask --model ./my-model --input lines.txt --json > answers.jsonl
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("text", nargs="*", help="texts with <mask>")
    add_model_argument(parser, "--model")
    parser.add_argument("--input", type=Path, help="a file with a text a line; - is standard input")
    parser.add_argument("--top-k", type=int, default=5, help="how many words for each mask (default: 5)")
    parser.add_argument("--targets", help="consider these words only, separated by commas")
    parser.add_argument("--truncate", action="store_true", help="cut texts that are too long for the model")
    parser.add_argument("--json", action="store_true", help="print a JSON object a line")
    parser.add_argument("--batch-size", type=int, default=8, help="texts run together (default: 8)")
    add_device_arguments(parser)
    add_source_arguments(parser)
    add_variant_argument(parser)


def run(options: argparse.Namespace) -> None:
    """Answer the texts in their order, each as soon as its batch has been run."""
    texts, number = read_texts(options.text, options.input, "a text with <mask>")
    is_typed = number is None and sys.stdin.isatty()
    targets = None if options.targets is None else [word.strip() for word in options.targets.split(",")]
    from xlmr_np.pipelines import pipeline

    with warnings_on_one_line():
        fill_mask = pipeline(
            "fill-mask",
            chosen_model(options),
            **loading(options),
            top_k=options.top_k,
            targets=targets,
            batch_size=1 if is_typed else options.batch_size,  # each typed line is answered at once
            tokenizer_kwargs={"truncation": options.truncate},
        )
    if is_typed:
        print("Type texts with <mask>, one a line, and end with Ctrl-D.", file=sys.stderr)
    asked, shown = tee(texts)
    answers = fill_mask(asked)
    if not sys.stdout.isatty():  # where answers appear there is no place for a bar
        answers = with_progress_bar(answers, number)
    for answer, text in zip(answers, shown, strict=True):
        if options.json:
            line = printable(json.dumps({"text": text, "predictions": answer}, ensure_ascii=False))
        else:
            line = _table(text, answer)
        print(line, flush=True)


def _table(text: str, answer: list[Any]) -> str:
    """One text and its predictions, for people."""
    several = bool(answer) and isinstance(answer[0], list)
    lines = [printable(text)]
    for number, predictions in enumerate(answer if several else [answer], 1):
        if several:
            lines.append(f"  mask {number}")
        # A word start alone is a token too, and its text is empty.
        words = [printable(prediction["token_str"] or "▁") for prediction in predictions]
        width = max(map(columns, words), default=0)
        for word, prediction in zip(words, predictions, strict=True):
            padding = " " * (width - columns(word))
            sequence = "" if several else f"  {printable(prediction['sequence'])}"
            lines.append(f"  {prediction['score']:<#9.4g}  {word}{padding}{sequence}".rstrip())
    return "\n".join(lines)
