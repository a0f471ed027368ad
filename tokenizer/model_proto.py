"""The file format of sentencepiece models, read and written without protobuf.

A `.model` file is a protobuf message: a row of fields, each a tag (field number, and how the content is stored)
and its content, which may be a message in turn. The fields that matter here are those of
https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto, the encoding is
https://protobuf.dev/programming-guides/encoding/. The sentencepiece library reads such files itself; this module
is for those who need the pieces with their scores, or want to write a model.
"""

import struct
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Self

from xlmr_np.weights.errors import CheckpointError
from xlmr_np.weights.safetensors_format import is_unicode, shortened

Piece = tuple[str, float, int]  # its text, its score (a log probability that float32 holds), its kind

# Kinds of pieces. Only normal ones take part in segmentation as XLM-R's do.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
KINDS = {NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE}

UNIGRAM = 1  # a model type

LARGEST_MODEL = 2**26  # bytes; XLM-R's model has 5 million
MOST_PIECES = 2**20  # XLM-R has 250,000, XLM-V 901,629
MOST_FIELDS = 2**16  # of other kinds than pieces, in one message; sentencepiece writes a few dozen
LARGEST_TAG = 2**32 - 1  # sentencepiece's protobuf would drop the bits above, and so find another field

LONGEST_PLAIN_PIECE = 2 + 127  # bytes of a piece whose size takes one byte
LARGEST_SCORE = (2 - 2**-23) * 2.0**127  # that float32 holds
LONGEST_VARINT = 10  # bytes, which hold 64 bits

VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5
STORAGES = {VARINT, FIXED64, LENGTH_DELIMITED, FIXED32}

# Tags: 8 * field number + storage. A known field number with another storage is an unknown field, as in protobuf.
PIECES, TRAINER_SPEC, NORMALIZER_SPEC, DENORMALIZER_SPEC = (8 * number + LENGTH_DELIMITED for number in (1, 2, 3, 5))
PIECE_TEXT, PIECE_SCORE, PIECE_KIND = 8 * 1 + LENGTH_DELIMITED, 8 * 2 + FIXED32, 8 * 3 + VARINT
MODEL_TYPE, VOCAB_SIZE, WHITESPACE_AS_SUFFIX = (8 * number + VARINT for number in (3, 4, 24))
UNK_ID, BOS_ID, EOS_ID, PAD_ID = (8 * number + VARINT for number in (40, 41, 42, 43))
PRECOMPILED_CHARSMAP = 8 * 2 + LENGTH_DELIMITED
ADD_DUMMY_PREFIX, REMOVE_EXTRA_WHITESPACES, ESCAPE_WHITESPACES = (8 * number + VARINT for number in (3, 4, 5))

DAMAGED = "get the file again, it is damaged or of another kind."

_SCORE = struct.Struct("<Bf")


class NormalizerSpec:
    """How a model normalises text.

    Args:
        serialized: the message, kept as it is; the attributes say what it means.

    Attributes:
        precompiled_charsmap: the table of replacements, empty for none.
        add_dummy_prefix: whether a text is taken as though a space stood before it.
        remove_extra_whitespaces: whether runs of spaces become one, and those at both ends none.
        escape_whitespaces: whether spaces become "▁".

    Raises:
        CheckpointError: `serialized` is no message.
    """

    def __init__(self, serialized: bytes = b"") -> None:
        values = _read_settings(serialized)
        self.serialized = serialized
        self.precompiled_charsmap: bytes = values.get(PRECOMPILED_CHARSMAP, b"")
        self.add_dummy_prefix = bool(values.get(ADD_DUMMY_PREFIX, True))
        self.remove_extra_whitespaces = bool(values.get(REMOVE_EXTRA_WHITESPACES, True))
        self.escape_whitespaces = bool(values.get(ESCAPE_WHITESPACES, True))

    @classmethod
    def of_charsmap(cls, precompiled_charsmap: bytes) -> Self:
        """XLM-R's handling of spaces, with this table of replacements."""
        flags = (ADD_DUMMY_PREFIX, REMOVE_EXTRA_WHITESPACES, ESCAPE_WHITESPACES)
        charsmap = _delimited(PRECOMPILED_CHARSMAP, precompiled_charsmap) if precompiled_charsmap else b""
        return cls(charsmap + b"".join(_integer(flag, 1) for flag in flags))


