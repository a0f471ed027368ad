"""Programs measured from outside: each in a Python process of its own, with its wall time and peak memory."""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

# Appended to every program. Not getrusage: its maximum counts the pages of the parent that started the process.
PEAK = """
from pathlib import Path
print(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")))
"""


class Run(NamedTuple):
    """One process: its last line of output, wall seconds, and peak memory in bytes."""

    output: str
    seconds: float
    peak: int


def run(program: str, *arguments: str | Path) -> Run:
    """Run a Python program in a fresh process (on Linux, where /proc tells its peak memory)."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    start = time.perf_counter()
    output = subprocess.check_output(
        [sys.executable, "-c", program + PEAK, *map(str, arguments)],
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    seconds = time.perf_counter() - start
    *_, answer, peak = output.splitlines()
    return Run(answer, seconds, int(peak) * 1024)


def median(values: list[float]) -> str:
    """The median with its range."""
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"
