"""How a text becomes tokens, step by step, for those who want to see it."""

from collections.abc import Callable
from typing import NamedTuple

from .added_tokens import Found
from .normalization import WORD_START, Normalized
from .unigram import Node, Unigram


class Candidate(NamedTuple):
    """A piece that fits somewhere: an edge of the lattice.

    Attributes:
        start: the number of its first character in what is cut.
        end: the number of the character after its last.
        text: its characters.
        token_id: its id; that of `<unk>` for what no piece covers.
        score: logarithm of its probability.
    """

    start: int
    end: int
    text: str
    token_id: int
    score: float


class Cut(NamedTuple):
    """How normalised text is cut.

    Attributes:
        text: the text: a word for normalization="huggingface", and otherwise all between two added tokens.
        candidates: all pieces that fit, by their starts.
        best: the most probable way.
        second: the next best way; None if there is no other.
    """

    text: str
    candidates: list[Candidate]
    best: list[Candidate]
    second: list[Candidate] | None


class Stretch(NamedTuple):
    """What is between two added tokens.

    Attributes:
        start: where it starts in the text.
        end: where it ends there.
        normalized: what normalisation makes of it.
        changes: what it replaces, and by what, spaces apart.
        cuts: how that is cut.
    """

    start: int
    end: int
    normalized: str
    changes: list[tuple[str, str]]
    cuts: list[Cut]


Explanation = list[Found | Stretch]


def cut_of(text: str, unigram: Unigram, token_id: Callable[[int], int]) -> Cut:
    """How a text is cut.

    Args:
        text: normalised text.
        unigram: the pieces.
        token_id: XLM-R's id of a piece's.
    """

    def candidates(nodes: list[Node]) -> list[Candidate]:
        return [
            Candidate(node.start, node.end, text[node.start : node.end], token_id(node.piece_id), node.score)
            for node in nodes
        ]

    best = unigram.best_path(text)  # the first of the n best may be another one that is equally probable
    others = [path for path in unigram.n_best(text, 2) if path != best]
    return Cut(
        text,
        candidates(unigram.lattice(text)),
        candidates(best),
        candidates(others[0]) if others else None,
    )


def changes_of(original: str, normalized: Normalized, start: int, end: int) -> list[tuple[str, str]]:
    """What normalisation replaces, and by what, in characters `start` to `end` of its result; spaces are left aside."""
    text, starts, _ = normalized
    changes = []
    first = start
    for place in range(start + 1, end + 1):
        if place < end and starts[place] == starts[first]:
            continue
        stop = starts[place] if place < len(text) else len(original)
        before, after = original[starts[first] : stop].strip(), text[first:place].strip(" " + WORD_START)
        if before != after:
            changes.append((before, after))
        first = place
    return changes
