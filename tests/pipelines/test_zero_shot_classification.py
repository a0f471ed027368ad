"""Zero-shot classification against transformers' own pipeline, and what it does where that one fails or guesses."""

import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from tests.pipelines.conftest import Pair
from tests.pipelines.saved_models import LONGEST, save_model
from tests.tokenizer.reference import reference_tokenizer
from xlmr_np import XLMRobertaTokenizer, pipeline

TEXTS = [
    "The weather is lovely today, and the children are playing in the garden.",
    "Wo ist der Bahnhof?",
    "Мы купили хлеб, сыр и молоко, а потом пошли домой пешком.",
    "أين المحطة؟ إنها خلف السوق بجانب النهر الكبير.",
    "आज मौसम अच्छा है",
    "老师坐在窗边看一本旧书，喝一杯茶。",
]
LABELS = ["weather", "l'école", "вокзал", "花园"]
XNLI = ("contradiction", "neutral", "entailment")
TOLERANCE = 2e-6  # the reference rounds logits to float32, which are of order 10

Both = tuple[Any, transformers.Pipeline]
Make = Callable[..., Both]


def named(*labels: str) -> dict[str, Any]:
    """Settings of a config with these labels."""
    return {"id2label": dict(enumerate(labels)), "label2id": {label: index for index, label in enumerate(labels)}}


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory, small_vocabulary: Path) -> Make:
    """Makes our pipeline and theirs on one random model in float64, with these labels."""

    def made(*labels: str, vocabulary: Path = small_vocabulary, tokenizer: Any = None) -> Both:
        directory = tmp_path_factory.mktemp("model")
        model = save_model(
            directory, "XLMRobertaForSequenceClassification", vocabulary, torch.float64, **named(*labels)
        )
        tokenizer = tokenizer or reference_tokenizer(vocabulary, model_max_length=LONGEST)
        theirs = transformers.pipeline("zero-shot-classification", model=model, tokenizer=tokenizer, device="cpu")
        return pipeline("zero-shot-classification", directory), theirs

    return made


@pytest.fixture(scope="module")
def both(make: Make) -> Both:
    """With the labels of XNLI."""
    return make(*XNLI)


def assert_same(ours: Any, theirs: Any) -> None:
    if isinstance(theirs, list):
        assert len(ours) == len(theirs)
        for our_part, their_part in zip(ours, theirs, strict=True):
            assert_same(our_part, their_part)
        return
    assert list(ours) == list(theirs) == ["sequence", "labels", "scores"]
    assert (ours["sequence"], ours["labels"]) == (theirs["sequence"], theirs["labels"])
    assert ours["scores"] == pytest.approx(theirs["scores"], rel=TOLERANCE, abs=TOLERANCE)


# --- the same as the reference ---


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("labels", [LABELS, LABELS[:1], "art, le sport,, garden ", tuple(LABELS)], ids=str)
@pytest.mark.parametrize("inputs", [TEXTS[0], TEXTS[:1], TEXTS[:2]], ids=["one", "list of one", "list"])
def test_forms_of_inputs_and_answers(both: Both, inputs: Any, labels: Any, multi_label: bool) -> None:
    ours, theirs = both
    answer = ours(inputs, candidate_labels=labels, multi_label=multi_label)
    assert_same(answer, theirs(inputs, candidate_labels=labels, multi_label=multi_label))
    assert answer == ours(inputs, labels, multi_label=multi_label)
    assert_same(answer, theirs(inputs, labels, multi_label=multi_label))


@pytest.mark.parametrize("batch_size", [1, 8])
def test_languages_and_batches(both: Both, batch_size: int) -> None:
    ours, theirs = both
    answers = ours(TEXTS, LABELS, batch_size=batch_size)
    assert_same(answers, theirs(TEXTS, LABELS, batch_size=batch_size))
    assert [sum(answer["scores"]) for answer in answers] == pytest.approx([1.0] * len(TEXTS))
    assert len({answer["labels"][0] for answer in answers}) > 1


def test_the_real_vocabulary(make: Make, real_vocabulary: Path, real: Pair) -> None:
    ours, theirs = make(*XNLI, vocabulary=real_vocabulary, tokenizer=real.theirs.tokenizer)
    for changes in ({"batch_size": 1}, {"batch_size": 8, "hypothesis_template": "Es geht um {}."}):
        assert_same(ours(TEXTS[:4], LABELS, **changes), theirs(TEXTS[:4], LABELS, **changes))


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize(
    "labels",
    [
        ("ENTAILMENT", "neutral", "contradiction"),
        ("entailment", "not_entailment"),
        ("not_entailment", "entailment"),
        ("contradiction", "Entails", "entailment"),
    ],
    ids=str,
)
def test_labels_of_the_model(make: Make, labels: tuple[str, ...], multi_label: bool) -> None:
    ours, theirs = make(*labels)
    assert_same(ours(TEXTS[:2], LABELS, multi_label=multi_label), theirs(TEXTS[:2], LABELS, multi_label=multi_label))


