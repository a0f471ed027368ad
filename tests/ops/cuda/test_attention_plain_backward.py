"""The backward pass of attention without tensor cores, executed in emulation, against layers.attention in float64."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.cuda_emulator import EmulatedGpu, Schedule, run_sanitized, some_of, why_not, without
from tests.ops.calls import DTYPES
from tests.ops.cuda.test_attention import HOW_MANY_EXAMPLES, SCHEDULES, Case, case, gpu
from xlmr_np.layers.attention import attention_backward, attention_forward
from xlmr_np.layers.dropout import Dropout, Philox, TokenKey
from xlmr_np.ops.cuda.attention import attention
from xlmr_np.ops.cuda.attention_plain_backward import plain_attention_backward

pytestmark = pytest.mark.skipif(why_not() is not None, reason=f"kernels cannot be executed here: {why_not()}")

EVERY_DTYPE = pytest.mark.parametrize("dtype", DTYPES)
KEY = Philox(17, 2**32 - 3)
# Of the largest term that is summed up: in half types the context, and so delta, and each gradient are rounded; float32
# and float64 differ from the exact result by the order of their sums, and by log Σ exp, which is rounded once.
TOLERANCE = {"float16": 2 * 2**-11, "bfloat16": 2 * 2**-8, "float32": 1e-5, "float64": 1e-13}


class Training(NamedTuple):
    """What a backward pass is asked."""

    d_context: np.ndarray
    forward: Case
    dropout: Dropout | None


def training(chosen: Case, rate: float, seed: int = 0) -> Training:
    """Its gradient of the context lies as the query does, but for an axis that is turned round."""
    random = np.random.default_rng(seed)
    d_context = random.normal(size=chosen.query.shape).astype(chosen.query.dtype)[:, :, ::-1]
    d_context.flags.writeable = False
    return Training(d_context, chosen, Dropout(rate, KEY) if rate else None)


def exact(asked: Training) -> tuple[np.ndarray, ...]:
    """The gradients of query, key and value, in float64."""
    d_context, (*arrays, mask, _), dropout = asked
    _, cache = attention_forward(*(x.astype(np.float64) for x in arrays), mask, dropout)
    return attention_backward(d_context.astype(np.float64), cache, mask, dropout)


def run(asked: Training, on: EmulatedGpu) -> tuple[np.ndarray, ...]:
    """By the plain kernels, from what the forward kernels left."""
    d_context, (query, key, value, mask, _), dropout = asked
    chosen = query, key, value, mask
    context, log_sum_exp = attention(gpu(SCHEDULES[0]), *chosen, with_log_sum_exp=True, dropout=dropout)
    context.flags.writeable = log_sum_exp.flags.writeable = False
    return plain_attention_backward(on, d_context, query, key, value, context, log_sum_exp, mask, dropout)


def error_of(gradients: tuple[np.ndarray, ...], asked: Training) -> float:
    """In units of the tolerance; NaN counts as infinite."""
    d_context, (query, key, value, *_), dropout = asked
    scale = 1 / (1 - dropout.rate) if dropout is not None and dropout.rate < 1 else 1
    largest = {
        name: np.abs(x.astype(np.float64)).max(initial=0)
        for name, x in (("query", query), ("key", key), ("value", value), ("d_context", d_context))
    }
    # A score's gradient is p times a difference of d_context · value, a sum of W terms, from its mean, times 1 / √W.
    d_score = largest["d_context"] * largest["value"]
    terms = d_score * largest["key"], d_score * largest["query"], largest["d_context"]
    worst = 0.0
    for ours, expected, term in zip(gradients, exact(asked), terms, strict=True):
        limit = TOLERANCE[query.dtype.name] * scale * max(term, np.abs(expected).max(initial=0), 1)
        error = np.abs(ours.astype(np.float64) - expected).max(initial=0) / limit
        worst = float("inf") if np.isnan(error) else max(worst, float(error))
    return worst


def check(asked: Training, schedule: Schedule) -> None:
    gradients = run(asked, gpu(schedule))
    assert [x.dtype for x in gradients] == [asked.d_context.dtype] * 3
    assert all(x.flags.c_contiguous for x in gradients)
    assert error_of(gradients, asked) <= 1
    if asked.dropout is not None and asked.dropout.rate == 1:
        assert not any(x.any() for x in gradients)


some = st.one_of(st.integers(0, 40), st.sampled_from([31, 32, 33, 63, 64, 65, 70]))
SETTINGS = {
    "lengths": st.lists(st.tuples(some, some), min_size=1, max_size=4),
    "heads": st.integers(1, 2),
    "width": st.sampled_from([1, 8, 32, 64, 72, 128, 256]),
    "is_causal": st.booleans(),
    "layout": st.sampled_from(["apart", "joined", "odd", "uneven", "shifted"]),
    "seed": st.integers(0, 2**16),
}


@HOW_MANY_EXAMPLES
@EVERY_DTYPE
def test_every_shape_type_and_layout(dtype: str, examples: int) -> None:
    @settings(max_examples=examples, phases=set(Phase) - {Phase.explain})
    @given(st.fixed_dictionaries(SETTINGS), st.sampled_from(SCHEDULES), st.sampled_from([0, 0.1, 0.5, 1.0]))
    def compare(setting: dict, schedule: Schedule, rate: float) -> None:
        check(training(case(dtype=dtype, **setting), rate, setting["seed"]), schedule)

    compare()


@EVERY_DTYPE
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("lengths", [[(40, 9), (0, 5), (3, 0), (9, 40)], [(0, 5), (0, 70)], [(5, 0), (0, 0)], [(0, 0)]])
def test_queries_without_keys_and_keys_without_queries(
    lengths: list[tuple[int, int]], is_causal: bool, dtype: str
) -> None:
    """Their gradients are exact zeros."""
    asked = training(case(lengths, 2, 40, dtype, is_causal), 0.1)
    check(asked, SCHEDULES[0])
    d_query, d_key, d_value = run(asked, gpu(SCHEDULES[0]))
    sees_nothing = np.isneginf(attention(gpu(SCHEDULES[0]), *asked.forward, with_log_sum_exp=True)[1]).all(axis=0)
    assert not d_query[sees_nothing].any()
    is_seen_by_none = (exact(asked)[2] == 0).all(axis=(1, 2))
    assert not d_key[is_seen_by_none].any()
    assert not d_value[is_seen_by_none].any()


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_every_schedule_gives_the_same_bits(dtype: str) -> None:
    asked = training(case([(40, 70), (1, 33), (0, 3), (17, 0)], 2, 72, dtype, is_causal=True), 0.1)
    first, *others = [run(asked, gpu(schedule)) for schedule in SCHEDULES]
    for other in others:
        for ours, theirs in zip(first, other, strict=True):
            np.testing.assert_array_equal(ours.view(np.uint8), theirs.view(np.uint8))


def test_many_short_sentences() -> None:
    """More than a warp looks through at once, some of them empty."""
    numbers = np.random.default_rng(0).integers(0, 5, (70, 2)).tolist()
    check(training(case([(queries, keys) for queries, keys in numbers], 1, 8, "float32"), 0.5), SCHEDULES[1])


@EVERY_DTYPE
def test_what_is_no_number_stays_so(dtype: str) -> None:
    """In its sentence, and nowhere else."""
    asked = training(case([(20, 20), (33, 70)], 1, 8, dtype), 0.1)
    d_context = asked.d_context.copy()
    d_context[5, 0, 0] = np.nan
    gradients = run(asked._replace(d_context=d_context), gpu(SCHEDULES[0]))
    assert np.isnan(gradients[0][5].astype(np.float32)).all()
    assert all(np.isnan(x[:20].astype(np.float32)).any() for x in gradients[1:])
    expected = exact(asked)
    of_others = [np.concatenate([theirs[:20], ours[20:]]) for ours, theirs in zip(gradients, expected, strict=True)]
    assert error_of(tuple(of_others), asked) <= 1


WITHIN_BOUNDS = """
from tests.cuda_emulator import EmulatedGpu{without}
from tests.ops.cuda.test_attention import case
from tests.ops.cuda.test_attention_plain_backward import run, training

