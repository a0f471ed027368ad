"""The only file where array libraries differ.

Everything else asks `array_namespace(x)` for the library of its inputs and uses only functions of the
Python array API standard (https://data-apis.org/array-api/latest/), so that the same line runs on NumPy,
CuPy, array_api_strict and torch tensors.
"""

import re
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from array_api_compat import array_namespace, is_cupy_array, is_numpy_array

__all__ = [
    "Array",
    "address",
    "array_namespace",
    "as_generator",
    "at_least_float32",
    "compute_dtype",
    "device_context",
    "dtype_from_name",
    "erf",
    "is_out_of_memory",
    "or_minus_infinity",
    "resolve_device",
    "scatter_add_rows",
    "to_device",
    "to_numpy",
    "zeros",
]

Array = Any  # an array of any library; shapes and element types are stated by jaxtyping annotations

DTYPE_NAMES = ("float64", "float32", "float16", "bfloat16")


def compute_dtype(storage: Array) -> Any:
    """The element type in which values stored like `storage` are computed.

    NumPy has no fast half-precision arithmetic, so half types are computed in float32 there; every other
    library computes in the storage type.
    """
    if is_numpy_array(storage) and storage.dtype.itemsize == 2:
        return np.dtype(np.float32)
    return storage.dtype


def at_least_float32(x: Array) -> Array:
    """`x` itself in float32 or float64, otherwise `x` widened to float32 (for sums, norms and softmax)."""
    xp = array_namespace(x)
    return x if x.dtype in (xp.float32, xp.float64) else xp.astype(x, xp.float32)


def scatter_add_rows(rows: Array, index: Array, number_of_rows: int) -> Array:
    """A matrix [number_of_rows, D] whose row r is the sum of those `rows` [N, D] whose `index` [N] is r.

    The array API has no such function: other libraries than NumPy and CuPy multiply by a matrix of ones and zeros.
    NumPy's `add.at` takes two to five times as long as sums of neighbours in the order of the index.
    """
    xp = array_namespace(rows)
    if is_numpy_array(rows):
        sums = np.zeros((number_of_rows, rows.shape[1]), rows.dtype)
        order = np.argsort(index, kind="stable")
        present, starts = np.unique(index[order], return_index=True)
        if len(present):
            sums[present] = np.add.reduceat(rows[order], starts, axis=0)
        return sums
    if is_cupy_array(rows):
        sums = xp.zeros((number_of_rows, rows.shape[1]), dtype=rows.dtype)
        xp.add.at(sums, index, rows)
        return sums
    every = xp.arange(number_of_rows, dtype=index.dtype, device=index.device)
    return xp.astype(every[:, None] == index[None, :], rows.dtype) @ rows


# erf(x) = x + x P(x²) for |x| <= 1. P is the Chebyshev interpolant of erf(√z)/√z - 1 on [0, 1], degree 12,
# error 1.3e-19; highest power first.
_ERF_CENTRE = (
    5.957176147748911e-11,
    -1.1372848856791674e-09,
    1.4659775274047436e-08,
    -1.6350312701054695e-07,
    1.6461000484121368e-06,
    -1.4925595266831182e-05,
    0.0001205533111164271,
    -0.000854832698083379,
    0.0052239776248180145,
    -0.026866170645076792,
    0.11283791670954879,
    -0.3761263890318375,
    0.1283791670955126,
)
# erf(x) = 1 - exp(-x²) N(x) / D(x) for x > 1. N and D: W. J. Cody, "Rational Chebyshev Approximations for
# the Error Function", Mathematics of Computation 23 (1969), table for 0.46875 <= x <= 4; beyond 4 the whole
# term is below 1.6e-8, so that its relative error no longer matters.
_ERF_TAIL_NUMERATOR = (
    2.15311535474403846e-8,
    5.64188496988670089e-1,
    8.88314979438837594e0,
    6.61191906371416295e1,
    2.98635138197400131e2,
    8.81952221241769090e2,
    1.71204761263407058e3,
    2.05107837782607147e3,
    1.23033935479799725e3,
)
_ERF_TAIL_DENOMINATOR = (
    1.0,
    1.57449261107098347e1,
    1.17693950891312499e2,
    5.37181101862009858e2,
    1.62138957456669019e3,
    3.29079923573345963e3,
    4.36261909014324716e3,
    3.43936767414372164e3,
    1.23033935480374942e3,
)
_ERF_SATURATES = 6.0  # 1 - erf(6) = 2e-17, below half a unit in the last place of 1


