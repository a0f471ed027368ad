"""The cross-entropy against torch's and transformers', and where theirs are undefined."""

import warnings

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.gradients import check_gradients
from tests.libraries import LIBRARIES, Library, check_record, to_numpy
from tests.reference_models import label_smoother_loss
from xlmr_np.arrays import array_namespace
from xlmr_np.heads.causal_lm import next_token_labels
from xlmr_np.losses.cross_entropy import IGNORED_LABEL, cross_entropy_backward, cross_entropy_forward

RANDOM = np.random.default_rng(2)
LABELS = np.array([0, 4, -100, 2, -100, 1])
SCALES = np.linspace(1.0, 50.0, 6)[:, None]
LOGITS = RANDOM.normal(size=(6, 5)) * SCALES
EVERY_SMOOTHING = pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])


def loss_and_gradient(
    logits: np.ndarray, labels: np.ndarray, d_loss: float = 1.0, smoothing: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Both, with every warning an error: nothing undefined is computed on the way."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss, cache = cross_entropy_forward(logits, labels, smoothing)
        return loss, cross_entropy_backward(np.array(d_loss), cache, labels, smoothing)


def test_the_ignored_label() -> None:
    assert IGNORED_LABEL == -100


@EVERY_SMOOTHING
@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.name)
def test_equals_torch(library: Library, smoothing: float) -> None:
    logits, labels = library.array(LOGITS), library.array(LABELS)
    loss, cache = cross_entropy_forward(logits, labels, smoothing)
    tensor = torch.tensor(LOGITS, requires_grad=True)
    expected = functional.cross_entropy(tensor, torch.asarray(LABELS), label_smoothing=smoothing)
    np.testing.assert_allclose(to_numpy(loss), expected.detach(), rtol=1e-13)
    np.testing.assert_allclose(to_numpy(cache.probabilities), functional.softmax(torch.asarray(LOGITS), 1), atol=1e-14)
    check_record(cache)
    (3.0 * expected).backward()
    d_logits = cross_entropy_backward(library.array(np.array(3.0)), cache, labels, smoothing)
    np.testing.assert_allclose(to_numpy(d_logits), tensor.grad, atol=1e-14)
    assert not to_numpy(d_logits)[LABELS == -100].any()


@EVERY_SMOOTHING
@pytest.mark.parametrize("is_causal", [False, True])
def test_smoothed_labels_equal_transformers(is_causal: bool, smoothing: float) -> None:
    logits, labels = RANDOM.normal(size=(3, 7, 11)), RANDOM.integers(0, 11, (3, 7))
    labels[RANDOM.random((3, 7)) < 0.3] = -100
    tensor = torch.tensor(logits, requires_grad=True)
    expected = label_smoother_loss(tensor, torch.asarray(labels), smoothing, is_causal)
    expected.backward()
    own_labels = next_token_labels(labels, np.ones((3, 7), bool)) if is_causal else labels
    loss, d_logits = loss_and_gradient(logits.reshape(21, 11), own_labels.reshape(21), smoothing=smoothing)
    np.testing.assert_allclose(loss, expected.detach(), rtol=1e-13)  # a few roundings
    np.testing.assert_allclose(d_logits.reshape(logits.shape), tensor.grad, atol=1e-14)  # a few roundings


@EVERY_SMOOTHING
@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.name)
def test_classes_that_are_ruled_out_are_no_classes(library: Library, smoothing: float) -> None:
    """The loss and the gradient are torch's of the other classes alone; its own is infinite where it smooths."""
    is_possible = RANDOM.random(LOGITS.shape) > 0.4
    is_possible[np.arange(6), np.where(LABELS < 0, 3, LABELS)] = True  # the label is possible
    is_possible[2] = [False, True, True, False, True]  # class 0 of a row that is left out
    ruled_out = np.where(is_possible, LOGITS, -np.inf)
    loss, cache = cross_entropy_forward(library.array(ruled_out), library.array(LABELS), smoothing)
    tensor = torch.tensor(ruled_out, requires_grad=True)
    losses = [
        functional.cross_entropy(row[kept], kept[:label].sum(), label_smoothing=smoothing)
        for row, kept, label in zip(tensor, torch.asarray(is_possible), LABELS, strict=True)
        if label != -100
    ]
    expected = torch.stack(losses).mean()
    expected.backward()
    np.testing.assert_allclose(to_numpy(loss), expected.detach(), rtol=1e-13)
    check_record(cache)
    d_logits = to_numpy(cross_entropy_backward(library.array(np.array(1.0)), cache, library.array(LABELS), smoothing))
    np.testing.assert_allclose(d_logits, tensor.grad, atol=1e-15)
    assert not d_logits[~is_possible].any()


@EVERY_SMOOTHING
def test_gradients_with_classes_ruled_out_and_rows_without_any(smoothing: float) -> None:
    is_possible = np.array([[True, False, True], [False] * 3, [False, True, True], [True] * 3])
    labels = np.array([2, -100, -100, 0])

    def forward(logits):
        xp = array_namespace(logits)
        hidden = xp.full_like(logits, -xp.inf)
        return cross_entropy_forward(xp.where(xp.asarray(is_possible), logits, hidden), xp.asarray(labels), smoothing)

    def backward(d_loss, cache, _):
        return cross_entropy_backward(d_loss, cache, labels, smoothing)

    check_gradients(forward, backward, LOGITS[:4, :3])


