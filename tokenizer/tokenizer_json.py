"""`tokenizer.json`, the file in which transformers keeps a tokenizer: from it to a sentencepiece model, and back.

The file describes a pipeline of normalizer, pre-tokenizer, model and post-processor. XLM-R's is always the same
one (`write_tokenizer_json`), which is sentencepiece taken apart: the table of replacements is the
sentencepiece model's own, spaces become "▁", and the pieces with their scores are in the order of XLM-R's ids,
where `vocabulary.py` says. A file whose pipeline would give other ids is refused.
"""

import base64
import contextlib
import json
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, fields
from types import MappingProxyType
from typing import Any, NamedTuple

from xlmr_np.weights.errors import CheckpointError
from xlmr_np.weights.safetensors_format import shortened

from .added_tokens import AddedToken
from .model_proto import CONTROL, MOST_PIECES, NORMAL, UNKNOWN, ModelProto, NormalizerSpec, Piece, TrainerSpec
from .vocabulary import (
    BOS_ID,
    BOS_TOKEN,
    EOS_ID,
    EOS_TOKEN,
    LEADING_TOKENS,
    MASK_TOKEN,
    PAD_TOKEN,
    PIECE_OFFSET,
    UNK_ID,
    UNK_TOKEN,
    WORD_START,
)

LARGEST_TOKENIZER_JSON = 2**27  # bytes; transformers writes 17 million for XLM-R
MOST_VALUES = 4 * MOST_PIECES  # a piece takes three: itself, its score and the pair of them

FIRST_PIECES: list[Piece] = [(UNK_TOKEN, 0.0, UNKNOWN), (BOS_TOKEN, 0.0, CONTROL), (EOS_TOKEN, 0.0, CONTROL)]

_METASPACE = {"type": "Metaspace", "replacement": WORD_START, "prepend_scheme": "always", "split": True}
_PRE_TOKENIZER = {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, _METASPACE]}
_TEMPLATE_IDS = {
    token: {"id": token, "ids": [token_id], "tokens": [token]}
    for token, token_id in ((BOS_TOKEN, BOS_ID), (EOS_TOKEN, EOS_ID))
}
_ADDED_TOKENS = re.compile(r'"added_tokens"[ \t\n\r]*:[ \t\n\r]*')
_SINGLE = (BOS_TOKEN, "A", EOS_TOKEN)
_PAIR = (BOS_TOKEN, "A", EOS_TOKEN, EOS_TOKEN, "B", EOS_TOKEN)


class TokenizerJson(NamedTuple):
    """What a `tokenizer.json` says.

    Attributes:
        model: the sentencepiece model. Its scores are rounded to float32, which is all that such a model holds;
            those of a file that was made from one are not changed by that.
        added_tokens: the added tokens by id, in the order of the file, usually with XLM-R's five special tokens.
    """

    model: ModelProto
    added_tokens: dict[int, AddedToken]


def read_tokenizer_json(content: bytes) -> TokenizerJson:
    """The sentencepiece model and the added tokens in the bytes of a `tokenizer.json`.

    Truncation and padding in the file are left aside: they are settings of calls.

    Raises:
        CheckpointError: it is damaged, or its tokenizer would give other ids than XLM-R's does.
    """
    text = _text(content)
    with _json_errors():
        document = json.loads(text, parse_constant=_refuse_constant)
    document = _object(document, "whole")
    vocab = _read_vocab(_object(document.get("model"), "model"))
    charsmap = _read_normalizer(document.get("normalizer"))
    _check_pre_tokenizer(document.get("pre_tokenizer"))
    _check_post_processor(document.get("post_processor"))
    pieces = [*FIRST_PIECES, *((text, score, NORMAL) for text, score in vocab[len(LEADING_TOKENS) : -1])]
    model = ModelProto(pieces, NormalizerSpec.of_charsmap(charsmap), TrainerSpec.of_size(len(pieces)))
    added_tokens = _read_added_tokens(document.get("added_tokens", []))
    _check_ids(added_tokens, model)
    return TokenizerJson(model, added_tokens)


def read_added_tokens_alone(content: bytes) -> dict[int, AddedToken]:
    """The added tokens in the bytes of a `tokenizer.json`, by id in the order of the file.

    Nothing else is read, so that whoever has the vocabulary from another file is spared the second which that takes.

    Raises:
        CheckpointError: there is no list of added tokens, or it is damaged. Whether its ids are those that the
            vocabulary gives is not known here.
    """
    text = _text(content)
    found = _ADDED_TOKENS.search(text)  # in JSON, a quoted text before a colon is the name of a member
    if found is None:
        raise CheckpointError("The tokenizer.json has no added_tokens, which every such file has: get it again.")
    with _json_errors():
        entries, _ = json.JSONDecoder(parse_constant=_refuse_constant).raw_decode(text, found.end())
    return _read_added_tokens(entries)


