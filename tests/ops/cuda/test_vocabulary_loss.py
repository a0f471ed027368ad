"""The kernels of vocabulary_loss.cu, executed in emulation, against the textbook on all logits at once in float64."""

from typing import NamedTuple
from unittest import mock

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.cuda_emulator import (
    BARRIER,
    EmulatedGpu,
    Schedule,
    number_of_barriers,
    run_sanitized,
    some_of,
    why_not,
    without,
)
from tests.ops.calls import DTYPES
from tests.ops.cuda.test_norms import (
    EVERY_DTYPE,
    HOW_MANY_EXAMPLES,
    LAYOUTS,
    ROUNDING,
    SCHEDULES,
    SMALLEST,
    emulated,
    placed,
    wide,
)
from xlmr_np.layers.linear import LinearParams, linear_backward, linear_forward
from xlmr_np.losses.cross_entropy import cross_entropy_backward, cross_entropy_forward
from xlmr_np.ops.cuda import vocabulary_loss
from xlmr_np.ops.cuda.vocabulary_loss import vocabulary_cross_entropy, vocabulary_cross_entropy_backward
from xlmr_np.ops.reference import vocabulary_cross_entropy_backward as reference_backward
from xlmr_np.ops.reference import vocabulary_cross_entropy_forward as reference_forward

pytestmark = pytest.mark.skipif(why_not() is not None, reason=f"kernels cannot be executed here: {why_not()}")

SUMS = {"float16": 2e-6, "bfloat16": 2e-6, "float32": 2e-6, "float64": 1e-14}  # of float32 (float64) in another order


class Case(NamedTuple):
    """Arguments."""

    x: np.ndarray
    params: LinearParams
    labels: np.ndarray
    smoothing: float


class Results(NamedTuple):
    """Of both directions."""

    loss: np.ndarray
    log_sum_exp: np.ndarray
    d_x: np.ndarray
    d_weight: np.ndarray
    d_bias: np.ndarray


def run(case: Case, d_loss: float = 1.0, chunk: int = 304, gpu: EmulatedGpu | None = None) -> Results:
    """Forward and backward, with chunks of another size than the real one."""
    gpu = gpu or emulated()
    with mock.patch.object(vocabulary_loss, "VOCABULARY_CHUNK", chunk), np.errstate(all="ignore"):
        loss, log_sum_exp = vocabulary_cross_entropy(gpu, *case)
        d_loss = np.asarray(d_loss, loss.dtype)
        d_x, d_params = vocabulary_cross_entropy_backward(gpu, d_loss, case.x, log_sum_exp, *case[1:])
    return Results(loss, log_sum_exp, d_x, *d_params)


def case_of(rows: int, size: int, dtype: str, smoothing: float = 0.0, seed: int = 0, layout: str = "C") -> Case:
    """Products of small quarters, which every type holds, some tokens ruled out, some labels ignored."""
    random = np.random.default_rng(seed)
    x, weight = random.integers(-3, 4, (rows, 6)) / 2, random.integers(-2, 3, (size, 6)) / 2
    labels = random.integers(0, size, rows)
    bias = random.normal(size=size)
    bias[random.random(size) < 0.1] = -np.inf
    bias[labels] = np.round(8 * random.normal(size=rows)) / 8
    labels[random.random(rows) < 0.2] = -100
    x, weight, bias = (placed(array, dtype, layout) for array in (x, weight, bias))
    return Case(x, LinearParams(weight, bias), labels, smoothing)


