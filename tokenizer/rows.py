"""The rows of a batch: which tokens of which texts, special tokens around them, padding beside them."""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple

from .encoding import Encoding
from .padding import Value, pad
from .segmentation import Tokens
from .truncation import Window
from .vocabulary import BOS_ID, BOS_TOKEN, EOS_ID, EOS_TOKEN, PAD_ID, PAD_TOKEN


def framed(texts: Sequence[Sequence[Value]], begin: Value, end: Value, add_special_tokens: bool = True) -> list[Value]:
    """`<s> A </s>`, or `<s> A </s></s> B </s>`: the form in which the model reads texts.

    Args:
        texts: something about every token of a text, its id for instance, or of both texts of a pair.
        begin: the same about `<s>`.
        end: the same about `</s>`.
        add_special_tokens: False leaves `<s>` and `</s>` away.
    """
    if not add_special_tokens:
        return list(chain.from_iterable(texts))
    row = [begin, *texts[0], end]
    for text in texts[1:]:
        row += [end, *text, end]
    return row


class Row(NamedTuple):
    """One row: the number of a text or pair in its batch, and what the row has of it."""

    sample: int
    windows: tuple[Window, ...]


class Rows(NamedTuple):
    """The rows of a batch.

    Attributes:
        rows: in order.
        add_special_tokens: whether each has special tokens.
        length: tokens to which shorter ones are padded; 0 for no padding.
        padding_side: "right" or "left".
    """

    rows: list[Row]
    add_special_tokens: bool
    length: int = 0
    padding_side: str = "right"

    def column(
        self, parts: Sequence[Sequence[Sequence[Value]]], begin: Value, end: Value, padding: Value
    ) -> list[list[Value]]:
        """Something about every token of every row, such as its id.

        Args:
            parts: this about every token of every text, and then of every second text if the texts are pairs.
            begin: this about `<s>`.
            end: this about `</s>`.
            padding: this about `<pad>`.
        """
        column = []
        for sample, windows in self.rows:
            texts = [part[sample][start:stop] for part, (start, stop) in zip(parts, windows, strict=True)]
            row = framed(texts, begin, end, self.add_special_tokens)
            column.append(pad(row, padding, self.length, self.padding_side))
        return column

    def constant(self, values: Sequence[Value], special: Value, padding: Value) -> list[list[Value]]:
        """The same about all tokens of texts, of second texts, all special tokens, and all padding."""
        column = []
        for _, windows in self.rows:
            texts = [[value] * (stop - start) for value, (start, stop) in zip(values, windows, strict=False)]
            row = framed(texts, special, special, self.add_special_tokens)
            column.append(pad(row, padding, self.length, self.padding_side))
        return column

    def attention_mask(self) -> list[list[int]]:
        """1 for tokens, 0 for padding."""
        return self.constant((1, 1), 1, 0)

    def special_tokens_mask(self) -> list[list[int]]:
        """1 for the special tokens around texts and for padding."""
        return self.constant((0, 0), 1, 1)

    def token_type_ids(self) -> list[list[int]]:
        """0 for each: XLM-R has one type."""
        return self.constant((0, 0), 0, 0)

    def longest(self) -> int:
        """Tokens of the longest row, without padding, of those that are no overflow."""
        lengths: dict[int, int] = {}
        for sample, windows in self.rows:
            if sample not in lengths:
                texts = [range(*window) for window in windows]
                lengths[sample] = len(framed(texts, 0, 0, self.add_special_tokens))
        return max(lengths.values(), default=0)

    def encodings(self, parts: Sequence[Sequence[Tokens]], written: Callable[[int], str]) -> list[Encoding]:
        """The rows with all that is known of their tokens.

        Args:
            parts: the tokens of every text, and then of every second text if the texts are pairs.
            written: how the token of an id is written.
        """

        def column(name: str, begin: Any, end: Any, padding: Any) -> list[list[Any]]:
            return self.column([[getattr(text, name) for text in part] for part in parts], begin, end, padding)

        texts = [
            [[text.unknown.get(place) or written(token) for place, token in enumerate(text.ids)] for text in part]
            for part in parts
        ]
        columns = (
            column("ids", BOS_ID, EOS_ID, PAD_ID),
            self.token_type_ids(),
            self.column(texts, BOS_TOKEN, EOS_TOKEN, PAD_TOKEN),
            column("offsets", (0, 0), (0, 0), (0, 0)),
            column("words", None, None, None),
            self.constant((0, 1), None, None),
            self.special_tokens_mask(),
            self.attention_mask(),
        )
        encodings: list[Encoding] = []
        first_of_sample: dict[int, Encoding] = {}
        for row, values in zip(self.rows, zip(*columns, strict=True), strict=True):
            fields: tuple[Any, ...] = (*values, len(parts))
            encodings.append(Encoding(*fields))
            first = first_of_sample.setdefault(row.sample, encodings[-1])
            if first is not encodings[-1]:
                first.overflowing.append(encodings[-1])
        return encodings
