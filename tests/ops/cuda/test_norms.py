"""The kernels of norms.cu and norms_backward.cu, executed in emulation, against layers.layer_norm in float64."""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.cuda_emulator import BARRIER, EmulatedGpu, Schedule, run_sanitized, some_of, why_not, without
from tests.ops.calls import DTYPES, EPS
from xlmr_np import trees
from xlmr_np.layers.dropout import Dropout, Philox, TokenKey, dropout_backward, dropout_forward
from xlmr_np.layers.layer_norm import LayerNormCache, LayerNormParams, layer_norm_backward, layer_norm_forward
from xlmr_np.ops.cuda import norms
from xlmr_np.ops.cuda.norms import NormCache, NormGradients, add_norm, layer_norm, norm_backward

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
        check(add_norm(gpu, product, bias, residual, params, EPS)[0], sum(terms), wide(params), dtype, magnitudes)
        if dtype in ("float16", "float32"):  # the other instances differ from these as those of add_norm do
            check(layer_norm(gpu, product, params, EPS)[0], terms[0], wide(params), dtype)

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
    check(add_norm(emulated(), x, nothing, x, params, EPS)[0], 2 * wide(x), wide(params), dtype)


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
    result, _ = layer_norm(emulated(), x, params, EPS)
    np.testing.assert_allclose(result, expected, rtol=0, atol=tolerance)  # the mean is rounded in units of the offset


@EVERY_DTYPE
def test_a_row_of_equal_numbers_gives_the_shift(dtype: str) -> None:
    """With no deviation at all, eps alone keeps the result finite."""
    shift = placed(np.arange(40) / 8, dtype)
    params = LayerNormParams(placed(np.full(40, 3.0), dtype), shift)
    rows = placed(np.full((2, 40), 0.5), dtype)
    result, _ = add_norm(emulated(), rows, rows[0], rows, params, EPS)
    np.testing.assert_array_equal(result, np.tile(shift, (2, 1)))


@EVERY_DTYPE
def test_a_row_does_not_depend_on_the_others(dtype: str) -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(9, 96))
    rows[4] = np.nan
    rows = placed(rows, dtype)
    params = LayerNormParams(*(placed(random.normal(size=96), dtype) for _ in range(2)))
    together, _ = add_norm(emulated(), rows, params.bias, rows, params, EPS)
    for number in range(len(rows)):
        row = rows[number : number + 1]
        alone, _ = add_norm(emulated(SCHEDULES[1]), row, params.bias, row, params, EPS)
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
    check(add_norm(emulated(), x, bias, residual, params, EPS)[0], sum(terms), wide(params), "float32")


# --- training ---

RATES = st.sampled_from([None, 0.0, 0.1, 0.6, 1.0])


def dropped(rate: float | None, rows: int, random: np.random.Generator) -> Dropout | None:
    """Tokens anywhere in sentences of any number."""
    if rate is None:
        return None
    sentences, numbers = random.integers(0, 70_000, rows), random.integers(0, 512, rows)
    return Dropout(rate, TokenKey(Philox(*(int(word) for word in random.integers(0, 2**32, 2))), sentences, numbers))


def check_sum(result: np.ndarray, terms: np.ndarray, dtype: str) -> None:
    """That a result is the sum of the rows of `terms`, in the wide type."""
    assert result.dtype == (np.float64 if dtype == "float64" else np.float32)
    allowed = 2 * SUMS[dtype] * np.abs(terms).sum(axis=0) + 1e-30  # what is summed is itself such a sum
    assert (np.abs(result - terms.sum(axis=0)) <= allowed).all()


