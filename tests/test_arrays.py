"""The error function to two units in the last place, element types, devices."""

import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.libraries import LIBRARIES, Library, to_numpy
from xlmr_np import arrays


def units_in_last_place(x: np.ndarray) -> float:
    expected = np.array([math.erf(value) for value in x])
    return float((np.abs(arrays.erf(x) - expected) / np.spacing(np.abs(expected))).max())


def test_erf_to_two_units_in_the_last_place() -> None:
    grid = [np.linspace(low, high, 20001) for low, high in ((0, 1e-3), (0, 1), (0.99, 1.01), (1, 3), (3, 7))]
    x = np.concatenate([*grid, 10.0 ** np.arange(-308, 3), np.nextafter(1.0, [0, 2])])
    assert units_in_last_place(np.concatenate([x, -x])) <= 2


@given(st.floats(allow_nan=False))
def test_erf_anywhere(x: float) -> None:
    assert units_in_last_place(np.array([x])) <= 2


@pytest.mark.parametrize("index", [[], [0], [3, 3, 3], [4, 0, 4, 2, 0, 4]], ids=str)
@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.name)
def test_rows_are_added_where_their_index_says(library: Library, index: list[int]) -> None:
    rows = np.random.default_rng(0).normal(size=(len(index), 3))
    expected = np.zeros((6, 3))
    for row, place in zip(rows, index, strict=True):
        expected[place] += row
    sums = arrays.scatter_add_rows(library.array(rows), library.array(np.array(index, np.int64)), 6)
    np.testing.assert_allclose(to_numpy(sums), expected, atol=1e-15)  # sums in another order


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.name)
def test_erf_on_every_library(library: Library) -> None:
    x = np.array([-math.inf, -2.0, -0.5, -0.0, 0.0, 0.5, 2.0, math.inf, math.nan])
    y = to_numpy(arrays.erf(library.array(x)))
    np.testing.assert_allclose(y, [math.erf(value) for value in x], rtol=4e-16)
    assert np.signbit(y[3])
    assert arrays.erf(library.array(x.astype(np.float32))).dtype == library.array(x.astype(np.float32)).dtype


def test_erf_in_float32() -> None:
    x = np.linspace(-6, 6, 100_001, dtype=np.float32)
    expected = np.array([math.erf(value) for value in x.tolist()])
    assert np.abs(arrays.erf(x) - expected).max() < 2e-7


def test_erf_has_the_right_slope_through_autograd() -> None:
    x = torch.linspace(-7, 7, 2001, dtype=torch.float64, requires_grad=True)
    arrays.erf(x).sum().backward()
    expected = 2 / math.sqrt(math.pi) * np.exp(-(x.detach().numpy() ** 2))
    np.testing.assert_allclose(x.grad.numpy(), expected, atol=1e-13)


def test_half_types_compute_in_float32_on_numpy() -> None:
    assert arrays.compute_dtype(np.zeros(1, np.float16)) == np.float32
    assert arrays.compute_dtype(np.zeros(1, arrays.dtype_from_name("bfloat16"))) == np.float32
    assert arrays.compute_dtype(np.zeros(1)) == np.float64
    assert arrays.compute_dtype(torch.zeros(1, dtype=torch.float16)) == torch.float16


@pytest.mark.parametrize("name", ["float64", "float32", "float16", "bfloat16"])
def test_dtypes_by_name_and_by_themselves(name: str) -> None:
    dtype = arrays.dtype_from_name(name)
    assert dtype.name == name
    assert arrays.dtype_from_name(dtype) == dtype


def test_a_torch_dtype_is_answered_with_what_to_write() -> None:
    with pytest.raises(TypeError, match=r"dtype=torch\.float16 is a torch type.*write dtype='float16'"):
        arrays.dtype_from_name(torch.float16)


@pytest.mark.parametrize("dtype", ["int8", "float", "half", 3, None, np.int64, object()])
def test_other_dtypes_are_refused(dtype: object) -> None:
    with pytest.raises(ValueError, match="is not one of float64, float32, float16, bfloat16"):
        arrays.dtype_from_name(dtype)


@pytest.mark.parametrize("device", [None, "cpu", -1])
def test_the_cpu_under_all_its_names(device: object) -> None:
    assert arrays.resolve_device(device) == "cpu"
    assert arrays.resolve_device(None, device) == "cpu"
    assert arrays.resolve_device(None, {"": "cpu"}) == "cpu"


@pytest.mark.parametrize("device", ["tpu", "cuda:x", "cuda:", -2, True, 1.5, "mps"])
def test_unknown_devices_are_named(device: object) -> None:
    with pytest.raises(ValueError, match="is not known; write 'cpu', 'cuda', 'cuda:1' or the number of a GPU"):
        arrays.resolve_device(device)


def test_device_and_device_map_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="both given"):
        arrays.resolve_device("cpu", "auto")
    with pytest.raises(ValueError, match="spreads the model over devices"):
        arrays.resolve_device(None, {"roberta": 0, "lm_head": 1})


def test_without_cupy_auto_is_the_cpu_and_cuda_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert arrays.resolve_device(None, "auto") == "cpu"
    for device in ("cuda", "cuda:1", 0):
        with pytest.raises(RuntimeError, match=r"needs CuPy.*pip install 'xlmr-np\[cuda13\]'"):
            arrays.resolve_device(device)


class CupyWith:
    """As much of CuPy as finding its GPUs needs."""

    __version__ = "14.2.0"

    def __init__(self, number_of_gpus: int | None) -> None:
        class Runtime:
            class CUDARuntimeError(RuntimeError):
                pass

            @classmethod
            def getDeviceCount(cls) -> int:  # noqa: N802 - CuPy's name
                if number_of_gpus is None:
                    raise cls.CUDARuntimeError("cudaErrorInsufficientDriver")
                return number_of_gpus

        self.cuda = type("cuda", (), {"runtime": Runtime})


def test_gpus_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", CupyWith(2))
    assert arrays.resolve_device("cuda") == "cuda:0"
    assert arrays.resolve_device(1) == "cuda:1"
    assert arrays.resolve_device(None, "auto") == "cuda:0"
    with pytest.raises(RuntimeError, match=r"'cuda:2' was asked for, but this machine has 2 GPU"):
        arrays.resolve_device("cuda:2")


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", CupyWith(None))
    assert arrays.resolve_device(None, "auto") == "cpu"
    with pytest.raises(RuntimeError, match=r"CuPy 14\.2\.0 cannot use a GPU here: cudaErrorInsufficientDriver"):
        arrays.resolve_device("cuda")
