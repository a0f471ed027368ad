"""What surrounds the kernels: their text, their names, and how CuPy launches them."""

import os
import pickle
import re
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path
from threading import Barrier
from types import SimpleNamespace
from typing import Any
from zipfile import Path as ZipPath
from zipfile import ZipFile

import ml_dtypes
import numpy as np
import pytest

from xlmr_np.ops.cuda import sources
from xlmr_np.ops.cuda.catalogue import all_kernels
from xlmr_np.ops.cuda.cupy_gpu import CupyGpu
from xlmr_np.ops.cuda.kernels import Gpu, Kernel, LaunchShape
from xlmr_np.ops.cuda.sources import architectures, source
from xlmr_np.ops.cuda.types import c_type

ROOT = Path(__file__).parents[3]
KERNEL_FILES = sorted(entry.name for entry in files("xlmr_np.ops.cuda").iterdir() if entry.name.endswith(".cu"))

TEXTS = {
    "norms.cu": '// Norms.\n// Architectures: sm_90a sm_100\n#include "sums.cuh"\n#include <cuda_fp16.h>\n'
    ' #  include  "scalars.cuh"  // again\nint norm;  // √x\n',
    "sums.cuh": '#pragma once\n#include "scalars.cuh"\n\nint sum;',
    "scalars.cuh": "\nint scalar;\n\n",
    "lost.cu": '\n\n#include "scalar.cuh"\n',
}


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TEXTS in place of the project's kernel files, in a zip archive."""
    with ZipFile(tmp_path / "kernels.zip", "w") as archive:
        for name, text in TEXTS.items():
            archive.writestr(name, text)
    monkeypatch.setattr(sources, "files", lambda package: ZipPath(tmp_path / "kernels.zip"))


def numbered(text: str) -> list[tuple[str, int, str]]:
    """File, number and text of each line that is not empty, as a compiler counts them."""
    file, number, lines = "", 0, []
    for line in text.split("\n"):
        match = re.fullmatch(r'#line (\d+) "(.*)"', line)
        if match is not None:
            number, file = int(match[1]), match[2]
        else:
            lines += [(file, number, line)] * (line != "")
            number += 1
    return lines


@pytest.mark.usefixtures("texts")
def test_a_header_stands_once_where_it_is_first_included_and_lines_keep_their_numbers() -> None:
    assert numbered(source("norms.cu")) == [
        ("norms.cu", 1, "// Norms."),
        ("norms.cu", 2, "// Architectures: sm_90a sm_100"),
        ("scalars.cuh", 2, "int scalar;"),
        ("sums.cuh", 4, "int sum;"),
        ("norms.cu", 4, "#include <cuda_fp16.h>"),
        ("norms.cu", 6, "int norm;  // √x"),
    ]


@pytest.mark.usefixtures("texts")
def test_a_header_can_be_replaced_wherever_it_is_included() -> None:
    lines = numbered(source("norms.cu", {"scalars.cuh": '#include "twin.cuh"\nint other;', "twin.cuh": "int twin;"}))
    assert [line for line in lines if line[0] not in ("norms.cu", "sums.cuh")] == [
        ("twin.cuh", 1, "int twin;"),
        ("scalars.cuh", 2, "int other;"),
    ]


@pytest.mark.usefixtures("texts")
def test_an_unknown_file_is_named_with_the_line_that_asks_for_it() -> None:
    with pytest.raises(FileNotFoundError, match=r"lost\.cu, line 3, asks for 'scalar\.cuh', which is not among"):
        source("lost.cu")
    with pytest.raises(FileNotFoundError, match=r"A kernel asks for '\.\./norms\.cu', which is not among"):
        source("../norms.cu")


@pytest.mark.usefixtures("texts")
def test_a_file_says_which_architectures_it_is_for() -> None:
    assert architectures("norms.cu") == ("sm_90a", "sm_100")
    with pytest.raises(ValueError, match=r"lost\.cu has no line '// Architectures: sm_80"):
        architectures("lost.cu")


