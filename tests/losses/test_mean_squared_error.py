"""The mean squared error against torch's."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.gradients import check_gradients
from tests.libraries import LIBRARIES, Library, check_record, to_numpy
from xlmr_np.arrays import array_namespace
from xlmr_np.losses.mean_squared_error import mean_squared_error_backward, mean_squared_error_forward

RANDOM = np.random.default_rng(3)
SHAPES = [(5,), (4, 3), (2, 3, 4), ()]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.name)
def test_equals_torch(library: Library, shape: tuple[int, ...]) -> None:
    predictions, targets = np.asarray(RANDOM.normal(size=shape)), np.asarray(RANDOM.normal(size=shape))
    loss, cache = mean_squared_error_forward(library.array(predictions), library.array(targets))
    tensor = torch.tensor(predictions, requires_grad=True)
    expected = functional.mse_loss(tensor, torch.asarray(targets))
    np.testing.assert_allclose(to_numpy(loss), expected.detach(), rtol=1e-13)
    check_record(cache)
    (3.0 * expected).backward()
    d_predictions = mean_squared_error_backward(library.array(np.array(3.0)), cache, library.array(targets))
    np.testing.assert_allclose(to_numpy(d_predictions), tensor.grad, rtol=1e-13)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients(shape: tuple[int, ...]) -> None:
    targets = RANDOM.normal(size=shape)
    check_gradients(
        lambda predictions: mean_squared_error_forward(predictions, array_namespace(predictions).asarray(targets)),
        lambda d_loss, cache, _: mean_squared_error_backward(d_loss, cache, targets),
        RANDOM.normal(size=shape),
    )


def test_by_hand() -> None:
    targets = np.array([[1.0, 0.0], [0.0, 5.0]])
    loss, cache = mean_squared_error_forward(np.array([[1.0, 2.0], [3.0, 4.0]]), targets)
    assert loss == (0 + 4 + 9 + 1) / 4
    np.testing.assert_array_equal(mean_squared_error_backward(np.array(2.0), cache, targets), [[0.0, 2.0], [3.0, -1.0]])


def test_half_predictions_are_squared_in_float32() -> None:
    predictions, targets = np.array([300.0, 0.1], np.float16), np.array([-300.0, 0.2], np.float16)
    loss, cache = mean_squared_error_forward(predictions, targets)
    wide, _ = mean_squared_error_forward(predictions.astype(np.float32), targets.astype(np.float32))
    assert loss == wide
    assert loss.dtype == mean_squared_error_backward(loss, cache, targets).dtype == np.float32


def test_targets_take_the_type_of_the_predictions() -> None:
    targets = np.zeros(3)
    loss, cache = mean_squared_error_forward(np.ones(3, np.float32), targets)
    assert loss.dtype == mean_squared_error_backward(loss, cache, targets).dtype == np.float32
