"""The pooler against torch's functions."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.libraries import LIBRARIES, Library, check_record, to_numpy
from xlmr_np import trees
from xlmr_np.heads.pooler import pooler_backward, pooler_forward
from xlmr_np.layers.linear import LinearParams
from xlmr_np.ops.reference import REFERENCE

B, D = 3, 5
RANDOM = np.random.default_rng(15)
FIRST_TOKEN, PARAMS = RANDOM.normal(size=(B, D)), LinearParams(RANDOM.normal(size=(D, D)) / 2, RANDOM.normal(size=D))


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.name)
def test_equals_torch(library: Library) -> None:
    params = library.tree(PARAMS)
    pooled, cache = pooler_forward(library.array(FIRST_TOKEN), params, REFERENCE)
    first_token, tensors = trees.map_leaves(lambda leaf: torch.tensor(leaf, requires_grad=True), (FIRST_TOKEN, PARAMS))
    expected = functional.linear(first_token, *tensors).tanh()
    np.testing.assert_allclose(to_numpy(pooled), expected.detach(), rtol=1e-12)
    check_record(params)
    check_record(cache)
    d_pooled = RANDOM.normal(size=(B, D))
    (expected * torch.asarray(d_pooled)).sum().backward()
    d_inputs = pooler_backward(library.array(d_pooled), cache, params, REFERENCE)
    for gradient, tensor in zip(trees.leaves(d_inputs), trees.leaves((first_token, tensors)), strict=True):
        np.testing.assert_allclose(to_numpy(gradient), tensor.grad, rtol=1e-12, atol=1e-13)
