"""The page as text: what it keeps, and that nothing in it is more than text."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from tests.pipelines.saved_models import LONGEST
from xlmr_np import XLMRobertaModel, XLMRobertaTokenizer
from xlmr_np.visualization import attention_page, text_attentions

TOKENS = ["<s>", "▁the", "▁cat", "</s>"]
HOSTILE = [
    "</script><script>hacked=1</script>",
    "<!--<script>",
    "&lt;img src=x onerror=hacked=1>",
    "\u2028\u202e\x00\\\"'",
]


def attentions_of(length: int, layers: int = 2, heads: int = 3, seed: int = 0) -> np.ndarray:
    scores = np.random.default_rng(seed).normal(scale=2, size=(layers, heads, length, length))
    weights = np.exp(scores)
    return weights / weights.sum(axis=-1, keepdims=True)


class Elements(HTMLParser):
    """The elements of a page, with their attributes and the text before any child."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], list[str]]] = []
        self._is_within = False
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), []))
        self._is_within = True

    def handle_endtag(self, tag: str) -> None:
        self._is_within = False

    def handle_data(self, data: str) -> None:
        if self._is_within:
            self.found[-1][2].append(data)

    def texts(self, name: str) -> list[str]:
        return ["".join(texts) for tag, _, texts in self.found if tag == name]


def data_of(page: str) -> dict[str, Any]:
    return json.loads(Elements(page).texts("script")[0])


def test_the_weights_are_kept_in_eight_bits() -> None:
    attentions = attentions_of(4)
    data = data_of(attention_page(TOKENS, attentions, "cat"))
    assert (data["layers"], data["heads"], data["tokens"]) == (2, 3, TOKENS)
    assert data["special"] == [True, False, False, True]
    stored = np.frombuffer(base64.b64decode(data["weights"]), np.uint8).reshape(attentions.shape)
    weights = (stored / 255) ** 2
    np.testing.assert_allclose(weights, attentions, rtol=0, atol=0.004)  # half of the last step of a square root
    small = attentions < 0.01
    assert small.any()
    np.testing.assert_allclose(weights[small], attentions[small], rtol=0, atol=0.0004)  # a tenth of that


def test_special_tokens_are_those_of_the_tokenizer() -> None:
    page = attention_page(["<s>", "<user>", "</s>"], attentions_of(3), "chat", special_tokens=["<user>"])
    assert data_of(page)["special"] == [False, True, False]


def test_hostile_text_stays_text() -> None:
    title = "<img src=x onerror=hacked=1> \"'&</title><script>hacked=1</script> {{data}}"
    page = attention_page(HOSTILE, attentions_of(4), title)
    harmless = attention_page(TOKENS, attentions_of(4), "cat")
    shape = [(tag, attributes.keys()) for tag, attributes, _ in Elements(page).found]
    assert shape == [(tag, attributes.keys()) for tag, attributes, _ in Elements(harmless).found]
    assert data_of(page)["tokens"] == HOSTILE
    assert Elements(page).texts("h1") == [title]
    assert page.count("<script") == 2
    embedded = page.split('id="data">')[1].split("</script>")[0]
    assert re.search(r"[<>&]|[^\x20-\x7e]", embedded) is None


def test_the_policy_allows_the_page_itself_and_nothing_else() -> None:
    found = Elements(attention_page(TOKENS, attentions_of(4), "cat"))
    policy = next(attributes["content"] for _, attributes, _ in found.found if "http-equiv" in attributes)
    hashes = [
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for text in (found.texts("script")[1], found.texts("style")[0])
    ]
    assert policy == (
        f"default-src 'none'; script-src 'sha256-{hashes[0]}'; style-src 'sha256-{hashes[1]}'; base-uri 'none'; "
        "form-action 'none'"
    )
    names = {name for _, attributes, _ in found.found for name in attributes}
    assert not {"src", "href", "style"} & names
    assert not [name for name in names if name.startswith("on")]


