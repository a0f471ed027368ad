"""The classes with a head against transformers' own, on random weights that transformers saved."""

import inspect
import logging
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional
from transformers.modeling_utils import slice_logits_to_keep

import xlmr_np
from tests.reference_models import TINY, random_ids, save_reference
from xlmr_np import XLMRobertaConfig, XLMRobertaForCausalLM, XLMRobertaForMaskedLM, XLMRobertaModel
from xlmr_np.models.pretrained import XLMRobertaPreTrainedModel

TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5}
LENGTHS = [9, 4, 7]
RANDOM = np.random.default_rng(5)
CLASSES = {
    "XLMRobertaModel": "AutoModel",
    "XLMRobertaForMaskedLM": "AutoModelForMaskedLM",
    "XLMRobertaForCausalLM": "AutoModelForCausalLM",
    "XLMRobertaForSequenceClassification": "AutoModelForSequenceClassification",
    "XLMRobertaForTokenClassification": "AutoModelForTokenClassification",
    "XLMRobertaForQuestionAnswering": "AutoModelForQuestionAnswering",
    "XLMRobertaForMultipleChoice": "AutoModelForMultipleChoice",
}
HEAD_NAMES = {
    "XLMRobertaModel": ("pooler.dense.weight", "pooler.dense.bias"),
    "XLMRobertaForMaskedLM": (),
    "XLMRobertaForCausalLM": (),
    "XLMRobertaForSequenceClassification": tuple(
        f"classifier.{layer}.{part}" for layer in ("dense", "out_proj") for part in ("weight", "bias")
    ),
    "XLMRobertaForTokenClassification": ("classifier.weight", "classifier.bias"),
    "XLMRobertaForQuestionAnswering": ("qa_outputs.weight", "qa_outputs.bias"),
    "XLMRobertaForMultipleChoice": (
        "roberta.pooler.dense.weight",
        "roberta.pooler.dense.bias",
        "classifier.weight",
        "classifier.bias",
    ),
}


class Case(NamedTuple):
    """A model, and labels for three sentences of `LENGTHS` tokens (of three questions, for multiple choice)."""

    class_name: str
    changes: dict[str, Any]
    labels: dict[str, np.ndarray]


def padded_labels(classes: int) -> np.ndarray:
    """A class at most tokens, -100 at padding and at some tokens."""
    is_counted = (random_ids(LENGTHS) != 1) & (np.arange(9) % 4 != 2)
    return np.where(is_counted, RANDOM.integers(0, classes, (3, 9)), -100)


SEQUENCE = "XLMRobertaForSequenceClassification"
CASES = {
    "causal LM": Case("XLMRobertaForCausalLM", {"is_decoder": True}, {"labels": padded_labels(61)}),
    "untied causal LM": Case(
        "XLMRobertaForCausalLM", {"is_decoder": True, "tie_word_embeddings": False}, {"labels": padded_labels(61)}
    ),
    "classes": Case(SEQUENCE, {"num_labels": 4}, {"labels": np.array([2, -100, 0])}),
    "classes as a column": Case(
        SEQUENCE,
        {"problem_type": "single_label_classification", "num_labels": 3},
        {"labels": np.array([[2], [1], [0]])},
    ),
    "several labels": Case(SEQUENCE, {"num_labels": 4}, {"labels": RANDOM.random((3, 4))}),
    "several labels by type": Case(
        SEQUENCE,
        {"num_labels": 4, "problem_type": "multi_label_classification"},
        {"labels": RANDOM.integers(0, 2, (3, 4)).astype(float)},
    ),
    "regression": Case(SEQUENCE, {"num_labels": 1}, {"labels": RANDOM.normal(size=3)}),
    "regression on a column": Case(SEQUENCE, {"num_labels": 1}, {"labels": RANDOM.normal(size=(3, 1))}),
    "regression on integers": Case(SEQUENCE, {"num_labels": 1}, {"labels": np.array([3, -2, 0])}),
    "regression of three": Case(
        SEQUENCE, {"num_labels": 3, "problem_type": "regression"}, {"labels": RANDOM.normal(size=(3, 3))}
    ),
    "token classes": Case("XLMRobertaForTokenClassification", {"num_labels": 5}, {"labels": padded_labels(5)}),
    "spans": Case(
        "XLMRobertaForQuestionAnswering",
        {},
        {"start_positions": np.array([2, 0, 1]), "end_positions": np.array([8, 3, 1])},
    ),
    "choices": Case("XLMRobertaForMultipleChoice", {}, {"labels": np.array([1, -100, 0])}),
}


def inputs_of(case: Case, side: str = "right", lengths: list[int] = LENGTHS) -> dict[str, np.ndarray]:
    """Ids and their mask; for multiple choice two choices for each of three questions."""
    ids = random_ids(lengths, side=side)
    if case.class_name == "XLMRobertaForMultipleChoice":
        ids = np.stack([ids, np.where(ids == 1, 1, 65 - ids)], axis=1)
    return {"input_ids": ids, "attention_mask": (ids != 1).astype(np.int64)}


