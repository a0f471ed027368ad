"""What a caller may pass to a tokenizer: texts, lengths and sides, checked and brought into one form."""

import operator
from collections.abc import Iterable
from typing import Any, NamedTuple


class Texts(NamedTuple):
    """The texts of one call.

    Attributes:
        first: the texts, or the first texts of the pairs.
        second: the second texts of the pairs, as many; None when the texts are single ones.
        is_batch: the caller passed a batch, so that a batch is what comes back.
    """

    first: list[str]
    second: list[str] | None
    is_batch: bool


def read_texts(text: Any, text_pair: Any = None) -> Texts:
    """Brings every accepted form into one.

    Args:
        text: a text, a batch (list or tuple) of texts, or a batch of pairs (lists or tuples of two texts).
        text_pair: None, or the second text(s) of pairs, in the form of `text`. An empty text is a text: with
            `text_pair=""` the result is a pair.

    Raises:
        TypeError: something is not a str, or a batch meets a single text; the message says where.
        ValueError: the batches differ in length, a pair does not have two texts, or a text has a lone
            surrogate.
    """
    if isinstance(text, str):
        if text_pair is not None and not isinstance(text_pair, str):
            raise TypeError(f"text is one str, so text_pair must be one str too, not {_kind(text_pair)}.")
        second = None if text_pair is None else [checked_text(text_pair, "text_pair")]
        return Texts([checked_text(text, "text")], second, is_batch=False)
    if not isinstance(text, list | tuple):
        raise TypeError(f"text must be a str, a list of str, or a list of pairs of str, not {_kind(text)}.")
    if text_pair is not None:
        if not isinstance(text_pair, list | tuple):
            raise TypeError(f"text is a batch, so text_pair must be a list of str, not {_kind(text_pair)}.")
        if len(text) != len(text_pair):
            raise ValueError(f"text has {len(text)} texts and text_pair {len(text_pair)}: give as many of each.")
        return Texts(checked_batch(text, "text"), checked_batch(text_pair, "text_pair"), is_batch=True)
    if not text or not isinstance(text[0], list | tuple):
        return Texts(checked_batch(text, "text"), None, is_batch=True)
    for index, pair in enumerate(text):
        if not isinstance(pair, list | tuple):
            raise TypeError(f"text[0] is a pair, so text[{index}] must be a pair too, not {_kind(pair)}.")
        if len(pair) != 2:
            raise ValueError(f"text[{index}] holds {len(pair)} texts, where a pair has two.")
    first, second = ([pair[side] for pair in text] for side in (0, 1))
    return Texts(
        checked_batch(first, "text", suffix="[0]"),
        checked_batch(second, "text", suffix="[1]"),
        is_batch=True,
    )


def checked_batch(texts: Iterable[Any], name: str, suffix: str = "") -> list[str]:
    """The texts as a list; see `checked_text`. An error names `name[index]` and `suffix`."""
    return [checked_text(text, name, f"[{index}]{suffix}") for index, text in enumerate(texts)]


def checked_text(text: Any, name: str, position: str = "") -> str:
    """`text`, found to be one.

    Raises:
        TypeError: it is not a str.
        ValueError: it has a lone surrogate.
    """
    if not isinstance(text, str):
        hint = ": decode the bytes first, as in data.decode('utf-8')" if isinstance(text, bytes) else ""
        raise TypeError(f"{name}{position} must be a str, not {_kind(text)}{hint}.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name}{position} has a lone surrogate at character {error.start} ({text[error.start]!a}), so it "
            "is not text: remove it, for instance with text.encode('utf-8', 'replace').decode()."
        ) from error
    return text


def whole_number(name: str, value: Any, minimum: int) -> int:
    """`value` as an int, where the argument `name` takes whole numbers from `minimum` on.

    Raises:
        TypeError: it is not a whole number.
        ValueError: it is less than `minimum`.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, not {_kind(value)}.")
    if number < minimum:
        raise ValueError(f"{name}={number} is too small: it must be at least {minimum}.")
    return number


def checked_side(name: str, value: Any) -> str:
    """`value`, which must be "left" or "right" (ValueError otherwise, naming the argument)."""
    if not isinstance(value, str) or value not in ("left", "right"):
        raise ValueError(f"{name}={value!r} is not a side: write 'left' or 'right'.")
    return value


def _kind(value: Any) -> str:
    """How an error names a value: in full where it is short."""
    if value is None:
        return "None"
    shown = repr(value)
    return f"{type(value).__name__} {shown}" if len(shown) <= 40 else type(value).__name__
