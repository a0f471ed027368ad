"""Fill-mask: which tokens fit where the text says `<mask>`."""

import dataclasses
import reprlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from xlmr_np.arrays import to_numpy
from xlmr_np.pipelines.base import TaskPipeline, TruncationSetting, WarnOnce, padded
from xlmr_np.pipelines.streaming import Row
from xlmr_np.tokenizer import XLMRobertaTokenizer
from xlmr_np.tokenizer.arguments import checked_text, whole_number

Prediction = dict[str, Any]
Targets = str | int | Iterable[str | int]


@dataclass(frozen=True, kw_only=True)
class FillMaskSetting(TruncationSetting):
    """What may be asked of fill-mask. A text that is too long is cut at both ends, so that its masks stay.

    Attributes:
        top_k: how many predictions for each mask, at most the number of targets.
        targets: consider these tokens only. A word is looked up as the beginning of a word ("▁word") first and as a
            piece within words after that; "▁word" and token ids are taken as they are.
        tokenizer_kwargs: arguments for the tokenizer. {"truncation": True} cuts texts at their end, as the reference
            does, whether or not masks are lost.
    """

    top_k: int = 5
    targets: Targets | None = None
    tokenizer_kwargs: dict[str, Any] | None = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_number("top_k", self.top_k, minimum=0)
        if isinstance(self.targets, Iterator):
            object.__setattr__(self, "targets", list(self.targets))  # for all calls
        if not isinstance(self.tokenizer_kwargs, dict | None):
            raise TypeError(f"tokenizer_kwargs={self.tokenizer_kwargs!r} must be a dict of the tokenizer's arguments.")


class MaskedText(NamedTuple):
    """A text with masks, as one row."""

    rows: tuple[Row]