def check(ours: Results, case: Case, dtype: str, d_loss: float) -> None:
    """Each gradient to the sum of what the roundings of its terms may make."""
    x, params, labels, smoothing = wide(case[:2]) + case[2:]
    logits, linear_cache = linear_forward(x, params)
    with np.errstate(invalid="ignore"):
        loss, cache = cross_entropy_forward(logits, labels, smoothing)
    log_sum_exp = np.log(np.exp(logits).sum(axis=1))
    size = 1 + np.abs(np.where(np.isfinite(logits), logits, 0)).max(initial=0)
    number = DTYPES["float64" if dtype == "float64" else "float32"]
    assert [each.dtype for each in ours] == [number, number, DTYPES[dtype], DTYPES[dtype], number]
    np.testing.assert_allclose(ours.loss, loss, 0, SUMS[dtype] * size)
    np.testing.assert_allclose(ours.log_sum_exp, log_sum_exp, 0, SUMS[dtype] * size)

    d_logits = cross_entropy_backward(np.float64(d_loss), cache, labels, smoothing)
    d_x, (d_weight, d_bias) = linear_backward(d_logits, linear_cache, params)
    scale = abs(d_loss) / max(1, (labels != -100).sum())
    # Of each gradient of a logit: its rounding, and what log Σ exp is not known to.
    error = ROUNDING[dtype] * np.abs(d_logits) + SUMS[dtype] * size * scale + SMALLEST[dtype]
    error = np.where(labels[:, None] == -100, 0, error)
    magnitudes = np.abs(d_logits) + error
    table, rounding = np.abs(params.weight), 2 * ROUNDING[dtype]  # of a chunk's part of the result, and of the result
    for our, exact, of_terms, of_sum in (
        (ours.d_x, d_x, error @ table, magnitudes @ table),
        (ours.d_weight, d_weight, error.T @ np.abs(x), magnitudes.T @ np.abs(x)),
        (ours.d_bias, d_bias, error.sum(axis=0), SUMS[dtype] * magnitudes.sum(axis=0)),
    ):
        slack = (9 if our is ours.d_x else 1) * SMALLEST[dtype]  # for every chunk
        assert (np.abs(our.astype(np.float64) - exact) <= of_terms + rounding * of_sum + slack).all()


