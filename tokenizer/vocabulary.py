"""The vocabulary: a sentencepiece unigram model seen through XLM-R's id layout.

XLM-R numbers its tokens as fairseq did: four special tokens first, then the sentencepiece pieces, then the
mask.

    id               token               sentencepiece id
    0                <s>                 1
    1                <pad>               -
    2                </s>                2
    3                <unk>               0
    i + 1            piece i             i = 3, 4, ..., n - 1
    n + 1            <mask>              -
"""

import os
from pathlib import Path
from typing import Any, Self

from xlmr_np.weights.errors import CheckpointError

BOS_TOKEN, PAD_TOKEN, EOS_TOKEN, UNK_TOKEN, MASK_TOKEN = "<s>", "<pad>", "</s>", "<unk>", "<mask>"
LEADING_TOKENS = (BOS_TOKEN, PAD_TOKEN, EOS_TOKEN, UNK_TOKEN)
BOS_ID, PAD_ID, EOS_ID, UNK_ID = range(4)

PIECE_OFFSET = 1  # id of a piece minus its sentencepiece id
WORD_START = "▁"  # U+2581, how a piece spells the space before it

NORMALIZER_TAG = 3 << 3 | 2  # field 3, length-delimited

# Texts from which sentencepiece's threads, which take about 0.1 ms to start, are worth their start.
THREADS_FROM = 32


class Vocabulary:
    """Immutable, so that copies share it and threads may use it at once.

    Args:
        model_file: a serialised sentencepiece model with XLM-R's layout, or a tokenizer.json that describes one.

    Raises:
        CheckpointError: the file is no sentencepiece model, or its ids would not be XLM-R's.
        OSError: the file cannot be read.
    """

    def __init__(self, model_file: str | os.PathLike[str]) -> None:
        self._pieces = _read_model(Path(model_file))
        self.mask_id = len(self._pieces) + PIECE_OFFSET

    def __len__(self) -> int:
        return self.mask_id + 1

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def encode(self, texts: list[str]) -> list[list[int]]:
        """The ids of each text, without special tokens; no token of a text is taken for a special one."""
        encode = self._pieces.encode
        rows = encode(texts) if len(texts) >= THREADS_FROM else map(encode, texts)
        return [[piece + PIECE_OFFSET if piece else UNK_ID for piece in row] for row in rows]

    def token(self, token_id: int) -> str:
        """The token that `token_id` stands for.

        Raises:
            ValueError: the id is not in the vocabulary.
        """
        if not 0 <= token_id < len(self):
            raise ValueError(f"token id {token_id} is not in the vocabulary, whose ids are 0 to {self.mask_id}.")
        if token_id < len(LEADING_TOKENS):
            return LEADING_TOKENS[token_id]
        if token_id == self.mask_id:
            return MASK_TOKEN
        return str(self._pieces.id_to_piece(token_id - PIECE_OFFSET))

    def token_id(self, token: str) -> int:
        """The id of `token`, which is `UNK_ID` when the vocabulary has no such token."""
        if token in LEADING_TOKENS:
            return LEADING_TOKENS.index(token)
        if token == MASK_TOKEN:
            return self.mask_id
        piece = int(self._pieces.piece_to_id(token))
        return piece + PIECE_OFFSET if piece else UNK_ID


def _read_model(path: Path) -> Any:
    """The sentencepiece processor of the model in `path`, found to be a unigram model in XLM-R's layout."""
    import sentencepiece

    model = path.read_bytes() if path.suffix != ".json" else _rebuilt_model(path)
    try:
        pieces = sentencepiece.SentencePieceProcessor()
        pieces.LoadFromSerializedProto(model)
        pieces.encode("a")  # an incomplete model shows itself only when it is used
        layout = (pieces.unk_id(), pieces.bos_id(), pieces.eos_id())
        names = tuple(pieces.id_to_piece(piece) for piece in range(min(3, len(pieces))))
        own_specials = [token for token in (PAD_TOKEN, MASK_TOKEN) if pieces.piece_to_id(token)]
    except (RuntimeError, ValueError) as error:  # ValueError: a piece is not UTF-8
        raise CheckpointError(
            f"{path} is not a readable sentencepiece model, or is damaged: get the file again ({error})."
        ) from error
    if layout != (0, 1, 2) or names != (UNK_TOKEN, BOS_TOKEN, EOS_TOKEN) or own_specials:
        raise CheckpointError(
            f"{path} does not have the layout of an XLM-R vocabulary: <unk> 0, <s> 1, </s> 2, no <pad> and "
            f"no <mask>. It has unk, bos, eos = {layout}, starts with {', '.join(names)}, and holds "
            f"{' and '.join(own_specials) or 'neither of those'}, so its token ids would be wrong. Use the "
            "sentencepiece.bpe.model of an XLM-R checkpoint."
        )
    try:
        pieces.nbest_encode("a", nbest_size=1)  # what only a unigram model can do
    except RuntimeError as error:
        raise CheckpointError(
            f"{path} is a sentencepiece model of another kind than unigram, which is what XLM-R has. Use the "
            "sentencepiece.bpe.model of an XLM-R checkpoint (a unigram model in spite of its name)."
        ) from error
    if not _reaches_normalizer(model):
        raise CheckpointError(f"{path} ends after its pieces, before their normalizer: get the file again.")
    return pieces


def _rebuilt_model(path: Path) -> bytes:
    """The sentencepiece model that a tokenizer.json describes.

    Raises:
        CheckpointError: the file is damaged, describes another tokenizer, or has tokens of its own.
    """
    from .model_proto import write_model_proto
    from .tokenizer_json import LARGEST_TOKENIZER_JSON, read_tokenizer_json

    if path.stat().st_size > LARGEST_TOKENIZER_JSON:
        raise CheckpointError(f"{path} has more than {LARGEST_TOKENIZER_JSON} bytes, which no tokenizer.json has.")
    try:
        described = read_tokenizer_json(path.read_bytes())
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    own = [token.content for token in described.added_tokens if token.content not in (*LEADING_TOKENS, MASK_TOKEN)]
    if own:
        raise CheckpointError(f"{path} adds {len(own)} token(s) to XLM-R's, first {own[0]!r}; not supported yet.")
    return write_model_proto(described.model)


def _reaches_normalizer(model: bytes) -> bool:
    """Whether a serialised model goes on to its normalizer, which sentencepiece itself does not require.

    A file cut off between two pieces would otherwise pass for a smaller vocabulary. The fields before the
    normalizer are all length-delimited, with tags of one byte:
    https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto
    """
    position = 0
    while position + 1 < len(model) and model[position] & 0x87 == 2 and model[position] != NORMALIZER_TAG:
        size, shift = model[position + 1], 7
        position += 2
        while size >> shift:  # the bit above seven says that seven more follow
            size += (model[position] - 1) << shift
            position, shift = position + 1, shift + 7
        position += size
    return position + 1 < len(model) and model[position] == NORMALIZER_TAG
