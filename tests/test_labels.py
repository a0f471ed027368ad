"""Labels are checked at the door: what counts, what is an error, and what is said about it."""

import logging
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import xlmr_np
from tests.reference_models import TINY, random_ids
from xlmr_np import XLMRobertaConfig, trees
from xlmr_np.arrays import dtype_from_name
from xlmr_np.labels import (
    check_smoothing,
    class_labels,
    counted_items,
    sequence_labels,
    span_labels,
    token_labels,
)
from xlmr_np.row_sparse import RowSparse

IS_REAL = np.array([[True, True, False], [False, True, True]])
HAS_TOKEN = np.array([True, True])
INTEGER_TYPES = (np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64)
SINGLE, SEVERAL, NUMBER = "single_label_classification", "multi_label_classification", "regression"


@pytest.mark.parametrize("dtype", INTEGER_TYPES)
def test_integers_of_every_type_are_labels(dtype: type) -> None:
    tokens = np.array([[3, 0, -100], [-100, 2, 1]])
    if np.issubdtype(dtype, np.signedinteger):  # without a sign there is no -100, and everything must be real
        np.testing.assert_array_equal(token_labels(tokens.astype(dtype), IS_REAL, 4), tokens)
    np.testing.assert_array_equal(token_labels(np.array([[3, 0]], dtype), IS_REAL[:1, :2], 4), [[3, 0]])
    np.testing.assert_array_equal(class_labels(np.array([2, 0], dtype), HAS_TOKEN, 3), [2, 0])
    start, end = span_labels(np.array([0, 100], dtype), np.array([1, 2], dtype), IS_REAL)
    np.testing.assert_array_equal(start, [0, -100])
    np.testing.assert_array_equal(end, [1, 2])
    for labels in (token_labels(np.array([[1, 1]], dtype), IS_REAL[:1, :2], 4), start, end):
        assert labels.dtype == np.int64


@pytest.mark.parametrize("convert", [list, tuple, torch.asarray], ids=lambda convert: convert.__name__)
def test_lists_and_tensors_are_labels(convert: Any) -> None:
    np.testing.assert_array_equal(token_labels(convert([[3, 0, -100], [-100, 2, 1]]), IS_REAL, 4)[0], [3, 0, -100])
    np.testing.assert_array_equal(class_labels(convert([2, -100]), HAS_TOKEN, 3), [2, -100])
    problem_type, answers = sequence_labels(convert([0.5, 2.5]), None, HAS_TOKEN, 1)
    assert problem_type == NUMBER
    np.testing.assert_array_equal(answers, [[0.5], [2.5]])
    np.testing.assert_array_equal(span_labels(convert([1, 2]), convert([1, 2]), IS_REAL)[0], [1, 2])


def test_what_a_network_computed_is_no_label() -> None:
    for labels in (torch.ones(2, requires_grad=True), torch.ones(2, dtype=torch.bfloat16)):
        with pytest.raises(TypeError, match=r"labels cannot be read as a NumPy array .*; pass one"):
            sequence_labels(labels, NUMBER, HAS_TOKEN, 1)


BAD_TOKENS = {
    "too large": (
        [[4, 0, -100], [-100] * 3],
        ValueError,
        r"labels\[0, 0\] is 4; .*number of classes of 4 allows 0 to 3",
    ),
    "negative": ([[0, -1, -100], [-100] * 3], ValueError, r"labels\[0, 1\] is -1; .* allows 0 to 3"),
    "huge": (np.full((2, 3), 2**64 - 100, np.uint64), ValueError, r"labels\[0, 0\] is 18446744073709551516; .*0 to 3"),
    "at padding": (
        [[0, 0, -100], [2, 0, 0]],
        ValueError,
        r"labels\[1, 0\] is 2, but there is padding; write -100 there",
    ),
    "too short": ([[0, 0], [0, 0]], ValueError, r"labels has shape \(2, 2\), but the inputs ask for \(2, 3\)"),
    "too few": ([[0, 0, -100]], ValueError, r"labels has shape \(1, 3\), but the inputs ask for \(2, 3\)"),
    "flat": ([0, 0, 0], ValueError, r"labels must have the axes \[batch, tokens\].*its shape is \(3,\)"),
    "empty": (np.zeros((0, 3), int), ValueError, r"none of them empty; its shape is \(0, 3\)"),
    "ragged": ([[0, 0, 0], [0]], ValueError, "labels has rows of different lengths; make them equal"),
    "floats": (np.zeros((2, 3)), TypeError, "labels must be an array of integers; it holds float64"),
    "booleans": (np.zeros((2, 3), bool), TypeError, "labels must be an array of integers; it holds bool"),
    "words": ([["O"] * 3] * 2, TypeError, "labels must be an array of integers; it holds <U1"),
    "nothing": ([[None] * 3] * 2, TypeError, "labels must be an array of integers; it holds object"),
}


