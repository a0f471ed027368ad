"""What a caller may pass to a tokenizer: texts, lengths and sides, checked and brought into one form."""

import operator
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple


class Texts(NamedTuple):
    """The texts of one call; each a str, or, if they come in words, a list of them.

    Attributes:
        first: the texts, or the first texts of the pairs.
        second: the second texts of the pairs, as many; None when the texts are single ones.
        is_batch: the caller passed a batch, so that a batch is what comes back.
    """

    first: list[Any]
    second: list[Any] | None
    is_batch: bool


def read_texts(text: Any, text_pair: Any = None, is_split_into_words: bool = False) -> Texts:
    """Brings every accepted form into one.

    Args:
        text: a text, a batch (list or tuple) of texts, or a batch of pairs (lists or tuples of two texts).
        text_pair: None, or the second text(s) of pairs, in the form of `text`. An empty text is a text: with
            `text_pair=""` the result is a pair.
        is_split_into_words: a text is a list or tuple of words.

    Raises:
        TypeError: something is not a str, or a batch meets a single text; the message says where.
        ValueError: the batches differ in length, a pair does not have two texts, or a text has a lone
            surrogate.
    """
    kind = _WORDS if is_split_into_words else _TEXT
    if kind.is_one(text):
        if text_pair is not None and not kind.is_one(text_pair):
            raise TypeError(
                f"text is one {kind.name}, so text_pair must be one {kind.name} too, not {_kind(text_pair)}."
            )
        second = None if text_pair is None else [kind.check(text_pair, "text_pair", "")]
        return Texts([kind.check(text, "text", "")], second, is_batch=False)
    if not isinstance(text, list | tuple):
        raise TypeError(
            f"text must be a {kind.name}, a list of {kind.name}, or a list of pairs of {kind.name}, not {_kind(text)}."
        )
    if text_pair is not None:
        if not isinstance(text_pair, list | tuple) or (text_pair and kind.is_one(text_pair)):
            raise TypeError(f"text is a batch, so text_pair must be a list of {kind.name}, not {_kind(text_pair)}.")
        if len(text) != len(text_pair):
            raise ValueError(f"text has {len(text)} texts and text_pair {len(text_pair)}: give as many of each.")
        return Texts(kind.check_all(text, "text"), kind.check_all(text_pair, "text_pair"), is_batch=True)
    if not text or not kind.is_pair(text[0]):
        return Texts(kind.check_all(text, "text"), None, is_batch=True)
    for index, pair in enumerate(text):
        if not isinstance(pair, list | tuple) or (is_split_into_words and not kind.is_pair(pair)):
            raise TypeError(f"text[0] is a pair, so text[{index}] must be a pair too, not {_kind(pair)}.")
        if len(pair) != 2:
            raise ValueError(f"text[{index}] holds {len(pair)} texts, where a pair has two.")
    first, second = ([pair[side] for pair in text] for side in (0, 1))
    return Texts(kind.check_all(first, "text", "[0]"), kind.check_all(second, "text", "[1]"), is_batch=True)


class _Kind(NamedTuple):
    """What a text is: a str, or a list of words.

    Attributes:
        name: how errors call it.
        is_one: whether a value is one, and no batch.
        is_pair: whether the first value of a batch, where no second texts are given, is a pair.
        check: brings one into its form, and refuses what is none.
    """

    name: str
    is_one: Callable[[Any], bool]
    is_pair: Callable[[Any], bool]
    check: Callable[[Any, str, str], Any]

    def check_all(self, texts: Iterable[Any], name: str, suffix: str = "") -> list[Any]:
        return [self.check(text, name, f"[{index}]{suffix}") for index, text in enumerate(texts)]


def _words(words: Any, name: str, position: str) -> list[str]:
    """The words of a text as a list."""
    if not isinstance(words, list | tuple):
        raise TypeError(f"{name}{position} must be a list of words, not {_kind(words)}.")
    return [checked_text(word, name, f"{position}[{index}]") for index, word in enumerate(words)]


def checked_batch(texts: Iterable[Any], name: str) -> list[str]:
    """The texts as a list; see `checked_text`. An error names `name[index]`."""
    return _TEXT.check_all(texts, name)


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


def checked_flag(name: str, value: Any) -> bool:
    """`value`, which must be True or False (TypeError otherwise, naming the argument)."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {_kind(value)}.")
    return value


def checked_side(name: str, value: Any) -> str:
    """`value`, which must be "left" or "right" (ValueError otherwise, naming the argument)."""
    if not isinstance(value, str) or value not in ("left", "right"):
        raise ValueError(f"{name}={value!r} is not a side: write 'left' or 'right'.")
    return value


def as_lists(value: Any) -> Any:
    """The lists in an array of any library; anything else as it is."""
    return value.tolist() if hasattr(value, "tolist") else value


def list_of_ids(ids: Any) -> list[int]:
    """The ids in a number, a list or a one-dimensional array of any library.

    Raises:
        TypeError: it is something else.
        ValueError: an id is negative.
    """
    ids = as_lists(ids)
    if isinstance(ids, int) and not isinstance(ids, bool):
        ids = [ids]
    if not isinstance(ids, list | tuple):
        raise TypeError(f"Token ids are a whole number or a list or array of them, not {type(ids).__name__}.")
    if any(isinstance(token_id, list | tuple) or getattr(token_id, "ndim", 0) for token_id in ids):
        raise TypeError("These are several rows of token ids, where one row belongs.")
    return [whole_number("token id", token_id, minimum=0) for token_id in ids]


def _kind(value: Any) -> str:
    """How an error names a value: in full where it is short."""
    if value is None:
        return "None"
    shown = repr(value)
    return f"{type(value).__name__} {shown}" if len(shown) <= 40 else type(value).__name__


_TEXT = _Kind(
    name="str",
    is_one=lambda value: isinstance(value, str),
    is_pair=lambda value: isinstance(value, list | tuple),
    check=checked_text,
)
_WORDS = _Kind(
    name="list of words",
    is_one=lambda value: isinstance(value, list | tuple) and (not value or not isinstance(value[0], list | tuple)),
    is_pair=lambda value: isinstance(value, list | tuple) and bool(value) and isinstance(value[0], list | tuple),
    check=_words,
)
