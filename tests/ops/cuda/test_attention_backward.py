"""The backward pass of attention on tensor cores, executed in emulation, against layers.attention in float64."""

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.cuda_emulator import BARRIER, EmulatedGpu, Schedule, run_sanitized, some_of, why_not, without
from tests.ops.cuda.attention_gradients import (
    GradientCase,
    Gradients,
    exact_context,
    exact_gradients,
    gradient_case,
)
from xlmr_np.layers.dropout import Dropout
from xlmr_np.ops.cuda.attention import attention
from xlmr_np.ops.cuda.attention_backward import attention_backward
from xlmr_np.ops.cuda.kernels import Gpu, Kernel, LaunchShape

pytestmark = pytest.mark.skipif(why_not() is not None, reason=f"kernels cannot be executed here: {why_not()}")

SCHEDULES = [Schedule(seed, arrival) for seed in (0, 3) for arrival in ("late", "early")]
# Of a gradient's largest value: a probability, d_scores and the result are rounded once each, to 2^-11 of themselves in
# float16 and to 2^-8 in bfloat16. The rounding of the context is in what is expected.
# float32 and float64 differ from the exact result by the order of their sums.
TOLERANCE = {"float16": 3 * 2**-11, "bfloat16": 3 * 2**-8, "float32": 1e-5, "float64": 1e-12}
HOW_MANY_EXAMPLES = pytest.mark.parametrize("examples", [8, pytest.param(100, marks=pytest.mark.exhaustive)])
HALF_TYPES = pytest.mark.parametrize("dtype", ["float16", "bfloat16"])


@cache
def gpu(schedule: Schedule) -> EmulatedGpu:
    return EmulatedGpu(schedule)


def run(
    case: GradientCase, machine: Gpu, results: tuple[np.ndarray, np.ndarray] | None = None
) -> tuple[Gradients, np.ndarray]:
    """The gradients from these results of the forward pass, or the exact ones; and the context, of these results."""
    context, log_sum_exp = exact_context(case) if results is None else results
    context.flags.writeable = log_sum_exp.flags.writeable = False
    d_context, query, key, value, mask, dropout = case
    gradients = attention_backward(machine, d_context, query, key, value, context, log_sum_exp, mask, dropout)
    return Gradients(*gradients), context


def error_of(gradients: Gradients, case: GradientCase, context: np.ndarray) -> float:
    """In units of the tolerance; NaN counts as infinite.

    Where a row sees one key only, d_scores are zero, the difference of two equal numbers: then the largest of all three
    gradients says how large those are.
    """
    exact = exact_gradients(case, context)
    largest = max(np.abs(each).max(initial=0) for each in exact)
    errors = []
    for ours, theirs in zip(gradients, exact, strict=True):
        assert ours.dtype == case.query.dtype
        assert ours.shape == theirs.shape
        assert ours.flags.c_contiguous
        scale = max(np.abs(theirs).max(initial=0), largest / 4) or 1.0
        with np.errstate(invalid="ignore"):  # what a kernel with a fault has not written may be anything
            errors.append(np.abs(ours.astype(np.float64) - theirs).max(initial=0) / scale)
    error = float(np.max(errors)) / TOLERANCE[case.query.dtype.name]
    return float("inf") if np.isnan(error) else error


def check(case: GradientCase, schedule: Schedule, results: tuple[np.ndarray, np.ndarray] | None = None) -> None:
    gradients, context = run(case, gpu(schedule), results)
    assert error_of(gradients, case, context) <= 1


def gradients_of(
    case: GradientCase, schedule: Schedule = SCHEDULES[0], results: tuple[np.ndarray, np.ndarray] | None = None
) -> Gradients:
    return run(case, gpu(schedule), results)[0]


short = st.integers(0, 40)
lengths = st.one_of(short, st.sampled_from([0, 1, 16, 63, 64, 65, 127, 128, 129, 200]), st.integers(1, 300))
CASES = {
    "lengths": st.lists(st.tuples(lengths, lengths), min_size=1, max_size=3),
    "heads": st.integers(1, 2),
    "is_causal": st.booleans(),
    "rate": st.sampled_from([0.0, 0.0, 0.1, 0.5, 1.0]),
    "layout": st.sampled_from(["apart", "joined", "odd"]),
    "seed": st.integers(0, 2**16),
}