@HOW_MANY_EXAMPLES
@EVERY_DTYPE
def test_forward_for_training(dtype: str, examples: int) -> None:
    """With dropout and a cache; without dropout, the very bits of inference."""

    @settings(max_examples=examples, phases=set(Phase) - {Phase.explain})
    @given(
        rows=st.integers(0, 9),
        width=widths,
        layout=LAYOUTS,
        rate=RATES,
        with_cache=st.booleans(),
        schedule=st.sampled_from(SCHEDULES),
        seed=st.integers(0, 2**16),
    )
    def compare(
        rows: int, width: int, layout: str, rate: float | None, with_cache: bool, schedule: Schedule, seed: int
    ) -> None:
        random, gpu = np.random.default_rng(seed), emulated(schedule)
        product, residual = (placed(random.normal(size=(rows, width)), dtype, layout) for _ in range(2))
        bias, *norm = (placed(random.normal(size=width), dtype, layout) for _ in range(3))
        params, dropout = LayerNormParams(*norm), dropped(rate, rows, random)
        result, kept = add_norm(gpu, product, bias, residual, params, EPS, dropout, with_cache)
        branch = dropout_forward(wide(product) + wide(bias), dropout)
        branch_terms = dropout_forward(np.abs(wide(product)) + np.abs(wide(bias)), dropout)
        total, terms = branch + wide(residual), branch_terms + np.abs(wide(residual))
        check(result, total, wide(params), dtype, terms)
        assert (kept is not None) == with_cache
        if kept is not None:
            check(kept.normalized, total, LayerNormParams(np.ones(width), np.zeros(width)), dtype, terms)
            _, (_, inverse_std) = layer_norm_forward(total, wide(params), EPS)
            np.testing.assert_allclose(kept.inverse_std, inverse_std[:, 0], rtol=1e-12 if dtype == "float64" else 1e-4)
            if rate is None:
                (without_residual, _), (inference, _) = (
                    layer_norm(gpu, product, params, EPS, with_cache=each) for each in (True, False)
                )
                assert without_residual.tobytes() == inference.tobytes()
        if rate is None:
            inference, _ = add_norm(gpu, product, bias, residual, params, EPS)
            assert result.tobytes() == inference.tobytes()

    compare()


class Gradient(NamedTuple):
    """Arguments of `norm_backward`."""

    d_y: np.ndarray
    cache: NormCache
    params: LayerNormParams
    dropout: Dropout | None
    drops_y: bool


def gradient(
    rows: int, width: int, dtype: str, rate: float | None, drops_y: bool = False, layout: str = "C", seed: int = 0
) -> Gradient:
    random = np.random.default_rng(seed)
    d_y, normalized = (placed(random.normal(size=(rows, width)), dtype, layout) for _ in range(2))
    inverse_std = placed(np.exp(random.normal(size=rows)), "float64" if dtype == "float64" else "float32", layout)
    params = LayerNormParams(*(placed(random.normal(size=width), dtype, layout) for _ in range(2)))
    return Gradient(d_y, NormCache(normalized, inverse_std), params, dropped(rate, rows, random), drops_y)


def check_gradients(result: NormGradients, given: Gradient, dtype: str) -> None:
    d_y, (normalized, inverse_std), params = wide((given.d_y, given.cache, given.params))
    dropout = given.dropout
    d_y = dropout_backward(d_y, dropout) if given.drops_y else d_y
    d_x, _ = layer_norm_backward(d_y, LayerNormCache(normalized, inverse_std[:, None]), params)
    d_branch = d_x if given.drops_y else dropout_backward(d_x, dropout)
    # The two means are as large as what they are subtracted from.
    sizes = inverse_std * np.abs(d_y * params.weight).max(axis=1, initial=0) * (2 + np.abs(normalized).max(axis=1))
    scale = 1 if dropout is None or dropout.rate == 1.0 else 1 / (1 - dropout.rate)
    for ours, expected, enlarged in ((result.d_x, d_x, 1), (result.d_branch, d_branch, scale)):
        assert ours.dtype == DTYPES[dtype]
        allowed = ROUNDING[dtype] * np.abs(expected) + enlarged * SUMS[dtype] * sizes[:, None] + SMALLEST[dtype]
        assert (np.abs(ours.astype(np.float64) - expected) <= allowed).all()
    check_sum(result.d_params.weight, d_y * normalized, dtype)
    check_sum(result.d_params.bias, d_y, dtype)
    rounding = SUMS[dtype] * scale * sizes.sum()
    assert (np.abs(result.d_bias - d_branch.sum(axis=0)) <= rounding + SUMS[dtype] * np.abs(d_branch).sum(axis=0)).all()
    assert (result.d_branch is result.d_x) == (given.drops_y or dropout is None or dropout.rate == 0.0)


