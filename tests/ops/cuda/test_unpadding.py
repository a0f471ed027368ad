"""The kernels of unpadding.cu, executed in emulation, against what inputs.py makes of the same arrays on the host."""

from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.cuda_emulator import BARRIER, EmulatedGpu, Schedule, number_of_barriers, run_sanitized, why_not, without
from tests.ops.calls import DTYPES
from tests.ops.cuda.test_norms import HOW_MANY_EXAMPLES, SCHEDULES, emulated
from xlmr_np import XLMRobertaConfig
from xlmr_np.inputs import prepare_inputs
from xlmr_np.layers.attention import PackedMask
from xlmr_np.ops.cuda.unpadding import Findings, Measured, Packed, kernels, measure, pack

pytestmark = pytest.mark.skipif(why_not() is not None, reason=f"kernels cannot be executed here: {why_not()}")

PAD = 1
CONFIG = XLMRobertaConfig(
    vocab_size=50,
    hidden_size=4,
    num_hidden_layers=1,
    num_attention_heads=1,
    max_position_embeddings=700,
    type_vocab_size=3,
    pad_token_id=PAD,
)
SIZES = PAD, CONFIG.vocab_size, CONFIG.type_vocab_size, CONFIG.max_position_embeddings
MASK_TYPES = ["bool", "int64", "int32", "uint8", *DTYPES]


def unpadded(gpu: EmulatedGpu, ids: Any, token_types: Any, positions: Any, mask: Any) -> tuple[Measured, Packed]:
    measured = measure(gpu, ids, token_types, positions, mask, *SIZES)
    number_of_real = int(Findings(*measured.findings).real.sum())
    return measured, pack(gpu, ids, token_types, positions, measured, number_of_real, PAD)


def matches(gpu: EmulatedGpu, ids: Any, token_types: Any, positions: Any, mask: Any) -> bool:
    """Whether the GPU finds no fault and packs what `prepare_inputs` packs."""
    measured, packed = unpadded(gpu, ids, token_types, positions, mask)
    findings = Findings(*measured.findings)
    host_mask = mask.astype(np.float32) if mask is not None and mask.dtype.kind not in "biuf" else mask
    expected = prepare_inputs(CONFIG, ids, host_mask, token_types, positions)
    assert isinstance(expected.mask, PackedMask)
    pairs = [
        (measured.is_real, expected.is_real),
        (findings.real, expected.mask.query.lengths),
        (findings.tokens, (ids != PAD).sum(axis=1)),
        *((finding, np.full(len(finding), -1)) for finding in findings[2:]),
        (packed.ids, expected.ids),
        (packed.token_types, expected.token_types),
        (packed.positions, expected.positions),
        (packed.starts, expected.mask.query.starts),
    ]
    assert measured.is_real.dtype == bool
    assert {each.dtype for each in (measured.findings, *packed)} == {np.dtype(np.int64)}
    return all(np.array_equal(ours, theirs) for ours, theirs in pairs)


def padded_ids(random: np.random.Generator, batch: int, length: int, share: float) -> np.ndarray:
    """Padding ids anywhere, not at the end alone."""
    ids = random.integers(2, CONFIG.vocab_size, (batch, length))
    ids[random.random((batch, length)) >= share] = PAD
    return ids


lengths = st.one_of(st.integers(1, 40), st.sampled_from([255, 256, 257, 512, 600]))
shares = st.sampled_from([0.0, 0.3, 0.9, 1.0])


@HOW_MANY_EXAMPLES
def test_equal_to_what_the_host_does(examples: int) -> None:
    @settings(max_examples=3 * examples, phases=set(Phase) - {Phase.explain})
    @given(
        batch=st.integers(1, 5),
        length=lengths,
        share=shares,
        index_type=st.sampled_from(["int64", "int32", "uint16"]),
        mask_type=st.sampled_from([None, *MASK_TYPES]),
        has_token_types=st.booleans(),
        has_positions=st.booleans(),
        is_transposed=st.booleans(),
        schedule=st.sampled_from(SCHEDULES),
        seed=st.integers(0, 2**16),
    )
    def compare(
        batch: int,
        length: int,
        share: float,
        index_type: str,
        mask_type: str | None,
        has_token_types: bool,
        has_positions: bool,
        is_transposed: bool,
        schedule: Schedule,
        seed: int,
    ) -> None:
        random = np.random.default_rng(seed)
        shape = batch, length

        def given(array: np.ndarray, is_given: bool = True) -> np.ndarray | None:
            if is_transposed:
                array = array.T.copy().T
            array.flags.writeable = False
            return array if is_given else None

        mask = None
        if mask_type is not None:
            is_real = random.random(shape) < share
            mask = given((is_real * random.integers(1, 4, shape)).astype(DTYPES.get(mask_type, mask_type)))
        ids = given(padded_ids(random, *shape, share).astype(index_type))
        token_types = given(random.integers(0, 3, shape).astype(index_type), has_token_types)
        positions = given(random.integers(0, 700, shape).astype(index_type), has_positions)
        assert matches(emulated(schedule), ids, token_types, positions, mask)

    compare()
    launched = [kernel for schedule in SCHEDULES for kernel in emulated(schedule).launches]
    assert {kernel for kernel in launched if kernel.file == "unpadding.cu"} == set(kernels())


