"""The question-answering head and its span loss against torch's functions, and their gradients."""

import warnings

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.gradients import check_gradients
from tests.libraries import LIBRARIES, Library, check_record, to_numpy
from xlmr_np import trees
from xlmr_np.arrays import array_namespace
from xlmr_np.heads.question_answering import (
    question_answering_backward,
    question_answering_forward,
    span_loss_backward,
    span_loss_forward,
)
from xlmr_np.layers.linear import LinearParams
from xlmr_np.ops.reference import REFERENCE

B, T, D = 3, 5, 4
RANDOM = np.random.default_rng(12)
PARAMS = LinearParams(RANDOM.normal(size=(2, D)), RANDOM.normal(size=2))
SHAPES = {"padded": (B, T, D), "packed": (B * T, D)}

IS_REAL = np.arange(T) < np.array([[5], [3], [4]])
IS_REAL[1] = IS_REAL[1, ::-1]  # padded on the left: place 0 is padding
LOGITS = tuple(np.where(IS_REAL, 3.0 * RANDOM.normal(size=(B, T)), -np.inf) for _ in range(2))
LABELS = {
    "all": (np.array([0, 2, 1]), np.array([4, 4, 1])),
    "some ignored": (np.array([0, -100, 1]), np.array([4, -100, -100])),
    "one ignored": (np.array([0, 3, -100]), np.array([1, 4, 3])),
}


