"""The operations on the card: the engine's kernels, and the textbook on CuPy arrays, against REFERENCE on NumPy's."""

from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.gpu.card import machine, needs_gpu
from tests.ops.calls import KINDS, Storage, arrays_of, check_top_k, stored, widened
from tests.ops.cuda.parity import GPU_KINDS, STORAGES, TOLERANCE, check, check_close, moved
from tests.ops.cuda.test_attention import CASES, DECODING_CASES, case, error_of, exact
from xlmr_np import trees
from xlmr_np.ops.cuda.attention import attention
from xlmr_np.ops.reference import REFERENCE

pytestmark = needs_gpu


@pytest.mark.parametrize("kind", GPU_KINDS)
def test_every_operation_equals_the_reference(kind: str) -> None:
    build, strategies = GPU_KINDS[kind]

    @settings(max_examples=100, phases=set(Phase) - {Phase.explain})
    @given(setting=st.fixed_dictionaries(strategies), storage=STORAGES)
    def compare(setting: dict[str, Any], storage: Storage) -> None:
        check(machine(), build(**setting), storage)

    compare()


@pytest.mark.parametrize("width", [32, 64, 128, 80])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("cases", [CASES, DECODING_CASES], ids=["any", "decoding"])
def test_attention_by_cases(cases: dict[str, st.SearchStrategy], dtype: str, width: int) -> None:
    @settings(max_examples=60, phases=set(Phase) - {Phase.explain})
    @given(setting=st.fixed_dictionaries(cases))
    def compare(setting: dict[str, Any]) -> None:
        chosen = case(width=width, dtype=dtype, **setting)
        uploaded = moved(chosen, machine().upload)
        context, log_sum_exp = attention(machine().gpu, *uploaded, with_log_sum_exp=True)
        assert error_of(machine().download(context), chosen) <= 1
        ours = machine().download(log_sum_exp)
        np.testing.assert_allclose(ours, exact(chosen)[1], rtol=1e-4, atol=1e-4)  # sums in float32

    compare()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_textbook_runs_on_the_card(kind: str, dtype: str) -> None:
    """Forward and backward."""
    build, strategies = KINDS[kind]

    @settings(max_examples=15, phases=set(Phase) - {Phase.explain})
    @given(setting=st.fixed_dictionaries(strategies))
    def compare(setting: dict[str, Any]) -> None:
        call = stored(build(**setting), Storage(dtype, dtype, None))
        op = getattr(REFERENCE, call.op)
        expected, cache = op.forward(*call.forward)
        there = moved(call, machine().upload)
        ours, own_cache = op.forward(*there.forward)
        results = [(ours, expected)]
        if call.backward is not None:
            random = np.random.default_rng(1)
            d_y = trees.map_leaves(lambda leaf: random.normal(size=leaf.shape).astype(leaf.dtype), expected)
            gradients = op.backward(d_y, cache, *call.backward)
            results.append((op.backward(moved(d_y, machine().upload), own_cache, *there.backward), gradients))
        if call.op == "vocabulary_top_k":
            close = partial(check_close, dtype=dtype)
            check_top_k(moved(ours, machine().download), expected, widened(call), close)
            return
        for our_tree, their_tree in results:
            mine = [machine().download(leaf) for leaf in _arrays(our_tree)]
            for our, their in zip(mine, arrays_of(their_tree), strict=True):
                tolerance = {"float32": 1e-4, "float64": 1e-10}[dtype] * max(1, np.abs(their).max(initial=0))
                np.testing.assert_allclose(our, their, rtol=0, atol=tolerance)  # the order of sums, by size

    compare()


def _arrays(tree: Any) -> list[Any]:
    """All arrays of a tree of results, those of row-sparse gradients too."""
    arrays: list[Any] = []
    for leaf in trees.leaves(tree):
        arrays += [leaf.index, leaf.rows] if hasattr(leaf, "rows") else [leaf]
    return arrays
