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
import threading
from array import array
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from xlmr_np.weights.errors import CheckpointError

from .model_proto import (
    LARGEST_MODEL,
    NORMAL,
    UNIGRAM,
    USER_DEFINED,
    TrainerSpec,
    read_model_proto,
    read_specs,
    write_model_proto,
)
from .normalization import WORD_START as WORD_START  # which the pieces spell
from .normalization import Normalizer
from .unigram import LONGEST_PIECE, Library, Unigram

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

    from .added_tokens import AddedToken

BOS_TOKEN, PAD_TOKEN, EOS_TOKEN, UNK_TOKEN, MASK_TOKEN = "<s>", "<pad>", "</s>", "<unk>", "<mask>"
LEADING_TOKENS = (BOS_TOKEN, PAD_TOKEN, EOS_TOKEN, UNK_TOKEN)
BOS_ID, PAD_ID, EOS_ID, UNK_ID = range(4)

PIECE_OFFSET = 1  # id of a piece minus its sentencepiece id

# Texts from which sentencepiece's threads, which take about 0.1 ms to start, are worth their start.
THREADS_FROM = 32


class PieceTable(NamedTuple):
    """What is quickly asked of pieces. No lists, which the garbage collector would run through again and again.

    Attributes:
        lengths: characters of each token, by its id.
        starts_word: 1 for the pieces that start with "▁", by sentencepiece's ids, as the others.
        scores: logarithms of their probabilities.
        are_ordinary: whether sentencepiece treats them all alike, their scores are logarithms of probabilities, none
            is long, and none has a "▁" but at its start.
    """

    lengths: bytes
    starts_word: bytes
    scores: "array[float]"
    are_ordinary: bool


class Vocabulary:
    """Immutable, so that copies share it and threads may use it at once.

    Args:
        model: a serialised sentencepiece model with XLM-R's layout.
        source: where it comes from, for messages.

    Attributes:
        normalizer: the model's own normalisation, in two readings.
        processor: the sentencepiece library's own object, whose ids are sentencepiece's.
        mask_id: the last id, that of `<mask>`.

    Raises:
        CheckpointError: it is no sentencepiece model, is damaged, or its ids would not be XLM-R's.
    """

    def __init__(self, model: bytes, source: str | os.PathLike[str]) -> None:
        self._source = source
        try:
            normalizer, trainer = read_specs(model)
            # Its table of replacements is checked here: the library follows it wherever it leads.
            self.normalizer = Normalizer.from_specs(normalizer, trainer)
        except CheckpointError as error:
            raise CheckpointError(f"{source}: {error}") from error
        self.processor = _load(model, trainer, source)
        self.mask_id = len(self.processor) + PIECE_OFFSET
        self._unigrams: dict[Library, Unigram] = {}
        self._unigrams_lock = threading.Lock()

    def __len__(self) -> int:
        return self.mask_id + 1

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[type[Self], tuple[bytes, str | os.PathLike[str]]]:
        return type(self), (self.serialized(), self._source)

    def serialized(self) -> bytes:
        """The sentencepiece model; what came from a file that sentencepiece wrote is the same byte for byte."""
        return bytes(self.processor.serialized_model_proto())

    def encode(self, texts: list[str]) -> list[list[int]]:
        """The ids of each text, without special tokens; no token of a text is taken for a special one."""
        rows = self._encode(texts)
        return [[piece + PIECE_OFFSET if piece else UNK_ID for piece in row] for row in rows]

    def encode_with_offsets(self, texts: list[str]) -> list[dict[str, Any]]:
        """Of each text the `ids`, by sentencepiece's numbers, the `pieces` and their `offsets`."""
        return self._encode(texts, return_type="offset_mapping")

    def unigram(self, library: Library) -> Unigram:
        """The pieces with their scores, for those who want to see or choose segmentations.

        It is made when first asked for, which takes a second for XLM-R's, and 75 MB.

        Args:
            library: "sentencepiece": its rounding, on whole texts, by sentencepiece's ids. "huggingface": that of the
                `tokenizers` library, on single words, by XLM-R's ids, special tokens included.

        Raises:
            CheckpointError: the vocabulary has pieces too long or too odd for it.
        """
        with self._unigrams_lock:
            if library not in self._unigrams:
                try:
                    self._unigrams[library] = self._new_unigram(library)
                except (CheckpointError, ValueError) as error:
                    raise CheckpointError(f"{self._source}: {error}") from error
            return self._unigrams[library]

    @cached_property
    def ids(self) -> dict[str, int]:
        """Every token with its id, in the order of the ids. Not to be changed."""
        pieces = self.processor.id_to_piece(list(range(len(LEADING_TOKENS) - PIECE_OFFSET, len(self.processor))))
        return {token: token_id for token_id, token in enumerate([*LEADING_TOKENS, *pieces, MASK_TOKEN])}

    @cached_property
    def piece_table(self) -> PieceTable:
        """What is quickly asked of sentencepiece's pieces, by its ids."""
        every = list(range(len(self.processor)))
        texts = self.processor.id_to_piece(every)
        scores = array("d", self.processor.get_score(every))
        own = every[len(LEADING_TOKENS) - PIECE_OFFSET :]
        ordinary = not (
            any(self.processor.is_control(own) + self.processor.is_unused(own) + self.processor.is_byte(own))
            or any(scores[piece] >= 0 for piece in own)  # 0 is what symbols have that a user has defined
            or any(len(text) > LONGEST_PIECE or text.rfind(WORD_START) > 0 for text in texts)
        )
        lengths = bytes(min(len(token), LONGEST_PIECE) for token in self.ids)
        return PieceTable(lengths, bytes(text.startswith(WORD_START) for text in texts), scores, ordinary)

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
        return str(self.processor.id_to_piece(token_id - PIECE_OFFSET))

    def token_id(self, token: str) -> int:
        """The id of `token`, which is `UNK_ID` when the vocabulary has no such token."""
        if token in LEADING_TOKENS:
            return LEADING_TOKENS.index(token)
        if token == MASK_TOKEN:
            return self.mask_id
        piece = int(self.processor.piece_to_id(token))
        return piece + PIECE_OFFSET if piece else UNK_ID

    def _encode(self, texts: list[str], **settings: Any) -> list[Any]:
        encode = self.processor.encode
        if len(texts) < THREADS_FROM:
            return [encode(text, **settings) for text in texts]
        return list(encode(texts, **settings))

    def _new_unigram(self, library: Library) -> Unigram:
        pieces, scores, kinds = zip(*read_model_proto(self.serialized()).pieces, strict=True)
        if library == "sentencepiece":
            return Unigram(
                pieces,
                scores,
                unk_id=self.processor.unk_id(),
                hidden=[piece for piece, kind in enumerate(kinds) if kind not in (NORMAL, USER_DEFINED)],
                user_defined=[piece for piece, kind in enumerate(kinds) if kind == USER_DEFINED],
            )
        first = len(LEADING_TOKENS) - PIECE_OFFSET
        return Unigram(
            [*LEADING_TOKENS, *pieces[first:], MASK_TOKEN],
            [*(0.0 for _ in LEADING_TOKENS), *scores[first:], 0.0],
            unk_id=UNK_ID,
            library=library,
        )


