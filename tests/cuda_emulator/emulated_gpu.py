"""A `Gpu` that runs the project's CUDA sources on the CPU."""

import ctypes
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from tests.cuda_emulator.builds import library
from xlmr_np.arrays import Array
from xlmr_np.ops.cuda.catalogue import all_kernels
from xlmr_np.ops.cuda.kernels import Kernel, LaunchShape
from xlmr_np.ops.cuda.sources import source

MOST_BLOCKS = (2**31 - 1, 65535, 65535)  # along x, y and z
MOST_THREADS = (1024, 1024, 64)


class Schedule(NamedTuple):
    """What a GPU leaves open, and a kernel without a race does not depend on.

    Attributes:
        seed: of the order in which threads run; 0 is the natural one.
        arrival: when asynchronous copies land: "late", when they are waited for, or "early", as they are issued.
    """

    seed: int = 0
    arrival: str = "late"


_NATURAL_ORDER = Schedule()


class _Launch(ctypes.Structure):
    """`Launch` of machine.h."""

    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared_memory", ctypes.c_size_t),
        ("seed", ctypes.c_uint),
        ("copies_come_early", ctypes.c_int),
        ("arguments", ctypes.POINTER(ctypes.c_void_p)),
    )


class _Compiled(NamedTuple):
    run: Callable[[Any], bytes | None]
    parameters: tuple[str, ...]  # NumPy's names of their types: "float32", "const int64*"


class EmulatedGpu:
    """Launches kernels on NumPy arrays, as CuPy would on its own.

    Attributes:
        launches: the kernels launched so far.
    """

    def __init__(
        self,
        schedule: Schedule = _NATURAL_ORDER,
        edit: Callable[[str], str] | None = None,
        sanitize: bool = False,
        sources: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """A GPU with nothing launched.

        Args:
            schedule: the order of threads and the arrival of copies.
            edit: changes the source of a kernel, headers and all but primitives.cuh, before it is built.
            sanitize: build with AddressSanitizer; only in a process of `run_sanitized`.
            sources: files to launch kernels from besides those of xlmr_np/ops/cuda: name and text.

        Raises:
            ValueError: no such arrival.
        """
        if schedule.arrival not in ("late", "early"):
            raise ValueError(f"Copies arrive 'late' or 'early', not {schedule.arrival!r}.")
        self.launches: list[Kernel] = []
        self._schedule = schedule
        self._edit = edit
        self._sanitize = sanitize
        self._sources = sources
        self._compiled: dict[Kernel, _Compiled] = {}

    def launch(self, kernel: Kernel, shape: LaunchShape, arguments: Sequence[Any]) -> None:
        """See `xlmr_np.ops.cuda.kernels.Gpu`.

        Raises:
            TypeError: an argument is neither an array nor a NumPy scalar nor None.
            RuntimeError: CUDA would refuse the launch, the arguments do not fit the kernel's parameters, or the kernel
                does what must not be: a barrier that some threads never reach, say.
        """
        grid, block, shared_memory = shape
        for name, sizes, most in (("grid", grid, MOST_BLOCKS), ("block", block, MOST_THREADS)):
            if not _are_possible(sizes, most):
                raise RuntimeError(f"{_name(kernel)}: a {name} of {sizes}; it has one to three sizes from 1 to {most}.")
        if kernel not in self._compiled:
            self._compiled[kernel] = self._compile(kernel)
        run, parameters = self._compiled[kernel]
        if len(arguments) != len(parameters):
            raise RuntimeError(
                f"{_name(kernel)} has {len(parameters)} parameters, but {len(arguments)} arguments came:"
                f" ({', '.join(parameters)})."
            )
        values = []
        for number, (argument, parameter) in enumerate(zip(arguments, parameters, strict=True), start=1):
            problem = _problem_of_argument(argument, parameter)
            if problem is not None:
                raise RuntimeError(f"{_name(kernel)}: argument {number} is {problem}, its parameter {parameter}.")
            values.append(_value(argument))
        addresses = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        schedule = self._schedule
        error = run(
            _Launch(_three(grid), _three(block), shared_memory, schedule.seed, schedule.arrival == "early", addresses)
        )
        if error is not None:
            raise RuntimeError(f"{_name(kernel)}: {error.decode()}.")
        self.launches.append(kernel)

    def matmul(self, a: Array, b: Array) -> Array:
        """See `xlmr_np.ops.cuda.kernels.Gpu`."""
        if a.dtype != b.dtype or a.ndim != 2 or b.ndim != 2:
            raise RuntimeError(f"matmul of {a.dtype} {a.shape} and {b.dtype} {b.shape}: one type and two matrices.")
        with np.errstate(over="ignore", invalid="ignore"):  # a GPU overflows in silence
            if a.dtype.itemsize > 2:
                return a @ b
            return (a.astype(np.float32) @ b.astype(np.float32)).astype(a.dtype)

    def _compile(self, kernel: Kernel) -> _Compiled:
        if kernel.file in self._sources:
            text = f'#line 1 "{kernel.file}"\n{self._sources[kernel.file]}\n'
        else:
            if kernel not in all_kernels():
                raise RuntimeError(f"{_name(kernel)} is not in the catalogue: nothing would compile it ahead of use.")
            # The emulator's own primitives.cuh is found by the compiler, so that `edit` sees nothing but kernels.
            text = source(kernel.file, {"primitives.cuh": "#include <primitives.cuh>"})
        if self._edit is not None:
            text = self._edit(text)
        built = library(_name(kernel), text, kernel.expression, self._sanitize)
        built.emulated_launch.argtypes = (ctypes.POINTER(_Launch),)
        built.emulated_launch.restype = ctypes.c_char_p
        built.emulated_signature.argtypes = ()
        built.emulated_signature.restype = ctypes.c_char_p
        return _Compiled(built.emulated_launch, tuple(built.emulated_signature().decode().split(";")[:-1]))


def _name(kernel: Kernel) -> str:
    return f"{kernel.expression} of {kernel.file}"


def _are_possible(sizes: tuple[int, ...], most: tuple[int, int, int]) -> bool:
    return 1 <= len(sizes) <= 3 and all(1 <= size <= limit for size, limit in zip(sizes, most, strict=False))


def _three(sizes: tuple[int, ...]) -> Any:
    return (ctypes.c_uint * 3)(*(*(int(size) for size in sizes), 1, 1)[:3])


def _problem_of_argument(argument: Any, parameter: str) -> str | None:
    """What the argument is, if it is not for such a parameter."""
    match = re.fullmatch(r"(const )?(\w+)(\*?)", parameter)
    assert match is not None
    is_const, element, is_pointer = match.groups()
    if argument is None:
        return None if is_pointer else "None, a null pointer"
    if isinstance(argument, np.ndarray):
        if not is_pointer or element not in ("opaque", argument.dtype.name):
            return f"an array of {argument.dtype.name}"
        if not is_const and not argument.flags.writeable:
            return f"a read-only array of {argument.dtype.name}"
        return None
    if isinstance(argument, np.generic):
        return f"a scalar of {argument.dtype.name}" if is_pointer or element != argument.dtype.name else None
    raise TypeError(
        f"{argument!r} of type {type(argument).__name__} cannot be passed to a kernel: pass an array, a NumPy scalar of"
        " the parameter's type, or None."
    )


def _value(argument: Any) -> Any:
    """The bytes that a kernel gets."""
    if argument is None or isinstance(argument, np.ndarray):
        return ctypes.c_void_p(None if argument is None else argument.ctypes.data)
    return ctypes.create_string_buffer(argument.tobytes(), argument.nbytes)