def in_torch(arrays: dict[str, np.ndarray], dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    """Tensors of the arrays; floats in the type of the model, as the reference asks for."""
    tensors = {name: torch.asarray(array) for name, array in arrays.items()}
    return {name: each.to(dtype) if each.is_floating_point() else each for name, each in tensors.items()}


def run_reference(model: Any, arrays: dict[str, np.ndarray], **requests: Any) -> Any:
    with torch.no_grad():
        return model(**in_torch(arrays, model.dtype), **requests)


def assert_close(ours: Any, theirs: torch.Tensor, tolerance: float) -> None:
    """Equal to the tolerance; outputs are of order one, larger ones count by size."""
    expected = theirs.numpy()
    assert ours.shape == expected.shape
    assert ours.dtype == expected.dtype
    assert np.abs(ours - expected).max() <= tolerance * max(1, np.abs(expected).max())


def load(directory: Path, class_name: str, **arguments: Any) -> Any:
    return getattr(xlmr_np, class_name).from_pretrained(directory, **arguments)


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, transformers.PreTrainedModel]]:
    """For every class the directory of a checkpoint in float64, and transformers' own model of it."""
    saved = {}
    for class_name in CLASSES:
        directory = tmp_path_factory.mktemp(class_name)
        changes = {"is_decoder": True, "use_cache": False} if class_name == "XLMRobertaForCausalLM" else {}
        saved[class_name] = directory, save_reference(directory, class_name, **changes)
    return saved


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_logits_and_loss_equal_the_reference(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    case, tolerance = CASES[name], TOLERANCE[dtype]
    reference = save_reference(tmp_path, case.class_name, dtype, **case.changes)
    model = load(tmp_path, case.class_name)
    inputs = inputs_of(case)
    is_real = inputs["attention_mask"] == 1
    theirs = run_reference(reference, {**inputs, **case.labels})
    ours = model(**inputs, **case.labels)
    without_labels = model(**inputs)
    assert without_labels.loss is None
    if name == "spans":  # the reference's loss counts padding among the places to choose from; see below
        for ours_at, theirs_at in ((ours.start_logits, theirs.start_logits), (ours.end_logits, theirs.end_logits)):
            assert_close(ours_at[is_real], theirs_at[is_real], tolerance)
            assert (ours_at[~is_real] == -np.inf).all()
        return
    np.testing.assert_array_equal(without_labels.logits, ours.logits)
    if ours.logits.ndim == 3:  # one for each token
        assert_close(ours.logits[is_real], theirs.logits[is_real], tolerance)
        assert (ours.logits[~is_real] == 0).all()
    else:
        assert_close(ours.logits, theirs.logits, tolerance)
    assert ours.loss.shape == ()
    if "causal" in name:  # the reference computes this loss in float32, whatever the model's type
        assert abs(float(ours.loss) - float(theirs.loss)) <= 2e-6 * float(theirs.loss)
        expected = functional.cross_entropy(
            theirs.logits[:, :-1].flatten(0, 1), torch.asarray(case.labels["labels"])[:, 1:].flatten()
        )
        assert_close(ours.loss, expected, tolerance)
    else:
        assert_close(ours.loss, theirs.loss, tolerance)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("name", CASES)
def test_the_side_of_padding_changes_nothing(name: str, implementation: str) -> None:
    case = CASES[name]
    config = XLMRobertaConfig(**TINY, **case.changes)
    model = getattr(xlmr_np, case.class_name)(config, generator=np.random.default_rng(0), dtype="float64")
    model.set_attn_implementation(implementation)
    right, left = inputs_of(case), inputs_of(case, side="left")
    labels = case.labels
    if right["input_ids"].ndim == 2:
        moved = np.array([9 - length for length in LENGTHS])
        if name == "spans":
            labels = {key: places + moved for key, places in labels.items()}
        elif labels["labels"].shape == (3, 9):
            labels = {"labels": np.stack([np.roll(row, by) for row, by in zip(labels["labels"], moved, strict=True)])}
            if "causal" in name:
                labels["labels"][np.arange(3), moved] = -100  # nothing predicts a first token
    ours, other = model(**right, **case.labels), model(**left, **labels)
    np.testing.assert_allclose(other.loss, ours.loss, rtol=1e-12)
    fields = ("start_logits", "end_logits") if name == "spans" else ("logits",)
    for field in fields:
        first, second = ours[field], other[field]
        if first.shape[:2] == (3, 9):
            first, second = first[right["attention_mask"] == 1], second[left["attention_mask"] == 1]
        np.testing.assert_allclose(second, first, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_labels_may_be_lists_or_tensors(name: str) -> None:
    case = CASES[name]
    model = getattr(xlmr_np, case.class_name)(XLMRobertaConfig(**TINY, **case.changes))
    expected = model(**inputs_of(case), **case.labels).loss
    for convert in (np.ndarray.tolist, torch.asarray):
        labels = {key: convert(array) for key, array in case.labels.items()}
        np.testing.assert_array_equal(model(**inputs_of(case), **labels).loss, expected)


def test_the_config_keeps_its_problem_type() -> None:
    """The reference writes the type it infers at the first labels into the config, and keeps to it."""
    model = xlmr_np.XLMRobertaForSequenceClassification(XLMRobertaConfig(**TINY, num_labels=3))
    ids = random_ids([4, 4])
    single = model(ids, labels=[0, 2]).loss
    several = model(ids, labels=np.eye(3)[[0, 2]]).loss
    assert model.config.problem_type is None
    assert single != several


# Question answering


@pytest.fixture(scope="module")
def question_answering(references: dict) -> tuple[Any, Any]:
    directory, reference = references["XLMRobertaForQuestionAnswering"]
    return load(directory, "XLMRobertaForQuestionAnswering"), reference


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ([2, 0, 1], [6, 3, 1]),
        ([[2], [0], [1]], [[6], [3], [1]]),
        ([-1, -7, 3], [0, 2, -100]),  # in front of the row: the classification token
        ([7, 0, 99], [1, 7, 8]),  # behind the row: left out
    ],
    ids=["inside", "as columns", "in front", "behind"],
)
def test_positions_are_clamped_like_the_references(question_answering: tuple, start: list, end: list) -> None:
    model, reference = question_answering
    batch = {
        "input_ids": random_ids([7, 7, 7]),
        "start_positions": np.array(start),
        "end_positions": np.array(end),
    }
    ours, theirs = model(**batch), run_reference(reference, batch)
    assert_close(ours.loss, theirs.loss, 1e-10)
    assert_close(ours.start_logits, theirs.start_logits, 1e-10)
    assert_close(ours.end_logits, theirs.end_logits, 1e-10)


