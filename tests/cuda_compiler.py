"""Compiles CUDA source for GPUs that this machine need not have: by NVRTC of the PyPI wheels, else by nvcc.

Run as a program, it prints the resources of every kernel, and ends with status 1 if one spills or does not compile:

    python -m tests.cuda_compiler
"""

import ctypes
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from xlmr_np.ops.cuda.catalogue import all_kernels
from xlmr_np.ops.cuda.kernels import Kernel
from xlmr_np.ops.cuda.sources import architectures, source

# ptxas stops at the number of registers that lets one block more run, and then spills a few bytes: that costs nothing.
MOST_SPILLED_BYTES = 64

OPTIONS = ("-std=c++17", "-ftz=true", "-Xptxas=-v")  # the first two as CuPy compiles


class CompilationError(Exception):
    """The compiler's messages."""


class Resources(NamedTuple):
    """What one kernel uses, by the account of ptxas.

    Attributes:
        registers: of a thread
        spilled: bytes of registers that a thread stores to and loads from local memory, together
        stack: bytes of a thread
        shared_memory: bytes of a block, without what a launch adds
    """

    registers: int
    spilled: int
    stack: int
    shared_memory: int

    def __str__(self) -> str:
        return (
            f"{self.registers:3} registers, {self.spilled:3} bytes spilled, {self.stack:3} of stack, "
            f"{self.shared_memory:5} of shared memory"
        )


def why_not() -> str | None:
    """The reason why nothing can be compiled here; None if it can."""
    if _wheels() is not None or shutil.which("nvcc") is not None:
        return None
    return "no CUDA compiler: neither the wheels nvidia-cuda-nvrtc and nvidia-cuda-runtime nor nvcc are installed"


def compiled(text: str, expressions: Sequence[str], architecture: str) -> dict[str, Resources]:
    """The resources of these instances of the kernels in `text`, compiled for "sm_80" or another architecture.

    Raises:
        CompilationError: the text has an error.
    """
    with_wheels = _wheels()
    if with_wheels is not None:
        log, names = _compiled_by_nvrtc(*with_wheels, text, expressions, architecture)
    else:
        log, names = _compiled_by_nvcc(text, expressions, architecture)
    resources = _resources(log)
    return {expression: resources[name] for expression, name in zip(expressions, names, strict=True)}


def compiled_file(file: str, architecture: str) -> dict[Kernel, Resources]:
    """The resources of all instances of the kernels in one of the project's files."""
    kernels = [kernel for kernel in all_kernels() if kernel.file == file]
    resources = compiled(source(file), [kernel.expression for kernel in kernels], architecture)
    return {kernel: resources[kernel.expression] for kernel in kernels}


def spills(resources: Mapping[Kernel, Resources]) -> list[str]:
    """A line for each kernel that spills more than MOST_SPILLED_BYTES."""
    return [
        f"{kernel.file}: {kernel.expression}: {used}"
        for kernel, used in resources.items()
        if used.spilled > MOST_SPILLED_BYTES
    ]


class _Wheels(NamedTuple):
    nvrtc: ctypes.CDLL
    headers: Path


@cache
def _wheels() -> _Wheels | None:
    """NVRTC and the CUDA headers of the PyPI wheels."""
    spec = find_spec("nvidia")
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()] if spec is not None else []
    # In this order the wheels of CUDA 13, both in the folder cu13, come before those of CUDA 12.
    libraries = sorted(path for folder in folders for path in folder.glob("*/lib/libnvrtc.so.*"))
    headers = sorted(path.parent for folder in folders for path in folder.glob("*/include/cuda_fp16.h"))
    if not libraries or not headers:
        return None
    for builtins in libraries[0].parent.glob("libnvrtc-builtins.so.*"):
        ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)  # NVRTC looks for it on the system's paths only
    return _Wheels(ctypes.CDLL(str(libraries[0])), headers[0])


def _compiled_by_nvrtc(
    nvrtc: ctypes.CDLL, headers: Path, text: str, expressions: Sequence[str], architecture: str
) -> tuple[str, list[str]]:
    """What the compiler said, and the linker's names of the expressions."""
    program = ctypes.c_void_p()
    status = nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"kernels.cu", 0, None, None)
    assert status == 0, status
    try:
        for expression in expressions:
            nvrtc.nvrtcAddNameExpression(program, expression.encode())
        options = (*OPTIONS, f"-arch={architecture}", f"-I{headers}", "--device-as-default-execution-space")
        status = nvrtc.nvrtcCompileProgram(
            program, len(options), (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        )
        size = ctypes.c_size_t()
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, log)
        if status != 0:
            raise CompilationError(log.value.decode() or f"NVRTC ended with status {status}")
        return log.value.decode(), [_lowered_name(nvrtc, program, expression) for expression in expressions]
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _lowered_name(nvrtc: ctypes.CDLL, program: ctypes.c_void_p, expression: str) -> str:
    name = ctypes.c_char_p()
    status = nvrtc.nvrtcGetLoweredName(program, expression.encode(), ctypes.byref(name))
    assert status == 0, (expression, status)
    assert name.value is not None
    return name.value.decode()


def _compiled_by_nvcc(text: str, expressions: Sequence[str], architecture: str) -> tuple[str, list[str]]:
    """What the compiler said, and the linker's names of the expressions."""
    # A table of their addresses makes nvcc compile the instances, and tells their names.
    table = ", ".join(f"(void*)&{expression}" for expression in expressions)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "kernels.cu").write_text(f"{text}\n__device__ void* instances[] = {{{table}}};\n", "utf-8")
        command = ["nvcc", *OPTIONS, f"-arch={architecture}", "-cubin", "--keep", "kernels.cu"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise CompilationError(done.stderr or done.stdout)
        assembly = (Path(folder) / "kernels.ptx").read_text("utf-8")
    listed = re.search(r" instances\[\d+\] = \{(.*?)\}", assembly, re.DOTALL)
    assert listed is not None
    return done.stderr, listed[1].replace(" ", "").split(",")


def _resources(log: str) -> dict[str, Resources]:
    """What `ptxas -v` reports, by the linker's names."""
    report = re.split(r"Compiling entry function '(\w+)'", log)
    found = {}
    for name, part in zip(report[1::2], report[2::2], strict=True):
        # Functions that were not inlined come with a line of their own.
        frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part)
        registers = re.search(r"Used (\d+) registers", part)
        assert frames, part
        assert registers is not None, part
        shared_memory = re.search(r"(\d+) bytes smem", part)
        found[name] = Resources(
            registers=int(registers[1]),
            spilled=sum(int(stores) + int(loads) for _, stores, loads in frames),
            stack=sum(int(stack) for stack, _, _ in frames),
            shared_memory=int(shared_memory[1]) if shared_memory is not None else 0,
        )
    return found


def main() -> int:
    """Prints the resources of every kernel on every architecture that it is for.

    Returns:
        0, or 1 if a kernel spills or does not compile, or 2 if there is no compiler.
    """
    reason = why_not()
    if reason is not None:
        print(reason, file=sys.stderr)
        return 2
    faults = []
    for file in sorted({kernel.file for kernel in all_kernels()}):
        for architecture in architectures(file):
            try:
                resources = compiled_file(file, architecture)
            except CompilationError as error:
                faults.append(f"{file} does not compile for {architecture}:\n{error}")
                continue
            for kernel, used in resources.items():
                print(f"{architecture:7} {used}  {kernel.expression}", flush=True)
            faults += [f"spills too much on {architecture}: {line}" for line in spills(resources)]
    for fault in faults:
        print(fault)
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
