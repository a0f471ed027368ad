"""The binary cross-entropy against torch's."""

import warnings

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.gradients import check_gradients
from tests.libraries import LIBRARIES, Library, check_record, to_numpy
from xlmr_np.arrays import array_namespace
from xlmr_np.losses.binary_cross_entropy import binary_cross_entropy_backward, binary_cross_entropy_forward

RANDOM = np.random.default_rng(4)
LOGITS = RANDOM.normal(size=(4, 3)) * np.array([[0.1], [1.0], [10.0], [100.0]])
TARGETS = np.array([[0.0, 1.0, 0.3], [1.0, 1.0, 0.0], [0.5, 0.0, 1.0], [0.0, 0.9, 1.0]])


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.name)
def test_equals_torch(library: Library) -> None:
    loss, cache = binary_cross_entropy_forward(library.array(LOGITS), library.array(TARGETS))
    tensor = torch.tensor(LOGITS, requires_grad=True)
    expected = functional.binary_cross_entropy_with_logits(tensor, torch.asarray(TARGETS))
    np.testing.assert_allclose(to_numpy(loss), expected.detach(), rtol=1e-13)
    check_record(cache)
    (3.0 * expected).backward()
    d_logits = binary_cross_entropy_backward(library.array(np.array(3.0)), cache, library.array(TARGETS))
    np.testing.assert_allclose(to_numpy(d_logits), tensor.grad, rtol=1e-13, atol=1e-16)


def test_gradients() -> None:
    check_gradients(
        lambda logits: binary_cross_entropy_forward(logits, array_namespace(logits).asarray(TARGETS)),
        lambda d_loss, cache, _: binary_cross_entropy_backward(d_loss, cache, TARGETS),
        3.0 * RANDOM.normal(size=(4, 3)),
    )


def test_by_hand() -> None:
    logits = np.array([[0.0, np.log(3.0)], [-np.log(3.0), 0.0], [0.0, 0.0]])
    targets = np.array([[1.0, 1.0], [1.0, 0.25], [0.0, 0.5]])
    loss, cache = binary_cross_entropy_forward(logits, targets)
    np.testing.assert_allclose(loss, (4 * np.log(2.0) - np.log(0.75) - np.log(0.25)) / 6, rtol=1e-15)
    d_logits = binary_cross_entropy_backward(np.array(12.0), cache, targets)
    np.testing.assert_allclose(d_logits, [[-1.0, -0.5], [-1.5, 0.5], [1.0, 0.0]], atol=1e-15)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_extreme_logits(dtype: type) -> None:
    logits = np.array([[1e4, -1e4, 1e4, -1e4]], dtype)
    targets = np.array([[1.0, 0.0, 0.0, 1.0]], dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss, cache = binary_cross_entropy_forward(logits, targets)
        d_logits = binary_cross_entropy_backward(np.array(4.0), cache, targets)
    assert loss == 2e4 / 4
    np.testing.assert_array_equal(d_logits, [[0.0, 0.0, 1.0, -1.0]])


def test_small_probabilities_keep_their_digits() -> None:
    targets = np.array([[0.0]])
    loss, cache = binary_cross_entropy_forward(np.array([[-40.0]]), targets)
    np.testing.assert_allclose(loss, np.exp(-40.0), rtol=1e-14)
    d_logits = binary_cross_entropy_backward(np.array(1.0), cache, targets)
    np.testing.assert_allclose(d_logits, [[np.exp(-40.0)]], rtol=1e-14)


def test_half_logits_are_summed_in_float32() -> None:
    logits, targets = LOGITS.astype(np.float16), TARGETS.astype(np.float16)
    loss, cache = binary_cross_entropy_forward(logits, targets)
    wide, _ = binary_cross_entropy_forward(logits.astype(np.float32), targets.astype(np.float32))
    assert loss == wide
    assert loss.dtype == binary_cross_entropy_backward(loss, cache, targets).dtype == np.float32


def test_targets_take_the_type_of_the_logits() -> None:
    loss, cache = binary_cross_entropy_forward(LOGITS.astype(np.float32), TARGETS)
    assert loss.dtype == binary_cross_entropy_backward(loss, cache, TARGETS).dtype == np.float32
