"""Cutting a text, or a pair of texts, to a number of tokens."""

from typing import Any

STRATEGIES = ("longest_first", "only_first", "only_second", "do_not_truncate")


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


def truncate(
    first: list[int], second: list[int] | None, room: int, strategy: str, side: str
) -> tuple[list[int], list[int] | None]:
    """Cuts `first` and `second` so that together they have at most `room` tokens.

    Args:
        first: the ids of the text, without special tokens.
        second: the ids of the second text of a pair, or None.
        room: tokens that may stay, at least 0.
        strategy: "longest_first", "only_first" or "only_second".
        side: where tokens are dropped, "left" or "right".

    Raises:
        ValueError: the one text that may be cut would have no token left.
    """
    second_length = 0 if second is None else len(second)
    excess = len(first) + second_length - room
    if excess <= 0:
        return first, second
    if strategy == "longest_first":
        first_length, second_length = longest_first_lengths(len(first), second_length, room)
    elif strategy == "only_first":
        first_length = _shortened(len(first), excess, strategy)
    else:
        first_length, second_length = len(first), _shortened(second_length, excess, strategy)
    return _cut(first, first_length, side), None if second is None else _cut(second, second_length, side)


def longest_first_lengths(first: int, second: int, room: int) -> tuple[int, int]:
    """What stays of two texts of `first` and `second` tokens, `first + second > room`.

    The longer text is cut until both are equally long, then both are; an odd token stays with the text that
    was longer, or with the second.
    """
    shorter = min(first, second, room // 2)
    longer = room - shorter
    return (shorter, longer) if first <= second else (longer, shorter)


def _shortened(length: int, excess: int, strategy: str) -> int:
    if length <= excess:
        raise ValueError(
            f"truncation={strategy!r} must drop {excess} tokens of a text that has {length}: give a larger "
            "max_length, or truncation='longest_first'."
        )
    return length - excess


def _cut(ids: list[int], length: int, side: str) -> list[int]:
    return ids[:length] if side == "right" else ids[len(ids) - length :]
