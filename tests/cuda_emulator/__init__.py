"""Runs the project's CUDA kernels on a CPU, to test them where there is no GPU.

`EmulatedGpu` takes the place of CuPy's GPU and launches on NumPy arrays. The sources are the very same, but for
primitives.cuh, of which there is a twin here; g++ builds them with `cuda_builtins.h` before them, and the machine of
`machine.h` runs them: a fiber for every CUDA thread.

What it finds beside wrong results: races (`Schedule`: the result changes with the order of threads, or with the arrival
of copies), barriers that some threads never reach, arguments that do not fit their parameters, memory read before it is
written (NaN), and in a process of `run_sanitized` accesses outside of arrays.
What it cannot find: weaknesses of the memory model, races between blocks, bank conflicts; sums have another order
than on a GPU, so that results agree to tolerances, not to bits.
"""

from tests.cuda_emulator.builds import why_not
from tests.cuda_emulator.emulated_gpu import EmulatedGpu, Schedule
from tests.cuda_emulator.faults import BARRIER, number_of_barriers, some_of, without
from tests.cuda_emulator.sanitizer import run_sanitized

__all__ = ["BARRIER", "EmulatedGpu", "Schedule", "number_of_barriers", "run_sanitized", "some_of", "why_not", "without"]
