"""Each layer against torch's own, in float64, on every array library; caches hold what their records say."""

import tracemalloc

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.libraries import Library, check_record, to_numpy
from xlmr_np.layers.activations import ACTIVATIONS, activation_forward
from xlmr_np.layers.add_norm import AddNormParams, add_norm_forward
from xlmr_np.layers.attention import PaddedMask
from xlmr_np.layers.dropout import Dropout, dropout_forward
from xlmr_np.layers.embeddings import EmbeddingsParams, embeddings_forward
from xlmr_np.layers.feed_forward import FeedForwardParams, feed_forward_forward
from xlmr_np.layers.layer_norm import LayerNormParams, layer_norm_forward
from xlmr_np.layers.linear import LinearParams, linear_forward

B, T, D, F = 2, 5, 6, 7
EPS = 1e-5
RANDOM = np.random.default_rng(0)


def linear(outputs: int, inputs: int) -> LinearParams:
    return LinearParams(RANDOM.normal(size=(outputs, inputs)), RANDOM.normal(size=outputs))


def layer_norm() -> LayerNormParams:
    return LayerNormParams(RANDOM.normal(size=D), RANDOM.normal(size=D))


def torch_layer_norm(x: torch.Tensor, params: LayerNormParams) -> torch.Tensor:
    return functional.layer_norm(x, (D,), *map(torch.asarray, params), EPS)


def close(y: object, expected: torch.Tensor) -> None:
    np.testing.assert_allclose(to_numpy(y), expected.numpy(), rtol=1e-12, atol=1e-13)


def test_linear(library: Library) -> None:
    x, params = RANDOM.normal(size=(B, T, D)), linear(F, D)
    y, cache = linear_forward(library.array(x), library.tree(params))
    close(y, functional.linear(torch.asarray(x), *map(torch.asarray, params)))
    check_record(params)
    check_record(cache)


def test_linear_computes_in_the_type_of_its_input() -> None:
    x, params = RANDOM.normal(size=(T, D)).astype(np.float32), linear(F, D)
    half = LinearParams(*(leaf.astype(np.float16) for leaf in params))
    y, _ = linear_forward(x, half)
    expected, _ = linear_forward(x, LinearParams(*(leaf.astype(np.float32) for leaf in half)))
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, expected)


def test_linear_does_not_copy_parameters_of_the_right_type() -> None:
    # a memory-mapped checkpoint would otherwise be read and held twice
    params = LinearParams(np.zeros((100_000, 1)), np.zeros(100_000))
    tracemalloc.start()
    y, _ = linear_forward(np.zeros((1, 1)), params)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2.5 * y.nbytes  # the product, and its sum with the bias


TORCH_ACTIVATIONS = {
    "gelu": functional.gelu,
    "gelu_python": functional.gelu,
    "gelu_new": lambda x: functional.gelu(x, approximate="tanh"),
    "gelu_accurate": lambda x: functional.gelu(x, approximate="tanh"),
    "gelu_python_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "relu": functional.relu,
    "silu": functional.silu,
    "swish": functional.silu,
    "tanh": torch.tanh,
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(library: Library, name: str) -> None:
    x = np.concatenate([RANDOM.normal(size=20), np.linspace(-40, 40, 41), [0.0, -0.0, 1e300, -1e300]])
    with np.errstate(over="ignore", invalid="ignore"):
        y, cache = activation_forward(library.array(x[:-2]), name)
    close(y, TORCH_ACTIVATIONS[name](torch.asarray(x[:-2])))
    check_record(cache)


def test_an_unknown_activation_is_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"hidden_act='foo' is not implemented; the activations are gelu, .*tanh"):
        activation_forward(np.zeros(1), "foo")


def test_layer_norm(library: Library) -> None:
    x, params = RANDOM.normal(3.0, 2.0, size=(B, T, D)), layer_norm()
    y, cache = layer_norm_forward(library.array(x), library.tree(params), EPS)
    close(y, torch_layer_norm(torch.asarray(x), params))
    check_record(params)
    check_record(cache)


