"""A sentencepiece model's own normalisation rules, its `precompiled_charsmap`, checked and read.

The rules replace short sequences of characters, by and large as Unicode's NFKC does. They are stored as

    bytes in the trie (4 bytes) | trie: a double array of units of 4 bytes | replacements, each ended by NUL

with little-endian numbers. In a double array (Aoe, 1989) a node is a position; the unit there tells its label, which is
the byte that leads to it, whether a rule ends at it, and how far it is from its *base*. The child by byte c is at
`base ^ c` if the unit there has the label c, and the unit at `base` itself holds where the rule's replacement starts.
"""

from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np

from xlmr_np.weights.errors import CheckpointError

LARGEST_CHARSMAP = 2**24  # bytes; XLM-R's has 237,539
MOST_EDGES = 2**17  # characters that go on from the start of a key; XLM-R's charsmap has 27,263
LONGEST_KEY = 32  # characters; XLM-R's longest has 4, and sentencepiece itself has room for 32 matches
LONGEST_REPLACEMENT = 64  # bytes; XLM-R's longest has 33, as NFKC's

UNIT_BYTES = 4
IS_VALUE = np.uint32(2**31)  # marks a unit that is no node but holds a value in its other bits
LABEL = IS_VALUE | np.uint32(0xFF)  # the bits that must equal the byte by which a node is reached
HAS_RULE = np.uint32(2**8)
ROOT = 0

# By the first byte of a character in UTF-8, how many bytes follow it; -1 where none starts so. NUL starts none here: it
# would end a lookup in one library and not in the other.
FOLLOWING_BYTES = np.full(256, -1)
FOLLOWING_BYTES[0x01:0x80], FOLLOWING_BYTES[0xC2:0xE0], FOLLOWING_BYTES[0xE0:0xF0] = 0, 1, 2
FOLLOWING_BYTES[0xF0:0xF5] = 3


class _Edges(NamedTuple):
    """The keys as a trie over characters, an edge a row.

    Branches with the same base are one: XLM-R's 224,711 keys, most of them combinations of jamo, need no more than
    27,263 edges.

    Attributes:
        origins: the base of the node that each leaves [K].
        characters: the next character of the keys.
        replacements: the replacement if a key ends there, else None [K].
        targets: the next base [K].
    """

    origins: np.ndarray
    characters: str
    replacements: np.ndarray
    targets: np.ndarray


class Charsmap:
    """Rules that replace sequences of characters, the keys, by texts. Immutable.

    Args:
        blob: a model's `precompiled_charsmap`. An empty one has no rules.

    Raises:
        CheckpointError: the blob is damaged or hostile: looking up some text in it would leave the double array or the
            replacements, would not end, or would give what is no text. sentencepiece builds no such blob, but reads it.
    """

    def __init__(self, blob: bytes) -> None:
        self._root = 0
        self._checked: _Edges | None = None
        if blob:
            self._root, self._checked = _read(blob)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    @cached_property
    def _edges(self) -> dict[tuple[int, str], tuple[str | None, int]]:
        """From a base and the next character to the replacement and the next base.

        Made when first needed: that takes longer than all the checks.
        """
        if self._checked is None:
            return {}
        origins, characters, replacements, targets = self._checked
        leaving = zip(origins.tolist(), characters, strict=True)
        return dict(zip(leaving, zip(replacements.tolist(), targets.tolist(), strict=True), strict=True))

    @property
    def single_characters(self) -> dict[str, str]:
        """The replacement of each character that is a key by itself."""
        return {
            character: replacement
            for (base, character), (replacement, _) in self._edges.items()
            if base == self._root and replacement is not None
        }

    @property
    def first_pairs(self) -> set[str]:
        """The first two characters of the keys that have more than one."""
        nexts: dict[int, list[str]] = {}
        for base, character in self._edges:
            nexts.setdefault(base, []).append(character)
        return {
            first + second
            for first in nexts.get(self._root, ())
            for second in nexts.get(self._edges[self._root, first][1], ())
        }

    def longest_match(self, text: str, start: int) -> tuple[int, str] | None:
        """Where the longest key that starts at a position of the text ends, and its replacement.

        This is the key that sentencepiece takes.
        """
        match, base = None, self._root
        for end in range(start, len(text)):
            edge = self._edges.get((base, text[end]))
            if edge is None:
                break
            replacement, base = edge
            if replacement is not None:
                match = end + 1, replacement
        return match

    def shortest_match(self, text: str) -> str | None:
        """The replacement of the shortest key with which a text begins.

        This is the key that the `tokenizers` library takes.
        """
        base = self._root
        for character in text:
            edge = self._edges.get((base, character))
            if edge is None:
                break
            replacement, base = edge
            if replacement is not None:
                return replacement
        return None


def _read(blob: bytes) -> tuple[int, _Edges]:
    """The base of the root, and the edges."""
    units, replacements = _split(blob)
    trie = _DoubleArray(units)
    root = trie.bases(np.array([ROOT]))
    is_read = np.zeros(len(units), bool)
    origins, characters, nodes, targets = root[:0], "", root[:0], root[:0]
    level = root  # the bases that some key reaches by the same number of characters
    for _ in range(LONGEST_KEY + 1):
        if not len(level):
            break
        new_origins, new_characters, new_nodes = trie.next_characters(level[~is_read[level]], MOST_EDGES - len(nodes))
        is_read[level] = True
        origins, nodes = np.concatenate([origins, new_origins]), np.concatenate([nodes, new_nodes])
        characters, targets = characters + new_characters, np.concatenate([targets, trie.bases(new_nodes)])
        is_next = np.zeros(len(units), bool)
        is_next[targets[np.isin(origins, level) & trie.have_children(targets)]] = True
        level = np.flatnonzero(is_next)
    else:
        raise _damaged(f"has keys of more than {LONGEST_KEY} characters, or without end")
    ends_key = trie.end_keys(nodes)
    texts = np.full(len(nodes), None, object)
    texts[ends_key] = _texts(replacements, units[targets[ends_key]] & ~IS_VALUE)
    return int(root[0]), _Edges(origins, characters, texts, targets)


