"""From the logits of a context's windows to its likeliest spans, and how likely they are."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, Self

import numpy as np

CELLS = 2**20  # spans that are looked at at once


class ContextTokens(NamedTuple):
    """Where the N tokens of a context lie in it. Tokens may have white space around them, and answers have none.

    Attributes:
        starts: [N], the first character at or after the token's start that is no white space.
        ends: [N], the end of the last character before the token's end that is no white space.
        first_of_word: [N], the first token of the token's word.
        last_of_word: [N], the last one.
    """

    starts: np.ndarray
    ends: np.ndarray
    first_of_word: np.ndarray
    last_of_word: np.ndarray

    @classmethod
    def of(cls, context: str, offsets: Sequence[tuple[int, int]], words: Sequence[int | None]) -> Self:
        """Those of a context that has a character which is no white space.

        Args:
            context: the text.
            offsets: where each token starts and ends in it.
            words: the number of each token's word; never falls.
        """
        is_space = np.fromiter(map(str.isspace, context), bool, len(context))
        visible = np.flatnonzero(~is_space)
        starts, ends = np.array(offsets).T
        following = np.append(visible, len(context))[np.searchsorted(visible, starts)]
        previous = np.append(0, visible + 1)[np.searchsorted(visible, ends)]
        numbers = np.array(words, np.int64)
        first, behind = np.searchsorted(numbers, numbers), np.searchsorted(numbers, numbers, "right")
        return cls(following, previous, first, behind - 1)

    def bounds(self, window: "Window", of_words: bool, are_cut: bool) -> tuple[np.ndarray, np.ndarray]:
        """Where answers start and end in the context that start and end with a token, for all M of a window.

        Args:
            window: the window.
            of_words: they are completed to whole words.
            are_cut: they end where the window does, even within a word.
        """
        first = last = np.arange(window.first, window.last + 1)
        if of_words:
            first, last = self.first_of_word[first], self.last_of_word[last]
        if are_cut:
            first, last = np.maximum(first, window.first), np.minimum(last, window.last)
        return self.starts[first], self.ends[last]


class Window(NamedTuple):
    """What the model says to a part of M tokens of the context.

    Attributes:
        first: the number of its first token in the context.
        logits: [2, 1 + M], that the answer starts there, and that it ends there: at the classification token, which
            stands for no answer, and at the tokens of the context.
    """

    first: int
    logits: np.ndarray

    @property
    def last(self) -> int:
        """The number of its last token in the context."""
        return self.first + self.logits.shape[1] - 2


def each_start_once(windows: Sequence[Window], most_tokens: int) -> list[Window]:
    """The windows with start logits of -inf but where they are asked, so that a span counts in one window only.

    Of two neighbours the earlier one is asked up to the middle of what they share, but no farther than answers of
    `most_tokens` tokens fit into it.
    """
    changes = [
        max(min((one.last + other.first) // 2 + 1, one.last - most_tokens + 2), other.first)
        for one, other in pairwise(windows)
    ]
    asked = []
    for window, first, behind in zip(windows, [0, *changes], [*changes, windows[-1].last + 1], strict=True):
        places = np.arange(window.first, window.last + 1)
        logits = window.logits.copy()
        logits[0, 1:][(places < first) | (places >= behind)] = -np.inf
        asked.append(window._replace(logits=logits))
    return asked


class Normalizers(NamedTuple):
    """What makes probabilities of sums of logits.

    Attributes:
        of_spans: [W], what is subtracted from the sum of a span's start and end logit before its exponential is the
            span's probability, in each window.
        no_answer: the probability that the context has no answer.
    """

    of_spans: np.ndarray
    no_answer: float


def each_by_itself(windows: Sequence[Window]) -> Normalizers:
    """Each window has probability 1 for itself; no answer is as likely as where it is least likely."""
    no_answer = np.array([window.logits[:, 0].sum() for window in windows])
    totals = np.array([_log_of_sums(window.logits) for window in windows])
    return Normalizers(totals, float(np.exp(no_answer - totals).min()))


def all_together(windows: Sequence[Window]) -> Normalizers:
    """The spans of all windows, see `each_start_once`, share a probability of 1, together with no answer.

    Every window in which the answer is not says that there is none, and that must not count against the one in which
    it is. So no answer takes part once, from the window in which its logits are least.
    """
    no_answer = np.array([window.logits[:, 0].sum() for window in windows])
    least = int(no_answer.argmin())
    totals = [
        _log_of_sums(window.logits if number == least else window.logits[:, 1:])
        for number, window in enumerate(windows)
    ]
    total = np.logaddexp.reduce(totals)
    return Normalizers(np.full(len(windows), total), float(np.exp(no_answer[least] - total)))


NORMALIZERS = {"across_windows": all_together, "per_window": each_by_itself}


def likeliest_spans(
    logits: np.ndarray, starts: np.ndarray, ends: np.ndarray, most_tokens: int, number: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The spans of M tokens whose sums of a start and an end logit are largest, the largest first.

    Args:
        logits: [2, M], of start and end.
        starts: [M], the character at which a span starts that starts with this token.
        ends: [M], the character before which one ends that ends with this token.
        most_tokens: how many a span has at most.
        number: how many spans; there are less if there are less that have a character.

    Returns:
        Of each span the start, the end, and the sum.
    """
    tokens = len(starts)
    width = min(most_tokens, tokens)
    end_logits, ends_ahead = _ahead(logits[1], width), _ahead(ends, width)
    height = max(CELLS // width, 1)
    kept = []
    for top in range(0, tokens, height):
        rows = slice(top, top + height)
        sums = logits[0, rows, None] + end_logits[rows]
        sums = np.where(ends_ahead[rows] > starts[rows, None], sums, -np.inf).ravel()
        best = np.argpartition(sums, -number)[-number:] if number < len(sums) else np.arange(len(sums))
        best = best[np.isfinite(sums[best])]
        kept.append((best + top * width, sums[best]))
    places, sums = (np.concatenate(parts) for parts in zip(*kept, strict=True))
    order = np.lexsort((places, -sums))[:number]
    first, further = np.divmod(places[order], width)
    return starts[first], ends[first + further], sums[order]


def _ahead(values: np.ndarray, width: int) -> np.ndarray:
    """[N, width], each value and those after it; zeros after the last."""
    return np.lib.stride_tricks.sliding_window_view(np.pad(values, (0, width - 1)), width)


def _log_of_sums(logits: np.ndarray) -> float:
    """The logarithm of the sum, over all pairs of a start and an end, of exp(start logit + end logit)."""
    return float(np.logaddexp.reduce(logits, axis=1).sum())
