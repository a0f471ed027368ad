"""Vocabulary trimming: a checkpoint without the pieces that one's texts never use.

Of the 278 million parameters of XLM-R base, 192 million are rows of a table with one for each of 250,000 pieces in a
hundred languages. Who reads a few languages needs a fraction of them, and the other rows can be left out without any
training: the unigram model (docs/derivations/unigram.md) cuts a text as before if the pieces of its best path are kept.

- Scores stay, so that a path of kept pieces has the score that it had. Paths only disappear, and a best one that is
  left remains the best one.
- An unknown character lies 10 below the least likely piece (UNI.4). A piece with the least score is kept, so that
  unknown characters stay as unlikely as they were, and so that a character whose own piece has gone is less likely
  than it was with it: no path gets better.
- Float32, in which sentencepiece adds scores up (UNI.12), changes nothing of that. Rounding is monotone, so that no
  place of a text is reached with a better sum than before, and along the best path sums are the same, bit for bit.
  Among equal ones the earliest start wins, before and after.

The last point ends where sentencepiece counts from zero again, at sums of -100,000, that is after some 10,000 pieces.
That depends on sums off the best path: beyond it, two paths which float32 can hardly tell apart may change places. A
text made of the corpus's words in another order has the same pieces too, except where two ways to cut a word are as
near to each other.
"""

import copy
import json
import os
from collections.abc import Collection, Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import regex

from xlmr_np.config import CONFIG_FILE
from xlmr_np.tokenizer import XLMRobertaTokenizer
from xlmr_np.tokenizer.added_tokens import AddedTokens
from xlmr_np.tokenizer.model_proto import NORMAL, ModelProto, TrainerSpec, read_model_proto, write_model_proto
from xlmr_np.tokenizer.saving import save_tokenizer
from xlmr_np.tokenizer.segmentation import READINGS
from xlmr_np.tokenizer.vocabulary import LEADING_TOKENS, PIECE_OFFSET, UNK_ID, UNK_TOKEN, Vocabulary
from xlmr_np.tokenizer.xlm_roberta import SETTINGS
from xlmr_np.weights.checkpoint import find_weight_files, read_tensors
from xlmr_np.weights.errors import CheckpointError
from xlmr_np.weights.files import Source, locate
from xlmr_np.weights.inspection import Description, describe
from xlmr_np.weights.safetensors_format import shortened
from xlmr_np.weights.saving import save_tensors
from xlmr_np.weights.specification import (
    BODY_PARTS,
    DECODER_BIAS,
    DECODER_WEIGHT,
    HEAD_PARTS,
    TIED_DECODER_BIAS,
    TOKEN_TABLE,
    bare_name,
)

FIRST_PIECE_ID = len(LEADING_TOKENS)
VOCABULARY_TENSORS = (TOKEN_TABLE, DECODER_WEIGHT, DECODER_BIAS, TIED_DECODER_BIAS)  # with a row for each token
TEXTS_AT_A_TIME = 1000

# Scripts in modern use: https://www.unicode.org/reports/tr31/#Table_Recommended_Scripts and #Table_Limited_Use_Scripts.
# Common are punctuation, digits and symbols, Inherited are marks that go with letters of several scripts.
# fmt: off
SCRIPTS = (
    "Common", "Inherited", "Latin", "Cyrillic", "Greek", "Han", "Arabic", "Hebrew", "Devanagari", "Hangul",
    "Hiragana", "Katakana", "Thai", "Armenian", "Bengali", "Bopomofo", "Ethiopic", "Georgian", "Gujarati",
    "Gurmukhi", "Kannada", "Khmer", "Lao", "Malayalam", "Myanmar", "Oriya", "Sinhala", "Tamil", "Telugu",
    "Thaana", "Tibetan", "Adlam", "Balinese", "Bamum", "Batak", "Canadian_Aboriginal", "Chakma", "Cham",
    "Cherokee", "Hanifi_Rohingya", "Javanese", "Kayah_Li", "Lepcha", "Limbu", "Lisu", "Mandaic",
    "Meetei_Mayek", "Miao", "Mongolian", "New_Tai_Lue", "Newa", "Nko", "Nyiakeng_Puachue_Hmong", "Ol_Chiki",
    "Osage", "Saurashtra", "Sundanese", "Syloti_Nagri", "Syriac", "Tai_Le", "Tai_Tham", "Tai_Viet",
    "Tifinagh", "Vai", "Wancho", "Yi",
)
# fmt: on
OTHER_SCRIPT = "other"  # historic scripts and characters of no script, taken together
_SCRIPT = regex.compile("|".join(rf"(?P<{script}>\p{{Script={script}}})" for script in SCRIPTS))


