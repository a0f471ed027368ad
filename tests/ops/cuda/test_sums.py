"""The kernel of sums.cu, executed in emulation, against sums in float64."""

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.cuda_emulator import BARRIER, EmulatedGpu, Schedule, run_sanitized, some_of, why_not, without
from tests.ops.calls import DTYPES
from tests.ops.cuda.test_norms import (
    EVERY_DTYPE,
    HOW_MANY_EXAMPLES,
    LAYOUTS,
    SCHEDULES,
    check_sum,
    emulated,
    is_seen,
    placed,
    wide,
)
from xlmr_np.ops.cuda import sums
from xlmr_np.ops.cuda.sums import column_sums

pytestmark = pytest.mark.skipif(why_not() is not None, reason=f"kernels cannot be executed here: {why_not()}")


@HOW_MANY_EXAMPLES
@EVERY_DTYPE
def test_equal_to_the_reference(dtype: str, examples: int) -> None:
    @settings(max_examples=examples, phases=set(Phase) - {Phase.explain})
    @given(
        rows=st.one_of(st.integers(0, 40), st.sampled_from([255, 256, 257, 300, 515])),
        width=st.one_of(st.sampled_from([1, 8, 32, 64, 72, 264]), st.integers(0, 100)),
        layout=LAYOUTS,
        schedule=st.sampled_from(SCHEDULES),
        seed=st.integers(0, 2**16),
    )
    def compare(rows: int, width: int, layout: str, schedule: Schedule, seed: int) -> None:
        x = placed(np.random.default_rng(seed).normal(size=(rows, width)) + 1, dtype, layout)
        check_sum(column_sums(emulated(schedule), x), wide(x), dtype)

    compare()
    launched = [kernel for schedule in SCHEDULES for kernel in emulated(schedule).launches]
    assert {kernel for kernel in launched if kernel.file == "sums.cu"} <= set(sums.kernels())


@EVERY_DTYPE
def test_no_rows_are_zeros(dtype: str) -> None:
    result = column_sums(emulated(), np.zeros((0, 5), DTYPES[dtype]))
    assert result.tolist() == [0.0] * 5


def test_the_same_bits_under_every_schedule_and_alignment() -> None:
    """The order of a sum is that of the shape: whether rows come in vectors does not matter."""
    x = np.random.default_rng(0).normal(size=(530, 72))
    results = [
        column_sums(emulated(schedule), placed(x, "float32", layout)).tobytes()
        for schedule in SCHEDULES
        for layout in ("C", "offset", "strided")
    ]
    assert len(set(results)) == 1


def test_a_launch_for_256_rows_and_two_for_more() -> None:
    for rows, launches in ((0, 0), (256, 1), (257, 2), (70_000, 2)):
        gpu = EmulatedGpu()
        column_sums(gpu, np.ones((rows, 3), np.float32))
        assert len(gpu.launches) == launches


def test_a_number_that_is_none_stays_in_its_column() -> None:
    x = np.ones((300, 20), np.float32)
    x[280, 7] = np.nan
    result = column_sums(emulated(SCHEDULES[1]), x)
    assert np.isnan(result).tolist() == [column == 7 for column in range(20)]


FAULTS = {
    "no barrier before the shares are added": without(BARRIER),
    "a share left out": without(r"int share = 0", 0, "int share = 1"),
    "rows of the next group": without(r"min\(first \+ rows_of_group, number_of_rows\)", 0, "number_of_rows"),
    "a group in the place of the first": without(r"gridDim\.x \+ blockIdx\.x\)", 0, "gridDim.x)"),
}


@pytest.mark.parametrize("fault", some_of(FAULTS))
def test_a_fault_in_the_kernel_is_seen(fault: str) -> None:
    x = placed(np.random.default_rng(0).normal(size=(600, 72)), "float32")
    assert is_seen("sums.cu", FAULTS[fault], lambda gpu: check_sum(column_sums(gpu, x), wide(x), "float32"))


@pytest.mark.exhaustive
def test_nothing_outside_of_arrays_is_touched() -> None:
    done = run_sanitized("""
import numpy as np
from tests.cuda_emulator import EmulatedGpu
from xlmr_np.ops.cuda.sums import column_sums
gpu = EmulatedGpu(sanitize=True)
for rows, width in ((1, 8), (33, 72), (300, 200)):
    column_sums(gpu, np.ones((rows, width), np.float16))
print("done", len(gpu.launches))
""")
    assert done.stdout == "done 4\n", done.stderr
