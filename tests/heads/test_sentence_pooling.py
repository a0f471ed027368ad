"""Pooling, scaling to length one and the dense layer against torch and sentence-transformers, and their gradients."""

import numpy as np
import pytest
import torch
from sentence_transformers.sentence_transformer.modules import Pooling as TheirPooling
from torch.nn import functional

from tests.gradients import check_gradients
from tests.libraries import LIBRARIES, Library, check_record, to_numpy
from xlmr_np import trees
from xlmr_np.arrays import array_namespace
from xlmr_np.heads.sentence_pooling import (
    POOLINGS,
    dense_backward,
    dense_forward,
    normalize_backward,
    normalize_forward,
    pooling_backward,
    pooling_forward,
)
from xlmr_np.layers.linear import LinearParams
from xlmr_np.ops.reference import REFERENCE

B, T, D = 4, 6, 5
RANDOM = np.random.default_rng(21)
STATES = RANDOM.normal(size=(B, T, D))
LENGTHS = np.array([[6], [3], [4], [5]])
SIDES = {"right": np.arange(T) < LENGTHS, "left": np.arange(T)[::-1] < LENGTHS}
PARAMS = LinearParams(RANDOM.normal(size=(3, D)), RANDOM.normal(size=3))

every_mode = pytest.mark.parametrize("mode", POOLINGS)
every_side = pytest.mark.parametrize("side", SIDES)
every_library = pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.name)


@pytest.mark.parametrize("skipped", [0, 2])
@every_side
@every_mode
@every_library
def test_pooling_equals_the_reference(library: Library, mode: str, side: str, skipped: int) -> None:
    is_real = SIDES[side]
    pooled, cache = pooling_forward(library.array(STATES), library.array(is_real), mode, skipped)
    tensor = torch.tensor(STATES, requires_grad=True)
    theirs = TheirPooling(D, mode, include_prompt=False)(
        {"token_embeddings": tensor, "attention_mask": torch.tensor(is_real).long(), "prompt_length": skipped}
    )["sentence_embedding"]
    np.testing.assert_allclose(to_numpy(pooled), theirs.detach(), rtol=1e-12, atol=1e-13)
    check_record(cache)
    d_pooled = RANDOM.normal(size=(B, D))
    (theirs * torch.asarray(d_pooled)).sum().backward()
    gradient = to_numpy(pooling_backward(library.array(d_pooled), cache))
    np.testing.assert_allclose(gradient, tensor.grad, rtol=1e-12, atol=1e-13)
    assert not gradient[~is_real].any()


@every_side
@every_mode
def test_the_gradients_of_pooling(mode: str, side: str) -> None:
    def forward(states):
        return pooling_forward(states, array_namespace(states).asarray(SIDES[side]), mode)

    check_gradients(forward, lambda d_pooled, cache, _: pooling_backward(d_pooled, cache), STATES)


@every_mode
def test_padding_is_not_pooled(mode: str) -> None:
    """Neither its number nor what stands there changes a sentence's vector."""
    alone, _ = pooling_forward(STATES[1:2, :3], np.ones((1, 3), bool), mode)
    states = np.where(SIDES["right"][..., None], STATES, 1e6)
    padded, _ = pooling_forward(states, SIDES["right"], mode)
    np.testing.assert_allclose(padded[1], alone[0], rtol=1e-14)


@every_mode
def test_a_sentence_without_tokens_has_a_vector_of_zeros(mode: str) -> None:
    is_real = np.array([[False, False], [True, False]])
    pooled, cache = pooling_forward(STATES[:2, :2], is_real, mode, skipped=0)
    assert not pooled[0].any()
    np.testing.assert_allclose(pooled[1], STATES[1, 0], rtol=1e-15)
    assert not pooling_backward(np.ones((2, D)), cache)[0].any()
    nothing, _ = pooling_forward(STATES[:2, :2], is_real, mode, skipped=1)
    assert not nothing.any()


@every_mode
def test_half_states_are_pooled_in_float32(mode: str) -> None:
    half = STATES.astype(np.float16)
    pooled, _ = pooling_forward(half, SIDES["right"], mode)
    assert pooled.dtype == np.float32
    wide, _ = pooling_forward(half.astype(np.float32), SIDES["right"], mode)
    np.testing.assert_array_equal(pooled, wide)


