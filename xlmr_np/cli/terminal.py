"""What commands show on a terminal: tables, marked texts, warnings."""

import errno
import json
import logging
import os
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple
from zlib import crc32

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
def write_errors_name(name: str) -> Iterator[None]:
    """Let errors that only writing has, such as a full disk, name what was written."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            error.filename = name
        raise


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


def print_rows(rows: Iterable[tuple[str, str]]) -> None:
    """Print what is known by names, one fact a line."""
    for name, value in rows:
        print(f"{name:<14}{printable(value)}")


def megabytes(size: int) -> str:
    """A number of bytes for people."""
    return f"{size / 1e6:,.1f} MB"


def printable(text: str, encoding: str | None = None) -> str:
    """The text on one line, with escapes for what a terminal may obey and for what the output cannot encode.

    The escapes are JSON's, so that a line of JSON means the same afterwards.

    Args:
        text: any.
        encoding: of the output; None is that of standard output.
    """
    encoding = encoding or sys.stdout.encoding or "utf-8"

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


def shortened(text: str, width: int) -> str:
    """The beginning of a printable text, in so many columns of a terminal at most."""
    if columns(text) <= width:
        return text
    end, room = 0, width - 1  # for the dots
    while (room := room - columns(text[end])) >= 0:
        end += 1
    return text[:end] + "\u2026"


def scored_lines(items: Iterable[tuple[float, str, str]]) -> list[str]:
    """A line for each (score, name, remark); the names are padded to one width, where there are remarks."""
    shown = [(score, printable(name), printable(remark)) for score, name, remark in items]
    width = max((columns(name) for _, name, _ in shown), default=0)
    return [
        f"  {score:<#9.4g}  {name}{' ' * (width - columns(name))}  {remark}".rstrip() for score, name, remark in shown
    ]


class Span(NamedTuple):
    """A part of a text to be marked.

    Attributes:
        start: its first character.
        end: the character after it.
        label: what it is; empty if that needs not be said.
        score: of the label; None if there is none.
    """

    start: int
    end: int
    label: str = ""
    score: float | None = None


COLORS = {"PER": 34, "ORG": 35, "LOC": 32, "MISC": 33}
OTHER_COLORS = (31, 36, 94, 95, 92, 96)


def has_colors() -> bool:
    """Whether standard output is a terminal that shows colours, and nobody asks for none (NO_COLOR)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def marked(text: str, spans: Sequence[Span], is_colored: bool) -> str:
    """A printable text in which spans, which do not overlap, are coloured, or else [written](LABEL 0.99)."""
    parts, end = [], 0
    for span in sorted(spans):
        parts.append(printable(text[end : span.start]))
        score = "" if span.score is None else f" {span.score:.2f}"
        label = printable(f"{span.label}{score}".strip())
        inside = printable(text[span.start : span.end])
        if is_colored:
            kind = span.label.rpartition("-")[2]
            color = COLORS.get(kind, OTHER_COLORS[crc32(kind.encode("utf-8", "replace")) % len(OTHER_COLORS)])
            parts.append(f"\x1b[1;{color}m{inside}\x1b[0m" + (f"\x1b[2m({label})\x1b[0m" if label else ""))
        else:
            parts.append(f"[{inside}]" + (f"({label})" if label else ""))
        end = span.end
    return "".join([*parts, printable(text[end:])])
