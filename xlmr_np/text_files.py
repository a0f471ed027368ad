"""Text files, line by line."""

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

STANDARD_INPUT = "-"  # how it is written where a file may be named


def lines_of(file: Path | str) -> Iterator[str]:
    """The lines of a file, or of standard input, with their line breaks.

    Raises:
        ValueError: one is not UTF-8.
        OSError: the file cannot be read.
    """
    with nullcontext(sys.stdin.buffer) if str(file) == STANDARD_INPUT else open(file, "rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                place = f"{shown_name(file)}, line {number}"
                raise ValueError(f"{place}: not UTF-8 ({error.reason}); convert it first.") from error


def shown_name(file: Path | str) -> str:
    """What messages call the file."""
    return "Standard input" if str(file) == STANDARD_INPUT else str(file)
