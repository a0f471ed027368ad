"""The element types of kernels."""

from typing import Any

import numpy as np

_C_TYPES = {"float64": "double", "float32": "float", "float16": "__half", "bfloat16": "__nv_bfloat16"}


def c_type(dtype: Any) -> str:
    """The C++ name of a NumPy or CuPy element type: "__half" for float16.

    Raises:
        TypeError: no kernel computes in this type.
    """
    name = dtype if isinstance(dtype, str) else np.dtype(dtype).name  # NumPy itself knows no "bfloat16"
    if name not in _C_TYPES:
        raise TypeError(f"The CUDA kernels have no element type {name}; convert to one of {', '.join(_C_TYPES)}.")
    return _C_TYPES[name]