def test_c_types() -> None:
    names = {c_type(dtype) for dtype in (np.float64, np.dtype("float32"), np.float16, ml_dtypes.bfloat16)}
    assert names == {"double", "float", "__half", "__nv_bfloat16"}
    assert c_type(np.dtype(ml_dtypes.bfloat16)) == "__nv_bfloat16"
    with pytest.raises(TypeError, match="no element type int32; convert to one of float64, float32"):
        c_type(np.int32)


@pytest.mark.parametrize("file", KERNEL_FILES)
def test_every_file_is_in_the_catalogue(file: str) -> None:
    assert '#include "' not in source(file)
    assert architectures(file)
    assert [kernel for kernel in all_kernels() if kernel.file == file]


def test_the_catalogue_names_every_kernel_once_and_only_files_that_exist() -> None:
    kernels = all_kernels()
    assert len(set(kernels)) == len(kernels)
    assert {kernel.file for kernel in kernels} <= set(KERNEL_FILES)


def test_a_wheel_has_the_kernel_files() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    assert "xlmr_np.ops.cuda" in setuptools["packages"]
    shipped = {
        path
        for package, patterns in setuptools["package-data"].items()
        for pattern in patterns
        for path in ROOT.joinpath(*package.split(".")).glob(pattern)
    }
    folder = ROOT / "xlmr_np" / "ops" / "cuda"
    assert {path for path in folder.iterdir() if path.suffix in (".cu", ".cuh")} <= shipped


def test_without_a_driver_only_a_launch_fails_and_says_what_is_missing() -> None:
    pytest.importorskip("cupy")
    program = (
        "import cupy\n"
        "from xlmr_np.ops.cuda.cupy_gpu import CupyGpu\n"
        "from xlmr_np.ops.cuda.catalogue import all_kernels\n"
        "from xlmr_np.ops.cuda.kernels import LaunchShape\n"
        "gpu = CupyGpu()\n"
        "print('built')\n"
        "try:\n"
        "    gpu.launch(all_kernels()[0], LaunchShape((1,), (1,)), [])\n"
        "except RuntimeError as error:\n"
        "    print(error)\n"
    )
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
    output = subprocess.check_output([sys.executable, "-c", program], text=True, env=hidden, cwd=ROOT)
    assert re.match(r"built\ndevice 'cuda' was asked for, but CuPy [\d.]+ cannot use a GPU here: cudaError", output)


class RecordingCupy:
    """What CupyGpu uses of CuPy; it notes what is compiled and launched."""

    def __init__(self, capability: str = "90") -> None:
        self.device, self.limit = 0, 48 * 1024
        self.compiled: list[dict[str, Any]] = []
        self.launched: list[tuple[Any, ...]] = []
        self.cuda = SimpleNamespace(
            runtime=SimpleNamespace(getDevice=lambda: self.device),
            Device=lambda: SimpleNamespace(compute_capability=capability),
        )

    def RawModule(self, **arguments: Any) -> Any:  # noqa: N802
        self.compiled.append(arguments)
        return SimpleNamespace(get_function=lambda expression: RecordingFunction(self, expression))


class RecordingFunction:
    def __init__(self, cupy: RecordingCupy, expression: str) -> None:
        self.cupy, self.expression = cupy, expression

    @property
    def max_dynamic_shared_size_bytes(self) -> int:
        return self.cupy.limit

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, size: int) -> None:
        self.cupy.limit = size

    def __call__(self, grid: Any, block: Any, arguments: Any, shared_mem: int) -> None:
        assert shared_mem <= self.cupy.limit
        self.cupy.launched.append((self.expression, grid, block, arguments, shared_mem))


def recording_cupy(monkeypatch: pytest.MonkeyPatch, capability: str = "90") -> RecordingCupy:
    cupy = RecordingCupy(capability)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    return cupy


NORM = Kernel("norms.cu", "norm<__half, 8>")