def test_an_answer_is_chosen_among_real_tokens(question_answering: tuple) -> None:
    """The reference's softmax counts padding, so that a question's loss depends on the longest of its batch."""
    model, reference = question_answering
    ids = random_ids(LENGTHS)
    positions = CASES["spans"].labels
    alone = [
        run_reference(
            reference,
            {"input_ids": ids[[row], :length], **{name: places[[row]] for name, places in positions.items()}},
        )
        for row, length in enumerate(LENGTHS)
    ]
    ours = model(ids, **positions)
    np.testing.assert_allclose(ours.loss, np.mean([float(each.loss) for each in alone]), rtol=1e-10)
    for row, each in enumerate(alone):
        assert ours.start_logits[row].argmax() == each.start_logits.numpy().argmax()
        assert ours.end_logits[row].argmax() == each.end_logits.numpy().argmax()


def test_one_position_alone_makes_no_loss(question_answering: tuple) -> None:
    model, _ = question_answering
    ids = random_ids([4])
    assert model(ids, start_positions=[1]).loss is None
    assert model(ids, end_positions=[1]).loss is None
    with pytest.raises(ValueError, match=r"A training step of \w+ needs start_positions and end_positions"):
        model.loss_and_gradients(input_ids=ids, start_positions=[1])


def test_question_answering_has_two_labels(references: dict) -> None:
    directory, _ = references["XLMRobertaForQuestionAnswering"]
    with pytest.raises(ValueError, match=r"two labels, start and end; the config has 3"):
        load(directory, "XLMRobertaForQuestionAnswering", num_labels=3)


# Multiple choice


def test_token_types_come_before_the_mask_in_multiple_choice(tmp_path: Path) -> None:
    reference = save_reference(tmp_path, "XLMRobertaForMultipleChoice", type_vocab_size=2)
    model = load(tmp_path, "XLMRobertaForMultipleChoice")
    inputs = inputs_of(CASES["choices"])
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    types = RANDOM.integers(0, 2, ids.shape)
    positions = np.where(mask == 1, RANDOM.integers(2, 34, ids.shape), 1)
    labels = np.array([0, 1, 1])
    arguments = (ids, types, mask, labels, positions)
    with torch.no_grad():
        theirs = reference(*map(torch.asarray, arguments))
    ours = model(*arguments)
    assert_close(ours.logits, theirs.logits, 1e-10)
    assert_close(ours.loss, theirs.loss, 1e-10)
    assert np.abs(ours.logits - model(ids, attention_mask=mask).logits).max() > 0.01  # types and positions matter


def test_choices_as_embeddings(references: dict) -> None:
    directory, reference = references["XLMRobertaForMultipleChoice"]
    model = load(directory, "XLMRobertaForMultipleChoice")
    embeddings = RANDOM.normal(size=(2, 3, 5, 24))
    theirs = run_reference(reference, {"inputs_embeds": embeddings})
    ours = model(inputs_embeds=embeddings)
    assert ours.logits.shape == (2, 3)
    assert_close(ours.logits, theirs.logits, 1e-10)


def test_choices_need_their_own_axis(references: dict) -> None:
    model = load(references["XLMRobertaForMultipleChoice"][0], "XLMRobertaForMultipleChoice")
    with pytest.raises(ValueError, match=r"input_ids .* questions, choices and tokens .*; its shape is \(3, 9\)"):
        model(random_ids(LENGTHS))
    with pytest.raises(ValueError, match=r"inputs_embeds .* also the width\); its shape is \(2, 5, 24\)"):
        model(inputs_embeds=np.zeros((2, 5, 24)))
    ids = inputs_of(CASES["choices"])["input_ids"]
    with pytest.raises(ValueError, match=r"different numbers of questions and choices: \[\(3, 1\), \(3, 2\)\]"):
        model(ids, attention_mask=ids[:, :1] != 1)