def test_the_page_is_small() -> None:
    page = attention_page(["▁a"] * 64, attentions_of(64, 12, 12), "64 tokens of a model of 12 layers and 12 heads")
    assert len(page.encode()) < 12 * 12 * 64**2 * 4 / 3 + 40_000


def test_a_long_title_is_cut() -> None:
    [title] = Elements(attention_page(TOKENS, attentions_of(4), "one\ntwo " * 100)).texts("h1")
    assert title.startswith("one two one two")
    assert len(title) == 200
    assert title.endswith("…")


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_every_floating_type(dtype: str) -> None:
    data = data_of(attention_page(TOKENS, attentions_of(4).astype(dtype), "cat"))
    assert len(base64.b64decode(data["weights"])) == 2 * 3 * 4 * 4


def test_attentions_that_cannot_be_drawn() -> None:
    good = attentions_of(4)
    for shape in ((2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 4), (2, 3, 3, 3)):
        with pytest.raises(ValueError, match="it must be"):
            attention_page(TOKENS, np.zeros(shape), "cat")
    for value in (np.nan, np.inf, 0.5, -0.1):
        bad = good.copy()
        bad[1, 2, 3, 0] = value
        bad[1, 2, 3, 1] += 0.1 + good[1, 2, 3, 0] if value < 0 else 0
        with pytest.raises(ValueError, match=r"attentions\[1, 2, 3\] sums to"):
            attention_page(TOKENS, bad, "cat")
    with pytest.raises(ValueError, match="surrogate"):
        attention_page(["\ud800", *TOKENS[1:]], good, "cat")
    with pytest.raises(TypeError, match="title must be a str"):
        attention_page(TOKENS, good, 7)


@pytest.fixture(scope="module")
def loaded(attention_model: str) -> tuple[XLMRobertaModel, XLMRobertaTokenizer]:
    return (
        XLMRobertaModel.from_pretrained(attention_model, add_pooling_layer=False),
        XLMRobertaTokenizer.from_pretrained(attention_model),
    )


def test_attention_is_that_of_transformers(
    loaded: tuple[XLMRobertaModel, XLMRobertaTokenizer], attention_model: str
) -> None:
    import torch
    import transformers

    model, tokenizer = loaded
    tokens, attentions = text_attentions(model, tokenizer, "Der Garten", "the cat")
    encoded = tokenizer("Der Garten", "the cat")
    assert tokens == encoded.tokens()
    reference = transformers.AutoModel.from_pretrained(attention_model, attn_implementation="eager").eval()
    with torch.no_grad():
        expected = reference(torch.tensor([encoded["input_ids"]]), output_attentions=True).attentions
    expected = np.stack([layer[0].numpy() for layer in expected])
    np.testing.assert_allclose(attentions, expected, rtol=0, atol=2e-5)  # rounding of float32
    np.testing.assert_allclose(attentions.sum(axis=-1), 1, rtol=0, atol=1e-5)  # the same


def test_texts_that_cannot_be_read(loaded: tuple[XLMRobertaModel, XLMRobertaTokenizer]) -> None:
    model, tokenizer = loaded
    for text in ("", " \n", "<mask>"):
        with pytest.raises(ValueError, match="holds nothing to read"):
            text_attentions(model, tokenizer, text)
    with pytest.raises(ValueError, match="holds nothing to read"):
        text_attentions(model, tokenizer, "the", " ")
    with pytest.raises(ValueError, match=rf"has 102 tokens, but the model reads {LONGEST}"):
        text_attentions(model, tokenizer, "the " * 100)
    with pytest.raises(ValueError, match=r"has 12 tokens, and attention is kept for at most 8 .*--max-tokens"):
        text_attentions(model, tokenizer, "the " * 10, max_tokens=8)
    with pytest.raises(TypeError, match="text must be a str"):
        text_attentions(model, tokenizer, b"the")