@HOW_MANY_EXAMPLES
@EVERY_DTYPE
def test_equal_to_the_textbook(dtype: str, examples: int) -> None:
    @settings(max_examples=examples, phases=set(Phase) - {Phase.explain})
    @given(
        rows=st.integers(0, 5),
        size=st.one_of(st.integers(2, 60), st.sampled_from([256, 608, 1000, 2049])),
        chunk=st.sampled_from([1, 24, 256, 304, 1000, 1024]),
        smoothing=st.sampled_from([0.0, 0.0, 0.1, 0.75]),
        d_loss=st.sampled_from([1.0, -0.3, 1000.0]),
        layout=LAYOUTS,
        schedule=st.sampled_from(SCHEDULES),
        seed=st.integers(0, 2**16),
    )
    def compare(
        rows: int, size: int, chunk: int, smoothing: float, d_loss: float, layout: str, schedule: Schedule, seed: int
    ) -> None:
        case = case_of(rows, size, dtype, smoothing, seed, layout)
        check(run(case, d_loss, max(chunk, size // 8), emulated(schedule)), case, dtype, d_loss)

    compare()
    launched = {kernel for schedule in SCHEDULES for kernel in emulated(schedule).launches}
    ours = {kernel for kernel in launched if kernel.file == "vocabulary_loss.cu"}
    assert ours <= set(vocabulary_loss.kernels())
    assert len(ours) >= 3


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_real_vocabulary_in_real_chunks(dtype: str) -> None:
    """Against the reference as it stands, to the rounding of the product."""
    random, chunk = np.random.default_rng(0), vocabulary_loss.VOCABULARY_CHUNK
    size = 2 * chunk + 1
    weight, bias = placed(random.normal(size=(size, 8)) / 3, dtype), placed(random.normal(size=size), dtype)
    x, labels = placed(random.normal(size=(3, 8)), dtype), np.array([chunk - 1, chunk, size - 1])
    ours = run(Case(x, LinearParams(weight, bias), labels, 0.1), 1.0, chunk)
    params = wide(LinearParams(weight, bias))
    loss, cache = reference_forward(wide(x), params, labels, 0.1)
    d_x, d_params = reference_backward(np.float64(1.0), cache, params, labels, 0.1)
    rounding = {"float16": 2**-11, "float32": 2e-6}[dtype]
    for our, exact in zip(ours, (loss, cache.log_sum_exp, d_x, *d_params), strict=True):
        np.testing.assert_allclose(our.astype(np.float64), exact, rtol=0, atol=8 * rounding)  # products are below 8


def test_more_rows_than_threads_that_average_their_losses() -> None:
    case = case_of(600, 31, "float32", 0.1)
    check(run(case, -2.0), case, "float32", -2.0)


def test_a_loss_scale_beyond_float16() -> None:
    """d_loss meets the number of labels before anything is rounded."""
    case = case_of(16, 700, "float16", 0.1, seed=4)
    case = case._replace(x=placed(case.x / 8, "float16"))
    scaled, plain = run(case, 2.0**16), run(case._replace(x=wide(case.x), params=wide(case.params)), 1.0)
    check(scaled, case, "float16", 2.0**16)
    for our, exact in zip(scaled[2:], plain[2:], strict=True):
        assert np.isfinite(our).all()
        np.testing.assert_allclose(wide(our) / 2**16, exact, rtol=0, atol=4 * 2**-11 * np.abs(exact).max())  # roundings
    (almost_nothing,) = run(case._replace(labels=np.where(np.arange(16) == 0, 5, -100)), 1e-3)[3:4]
    assert (almost_nothing == 0).mean() > 0.3  # which is what a loss scale is for


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_without_any_label_there_is_no_loss(dtype: str, smoothing: float) -> None:
    for rows in (0, 4):
        case = case_of(rows, 700, dtype, smoothing)._replace(labels=np.full(rows, -100))
        ours = run(case)
        assert ours.loss == 0
        assert not any(each.any() for each in ours[2:])
        assert [each.shape for each in ours] == [(), (rows,), (rows, 6), (700, 6), (700,)]


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_tokens_that_are_ruled_out(smoothing: float) -> None:
    """Whole chunks of them, the first among them; as a label, one makes the loss infinite, as in the reference."""
    case = case_of(5, 950, "float64", smoothing)
    bias = case.params.bias.copy()
    bias[:304] = bias[608:912] = -np.inf
    bias[[310, 320, 400, 930]] = 0
    for labels in ([310, 320, 930, -100, 400], [310, 7, 930, -100, 400]):
        special = case._replace(params=case.params._replace(bias=bias), labels=np.array(labels))
        ours = run(special)
        with np.errstate(all="ignore"):
            loss, cache = reference_forward(*special)
            d_x, d_params = reference_backward(np.float64(1.0), cache, *special[1:])
        for our, exact in zip(ours, (loss, cache.log_sum_exp, d_x, *d_params), strict=True):
            np.testing.assert_allclose(our, exact, rtol=1e-12, atol=1e-13)  # float64
        assert np.isinf(ours.loss) == (7 in labels)
        is_possible = bias != -np.inf
        is_possible[7] |= 7 in labels
        assert not ours.d_bias[~is_possible].any()


@pytest.mark.parametrize("sizes", [(-1e4, 0, 1e4), (1e4, 0, -1e4), (0, 3e4, 0), (-3e4, -3e4, -3e4)])
def test_large_logits_in_any_order(sizes: tuple[float, float, float]) -> None:
    """The sum so far is scaled as the largest grows, and neither overflows nor vanishes."""
    bias = np.repeat(np.array(sizes, np.float32), [10, 300, 50])
    params, x = LinearParams(np.zeros((360, 2), np.float32), bias), np.ones((1, 2), np.float32)
    ours = run(Case(x, params, np.array([359]), 0.0), chunk=40)
    exact = bias.astype(np.float64)
    expected = np.log(np.exp(exact - exact.max()).sum()) + exact.max()
    np.testing.assert_allclose(ours.log_sum_exp, expected, rtol=2e-7)  # a rounding of float32
    np.testing.assert_allclose(ours.loss, expected - sizes[2], rtol=2e-7, atol=4e-3)  # two of 3e4
    probabilities = np.exp(exact - expected)
    probabilities[359] -= 1
    np.testing.assert_allclose(ours.d_bias, probabilities, rtol=0, atol=4e-3)  # log Σ exp to a rounding of 3e4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_not_a_number_stays_so(dtype: str) -> None:
    """In its row; in one that is ignored it has no part in the loss."""
    case = case_of(4, 700, dtype, 0.1)
    x, labels = case.x.copy(), np.array([3, 1, -100, 2])
    x[2] = np.nan
    ours = run(case._replace(x=x, labels=labels))
    assert np.isfinite(ours.loss)
    assert np.isnan(ours.log_sum_exp).tolist() == [False, False, True, False]
    assert not ours.d_x[2].any()
    assert np.isfinite(wide(ours.d_x)).all()
    labels[2] = 650
    ours = run(case._replace(x=x, labels=labels))
    assert np.isnan(ours.loss)
    assert np.isnan(wide(ours.d_x)).all(axis=1).tolist() == [False, False, True, False]
    assert np.isnan(ours.d_bias).all()


@EVERY_DTYPE
def test_a_row_does_not_depend_on_the_others(dtype: str) -> None:
    case = case_of(7, 700, dtype)._replace(labels=np.arange(7))
    together = run(case, 7.0)
    for row in range(7):
        alone = run(case._replace(x=case.x[row : row + 1], labels=case.labels[row : row + 1]))
        np.testing.assert_array_equal(alone.log_sum_exp, together.log_sum_exp[row : row + 1])
        allowed = 16 * ROUNDING[dtype]  # of values up to 2: BLAS sums a matrix of one row in another order
        np.testing.assert_allclose(wide(alone.d_x), wide(together.d_x[row : row + 1]), rtol=0, atol=allowed)


@EVERY_DTYPE
def test_the_same_bits_under_all_schedules(dtype: str) -> None:
    case = case_of(5, 950, dtype, 0.1)
    runs = [[each.tobytes() for each in run(case, gpu=emulated(schedule))] for schedule in SCHEDULES]
    assert runs[0] == runs[1] == runs[2]


def test_a_table_of_another_type_is_converted() -> None:
    case = case_of(4, 700, "float16", 0.1)
    others = LinearParams(*(placed(each, "float32") for each in case.params))
    for our, same in zip(run(case), run(case._replace(params=others)), strict=True):
        assert our.dtype == same.dtype
        np.testing.assert_array_equal(our, same)


def test_labels_of_any_integer_type_and_strides() -> None:
    case = case_of(4, 700, "float32")
    others = np.repeat(case.labels.astype(np.int32), 2)[::2]
    for our, same in zip(run(case), run(case._replace(labels=others)), strict=True):
        np.testing.assert_array_equal(our, same)


def test_rows_travel_in_vectors_of_16_bytes_where_they_can() -> None:
    for size, length in ((608, 8), (609, 1)):
        gpu = EmulatedGpu()
        run(case_of(2, size, "float16"), gpu=gpu)
        names = [kernel.expression for kernel in gpu.launches if kernel.file == "vocabulary_loss.cu"]
        first, last = "<__half, 8>", f"<__half, {length}>"
        chunks = [first, first] if size == 608 else [first, first, last]
        forward, backward = ([name + chunk for chunk in chunks] for name in ("add_logits", "logits_gradient"))
        assert names == [*forward, "mean_loss<float>", *backward]


@pytest.mark.exhaustive
def test_nothing_outside_of_arrays_is_touched() -> None:
    done = run_sanitized("""
from tests.cuda_emulator import EmulatedGpu
from tests.ops.cuda.test_vocabulary_loss import case_of, run
gpu = EmulatedGpu(sanitize=True)
for rows, size in ((3, 608), (2, 904), (0, 8), (1, 5)):
    run(case_of(rows, size, "float32", 0.1), gpu=gpu)
print("done")
""")
    assert done.stdout == "done\n", done.stderr


FAULTS = {
    "every chunk begins anew": (r"if \(first_id > 0\) so_far", "if (false) so_far"),
    "the sum is not scaled as the largest grows": (r"if \(sum != 0\) sum \*= .*;", ""),
    "an empty sum is scaled": (r"if \(sum != 0\) sum \*=", "sum *="),
    "the other sum is not scaled": (r"other\.raise\(largest\);", ""),
    "shifted by infinity": (r"return largest > -Number\(INFINITY\) && .*;", "return largest;"),
    "a warp is left out": (
        r"for \(int warp = 0; warp < WARPS; \+\+warp\) \{",
        "for (int warp = 1; warp < WARPS; ++warp) {",
    ),
    "the last warp's losses are left out": (
        r"int warp = 1; warp < WARPS; \+\+warp\) sum",
        "int warp = 2; warp < WARPS; ++warp) sum",
    ),
    "labels of other chunks": (r"column >= 0 && column < columns", "column < columns"),
    "the label's logit without bias": (
        r"to_wide\(product\[column\]\) \+ to_wide\(bias\[column\]\)",
        "to_wide(product[column])",
    ),
    "tokens that are ruled out count": (r"is_smoothed && to_wide\(.*\) != -Number\(INFINITY\)", "is_smoothed"),
    "ignored rows have a loss": (r"if \(labels\[row\] == IGNORED\) continue;", ""),
    "no mean": (r"sum / divisor<Number>\(counted\)", "sum"),
    "the loss is not smoothed": (r"expected \+= smoothing .*;", ";"),
    "the gradient has no mean": (r"\*d_loss / divisor<Number>\(counted\)", "*d_loss"),
    "the gradient of a product without bias": (r"\+ shift - own_log_sum_exp", "- own_log_sum_exp"),
    "the gradient is not smoothed": (r"\? Number\(0\) : share;", "? Number(0) : Number(0);"),
    "tokens that are ruled out have a share": (r"shift == -Number\(INFINITY\) \? Number\(0\) : share", "share"),
    "the whole of a label": (r"target \+= Number\(1\) - smoothing", "target += Number(1)"),
    "ignored rows have a gradient": (r"label == IGNORED \? Number\(0\) : ", ""),
    "labels of the first chunk in all": (r"first_id \+ vector \* LENGTH \+ i == label", "vector * LENGTH + i == label"),
}


def matches(gpu: EmulatedGpu) -> bool:
    """Whether all is right with logits that fall and rise from chunk to chunk, some of them far below 0."""
    case = case_of(40, 700, "float32", 0.2, seed=1)
    bias = case.params.bias.copy()
    ruled_out = [0, *range(304, 312)]
    bias[[100, 400, 650]] = 9, 4, 12
    bias[ruled_out] = -np.inf
    labels = np.where(np.isin(case.labels, ruled_out), -100, case.labels)
    low = case_of(2, 700, "float32")
    for special in (
        case._replace(params=case.params._replace(bias=bias), labels=labels),
        low._replace(params=low.params._replace(bias=low.params.bias - np.float32(200))),
    ):
        try:
            check(run(special, 5.0, gpu=gpu), special, "float32", 5.0)
        except (AssertionError, RuntimeError):  # also threads that part ways
            return False
    return True


@pytest.mark.parametrize("fault", some_of(FAULTS))
def test_a_fault_is_seen(fault: str) -> None:
    pattern, instead = FAULTS[fault]
    assert matches(emulated())
    assert not matches(EmulatedGpu(edit=lambda text: with_fault(text, pattern, instead)))


def with_fault(text: str, pattern: str, instead: str) -> str:
    """Into the kernels of this file only."""
    return without(pattern, 0, instead)(text) if "mean_loss" in text else text


@pytest.mark.parametrize("barrier", range(number_of_barriers("vocabulary_loss.cu")))
def test_a_missing_barrier_is_seen(barrier: int) -> None:
    """Under one schedule at least."""
    schedules = [Schedule(seed) for seed in range(8)]

    def edit(text: str) -> str:
        return without(BARRIER, barrier)(text) if "mean_loss" in text else text

    assert all(matches(emulated(schedule)) for schedule in schedules)
    assert not all(matches(EmulatedGpu(schedule, edit=edit)) for schedule in schedules)