# Causal language modelling


@pytest.fixture(scope="module")
def causal(references: dict) -> tuple[XLMRobertaForCausalLM, Any]:
    directory, reference = references["XLMRobertaForCausalLM"]
    return load(directory, "XLMRobertaForCausalLM"), reference


@pytest.mark.parametrize(
    "settings",
    [{"num_items_in_batch": 7}, {"num_items_in_batch": 100.0}, {"num_items_in_batch": np.int64(3)}],
    ids=["few", "many", "an array"],
)
def test_the_sum_of_losses_may_be_divided_by_another_number(causal: tuple, settings: dict) -> None:
    model, reference = causal
    ids = random_ids(LENGTHS)
    batch = {"input_ids": ids, "attention_mask": (ids != 1).astype(int), "labels": padded_labels(61)}
    theirs = run_reference(reference, batch, **settings)
    ours = model(**batch, **settings)
    np.testing.assert_allclose(ours.loss, float(theirs.loss), rtol=1e-6)  # the reference computes it in float32
    number_of_labels = (batch["labels"][:, 1:] != -100).sum()
    plain = model(**batch).loss
    np.testing.assert_allclose(ours.loss * settings["num_items_in_batch"], plain * number_of_labels, rtol=1e-12)


def test_labels_that_are_shifted_already(causal: tuple) -> None:
    model, reference = causal
    ids = random_ids(LENGTHS)
    mask = (ids != 1).astype(int)
    labels = padded_labels(61)
    shifted = np.concatenate([labels[:, 1:], np.full((3, 1), -100)], axis=1)
    ours = model(ids, mask, shift_labels=shifted)
    np.testing.assert_allclose(ours.loss, model(ids, mask, labels=labels).loss, rtol=1e-13)
    elsewhere = np.where(mask == 1, ids, -100)  # every token predicts itself; the reference asks for labels beside them
    theirs = run_reference(
        reference, {"input_ids": ids, "attention_mask": mask, "labels": labels, "shift_labels": elsewhere}
    )
    ours = model(ids, mask, labels=labels, shift_labels=elsewhere)
    np.testing.assert_allclose(ours.loss, float(theirs.loss), rtol=1e-6)  # the reference computes it in float32


@given(
    lengths=st.lists(st.integers(1, 8), min_size=1, max_size=4),
    side=st.sampled_from(["right", "left"]),
    implementation=st.sampled_from(["sdpa", "eager"]),
    data=st.data(),
)
def test_a_later_token_changes_no_earlier_logits(causal: tuple, lengths, side, implementation, data) -> None:
    model, _ = causal
    ids = random_ids(lengths, side=side)
    row = data.draw(st.integers(0, len(lengths) - 1), label="row")
    place = data.draw(st.integers(0, lengths[row] - 1), label="place")
    column = place if side == "right" else ids.shape[1] - lengths[row] + place
    changed = ids.copy()
    changed[row, column] = 4 + (ids[row, column] - 3) % 57
    model.set_attn_implementation(implementation)
    before, after = model(ids).logits, model(changed).logits
    model.set_attn_implementation("sdpa")
    is_earlier = np.ones(ids.shape, bool)
    is_earlier[row, column:] = False
    np.testing.assert_array_equal(after[is_earlier], before[is_earlier])
    assert np.abs(after[row, column] - before[row, column]).max() > 1e-6


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_a_decoders_encoder_is_causal_like_the_references(tmp_path: Path, implementation: str) -> None:
    reference = save_reference(tmp_path, "XLMRobertaModel", is_decoder=True)
    model = XLMRobertaModel.from_pretrained(tmp_path)
    model.set_attn_implementation(implementation)
    ids = random_ids(LENGTHS)
    mask = (ids != 1).astype(int)
    theirs = run_reference(reference, {"input_ids": ids, "attention_mask": mask}, use_cache=False)
    ours = model(ids, mask)
    assert_close(ours.last_hidden_state[mask == 1], theirs.last_hidden_state[mask == 1], 1e-10)
    shorter = model(ids[:, :3]).last_hidden_state
    np.testing.assert_allclose(shorter, ours.last_hidden_state[:, :3], atol=1e-12)
    encoder = XLMRobertaModel.from_pretrained(tmp_path, is_decoder=False)
    assert np.abs(encoder(ids, mask).last_hidden_state[:, 0] - ours.last_hidden_state[:, 0]).max() > 0.01