def write_tokenizer_json(model: ModelProto, added_tokens: Mapping[int, AddedToken] = MappingProxyType({})) -> bytes:
    """The bytes of a `tokenizer.json` that transformers and `tokenizers` load, and that gives the same ids.

    Args:
        model: a model in XLM-R's layout.
        added_tokens: tokens by id. XLM-R's special tokens need not be among them; where they are, they replace
            those that would be written.

    Raises:
        CheckpointError: the model has what such a file cannot express (see `check_expressible`), or an added token's
            id is not the one that its place gives it.
    """
    check_expressible(model)
    special = {token_id: AddedToken(token, special=True) for token_id, token in enumerate(LEADING_TOKENS)}
    special[_mask_id(model)] = AddedToken(MASK_TOKEN, special=True)
    tokens = dict(sorted((special | dict(added_tokens)).items()))
    _check_ids(tokens, model)
    charsmap = base64.b64encode(model.normalizer.precompiled_charsmap).decode()
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": token_id, **asdict(token)} for token_id, token in tokens.items()],
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": charsmap} if charsmap else None,
        "pre_tokenizer": _PRE_TOKENIZER,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": _template(_SINGLE),
            "pair": _template(_PAIR),
            "special_tokens": _TEMPLATE_IDS,
        },
        "decoder": _METASPACE,
        "model": {
            "type": "Unigram",
            "unk_id": UNK_ID,
            "vocab": [
                *((token, 0.0) for token in LEADING_TOKENS),
                *((text, score) for text, score, _ in model.pieces[len(FIRST_PIECES) :]),
                (MASK_TOKEN, 0.0),
            ],
            "byte_fallback": False,
        },
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def check_expressible(model: ModelProto) -> None:
    """Refuses a model that `tokenizer.json` cannot express.

    Raises:
        CheckpointError: this is one.
    """
    first, rest = model.pieces[: len(FIRST_PIECES)], model.pieces[len(FIRST_PIECES) :]
    names = [(text, kind) for text, _, kind in first]
    trainer, normalizer = model.trainer, model.normalizer
    if (
        names != [(text, kind) for text, _, kind in FIRST_PIECES]
        or (trainer.unk_id, trainer.bos_id, trainer.eos_id) != (0, 1, 2)
        or any(kind != NORMAL or text in (PAD_TOKEN, MASK_TOKEN) for text, _, kind in rest)
    ):
        raise CheckpointError(
            "The model does not have the layout of an XLM-R vocabulary, <unk> 0, <s> 1, </s> 2, then only normal "
            "pieces without <pad> and <mask>, so no tokenizer.json can be made of it: use an XLM-R checkpoint's."
        )
    handles_spaces = (
        normalizer.add_dummy_prefix,
        normalizer.remove_extra_whitespaces,
        normalizer.escape_whitespaces,
        not trainer.treat_whitespace_as_suffix,
    )
    if not all(handles_spaces):
        raise CheckpointError(
            "The model handles spaces in another way than XLM-R's, for which no tokenizer.json can be made: use an "
            "XLM-R checkpoint's."
        )


def _text(content: bytes) -> str:
    """The bytes of a file as text, whose size bounds the memory that its values take."""
    values = content.count(b",") + content.count(b"[") + content.count(b"{")
    if len(content) > LARGEST_TOKENIZER_JSON or values > MOST_VALUES:
        raise CheckpointError(
            f"A tokenizer.json of {len(content):,} bytes with some {values:,} values is too large: at most "
            f"{LARGEST_TOKENIZER_JSON:,} bytes and {MOST_VALUES:,} values are read."
        )
    with _json_errors():
        return content.decode()


@contextlib.contextmanager
def _json_errors() -> Iterator[None]:
    try:
        yield
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"The tokenizer.json is not valid JSON: get or write it again ({error}).") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise CheckpointError(
            f"The {name} of the tokenizer.json is a JSON {type(value).__name__}, where an object {{...}} belongs: "
            "get or write the file again."
        )
    return value


