"""The files of a checkpoint that make its tokenizer: finding them, reading them, and refusing another model's."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from xlmr_np.weights.errors import CheckpointError
from xlmr_np.weights.files import cached_only
from xlmr_np.weights.safetensors_format import shortened

from .added_tokens import AddedToken
from .vocabulary import (
    BOS_TOKEN,
    EOS_TOKEN,
    LEADING_TOKENS,
    MASK_TOKEN,
    PAD_TOKEN,
    UNK_ID,
    UNK_TOKEN,
    Vocabulary,
)

Find = Callable[[str], Path | None]  # the local path of one of the checkpoint's files, None if it has none

MODEL_FILE = "sentencepiece.bpe.model"
TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"
ADDED_TOKENS_FILE = "added_tokens.json"

# In the order of preference: the first two are read by the sentencepiece library as they are.
VOCABULARY_FILES = (MODEL_FILE, "tokenizer.model", TOKENIZER_FILE)

TOKENIZER_CLASSES = ("XLMRobertaTokenizer", "XLMRobertaTokenizerFast")
GENERIC_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")  # names that say nothing of the vocabulary
MODEL_TYPES = ("xlm-roberta", "xlm-roberta-xl")

SPECIAL_TOKENS = {
    "bos_token": BOS_TOKEN,
    "eos_token": EOS_TOKEN,
    "unk_token": UNK_TOKEN,
    "sep_token": EOS_TOKEN,
    "pad_token": PAD_TOKEN,
    "cls_token": BOS_TOKEN,
    "mask_token": MASK_TOKEN,
}
SETTING_TYPES = {
    "model_max_length": (int, float, type(None)),
    "padding_side": (str,),
    "truncation_side": (str,),
    "normalization": (str,),
    "allow_special_tokens": (bool,),
}
# Settings under which the reference gives other ids than the tokenizer here, with the values under which it does not.
ONLY_SETTINGS = {"add_prefix_space": True, "split_special_tokens": False}
SAMPLING_SETTINGS = ("nbest_size", "alpha")  # of sp_model_kwargs: they matter only beside enable_sampling

LARGEST_JSON = 2**26  # bytes; what is read here are settings of a few kilobytes
MOST_VALUES = 2**20  # in such a file


def read_tokenizer_config(source: str | os.PathLike[str], find: Find) -> dict[str, Any]:
    """The settings in `tokenizer_config.json`, empty if `source` has none.

    Those in `SETTING_TYPES` have one of the types there; whether they are in range is not checked here.

    Raises:
        CheckpointError: a file is not a JSON object, a setting has a wrong type or stands for other ids than those
            of the tokenizer here, or the tokenizer is another model's, whose vocabulary would be read into wrong
            ids. The names that decide are the reference's: `tokenizer_class` of tokenizer_config.json, else that
            of config.json, else the `model_type` there.
    """
    config = _read_json_object(find(CONFIG_FILE))
    tokenizer_class, model_type = _specific_class(config), None
    if tokenizer_class is None:
        model_config = _read_json_object(find("config.json"))
        tokenizer_class, model_type = _specific_class(model_config), model_config.get("model_type")
    if tokenizer_class is not None and tokenizer_class not in TOKENIZER_CLASSES:
        raise CheckpointError(
            f"{source} has a tokenizer of class {shortened(tokenizer_class)}, whose ids are not XLM-R's: choose an "
            f"XLM-R checkpoint, whose class is {' or '.join(TOKENIZER_CLASSES)}."
        )
    if tokenizer_class is None and model_type is not None and model_type not in MODEL_TYPES:
        raise CheckpointError(
            f"{source} has model_type {shortened(model_type)}, whose tokenizer's ids are not XLM-R's. If this one's "
            f'are, say so in its {CONFIG_FILE}: {{"tokenizer_class": "{TOKENIZER_CLASSES[0]}"}}.'
        )
    if "max_len" in config:  # the name of the first years
        config.setdefault("model_max_length", config["max_len"])
    _check_settings(config)
    _check_special_tokens(config, CONFIG_FILE)
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


def read_added_tokens(
    find: Find, config: Mapping[str, Any], from_tokenizer_json: Mapping[int, AddedToken], vocabulary: Vocabulary
) -> dict[int, AddedToken]:
    """All added tokens of a checkpoint by id, XLM-R's special tokens among them.

    Where several files describe a token, this is their order, as in transformers: the `added_tokens_decoder` of
    tokenizer_config.json, tokenizer.json, special_tokens_map.json, and whatever else tokenizer_config.json says;
    added_tokens.json says nothing but ids. A token that any of them lists as a special one is special.

    Args:
        find: finds the checkpoint's files.
        config: the settings in tokenizer_config.json.
        from_tokenizer_json: the added tokens that came with the vocabulary, if that is a tokenizer.json.
        vocabulary: the vocabulary, whose pieces keep their ids when they are added tokens too. Tokens without an
            id follow those that have one, in the order in which they are listed.

    Raises:
        CheckpointError: a file is damaged, special tokens are not XLM-R's, or ids contradict each other or the
            vocabulary, or leave gaps.
    """
    decoder = _read_decoder(config)
    special_tokens_map: dict[str, Any] = {}
    claims: dict[str, _Claim] = {}
    if not decoder:
        # As in transformers, the older files count only without that list: what writes it puts everything there.
        # transformers 5 does not write it, and has a token's id in tokenizer.json alone. That is why it is read even
        # if the vocabulary is another file: one saved there earlier, onto which transformers 5 saved.
        if not from_tokenizer_json:
            from_tokenizer_json = _read_tokens_of_tokenizer_json(find(TOKENIZER_FILE))
        special_tokens_map = _read_json_object(find(SPECIAL_TOKENS_FILE))
        _check_special_tokens(special_tokens_map, SPECIAL_TOKENS_FILE)
        claims = _read_ids(_read_json_object(find(ADDED_TOKENS_FILE)))

    tokens: dict[str, AddedToken] = {}
    for filename, described in ((CONFIG_FILE, decoder), (TOKENIZER_FILE, from_tokenizer_json)):
        for token_id, token in described.items():
            claim = claims.setdefault(token.content, _Claim(token_id, filename))
            if claim.token_id != token_id:
                raise CheckpointError(
                    f"The added token {shortened(token.content)} has the id {shortened(claim.token_id)} in "
                    f"{claim.filename} and {shortened(token_id)} in {filename}: correct one of them."
                )
            tokens.setdefault(token.content, token)
    listed = _special_tokens(config, CONFIG_FILE), _special_tokens(special_tokens_map, SPECIAL_TOKENS_FILE)
    for token in (token for described in reversed(listed) for token in described.values() if token is not None):
        tokens.setdefault(token.content, token)
    special = dict.fromkeys([*LEADING_TOKENS, MASK_TOKEN, *listed[0], *listed[1]])
    by_id = {}
    for token_id, content in sorted(_numbered([*claims, *special], claims, vocabulary).items()):
        token = tokens.get(content) or AddedToken(content, special=content in special)
        by_id[token_id] = replace(token, special=token.special or content in special)
    return by_id


class _Claim(NamedTuple):
    """An id that a file gives to a token."""

    token_id: int
    filename: str


def _numbered(contents: Iterable[str], claims: Mapping[str, _Claim], vocabulary: Vocabulary) -> dict[int, str]:
    """What each id stands for, given the tokens and the ids that files claim for some of them.

    Raises:
        CheckpointError: the claims are not the vocabulary's ids, or do not follow its last one without gaps.
    """
    by_id: dict[int, str] = {}
    without_id = []
    for content in dict.fromkeys(contents):
        piece = vocabulary.token_id(content)
        is_piece = piece != UNK_ID or content == UNK_TOKEN
        token_id, filename = claims.get(content, (piece if is_piece else None, ""))
        if token_id is None:
            without_id.append(content)
            continue
        if is_piece and token_id != piece:
            problem = f"but the vocabulary has it as {piece}"
        elif not is_piece and not len(vocabulary) <= token_id < len(vocabulary) + len(claims):
            problem = f"but ids after the vocabulary's go on from {len(vocabulary)} without gaps"
        elif token_id in by_id:
            problem = f"but {shortened(by_id[token_id])} has it too"
        else:
            by_id[token_id] = content
            continue
        raise CheckpointError(
            f"{filename} gives the added token {shortened(content)} the id {shortened(token_id)}, {problem}: get or "
            "write the file again."
        )
    own = sorted(token_id for token_id in by_id if token_id >= len(vocabulary))
    for expected, token_id in enumerate(own, start=len(vocabulary)):
        if token_id != expected:
            content = by_id[token_id]
            raise CheckpointError(
                f"{claims[content].filename} gives the added token {shortened(content)} the id {token_id}, but no "
                f"file says what {expected} is: ids after the vocabulary's must not leave gaps."
            )
    return by_id | dict(enumerate(without_id, start=len(vocabulary) + len(own)))


def _read_decoder(config: Mapping[str, Any]) -> dict[int, AddedToken]:
    """The `added_tokens_decoder` of a tokenizer_config.json, empty if there is none."""
    name = "added_tokens_decoder"
    decoder = {}
    for key, value in _typed(config, name, dict, CONFIG_FILE).items():
        if not (key.isascii() and key.isdigit() and len(key) < 10 and str(int(key)) == key):
            raise CheckpointError(f"{CONFIG_FILE} has {name} {shortened({key: value})}, whose key is not an id.")
        token = _read_token(value, name, CONFIG_FILE)
        if token is None:
            raise CheckpointError(
                f"{CONFIG_FILE} has {name} {shortened({key: value})}, where an object {{...}} belongs: get or write "
                "the file again."
            )
        decoder[int(key)] = token
    return decoder


def _read_tokens_of_tokenizer_json(path: Path | None) -> dict[int, AddedToken]:
    """The added tokens of a tokenizer.json, empty if there is none."""
    from .tokenizer_json import LARGEST_TOKENIZER_JSON, read_added_tokens_alone

    if path is None:
        return {}
    if path.stat().st_size > LARGEST_TOKENIZER_JSON:
        raise CheckpointError(f"{path} has more than {LARGEST_TOKENIZER_JSON} bytes, which no {TOKENIZER_FILE} has.")
    try:
        return read_added_tokens_alone(path.read_bytes())
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _read_ids(ids: Mapping[str, Any]) -> dict[str, _Claim]:
    """What an added_tokens.json says: the id of each token."""
    for content, token_id in ids.items():
        _read_token(content, "token", ADDED_TOKENS_FILE)
        if type(token_id) is not int:
            raise CheckpointError(
                f"{ADDED_TOKENS_FILE} gives the token {shortened(content)} the id {shortened(token_id)}, which is no "
                "whole number: get or write the file again."
            )
    return {content: _Claim(token_id, ADDED_TOKENS_FILE) for content, token_id in ids.items()}


def _special_tokens(settings: Mapping[str, Any], filename: str) -> dict[str, AddedToken | None]:
    """The special tokens that settings list, by content; None for those that are not described.

    They are those of the usual names, those of a model's own names ("image_token"), and those without a name.
    """
    named = {name: value for name, value in settings.items() if name.endswith("_token") and type(value) in (str, dict)}
    unnamed = []
    for name in ("extra_special_tokens", "additional_special_tokens"):
        tokens = _typed(settings, name, (list, dict), filename)
        if isinstance(tokens, dict):  # in transformers from 4.48 on: names with their tokens
            named |= tokens
        else:
            unnamed += [(name, value) for value in tokens]
    special: dict[str, AddedToken | None] = {}
    for name, value in [*named.items(), *unnamed]:
        token = _read_token(value, name, filename, special=True)
        if token is None:
            special.setdefault(value)
        else:
            special[token.content] = token
    return special


def _read_token(value: Any, name: str, filename: str, **flags: bool) -> AddedToken | None:
    """A token as settings have it, an object, or None for one that is nothing but its content.

    Args:
        value: the token.
        name: where it stands in the file, for messages.
        filename: the file, for messages.
        **flags: flags that it has, whatever the object says.
    """
    try:
        if isinstance(value, str):
            AddedToken(value)  # which says what is wrong with it
            return None
        if isinstance(value, dict):
            described = {key: flag for key, flag in value.items() if key != "__type"}
            unknown = described.keys() - {field.name for field in fields(AddedToken)}
            types = {type(flag) for key, flag in described.items() if key != "content"}
            if "content" in described and not unknown and types <= {bool}:
                return AddedToken(**(described | flags))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{filename} has a token that is none in {name}: {error}") from error
    raise CheckpointError(
        f"{filename} has {name} {shortened(value)}, where a token belongs, a string or an object of content and flags: "
        "get or write the file again."
    )


def _check_settings(config: Mapping[str, Any]) -> None:
    """Refuses settings of the wrong type, and those that stand for other ids.

    Raises:
        CheckpointError: there is one.
    """
    for name, types in SETTING_TYPES.items():
        if name in config and type(config[name]) not in types:
            raise CheckpointError(
                f"{CONFIG_FILE} has {name} {shortened(config[name])}, which is of the wrong type: correct or remove it."
            )
    for name, only in ONLY_SETTINGS.items():
        if config.get(name, only) is not only:
            raise CheckpointError(
                f"{CONFIG_FILE} has {name} {shortened(config[name])}, which gives other ids and is not supported: use "
                f"a checkpoint that has {only}, or nothing there."
            )
    for name, value in _typed(config, "sp_model_kwargs", dict, CONFIG_FILE).items():
        if value and name not in SAMPLING_SETTINGS:
            raise CheckpointError(
                f"{CONFIG_FILE} has {shortened(name)}: {shortened(value)} in sp_model_kwargs, which gives other ids "
                "and is not supported: use a checkpoint without it."
            )


def _check_special_tokens(settings: Mapping[str, Any], filename: str) -> None:
    """Refuses special tokens that are not XLM-R's.

    Raises:
        CheckpointError: there is one.
    """
    for name, expected in SPECIAL_TOKENS.items():
        value = settings.get(name)
        if value is not None:
            token = _read_token(value, name, filename)
            content = value if token is None else token.content
            if content != expected:
                raise CheckpointError(
                    f"{filename} has {name} {shortened(content)}, where XLM-R has {expected!r}, so that ids would be "
                    "wrong: use an XLM-R checkpoint."
                )


def _typed(settings: Mapping[str, Any], name: str, types: type | tuple[type, ...], filename: str) -> Any:
    """A setting of one of these types, an empty object if there is none."""
    value = settings.get(name)
    if value is not None and not isinstance(value, types):
        raise CheckpointError(
            f"{filename} has {name} {shortened(value)}, which is of the wrong type: correct or remove it."
        )
    return {} if value is None else value


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
    content = path.read_bytes()
    if content.count(b",") + content.count(b"[") + content.count(b"{") > MOST_VALUES:
        raise CheckpointError(f"{path} has more than {MOST_VALUES} values, which no file of settings has.")
    try:
        value = json.loads(content, parse_constant=_refuse_constant, object_pairs_hook=_object_without_repetition)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: get or write the file again ({error}).") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a JSON {type(value).__name__}, where an object {{...}} belongs.")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _object_without_repetition(members: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(members)
    if len(result) < len(members):
        ((repeated, _),) = Counter(name for name, _ in members).most_common(1)
        raise ValueError(f"the name {shortened(repeated)} is there twice")
    return result
