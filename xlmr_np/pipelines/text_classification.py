"""Text classification: which labels a text, or a pair of texts, has."""

from collections.abc import Iterable
from dataclasses import dataclass
from types import EllipsisType
from typing import Any, NamedTuple

import numpy as np

from xlmr_np.layers.softmax import softmax_forward
from xlmr_np.pipelines.base import TaskPipeline, TruncationSetting, WarnOnce, finite, sigmoid
from xlmr_np.pipelines.streaming import Row
from xlmr_np.tokenizer.arguments import checked_text, whole_number

FUNCTIONS = {"softmax": lambda logits: softmax_forward(logits)[0], "sigmoid": sigmoid, "none": lambda logits: logits}
PARTS = ("text", "text_pair")


@dataclass(frozen=True, kw_only=True)
class TextClassificationSetting(TruncationSetting):
    """What may be asked of text classification.

    Attributes:
        top_k: how many labels, the likeliest first; None: all. Unless it is given, an answer is the likeliest label
            alone, and no list.
        function_to_apply: what makes scores of logits, "softmax", "sigmoid" or "none". None: nothing for regression;
            the sigmoid for one label, or several a text; the softmax for one of several labels.
    """

    top_k: int | EllipsisType | None = ...
    function_to_apply: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.top_k is not None and self.top_k is not ...:
            whole_number("top_k", self.top_k, minimum=1)
        if self.function_to_apply not in (None, *FUNCTIONS):
            raise ValueError(
                f"function_to_apply={self.function_to_apply!r} is none of {', '.join(FUNCTIONS)}; leave it out for "
                "what the model's config says."
            )


class TextReading(NamedTuple):
    """A text, or a pair, as one row."""

    rows: tuple[Row]


class TextClassificationPipeline(TaskPipeline[TextClassificationSetting]):
    """Labels texts (sentiment, topic, entailment, similarity), by a model with a classifier of sentences.

    An input is a text, or a pair {"text": ..., "text_pair": ...}. Its answer is a dict of `label` and `score`; with
    `top_k` a list of such dicts. As in the reference, the answer to a single text stands in a list of its own, unless
    the call says `top_k`.
    """

    setting_class = TextClassificationSetting

    def __call__(self, inputs: Any, **changes: Any) -> Any:
        """See `TaskPipeline.__call__`."""
        answer = super().__call__(inputs, **changes)
        return [answer] if isinstance(inputs, str) and "top_k" not in changes else answer

    def read(self, number: int, value: Any, setting: TextClassificationSetting, warned: WarnOnce) -> TextReading:
        """The row of a text or a pair."""
        name = self.name_of(number)
        return TextReading((self.cut_row(name, texts_of(value, name), setting, warned),))

    def compute(self, rows: list[Row], setting: TextClassificationSetting) -> Iterable[np.ndarray]:
        """The logits [C] of each row."""
        output, _ = self.forward(rows)
        return finite(output.logits)

    def answer(self, reading: Any, results: list[np.ndarray], setting: TextClassificationSetting) -> Any:
        """The likeliest label, or a list of labels."""
        (logits,) = results
        scores = FUNCTIONS[setting.function_to_apply or self.default_function](logits)
        labels = self.model.config.id2label
        if setting.top_k is ...:
            best = int(scores.argmax())
            return {"label": labels[best], "score": float(scores[best])}
        order = np.argsort(-scores, kind="stable")[: setting.top_k]
        return [{"label": labels[index], "score": float(scores[index])} for index in order.tolist()]

    @property
    def default_function(self) -> str:
        """What makes scores of this model's logits."""
        config = self.model.config
        if config.problem_type == "regression":
            return "none"
        return "sigmoid" if config.problem_type == "multi_label_classification" or config.num_labels == 1 else "softmax"


def texts_of(value: Any, name: str) -> list[str]:
    """The text, or the two of a pair {"text": ..., "text_pair": ...}.

    Raises:
        TypeError: it is neither.
        ValueError: the dict has other keys, or a text has a lone surrogate.
    """
    if not isinstance(value, dict):
        if isinstance(value, list | tuple):
            raise TypeError(f'{name} is a {type(value).__name__}; write a pair as {{"text": ..., "text_pair": ...}}.')
        return [checked_text(value, name)]
    if "text" not in value or not value.keys() <= set(PARTS):
        raise ValueError(f"{name} has the keys {', '.join(map(repr, value))}; a pair has 'text' and 'text_pair'.")
    given = [part for part in PARTS if value.get(part) is not None]
    return [checked_text(value[part], f"{name}, {part},") for part in given]
