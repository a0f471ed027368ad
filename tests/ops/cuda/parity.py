"""Holds the GPU engine's operations to REFERENCE: on a GPU, or on the emulator in its place."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

from tests.ops.calls import (
    KINDS,
    Call,
    Kind,
    Storage,
    arrays_of,
    check_top_k,
    gradient_of,
    hides_everything,
    stored,
    widened,
)
from xlmr_np import trees
from xlmr_np.arrays import Array
from xlmr_np.ops.cuda.kernels import Gpu
from xlmr_np.ops.cuda_ops import inference_ops, training_ops
from xlmr_np.ops.reference import REFERENCE
from xlmr_np.row_sparse import RowSparse

# Of outputs of order one, larger ones by size: an operation rounds to its type up to three times, and a norm may
# enlarge what comes before it; float32 and float64 as on the CPU.
TOLERANCE = {"float16": 8 * 2**-11, "bfloat16": 8 * 2**-8, "float32": 2e-5, "float64": 1e-12}
STORAGES = st.builds(
    Storage, *[st.shared(st.sampled_from(list(TOLERANCE)), key="dtype")] * 2, st.none() | st.integers(0, 1000)
)
# Of the largest entry of a gradient, and of the largest of all gradients of a call, what ought to cancel is taken to do
# so: a gradient goes through up to four roundings to its type, on activations that were rounded themselves.
GRADIENT_TOLERANCE = {"float16": 16 * 2**-11, "bfloat16": 16 * 2**-8, "float32": 1e-4, "float64": 1e-10}
CANCELLATION = {"float16": 4 * 2**-11, "bfloat16": 4 * 2**-8, "float32": 1e-6, "float64": 1e-14}
# The bits of features are drawn from keys on a GPU; padded attention is the textbook's, which takes bits as well. The
# deviation of a few numbers may be near 0, and the norm then enlarges roundings at will: norms.py's tests have those.
CHANGES = {"form": st.sampled_from(["none", "key"]), "width": st.sampled_from([16, 17, 24, 40, 50, 64, 96, 128])}
GPU_KINDS = dict(KINDS)
for name in ("embed", "add norm", "feed forward"):
    GPU_KINDS[name] = Kind(KINDS[name].build, {**KINDS[name].settings, **CHANGES})
GPU_KINDS["layer norm"] = Kind(KINDS["layer norm"].build, {**KINDS["layer norm"].settings, "width": CHANGES["width"]})


class Machine(NamedTuple):
    """What the kernels run on, and the way of arrays there and back."""

    gpu: Gpu
    upload: Callable[[np.ndarray], Array]
    download: Callable[[Array], np.ndarray]


def moved(tree: trees.Tree, move: Callable[[Any], Any]) -> trees.Tree:
    """The tree with all its arrays on the other side."""

    def moved_leaf(leaf: Any) -> Any:
        if isinstance(leaf, RowSparse):
            return RowSparse(move(leaf.index), move(leaf.rows), leaf.number_of_rows)
        return move(leaf) if hasattr(leaf, "shape") else leaf

    return trees.map_leaves(moved_leaf, tree)


def check(machine: Machine, call: Call, storage: Storage) -> None:
    """That the engine does with a call what REFERENCE does in float64 with the same numbers, and nothing to them."""
    given = stored(call, storage)
    before = [array.copy() for array in arrays_of(given)]
    uploaded: Call = moved(given, machine.upload)
    y, nothing = getattr(inference_ops(machine.gpu), call.op).forward(*uploaded.forward)
    assert nothing is None
    exact: Call = widened(given)
    expected, exact_cache = getattr(REFERENCE, call.op).forward(*exact.forward)
    results = [moved(y, machine.download)]
    if call.backward is not None:
        op = getattr(training_ops(machine.gpu), call.op)
        kept, cache = op.forward(*uploaded.forward)
        results.append(moved(kept, machine.download))
        d_y = gradient_of(results[-1], storage)
        gradients = moved(op.backward(moved(d_y, machine.upload), cache, *uploaded.backward), machine.download)
        exact_gradients = getattr(REFERENCE, call.op).backward(widened(d_y), exact_cache, *exact.backward)
        # The slope of relu is 0 or 1: where rounding moves a number across 0, another gradient is right.
        has_step = any(isinstance(each, str) and each == "relu" for each in call.forward)
        if not has_step or storage.dtype not in ("float16", "bfloat16"):
            check_gradients(gradients, exact_gradients, storage.dtype)
    for array, old in zip(arrays_of(moved(uploaded, machine.download)), before, strict=True):
        np.testing.assert_array_equal(array, old)
    for ours in results:
        if call.op == "vocabulary_top_k":
            check_top_k(ours, expected, exact, partial(check_close, dtype=storage.dtype))
        else:
            check_close(ours, expected, storage.dtype)
        if call.op == "attention":
            query, key, _, mask, _ = exact.forward
            assert not ours[hides_everything(mask, query, key)].any()


def check_gradients(ours: Any, expected: Any, dtype: str) -> None:
    pairs = list(zip(arrays_of(ours), arrays_of(expected), strict=True))
    largest = [np.abs(their).max(initial=0) for _, their in pairs if their.dtype.kind == "f"]
    cancellation = CANCELLATION[dtype] * max(largest, default=0)
    for our, their in pairs:
        assert our.shape == their.shape
        if their.dtype.kind != "f":  # the rows that a row-sparse gradient has
            np.testing.assert_array_equal(our, their)
            continue
        error = np.abs(our.astype(np.float64) - their).max(initial=0)
        assert error <= GRADIENT_TOLERANCE[dtype] * np.abs(their).max(initial=0) + cancellation


def check_close(ours: Any, expected: Any, dtype: str) -> None:
    for our, their in zip(arrays_of(ours), arrays_of(expected), strict=True):
        assert our.shape == their.shape
        error = np.abs(our.astype(np.float64) - their).max(initial=0)
        assert error <= TOLERANCE[dtype] * max(1, np.abs(their).max(initial=0))
