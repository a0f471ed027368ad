"""Bringing the rows of a batch to one length."""

from typing import Any

STRATEGIES = ("longest", "max_length", "do_not_pad")

# No text has as many tokens: a call that asks for such rows has a wrong number in it, and would end in the
# operating system's killing the process.
LONGEST_PADDED_ROW = 2**24


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


def pad(row: list[int], value: int, length: int, side: str) -> list[int]:
    """`row` filled up with `value`, on the `side` "left" or "right", to at least `length` entries."""
    filling = [value] * (length - len(row))
    return row + filling if side == "right" else filling + row
