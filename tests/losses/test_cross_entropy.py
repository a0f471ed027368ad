"""The cross-entropy against torch's, and where torch's is undefined."""

import warnings

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.gradients import check_gradients
from tests.libraries import LIBRARIES, Library, check_record, to_numpy
from xlmr_np.arrays import array_namespace
from xlmr_np.losses.cross_entropy import IGNORED_LABEL, cross_entropy_backward, cross_entropy_forward

RANDOM = np.random.default_rng(2)
LABELS = np.array([0, 4, -100, 2, -100, 1])
SCALES = np.linspace(1.0, 50.0, 6)[:, None]
LOGITS = RANDOM.normal(size=(6, 5)) * SCALES


def loss_and_gradient(logits: np.ndarray, labels: np.ndarray, d_loss: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Both, with every warning an error: nothing undefined is computed on the way."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss, cache = cross_entropy_forward(logits, labels)
        return loss, cross_entropy_backward(np.array(d_loss), cache, labels)


def test_the_ignored_label() -> None:
    assert IGNORED_LABEL == -100


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.name)
def test_equals_torch(library: Library) -> None:
    logits, labels = library.array(LOGITS), library.array(LABELS)
    loss, cache = cross_entropy_forward(logits, labels)
    tensor = torch.tensor(LOGITS, requires_grad=True)
    expected = functional.cross_entropy(tensor, torch.asarray(LABELS))
    np.testing.assert_allclose(to_numpy(loss), expected.detach(), rtol=1e-13)
    np.testing.assert_allclose(to_numpy(cache.probabilities), functional.softmax(torch.asarray(LOGITS), 1), atol=1e-14)
    check_record(cache)
    (3.0 * expected).backward()
    d_logits = cross_entropy_backward(library.array(np.array(3.0)), cache, labels)
    np.testing.assert_allclose(to_numpy(d_logits), tensor.grad, atol=1e-14)
    assert not to_numpy(d_logits)[LABELS == -100].any()


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.name)
def test_classes_that_are_ruled_out_equal_torch(library: Library) -> None:
    is_possible = RANDOM.random(LOGITS.shape) > 0.4
    is_possible[np.arange(6), np.where(LABELS < 0, 3, LABELS)] = True  # the label is possible
    is_possible[2] = [False, True, True, False, True]  # class 0 of a row that is left out
    ruled_out = np.where(is_possible, LOGITS, -np.inf)
    loss, cache = cross_entropy_forward(library.array(ruled_out), library.array(LABELS))
    tensor = torch.tensor(ruled_out, requires_grad=True)
    expected = functional.cross_entropy(tensor, torch.asarray(LABELS))
    expected.backward()
    np.testing.assert_allclose(to_numpy(loss), expected.detach(), rtol=1e-13)
    check_record(cache)
    d_logits = to_numpy(cross_entropy_backward(library.array(np.array(1.0)), cache, library.array(LABELS)))
    np.testing.assert_allclose(d_logits, tensor.grad, atol=1e-15)
    assert not d_logits[~is_possible].any()


def test_gradients_with_classes_ruled_out_and_rows_without_any() -> None:
    is_possible = np.array([[True, False, True], [False] * 3, [False, True, True], [True] * 3])
    labels = np.array([2, -100, -100, 0])

    def forward(logits):
        xp = array_namespace(logits)
        hidden = xp.full_like(logits, -xp.inf)
        return cross_entropy_forward(xp.where(xp.asarray(is_possible), logits, hidden), xp.asarray(labels))

    check_gradients(forward, lambda d_loss, cache, _: cross_entropy_backward(d_loss, cache, labels), LOGITS[:4, :3])


def test_a_row_that_is_left_out_changes_nothing_whatever_its_logits() -> None:
    counted, labels = np.array([[1.0, 2.0, 4.0]]), np.array([1, -100])
    alone, d_alone = loss_and_gradient(counted, labels[:1])
    for other in ([-np.inf, 0.0, 0.0], [0.0, -np.inf, 0.0], [-np.inf] * 3, [1e300] * 3, [0.0, 0.0, 0.0]):
        loss, d_logits = loss_and_gradient(np.vstack([counted, [other]]), labels)
        assert loss == alone
        np.testing.assert_array_equal(d_logits, np.vstack([d_alone, np.zeros((1, 3))]))


def test_not_a_number_in_a_row_that_is_left_out_stays_there() -> None:
    loss, cache = cross_entropy_forward(np.array([[0.0, 0.0], [np.nan, 0.0]]), np.array([1, -100]))
    np.testing.assert_allclose(loss, np.log(2.0), rtol=1e-15)
    d_logits = cross_entropy_backward(np.array(1.0), cache, np.array([1, -100]))
    np.testing.assert_array_equal(d_logits, [[0.5, -0.5], [0.0, 0.0]])


def test_not_a_number_in_a_row_that_counts_is_seen() -> None:
    loss, _ = cross_entropy_forward(np.array([[np.nan, 0.0]]), np.array([1]))
    assert np.isnan(loss)


def test_a_label_that_is_ruled_out_has_an_infinite_loss() -> None:
    loss, d_logits = loss_and_gradient(np.array([[0.0, -np.inf, 0.0]]), np.array([1]))
    assert loss == np.inf
    np.testing.assert_array_equal(d_logits, [[0.5, -1.0, 0.5]])
    assert loss_and_gradient(np.full((1, 3), -np.inf), np.array([1]))[0] == np.inf


def test_nothing_to_be_wrong_about_is_no_loss_and_no_gradient() -> None:
    for logits in (LOGITS, np.full((6, 5), -np.inf), np.zeros((0, 5))):
        loss, d_logits = loss_and_gradient(logits, np.full(len(logits), -100))
        assert loss == 0
        np.testing.assert_array_equal(d_logits, np.zeros(logits.shape))


def test_by_hand() -> None:
    logits = np.log(np.array([[1.0, 3.0], [1.0, 1.0], [4.0, 1.0]]))
    loss, d_logits = loss_and_gradient(logits, np.array([1, -100, 0]), d_loss=4.0)
    np.testing.assert_allclose(loss, -(np.log(0.75) + np.log(0.8)) / 2, rtol=1e-15)
    np.testing.assert_allclose(d_logits, 4 / 2 * np.array([[0.25, -0.25], [0.0, 0.0], [-0.2, 0.2]]), rtol=1e-14)


def test_extreme_logits() -> None:
    loss, d_logits = loss_and_gradient(np.array([[1e4, -1e4], [1e4, -1e4]]), np.array([0, 1]))
    assert loss == 1e4
    np.testing.assert_array_equal(d_logits, [[0.0, 0.0], [0.5, -0.5]])


def test_half_logits_are_summed_in_float32() -> None:
    logits = (RANDOM.normal(size=(4, 3)) * 100).astype(np.float16)
    loss, cache = cross_entropy_forward(logits, np.array([0, 1, 2, 0]))
    wide, _ = cross_entropy_forward(logits.astype(np.float32), np.array([0, 1, 2, 0]))
    assert loss == wide
    assert loss.dtype == cache.probabilities.dtype == np.float32


def test_of_one_class_the_loss_is_nothing() -> None:
    loss, d_logits = loss_and_gradient(np.array([[3.0], [4.0]]), np.array([0, -100]))
    assert loss == 0
    np.testing.assert_array_equal(d_logits, [[0.0], [0.0]])
