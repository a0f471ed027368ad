"""Damaged and hostile vocabulary files: refused, or read as a vocabulary that works; never a crash or a hang.

The sentencepiece library is C++, so files are read in other processes, whose end by a signal is a failure here. Each
file follows from its seed: `python -m tests.tokenizer.test_hostile_files FIRST STOP` reads those of some seeds again.
"""

import base64
import json
import math
import random
import resource
import struct
import subprocess
import sys
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SMALL_VOCABULARY
from xlmr_np.tokenizer.model_proto import (
    ModelProto,
    NormalizerSpec,
    TrainerSpec,
    read_model_proto,
    read_specs,
    write_model_proto,
)
from xlmr_np.tokenizer.tokenizer_json import write_tokenizer_json
from xlmr_np.tokenizer.vocabulary import read_vocabulary
from xlmr_np.weights.errors import CheckpointError

from .reference import protobuf_fields
from .test_charsmap import build
from .test_model_proto import delimited, piece, spec_meaning, varint

ROOT = Path(__file__).parents[2]
BATCH = 500  # files for one process
MEMORY = 3 * 2**30  # bytes of addresses, most of them the libraries'; a file of a megabyte has no need of more
SECONDS_PER_FILE = 1  # on average; 0.02 are usual

BASIC_PLANE = "".join(chr(code) for code in range(0x10000) if not 0xD800 <= code < 0xE000)
MARKS = "".join(filter(unicodedata.combining, BASIC_PLANE))
TEXTS = [
    "",
    " ",
    "\0",
    "the same and other words",
    BASIC_PLANE,
    "e" + MARKS,
    "ab" * 5000,
    10_000 * "\u0301",
    "<s></s>▁",
]

RULES = {
    "a\u0301": "á",
    "e\u0301": "é",
    "ﬁ": "fi",
    "\t": " ",
    "\u00a0": " ",
    "▁": " ",
    "\x01": "",
    "½": "1⁄2",
    "가": "ga",
}
HOSTILE_NUMBERS = [0, 1, 2, 127, 128, 2**14, 2**31 - 1, 2**31, 2**32 - 1, 2**32 + 26, 2**63, 2**64 - 1]
HOSTILE_SCORES = [math.nan, math.inf, -math.inf, 3.4e38, -3.4e38, 0.0, 1e-45, 100.0]
HOSTILE_VALUES = [None, True, -1, 2**70, 1e308, math.nan, "", "\ud800", "\0", "▁", "<mask>", [], {}, [[]], 5000 * "x"]


