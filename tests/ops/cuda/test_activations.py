"""The kernels of activations.cu, executed in emulation, against layers.activations in float64."""

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.cuda_emulator import BARRIER, Schedule, run_sanitized, some_of, why_not, without
from tests.ops.calls import ACTIVATION_NAMES, DTYPES
from tests.ops.cuda.test_norms import (
    EVERY_DTYPE,
    HOW_MANY_EXAMPLES,
    LAYOUTS,
    ROUNDING,
    SCHEDULES,
    SMALLEST,
    SUMS,
    emulated,
    is_seen,
    placed,
    wide,
)
from xlmr_np.layers.activations import ACTIVATIONS, ActivationCache, activation_forward
from xlmr_np.layers.activations import activation_backward as reference_backward
from xlmr_np.ops.cuda import activations
from xlmr_np.ops.cuda.activations import ActivationGradients, activation_backward, bias_activation

pytestmark = pytest.mark.skipif(why_not() is not None, reason=f"kernels cannot be executed here: {why_not()}")

GUARD = 77.0
ONE_NAME_EACH = sorted({functor: name for name, (functor, _) in ACTIVATIONS.items()}.values())
WIDTHS = st.one_of(st.sampled_from([1, 8, 32, 256, 264, 512]), st.integers(0, 300))


def check(x: np.ndarray, bias: np.ndarray, dtype: str, name: str | None, layout: str, schedule: Schedule) -> None:
    """In place, in the middle of a larger array, of which nothing else may change."""
    before = 1 if layout == "offset" else 16
    around = np.full(x.size + 2 * before, GUARD, DTYPES[dtype])
    inside = around[before : before + x.size].reshape(x.shape)
    inside[...] = x
    bias = placed(bias, dtype, layout)
    given = inside.astype(np.float64) + bias.astype(np.float64)
    expected = given if name is None else activation_forward(given, name)[0]
    assert bias_activation(emulated(schedule), inside, bias, name) is inside
    # Once for the sum and once for the function, whose terms are as large as x; then the result's.
    computed = ROUNDING["float64" if dtype == "float64" else "float32"]
    allowed = ROUNDING[dtype] * np.abs(expected) + 8 * computed * np.maximum(np.abs(given), 1) + SMALLEST[dtype]
    assert (np.abs(inside.astype(np.float64) - expected) <= allowed).all()
    assert (around[:before] == GUARD).all()
    assert (around[before + x.size :] == GUARD).all()


def compare_with_the_reference(
    dtype: str, names: list[str | None], widths: st.SearchStrategy[int], layouts: st.SearchStrategy[str], examples: int
) -> None:
    @settings(max_examples=examples, phases=set(Phase) - {Phase.explain})
    @given(
        rows=st.one_of(st.integers(0, 9), st.sampled_from([31, 32, 33, 100])),
        width=widths,
        name=st.sampled_from(names),
        layout=layouts,
        schedule=st.sampled_from(SCHEDULES),
        seed=st.integers(0, 2**16),
    )
    def compare(rows: int, width: int, name: str | None, layout: str, schedule: Schedule, seed: int) -> None:
        random = np.random.default_rng(seed)
        check(3 * random.normal(size=(rows, width)), random.normal(size=width), dtype, name, layout, schedule)

    compare()
    launched = [kernel for schedule in SCHEDULES for kernel in emulated(schedule).launches]
    assert {kernel for kernel in launched if kernel.file == "activations.cu"} <= set(activations.kernels())


@HOW_MANY_EXAMPLES
@EVERY_DTYPE
def test_gelu_in_every_type(dtype: str, examples: int) -> None:
    compare_with_the_reference(dtype, ["gelu"], WIDTHS, LAYOUTS, examples)


def test_every_activation() -> None:
    names = [None, *ACTIVATION_NAMES]
    compare_with_the_reference("float32", names, st.sampled_from([4, 32, 132, 256]), st.just("C"), 40)


@pytest.mark.exhaustive
@EVERY_DTYPE
def test_every_activation_in_every_type(dtype: str) -> None:
    compare_with_the_reference(dtype, [None, *ACTIVATION_NAMES], WIDTHS, LAYOUTS, 600)


@pytest.mark.parametrize("name", [None, "tanh", "gelu"])
def test_float16_in_vectors(name: str | None) -> None:
    """What projections, the pooler and the feed-forward layer ask for."""
    random = np.random.default_rng(0)
    check(random.normal(size=(40, 264)), random.normal(size=264), "float16", name, "C", SCHEDULES[1])


