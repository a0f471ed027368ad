"""`xlmr-np rank`: documents by how well they answer a query."""

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from xlmr_np.text_files import shown_name

from . import ranking
from .answering import answer_records, loaded_pipeline, status_of
from .records import Source, Taken, add_input_arguments
from .results import Form, add_output_arguments, with_fields
from .source import LONG_TEXTS, add_running_arguments, add_trained_model_argument, check_at_least, trained_model

if TYPE_CHECKING:
    from xlmr_np.pipelines.reranking import RerankingPipeline

SUMMARY = "documents by how well they answer a query"
DESCRIPTION = """\
Sorts documents by how well they answer a query, the best first, by a model that reads both together.

With --documents FILE the arguments are queries, or else the lines of --input or of standard input are. Without it the
first argument is the query, and the others are the documents. Or each query has its own documents: JSON lines with
query and documents, which is a list.

  xlmr-np rank --model BAAI/bge-reranker-v2-m3 --documents docs.txt --top-k 5 "Wo schlafen Katzen?"
  xlmr-np rank --model ./my-model "Wo schlafen Katzen?" "Auf dem Sofa." "Die Sonne scheint."
  xlmr-np rank --model ./my-model --input found.jsonl --output ranked.jsonl
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    add_input_arguments(parser, "QUERY", "queries; or without --documents a query and documents")
    ranking.add_document_arguments(parser, "documents", is_required=False)
    add_trained_model_argument(parser, "reranking", "BAAI/bge-reranker-v2-m3")
    parser.add_argument("--top-k", type=int, help="how many documents (default: all)")
    add_output_arguments(parser)
    add_running_arguments(parser, LONG_TEXTS)


def run(options: argparse.Namespace) -> int:
    """Sort the documents for each query."""
    check_at_least("--top-k", options.top_k, 1)
    documents: list[str] | None = None
    corpus: Source | None = None
    taken = Taken(("query",), "a query")
    if options.documents is not None:
        corpus = ranking.documents_of(options)
    elif len(options.texts) > 1:
        documents, options.texts = options.texts[1:], options.texts[:1]
    else:
        instead = "--documents, or more arguments, or "
        taken = Taken(("query", "documents"), "a query with its documents", instead, lists=("documents",))
    source = Source.of(options, taken)
    model = trained_model(options)

    def load() -> Any:
        nonlocal documents
        pipe = loaded_pipeline("reranking", model, options, top_k=options.top_k)
        if corpus is not None:
            documents = list(_readable(pipe, corpus))
            if not documents:
                raise ValueError(f"No document of {shown_name(options.documents)} can be read.")
        return pipe

    form = Form(ranking.table, with_fields("results"), lambda answer: answer, ("corpus_id", "score", "text"))
    status = answer_records(options, source, form, load, lambda fields: {"documents": documents, **fields})
    return status if corpus is None else max(status, status_of(corpus))


def _readable(pipe: "RerankingPipeline", corpus: Source) -> Iterator[str]:
    """The documents in which there is something to read; others are reported, once, and not for each query."""
    for record in corpus:
        text = record.fields["text"]
        try:
            pipe.tokens_of(f"Document {record.number}", text)
        except ValueError as error:
            corpus.problems.report(record.place, error)
        else:
            yield text