class TrainerSpec:
    """What a model's training settings say about the model itself.

    Args:
        serialized: the message, kept as it is; the attributes say what it means.

    Attributes:
        model_type: `UNIGRAM`, or another number for another kind of model.
        unk_id: sentencepiece id of the unknown piece.
        bos_id: that of the piece which begins a sentence.
        eos_id: that of the piece which ends one.
        pad_id: that of the padding piece; negative for none, like the three above.
        treat_whitespace_as_suffix: whether "▁" ends a word instead of beginning it.

    Raises:
        CheckpointError: `serialized` is no message.
    """

    def __init__(self, serialized: bytes = b"") -> None:
        values = _read_settings(serialized)
        self.serialized = serialized
        self.model_type: int = values.get(MODEL_TYPE, UNIGRAM)
        self.unk_id = _int32(values.get(UNK_ID, 0))
        self.bos_id = _int32(values.get(BOS_ID, 1))
        self.eos_id = _int32(values.get(EOS_ID, 2))
        self.pad_id = _int32(values.get(PAD_ID, -1))
        self.treat_whitespace_as_suffix = bool(values.get(WHITESPACE_AS_SUFFIX, False))

    @classmethod
    def of_size(cls, vocab_size: int) -> Self:
        """The settings of a unigram model with `vocab_size` pieces, the first three of which are XLM-R's."""
        return cls(_integer(MODEL_TYPE, UNIGRAM) + _integer(VOCAB_SIZE, vocab_size))


@dataclass(frozen=True, eq=False)
class ModelProto:
    """A sentencepiece unigram model.

    Attributes:
        pieces: text, score and kind of each piece, by sentencepiece id.
        normalizer: how it normalises text.
        trainer: what its training settings say about it.
        other: further fields, as they stood in the file.

    Raises:
        CheckpointError: it is not a model that the sentencepiece library would use as it stands: the message
            says which piece or setting is at fault.
    """

    pieces: list[Piece] = field(repr=False)
    normalizer: NormalizerSpec
    trainer: TrainerSpec
    other: bytes = b""

    def __post_init__(self) -> None:
        if not 0 < len(self.pieces) <= MOST_PIECES:
            raise CheckpointError(
                f"A sentencepiece model has 1 to {MOST_PIECES:,} pieces, but this one has {len(self.pieces):,}."
            )
        texts = [text for text, _, _ in self.pieces]
        kinds = {kind for _, _, kind in self.pieces}
        joined = "".join(texts)
        if not all(texts):
            raise CheckpointError(f"Piece {texts.index('')} of the model is empty: {DAMAGED}")
        if len(set(texts)) < len(texts):
            repeated = next(text for text, count in Counter(texts).items() if count > 1)
            raise CheckpointError(f"The model has the piece {shortened(repeated)} twice: {DAMAGED}")
        if "\0" in joined:
            raise CheckpointError(f"A piece of the model contains the character U+0000: {DAMAGED}")
        if not is_unicode(joined):
            raise CheckpointError(f"A piece of the model contains half of a surrogate pair: {DAMAGED}")
        if not all(abs(score) <= LARGEST_SCORE for _, score, _ in self.pieces):  # nor is NaN at most anything
            wrong = next(piece for piece in self.pieces if not abs(piece[1]) <= LARGEST_SCORE)
            raise CheckpointError(f"The piece {shortened(wrong[0])} of the model has the score {wrong[1]}: {DAMAGED}")
        if not kinds <= KINDS:
            raise CheckpointError(f"A piece of the model is of the unknown kind {max(kinds - KINDS)}: {DAMAGED}")
        if self.trainer.model_type != UNIGRAM:
            raise CheckpointError(
                f"The model is of sentencepiece's type {self.trainer.model_type}, where XLM-R's is {UNIGRAM}, unigram: "
                "use the sentencepiece.bpe.model of an XLM-R checkpoint (a unigram model in spite of its name)."
            )


def read_model_proto(model: bytes) -> ModelProto:
    """The model in the bytes of a `.model` file.

    Raises:
        CheckpointError: they are no unigram model, are damaged, or end before the normaliser.
    """
    _check_size(model)
    texts: list[bytes] = []
    scores = bytearray()
    kinds: list[int] = []
    settings = _Settings()
    position = 0
    while position < len(model):
        position = _read_plain_pieces(model, position, texts, scores)
        kinds += [NORMAL] * (len(texts) - len(kinds))
        if position == len(model):
            break
        start = position
        tag, content, position = _read_field(model, start)
        if tag == PIECES:
            text, score, kind = _read_piece(content)
            texts.append(text)
            scores += score
            kinds.append(kind)
        else:
            settings.add(tag, content, model[start:position])
        _check_count(len(texts))
    return ModelProto(
        pieces=list(zip(_decode(texts), struct.unpack(f"<{len(texts)}f", scores), kinds, strict=True)),
        normalizer=settings.normalizer(),
        trainer=settings.trainer(),
        other=b"".join(settings.other),
    )