def test_of_equal_states_the_first_is_the_largest() -> None:
    _, cache = pooling_forward(np.zeros((1, 3, 1)), np.array([[False, True, True]]), "max")
    assert pooling_backward(np.array([[7.0]]), cache).ravel().tolist() == [0, 7, 0]


def test_an_unknown_pooling() -> None:
    with pytest.raises(ValueError, match=r"'average' is not known; there are cls, max, mean"):
        pooling_forward(STATES, SIDES["right"], "average")


@every_library
def test_length_one_equals_torch(library: Library) -> None:
    x = STATES * np.array([1e-9, 1.0, 1e3, 1e9])[:, None, None]
    y, cache = normalize_forward(library.array(x))
    tensor = torch.tensor(x, requires_grad=True)
    expected = functional.normalize(tensor, dim=-1)
    np.testing.assert_allclose(to_numpy(y), expected.detach(), rtol=1e-13)
    check_record(cache)
    d_y = RANDOM.normal(size=x.shape)
    (expected * torch.asarray(d_y)).sum().backward()
    gradient = to_numpy(normalize_backward(library.array(d_y), cache))
    np.testing.assert_allclose(gradient, tensor.grad, rtol=1e-9)  # both lose what is along the vector


def test_the_gradients_of_length_one() -> None:
    check_gradients(normalize_forward, lambda d_y, cache, _: normalize_backward(d_y, cache), STATES[0])


def test_a_vector_of_zeros_stays_one() -> None:
    """Its gradient is torch's: the divisor is a constant there."""
    y, cache = normalize_forward(np.zeros((1, D)))
    assert not y.any()
    tensor = torch.zeros((1, D), dtype=torch.float64, requires_grad=True)
    functional.normalize(tensor, dim=-1).sum().backward()
    np.testing.assert_allclose(normalize_backward(np.ones((1, D)), cache), tensor.grad, rtol=1e-15)


@pytest.mark.parametrize("activation", [None, "tanh", "gelu", "relu", "silu"])
@every_library
def test_dense_equals_torch(library: Library, activation: str | None) -> None:
    x, params = RANDOM.normal(size=(B, D)), library.tree(PARAMS)
    y, cache = dense_forward(library.array(x), params, activation, REFERENCE)
    tensor, tensors = trees.map_leaves(lambda leaf: torch.tensor(leaf, requires_grad=True), (x, PARAMS))
    projected = functional.linear(tensor, *tensors)
    functions = {"tanh": torch.tanh, "gelu": functional.gelu, "relu": functional.relu, "silu": functional.silu}
    expected = projected if activation is None else functions[activation](projected)
    np.testing.assert_allclose(to_numpy(y), expected.detach(), rtol=1e-12, atol=1e-13)
    check_record(cache)
    d_y = RANDOM.normal(size=expected.shape)
    (expected * torch.asarray(d_y)).sum().backward()
    d_inputs = dense_backward(library.array(d_y), cache, params, activation, REFERENCE)
    for gradient, leaf in zip(trees.leaves(d_inputs), trees.leaves((tensor, tensors)), strict=True):
        np.testing.assert_allclose(to_numpy(gradient), leaf.grad, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("mode", ["mean", "max"])
def test_the_gradients_of_all_steps_together(mode: str) -> None:
    def forward(inputs):
        states, params = inputs
        pooled, pooling_cache = pooling_forward(states, array_namespace(states).asarray(SIDES["right"]), mode)
        projected, dense_cache = dense_forward(pooled, params, "tanh", REFERENCE)
        y, normalize_cache = normalize_forward(projected)
        return y, (pooling_cache, dense_cache, normalize_cache)

    def backward(d_y, caches, inputs):
        pooling_cache, dense_cache, normalize_cache = caches
        d_projected = normalize_backward(d_y, normalize_cache)
        d_pooled, d_params = dense_backward(d_projected, dense_cache, inputs[1], "tanh", REFERENCE)
        return pooling_backward(d_pooled, pooling_cache), d_params

    check_gradients(forward, backward, (STATES, PARAMS))
