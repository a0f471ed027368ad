"""Zero-shot classification: which of any labels fit a text, asked of a model of entailment."""

import reprlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from xlmr_np.layers.softmax import softmax_forward
from xlmr_np.models import XLMRobertaForSequenceClassification
from xlmr_np.pipelines.base import TaskPipeline, TruncationSetting, WarnOnce, finite
from xlmr_np.pipelines.streaming import Row
from xlmr_np.tokenizer import XLMRobertaTokenizer
from xlmr_np.tokenizer.arguments import checked_flag, checked_text


@dataclass(frozen=True, kw_only=True)
class ZeroShotSetting(TruncationSetting):
    """What may be asked of zero-shot classification. A text that is too long is cut, and a hypothesis never.

    Attributes:
        candidate_labels: the labels to choose from, a list, or a str with commas between them; each counts once.
        hypothesis_template: what is said of a text, with {} where the label stands.
        multi_label: whether several labels may fit, or none: each has a probability of its own. Otherwise one label
            fits, and their probabilities add up to 1.
    """

    candidate_labels: str | Iterable[str] | None = None
    hypothesis_template: str = "This example is {}."
    multi_label: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_flag("multi_label", self.multi_label)
        checked_text(self.hypothesis_template, "hypothesis_template")
        try:
            has_place = self.hypothesis_template.format("a") != self.hypothesis_template.format("b")
        except (AttributeError, IndexError, KeyError, ValueError):
            has_place = False
        if not has_place:
            raise ValueError(
                f"hypothesis_template={reprlib.repr(self.hypothesis_template)} has no place for a label: write {{}} "
                'where it stands, as in "This example is {}."'
            )
        if self.candidate_labels is not None:
            object.__setattr__(self, "candidate_labels", _checked_labels(self.candidate_labels))

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels to choose from.

        Raises:
            ValueError: nobody has said which.
        """
        if self.candidate_labels is None:
            raise ValueError('candidate_labels is not given: write the labels to choose from, as in ["sport", "art"].')
        return tuple(self.candidate_labels)


class Premise(NamedTuple):
    """A text, with one row for each label."""

    text: str
    rows: tuple[Row, ...]


class ZeroShotClassificationPipeline(TaskPipeline[ZeroShotSetting]):
    """Labels texts with any labels, by a model that was trained to tell whether one text follows from another (XNLI).

    Each label makes a hypothesis, and its score comes from the model's logit of entailment. The answer to a text is a
    dict of

    - sequence: the text,
    - labels: the labels, the likeliest first,
    - scores: their probabilities.
    """

    setting_class = ZeroShotSetting

    def __init__(
        self, model: XLMRobertaForSequenceClassification, tokenizer: XLMRobertaTokenizer, **settings: Any
    ) -> None:
        """Hold the model and the settings that calls may override.

        Args:
            model: of entailment.
            tokenizer: its tokenizer.
            **settings: of `ZeroShotSetting`.

        Raises:
            ValueError: none of the model's labels is named entailment; or as for `TaskPipeline`.
            TypeError: as for `TaskPipeline`.
        """
        super().__init__(model, tokenizer, **settings)
        self.entailment_and_contradiction()

    def __call__(self, inputs: Any, candidate_labels: str | Iterable[str] | None = None, **changes: Any) -> Any:
        """See `TaskPipeline.__call__`; the labels may be given without their name."""
        given = {} if candidate_labels is None else {"candidate_labels": candidate_labels}
        return super().__call__(inputs, **given, **changes)

    def changed(self, changes: dict[str, Any]) -> ZeroShotSetting:
        """See `TaskPipeline.changed`.

        Raises:
            ValueError: nobody has said which labels there are; or as there.
        """
        setting = super().changed(changes)
        _ = setting.labels
        return setting

    def entailment_and_contradiction(self) -> tuple[int, int]:
        """The ids of the model's labels for "follows" and "does not": the first ones whose names begin so.

        Without a label that is named contradiction it is the first, or, if that is entailment, the last.

        Raises:
            ValueError: there is no label named entailment, or no other one.
        """
        ids = self.model.config.label2id
        named = {
            start: [label_id for label, label_id in ids.items() if label.lower().startswith(start)]
            for start in ("entail", "contradict")
        }
        if not named["entail"] or len(ids) < 2:
            raise ValueError(
                f"Zero-shot classification needs a model of entailment, with a label named so and another one, and "
                f"this model's labels are {reprlib.repr(list(ids))}; choose another model, or, if it is one, set "
                "label2id in its config."
            )
        entailment = named["entail"][0]
        contradiction = named["contradict"][0] if named["contradict"] else 0 if entailment else len(ids) - 1
        return entailment, contradiction

    def read(self, number: int, value: Any, setting: ZeroShotSetting, warned: WarnOnce) -> Premise:
        """The text with each hypothesis."""
        name = self.name_of(number)
        text = checked_text(value, name)
        tokens = self.tokens_of(name, text)
        rows = []
        for label in setting.labels:
            with_label = f"{name} with the label {reprlib.repr(label)}"
            hypothesis = self.tokens_of(with_label, setting.hypothesis_template.format(label))
            rows.append(self.row_of(with_label, [tokens, hypothesis], setting, warned, "only_first"))
        return Premise(text, tuple(rows))

    def compute(self, rows: list[Row], setting: ZeroShotSetting) -> Iterable[np.ndarray]:
        """The logits [2] of entailment and contradiction of each row."""
        output, _ = self.forward(rows)
        return finite(output.logits)[:, list(self.entailment_and_contradiction())]

    def answer(self, reading: Any, results: list[np.ndarray], setting: ZeroShotSetting) -> dict[str, Any]:
        """The labels with their scores, the likeliest first."""
        logits = np.stack(results)
        if setting.multi_label or len(results) == 1:
            scores = softmax_forward(logits)[0][:, 0]
        else:
            scores, _ = softmax_forward(logits[:, 0])
        order = np.argsort(-scores, kind="stable")
        labels = [setting.labels[index] for index in order.tolist()]
        return {"sequence": reading.text, "labels": labels, "scores": scores[order].tolist()}


def _checked_labels(labels: Any) -> tuple[str, ...]:
    """The labels, each once.

    Raises:
        ValueError: there is none, or one is empty.
        TypeError: one is not a str.
    """
    if isinstance(labels, str):
        found = [label.strip() for label in checked_text(labels, "candidate_labels").split(",")]
        found = [label for label in found if label]
    elif isinstance(labels, Iterable) and not isinstance(labels, bytes | dict):
        found = [checked_text(label, "candidate_labels", f"[{index}]") for index, label in enumerate(labels)]
    else:
        raise TypeError(
            f"candidate_labels must be a list of str, or a str with commas between, not {type(labels).__name__}."
        )
    if not found:
        raise ValueError(f"candidate_labels={reprlib.repr(labels)} has no label; give one at least.")
    if not all(label.strip() for label in found):
        raise ValueError(f"candidate_labels={reprlib.repr(labels)} has an empty label; leave it out.")
    return tuple(dict.fromkeys(found))
