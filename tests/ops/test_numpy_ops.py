"""The CPU engine is held to REFERENCE: values, gradients, purity, threads, and what floating point does at its ends."""

import math
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.ops.calls import (
    ACTIVATION_NAMES,
    DTYPES,
    EPS,
    KINDS,
    STORAGES,
    Call,
    Storage,
    arrays_of,
    check_top_k,
    feed_forward,
    gradient_of,
    hides_everything,
    linear_activation,
    linear_params,
    packed_attention,
    padded_attention,
    stored,
    vocabulary_cross_entropy,
    vocabulary_top_k,
    widened,
)
from tests.ops.test_threads import blas_threads
from xlmr_np import XLMRobertaConfig, trees
from xlmr_np.arrays import erf
from xlmr_np.encoder import EncoderDropout, encoder_backward, encoder_forward
from xlmr_np.inputs import prepare_inputs, token_places
from xlmr_np.layers.attention import PackedMask, PaddedMask, Spans
from xlmr_np.layers.dropout import Dropout, Philox, TokenKey
from xlmr_np.layers.encoder_layer import EncoderSetting
from xlmr_np.layers.linear import LinearParams, linear_backward, linear_forward
from xlmr_np.layers.self_attention import LayerDropout
from xlmr_np.losses.cross_entropy import cross_entropy_backward, cross_entropy_forward
from xlmr_np.ops import Ops
from xlmr_np.ops.numpy_ops import NUMPY, NUMPY_INFERENCE, inference_ops, training_ops
from xlmr_np.ops.reference import REFERENCE
from xlmr_np.ops.threads import Threads
from xlmr_np.row_sparse import RowSparse
from xlmr_np.weights.specification import encoder_specification

TOLERANCE = {"float32": 2e-5, "float64": 1e-12}  # of outputs of order one; larger ones count by size
GRADIENT_TOLERANCE = {"float32": 1e-4, "float64": 1e-10}  # relative to the largest entry of each gradient
ROUNDING = {"float32": 1e-6, "float64": 1e-14}  # of the largest gradient: below, what ought to cancel is taken to do so
ALL_IN_FLOAT32, ALL_IN_FLOAT64 = (Storage(dtype, dtype, None) for dtype in ("float32", "float64"))
HOW_MANY_EXAMPLES = pytest.mark.parametrize("examples", [20, pytest.param(400, marks=pytest.mark.exhaustive)])
EITHER_DTYPE = pytest.mark.parametrize("dtype", TOLERANCE)


class Engine(NamedTuple):
    training: Ops
    inference: Ops


@cache
def engine(number_of_threads: int | None) -> Engine:
    """With so many threads; None is what the module offers ready-made."""
    if number_of_threads is None:
        return Engine(NUMPY, NUMPY_INFERENCE)
    threads = Threads(number_of_threads)
    return Engine(training_ops(threads), inference_ops(threads))


class Run(NamedTuple):
    """What an operation made of its arguments."""

    given: Call  # as stored
    output: Any
    inferred: Any
    gradients: Any


def run_all(engine: Engine, calls: list[Call], storage: Storage) -> list[Run]:
    """Forward, inference and backward of several calls, interleaved, so that workspace handed out would be seen."""
    given = [stored(call, storage) for call in calls]
    before = [[array.copy() for array in arrays_of(each)] for each in given]
    outputs, inferred, gradients = [], [], []
    for call in given:
        outputs.append(getattr(engine.training, call.op).forward(*call.forward))
        y, nothing = getattr(engine.inference, call.op).forward(*call.forward)
        assert nothing is None
        inferred.append(y)
    for call, (y, kept) in zip(given, outputs, strict=True):
        if call.backward is None:
            gradients.append(())
            continue
        d_y = gradient_of(y, storage)
        d_y_before = [array.copy() for array in arrays_of(d_y)]
        gradients.append(getattr(engine.training, call.op).backward(d_y, kept, *call.backward))
        for array, old in zip(arrays_of(d_y), d_y_before, strict=True):
            np.testing.assert_array_equal(array, old)
    for call, copies in zip(given, before, strict=True):
        for array, old in zip(arrays_of(call), copies, strict=True):
            np.testing.assert_array_equal(array, old)
    return [
        Run(call, y, other, gradient)
        for call, (y, _), other, gradient in zip(given, outputs, inferred, gradients, strict=True)
    ]


def largest(x: np.ndarray) -> float:
    """The largest magnitude, 0 of nothing."""
    return float(np.abs(x).max(initial=0))


def assert_same_structure(ours: Any, expected: Any) -> None:
    trees.map_leaves(lambda our, their: np.testing.assert_equal(our.shape, their.shape), ours, expected)


def assert_close(ours: Any, expected: Any, dtype: str) -> None:
    for our, their in zip(arrays_of(ours), arrays_of(expected), strict=True):
        assert our.shape == their.shape
        if their.dtype.kind != "f":
            np.testing.assert_array_equal(our, their)
            continue
        assert our.dtype == dtype
        error, size = largest(our - their), max(1, largest(their))
        assert error <= TOLERANCE[dtype] * size


def assert_gradients_close(ours: Any, expected: Any, dtype: str) -> None:
    assert_same_structure(ours, expected)
    pairs = list(zip(arrays_of(ours), arrays_of(expected), strict=True))
    floats = [their for _, their in pairs if their.dtype.kind == "f"]
    rounding = ROUNDING[dtype] * max(map(largest, floats), default=0)
    for our, their in pairs:
        assert our.shape == their.shape
        if their.dtype.kind != "f":  # the rows that a row-sparse gradient has
            np.testing.assert_array_equal(our, their)
            continue
        assert our.dtype == dtype
        error, size = largest(our - their), largest(their)
        assert error <= GRADIENT_TOLERANCE[dtype] * size + rounding