def test_a_causal_model_is_causal_whatever_its_config_says(tmp_path: Path) -> None:
    """The reference warns and lets the tokens to be predicted be seen."""
    reference = save_reference(tmp_path, "XLMRobertaForCausalLM", is_decoder=False)
    model = XLMRobertaForCausalLM.from_pretrained(tmp_path)
    assert model.config.is_decoder is True
    ids = random_ids([6, 6])
    seeing = run_reference(reference, {"input_ids": ids}).logits.numpy()
    assert np.abs(model(ids).logits - seeing).max() > 0.01
    told = transformers.XLMRobertaForCausalLM.from_pretrained(tmp_path, is_decoder=True).eval()
    assert_close(model(ids).logits, run_reference(told, {"input_ids": ids}).logits, 1e-10)
    config = XLMRobertaConfig(**TINY)
    assert XLMRobertaForCausalLM(config).config.is_decoder is True
    assert config.is_decoder is False  # the caller's own stays as it is
    model.save_pretrained(tmp_path / "saved")
    assert XLMRobertaModel.from_pretrained(tmp_path / "saved").config.is_decoder is True


def test_a_robertas_weights_make_a_causal_model(tmp_path: Path) -> None:
    """As in the page's example: the encoder of another class and architecture, told to be a decoder."""
    torch.manual_seed(0)
    transformers.RobertaForMaskedLM(transformers.RobertaConfig(**TINY)).double().save_pretrained(tmp_path)
    config = xlmr_np.AutoConfig.from_pretrained(tmp_path)
    config.is_decoder = True
    theirs = transformers.XLMRobertaForCausalLM.from_pretrained(tmp_path, is_decoder=True).eval()
    ids = random_ids(LENGTHS)
    inputs = {"input_ids": ids, "attention_mask": (ids != 1).astype(int)}
    ours = XLMRobertaForCausalLM.from_pretrained(tmp_path, config=config)(**inputs).logits
    assert_close(ours[ids != 1], run_reference(theirs, inputs).logits[ids != 1], 1e-10)


