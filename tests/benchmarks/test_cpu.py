"""The arithmetic of `tests.benchmarks.cpu`; what it measures is no matter of tests."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.benchmarks.cpu import compare
from tests.benchmarks.cpu_report import Measured, Measurement, cost_table, ratios, table, targets_table
from tests.benchmarks.cpu_workloads import WORKLOADS, batches, floating_point_operations, ragged_lengths

OURS = Measurement([[2.0, 9.0, 2.0], [3.0, 3.0, 3.0], [1.0, 1.0, 1.0]], [0.0] * 3, 10**9)
THEIRS = Measurement([[4.0, 4.0, 4.0], [3.0, 30.0, 1.0], [5.0, 5.0, 5.0]], [0.0] * 3, 2 * 10**9)


@given(number=st.integers(5, 70), shortest=st.integers(1, 20), more=st.integers(20, 300), power=st.floats(0.2, 5))
def test_ragged_lengths_fill_their_share(number: int, shortest: int, more: int, power: float) -> None:
    longest = shortest + more
    total = round(sum(shortest + more * (place / (number - 1)) ** power for place in range(number)))
    lengths = ragged_lengths(number, shortest, longest, total / (number * longest))
    assert len(lengths) == number
    assert sum(lengths) == total
    assert (min(lengths), max(lengths)) == (shortest, longest)


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_ragged_lengths_that_cannot_be_are_refused(share: float) -> None:
    with pytest.raises(ValueError, match=f"8 lengths from 8 to 128 cannot fill {share}"):
        ragged_lengths(8, 8, 128, share)


def test_the_ragged_workloads_are_those_that_their_titles_name() -> None:
    assert sum(WORKLOADS["ragged"].lengths) == 64 * 256 // 4
    assert (min(WORKLOADS["ragged"].lengths), max(WORKLOADS["ragged"].lengths)) == (8, 256)
    assert sum(WORKLOADS["training-ragged"].lengths) / (8 * 128) == pytest.approx(0.4, abs=1e-3)  # a whole token


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=20), size=st.none() | st.integers(1, 7))
def test_batches_hold_every_sentence_once(lengths: list[int], size: int | None) -> None:
    sentences = [np.arange(length) + 5 for length in lengths]
    made = batches(sentences, size)
    assert sorted(number for batch in made for number in batch.numbers) == list(range(len(lengths)))
    for batch in made:
        assert size is None or len(batch.numbers) <= size
        for number, ids, mask in zip(batch.numbers, batch.ids, batch.mask, strict=True):
            assert ids[mask == 1].tolist() == sentences[number].tolist()
            assert set(ids[mask == 0].tolist()) <= {1}
    if size is None:
        assert made[0].numbers == tuple(range(len(lengths)))
    else:
        in_order = [lengths[number] for batch in made for number in batch.numbers]
        assert in_order == sorted(lengths)


@given(lengths=st.lists(st.integers(1, 512), min_size=1))
def test_operations_are_counted_by_sentence(lengths: list[int]) -> None:
    whole = floating_point_operations(lengths, "encode")
    assert whole == sum(floating_point_operations([length], "encode") for length in lengths)
    weights = floating_point_operations(lengths, "encode", with_attention=False)
    assert weights == sum(lengths) * 12 * 2 * (4 * 768 * 768 + 2 * 768 * 3072)
    assert whole - weights == 12 * 2 * 2 * 768 * sum(length**2 for length in lengths)
    assert floating_point_operations(lengths, "train") == 3 * whole


def test_ratios_are_taken_round_by_round() -> None:
    assert ratios(OURS, THEIRS) == [0.5, 1.0, 0.2]


def test_tables_tell_ratios_targets_and_cost() -> None:
    bare = Measurement([[1.0]] * 3, [0.0] * 3, 10**9)
    engines = {"xlmr-np": OURS, "transformers": THEIRS, "numpy.matmul": bare}
    measured = {
        "1x16": Measured([16], engines),
        "cost-1k": Measured([128] * 8, {"xlmr-np": Measurement([[1.024]], [0.0], 1)}),
        "cost-10k": Measured([128] * 80, {"xlmr-np": Measurement([[15.36]], [0.0], 1)}),
    }
    rows = table(measured)
    assert rows[2] == "| 1 × 16 tokens, xlmr-np | 2 (1 to 9) |  | 1 | 1.00 | 50% |"
    assert rows[3].startswith("| 1 × 16 tokens, transformers float32 | 4 (1 to 30) | 0.50 (0.20 to 1.00) |")
    assert len(rows) == 5
    assert targets_table(measured)[2:] == ["| 1 × 16 tokens, transformers float32 | 0.50 (0.20 to 1.00) | 0.60 | met |"]
    assert cost_table(measured)[2:] == [
        "| 8: 1,024 tokens | 1.02 | 1.000 | 1.00 |",
        "| 80: 10,240 tokens | 15.36 | 1.500 | 1.50 |",
    ]


@given(difference=st.floats(0, 1) | st.just(math.nan), engine=st.sampled_from(["onnxruntime", "openvino-bfloat16"]))
def test_engines_that_disagree_end_the_benchmark(difference: float, engine: str) -> None:
    tolerance = {"onnxruntime": 1e-3, "openvino-bfloat16": 0.25}[engine]
    assume(not math.isclose(difference, tolerance))  # at the limit itself, rounding decides
    answers = {"transformers": np.zeros((3, 4)), engine: np.full((3, 4), difference)}
    if difference <= tolerance:
        compare("1x16", answers)
    else:
        with pytest.raises(SystemExit, match=f"{engine} and transformers differ"):
            compare("1x16", answers)
