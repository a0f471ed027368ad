"""Windows over long texts: each token belongs to one of them, and to the right one."""

import itertools
import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from xlmr_np.pipelines.windows import Window, merged, windows_over

LENGTHS = st.integers(1, 70)
ROOMS_AND_STRIDES = st.integers(1, 20).flatmap(lambda room: st.tuples(st.just(room), st.integers(0, room - 1)))


def distance_to_a_cut(token: int, window: Window, length: int) -> float:
    """How far a token of a window is from an end of it where the text goes on."""
    left = token - window.start if window.start else math.inf
    right = window.stop - 1 - token if window.stop < length else math.inf
    return min(left, right)


@given(LENGTHS, ROOMS_AND_STRIDES)
@settings(max_examples=300)
def test_each_token_belongs_to_the_window_in_which_it_is_farthest_from_a_cut(
    length: int, room_and_stride: tuple[int, int]
) -> None:
    windows = windows_over(length, *room_and_stride)
    for token in range(length):
        (owner,) = (number for number, window in enumerate(windows) if window.first <= token < window.last)
        distances = [
            distance_to_a_cut(token, window, length) if window.start <= token < window.stop else -1
            for window in windows
        ]
        assert distances[owner] == max(distances)
        assert owner == distances.index(max(distances))  # of several, the earliest


@given(LENGTHS, ROOMS_AND_STRIDES)
@settings(max_examples=300)
def test_windows_are_full_and_share_what_they_should(length: int, room_and_stride: tuple[int, int]) -> None:
    room, stride = room_and_stride
    windows = windows_over(length, room, stride)
    assert [window.stop - window.start for window in windows] == [min(room, length)] * len(windows)
    assert (windows[0].start, windows[-1].stop) == (0, length)
    shared = [before.stop - after.start for before, after in itertools.pairwise(windows)]
    assert shared[:-1] == [stride] * len(shared[:-1])
    assert all(room > each >= stride for each in shared[-1:])


@given(LENGTHS, ROOMS_AND_STRIDES)
def test_merging_takes_every_token_once(length: int, room_and_stride: tuple[int, int]) -> None:
    windows = windows_over(length, *room_and_stride)
    results = [np.arange(window.start, window.stop) for window in windows]
    assert merged(windows, results).tolist() == list(range(length))


def test_an_example() -> None:
    assert windows_over(10, 6, 2) == [Window(0, 6, 0, 5), Window(4, 10, 5, 10)]
    assert windows_over(11, 6, 2) == [Window(0, 6, 0, 5), Window(4, 10, 5, 8), Window(5, 11, 8, 11)]
    assert windows_over(6, 6, 5) == [Window(0, 6, 0, 6)]
