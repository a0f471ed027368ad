"""The kernels of norms.cu, executed in emulation, against layers.layer_norm in float64."""

from functools import cache

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.cuda_emulator import EmulatedGpu, Schedule, run_sanitized, why_not
from tests.ops.calls import DTYPES, EPS
from xlmr_np import trees
from xlmr_np.layers.layer_norm import LayerNormParams, layer_norm_forward
from xlmr_np.ops.cuda import norms
from xlmr_np.ops.cuda.norms import add_norm, layer_norm

pytestmark = pytest.mark.skipif(why_not() is not None, reason=f"kernels cannot be executed here: {why_not()}")

SCHEDULES = [Schedule(seed, arrival) for seed, arrival in ((0, "late"), (3, "early"), (8, "late"))]
ROUNDING = {
    "float16": 2**-11,
    "bfloat16": 2**-8,
    "float32": 2**-24,
    "float64": 2**-53,
}  # of a number stored in the type
SUMS = {"float16": 3e-6, "bfloat16": 3e-6, "float32": 3e-6, "float64": 1e-14}  # of float32 (float64) in another order
SMALLEST = {"float16": 2**-25, "bfloat16": 0, "float32": 0, "float64": 0}  # half the step of numbers near 0
HOW_MANY_EXAMPLES = pytest.mark.parametrize("examples", [15, pytest.param(300, marks=pytest.mark.exhaustive)])
EVERY_DTYPE = pytest.mark.parametrize("dtype", DTYPES)
LAYOUTS = st.sampled_from(["C", "C", "offset", "strided"])


@cache
def emulated(schedule: Schedule = SCHEDULES[0]) -> EmulatedGpu:
    return EmulatedGpu(schedule)


def placed(x: np.ndarray, dtype: str, layout: str = "C") -> np.ndarray:
    """A read-only copy in a type: in C order, one element off the alignment of vectors, or with gaps."""
    x = x.astype(DTYPES[dtype])
    if layout == "offset":
        x = np.concatenate([np.zeros(1, x.dtype), x.reshape(-1)])[1:].reshape(x.shape)
    elif layout == "strided":
        x = np.repeat(x, 2, axis=-1)[..., ::2]
    x.flags.writeable = False
    return x


def wide(tree: trees.Tree) -> trees.Tree:
    return trees.map_leaves(lambda leaf: leaf.astype(np.float64), tree)


def check(
    result: np.ndarray, x: np.ndarray, params: LayerNormParams, dtype: str, terms: np.ndarray | None = None
) -> None:
    """That a result is LayerNorm of x, a sum of terms whose magnitudes together are `terms`; arguments in float64."""
    assert result.dtype == DTYPES[dtype]
    expected, (_, inverse_std) = layer_norm_forward(x, params, EPS)
    magnitudes = np.abs(x) if terms is None else terms
    # A sum is rounded in units of its terms, and then enlarged by what makes the row's deviation 1.
    amplified = magnitudes.max(axis=1, keepdims=True) * inverse_std * np.abs(params.weight)
    allowed = ROUNDING[dtype] * np.abs(expected) + SUMS[dtype] * (amplified + np.abs(params.bias)) + SMALLEST[dtype]
    assert (np.abs(result.astype(np.float64) - expected) <= allowed).all()


widths = st.one_of(st.sampled_from([1, 2, 8, 31, 32, 33, 64, 128, 256, 264, 768]), st.integers(1, 300))


@HOW_MANY_EXAMPLES
@EVERY_DTYPE
def test_equal_to_the_reference(dtype: str, examples: int) -> None:
    @settings(max_examples=examples, phases=set(Phase) - {Phase.explain})
    @given(
        rows=st.integers(0, 9),
        width=widths,
        layout=LAYOUTS,
        offset=st.sampled_from([0.0, 1.0, -50.0]),
        schedule=st.sampled_from(SCHEDULES),
        seed=st.integers(0, 2**16),
    )
    def compare(rows: int, width: int, layout: str, offset: float, schedule: Schedule, seed: int) -> None:
        random, gpu = np.random.default_rng(seed), emulated(schedule)
        product, residual = (placed(random.normal(size=(rows, width)) + offset, dtype, layout) for _ in range(2))
        bias, weight, shift = (placed(random.normal(size=width), dtype, layout) for _ in range(3))
        params = LayerNormParams(weight, shift)
        terms = wide((product, bias, residual))
        magnitudes = sum(np.abs(term) for term in terms)
        check(add_norm(gpu, product, bias, residual, params, EPS), sum(terms), wide(params), dtype, magnitudes)
        if dtype in ("float16", "float32"):  # the other instances differ from these as those of add_norm do
            check(layer_norm(gpu, product, params, EPS), terms[0], wide(params), dtype)

    compare()
    launched = [kernel for schedule in SCHEDULES for kernel in emulated(schedule).launches if kernel.file == "norms.cu"]
    assert set(launched) <= set(norms.kernels())