def assert_apart(run: Run) -> None:
    """No result lies in the memory of an argument or of another result."""
    results = [array for array in arrays_of((run.output, run.inferred, run.gradients)) if array.size]
    for one, other in combinations(results, 2):
        assert not np.shares_memory(one, other)
    for result in results:
        for argument in arrays_of(run.given):
            assert not np.shares_memory(result, argument)


def check(calls: list[Call], storage: Storage, number_of_threads: int | None) -> list[Run]:
    """That the engine does with the calls what REFERENCE does in float64, and only that."""
    runs = run_all(engine(number_of_threads), calls, storage)
    for run in runs:
        exact: Call = widened(run.given)
        op = getattr(REFERENCE, exact.op)
        expected, cache = op.forward(*exact.forward)
        for ours in (run.output, run.inferred):
            assert_same_structure(ours, expected)
            if exact.op == "vocabulary_top_k":
                check_top_k(ours, expected, exact, partial(assert_close, dtype=storage.dtype))
            else:
                assert_close(ours, expected, storage.dtype)
            if exact.op == "attention":
                query, key, _, mask, _ = exact.forward
                assert not ours[hides_everything(mask, query, key)].any()
        if exact.backward is not None:
            d_y = widened(gradient_of(run.output, storage))
            assert_gradients_close(run.gradients, op.backward(d_y, cache, *exact.backward), storage.dtype)
        assert_apart(run)
    return runs


@HOW_MANY_EXAMPLES
@pytest.mark.parametrize("kind", KINDS)
def test_every_operation_equals_the_reference(kind: str, examples: int) -> None:
    build, strategies = KINDS[kind]

    @settings(max_examples=examples, phases=set(Phase) - {Phase.explain})
    @given(
        setting=st.fixed_dictionaries(strategies),
        storage=STORAGES,
        number_of_threads=st.sampled_from([None, 1, 2, 3]),
    )
    def compare(setting: dict[str, Any], storage: Storage, number_of_threads: int | None) -> None:
        another = {**setting, "seed": setting["seed"] + 1}
        check([build(**setting), build(**another)], storage, number_of_threads)

    compare()


LENGTHS = [(700, 700), (1, 1), (0, 0), (260, 260), (513, 513)]
LARGE = {
    "many tokens": feed_forward((3001,), 24, 72, "gelu", "none", 0.0, 0),
    "wide": feed_forward((40,), 768, 1000, "gelu", "none", 0.0, 0),
    "padded": linear_activation((2, 1501), 24, 80, "gelu", 0),
    "long sentences": packed_attention(LENGTHS, 2, 16, "within", False, 0.0, 0),
    "causal": packed_attention(LENGTHS, 2, 16, "within", True, 0.1, 0),
    "across": packed_attention([(3, 1100), (1100, 3), (1, 2100)], 12, 8, "across", False, 0.0, 0),
    "long padded": padded_attention(2, 300, 700, 3, 8, "BHTS", "bits", 0.1, 0),
    "loss": vocabulary_cross_entropy(120, 16, 25_001, 0.2, 0.0, 0),
    "smoothed loss": vocabulary_cross_entropy(120, 16, 25_001, 0.2, 0.1, 0),
    "top-k": vocabulary_top_k(130, 16, 25_001, 1e-4, 0),
}


@EITHER_DTYPE
@pytest.mark.parametrize("name", LARGE)
def test_sizes_beyond_one_block(name: str, dtype: str) -> None:
    """Rows, keys, features and vocabularies enough to be cut into several parts, whatever their size."""
    storage = Storage(dtype, dtype, 0)
    runs = check([LARGE[name]], storage, 1)
    for number_of_threads in (2, 3):
        for run, first in zip(run_all(engine(number_of_threads), [LARGE[name]], storage), runs, strict=True):
            for ours, theirs in zip(arrays_of(run[1:]), arrays_of(first[1:]), strict=True):
                tolerance = {"float32": 1e-5, "float64": 1e-13}[dtype]
                np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * max(1, np.abs(theirs).max(initial=0)))


@pytest.mark.parametrize("sentences", [0, 1, 400])
def test_many_short_sentences_or_none(sentences: int) -> None:
    """The reference cannot go back through no sentence at all."""
    call = packed_attention([(each % 3, each % 3) for each in range(sentences)], 3, 8, "within", False, 0.0, 0)
    for storage in (ALL_IN_FLOAT32, ALL_IN_FLOAT64):
        check([call if sentences else call._replace(backward=None)], storage, 2)


NO_TOKENS = {
    "embed": {"batch": (0,), "width": 8, "index_type": "int64", "pad_id": 1, "form": "none", "rate": 0.0},
    "linears": {"batch": (0,), "width": 8, "outputs": [5, 3]},
    "add norm": {"batch": (0,), "inputs": 5, "width": 8, "form": "key", "rate": 0.1},
    "feed forward": {"batch": (2, 0), "width": 8, "inner": 5, "activation": "gelu", "form": "bits", "rate": 0.1},
    "linear activation": {"batch": (0,), "width": 8, "outputs": 5, "activation": "tanh"},
    "layer norm": {"batch": (0,), "width": 8},
    "vocabulary cross-entropy": {"tokens": 0, "width": 8, "vocabulary": 5000, "ignored": 0.0, "smoothing": 0.1},
    "vocabulary top-k": {"tokens": 0, "width": 8, "vocabulary": 5000, "share": 0.0},
    "packed attention": {
        "lengths": [(0, 0), (0, 4)],
        "heads": 2,
        "width": 8,
        "keys": "across",
        "is_causal": False,
        "rate": 0.1,
    },
    "padded attention": {
        "batch": 2,
        "queries": 3,
        "sources": 0,
        "heads": 2,
        "width": 8,
        "mask": "BTS",
        "form": "none",
        "rate": 0.0,
    },
}