@HOW_MANY_EXAMPLES
@pytest.mark.parametrize("width", [32, 64, 128])
@HALF_TYPES
def test_gradients(dtype: str, width: int, examples: int) -> None:
    @settings(max_examples=examples, phases=set(Phase) - {Phase.explain})
    @given(setting=st.fixed_dictionaries(CASES), schedule=st.sampled_from(SCHEDULES))
    def compare(setting: dict, schedule: Schedule) -> None:
        check(gradient_case(width=width, dtype=dtype, **setting), schedule)

    compare()


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("rate", [0.0, 0.1])
@HALF_TYPES
def test_with_what_the_forward_kernel_leaves(dtype: str, rate: float, is_causal: bool) -> None:
    case = gradient_case([(130, 130), (17, 40), (40, 17)], 2, 64, dtype, is_causal, rate)
    context, log_sum_exp = attention(
        gpu(SCHEDULES[0]), *case[1:4], case.mask, with_log_sum_exp=True, dropout=case.dropout
    )
    assert log_sum_exp is not None
    check(case, SCHEDULES[0], (context, log_sum_exp))


def low_scores(case: GradientCase) -> GradientCase:
    """The case with scores about -128: a key that is none, or is hidden, would have a probability beyond float32."""
    query, key = ((x.astype(np.float64) / 2 + shift).astype(x.dtype) for x, shift in ((case.query, 4), (case.key, -4)))
    return case._replace(query=query, key=key)


@pytest.mark.parametrize("is_causal", [False, True])
@HALF_TYPES
def test_scores_that_are_all_very_low(dtype: str, is_causal: bool) -> None:
    case = low_scores(gradient_case([(70, 70), (33, 50)], 1, 64, dtype, is_causal))
    assert np.isfinite(np.concatenate(gradients_of(case))).all()


@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_every_schedule_and_every_run_give_the_same_bits(rate: float) -> None:
    case = gradient_case([(130, 130), (17, 70), (0, 3), (64, 0)], 2, 64, "float16", True, rate)
    first = gradients_of(case)
    for schedule in (*SCHEDULES, SCHEDULES[0]):
        for ours, theirs in zip(gradients_of(case, schedule), first, strict=True):
            np.testing.assert_array_equal(ours.view(np.uint16), theirs.view(np.uint16))


@HALF_TYPES
def test_many_short_sentences(dtype: str) -> None:
    """More than a warp looks through at once, some of them without queries or keys."""
    random = np.random.default_rng(0)
    numbers = random.integers(0, 5, (70, 2)).tolist()
    check(gradient_case([tuple(pair) for pair in numbers], 1, 64, dtype, rate=0.1), SCHEDULES[1])


def test_neighbours_change_nothing() -> None:
    """The bits of a sentence's gradients are its own, wherever its tiles begin."""
    one = gradient_case([(70, 70), (40, 40)], 2, 64, "float16")
    alone = one._replace(
        **{name: getattr(one, name)[70:] for name in ("d_context", "query", "key", "value")},
        mask=gradient_case([(40, 40)], 2, 64, "float16").mask,
    )
    for ours, theirs in zip(gradients_of(one), gradients_of(alone), strict=True):
        np.testing.assert_array_equal(ours[70:], theirs)


@pytest.mark.parametrize("lengths", [[(0, 5), (0, 70)], [(5, 0), (70, 0)], [(0, 0)], [(3, 0), (0, 4)]])
@HALF_TYPES
def test_without_queries_or_without_keys_gradients_are_zero(dtype: str, lengths: list[tuple[int, int]]) -> None:
    queries, keys = np.sum(lengths, axis=0)
    gradients = gradients_of(gradient_case(lengths, 2, 64, dtype))
    assert [x.shape for x in gradients] == [(queries, 2, 64), (keys, 2, 64), (keys, 2, 64)]
    assert not any(x.any() for x in gradients)


def test_what_is_all_dropped_has_no_gradient() -> None:
    gradients = gradients_of(gradient_case([(70, 70), (3, 9)], 2, 64, "float16", rate=1.0))
    assert not any(x.any() for x in gradients)


