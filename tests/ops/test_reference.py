"""The reference engine: operations composed from layers, with caches and without."""

import numpy as np
import pytest

from tests.libraries import LIBRARIES, Library, check_record, to_numpy
from xlmr_np import trees
from xlmr_np.layers.linear import LinearParams, linear_backward, linear_forward
from xlmr_np.losses.cross_entropy import cross_entropy_backward, cross_entropy_forward
from xlmr_np.ops import Ops, without_caches
from xlmr_np.ops import reference as reference_ops
from xlmr_np.ops.reference import REFERENCE

RANDOM = np.random.default_rng(3)
EVERY_LIBRARY = pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.name)


def linear(outputs: int, inputs: int) -> LinearParams:
    return LinearParams(RANDOM.normal(size=(outputs, inputs)), RANDOM.normal(size=outputs))


@EVERY_LIBRARY
def test_linears_are_single_linears(library: Library) -> None:
    x, params = RANDOM.normal(size=(3, 4)), (linear(5, 4), linear(2, 4))
    ys, cache = REFERENCE.linears.forward(library.array(x), library.tree(params))
    for y, single in zip(ys, params, strict=True):
        np.testing.assert_allclose(to_numpy(y), linear_forward(x, single)[0], atol=1e-14)
    check_record(cache)


@EVERY_LIBRARY
def test_linear_activation(library: Library) -> None:
    x, params = RANDOM.normal(size=(3, 4)), linear(5, 4)
    y, cache = REFERENCE.linear_activation.forward(library.array(x), library.tree(params), "tanh")
    np.testing.assert_allclose(to_numpy(y), np.tanh(linear_forward(x, params)[0]), atol=1e-14)
    check_record(cache)


@EVERY_LIBRARY
@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_vocabulary_top_k(library: Library, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference_ops, "VOCABULARY_CHUNK", chunk)
    x, params = RANDOM.normal(size=(3, 4)), linear(11, 4)
    top, _ = REFERENCE.vocabulary_top_k.forward(library.array(x), library.tree(params), 5)
    check_record(top)
    logits = linear_forward(x, params)[0]
    order = np.argsort(-logits, axis=1)[:, :5]
    np.testing.assert_array_equal(to_numpy(top.ids), order)
    np.testing.assert_allclose(to_numpy(top.logits), np.take_along_axis(logits, order, 1), atol=1e-14)
    np.testing.assert_allclose(to_numpy(top.log_sum_exp), np.log(np.exp(logits).sum(1)), atol=1e-13)


LABELS = np.array([10, -100, 0, 3, -100, 7])


@EVERY_LIBRARY
@pytest.mark.parametrize("chunk", [1, 4, 100])
@pytest.mark.parametrize("labels", [LABELS, np.full(6, -100)], ids=["some ignored", "all ignored"])
@pytest.mark.parametrize(
    ("smoothing", "hidden"),
    [(0.0, []), (0.2, []), (0.2, [4, 5, 6, 8])],  # whole chunks ruled out
    ids=["", "smoothed", "smoothed, tokens ruled out"],
)
@pytest.mark.filterwarnings("ignore:divide by zero")  # the logarithm of an empty sum is what it should be
def test_vocabulary_cross_entropy_is_linear_then_cross_entropy(
    library: Library,
    chunk: int,
    labels: np.ndarray,
    smoothing: float,
    hidden: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reference_ops, "VOCABULARY_CHUNK", chunk)
    x, params, d_loss = RANDOM.normal(size=(6, 4)), linear(11, 4), np.asarray(1.7)
    params.bias[hidden] = -np.inf
    logits, linear_cache = linear_forward(x, params)
    expected, cross_entropy_cache = cross_entropy_forward(logits, labels, smoothing)
    d_logits = cross_entropy_backward(d_loss, cross_entropy_cache, labels, smoothing)
    expected_gradients = linear_backward(d_logits, linear_cache, params)

    arguments = library.array(x), library.tree(params), library.array(labels), smoothing
    loss, cache = REFERENCE.vocabulary_cross_entropy.forward(*arguments)
    check_record(cache)
    np.testing.assert_allclose(to_numpy(loss), expected, rtol=1e-13)
    gradients = REFERENCE.vocabulary_cross_entropy.backward(library.array(d_loss), cache, *arguments[1:])
    for ours, theirs in zip(trees.leaves(to_numpy(gradients)), trees.leaves(expected_gradients), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-14)


def test_vocabulary_cross_entropy_of_large_logits_and_half_weights() -> None:
    params = LinearParams(np.array([[1e4], [-1e4], [9e3]], np.float16), np.zeros(3, np.float16))
    x, labels = np.ones((2, 1), np.float32), np.array([0, 2])
    loss, cache = REFERENCE.vocabulary_cross_entropy.forward(x, params, labels)
    assert loss == 500  # (0 + 1000) / 2
    d_x, d_params = REFERENCE.vocabulary_cross_entropy.backward(np.float32(1), cache, params, labels)
    np.testing.assert_array_equal(d_x, [[0], [500]])
    assert d_params.weight.dtype == d_params.bias.dtype == np.float32
    np.testing.assert_array_equal(d_params.bias, [0.5, 0, -0.5])


def test_of_equal_logits_the_smaller_id_comes_first() -> None:
    params = LinearParams(np.zeros((6, 2)), np.array([0.0, 3, 1, 3, 3, 0]))
    top, _ = REFERENCE.vocabulary_top_k.forward(np.ones((1, 2)), params, 6)
    assert top.ids.tolist() == [[1, 3, 4, 2, 0, 5]]


@pytest.mark.parametrize("hidden", [slice(4, None), slice(0, 6), slice(2, 9)])
@pytest.mark.parametrize("chunk", [3, 100])
def test_tokens_ruled_out_by_their_bias(hidden: slice, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference_ops, "VOCABULARY_CHUNK", chunk)
    bias = RANDOM.normal(size=11)
    bias[hidden] = -np.inf
    with np.errstate(divide="ignore"):  # the logarithm of an empty sum is what it should be
        top, _ = REFERENCE.vocabulary_top_k.forward(np.zeros((2, 1)), LinearParams(np.zeros((11, 1)), bias), 8)
    assert all(len(set(row)) == 8 for row in top.ids.tolist())
    np.testing.assert_array_equal(top.logits[0], -np.sort(-bias)[:8])
    np.testing.assert_allclose(top.log_sum_exp, np.log(np.exp(bias).sum()))


def test_logits_that_overflow_exponentials_still_sum() -> None:
    params = LinearParams(np.zeros((2, 1)), np.array([5000.0, 5000.0]))
    top, _ = REFERENCE.vocabulary_top_k.forward(np.ones((1, 1)), params, 1)
    np.testing.assert_allclose(top.log_sum_exp, 5000 + np.log(2))


def test_without_caches_keeps_values_and_drops_the_rest() -> None:
    ops = without_caches(REFERENCE)
    x, params = RANDOM.normal(size=(3, 4)), (linear(5, 4),)
    (y,), cache = ops.linears.forward(x, params)
    assert cache is None
    np.testing.assert_array_equal(y, REFERENCE.linears.forward(x, params)[0][0])
    for op in ops:
        with pytest.raises(NotImplementedError, match="for inference"):
            op.backward(y)
    assert isinstance(ops, Ops)
