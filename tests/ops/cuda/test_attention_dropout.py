"""Dropout in the three attention kernels, executed in emulation, against layers.attention in float64."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.cuda_emulator import EmulatedGpu, Schedule, some_of, why_not, without
from tests.ops.calls import DTYPES
from tests.ops.cuda.test_attention import (
    CASES,
    DECODING_CASES,
    HOW_MANY_EXAMPLES,
    SCHEDULES,
    TOLERANCE,
    Case,
    case,
    gpu,
    short,
)
from xlmr_np.layers.attention import attention_forward
from xlmr_np.layers.dropout import Dropout, Philox, TokenKey
from xlmr_np.ops.cuda.attention import attention

pytestmark = pytest.mark.skipif(why_not() is not None, reason=f"kernels cannot be executed here: {why_not()}")

EVERY_DTYPE = pytest.mark.parametrize("dtype", DTYPES)
KEY = Philox(2**32 - 5, 77)
RATES = [0.1, 0.5, 1.0]
WITHOUT_BIAS = {"bias": st.just("")}
EVERY_KERNEL = pytest.mark.parametrize(
    ("file", "dtype", "lengths", "width"),
    [
        ("attention.cu", "float16", [(70, 70), (0, 3), (33, 90)], 64),
        ("attention.cu", "bfloat16", [(200, 200)], 64),  # a large tile
        ("attention_plain.cu", "float32", [(20, 40), (0, 3), (9, 9)], 64),
        ("attention_decode.cu", "float64", [(20, 40), (0, 3), (9, 9)], 256),  # too wide for the plain kernel
        ("attention_decode.cu", "float16", [(1, 130), (0, 3), (2, 9)], 64),
    ],
)


def exact(case: Case, dropout: Dropout | None) -> np.ndarray:
    """The context, in float64."""
    arrays = (np.asarray(x, np.float64) for x in (case.query, case.key, case.value))
    return attention_forward(*arrays, case.mask, dropout)[0]


def error_of(context: np.ndarray, case: Case, dropout: Dropout) -> float:
    """Of a context, in units of the tolerance; NaN counts as infinite."""
    most_scale = 1 / (1 - dropout.rate) if dropout.rate < 1 else 1
    largest = max(1, np.abs(case.value.astype(np.float64)).max(initial=0))
    error = np.abs(context.astype(np.float64) - exact(case, dropout)).max(initial=0)
    in_units = error / (TOLERANCE[case.query.dtype.name] * largest * most_scale)  # dropout multiplies what is rounded
    return float("inf") if np.isnan(in_units) else float(in_units)


def check(case: Case, schedule: Schedule, rate: float, file: str) -> None:
    dropout = Dropout(rate, KEY)
    context, log_sum_exp = attention(gpu(schedule), *case, with_log_sum_exp=True, dropout=dropout)
    assert gpu(schedule).launches[-1].file == file
    assert context.dtype == case.query.dtype
    assert error_of(context, case, dropout) <= 1
    if rate == 1:
        assert not context.any()
    plain_sum = attention(gpu(schedule), *case, with_log_sum_exp=True)[1]
    tolerance = 1e-5 if log_sum_exp.dtype == np.float32 else 1e-13  # another instance may add in another order
    np.testing.assert_allclose(log_sum_exp, plain_sum, rtol=tolerance, atol=tolerance)


@HOW_MANY_EXAMPLES
@pytest.mark.parametrize("width", [32, 64, 128])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_tensor_core_kernel(dtype: str, width: int, examples: int) -> None:
    several = st.lists(st.tuples(st.integers(2, 150), st.integers(0, 150)), min_size=1, max_size=3)
    setting = {**CASES, **WITHOUT_BIAS, "lengths": several}

    @settings(max_examples=examples // 3, phases=set(Phase) - {Phase.explain})
    @given(st.fixed_dictionaries(setting), st.sampled_from(SCHEDULES), st.sampled_from(RATES))
    def compare(setting: dict, schedule: Schedule, rate: float) -> None:
        check(case(width=width, dtype=dtype, **setting), schedule, rate, "attention.cu")

    compare()


@HOW_MANY_EXAMPLES
@EVERY_DTYPE
def test_plain_kernel(dtype: str, examples: int) -> None:
    widths = [1, 8, 40, 80, 160] + [32, 64, 128] * (DTYPES[dtype].itemsize > 2)
    several = st.lists(st.tuples(st.integers(2, 40), short), min_size=1, max_size=3)
    setting = {**CASES, **WITHOUT_BIAS, "lengths": several, "width": st.sampled_from(widths)}

    @settings(max_examples=examples // 2, phases=set(Phase) - {Phase.explain})
    @given(st.fixed_dictionaries(setting), st.sampled_from(SCHEDULES), st.sampled_from(RATES))
    def compare(setting: dict, schedule: Schedule, rate: float) -> None:
        check(case(dtype=dtype, **setting), schedule, rate, "attention_plain.cu")

    compare()


@HOW_MANY_EXAMPLES
@EVERY_DTYPE
def test_decoding_kernel(dtype: str, examples: int) -> None:
    setting = {**DECODING_CASES, **WITHOUT_BIAS, "width": st.sampled_from([1, 8, 32, 64, 72, 128, 256])}

    @settings(max_examples=examples // 2, phases=set(Phase) - {Phase.explain})
    @given(st.fixed_dictionaries(setting), st.sampled_from(SCHEDULES), st.sampled_from(RATES))
    def compare(setting: dict, schedule: Schedule, rate: float) -> None:
        check(case(dtype=dtype, **setting), schedule, rate, "attention_decode.cu")

    compare()


@EVERY_KERNEL
def test_every_kernel_drops_under_every_schedule(
    file: str, dtype: str, lengths: list[tuple[int, int]], width: int
) -> None:
    chosen, dropout = case(lengths, 2, width, dtype), Dropout(0.25, KEY)
    check(chosen, SCHEDULES[0], dropout.rate, file)
    check(case(lengths, 2, width, dtype, is_causal=True), SCHEDULES[1], dropout.rate, file)
    first, *others = [attention(gpu(schedule), *chosen, dropout=dropout)[0] for schedule in SCHEDULES]
    for other in others:
        np.testing.assert_array_equal(first.view(np.uint8), other.view(np.uint8))


@EVERY_KERNEL
def test_a_rate_of_zero_changes_no_bit(file: str, dtype: str, lengths: list[tuple[int, int]], width: int) -> None:
    chosen = case(lengths, 2, width, dtype)
    plain, dropped = (
        attention(gpu(SCHEDULES[0]), *chosen, dropout=dropout)[0] for dropout in (None, Dropout(0.0, KEY))
    )
    np.testing.assert_array_equal(plain.view(np.uint8), dropped.view(np.uint8))
    assert gpu(SCHEDULES[0]).launches[-1] == gpu(SCHEDULES[0]).launches[-2]


@EVERY_KERNEL
def test_what_is_no_number_stays_so(file: str, dtype: str, lengths: list[tuple[int, int]], width: int) -> None:
    """In its sentence, and nowhere else."""
    one, dropout = case([*lengths, (2, 4)], 1, width, dtype), Dropout(0.1, KEY)
    key = one.key.copy()
    key[5, 0, 0] = np.nan
    context = attention(gpu(SCHEDULES[0]), *one._replace(key=key), dropout=dropout)[0]
    in_first = np.arange(len(context)) < lengths[0][0]
    assert np.isnan(context[in_first].astype(np.float32)).all()
    of_others = np.where(in_first[:, None, None], exact(one, dropout), context.astype(np.float64))
    assert error_of(of_others, one, dropout) <= 1


@EVERY_DTYPE
def test_what_cannot_drop_is_refused(dtype: str) -> None:
    chosen = case([(3, 3)], 1, 8, dtype)
    places = np.zeros(3, np.int64)
    for keep in (np.ones((1, 1, 3, 3), bool), TokenKey(KEY, places, places)):
        with pytest.raises(TypeError, match="drops by a Philox"):
            attention(gpu(SCHEDULES[0]), *chosen, dropout=Dropout(0.5, keep))
    with pytest.raises(ValueError, match="a bias or a dropout, not both"):
        attention(gpu(SCHEDULES[0]), *case([(3, 3)], 1, 8, dtype, bias="TS"), dropout=Dropout(0.5, KEY))


# --- faults that must be seen ---


TENSOR_CORE_FAULTS = {
    "the bits of other queries": without(r"tile\.first_query \+ warp_row \+ block \* 16,", 0, "warp_row + block * 16,"),
    "the bits of other keys": without(r"first_key \+ column \* 8, head", 0, "column * 8, head"),
    "the bits of another head": without(r"first_key \+ column \* 8, head", 0, "first_key + column * 8, 0"),
    "the bits of another sentence": without(r"head, tile\.sentence\);", 0, "head, 0);"),
    "the halves of blocks exchanged": without(r"is_right \? other \| own << 4", 0, "!is_right ? other | own << 4"),
    "nothing scaled": without(r"HAS_DROPOUT \? dropout\.scale : 1\.f", 0, "1.f"),
    "dropped before the sum": without(
        r"(?=            scores\[block\]\[column\]\[i\] = exp2_approximate)",
        0,
        "if (!is_kept(dropout, first_key + column * 8 + lane_column + (i & 1), tile.first_query + warp_row + block * 16"
        " + lane_row + (i / 2) * 8, head, tile.sentence)) scores[block][column][i] = -INFINITY;\n",
    ),
    "causal always": without(r"is_causal \? keys - queries : keys;", 0, "keys - queries;"),
}
PLAIN_FAULTS = {
    "dropped before the sum": without(r"sum_of_warp\(probability\)", 0, "sum_of_warp(own_weight)"),
    "nothing scaled": without(r"has_dropout \? dropout\.scale : ", 0),
    "the bits of the first keys": without(r"is_kept\(dropout, first_key \+ lane", 0, "is_kept(dropout, lane"),
    "the bits of another sentence": without(r"head, tile\.sentence\)", 0, "head, 0)"),
}
DECODING_FAULTS = {
    "dropped before the sum": without(
        r"total \+= probability;",
        0,
        "if (is_kept(dropout, own_key, own_query, head, tile.sentence)) total += probability;",
    ),
    "nothing scaled": without(r"HAS_DROPOUT \? dropout\.scale : ", 0),
    "the bits of another query": without(r"own_key, own_query, head, tile", 0, "own_key, 0, head, tile"),
    "the bits of another head": without(r"own_query, head, tile\.sentence\)\)", 0, "own_query, 0, tile.sentence))"),
}


@pytest.mark.parametrize("fault", some_of(TENSOR_CORE_FAULTS))
def test_a_fault_in_the_tensor_core_kernel_is_seen(fault: str) -> None:
    assert is_seen(TENSOR_CORE_FAULTS[fault], case([(100, 80), (17, 70)], 2, 64, "float16"))


@pytest.mark.parametrize("fault", some_of(PLAIN_FAULTS))
def test_a_fault_in_the_plain_kernel_is_seen(fault: str) -> None:
    assert is_seen(PLAIN_FAULTS[fault], case([(20, 40), (17, 9)], 2, 8, "float32"))


@pytest.mark.parametrize("fault", some_of(DECODING_FAULTS))
def test_a_fault_in_the_decoding_kernel_is_seen(fault: str) -> None:
    assert is_seen(DECODING_FAULTS[fault], case([(2, 40), (0, 3), (2, 9), (0, 0)], 2, 8, "float32"))


def is_seen(fault: Callable[[str], str], chosen: Case) -> bool:
    dropout = Dropout(0.5, KEY)
    context, _ = attention(EmulatedGpu(SCHEDULES[0], edit=fault), *chosen, dropout=dropout)
    return error_of(context, chosen, dropout) > 1
