"""The multiple-choice head against torch's functions, and its gradients."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.gradients import check_gradients
from tests.libraries import LIBRARIES, Library, check_record, to_numpy
from xlmr_np import trees
from xlmr_np.arrays import array_namespace
from xlmr_np.heads.multiple_choice import MultipleChoiceParams, multiple_choice_backward, multiple_choice_forward
from xlmr_np.layers.dropout import Dropout
from xlmr_np.layers.linear import LinearParams
from xlmr_np.losses.cross_entropy import cross_entropy_backward, cross_entropy_forward
from xlmr_np.ops.reference import REFERENCE

QUESTIONS, CHOICES, D = 2, 3, 5
N = QUESTIONS * CHOICES
RANDOM = np.random.default_rng(13)
FIRST_TOKEN = RANDOM.normal(size=(N, D))
PARAMS = MultipleChoiceParams(
    pooler=LinearParams(RANDOM.normal(size=(D, D)) / 2, RANDOM.normal(size=D)),
    classifier=LinearParams(RANDOM.normal(size=(1, D)), RANDOM.normal(size=1)),
)
KEEP = RANDOM.random((N, D)) > 0.4


@pytest.mark.parametrize("drops", [False, True])
@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.name)
def test_equals_torch(library: Library, drops: bool) -> None:
    params, dropout = library.tree(PARAMS), Dropout(0.4, library.array(KEEP)) if drops else None
    logits, cache = multiple_choice_forward(library.array(FIRST_TOKEN), params, REFERENCE, dropout)
    first_token, tensors = trees.map_leaves(lambda leaf: torch.tensor(leaf, requires_grad=True), (FIRST_TOKEN, PARAMS))
    pooled = functional.linear(first_token, *tensors.pooler).tanh()
    dropped = pooled * torch.asarray(KEEP) / 0.6 if drops else pooled
    expected = functional.linear(dropped, *tensors.classifier)[:, 0]
    np.testing.assert_allclose(to_numpy(logits), expected.detach(), rtol=1e-12, atol=1e-13)
    check_record(params)
    check_record(cache)
    d_logits = RANDOM.normal(size=N)
    (expected * torch.asarray(d_logits)).sum().backward()
    d_inputs = multiple_choice_backward(library.array(d_logits), cache, params, REFERENCE, dropout)
    for gradient, tensor in zip(trees.leaves(d_inputs), trees.leaves((first_token, tensors)), strict=True):
        np.testing.assert_allclose(to_numpy(gradient), tensor.grad, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("drops", [False, True])
def test_gradients(drops: bool) -> None:
    def like(x):
        return Dropout(0.4, array_namespace(x).asarray(KEEP)) if drops else None

    check_gradients(
        lambda inputs: multiple_choice_forward(*inputs, REFERENCE, like(inputs[0])),
        lambda d_logits, cache, inputs: multiple_choice_backward(d_logits, cache, inputs[1], REFERENCE, like(d_logits)),
        (FIRST_TOKEN, PARAMS),
    )


def test_nothing_is_dropped_unless_asked() -> None:
    logits, cache = multiple_choice_forward(FIRST_TOKEN, PARAMS, REFERENCE)
    pooled = np.tanh(FIRST_TOKEN @ PARAMS.pooler.weight.T + PARAMS.pooler.bias)
    np.testing.assert_allclose(logits, (pooled @ PARAMS.classifier.weight.T + PARAMS.classifier.bias)[:, 0], rtol=1e-12)
    _, d_params = multiple_choice_backward(np.ones(N), cache, PARAMS, REFERENCE)
    np.testing.assert_allclose(d_params.classifier.weight, [pooled.sum(axis=0)], rtol=1e-12)


def test_the_bias_of_the_classifier_has_no_gradient_under_the_loss_over_choices() -> None:
    logits, cache = multiple_choice_forward(FIRST_TOKEN, PARAMS, REFERENCE)
    labels = np.array([2, 0])
    _, loss_cache = cross_entropy_forward(logits.reshape(QUESTIONS, CHOICES), labels)
    d_logits = cross_entropy_backward(np.array(1.0), loss_cache, labels)
    _, d_params = multiple_choice_backward(d_logits.reshape(N), cache, PARAMS, REFERENCE)
    assert abs(d_params.classifier.bias[0]) < 1e-15
    assert np.abs(d_params.classifier.weight).max() > 0.01
