"""One call of a tokenizer: what was asked for, and how it comes about."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

from .arguments import Texts, checked_flag, whole_number
from .batch_encoding import BatchEncoding
from .encoding import Encoding
from .padding import padded_length, padding_strategy
from .rows import Row, Rows, framed
from .segmentation import Reading, Tokens, ids_of, tokens_of
from .truncation import Limit, truncation_strategy, windows
from .vocabulary import BOS_ID, EOS_ID, PAD_ID

MOST_CELLS = 2**28  # elements of all rows: two gigabytes for each entry that is returned
MOST_CELLS_PER_TOKEN = 64  # a large corpus may have more of them, but is not mostly padding and overflow
CALLER = 4  # frames up from where a warning is issued to who called the tokenizer


class Call(NamedTuple):
    """What a call asks for, besides texts; the tokenizer's own settings stand where it leaves something open.

    Attributes:
        reading: how texts are cut into tokens.
        written: how the token of an id is written.
        model_max_length: tokens that the model takes, None if unknown.
        truncation_side: where long texts lose their tokens.
        as_in_reference: what a `max_length` means that has no room for any token; see `Limit`.
        others: see `XLMRobertaTokenizer.__call__`.
    """

    reading: Reading
    written: Callable[[int], str]
    model_max_length: int | None
    truncation_side: str
    as_in_reference: bool
    add_special_tokens: bool
    padding: bool | str
    truncation: bool | str | None
    max_length: int | None
    stride: int
    is_split_into_words: bool
    pad_to_multiple_of: int | None
    padding_side: str
    return_tensors: str | None
    return_token_type_ids: bool
    return_attention_mask: bool
    return_overflowing_tokens: bool
    return_special_tokens_mask: bool
    return_offsets_mapping: bool
    return_length: bool
    verbose: bool

    def encode(self, texts: Texts) -> BatchEncoding:
        """What the call returns for its texts."""
        for name in FLAGS:
            checked_flag(name, getattr(self, name))
        cut, fill, max_length = self._strategies()
        if cut != "do_not_truncate" and fill != "do_not_pad" and max_length % (self.pad_to_multiple_of or 1):
            raise ValueError(
                f"max_length={max_length}, to which texts are cut, is no multiple of "
                f"pad_to_multiple_of={self.pad_to_multiple_of}: change one of the two."
            )
        limit = None if cut == "do_not_truncate" else self._limit(texts, cut, max_length)

        # 1. Tokens, and where they come from: now if that is asked for, else when it is.
        def tokens() -> list[list[Tokens]]:
            return [tokens_of(self.reading, part, self.is_split_into_words) for part in parts]

        parts = [texts.first] if texts.second is None else [texts.first, texts.second]
        known = tokens() if self.return_offsets_mapping else None
        if known is None:
            ids = [ids_of(self.reading, part, self.is_split_into_words) for part in parts]
        else:
            ids = [[row.ids for row in part] for part in known]

        # 2. Rows of them.
        rows = Rows(
            [
                Row(sample, window)
                for sample, texts_of_row in enumerate(zip(*ids, strict=True))
                for window in windows([len(text) for text in texts_of_row], limit)
            ],
            self.add_special_tokens,
            padding_side=self.padding_side,
        )
        if fill != "do_not_pad":
            fixed = max_length if fill == "max_length" else None
            rows = rows._replace(length=padded_length(rows.longest(), fixed, self.pad_to_multiple_of))
        _check_size(len(rows.rows) * max(rows.length, rows.longest()), sum(len(text) for part in ids for text in part))

        # 3. What is returned about them.
        columns: dict[str, Any] = {"input_ids": rows.column(ids, BOS_ID, EOS_ID, PAD_ID)}
        if self.return_token_type_ids:
            columns["token_type_ids"] = rows.token_type_ids()
        if self.return_attention_mask:
            columns["attention_mask"] = rows.attention_mask()
        if self.return_special_tokens_mask:
            columns["special_tokens_mask"] = rows.special_tokens_mask()
        if known is not None:
            offsets = [[row.offsets for row in part] for part in known]
            columns["offset_mapping"] = rows.column(offsets, (0, 0), (0, 0), (0, 0))
        if self.return_length:
            columns["length"] = [len(row) for row in columns["input_ids"]]
        if self.return_overflowing_tokens:
            columns["overflow_to_sample_mapping"] = [row.sample for row in rows.rows]
        if cut == "do_not_truncate" and self.verbose:
            self._warn_of_length(columns["input_ids"])
        if not (texts.is_batch or self.return_overflowing_tokens or self.return_tensors):
            columns = {name: column[0] if isinstance(column[0], list) else column for name, column in columns.items()}

        def encodings() -> list[Encoding]:
            return rows.encodings(tokens() if known is None else known, self.written)

        return BatchEncoding(columns, encodings).convert_to_tensors(self.return_tensors)

    def _strategies(self) -> tuple[str, str, int]:
        """Names of the strategies of truncation and padding, and their `max_length` (0 if unneeded)."""
        cut, fill = truncation_strategy(self.truncation), padding_strategy(self.padding)
        if self.max_length is None:
            if cut == "do_not_truncate" and fill != "max_length":
                return cut, fill, 0
            wanted = f"truncation={self.truncation!r}" if cut != "do_not_truncate" else f"padding={self.padding!r}"
            return cut, fill, known_length(None, self.model_max_length, wanted)
        max_length = whole_number("max_length", self.max_length, minimum=0)
        if self.truncation is None and fill == "do_not_pad":
            cut = "longest_first"
        if cut == "do_not_truncate" and fill == "longest" and self.verbose:
            warnings.warn(
                f"max_length={max_length} has no effect with padding={self.padding!r}: add truncation=True to "
                "cut longer texts, or write padding='max_length' to pad to it.",
                stacklevel=CALLER,
            )
        return cut, fill, max_length

    def _limit(self, texts: Texts, cut: str, max_length: int) -> Limit:
        """How long the texts of a row may be."""
        is_pair = texts.second is not None
        specials = len(framed([[], []] if is_pair else [[]], 0, 0, self.add_special_tokens))
        if max_length < specials and not self.as_in_reference:
            raise ValueError(
                f"max_length={max_length} has no room for the {specials} special tokens of a "
                f"{'pair' if is_pair else 'text'}: give at least {specials}, or add_special_tokens=False."
            )
        # Now, and not when a text comes that is long enough to need it. The reference always counts two special tokens.
        room = max_length - specials
        if self.stride > max_length - 2 >= 0 if self.as_in_reference else self.stride >= max(room, 1):
            raise ValueError(
                f"stride={self.stride} is too large for max_length={max_length}, as a row would have nothing that the "
                "row before it has not: give a smaller stride or a larger max_length."
            )
        if cut == "only_second" and not is_pair and texts.first and not self.as_in_reference:
            raise ValueError("truncation='only_second' needs pairs: give text_pair, or truncation=True.")
        return Limit(
            room=room,
            strategy=cut,
            stride=self.stride,
            side=self.truncation_side,
            with_overflow=self.return_overflowing_tokens,
            as_in_reference=self.as_in_reference,
        )

    def _warn_of_length(self, rows: list[list[int]]) -> None:
        longest = max(map(len, rows), default=0)
        if self.model_max_length is not None and longest > self.model_max_length:
            warnings.warn(
                f"A row of {longest} tokens is longer than the {self.model_max_length} that the model takes: pass "
                "truncation=True to cut it, and return_overflowing_tokens=True to have the rest in further rows.",
                stacklevel=CALLER,
            )


FLAGS = tuple(name for name, kind in Call.__annotations__.items() if kind is bool)


def _check_size(cells: int, tokens: int) -> None:
    """Refuses rows that would take up a machine's memory, where the tokens of the texts do not.

    Raises:
        ValueError: this is such a case.
    """
    if cells > max(MOST_CELLS, MOST_CELLS_PER_TOKEN * tokens):
        raise ValueError(
            f"The rows would have {cells:,} elements for the {tokens:,} tokens of the texts: give a smaller "
            "max_length, pad_to_multiple_of or stride."
        )


def known_length(max_length: Any, model_max_length: int | None, wanted: str) -> int:
    """`max_length`, or the model's; `wanted` is what needs it.

    Raises:
        ValueError: neither is known, or `max_length` is negative.
        TypeError: it is no whole number.
    """
    if max_length is not None:
        return whole_number("max_length", max_length, minimum=0)
    if model_max_length is None:
        raise ValueError(
            f"{wanted} needs a length, and this tokenizer does not know the model's: pass max_length, or "
            "load the tokenizer with model_max_length."
        )
    return model_max_length
