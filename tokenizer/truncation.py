"""Cutting a text, or a pair of texts, to a number of tokens, and what is cut off into further rows."""

import math
from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

STRATEGIES = ("longest_first", "only_first", "only_second", "do_not_truncate")

MOST_ROWS = 2**20  # of one text or pair: windows of two long texts are many

Window = tuple[int, int]  # the tokens of a text that a row has, from the first to before the second


class Limit(NamedTuple):
    """How long rows may be, and what becomes of longer ones.

    Attributes:
        room: tokens of a row, without special ones.
        strategy: "longest_first", "only_first" or "only_second".
        stride: tokens that a row of what was cut off shares with the row before it.
        side: where tokens are dropped, "left" or "right".
        with_overflow: whether what is cut off makes further rows.
        as_in_reference: whether room for no token at all means what it does in transformers: where not even the
            special tokens have room, nothing is cut; where they alone have, both texts are cut whatever the strategy;
            and what a text without any room loses comes in one piece, however long.
    """

    room: int
    strategy: str
    stride: int
    side: str
    with_overflow: bool
    as_in_reference: bool


def truncation_strategy(truncation: Any) -> str:
    """The name of the strategy that a call's `truncation` asks for.

    Raises:
        ValueError: there is no such strategy.
    """
    if truncation is None or truncation is False:
        return "do_not_truncate"
    if truncation is True:
        return "longest_first"
    if isinstance(truncation, str) and truncation in STRATEGIES:
        return truncation
    raise ValueError(f"truncation={truncation!r} is not True, False or one of {', '.join(STRATEGIES)}.")


def windows(lengths: Sequence[int], limit: Limit | None) -> list[tuple[Window, ...]]:
    """What the rows of a text, or of a pair of texts, have of it.

    The first row is the truncated text or pair. If there is to be overflow, the other rows have every window of the
    first text with every window of the second.

    Args:
        lengths: tokens of the text, or of both texts, without special ones.
        limit: how long rows may be; None is without limit.

    Raises:
        ValueError: the one text that may be cut would have no token left, the stride is as long as the rows, or what
            is cut off would have no room in any row, or would make too many.
    """
    if limit is None:
        return [tuple((0, length) for length in lengths)]
    kept = _kept_lengths(lengths, limit)
    sliding = [_sliding(length, room, limit) for length, room in zip(lengths, kept, strict=True)]
    if not limit.with_overflow:
        return [tuple(windows_of_text[0] for windows_of_text in sliding)]
    number = math.prod(map(len, sliding))
    if number > MOST_ROWS:
        raise ValueError(
            f"What overflows would make {number:,} rows of one {'text' if len(lengths) == 1 else 'pair'}, and "
            f"{MOST_ROWS:,} is the most: give a larger max_length or a smaller stride."
        )
    rows = list(product(*sliding))
    of_first_window = len(rows) // len(sliding[0])  # these come last, in the reference's order
    return [rows[0], *rows[of_first_window:], *rows[1:of_first_window]]


def longest_first_lengths(first: int, second: int, room: int) -> tuple[int, int]:
    """What stays of two texts of `first` and `second` tokens, `first + second > room`.

    The longer text is cut until both are equally long, then both are; an odd token stays with the text that
    was longer, or with the second.
    """
    shorter = min(first, second, room // 2)
    longer = room - shorter
    return (shorter, longer) if first <= second else (longer, shorter)


def _kept_lengths(lengths: Sequence[int], limit: Limit) -> Sequence[int]:
    """How many tokens of each text a row may have."""
    excess = sum(lengths) - limit.room
    if excess <= 0 or limit.room < 0:
        return lengths
    if limit.room == 0 and limit.as_in_reference:
        return [0] * len(lengths)
    if limit.strategy == "longest_first":
        return [limit.room] if len(lengths) == 1 else longest_first_lengths(lengths[0], lengths[1], limit.room)
    cut = 0 if limit.strategy == "only_first" else 1
    if cut == len(lengths):
        raise ValueError("truncation='only_second' needs pairs: give text_pair, or truncation=True.")
    if lengths[cut] <= excess:
        raise ValueError(
            f"truncation={limit.strategy!r} must drop {excess} tokens of a text that has {lengths[cut]}: give a larger "
            "max_length, or truncation='longest_first'."
        )
    return [length - excess * (text == cut) for text, length in enumerate(lengths)]


def _sliding(length: int, kept: int, limit: Limit) -> list[Window]:
    """The windows of `kept` tokens through a text of `length`, from the side that is kept."""
    if kept >= length:
        return [(0, length)]
    if kept == 0:
        if limit.with_overflow and not limit.as_in_reference:
            raise ValueError(
                f"max_length leaves no room for a text of {length} tokens, so that there would be no end of "
                "overflowing rows: give a larger max_length, or return_overflowing_tokens=False."
            )
        return [(0, 0), (0, length)]
    if limit.stride >= kept:
        raise ValueError(
            f"stride={limit.stride} is too large for rows that have {kept} tokens of a text (max_length without the "
            f"special tokens and without the other text of a pair): give at most {kept - 1}."
        )
    step = kept - limit.stride
    starts = range(0, max(length - limit.stride, 1), step)
    if limit.side == "right":
        return [(start, min(start + kept, length)) for start in starts]
    return [(max(length - start - kept, 0), length - start) for start in starts]
