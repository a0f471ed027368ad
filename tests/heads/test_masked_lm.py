"""The masked-language-model head against torch's functions; its loss in chunks is that of all logits at once."""

import warnings

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.gradients import check_gradients
from tests.libraries import LIBRARIES, Library, check_record, to_numpy
from xlmr_np import trees
from xlmr_np.arrays import array_namespace
from xlmr_np.heads.masked_lm import (
    MaskedLMParams,
    masked_lm_backward,
    masked_lm_forward,
    masked_lm_loss_backward,
    masked_lm_loss_forward,
    masked_lm_transform_backward,
    masked_lm_transform_forward,
)
from xlmr_np.layers.layer_norm import LayerNormParams
from xlmr_np.layers.linear import LinearParams
from xlmr_np.ops.reference import REFERENCE

B, T, D, V = 2, 4, 6, 11
EPS = 1e-2  # large, so that it matters where it goes
RANDOM = np.random.default_rng(16)
PARAMS = MaskedLMParams(
    dense=LinearParams(RANDOM.normal(size=(D, D)), RANDOM.normal(size=D)),
    layer_norm=LayerNormParams(RANDOM.normal(size=D), RANDOM.normal(size=D)),
    decoder=LinearParams(RANDOM.normal(size=(V, D)), RANDOM.normal(size=V)),
)
LABELS = np.array([3, -100, 0, 10, -100])


def torch_transform(x: torch.Tensor, params: MaskedLMParams) -> torch.Tensor:
    return functional.layer_norm(functional.gelu(functional.linear(x, *params.dense)), (D,), *params.layer_norm, EPS)


def tensors_of(tree: trees.Tree) -> trees.Tree:
    return trees.map_leaves(lambda leaf: torch.tensor(leaf, requires_grad=True), tree)


def close(ours: trees.Tree, tensors: trees.Tree) -> None:
    for gradient, tensor in zip(trees.leaves(ours), trees.leaves(tensors), strict=True):
        np.testing.assert_allclose(to_numpy(gradient), tensor.grad, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("shape", [(B, T, D), (B * T, D)], ids=["padded", "packed"])
@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.name)
def test_the_logits_equal_torch(library: Library, shape: tuple[int, ...]) -> None:
    x, params = RANDOM.normal(size=shape), library.tree(PARAMS)
    logits, cache = masked_lm_forward(library.array(x), params, EPS, REFERENCE)
    tensor, tensors = tensors_of((x, PARAMS))
    expected = functional.linear(torch_transform(tensor, tensors), *tensors.decoder)
    np.testing.assert_allclose(to_numpy(logits), expected.detach(), rtol=1e-11, atol=1e-12)
    check_record(params)
    check_record(cache)
    d_logits = RANDOM.normal(size=expected.shape)
    (expected * torch.asarray(d_logits)).sum().backward()
    close(masked_lm_backward(library.array(d_logits), cache, params, EPS, REFERENCE), (tensor, tensors))


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.name)
def test_the_transform_equals_torch(library: Library) -> None:
    x, params = RANDOM.normal(size=(T, D)), library.tree(PARAMS)
    transformed, cache = masked_lm_transform_forward(library.array(x), params, EPS, REFERENCE)
    tensor, tensors = tensors_of((x, PARAMS))
    expected = torch_transform(tensor, tensors)
    np.testing.assert_allclose(to_numpy(transformed), expected.detach(), rtol=1e-11, atol=1e-12)
    check_record(cache)
    d_transformed = RANDOM.normal(size=(T, D))
    (expected * torch.asarray(d_transformed)).sum().backward()
    gradients = masked_lm_transform_backward(library.array(d_transformed), cache, params, EPS, REFERENCE)
    close(gradients, (tensor, tensors.dense, tensors.layer_norm))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.name)
def test_the_loss_equals_torch(library: Library, smoothing: float) -> None:
    x, params, labels = RANDOM.normal(size=(5, D)), library.tree(PARAMS), library.array(LABELS)
    loss, cache = masked_lm_loss_forward(library.array(x), params, labels, EPS, REFERENCE, smoothing)
    tensor, tensors = tensors_of((x, PARAMS))
    logits = functional.linear(torch_transform(tensor, tensors), *tensors.decoder)
    expected = functional.cross_entropy(logits, torch.asarray(LABELS), label_smoothing=smoothing)
    np.testing.assert_allclose(to_numpy(loss), expected.detach(), rtol=1e-12)
    check_record(cache)
    (3.0 * expected).backward()
    d_inputs = masked_lm_loss_backward(library.array(np.array(3.0)), cache, params, labels, EPS, REFERENCE, smoothing)
    close(d_inputs, (tensor, tensors))
    assert not to_numpy(d_inputs[0])[LABELS == -100].any()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_gradients_of_the_loss(smoothing: float) -> None:
    setting = {"eps": EPS, "ops": REFERENCE, "smoothing": smoothing}
    check_gradients(
        lambda inputs: masked_lm_loss_forward(*inputs, array_namespace(inputs[0]).asarray(LABELS), **setting),
        lambda d_loss, cache, inputs: masked_lm_loss_backward(d_loss, cache, inputs[1], LABELS, **setting),
        (RANDOM.normal(size=(5, D)), PARAMS),
    )


def test_the_loss_needs_the_labelled_rows_alone() -> None:
    x, is_labelled = RANDOM.normal(size=(5, D)), LABELS != -100
    loss, cache = masked_lm_loss_forward(x, PARAMS, LABELS, EPS, REFERENCE)
    alone, alone_cache = masked_lm_loss_forward(x[is_labelled], PARAMS, LABELS[is_labelled], EPS, REFERENCE)
    np.testing.assert_allclose(alone, loss, rtol=1e-13)
    d_x, d_params = masked_lm_loss_backward(np.array(1.0), cache, PARAMS, LABELS, EPS, REFERENCE)
    d_alone, d_alone_params = masked_lm_loss_backward(
        np.array(1.0), alone_cache, PARAMS, LABELS[is_labelled], EPS, REFERENCE
    )
    np.testing.assert_allclose(d_alone, d_x[is_labelled], rtol=1e-12, atol=1e-15)
    for part, whole in zip(trees.leaves(d_alone_params), trees.leaves(d_params), strict=True):
        np.testing.assert_allclose(part, whole, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("rows", [0, 3])
def test_no_labels_no_loss_and_no_gradient(rows: int) -> None:
    x, labels = RANDOM.normal(size=(rows, D)), np.full(rows, -100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss, cache = masked_lm_loss_forward(x, PARAMS, labels, EPS, REFERENCE)
        d_inputs = masked_lm_loss_backward(np.array(1.0), cache, PARAMS, labels, EPS, REFERENCE)
    assert loss == 0
    for gradient, leaf in zip(trees.leaves(d_inputs), trees.leaves((x, PARAMS)), strict=True):
        np.testing.assert_array_equal(gradient, np.zeros(leaf.shape))