@HOW_MANY_EXAMPLES
@EVERY_DTYPE
def test_backward_is_equal_to_the_reference(dtype: str, examples: int) -> None:
    @settings(max_examples=examples, phases=set(Phase) - {Phase.explain})
    @given(
        rows=st.one_of(st.integers(0, 9), st.sampled_from([15, 16, 17, 32, 70])),
        width=widths,
        rate=RATES,
        drops_y=st.booleans(),
        layout=LAYOUTS,
        schedule=st.sampled_from(SCHEDULES),
        seed=st.integers(0, 2**16),
    )
    def compare(
        rows: int, width: int, rate: float | None, drops_y: bool, layout: str, schedule: Schedule, seed: int
    ) -> None:
        given = gradient(rows, width, dtype, rate, drops_y, layout, seed)
        check_gradients(norm_backward(emulated(schedule), *given), given, dtype)

    compare()
    launched = {kernel for schedule in SCHEDULES for kernel in emulated(schedule).launches}
    assert {kernel for kernel in launched if kernel.file.startswith("norms")} <= set(norms.kernels())


@EVERY_DTYPE
def test_gradients_of_wide_rows(dtype: str) -> None:
    """More vectors than threads; the backward pass keeps no row and knows no widest."""
    given = gradient(2, 2560, dtype, 0.5)
    check_gradients(norm_backward(emulated(), *given), given, dtype)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_gradients_have_the_same_bits_under_every_schedule(dtype: str) -> None:
    given = gradient(37, 264, dtype, 0.3)
    flat = [trees.leaves(norm_backward(emulated(schedule), *given)) for schedule in SCHEDULES]
    assert len({b"".join(leaf.tobytes() for leaf in leaves) for leaves in flat}) == 1


def test_a_row_of_nan_spoils_no_other_row() -> None:
    given = gradient(20, 40, "float32", 0.3)
    d_y = given.d_y.copy()
    d_y[3, 7] = np.nan
    result, expected = (norm_backward(emulated(), *each) for each in (given._replace(d_y=d_y), given))
    others = np.arange(20) != 3
    assert np.isnan(result.d_x[3]).all()
    np.testing.assert_array_equal(result.d_x[others], expected.d_x[others])
    assert np.isnan(result.d_params.weight[7])
    assert np.isnan(result.d_params.bias[7])


def test_bits_that_no_key_has_drawn_are_refused() -> None:
    given = gradient(2, 8, "float32", None)._replace(dropout=Dropout(0.5, Philox(1, 2)))
    with pytest.raises(TypeError, match="by a TokenKey"):
        norm_backward(emulated(), *given)


FAULTS = {
    "no barrier before the means are used": without(BARRIER),
    "the mean not taken away": without(r" - mean - ", 0, " - "),
    "the part along the row not taken away": without(r" - place \* along"),
    "the mean of a lane": without(r"sum = sum_of_warp\(sum\);"),
    "the part of a lane": without(r"along = sum_of_warp\(along\);"),
    "rows of another sentence": without(r"numbers_in_sentences\[row\], sentences\[row\]\);\s+store", 0, "0, 0); store"),
    "the bias summed before the dropout": without(r"d_bias\[i\] \+= gradients\[i\]", 0, "d_bias[i] += d_results[i]"),
    "a sum in the place of another": without(r"group \+ 2 \* size", 0, "group + size"),
    "a warp left out": without(r"number = threadIdx.x / 32", 0, "number = threadIdx.x / 32 + 1"),
}