class Sizes(NamedTuple):
    """How large a checkpoint is.

    Attributes:
        pieces: of the sentencepiece model.
        parameters: the number of its weights, tied ones once.
        bytes_on_disk: of the weight files and the sentencepiece model.
    """

    pieces: int
    parameters: int
    bytes_on_disk: int


class Trimming(NamedTuple):
    """What was saved.

    Attributes:
        before: the sizes of the checkpoint that was read.
        after: those of the one that was written.
        scripts: the scripts, by their Unicode names, of which all single characters were kept.
    """

    before: Sizes
    after: Sizes
    scripts: tuple[str, ...]


def trim_vocabulary(
    source: Source,
    directory: str | os.PathLike[str],
    texts: Iterable[str] = (),
    pieces: Iterable[str] = (),
    *,
    variant: str | None = None,
    **location: Any,
) -> Trimming:
    """Write a checkpoint with the pieces that some texts use, and few others.

    What is kept:

    - the special tokens, added tokens, rows of the model beyond the tokenizer's, and tokens that config.json names;
    - the pieces that `texts` use, in either of the tokenizer's two normalisations, and those in `pieces`;
    - of every script in which one of these pieces, or an unknown character of the texts, is written, all pieces of one
      character, so that no text in that script becomes unknown;
    - one piece with the least score of all, which says how unlikely an unknown character is.

    Tokens keep their order, and the ids are again those of the table in `tokenizer/vocabulary.py`: `<mask>` follows
    the last piece, and added tokens follow `<mask>`. Each of `texts`, and any text that is cut into kept pieces only,
    becomes the same pieces as before, at the same places; the hidden states are the same bit for bit, and logits
    at kept tokens too, but for the rounding of a matrix product of another size. Why that is so, and its limits in
    texts of more than 10,000 pieces, stand at the top of this module.

    The weights of any model class can be trimmed; tensors without a row for each token are written as they are. The
    checkpoint is written as safetensors whatever it was read from, with all files of the tokenizer. Other files beside
    it are not copied. Memory is taken for the kept rows only.

    Args:
        source: a directory with config.json, weights and a vocabulary, or a hub id.
        directory: where to write to; it must be empty, or not exist.
        texts: texts whose pieces are kept; they are read once, and not kept in memory.
        pieces: pieces to keep, exactly as the vocabulary spells them, as lines of a file: empty ones say nothing.
        variant: as in "fp16" for model.fp16.safetensors.
        **location: `revision`, `cache_dir`, `token`, `local_files_only` and `subfolder`, as for `from_pretrained`.

    Raises:
        OSError: the source cannot be reached, lacks a file or is damaged, or the directory is not empty or cannot be
            written. Nothing is left in it then.
        ValueError: the texts and pieces leave nothing to keep, or a piece is not in the vocabulary.
        TypeError: a text is no str.
    """
    directory = Path(directory)
    _check_is_free(directory)
    tokenizer = XLMRobertaTokenizer.from_pretrained(source, **location)
    serialized = tokenizer.vocabulary.serialized()
    model = read_model_proto(serialized)
    tensors = read_tensors(find_weight_files(source, variant=variant, **location))
    described = describe(source, variant=variant, **location)
    vocab_size = described.config.vocab_size
    _check_rows(tensors, vocab_size, len(tokenizer), source)
    settings = _read_config(source, location)

    used = _listed_ids(pieces, tokenizer)
    unknown = _add_used_ids(used, texts, tokenizer)
    spelled = [model.pieces[i - PIECE_OFFSET][0] for i in used if FIRST_PIECE_ID <= i < tokenizer.mask_token_id]
    if not spelled:
        raise ValueError(
            "There is nothing to keep: neither texts nor pieces name a piece of the vocabulary. Give the texts that "
            "the model will read, or the pieces to keep."
        )
    scripts = {script_of(character) for character in unknown.union(*spelled)}
    used |= _config_ids(settings) | tokenizer.added_tokens_decoder.keys()
    kept = kept_ids(model, used, scripts)

    old_ids = [*range(FIRST_PIECE_ID), *kept, *range(tokenizer.mask_token_id, vocab_size)]
    new_ids = {old: new for new, old in enumerate(old_ids)}
    trimmed = trimmed_model(model, kept)
    vocabulary = Vocabulary(write_model_proto(trimmed), f"the trimmed vocabulary of {source}")
    tokenizer_files = save_tokenizer(
        directory,
        vocabulary,
        AddedTokens({new_ids[old]: token for old, token in tokenizer.added_tokens_decoder.items()}),
        {name: getattr(tokenizer, name) for name in SETTINGS},
    )
    try:
        save_tensors(
            directory,
            _trimmed_tensors(tensors, old_ids, described.config.tie_word_embeddings),
            texts={CONFIG_FILE: _config_text(settings, new_ids)},
        )
    except BaseException:
        for file in tokenizer_files:
            Path(file).unlink()
        raise
    return Trimming(
        before=_sizes(model, serialized, described),
        after=_sizes(trimmed, vocabulary.serialized(), describe(directory)),
        scripts=tuple(sorted(scripts)),
    )