@pytest.mark.parametrize("name", BAD_TOKENS)
def test_bad_labels_of_tokens_are_named(name: str) -> None:
    labels, error, message = BAD_TOKENS[name]
    with pytest.raises(error, match=message):
        token_labels(labels, IS_REAL, 4)


def test_a_message_calls_labels_by_the_callers_name() -> None:
    with pytest.raises(ValueError, match=r"shift_labels\[0, 2\] is 1, but there is padding"):
        token_labels([[0, 0, 1], [-100] * 3], IS_REAL, 4, "shift_labels")


BAD_SEQUENCES = {
    "too large": ([0, 3], SINGLE, r"labels\[1\] is 3; .*number of classes of 3 allows 0 to 2"),
    "negative": ([-1, 0], SINGLE, r"labels\[0\] is -1; .* allows 0 to 2"),
    "too few": ([0], SINGLE, r"labels has shape \(1,\), but the inputs ask for \(2,\)"),
    "one-hot": ([[0, 1, 0], [1, 0, 0]], SINGLE, r"labels has shape \(2, 3\), but the inputs ask for \(2,\)"),
    "a number": (1, SINGLE, r"labels must have the shape \[batch\] or \[batch, labels\]; theirs is \(\)"),
    "three axes": (np.zeros((2, 3, 1)), SEVERAL, r"theirs is \(2, 3, 1\)"),
    "empty": ([], NUMBER, r"theirs is \(0,\)"),
    "ragged": ([[0, 1], [1]], None, "labels has rows of different lengths"),
    "integers of several labels": (
        [[0, 1, 0], [1, 0, 0]],
        None,
        r'labels of shape \(2, 3\) hold integers: .* pass floats or set problem_type="multi_label_classification"',
    ),
    "above one": ([[0, 1, 0], [0, 2, 0]], SEVERAL, r"labels\[1, 1\] is 2\.0; whether a label applies goes from 0 to 1"),
    "below zero": ([[0, -0.5, 0], [0, 1, 0]], SEVERAL, r"labels\[0, 1\] is -0\.5; .* from 0 to 1"),
    "ignored": ([[0, -100, 0], [0, 1, 0]], SEVERAL, r"labels\[0, 1\] is -100\.0; .* from 0 to 1"),
    "flat": ([0.0, 1.0], SEVERAL, r"labels has shape \(2,\), but the inputs ask for \(2, 3\)"),
    "too narrow": ([[0.0, 1.0], [1.0, 0.0]], None, r"labels has shape \(2, 2\), but the inputs ask for \(2, 3\)"),
    "one column": ([[0.0], [1.0]], NUMBER, r"labels has shape \(2, 1\), but the inputs ask for \(2, 3\)"),
    **{
        f"{value} in {problem_type}": (
            [[0, value, 0], [0, 1, 0]],
            problem_type,
            rf"labels\[0, 1\] is {value}; labels must be finite numbers",
        )
        for value in (np.nan, np.inf, -np.inf)
        for problem_type in (NUMBER, SEVERAL)
    },
}


@pytest.mark.parametrize("name", BAD_SEQUENCES)
def test_bad_labels_of_sentences_are_named(name: str) -> None:
    labels, problem_type, message = BAD_SEQUENCES[name]
    with pytest.raises(ValueError, match=message):
        sequence_labels(labels, problem_type, HAS_TOKEN, 3)


@pytest.mark.parametrize("labels", [[0.0, 1.0], [True, False]], ids=["floats", "booleans"])
def test_classes_are_integers(labels: list) -> None:
    with pytest.raises(TypeError, match=r"labels must be integers, one for each row; they are (float64|bool)"):
        sequence_labels(labels, SINGLE, HAS_TOKEN, 3)
    with pytest.raises(TypeError, match=r"classes and must be integers; these are (float64|bool)\. .* \[batch, 3\]"):
        sequence_labels(labels, None, HAS_TOKEN, 3)


