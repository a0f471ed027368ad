"""Attention by layer and head, as a page for a browser that needs nothing but itself."""

import base64
import hashlib
import html
import json
import re
import reprlib
from collections.abc import Collection, Sequence
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np

from xlmr_np.arrays import to_numpy
from xlmr_np.inputs import longest_sequence
from xlmr_np.pipelines.pairing import check_pair, is_empty_text
from xlmr_np.tokenizer import XLMRobertaTokenizer
from xlmr_np.tokenizer.arguments import checked_batch, checked_text, whole_number

MOST_TOKENS = 128  # on a page, if nothing else is asked for: 3 MB for a model of 12 layers and 12 heads

SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")

STEPS = 255  # of which a stored number is a multiple
ROW_TOLERANCE = 0.02  # how far from 1 the sum of a row may be: five times what bfloat16 can do
LONGEST_TITLE = 200  # characters

_PLACE = re.compile(r"\{\{(\w+)\}\}")
# What could end the element that holds the data, or begin a comment in it. JSON has another way to write each.
_MARKUP = str.maketrans({character: f"\\u{ord(character):04x}" for character in "<>&"})


class TextAttentions(NamedTuple):
    """A text's tokens, and how much of its attention each gives to each.

    Attributes:
        tokens: T, as the vocabulary writes them.
        attentions: [L, H, T, T] for the layers and their heads; rows attend to columns, and sum to one.
    """

    tokens: list[str]
    attentions: np.ndarray


def text_attentions(
    model: Any,
    tokenizer: XLMRobertaTokenizer,
    text: str,
    text_pair: str | None = None,
    max_tokens: int = MOST_TOKENS,
) -> TextAttentions:
    """Run a model on a text or a pair of texts, and keep its attention.

    Args:
        model: an `XLMRobertaModel`, or one with a head.
        tokenizer: its tokenizer.
        text: to read.
        text_pair: to read after it.
        max_tokens: how many tokens there may be, special ones included.

    Raises:
        ValueError: there is nothing to read, or more than `max_tokens` or than the model takes; or model and tokenizer
            do not belong together.
        TypeError: a text is not a str, or `max_tokens` no integer.
    """
    check_pair(model, tokenizer)
    whole_number("max_tokens", max_tokens, minimum=1)
    texts = [checked_text(text, "text")] + ([] if text_pair is None else [checked_text(text_pair, "text_pair")])
    encoded = tokenizer(*texts, truncation=False, verbose=False)
    ids = encoded["input_ids"]
    for each in texts:
        own_ids = tokenizer(each, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
        if is_empty_text(tokenizer, each, own_ids):
            raise ValueError(f"The text holds nothing to read: {reprlib.repr(each)}; give it words.")
    if len(ids) > longest_sequence(model.config):
        raise ValueError(
            f"The text has {len(ids)} tokens, but the model reads {longest_sequence(model.config)}; shorten it."
        )
    if len(ids) > max_tokens:
        raise ValueError(
            f"The text has {len(ids)} tokens, and attention is kept for at most {max_tokens} (--max-tokens, max_tokens="
            "), as it grows with their square; shorten the text, or allow more."
        )
    output = model([ids], output_attentions=True, output_hidden_states=False, return_dict=True)
    return TextAttentions(encoded.tokens(), np.stack([to_numpy(layer)[0] for layer in output.attentions]))


def attention_page(
    tokens: Sequence[str],
    attentions: np.ndarray,
    title: str,
    special_tokens: Collection[str] = SPECIAL_TOKENS,
) -> str:
    """Draw attention as one HTML page, which loads nothing and runs no script but its own.

    The page has a map of every head, and the chosen head as lines between tokens or as a matrix. It keeps the square
    roots of the weights in 8 bits: weights are exact to 0.004, and those below 0.01 to 0.0004.

    Args:
        tokens: T, as the vocabulary writes them.
        attentions: [L, H, T, T] for the layers and their heads; rows attend to columns, and sum to one.
        title: what the page is of; a text, for example. It is cut to 200 characters.
        special_tokens: those among the tokens that are marked, and can be left out.

    Returns:
        The page, to be written as UTF-8.

    Raises:
        ValueError: the attentions do not fit the tokens, or are none; or a token or the title is not Unicode.
        TypeError: tokens or title are not str.
    """
    tokens, title = checked_batch(tokens, "tokens"), checked_text(title, "title")
    weights = _checked(to_numpy(attentions), len(tokens))
    layers, heads, length, _ = weights.shape
    script, style = _own_file("attention.js"), _own_file("attention.css")
    stored = np.rint(np.sqrt(weights.clip(0, 1)) * STEPS).astype(np.uint8)
    data = {
        "layers": layers,
        "heads": heads,
        "tokens": tokens,
        "special": [token in special_tokens for token in tokens],
        "weights": base64.b64encode(stored.tobytes()).decode(),
    }
    facts = [(layers, "layer"), (heads, "head"), (length, "token")]
    values = {
        "script": script,
        "script_hash": _hash(script),
        "style": style,
        "style_hash": _hash(style),
        "data": json.dumps(data, separators=(",", ":")).translate(_MARKUP),
        "title": html.escape(_shown_title(title)),
        "facts": " · ".join(f"{number} {name}{'s' * (number != 1)}" for number, name in facts),
    }
    return _PLACE.sub(lambda place: values[place[1]], _own_file("attention.html"))


def _checked(attentions: np.ndarray, number_of_tokens: int) -> np.ndarray:
    """Attentions that can be drawn, in float32 at least."""
    shape = attentions.shape
    if len(shape) != 4 or 0 in shape or shape[2:] != (number_of_tokens, number_of_tokens):
        raise ValueError(
            f"attentions has shape {shape}; for {number_of_tokens} tokens it must be (layers, heads, "
            f"{number_of_tokens}, {number_of_tokens}), with nothing empty."
        )
    weights = attentions.astype(np.promote_types(attentions.dtype, np.float32), copy=False)
    sums = weights.sum(axis=-1)
    is_wrong = ~((np.abs(sums - 1) <= ROW_TOLERANCE) & (weights >= 0).all(axis=-1))  # of NaN, nothing holds
    for layer, head, row in np.argwhere(is_wrong)[:1]:
        raise ValueError(
            f"attentions[{layer}, {head}, {row}] sums to {sums[layer, head, row]:.4g}, with a least weight of "
            f"{weights[layer, head, row].min():.4g}; each row must be of weights that are not negative and sum to 1."
        )
    return weights


def _shown_title(title: str) -> str:
    """The title on one line, not too long."""
    line = " ".join(title.split())
    return line if len(line) <= LONGEST_TITLE else f"{line[: LONGEST_TITLE - 1]}…"


def _own_file(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """What a Content-Security-Policy calls an element with this text."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
