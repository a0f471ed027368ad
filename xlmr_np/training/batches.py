"""Batches for masked language modelling: documents end to end, in an order that can be taken up anywhere.

A batch is packed: as many sequences as fit into a number of tokens, each of which sees only itself. Nothing is spent on
padding, as the model lays them end to end, and no document has a stranger for a neighbour.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import regex
from jaxtyping import Bool, Int

from xlmr_np.tokenizer import XLMRobertaTokenizer
from xlmr_np.training.masking import MaskingSetting, mask_tokens

DOCUMENTS_AT_A_TIME = 1000  # tokenised together
# A piece belongs to the word before it if it begins with a letter, mark or digit of a script that puts spaces between
# words; of the others (Japanese, Thai and so on) every piece is a word of its own.
_SPACELESS = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_CONTINUES_WORD = regex.compile(rf"(?V1)[[\p{{L}}\p{{M}}\p{{N}}]--[{_SPACELESS}]]")


class Sequences(NamedTuple):
    """Token ids `<s> ... </s>` of many sequences, end to end; those of sequence i go from ends[i] to ends[i + 1]."""

    ids: Int[np.ndarray, " N"]
    ends: Int[np.ndarray, " B+1"]


def sequences_of(documents: Iterable[str], tokenizer: XLMRobertaTokenizer, max_length: int) -> Sequences:
    """Tokenise documents; one that is longer than a sequence makes several.

    Args:
        documents: texts.
        tokenizer: theirs.
        max_length: the most tokens of a sequence, `<s>` and `</s>` included.

    Raises:
        ValueError: a sequence has no room for a token of a document, or no document has a token.
    """
    if max_length < 3:
        raise ValueError(f"Sequences of {max_length} tokens have no room for one between <s> and </s>; 3 is the least.")
    rows: list[np.ndarray] = []
    for batch in _chunks(documents, DOCUMENTS_AT_A_TIME):
        for ids in tokenizer(batch, add_special_tokens=False, allow_special_tokens=False).input_ids:
            for part in _chunks(ids, max_length - 2):
                rows.append(np.array([tokenizer.bos_token_id, *part, tokenizer.eos_token_id], np.int32))
    if not rows:
        raise ValueError("The documents have no tokens: all of their characters are invisible.")
    return Sequences(np.concatenate(rows), np.cumsum([0, *map(len, rows)], dtype=np.int64))


class Place(NamedTuple):
    """How far one is: in which round through all sequences, and how many of it are done."""

    epoch: int = 0
    done: int = 0


class Masker:
    """Makes batches of sequences, and hides some of their tokens.

    Args:
        tokenizer: of the sequences.
        setting: how much is hidden, and how.
        whole_words: hide words and not single tokens, where the script has spaces between words.
    """

    def __init__(self, tokenizer: XLMRobertaTokenizer, setting: MaskingSetting, whole_words: bool) -> None:
        self.setting = setting.check()
        self._mask_id, self._pad_id = tokenizer.mask_token_id, tokenizer.pad_token_id
        special = np.isin(np.arange(len(tokenizer)), tokenizer.all_special_ids)
        self._is_ordinary: Bool[np.ndarray, " V"] = ~special
        self._ordinary = np.flatnonzero(~special)
        self._starts_word = None
        if whole_words:
            tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
            self._starts_word = special | ~np.array([bool(_CONTINUES_WORD.match(token)) for token in tokens])

    def batch(
        self, sequences: Sequences, rows: Int[np.ndarray, " B"], generator: np.random.Generator
    ) -> dict[str, Any]:
        """The arguments of a training step on these sequences."""
        starts, stops = sequences.ends[rows], sequences.ends[rows + 1]
        places = starts[:, None] + np.arange((stops - starts).max())
        is_real = places < stops[:, None]
        ids = np.where(is_real, sequences.ids[np.where(is_real, places, 0)], self._pad_id)
        words = None
        if self._starts_word is not None:
            words = np.cumsum(self._starts_word[ids], axis=1) - 1
        seen, labels = mask_tokens(
            ids, self._is_ordinary[ids], self._mask_id, self._ordinary, generator, self.setting, words
        )
        return {"input_ids": seen, "attention_mask": is_real.astype(np.int64), "labels": labels}


def rows_of_batches(sequences: Sequences, tokens: int, seed: int, place: Place) -> Iterator[tuple[np.ndarray, Place]]:
    """Which sequences make each batch, without end: every round through all of them is in another order.

    Args:
        sequences: to learn from.
        tokens: the most tokens of a batch, unless one sequence is longer.
        seed: of the orders.
        place: where to begin; the same place and seed give the same batches.

    Yields:
        The numbers of the sequences of a batch, and the place after it.
    """
    lengths = np.diff(sequences.ends)
    epoch, done = place
    rows: list[np.ndarray] = []
    room = tokens
    while True:
        order = np.random.default_rng([seed, epoch]).permutation(len(lengths))
        while done < len(order):
            sums = np.cumsum(lengths[order[done : done + room]])  # a sequence has at least one token
            fitting = int(np.searchsorted(sums, room, side="right"))
            if fitting == 0 and not rows:
                fitting = 1
            rows.append(order[done : done + fitting])
            done += fitting
            if done < len(order):  # the next one does not fit
                yield np.concatenate(rows), Place(epoch, done)
                rows, room = [], tokens
            elif fitting:
                room -= int(sums[fitting - 1])
        epoch, done = epoch + 1, 0


def _chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
