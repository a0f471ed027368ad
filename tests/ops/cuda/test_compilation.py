"""Every kernel compiles for every architecture that it is for, and keeps its values in registers."""

import os
from importlib.resources import files

import pytest

from tests import cuda_compiler
from tests.cuda_compiler import MOST_SPILLED_BYTES, CompilationError, compiled, compiled_file, spills
from xlmr_np.ops.cuda.catalogue import all_kernels
from xlmr_np.ops.cuda.kernels import Kernel
from xlmr_np.ops.cuda.sources import architectures, source

REQUIRED = "XLMR_NP_REQUIRE_CUDA_COMPILER"
FILES = sorted({kernel.file for kernel in all_kernels()})


def require_compiler() -> None:
    """Skips the test where there is no CUDA compiler, or fails it where one is required."""
    reason = cuda_compiler.why_not()
    if reason is not None:
        if os.environ.get(REQUIRED):
            pytest.fail(f"{REQUIRED} is set, but there is {reason}")
        pytest.skip(reason)


@pytest.fixture
def compiler() -> None:
    require_compiler()


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize(
    ("file", "architecture"),
    [
        pytest.param(file, name, marks=pytest.mark.exhaustive if name == "sm_80" else ())  # the others find most faults
        for file in FILES
        for name in architectures(file)
    ],
)
def test_every_kernel_compiles_and_stays_in_registers(file: str, architecture: str) -> None:
    resources = compiled_file(file, architecture)
    for kernel, used in resources.items():
        print(f"{architecture:7} {used}  {kernel.expression}")
    assert spills(resources) == []


# 64 values that live across a loop, in 32 registers: what __launch_bounds__(1024, 2) leaves a thread.
SPILLING = """
template <class T, int VALUES>
__global__ void __launch_bounds__(1024, 2) mixed(T* x, int rounds) {
  __shared__ T shared[96];
  T values[VALUES];
#pragma unroll
  for (int i = 0; i < VALUES; ++i) values[i] = x[i * 1024 + threadIdx.x];
  shared[threadIdx.x % 96] = values[0];
  __syncthreads();
  for (int round = 0; round < rounds; ++round)
#pragma unroll
    for (int i = 0; i < VALUES; ++i) values[i] = values[i] * values[(i + 1) % VALUES] + shared[round % 96];
#pragma unroll
  for (int i = 0; i < VALUES; ++i) x[i * 1024 + threadIdx.x] = values[i];
}
"""


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90a", "sm_100"])
def test_a_planted_spill_is_found(architecture: str) -> None:
    few, many = Kernel("few.cu", "mixed<float, 4>"), Kernel("many.cu", "mixed<float, 64>")
    resources = compiled(SPILLING, [few.expression, many.expression], architecture)
    used = {few: resources[few.expression], many: resources[many.expression]}
    assert used[few].spilled == 0
    assert used[many].spilled > MOST_SPILLED_BYTES
    (line,) = spills(used)
    assert line.startswith("many.cu: mixed<float, 64>: ")


@pytest.mark.skipif(cuda_compiler.shutil.which("nvcc") is None, reason="nvcc is not installed")
def test_nvcc_stands_in_for_the_wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_compiler, "_wheels", lambda: None)
    assert cuda_compiler.why_not() is None
    resources = compiled(SPILLING, ["mixed<float, 64>", "mixed<double, 2>"], "sm_80")
    assert {name: used.shared_memory for name, used in resources.items()} == {
        "mixed<float, 64>": 384,
        "mixed<double, 2>": 768,
    }
    assert resources["mixed<float, 64>"].spilled > MOST_SPILLED_BYTES
    assert resources["mixed<double, 2>"].spilled == 0
    with pytest.raises(CompilationError, match="rows_of_nothing"):
        compiled(SPILLING, ["rows_of_nothing<float>"], "sm_80")


@pytest.mark.usefixtures("compiler")
def test_a_mistake_is_reported_with_the_file_and_line_where_it_is() -> None:
    file = FILES[0]
    lines = (files("xlmr_np.ops.cuda") / file).read_text("utf-8").count("\n") + 1
    with pytest.raises(CompilationError, match=r"^primitives\.cuh\(2\): error: .* \"no_such_name\""):
        compiled(source(file, {"primitives.cuh": "\nint mistake = no_such_name;"}), [], "sm_80")
    with pytest.raises(CompilationError, match=rf"^{file}\({lines}\): error: .* \"no_such_name\""):
        compiled(source(file) + "int mistake = no_such_name;", [], "sm_80")


@pytest.mark.usefixtures("compiler")
def test_hopper_instructions_compile_for_sm_90a_only() -> None:
    text = '__global__ void fence() { asm volatile("wgmma.fence.sync.aligned;"); }'
    assert compiled(text, ["fence"], "sm_90a")["fence"].spilled == 0
    with pytest.raises(CompilationError, match="wgmma"):
        compiled(text, ["fence"], "sm_90")


def test_without_a_compiler_the_gate_is_skipped_or_fails_where_one_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_compiler, "_wheels", lambda: None)
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv(REQUIRED, raising=False)
    with pytest.raises(pytest.skip.Exception, match="no CUDA compiler: neither the wheels nvidia-cuda-nvrtc"):
        require_compiler()
    assert cuda_compiler.main() == 2
    monkeypatch.setenv(REQUIRED, "1")
    with pytest.raises(pytest.fail.Exception, match=f"{REQUIRED} is set, but there is no CUDA compiler"):
        require_compiler()