def test_words_are_no_labels() -> None:
    with pytest.raises(TypeError, match="labels must be numbers; these are <U4"):
        sequence_labels(["good", "bad"], None, HAS_TOKEN, 3)


def test_numbers_in_bfloat16_are_taken() -> None:
    labels = np.array([0.5, 1.5]).astype(dtype_from_name("bfloat16"))
    np.testing.assert_array_equal(sequence_labels(labels, None, HAS_TOKEN, 1)[1], [[0.5], [1.5]])


def test_a_sentence_without_a_token_has_no_label() -> None:
    has_token = np.array([True, False])
    for labels, problem_type in (([0, 1], SINGLE), (np.zeros((2, 3)), SEVERAL), (np.zeros((2, 3)), NUMBER)):
        with pytest.raises(ValueError, match=r"labels\[1\] is given, but row 1 has no real token"):
            sequence_labels(labels, problem_type, has_token, 3)
    np.testing.assert_array_equal(class_labels([2, -100], has_token, 3), [2, -100])


@pytest.mark.parametrize(
    ("labels", "number_of_labels", "expected"),
    [
        ([1, 2], 1, NUMBER),
        ([1.0, 2.0], 1, NUMBER),
        ([1, 2], 3, SINGLE),
        (np.array([1, 2], np.int32), 3, SINGLE),
        ([[1], [2]], 3, SINGLE),
        (np.eye(3)[:2], 3, SEVERAL),
        (np.eye(3, dtype=bool)[:2], 3, SEVERAL),
    ],
)
def test_the_problem_type_is_inferred(labels: Any, number_of_labels: int, expected: str) -> None:
    problem_type, answers = sequence_labels(labels, None, HAS_TOKEN, number_of_labels)
    assert problem_type == expected
    assert answers.dtype == (np.int64 if expected == SINGLE else np.float64)
    assert answers.shape == ((2,) if expected == SINGLE else (2, number_of_labels))


def test_several_labels_may_be_integers_where_the_config_says_so() -> None:
    _, answers = sequence_labels([[0, 1, 0], [1, 0, 1]], SEVERAL, HAS_TOKEN, 3)
    np.testing.assert_array_equal(answers, [[0.0, 1, 0], [1, 0, 1]])


BAD_SPANS = {
    "padding behind": ([2, 1], ValueError, r"start_positions\[0\] is 2, but there is padding; 3 leaves a question out"),
    "padding in front": ([0, 0], ValueError, r"start_positions\[1\] is 0, but there is padding; 3 leaves"),
    "floats": ([0.0, 1.0], TypeError, "start_positions must be integers, a place in each row; they are float64"),
    "booleans": ([False, True], TypeError, "start_positions must be integers, .*; they are bool"),
    "too few": ([1], ValueError, r"start_positions has shape \(1,\), but the inputs ask for \(2,\)"),
    "two columns": ([[0, 1], [1, 2]], ValueError, r"start_positions has shape \(2, 2\), .* ask for \(2,\)"),
    "a number": (1, ValueError, r"start_positions has shape \(\), but the inputs ask for \(2,\)"),
    "ragged": ([[0, 1], [1]], ValueError, "start_positions has rows of different lengths"),
    "a tensor to learn": (torch.ones(2, requires_grad=True), TypeError, "start_positions cannot be read as a NumPy"),
}


@pytest.mark.parametrize("name", BAD_SPANS)
def test_bad_positions_are_named(name: str) -> None:
    places, error, message = BAD_SPANS[name]
    with pytest.raises(error, match=message):
        span_labels(places, [1, 1], IS_REAL)
    with pytest.raises(error, match=message.replace("start", "end")):
        span_labels([1, 1], places, IS_REAL)


def test_positions_outside_the_row() -> None:
    start, end = span_labels([-1, -9], [3, 10**12], IS_REAL)
    np.testing.assert_array_equal(start, [0, 1])  # the first real token, wherever the padding is
    np.testing.assert_array_equal(end, [-100, -100])
    np.testing.assert_array_equal(span_labels(np.array([2**64 - 1, 1], np.uint64), [[1], [1]], IS_REAL)[0], [-100, 1])
    with pytest.raises(ValueError, match=r"start_positions\[0\] is -1, but there is padding; 3 leaves a question out"):
        span_labels([-1, 0], [3, 0], np.array([[False] * 3, [True] * 3]))


