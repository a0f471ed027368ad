"""Reading and writing sentencepiece models: equal to the library's own reading, and safe on any bytes."""

import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor

from tests.data.make_small_vocabulary import SENTENCES
from xlmr_np.tokenizer import model_proto
from xlmr_np.tokenizer.model_proto import (
    BYTE,
    CONTROL,
    NORMAL,
    UNIGRAM,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    ModelProto,
    NormalizerSpec,
    TrainerSpec,
    read_model_proto,
    read_specs,
    write_model_proto,
)
from xlmr_np.weights.errors import CheckpointError

from .reference import charsmap, protobuf_fields

NORMALIZER = b"\x1a\x00"  # an empty one
SPECIAL_PIECES = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)]


@pytest.fixture(scope="module")
def small_model(small_vocabulary) -> bytes:
    return small_vocabulary.read_bytes()


def varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value % 128 + 128]) + varint(value // 128)


def delimited(number: int, content: bytes) -> bytes:
    return varint(8 * number + 2) + varint(len(content)) + content


def piece(text: bytes, score: float = -1.0, rest: bytes = b"") -> bytes:
    return delimited(1, delimited(1, text) + b"\x15" + struct.pack("<f", score) + rest)


def meaning(model: ModelProto) -> tuple:
    trainer, normalizer = vars(model.trainer).copy(), vars(model.normalizer).copy()
    return model.pieces, trainer.pop("serialized"), trainer, normalizer.pop("serialized"), normalizer, model.other


def spec_meaning(specs: tuple[NormalizerSpec, TrainerSpec]) -> list[dict]:
    """What the settings say, apart from how they are stored."""
    return [{name: value for name, value in vars(spec).items() if name != "serialized"} for spec in specs]


def library(model: bytes) -> SentencePieceProcessor:
    processor = SentencePieceProcessor()
    processor.LoadFromSerializedProto(model)
    return processor


def assert_equals_the_library(model: ModelProto, processor: SentencePieceProcessor) -> None:
    ids = range(len(processor))
    assert [text for text, _, _ in model.pieces] == [processor.id_to_piece(i) for i in ids]
    assert [score for _, score, _ in model.pieces] == [processor.get_score(i) for i in ids]
    for kind, holds in {
        UNKNOWN: processor.is_unknown,
        CONTROL: processor.is_control,
        UNUSED: processor.is_unused,
        BYTE: processor.is_byte,
    }.items():
        assert [i for i in ids if model.pieces[i][2] == kind] == [i for i in ids if holds(i)]
    assert not any(kind == USER_DEFINED for _, _, kind in model.pieces)
    trainer = model.trainer
    assert (trainer.unk_id, trainer.bos_id, trainer.eos_id, trainer.pad_id) == (
        processor.unk_id(),
        processor.bos_id(),
        processor.eos_id(),
        processor.pad_id(),
    )
    assert trainer.model_type == UNIGRAM


@pytest.mark.parametrize("vocabulary", ["small_vocabulary", "real_vocabulary"])
def test_what_is_read_is_what_the_library_reads_and_is_written_byte_for_byte(vocabulary, request):
    file = request.getfixturevalue(vocabulary)
    model = read_model_proto(file.read_bytes())
    assert_equals_the_library(model, SentencePieceProcessor(model_file=str(file)))
    assert model.normalizer.precompiled_charsmap == charsmap(file)
    assert model.normalizer.add_dummy_prefix
    assert model.normalizer.remove_extra_whitespaces
    assert model.normalizer.escape_whitespaces
    assert not model.trainer.treat_whitespace_as_suffix
    assert [spec.serialized for spec in read_specs(file.read_bytes())] == [
        model.normalizer.serialized,
        model.trainer.serialized,
    ]
    assert write_model_proto(model) == file.read_bytes()


def test_settings_that_differ_from_the_defaults():
    normalizer = NormalizerSpec(b"\x12\x02ab\x18\x00\x20\x00\x28\x00")
    assert normalizer.precompiled_charsmap == b"ab"
    assert not normalizer.add_dummy_prefix
    assert not normalizer.remove_extra_whitespaces
    assert not normalizer.escape_whitespaces
    trainer = TrainerSpec(
        b"\xc0\x01\x01" + b"\xc0\x02\x05" + b"\xc8\x02\x06" + b"\xd0\x02" + b"\xff" * 9 + b"\x01" + b"\xd8\x02\x00"
    )
    assert trainer.treat_whitespace_as_suffix
    assert (trainer.unk_id, trainer.bos_id, trainer.eos_id, trainer.pad_id) == (5, 6, -1, 0)


def test_settings_in_odd_forms_are_read_as_protobuf_reads_them():
    assert NormalizerSpec(b"\x18\x01\x18\x00").add_dummy_prefix is False
    assert TrainerSpec(b"\x18\x81" + b"\x80" * 8 + b"\x02").model_type == 1  # of a number, the lowest 64 bits
    assert NormalizerSpec(b"\x1d\x00\x00\x00\x00").add_dummy_prefix is True


def test_fields_in_another_order_mean_the_same(small_model):
    fields = [delimited(number, content) for number, content in protobuf_fields(small_model)]
    assert b"".join(fields) == small_model
    pieces, settings = fields[:-2], fields[-2:]
    unknown = delimited(77, b"kept") + b"\xb8\x0c\x05"
    shuffled = b"".join([settings[1], *pieces[:100], unknown, settings[0], *pieces[100:]])
    model = read_model_proto(shuffled)
    assert meaning(model)[:-1] == meaning(read_model_proto(small_model))[:-1]
    assert model.other == unknown
    assert write_model_proto(model) == small_model + unknown
    assert library(shuffled).encode(SENTENCES) == library(small_model).encode(SENTENCES)


def test_settings_are_found_wherever_they_stand(small_model):
    """Between, before and after pieces of every form; of what is repeated, the last counts, as to the library."""
    pieces = [piece(b"p%d" % number) for number in range(30)]
    pieces[7:9] = [piece(200 * b"a"), b"\x8a\x00" + piece(b"b")[1:]]  # with a size, and with a tag, of two bytes
    fields = [*pieces, delimited(3, b"\x18\x00"), delimited(3, b"\x20\x00"), delimited(2, b"\xc0\x01\x01")]
    fields += [delimited(3, b"\x18\x01"), delimited(1, delimited(1, b"<unk>") + b"\x18\x02")]
    for seed in range(50):
        random.Random(seed).shuffle(fields)
        found = spec_meaning(read_specs(b"".join(fields)))
        assert found == spec_meaning(read_specs(library(b"".join(fields)).serialized_model_proto()))
        assert not found[0]["remove_extra_whitespaces"]
        assert found[1]["treat_whitespace_as_suffix"]


def test_a_message_in_two_parts_is_one(small_model):
    fields = list(protobuf_fields(small_model))
    normalizer = fields[-1][1]
    head, table = normalizer[:10], normalizer[10:]
    assert head == delimited(1, b"nmt_nfkc")
    parts = [delimited(number, content) for number, content in fields[:-1]]
    split = b"".join([*parts, delimited(3, table), delimited(3, head)])
    assert read_model_proto(split).normalizer.precompiled_charsmap == table[4:]
    assert read_model_proto(write_model_proto(read_model_proto(split))).normalizer.precompiled_charsmap == table[4:]


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)
long_texts = st.integers(100, 300).map("x".__mul__)  # around the size from which a length takes two bytes
scores = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(
    st.lists(st.tuples(texts | long_texts, scores, st.sampled_from([NORMAL, NORMAL, CONTROL, UNUSED])), max_size=30),
    st.binary(max_size=20),
)
def test_any_pieces_come_back(pieces, precompiled_charsmap):
    distinct = {text: (text, score, kind) for text, score, kind in [*pieces, *SPECIAL_PIECES]}
    model = ModelProto(
        list(distinct.values()),
        NormalizerSpec.of_charsmap(precompiled_charsmap),
        TrainerSpec.of_size(len(distinct)),
    )
    written = write_model_proto(model)
    assert meaning(read_model_proto(written)) == meaning(model)
    assert write_model_proto(read_model_proto(written)) == written


