"""Bringing the rows of a batch to one length."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from .arguments import as_lists, list_of_ids, whole_number
from .vocabulary import PAD_ID

Value = TypeVar("Value")

PADDED_ENTRIES = {"input_ids": PAD_ID, "attention_mask": 0, "token_type_ids": 0, "special_tokens_mask": 1}

STRATEGIES = ("longest", "max_length", "do_not_pad")

# No text has as many tokens: a call that asks for such rows has a wrong number in it, and would end in the
# operating system's killing the process.
LONGEST_PADDED_ROW = 2**20


def padding_strategy(padding: Any) -> str:
    """The name of the strategy that a call's `padding` asks for.

    Raises:
        ValueError: there is no such strategy.
    """
    if padding is False:
        return "do_not_pad"
    if padding is True:
        return "longest"
    if isinstance(padding, str) and padding in STRATEGIES:
        return padding
    raise ValueError(f"padding={padding!r} is not True, False or one of {', '.join(STRATEGIES)}.")


def padded_length(longest: int, fixed_length: int | None, multiple_of: int | None) -> int:
    """The length to which rows are padded; a longer row stays as long as it is.

    Args:
        longest: tokens of the longest row.
        fixed_length: the length asked for by "max_length"; None pads to `longest`.
        multiple_of: rounds the length up to a multiple of this; None does not round.

    Raises:
        ValueError: rows would be padded beyond any text.
    """
    length = longest if fixed_length is None else fixed_length
    if multiple_of is not None:
        length = -(-length // multiple_of) * multiple_of
    if length > max(longest, LONGEST_PADDED_ROW):
        raise ValueError(
            f"Rows would be padded to {length} tokens, and {LONGEST_PADDED_ROW} is the most: give a smaller "
            "max_length or pad_to_multiple_of."
        )
    return length


def pad(row: list[Value], value: Value, length: int, side: str) -> list[Value]:
    """`row` filled up with `value`, on the `side` "left" or "right", to at least `length` entries."""
    filling = [value] * (length - len(row))
    return row + filling if side == "right" else filling + row


def checked_multiple(value: Any) -> int | None:
    """A `pad_to_multiple_of`, found to be one.

    Raises:
        TypeError, ValueError: it is not a positive whole number or None.
    """
    return None if value is None else whole_number("pad_to_multiple_of", value, minimum=1)


def padded_entries(
    encoded: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    strategy: str,
    fixed_length: int | None,
    multiple_of: int | None,
    side: str,
    with_attention_mask: bool,
    is_batch: bool,
) -> dict[str, Any]:
    """Pads the entries of rows that were encoded before.

    Args:
        encoded: a row, a batch, or a list of rows, each a mapping with `input_ids`; lists, or arrays of any library.
        strategy: "longest", "max_length" or "do_not_pad".
        fixed_length: the length asked for by "max_length".
        multiple_of: rounds the length up.
        side: "left" or "right".
        with_attention_mask: adds `attention_mask` where it is missing.
        is_batch: whether a row comes back as a batch of one.

    Returns:
        The entries as lists; those in `PADDED_ENTRIES` are padded.

    Raises:
        TypeError: these are no rows, or what is padded are no whole numbers.
        ValueError: there are no `input_ids`, rows have different entries, or entries different lengths.
    """
    columns, is_row = _columns(encoded)
    lengths = [len(row) for row in columns["input_ids"]]
    if with_attention_mask and "attention_mask" not in columns:
        columns["attention_mask"] = [[1] * length for length in lengths]
    padded = [name for name in PADDED_ENTRIES if name in columns]
    for name in padded:
        if [len(row) for row in columns[name]] != lengths:
            raise ValueError(f"{name} does not have as many elements as input_ids: each token has one.")
    if strategy != "do_not_pad":
        length = padded_length(max(lengths, default=0), fixed_length, multiple_of)
        for name in padded:
            columns[name] = [pad(list(row), PADDED_ENTRIES[name], length, side) for row in columns[name]]
    return {name: column[0] for name, column in columns.items()} if is_row and not is_batch else columns


def _columns(encoded: Any) -> tuple[dict[str, list[Any]], bool]:
    """The entries of rows as lists of one element a row, and whether it was a single row."""
    if not isinstance(encoded, Mapping):
        if not isinstance(encoded, list | tuple) or not all(isinstance(row, Mapping) for row in encoded):
            raise TypeError("pad takes what the tokenizer returns: a row, a batch, or a list of rows.")
        names = list(encoded[0]) if encoded else ["input_ids"]
        if any(set(row) != set(names) for row in encoded):
            raise ValueError("The rows to pad have different entries: give each the same ones.")
        encoded = {name: [row[name] for row in encoded] for name in names}
    if "input_ids" not in encoded:
        held = ", ".join(map(str, encoded)) or "nothing"
        raise ValueError(f"pad needs input_ids, and was given {held}: pass what the tokenizer returns.")
    ids = as_lists(encoded["input_ids"])
    if not isinstance(ids, list | tuple):
        raise TypeError("input_ids are a list or an array of token ids, or several of them.")
    is_row = bool(ids) and not isinstance(as_lists(ids[0]), list | tuple)
    columns: dict[str, list[Any]] = {}
    for name, value in encoded.items():
        column = [as_lists(value)] if is_row else as_lists(value)
        if not isinstance(column, list | tuple) or len(column) != (1 if is_row else len(ids)):
            raise ValueError(f"{name} has not one element for each row of input_ids: give as many.")
        columns[name] = [list_of_ids(row) if name in PADDED_ENTRIES else as_lists(row) for row in column]
    return columns, is_row
