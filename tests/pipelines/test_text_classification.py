"""Text classification against transformers' own pipeline, and what it does where that one fails."""

import copy
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests.pipelines.conftest import Pair
from tests.pipelines.saved_models import LONGEST, save_model
from tests.tokenizer.reference import reference_tokenizer
from xlmr_np import XLMRobertaTokenizer, pipeline

TEXTS = [
    "The weather is lovely today, and the children are playing in the garden.",
    "le chat",
    "Übermorgen fahren wir mit dem Zug über die Brücke nach Süden.",
    "Старый учитель читает книгу у окна.",
    "Η γάτα κοιμάται πάνω στο τραπέζι.",
    "الطقس جميل اليوم والأطفال يلعبون في الحديقة.",
    "आज मौसम अच्छा है",
    "今天天气很好，孩子们在花园里玩。",
    "駅はどこですか。",
    "วันนี้อากาศดี",
    "I 💛 <mask>!",
]
PAIR = {"text": "the cat", "text_pair": "Le chat dort sur la table."}
MODEL_CLASS = "XLMRobertaForSequenceClassification"
TOLERANCE = 2e-6  # the reference rounds logits to float32, which are of order 10

Both = tuple[Any, transformers.Pipeline]
Make = Callable[..., Both]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory, small_vocabulary: Path) -> Make:
    """Makes our pipeline and theirs on one random model in float64."""

    def made(
        vocabulary: Path = small_vocabulary,
        settings: dict[str, Any] | None = None,
        tokenizer: Any = None,
        **changes: Any,
    ) -> Both:
        directory = tmp_path_factory.mktemp("model")
        model = save_model(directory, MODEL_CLASS, vocabulary, torch.float64, **changes)
        theirs = transformers.pipeline(
            "text-classification",
            model=model,
            tokenizer=tokenizer or reference_tokenizer(vocabulary),
            device="cpu",
            **settings or {},
        )
        return pipeline("text-classification", directory, **settings or {}), theirs

    return made


@pytest.fixture(scope="module")
def both(make: Make) -> Both:
    """Of three labels with names."""
    return make(id2label={0: "positive", 1: "neutral", 2: "négatif"})


def assert_same(ours: Any, theirs: Any) -> None:
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        assert ours["label"] == theirs["label"]
        assert isinstance(ours["score"], float)
        assert ours["score"] == pytest.approx(theirs["score"], rel=TOLERANCE, abs=TOLERANCE)
        return
    assert len(ours) == len(theirs)
    for our_part, their_part in zip(ours, theirs, strict=True):
        assert_same(our_part, their_part)


def scaled(both: Both, directory: Path, factor: float) -> Any:
    """Our pipeline with so many times the logits."""
    ours, theirs = both
    model = copy.deepcopy(theirs.model)
    with torch.no_grad():
        for parameter in model.classifier.out_proj.parameters():
            parameter *= factor
    model.save_pretrained(directory)
    return pipeline("text-classification", directory, tokenizer=ours.tokenizer)


# --- the same as the reference ---


@pytest.mark.parametrize("changes", [{}, {"top_k": 1}, {"top_k": 2}, {"top_k": 9}, {"top_k": None}], ids=str)
@pytest.mark.parametrize("inputs", [TEXTS[0], PAIR, {"text": "the cat"}, TEXTS[:1], [PAIR], [PAIR, TEXTS[1]]], ids=str)
def test_forms_of_inputs_and_answers(both: Both, inputs: Any, changes: dict[str, Any]) -> None:
    ours, theirs = both
    assert_same(ours(inputs, **changes), theirs(inputs, **changes))


@pytest.mark.parametrize("top_k", [1, 2, None])
def test_top_k_of_the_pipeline(make: Make, top_k: int | None) -> None:
    ours, theirs = make(settings={"top_k": top_k}, num_labels=3)
    for inputs in (TEXTS[0], PAIR, TEXTS[:2]):
        assert_same(ours(inputs), theirs(inputs))
        assert_same(ours(inputs, top_k=2), theirs(inputs, top_k=2))


@pytest.mark.parametrize("batch_size", [1, 8])
def test_languages_and_batches(both: Both, batch_size: int) -> None:
    ours, theirs = both
    answers = ours(TEXTS, batch_size=batch_size, top_k=None)
    assert_same(answers, theirs(TEXTS, batch_size=batch_size, top_k=None))
    assert len({answer[0]["label"] for answer in answers}) > 1
    assert [sum(label["score"] for label in answer) for answer in answers] == pytest.approx([1.0] * len(TEXTS))


