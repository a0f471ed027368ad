"""`xlmr-np trim-vocab`: a smaller checkpoint, with the pieces that one's texts use."""

import argparse
import json
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from xlmr_np.progress import with_progress_bar
from xlmr_np.text_files import STANDARD_INPUT, lines_of, shown_name

from .source import add_model_argument, add_source_arguments, add_variant_argument, chosen_model, location
from .terminal import megabytes, printable

SUMMARY = "a smaller checkpoint, for the languages of some texts"
DESCRIPTION = """\
Writes a checkpoint whose vocabulary has only the pieces that some texts use, and all single characters of their
scripts. On such texts the model answers as before.

  xlmr-np trim-vocab FacebookAI/xlm-roberta-base --corpus german.txt swahili.txt --out ./small
  zcat texts.gz | xlmr-np trim-vocab ./my-model --corpus - --out ./small
  xlmr-np trim-vocab ./my-model --keep-pieces pieces.txt --out ./small --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    add_model_argument(parser, "model", nargs="?")
    kept = parser.add_mutually_exclusive_group(required=True)
    kept.add_argument(
        "--corpus", type=Path, nargs="+", metavar="FILE", help="files with a text a line; - is standard input"
    )
    kept.add_argument(
        "--keep-pieces", type=Path, metavar="FILE", help="a file with a piece a line, as the vocabulary spells it"
    )
    parser.add_argument("--out", type=Path, required=True, help="a new directory for the smaller checkpoint")
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    add_source_arguments(parser)
    add_variant_argument(parser)


def run(options: argparse.Namespace) -> None:
    """Write the checkpoint, then print what it saves."""
    from xlmr_np.quantization import trim_vocabulary

    texts: Iterable[str] = ()
    pieces: Iterable[str] = ()
    if options.corpus:
        for file in options.corpus:
            if str(file) != STANDARD_INPUT:
                file.stat()  # one that is not there is missed now, and not after the others have been read
        texts = with_progress_bar(chain.from_iterable(_texts_of(file) for file in options.corpus), None)
    else:
        pieces = (line.rstrip("\r\n") for line in lines_of(options.keep_pieces))
    model = chosen_model(options)
    trimming = trim_vocabulary(model, options.out, texts, pieces, variant=options.variant, **location(options))
    before, after, scripts = trimming
    if options.json:
        sizes = {
            name: {"before": old, "after": new} for name, old, new in zip(before._fields, before, after, strict=True)
        }
        facts = {"model": model, "out": str(options.out), **sizes, "scripts": scripts}
        print(printable(json.dumps(facts)))
        return
    for row in (
        ("", "before", "after"),
        ("pieces", f"{before.pieces:,}", f"{after.pieces:,}"),
        ("parameters", f"{before.parameters:,}", f"{after.parameters:,}"),
        ("on disk", megabytes(before.bytes_on_disk), megabytes(after.bytes_on_disk)),
    ):
        print("{:<10}  {:>14}  {:>14}".format(*row))
    print(f"{'scripts':<10}  {', '.join(scripts)}")


def _texts_of(file: Path | str) -> Iterator[str]:
    """The lines of a file that are not blank, without the white space around them.

    Raises:
        ValueError: there is none, or one is not UTF-8.
        OSError: the file cannot be read.
    """
    is_empty = True
    for line in lines_of(file):
        text = line.strip()
        if text:
            is_empty = False
            yield text
    if is_empty:
        raise ValueError(f"{shown_name(file)} holds no text; give a text a line.")