@pytest.mark.parametrize("number", [0, -3, float("nan"), float("inf"), np.float32(-1)])
def test_the_number_of_items_is_above_zero(number: float) -> None:
    with pytest.raises(ValueError, match=r"num_items_in_batch must be a number above 0; it is .*(0|-3|nan|inf|-1)"):
        counted_items(np.array([1, 2]), number)


def test_the_number_of_items_scales_the_mean() -> None:
    labels = np.array([5, -100, 7, -100, 0])
    is_counted, scale = counted_items(labels)
    np.testing.assert_array_equal(is_counted, [True, False, True, False, True])
    assert scale == 1.0
    for number in (6, 6.0, np.int64(6), torch.tensor(6)):
        assert counted_items(labels, number)[1] == 0.5


# Through the models


class Ignored(NamedTuple):
    """A class, what its config says, and labels that leave everything out, for two sentences of four tokens."""

    class_name: str
    labels: dict[str, Any]
    settings: dict[str, Any]


TOKENS = np.full((2, 4), -100)
IGNORED = {
    "masked LM": Ignored("XLMRobertaForMaskedLM", {"labels": TOKENS}, {}),
    "untied masked LM": Ignored("XLMRobertaForMaskedLM", {"labels": TOKENS}, {"tie_word_embeddings": False}),
    "causal LM": Ignored("XLMRobertaForCausalLM", {"labels": TOKENS}, {}),
    "shifted labels": Ignored("XLMRobertaForCausalLM", {"shift_labels": TOKENS}, {}),
    # first tokens, which nothing predicts
    "first tokens": Ignored("XLMRobertaForCausalLM", {"labels": [[5, -100, -100, -100]] * 2}, {}),
    "a part of a batch": Ignored("XLMRobertaForCausalLM", {"labels": TOKENS, "num_items_in_batch": 5}, {}),
    "classes": Ignored(
        "XLMRobertaForSequenceClassification", {"labels": [-100, -100]}, {"problem_type": SINGLE, "num_labels": 3}
    ),
    "token classes": Ignored("XLMRobertaForTokenClassification", {"labels": TOKENS}, {}),
    "spans": Ignored("XLMRobertaForQuestionAnswering", {"start_positions": [4, 9], "end_positions": [4, 4]}, {}),
    "choices": Ignored("XLMRobertaForMultipleChoice", {"labels": [-100, -100]}, {}),
}


def make(class_name: str, **settings: Any) -> Any:
    return getattr(xlmr_np, class_name)(XLMRobertaConfig(**TINY, **settings), generator=np.random.default_rng(0))


def ids_for(class_name: str) -> np.ndarray:
    ids = random_ids([4, 3])
    return (
        np.stack([ids, np.where(ids == 1, 1, 65 - ids)], axis=1) if class_name == "XLMRobertaForMultipleChoice" else ids
    )


@pytest.mark.parametrize("name", IGNORED)
def test_if_every_label_is_left_out_the_loss_is_zero(name: str, caplog: pytest.LogCaptureFixture) -> None:
    class_name, labels, settings = IGNORED[name]
    model, ids = make(class_name, **settings), ids_for(class_name)
    with np.errstate(all="raise", under="ignore"):
        assert model(ids, **labels).loss == 0
        assert [record.getMessage() for record in caplog.records] == ["Every label is left out, so that the loss is 0."]
        assert caplog.records[0].levelno == logging.WARNING
        output, gradients = model.loss_and_gradients(input_ids=ids, **labels)
    assert output.loss == 0
    assert len(caplog.records) == 2
    for gradient in trees.leaves(gradients):
        array = gradient.rows if isinstance(gradient, RowSparse) else gradient
        assert (array == 0).all()


