"""The attention kernels, executed in emulation, against softmax(query keyᵀ / √W + bias) value in float64."""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.cuda_emulator import BARRIER, EmulatedGpu, Schedule, some_of, why_not, without
from tests.ops.calls import DTYPES, spans
from xlmr_np.layers.attention import PackedMask, Spans, sentence_slices
from xlmr_np.ops.cuda.attention import attention

pytestmark = pytest.mark.skipif(why_not() is not None, reason=f"kernels cannot be executed here: {why_not()}")

SCHEDULES = [Schedule(seed, arrival) for seed in (0, 3) for arrival in ("late", "early")]
# Of the largest value: a probability and the result are rounded once each, to 2^-11 of themselves in float16 and to
# 2^-8 in bfloat16; float32 and float64 differ from the exact result by the order of their sums.
TOLERANCE = {"float16": 3 * 2**-11, "bfloat16": 3 * 2**-8, "float32": 5e-6, "float64": 1e-13}
LOG_SUM_EXP_TOLERANCE = {"float16": 2e-5, "bfloat16": 2e-5, "float32": 1e-5, "float64": 1e-12}  # sums are in float32
HOW_MANY_EXAMPLES = pytest.mark.parametrize("examples", [12, pytest.param(300, marks=pytest.mark.exhaustive)])
EVERY_DTYPE = pytest.mark.parametrize("dtype", DTYPES)


class Case(NamedTuple):
    """Packed sentences, and what attends to what."""

    query: np.ndarray
    key: np.ndarray
    value: np.ndarray
    mask: PackedMask
    bias: np.ndarray | None


def case(
    lengths: list[tuple[int, int]],
    heads: int,
    width: int,
    dtype: str,
    is_causal: bool = False,
    bias: str = "",
    layout: str = "apart",
    seed: int = 0,
) -> Case:
    """Sentences of so many queries and keys.

    Args:
        lengths: queries and keys of each sentence.
        heads: H.
        width: W.
        dtype: of all arrays.
        is_causal: see `PackedMask`.
        bias: the axes of [B, H, T, S] that it has, or "" for none; a tenth of it is minus infinity.
        layout: three arrays "apart", or "joined" as views of one [N, 3, H, W], or of "odd" strides; or with a number
            to spare in each row, at its end ("uneven") or before the heads ("shifted").
        seed: of all numbers.
    """
    random = np.random.default_rng(seed)
    queries, keys = zip(*lengths, strict=True)
    numbers = sum(queries), sum(keys), sum(keys)

    def stored(x: np.ndarray) -> np.ndarray:
        x = x.astype(DTYPES[dtype])
        x.flags.writeable = False
        return x

    if layout == "joined":
        rows = max(numbers)
        joined = stored(2 * random.normal(size=(rows, 3, heads, width)))
        arrays = [joined[:number, i] for i, number in enumerate(numbers)]
    elif layout == "odd":
        arrays = [stored(2 * random.normal(size=(number, heads, 2 * width + 1)))[..., 1::2] for number in numbers]
    elif layout in ("uneven", "shifted"):
        heads_of_row = slice(heads * width) if layout == "uneven" else slice(1, None)
        rows_and_one = [stored(2 * random.normal(size=(number, heads * width + 1))) for number in numbers]
        arrays = [x[:, heads_of_row].reshape(len(x), heads, width) for x in rows_and_one]
    else:
        arrays = [stored(2 * random.normal(size=(number, heads, width))) for number in numbers]
    added = None
    if bias:
        sizes = (len(lengths), heads, max(queries), max(keys))
        shape = tuple(size if axis in bias else 1 for axis, size in zip("BHTS", sizes, strict=True))
        added = stored(np.where(random.random(shape) < 0.1, -np.inf, random.normal(size=shape)))
    return Case(*arrays, PackedMask(spans(list(queries)), spans(list(keys)), is_causal), added)


