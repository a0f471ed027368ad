"""Sliding windows over a text of more tokens than a model takes."""

from typing import NamedTuple

import numpy as np


class Window(NamedTuple):
    """What one window shows of a text, and of which of its tokens it has the last word.

    Attributes:
        start: its first token.
        stop: the token after its last.
        first: the first token whose prediction is taken from this window.
        last: the token after the last of these; the next window goes on with it.
    """

    start: int
    stop: int
    first: int
    last: int


def windows_over(length: int, room: int, stride: int) -> list[Window]:
    """The windows through a text, each token belonging to the one in which it stands farthest from a cut.

    A cut is an end of a window where the text goes on. Of two windows in which a token stands equally far, the earlier
    one has it. The last window ends with the text and is as long as the others, so it may share more with the one
    before it.

    Args:
        length: tokens of the text, at least one.
        room: tokens of a window.
        stride: tokens that a window shares with the one before it, less than `room`.
    """
    starts = [*range(0, max(length - room, 0), room - stride), max(length - room, 0)]
    stops = [min(start + room, length) for start in starts]
    # Halfway between the cuts of two neighbours; the one in the middle belongs to the earlier window.
    changes = [(stop + start + 1) // 2 for stop, start in zip(stops, starts[1:], strict=False)]
    return [Window(*each) for each in zip(starts, stops, [0, *changes], [*changes, length], strict=True)]


def merged(windows: list[Window], results: list[np.ndarray]) -> np.ndarray:
    """What the windows say about all tokens of the text [T, ...], given what each says about its own."""
    return np.concatenate(
        [
            result[window.first - window.start : window.last - window.start]
            for window, result in zip(windows, results, strict=True)
        ]
    )