def read_vocabulary(path: str | os.PathLike[str]) -> "tuple[Vocabulary, dict[int, AddedToken]]":
    """The vocabulary in a file, and by id the tokens that the file adds to it: none unless it is a tokenizer.json.

    Args:
        path: a sentencepiece model, or a tokenizer.json that describes one, told by its suffix.

    Raises:
        CheckpointError: the file is damaged, or describes another tokenizer than XLM-R's.
        OSError: the file cannot be read.
    """
    path = Path(path)
    if path.suffix != ".json":
        return Vocabulary(_read(path, LARGEST_MODEL), path), {}

    from .tokenizer_json import LARGEST_TOKENIZER_JSON, read_tokenizer_json

    content = _read(path, LARGEST_TOKENIZER_JSON)
    try:
        described = read_tokenizer_json(content)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return Vocabulary(write_model_proto(described.model), path), described.added_tokens


def _read(path: Path, largest: int) -> bytes:
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory: load it with XLMRobertaTokenizer.from_pretrained.")
    size = path.stat().st_size
    if size > largest:
        raise CheckpointError(f"{path} has {size:,} bytes, more than the {largest:,} that are read of a vocabulary.")
    return path.read_bytes()


def _load(model: bytes, trainer: TrainerSpec, source: str | os.PathLike[str]) -> "SentencePieceProcessor":
    """The sentencepiece processor of a model whose normaliser is sound, found to have XLM-R's layout."""
    from sentencepiece import SentencePieceProcessor

    if trainer.model_type != UNIGRAM:
        raise CheckpointError(
            f"{source} is a sentencepiece model of another kind than unigram, which is what XLM-R has. Use the "
            "sentencepiece.bpe.model of an XLM-R checkpoint (a unigram model in spite of its name)."
        )
    try:
        pieces = SentencePieceProcessor()
        pieces.LoadFromSerializedProto(model)
        pieces.encode("a")  # an incomplete model shows itself only when it is used
        layout = (pieces.unk_id(), pieces.bos_id(), pieces.eos_id())
        names = tuple(pieces.id_to_piece(piece) for piece in range(min(3, len(pieces))))
        own_specials = [token for token in (PAD_TOKEN, MASK_TOKEN) if pieces.piece_to_id(token)]
    except (RuntimeError, ValueError) as error:  # ValueError: a piece is not UTF-8
        raise CheckpointError(
            f"{source} is not a readable sentencepiece model, or is damaged: get the file again ({error})."
        ) from error
    if layout != (0, 1, 2) or names != (UNK_TOKEN, BOS_TOKEN, EOS_TOKEN) or own_specials:
        raise CheckpointError(
            f"{source} does not have the layout of an XLM-R vocabulary: <unk> 0, <s> 1, </s> 2, no <pad> and "
            f"no <mask>. It has unk, bos, eos = {layout}, starts with {', '.join(names)}, and holds "
            f"{' and '.join(own_specials) or 'neither of those'}, so its token ids would be wrong. Use the "
            "sentencepiece.bpe.model of an XLM-R checkpoint."
        )
    return pieces
