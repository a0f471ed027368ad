"""Fill-mask: which tokens fit where the text says `<mask>`."""

import reprlib
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np

from xlmr_np.arrays import to_numpy
from xlmr_np.inputs import longest_sequence
from xlmr_np.models import XLMRobertaForMaskedLM
from xlmr_np.pipelines.pairing import check_pair
from xlmr_np.tokenizer import XLMRobertaTokenizer
from xlmr_np.tokenizer.arguments import checked_text, whole_number

Prediction = dict[str, Any]
Targets = str | int | Iterable[str | int]


class FillMaskPipeline:
    """Fills masks with a masked language model.

    A text with one mask gets a list of predictions, the likeliest first, each a dict of

    - score: the probability of the token among the whole vocabulary,
    - token: its id,
    - token_str: its text,
    - sequence: the text with the token filled in.

    A text with several masks gets one such list for each of them; a prediction's sequence then keeps the
    special tokens, and the other masks stand in it as masks.
    """

    def __init__(
        self,
        model: XLMRobertaForMaskedLM,
        tokenizer: XLMRobertaTokenizer,
        *,
        top_k: int = 5,
        targets: Targets | None = None,
        batch_size: int = 8,
        tokenizer_kwargs: dict[str, Any] | None = None,
    ) -> None:
        """Hold the model and the settings that calls may override.

        Args:
            model: the language model.
            tokenizer: its tokenizer.
            top_k: how many predictions for each mask.
            targets: see `__call__`, as for the next two.
            batch_size: see there.
            tokenizer_kwargs: see there.

        Raises:
            ValueError: the tokenizer has ids that the model does not know, or `batch_size` is not positive.
        """
        check_pair(model, tokenizer)
        self.model = model
        self.tokenizer = tokenizer
        self.top_k = top_k
        self.targets = targets
        self.batch_size = whole_number("batch_size", batch_size, minimum=1)
        self.tokenizer_kwargs = tokenizer_kwargs or {}

    def __call__(
        self,
        inputs: str | Iterable[str],
        *,
        top_k: int | None = None,
        targets: Targets | None = None,
        batch_size: int | None = None,
        tokenizer_kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Fill the masks of one or many texts.

        Args:
            inputs: a text; a list of texts, answered by a list (one of length 1 by its only answer, as the
                reference does); or any other iterable of texts, answered by an iterator that works through it
                in batches.
            top_k: how many predictions for each mask, at most the number of targets.
            targets: consider these tokens only. A word is looked up as the beginning of a word ("▁word") first
                and as a piece within words after that; "▁word" and token ids are taken as they are.
            batch_size: how many texts are run together.
            tokenizer_kwargs: arguments for the tokenizer. {"truncation": True} cuts texts to what the model takes.

        Raises:
            ValueError: a text has no mask, or is too long for the model; a target is not one token; `top_k` or
                `batch_size` is out of range.
            TypeError: an input is not a text, a target neither a word nor an id, or a number not a whole one.
        """
        top_k = whole_number("top_k", self.top_k if top_k is None else top_k, minimum=0)
        if top_k > self.model.config.vocab_size:
            raise ValueError(f"top_k={top_k} is more than the {self.model.config.vocab_size} tokens of the vocabulary.")
        batch_size = self.batch_size if batch_size is None else whole_number("batch_size", batch_size, minimum=1)
        target_ids = self.target_ids(self.targets if targets is None else targets)
        if target_ids is not None:
            top_k = min(top_k, len(target_ids))
        texts = [inputs] if isinstance(inputs, str) else inputs
        if isinstance(texts, bytes) or not isinstance(texts, Iterable):
            raise TypeError(f"Give a text or texts to fill; got {type(inputs).__name__}.")
        settings = {**self.tokenizer_kwargs, **(tokenizer_kwargs or {})}
        if settings.get("truncation") and settings.get("max_length") is None:
            settings["max_length"] = min(self._limit, self.tokenizer.model_max_length or self._limit)
        results = self._stream(iter(texts), batch_size, top_k, target_ids, settings)
        if not isinstance(texts, list | tuple):
            return results
        answers = list(results)
        return answers[0] if len(answers) == 1 else answers

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

    @property
    def _limit(self) -> int:
        """How many tokens the model takes."""
        return longest_sequence(self.model.config)

    def _stream(
        self,
        texts: Iterator[str],
        batch_size: int,
        top_k: int,
        target_ids: list[int] | None,
        settings: dict[str, Any],
    ) -> Iterator[list[Any]]:
        first = 1
        while batch := list(islice(texts, batch_size)):
            rows = [self._encode(text, number, settings) for number, text in enumerate(batch, first)]
            yield from self._answers(rows, top_k, target_ids)
            first += len(batch)

    def _encode(self, text: str, number: int, settings: dict[str, Any]) -> np.ndarray:
        """The ids of one text; `number` is its number among all, for messages."""
        row = np.ravel(self.tokenizer(checked_text(text, "Text", f" {number}"), **settings)["input_ids"])
        row = row[row != self.tokenizer.pad_token_id]  # batches are padded below, whatever the settings say
        mask = self.tokenizer.mask_token
        if self.tokenizer.mask_token_id not in row:
            cut = " after truncation" if mask in text else ""
            raise ValueError(
                f"Text {number} has no {mask}{cut}: {reprlib.repr(text)}; write {mask} where a word is to be found."
            )
        if len(row) > self._limit:
            raise ValueError(
                f"Text {number} has {len(row)} tokens, and this model takes at most {self._limit}: "
                f"{reprlib.repr(text)}; shorten it, or have it cut "
                '(tokenizer_kwargs={"truncation": True}, or --truncate on the command line).'
            )
        return row

    def _answers(self, rows: list[np.ndarray], top_k: int, target_ids: list[int] | None) -> Iterator[list[Any]]:
        """The answers to one batch."""
        ids = np.full((len(rows), max(map(len, rows))), self.tokenizer.pad_token_id)
        for row, padded in zip(rows, ids, strict=True):
            padded[: len(row)] = row
        is_mask = ids == self.tokenizer.mask_token_id
        if top_k == 0:
            scores, tokens = np.zeros((is_mask.sum(), 0)), np.zeros((is_mask.sum(), 0), int)
        else:
            is_real = ids != self.tokenizer.pad_token_id
            top = self.model.predict(ids, is_real, where=is_mask, k=top_k, targets=target_ids)
            logits, tokens, log_sum_exp = (to_numpy(part) for part in top)
            if not np.isfinite(log_sum_exp).all():
                raise ValueError("The model's logits are not finite numbers: its weights are damaged.")
            scores = np.exp(logits - log_sum_exp[:, None])
        remaining = zip(scores.tolist(), tokens.tolist(), strict=True)  # a list for each mask, in the order of the text
        for row in rows:
            places = np.flatnonzero(row == self.tokenizer.mask_token_id).tolist()
            answer = [self._predictions(row, place, *next(remaining), len(places) == 1) for place in places]
            yield answer[0] if len(answer) == 1 else answer

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
