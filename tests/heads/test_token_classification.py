"""The token-classification head against torch's functions, and its gradients."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.gradients import check_gradients
from tests.libraries import LIBRARIES, Library, check_record, to_numpy
from xlmr_np import trees
from xlmr_np.arrays import array_namespace
from xlmr_np.heads.token_classification import token_classification_backward, token_classification_forward
from xlmr_np.layers.dropout import Dropout
from xlmr_np.layers.linear import LinearParams
from xlmr_np.ops.reference import REFERENCE

B, T, D, C = 2, 5, 6, 3
RANDOM = np.random.default_rng(11)
PARAMS = LinearParams(RANDOM.normal(size=(C, D)), RANDOM.normal(size=C))
SHAPES = {"padded": (B, T, D), "packed": (B * T, D)}


@pytest.mark.parametrize("drops", [False, True])
@pytest.mark.parametrize("layout", SHAPES)
@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.name)
def test_equals_torch(library: Library, layout: str, drops: bool) -> None:
    x, keep = RANDOM.normal(size=SHAPES[layout]), RANDOM.random(SHAPES[layout]) > 0.4
    params, dropout = library.tree(PARAMS), Dropout(0.4, library.array(keep)) if drops else None
    logits, cache = token_classification_forward(library.array(x), params, REFERENCE, dropout)
    tensor, tensors = trees.map_leaves(lambda leaf: torch.tensor(leaf, requires_grad=True), (x, PARAMS))
    expected = functional.linear(tensor * torch.asarray(keep) / 0.6 if drops else tensor, *tensors)
    np.testing.assert_allclose(to_numpy(logits), expected.detach(), rtol=1e-12, atol=1e-13)
    check_record(params)
    check_record(cache)
    d_logits = RANDOM.normal(size=expected.shape)
    (expected * torch.asarray(d_logits)).sum().backward()
    d_inputs = token_classification_backward(library.array(d_logits), cache, params, REFERENCE, dropout)
    for gradient, leaf in zip(trees.leaves(d_inputs), trees.leaves((tensor, tensors)), strict=True):
        np.testing.assert_allclose(to_numpy(gradient), leaf.grad, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("drops", [False, True])
@pytest.mark.parametrize("layout", SHAPES)
def test_gradients(layout: str, drops: bool) -> None:
    keep = RANDOM.random(SHAPES[layout]) > 0.4

    def like(x):
        return Dropout(0.4, array_namespace(x).asarray(keep)) if drops else None

    check_gradients(
        lambda inputs: token_classification_forward(*inputs, REFERENCE, like(inputs[0])),
        lambda d_logits, cache, inputs: token_classification_backward(
            d_logits, cache, inputs[1], REFERENCE, like(d_logits)
        ),
        (RANDOM.normal(size=SHAPES[layout]), PARAMS),
    )


def test_nothing_is_dropped_unless_asked() -> None:
    x = RANDOM.normal(size=(T, D))
    logits, cache = token_classification_forward(x, PARAMS, REFERENCE)
    np.testing.assert_allclose(logits, x @ PARAMS.weight.T + PARAMS.bias, rtol=1e-13)
    d_x, _ = token_classification_backward(logits, cache, PARAMS, REFERENCE)
    np.testing.assert_allclose(d_x, logits @ PARAMS.weight, rtol=1e-13)


def test_a_token_without_a_gradient_has_none_to_give() -> None:
    x, d_logits = RANDOM.normal(size=(B, T, D)), RANDOM.normal(size=(B, T, C))
    _, cache = token_classification_forward(x, PARAMS, REFERENCE)
    d_logits[:, 2] = 0.0
    d_x, _ = token_classification_backward(d_logits, cache, PARAMS, REFERENCE)
    assert not d_x[:, 2].any()
    assert d_x[:, [0, 1, 3, 4]].all()