def script_of(character: str) -> str:
    """The script that a character is written in: one of `SCRIPTS`, or `OTHER_SCRIPT`."""
    match = _SCRIPT.match(character)
    return OTHER_SCRIPT if match is None else str(match.lastgroup)


def kept_ids(model: ModelProto, used: Collection[int], scripts: Collection[str]) -> list[int]:
    """Which pieces to keep: those that are used, those of one character in the scripts, and one of the least score.

    Pieces of other kinds than normal, which XLM-R has none of, are few and have a meaning of their own: they stay.

    Args:
        model: the whole vocabulary.
        used: ids of the used tokens.
        scripts: as `script_of` names them.

    Returns:
        The ids of the pieces, in their order.
    """
    kept, least_likely = [], None
    for token_id, (text, score, kind) in enumerate(model.pieces[FIRST_PIECE_ID - PIECE_OFFSET :], FIRST_PIECE_ID):
        if token_id in used or kind != NORMAL or (len(text) == 1 and script_of(text) in scripts):
            kept.append(token_id)
        if kind == NORMAL and (least_likely is None or score < least_likely[0]):
            least_likely = score, token_id
    kept_scores = (model.pieces[i - PIECE_OFFSET][1] for i in kept if model.pieces[i - PIECE_OFFSET][2] == NORMAL)
    if least_likely is not None and least_likely[0] not in kept_scores:
        kept = sorted([*kept, least_likely[1]])
    return kept


def trimmed_model(model: ModelProto, kept: Iterable[int]) -> ModelProto:
    """The sentencepiece model with its special pieces and those of the token ids `kept`, with the scores they had."""
    pieces = model.pieces[: FIRST_PIECE_ID - PIECE_OFFSET] + [model.pieces[i - PIECE_OFFSET] for i in kept]
    # In a protobuf message what comes later counts; whatever else the settings say stays.
    trainer = TrainerSpec(model.trainer.serialized + TrainerSpec.of_size(len(pieces)).serialized)
    return ModelProto(pieces, model.normalizer, trainer, model.other)


def _check_is_free(directory: Path) -> None:
    """Refuse a directory in which something might be overwritten."""
    if directory.exists() and not directory.is_dir():
        raise NotADirectoryError(f"{directory} is a file; give a new directory to write into.")
    if directory.is_dir() and any(directory.iterdir()):
        raise FileExistsError(f"{directory} is not empty, and nothing is overwritten; give a new directory.")


