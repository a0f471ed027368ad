"""The kernels of activations.cu, executed in emulation, against layers.activations in float64."""

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.cuda_emulator import Schedule, why_not
from tests.ops.calls import ACTIVATION_NAMES, DTYPES
from tests.ops.cuda.test_norms import (
    EVERY_DTYPE,
    HOW_MANY_EXAMPLES,
    LAYOUTS,
    ROUNDING,
    SCHEDULES,
    SMALLEST,
    emulated,
    placed,
)
from xlmr_np.layers.activations import ACTIVATIONS, activation_forward
from xlmr_np.ops.cuda import activations
from xlmr_np.ops.cuda.activations import bias_activation

pytestmark = pytest.mark.skipif(why_not() is not None, reason=f"kernels cannot be executed here: {why_not()}")

GUARD = 77.0
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


@pytest.mark.parametrize(
    "name", [None, *sorted({functor: name for name, (functor, _) in ACTIVATIONS.items()}.values())]
)
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