def test_layer_norm_takes_its_statistics_in_float32() -> None:
    x = (1000 + RANDOM.normal(size=(T, 64))).astype(np.float16)  # squares of these overflow float16
    ones = LayerNormParams(np.ones(64, np.float16), np.zeros(64, np.float16))
    y, _ = layer_norm_forward(x, ones, EPS)
    wide, _ = layer_norm_forward(x.astype(np.float32), ones, EPS)
    assert y.dtype == np.float16
    np.testing.assert_array_equal(y, wide.astype(np.float16))


def test_dropout(library: Library) -> None:
    x, keep = RANDOM.normal(size=(B, T, D)), RANDOM.random((B, T, D)) > 0.25
    y = dropout_forward(library.array(x), Dropout(0.25, library.array(keep)))
    close(y, torch.asarray(x * keep / 0.75))
    assert dropout_forward(x, None) is x


def test_add_norm(library: Library) -> None:
    x, residual, keep = RANDOM.normal(size=(B, T, F)), RANDOM.normal(size=(B, T, D)), RANDOM.random((B, T, D)) > 0.25
    params = AddNormParams(linear(D, F), layer_norm())
    y, cache = add_norm_forward(
        library.array(x), library.array(residual), library.tree(params), EPS, Dropout(0.25, library.array(keep))
    )
    branch = functional.linear(torch.asarray(x), *map(torch.asarray, params.linear))
    close(y, torch_layer_norm(branch * torch.asarray(keep) / 0.75 + torch.asarray(residual), params.layer_norm))
    check_record(params)
    check_record(cache)


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_feed_forward(library: Library, activation: str) -> None:
    x = RANDOM.normal(size=(B, T, D))
    params = FeedForwardParams(linear(F, D), AddNormParams(linear(D, F), layer_norm()))
    y, cache = feed_forward_forward(library.array(x), library.tree(params), activation, EPS)
    hidden = functional.linear(torch.asarray(x), *map(torch.asarray, params.intermediate))
    branch = functional.linear(TORCH_ACTIVATIONS[activation](hidden), *map(torch.asarray, params.output.linear))
    close(y, torch_layer_norm(branch + torch.asarray(x), params.output.layer_norm))
    check_record(params)
    check_record(cache)


@pytest.mark.parametrize("shape", [(B, T), (B * T,)], ids=["padded", "packed"])
def test_embeddings(library: Library, shape: tuple[int, ...]) -> None:
    params = EmbeddingsParams(
        token=RANDOM.normal(size=(11, D)),
        position=RANDOM.normal(size=(9, D)),
        token_type=RANDOM.normal(size=(2, D)),
        layer_norm=layer_norm(),
    )
    index = [RANDOM.integers(0, rows, shape) for rows in (11, 2, 9)]
    ids, token_types, positions = index
    y, cache = embeddings_forward(*map(library.array, index), library.tree(params), EPS)
    total = params.token[ids] + params.token_type[token_types] + params.position[positions]
    close(y, torch_layer_norm(torch.asarray(total), params.layer_norm))
    check_record(params)
    check_record(cache)


def test_embeddings_of_half_tables_are_float32() -> None:
    half = [RANDOM.normal(size=(rows, D)).astype(np.float16) for rows in (11, 9, 2)]
    params = EmbeddingsParams(*half, LayerNormParams(np.ones(D, np.float16), np.zeros(D, np.float16)))
    ids = np.array([3, 4])
    y, _ = embeddings_forward(ids, ids * 0, ids, params, EPS)
    assert y.dtype == np.float32


def test_a_record_that_lies_is_found_out() -> None:
    with pytest.raises(TypeError):
        check_record(LinearParams(np.zeros((3, 2)), np.zeros(2)))
    with pytest.raises(TypeError):
        check_record(AddNormParams(linear(D, F), LayerNormParams(np.zeros(D), np.zeros(D, int))))
    with pytest.raises(TypeError):
        check_record(PaddedMask(np.zeros(3, bool)))
    with pytest.raises(TypeError):
        check_record(Dropout(0.1, np.zeros(3)))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_in_half_precision(name: str) -> None:
    x = np.linspace(-20, 20, 81).astype(np.float16)
    wide, _ = activation_forward(x.astype(np.float64), name)
    for array in (x, torch.asarray(x)):
        y, _ = activation_forward(array, name)
        np.testing.assert_allclose(to_numpy(y).astype(float), wide, rtol=4e-3, atol=4e-3)  # float16 has 11 bits
