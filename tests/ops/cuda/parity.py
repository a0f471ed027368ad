"""Holds the GPU engine's operations to REFERENCE: on a GPU, or on the emulator in its place."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

from tests.ops.calls import KINDS, Call, Kind, Storage, arrays_of, check_top_k, hides_everything, stored, widened
from xlmr_np import trees
from xlmr_np.arrays import Array
from xlmr_np.ops.cuda.kernels import Gpu
from xlmr_np.ops.cuda_ops import inference_ops
from xlmr_np.ops.reference import REFERENCE

# Of outputs of order one, larger ones by size: an operation rounds to its type up to three times, and a norm may
# enlarge what comes before it; float32 and float64 as on the CPU.
TOLERANCE = {"float16": 8 * 2**-11, "bfloat16": 8 * 2**-8, "float32": 2e-5, "float64": 1e-12}
STORAGES = st.builds(
    Storage, *[st.shared(st.sampled_from(list(TOLERANCE)), key="dtype")] * 2, st.none() | st.integers(0, 1000)
)
NO_DROPOUT = {"form": st.just("none"), "rate": st.just(0.0)}
INFERENCE_KINDS = {
    name: Kind(
        kind.build, {**kind.settings, **{key: NO_DROPOUT[key] for key in NO_DROPOUT.keys() & kind.settings.keys()}}
    )
    for name, kind in KINDS.items()
}


class Machine(NamedTuple):
    """What the kernels run on, and the way of arrays there and back."""

    gpu: Gpu
    upload: Callable[[np.ndarray], Array]
    download: Callable[[Array], np.ndarray]


def moved(tree: trees.Tree, move: Callable[[Any], Any]) -> trees.Tree:
    """The tree with all its arrays on the other side."""
    return trees.map_leaves(lambda leaf: move(leaf) if hasattr(leaf, "shape") else leaf, tree)


def check(machine: Machine, call: Call, storage: Storage) -> None:
    """That the engine does with a call what REFERENCE does in float64 with the same numbers, and nothing to them."""
    given = stored(call, storage)
    before = [array.copy() for array in arrays_of(given)]
    uploaded = moved(given.forward, machine.upload)
    y, nothing = getattr(inference_ops(machine.gpu), call.op).forward(*uploaded)
    assert nothing is None
    for array, old in zip(arrays_of(moved(uploaded, machine.download)), before, strict=False):
        np.testing.assert_array_equal(array, old)
    exact: Call = widened(given)
    expected, _ = getattr(REFERENCE, call.op).forward(*exact.forward)
    ours = moved(y, machine.download)
    if call.op == "vocabulary_top_k":
        check_top_k(ours, expected, exact, partial(check_close, dtype=storage.dtype))
    else:
        check_close(ours, expected, storage.dtype)
    if call.op == "attention":
        query, key, _, mask, _ = exact.forward
        assert not ours[hides_everything(mask, query, key)].any()


def check_close(ours: Any, expected: Any, dtype: str) -> None:
    for our, their in zip(arrays_of(ours), arrays_of(expected), strict=True):
        assert our.shape == their.shape
        error = np.abs(our.astype(np.float64) - their).max(initial=0)
        assert error <= TOLERANCE[dtype] * max(1, np.abs(their).max(initial=0))
