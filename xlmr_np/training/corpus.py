"""Corpora: text files with a document a line, of which every so many lines are kept back to measure on."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from xlmr_np.text_files import lines_of


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
        raise ValueError(f"{', '.join(map(str, files))}: there is no {kind}; give files with a document a line.")