def _polynomial(coefficients: tuple[float, ...], x: Array) -> Array:
    """Horner's rule, highest power first."""
    total = coefficients[0] * x + coefficients[1]
    for coefficient in coefficients[2:]:
        total = total * x + coefficient
    return total


def erf(x: Array) -> Array:
    """The error function 2/√π ∫₀ˣ exp(-t²) dt, elementwise, to 2 units in the last place of float64.

    Half types are computed in float32, because the polynomials leave their range.
    """
    xp = array_namespace(x)
    wide = at_least_float32(x)
    magnitude = xp.abs(wide)
    near = xp.clip(wide, -1.0, 1.0)
    far = xp.clip(magnitude, 1.0, _ERF_SATURATES)
    centre = near + near * _polynomial(_ERF_CENTRE, near * near)
    tail = xp.exp(-far * far) * _polynomial(_ERF_TAIL_NUMERATOR, far) / _polynomial(_ERF_TAIL_DENOMINATOR, far)
    return xp.astype(xp.where(magnitude <= 1.0, centre, xp.sign(wide) * (1.0 - tail)), x.dtype, copy=False)


def or_minus_infinity(is_chosen: Array, x: Array) -> Array:
    """`x` where it is chosen, and minus infinity elsewhere, in the type of `x` (CuPy's `where` widens bfloat16)."""
    xp = array_namespace(x)
    return xp.astype(xp.where(is_chosen, x, xp.full_like(x, -xp.inf)), x.dtype, copy=False)


def dtype_from_name(dtype: Any) -> np.dtype:
    """The NumPy element type called `dtype`: "float64", "float32", "float16", "bfloat16", or such a type.

    Raises:
        TypeError: for a torch dtype, with what to write instead.
        ValueError: for any other name or type.
    """
    if type(dtype).__module__.split(".")[0] == "torch":
        name = str(dtype).removeprefix("torch.")
        raise TypeError(f"dtype={dtype} is a torch type, and xlmr-np works without torch: write dtype={name!r}.")
    try:
        name = np.dtype(dtype).name if isinstance(dtype, type | np.dtype) else dtype
    except TypeError:
        name = dtype
    if name not in DTYPE_NAMES:
        raise ValueError(f"dtype={dtype!r} is not one of {', '.join(DTYPE_NAMES)}.")
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def resolve_device(device: Any = None, device_map: Any = None) -> str:
    """The device that two arguments of `from_pretrained` name together: "cpu" or "cuda:N".

    Args:
        device: None, "cpu", "cuda", "cuda:1", or the number of a GPU (-1 is the CPU, as in pipelines).
        device_map: None, "auto" (the GPU if there is one, otherwise the CPU), or what `device` takes.

    Raises:
        ValueError: for anything else, and when both are given.
        RuntimeError: when a GPU is asked for and CuPy, or the GPU, is missing.
    """
    if device is not None and device_map is not None:
        raise ValueError(f"device={device!r} and device_map={device_map!r} were both given; give one of them.")
    wanted = device if device_map is None else device_map
    if wanted is None:
        return "cpu"
    if isinstance(wanted, str) and wanted == "auto":
        return "cuda:0" if _number_of_gpus() > 0 else "cpu"
    if isinstance(wanted, dict):
        if set(wanted) != {""}:
            raise ValueError(
                f"device_map={wanted!r} spreads the model over devices; xlmr-np uses one: write device=..."
            )
        wanted = wanted[""]
    if wanted == "cpu" or (isinstance(wanted, int) and not isinstance(wanted, bool) and wanted == -1):
        return "cpu"
    if isinstance(wanted, int) and not isinstance(wanted, bool) and wanted >= 0:
        wanted = f"cuda:{wanted}"
    match = re.fullmatch(r"cuda(?::(\d+))?", wanted) if isinstance(wanted, str) else None
    if match is None:
        raise ValueError(f"device {wanted!r} is not known; write 'cpu', 'cuda', 'cuda:1' or the number of a GPU.")
    index, available = int(match[1] or 0), _number_of_gpus(why_none=True)
    if index >= available:
        raise RuntimeError(f"device 'cuda:{index}' was asked for, but this machine has {available} GPU(s).")
    return f"cuda:{index}"