def test_more_sentences_than_threads() -> None:
    ids = padded_ids(np.random.default_rng(0), 600, 3, 0.5)
    assert matches(emulated(SCHEDULES[1]), ids, None, None, None)


def test_masked_tokens_count_and_padding_ids_that_are_real_have_the_padding_position() -> None:
    ids = np.array([[5, PAD, 6, 7]])
    _, packed = unpadded(emulated(), ids, None, None, np.array([[0, 1, 1, 1]]))
    assert packed.ids.tolist() == [PAD, 6, 7]
    assert packed.positions.tolist() == [PAD, PAD + 2, PAD + 3]


@pytest.mark.parametrize("wrong", ["wrong_id", "wrong_token_type", "wrong_position", "wrong_mask"])
def test_the_first_wrong_value_of_each_sentence_is_found(wrong: str) -> None:
    """Padding or not, and whatever else is wrong."""
    shape = 4, 300
    arrays = dict(zip(Findings._fields[2:], (np.full(shape, 2) for _ in range(3)), strict=False))
    arrays["wrong_mask"] = np.ones(shape, np.float32)
    values = {"wrong_mask": [-1, np.nan, -np.inf]}
    limits = dict(zip(Findings._fields[2:], SIZES[1:], strict=False))
    bad = values[wrong] if wrong in values else [-1, limits[wrong], 2**63 - 1]
    for sentence, (columns, value) in enumerate(zip([[0, 7], [299], [256, 257]], bad, strict=True)):
        arrays[wrong][sentence, columns] = value
    measured = measure(emulated(SCHEDULES[2]), *arrays.values(), *SIZES)
    found = Findings(*measured.findings)._asdict()
    for name, columns in found.items():
        if name not in ("real", "tokens"):
            assert columns.tolist() == ([0, 299, 256, -1] if name == wrong else [-1] * 4)


def test_empty_rectangles() -> None:
    for shape in ((0, 5), (3, 0)):
        ids = np.zeros(shape, np.int64)
        measured, packed = unpadded(emulated(), ids, ids, None, None)
        assert measured.is_real.shape == shape
        assert measured.findings.tolist() == [[value] * shape[0] for value in (0, 0, -1, -1, -1, -1)]
        assert [each.shape for each in packed] == [(0,), (0,), (0,), (shape[0],)]
        assert not packed.starts.any()


@pytest.mark.exhaustive
def test_nothing_outside_of_arrays_is_touched() -> None:
    """Even with the number of real tokens wrong."""
    done = run_sanitized("""
import numpy as np
from tests.cuda_emulator import EmulatedGpu
from xlmr_np.ops.cuda.unpadding import measure, pack
gpu = EmulatedGpu(sanitize=True)
for shape, number in (((3, 5), 15), ((2, 300), 600), ((2, 300), 7)):
    ids = np.arange(shape[0] * shape[1]).reshape(shape) + 2
    measured = measure(gpu, ids, ids, ids, ids, 1, 5, 5, 5)
    print(pack(gpu, ids, ids, None, measured, number, 1).ids.tolist() == list(range(2, 2 + number)))
""")
    assert done.stdout == "True\n" * 3, done.stderr


@pytest.mark.parametrize("barrier", range(number_of_barriers("unpadding.cu")))
def test_a_missing_barrier_is_seen(barrier: int) -> None:
    """Under one schedule at least."""

    ids = padded_ids(np.random.default_rng(0), 3, 600, 0.6)
    schedules = [Schedule(seed) for seed in range(6)]
    assert all(matches(emulated(schedule), ids, None, None, None) for schedule in schedules)
    edited = [EmulatedGpu(schedule, edit=without(BARRIER, barrier)) for schedule in schedules]
    assert not all(matches(gpu, ids, None, None, None) for gpu in edited)
