"""Corpora: text files with a document a line, of which every so many lines are kept back to measure on."""

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from xlmr_np.text_files import STANDARD_INPUT, lines_of

BLOCK_BYTES = 2**20  # read at a time


def check_files(files: Sequence[Path]) -> None:
    """Refuse what cannot be read several times, as files can.

    Raises:
        ValueError: there is no file, or one is a pipe or standard input.
        OSError: there is no such file.
    """
    if not files:
        raise ValueError("There are no texts; give files with a document a line.")
    for file in files:
        if file.is_dir():
            raise ValueError(f"{file} is a directory; give the files in it.")
        if str(file) != STANDARD_INPUT:
            file.stat()  # one that is not there is missed now, and not after the others have been read
        if str(file) == STANDARD_INPUT or not file.is_file():
            raise ValueError(f"{file} can be read only once, and texts are read several times; give files.")


def checksum(file: Path) -> int:
    """A number that another file hardly ever shares."""
    number = 0
    with open(file, "rb") as content:
        while block := content.read(BLOCK_BYTES):
            number = zlib.crc32(block, number)
    return number


def is_held_out(number: int, every: int) -> bool:
    """Whether the line of this number, from 1, is kept back, where every line of a multiple of `every` is (0: none)."""
    return every > 0 and number % every == 0


def documents(files: Sequence[Path], every: int = 0, held_out: bool = False) -> Iterator[str]:
    """The documents of all files in their order, without the white space around them; blank lines are none.

    Args:
        files: text files in UTF-8.
        every: see `is_held_out`; lines of all files count from 1, so that a line is kept back together with its
            translations in other files.
        held_out: give the documents that are kept back in place of the others.

    Raises:
        ValueError: there is no document, or a file is no text.
        OSError: a file cannot be read.
    """
    is_empty = True
    for file in files:
        for number, line in enumerate(lines_of(file), 1):
            if "\0" in line:
                raise ValueError(f"{file}, line {number}: a NUL character, which no text has; give text files only.")
            document = line.strip()
            if document and is_held_out(number, every) == held_out:
                is_empty = False
                yield document
    if is_empty:
        kind = "line that is held out" if held_out else "line to learn from"
        others = f" and {len(files) - 1} more" if len(files) > 1 else ""
        raise ValueError(f"There is no {kind} in {files[0]}{others}; give files with a document a line.")