asked = training(case([(17, 40), (3, 0), (0, 3), (9, 6)], 2, 8, "float32", is_causal=True), 0.1)
run(asked, EmulatedGpu(sanitize=True{edit}))
print("done")
"""


@pytest.mark.exhaustive
def test_it_stays_within_its_arrays() -> None:
    """Under AddressSanitizer, which sees it where it does not."""
    done = run_sanitized(WITHIN_BOUNDS.format(without="", edit=""))
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr[-3000:]
    beyond = r", edit=without(r'if \(own_key >= keys\) return;')"
    done = run_sanitized(WITHIN_BOUNDS.format(without=", without", edit=beyond))
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr


def test_what_it_cannot_do_is_refused() -> None:
    chosen = case([(3, 3)], 1, 257, "float32")
    log_sum_exp = np.zeros((1, 3), np.float32)
    with pytest.raises(ValueError, match="Heads of width 257 are too wide"):
        plain_attention_backward(gpu(SCHEDULES[0]), chosen.query, *chosen[:3], chosen.query, log_sum_exp, chosen.mask)
    chosen = case([(3, 3)], 1, 8, "float32")
    places = np.zeros(3, np.int64)
    arguments = (gpu(SCHEDULES[0]), chosen.query, *chosen[:3], chosen.query, log_sum_exp, chosen.mask)
    for keep in (np.ones((1, 1, 3, 3), bool), TokenKey(KEY, places, places)):
        with pytest.raises(TypeError, match="drops by a Philox"):
            plain_attention_backward(*arguments, Dropout(0.5, keep))


# --- faults that must be seen ---


FAULTS = {
    "no delta": without(r"d_probability - own_delta\)", 0, "d_probability)"),
    "no delta for keys": without(r"d_probability - own_deltas\[own_query\]\)", 0, "d_probability)"),
    "keys without the scale": without(r"key_sums, static_cast<Number>\(scale\)", 0, "key_sums, Number(1)"),
    "queries see all keys": without(r"is_causal \? min\(keys, own_query \+ 1 \+ keys - queries\) : ", 0),
    "keys seen by all queries": without(r"is_causal \? max\(0, own_key - \(keys - queries\)\) : ", 0),
    "as many queries as keys": without(r"own_key - \(keys - queries\)", 0, "own_key"),
    "the bits of the first keys": without(r"first_key \+ lane", 0, "lane"),
    "the bits of the first queries": without(r"first_query \+ lane", 0, "lane"),
    "the bits of another sentence": without(r"head, tile\.sentence", 1, "head, 0"),
    "the bits of another head": without(r"own_query, head, tile", 0, "own_query, 0, tile"),
    "values not dropped": without(r"weight \*= factor;", 0),
    "values dropped in the score's gradient": without(r"d_score = probability", 1, "d_score = weight"),
    "d_probability not dropped": without(r"d_probability \*= factor;", 0),
    "the log Σ exp of the first query": without(r"own_log_sum_exps\[own_query\]", 0, "own_log_sum_exps[0]"),
    "half of the features": without(r"return sum_of_warp\(sum\)", 0, "return sum"),
}


@pytest.mark.parametrize("fault", some_of(FAULTS))
def test_a_fault_in_the_kernels_is_seen(fault: str) -> None:
    asked = training(case([(20, 40), (50, 64)], 2, 8, "float32", is_causal=True), 0.5)
    assert is_seen(FAULTS[fault], asked)


def is_seen(fault: Callable[[str], str], asked: Training) -> bool:
    return error_of(run(asked, EmulatedGpu(SCHEDULES[0], edit=fault)), asked) > 1
