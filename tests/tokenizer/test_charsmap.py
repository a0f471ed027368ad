import copy
import pickle
import struct

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
    units = memoryview(blob)[4 : 4 + size].cast("I")
    node, matches, key = 0, [], text.encode()
    for place, byte in enumerate(key):
        base = node ^ (units[node] >> 10) << ((units[node] & 512) >> 6)
        node = base ^ byte
        if units[node] & 0x800000FF != byte:
            break
        if units[node] & HAS_RULE:
            base = node ^ (units[node] >> 10) << ((units[node] & 512) >> 6)
            start = 4 + size + (units[base] & IS_VALUE - 1)
            replacement = blob[start : blob.index(0, start)].decode()
            matches.append((len(key[: place + 1].decode()), replacement))
    return matches


@pytest.fixture(scope="module")
def blob() -> bytes:
    """A charsmap as sentencepiece writes it, of 225,276 rules."""
    return charsmap(SMALL_VOCABULARY)


@pytest.fixture(scope="module")
def read(blob) -> Charsmap:
    return Charsmap(blob)


def assert_reads(read: Charsmap, blob: bytes, text: str) -> None:
    matches = walk(blob, text)
    assert read.longest_match("a" + text, 1) == ((matches[-1][0] + 1, matches[-1][1]) if matches else None)
    assert read.shortest_match(text) == (matches[0][1] if matches else None)


@given(rules, st.text(characters, max_size=6))
def test_matches_are_those_of_the_rules(rules: dict[str, str], text: str):
    blob = build(rules)
    read = Charsmap(blob)
    matches = [(end, rules[text[:end]]) for end in range(1, len(text) + 1) if text[:end] in rules]
    assert read.longest_match(text, 0) == (matches[-1] if matches else None)
    assert read.shortest_match(text) == (matches[0][1] if matches else None)
    assert read.single_characters == {key: value for key, value in rules.items() if len(key) == 1}
    assert read.first_pairs == {key[:2] for key in rules if len(key) > 1}
    assert_reads(read, blob, text)


def test_single_characters_are_read_as_libraries_read_it(blob, read):
    for code_point in [*range(0xD800), *range(0xE000, 0x1_0000), *range(0x1_D000, 0x1_F300)]:
        matches = walk(blob, chr(code_point))
        assert read.longest_match(chr(code_point), 0) == (matches[-1] if matches else None)


@given(text=st.text(st.characters(categories=["L", "M"], max_codepoint=0x30FF), min_size=1, max_size=6))
@example(text="\u1100\u1161\u11a8")
@example(text="e\u0302\u0301")
@example(text="\ufdfa")
@example(text="\0")
@example(text="a\0")
def test_real_rules_are_read_as_libraries_read_them(blob, read, text: str):
    assert_reads(read, blob, text)


def test_no_charsmap_has_no_rules():
    read = Charsmap(b"")
    assert (read.single_characters, read.first_pairs) == ({}, set())
    assert (read.longest_match("é", 0), read.shortest_match("é")) == (None, None)


def test_copies(read):
    assert copy.deepcopy(read) is read
    copied = pickle.loads(pickle.dumps(read))
    assert copied.longest_match("xé\u0301ﬁ", 3) == read.longest_match("xé\u0301ﬁ", 3) == (4, "fi")


def chain(length: int) -> dict[int, int]:
    """Units of one key of so many "a"."""
    return (
        {0: 1 << 18 | 0}
        | {  # each base is one block further
            BLOCK * place ^ ord("a"): (BLOCK * place ^ ord("a") ^ BLOCK * (place + 1)) << 10
            | ord("a")
            | (place == length) * HAS_RULE
            for place in range(1, length + 1)
        }
        | {BLOCK * (length + 1): IS_VALUE}
    )


def test_the_longest_keys_are_read():
    assert Charsmap(pack(chain(LONGEST_KEY), b"x\0")).longest_match("a" * 100, 0) == (LONGEST_KEY, "x")
    assert Charsmap(build({"a": "x" * LONGEST_REPLACEMENT})).shortest_match("a") == "x" * LONGEST_REPLACEMENT


ROOT = {0: BLOCK << 10}  # its base is the second block
A = BLOCK ^ ord("a")  # the node of "a"
A_BASE = 2 * BLOCK
LEAF = {A: (A ^ A_BASE) << 10 | HAS_RULE | ord("a"), A_BASE: IS_VALUE}


def dense(levels: int) -> dict[int, int]:
    """Units under which every one of the 127 ASCII characters leads to the same next base: 127**levels keys."""
    units = dict(ROOT)
    for level in range(1, levels + 1):
        for label in range(1, 128):
            node = BLOCK * level ^ label
            units[node] = (node ^ BLOCK * (level + 1)) << 10 | label | (level == levels) * HAS_RULE
    return units | {BLOCK * (levels + 1): IS_VALUE}


def test_shared_branches_do_not_multiply():
    read = Charsmap(pack(dense(20), b"x\0"))
    assert read.longest_match("ab" * 20, 0) == (20, "x")


