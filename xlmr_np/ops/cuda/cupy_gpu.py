"""The GPU as CuPy gives it to us."""

from collections.abc import Sequence
from threading import Lock
from typing import Any

import numpy as np

from xlmr_np.arrays import Array, resolve_device

from .kernels import Kernel, LaunchShape
from .sources import architectures, source

LIMIT_OF_A_KERNEL = 48 * 1024  # bytes of dynamic shared memory that it may have before its limit is raised


class CupyGpu:
    """Launches kernels on CuPy's current device and stream, and multiplies matrices by cuBLAS.

    A kernel is compiled when it is first launched; CuPy keeps the result on disk for later processes. Threads may share
    one CupyGpu.
    """

    def __init__(self) -> None:
        self._functions: dict[tuple[Kernel, int], Any] = {}
        self._compiling = Lock()

    def __reduce__(self) -> tuple[type["CupyGpu"], tuple[()]]:
        """Another process compiles for itself."""
        return CupyGpu, ()

    def launch(self, kernel: Kernel, shape: LaunchShape, arguments: Sequence[Any]) -> None:
        """See `Gpu.launch`.

        Raises:
            RuntimeError: there is no GPU, or it is older than the kernel's oldest architecture.
            TypeError: an argument is a NumPy array, of which CuPy would pass a single element by value.
        """
        grid, block, shared_memory = shape
        assert all(grid), f"{kernel}: a grid {grid} has no blocks, and CuPy would launch one"
        if any(isinstance(argument, np.ndarray) for argument in arguments):
            raise TypeError(f"An array given to the CUDA kernel {kernel.expression} is on the CPU; move it to the GPU.")
        key = kernel, _current_device()
        if key not in self._functions:
            with self._compiling:
                if key not in self._functions:
                    self._functions[key] = _compiled(kernel)
        function = self._functions[key]
        if shared_memory > LIMIT_OF_A_KERNEL and shared_memory > function.max_dynamic_shared_size_bytes:
            function.max_dynamic_shared_size_bytes = shared_memory
        function(grid, block, tuple(arguments), shared_mem=shared_memory)

    def matmul(self, a: Array, b: Array) -> Array:
        """See `Gpu.matmul`.

        CuPy hands a matrix in C or Fortran order to cuBLAS as it is, copies any other, and returns zeros where K is 0.
        """
        assert a.ndim == b.ndim == 2, "CuPy multiplies stacks of half-precision matrices slowly or not at all"
        assert a.dtype == b.dtype, f"a is {a.dtype} and b is {b.dtype}"
        if a.dtype.itemsize == 2 and a.shape[0] == b.shape[1] == 1:
            # For a single number CuPy does not ask cuBLAS, but rounds every product to the half type before it sums.
            return (a.astype(np.float32) @ b.astype(np.float32)).astype(a.dtype)
        return a @ b


def _current_device() -> int:
    """The number of CuPy's current device; where there is none, an error that says what is missing."""
    try:
        import cupy

        return int(cupy.cuda.runtime.getDevice())
    except (ImportError, RuntimeError):
        resolve_device("cuda")
        raise


def _compiled(kernel: Kernel) -> Any:
    """The kernel for the current device."""
    import cupy

    oldest = architectures(kernel.file)[0]
    capability = cupy.cuda.Device().compute_capability
    if int(capability) < int(oldest.strip("sm_a")):
        raise RuntimeError(
            f"The CUDA kernels of {kernel.file} are for {oldest} and later, and this GPU is sm_{capability}; "
            "use device='cpu'."
        )
    module = cupy.RawModule(
        # CuPy writes the text to a file in the encoding of the locale; only comments lose anything.
        code=source(kernel.file).encode("ascii", "replace").decode(),
        options=("--std=c++17",),
        name_expressions=(kernel.expression,),
    )
    return module.get_function(kernel.expression)