def test_the_real_vocabulary(make: Make, real_vocabulary: Path, real: Pair) -> None:
    ours, theirs = make(real_vocabulary, tokenizer=real.theirs.tokenizer, num_labels=3)
    for batch_size in (1, 8):
        assert_same(ours(TEXTS, batch_size=batch_size, top_k=None), theirs(TEXTS, batch_size=batch_size, top_k=None))


@pytest.mark.parametrize("function", [None, "softmax", "sigmoid", "none"])
@pytest.mark.parametrize(
    ("changes", "default"),
    [
        ({"num_labels": 3}, "softmax"),
        ({"num_labels": 3, "problem_type": "single_label_classification"}, "softmax"),
        ({"num_labels": 3, "problem_type": "multi_label_classification"}, "sigmoid"),
        ({"num_labels": 1}, "sigmoid"),
        ({"num_labels": 1, "problem_type": "regression"}, "none"),
        ({"num_labels": 2, "problem_type": "regression"}, "none"),
    ],
    ids=str,
)
def test_functions(make: Make, changes: dict[str, Any], default: str, function: str | None) -> None:
    ours, theirs = make(**changes)
    settings = {} if function is None else {"function_to_apply": function}
    answers = ours(TEXTS, top_k=None, **settings)
    assert_same(answers, theirs(TEXTS, top_k=None, **settings))
    if function is None:
        assert answers == ours(TEXTS, top_k=None, function_to_apply=default)


def test_logits_to_the_last_digit(both: Both) -> None:
    ours, theirs = both
    with torch.no_grad():
        logits = theirs.model(**theirs.tokenizer(TEXTS[0], return_tensors="pt")).logits[0]
    answer = {each["label"]: each["score"] for each in ours(TEXTS[0], top_k=None, function_to_apply="none")}
    assert [answer[label] for label in ours.model.config.label2id] == pytest.approx(logits.tolist(), rel=1e-10)


def test_the_old_name_of_the_task(both: Both) -> None:
    ours, _ = both
    assert pipeline("sentiment-analysis", ours.model, tokenizer=ours.tokenizer)(TEXTS[0]) == ours(TEXTS[0])


def test_scores_of_large_logits_do_not_overflow(both: Both, tmp_path: Path) -> None:
    huge = scaled(both, tmp_path, 1e6)
    for function in ("softmax", "sigmoid"):
        scores = [each["score"] for each in huge(TEXTS[0], top_k=None, function_to_apply=function)]
        assert {*scores} == {0.0, 1.0}


# --- better than the reference ---


def test_a_long_text_is_cut_with_a_warning(both: Both, caplog: pytest.LogCaptureFixture) -> None:
    ours, theirs = both
    text = "the cat and the dog " * LONGEST
    with pytest.raises((IndexError, RuntimeError), match="index"):
        theirs(text)
    with caplog.at_level(logging.WARNING, "xlmr_np"):
        answer = ours(text)
    assert_same(answer, theirs(text, truncation=True, max_length=LONGEST))
    assert len(caplog.records) == 1
    assert_same(ours(text, max_length=9), theirs(text, truncation=True, max_length=9))


@pytest.mark.parametrize("length", [7, 8, 11, LONGEST])
def test_long_pairs_are_cut_like_the_references(both: Both, length: int) -> None:
    ours, theirs = both
    long, short = "the cat and the dog " * LONGEST, "le chat dort"
    for texts in ((long, short), (short, long), (long, long)):
        pair = dict(zip(("text", "text_pair"), texts, strict=True))
        assert_same(ours(pair, max_length=length), theirs(pair, truncation=True, max_length=length))


def test_a_tokenizer_that_cuts_at_the_left(both: Both, small_vocabulary: Path) -> None:
    ours, theirs = both
    text = "the cat and the dog sleep in the garden"
    tokenizer = XLMRobertaTokenizer(small_vocabulary, truncation_side="left")
    at_left = pipeline("text-classification", ours.model, tokenizer=tokenizer)
    ids = [0, *theirs.tokenizer(text)["input_ids"][-8:]]
    with torch.no_grad():
        logits = theirs.model(input_ids=torch.asarray([ids])).logits[0]
    answer = at_left(text, max_length=9, function_to_apply="none")
    assert answer[0]["score"] == pytest.approx(logits.max().item(), rel=1e-10)


