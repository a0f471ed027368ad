"""Random weights, as the reference draws them."""

import numpy as np

from xlmr_np import trees

from .specification import Parameter

# XLM-R XXL has 10.7 billion parameters; a config that asks for more than twice that is broken or lying.
MAX_PARAMETERS = 25_000_000_000


def count_parameters(specification: trees.Tree) -> int:
    """The number of elements of all arrays of a specification, tied ones once."""
    return sum(parameter.size for parameter in trees.leaves(specification))


def check_size(specification: trees.Tree) -> None:
    """Refuse a specification that is absurdly large, before anything is allocated.

    Raises:
        ValueError: above `MAX_PARAMETERS`.
    """
    total = count_parameters(specification)
    if total > MAX_PARAMETERS:
        raise ValueError(f"The config describes {total:,} parameters; more than {MAX_PARAMETERS:,} is refused.")


def initial_array(
    parameter: Parameter, standard_deviation: float, generator: np.random.Generator, dtype: np.dtype
) -> np.ndarray:
    """One new array: normal with mean 0, or constant; the padding row is zeros."""
    if parameter.initial != "normal":
        return np.full(parameter.shape, 1 if parameter.initial == "ones" else 0, dtype)
    drawn_in = dtype if dtype.itemsize >= 4 else np.dtype(np.float32)
    array = generator.standard_normal(parameter.shape, drawn_in)
    array *= drawn_in.type(standard_deviation)
    if parameter.zero_row is not None and parameter.zero_row < parameter.shape[0]:
        array[parameter.zero_row] = 0
    return array.astype(dtype, copy=False)
