"""The reference tokenizer, transformers' XLMRobertaTokenizer, built from a sentencepiece model file.

transformers itself reads such a file only with protobuf installed, so the two things it takes from there, the
scores and the precompiled charsmap, are read here.
"""

from collections.abc import Iterator
from pathlib import Path

from sentencepiece import SentencePieceProcessor
from transformers import XLMRobertaTokenizer

NORMALIZER_SPEC, PRECOMPILED_CHARSMAP = 3, 2  # field numbers of sentencepiece_model.proto


def reference_tokenizer(model_file: Path, **settings) -> XLMRobertaTokenizer:
    pieces = SentencePieceProcessor(model_file=str(model_file))
    scored = [(pieces.id_to_piece(piece), pieces.get_score(piece)) for piece in range(3, len(pieces))]
    leading = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    return XLMRobertaTokenizer(
        vocab=[*leading, *scored, ("<mask>", 0.0)], _spm_precompiled_charsmap=charsmap(model_file), **settings
    )


def charsmap(model_file: Path) -> bytes:
    normalizer = dict(protobuf_fields(model_file.read_bytes()))[NORMALIZER_SPEC]
    return dict(protobuf_fields(normalizer))[PRECOMPILED_CHARSMAP]


def protobuf_fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and content of each field; of varints and fixed-width numbers the content is left empty."""

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = message[position]
            position += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    position = 0
    while position < len(message):
        field, wire_type = divmod(varint(), 8)
        content = b""
        if wire_type == 0:
            varint()
        elif wire_type == 2:
            length = varint()
            content = message[position : position + length]
            position += length
        else:
            position += {1: 8, 5: 4}[wire_type]
        yield field, content
