"""The GPU of this machine, if it has one."""

from functools import cache
from typing import Any

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
        return cupy.asarray(x)

    return Machine(CupyGpu(), upload, cupy.asnumpy)
