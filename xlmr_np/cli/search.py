"""`xlmr-np search`: the texts of a corpus that are nearest in meaning to a query."""

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xlmr_np.text_files import shown_name

from . import ranking
from .answering import Unanswered, answer_records, answered, loaded_pipeline, status_of
from .records import Record, Source, Taken, add_input_arguments
from .results import Form, add_output_arguments, with_fields
from .source import add_running_arguments, add_trained_model_argument, check_at_least, trained_model
from .terminal import warnings_at_once
from .vectors import EXAMPLE, LONG_TEXTS, PURPOSE, add_prompt_arguments, prompt_of

if TYPE_CHECKING:
    import numpy as np

SUMMARY = "the texts of a corpus that are nearest in meaning to a query"
DESCRIPTION = """\
Finds the texts of a corpus whose vectors are nearest to that of a query. The corpus is embedded each time, unless its
vectors are given, as `xlmr-np embed --input docs.txt --output docs.npy` has made them with the same model.

Queries are the arguments, or the lines of a file (--input), or the lines of standard input.

  xlmr-np search --model intfloat/multilingual-e5-base --corpus docs.txt --document-prompt "passage: " \\
      --query-prompt "query: " "Wo schlafen Katzen?"
  xlmr-np search --model ./my-model --corpus docs.txt --vectors docs.npy --top-k 3 --input queries.txt --json
"""

TAKEN = Taken(("query",), "a query")
BLOCK = 1024  # vectors


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    add_input_arguments(parser, "QUERY", "queries")
    ranking.add_document_arguments(parser, "corpus", is_required=True)
    parser.add_argument("--vectors", type=Path, metavar="FILE", help="an .npy file with a vector for each document")
    add_trained_model_argument(parser, PURPOSE, EXAMPLE)
    add_prompt_arguments(parser, "query")
    add_prompt_arguments(parser, "document")
    parser.add_argument("--top-k", type=int, default=5, help="how many documents (default: 5)")
    add_output_arguments(parser)
    add_running_arguments(parser, LONG_TEXTS)


def run(options: argparse.Namespace) -> int:
    """Find the nearest documents for each query."""
    check_at_least("--top-k", options.top_k, 1)
    if options.vectors is not None and prompt_of(options, "document"):
        raise ValueError("--vectors were made of documents with what was before them; give no prompt for documents.")
    source = Source.of(options, TAKEN)
    corpus = ranking.documents_of(options)
    model = trained_model(options)

    def load() -> Any:
        pipe = loaded_pipeline("sentence-embedding", model, options)
        documents, vectors = _embedded(pipe, corpus, options) if options.vectors is None else _read(corpus, options)

        def search(queries: Iterable[str], **changes: Any) -> Iterator[Any]:
            for query in pipe(queries, **prompt_of(options, "query"), **changes):
                if isinstance(query, Unanswered):
                    yield query
                    continue
                if options.vectors is not None and vectors[0].shape[1] != len(query):
                    raise ValueError(
                        f"{options.vectors} has vectors of {vectors[0].shape[1]} numbers, and this model makes "
                        f"{len(query)}; make both with the same model and the same options."
                    )
                (found,) = pipe.semantic_search(query[None], vectors, top_k=options.top_k)
                yield [{**each, "text": documents[each["corpus_id"]].fields["text"]} for each in found]

        return search

    form = Form(ranking.table, with_fields("results"), lambda answer: answer, ("corpus_id", "score", "text"))
    status = answer_records(options, source, form, load, lambda fields: fields["query"])
    return max(status, status_of(corpus))


def _embedded(pipe: Any, corpus: Source, options: argparse.Namespace) -> "tuple[list[Record], list[np.ndarray]]":
    """The documents that can be embedded, and their vectors in blocks [B, D], which are never copied into one array."""
    import numpy as np

    documents: list[Record] = []
    blocks: list[np.ndarray] = []
    vectors: list[np.ndarray] = []
    with warnings_at_once():
        for record, vector in answered(pipe, corpus, lambda fields: fields["text"], **prompt_of(options, "document")):
            documents.append(record)
            vectors.append(vector)
            if len(vectors) == BLOCK:
                blocks.append(np.stack(vectors))
                vectors.clear()
    if not documents:
        raise ValueError(f"No document of {shown_name(options.documents)} can be read.")
    return documents, [*blocks, np.stack(vectors)] if vectors else blocks


def _read(corpus: Source, options: argparse.Namespace) -> "tuple[list[Record], list[np.ndarray]]":
    """The documents, and the vectors that were made of them, as one block [N, D].

    Raises:
        ValueError: the file holds no vectors, not as many as there are documents, or numbers that are not finite.
        OSError: it cannot be read.
    """
    import numpy as np

    documents = list(corpus)
    try:
        vectors = np.load(options.vectors, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:  # what NumPy says of it would be advice to unpickle it
        raise ValueError(f"{options.vectors} is no .npy file of vectors; make one with xlmr-np embed.") from error
    if not isinstance(vectors, np.ndarray) or vectors.ndim != 2 or vectors.dtype.kind != "f":
        raise ValueError(f"{options.vectors} holds no vectors; make them with xlmr-np embed.")
    if len(vectors) != len(documents):
        raise ValueError(
            f"{options.vectors} has {len(vectors)} vectors, and there are {len(documents)} documents; make them anew "
            "with xlmr-np embed."
        )
    for start in range(0, len(vectors), BLOCK):
        if not np.isfinite(vectors[start : start + BLOCK]).all():
            raise ValueError(f"{options.vectors} holds numbers that are not finite; make it anew with xlmr-np embed.")
    return documents, [vectors]
