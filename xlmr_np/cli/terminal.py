"""What commands read from and show on a terminal: texts, tables, warnings, progress."""

import json
import logging
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from xlmr_np.text_files import STANDARD_INPUT, lines_of, shown_name

BAR_AFTER = 1.0  # seconds of work from which a progress bar is worth its line

HIDDEN_CATEGORIES = ("Cc", "Cf", "Cs", "Zl", "Zp")  # what a terminal may obey in place of showing it
JOINERS = "\u200c\u200d"  # of category Cf, but part of the spelling in Persian, Hindi and others
ZERO_WIDTH_CATEGORIES = ("Mn", "Me", "Cf")


def complain(message: str) -> None:
    """Write one line to standard error."""
    print(f"xlmr-np: {printable(' '.join(message.split()))}", file=sys.stderr)


def message_of(error: BaseException) -> str:
    """What an exception says."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


@contextmanager
def warnings_on_one_line() -> Iterator[None]:
    """Show what the block logs on one line of standard error each; if it fails, its error says all."""
    messages: list[str] = []
    with _warnings_go_to(messages.append):
        yield
    for message in messages:
        complain(message)


def warnings_at_once() -> AbstractContextManager[None]:
    """Show what the block logs as it comes, on one line of standard error each."""
    return _warnings_go_to(complain)


@contextmanager
def _warnings_go_to(show: Callable[[str], None]) -> Iterator[None]:
    handler = logging.Handler()
    handler.emit = lambda record: show(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("xlmr_np")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def read_texts(texts: list[str], file: Path | None, kind: str) -> tuple[Iterable[str], int | None]:
    """The texts given as arguments, those of a file, or else of standard input, and their number where it is known.

    Args:
        texts: the arguments.
        file: what --input names.
        kind: what a text is here, for messages.

    Raises:
        ValueError: there are both arguments and a file, or no texts.
        OSError: the file cannot be read.
    """
    if texts and file:
        raise ValueError("Texts came both as arguments and with --input; give them in one way.")
    if texts:
        return texts, len(texts)
    if file and str(file) != STANDARD_INPUT:
        texts = list(texts_of(file, kind))
        return texts, len(texts)
    return texts_of(STANDARD_INPUT, kind), None


def texts_of(file: Path | str, kind: str) -> Iterator[str]:
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
        raise ValueError(f"{shown_name(file)} holds no text; give {kind} a line.")


def with_progress_bar(items: Iterable[Any], number: int | None) -> Iterable[Any]:
    """The items, with a bar on standard error if that is a terminal."""
    if not sys.stderr.isatty():
        return items
    from tqdm import tqdm

    return tqdm(items, total=number, unit=" texts", delay=BAR_AFTER)


def print_rows(rows: Iterable[tuple[str, str]]) -> None:
    """Print what is known by names, one fact a line."""
    for name, value in rows:
        print(f"{name:<14}{printable(value)}")


def megabytes(size: int) -> str:
    """A number of bytes for people."""
    return f"{size / 1e6:,.1f} MB"


def printable(text: str) -> str:
    """The text on one line, with escapes for what a terminal may obey and for what the output cannot encode.

    The escapes are JSON's, so that a line of JSON means the same afterwards.
    """
    encoding = sys.stdout.encoding or "utf-8"

    def is_shown(character: str) -> bool:
        if unicodedata.category(character) in HIDDEN_CATEGORIES:
            return character in JOINERS
        return character.encode(encoding, "ignore") != b""

    return "".join(character if is_shown(character) else json.dumps(character)[1:-1] for character in text)


def columns(text: str) -> int:
    """How many columns of a terminal the text takes."""
    return sum(
        0
        if unicodedata.category(character) in ZERO_WIDTH_CATEGORIES
        else 2
        if unicodedata.east_asian_width(character) in "WF"
        else 1
        for character in text
    )
