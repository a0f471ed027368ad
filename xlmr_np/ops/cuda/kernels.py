"""What launch modules and engines agree on: the name of a kernel, the shape of a launch, and what launches it."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from xlmr_np.arrays import Array


class Kernel(NamedTuple):
    """One instance of a kernel template.

    Attributes:
        file: the file of this folder that defines it: "norms.cu"
        expression: its C++ name: "add_norm<__half, 8>"
    """

    file: str
    expression: str


class LaunchShape(NamedTuple):
    """How many blocks run a kernel, and what each of them is.

    Attributes:
        grid: blocks along x, y and z; none may be 0.
        block: threads of a block along x, y and z.
        shared_memory: bytes of dynamic shared memory of a block.
    """

    grid: tuple[int, ...]
    block: tuple[int, ...]
    shared_memory: int = 0


@runtime_checkable
class Gpu(Protocol):
    """What launches kernels and multiplies matrices: CuPy, or in tests an emulator."""

    def launch(self, kernel: Kernel, shape: LaunchShape, arguments: Sequence[Any]) -> None:
        """Runs `kernel`, in the order of the current stream.

        Args:
            kernel: which.
            shape: its blocks.
            arguments: in the order of the kernel's parameters. Arrays of the GPU's library (the kernel gets the address
                of their first element; strides are the caller's business), NumPy scalars of the parameter's exact C
                type, None for a null pointer.
        """
        ...

    def matmul(self, a: Array, b: Array) -> Array:
        """`a` [M, K] times `b` [K, N], in the type of `a`, summed in at least float32.

        Either may be a transposed view, which is not copied.
        """
        ...