@EVERY_SMOOTHING
def test_a_row_that_is_left_out_changes_nothing_whatever_its_logits(smoothing: float) -> None:
    counted, labels = np.array([[1.0, 2.0, 4.0]]), np.array([1, -100])
    alone, d_alone = loss_and_gradient(counted, labels[:1], smoothing=smoothing)
    for other in ([-np.inf, 0.0, 0.0], [0.0, -np.inf, 0.0], [-np.inf] * 3, [1e300] * 3, [0.0, 0.0, 0.0]):
        loss, d_logits = loss_and_gradient(np.vstack([counted, [other]]), labels, smoothing=smoothing)
        assert loss == alone
        np.testing.assert_array_equal(d_logits, np.vstack([d_alone, np.zeros((1, 3))]))


def test_not_a_number_in_a_row_that_is_left_out_stays_there() -> None:
    loss, cache = cross_entropy_forward(np.array([[0.0, 0.0], [np.nan, 0.0]]), np.array([1, -100]))
    np.testing.assert_allclose(loss, np.log(2.0), rtol=1e-15)
    d_logits = cross_entropy_backward(np.array(1.0), cache, np.array([1, -100]))
    np.testing.assert_array_equal(d_logits, [[0.5, -0.5], [0.0, 0.0]])


@EVERY_SMOOTHING
def test_not_a_number_in_a_row_that_counts_is_seen(smoothing: float) -> None:
    loss, _ = cross_entropy_forward(np.array([[np.nan, 0.0]]), np.array([1]), smoothing)
    assert np.isnan(loss)


@pytest.mark.parametrize("smoothing", [0.0, 0.5])
def test_a_label_that_is_ruled_out_has_an_infinite_loss(smoothing: float) -> None:
    loss, d_logits = loss_and_gradient(np.array([[0.0, -np.inf, 0.0]]), np.array([1]), smoothing=smoothing)
    assert loss == np.inf
    kept = 1 - smoothing
    np.testing.assert_array_equal(d_logits, [[kept / 2, -kept, kept / 2]])
    assert loss_and_gradient(np.full((1, 3), -np.inf), np.array([1]), smoothing=smoothing)[0] == np.inf


@EVERY_SMOOTHING
def test_nothing_to_be_wrong_about_is_no_loss_and_no_gradient(smoothing: float) -> None:
    for logits in (LOGITS, np.full((6, 5), -np.inf), np.zeros((0, 5))):
        loss, d_logits = loss_and_gradient(logits, np.full(len(logits), -100), smoothing=smoothing)
        assert loss == 0
        np.testing.assert_array_equal(d_logits, np.zeros(logits.shape))


def test_by_hand() -> None:
    logits = np.log(np.array([[1.0, 3.0], [1.0, 1.0], [4.0, 1.0]]))
    loss, d_logits = loss_and_gradient(logits, np.array([1, -100, 0]), d_loss=4.0)
    np.testing.assert_allclose(loss, -(np.log(0.75) + np.log(0.8)) / 2, rtol=1e-15)
    np.testing.assert_allclose(d_logits, 4 / 2 * np.array([[0.25, -0.25], [0.0, 0.0], [-0.2, 0.2]]), rtol=1e-14)


def test_smoothed_labels_by_hand() -> None:
    """Of four classes, a fifth of the target for all alike: 0.85 and three times 0.05."""
    probabilities = np.array([[0.1, 0.2, 0.3, 0.4]])
    target = np.array([0.05, 0.05, 0.85, 0.05])
    loss, d_logits = loss_and_gradient(np.log(probabilities) + 7, np.array([2]), smoothing=0.2)
    np.testing.assert_allclose(loss, -(target * np.log(probabilities)).sum(), rtol=1e-14)  # a few roundings
    np.testing.assert_allclose(d_logits, probabilities - target, rtol=1e-14)  # a few roundings


def test_extreme_logits() -> None:
    loss, d_logits = loss_and_gradient(np.array([[1e4, -1e4], [1e4, -1e4]]), np.array([0, 1]))
    assert loss == 1e4
    np.testing.assert_array_equal(d_logits, [[0.0, 0.0], [0.5, -0.5]])


@EVERY_SMOOTHING
def test_half_logits_are_summed_in_float32(smoothing: float) -> None:
    logits, labels = (RANDOM.normal(size=(4, 3)) * 100).astype(np.float16), np.array([0, 1, 2, 0])
    loss, cache = cross_entropy_forward(logits, labels, smoothing)
    wide, _ = cross_entropy_forward(logits.astype(np.float32), labels, smoothing)
    assert loss == wide
    d_logits = cross_entropy_backward(np.float32(1), cache, labels, smoothing)
    assert loss.dtype == cache.probabilities.dtype == d_logits.dtype == np.float32


@EVERY_SMOOTHING
def test_of_one_class_the_loss_is_nothing(smoothing: float) -> None:
    loss, d_logits = loss_and_gradient(np.array([[3.0], [4.0]]), np.array([0, -100]), smoothing=smoothing)
    assert loss == 0
    np.testing.assert_array_equal(d_logits, [[0.0], [0.0]])
