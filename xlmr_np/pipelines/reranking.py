"""Reranking: which documents answer a query best, by a model that reads the query and a document together."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from xlmr_np.config import XLMRobertaConfig
from xlmr_np.models import XLMRobertaForSequenceClassification
from xlmr_np.pipelines.base import Location, TaskPipeline, TruncationSetting, WarnOnce, finite, sigmoid
from xlmr_np.pipelines.streaming import BatchLimits, Row, streamed
from xlmr_np.pipelines.text_classification import TextReading
from xlmr_np.progress import with_progress_bar
from xlmr_np.tokenizer import XLMRobertaTokenizer
from xlmr_np.tokenizer.arguments import checked_flag, checked_text, whole_number
from xlmr_np.weights.errors import CheckpointError
from xlmr_np.weights.files import locate
from xlmr_np.weights.sentence_transformers import GENERAL_FILE, read_library_json

PARTS = ("query", "document")
ACTIVATIONS = {"sigmoid": sigmoid, "none": lambda logits: logits}
# The classes that sentence-transformers writes into its files; none is imported.
CLASSES = {
    f"torch.nn.{home}{name}": activation
    for name, module, activation in (("Sigmoid", "activation", "sigmoid"), ("Identity", "linear", "none"))
    for home in ("", f"modules.{module}.")
}


@dataclass(frozen=True, kw_only=True)
class RerankingSetting(TruncationSetting):
    """What may be asked of reranking. Of a query and a document that are too long together, the longer is cut first.

    Attributes:
        top_k: how many documents, the best first; None: all.
        return_documents: whether answers hold the documents, or only their places.
        activation: what makes scores of logits, "sigmoid" or "none". None: what the checkpoint says, else the sigmoid.
    """

    top_k: int | None = None
    return_documents: bool = True
    activation: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_flag("return_documents", self.return_documents)
        if self.top_k is not None:
            whole_number("top_k", self.top_k, minimum=1)
        if self.activation not in (None, *ACTIVATIONS):
            raise ValueError(
                f"activation={self.activation!r} is none of {', '.join(ACTIVATIONS)}; leave it out for what the "
                "checkpoint says."
            )


class Candidates(NamedTuple):
    """Documents, with one row for each, of the query and it."""

    documents: list[str]
    rows: tuple[Row, ...]


class RerankingPipeline(TaskPipeline[RerankingSetting]):
    """Sorts documents by how well they answer a query, by a model with one label (bge-reranker-v2-m3 and others).

    An input is {"query": ..., "documents": [...]}. Its answer is a list of dicts, the best document first, of

    - corpus_id: the document's place in the input, from 0,
    - score: what the model makes of it,
    - text: the document itself.

    Documents whose scores round to one number are sorted by their logits, and equal ones by place.
    """

    setting_class = RerankingSetting
    input_name = "Query"

    def __init__(
        self, model: XLMRobertaForSequenceClassification, tokenizer: XLMRobertaTokenizer, **settings: Any
    ) -> None:
        """Hold the model and the settings that calls may override.

        Args:
            model: with one label.
            tokenizer: its tokenizer.
            **settings: of `RerankingSetting`.

        Raises:
            ValueError: the model has other labels, or names an activation that is not known; or as for `TaskPipeline`.
            TypeError: as for `TaskPipeline`.
        """
        super().__init__(model, tokenizer, **settings)
        labels = model.config.num_labels
        if labels != 1:
            raise ValueError(
                f"Reranking needs a model with one label, whose logit is the score, and this one has {labels}; the "
                "task text-classification is for models with several."
            )
        self._default_activation = _activation_of_config(model.config)

    @classmethod
    def from_checkpoint(cls, source: str | os.PathLike[str], location: Location) -> tuple[Location, dict[str, Any]]:
        """See `TaskPipeline.from_checkpoint`; what sentence-transformers has saved beside a model says how it scores.

        Raises:
            OSError: a file cannot be read.
            CheckpointError: a file is damaged, or asks for what is not supported.
        """
        path = locate(source, GENERAL_FILE, **location)
        found = {} if path is None else read_library_json(path, dict)
        if found.get("default_prompt_name") is not None:
            raise CheckpointError(
                f"{path} asks for the prompt {found['default_prompt_name']!r} before each pair, which reranking does "
                "not support; choose another model."
            )
        if found.get("activation_fn") is None:
            return location, {}
        try:
            return location, {"activation": _activation_of_class(found["activation_fn"])}
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from error

    def rank(self, query: str, documents: Iterable[str], **changes: Any) -> list[dict[str, Any]]:
        """The documents, sorted by how well they answer the query.

        All of them and their tokens are held until the query is answered; `predict` reads pairs by and by.

        Args:
            query: what is asked.
            documents: any number of texts.
            **changes: settings of the pipeline that are others in this call.

        Raises:
            ValueError: a text cannot be read, or a setting is out of its range.
            TypeError: a text is none, or a setting is unknown.
        """
        ranked: list[dict[str, Any]] = self({"query": query, "documents": documents}, **changes)
        return ranked

    def predict(self, pairs: Iterable[tuple[str, str]], **changes: Any) -> np.ndarray:
        """The scores [N] of pairs of a query and a document, in their order.

        Args:
            pairs: any number of them, as lists or tuples of two texts.
            **changes: settings of the pipeline that are others in this call; what `on_error` returns must be a number.

        Raises:
            ValueError: a text cannot be read, or a setting is out of its range.
            TypeError: a pair is none, or a setting is unknown.
        """
        setting, warned = self.changed(changes), WarnOnce()
        if isinstance(pairs, str | bytes | dict) or not isinstance(pairs, Iterable):
            raise TypeError(f"Give pairs as a list of (query, document); got {type(pairs).__name__}.")

        def read(number: int, pair: Any) -> TextReading:
            name = f"Pair {number}"
            if not isinstance(pair, list | tuple) or len(pair) != 2:
                raise TypeError(f"{name} is {type(pair).__name__}, where a list of pairs (query, document) belongs.")
            texts = [checked_text(text, f"{name}, {part},") for text, part in zip(pair, PARTS, strict=True)]
            return TextReading((self.cut_row(name, texts, setting, warned),))

        def compute(rows: list[Row]) -> Iterable[np.floating]:
            return self.compute(rows, setting)

        def score(reading: Any, results: list[Any]) -> float:
            return float(self.scores(np.stack(results), setting)[0])

        limits = BatchLimits(setting.batch_size, setting.batch_tokens)
        scores = streamed(pairs, read, compute, score, limits, setting.on_error)
        number = len(pairs) if isinstance(pairs, list | tuple) else None
        shown = with_progress_bar(scores, number, unit="pairs", is_wanted=setting.progress_bar)
        return np.array(list(shown), np.result_type(self.model.dtype, np.float32))

    def read(self, number: int, value: Any, setting: RerankingSetting, warned: WarnOnce) -> Candidates:
        """The query with each document."""
        name = self.name_of(number)
        if not isinstance(value, dict) or value.keys() != {"query", "documents"}:
            found = f"has the keys {', '.join(map(repr, value))}" if isinstance(value, dict) else _kind(value)
            error = ValueError if isinstance(value, dict) else TypeError
            raise error(f'{name} {found}; write it as {{"query": ..., "documents": [...]}}.')
        if isinstance(value["documents"], str | bytes | dict) or not isinstance(value["documents"], Iterable):
            raise TypeError(f"{name}: documents {_kind(value['documents'])}, where a list of str belongs.")
        query = self.tokens_of(name, checked_text(value["query"], name))
        documents, rows = [], []
        for place, document in enumerate(value["documents"]):
            with_document = f"{name}, documents[{place}],"
            documents.append(checked_text(document, with_document))
            parts = [query, self.tokens_of(with_document, document)]
            rows.append(self.row_of(with_document, parts, setting, warned))
        return Candidates(documents, tuple(rows))

    def compute(self, rows: list[Row], setting: RerankingSetting) -> Iterable[np.floating]:
        """The logit of each row."""
        output, _ = self.forward(rows)
        return finite(output.logits)[:, 0]

    def answer(self, reading: Any, results: list[Any], setting: RerankingSetting) -> list[dict[str, Any]]:
        """The documents with their scores, the best first."""
        logits = np.array(results)
        scores = self.scores(logits, setting)
        return [
            {"corpus_id": place, "score": float(scores[place])}
            | ({"text": reading.documents[place]} if setting.return_documents else {})
            for place in np.argsort(-logits, kind="stable")[: setting.top_k].tolist()
        ]

    def scores(self, logits: np.ndarray, setting: RerankingSetting) -> np.ndarray:
        """What is made of logits [N]."""
        scores: np.ndarray = ACTIVATIONS[setting.activation or self._default_activation](logits)
        return scores


def _activation_of_config(config: XLMRobertaConfig) -> str:
    """What a config.json that sentence-transformers has written says, in its newer or its older way; else the sigmoid.

    Raises:
        ValueError: it names an activation that is not known.
    """
    written = getattr(config, "sentence_transformers", None)
    if isinstance(written, dict) and written.get("activation_fn") is not None:
        return _activation_of_class(written["activation_fn"])
    older = getattr(config, "sbert_ce_default_activation_function", None)
    return "sigmoid" if older is None else _activation_of_class(older)


def _activation_of_class(name: Any) -> str:
    """What an activation is called here.

    Raises:
        ValueError: it is not known.
    """
    if not isinstance(name, str) or name not in CLASSES:
        raise ValueError(
            f"The activation {name!r} of this model's scores is not known; the known ones are {', '.join(CLASSES)}."
        )
    return CLASSES[name]


def _kind(value: Any) -> str:
    return f"is a {type(value).__name__}"