@pytest.mark.parametrize("name", [None, *ONE_NAME_EACH])
def test_the_ends_of_floating_point(name: str | None) -> None:
    values = np.array([0.0, -0.0, 1e-30, 10, -10, 1e4, -1e4, 1e30, -1e30, np.inf, -np.inf, np.nan], np.float32)
    with np.errstate(all="ignore"):
        expected = values if name is None else activation_forward(values, name)[0]
    given = values[None].copy()
    bias_activation(emulated(), given, np.zeros(len(values), np.float32), name)
    np.testing.assert_allclose(given[0], expected, rtol=1e-6, atol=1e-30)  # float32's last places, and its ends


def test_more_rows_than_blocks_of_a_grid_can_take_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activations, "TALLEST_GRID", 2)
    random = np.random.default_rng(0)
    check(random.normal(size=(150, 9)), random.normal(size=9), "float32", "gelu", "C", SCHEDULES[0])


def test_a_bias_of_another_type_is_converted() -> None:
    product, bias = np.ones((2, 5), np.float32), np.full(5, 0.5, np.float16)
    np.testing.assert_array_equal(bias_activation(emulated(), product, bias, None), np.full((2, 5), 1.5, np.float32))


def test_what_is_refused() -> None:
    product = np.ones((4, 3), np.float32)
    with pytest.raises(ValueError, match="hidden_act='geglu' is not implemented"):
        bias_activation(emulated(), product, product[0], "geglu")
    with pytest.raises(ValueError, match=r"product must be in C order, to be overwritten; its strides are \(4, 12\)"):
        bias_activation(emulated(), product.T, np.ones(4, np.float32), None)
    assert (product == 1).all()


@pytest.mark.parametrize("name", [None, "gelu"])
def test_a_product_is_kept_on_request(name: str | None) -> None:
    random = np.random.default_rng(0)
    product, bias = (placed(random.normal(size=shape), "float16") for shape in ((5, 40), 40))
    result = bias_activation(emulated(), product, bias, name, in_place=False)
    np.testing.assert_array_equal(result, bias_activation(emulated(), product.copy(), bias, name))


# --- backward ---