def read_specs(model: bytes) -> tuple[NormalizerSpec, TrainerSpec]:
    """The settings in the bytes of a `.model` file, found without a look into its pieces.

    This is what must be known of a model before the sentencepiece library may load it: it takes a twentieth of the
    time that the library does.

    Raises:
        CheckpointError: the bytes are no model, are damaged around the pieces, or end before the normaliser.
    """
    _check_size(model)
    settings = _Settings()
    padded = model + bytes(LONGEST_PLAIN_PIECE)  # so that what is looked at next is always there
    position = pieces = 0
    while position < len(model):
        for pieces in range(pieces, MOST_PIECES + 1):  # noqa: B007, B020  (how many there were is wanted afterwards)
            if padded[position] != PIECES or (size := padded[position + 1]) > 127:
                break
            position += 2 + size
        else:
            pieces += 1
        if position < len(model):
            start = position
            tag, content, position = _read_field(model, start)
            if tag == PIECES:
                pieces += 1
            else:
                settings.add(tag, content, model[start:position])
        _check_count(pieces)
    if position > len(model):
        raise CheckpointError(f"The model ends in the middle of a piece: {DAMAGED}")
    return settings.normalizer(), settings.trainer()


def write_model_proto(model: ModelProto) -> bytes:
    """The bytes of a `.model` file that holds `model`.

    Fields stand in the order in which sentencepiece writes them, so that what was read from a file of
    sentencepiece's comes out byte for byte; from another file, it means the same.
    """
    written = bytearray()
    for text, score, kind in model.pieces:
        piece = _delimited(PIECE_TEXT, text.encode()) + _SCORE.pack(PIECE_SCORE, score)
        if kind != NORMAL:
            piece += _integer(PIECE_KIND, kind)
        written += _delimited(PIECES, piece)
    written += _delimited(TRAINER_SPEC, model.trainer.serialized)
    written += _delimited(NORMALIZER_SPEC, model.normalizer.serialized)
    written += model.other
    return bytes(written)


class _Settings:
    """What a model has besides its pieces, gathered while it is read.

    Attributes:
        other: the fields that are of no interest here, as they stood in the file.
    """

    def __init__(self) -> None:
        self.other: list[bytes] = []
        self._messages: dict[int, list[bytes]] = {TRAINER_SPEC: [], NORMALIZER_SPEC: []}
        self._count = 0

    def add(self, tag: int, content: Any, as_stored: bytes) -> None:
        """Takes a field in, given by tag and content and as it stood in the file."""
        if tag == DENORMALIZER_SPEC:  # the library would follow its table unchecked
            raise CheckpointError("The model has rules for decoding, a denormalizer_spec, which XLM-R's has not.")
        if tag in self._messages:
            self._messages[tag].append(content)
        else:
            self.other.append(as_stored)
        self._count += 1
        if self._count > MOST_FIELDS:
            raise CheckpointError(f"The model has more than {MOST_FIELDS:,} settings, which no model has: {DAMAGED}")

    def normalizer(self) -> NormalizerSpec:
        """How the model normalises; the message comes last in it, and sentencepiece itself does not require it."""
        if not self._messages[NORMALIZER_SPEC]:
            raise CheckpointError(f"The model ends before its normalizer: {DAMAGED}")
        return NormalizerSpec(self._merged(NORMALIZER_SPEC))

    def trainer(self) -> TrainerSpec:
        """What the training settings say."""
        return TrainerSpec(self._merged(TRAINER_SPEC))

    def _merged(self, tag: int) -> bytes:
        """A message that may stand twice: the fields of the second count as though they followed those of the first."""
        return b"".join(self._messages[tag])


def _check_size(model: bytes) -> None:
    if len(model) > LARGEST_MODEL:
        raise CheckpointError(
            f"A sentencepiece model of {len(model):,} bytes is too large: at most {LARGEST_MODEL:,} are read."
        )


def _check_count(pieces: int) -> None:
    if pieces > MOST_PIECES:
        raise CheckpointError(f"The model has more than {MOST_PIECES:,} pieces, which no model has: {DAMAGED}")