@pytest.mark.parametrize("layout", SHAPES)
@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.name)
def test_the_head_equals_torch(library: Library, layout: str) -> None:
    x, params = RANDOM.normal(size=SHAPES[layout]), library.tree(PARAMS)
    (start, end), cache = question_answering_forward(library.array(x), params, REFERENCE)
    tensor, tensors = trees.map_leaves(lambda leaf: torch.tensor(leaf, requires_grad=True), (x, PARAMS))
    expected = functional.linear(tensor, *tensors)
    np.testing.assert_allclose(to_numpy(start), expected[..., 0].detach(), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(to_numpy(end), expected[..., 1].detach(), rtol=1e-12, atol=1e-13)
    check_record(params)
    check_record(cache)
    d_logits = RANDOM.normal(size=expected.shape)
    (expected * torch.asarray(d_logits)).sum().backward()
    d_parts = (library.array(d_logits[..., 0]), library.array(d_logits[..., 1]))
    d_inputs = question_answering_backward(d_parts, cache, params, REFERENCE)
    for gradient, leaf in zip(trees.leaves(d_inputs), trees.leaves((tensor, tensors)), strict=True):
        np.testing.assert_allclose(to_numpy(gradient), leaf.grad, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("layout", SHAPES)
def test_the_gradients_of_the_head(layout: str) -> None:
    check_gradients(
        lambda inputs: question_answering_forward(*inputs, REFERENCE),
        lambda d_logits, cache, inputs: question_answering_backward(d_logits, cache, inputs[1], REFERENCE),
        (RANDOM.normal(size=SHAPES[layout]), PARAMS),
    )


def torch_loss(logits: torch.Tensor, labels: np.ndarray, smoothing: float) -> torch.Tensor:
    """Of each row without its padding, where torch's smoothed loss would be infinite."""
    losses = [
        functional.cross_entropy(row[real], real[:label].sum(), label_smoothing=smoothing)
        for row, real, label in zip(logits, torch.asarray(IS_REAL), labels, strict=True)
        if label != -100
    ]
    return torch.stack(losses).mean()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("name", LABELS)
@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.name)
def test_the_span_loss_equals_torch(library: Library, name: str, smoothing: float) -> None:
    labels = library.tree(LABELS[name])
    loss, cache = span_loss_forward(library.tree(LOGITS), labels, smoothing)
    tensors = [torch.tensor(logits, requires_grad=True) for logits in LOGITS]
    losses = [torch_loss(each, own, smoothing) for each, own in zip(tensors, LABELS[name], strict=True)]
    np.testing.assert_allclose(to_numpy(loss), (sum(losses) / 2).detach(), rtol=1e-13)
    check_record(cache)
    (3.0 * sum(losses) / 2).backward()
    gradients = span_loss_backward(library.array(np.array(3.0)), cache, labels, smoothing)
    for gradient, tensor in zip(gradients, tensors, strict=True):
        np.testing.assert_allclose(to_numpy(gradient), tensor.grad, atol=1e-14)
        assert not to_numpy(gradient)[~IS_REAL].any()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("name", LABELS)
def test_the_gradients_of_the_span_loss(name: str, smoothing: float) -> None:
    def forward(logits):
        xp = array_namespace(logits[0])
        is_real, labels = xp.asarray(IS_REAL), tuple(map(xp.asarray, LABELS[name]))
        return span_loss_forward(tuple(xp.where(is_real, part, -xp.inf) for part in logits), labels, smoothing)

    check_gradients(
        forward,
        lambda d_loss, cache, _: span_loss_backward(d_loss, cache, LABELS[name], smoothing),
        tuple(RANDOM.normal(size=(B, T)) for _ in range(2)),
    )


def test_the_gradients_of_head_and_loss_together() -> None:
    labels = LABELS["one ignored"]

    def forward(inputs):
        xp = array_namespace(inputs[0])
        logits, head_cache = question_answering_forward(*inputs, REFERENCE)
        chosen_from = tuple(xp.where(xp.asarray(IS_REAL), part, -xp.inf) for part in logits)
        loss, loss_cache = span_loss_forward(chosen_from, tuple(map(xp.asarray, labels)))
        return loss, (head_cache, loss_cache)

    def backward(d_loss, cache, inputs):
        head_cache, loss_cache = cache
        return question_answering_backward(
            span_loss_backward(d_loss, loss_cache, labels), head_cache, inputs[1], REFERENCE
        )

    check_gradients(forward, backward, (RANDOM.normal(size=(B, T, D)), PARAMS))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_padding_changes_nothing_and_warns_of_nothing(smoothing: float) -> None:
    bare = tuple(logits[2:, :4] for logits in LOGITS)
    longer = tuple(np.concatenate([logits, np.full((1, 6), -np.inf)], axis=1) for logits in bare)
    labels = (np.array([1]), np.array([3]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss, cache = span_loss_forward(bare, labels, smoothing)
        longer_loss, longer_cache = span_loss_forward(longer, labels, smoothing)
        gradients = span_loss_backward(np.array(1.0), cache, labels, smoothing)
        longer_gradients = span_loss_backward(np.array(1.0), longer_cache, labels, smoothing)
    assert loss == pytest.approx(longer_loss, rel=1e-14)
    for gradient, longer_gradient in zip(gradients, longer_gradients, strict=True):
        np.testing.assert_allclose(longer_gradient[:, :4], gradient, rtol=1e-13)
        np.testing.assert_array_equal(longer_gradient[:, 4:], np.zeros((1, 6)))


def test_no_labels_no_loss_and_no_gradient() -> None:
    labels = (np.full(B, -100), np.full(B, -100))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss, cache = span_loss_forward(LOGITS, labels)
        gradients = span_loss_backward(np.array(1.0), cache, labels)
    assert loss == 0
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, np.zeros((B, T)))


def test_the_span_loss_by_hand() -> None:
    start, end = np.log(np.array([[1.0, 3.0]])), np.log(np.array([[4.0, 1.0]]))
    labels = (np.array([0]), np.array([0]))
    loss, cache = span_loss_forward((start, end), labels)
    np.testing.assert_allclose(loss, (np.log(4.0) + np.log(1.25)) / 2, rtol=1e-15)
    d_start, d_end = span_loss_backward(np.array(2.0), cache, labels)
    np.testing.assert_allclose(d_start, [[-0.75, 0.75]], rtol=1e-14)
    np.testing.assert_allclose(d_end, [[-0.2, 0.2]], rtol=1e-14)


def test_half_logits_are_summed_in_float32() -> None:
    half = tuple(logits.astype(np.float16) for logits in LOGITS)
    loss, _ = span_loss_forward(half, LABELS["all"])
    wide, _ = span_loss_forward(tuple(logits.astype(np.float32) for logits in half), LABELS["all"])
    assert loss == wide
    assert loss.dtype == np.float32