@pytest.mark.parametrize("name", IGNORED)
def test_one_label_makes_a_loss_without_a_warning(name: str, caplog: pytest.LogCaptureFixture) -> None:
    class_name, labels, settings = IGNORED[name]
    first = next(iter(labels))
    counted = np.array(labels[first])
    counted.flat[1] = 1  # of the second sentence, or at the second token of the first
    output, gradients = make(class_name, **settings).loss_and_gradients(
        input_ids=ids_for(class_name), **{**labels, first: counted}
    )
    assert output.loss > 0
    assert not caplog.records
    token = gradients.encoder.embeddings.token
    assert ((token.rows if isinstance(token, RowSparse) else token) != 0).any()


@pytest.mark.parametrize("name", ["labels", "shift_labels"])
def test_models_check_labels_of_tokens(name: str) -> None:
    model, ids = make("XLMRobertaForCausalLM"), random_ids([4, 3])
    with pytest.raises(ValueError, match=rf"{name}\[1, 3\] is 1, but there is padding; write -100 there"):
        model(ids, **{name: ids})
    with pytest.raises(ValueError, match=rf"{name}\[0, 0\] is 61; .*number of classes of 61 allows 0 to 60"):
        model.loss_and_gradients(input_ids=ids, **{name: np.full((2, 4), 61)})
    with pytest.raises(ValueError, match="num_items_in_batch must be a number above 0; it is 0"):
        model(ids, **{name: np.where(ids == 1, -100, ids)}, num_items_in_batch=0)


def test_a_mask_makes_padding_of_tokens() -> None:
    model, ids = make("XLMRobertaForTokenClassification"), random_ids([4, 4])
    mask = np.array([[1, 1, 1, 1], [1, 1, 1, 0]])
    with pytest.raises(ValueError, match=r"labels\[1, 3\] is 0, but there is padding"):
        model(ids, mask, labels=np.zeros((2, 4), int))
    assert np.isfinite(model(ids, mask, labels=np.where(mask == 1, 0, -100)).loss)
    answers = make("XLMRobertaForQuestionAnswering")
    with pytest.raises(ValueError, match=r"end_positions\[1\] is 3, but there is padding"):
        answers(ids, mask, start_positions=[0, 1], end_positions=[3, 3])


def test_choices_are_labels_of_multiple_choice() -> None:
    model, ids = make("XLMRobertaForMultipleChoice"), ids_for("XLMRobertaForMultipleChoice")
    with pytest.raises(ValueError, match=r"labels\[1\] is 2; .* of 2 allows 0 to 1"):
        model(ids, labels=[0, 2])
    with pytest.raises(TypeError, match="labels must be integers"):
        model(ids, labels=[0.0, 1.0])
    with pytest.raises(ValueError, match=r"labels has shape \(4,\), but the inputs ask for \(2,\)"):
        model(ids, labels=[0, 1, 0, 1])
    ids[1, 1] = 1
    with pytest.raises(ValueError, match=r"labels\[1\] is 1, but that choice of question 1 has no real token"):
        model(ids, labels=[0, 1])
    output, gradients = model.loss_and_gradients(input_ids=ids, labels=[0, 0])
    assert output.logits[1, 1] == -np.inf
    assert np.isfinite(output.loss)
    assert all(
        np.isfinite(leaf.rows if isinstance(leaf, RowSparse) else leaf).all() for leaf in trees.leaves(gradients)
    )
    np.testing.assert_array_equal(model(ids, labels=[[0], [-100]]).loss, model(ids, labels=[0, -100]).loss)


def test_labels_are_left_alone() -> None:
    model, ids = make("XLMRobertaForMaskedLM"), random_ids([4, 3])
    labels = np.where(ids == 1, -100, ids)
    before = labels.copy()
    labels.flags.writeable = False
    model.loss_and_gradients(input_ids=ids, labels=labels)
    np.testing.assert_array_equal(labels, before)


@pytest.mark.parametrize("share", [0, 0.0, 0.1, np.float32(0.25), np.float64(0.999)])
def test_a_share_is_a_plain_number(share: Any) -> None:
    """NumPy's own numbers would widen what is computed in float32."""
    smoothing = check_smoothing(share)
    assert smoothing == share
    assert type(smoothing) is float


@pytest.mark.parametrize("wrong", [1, -1e-9, 2, np.nan, np.inf, True, "0.1", None, np.array(0.1), 1j], ids=repr)
def test_a_share_is_from_0_to_below_1(wrong: Any) -> None:
    with pytest.raises(ValueError, match="label_smoothing must be a number from 0"):
        check_smoothing(wrong)