class Mutator:
    """A file that is not as it should be, made from a seed."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        model = read_model_proto(SMALL_VOCABULARY.read_bytes())
        if self.chance.random() < 0.9:  # a small table, which is read much faster
            model = ModelProto(model.pieces, NormalizerSpec.of_charsmap(build(RULES)), TrainerSpec.of_size(480))
        self.model = model

    def file(self) -> tuple[str, bytes]:
        """Its suffix and its content."""
        if self.chance.random() < 0.3:
            return ".json", self.some_damage(self.hostile_json(), (0, 0, 1))
        return ".model", self.some_damage(self.hostile_model(), (0, 0, 1, 2))

    def some_damage(self, content: bytes, counts: tuple[int, ...]) -> bytes:
        for _ in range(self.chance.choice(counts)):
            content = self.chance.choice([self.flip, self.overwrite, self.truncate, self.splice])(content)
        return content

    def place(self, content: bytes) -> int:
        return self.chance.randrange(self.chance.choice([8000, len(content)])) % len(content) if content else 0

    def flip(self, content: bytes) -> bytes:
        flipped = bytearray(content)
        for _ in range(self.chance.choice([1, 2, 5, 20]) if content else 0):
            flipped[self.place(content)] ^= 1 << self.chance.randrange(8)
        return bytes(flipped)

    def overwrite(self, content: bytes) -> bytes:
        at, new = self.place(content), self.chance.choice([b"\xff", b"\0", b"\x80", varint(self.number()), b"\n" * 50])
        return content[:at] + new + content[at + len(new) :]

    def truncate(self, content: bytes) -> bytes:
        return content[: self.place(content)]

    def splice(self, content: bytes) -> bytes:
        first, last = sorted([self.place(content), self.place(content)])
        at = self.place(content)
        return self.chance.choice([content[:first] + content[last:], content[:at] + content[first:last] + content[at:]])

    def number(self) -> int:
        return self.chance.choice(HOSTILE_NUMBERS)

    # Models

    def hostile_model(self) -> bytes:
        fields = [delimited(number, content) for number, content in protobuf_fields(write_model_proto(self.model))]
        for _ in range(self.chance.choice([0, 1, 1, 2, 4])):
            self.chance.choice([self.insert, self.insert, self.insert, self.rearrange])(fields)
        return b"".join(fields)

    def insert(self, fields: list[bytes]) -> None:
        makers: list[Callable[[], bytes]] = [
            self.normalizer, self.normalizer, self.trainer, self.odd_piece, self.odd_piece, self.odd_field
        ]  # fmt: skip
        at = self.chance.choice([0, len(fields), self.chance.randint(0, len(fields))])
        fields.insert(at, self.chance.choice(makers)())

    def rearrange(self, fields: list[bytes]) -> None:
        how = self.chance.randrange(5) if len(fields) > 3 else 0
        if how == 0:
            self.chance.shuffle(fields)
        elif how == 1:  # as above, but the first pieces stay where they must be
            fields[3:] = self.chance.sample(fields[3:], len(fields[3:]))
        elif how == 2:
            fields.append(self.chance.choice(fields))
        elif how == 3:
            del fields[self.chance.randrange(len(fields))]
        else:
            del fields[self.chance.choice([0, 3, 10]) : -2]

    def normalizer(self) -> bytes:
        content = b"".join(
            varint(8 * number) + varint(self.chance.choice([0, 1, self.number()]))
            for number in (3, 4, 5)
            if self.chance.random() < 0.3
        )
        content = self.chance.choice([b"", delimited(2, self.charsmap())]) + content
        # A tag and a size may be stored in more bytes than they need.
        tag = self.chance.choice(
            [b"\x1a", b"\x1a", b"\x9a\x00", b"\x9a\x80\x80\x80\x00", b"\x9a\x80\x80\x80\x10", b"\x2a"]
        )
        size = self.chance.choice([varint(len(content)), varint(len(content) % 128 + 128)[:1] + b"\x80\x00"])
        return tag + (size if len(content) < 128 else varint(len(content))) + content

    def charsmap(self) -> bytes:
        how = self.chance.randrange(6)
        if how == 0:
            return self.chance.randbytes(self.chance.choice([1, 4, 8, 2000]))
        if how == 1:
            trie = b"".join(
                struct.pack("<I", self.chance.getrandbits(32)) for _ in range(256 * self.chance.randint(1, 4))
            )
            return struct.pack("<I", self.chance.choice([len(trie), self.number() % 2**32])) + trie + b"a\0"
        if how == 2:
            return build({"a": "b" * self.chance.choice([1, 60, 100]), "ab" * self.chance.choice([1, 10, 20]): "\0"})
        damaged = bytearray(build(RULES))
        places = [place for place, byte in enumerate(damaged) if byte]
        for _ in range(self.chance.choice([1, 1, 3, 10])):
            damaged[self.chance.choice(places)] ^= 1 << self.chance.randrange(8)
        return bytes(damaged)

    def trainer(self) -> bytes:
        number = self.chance.choice([3, 4, 24, 35, 40, 41, 42, 43])  # the ids, the type, bytes for unknown characters
        value = varint(8 * number) + varint(self.chance.choice([0, 1, 2, 3, self.number()]))
        return delimited(2, value if self.chance.random() < 0.8 else delimited(self.chance.randint(1, 53), b"a\0\xff"))

    def odd_piece(self) -> bytes:
        text = self.chance.choice(
            [b"", b"a", b"<s>", b"<mask>", b"<pad>", b"\xff", b"\xc3", b"a\0b", "▁".encode(), b" ", b"a" * 5000,
             b"<0x41>", "the ▁ same".encode(), b"\xed\xa0\x80", "\U0010ffff".encode(), "\u0301".encode()]
        )  # fmt: skip
        kind = self.chance.choice(
            [b"", b"", b"\x18" + varint(self.chance.choice([1, 2, 3, 4, 5, 6, 7, self.number()]))]
        )
        return piece(text, self.chance.choice(HOSTILE_SCORES), kind)

    def odd_field(self) -> bytes:
        return self.chance.choice(
            [
                varint(self.number()),
                b"\x0a" + varint(self.number()),
                delimited(4, delimited(1, delimited(1, BASIC_PLANE.encode()) + delimited(2, b"a"))),  # the self-test
                delimited(5, delimited(2, self.charsmap())),
                delimited(77, b"unknown"),
                b"\x0b\x0c",
                b"\x1b" + delimited(2, b"in a group") + b"\x1c",
                200 * b"\x0a\x00",
            ]
        )

    # tokenizer.json

    def hostile_json(self) -> bytes:
        document = json.loads(write_tokenizer_json(self.model))
        for _ in range(self.chance.choice([0, 1, 1, 2, 4])):
            self.chance.choice([self.replace, self.replace, self.vocab, self.table])(document)
        return json.dumps(document).encode()

    def replace(self, document: Any) -> None:
        parents = [*parents_in(document)]
        parent = self.chance.choice(self.chance.choice([parents[:10], parents]))
        key = self.chance.choice([*parent] if isinstance(parent, dict) else range(len(parent)))
        if self.chance.random() < 0.2:
            del parent[key]
        else:
            parent[key] = self.chance.choice(HOSTILE_VALUES)

    def vocab(self, document: Any) -> None:
        try:
            vocab = document["model"]["vocab"]
            entry = [self.chance.choice(["a", "", "<s>", "▁", "\0", "x" * 5000]), self.chance.choice(HOSTILE_SCORES)]
            vocab.insert(self.chance.randint(0, len(vocab)), entry)
        except (KeyError, TypeError, AttributeError):  # an earlier replacement left none
            document["model"] = {"type": "Unigram", "unk_id": 3, "vocab": []}

    def table(self, document: Any) -> None:
        table = base64.b64encode(self.charsmap()).decode()
        document["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": table}


def parents_in(value: Any) -> Iterator[Any]:
    """Every object and array in a JSON value that is not empty."""
    if isinstance(value, dict | list) and value:
        yield value
        for child in value.values() if isinstance(value, dict) else value:
            yield from parents_in(child)


def check_file(suffix: str, content: bytes, directory: Path) -> str:
    """Reads a file and, if it is not refused, uses what was read; the outcome."""
    path = directory / f"vocabulary{suffix}"
    path.write_bytes(content)
    try:
        vocabulary, _ = read_vocabulary(path)
    except CheckpointError as error:
        assert str(path) in str(error)  # noqa: PT017  (either outcome is right)
        return f"{suffix} refused"
    for ids in vocabulary.encode(TEXTS):
        assert all(0 <= token_id < vocabulary.mask_id for token_id in ids)
    for text in TEXTS:
        assert len(vocabulary.normalizer.huggingface(text).text) <= 64 * len(text)
    if suffix == ".model":
        # What was checked before the library saw the file is what the library found in it.
        read, found = spec_meaning(read_specs(content)), spec_meaning(read_specs(vocabulary.serialized()))
        found[1]["model_type"] = 1  # the library puts types that it does not know after the one that counts
        assert read == found
    processor = vocabulary.processor
    if not any(kind == 4 for kind in kinds(vocabulary.serialized())):  # such pieces are left as they are
        for text in TEXTS:
            assert vocabulary.normalizer.sentencepiece(text).text == processor.normalize(text)
    return f"{suffix} read"


def kinds(model: bytes) -> Iterator[int]:
    """The kind of each piece that says so, as the library writes it, at the end of the piece."""
    for number, content in protobuf_fields(model):
        if number == 1 and content[-2:-1] == b"\x18":
            yield content[-1]


def main(first: int, stop: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as directory:
        for seed in range(first, stop):
            print("seed", seed, flush=True)
            outcomes[check_file(*Mutator(seed).file(), Path(directory))] += 1
    print(json.dumps(outcomes))


def read_in_other_processes(seeds: range) -> Counter[str]:
    """The outcomes; fails with the seed of a file that ends its process."""
    outcomes: Counter[str] = Counter()
    for first in range(seeds.start, seeds.stop, BATCH):
        stop = min(first + BATCH, seeds.stop)
        command = [sys.executable, "-X", "faulthandler", "-m", __name__, str(first), str(stop)]
        timeout = 30 + SECONDS_PER_FILE * (stop - first)
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout)
        last = done.stdout.splitlines()[-1:]
        assert done.returncode == 0, f"{last} ended with {done.returncode}: {done.stderr[-3000:]}"
        outcomes.update(json.loads(last[0]))
    return outcomes


def assert_all_kinds(outcomes: Counter[str], count: int) -> None:
    print(dict(outcomes))
    assert outcomes.total() == count
    for outcome in (".model refused", ".model read", ".json refused", ".json read"):
        assert outcomes[outcome] > 0.02 * count, outcome


def test_hostile_files():
    assert_all_kinds(read_in_other_processes(range(200)), 200)


@pytest.mark.exhaustive
def test_many_hostile_files():
    assert_all_kinds(read_in_other_processes(range(200, 20_200)), 20_000)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
