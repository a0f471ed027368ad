"""Where commands write what they find: a table for people, JSON lines, CSV, or an array of NumPy."""

import argparse
import csv
import errno
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, Protocol, TextIO

from xlmr_np.text_files import STANDARD_INPUT

from .records import DELIMITERS, Record, Source
from .terminal import printable, shortened, write_errors_name

if TYPE_CHECKING:
    import numpy as np

FORMATS = ("table", "jsonl", "json", *DELIMITERS)
SUFFIXES = {
    ".txt": "table",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".npy": "npy",
}

LONGEST_LINE = 1000  # columns of a terminal

Fields = dict[str, Any]


class Form(NamedTuple):
    """How the answers of a command are written; its functions take an answer, two also the fields.

    Attributes:
        table: the lines of a table for people.
        json: a record and its answer as JSON.
        rows: the rows of CSV, without the fields.
        columns: the names in these rows; None takes those of the first row.
        vectors: an array [N, D] of which the rows go into an .npy file; None if there is none.
        shows_fields: whether the rows of CSV begin with the fields.
        is_one_row: whether each answer is one row of CSV, so that rows need no number to tell whose they are.
        cuts_lines: whether lines of the table that are longer than anybody reads may be cut on a terminal.
    """

    table: Callable[[Fields, Any], Iterable[str]]
    json: Callable[[Fields, Any], Any]
    rows: Callable[[Any], Iterable[dict[str, Any]]]
    columns: tuple[str, ...] | None
    vectors: "Callable[[Any], np.ndarray] | None" = None
    shows_fields: bool = True
    is_one_row: bool = False
    cuts_lines: bool = False


def with_fields(name: str) -> Callable[[Fields, Any], dict[str, Any]]:
    """JSON of the fields of a record, and its answer by this name."""
    return lambda fields, answer: {**fields, name: answer}


def add_output_arguments(parser: argparse.ArgumentParser, has_vectors: bool = False) -> Any:
    """Let a command say where its answers go; `opened_results` writes them.

    Returns:
        The group of options of which one may be given, with --format and --json in it.
    """
    formats = (*FORMATS, "npy") if has_vectors else FORMATS
    add_output_argument(parser, "write here; a file is complete, or not there")
    parser.add_argument("--overwrite", action="store_true", help="replace the file of --output if there is one")
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--format",
        choices=formats,
        help="of the answers (default: as the file's name ends; table). Where answers may have several rows of csv or "
        "tsv, each begins with the number of its record, from 1, and only the first has the text",
    )
    group.add_argument("--json", dest="format", action="store_const", const="jsonl", help="the same as --format jsonl")
    return group


def add_output_argument(parser: argparse.ArgumentParser, description: str) -> None:
    """Let a command say where it writes; None is standard output."""
    parser.add_argument("--output", type=_file_to_write, metavar="FILE", help=f"{description}; - is standard output")


def _file_to_write(name: str) -> Path | None:
    return None if name == STANDARD_INPUT else Path(name)


def format_of(options: argparse.Namespace, form: Form) -> str:
    """The format that was asked for.

    Raises:
        ValueError: nobody says which, or the answers cannot be written in it.
    """
    name: str | None = options.format
    if name is None and options.output is None:
        return "table"
    if name is None:
        name = SUFFIXES.get(options.output.suffix.lower())
        if name is None:
            raise ValueError(
                f"The name of {options.output} does not end like one of {', '.join(SUFFIXES)}; name it so, or give "
                "--format."
            )
    if name == "npy" and form.vectors is None:
        raise ValueError("An .npy file holds vectors, and these answers are none; write .jsonl or .csv.")
    if name == "npy" and options.skip_errors:
        raise ValueError("Rows of an .npy file are found by their numbers: none can be left out (--skip-errors).")
    if name == "npy" and options.output is None:
        raise ValueError("An .npy file is completed at its beginning when all is known; name it with --output.")
    return name


class Results(Protocol):
    """What takes answers."""

    is_on_terminal: bool

    def write(self, record: Record, answer: Any) -> None:
        """Write one."""

    def finish(self) -> None:
        """Write what comes at the end."""


@contextmanager
def opened_results(options: argparse.Namespace, form: Form, source: Source) -> Iterator[Results]:
    """What takes the answers of a command; with --output, they are in that file when the block has ended well.

    Args:
        options: of `add_output_arguments`.
        form: how answers are written.
        source: the records that are answered.

    Raises:
        ValueError: as for `format_of`, or the file is there and may not be replaced.
        OSError: the file cannot be written.
    """
    name = format_of(options, form)
    if options.output is None:
        with write_errors_name("standard output"):
            results = _results(name, sys.stdout, form, source)
            yield results
            results.finish()
        return
    with opened_output(options.output, options.overwrite) as binary:
        if name == "npy":
            array = _Array(binary, form)
            yield array
            array.finish()
            return
        text = io.TextIOWrapper(binary, encoding="utf-8", newline="")
        results = _results(name, text, form, source)
        yield results
        results.finish()
        text.flush()
        text.detach()


