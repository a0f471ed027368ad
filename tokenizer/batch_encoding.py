"""What a tokenizer returns."""

from collections.abc import Callable
from typing import Any, Self

import numpy as np

from .encoding import CharSpan, Encoding, TokenSpan

Encodings = list[Encoding]


class BatchEncoding(dict[Any, Any]):
    """A dict whose entries are attributes too, so that `model(**batch)` and `batch.input_ids` both work.

    The entries are lists of ids (one text), lists of such lists (a batch), or, with `return_tensors`, int64 arrays of
    shape [B, T]. What a tokenizer returns also knows where its tokens come from; this is worked out when it is first
    asked for. Under a whole number, `batch[0]`, is a row's `Encoding`, under a slice is that slice of every entry.

    Methods take the number of a row first; without it they mean the first one: `batch.char_to_token(4)` is
    `batch.char_to_token(0, 4)`. They return None where the answer is nothing: a space, a special token, padding.

    Args:
        data: the entries.
        encodings: the rows, or a function that works them out, or None if nothing is known of them.
    """

    __slots__ = ("_encodings",)  # assigning another attribute is an error: it would not reach the dict

    _encodings: Encodings | Callable[[], Encodings] | None

    def __init__(
        self, data: dict[str, Any] | None = None, encodings: Encodings | Callable[[], Encodings] | None = None
    ) -> None:
        super().__init__(data or {})
        self._encodings = encodings

    @property
    def data(self) -> dict[str, Any]:
        """The entries as a plain dict."""
        return dict(self)

    @property
    def encodings(self) -> Encodings | None:
        """The rows with all that is known of their tokens; None if this is not what a tokenizer returned."""
        if callable(self._encodings):
            self._encodings = self._encodings()
        return self._encodings

    @property
    def is_fast(self) -> bool:
        """Whether it is known where tokens come from."""
        return self._encodings is not None

    @property
    def n_sequences(self) -> int | None:
        """1 for texts, 2 for pairs; None if it is not known, or there is no row."""
        return self.encodings[0].n_sequences if self.encodings else None

    def tokens(self, batch_index: int = 0) -> list[str]:
        """How each token of a row is written; an unknown one as it stands in the text."""
        return self._row(batch_index).tokens

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """The word that each token of a row belongs to, counted in its text."""
        return self._row(batch_index).word_ids

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """0 or 1 for each token of a row: the text of a pair that it belongs to."""
        return self._row(batch_index).sequence_ids

    def token_to_sequence(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """The text, 0 or 1, that a token belongs to."""
        row, token = self._row_and_index(batch_or_token_index, token_index)
        return row.token_to_sequence(_from_end(token, row))

    def token_to_word(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """The word that a token belongs to."""
        row, token = self._row_and_index(batch_or_token_index, token_index)
        return row.token_to_word(_from_end(token, row))

    def token_to_chars(self, batch_or_token_index: int, token_index: int | None = None) -> CharSpan | None:
        """The characters of its text that a token comes from."""
        row, token = self._row_and_index(batch_or_token_index, token_index)
        return row.token_to_chars(_from_end(token, row))

    def word_to_tokens(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> TokenSpan | None:
        """The tokens of a word of text `sequence_index`, 0 or 1."""
        row, word = self._row_and_index(batch_or_word_index, word_index)
        return row.word_to_tokens(word, sequence_index)

    def word_to_chars(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> CharSpan | None:
        """The characters of a word of text `sequence_index`, 0 or 1."""
        row, word = self._row_and_index(batch_or_word_index, word_index)
        return row.word_to_chars(word, sequence_index)

    def char_to_token(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """The first token that a character of text `sequence_index`, 0 or 1, belongs to."""
        row, character = self._row_and_index(batch_or_char_index, char_index)
        return row.char_to_token(character, sequence_index)

    def char_to_word(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """The word that a character of text `sequence_index`, 0 or 1, belongs to."""
        row, character = self._row_and_index(batch_or_char_index, char_index)
        return row.char_to_word(character, sequence_index)

    def to(self, device: Any) -> Self:
        """The same arrays on `device`, in a new BatchEncoding.

        Args:
            device: "cpu", "cuda", "cuda:1", or the number of a GPU.

        Raises:
            TypeError: the entries are lists, which are on no device.
            RuntimeError: there is no such device.
        """
        from xlmr_np.arrays import resolve_device, to_device

        for name, value in self.items():
            if isinstance(value, list):
                raise TypeError(
                    f"{name} is a list, and only arrays move to a device: call the tokenizer with "
                    "return_tensors='np' before .to(...)."
                )
        where = resolve_device(device)
        return type(self)({name: to_device(value, where) for name, value in self.items()}, self._encodings)

    def convert_to_tensors(self, tensor_type: str | None = None, prepend_batch_axis: bool = False) -> Self:
        """The same entries as arrays, in a new BatchEncoding.

        Args:
            tensor_type: "np" for NumPy's int64 arrays, "cp" for CuPy's on the current GPU, None for no change.
            prepend_batch_axis: puts an axis of one row before each entry.

        Raises:
            ValueError: there is no such type, or the rows of an entry differ in length.
            RuntimeError: there is no GPU.
        """
        check_tensor_type(tensor_type)
        if tensor_type is None:
            return self
        arrays = {
            name: as_array(name, [value] if prepend_batch_axis else value)
            for name, value in self.items()
            if value is not None
        }
        result = type(self)(arrays, self._encodings)
        return result.to("cuda") if tensor_type == "cp" else result

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            held = ", ".join(self) or "nothing"
            raise AttributeError(f"This BatchEncoding has no {name!r}: it holds {held}.") from None

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return super().__getitem__(key)
        if isinstance(key, slice):
            return {name: value[key] for name, value in self.items()}
        return self._row(key)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.data, self.encodings)

    def _row(self, index: int) -> Encoding:
        if self.encodings is None:
            raise ValueError(
                "This BatchEncoding does not know where its tokens come from: ask what a tokenizer returned."
            )
        try:
            return self.encodings[index]
        except IndexError:
            raise IndexError(f"There is no row {index}, as there are {len(self.encodings)}.") from None

    def _row_and_index(self, row_or_index: int, index: int | None) -> tuple[Encoding, int]:
        return (self._row(0), row_or_index) if index is None else (self._row(row_or_index), index)


def check_tensor_type(tensor_type: Any) -> None:
    """Refuses what is no kind of array.

    Raises:
        ValueError: `tensor_type` is none of None, "np" and "cp".
    """
    if not (tensor_type is None or (isinstance(tensor_type, str) and tensor_type in ("np", "cp"))):
        raise ValueError(
            f"return_tensors={tensor_type!r} is not supported, as models here take NumPy and CuPy arrays: write "
            "return_tensors='np', or 'cp' for the GPU."
        )


def as_array(name: str, column: Any) -> np.ndarray:
    """An entry as an array, [B] or [B, T] or, for offsets, [B, T, 2]: of int64, or float64 if there are fractions.

    Raises:
        ValueError: its rows differ in length, or it holds no numbers.
    """
    lengths = {len(row) for row in column if isinstance(row, list | tuple)} if isinstance(column, list) else set()
    if len(lengths) > 1:
        raise ValueError(
            f"Rows of {min(lengths)} to {max(lengths)} tokens in {name} do not make one array: pass padding=True (and "
            "truncation=True with a max_length to bound them)."
        )
    try:
        array = np.array(column)
    except ValueError as error:
        raise ValueError(f"{name} does not make one array: {error}.") from error
    if array.size == 0:
        return np.zeros(_empty_shape(name, array), np.int64)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} does not make an array of numbers: leave it out, or return_tensors=None.")
    return array if array.dtype.kind == "f" else array.astype(np.int64, copy=False)


def _empty_shape(name: str, array: np.ndarray) -> tuple[int, ...]:
    """The shape of an entry without elements."""
    if name == "offset_mapping":
        return (len(array), 0, 2)
    if name in ("length", "overflow_to_sample_mapping"):
        return (0,)
    return (len(array), 0)


def _from_end(token: int, row: Encoding) -> int:
    """The place of a token that may be counted from the end, as -1."""
    return token + len(row) if token < 0 else token