def test_truncation_may_be_refused(both: Both) -> None:
    ours, _ = both
    with pytest.raises(ValueError, match=rf"Text 2 has \d+ tokens, and at most {LONGEST} are read: 'the cat"):
        ours(["the cat", "the cat " * LONGEST], truncation=False)


def test_a_megabyte(both: Both) -> None:
    ours, _ = both
    beginning = "the cat and the dog " * LONGEST
    assert_same(ours(beginning + "x" * 10 + " Где вокзал?" * 50_000), ours(beginning))
    assert ours("x" * 1_000_000)[0]["score"] <= 1


def test_no_texts_get_no_answers(both: Both) -> None:
    ours, theirs = both
    assert ours([]) == []
    with pytest.raises(IndexError):
        theirs([])


@pytest.mark.parametrize("text", ["", " ", "\n\t\u3000", "<s>", "</s> <s>", "<mask>"])
def test_nothing_to_read(both: Both, small_vocabulary: Path, text: str) -> None:
    """The reference labels the special tokens alone."""
    ours, theirs = both
    assert 0 <= theirs(text)[0]["score"] <= 1
    tokenizer = XLMRobertaTokenizer(small_vocabulary, allow_special_tokens=True)
    with pytest.raises(ValueError, match="Text 1 holds nothing to read"):
        pipeline("text-classification", ours.model, tokenizer=tokenizer)(text)
    with pytest.raises(ValueError, match="Text 1 holds nothing to read"):
        pipeline("text-classification", ours.model, tokenizer=tokenizer)({"text": "the cat", "text_pair": text})


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (["the cat", 5], TypeError, "Text 2 must be a str, not int 5"),
        ([None], TypeError, "Text 1 must be a str, not None"),
        ([b"the cat"], TypeError, "decode the bytes first"),
        (["\ud800"], ValueError, "lone surrogate"),
        ([("the cat", "the dog")], TypeError, 'Text 1 is a tuple; write a pair as {"text"'),
        ([[["the cat", "the dog"]]], TypeError, 'Text 1 is a list; write a pair as {"text"'),
        ({"text_pair": "the cat"}, ValueError, "has the keys 'text_pair'; a pair has 'text' and 'text_pair'"),
        ({"text": "the cat", "texts": "the dog"}, ValueError, "has the keys 'text', 'texts'"),
        ({"text": "the cat", "text_pair": 5}, TypeError, "Text 1, text_pair, must be a str"),
    ],
)
def test_bad_inputs(both: Both, value: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        both[0](value)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"top_k": 0}, ValueError, "top_k=0 is too small"),
        ({"top_k": -1}, ValueError, "top_k=-1 is too small"),
        ({"top_k": "all"}, TypeError, "top_k must be a whole number"),
        ({"function_to_apply": "tanh"}, ValueError, "function_to_apply='tanh' is none of softmax, sigmoid, none"),
        ({"return_all_scores": True}, TypeError, "has no setting return_all_scores"),
    ],
)
def test_bad_settings(both: Both, changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        both[0]("the cat", **changes)


def test_weights_that_are_no_numbers(both: Both, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="logits are not finite numbers: its weights are damaged"):
        scaled(both, tmp_path, float("nan"))("the cat")


def test_a_model_without_this_head(tmp_path: Path, small_vocabulary: Path) -> None:
    save_model(tmp_path, "XLMRobertaForMaskedLM", small_vocabulary)
    with pytest.raises(ValueError, match="lacks weights that text-classification needs: classifier"):
        pipeline("text-classification", tmp_path)


def test_a_config_without_its_labels(tmp_path: Path, small_vocabulary: Path) -> None:
    save_model(tmp_path, MODEL_CLASS, small_vocabulary, num_labels=3)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in config.items() if name not in ("id2label", "label2id")}))
    with pytest.raises(OSError, match=r"another shape than the config asks for, first classifier\.out_proj"):
        pipeline("text-classification", tmp_path)
    named = pipeline("text-classification", tmp_path, model_kwargs={"num_labels": 3})
    assert {each["label"] for each in named(TEXTS[0], top_k=None)} == {"LABEL_0", "LABEL_1", "LABEL_2"}
