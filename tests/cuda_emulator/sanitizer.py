"""Python under AddressSanitizer."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = (
    "detect_leaks=0",  # Python does not free everything
    "detect_stack_use_after_return=0",  # fibers have stacks of their own
    "max_malloc_fill_size=1073741824",  # what a kernel should have written and has not is NaN, from 1 KiB on
    "malloc_fill_byte=255",
)


def run_sanitized(code: str) -> subprocess.CompletedProcess[str]:
    """Runs Python code in a process of its own, where `EmulatedGpu(sanitize=True)` finds accesses outside of arrays.

    The first of them ends the process with an error; its output then names the kernel's line.
    """
    command = ["g++", "-print-file-name=libasan.so"]
    sanitizer = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    environment = {
        **os.environ,
        "LD_PRELOAD": sanitizer,
        "ASAN_OPTIONS": ":".join(OPTIONS),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
    }
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, cwd=ROOT
    )
