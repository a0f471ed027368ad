"""The cross-entropy against torch's."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.libraries import LIBRARIES, Library, check_record, to_numpy
from xlmr_np.losses.cross_entropy import cross_entropy_forward

RANDOM = np.random.default_rng(2)


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.name)
def test_equals_torch(library: Library) -> None:
    logits, labels = RANDOM.normal(size=(6, 5)) * 50, np.array([0, 4, -100, 2, -100, 1])
    loss, cache = cross_entropy_forward(library.array(logits), library.array(labels))
    expected = functional.cross_entropy(torch.asarray(logits), torch.asarray(labels))
    np.testing.assert_allclose(to_numpy(loss), expected, rtol=1e-13)
    np.testing.assert_allclose(to_numpy(cache.probabilities), functional.softmax(torch.asarray(logits), 1), atol=1e-14)
    check_record(cache)


def test_nothing_to_be_wrong_about_is_no_loss() -> None:
    loss, _ = cross_entropy_forward(RANDOM.normal(size=(3, 4)), np.full(3, -100))
    assert loss == 0


def test_half_logits_are_summed_in_float32() -> None:
    logits = (RANDOM.normal(size=(4, 3)) * 100).astype(np.float16)
    loss, _ = cross_entropy_forward(logits, np.array([0, 1, 2, 0]))
    wide, _ = cross_entropy_forward(logits.astype(np.float32), np.array([0, 1, 2, 0]))
    assert loss == wide
    assert loss.dtype == np.float32
