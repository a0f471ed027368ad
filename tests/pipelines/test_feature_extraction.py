"""Feature extraction against transformers' own pipeline, and what it does where that one fails."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
import transformers

from tests.pipelines.conftest import Pair
from tests.pipelines.saved_models import LONGEST, save_model
from tests.tokenizer.reference import reference_tokenizer
from xlmr_np import XLMRobertaTokenizer, pipeline

TEXTS = [
    "My dog is cute, but the cat next door is cuter and much louder.",
    "le chat",
    "Где находится вокзал?",
    "أين المحطة؟",
    "स्टेशन कहाँ है?",
    "车站在哪里？在市场后面，离大河很近。",
    "선생님은 창가에서 오래된 책을 읽고 차를 마십니다.",
]

Both = tuple[Any, transformers.Pipeline]
Make = Callable[..., Both]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Makes our pipeline and theirs on one random model."""

    def made(vocabulary: Path, dtype: torch.dtype, tokenizer: Any = None) -> Both:
        directory = tmp_path_factory.mktemp("model")
        model = save_model(directory, "XLMRobertaModel", vocabulary, dtype)
        tokenizer = tokenizer or reference_tokenizer(vocabulary)
        theirs = transformers.pipeline("feature-extraction", model=model, tokenizer=tokenizer, device="cpu")
        return pipeline("feature-extraction", directory), theirs

    return made


@pytest.fixture(scope="module")
def both(make: Make, small_vocabulary: Path) -> Both:
    """In float64."""
    return make(small_vocabulary, torch.float64)


def assert_same(ours: Any, theirs: Any, tolerance: float = 1e-10) -> None:
    assert np.ndim(ours) == 3
    np.testing.assert_allclose(ours, np.asarray(theirs), rtol=0, atol=tolerance)


# --- the same as the reference ---


def test_one_text(both: Both) -> None:
    ours, theirs = both
    for text in TEXTS:
        answer = ours(text)
        assert_same(answer, theirs(text))
        assert type(answer[0][0][0]) is float
        assert len(answer[0]) == len(ours.tokenizer(text)["input_ids"])


@pytest.mark.parametrize("texts", [TEXTS, TEXTS[:1], []], ids=len)
def test_lists(both: Both, texts: list[str]) -> None:
    ours, theirs = both
    answers = ours(texts)
    assert isinstance(answers, list)
    for answer, text in zip(answers, texts, strict=True):
        assert_same(answer, theirs([text])[0])


def test_arrays(both: Both) -> None:
    ours, theirs = both
    answer = ours(TEXTS[0], return_tensors=True)
    assert isinstance(answer, np.ndarray)
    assert answer.dtype == np.float64
    assert_same(answer, theirs(TEXTS[0], return_tensors=True))
    answers = ours(TEXTS, return_tensors=True)
    assert [each.shape for each in answers] == [tuple(theirs(text, return_tensors=True).shape) for text in TEXTS]


@pytest.mark.parametrize("batch_size", [1, 8])
def test_float32(make: Make, small_vocabulary: Path, batch_size: int) -> None:
    ours, theirs = make(small_vocabulary, torch.float32)
    answers = ours(TEXTS, batch_size=batch_size, return_tensors=True)
    for answer, text in zip(answers, TEXTS, strict=True):
        assert answer.dtype == np.float32
        assert_same(answer, theirs(text), 2e-5)  # float32 sums of another order


def test_the_real_vocabulary(make: Make, real_vocabulary: Path, real: Pair) -> None:
    ours, theirs = make(real_vocabulary, torch.float64, real.theirs.tokenizer)
    for answer, text in zip(ours(TEXTS, batch_size=8), TEXTS, strict=True):
        assert_same(answer, theirs(text))


# --- better than the reference ---