def _split(blob: bytes) -> tuple[np.ndarray, bytes]:
    """The units [U] and the replacements."""
    if len(blob) > LARGEST_CHARSMAP:
        raise _damaged(f"has {len(blob)} bytes, more than the {LARGEST_CHARSMAP} that are read")
    trie_bytes = int.from_bytes(blob[:UNIT_BYTES], "little")
    if not 0 < trie_bytes <= len(blob) - UNIT_BYTES or trie_bytes % UNIT_BYTES:
        raise _damaged(f"has {len(blob)} bytes, and says that {trie_bytes} of them are units of {UNIT_BYTES} bytes")
    units = np.frombuffer(blob, "<u4", trie_bytes // UNIT_BYTES, offset=UNIT_BYTES).astype(np.uint32)
    return units, blob[UNIT_BYTES + trie_bytes :]


def _texts(replacements: bytes, starts: np.ndarray) -> np.ndarray:
    """The replacement that starts at each byte, object [K]."""
    ends = np.flatnonzero(np.frombuffer(replacements, np.uint8) == 0)
    all_starts = np.concatenate([[0], ends + 1])
    index = np.searchsorted(ends, starts)
    if np.any(index == len(ends)) or np.any(all_starts[index] != starts):
        raise _damaged("has a rule whose replacement starts at none, or is not ended")
    if np.any(ends[index] - starts > LONGEST_REPLACEMENT):
        raise _damaged(f"has a replacement of more than {LONGEST_REPLACEMENT} bytes")
    try:
        return np.array(replacements.decode().split("\0"), object)[index]
    except UnicodeDecodeError as error:
        raise _damaged(f"has replacements that are not UTF-8 ({error})") from error


class _DoubleArray:
    """The trie over bytes, walked for many nodes at once.

    Args:
        units: unsigned [U]. Nodes and bases are positions in it, given as integer arrays.
    """

    def __init__(self, units: np.ndarray) -> None:
        self._units = units
        labels = units & LABEL
        children = np.flatnonzero((labels > 0) & (labels < IS_VALUE))
        parents_bases = children ^ labels[children]
        self._children = children[np.argsort(parents_bases, kind="stable")]  # those of one parent are neighbours
        self._counts = np.bincount(parents_bases, minlength=len(units))  # of children, by their parent's base
        self._stops = self._counts.cumsum()

    def bases(self, nodes: np.ndarray) -> np.ndarray:
        """The base of each node, from where no lookup leaves the units."""
        units = self._units[nodes]
        bases = nodes ^ ((units >> 10) << ((units & 2**9) >> 6)).astype(np.int64)
        if np.any(bases | 0xFF >= len(self._units)):
            raise _damaged("has a trie that leads out of itself")
        leaves = self._units[bases] & LABEL
        if np.any(leaves == 0) or np.any(self.end_keys(nodes) & (leaves < IS_VALUE)):
            raise _damaged("has a key that goes on after NUL")
        return bases

    def end_keys(self, nodes: np.ndarray) -> np.ndarray:
        """Whether each node ends a key."""
        return self._units[nodes] & HAS_RULE != 0

    def have_children(self, bases: np.ndarray) -> np.ndarray:
        """Whether the nodes with each of these bases have children."""
        return self._counts[bases] > 0

    def next_characters(self, bases: np.ndarray, most: int) -> tuple[np.ndarray, str, np.ndarray]:
        """All characters by which keys go on from these bases: of each its base, itself, and the node it leads to."""
        parents, nodes = self._all_children(bases, most)
        origins, spelled = bases[parents], self._units[nodes].astype(np.uint8)[:, None]  # [K], [K, bytes so far]
        found = []
        for length in range(1, 5):
            to_come = FOLLOWING_BYTES[spelled[:, 0]] - (length - 1)
            if np.any(to_come < 0) or np.any(self.end_keys(nodes[to_come > 0])):
                raise _damaged("has a key that is not UTF-8")
            found.append((origins[to_come == 0], spelled[to_come == 0].tobytes(), nodes[to_come == 0]))
            origins, spelled, nodes = origins[to_come > 0], spelled[to_come > 0], nodes[to_come > 0]
            parents, nodes = self._all_children(self.bases(nodes), most)
            labels = self._units[nodes].astype(np.uint8)[:, None]
            origins, spelled = origins[parents], np.concatenate([spelled[parents], labels], axis=1)
        all_origins, all_spelled, all_nodes = zip(*found, strict=True)
        try:
            characters = b"".join(all_spelled).decode()
        except UnicodeDecodeError as error:
            raise _damaged("has a key that is not UTF-8") from error
        return np.concatenate(all_origins), characters, np.concatenate(all_nodes)

    def _all_children(self, bases: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
        """The children of the nodes with these bases: of each its parent's place in `bases`, and itself."""
        counts = self._counts[bases]
        if counts.sum() > most:
            raise _damaged(f"has more than {MOST_EDGES} continuations of keys")
        parents = np.repeat(np.arange(len(bases)), counts)
        still_to_come = np.repeat(counts.cumsum(), counts) - np.arange(len(parents))  # of the siblings, itself included
        return parents, self._children[self._stops[bases[parents]] - still_to_come]


def _damaged(what: str) -> CheckpointError:
    return CheckpointError(f"The precompiled_charsmap of the vocabulary {what}: it is damaged, get the file again.")
