"""Feature extraction: the vector that the encoder makes of each token."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from xlmr_np.pipelines.base import TaskPipeline, TruncationSetting, WarnOnce, finite
from xlmr_np.pipelines.streaming import Row
from xlmr_np.pipelines.text_classification import TextReading
from xlmr_np.tokenizer.arguments import checked_flag, checked_text


@dataclass(frozen=True, kw_only=True)
class FeatureSetting(TruncationSetting):
    """What may be asked of feature extraction.

    Attributes:
        return_tensors: return NumPy arrays in place of nested lists.
    """

    return_tensors: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_flag("return_tensors", self.return_tensors)


class FeatureExtractionPipeline(TaskPipeline[FeatureSetting]):
    """Turns texts into the last hidden states of their tokens, special ones included.

    The answer to a text is [1, T, D], as nested lists or as an array, for its own number of tokens T: it has no
    padding, whatever the text was run with.
    """

    setting_class = FeatureSetting

    def read(self, number: int, value: Any, setting: FeatureSetting, warned: WarnOnce) -> TextReading:
        """The row of a text."""
        name = self.name_of(number)
        return TextReading((self.cut_row(name, [checked_text(value, name)], setting, warned),))

    def compute(self, rows: list[Row], setting: FeatureSetting) -> Iterator[np.ndarray]:
        """The last hidden states [T, D] of each row."""
        output, is_real = self.forward(rows)
        for states, real in zip(finite(output.last_hidden_state, "hidden states"), is_real, strict=True):
            yield states[real]

    def answer(self, reading: Any, results: list[np.ndarray], setting: FeatureSetting) -> Any:
        """The states [1, T, D]."""
        states = results[0][None]
        return states if setting.return_tensors else states.tolist()