@pytest.mark.usefixtures("texts")
def test_a_kernel_is_compiled_at_its_first_launch_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy = recording_cupy(monkeypatch)
    gpu = CupyGpu()
    assert isinstance(gpu, Gpu)
    gpu.launch(NORM, LaunchShape((3, 2), (128,)), [np.int32(7), None])
    gpu.launch(NORM, LaunchShape((4,), (64,)), [np.int32(8), None])
    assert cupy.launched == [
        (NORM.expression, (3, 2), (128,), (7, None), 0),
        (NORM.expression, (4,), (64,), (8, None), 0),
    ]
    (module,) = cupy.compiled
    assert module["name_expressions"] == (NORM.expression,)
    assert module["options"] == ("--std=c++17",)
    assert module["code"] == source("norms.cu").replace("√", "?")
    cupy.device = 1
    gpu.launch(NORM, LaunchShape((4,), (64,)), [])
    assert len(cupy.compiled) == 2


@pytest.mark.usefixtures("texts")
def test_threads_share_one_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy, gpu, barrier = recording_cupy(monkeypatch), CupyGpu(), Barrier(8)

    def launch(number: int) -> None:
        barrier.wait()
        gpu.launch(NORM, LaunchShape((1,), (1,)), [number])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(launch, map(np.int32, range(8))))
    assert len(cupy.compiled) == 1
    assert sorted(arguments[0] for _, _, _, arguments, _ in cupy.launched) == list(range(8))


@pytest.mark.usefixtures("texts")
def test_the_limit_of_shared_memory_is_raised_and_never_lowered(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy, gpu, limits = recording_cupy(monkeypatch), CupyGpu(), []
    for size in (1024, 96 * 1024, 64 * 1024, 96 * 1024, 160 * 1024):
        gpu.launch(NORM, LaunchShape((1,), (1,), size), [])  # RecordingFunction holds `size` against the limit
        limits.append(cupy.limit // 1024)
    assert limits == [48, 96, 96, 96, 160]


@pytest.mark.usefixtures("texts")
def test_an_old_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    recording_cupy(monkeypatch, "86")
    message = r"kernels of norms\.cu are for sm_90a and later, and this GPU is sm_86; use device='cpu'\."
    with pytest.raises(RuntimeError, match=message):
        CupyGpu().launch(NORM, LaunchShape((1,), (1,)), [])


def test_wrong_launches_are_refused() -> None:
    with pytest.raises(TypeError, match=r"CUDA kernel norm<__half, 8> is on the CPU; move it to the GPU\."):
        CupyGpu().launch(NORM, LaunchShape((1,), (1,)), [np.int32(1), np.zeros(1)])
    with pytest.raises(AssertionError, match=r"a grid \(3, 0\) has no blocks"):
        CupyGpu().launch(NORM, LaunchShape((3, 0), (1,)), [])


def test_products_are_of_two_matrices_of_one_type_and_even_a_single_number_is_summed_in_float32() -> None:
    gpu, rng = CupyGpu(), np.random.default_rng(0)
    a, b = rng.standard_normal((3, 5)), rng.standard_normal((4, 5))
    np.testing.assert_array_equal(gpu.matmul(a, b.T), a @ b.T)
    row = np.array([[300, 300, 1]], np.float16)  # 300 · 300 is beyond float16
    product = gpu.matmul(row, np.array([[300], [-300], [2]], np.float16))
    assert product.dtype == np.float16
    np.testing.assert_array_equal(product, [[2]])
    with pytest.raises(AssertionError, match="stacks of half-precision matrices"):
        gpu.matmul(a[None], b.T)
    with pytest.raises(AssertionError, match="a is float64 and b is float32"):
        gpu.matmul(a, b.T.astype(np.float32))


def test_a_gpu_can_be_pickled_with_its_model() -> None:
    assert isinstance(pickle.loads(pickle.dumps(CupyGpu())), CupyGpu)
