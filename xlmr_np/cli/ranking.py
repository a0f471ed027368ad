"""What commands that put documents in order share: where these come from, and how they are shown."""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .records import Source, Taken
from .results import Fields
from .terminal import printable, scored_lines, shortened

WIDTH = 100  # columns of a document in a table

DOCUMENT = Taken(("text",), "a document")


def add_document_arguments(parser: argparse.ArgumentParser, name: str, is_required: bool) -> None:
    """Let a command say where its documents are; `documents_of` tells."""
    parser.add_argument(
        f"--{name}", dest="documents", type=Path, required=is_required, metavar="FILE",
        help="the documents: a file with one a line, JSON lines, CSV or TSV; in answers corpus_id is the number of "
        "one, from 0, among those that can be read",
    )  # fmt: skip
    parser.add_argument("--document-column", metavar="NAME", help="the column or key that has them (default: text)")


def documents_of(options: argparse.Namespace) -> Source:
    """The documents of a command."""
    return Source(DOCUMENT, file=options.documents, column=options.document_column, may_skip=options.skip_errors)


def table(fields: Fields, answer: list[dict[str, Any]]) -> Iterable[str]:
    """A query, and documents with their scores and numbers from 0."""
    yield printable(fields["query"])
    shown = [(each["score"], str(each["corpus_id"]), shortened(printable(each["text"]), WIDTH)) for each in answer]
    yield from scored_lines(shown)