@HALF_TYPES
def test_what_is_no_number_stays_so(dtype: str) -> None:
    """In its sentence, and nowhere else."""
    one = gradient_case([(20, 20), (70, 70)], 1, 64, dtype)
    exact = exact_context(one)
    for name in ("d_context", "query", "key", "value"):
        spoiled = getattr(one, name).copy()
        spoiled[5] = np.nan
        case = one._replace(**{name: spoiled})
        gradients = gradients_of(case, results=exact_context(case))
        clean = gradients_of(one, results=exact)
        for ours, theirs, expected in zip(gradients, clean, exact_gradients(case), strict=True):
            np.testing.assert_array_equal(ours[20:], theirs[20:])
            assert np.isnan(ours.astype(np.float32))[np.isnan(expected)].all()


@pytest.mark.parametrize(("dtype", "width"), [("float16", 40), ("bfloat16", 96), ("float32", 64), ("float64", 64)])
def test_what_tensor_cores_have_no_tiles_for_goes_to_the_plain_kernels(dtype: str, width: int) -> None:
    case = gradient_case([(9, 20), (3, 0)], 2, width, dtype, rate=0.1)
    check(case, SCHEDULES[0])
    assert {kernel.file for kernel in gpu(SCHEDULES[0]).launches[-2:]} == {"attention_plain_backward.cu"}
    with pytest.raises(ValueError, match="Heads of width 257 are too wide"):
        gradients_of(gradient_case([(3, 3)], 1, 257, dtype))


def test_bits_in_place_of_a_key_are_refused() -> None:
    case = gradient_case([(3, 3)], 1, 64, "float16")
    with pytest.raises(TypeError, match="drops by a Philox"):
        gradients_of(case._replace(dropout=Dropout(0.5, np.ones(9, bool))), results=exact_context(case))


SANITIZED = """
from tests.cuda_emulator import EmulatedGpu
from tests.ops.cuda.attention_gradients import gradient_case
from tests.ops.cuda.test_attention_backward import run

for width in (32, 64, 128):
    for rate in (0.0, 0.5):
        for lengths in ([(130, 130)], [(17, 40), (3, 0), (0, 5), (64, 65)]):
            run(gradient_case(lengths, 2, width, "float16", True, rate), EmulatedGpu(sanitize=True))
print("done")
"""
SANITIZED_FAULT = """
from tests.cuda_emulator import EmulatedGpu, without
from tests.ops.cuda.attention_gradients import gradient_case
from tests.ops.cuda.test_attention_backward import run

edit = without(r"if \\(row >= real_rows\\) continue;")
run(gradient_case([(130, 130)], 2, 64, "float16"), EmulatedGpu(sanitize=True, edit=edit))
"""


@pytest.mark.exhaustive
def test_gradients_stay_within_their_arrays() -> None:
    done = run_sanitized(SANITIZED)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr[-3000:]


@pytest.mark.exhaustive
def test_a_row_written_beyond_the_last_is_found() -> None:
    done = run_sanitized(SANITIZED_FAULT)
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr
    assert "WRITE of size" in done.stderr


# --- faults that must be seen ---


def everywhere(pattern: str, instead: str) -> Callable[[str], str]:
    def edit(text: str) -> str:
        assert re.search(pattern, text), pattern
        return re.sub(pattern, instead, text)

    return edit