@pytest.mark.parametrize("template", ["{}", "Ce texte parle de {}.", "{0} oder {0}", "{{{}}}"])
def test_templates(both: Both, template: str) -> None:
    ours, theirs = both
    assert_same(
        ours(TEXTS[0], LABELS, hypothesis_template=template), theirs(TEXTS[0], LABELS, hypothesis_template=template)
    )


def test_settings_of_the_pipeline_are_defaults_of_its_calls(both: Both) -> None:
    ours, _ = both
    made = pipeline(
        "zero-shot-classification",
        ours.model,
        tokenizer=ours.tokenizer,
        candidate_labels="art, sport",
        multi_label=True,
    )
    assert made(TEXTS[0]) == ours(TEXTS[0], ["art", "sport"], multi_label=True)
    assert made(TEXTS[0], LABELS) == ours(TEXTS[0], LABELS, multi_label=True)
    assert list(made(iter(TEXTS[:2]))) == made(TEXTS[:2])


@pytest.mark.parametrize("repetitions", [1, LONGEST])
def test_a_long_text_is_cut_and_hypotheses_are_not(
    both: Both, caplog: pytest.LogCaptureFixture, repetitions: int
) -> None:
    ours, theirs = both
    text = "the cat and the dog " * repetitions
    labels = ["art", "the children are playing in the garden by the river"]
    with caplog.at_level(logging.WARNING, "xlmr_np"):
        answer = ours([text, text], labels)
    assert_same(answer, theirs([text, text], labels))
    assert len(caplog.records) == (repetitions > 1)


# --- better than the reference ---


def test_a_model_without_a_label_of_entailment(make: Make, both: Both) -> None:
    """The reference takes the last label for it, with a warning."""
    guessing = copy.copy(both[1])
    guessing.model = copy.deepcopy(both[1].model)
    guessing.model.config.label2id = {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}
    assert guessing.entailment_id == -1
    assert sum(guessing(TEXTS[0], LABELS)["scores"]) == pytest.approx(1)
    with pytest.raises(ValueError, match=r"model of entailment.* labels are \['LABEL_0', 'LABEL_1'\].* set label2id"):
        make("LABEL_0", "LABEL_1")


def test_label2id_may_be_set(tmp_path: Path, small_vocabulary: Path, both: Both) -> None:
    save_model(tmp_path, "XLMRobertaForSequenceClassification", small_vocabulary, torch.float64, num_labels=3)
    label2id = named(*XNLI)["label2id"]
    ours = pipeline("zero-shot-classification", tmp_path, model_kwargs={"label2id": label2id})
    assert_same(ours(TEXTS[0], LABELS), both[1](TEXTS[0], LABELS))  # the same seed, and so the same weights


@pytest.mark.parametrize("labels", [("entailment",), ("LABEL_0",)])
def test_a_model_with_one_label(make: Make, labels: tuple[str]) -> None:
    with pytest.raises(ValueError, match="with a label named so and another one"):
        make(*labels)


def test_contradiction_goes_by_its_name(make: Make) -> None:
    """The reference takes the first label for it, or, if that is entailment, the last."""
    ours, theirs = make("neutral", "contradiction", "entailment")
    scores = {multi_label: ours(TEXTS[0], ["art"], multi_label=multi_label)["scores"] for multi_label in (False, True)}
    tokenized = theirs.tokenizer([[TEXTS[0], "This example is art."]], return_tensors="pt")
    with torch.no_grad():
        logits = theirs.model(**tokenized).logits[0]
    assert scores[True] == scores[False] == pytest.approx([logits[1:].softmax(0)[1].item()], rel=1e-10)
    assert theirs(TEXTS[0], ["art"])["scores"] == pytest.approx([logits[[0, 2]].softmax(0)[1].item()], rel=TOLERANCE)
    assert scores[True] != pytest.approx(theirs(TEXTS[0], ["art"])["scores"], rel=1e-2)


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
def test_large_logits_do_not_overflow(both: Both, tmp_path: Path) -> None:
    ours, theirs = both
    huge = copy.copy(theirs)
    huge.model = copy.deepcopy(theirs.model)
    with torch.no_grad():
        huge.model.classifier.out_proj.bias += 1000
    huge.model.save_pretrained(tmp_path)
    assert np.isnan(huge(TEXTS[0], LABELS)["scores"]).all()
    mine = pipeline("zero-shot-classification", tmp_path, tokenizer=ours.tokenizer)
    for multi_label in (False, True):
        shifted, plain = (each(TEXTS[0], LABELS, multi_label=multi_label) for each in (mine, ours))
        assert shifted["labels"] == plain["labels"]
        assert shifted["scores"] == pytest.approx(plain["scores"], rel=1e-10)  # digits of 1000 plus a logit


def test_a_label_counts_once(both: Both) -> None:
    """The reference divides its probability among its repetitions."""
    ours, theirs = both
    assert len(theirs(TEXTS[0], "art, sport, art")["labels"]) == 3
    assert ours(TEXTS[0], "art, sport, art") == ours(TEXTS[0], ["art", "sport"])