def _check_rows(tensors: Mapping[str, np.ndarray], vocab_size: int, tokens: int, source: Source) -> None:
    """Refuse weights whose rows are not those of the vocabulary."""
    if vocab_size < tokens:
        raise CheckpointError(
            f"The vocabulary of {source} has {tokens:,} tokens, but its model only {vocab_size:,} rows for them: one "
            "of the two is another model's."
        )
    for name, array in tensors.items():
        rows = array.shape[0] if array.ndim else None
        if bare_name(name) in VOCABULARY_TENSORS and rows != vocab_size:
            raise CheckpointError(
                f"{source} holds {shortened(name)} of shape {array.shape}, where its config says vocab_size "
                f"{vocab_size}: one of the two is damaged, or from another model."
            )
        if rows == vocab_size and not bare_name(name).startswith((*BODY_PARTS, *HEAD_PARTS)):
            raise CheckpointError(
                f"{source} holds {shortened(name)} of shape {array.shape}, which may have a row for each token, but is "
                "none of this model's tensors: convert the checkpoint to the names of transformers first."
            )


def _read_config(source: Source, location: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json says, word for word; that it is a sound config has been found before."""
    path = locate(source, CONFIG_FILE, **location)
    assert path is not None
    settings: dict[str, Any] = json.loads(path.read_bytes())
    return settings


def _config_ids(settings: Mapping[str, Any]) -> set[int]:
    """The token ids in a config."""
    values = [value for name, value in settings.items() if name.endswith("_token_id")]
    listed = [token_id for value in values for token_id in (value if isinstance(value, list) else [value])]
    return {token_id for token_id in listed if type(token_id) is int}


def _config_text(settings: Mapping[str, Any], new_ids: Mapping[int, int]) -> str:
    """A config.json with the new ids and their number; whatever else it says stays."""

    def renumbered(value: Any) -> Any:
        if isinstance(value, list):
            return [renumbered(token_id) for token_id in value]
        return new_ids.get(value, value) if type(value) is int else value

    changed = {name: renumbered(value) for name, value in settings.items() if name.endswith("_token_id")}
    return json.dumps({**settings, **changed, "vocab_size": len(new_ids)}, indent=2, sort_keys=True) + "\n"


def _listed_ids(pieces: Iterable[str], tokenizer: XLMRobertaTokenizer) -> set[int]:
    """The ids of pieces that are to be kept."""
    listed = set()
    for line, piece in enumerate(pieces, 1):
        token_id = tokenizer.convert_tokens_to_ids(piece)
        if piece and token_id == UNK_ID and piece != UNK_TOKEN:
            raise ValueError(
                f"Line {line} of the pieces to keep, {piece!r}, is no piece of the vocabulary: spell pieces as it "
                "does, with ▁ (U+2581) for the space before a word."
            )
        listed.add(token_id)
    return listed


def _add_used_ids(used: set[int], texts: Iterable[str], tokenizer: XLMRobertaTokenizer) -> set[str]:
    """Add the ids of the tokens that texts become; the characters of those texts that are not known in full."""
    readings = []
    for normalization in READINGS:
        reading = copy.copy(tokenizer)
        reading.normalization = normalization
        readings.append(reading)
    characters: set[str] = set()
    remaining = iter(texts)
    while batch := list(islice(remaining, TEXTS_AT_A_TIME)):
        for reading in readings:
            rows = reading(batch, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
            for text, row in zip(batch, rows, strict=True):
                used.update(row)
                if UNK_ID in row:
                    characters.update(text)
    return characters


def _trimmed_tensors(tensors: Mapping[str, np.ndarray], old_ids: list[int], is_tied: bool) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint, those of the vocabulary with the rows of `old_ids` alone.

    In a pickle, two names may share one array. If the config ties them, the second name is left out.
    """
    names = {bare_name(name): name for name in tensors}
    shared = [
        names[second]
        for first, second in ((TOKEN_TABLE, DECODER_WEIGHT), (TIED_DECODER_BIAS, DECODER_BIAS))
        if is_tied
        and {first, second} <= names.keys()
        and np.may_share_memory(tensors[names[first]], tensors[names[second]])
    ]
    return {
        name: array[old_ids] if bare_name(name) in VOCABULARY_TENSORS else array
        for name, array in tensors.items()
        if name not in shared
    }


def _sizes(model: ModelProto, serialized: bytes, described: Description) -> Sizes:
    weights = sum(described.files.values())
    return Sizes(len(model.pieces), described.parameters, weights + len(serialized))