def test_a_masked_model_warns_of_a_decoders_config(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_reference(tmp_path, "XLMRobertaForMaskedLM")
    XLMRobertaForMaskedLM.from_pretrained(tmp_path)
    assert not caplog.records
    model = XLMRobertaForMaskedLM.from_pretrained(tmp_path, is_decoder=True)
    assert "is_decoder=True: tokens see no later ones" in caplog.text
    ids = random_ids([6])
    np.testing.assert_allclose(model(ids[:, :3]).logits, model(ids).logits[:, :3], atol=1e-12)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(
    "wanted",
    [1, 3, 9, np.array([0, 5, 2, 5]), np.array([[8, 8], [0, 1], [3, 6]]), random_ids(LENGTHS) % 3 == 0],
    ids=["last", "last three", "all", "places", "places of each row", "booleans"],
)
def test_kept_logits_are_the_references(causal: tuple, wanted: Any, side: str, implementation: str) -> None:
    model, reference = causal
    ids = random_ids(LENGTHS, side=side)
    inputs = {"input_ids": ids, "attention_mask": (ids != 1).astype(int)}
    to_keep = wanted if isinstance(wanted, int) else torch.asarray(wanted)
    theirs = run_reference(reference, inputs, logits_to_keep=to_keep)
    is_real = slice_logits_to_keep(torch.asarray(ids != 1)[..., None], to_keep)[..., 0].numpy()
    model.set_attn_implementation(implementation)
    ours = model(**inputs, logits_to_keep=wanted)
    model.set_attn_implementation("sdpa")
    assert ours.logits.shape == theirs.logits.shape
    assert_close(ours.logits[is_real], theirs.logits[is_real], 1e-10)
    assert not ours.logits[~is_real].any()
    assert ours.loss is None


def test_a_cache_is_returned_unless_it_is_declined(causal: tuple) -> None:
    model, _ = causal
    ids = random_ids([4])
    assert model(ids, use_cache=True).past_key_values.get_seq_length() == ids.shape[1]
    assert model(ids, use_cache=False).past_key_values is None
    assert model(ids, labels=ids).past_key_values is None
    assert model(ids, attention_mask=np.ones((1, 4, 4))).past_key_values is None


# What all classes share


@pytest.mark.parametrize("class_name", CLASSES)
def test_the_arguments_of_forward_are_the_references_in_their_order(class_name: str) -> None:
    ours, theirs = (
        [
            (parameter.name, parameter.default)
            for parameter in inspect.signature(getattr(library, class_name).forward).parameters.values()
            if parameter.kind == inspect.Parameter.POSITIONAL_OR_KEYWORD
        ]
        for library in (xlmr_np, transformers)
    )
    assert len(ours) > 5
    assert ours == theirs


def unpadded(class_name: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Inputs without padding, and labels."""
    case = next((each for each in CASES.values() if each.class_name == class_name), Case(class_name, {}, {}))
    inputs = inputs_of(case, lengths=[5, 5, 5])
    if class_name in ("XLMRobertaForMaskedLM", "XLMRobertaForCausalLM"):
        return inputs, {"labels": inputs["input_ids"]}
    labels = {
        "XLMRobertaModel": {},
        "XLMRobertaForSequenceClassification": {"labels": np.array([1, 0, 1])},
        "XLMRobertaForTokenClassification": {"labels": inputs["input_ids"] % 2},
        "XLMRobertaForQuestionAnswering": {
            "start_positions": np.array([1, 2, 3]),
            "end_positions": np.array([4, 2, 3]),
        },
        "XLMRobertaForMultipleChoice": {"labels": np.array([1, 0, 1])},
    }
    return inputs, labels[class_name]


@pytest.mark.parametrize("class_name", CLASSES)
def test_outputs_have_the_references_keys_and_order(references: dict, class_name: str) -> None:
    directory, reference = references[class_name]
    model = load(directory, class_name)
    inputs, labels = unpadded(class_name)
    requests = {"output_hidden_states": True, "output_attentions": True}
    reference.set_attn_implementation("eager")  # the only one of the reference's that returns attentions
    theirs = run_reference(reference, {**inputs, **labels}, **requests)
    reference.set_attn_implementation("sdpa")
    ours = model(**inputs, **labels, **requests)
    assert ours.keys() == [key for key in theirs if key != "cross_attentions"]  # which are empty
    for key in ours:
        if key in ("hidden_states", "attentions"):
            assert len(ours[key]) == len(theirs[key])
            for our_layer, their_layer in zip(ours[key], theirs[key], strict=True):
                assert_close(our_layer, their_layer, 1e-10)
        elif key == "loss":
            np.testing.assert_allclose(ours.loss, float(theirs.loss), rtol=1e-6)  # in float32 for causal LM
        else:
            assert_close(ours[key], theirs[key], 1e-10)
    entries = model(**inputs, **labels, **requests, return_dict=False)
    assert isinstance(entries, tuple)
    assert len(entries) == len(ours.keys())
    for entry, key in zip(entries, ours, strict=True):
        if isinstance(entry, tuple):
            assert [layer.shape for layer in entry] == [layer.shape for layer in ours[key]]
        else:
            np.testing.assert_array_equal(entry, ours[key])
    plain = model(**inputs)
    assert plain.hidden_states is None
    assert plain.attentions is None
    assert len(model(**inputs, return_dict=False)) == len(plain.keys())


@pytest.mark.parametrize("class_name", CLASSES)
def test_auto_classes_make_each_class(references: dict, class_name: str) -> None:
    directory, _ = references[class_name]
    auto = getattr(xlmr_np, CLASSES[class_name])
    model = auto.from_pretrained(directory)
    assert type(model).__name__ == class_name
    inputs, _ = unpadded(class_name)
    np.testing.assert_array_equal(model(**inputs)[0], load(directory, class_name)(**inputs)[0])
    assert type(auto.from_config(XLMRobertaConfig(**TINY))).__name__ == class_name


@pytest.mark.parametrize("class_name", CLASSES)
def test_what_is_saved_loads_here_and_in_the_reference(references: dict, class_name: str, tmp_path: Path) -> None:
    directory, reference = references[class_name]
    model = load(directory, class_name)
    assert model.load_report.is_as_expected
    model.save_pretrained(tmp_path)
    theirs, information = getattr(transformers, class_name).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(information.values())
    assert theirs.config.architectures == [class_name]
    again = load(tmp_path, class_name)
    inputs, labels = unpadded(class_name)
    expected = run_reference(reference, {**inputs, **labels})
    ours = again(**inputs, **labels)
    for key, array in run_reference(theirs, {**inputs, **labels}).items():
        if key != "past_key_values":
            np.testing.assert_allclose(array, expected[key], atol=1e-12)
            np.testing.assert_allclose(ours[key], model(**inputs, **labels)[key], atol=1e-12)
    for name, tensor in theirs.state_dict().items():
        np.testing.assert_array_equal(tensor, reference.state_dict()[name])
        np.testing.assert_array_equal(again.state_dict()[name], tensor)


@pytest.mark.parametrize("class_name", ["XLMRobertaForSequenceClassification", "XLMRobertaForTokenClassification"])
def test_another_number_of_labels_makes_a_new_classifier(
    references: dict, class_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    directory, _ = references[class_name]
    with pytest.raises(OSError, match=r"of another shape .*classifier.*ignore_mismatched_sizes=True"):
        load(directory, class_name, num_labels=7)
    model = load(directory, class_name, num_labels=7, ignore_mismatched_sizes=True)
    last = HEAD_NAMES[class_name][-2:]
    assert tuple(mismatch.name for mismatch in model.load_report.mismatched) == last
    assert [mismatch.in_model[0] for mismatch in model.load_report.mismatched] == [7, 7]
    assert f"other shape, initialised at random: {last[0]}" in caplog.text
    assert model(random_ids([4])).logits.shape[-1] == 7
    before = load(directory, class_name).state_dict()
    for name, array in model.state_dict().items():
        if name not in last:
            np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("class_name", CLASSES)
def test_a_language_models_checkpoint_loads_into_every_class(
    references: dict, class_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    directory, reference = references["XLMRobertaForMaskedLM"]
    settings = {"add_pooling_layer": True} if class_name == "XLMRobertaModel" else {}
    model = load(directory, class_name, **settings)
    assert model.load_report.missing == HEAD_NAMES[class_name]
    assert not model.load_report.mismatched
    assert ("missing, initialised at random" in caplog.text) == bool(HEAD_NAMES[class_name])
    theirs = {name.removeprefix("roberta."): tensor.numpy() for name, tensor in reference.state_dict().items()}
    for name, array in model.state_dict().items():
        if name not in HEAD_NAMES[class_name]:
            np.testing.assert_array_equal(array, theirs[name.removeprefix("roberta.")])
    inputs, labels = unpadded(class_name)
    for array in model(**inputs, **labels).to_tuple():
        assert np.isfinite(array).all()


@pytest.mark.parametrize("class_name", CLASSES)
def test_only_multiple_choice_has_a_pooler_below_its_head(class_name: str) -> None:
    names = getattr(xlmr_np, class_name)(XLMRobertaConfig(**TINY)).state_dict().keys()
    poolers = {name for name in names if "pooler" in name}
    expected = {
        "XLMRobertaModel": {"pooler.dense.weight", "pooler.dense.bias"},
        "XLMRobertaForMultipleChoice": {"roberta.pooler.dense.weight", "roberta.pooler.dense.bias"},
    }
    assert poolers == expected.get(class_name, set())


# A training step


class Step(NamedTuple):
    """A model with all that a training step of it needs."""

    model: XLMRobertaPreTrainedModel
    inputs: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]


LEARNING_CLASSES = [name for name in CLASSES if name != "XLMRobertaModel"]


@pytest.fixture(params=LEARNING_CLASSES)
def step(request: pytest.FixtureRequest, references: dict) -> Step:
    inputs, labels = unpadded(request.param)
    return Step(load(references[request.param][0], request.param), inputs, labels)


def test_a_training_step_gives_the_loss_and_gradients_of_all_parameters(step: Step) -> None:
    output, gradients = step.model.loss_and_gradients(**step.inputs, **step.labels)
    np.testing.assert_allclose(output.loss, step.model(**step.inputs, **step.labels).loss, rtol=1e-12)
    named, params = step.model.named(gradients), step.model.named(step.model.params)
    assert {name: each.shape for name, each in named.items()} == {name: each.shape for name, each in params.items()}
    assert {each.dtype for each in named.values()} == {np.dtype(np.float64)}


def test_an_unknown_argument_of_a_training_step_is_named(step: Step) -> None:
    with pytest.raises(TypeError, match="takes no foo"):
        step.model.loss_and_gradients(**step.inputs, **step.labels, foo=1)
    with pytest.raises(TypeError, match="got unknown arguments: foo"):
        step.model(**step.inputs, foo=1)


def test_a_seed_is_no_generator(step: Step) -> None:
    with pytest.raises(TypeError, match=r"generator must be a numpy\.random\.Generator, .*; it is 0\."):
        step.model.loss_and_gradients(0, **step.inputs, **step.labels)


def test_only_causal_models_take_a_number_of_items(step: Step) -> None:
    """The reference's others ignore it without a word."""
    batch = {**step.inputs, **step.labels, "num_items_in_batch": 3}
    if isinstance(step.model, XLMRobertaForCausalLM):
        expected = step.model(**batch).loss
        np.testing.assert_allclose(step.model.loss_and_gradients(**batch)[0].loss, expected, rtol=1e-12)
    else:
        with pytest.raises(TypeError, match="num_items_in_batch"):
            step.model(**batch)
        with pytest.raises(TypeError, match="num_items_in_batch"):
            step.model.loss_and_gradients(**batch)


@pytest.mark.parametrize("request_name", ["output_attentions", "output_hidden_states", "return_dict"])
def test_a_training_step_takes_no_requests(step: Step, request_name: str) -> None:
    with pytest.raises(TypeError, match=f"A training step of {type(step.model).__name__} takes no {request_name}"):
        step.model.loss_and_gradients(**step.inputs, **step.labels, **{request_name: True})


def test_a_training_step_needs_labels(step: Step) -> None:
    with pytest.raises(ValueError, match=r"A training step of \w+ needs (labels|start_positions and end_positions)\."):
        step.model.loss_and_gradients(**step.inputs)


def test_a_training_step_needs_a_real_token(step: Step) -> None:
    nothing = {"input_ids": np.ones_like(step.inputs["input_ids"])}
    left_out = {name: np.full(np.shape(array), -100) for name, array in step.labels.items()}
    if "start_positions" in left_out:
        left_out = dict.fromkeys(left_out, np.array([5, 5, 5]))
    with pytest.raises(ValueError, match="The batch holds no real token; there is nothing to learn from"):
        step.model.loss_and_gradients(**nothing, **left_out)
    assert step.model(**nothing, **left_out).loss == 0
    with pytest.raises(ValueError, match=r" 0 has no real token|is padding"):
        step.model.loss_and_gradients(**nothing, **step.labels)


def test_a_tokenizers_batch_is_taken_whole(small_vocabulary: Path) -> None:
    tokenizer = xlmr_np.XLMRobertaTokenizer(small_vocabulary)
    batch = tokenizer(
        ["Hello", "a longer text, and more"], padding=True, return_tensors="np", return_token_type_ids=True
    )
    config = XLMRobertaConfig(**{**TINY, "vocab_size": tokenizer.vocab_size}, num_labels=3)
    model = xlmr_np.XLMRobertaForSequenceClassification(config)
    output, gradients = model.loss_and_gradients(**batch, labels=np.array([0, 2]))
    np.testing.assert_allclose(output.loss, model(**batch, labels=np.array([0, 2])).loss, rtol=1e-6)
    touched = np.unique(batch.input_ids[batch.attention_mask == 1])
    np.testing.assert_array_equal(gradients.encoder.embeddings.token.index, touched)


# The bare encoder


@pytest.fixture
def encoder(references: dict) -> XLMRobertaModel:
    return XLMRobertaModel.from_pretrained(references["XLMRobertaModel"][0])


def test_the_outputs_of_vjp_are_those_of_forward(encoder: XLMRobertaModel) -> None:
    ids = random_ids(LENGTHS)
    output, _ = encoder.vjp(input_ids=ids, use_cache=False)
    expected = encoder(ids)
    np.testing.assert_allclose(output.last_hidden_state, expected.last_hidden_state, atol=1e-13)
    np.testing.assert_allclose(output.pooler_output, expected.pooler_output, atol=1e-13)


def test_a_forward_pass_is_taken_back_once(encoder: XLMRobertaModel) -> None:
    output, backward = encoder.vjp(input_ids=random_ids(LENGTHS))
    d_pooled = np.ones_like(output.pooler_output)
    backward(d_pooler_output=d_pooled)
    with pytest.raises(RuntimeError, match=r"taken back once only; call vjp\(\) again"):
        backward(d_pooler_output=d_pooled)


def test_the_gradients_of_outputs_have_their_shapes(references: dict, encoder: XLMRobertaModel) -> None:
    output, backward = encoder.vjp(input_ids=random_ids(LENGTHS))
    with pytest.raises(ValueError, match=r"gradient of an output \(3, 9, 24\) has the shape \(3, 9, 23\)"):
        backward(output.last_hidden_state[..., :-1])
    with pytest.raises(ValueError, match=r"gradient of an output \(3, 24\) has the shape \(24,\)"):
        backward(d_pooler_output=output.pooler_output[0])
    backward(output.last_hidden_state)  # what was refused has used nothing up
    unpooled = XLMRobertaModel.from_pretrained(references["XLMRobertaModel"][0], add_pooling_layer=False)
    _, backward = unpooled.vjp(input_ids=random_ids(LENGTHS))
    with pytest.raises(ValueError, match="d_pooler_output is given, but this model has no pooling layer"):
        backward(d_pooler_output=output.pooler_output)


def test_vjp_checks_its_arguments_too(encoder: XLMRobertaModel) -> None:
    with pytest.raises(TypeError, match="takes no output_attentions"):
        encoder.vjp(input_ids=random_ids(LENGTHS), output_attentions=True)
    with pytest.raises(ValueError, match="The batch holds no real token"):
        encoder.vjp(input_ids=np.ones((2, 3), int))
    with pytest.raises(ValueError, match=r"input_ids\[0, 0\] is 61"):
        encoder.vjp(input_ids=[[61]])


def test_the_bare_encoder_has_no_loss(encoder: XLMRobertaModel) -> None:
    with pytest.raises(TypeError, match="got unknown arguments: labels"):
        encoder(random_ids(LENGTHS), labels=[1, 2, 3])
    assert not hasattr(encoder, "loss_and_gradients")


def test_a_step_changes_nothing_in_the_model(step: Step, caplog: pytest.LogCaptureFixture) -> None:
    before = {name: array.copy() for name, array in step.model.state_dict().items()}
    step.model.loss_and_gradients(**step.inputs, **step.labels)
    for name, array in step.model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_model_can_be_pickled(step: Step) -> None:
    copied = pickle.loads(pickle.dumps(step.model))
    ours, theirs = (model.loss_and_gradients(**step.inputs, **step.labels)[0].loss for model in (copied, step.model))
    assert ours == theirs


def test_logits_are_not_both_kept_and_compared_with_labels() -> None:
    """The reference compares those that are kept with all labels, and fails over their number."""
    model = xlmr_np.XLMRobertaForCausalLM(xlmr_np.XLMRobertaConfig(**TINY))
    ids = random_ids([4])
    for call in (model, model.loss, model.loss_and_gradients):
        for labels in ({"labels": ids}, {"shift_labels": ids}):
            with pytest.raises(ValueError, match="logits_to_keep has no meaning beside labels"):
                call(input_ids=ids, **labels, logits_to_keep=2)
            call(input_ids=ids, **labels, logits_to_keep=0)


def test_a_seed_draws_no_parameters() -> None:
    config = xlmr_np.XLMRobertaConfig(**TINY)
    with pytest.raises(TypeError, match=r"generator must be a numpy.random.Generator, .*; it is 3"):
        xlmr_np.XLMRobertaModel(config, generator=3)
    with pytest.raises(TypeError, match=r"generator must be a numpy.random.Generator, .*; it is 3"):
        xlmr_np.XLMRobertaModel(config).resize_token_embeddings(70, generator=3)