@given(st.dictionaries(texts | long_texts, st.floats(-100, 0, width=32), min_size=1, max_size=30))
def test_any_pieces_are_read_by_the_library(scored):
    pieces = [
        *SPECIAL_PIECES,
        *((text, score, NORMAL) for text, score in scored.items() if text not in ("<unk>", "<s>", "</s>")),
        ("one more than the special ones", -1.0, NORMAL),
    ]
    model = ModelProto(pieces, NormalizerSpec.of_charsmap(b""), TrainerSpec.of_size(len(pieces)))
    assert_equals_the_library(model, library(write_model_proto(model)))


def test_a_new_model_segments_as_the_one_whose_parts_it_has(small_model):
    old = read_model_proto(small_model)
    new = write_model_proto(
        ModelProto(
            old.pieces, NormalizerSpec.of_charsmap(old.normalizer.precompiled_charsmap), TrainerSpec.of_size(480)
        )
    )
    assert new != small_model
    assert library(new).encode(SENTENCES) == library(small_model).encode(SENTENCES)


DAMAGED = {
    "nothing": (b"", "ends before its normalizer"),
    "no pieces": (NORMALIZER, "1 to .* pieces"),
    "no normalizer": (piece(b"a"), "ends before its normalizer"),
    "an empty piece": (piece(b"a") + piece(b"") + NORMALIZER, "Piece 1 .* empty"),
    "a piece without a text": (delimited(1, b"") + NORMALIZER, "Piece 0 .* empty"),
    "a piece twice": (piece(b"a") + piece(b"b") + piece(b"a") + NORMALIZER, "'a' twice"),
    "U+0000 in a piece": (piece(b"a\0b") + NORMALIZER, r"U\+0000"),
    "a piece not in UTF-8": (piece(b"\xff") + NORMALIZER, "not UTF-8"),
    "a character cut in two": (piece(b"\xc3") + piece(b"\xa9") + NORMALIZER, "not UTF-8"),
    "half a surrogate pair": (piece(b"\xed\xa0\x80") + NORMALIZER, "not UTF-8"),
    "a score that is not a number": (piece(b"a", float("nan")) + NORMALIZER, "'a' .* score nan"),
    "an infinite score": (piece(b"a", float("-inf")) + NORMALIZER, "'a' .* score -inf"),
    "a score without its bytes": (delimited(1, delimited(1, b"a") + b"\x15\x00") + NORMALIZER, "4 bytes, but 1"),
    "a score stored as a whole number": (delimited(1, delimited(1, b"a") + b"\x10\x00") + NORMALIZER, "text, score"),
    "an unknown kind": (piece(b"a", rest=b"\x18\x09") + NORMALIZER, "unknown kind 9"),
    "the kind zero": (piece(b"a", rest=b"\x18\x00") + NORMALIZER, "unknown kind 0"),
    "an unknown field in a piece": (piece(b"a", rest=b"\xc0\x0c\x00") + NORMALIZER, "text, score"),
    "a text twice in a piece": (piece(b"a", rest=delimited(1, b"b")) + NORMALIZER, "text, score"),
    "a byte-pair model": (piece(b"a") + delimited(2, b"\x18\x02") + NORMALIZER, "type 2"),
    "a varint of eleven bytes": (piece(b"a") + NORMALIZER + b"\xa0" + b"\x80" * 10 + b"\x00", "within 10 bytes"),
    "a varint without an end": (piece(b"a") + NORMALIZER + b"\xa0\x80", "within 10 bytes"),
    "a size of eleven bytes": (b"\x0a" + b"\xff" * 10 + b"\x01", "within 10 bytes"),
    "a size of 2**63": (b"\x0a" + b"\x80" * 9 + b"\x01" + b"a", "9,223,372,036,854,775,808 bytes, but 1"),
    "a size of 2**64 - 1": (piece(b"a") + b"\x1a" + b"\xff" * 9 + b"\x01", "bytes, but 0"),
    "a piece longer than its message": (b"\x0a\x04\x0a\x7fab" + NORMALIZER, "127 bytes, but 2"),
    "a charsmap longer than its message": (piece(b"a") + delimited(3, b"\x12\x05") + b"\x28\x00" * 3, "5 bytes, but 0"),
    "a size of two bytes that look like a size and a tag": (
        b"\x0a\x80\x0a\x79" + 121 * b"a" + b"\x15\x00\x00\x00\x00" + NORMALIZER,
        "1,280 bytes, but",
    ),
    "settings that are no message": (piece(b"a") + delimited(2, b"\xff") + NORMALIZER, "within 10 bytes"),
    "field zero": (piece(b"a") + NORMALIZER + b"\x00\x00", "tag 0"),
    "a tag of more than 32 bits": (piece(b"a") + varint(2**32 + 26) + b"\x00" + NORMALIZER, "tag 4294967322"),
    "a denormalizer": (piece(b"a") + NORMALIZER + delimited(5, b""), "denormalizer_spec"),
    "a group": (piece(b"a") + NORMALIZER + b"\x23", "tag 35"),
    "an unknown storage": (piece(b"a") + NORMALIZER + b"\x26", "tag 38"),
    "eight bytes that are five": (piece(b"a") + NORMALIZER + b"\x29abcde", "8 bytes, but 5"),
    "a JSON file": (b'{"version":"1.0"}', "tag"),
}


