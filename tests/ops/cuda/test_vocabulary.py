"""The kernels of vocabulary.cu, executed in emulation, against the reference on the logits that they are given."""

from unittest import mock

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.cuda_emulator import BARRIER, EmulatedGpu, Schedule, number_of_barriers, run_sanitized, why_not, without
from tests.ops.calls import DTYPES
from tests.ops.cuda.test_norms import EVERY_DTYPE, HOW_MANY_EXAMPLES, LAYOUTS, SCHEDULES, emulated, placed
from xlmr_np.layers.linear import LinearParams
from xlmr_np.ops.cuda import vocabulary
from xlmr_np.ops.cuda.vocabulary import LARGEST_K, vocabulary_top_k
from xlmr_np.ops.reference import TopK, largest, vocabulary_top_k_forward

pytestmark = pytest.mark.skipif(why_not() is not None, reason=f"kernels cannot be executed here: {why_not()}")

SUMS = {"float16": 2e-6, "bfloat16": 2e-6, "float32": 2e-6, "float64": 1e-14}  # of float32 (float64) in another order


def top_k(
    x: np.ndarray,
    params: LinearParams,
    k: int,
    chunk: int = vocabulary.VOCABULARY_CHUNK,
    gpu: EmulatedGpu | None = None,
) -> TopK:
    """With chunks of another size than the real one."""
    with mock.patch.object(vocabulary, "VOCABULARY_CHUNK", chunk):
        return vocabulary_top_k(gpu or emulated(), x, params, k)


def expected_of(x: np.ndarray, params: LinearParams, k: int) -> TopK:
    """The logits as the kernel sees them, the product rounded to its type, and what the reference makes of them."""
    product = emulated().matmul(x, params.weight.T)
    number = np.float64 if x.dtype == np.float64 else np.float32
    logits = product.astype(number) + params.bias.astype(x.dtype).astype(number)
    best, ids = largest(logits, min(k, logits.shape[1]))
    exact = logits.astype(np.float64)
    with np.errstate(all="ignore"):
        highest = exact.max(axis=1, keepdims=True)
        shift = np.where(np.isfinite(highest), highest, 0)
        log_sum_exp = np.log(np.exp(exact - shift).sum(axis=1)) + shift[:, 0]
    return TopK(best, ids, log_sum_exp)


def check(ours: TopK, expected: TopK, dtype: str) -> None:
    assert (ours.logits.dtype, ours.ids.dtype) == (expected.logits.dtype, np.int64)
    assert ours.log_sum_exp.dtype == ours.logits.dtype
    np.testing.assert_array_equal(ours.logits, expected.logits)
    np.testing.assert_array_equal(ours.ids, expected.ids)
    np.testing.assert_allclose(ours.log_sum_exp, expected.log_sum_exp, SUMS[dtype], SUMS[dtype])  # the order of sums


