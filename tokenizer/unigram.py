"""The unigram model: how a text is cut into pieces so that the product of their probabilities is largest.

This is the readable form, in plain Python, of what the sentencepiece and tokenizers libraries compute; the
equations UNI.1 to UNI.12 are derived in docs/derivations/unigram.md. From Kudo, "Subword Regularization", 2018,
https://arxiv.org/abs/1804.10959.
"""

import heapq
import math
import struct
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, Self

Library = Literal["sentencepiece", "huggingface"]

UNKNOWN_PENALTY = 10.0  # how far an unknown character lies below the least likely piece
LONGEST_PIECE = 128  # characters; sentencepiece makes none beyond 16 unless told to
LARGEST_SCORE = 1e30  # a logarithm is never as large, and sums of these stay finite in float32
LARGEST_ALPHA = 1e6  # by then all samples are the best path, and sums still stay finite
LARGEST_SUM = 100_000.0  # beyond it, sentencepiece counts from zero again

# Bounds of sentencepiece's search for the n best paths.
AGENDA_LIMIT = 10_000
AGENDA_KEPT = 512
AGENDA_KEPT_PER_PATH = 10
AGENDA_CUTS = 10

_FLOAT32 = struct.Struct("f")


class Node(NamedTuple):
    """A piece at a place in a text: an edge of the lattice.

    Attributes:
        start: the number of its first character.
        end: the number of the character after its last.
        piece_id: the piece, or `unk_id` for what no piece covers.
        score: logarithm of its probability (UNI.2).
    """

    start: int
    end: int
    piece_id: int
    score: float


class RandomSource(Protocol):
    """What draws the samples: `random.Random(seed)`, or a generator of NumPy."""

    def random(self) -> float:
        """The next number, uniform over 0 <= number < 1."""


