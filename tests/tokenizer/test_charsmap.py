import copy
import pickle
import struct
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.conftest import SMALL_VOCABULARY
from xlmr_np.tokenizer.charsmap import LARGEST_CHARSMAP, LONGEST_KEY, LONGEST_REPLACEMENT, Charsmap
from xlmr_np.weights.errors import CheckpointError

from .reference import charsmap

BLOCK = 256  # units; a child is in the same block as its parent's base
HAS_RULE, IS_VALUE = 2**8, 2**31

characters = st.sampled_from("ab \tÅ\u0301가\u200d😀")  # 1 to 4 bytes
rules = st.dictionaries(st.text(characters, min_size=1, max_size=4), st.text(characters, max_size=5), min_size=1)


def pack(units: dict[int, int], replacements: bytes) -> bytes:
    """A charsmap of these units, on as many blocks as they need; unused units have a label that no lookup asks for."""
    size = (max(units, default=0) // BLOCK + 1) * BLOCK
    trie = struct.pack(f"<{size}I", *(units.get(position, IS_VALUE) for position in range(size)))
    return struct.pack("<I", len(trie)) + trie + replacements


def build(rules: dict[str, str]) -> bytes:
    """A charsmap of these rules, in which each node's base is a block of its own."""
    units: dict[int, int] = {}
    replacements = b""
    blocks = 0

    def place(position: int, label: int, keys: dict[bytes, str]) -> None:
        nonlocal blocks, replacements
        blocks += 1
        base = blocks * BLOCK
        units[position] = (position ^ base) << 10 | (HAS_RULE if b"" in keys else 0) | label
        if b"" in keys:
            units[base] = IS_VALUE | len(replacements)
            replacements += keys[b""].encode() + b"\0"
        for first in sorted({key[0] for key in keys if key}):
            place(base ^ first, first, {key[1:]: text for key, text in keys.items() if key[:1] == bytes([first])})

    place(0, 0, {key.encode(): text for key, text in rules.items()})
    units.setdefault(blocks * BLOCK, IS_VALUE)
    return pack(units, replacements)


def walk(blob: bytes, text: str) -> list[tuple[int, str]]:
    """All matches at the start of the text, byte by byte as libraries look them up; fails where they would stray."""
    (size,) = struct.unpack_from("<I", blob)
    units = struct.unpack_from(f"<{size // 4}I", blob, 4)
    replacements = blob[4 + size :]
    node, matches, key = 0, [], text.encode()
    for place, byte in enumerate(key):
        base = node ^ (units[node] >> 10) << ((units[node] & 512) >> 6)
        node = base ^ byte
        if units[node] & 0x800000FF != byte:
            break
        if units[node] & HAS_RULE:
            base = node ^ (units[node] >> 10) << ((units[node] & 512) >> 6)
            start = units[base] & IS_VALUE - 1
            replacement = replacements[start : replacements.index(0, start)].decode()
            matches.append((len(key[: place + 1].decode()), replacement))
    return matches


def assert_reads(map_read: Charsmap, blob: bytes, text: str) -> None:
    matches = walk(blob, text)
    assert map_read.longest_match(text, 0) == (matches[-1] if matches else None)
    assert map_read.longest_match("a" + text, 1) == ((matches[-1][0] + 1, matches[-1][1]) if matches else None)
    assert map_read.shortest_match(text) == (matches[0][1] if matches else None)


@given(rules, st.text(characters, max_size=6))
def test_matches_are_those_of_the_rules(rules: dict[str, str], text: str):
    found = Charsmap(build(rules))
    matches = [(end, rules[text[:end]]) for end in range(1, len(text) + 1) if text[:end] in rules]
    assert found.longest_match(text, 0) == (matches[-1] if matches else None)
    assert found.shortest_match(text) == (matches[0][1] if matches else None)
    assert found.single_characters == {key: value for key, value in rules.items() if len(key) == 1}
    assert found.first_pairs == {key[:2] for key in rules if len(key) > 1}
    assert_reads(found, build(rules), text)


@given(st.text(min_size=1, max_size=6))
@example("\u1100\u1161\u11a8")
@example("e\u0302\u0301")
@example("\ufdfa")
def test_real_charsmap_is_read_as_libraries_read_it(text: str):
    blob = small_blob()
    assert_reads(small_charsmap(), blob, text)


def small_blob() -> bytes:
    if "blob" not in CACHE:
        CACHE["blob"] = charsmap(SMALL_VOCABULARY)
    return CACHE["blob"]


def small_charsmap() -> Charsmap:
    if "charsmap" not in CACHE:
        CACHE["charsmap"] = Charsmap(small_blob())
    return CACHE["charsmap"]


CACHE: dict = {}