@pytest.mark.parametrize(("model", "message"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_models_are_refused_in_one_sentence(model, message):
    with pytest.raises(CheckpointError, match=message) as error:
        read_model_proto(model)
    assert len(str(error.value)) < 300


def test_a_piece_that_is_half_a_surrogate_pair_is_refused():
    with pytest.raises(CheckpointError, match="surrogate"):
        ModelProto([("\ud800", 0.0, NORMAL)], NormalizerSpec(), TrainerSpec())


def test_a_long_text_does_not_make_a_long_message():
    with pytest.raises(CheckpointError, match="twice") as error:
        read_model_proto(2 * piece(100_000 * b"a") + NORMALIZER)
    assert len(str(error.value)) < 300


def test_too_large_models_are_refused(monkeypatch, small_model):
    monkeypatch.setattr(model_proto, "LARGEST_MODEL", len(small_model) - 1)
    for read in (read_model_proto, read_specs):
        with pytest.raises(CheckpointError, match="too large"):
            read(small_model)


@pytest.mark.parametrize("kind", [b"", b"\x18\x01"], ids=["plain", "with a kind"])
def test_too_many_pieces_are_refused(monkeypatch, kind):
    monkeypatch.setattr(model_proto, "MOST_PIECES", 1000)
    pieces = [piece(b"%d" % number, rest=kind) for number in range(1001)]
    assert len(read_model_proto(b"".join(pieces[:1000]) + NORMALIZER).pieces) == 1000
    assert spec_meaning(read_specs(b"".join(pieces[:1000]) + NORMALIZER))[0]["precompiled_charsmap"] == b""
    for read in (read_model_proto, read_specs):
        with pytest.raises(CheckpointError, match="more than 1,000 pieces"):
            read(b"".join(pieces) + NORMALIZER)


@pytest.mark.parametrize(
    "settings",
    [
        b"\x28\x00" * 2**17,
        b"\x12\x00" * 2**17,
        delimited(2, b"\x28\x00" * 2**17),
        delimited(3, b"\x28\x00" * 2**17),
    ],
    ids=["unknown", "trainers", "trainer", "normalizer"],
)
def test_too_many_settings_are_refused(settings):
    for read in (read_model_proto, read_specs):
        with pytest.raises(CheckpointError, match="settings"):
            read(piece(b"a") + NORMALIZER + settings)


def assert_refused_or_sound(content: bytes) -> None:
    try:
        model = read_model_proto(content)
    except CheckpointError:
        return
    assert meaning(read_model_proto(write_model_proto(model))) == meaning(model)
    assert spec_meaning(read_specs(content)) == spec_meaning((model.normalizer, model.trainer))


@given(st.binary(max_size=200))
def test_random_bytes(content):
    assert_refused_or_sound(content)


@given(
    st.recursive(
        st.binary(max_size=12),
        lambda inner: st.lists(st.tuples(st.integers(0, 2**7 - 1), st.integers(0, 300) | st.none(), inner)).map(
            lambda fields: b"".join(
                varint(tag) + (varint(size if size is not None else len(content)) if tag % 8 == 2 else b"") + content
                for tag, size, content in fields
            )
        ),
        max_leaves=20,
    )
)
def test_random_nested_fields_with_wrong_sizes(content):
    assert_refused_or_sound(piece(b"a") + content + NORMALIZER)


def truncations(model: bytes, count: int) -> None:
    generator = random.Random(0)
    first = len(read_model_proto(model).pieces) * 12  # about where the pieces end
    for _ in range(count):
        truncated = model[: generator.randrange(first if generator.random() < 0.8 else len(model))]
        for read in (read_model_proto, read_specs):
            with pytest.raises(CheckpointError):
                read(truncated)


def bit_flips(model: bytes, count: int) -> None:
    generator = random.Random(0)
    first = len(read_model_proto(model).pieces) * 12
    for _ in range(count):
        content = bytearray(model)
        for _ in range(generator.randint(1, 3)):
            content[generator.randrange(first)] ^= 1 << generator.randrange(8)
        assert_refused_or_sound(bytes(content))


def test_truncations_are_refused(small_model):
    truncations(small_model, 400)


def test_flipped_bits(small_model):
    bit_flips(small_model, 300)


@pytest.mark.exhaustive
def test_all_truncations_are_refused(small_model):
    for length in [*range(8000), *range(8000, len(small_model), 97)]:  # the pieces end before 8000
        for read in (read_model_proto, read_specs):
            with pytest.raises(CheckpointError):
                read(small_model[:length])


@pytest.mark.exhaustive
def test_many_flipped_bits(small_model):
    bit_flips(small_model, 20_000)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "content",
    [
        b"\x0a\x03\x0a\x01a",  # the smallest pieces
        b"\x0a\x00",
        piece(b"a"),
        b"\x0a\x02\x0a\x00",
        b"\x28\x00",
        b"\x12\x02\x28\x00",
        b"\x1a\x00",
        b"\xff",
    ],
)
def test_the_largest_model_of_any_one_field_takes_bounded_memory(content):
    import tracemalloc

    model = content * (model_proto.LARGEST_MODEL // len(content))
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError):
            read_model_proto(model)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**29