def _read_plain_pieces(model: bytes, position: int, texts: list[bytes], scores: bytearray) -> int:
    """Reads pieces as sentencepiece writes nearly all of them; the position of the first other field.

    This is `_read_field` and `_read_piece` for one form, text and score in less than 128 bytes, and ten times as
    fast: a vocabulary has hundreds of thousands of them.
    """
    while (
        len(texts) <= MOST_PIECES
        and position + 4 <= len(model)
        and model[position] == PIECES
        and model[position + 2] == PIECE_TEXT
    ):
        size, length = model[position + 1], model[position + 3]
        score_tag = position + 4 + length
        end = score_tag + 5
        if size != length + 7 or size > 127 or end > len(model) or model[score_tag] != PIECE_SCORE:
            break
        texts.append(model[position + 4 : score_tag])
        scores += model[score_tag + 1 : end]
        position = end
    return position


def _read_piece(message: bytes) -> tuple[bytes, bytes, int]:
    """Text, score in four bytes, and kind of a piece."""
    values: dict[int, Any] = {PIECE_TEXT: b"", PIECE_SCORE: bytes(4), PIECE_KIND: NORMAL}
    seen = set()
    position = 0
    while position < len(message):
        tag, content, position = _read_field(message, position)
        if tag not in values or tag in seen:
            raise CheckpointError(
                f"A piece of the model has fields besides its text, score and kind, each once: {DAMAGED}"
            )
        seen.add(tag)
        values[tag] = content
    return values[PIECE_TEXT], values[PIECE_SCORE], values[PIECE_KIND]


def _read_settings(message: bytes) -> dict[int, Any]:
    """The content of each field by its tag; of one that is repeated, the last."""
    values = {}
    position = fields = 0
    while position < len(message):
        tag, content, position = _read_field(message, position)
        values[tag] = content
        fields += 1
        if fields > MOST_FIELDS:
            raise CheckpointError(f"The model's settings have more than {MOST_FIELDS:,} fields: {DAMAGED}")
    return values


def _read_field(message: bytes, position: int) -> tuple[int, Any, int]:
    """Tag and content of the field at `position`, and where it ends.

    The content is a whole number where it is stored as one (`VARINT`), otherwise bytes.
    """
    tag, position = _read_varint(message, position)
    number, storage = divmod(tag, 8)
    if number == 0 or storage not in STORAGES or tag > LARGEST_TAG:
        raise CheckpointError(f"The model has a field with the tag {tag}, which is none of protobuf's: {DAMAGED}")
    if storage == VARINT:
        return tag, *_read_varint(message, position)
    if storage == LENGTH_DELIMITED:
        size, position = _read_varint(message, position)
    else:
        size = 8 if storage == FIXED64 else 4
    end = position + size
    if end > len(message):
        raise CheckpointError(
            f"A field of the model should have {size:,} bytes, but {len(message) - position:,} are left: {DAMAGED}"
        )
    return tag, message[position:end], end


def _read_varint(message: bytes, position: int) -> tuple[int, int]:
    """The whole number at `position`, and where it ends: seven bits a byte, the lowest first."""
    value = 0
    for index, byte in enumerate(message[position : position + LONGEST_VARINT]):
        value |= (byte & 127) << 7 * index
        if byte < 128:
            return value & 0xFFFF_FFFF_FFFF_FFFF, position + index + 1
    raise CheckpointError(f"A number in the model does not end within {LONGEST_VARINT} bytes: {DAMAGED}")


def _decode(texts: list[bytes]) -> list[str]:
    """Each text from UTF-8: at once where U+0000, which pieces must not contain, can separate them."""
    try:
        decoded = b"\0".join(texts).decode().split("\0")
        return decoded if len(decoded) == len(texts) else [text.decode() for text in texts]
    except UnicodeDecodeError as error:
        raise CheckpointError(f"A piece of the model is not UTF-8: {DAMAGED}") from error


def _int32(value: int) -> int:
    """A number of 32 bits with its sign, from the 64 bits in which it is stored."""
    return (value + 2**31) % 2**32 - 2**31


def _varint(value: int) -> bytes:
    written = bytearray()
    while value > 127:
        written.append(value & 127 | 128)
        value >>= 7
    written.append(value)
    return bytes(written)


def _integer(tag: int, value: int) -> bytes:
    return _varint(tag) + _varint(value)


def _delimited(tag: int, content: bytes) -> bytes:
    return _varint(tag) + _varint(len(content)) + content