def _number_of_gpus(why_none: bool = False) -> int:
    """How many GPUs CuPy can use; with `why_none`, a RuntimeError says what is missing when it is none."""
    try:
        import cupy
    except ImportError as error:
        if not why_none:
            return 0
        raise RuntimeError(
            "device 'cuda' needs CuPy, which is not installed; "
            "install it with: pip install 'xlmr-np[cuda13]' (or cuda12, for an older driver)."
        ) from error
    try:
        count = int(cupy.cuda.runtime.getDeviceCount())
        reason = "it found no GPU"
    except cupy.cuda.runtime.CUDARuntimeError as error:
        count, reason = 0, str(error)
    if count == 0 and why_none:
        raise RuntimeError(f"device 'cuda' was asked for, but CuPy {cupy.__version__} cannot use a GPU here: {reason}.")
    return count


# How cuBLAS (also where it has no room to begin), the driver and the run-time library say so.
OUT_OF_MEMORY = (
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUDA_ERROR_OUT_OF_MEMORY",
    "cudaErrorMemoryAllocation",
)


def is_out_of_memory(error: Exception) -> bool:
    """Whether it says that a GPU has no memory left."""
    is_of_a_library = isinstance(error, RuntimeError) and any(code in str(error) for code in OUT_OF_MEMORY)
    return is_of_a_library or f"{type(error).__module__}.{type(error).__name__}" == "cupy.cuda.memory.OutOfMemoryError"


def as_generator(generator: np.random.Generator | None) -> np.random.Generator:
    """The generator itself; None gives one of fresh randomness.

    Raises:
        TypeError: it is something else, such as a seed.
    """
    if not isinstance(generator, np.random.Generator | None):
        raise TypeError(
            f"generator must be a numpy.random.Generator, such as default_rng(0) makes; it is {generator!r:.60}."
        )
    return np.random.default_rng() if generator is None else generator


def address(x: Array) -> int:
    """Where the first element of `x`, a NumPy or CuPy array, lies in its memory."""
    return int(x.data.ptr if is_cupy_array(x) else x.ctypes.data)


def device_context(device: str) -> AbstractContextManager[Any]:
    """While it lasts, `device` ("cpu" or "cuda:N") is the one that CuPy works on, if it is a GPU."""
    if device == "cpu":
        return nullcontext()
    import cupy

    context: AbstractContextManager[Any] = cupy.cuda.Device(int(device.removeprefix("cuda:")))
    return context


def zeros(shape: tuple[int, ...], dtype: np.dtype, device: str) -> Array:
    """Zeros on `device` ("cpu" or "cuda:N")."""
    if device == "cpu":
        return np.zeros(shape, dtype)
    import cupy

    with device_context(device):
        return cupy.zeros(shape, dtype)


def to_device(x: Array, device: str) -> Array:
    """`x`, a NumPy or CuPy array, on `device` ("cpu" or "cuda:N"); copied only if it is not there yet."""
    if device == "cpu":
        return to_numpy(x)
    import cupy

    with device_context(device):
        return cupy.asarray(x)


def to_numpy(x: Array) -> np.ndarray:
    """`x`, an array of any library or a nested list of numbers, as a NumPy array."""
    return x.get() if is_cupy_array(x) else np.asarray(x)
