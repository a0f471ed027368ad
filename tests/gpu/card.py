"""The GPU of this machine, if it has one."""

import ctypes
from functools import cache
from typing import Any

import numpy as np
import pytest

from tests.ops.cuda.parity import Machine
from xlmr_np.arrays import resolve_device


@cache
def why_not() -> str | None:
    """The reason why no GPU can be used here, or None."""
    try:
        resolve_device("cuda")
    except RuntimeError as error:
        return str(error).rstrip(".")
    return None


needs_gpu = pytest.mark.skipif(why_not() is not None, reason=f"only on a GPU: {why_not()}")


@cache
def machine() -> Machine:
    """The card, with CuPy's kernels, products and ways of arrays."""
    import cupy

    from xlmr_np.ops.cuda.cupy_gpu import CupyGpu

    def upload(x: Any) -> Any:
        """With the strides of the host's array, and as far from an address that is a multiple of 16."""
        if not isinstance(x, np.ndarray) or any(each % x.itemsize for each in (x.ctypes.data, *x.strides)):
            return cupy.asarray(x)
        ends = [stride * (size - 1) for stride, size in zip(x.strides, x.shape, strict=True) if x.size]
        first = x.ctypes.data + sum(min(0, end) for end in ends)
        last = x.ctypes.data + sum(max(0, end) for end in ends) + x.itemsize * bool(x.size)
        lead = first % 16
        there = cupy.zeros(lead + last - first, np.uint8)
        there[lead:] = cupy.asarray(np.frombuffer((ctypes.c_ubyte * (last - first)).from_address(first), np.uint8))
        return cupy.ndarray(x.shape, x.dtype, there.data + (lead + x.ctypes.data - first), x.strides)

    return Machine(CupyGpu(), upload, cupy.asnumpy)