def test_an_answer_does_not_depend_on_its_batch(both: Both) -> None:
    ours, _ = both
    alone = [ours(text, LABELS, batch_size=1) for text in TEXTS]
    for changes in ({"batch_size": 3}, {"batch_tokens": 60}):
        for one, other in zip(alone, ours(TEXTS, LABELS, **changes), strict=True):
            assert one["labels"] == other["labels"]
            assert one["scores"] == pytest.approx(other["scores"], rel=1e-10)


def test_a_hypothesis_that_fills_the_model(both: Both) -> None:
    ours, theirs = both
    label = "the cat and the dog " * LONGEST
    with pytest.raises((IndexError, RuntimeError), match="index"):
        theirs(TEXTS[0], ["art", label])
    with pytest.raises(ValueError, match=rf"Text 1 with the label 'the cat.*' cannot be cut to the {LONGEST} tokens"):
        ours(TEXTS[0], ["art", label])
    answers = ours(TEXTS[:2], ["art", label], on_error=lambda number, error: number)
    assert answers == [1, 2]


def test_truncation_may_be_refused(both: Both) -> None:
    with pytest.raises(ValueError, match=rf"Text 2 with the label 'art' has \d+ tokens, and at most {LONGEST} are"):
        both[0](["the cat", "the cat " * LONGEST], "art, sport", truncation=False)


def test_a_megabyte(both: Both) -> None:
    ours, _ = both
    beginning = "the cat and the dog " * LONGEST
    long = ours(beginning + " Где вокзал?" * 50_000, [f"label {number}" for number in range(20)])
    short = ours(beginning, [f"label {number}" for number in range(20)])
    assert long["labels"] == short["labels"]
    assert long["scores"] == pytest.approx(short["scores"], rel=1e-10)


@pytest.mark.parametrize("text", ["", " \n", "<s>", "</s><mask>"])
def test_nothing_to_read(both: Both, small_vocabulary: Path, text: str) -> None:
    ours, theirs = both
    if not text:
        with pytest.raises(ValueError, match="at least one sequence"):
            theirs(text, LABELS)
    tokenizer = XLMRobertaTokenizer(small_vocabulary, allow_special_tokens=True)
    with pytest.raises(ValueError, match="Text 2 holds nothing to read"):
        pipeline("zero-shot-classification", ours.model, tokenizer=tokenizer)(["the cat", text], LABELS)


@pytest.mark.parametrize("template", ["This is it.", "", "{{}}", "{label}", "{1}", "{} and {}", "{", "{.__class__}"])
def test_a_template_without_a_place_for_the_label(both: Both, template: str) -> None:
    ours, theirs = both
    if template == "This is it.":
        with pytest.raises(ValueError, match="not able to be formatted with the target labels"):
            theirs(TEXTS[0], LABELS, hypothesis_template=template)
    with pytest.raises(ValueError, match=r"hypothesis_template=.* has no place for a label: write \{\}"):
        ours(TEXTS[0], LABELS, hypothesis_template=template)


@pytest.mark.parametrize("labels", [[], "", " , ,", ()])
def test_no_labels(both: Both, labels: Any) -> None:
    ours, theirs = both
    with pytest.raises(ValueError, match="You must include at least one label"):
        theirs(TEXTS[0], candidate_labels=labels)
    with pytest.raises(ValueError, match="has no label; give one at least"):
        ours(TEXTS[0], candidate_labels=labels)


def test_labels_that_nobody_has_given(both: Both) -> None:
    ours, theirs = both
    with pytest.raises(TypeError, match="NoneType"):
        theirs(TEXTS[0])
    for inputs in (TEXTS[0], TEXTS, []):
        with pytest.raises(ValueError, match="candidate_labels is not given: write the labels"):
            ours(inputs)


@pytest.mark.parametrize(
    ("value", "changes", "error", "message"),
    [
        ("the cat", {"candidate_labels": ["art", " "]}, ValueError, "has an empty label"),
        ("the cat", {"candidate_labels": ["art", 5]}, TypeError, r"candidate_labels\[1\] must be a str, not int 5"),
        ("the cat", {"candidate_labels": 5}, TypeError, "candidate_labels must be a list of str, or a str"),
        ("the cat", {"candidate_labels": b"art"}, TypeError, "candidate_labels must be a list of str, or a str"),
        ("the cat", {"hypothesis_template": 5}, TypeError, "hypothesis_template must be a str"),
        ("the cat", {"multi_label": "yes"}, TypeError, "multi_label must be True or False"),
        ("the cat", {"multi_class": True}, TypeError, "has no setting multi_class"),
        (["the cat", 5], {}, TypeError, "Text 2 must be a str, not int 5"),
        ({"sequence": "the cat"}, {}, TypeError, "Text 1 must be a str, not dict"),
        (5, {}, TypeError, "Give a text, or a list or another iterable of them; got int"),
    ],
)
def test_bad_inputs(both: Both, value: Any, changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        both[0](value, **{"candidate_labels": LABELS, **changes})
