"""The files of a checkpoint that make its tokenizer: finding them, and refusing another model's."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from xlmr_np.weights.errors import CheckpointError
from xlmr_np.weights.files import cached_only

Find = Callable[[str], Path | None]  # the local path of one of the checkpoint's files, None if it has none

# In the order of preference: the first two are read by the sentencepiece library as they are.
VOCABULARY_FILES = ("sentencepiece.bpe.model", "tokenizer.model", "tokenizer.json")

TOKENIZER_CLASSES = ("XLMRobertaTokenizer", "XLMRobertaTokenizerFast")
GENERIC_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")  # names that say nothing of the vocabulary
MODEL_TYPES = ("xlm-roberta", "xlm-roberta-xl")

LARGEST_JSON = 2**26  # bytes; what is read here are settings of a few kilobytes


def read_tokenizer_config(source: str | os.PathLike[str], find: Find) -> dict[str, Any]:
    """The settings in `tokenizer_config.json`, empty if `source` has none.

    Raises:
        CheckpointError: a file is not a JSON object, or the tokenizer is another model's, whose vocabulary
            would be read into wrong ids. The names that decide are the reference's: `tokenizer_class` of
            tokenizer_config.json, else that of config.json, else the `model_type` there.
    """
    config = _read_json_object(find("tokenizer_config.json"))
    tokenizer_class, model_type = _specific_class(config), None
    if tokenizer_class is None:
        model_config = _read_json_object(find("config.json"))
        tokenizer_class, model_type = _specific_class(model_config), model_config.get("model_type")
    if tokenizer_class is not None and tokenizer_class not in TOKENIZER_CLASSES:
        raise CheckpointError(
            f"{source} has a tokenizer of class {tokenizer_class!r}, whose ids are not XLM-R's: choose an "
            f"XLM-R checkpoint, whose class is {' or '.join(TOKENIZER_CLASSES)}."
        )
    if tokenizer_class is None and model_type is not None and model_type not in MODEL_TYPES:
        raise CheckpointError(
            f"{source} has model_type {model_type!r}, whose tokenizer's ids are not XLM-R's. If this one's "
            f'are, say so in its tokenizer_config.json: {{"tokenizer_class": "{TOKENIZER_CLASSES[0]}"}}.'
        )
    return config


def find_vocabulary(source: str | os.PathLike[str], find: Find) -> Path:
    """The vocabulary of a checkpoint: a sentencepiece model, or the tokenizer.json that transformers 5 saves.

    Raises:
        CheckpointError: there is none; the message says what was looked for.
    """
    for filename in VOCABULARY_FILES:
        path = find(filename)
        if path is not None:
            return path
    looked_for = ", ".join(VOCABULARY_FILES)
    raise CheckpointError(f"{source} has no vocabulary; looked for {looked_for}{cached_only(source)}.")


def _specific_class(config: dict[str, Any]) -> Any:
    """The tokenizer class that a file of settings names, None if it names none or a generic one."""
    name = config.get("tokenizer_class")
    return None if name in GENERIC_CLASSES else name


def _read_json_object(path: Path | None) -> dict[str, Any]:
    """The object in a JSON file, empty if there is no file."""
    if path is None:
        return {}
    if path.stat().st_size > LARGEST_JSON:
        raise CheckpointError(f"{path} has more than {LARGEST_JSON} bytes, which no file of settings has.")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: get or write the file again ({error}).") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a JSON {type(content).__name__}, where an object {{...}} belongs.")
    return content