class FillMaskPipeline(TaskPipeline[FillMaskSetting]):
    """Fills masks with a masked language model.

    A text with one mask gets a list of predictions, the likeliest first, each a dict of

    - score: the probability of the token among the whole vocabulary,
    - token: its id,
    - token_str: its text,
    - sequence: the text with the token filled in.

    A text with several masks gets one such list for each of them; a prediction's sequence then keeps the
    special tokens, and the other masks stand in it as masks.
    """

    setting_class = FillMaskSetting

    def __init__(self, model: Any, tokenizer: XLMRobertaTokenizer, **settings: Any) -> None:
        """See `TaskPipeline.__init__`; and `top_k` and targets must be of the vocabulary."""
        super().__init__(model, tokenizer, **settings)
        self._of_vocabulary(self.setting)

    def __call__(self, inputs: Any, **changes: Any) -> Any:
        """See `TaskPipeline.__call__`; a list of one text is answered by its only answer, as in the reference."""
        answer = super().__call__(inputs, **changes)
        return answer[0] if isinstance(inputs, list | tuple) and len(answer) == 1 else answer

    def answers(self, inputs: Iterable[Any], setting: FillMaskSetting) -> Iterator[Any]:
        """See `TaskPipeline.answers`.

        Raises:
            ValueError: `top_k` is above the size of the vocabulary, a target is not one token of it, or the tokenizer
                refuses `tokenizer_kwargs`.
            TypeError: a target is neither a word nor a token id, or the tokenizer has no such argument.
        """
        return super().answers(inputs, self._of_vocabulary(setting))

    def _of_vocabulary(self, setting: FillMaskSetting) -> FillMaskSetting:
        """Settings with targets as ids, and no more predictions than there are tokens for."""
        self._ids(self.tokenizer.mask_token, setting)  # raises what would else be raised for every text
        if setting.top_k > self.model.config.vocab_size:
            raise ValueError(
                f"top_k={setting.top_k} is more than the {self.model.config.vocab_size} tokens of the vocabulary."
            )
        targets = self.target_ids(setting.targets)
        top_k = min(int(setting.top_k), self.model.config.vocab_size if targets is None else len(targets))
        return dataclasses.replace(setting, targets=targets, top_k=top_k)

    def target_ids(self, targets: Targets | None) -> list[int] | None:
        """The token ids of targets, each once; None for None.

        Raises:
            ValueError: there is no target, or one is not a single token of the vocabulary.
            TypeError: a target is neither a word nor a token id.
        """
        if targets is None:
            return None
        is_one = isinstance(targets, str | bytes) or not isinstance(targets, Iterable)
        wanted = [targets] if is_one else list(targets)  # type: ignore[arg-type]
        if not wanted:
            raise ValueError("targets is empty; give at least one word, or None for the whole vocabulary.")
        return list(dict.fromkeys(self._target_id(target) for target in wanted))

    def _target_id(self, target: Any) -> int:
        if not isinstance(target, str):
            token_id = whole_number("A target that is not a word", target, minimum=0)
            if token_id >= len(self.tokenizer):
                raise ValueError(
                    f"The target {token_id} is not a token id; they go from 0 to {len(self.tokenizer) - 1}."
                )
            return token_id
        pieces = self.tokenizer.tokenize(target)
        spellings = [target] if target.startswith("▁") else ["▁" + target, target]
        if len(pieces) == 1:  # what normalisation makes of "ﬁn" and " fin"
            spellings += pieces
        for spelling in spellings if target.strip() else []:
            token_id = self.tokenizer.convert_tokens_to_ids(spelling)
            if token_id != self.tokenizer.unk_token_id:
                return token_id
        raise ValueError(
            f"The target {target!r} is not one token of the vocabulary (it is cut into {pieces}), and a mask is filled "
            "by one token; choose another word, or one of these pieces."
        )

    def read(self, number: int, value: Any, setting: FillMaskSetting, warned: WarnOnce) -> MaskedText:
        """The row of a text."""
        name = self.name_of(number)
        text = checked_text(value, name)
        row, limit = self._ids(text, setting), self.longest(setting.max_length)
        mask = self.tokenizer.mask_token
        if self.tokenizer.mask_token_id not in row:
            cut = " after truncation" if mask in text else ""
            raise ValueError(
                f"{name} has no {mask}{cut}: {reprlib.repr(text)}; write {mask} where a word is to be found."
            )
        if len(row) > limit:
            if not (setting.tokenizer_kwargs or {}).get("truncation", setting.truncation):
                raise ValueError(
                    f"{name} has {len(row)} tokens, and this model takes at most {limit}: {reprlib.repr(text)}; "
                    "shorten it, or let it be cut."
                )
            part = self._around_masks(name, row, limit)
            warned(
                "%s has %d tokens, of which %d around the masks are read, and so it is with others that are longer.",
                name, len(row), limit,
            )  # fmt: skip
            row = part
        return MaskedText((Row(row.tolist()),))

    def _ids(self, text: str, setting: FillMaskSetting) -> np.ndarray:
        """The ids of a text as the settings have the tokenizer make them, without padding."""
        asked = {"truncation": False, "verbose": False, **(setting.tokenizer_kwargs or {})}
        if asked["truncation"] and asked.get("max_length") is None:
            asked["max_length"] = self.longest(setting.max_length)
        row = np.ravel(self.tokenizer(text, **asked)["input_ids"])
        return row[row != self.tokenizer.pad_token_id]

    def _around_masks(self, name: str, row: np.ndarray, limit: int) -> np.ndarray:
        """`limit` tokens of a row, with its special tokens around the part in whose middle its masks are."""
        (masks,) = np.nonzero(row == self.tokenizer.mask_token_id)
        is_framed = row[0] == self.tokenizer.cls_token_id
        inner, room = (row[1:-1], limit - 2) if is_framed else (row, limit)
        first, last = (int(each) - is_framed for each in (masks[0], masks[-1]))
        if last - first >= room:
            raise ValueError(
                f"{name} has {len(masks)} masks over {last - first + 1} tokens, and this model takes {room} at once; "
                "ask about parts of the text."
            )
        start = min(max((first + last + 1 - room) // 2, 0), len(inner) - room)
        part = inner[start : start + room]
        return np.concatenate([row[:1], part, row[-1:]]) if is_framed else part

    def compute(self, rows: list[Row], setting: FillMaskSetting) -> Iterable[tuple[list[Any], list[Any]]]:
        """(scores, tokens) of each row, with a list for each of its masks."""
        ids, is_real = padded([row.ids for row in rows], self.tokenizer.pad_token_id)
        is_mask = ids == self.tokenizer.mask_token_id
        if setting.top_k == 0:
            scores, tokens = np.zeros((is_mask.sum(), 0)), np.zeros((is_mask.sum(), 0), int)
        else:
            top = self.model.predict(ids, is_real, where=is_mask, k=setting.top_k, targets=setting.targets)
            logits, tokens, log_sum_exp = (to_numpy(part) for part in top)
            if not np.isfinite(log_sum_exp).all():
                raise ValueError("The model's logits are not finite numbers: its weights are damaged.")
            scores = np.exp(logits - log_sum_exp[:, None])
        stops = np.cumsum(is_mask.sum(axis=1))[:-1]
        for of_row in zip(np.split(scores, stops), np.split(tokens, stops), strict=True):
            yield of_row[0].tolist(), of_row[1].tolist()

    def answer(self, reading: Any, results: list[Any], setting: FillMaskSetting) -> list[Any]:
        """The predictions for its mask, or a list of them for each of several."""
        (scores, tokens), row = results[0], np.asarray(reading.rows[0].ids)
        places = np.flatnonzero(row == self.tokenizer.mask_token_id).tolist()
        answer = [
            self._predictions(row, *of_mask, len(places) == 1) for of_mask in zip(places, scores, tokens, strict=True)
        ]
        return answer[0] if len(answer) == 1 else answer

    def _predictions(
        self, row: np.ndarray, place: int, scores: list[float], tokens: list[int], is_only_mask: bool
    ) -> list[Prediction]:
        predictions = []
        for score, token in zip(scores, tokens, strict=True):
            filled = row.copy()
            filled[place] = token
            predictions.append(
                {
                    "score": score,
                    "token": token,
                    "token_str": self._text(np.asarray([token])),
                    "sequence": self._text(filled, skip_special_tokens=is_only_mask),
                }
            )
        return predictions

    def _text(self, ids: np.ndarray, skip_special_tokens: bool = False) -> str:
        """The text of ids; rows by which a model's vocabulary exceeds the tokenizer's have none."""
        return self.tokenizer.decode(ids[ids < len(self.tokenizer)], skip_special_tokens)