def _read_vocab(model: dict[str, Any]) -> list[tuple[str, float]]:
    """Text and score of each token, by token id."""
    vocab = model.get("vocab")
    # Files of the first years do not name the type; a list of pairs is what only a unigram model has.
    if model.get("type", "Unigram") != "Unigram" or not isinstance(vocab, list):
        raise CheckpointError(
            f"The tokenizer.json holds a model of type {shortened(model.get('type'))} with a vocabulary of JSON type "
            f"{type(vocab).__name__}, where XLM-R's is 'Unigram' with a list: use an XLM-R checkpoint."
        )
    if model.get("unk_id") != UNK_ID or model.get("byte_fallback", False) is not False:
        raise CheckpointError(
            f"The model in the tokenizer.json has unk_id {shortened(model.get('unk_id'))} and byte_fallback "
            f"{shortened(model.get('byte_fallback', False))}, where XLM-R has {UNK_ID} and False: use an XLM-R "
            "checkpoint."
        )
    if any(type(entry) is not list or len(entry) != 2 for entry in vocab):
        raise CheckpointError(
            "The vocabulary in the tokenizer.json has an entry that is no pair of token and score: get the file again."
        )
    texts = [text for text, _ in vocab]
    if {type(text) for text in texts} - {str} or {type(score) for _, score in vocab} - {int, float}:
        raise CheckpointError(
            "The vocabulary in the tokenizer.json has a token that is no string or a score that is no number: get "
            "the file again."
        )
    if tuple(texts[: len(LEADING_TOKENS)]) != LEADING_TOKENS or texts[-1] != MASK_TOKEN:
        raise CheckpointError(
            f"The vocabulary in the tokenizer.json does not have XLM-R's layout: {', '.join(LEADING_TOKENS)}, then "
            f"the pieces, then {MASK_TOKEN}, so its token ids would be wrong. Use an XLM-R checkpoint."
        )
    if len(vocab) == len(LEADING_TOKENS) + 1:
        raise CheckpointError(
            "The vocabulary in the tokenizer.json has special tokens only, so that every text would become <unk>: "
            "use the tokenizer.json of an XLM-R checkpoint."
        )
    repeated = {PAD_TOKEN, MASK_TOKEN} & set(texts[len(LEADING_TOKENS) : -1])
    if repeated:
        raise CheckpointError(
            f"The vocabulary in the tokenizer.json has {' and '.join(sorted(repeated))} twice: get the file again."
        )
    float32s = struct.Struct(f"<{len(vocab)}f")
    try:
        scores = float32s.unpack(float32s.pack(*(score for _, score in vocab)))
    except (OverflowError, struct.error) as error:
        raise CheckpointError(
            "The vocabulary in the tokenizer.json has a score beyond what float32 holds: get the file again."
        ) from error
    return list(zip(texts, scores, strict=True))


def _read_normalizer(normalizer: Any) -> bytes:
    """The precompiled charsmap, empty if the file has no normalizer.

    Beside it, files of transformers 4 have steps that do to spaces what sentencepiece does anyway.
    """
    if normalizer is None:
        return b""
    steps = _steps(normalizer, "normalizer", "normalizers")
    tables: list[Any] = [step.get("precompiled_charsmap") for step in steps if step.get("type") == "Precompiled"]
    if len(tables) != 1 or not all(step.get("type") == "Precompiled" or _is_about_spaces(step) for step in steps):
        raise CheckpointError(
            f"The tokenizer.json has the normalizer {shortened(normalizer)}, where XLM-R has Precompiled, with at most "
            "Strip and Replace of several spaces beside it: use an XLM-R checkpoint."
        )
    try:
        return base64.b64decode(tables[0], validate=True)
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            "The precompiled_charsmap in the tokenizer.json is not in base64: get the file again."
        ) from error


def _is_about_spaces(step: dict[str, Any]) -> bool:
    """Whether a step of normalisation only drops spaces at the ends or makes several into one."""
    if step.get("type") == "Replace":
        return step.get("pattern") == {"Regex": " {2,}"} and step.get("content") in (" ", WORD_START)
    return step.get("type") == "Strip"


def _check_pre_tokenizer(pre_tokenizer: Any) -> None:
    """Refuses other ways to cut a text into words than at spaces, with "▁" before each word.

    Raises:
        CheckpointError: this is another one.
    """
    steps = _steps(pre_tokenizer, "pre_tokenizer", "pretokenizers")
    names = [step.get("type") for step in steps]
    if names not in (["Metaspace"], ["WhitespaceSplit", "Metaspace"]) or not _is_xlm_roberta_metaspace(steps[-1]):
        raise CheckpointError(
            f"The tokenizer.json has the pre_tokenizer {shortened(pre_tokenizer)}, where XLM-R has "
            f"{_PRE_TOKENIZER}: use an XLM-R checkpoint."
        )


def _is_xlm_roberta_metaspace(step: dict[str, Any]) -> bool:
    """Whether "▁" is put before every word; older files say that with `add_prefix_space`."""
    scheme = step.get("prepend_scheme", "always" if step.get("add_prefix_space", True) is True else "never")
    return step.get("replacement") == WORD_START and scheme == "always"