def test_no_padding_in_answers(both: Both) -> None:
    """The reference returns that of the longest text of the batch for all."""
    ours, theirs = both
    lengths = [len(ours.tokenizer(text)["input_ids"]) for text in TEXTS]
    assert [np.shape(answer)[1] for answer in theirs(TEXTS, batch_size=8)] == [max(lengths)] * len(TEXTS)
    answers = ours(TEXTS, batch_size=8)
    assert [np.shape(answer)[1] for answer in answers] == lengths
    for answer, text in zip(answers, TEXTS, strict=True):
        assert_same(answer, theirs(text))


def test_a_text_alone_and_among_others(make: Make, small_vocabulary: Path) -> None:
    ours, _ = make(small_vocabulary, torch.float32)
    together = ours(TEXTS * 3, batch_tokens=50, return_tensors=True)
    for answer, text in zip(together, TEXTS * 3, strict=True):
        assert_same(answer, ours(text), 2e-5)  # float32 sums of another order


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_comes_out_as_float32(tmp_path: Path, small_vocabulary: Path, both: Both, dtype: type) -> None:
    save_model(tmp_path, "XLMRobertaModel", small_vocabulary)
    half = pipeline("feature-extraction", tmp_path, dtype=dtype.__name__)
    answer = half(TEXTS[0], return_tensors=True)
    assert half.model.dtype == dtype
    assert answer.dtype == np.float32
    assert_same(answer, both[0](TEXTS[0]), 0.3)  # weights of 8 bits at least, in two layers; states of order 1


def test_a_long_text_is_cut_with_a_warning(both: Both, caplog: pytest.LogCaptureFixture) -> None:
    ours, theirs = both
    text = "the cat and the dog " * LONGEST
    with pytest.raises((IndexError, RuntimeError), match="index"):
        theirs(text)
    with caplog.at_level(logging.WARNING, "xlmr_np"):
        answer = ours([text, text])[1]
    assert len(caplog.records) == 1
    assert_same(answer, theirs(text, tokenize_kwargs={"truncation": True, "max_length": LONGEST}))
    assert np.shape(ours(text, max_length=5)) == (1, 5, 32)
    with pytest.raises(ValueError, match=f"at most {LONGEST} are read"):
        ours(text, truncation=False)


def test_a_megabyte(both: Both) -> None:
    ours, _ = both
    beginning = "the cat and the dog " * LONGEST
    assert_same(ours(beginning + " Где вокзал?" * 50_000), ours(beginning), 1e-12)


@pytest.mark.parametrize("text", ["", " \n\t", "<s>", "</s><s>"])
def test_nothing_to_read(both: Both, small_vocabulary: Path, text: str) -> None:
    """The reference returns the states of the special tokens."""
    ours, theirs = both
    assert np.shape(theirs(text))[1] >= 2
    tokenizer = XLMRobertaTokenizer(small_vocabulary, allow_special_tokens=True)
    with pytest.raises(ValueError, match="Text 1 holds nothing to read"):
        pipeline("feature-extraction", ours.model, tokenizer=tokenizer)(text)


@pytest.mark.parametrize(
    ("value", "changes", "error", "message"),
    [
        (["the cat", 5], {}, TypeError, "Text 2 must be a str, not int 5"),
        ({"text": "the cat"}, {}, TypeError, "Text 1 must be a str, not dict"),
        ([["the cat"]], {}, TypeError, "Text 1 must be a str, not list"),
        ("\ud800", {}, ValueError, "lone surrogate"),
        ("the cat", {"return_tensors": "pt"}, TypeError, "return_tensors must be True or False, not str 'pt'"),
        ("the cat", {"tokenize_kwargs": {}}, TypeError, "has no setting tokenize_kwargs"),
    ],
)
def test_bad_inputs(both: Both, value: Any, changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        both[0](value, **changes)


def test_weights_that_are_no_numbers(both: Both, tmp_path: Path, small_vocabulary: Path) -> None:
    model = save_model(tmp_path, "XLMRobertaModel", small_vocabulary)
    with torch.no_grad():
        model.encoder.layer[1].output.LayerNorm.bias *= float("nan")
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="hidden states are not finite numbers: its weights are damaged"):
        pipeline("feature-extraction", tmp_path)("the cat")