@EVERY_DTYPE
@pytest.mark.parametrize("width", [8192, 8191, 12288])
def test_wide_rows(dtype: str, width: int) -> None:
    """12,288 numbers of float64 fill all the shared memory that a row may have."""
    random = np.random.default_rng(0)
    x = placed(random.normal(size=(3, width)) + 2, dtype)
    nothing, *norm = (placed(row, dtype) for row in (np.zeros(width), *random.normal(size=(2, width))))
    params = LayerNormParams(*norm)
    check(add_norm(emulated(), x, nothing, x, params, EPS), 2 * wide(x), wide(params), dtype)


def test_rows_that_are_too_wide_are_refused() -> None:
    for width, dtype in ((24577, np.float32), (12289, np.float64)):
        row = np.ones(width, dtype)
        with pytest.raises(
            ValueError, match=f"Rows of {width} numbers are too wide for the GPU's layer norm; use the CPU"
        ):
            layer_norm(emulated(), row[None], LayerNormParams(row, row), EPS)


@pytest.mark.parametrize(("offset", "tolerance"), [(1e3, 1e-3), (-1e4, 1e-2)])
def test_a_large_mean_does_not_spoil_the_variance(offset: float, tolerance: float) -> None:
    """Σx² / D - mean² would lose all of it: at 1e4, squares are known to 6 at best."""
    random = np.random.default_rng(0)
    x = (random.normal(size=(5, 768)) + offset).astype(np.float32)
    params = LayerNormParams(np.ones(768, np.float32), np.zeros(768, np.float32))
    expected, _ = layer_norm_forward(wide(x), wide(params), EPS)
    result = layer_norm(emulated(), x, params, EPS)
    np.testing.assert_allclose(result, expected, rtol=0, atol=tolerance)  # the mean is rounded in units of the offset


@EVERY_DTYPE
def test_a_row_of_equal_numbers_gives_the_shift(dtype: str) -> None:
    """With no deviation at all, eps alone keeps the result finite."""
    shift = placed(np.arange(40) / 8, dtype)
    params = LayerNormParams(placed(np.full(40, 3.0), dtype), shift)
    rows = placed(np.full((2, 40), 0.5), dtype)
    result = add_norm(emulated(), rows, rows[0], rows, params, EPS)
    np.testing.assert_array_equal(result, np.tile(shift, (2, 1)))


@EVERY_DTYPE
def test_a_row_does_not_depend_on_the_others(dtype: str) -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(9, 96))
    rows[4] = np.nan
    rows = placed(rows, dtype)
    params = LayerNormParams(*(placed(random.normal(size=96), dtype) for _ in range(2)))
    together = add_norm(emulated(), rows, params.bias, rows, params, EPS)
    for number in range(len(rows)):
        row = rows[number : number + 1]
        alone = add_norm(emulated(SCHEDULES[1]), row, params.bias, row, params, EPS)
        np.testing.assert_array_equal(*wide((together[number], alone[0])))


@EVERY_DTYPE
def test_rows_travel_in_vectors_of_16_bytes_where_they_can(dtype: str) -> None:
    random, gpu = np.random.default_rng(0), EmulatedGpu()
    length = 16 // DTYPES[dtype].itemsize
    for width, layout, expected in ((8 * length, "C", length), (8 * length + 1, "C", 1), (8 * length, "offset", 1)):
        x, row = (placed(random.normal(size=shape), dtype, layout) for shape in ((2, width), width))
        add_norm(gpu, x, row, x, LayerNormParams(row, row), EPS)
        assert f", {expected}, true>" in gpu.launches[-1].expression


def test_parameters_of_another_type_are_converted() -> None:
    random = np.random.default_rng(0)
    x, bias, residual = (placed(random.normal(size=shape), "float32") for shape in ((3, 20), 20, (3, 20)))
    bias = placed(bias, "float16")
    params = LayerNormParams(*(placed(random.normal(size=20), "bfloat16") for _ in range(2)))
    terms = wide((x, bias, residual))
    check(add_norm(emulated(), x, bias, residual, params, EPS), sum(terms), wide(params), "float32")


def test_nothing_outside_of_arrays_is_touched() -> None:
    done = run_sanitized("""
import numpy as np
from tests.cuda_emulator import EmulatedGpu
from xlmr_np.layers.layer_norm import LayerNormParams
from xlmr_np.ops.cuda.norms import add_norm
gpu = EmulatedGpu(sanitize=True)
for rows, width in ((5, 72), (3, 8), (1, 256), (2, 264)):
    x, row = np.ones((rows, width), np.float16), np.ones(width, np.float16)
    add_norm(gpu, x, row, x, LayerNormParams(row, row), 1e-5)
print("done", len(gpu.launches), len(set(gpu.launches)))
""")
    assert done.stdout == "done 4 1\n", done.stderr
