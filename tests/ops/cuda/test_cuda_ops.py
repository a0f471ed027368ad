"""The GPU engine's operations, executed in emulation, against REFERENCE."""

from functools import cache
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.cuda_emulator import EmulatedGpu, Schedule, why_not
from tests.ops.calls import Storage
from tests.ops.cuda.parity import GPU_KINDS, STORAGES, Machine, check
from xlmr_np.ops import Ops
from xlmr_np.ops.cuda_ops import inference_ops

pytestmark = pytest.mark.skipif(why_not() is not None, reason=f"kernels cannot be executed here: {why_not()}")


@cache
def machine(seed: int = 0) -> Machine:
    """Arrays stay where they are, but for those that lie off the alignment of their elements, as none on a GPU does."""
    return Machine(EmulatedGpu(Schedule(seed)), lambda x: x if x.flags.aligned else x.copy(), lambda x: x)


@pytest.mark.parametrize("examples", [10, pytest.param(200, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("kind", GPU_KINDS)
def test_every_operation_equals_the_reference(kind: str, examples: int) -> None:
    build, strategies = GPU_KINDS[kind]

    @settings(max_examples=examples, phases=set(Phase) - {Phase.explain})
    @given(setting=st.fixed_dictionaries(strategies), storage=STORAGES, seed=st.sampled_from([0, 3]))
    def compare(setting: dict[str, Any], storage: Storage, seed: int) -> None:
        check(machine(seed), build(**setting), storage)

    compare()


def test_the_record_has_the_reference_s_form() -> None:
    ops = inference_ops(machine().gpu)
    assert isinstance(ops, Ops)
    for op in ops:
        with pytest.raises(NotImplementedError, match="for inference"):
            op.backward(1.0)
