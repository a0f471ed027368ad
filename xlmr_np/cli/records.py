"""What commands work on: records from arguments, text, JSON lines, CSV, or standard input."""

import argparse
import csv
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from xlmr_np.text_files import STANDARD_INPUT, check_readable, lines_of, numbered_lines, place_of, shown_name

from .terminal import complain

DELIMITERS = {"csv": ",", "tsv": "\t"}
FORMATS = ("text", "jsonl", "json", *DELIMITERS)
SUFFIXES = {".jsonl": "jsonl", ".json": "json", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv"}
LONGEST_CELL = 2**24  # characters; where a quotation mark lacks its partner, the rest of a file would be one cell


class Taken(NamedTuple):
    """What a command takes of a record.

    Attributes:
        fields: what each record must have; a record that is nothing but a text has the first.
        kind: what a record is, for messages.
        instead: what else may be given where a text alone is no record, for messages.
        optional: what it may have.
        lists: those fields that are lists of texts.
    """

    fields: tuple[str, ...]
    kind: str
    instead: str = ""
    optional: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()


class Record(NamedTuple):
    """Something to answer.

    Attributes:
        fields: its texts, by the command's names.
        place: where it comes from, for messages; None if it was an argument.
        number: from 1, among all records, also those that are left out.
    """

    fields: dict[str, Any]
    place: str | None = None
    number: int = 1


# How pipelines name an input by its number, which a place makes one number too many; and a part of it.
_SUBJECT = re.compile(r"^(?:Text|Question|Query|Prompt|Document) \d+(?:, ([^ ,]+),)? ")


def _part_of_subject(subject: "re.Match[str]") -> str:
    return f"{subject[1]} " if subject[1] else ""


class Problems:
    """What is wrong with records: the first is an error, or each is one line on standard error.

    Attributes:
        number: how many records were left out.
    """

    def __init__(self, may_skip: bool) -> None:
        self._may_skip = may_skip
        self.number = 0

    def report(self, place: str | None, problem: str | Exception) -> None:
        """Leave a record out.

        Raises:
            ValueError: records may not be left out.
        """
        message = f"{problem}" if place is None else f"{place}: {_SUBJECT.sub(_part_of_subject, str(problem))}"
        if not self._may_skip:
            raise ValueError(message)
        complain(message)
        self.number += 1


def add_input_arguments(parser: argparse.ArgumentParser, metavar: str, description: str) -> None:
    """Let a command say where its records come from; `Source` reads them."""
    parser.add_argument("texts", nargs="*", metavar=metavar, help=description)
    parser.add_argument(
        "--input", type=Path, metavar="FILE", help="a file: text, JSON lines, CSV, TSV; - is standard input"
    )
    parser.add_argument(
        "--input-format", choices=FORMATS, help="of --input or standard input (default: as the file's name ends; text)"
    )
    parser.add_argument(
        "--column", metavar="NAME", help="columns or keys to read: NAME, or NAME,NAME, or FIELD=NAME,FIELD=NAME"
    )
    parser.add_argument(
        "--skip-errors",
        action="store_true",
        help="report what cannot be read or answered, go on with the rest, and end with status 1",
    )


class Source:
    """The records that a command was given; each iteration reads them anew, one at a time.

    Attributes:
        problems: what was wrong with records.
    """

    def __init__(
        self,
        taken: Taken,
        texts: Sequence[str] = (),
        file: Path | None = None,
        file_format: str | None = None,
        column: str | None = None,
        may_skip: bool = False,
        keeps_blank_lines: bool = False,
    ) -> None:
        """Look where records come from, and whether they can be read.

        Args:
            taken: what the command takes of a record.
            texts: records that are texts, or else
            file: where they are; None is standard input.
            file_format: of the file; None goes by its name.
            column: see `columns_of`.
            may_skip: report what cannot be read, and go on.
            keeps_blank_lines: lines of a text are taken as they are, also those without text.

        Raises:
            ValueError: there are both texts and a file, or the arguments contradict each other.
            OSError: the file cannot be read.
        """
        if texts and file:
            raise ValueError("Texts came both as arguments and with --input; give them in one way.")
        if list(texts) == [STANDARD_INPUT]:
            raise ValueError("The only text is -; to read standard input, write --input -, or give no text at all.")
        self._taken = taken
        self._texts = texts
        self._file: Path | str = file or STANDARD_INPUT
        self._format = file_format or SUFFIXES.get(Path(self._file).suffix.lower(), "text")
        self._columns = None if column is None else columns_of(column, taken)
        self._keeps_blank_lines = keeps_blank_lines
        self.problems = Problems(may_skip)
        if self._is_plain and column is not None:
            raise ValueError("Columns are named in JSON lines, CSV or TSV, and not in plain text; see --input-format.")
        if self._is_plain and len(taken.fields) > 1:
            raise ValueError(
                f"A text alone is not {taken.kind}: give {taken.instead}JSON lines, CSV or TSV with "
                f"{' and '.join(taken.fields)}."
            )
        if not texts:
            check_readable(self._file)

    @classmethod
    def of(cls, options: argparse.Namespace, taken: Taken, keeps_blank_lines: bool = False) -> "Source":
        """The records that `add_input_arguments` tell of."""
        return cls(
            taken,
            options.texts,
            options.input,
            options.input_format,
            options.column,
            options.skip_errors,
            keeps_blank_lines,
        )

    @property
    def _is_plain(self) -> bool:
        """Whether a record is nothing but a text."""
        return bool(self._texts) or self._format == "text"

    @property
    def is_typed(self) -> bool:
        """Whether somebody types the records."""
        return not self._texts and str(self._file) == STANDARD_INPUT and sys.stdin.isatty()

    def ask(self) -> None:
        """Say what is to be typed, if it is."""
        if self.is_typed:
            print(f"Type {self._taken.kind} a line, and end with Ctrl-D.", file=sys.stderr)

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that records may have."""
        return self._taken.fields if self._is_plain else (*self._taken.fields, *self._taken.optional)

    @property
    def is_uniform(self) -> bool:
        """Whether all records have the same fields, as they do by columns; in JSON each may have others."""
        return self._columns is not None or self._format not in ("json", "jsonl")

    def __iter__(self) -> Iterator[Record]:
        """Read them.

        Raises:
            ValueError: there is none; or one cannot be read, and may not be left out.
            OSError: the file cannot be read.
        """
        first = self._taken.fields[0]
        if self._texts:
            yield from (Record({first: text}, number=number) for number, text in enumerate(self._texts, 1))
            return
        number = 0
        for number, (place, value, problem) in enumerate(self._values(), 1):
            if problem is None:
                try:
                    yield Record(fields_of(value, self._columns, self._taken), place, number)
                    continue
                except ValueError as error:
                    problem = str(error)
            self.problems.report(place, problem)
        if number == 0:
            place = {"json": "as an item of its list", "csv": "a row", "tsv": "a row"}.get(self._format, "a line")
            raise ValueError(f"{shown_name(self._file)} holds no text; give {self._taken.kind} {place}.")

    def count(self) -> int | None:
        """How many records there are; None if they can be read only once."""
        if self._texts:
            return len(self._texts)
        if str(self._file) == STANDARD_INPUT or not Path(self._file).is_file():
            return None
        return sum(1 for _ in self._values())

    def _values(self) -> "Iterator[Value]":
        if self._format in DELIMITERS:
            return rows_of(self._file, DELIMITERS[self._format])
        if self._format == "jsonl":
            return json_lines_of(self._file)
        if self._format == "json":
            return json_items_of(self._file)
        lines = texts_of(self._file, self._keeps_blank_lines)
        return lines if self._format == "text" else tab_separated(lines, self._columns or self.fields)


class Value(NamedTuple):
    """A record as a file has it.

    Attributes:
        place: where it begins, for messages.
        content: a text, what JSON says, or texts by column.
        problem: why it cannot be read; None if it can.
    """

    place: str
    content: Any
    problem: str | None = None


def texts_of(file: Path | str, keeps_blank_lines: bool) -> Iterator[Value]:
    """The lines of a file: as they are, or those with text, without the white space around it."""
    for line in numbered_lines(file):
        text = line.text.rstrip("\r\n") if keeps_blank_lines else line.text.strip()
        if text or keeps_blank_lines:
            yield Value(place_of(file, line.number), text, line.problem)


def tab_separated(lines: Iterator[Value], fields: Iterable[str]) -> Iterator[Value]:
    """Lines as fields with tabs between them, where there are several."""
    names = tuple(fields)
    for line in lines:
        cells = line.content.split("\t")
        if len(names) == 1 or len(cells) == 1:
            yield line
        elif len(cells) > len(names):
            yield line._replace(
                problem=line.problem or f"{_counted(len(cells) - 1, 'tab')} between {', '.join(names)}."
            )
        else:
            yield line._replace(content=dict(zip(names, cells, strict=False)))


def json_lines_of(file: Path | str) -> Iterator[Value]:
    """What the lines of a file say in JSON; blank ones say nothing."""
    for line in numbered_lines(file):
        place = place_of(file, line.number)
        if line.problem is not None:
            yield Value(place, None, line.problem)
        elif line.text.strip():
            try:
                yield Value(place, json.loads(line.text))
            except (ValueError, RecursionError) as error:
                yield Value(place, None, _json_problem(error))


def json_items_of(file: Path | str) -> Iterator[Value]:
    """The items of the list that a file is in JSON; it is read whole.

    Raises:
        ValueError: it is not a list in JSON.
    """
    try:
        items = json.loads("".join(lines_of(file)))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{shown_name(file)}: {_json_problem(error)}") from error
    if not isinstance(items, list):
        raise ValueError(f"{shown_name(file)}: {_kind(items)}; a file in JSON holds a list, JSON lines end in .jsonl.")
    for number, item in enumerate(items, 1):
        yield Value(f"{shown_name(file)}, item {number}", item)


def _json_problem(error: Exception) -> str:
    """What is wrong: where it stands, or a number of thousands of digits, or too many lists in lists."""
    if isinstance(error, json.JSONDecodeError):
        return f"not valid JSON ({error.msg}, at character {error.colno} of line {error.lineno})."
    return f"not valid JSON ({error})."


def rows_of(file: Path | str, delimiter: str) -> Iterator[Value]:
    """The rows of a CSV file whose first row names the columns.

    Raises:
        ValueError: the first row does not name columns.
    """
    number = 0  # of the first line of the row that is being read
    problem: str | None = None  # of a line of that row

    is_over = False

    def lines() -> Iterator[str]:
        nonlocal number, problem, is_over
        for line in numbered_lines(file):
            number, problem = number or line.number, problem or line.problem
            yield line.text
        is_over = True

    csv.field_size_limit(LONGEST_CELL)
    reader = csv.reader(lines(), delimiter=delimiter, strict=True)
    header: list[str] = []
    while True:
        number, problem, cells = 0, None, list[str]()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            rest = "; nothing after it could be read." if is_over else "."
            problem = problem or f"not valid CSV ({error}): a quotation mark lacks its partner, it seems{rest}"
        place = place_of(file, number)
        if not header:  # blank lines may come before it
            if problem is None and len(set(cells)) < len(cells):
                problem = "two columns have one name; the first line must name the columns."
            if problem is not None:
                raise ValueError(f"{place}: {problem}")
            header = cells
        elif problem is not None:
            yield Value(place, None, problem)
        elif cells and len(cells) != len(header):
            wanted = _counted(len(header), "column")
            verb = "is" if len(header) == 1 else "are"
            yield Value(place, None, f"{_counted(len(cells), 'cell')}, and there {verb} {wanted}.")
        elif cells:
            yield Value(place, dict(zip(header, cells, strict=True)))


def columns_of(description: str, taken: Taken) -> dict[str, str]:
    """The column of each field, as --column tells: names in the order of the fields, or FIELD=NAME.

    Raises:
        ValueError: a field is unknown, named twice, or missing.
    """
    fields = (*taken.fields, *taken.optional)
    columns: dict[str, str] = {}
    parts = description.split(",")
    for part, field in zip(parts, (*fields, *[""] * len(parts)), strict=False):
        if "=" in part:
            field, _, part = part.partition("=")
        if field not in fields or field in columns or not part:
            raise ValueError(
                f"--column {description!r} does not name columns of {', '.join(fields)}; write NAME, or FIELD=NAME."
            )
        columns[field] = part
    missing = [field for field in taken.fields if field not in columns]
    if missing:
        raise ValueError(f"--column {description!r} names no column of {', '.join(missing)}; write FIELD=NAME.")
    return columns


def fields_of(value: Any, columns: dict[str, str] | None, taken: Taken) -> dict[str, Any]:
    """The fields of a record.

    Args:
        value: a text, or a dict.
        columns: the column of each field; None goes by the names of fields, or takes the only column there is.
        taken: what is wanted of it.

    Raises:
        ValueError: it lacks one, or one is no text.
    """
    if isinstance(value, str) and len(taken.fields) == 1 and columns is None:
        return {taken.fields[0]: value}
    if not isinstance(value, dict):
        raise ValueError(f"{_kind(value)}; write {taken.kind} as an object with {' and '.join(taken.fields)}.")
    if columns is None:
        columns = {field: field for field in taken.fields}
        columns |= {field: field for field in taken.optional if value.get(field) is not None}
        if len(taken.fields) == len(value) == 1:
            columns = {taken.fields[0]: next(iter(value))}
    fields = {}
    for field, column in columns.items():
        if column not in value:
            raise ValueError(f"no column {column!r} among {', '.join(map(repr, value))}; name columns with --column.")
        fields[field] = value[column]
        is_list = field in taken.lists
        texts = fields[field] if is_list and isinstance(fields[field], list) else [fields[field]]
        if (is_list and texts is not fields[field]) or not all(isinstance(text, str) for text in texts):
            wanted = "a list of texts" if is_list else "a text"
            raise ValueError(f"{column!r} is {_kind(fields[field])}; it must be {wanted}.")
    return fields


_KINDS: tuple[tuple[Any, str], ...] = (
    (str, "a text"), (bool, "a truth value"), ((int, float), "a number"), (list, "a list"), (dict, "an object"),
)  # fmt: skip


def _counted(number: int, name: str) -> str:
    return f"{number} {name}{'s' * (number != 1)}"


def _kind(value: Any) -> str:
    """What JSON calls it."""
    return next((name for kind, name in _KINDS if isinstance(value, kind)), "null")