def _check_post_processor(post_processor: Any) -> None:
    """Refuses other special tokens around a text than XLM-R's.

    Raises:
        CheckpointError: there are others.
    """
    if post_processor is None:
        return
    kind = _object(post_processor, "post_processor").get("type")
    if kind == "RobertaProcessing":
        ends = (post_processor.get("cls"), post_processor.get("sep"))
        is_xlm_roberta = ends == ([BOS_TOKEN, BOS_ID], [EOS_TOKEN, EOS_ID])
    elif kind == "TemplateProcessing":
        is_xlm_roberta = post_processor.get("special_tokens") == _TEMPLATE_IDS and all(
            _without_type_ids(post_processor.get(name)) == _without_type_ids(_template(expected))
            for name, expected in (("single", _SINGLE), ("pair", _PAIR))
        )
    else:
        is_xlm_roberta = False
    if not is_xlm_roberta:
        raise CheckpointError(
            f"The tokenizer.json has a post_processor {shortened(kind)} that does not put {' '.join(_SINGLE)} around a "
            f"text and {' '.join(_PAIR)} around a pair, as XLM-R does: use an XLM-R checkpoint."
        )


def _template(tokens: Iterable[str]) -> list[dict[str, dict[str, Any]]]:
    """A template of `tokenizers`: special tokens, and A and B for the texts."""
    return [{"Sequence" if token in "AB" else "SpecialToken": {"id": token, "type_id": 0}} for token in tokens]


def _without_type_ids(template: Any) -> list[tuple[Any, Any]] | None:
    """Kind and name of each element of a template; None if it is none."""
    if not isinstance(template, list):
        return None
    elements = []
    for element in template:
        if not isinstance(element, dict) or len(element) != 1:
            return None
        ((kind, content),) = element.items()
        if not isinstance(content, dict):
            return None
        elements.append((kind, content.get("id")))
    return elements


def _steps(value: Any, name: str, children: str) -> list[dict[str, Any]]:
    """The steps of a part of the pipeline, which stand in a Sequence if there are several."""
    part = _object(value, name)
    if part.get("type") != "Sequence":
        return [part]
    steps = part.get(children)
    if not isinstance(steps, list):
        raise CheckpointError(f"The {name} of the tokenizer.json is a Sequence without {children}: get the file again.")
    return [_object(step, name) for step in steps]


def _read_added_tokens(entries: Any) -> dict[int, AddedToken]:
    if not isinstance(entries, list):
        raise CheckpointError("The added_tokens of the tokenizer.json are no list: get or write the file again.")
    tokens: dict[int, AddedToken] = {}
    for entry in entries:
        token_id = _object(entry, "added token").get("id")
        values = {field.name: entry.get(field.name) for field in fields(AddedToken)}
        flags = {type(value) for name, value in values.items() if name != "content"}
        if type(token_id) is not int or type(values["content"]) is not str or flags != {bool}:
            raise CheckpointError(
                f"An added token of the tokenizer.json is {shortened(entry)}, which is not an id, a content and five "
                "flags: get or write the file again."
            )
        if token_id in tokens:
            raise CheckpointError(
                f"The tokenizer.json has two added tokens with the id {shortened(token_id)}, "
                f"{shortened(tokens[token_id].content)} and {shortened(values['content'])}: write it with one."
            )
        try:
            tokens[token_id] = AddedToken(**values)
        except ValueError as error:
            raise CheckpointError(f"The tokenizer.json has an added token that is none: {error}") from error
    return tokens


def _check_ids(added_tokens: Mapping[int, AddedToken], model: ModelProto) -> None:
    """Refuses added tokens whose ids are not those of the vocabulary, or do not follow its last one.

    transformers itself overlooks the ids in the file and counts on from the vocabulary, so that a file with
    gaps, or in another order, would be read in two ways.

    Raises:
        CheckpointError: such a token was found, or one is there twice.
    """
    ids = {text: piece + PIECE_OFFSET for piece, (text, _, _) in enumerate(model.pieces)}
    ids.update({token: token_id for token_id, token in enumerate(LEADING_TOKENS)})
    ids[MASK_TOKEN] = _mask_id(model)
    seen: set[str] = set()
    for token_id, token in added_tokens.items():
        if token.content in seen:
            raise CheckpointError(f"The added token {shortened(token.content)} is there twice: write it once.")
        seen.add(token.content)
        expected = ids.setdefault(token.content, len(ids))
        if token_id != expected:
            raise CheckpointError(
                f"The added token {shortened(token.content)} has the id {shortened(token_id)}, but its place gives it "
                f"{expected}: ids must be those of the vocabulary or follow its last one without gaps."
            )


def _mask_id(model: ModelProto) -> int:
    return len(model.pieces) + PIECE_OFFSET