@EITHER_DTYPE
@pytest.mark.parametrize("kind", NO_TOKENS)
def test_no_tokens(kind: str, dtype: str) -> None:
    for number_of_threads in (1, 2):
        check([KINDS[kind].build(**NO_TOKENS[kind], seed=0)], Storage(dtype, dtype, None), number_of_threads)


def test_records_have_the_reference_s_form() -> None:
    for ops in (*engine(None), *engine(1), *engine(3)):
        assert isinstance(ops, Ops)
    for op in NUMPY_INFERENCE:
        with pytest.raises(NotImplementedError, match="for inference"):
            op.backward(np.ones(3))


@pytest.mark.parametrize("storage", [ALL_IN_FLOAT32, ALL_IN_FLOAT64, Storage("float32", "float16", None)], ids=str)
def test_a_backward_leaves_its_cache_as_it_was(storage: Storage) -> None:
    """A cache is an argument too: taken back twice, it gives the same gradients."""
    for build, setting in (
        (feed_forward, {"batch": (90,), "width": 24, "inner": 40, "activation": "gelu", "form": "key", "rate": 0.1}),
        (packed_attention, {"lengths": [(60, 0)], "heads": 3, "width": 8, "keys": "within"}),
        (linear_activation, {"batch": (90,), "width": 24, "outputs": 40, "activation": "gelu"}),
        (KINDS["add norm"].build, {"batch": (90,), "inputs": 24, "width": 40, "form": "key", "rate": 0.1}),
        (KINDS["layer norm"].build, {"batch": (90,), "width": 24}),
        (vocabulary_cross_entropy, {"tokens": 30, "width": 24, "vocabulary": 40, "ignored": 0.1, "smoothing": 0.1}),
    ):
        if build is packed_attention:
            setting |= {"is_causal": True, "rate": 0.1}
        given: Call = stored(build(**setting, seed=0), storage)
        op = getattr(NUMPY, given.op)
        y, cache = op.forward(*given.forward)
        first, second = (op.backward(gradient_of(y, storage), cache, *given.backward) for _ in range(2))
        for one, other in zip(arrays_of(first), arrays_of(second), strict=True):
            np.testing.assert_array_equal(one, other, err_msg=given.op)


# Parameters that lie side by side, or in two types


@EITHER_DTYPE
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 1, 1), (0, 2), (1,)], ids=str)
@pytest.mark.parametrize("memory_order", ["C", "F"])
def test_projections_that_are_views_of_one_matrix(memory_order: str, order: tuple[int, ...], dtype: str) -> None:
    random = np.random.default_rng(0)
    whole = linear_params(random, 36, 20)
    weight, bias = np.array(whole.weight, dtype, order=memory_order), whole.bias.astype(dtype)
    parts = [slice(0, 12), slice(12, 24), slice(24, 36)]
    params = tuple(LinearParams(weight[parts[i]], bias[parts[i]]) for i in order)
    other_bias = tuple(LinearParams(each.weight, each.bias[::-1]) for each in params)
    x = random.normal(size=(50, 20)).astype(dtype)
    for each in (params, other_bias):
        expected, expected_cache = REFERENCE.linears.forward(*widened((x, each)))
        ys, cache = NUMPY.linears.forward(x, each)
        assert_close(ys, expected, dtype)
        d_ys = gradient_of(ys, Storage(dtype, dtype, None))
        gradients = NUMPY.linears.backward(d_ys, cache, each)
        assert_gradients_close(
            gradients, REFERENCE.linears.backward(widened(d_ys), expected_cache, widened(each)), dtype
        )
        assert_close(NUMPY_INFERENCE.linears.forward(x, each)[0], expected, dtype)


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_embeddings_of_ones_own_beside_half_precision_tables(half: str) -> None:
    """As `inputs_embeds` makes them: the token table in float32, everything else as the checkpoint stores it."""
    call = KINDS["embed"].build((40,), 24, "int64", None, "none", 0.0, 0)
    given: Call = stored(call, Storage("float32", half, None))
    params = given.forward[3]._replace(token=call.forward[3].token.astype(np.float32))
    arguments = (*given.forward[:3], params, EPS, None)
    exact = widened(arguments)
    expected, expected_cache = REFERENCE.embed.forward(*exact)
    for ops in (NUMPY, NUMPY_INFERENCE):
        assert_close(ops.embed.forward(*arguments)[0], expected, "float32")
    y, cache = NUMPY.embed.forward(*arguments)
    gradients = NUMPY.embed.backward(y, cache, *arguments[:4], 1, None)
    expected_gradients = REFERENCE.embed.backward(widened(y), expected_cache, *exact[:4], 1, None)
    assert isinstance(gradients.token, RowSparse)
    assert_gradients_close(gradients, expected_gradients, "float32")


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_half_precision_parameters_at_the_ends_of_their_range(half: str) -> None:
    """Their largest, smallest and subnormal values are converted, not flushed."""
    info = np.finfo(np.float16) if half == "float16" else None
    largest, smallest = (float(info.max), float(info.smallest_subnormal)) if info else (3e38, 1e-40)
    weight = np.diag([largest, -largest, smallest, -smallest, 1.0]).astype(DTYPES[half])
    params = LinearParams(weight, np.zeros(5, DTYPES[half]))
    x = np.ones((3, 5), np.float32)
    expected = weight.astype(np.float32).sum(axis=1)
    for ops in (NUMPY, NUMPY_INFERENCE):
        (y,), _ = ops.linears.forward(x, (params,))
        np.testing.assert_array_equal(y, np.broadcast_to(expected, (3, 5)))


