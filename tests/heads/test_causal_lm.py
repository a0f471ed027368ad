"""Which token each place predicts, in itself and against the shift as transformers makes it."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.libraries import LIBRARIES, Library, to_numpy
from xlmr_np.heads.causal_lm import next_token_labels
from xlmr_np.losses.cross_entropy import cross_entropy_forward

RANDOM = np.random.default_rng(14)
B, T, V = 3, 6, 9


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.name)
def test_by_hand(library: Library, dtype: type) -> None:
    labels = np.array([[5, 6, 7, 8], [5, 6, 1, 1], [1, 1, 6, 7], [5, -100, 7, 8], [1, 1, 1, 1]], dtype)
    is_real = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0]], bool)
    shifted = to_numpy(next_token_labels(library.array(labels), library.array(is_real)))
    assert shifted.tolist() == [
        [6, 7, 8, -100],
        [6, 1, -100, -100],  # what stands at padding is for the labels to say
        [-100, -100, 7, -100],
        [-100, 7, 8, -100],
        [-100, -100, -100, -100],
    ]
    assert shifted.dtype == dtype


@pytest.mark.parametrize("shape", [(2, 1), (2, 0), (0, 4)])
def test_no_place_has_a_next_one(shape: tuple[int, int]) -> None:
    shifted = next_token_labels(np.full(shape, 7), np.ones(shape, bool))
    assert shifted.shape == shape
    assert (shifted[:, -1:] == -100).all()


def test_the_loss_is_that_of_cutting_logits_and_labels() -> None:
    logits, labels = RANDOM.normal(size=(B, T, V)), RANDOM.integers(0, V, (B, T))
    labels[1, 3:] = -100
    shifted = next_token_labels(labels, np.ones((B, T), bool))
    loss, _ = cross_entropy_forward(logits.reshape(-1, V), shifted.reshape(-1))
    expected = functional.cross_entropy(
        torch.asarray(logits[:, :-1].reshape(-1, V)), torch.asarray(labels[:, 1:].reshape(-1))
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-13)


@pytest.mark.parametrize("pads", [0, 1, 3])
def test_padding_on_either_side_leaves_the_same_pairs(pads: int) -> None:
    labels = RANDOM.integers(0, V, (B, T))
    padding, real = np.full((B, pads), -100), np.ones((B, T), bool)
    alone = next_token_labels(labels, real)
    right = next_token_labels(np.hstack([labels, padding]), np.hstack([real, padding == 0]))
    left = next_token_labels(np.hstack([padding, labels]), np.hstack([padding == 0, real]))
    np.testing.assert_array_equal(right, np.hstack([alone, padding]))
    np.testing.assert_array_equal(left, np.hstack([padding, alone]))
