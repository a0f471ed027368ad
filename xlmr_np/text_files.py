"""Text files, line by line."""

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

STANDARD_INPUT = "-"  # how it is written where a file may be named


class Line(NamedTuple):
    """A line of a file.

    Attributes:
        number: from 1.
        text: with its line break; bytes that are not UTF-8 are lone surrogates.
        problem: what is wrong with it; None if it is UTF-8.
    """

    number: int
    text: str
    problem: str | None


def numbered_lines(file: Path | str) -> Iterator[Line]:
    """The lines of a file, or of standard input, also those that are not UTF-8.

    Raises:
        ValueError: standard input is closed.
        OSError: the file cannot be read.
    """
    check_readable(file)
    with nullcontext(sys.stdin.buffer) if str(file) == STANDARD_INPUT else open(file, "rb") as lines:
        for number, line in enumerate(lines, 1):
            encoding = "utf-8-sig" if number == 1 else "utf-8"
            try:
                yield Line(number, line.decode(encoding), None)
            except UnicodeDecodeError as error:
                problem = f"not UTF-8 ({error.reason}); convert it first."
                yield Line(number, line.decode(encoding, "surrogateescape"), problem)


def lines_of(file: Path | str) -> Iterator[str]:
    """The lines of a file, or of standard input, with their line breaks.

    Raises:
        ValueError: one is not UTF-8, or standard input is closed.
        OSError: the file cannot be read.
    """
    for line in numbered_lines(file):
        if line.problem is not None:
            raise ValueError(f"{place_of(file, line.number)}: {line.problem}")
        yield line.text


def check_readable(file: Path | str) -> None:
    """Refuse a file that cannot be read, before there is work that would be lost.

    Raises:
        ValueError: standard input is closed.
        OSError: the file cannot be read.
    """
    if str(file) == STANDARD_INPUT:
        if sys.stdin is None:
            raise ValueError("Standard input is closed; give a file, or text on standard input.")
    elif not Path(file).is_fifo():  # what writes to a pipe would stop when it is closed
        open(file, "rb").close()


def shown_name(file: Path | str) -> str:
    """What messages call the file."""
    return "Standard input" if str(file) == STANDARD_INPUT else str(file)


def place_of(file: Path | str, number: int) -> str:
    """What messages call the line of that number."""
    return f"{shown_name(file)}, line {number}"