# Activations

GRID = np.concatenate([np.linspace(-20, 20, 40_001), np.linspace(-6, 6, 20_001)])
DENORMALS = [0.0, -0.0, 1e-45, -1e-45, 1e-40, -1e-40, 1.2e-38, 1e-30, -1e-30]
EXTREMES = [sign * size for size in (25.0, 1e4, 1e20, 3e38) for sign in (1, -1)] + DENORMALS


@contextmanager
def nothing_out_of_range() -> Iterator[None]:
    """Overflow, division by zero and invalid values are errors; underflow to zero is what is wanted."""
    with np.errstate(over="raise", divide="raise", invalid="raise"), warnings.catch_warnings():
        warnings.simplefilter("error")  # in threads of the engine's own, whose error state is theirs
        yield


def activate(ops: Ops, name: str, points: np.ndarray, rows: int = 3) -> tuple[np.ndarray, Any, tuple[Any, ...]]:
    """The activation at some points, which come in as biases, so that nothing is rounded before it."""
    params = LinearParams(np.zeros((len(points), 1), points.dtype), points)
    x = np.zeros((rows, 1), points.dtype)
    y, cache = ops.linear_activation.forward(x, params, name)
    return y, cache, (params, name)


def exact_gelu(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """GELU and its derivative in float64, without cancellation."""
    x = points.astype(np.float64)
    distribution = np.array([0.5 * math.erfc(-each * math.sqrt(0.5)) for each in x])
    within = np.clip(x, -50, 50)
    density = np.where(np.abs(x) <= 50, np.exp(-0.5 * within**2) / math.sqrt(2 * math.pi), 0)
    return x * distribution, distribution + within * density


@pytest.mark.parametrize("number_of_threads", [1, 2])
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("name", ["gelu", "gelu_python"])
def test_float32_gelu_is_exact_to_an_erf_of_2e_7(name: str, rows: int, number_of_threads: int) -> None:
    points = np.concatenate([GRID, EXTREMES]).astype(np.float32)
    expected, derivative = exact_gelu(points)
    with nothing_out_of_range():
        y, cache, given = activate(engine(number_of_threads).training, name, points, rows)
        inferred, _, _ = activate(engine(number_of_threads).inference, name, points, rows)
        d_y = np.zeros_like(y)
        d_y[0] = 1
        _, d_params = engine(number_of_threads).training.linear_activation.backward(d_y, cache, *given)
    # x (1 + erf) / 2: an erf wrong by 2e-7, and the result's own rounding
    bound = 0.5 * 2e-7 * np.abs(points.astype(np.float64)) + np.spacing(np.abs(expected).astype(np.float32))
    for each in (*y, *inferred):
        assert each.dtype == np.float32
        is_near = np.abs(points) < 15
        assert (np.abs(each - expected) <= bound)[is_near].all()
        np.testing.assert_array_equal(each[points >= 15], points[points >= 15])
        assert (each[points <= -15] == 0).all()
        is_tiny = np.abs(points) < 1e-20
        np.testing.assert_allclose(each[is_tiny], expected[is_tiny], rtol=1e-6, atol=1.5e-45)  # one subnormal step
    assert np.abs(d_params.bias - derivative).max() <= 4e-7  # half of erf's error, and the density's rounding


@pytest.mark.parametrize("name", ACTIVATION_NAMES)
@EITHER_DTYPE
def test_activations_on_a_dense_grid(dtype: str, name: str) -> None:
    points = GRID.astype(dtype)
    expected, expected_cache, expected_given = activate(REFERENCE, name, points.astype(np.float64))
    d_y = np.random.default_rng(0).normal(size=expected.shape).astype(dtype)
    with nothing_out_of_range():
        y, cache, given = activate(NUMPY, name, points)
        _, d_params = NUMPY.linear_activation.backward(d_y, cache, *given)
        inferred, _, _ = activate(NUMPY_INFERENCE, name, points)
    tolerance = {"float32": 1e-6, "float64": 1e-14}[dtype]
    _, expected_d_params = REFERENCE.linear_activation.backward(d_y.astype(np.float64), expected_cache, *expected_given)
    for ours in (y, inferred):
        np.testing.assert_allclose(ours, expected, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(d_params.bias, expected_d_params.bias, rtol=0, atol=10 * tolerance)  # sums over tokens


def test_the_grid_s_own_erf() -> None:
    """`xlmr_np.arrays.erf`, which the reference uses, against the C library's."""
    exact = np.array([math.erf(each) for each in GRID])
    np.testing.assert_allclose(erf(GRID), exact, rtol=0, atol=4e-16)  # two units in the last place of 1


@pytest.mark.parametrize("name", ["relu", "gelu", "silu", "tanh", "gelu_new"])
def test_what_is_no_number_stays_none(name: str) -> None:
    """NaN and infinities are shown, not hidden, and only where they are."""
    points = np.array([1.0, np.nan, np.inf, -1.0, -2.0], np.float32)
    with np.errstate(invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        y, _, _ = activate(NUMPY, name, points)
        expected, _, _ = activate(REFERENCE, name, points[[0, 3, 4]])
    np.testing.assert_allclose(y[:, [0, 3, 4]], expected, atol=1e-6)  # float32's rounding
    assert np.isnan(y[:, 1]).all() or name == "relu"  # NaN > 0 is false, and the reference's relu says 0
    np.testing.assert_array_equal(y[:, 2], np.full(3, 1 if name == "tanh" else np.inf))


# Softmax

SCORES = {
    "one towers": [1e4, -1e4, 0.0],
    "two tower": [-1e4, 1e4, 1e4],
    "next to each other": [9999.0, 1e4, 9998.0],
    "all low": [-1e4, -1e4, -9999.0],
    "all equal": [1e4] * 7,
    "rising": np.linspace(-1e4, 1e4, 401).tolist(),
    "falling": np.linspace(1e4, -1e4, 401).tolist(),
    "one key": [-1e4],
    "exponentials that only overflow together": [88.5] * 3,  # in float32; in float64 the next
    "exponentials that only overflow together, in float64": [709.5] * 3,
    "exponentials at the limit": [57.0, 58.0],
    "exponentials at the lower limit": [-58.0] * 3,
}


def attention_of(scores: list[float], dtype: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Query, key and value [T or S, 2, 4], so that every query's scores are exactly these."""
    query, key = np.zeros((5, 2, 4), dtype), np.zeros((len(scores), 2, 4), dtype)
    query[..., 0], key[..., 0] = 2, np.array(scores)[:, None]
    value = np.random.default_rng(0).normal(size=key.shape).astype(dtype)
    return query, key, value


@EITHER_DTYPE
@pytest.mark.parametrize("layout", ["packed", "causal", "padded", "masked"])
@pytest.mark.parametrize("name", SCORES)
def test_softmax_of_extreme_scores(name: str, layout: str, dtype: str) -> None:
    scores = SCORES[name]
    arrays = attention_of(scores, dtype)
    mask: PackedMask | PaddedMask
    if layout in ("packed", "causal"):
        sizes = (np.array([0]), np.array([5])), (np.array([0]), np.array([len(scores)]))
        mask = PackedMask(Spans(*sizes[0]), Spans(*sizes[1]), layout == "causal")
    else:
        arrays = tuple(each[None] for each in arrays)
        hides_largest = np.array(scores) != max(scores) if min(scores) < max(scores) else np.arange(len(scores)) == 0
        mask = PaddedMask(None if layout == "padded" else hides_largest[None, None, None])
    expected, expected_cache = REFERENCE.attention.forward(*widened(arrays), mask, None)
    with nothing_out_of_range():
        context, cache = NUMPY.attention.forward(*arrays, mask, None)
        inferred, _ = NUMPY_INFERENCE.attention.forward(*arrays, mask, None)
        d_context = gradient_of(context, Storage(dtype, dtype, None))
        gradients = NUMPY.attention.backward(d_context, cache, mask, None)
    for ours in (context, inferred):
        assert_close(ours, expected, dtype)
    expected_gradients = REFERENCE.attention.backward(widened(d_context), expected_cache, mask, None)
    largest_key = 1e4  # with which the gradient of a query is multiplied, whose parts cancel
    for ours, theirs, factor in zip(gradients, expected_gradients, (largest_key, 1, 1), strict=True):
        error, bound = largest(ours - theirs), GRADIENT_TOLERANCE[dtype] * largest(theirs)
        assert error <= bound + ROUNDING[dtype] * factor


@EITHER_DTYPE
@pytest.mark.parametrize("drops", [False, True], ids=["", "dropout"])
def test_softmax_of_scores_that_are_large_for_some_heads_and_queries(drops: bool, dtype: str) -> None:
    """A sentence some of whose queries need their largest score, and one in which none does."""
    random = np.random.default_rng(0)
    query, key, value = (random.normal(size=(9, 4, 8)).astype(dtype) for _ in range(3))
    query[:5, 1] *= 80
    query[2:5, 2] *= 300
    spans = Spans(np.array([0, 5]), np.array([5, 4]))
    mask, dropout = PackedMask(spans, spans), Dropout(0.2, Philox(1, 2)) if drops else None
    expected, expected_cache = REFERENCE.attention.forward(*widened((query, key, value)), mask, dropout)
    with nothing_out_of_range():
        context, cache = NUMPY.attention.forward(query, key, value, mask, dropout)
        d_context = gradient_of(context, Storage(dtype, dtype, None))
        gradients = NUMPY.attention.backward(d_context, cache, mask, dropout)
    assert 0 < np.count_nonzero(cache.largest) < cache.largest.size
    size = {"float32": 1e-4, "float64": 1e-11}[dtype]  # scores of 1,000 have lost three digits
    assert largest(context - expected) <= size * largest(expected)
    for ours, theirs in zip(
        gradients, REFERENCE.attention.backward(widened(d_context), expected_cache, mask, dropout), strict=True
    ):
        assert largest(ours - theirs) <= size * largest(theirs)


# Layer norm and loss at their ends


@EITHER_DTYPE
def test_layer_norm_far_from_zero_and_of_constants(dtype: str) -> None:
    """The mean is taken out before squares are: a shift costs the digits that it costs the input, and a few more."""
    random = np.random.default_rng(0)
    shift = {"float32": 1000.0, "float64": 1e6}[dtype]
    x = np.stack([random.normal(size=64) + shift, np.full(64, 3.0), np.zeros(64), random.normal(size=64) * 1e-6])
    call = KINDS["layer norm"].build((4,), 64, 0)
    call = call._replace(forward=(x, *call.forward[1:]))
    (run,) = run_all(engine(1), [call], Storage(dtype, dtype, None))
    expected, expected_cache = REFERENCE.layer_norm.forward(*widened(run.given.forward))
    d_y = widened(gradient_of(run.output, Storage(dtype, dtype, None)))
    expected_gradients = REFERENCE.layer_norm.backward(d_y, expected_cache, *widened(run.given.backward))
    lost = 5 * float(np.spacing(np.asarray(shift, dtype)))  # the mean is a sum of 64 numbers of that size
    for ours in (run.output, run.inferred):
        error, others = largest((ours - expected)[0]), largest((ours - expected)[1:])
        assert error <= TOLERANCE[dtype] + lost
        assert others <= TOLERANCE[dtype]
    for ours, theirs in zip(arrays_of(run.gradients), arrays_of(expected_gradients), strict=True):
        error, size = largest(ours - theirs), largest(theirs)
        assert error <= (GRADIENT_TOLERANCE[dtype] + lost) * size


@EITHER_DTYPE
def test_the_loss_of_large_logits(dtype: str) -> None:
    params = LinearParams(np.array([[1e4], [-1e4], [9e3]]), np.zeros(3))
    labels = np.array([0, 2, -100, 1])
    arguments = stored((np.ones((4, 1)), params, labels), Storage(dtype, dtype, None))
    with nothing_out_of_range():
        loss, cache = NUMPY.vocabulary_cross_entropy.forward(*arguments)
        gradients = NUMPY.vocabulary_cross_entropy.backward(np.asarray(1, dtype), cache, *arguments[1:])
    assert loss == (0 + 1000 + 20000) / 3
    exact = widened(arguments)
    _, expected_cache = REFERENCE.vocabulary_cross_entropy.forward(*exact)
    expected = REFERENCE.vocabulary_cross_entropy.backward(np.asarray(1.0), expected_cache, *exact[1:])
    assert_gradients_close(gradients, expected, dtype)


@EITHER_DTYPE
@pytest.mark.parametrize("hidden", [slice(0, 9000), slice(7, 20_000, 3), slice(24_000, None)], ids=str)
def test_the_smoothed_loss_where_tokens_are_ruled_out(hidden: slice, dtype: str) -> None:
    """They have no part in it, and no gradient; whole chunks may be of such tokens alone."""
    exact = vocabulary_cross_entropy(120, 16, 25_001, 0.2, 0.1, 0)
    x, params, labels, smoothing = exact.forward
    params.bias[hidden] = -np.inf
    labels[np.isin(labels, np.arange(25_001)[hidden])] = -100
    logits, linear_cache = linear_forward(x, params)
    expected, cross_entropy_cache = cross_entropy_forward(logits, labels, smoothing)
    d_logits = cross_entropy_backward(np.asarray(1.0), cross_entropy_cache, labels, smoothing)
    expected_gradients = linear_backward(d_logits, linear_cache, params)
    for ops in engine(1).training, engine(3).training:
        given = stored(exact, Storage(dtype, dtype, None))
        with nothing_out_of_range():
            loss, cache = ops.vocabulary_cross_entropy.forward(*given.forward)
            gradients = ops.vocabulary_cross_entropy.backward(np.asarray(1, dtype), cache, *given.backward)
        assert_close(loss, expected, dtype)
        assert_gradients_close(gradients, expected_gradients, dtype)
        assert not gradients[1].weight[hidden].any()


# Top-k


def assert_same_top_k(x: np.ndarray, params: LinearParams, k: int) -> None:
    """Logits, ids and their order are exactly the reference's in the same type."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected, _ = REFERENCE.vocabulary_top_k.forward(x, params, k)
        for ops in (NUMPY, NUMPY_INFERENCE, engine(3).inference):
            top, _ = ops.vocabulary_top_k.forward(x, params, k)
            np.testing.assert_array_equal(top.logits, expected.logits)
            np.testing.assert_array_equal(top.ids, expected.ids)
            np.testing.assert_allclose(top.log_sum_exp, expected.log_sum_exp, rtol=1e-5)


@EITHER_DTYPE
@settings(max_examples=25)
@given(
    vocabulary=st.one_of(st.integers(1, 60), st.sampled_from([16384, 16385, 40_000])),
    values=st.sampled_from([(0,), (0, 1), (0, 1, 2, 3, 4), (-np.inf, 0, 1), (-np.inf,), (np.inf, 0), (np.nan, 0, 2)]),
    share=st.sampled_from([0.0, 1e-3, 0.3, 0.5, 1.0]),
    seed=st.integers(0, 1000),
)
def test_of_equal_logits_the_smaller_id_comes_first(
    dtype: str, vocabulary: int, values: tuple[float, ...], share: float, seed: int
) -> None:
    """Exact small numbers, many of them equal, with infinities and NaN among them."""
    random = np.random.default_rng(seed)
    bias = random.choice(np.array(values, dtype), vocabulary)
    params = LinearParams(random.integers(0, 2, (vocabulary, 2)).astype(dtype), bias)
    x = random.integers(-1, 2, (3, 2)).astype(dtype)
    assert_same_top_k(x, params, min(vocabulary, 1 + int(share * vocabulary)))


@pytest.mark.parametrize("k", [1, 5, 16, 17, 16384, 16385, 35_000])
def test_all_logits_equal(k: int) -> None:
    params = LinearParams(np.zeros((35_000, 2), np.float32), np.full(35_000, 2.0, np.float32))
    for ops in (NUMPY, NUMPY_INFERENCE):
        top, _ = ops.vocabulary_top_k.forward(np.ones((2, 2), np.float32), params, k)
        np.testing.assert_array_equal(top.ids, np.tile(np.arange(k), (2, 1)))
        np.testing.assert_allclose(top.log_sum_exp, 2 + np.log(35_000), rtol=1e-6)  # float32's rounding


@pytest.mark.parametrize("place", [0, 1, 20_000, 29_999])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("k", [1, 3, 20])
def test_one_logit_that_is_no_number(value: float, place: int, k: int) -> None:
    random = np.random.default_rng(0)
    bias = random.permutation(30_000).astype(np.float32) / 1024
    bias[place] = value
    x = np.zeros((2, 1), np.float32)
    assert_same_top_k(x, LinearParams(np.zeros((30_000, 1), np.float32), bias), k)


def test_a_row_that_is_no_number_spoils_no_other() -> None:
    random = np.random.default_rng(0)
    params = LinearParams(random.integers(-3, 4, (500, 4)).astype(np.float32), np.zeros(500, np.float32))
    x = random.integers(-3, 4, (5, 4)).astype(np.float32)
    x[2] = np.nan
    assert_same_top_k(x, params, 4)


# A small encoder: repeatable, whichever threads work, and from several threads at once

CONFIG = XLMRobertaConfig(
    vocab_size=97,
    hidden_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=160,
    max_position_embeddings=130,
)
SETTING = EncoderSetting(4, "gelu", 1e-5)


def encoder_params(dtype: str) -> Any:
    random = np.random.default_rng(0)
    return trees.map_leaves(
        lambda parameter: (random.normal(size=parameter.shape) * 0.3).astype(dtype), encoder_specification(CONFIG)
    )


PARAMS = encoder_params("float32")


def some_ids(seed: int) -> np.ndarray:
    """A batch of sentences of very different lengths."""
    random = np.random.default_rng(seed)
    ids = random.integers(4, 97, (6, 120))
    ids[np.arange(120) >= random.integers(1, 121, 6)[:, None]] = 1
    return ids


def encode(ops: Ops, ids: np.ndarray, params: Any, trains: bool = True, padded: bool = False) -> list[np.ndarray]:
    """The last hidden state; with `trains`, something dropped, and then all gradients."""
    inputs = prepare_inputs(CONFIG, ids, padded=padded)
    index = inputs.ids, inputs.token_types, inputs.positions
    if not trains:
        return [encoder_forward(*index, params, inputs.mask, SETTING, ops)[0]]
    sentences, rows = token_places(ids != 1)
    places = (sentences, rows) if padded else (sentences[ids != 1], rows[ids != 1])
    tokens = [Dropout(0.1, TokenKey(Philox(5, i), *places)) for i in range(5)]
    attention = [TokenKey(Philox(3, i), *places) if padded else Philox(3, i) for i in range(2)]
    dropout = EncoderDropout(
        tokens[0], tuple(LayerDropout(Dropout(0.1, attention[i]), *tokens[1 + 2 * i : 3 + 2 * i]) for i in range(2))
    )
    x, cache = encoder_forward(*index, params, inputs.mask, SETTING, ops, dropout)
    d_x = np.random.default_rng(1).normal(size=x.shape).astype(x.dtype)
    gradients = encoder_backward(d_x, cache, *index, params, inputs.mask, SETTING, ops, 1, dropout)
    return [x, *arrays_of(gradients)]


def assert_identical(ours: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for our, their in zip(ours, expected, strict=True):
        np.testing.assert_array_equal(our, their)


@pytest.mark.parametrize(
    ("number_of_threads", "padded"), [(None, False), (1, False), (2, False), (2, True), (3, False)]
)
def test_two_runs_are_identical(number_of_threads: int | None, padded: bool) -> None:
    ops, ids = engine(number_of_threads), some_ids(0)
    first = encode(ops.training, ids, PARAMS, padded=padded)
    inferred = encode(ops.inference, ids, PARAMS, trains=False, padded=padded)
    encode(ops.training, some_ids(1), PARAMS, padded=padded)
    elsewhere = trees.map_leaves(
        lambda leaf: np.concatenate([[leaf.flat[0]], leaf.flat])[1:].reshape(leaf.shape), PARAMS
    )
    for params in (PARAMS, elsewhere):
        assert_identical(encode(ops.training, ids, params, padded=padded), first)
        assert_identical(encode(ops.inference, ids, params, trains=False, padded=padded), inferred)


@EITHER_DTYPE
def test_the_number_of_threads_changes_nothing_but_rounding(dtype: str) -> None:
    params, ids = encoder_params(dtype), some_ids(2)
    exact, *exact_gradients = encode(
        REFERENCE, ids, encoder_params("float64") if dtype == "float64" else widened(params)
    )
    for number_of_threads in (1, 2, 3):
        x, *gradients = encode(engine(number_of_threads).training, ids, params)
        assert_close(x, exact, dtype)
        rounding = ROUNDING[dtype] * max(np.abs(each).max() for each in exact_gradients)
        for ours, theirs in zip(gradients, exact_gradients, strict=True):
            assert np.abs(ours - theirs).max() <= GRADIENT_TOLERANCE[dtype] * np.abs(theirs).max() + 10 * rounding


@contextmanager
def impatient_threads() -> Iterator[None]:
    """Threads take turns a thousand times as often as usual."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def all_at_once(tasks: list[Callable[[], list[np.ndarray]]], expected: list[list[np.ndarray]], times: int) -> None:
    """Every task in a thread of its own, so many times, gives exactly what is expected of it."""
    start = threading.Barrier(len(tasks))
    errors: list[BaseException] = []

    def repeat(task: Callable[[], list[np.ndarray]], result: list[np.ndarray]) -> None:
        try:
            start.wait(timeout=60)
            for _ in range(times):
                assert_identical(task(), result)
        except BaseException as error:
            errors.append(error)

    callers = [threading.Thread(target=repeat, args=each) for each in zip(tasks, expected, strict=True)]
    with impatient_threads():
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join(timeout=300)
    assert not any(caller.is_alive() for caller in callers)
    if errors:
        raise errors[0]


@pytest.mark.parametrize("times", [4, pytest.param(200, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize(("number_of_threads", "callers"), [(None, 2), (1, 2), (2, 2), (2, 4), (3, 4)])
def test_threads_that_share_a_record_get_what_they_get_alone(
    number_of_threads: int | None, callers: int, times: int
) -> None:
    """Half of them train, half of them infer, each on a batch of its own."""
    ops = engine(number_of_threads)
    tasks = [
        lambda caller=caller: encode(ops[caller % 2], some_ids(caller), PARAMS, trains=caller % 2 == 0)
        for caller in range(callers)
    ]
    alone = [task() for task in tasks]
    before = blas_threads()
    all_at_once(tasks, alone, times)
    assert blas_threads() == before


@pytest.mark.parametrize("op", ["feed forward", "padded attention", "vocabulary cross-entropy", "vocabulary top-k"])
def test_threads_that_share_an_operation(op: str) -> None:
    """Each with other sizes, so that workspace cannot fit them all."""
    build = KINDS[op].build
    sizes: list[dict[str, Any]] = {
        "feed forward": [
            {"batch": (n,), "width": n, "inner": 3 * n, "activation": "gelu", "form": "key", "rate": 0.1}
            for n in (30, 70, 71)
        ],
        "padded attention": [
            {
                "batch": 2,
                "queries": n,
                "sources": n + 3,
                "heads": 3,
                "width": 8,
                "mask": "BTS",
                "form": "none",
                "rate": 0.0,
            }
            for n in (30, 70, 71)
        ],
        "vocabulary cross-entropy": [
            {"tokens": n, "width": 16, "vocabulary": 300 * n, "ignored": 0.1, "smoothing": 0.1} for n in (30, 60, 61)
        ],
        "vocabulary top-k": [{"tokens": n, "width": 16, "vocabulary": 300 * n, "share": 1e-3} for n in (30, 60, 61)],
    }[op]
    calls = [build(**size, seed=0) for size in sizes]

    def task(call: Call) -> list[np.ndarray]:
        (run,) = run_all(engine(2), [call], ALL_IN_FLOAT32)
        return arrays_of((run.output, run.inferred, run.gradients))

    all_at_once([lambda call=call: task(call) for call in calls], [task(call) for call in calls], 10)


# BLAS and errors


@pytest.mark.parametrize("number_of_threads", [None, 1, 2, 3])
def test_blas_keeps_its_number_of_threads(number_of_threads: int | None) -> None:
    ops, before = engine(number_of_threads), blas_threads()
    encode(ops.training, some_ids(0), PARAMS)
    encode(ops.inference, some_ids(0), PARAMS, trains=False)
    assert blas_threads() == before
    wrong = PARAMS._replace(layers=(PARAMS.layers[0], trees.map_leaves(lambda leaf: leaf[:7], PARAMS.layers[1])))
    for each, trains in ((ops.training, True), (ops.inference, False)):
        with pytest.raises(Exception):  # noqa: B017, PT011  (found by NumPy or by the shape checks, each in its words)
            encode(each, some_ids(0), wrong, trains)
        assert blas_threads() == before
    assert_identical(encode(ops.training, some_ids(0), PARAMS), encode(ops.training, some_ids(0), PARAMS))


@pytest.mark.parametrize("op", ["feed forward", "linear activation"])
def test_an_unknown_activation_is_named(op: str) -> None:
    sizes = {"batch": (3,), "width": 8, "activation": "geglu", "seed": 0}
    more = {"inner": 5, "form": "none", "rate": 0.0} if op == "feed forward" else {"outputs": 5}
    call = stored(KINDS[op].build(**sizes, **more), ALL_IN_FLOAT32)
    for ops in engine(None):
        with pytest.raises(ValueError, match="hidden_act='geglu' is not implemented"):
            getattr(ops, call.op).forward(*call.forward)


def test_dropout_that_does_not_say_where_is_refused() -> None:
    """As by the reference: a key without places for features, and places for packed attention."""
    dropout = Dropout(0.1, Philox(1, 2))
    call = KINDS["add norm"].build((6,), 8, 8, "none", 0.0, 0)
    with pytest.raises(TypeError, match="does not say where"):
        NUMPY.add_norm.forward(*call.forward[:-1], dropout)
    places = Dropout(0.1, TokenKey(Philox(1, 2), np.zeros(6, int), np.arange(6)))
    call = packed_attention([(6, 6)], 2, 4, "within", False, 0.0, 0)
    with pytest.raises(TypeError, match="packed attention takes the Philox alone"):
        NUMPY.attention.forward(*call.forward[:-1], places)