def gradients(
    rows: int, width: int, dtype: str, layout: str = "C", seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    product = placed(3 * random.normal(size=(rows, width)), dtype, layout)
    return placed(random.normal(size=(rows, width)), dtype), product, placed(random.normal(size=width), dtype, layout)


def check_gradients(
    result: ActivationGradients, given: tuple[np.ndarray, np.ndarray, np.ndarray], name: str, dtype: str
) -> None:
    d_y, product, bias = wide(given)
    x = product + bias
    computed = ROUNDING["float64" if dtype == "float64" else "float32"]
    d_product, y = reference_backward(d_y, ActivationCache(x), name), activation_forward(x, name)[0]
    assert result.d_product.dtype == DTYPES[dtype]
    # A slope is known to a few units of 1, and where x is rounded to one of x, times how fast the slope changes.
    inexact = 16 * computed * np.abs(d_y) * np.maximum(np.abs(x), 1)
    allowed = ROUNDING[dtype] * np.abs(d_product) + inexact + SMALLEST[dtype]
    assert (np.abs(result.d_product.astype(np.float64) - d_product) <= allowed).all()
    if result.y is not None:
        allowed = ROUNDING[dtype] * np.abs(y) + 8 * computed * np.maximum(np.abs(x), 1) + SMALLEST[dtype]
        assert (np.abs(result.y.astype(np.float64) - y) <= allowed).all()
    assert result.d_bias.dtype == (np.float64 if dtype == "float64" else np.float32)
    allowed = SUMS[dtype] * np.abs(d_product).sum(axis=0) + inexact.sum(axis=0)
    assert (np.abs(result.d_bias - d_product.sum(axis=0)) <= allowed).all()


def compare_gradients(
    dtype: str, names: list[str], widths: st.SearchStrategy[int], layouts: st.SearchStrategy[str], examples: int
) -> None:
    @settings(max_examples=examples, phases=set(Phase) - {Phase.explain})
    @given(
        rows=st.one_of(st.integers(0, 9), st.sampled_from([63, 64, 65, 130])),
        width=widths,
        name=st.sampled_from(names),
        layout=layouts,
        with_y=st.booleans(),
        schedule=st.sampled_from(SCHEDULES),
        seed=st.integers(0, 2**16),
    )
    def compare(rows: int, width: int, name: str, layout: str, with_y: bool, schedule: Schedule, seed: int) -> None:
        given = gradients(rows, width, dtype, layout, seed)
        d_y = given[0].copy()
        result = activation_backward(emulated(schedule), d_y, *given[1:], name, with_y)
        assert result.d_product is d_y
        assert (result.y is not None) == with_y
        check_gradients(result, given, name, dtype)

    compare()
    launched = [kernel for schedule in SCHEDULES for kernel in emulated(schedule).launches]
    assert {kernel for kernel in launched if kernel.file == "activations.cu"} <= set(activations.kernels())


@HOW_MANY_EXAMPLES
@EVERY_DTYPE
def test_gradients_of_gelu_in_every_type(dtype: str, examples: int) -> None:
    compare_gradients(dtype, ["gelu"], WIDTHS, LAYOUTS, examples)


def test_gradients_of_every_activation() -> None:
    compare_gradients("float32", ACTIVATION_NAMES, st.sampled_from([4, 32, 132, 256]), st.just("C"), 40)


@pytest.mark.exhaustive
@EVERY_DTYPE
def test_gradients_of_every_activation_in_every_type(dtype: str) -> None:
    compare_gradients(dtype, ACTIVATION_NAMES, WIDTHS, LAYOUTS, 600)


@pytest.mark.parametrize("name", ONE_NAME_EACH)
def test_slopes_at_the_ends_of_floating_point(name: str) -> None:
    """In float64, as float32's own squares leave its range: the kernel's slope is there 0 or 1 nevertheless."""
    values = np.array([0.0, -0.0, 1e-30, 10, -10, 1e4, -1e4, 1e30, -1e30, np.nan], np.float32)
    expected = reference_backward(np.ones(len(values)), ActivationCache(values.astype(np.float64)), name)
    d_y = np.ones((1, len(values)), np.float32)
    activation_backward(emulated(), d_y, values[None], np.zeros(len(values), np.float32), name)
    np.testing.assert_allclose(d_y[0], expected, rtol=1e-6, atol=1e-6)  # 1 - tanh² is known to a unit of 1


def test_gradients_have_the_same_bits_under_every_schedule() -> None:
    d_y, *given = gradients(200, 264, "float16")
    results = [activation_backward(emulated(schedule), d_y.copy(), *given, "gelu") for schedule in SCHEDULES]
    assert len({b"".join(leaf.tobytes() for leaf in result) for result in results}) == 1


BACKWARD_FAULTS = {
    "no barrier before the shares are added": without(BARRIER),
    "a share left out": without(r"int share = 0", 0, "int share = 1"),
    "columns of a vector exchanged": without(r"column % LENGTH", 0, "(LENGTH - 1 - column % LENGTH)"),
    "the bias forgotten": without(
        r"to_wide\(products\.elements\[i\]\) \+ to_wide\(shifts\.elements\[i\]\)", 0, "to_wide(products.elements[i])"
    ),
    "the density forgotten": without(r" \+ x \* density"),
    "rows of the next group": without(r"min\(first \+ ROWS, number_of_rows\)", 0, "number_of_rows"),
}


@pytest.mark.parametrize("fault", some_of(BACKWARD_FAULTS))
def test_a_fault_in_the_backward_kernel_is_seen(fault: str) -> None:
    given = gradients(100, 264, "float16")
    assert is_seen(
        "activations.cu",
        BACKWARD_FAULTS[fault],
        lambda gpu: check_gradients(
            activation_backward(gpu, given[0].copy(), *given[1:], "gelu"), given, "gelu", "float16"
        ),
    )


def test_gradients_that_are_refused() -> None:
    ones = np.ones((4, 3), np.float32)
    with pytest.raises(ValueError, match="hidden_act='geglu' is not implemented"):
        activation_backward(emulated(), ones, ones, ones[0], "geglu")
    with pytest.raises(ValueError, match=r"d_y must be in C order, to be overwritten; its strides are \(4, 12\)"):
        activation_backward(emulated(), ones.T, ones.T, np.ones(4, np.float32), "gelu")
    assert (ones == 1).all()


@pytest.mark.exhaustive
def test_nothing_outside_of_arrays_is_touched() -> None:
    done = run_sanitized("""
import numpy as np
from tests.cuda_emulator import EmulatedGpu
from xlmr_np.ops.cuda.activations import activation_backward, bias_activation
gpu = EmulatedGpu(sanitize=True)
for rows, width in ((1, 8), (70, 72), (130, 264)):
    x, row = np.ones((rows, width), np.float16), np.ones(width, np.float16)
    activation_backward(gpu, x.copy(), bias_activation(gpu, x, row, "gelu", in_place=False), row, "gelu")
print("done", len(set(gpu.launches)))
""")
    assert done.stdout == "done 3\n", done.stderr