@contextmanager
def opened_output(path: Path, may_replace: bool) -> Iterator[IO[bytes]]:
    """A file to write, beside its place until the block has ended well.

    Pipes and devices are written as they are.

    Raises:
        ValueError: the file is there, and may not be replaced.
        OSError: it cannot be written; the error names it.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        with write_errors_name(str(path)), open(path, "wb") as stream:
            yield stream
        return
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not may_replace:
        raise ValueError(f"{path} exists already; add --overwrite to replace it, or name another file.")
    from xlmr_np.weights.saving import replacing

    with write_errors_name(str(path)), replacing(Path(os.path.realpath(path))) as beside:
        try:
            beside.touch()
        except OSError as error:
            error.filename = str(path)  # and not the file beside it
            raise
        with open(beside, "wb") as stream:
            yield stream


def _results(name: str, stream: TextIO, form: Form, source: Source) -> Results:
    if name in DELIMITERS:
        return _Rows(stream, form, source, DELIMITERS[name])
    return {"table": _Table, "jsonl": _JsonLines, "json": _JsonList}[name](stream, form)


class _Table:
    """Lines for people; they are there as soon as they are known."""

    def __init__(self, stream: TextIO, form: Form) -> None:
        self.is_on_terminal = stream.isatty()
        self._stream, self._form = stream, form

    def write(self, record: Record, answer: Any) -> None:
        lines = self._form.table(record.fields, answer)
        is_cut = self.is_on_terminal and self._form.cuts_lines
        self._print((shortened(line, LONGEST_LINE) for line in lines) if is_cut else lines)

    def finish(self) -> None:
        """There is nothing at the end."""

    def _print(self, lines: Iterable[str]) -> None:
        for line in lines:
            print(line, file=self._stream)
        if self._stream is sys.stdout:
            self._stream.flush()

    def _as_json(self, value: Any) -> str:
        return printable(json.dumps(value, ensure_ascii=False), self._stream.encoding)


class _JsonLines(_Table):
    """A line of JSON for each record."""

    def write(self, record: Record, answer: Any) -> None:
        self._print([self._as_json(self._form.json(record.fields, answer))])


class _JsonList(_Table):
    """One list in JSON, an item a line; what is a list itself gives several items."""

    def __init__(self, stream: TextIO, form: Form) -> None:
        super().__init__(stream, form)
        self._separator = "["

    def write(self, record: Record, answer: Any) -> None:
        value = self._form.json(record.fields, answer)
        for item in value if isinstance(value, list) else [value]:
            self._print([self._separator + self._as_json(item)])
            self._separator = ","

    def finish(self) -> None:
        self._print(["[]" if self._separator == "[" else "]"])


class _Rows:
    """CSV: the fields of a record before the row of its answer.

    Where an answer may have several rows, the number of the record stands in each, and the fields only in the first: a
    text of a megabyte with thousands of names in it would be written thousands of times.
    """

    def __init__(self, stream: TextIO, form: Form, source: Source, delimiter: str) -> None:
        self.is_on_terminal = stream.isatty()
        self._stream, self._form, self._source, self._delimiter = stream, form, source, delimiter
        self._writer: csv.DictWriter[str] | None = None
        self._fields: list[str] = []

    def write(self, record: Record, answer: Any) -> None:
        has_number = self._form.shows_fields and not self._form.is_one_row
        fields: Fields = record.fields
        for row in self._form.rows(answer):
            writer = self._writer or self._started(row, fields)
            number = {"number": record.number} if has_number else {}
            cells = {**number, **{name: fields[name] for name in self._fields if name in fields}, **row}
            if self.is_on_terminal:
                cells = {name: printable(cell) if isinstance(cell, str) else cell for name, cell in cells.items()}
            writer.writerow(cells)
            if has_number:
                fields = {}
        if self._stream is sys.stdout:
            self._stream.flush()

    def finish(self) -> None:
        """Name the columns, if nothing else is to be said."""
        if self._writer is None:
            self._started((), dict.fromkeys(self._source.fields))

    def _started(self, first_row: Iterable[str], first_fields: Fields) -> "csv.DictWriter[str]":
        if self._form.shows_fields:
            is_known = self._source.is_uniform
            self._fields = [name for name in self._source.fields if name in first_fields or not is_known]
        number = ["number"] if self._form.shows_fields and not self._form.is_one_row else []
        columns = first_row if self._form.columns is None else self._form.columns
        names = dict.fromkeys([*number, *self._fields, *columns])
        self._writer = csv.DictWriter(self._stream, list(names), delimiter=self._delimiter, lineterminator="\n")
        self._writer.writeheader()
        return self._writer


class _Array:
    """An .npy file; how many rows it has is written into its header at the end, for which there is room."""

    is_on_terminal = False

    def __init__(self, stream: IO[bytes], form: Form) -> None:
        self._stream, self._form = stream, form
        self._number = self._header_size = 0
        self._example: np.ndarray | None = None  # of which the other rows have the width and the type

    def write(self, record: Record, answer: Any) -> None:
        vectors = self._form.vectors(answer)  # type: ignore[misc]
        if self._example is None:
            self._example = vectors[:0]
            self._write_header()
            self._header_size = self._stream.tell()
        self._stream.write(vectors.astype(self._example.dtype, order="C", copy=False).tobytes())
        self._number += len(vectors)

    def finish(self) -> None:
        """Say how many rows there are.

        Raises:
            RuntimeError: the header has grown into the rows.
        """
        if self._example is None:
            return
        self._stream.seek(0)
        self._write_header()
        if self._stream.tell() != self._header_size:
            raise RuntimeError("The header of the .npy file has not kept its size; write .jsonl.")
        self._stream.seek(0, os.SEEK_END)

    def _write_header(self) -> None:
        from numpy.lib import format as npy

        assert self._example is not None
        description = npy.dtype_to_descr(self._example.dtype)
        shape = (self._number, self._example.shape[1])
        npy.write_array_header_1_0(self._stream, {"descr": description, "fortran_order": False, "shape": shape})