@pytest.mark.parametrize(
    ("blob", "reason"),
    [
        (b"\0", "1 bytes"),
        (b"\0\0\0\0", "says that 0"),
        (b"\0\0\0\0x\0", "says that 0"),
        (struct.pack("<I", 2**32 - 4) + b"\0" * 8, "says that 4294967292"),
        (struct.pack("<I", 6) + b"\0" * 8, "says that 6"),
        (b"\0" * (LARGEST_CHARSMAP + 1), f"more than the {LARGEST_CHARSMAP}"),
        (struct.pack("<II", 4, 0), "leads out of itself"),
        (pack({0: 0x3FFFFF << 10}, b"\0"), "leads out of itself"),
        (pack({0: 0x1FFFFF << 10 | 1 << 9}, b"\0"), "leads out of itself"),
        (pack({**ROOT, A: 0x1FFFFF << 10 | ord("a")}, b"\0"), "leads out of itself"),
        (pack({**ROOT, A: (A ^ BLOCK) << 10 | ord("a"), BLOCK: IS_VALUE}, b"\0"), "without end"),
        (pack(chain(LONGEST_KEY + 1), b"x\0"), "without end"),
        (pack(dense(LONGEST_KEY + 1), b"x\0"), "without end"),
        (pack({**ROOT, **LEAF, A_BASE: 0}, b"x\0"), "after NUL"),
        (pack({**ROOT, **LEAF, A_BASE: ord("b")}, b"x\0"), "after NUL"),
        (pack({**ROOT, BLOCK: 0}, b"x\0"), "after NUL"),
        (pack({**ROOT, BLOCK ^ 0xFF: 0xFF}, b"\0"), "key that is not UTF-8"),
        (pack({**ROOT, BLOCK ^ 0x80: 0x80}, b"\0"), "key that is not UTF-8"),
        (
            pack({**ROOT, BLOCK ^ 0xC3: (BLOCK ^ 0xC3 ^ A_BASE) << 10 | HAS_RULE | 0xC3, A_BASE: IS_VALUE}, b"\0"),
            "UTF-8",
        ),
        (
            pack({**ROOT, BLOCK ^ 0xC3: (BLOCK ^ 0xC3 ^ A_BASE) << 10 | 0xC3, A_BASE ^ ord("a"): ord("a")}, b"\0"),
            "key that is not UTF-8",
        ),
        (pack({**ROOT, **LEAF}, b""), "starts at none"),
        (pack({**ROOT, **LEAF}, b"x"), "starts at none, or is not ended"),
        (pack({**ROOT, **LEAF, A_BASE: IS_VALUE | 1}, b"x\0"), "starts at none"),
        (pack({**ROOT, **LEAF, A_BASE: 2**32 - 1}, b"x\0"), "starts at none"),
        (pack({**ROOT, **LEAF}, b"\xff\0"), "replacements that are not UTF-8"),
        (build({"a": "x" * (LONGEST_REPLACEMENT + 1)}), "replacement of more than"),
    ],
)
def test_damage_is_named(blob: bytes, reason: str):
    with pytest.raises(CheckpointError, match=reason):
        Charsmap(blob)


def test_the_number_of_edges_is_bounded():
    # From one base each lead byte of three goes on to the same continuation bytes, to a base like it: few units, but
    # 16 * 64 * 64 characters from each of the bases.
    units = dict(ROOT)
    for level in range(1, 30):
        block = BLOCK * (3 * level - 2)
        for label in range(0xE1, 0xED):
            units[block ^ label] = (block ^ label ^ block + BLOCK) << 10 | label
        for further in (1, 2):
            for label in range(0x80, 0xC0):
                node = block + BLOCK * further ^ label
                units[node] = (node ^ block + BLOCK * (further + 1)) << 10 | label
    with pytest.raises(CheckpointError, match="continuations of keys"):
        Charsmap(pack(units, b"\0" * BLOCK))


def assert_safe(blob: bytes) -> None:
    """The blob is refused, or else every lookup ends within it and gives a short text."""
    try:
        read = Charsmap(blob)
    except CheckpointError:
        return
    for text in ("a", "ab", "aa\t", "Å\u0301가", "e\u0302\u0301", "\u1100\u1161\u11a8", "ﷺ", "😀", "\0", "a\0a", "½ ﬁ"):
        assert_reads(read, blob, text)
    assert all(len(text.encode()) <= LONGEST_REPLACEMENT for text in read.single_characters.values())


@given(st.binary(min_size=1, max_size=3000))
def test_random_bytes_are_safe(blob: bytes):
    assert_safe(blob)


@given(st.binary(min_size=1024, max_size=8192), st.binary(max_size=50))
def test_random_tries_are_safe(trie: bytes, replacements: bytes):
    trie = trie[: len(trie) // 1024 * 1024]
    assert_safe(struct.pack("<I", len(trie)) + trie + replacements + b"\0")


@given(rules, st.data())
def test_damaged_charsmaps_are_safe(rules: dict[str, str], data: st.DataObject):
    blob = bytearray(build(rules))
    interesting = [place for place, byte in enumerate(blob) if byte]
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.sampled_from(interesting) | st.integers(0, len(blob) - 1))
        blob[place] ^= 1 << data.draw(st.integers(0, 7))
    assert_safe(bytes(blob))
    assert_safe(bytes(blob[: data.draw(st.integers(1, len(blob)))]))


def check_damaged_real_charsmap(blob: bytes, data: st.DataObject) -> None:
    damaged = bytearray(blob)
    for _ in range(data.draw(st.integers(1, 20))):
        damaged[data.draw(st.integers(0, len(blob) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert_safe(bytes(damaged[: data.draw(st.sampled_from([len(blob), len(blob) - 1]) | st.integers(1, len(blob)))]))


@settings(max_examples=30)
@given(data=st.data())
def test_damaged_real_charsmaps_are_safe(blob, data: st.DataObject):
    check_damaged_real_charsmap(blob, data)


@pytest.mark.exhaustive
@settings(max_examples=3000)
@given(data=st.data())
def test_damaged_real_charsmaps_are_safe_exhaustive(blob, data: st.DataObject):
    check_damaged_real_charsmap(blob, data)