def exact(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """The context [N, H, W], and log Σ exp of the scores [H, N], in float64."""
    context = np.zeros(case.query.shape)
    log_sum_exp = np.full(case.query.shape[1::-1], -np.inf)
    for sentence, (queries, keys) in enumerate(sentence_slices(case.mask)):
        query, key, value = (
            np.asarray(x, np.float64).swapaxes(0, 1) for x in (case.query[queries], case.key[keys], case.value[keys])
        )
        scores = query @ key.swapaxes(1, 2) / np.sqrt(query.shape[2])
        if case.bias is not None:
            sizes = len(case.mask.query.starts), query.shape[0], *case.bias.shape[2:]
            bias = np.broadcast_to(case.bias, sizes)[sentence].astype(np.float64)
            rows, columns = (
                slice(length if size > 1 else None)
                for length, size in zip(scores.shape[1:], bias.shape[1:], strict=True)
            )
            scores = scores + bias[:, rows, columns]
        if case.mask.is_causal:
            hidden = ~np.tri(*scores.shape[1:], scores.shape[2] - scores.shape[1], dtype=bool)
            scores = np.where(hidden, -np.inf, scores)
        if scores.shape[2] == 0:
            continue
        largest = scores.max(axis=2, keepdims=True)
        exponentials = np.exp(scores - np.where(np.isfinite(largest), largest, 0))
        totals = exponentials.sum(axis=2, keepdims=True)
        context[queries] = (exponentials / np.where(totals == 0, 1, totals) @ value).swapaxes(0, 1)
        with np.errstate(divide="ignore"):
            log_sum_exp[:, queries] = (np.log(totals) + largest)[..., 0]
    return context, log_sum_exp


@cache
def gpu(schedule: Schedule) -> EmulatedGpu:
    return EmulatedGpu(schedule)


def run(case: Case, schedule: Schedule = SCHEDULES[0]) -> tuple[np.ndarray, np.ndarray]:
    context, log_sum_exp = attention(gpu(schedule), *case, with_log_sum_exp=True)
    assert log_sum_exp is not None
    return context, log_sum_exp


def error_of(context: np.ndarray, case: Case) -> float:
    """Of a context, in units of the tolerance; NaN counts as infinite."""
    tolerance = TOLERANCE[case.query.dtype.name] * max(1, np.abs(case.value.astype(np.float64)).max(initial=0))
    error = np.abs(context.astype(np.float64) - exact(case)[0]).max(initial=0) / tolerance
    return float("inf") if np.isnan(error) else float(error)


def check(case: Case, schedule: Schedule) -> None:
    context, log_sum_exp = run(case, schedule)
    assert context.dtype == case.query.dtype
    assert error_of(context, case) <= 1
    expected = exact(case)[1]
    assert not context[np.isneginf(expected).T].any()
    tolerance = LOG_SUM_EXP_TOLERANCE[case.query.dtype.name]
    np.testing.assert_allclose(log_sum_exp, expected, rtol=tolerance, atol=tolerance)  # sums in another order


short = st.integers(0, 40)
lengths = st.one_of(short, st.sampled_from([1, 16, 63, 64, 65, 127, 128, 129, 192, 200]), st.integers(1, 600))
CASES = {
    "lengths": st.lists(st.tuples(lengths, lengths), min_size=1, max_size=3),
    "heads": st.integers(1, 2),
    "is_causal": st.booleans(),
    "bias": st.sampled_from(["", "", "BHTS", "HTS", "BS", "TS"]),
    "layout": st.sampled_from(["apart", "joined", "odd"]),
    "seed": st.integers(0, 2**16),
}


def dealt(keys: list[int]) -> st.SearchStrategy[list[tuple[int, int]]]:
    """Sentences of so many keys, and up to as many queries as sentences, which may all be one sentence's."""
    owners = st.lists(st.integers(0, len(keys) - 1), min_size=1, max_size=len(keys))
    return owners.map(lambda owners: [(owners.count(sentence), length) for sentence, length in enumerate(keys)])


DECODING_CASES = {
    **CASES,
    "lengths": st.lists(lengths, min_size=1, max_size=4).flatmap(dealt),
    "layout": st.sampled_from(["apart", "joined", "odd", "uneven", "shifted"]),
}


@HOW_MANY_EXAMPLES
@pytest.mark.parametrize("width", [32, 64, 128])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_tensor_core_kernel(dtype: str, width: int, examples: int) -> None:
    @settings(max_examples=examples, phases=set(Phase) - {Phase.explain})
    @given(setting=st.fixed_dictionaries(CASES), schedule=st.sampled_from(SCHEDULES))
    def compare(setting: dict, schedule: Schedule) -> None:
        check(case(width=width, dtype=dtype, **setting), schedule)

    compare()


@HOW_MANY_EXAMPLES
@EVERY_DTYPE
def test_plain_kernel(dtype: str, examples: int) -> None:
    """Half types come to it by their head widths."""
    half_widths = st.sampled_from([1, 8, 40, 80, 96, 160, 256])
    widths = half_widths if DTYPES[dtype].itemsize == 2 else st.sampled_from([1, 8, 32, 64, 72, 128, 256])
    shorter = st.lists(st.tuples(short, st.one_of(short, st.integers(0, 200))), min_size=1, max_size=4)

    @settings(max_examples=examples, phases=set(Phase) - {Phase.explain})
    @given(
        setting=st.fixed_dictionaries({**CASES, "lengths": shorter, "width": widths}),
        schedule=st.sampled_from(SCHEDULES),
    )
    def compare(setting: dict, schedule: Schedule) -> None:
        check(case(dtype=dtype, **setting), schedule)

    compare()


@HOW_MANY_EXAMPLES
@EVERY_DTYPE
def test_decoding_kernel(dtype: str, examples: int) -> None:
    widths = st.one_of(st.sampled_from([1, 8, 32, 64, 72, 96, 128, 160, 256]), st.integers(1, 256))

    @settings(max_examples=examples, phases=set(Phase) - {Phase.explain})
    @given(setting=st.fixed_dictionaries({**DECODING_CASES, "width": widths}), schedule=st.sampled_from(SCHEDULES))
    def compare(setting: dict, schedule: Schedule) -> None:
        check(case(dtype=dtype, **setting), schedule)
        assert gpu(schedule).launches[-1].file == "attention_decode.cu"

    compare()


@pytest.mark.parametrize("is_causal", [False, True])
def test_one_query_and_a_store_of_keys(is_causal: bool) -> None:
    """Sentences that have filled different parts of what there is room for."""
    capacity = 150
    one = case([(1, capacity)] * 3, 2, 64, "float16", is_causal)
    for step in (1, 2, 31, 32, 33, 120):
        key = Spans(np.arange(3) * capacity, np.array([step, step + 29, 1]))
        check(one._replace(mask=one.mask._replace(key=key)), SCHEDULES[step % 4])


@EVERY_DTYPE
def test_rows_of_keys_travel_in_vectors_of_16_bytes_where_they_can(dtype: str) -> None:
    length = 16 // DTYPES[dtype].itemsize
    for width, layout, expected in (
        (64, "apart", length),
        (64, "joined", length),
        (length + 1, "apart", 1),
        (64, "uneven", 1),
        (64, "shifted", 1),
    ):
        run(case([(1, 9), (1, 4)], 2, width, dtype, layout=layout))
        assert gpu(SCHEDULES[0]).launches[-1].expression.endswith(f", {expected}, false>")


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("lengths", [[(130, 130), (1, 70), (0, 3), (17, 0)], [(1, 130), (0, 70), (2, 300), (1, 0)]])
def test_every_schedule_gives_the_same_bits(lengths: list[tuple[int, int]], dtype: str) -> None:
    chosen = case(lengths, 2, 64, dtype)
    first = run(chosen, SCHEDULES[0])
    for schedule in SCHEDULES[1:]:
        for ours, theirs in zip(run(chosen, schedule), first, strict=True):
            np.testing.assert_array_equal(ours.view(np.uint8), theirs.view(np.uint8))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_many_short_sentences(dtype: str) -> None:
    """More than a warp looks through at once, some of them empty."""
    random = np.random.default_rng(0)
    numbers = random.integers(0, 5, 70).tolist()
    check(case([(number, number) for number in numbers], 1, 64, dtype), SCHEDULES[1])
    check(case([(number % 2, number) for number in numbers], 1, 64, dtype), SCHEDULES[1])


@EVERY_DTYPE
@pytest.mark.parametrize("queries", [(20, 9, 33), (1, 1, 1)])
def test_key_spans_may_leave_gaps_or_repeat(queries: tuple[int, ...], dtype: str) -> None:
    one = case(list(zip(queries, (70, 30, 5), strict=True)), 2, 64, dtype)
    key = Spans(np.array([3, 0, 3]), np.array([70, 30, 5]))
    check(one._replace(mask=one.mask._replace(key=key)), SCHEDULES[0])


@EVERY_DTYPE
def test_no_queries(dtype: str) -> None:
    context, log_sum_exp = run(case([(0, 5), (0, 0)], 2, 64, dtype))
    assert (context.shape, log_sum_exp.shape) == ((0, 2, 64), (2, 0))


@EVERY_DTYPE
@pytest.mark.parametrize("queries", [(20, 70), (1, 1)])
def test_what_is_no_number_stays_so(queries: tuple[int, int], dtype: str) -> None:
    """In its sentence, and nowhere else."""
    one = case(list(zip(queries, (20, 70), strict=True)), 1, 64, dtype)
    key = one.key.copy()
    key[5, 0, 0] = np.nan
    context, _ = run(one._replace(key=key))
    in_first = np.arange(sum(queries)) < queries[0]
    assert np.isnan(context[in_first].astype(np.float32)).all()
    assert error_of(np.where(in_first[:, None, None], exact(one)[0], context.astype(np.float64)), one) <= 1


def test_heads_that_are_too_wide_are_refused() -> None:
    with pytest.raises(ValueError, match="Heads of width 257 are too wide"):
        run(case([(3, 3)], 1, 257, "float32"))


# --- faults that must be seen ---


FAULTS = {
    "no barrier before the scores": without(BARRIER, 0),
    "no barrier before the average": without(BARRIER, 1),
    "keys not waited for": without(r"wait_for_copies<1>\(\)", 0, "wait_for_copies<2>()"),
    "values not waited for": without(r"wait_for_copies<1>\(\)", 1, "wait_for_copies<2>()"),
    "one stage of keys": without(r"key_tiles \+ \(number & 1\) \* KEY_TILE \* WIDTH", 0, "key_tiles"),
    "one stage of values": without(r"value_tiles \+ \(number & 1\) \* KEY_TILE \* WIDTH", 0, "value_tiles"),
    "no mask at the tail": without(r"min\(keys - 1, own_query \+ offset\)", 0, "own_query + offset"),
    "keys read where no permutation put them": without(
        r"chunk_of_tile<WIDTH>\(key_tile, column \* 8 \+ \(lane & 7\), step \* 2 \+ lane / 8\)",
        0,
        "key_tile + (column * 8 + (lane & 7)) * WIDTH + (step * 2 + lane / 8) * 8",
    ),
    "values of another chunk": without(r"feature \+ lane / 16\)", 0, "feature + 1 - lane / 16)"),
    "two columns of the maximum missing": without(
        r"highest = fmaxf\(highest, __shfl_xor_sync\(ALL_LANES, highest, 2\)\);", 0
    ),
    "two columns of the sum missing": without(r"total \+= __shfl_xor_sync\(ALL_LANES, total, 2\);", 0),
    "no rescaling": without(r"sums\[block\]\[feature\]\[2 \* row\] \*= rescale;", 0),
    "tiles of another size": without(r"tile_of_number<QUERY_TILE>", 0, "tile_of_number<2 * QUERY_TILE>"),
}


DECODING_FAULTS = {
    "no barrier before the merge": without(BARRIER, 0),
    "the keys of a warp left out": without(r"first_key = warp \* groups", 0, "first_key = (warp + 1) * groups"),
    "keys counted beyond the last": without(r"if \(own_key >= seen\) break;", 0),
    "no rescaling": without(r"sums\[i\] \*= rescale;", 0, ";"),
    "no rescaling where warps merge": without(r"rescale \* sums_of_warps", 0, "sums_of_warps"),
}


@pytest.mark.parametrize("fault", some_of(FAULTS))
def test_a_fault_in_the_kernel_is_seen(fault: str) -> None:
    assert is_seen(FAULTS[fault], case([(200, 200), (17, 17), (64, 64)], 2, 64, "float16"))


@pytest.mark.parametrize("fault", some_of(DECODING_FAULTS))
def test_a_fault_in_the_decoding_kernel_is_seen(fault: str) -> None:
    assert is_seen(DECODING_FAULTS[fault], case([(1, 600), (1, 17), (0, 64)], 2, 64, "float16"))


def is_seen(fault: Callable[[str], str], chosen: Case) -> bool:
    """Under one schedule at least, by a wrong result or by an error."""
    for schedule in SCHEDULES:
        try:
            context, _ = attention(EmulatedGpu(schedule, edit=fault), *chosen)
        except RuntimeError as error:
            if "g++ cannot build" in str(error):
                raise
            return True
        if error_of(context, chosen) > 1:
            return True
    return False