QUERY_FAULTS = {
    "no barrier before queries become fragments": without(BARRIER, 0),
    "no barrier before the scores": without(BARRIER, 1),
    "queries not waited for": without(r"wait_for_copies<1>\(\)", 0, "wait_for_copies<2>()"),
    "keys and values not waited for": without(r"wait_for_copies<0>\(\)", 0, "wait_for_copies<1>()"),
    "one stage": everywhere(r"\(number & 1\) \* KEY_TILE", "0 * KEY_TILE"),
    "no mask at the tail": without(r"own_key >= keys \|\| ", 0),
    "no causal mask": without(r" \|\| own_key > own_query \+ offset", 0),
    "no delta": without(r" - own_delta\[block\]\[i / 2\]", 0),
    "two columns of delta missing": without(r"sum \+= __shfl_xor_sync\(ALL_LANES, sum, 2\);", 0),
    "no scale of the dropout": without(r"kept >> i & 1 \? dropout.scale : 0.f", 0, "kept >> i & 1 ? 1.f : 0.f"),
    "bits of another lane": without(r"__shfl_xor_sync\(ALL_LANES, own, 1\)", 0, "__shfl_xor_sync(ALL_LANES, own, 2)"),
    "no scale of the scores": without(r"warp_row, sums, scale\)", 0, "warp_row, sums, 1.f)"),
    "tiles of another size": without(r"tile_of_number<QUERY_TILE>", 0, "tile_of_number<2 * QUERY_TILE>"),
    "fragments in another order": without(r"column % 2 \* 2 \+ half", 0, "half * 2 + column % 2"),
}
KEY_FAULTS = {
    "no barrier before keys become fragments": without(BARRIER, 2),
    "no barrier before the scores": without(BARRIER, 3),
    "keys and values not waited for": without(r"wait_for_copies<1>\(\)", 1, "wait_for_copies<2>()"),
    "queries not waited for": without(r"wait_for_copies<0>\(\)", 2, "wait_for_copies<1>()"),
    "one stage": everywhere(r"\(number & 1\) \* QUERY_TILE", "0 * QUERY_TILE"),
    "numbers of the tile before": without(r"store_numbers\(number \+ 1\);", 0),
    "numbers of queries beyond the last": without(r"LOG2_E : 0.f", 0, "LOG2_E : -1000.f"),
    "no causal mask": without(r"has_hidden && own_key > own_query \+ offset", 0, "false"),
    "the diagonal taken for visible": without(r"first_key \+ KEY_TILE - 1 > first_query \+ offset", 0, "false"),
    "queries that see keys left out": without(r"max\(0, first_key - offset\)", 0, "max(0, first_key - offset + 64)"),
    "no delta": without(r" - \(i & 1 \? delta_of_row.y : delta_of_row.x\)", 0),
    "no scale of the dropout": without(r"is_kept \? dropout.scale : 0.f", 0, "is_kept ? 1.f : 0.f"),
    "no scale of dropped weights": without(r"HAS_DROPOUT \? dropout.scale : 1.f", 0, "1.f"),
    "bits of another lane": without(r"ALL_LANES, kept, 4\)", 0, "ALL_LANES, kept, 1)"),
    "bits of another key": without(r"kept >>= own;", 0),
    "no scale of the scores": without(r"key_sums, scale\)", 0, "key_sums, 1.f)"),
}


@cache
def cases_of_faults() -> tuple[GradientCase, ...]:
    lengths = [(130, 130), (17, 17), (64, 64)]
    causal = gradient_case(lengths, 1, 64, "float16", True, rate=0.3)
    return causal, low_scores(gradient_case([(70, 70), (17, 17)], 1, 64, "float16", rate=0.3))


class PartlyEdited:
    """A machine on which one of the two kernels has a fault."""

    def __init__(self, schedule: Schedule, kernel: str, fault: Callable[[str], str]) -> None:
        self._kernel, self._faulty, self._sound = kernel, EmulatedGpu(schedule, edit=fault), gpu(schedule)

    def launch(self, kernel: Kernel, shape: LaunchShape, arguments: Sequence[Any]) -> None:
        machine = self._faulty if self._kernel in kernel.expression else self._sound
        machine.launch(kernel, shape, arguments)

    def matmul(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return self._sound.matmul(a, b)


@pytest.mark.parametrize("fault", some_of(QUERY_FAULTS))
def test_a_fault_in_the_query_kernel_is_seen(fault: str) -> None:
    assert is_seen("attention_backward_queries", QUERY_FAULTS[fault])


@pytest.mark.parametrize("fault", some_of(KEY_FAULTS))
def test_a_fault_in_the_key_kernel_is_seen(fault: str) -> None:
    assert is_seen("attention_backward_keys", KEY_FAULTS[fault])


def is_seen(kernel: str, fault: Callable[[str], str]) -> bool:
    """In one case and under one schedule at least, by a wrong result or by an error."""
    for case in cases_of_faults():
        for schedule in SCHEDULES:
            try:
                gradients, context = run(case, PartlyEdited(schedule, kernel, fault))
            except RuntimeError as error:
                if "g++ cannot build" in str(error):
                    raise
                return True
            if error_of(gradients, case, context) > 1:
                return True
    return False
