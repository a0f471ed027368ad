"""Writing a tokenizer's files, in the forms that transformers 4 and 5 and sentencepiece read to the same ids."""

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from xlmr_np.weights.errors import CheckpointError
from xlmr_np.weights.saving import replacing

from .added_tokens import AddedToken, AddedTokens
from .files import (
    ADDED_TOKENS_FILE,
    CONFIG_FILE,
    MODEL_FILE,
    SPECIAL_TOKENS,
    SPECIAL_TOKENS_FILE,
    TOKENIZER_CLASSES,
    TOKENIZER_FILE,
)
from .model_proto import read_model_proto
from .tokenizer_json import check_expressible, write_tokenizer_json
from .vocabulary import Vocabulary

NO_LIMIT = int(1e30)  # how transformers writes that the greatest length is not known


def save_tokenizer(
    directory: str | os.PathLike[str],
    vocabulary: Vocabulary,
    added_tokens: AddedTokens,
    settings: Mapping[str, Any],
    filename_prefix: str | None = None,
) -> tuple[str, ...]:
    """Writes a tokenizer: the sentencepiece model, tokenizer.json, tokenizer_config.json, special_tokens_map.json, and
    added_tokens.json if there are tokens beyond the vocabulary.

    A model that tokenizer.json cannot express, such as one that keeps several spaces apart, is saved without it: the
    other files are all that is read here and by sentencepiece. Files of an earlier save that no longer belong are
    removed, so that nothing of it is read again.

    All files are complete before the first one takes its place; if anything fails before, the old files stand.

    Args:
        directory: made if it does not exist.
        vocabulary: the vocabulary.
        added_tokens: all added tokens, the special ones among them.
        settings: by name `model_max_length` (None if not known), `padding_side`, `truncation_side`, and, which are
            written only if they are not the default, `normalization` and `allow_special_tokens` (the default
            follows from the normalization, as does None).
        filename_prefix: what the names of the files begin with, followed by a hyphen.

    Returns:
        The paths of the files.

    Raises:
        CheckpointError: the ids of the added tokens are not those of the vocabulary, or leave gaps after it.
        TypeError, ValueError: the prefix is no part of a file name, or the directory is the empty string.
        OSError: the directory is a file, or cannot be written.
    """
    path = _checked(directory)
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{path} is a file; give a directory to save into.")
    named = {name: path / _prefixed(name, filename_prefix) for name in _FILES}
    serialized = vocabulary.serialized()
    model = read_model_proto(serialized)
    try:
        check_expressible(model)
    except CheckpointError:
        tokenizer_json = None
    else:
        tokenizer_json = write_tokenizer_json(model, added_tokens.by_id)
    own = {content: token_id for content, token_id in added_tokens.ids.items() if token_id >= len(vocabulary)}
    contents = {
        MODEL_FILE: serialized,
        TOKENIZER_FILE: tokenizer_json,
        CONFIG_FILE: _json(_config(added_tokens, settings)),
        SPECIAL_TOKENS_FILE: _json(_special_tokens_map(added_tokens)),
        ADDED_TOKENS_FILE: _json(own) if own else None,
    }
    path.mkdir(parents=True, exist_ok=True)
    _write({named[name]: content for name, content in contents.items()})
    return tuple(str(named[name]) for name, content in contents.items() if content is not None)


def save_vocabulary(
    directory: str | os.PathLike[str], vocabulary: Vocabulary, filename_prefix: str | None = None
) -> tuple[str]:
    """Writes the sentencepiece model alone, as `sentencepiece.bpe.model`.

    Args:
        directory: an existing directory.
        vocabulary: the vocabulary, whatever file it came from.
        filename_prefix: what the name of the file begins with, followed by a hyphen.

    Returns:
        The path of the file.

    Raises:
        TypeError, ValueError: the prefix is no part of a file name, or the directory is the empty string.
        OSError: there is no such directory, or it cannot be written.
    """
    path = _checked(directory)
    if not path.is_dir():
        kind = "is a file" if path.exists() else "does not exist"
        raise NotADirectoryError(f"{path} {kind}; give an existing directory to save the vocabulary into.")
    file = path / _prefixed(MODEL_FILE, filename_prefix)
    _write({file: vocabulary.serialized()})
    return (str(file),)


_FILES = (MODEL_FILE, TOKENIZER_FILE, CONFIG_FILE, SPECIAL_TOKENS_FILE, ADDED_TOKENS_FILE)


def _checked(directory: str | os.PathLike[str]) -> Path:
    if not os.fspath(directory):
        raise ValueError("The directory to save into is the empty string: name one, or '.' for the present one.")
    return Path(directory)


def _prefixed(filename: str, prefix: str | None) -> str:
    if prefix is not None and not isinstance(prefix, str):
        raise TypeError(f"filename_prefix must be a str or None, not {type(prefix).__name__}.")
    if prefix and set(prefix) & set("/\\\0"):
        raise ValueError(
            f"filename_prefix={prefix!r} is no part of a file name: leave out folders, and name them first."
        )
    return f"{prefix}-{filename}" if prefix else filename


def _write(contents: Mapping[Path, bytes | None]) -> None:
    """Writes files, all of them complete before the first takes its place; removes those without content."""
    for path in contents:
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a directory, where a file is to be written: remove it.")
    with contextlib.ExitStack() as files:
        for path, content in contents.items():
            if content is not None:
                files.enter_context(replacing(path)).write_bytes(content)
    for path, content in contents.items():
        if content is None:
            path.unlink(missing_ok=True)


def _config(added_tokens: AddedTokens, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a tokenizer_config.json says.

    With `added_tokens_decoder`, all versions of transformers take the flags of tokens from there. Its version 5 reads
    `additional_special_tokens` too, if there are no `extra_special_tokens`, which version 4 takes for an object.
    """
    limit = settings.get("model_max_length")
    in_huggingface_mode = settings.get("normalization") == "huggingface"
    allowed = settings.get("allow_special_tokens")
    return {
        **{name: settings[name] for name in ("padding_side", "truncation_side") if name in settings},
        **({"normalization": "huggingface"} if in_huggingface_mode else {}),
        **({} if allowed in (None, in_huggingface_mode) else {"allow_special_tokens": allowed}),
        "added_tokens_decoder": {str(token_id): asdict(token) for token_id, token in added_tokens.by_id.items()},
        "additional_special_tokens": [token.content for token in _own_special(added_tokens)],
        "clean_up_tokenization_spaces": False,
        "model_max_length": NO_LIMIT if limit is None else limit,
        "tokenizer_class": TOKENIZER_CLASSES[0],
        **SPECIAL_TOKENS,
    }


def _special_tokens_map(added_tokens: AddedTokens) -> dict[str, Any]:
    """What a special_tokens_map.json says: how the special tokens are written, with their flags where they have any."""

    def described(token: AddedToken) -> str | dict[str, Any]:
        if token == AddedToken(token.content, special=True):
            return token.content
        return {name: value for name, value in asdict(token).items() if name != "special"}

    tokens = {token.content: token for token in added_tokens.by_id.values()}
    own = [described(token) for token in _own_special(added_tokens)]
    return {
        **({"additional_special_tokens": own} if own else {}),
        **{name: described(tokens[content]) for name, content in SPECIAL_TOKENS.items()},
    }


def _own_special(added_tokens: AddedTokens) -> list[AddedToken]:
    """The special tokens that are not XLM-R's."""
    usual = SPECIAL_TOKENS.values()
    return [token for token in added_tokens.by_id.values() if token.special and token.content not in usual]


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
