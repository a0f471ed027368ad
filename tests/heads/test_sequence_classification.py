"""The sequence-classification head against torch's functions, and its gradients."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.gradients import check_gradients
from tests.libraries import LIBRARIES, Library, check_record, to_numpy
from xlmr_np import trees
from xlmr_np.arrays import array_namespace
from xlmr_np.heads.sequence_classification import (
    SequenceClassificationDropout,
    SequenceClassificationParams,
    sequence_classification_backward,
    sequence_classification_forward,
)
from xlmr_np.layers.dropout import Dropout
from xlmr_np.layers.linear import LinearParams
from xlmr_np.ops.reference import REFERENCE

B, D, C = 4, 6, 3
RANDOM = np.random.default_rng(10)
FIRST_TOKEN = RANDOM.normal(size=(B, D))
PARAMS = SequenceClassificationParams(
    dense=LinearParams(RANDOM.normal(size=(D, D)) / 2, RANDOM.normal(size=D)),
    out_proj=LinearParams(RANDOM.normal(size=(C, D)), RANDOM.normal(size=C)),
)
FIRST_TOKEN_DROPOUT = Dropout(0.3, RANDOM.random((B, D)) > 0.3)
ACTIVATED_DROPOUT = Dropout(0.6, RANDOM.random((B, D)) > 0.6)
DROPOUTS = {
    "none": SequenceClassificationDropout(),
    "first token": SequenceClassificationDropout(first_token=FIRST_TOKEN_DROPOUT),
    "activated": SequenceClassificationDropout(activated=ACTIVATED_DROPOUT),
    "both": SequenceClassificationDropout(FIRST_TOKEN_DROPOUT, ACTIVATED_DROPOUT),
}


def drop(x: torch.Tensor, dropout: Dropout | None) -> torch.Tensor:
    return x if dropout is None else x * torch.asarray(dropout.keep) / (1 - dropout.rate)


@pytest.mark.parametrize("name", DROPOUTS)
@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.name)
def test_equals_torch(library: Library, name: str) -> None:
    params, dropout = library.tree(PARAMS), library.tree(DROPOUTS[name])
    logits, cache = sequence_classification_forward(library.array(FIRST_TOKEN), params, REFERENCE, dropout)
    first_token, tensors = trees.map_leaves(lambda leaf: torch.tensor(leaf, requires_grad=True), (FIRST_TOKEN, PARAMS))
    activated = functional.linear(drop(first_token, DROPOUTS[name].first_token), *tensors.dense).tanh()
    expected = functional.linear(drop(activated, DROPOUTS[name].activated), *tensors.out_proj)
    np.testing.assert_allclose(to_numpy(logits), expected.detach(), rtol=1e-12, atol=1e-13)
    check_record(params)
    check_record(cache)
    d_logits = RANDOM.normal(size=(B, C))
    (expected * torch.asarray(d_logits)).sum().backward()
    d_inputs = sequence_classification_backward(library.array(d_logits), cache, params, REFERENCE, dropout)
    for gradient, tensor in zip(trees.leaves(d_inputs), trees.leaves((first_token, tensors)), strict=True):
        np.testing.assert_allclose(to_numpy(gradient), tensor.grad, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", DROPOUTS)
def test_gradients(name: str) -> None:
    def like(x):
        return trees.map_leaves(
            lambda leaf: array_namespace(x).asarray(leaf) if hasattr(leaf, "shape") else leaf, DROPOUTS[name]
        )

    check_gradients(
        lambda inputs: sequence_classification_forward(*inputs, REFERENCE, like(inputs[0])),
        lambda d_logits, cache, inputs: sequence_classification_backward(
            d_logits, cache, inputs[1], REFERENCE, DROPOUTS[name]
        ),
        (FIRST_TOKEN, PARAMS),
    )


def test_nothing_is_dropped_unless_asked() -> None:
    logits, cache = sequence_classification_forward(FIRST_TOKEN, PARAMS, REFERENCE)
    same, _ = sequence_classification_forward(FIRST_TOKEN, PARAMS, REFERENCE, DROPOUTS["none"])
    np.testing.assert_array_equal(logits, same)
    d_first_token, _ = sequence_classification_backward(logits, cache, PARAMS, REFERENCE)
    d_same, _ = sequence_classification_backward(logits, cache, PARAMS, REFERENCE, DROPOUTS["none"])
    np.testing.assert_array_equal(d_first_token, d_same)


def test_a_sentence_does_not_depend_on_its_neighbours() -> None:
    logits, _ = sequence_classification_forward(FIRST_TOKEN, PARAMS, REFERENCE)
    alone, _ = sequence_classification_forward(FIRST_TOKEN[2:3], PARAMS, REFERENCE)
    np.testing.assert_allclose(alone, logits[2:3], rtol=1e-13)