class Unigram:
    """A vocabulary with scores. Immutable, so that threads may use it at once.

    Texts are normalised ones, with U+2581 for every space. The time of all but `n_best` is linear in their length.

    Args:
        pieces: the text of every piece; its place in the list is its id.
        scores: the logarithm of every piece's probability.
        unk_id: id of what stands for unknown characters.
        hidden: ids of pieces that no text is cut into, although it may contain them: sentencepiece's control,
            unknown, unused and byte pieces. There is no fallback to bytes.
        user_defined: ids of pieces that get a bonus in place of their score.
        library: whose results are computed, to the last bit of the rounding. "sentencepiece" (release 0.2.3)
            takes a whole text and computes in float32; "huggingface", the `tokenizers` library, is given one
            word at a time and computes in float64.

    Raises:
        ValueError: the arguments make no vocabulary; the message says why.
    """

    def __init__(
        self,
        pieces: Sequence[str],
        scores: Sequence[float],
        unk_id: int,
        hidden: Collection[int] = (),
        user_defined: Collection[int] = (),
        library: Library = "sentencepiece",
    ) -> None:
        if library not in ("sentencepiece", "huggingface"):
            raise ValueError(f"library={library!r} is not known: write 'sentencepiece' or 'huggingface'.")
        if len(pieces) != len(scores):
            raise ValueError(f"There are {len(pieces)} pieces and {len(scores)} scores: give one score per piece.")
        for piece_id in (unk_id, *hidden, *user_defined):
            if not 0 <= piece_id < len(pieces):
                raise ValueError(f"{piece_id} is no id, as there are {len(pieces)} pieces: give ids below that.")
        self.unk_id = unk_id
        self._library = library
        self._largest_sum = LARGEST_SUM if library == "sentencepiece" else math.inf
        self._round = _to_float32 if library == "sentencepiece" else float
        for piece, score in zip(pieces, scores, strict=True):
            if not abs(score) <= LARGEST_SCORE:  # nor is not-a-number
                raise ValueError(f"The score of {piece!r} is {score}, which is no logarithm of a probability.")
        self._scores = [self._round(score) for score in scores]
        for piece_id in user_defined:
            self._scores[piece_id] = self._round(0.1 * (len(pieces[piece_id].encode()) - 1))

        hidden, user_defined = frozenset(hidden), frozenset(user_defined)
        self._ids: dict[str, int] = {}
        for piece_id, piece in enumerate(pieces):
            if piece_id in hidden:
                continue
            if not 0 < len(piece) <= LONGEST_PIECE:
                raise ValueError(f"Piece {piece_id} has {len(piece)} characters: give pieces of 1 to {LONGEST_PIECE}.")
            if self._ids.setdefault(piece, piece_id) != piece_id:
                raise ValueError(f"Pieces {self._ids[piece]} and {piece_id} are both {piece!r}: leave one out.")
        ordinary = [self._scores[piece_id] for piece_id in self._ids.values() if piece_id not in user_defined]
        if not ordinary:
            raise ValueError("No piece is left that a text may be cut into: give pieces that are not hidden.")
        self._unknown_score = self._round(min(ordinary) - UNKNOWN_PENALTY)  # UNI.4

        self._longest = max(map(len, self._ids))
        self._beginnings: set[str] = set()  # of pieces, where they are no piece themselves
        for piece in self._ids:
            for length in range(len(piece) - 1, 0, -1):
                beginning = piece[:length]
                if beginning in self._ids or beginning in self._beginnings:
                    break
                self._beginnings.add(beginning)

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self

    def lattice(self, text: str) -> list[Node]:
        """Every node from which a path through `text` may be built, in the order of their starts."""
        return [node for start in range(len(text)) for node in self._nodes_from(text, start)]

    def best_path(self, text: str) -> list[Node]:
        """The most probable segmentation of `text`; neighbouring unknown characters are one node.

        Of several that are equally probable, the one whose last piece starts earliest (UNI.6).
        """
        best = [0.0] + [-math.inf] * len(text)
        last: list[Node] = [_edge(0)] * (len(text) + 1)
        for start in range(len(text)):
            if abs(best[start]) > self._largest_sum:
                self._count_from_zero(best, start)
            for node in self._nodes_from(text, start):
                score = self._round(best[start] + node.score)
                if score > best[node.end]:  # UNI.5
                    best[node.end], last[node.end] = score, node
        path = []
        end = len(text)
        while end > 0:
            path.append(last[end])
            end = last[end].start
        return self._fused(text, path[::-1])

    def n_best(self, text: str, n: int) -> list[list[Node]]:
        """The `n` most probable segmentations of `text`, best first; fewer if it has no more.

        Two of them may be the same after neighbouring unknown characters are made one node. The search keeps
        sentencepiece's bounds: on long texts with very many segmentations about as good it forgets the less
        promising ones, and at last returns the best path alone.

        Raises:
            ValueError: `n` is less than one.
        """
        if n < 1:
            raise ValueError(f"n={n} segmentations cannot be found: ask for at least one.")
        if n == 1:
            return [self.best_path(text)]
        best = [0.0] + [-math.inf] * len(text)
        ending: list[list[Node]] = [[] for _ in best]  # in the order of their starts
        ending[0].append(_edge(0))
        for node in self.lattice(text):
            ending[node.end].append(node)
            best[node.end] = max(best[node.end], self._round(best[node.start] + node.score))

        agenda = [_Partial(bound=best[-1], score=0.0, node=_edge(len(text)), rest=None)]
        paths: list[list[Node]] = []
        cuts = 0
        while agenda and len(paths) < n:
            partial = heapq.heappop(agenda)
            if partial.node == _edge(0) and partial.rest is not None:
                paths.append(self._fused(text, list(partial.rest.nodes())))
                continue
            for node in ending[partial.node.start]:
                reached = self._round(best[node.start] + node.score)
                bound = self._round(reached + partial.score)  # UNI.11
                heapq.heappush(agenda, _Partial(bound, self._round(node.score + partial.score), node, partial))
            if len(agenda) >= AGENDA_LIMIT:
                if cuts == AGENDA_CUTS:
                    return [self.best_path(text)]
                cuts += 1
                kept = min(AGENDA_KEPT, AGENDA_KEPT_PER_PATH * n)
                agenda = [heapq.heappop(agenda) for _ in range(kept)]  # sorted, hence a heap
        return paths

    def sample(self, text: str, alpha: float, generator: RandomSource) -> list[Node]:
        """A segmentation of `text`, drawn with a probability proportional to exp(alpha * score) (UNI.7).

        Args:
            text: the text.
            alpha: 1 draws from the model itself; 0 from all segmentations alike; the larger it is, the more
                often the best one is drawn.
            generator: gives one random number per piece.

        Raises:
            ValueError: `alpha` is not a number, or beyond a million.
        """
        if not abs(alpha) <= LARGEST_ALPHA:
            raise ValueError(f"alpha={alpha} is too large to compute with: for the most probable path use best_path.")
        ending: list[list[Node]] = [[] for _ in range(len(text) + 1)]
        for node in self.lattice(text):
            ending[node.end].append(node)
        forward = [0.0]
        for nodes in ending[1:]:
            forward.append(_log_sum_exp([forward[node.start] + alpha * node.score for node in nodes]))  # UNI.8
        path = []
        end = len(text)
        while end > 0:
            remaining = generator.random()
            for node in ending[end]:  # after the last one nothing remains, up to rounding
                remaining -= math.exp(forward[node.start] + alpha * node.score - forward[end])  # UNI.10
                if remaining < 0:
                    break
            path.append(node)
            end = node.start
        return self._fused(text, path[::-1])

    def _nodes_from(self, text: str, start: int) -> list[Node]:
        """The nodes that start at the character `start`, shortest first."""
        nodes = []
        for end in range(start + 1, len(text) + 1):
            piece_id = self._ids.get(text[start:end])
            if piece_id is not None:
                nodes.append(Node(start, end, piece_id, self._scores[piece_id]))
            elif text[start:end] not in self._beginnings:
                break
        if not nodes or nodes[0].end > start + 1:
            nodes.append(Node(start, start + 1, self.unk_id, self._unknown_score))
        return nodes

    def _fused(self, text: str, path: list[Node]) -> list[Node]:
        """`path` with every run of unknown nodes made one."""
        fused: list[Node] = []
        for node in path:
            if fused and fused[-1].piece_id == node.piece_id == self.unk_id:
                before = fused.pop()
                node = Node(before.start, node.end, self.unk_id, before.score + node.score)
            fused.append(node)
        if self._library == "sentencepiece":
            return fused
        # tokenizers looks its tokens up by their text, so a run that spells a piece is that piece.
        return [node._replace(piece_id=self._ids.get(text[node.start : node.end], self.unk_id)) for node in fused]

    def _count_from_zero(self, best: list[float], start: int) -> None:
        """Takes the sum at `start` off all sums that are still compared, so that float32 resolves them (UNI.12)."""
        offset = best[start]
        for end in range(start, min(start + self._longest, len(best))):
            best[end] = self._round(best[end] - offset)


@dataclass(frozen=True, slots=True, eq=False)
class _Partial:
    """The end of a path, from `node` to the end of the text.

    Attributes:
        bound: score of the best path that ends so (UNI.11).
        score: score of the nodes that it has.
        node: its first node.
        rest: what follows the node.
    """

    bound: float
    score: float
    node: Node
    rest: "_Partial | None"

    def __lt__(self, other: "_Partial") -> bool:
        """Whether it is extended earlier; which of two equal ones is, the heap decides, as in sentencepiece."""
        return self.bound > other.bound

    def nodes(self) -> Iterator[Node]:
        """Its nodes, without the one that marks the end of the text."""
        partial: _Partial = self
        while partial.rest is not None:
            yield partial.node
            partial = partial.rest


def _edge(position: int) -> Node:
    """The node without text that marks where a text begins or ends."""
    return Node(position, position, -1, 0.0)


def _to_float32(number: float) -> float:
    """The float32 nearest to `number`."""
    return float(_FLOAT32.unpack(_FLOAT32.pack(number))[0])


def _log_sum_exp(numbers: list[float]) -> float:
    largest = max(numbers)
    return largest + math.log(sum(math.exp(number - largest) for number in numbers))
