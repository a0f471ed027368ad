"""Builds the sources of kernels for the CPU."""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
HEADERS = ("machine.h", "cuda_builtins.h", "primitives.cuh")
OLDEST_COMPILER = 12  # knows _Float16
FLAGS = (
    "-std=c++17",  # as CuPy does
    "-O1",
    "-march=native",  # conversions of float16 by instructions
    "-shared",
    "-fPIC",
    # Kernels see 16-bit values as 32-bit words, and contract a * b + c, as nvcc lets them.
    "-fno-strict-aliasing",
    "-ffp-contract=fast",
    "-fno-math-errno",
    # What is static belongs to one library, though kernels of many have one name.
    "-fvisibility=hidden",
    "-fno-gnu-unique",
    "-fno-extern-tls-init",
    "-fcf-protection=none",  # fibers do not return to where they were called from
    "-ftrivial-auto-var-init=pattern",  # variables that nobody has set are large numbers, not zeros
    "-fsanitize=alignment",  # a GPU ends the kernel there
    "-fno-sanitize-recover=all",
    "-static-libubsan",  # which machine.h takes the place of
    "-w",  # nvcc is the judge
)
SANITIZER_FLAGS = ("-fsanitize=address,bounds", "-g1", "-fno-omit-frame-pointer")
ENTRY = """
extern "C" [[gnu::visibility("default")]] const char* emulated_launch(const emulator::Launch* launch) {{
  return emulator::run_kernel(&{expression}, *launch);
}}
extern "C" [[gnu::visibility("default")]] const char* emulated_signature() {{
  return emulator::signature(&{expression});
}}
"""


def why_not() -> str | None:
    """Why nothing can be emulated on this machine; None if it can."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"the CUDA emulator runs on Linux on x86-64, not on {sys.platform} on {platform.machine()}"
    if shutil.which("g++") is None:
        return "the CUDA emulator builds kernels by g++, which is not installed"
    version = subprocess.run(["g++", "-dumpversion"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.partition(".")[0]) < OLDEST_COMPILER:
        return f"the CUDA emulator builds kernels by g++ {OLDEST_COMPILER} or later, not {version}"
    return None


def library(name: str, text: str, expression: str, sanitize: bool) -> ctypes.CDLL:
    """The library of one kernel of a source, built unless it has been.

    Args:
        name: for messages.
        text: the source, which may include the emulator's primitives.cuh.
        expression: the C++ name of the kernel.
        sanitize: build with AddressSanitizer.

    Raises:
        RuntimeError: the compiler refuses the source.
    """
    flags = (*FLAGS, *(SANITIZER_FLAGS if sanitize else ()))
    whole = text + ENTRY.format(expression=expression)
    fingerprint = hashlib.sha256("\0".join((_environment(), *flags, whole)).encode()).hexdigest()
    built = _cache() / f"{fingerprint}.so"
    if not built.exists():
        _build(name, whole, flags, built)
    # PyDLL keeps Python's lock: the machine of a kernel runs one launch at a time.
    return ctypes.PyDLL(str(built))


def _build(name: str, text: str, flags: tuple[str, ...], built: Path) -> None:
    _compile(name, [*flags, "-I", FOLDER, "-include", _precompiled(flags), "-x", "c++", "-"], text, built)


@functools.cache
def _precompiled(flags: tuple[str, ...]) -> Path:
    """A header with the emulator's, and beside it what the compiler has made of it, which is half of a short build."""
    fingerprint = hashlib.sha256("\0".join((_environment(), *flags)).encode()).hexdigest()
    header = _cache() / f"{fingerprint}.h"
    precompiled = header.with_name(f"{header.name}.gch")
    if not precompiled.exists():
        text = "".join(f'#include "{FOLDER / name}"\n' for name in HEADERS)
        with _replacing(header) as partial:
            partial.write_text(text, encoding="utf-8")
        without_linking = [flag for flag in flags if flag != "-shared"]
        _compile("the emulator", [*without_linking, "-x", "c++-header", header], "", precompiled)
    return header


def _compile(name: str, arguments: list[str | Path], text: str, built: Path) -> None:
    with _replacing(built) as partial:
        command = ["g++", *arguments, "-o", partial]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"g++ cannot build {name}:\n{done.stderr}")


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A file beside its place that is renamed when it is whole: another process may be making the same."""
    handle, partial = tempfile.mkstemp(dir=path.parent, suffix=".part")
    os.close(handle)
    try:
        yield Path(partial)
        os.replace(partial, path)
    finally:
        Path(partial).unlink(missing_ok=True)


@functools.cache
def _environment() -> str:
    """What a built library depends on besides its source: the compiler, the processor, and the emulator's headers."""
    command = ["g++", "-march=native", "-dM", "-E", "-x", "c++", "/dev/null"]
    macros = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return "\0".join((macros, *((FOLDER / header).read_text(encoding="utf-8") for header in HEADERS)))


def _cache() -> Path:
    """The folder of built libraries, which only this user may enter, as they are run.

    Raises:
        RuntimeError: a folder of its name is somebody else's, or open to others.
    """
    folder = Path(tempfile.gettempdir()) / f"xlmr-np-cuda-emulator-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise RuntimeError(f"{folder} is not a folder for this user alone; remove it.")
    return folder