@pytest.mark.parametrize("fault", some_of(FAULTS))
def test_a_fault_in_the_backward_kernel_is_seen(fault: str) -> None:
    given = gradient(20, 264, "float16", 0.5)
    assert is_seen(
        "norms_backward.cu",
        FAULTS[fault],
        lambda gpu: check_gradients(norm_backward(gpu, *given), given, "float16"),
    )


CACHING_FAULTS = {
    "nothing dropped": without(r"if \(sentences\) drop_features\(sums, key, vector, number, sentence\);"),
    "the results in the cache": without(
        r"\[&\]\(Number\(&numbers\)\[LENGTH\], Number\(&\)\[LENGTH\]",
        0,
        "[&](Number(&)[LENGTH], Number(&numbers)[LENGTH]",
    ),
    "no deviation": without(r"inverse_stds\[row\] = inverse_std;", 0, "inverse_stds[row] = 1;"),
}


@pytest.mark.parametrize("fault", some_of(CACHING_FAULTS))
def test_a_fault_in_the_training_kernel_is_seen(fault: str) -> None:
    random = np.random.default_rng(0)
    x, row = (placed(random.normal(size=shape), "float16") for shape in ((3, 264), 264))
    dropout, params = dropped(0.5, 3, random), LayerNormParams(row, row)
    total = dropout_forward(wide(x) + wide(row), dropout) + wide(x)
    _, (normalized, inverse_std) = layer_norm_forward(total, wide(params), EPS)

    def run(gpu: EmulatedGpu) -> None:
        result, kept = add_norm(gpu, x, row, x, params, EPS, dropout, with_cache=True)
        check(result, total, wide(params), "float16", 4 * np.abs(wide(x)) + 2 * np.abs(wide(row)))
        np.testing.assert_allclose(kept.normalized.astype(np.float64), normalized, atol=1e-2)  # in float16, to 3
        np.testing.assert_allclose(kept.inverse_std, inverse_std[:, 0], rtol=1e-4)

    run(emulated())
    assert is_seen("norms.cu", CACHING_FAULTS[fault], run)


def is_seen(file: str, fault: Callable[[str], str], run: Callable[[EmulatedGpu], None]) -> bool:
    """Whether what `run` checks fails under one of the schedules, with the fault in this file."""

    def edit(text: str) -> str:
        return fault(text) if text.startswith(f'#line 1 "{file}"\n') else text

    for schedule in SCHEDULES:
        try:
            run(EmulatedGpu(schedule, edit=edit))
        except (AssertionError, RuntimeError):
            return True
    return False


@pytest.mark.exhaustive
def test_nothing_outside_of_arrays_is_touched() -> None:
    done = run_sanitized("""
import numpy as np
from tests.cuda_emulator import EmulatedGpu
from xlmr_np.layers.layer_norm import LayerNormParams
from xlmr_np.layers.dropout import Dropout, Philox, TokenKey
from xlmr_np.ops.cuda.norms import add_norm, norm_backward
gpu = EmulatedGpu(sanitize=True)
for rows, width in ((5, 72), (3, 8), (1, 256), (18, 264)):
    x, row, places = np.ones((rows, width), np.float16), np.ones(width, np.float16), np.arange(rows)
    params, dropout = LayerNormParams(row, row), Dropout(0.5, TokenKey(Philox(1, 2), places, places))
    add_norm(gpu, x, row, x, params, 1e-5)
    y, cache = add_norm(gpu, x, row, x, params, 1e-5, dropout, with_cache=True)
    norm_backward(gpu, y, cache, params, dropout)
print("done", sorted({kernel.expression.partition("<")[0] for kernel in gpu.launches}))
""")
    assert done.stdout == "done ['add_norm', 'add_norm_with_cache', 'column_sums', 'norm_backward']\n", done.stderr
