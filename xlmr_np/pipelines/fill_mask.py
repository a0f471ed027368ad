"""Fill-mask: which tokens fit where the text says `<mask>`."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np

from xlmr_np.arrays import to_numpy
from xlmr_np.models import XLMRobertaForMaskedLM
from xlmr_np.tokenizer import XLMRobertaTokenizer

Prediction = dict[str, Any]


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
        targets: str | int | list[str | int] | None = None,
        batch_size: int = 8,
        tokenizer_kwargs: dict[str, Any] | None = None,
    ) -> None:
        """Hold the model and the settings that calls may override.

        Args:
            model: the language model.
            tokenizer: its tokenizer.
            top_k: how many predictions for each mask.
            targets: see `__call__`.
            batch_size: how many texts are run together.
            tokenizer_kwargs: arguments for the tokenizer, such as {"truncation": True}.
        """
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size={batch_size!r} must be a positive number of texts.")
        self.model = model
        self.tokenizer = tokenizer
        self.top_k = top_k
        self.targets = targets
        self.batch_size = batch_size
        self.tokenizer_kwargs = tokenizer_kwargs or {}

    def __call__(
        self,
        inputs: str | Iterable[str],
        *,
        top_k: int | None = None,
        targets: str | int | list[str | int] | None = None,
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
            tokenizer_kwargs: arguments for the tokenizer.

        Raises:
            ValueError: a text has no mask, or is too long for the model; a target is not one token; `top_k` is
                out of range.
            TypeError: an input is not a text.
        """
        top_k = self.top_k if top_k is None else top_k
        if not isinstance(top_k, int) or isinstance(top_k, bool) or not 0 <= top_k <= self.model.config.vocab_size:
            raise ValueError(f"top_k={top_k!r} must be a number from 0 to the vocabulary's {self.model.config.vocab_size}.")
        target_ids = self.target_ids(self.targets if targets is None else targets)
        if target_ids is not None:
            top_k = min(top_k, len(target_ids))
        texts = [inputs] if isinstance(inputs, str) else inputs
        if isinstance(texts, bytes) or not isinstance(texts, Iterable):
            raise TypeError(f"Give a text or texts to fill; got {type(inputs).__name__}.")
        results = self._stream(texts, top_k, target_ids, {**self.tokenizer_kwargs, **(tokenizer_kwargs or {})})
        if not isinstance(texts, list | tuple):
            return results
        answers = list(results)
        return answers[0] if len(answers) == 1 else answers

    def target_ids(self, targets: str | int | list[str | int] | None) -> list[int] | None:
        """The token ids of targets, each once; None for None.

        Raises:
            ValueError: there is no target, or one is not a single token of the vocabulary.
        """
        if targets is None:
            return None
        wanted = [targets] if isinstance(targets, str | int) else list(targets)
        if not wanted:
            raise ValueError("targets is empty; give at least one word, or None for the whole vocabulary.")
        return list(dict.fromkeys(self._target_id(target) for target in wanted))

    def _target_id(self, target: str | int) -> int:
        vocabulary_size = len(self.tokenizer)
        if isinstance(target, int):
            if not 0 <= target < vocabulary_size:
                raise ValueError(f"The target {target} is not a token id; they go from 0 to {vocabulary_size - 1}.")
            return target
        for piece in (target,) if target.startswith("▁") else ("▁" + target, target):
            token_id = self.tokenizer.convert_tokens_to_ids(piece)
            if token_id != self.tokenizer.unk_token_id:
                return token_id
        pieces = self.tokenizer.tokenize(target)
        raise ValueError(
            f"The target {target!r} is not one token of the vocabulary (it is cut into {pieces}), and a mask is filled "
            "by one token; choose another word, or one of these pieces."
        )

    def _stream(
        self, texts: Iterable[str], top_k: int, target_ids: list[int] | None, tokenizer_kwargs: dict[str, Any]
    ) -> Iterator[list[Any]]:
        remaining, first = iter(texts), 0
        while batch := list(islice(remaining, self.batch_size)):
            yield from self._batch(batch, first, top_k, target_ids, tokenizer_kwargs)
            first += len(batch)

    def _batch(
        self, texts: list[str], first: int, top_k: int, target_ids: list[int] | None, tokenizer_kwargs: dict[str, Any]
    ) -> Iterator[list[Any]]:
        """The answers to one batch; `first` is the number of its first text, for messages."""
        rows: list[np.ndarray] = []
        for number, text in enumerate(texts, first + 1):
            if not isinstance(text, str):
                raise TypeError(f"Text {number} is not a text but {type(text).__name__}: {text!r:.60}.")
            row = np.asarray(self.tokenizer(text, **tokenizer_kwargs)["input_ids"])
            if self.tokenizer.mask_token_id not in row:
                cut = " after truncation" if self.tokenizer.mask_token in text else ""
                raise ValueError(
                    f"Text {number} has no {self.tokenizer.mask_token}{cut}: {text!r:.60}; "
                    f"write {self.tokenizer.mask_token} where a word is to be found."
                )
            self._check_length(number, text, row)
            rows.append(row)
        ids = np.full((len(rows), max(map(len, rows))), self.tokenizer.pad_token_id)
        is_real = np.zeros(ids.shape, bool)
        for row, padded, real in zip(rows, ids, is_real, strict=True):
            padded[: len(row)] = row
            real[: len(row)] = True
        is_mask = ids == self.tokenizer.mask_token_id
        if top_k == 0:
            scores, tokens = np.zeros((is_mask.sum(), 0)), np.zeros((is_mask.sum(), 0), int)
        else:
            top = self.model.predict(ids, is_real, where=is_mask, k=top_k, targets=target_ids)
            logits, tokens, log_sum_exp = (to_numpy(part) for part in top)
            scores = np.exp(logits - log_sum_exp[:, None])
        mask = 0
        for row in rows:
            places = np.flatnonzero(row == self.tokenizer.mask_token_id)
            answer = [
                self._predictions(row, place, scores[mask + i], tokens[mask + i], len(places) == 1)
                for i, place in enumerate(places)
            ]
            mask += len(places)
            yield answer[0] if len(answer) == 1 else answer

    def _check_length(self, number: int, text: str, row: np.ndarray) -> None:
        config = self.model.config
        limit = config.max_position_embeddings - config.pad_token_id - 1
        if len(row) > limit:
            raise ValueError(
                f"Text {number} has {len(row)} tokens, and this model takes at most {limit}: {text!r:.60}; "
                'shorten it, or pass tokenizer_kwargs={"truncation": True, "max_length": ' + f"{limit}}}."
            )

    def _predictions(
        self, row: np.ndarray, place: int, scores: np.ndarray, tokens: np.ndarray, is_only_mask: bool
    ) -> list[Prediction]:
        predictions = []
        for score, token in zip(scores.tolist(), tokens.tolist(), strict=True):
            filled = row.copy()
            filled[place] = token
            predictions.append(
                {
                    "score": score,
                    "token": token,
                    "token_str": self.tokenizer.decode([token]),
                    "sequence": self.tokenizer.decode(filled, skip_special_tokens=is_only_mask),
                }
            )
        return predictions