@HOW_MANY_EXAMPLES
@EVERY_DTYPE
def test_equal_to_the_reference(dtype: str, examples: int) -> None:
    @settings(max_examples=examples, phases=set(Phase) - {Phase.explain})
    @given(
        rows=st.integers(0, 4),
        size=st.one_of(st.integers(1, 60), st.sampled_from([256, 1000, 2049])),
        chunk=st.sampled_from([1, 24, 256, 1000, 1024]),
        k=st.one_of(st.integers(1, 20), st.just(300)),
        layout=LAYOUTS,
        schedule=st.sampled_from(SCHEDULES),
        seed=st.integers(0, 2**16),
    )
    def compare(rows: int, size: int, chunk: int, k: int, layout: str, schedule: Schedule, seed: int) -> None:
        random = np.random.default_rng(seed)
        # Small integers, as the product of a chunk may be rounded otherwise than that of all.
        x = placed(random.integers(-9, 10, (rows, 6)), dtype, layout)
        weight = placed(random.integers(-3, 4, (size, 6)), dtype, layout)
        params = LinearParams(weight, placed(random.normal(size=size), dtype, layout))
        ours = top_k(x, params, k, max(chunk, size // 8), emulated(schedule))
        check(ours, expected_of(x, params, k), dtype)

    compare()
    launched = [kernel for schedule in SCHEDULES for kernel in emulated(schedule).launches]
    assert {kernel for kernel in launched if kernel.file == "vocabulary.cu"} <= set(vocabulary.kernels())


@EVERY_DTYPE
def test_a_real_vocabulary_in_real_chunks(dtype: str) -> None:
    """Against the reference as it stands, to the rounding of the product."""
    random = np.random.default_rng(0)
    weight, bias = random.normal(size=(40_001, 8)) / 3, random.normal(size=40_001)
    x, params = placed(random.normal(size=(2, 8)), dtype), LinearParams(placed(weight, dtype), placed(bias, dtype))
    ours = top_k(x, params, 5)
    exact, _ = vocabulary_top_k_forward(
        x.astype(np.float64), LinearParams(*(each.astype(np.float64) for each in params)), 5
    )
    rounding = {"float16": 2**-11, "bfloat16": 2**-8, "float32": 1e-6, "float64": 1e-14}[dtype]
    np.testing.assert_allclose(ours.logits, exact.logits, rtol=0, atol=8 * rounding)  # products are below 8
    np.testing.assert_allclose(ours.log_sum_exp, exact.log_sum_exp, rtol=0, atol=8 * rounding)  # as is their sum


EXACT = st.sampled_from([(0,), (0, 1), (0, 1, 2, 3), (-np.inf, 0, 1), (-np.inf,), (np.inf, 0), (np.inf, -np.inf, 1)])


@HOW_MANY_EXAMPLES
def test_of_equal_logits_the_smaller_id_comes_first(examples: int) -> None:
    """Exact small numbers, many of them equal, with infinities; a bias of -inf rules a token out."""

    @settings(max_examples=2 * examples, phases=set(Phase) - {Phase.explain})
    @given(
        size=st.one_of(st.integers(1, 60), st.sampled_from([300, 700])),
        values=EXACT,
        k=st.sampled_from([1, 2, 5, 17, 700]),
        chunk=st.sampled_from([7, 64, 256, 1024]),
        schedule=st.sampled_from(SCHEDULES),
        seed=st.integers(0, 1000),
    )
    def compare(size: int, values: tuple[float, ...], k: int, chunk: int, schedule: Schedule, seed: int) -> None:
        random = np.random.default_rng(seed)
        bias = random.choice(np.array(values, np.float32), size)
        params = LinearParams(random.integers(0, 2, (size, 2)).astype(np.float32), bias)
        x = random.integers(-1, 2, (3, 2)).astype(np.float32)
        ours = top_k(x, params, k, max(chunk, size // 8), emulated(schedule))
        check(ours, expected_of(x, params, k), "float32")

    compare()


@pytest.mark.parametrize("k", [1, 16, 1024, LARGEST_K, LARGEST_K + 1])
def test_large_k(k: int) -> None:
    """Beyond the largest, the reference serves it."""
    random = np.random.default_rng(0)
    params = LinearParams(random.integers(-3, 4, (2500, 3)).astype(np.float32), np.zeros(2500, np.float32))
    x = random.integers(-3, 4, (1, 3)).astype(np.float32)
    check(top_k(x, params, k, 1024), expected_of(x, params, k), "float32")


@EVERY_DTYPE
def test_what_is_no_number_is_never_among_the_best(dtype: str) -> None:
    """A row that is NaN throughout, one with a NaN logit, and one of numbers."""
    weight, bias = np.zeros((90, 2)), np.arange(90) % 7 / 4
    weight[40, 0] = np.inf
    params = LinearParams(placed(weight, dtype), placed(bias, dtype))
    x = placed(np.array([[np.nan, 0], [0, 1], [1, 0]]), dtype)
    with np.errstate(invalid="ignore"):
        ours = top_k(x, params, 3, 32)
    assert np.isnan(ours.log_sum_exp).tolist() == [True, True, False]
    assert np.isnan(ours.logits[0]).all()
    assert ours.ids.tolist() == [[-1, -1, -1], [6, 13, 20], [40, 6, 13]]
    assert ours.logits[1:].tolist() == [[1.5, 1.5, 1.5], [np.inf, 1.5, 1.5]]
    assert ours.log_sum_exp[2] == np.inf


def test_large_logits_do_not_overflow_the_sum() -> None:
    bias = np.array([-1e4, 1e4, 1e4, 0, 1e4 - 1], np.float32)
    ours = top_k(np.zeros((1, 1), np.float32), LinearParams(np.zeros((5, 1), np.float32), bias), 2, 2)
    assert ours.ids.tolist() == [[1, 2]]
    np.testing.assert_allclose(ours.log_sum_exp, 1e4 + np.log(2 + np.exp(-1)), rtol=1e-7)  # a rounding of float32


def test_a_table_of_another_type_is_converted() -> None:
    random = np.random.default_rng(0)
    params = LinearParams(*(placed(random.integers(-3, 4, shape), "float16") for shape in ((50, 3), 50)))
    x = placed(random.integers(-3, 4, (2, 3)), "float32")
    converted = LinearParams(*(each.astype(np.float32) for each in params))
    check(top_k(x, params, 4), expected_of(x, converted, 4), "float32")


def test_k_must_be_positive() -> None:
    params = LinearParams(np.ones((5, 2), np.float32), np.ones(5, np.float32))
    with pytest.raises(ValueError, match="k is 0; ask for at least 1 token"):
        top_k(np.ones((1, 2), np.float32), params, 0)


def test_no_rows() -> None:
    for dtype in DTYPES:
        params = LinearParams(np.ones((5, 2), DTYPES[dtype]), np.ones(5, DTYPES[dtype]))
        ours = top_k(np.ones((0, 2), DTYPES[dtype]), params, 7)
        assert [each.shape for each in ours] == [(0, 5), (0, 5), (0,)]


@pytest.mark.exhaustive
def test_nothing_outside_of_arrays_is_touched() -> None:
    done = run_sanitized("""
import numpy as np
from tests.cuda_emulator import EmulatedGpu
from xlmr_np.layers.linear import LinearParams
from xlmr_np.ops.cuda import vocabulary
vocabulary.VOCABULARY_CHUNK = 304
gpu = EmulatedGpu(sanitize=True)
for size, k in ((608, 5), (904, 17), (8, 8), (400, 300)):
    params = LinearParams(np.ones((size, 2), np.float16), np.ones(size, np.float16))
    top = vocabulary.vocabulary_top_k(gpu, np.ones((2, 2), np.float16), params, k)
    print((top.ids == np.arange(k)).all())
print("done", len(set(gpu.launches)))
""")
    assert done.stdout == "True\n" * 4 + "done 1\n", done.stderr


@pytest.mark.parametrize("barrier", range(number_of_barriers("vocabulary.cu")))
def test_a_missing_barrier_is_seen(barrier: int) -> None:
    """Under one schedule at least."""

    random = np.random.default_rng(0)
    params = LinearParams(random.integers(-9, 10, (900, 3)).astype(np.float32), np.zeros(900, np.float32))
    x = random.integers(-9, 10, (3, 3)).astype(np.float32)
    expected = expected_of(x, params, 7)

    def matches(gpu: EmulatedGpu) -> bool:
        try:
            ours = top_k(x, params, 7, gpu=gpu)
        except RuntimeError:  # threads that part ways
            return False
        is_same = np.array_equal(ours.logits, expected.logits) and np.array_equal(ours.ids, expected.ids)
        return is_same and np.allclose(ours.log_sum_exp, expected.log_sum_exp, rtol=1e-5)  # sums in another order

    schedules = [Schedule(seed) for seed in range(8)]
    assert all(matches(emulated(schedule)) for schedule in schedules)
    assert not all(matches(EmulatedGpu(schedule, edit=without(BARRIER, barrier))) for schedule in schedules)
