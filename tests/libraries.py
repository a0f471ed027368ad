"""The array libraries on which every textbook function must run, and trees of random arrays for them."""

from collections.abc import Callable
from typing import Any, NamedTuple, get_args, get_type_hints

import array_api_strict
import numpy as np
import torch
from beartype import beartype
from jaxtyping import AbstractArray, jaxtyped

from xlmr_np import trees


class Library(NamedTuple):
    """How to make an array of a library from a NumPy array."""

    name: str
    array: Callable[[np.ndarray], Any]

    def tree(self, tree: trees.Tree) -> trees.Tree:
        return trees.map_leaves(lambda leaf: self.array(leaf) if isinstance(leaf, np.ndarray) else leaf, tree)


def _read_only(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x.flags.writeable = False
    return x


LIBRARIES = [
    Library("numpy", np.asarray),
    Library("read-only numpy", _read_only),
    Library("array_api_strict", array_api_strict.asarray),
    Library("torch", torch.asarray),
]


def to_numpy(tree: trees.Tree) -> trees.Tree:
    """Arrays of any library, back in NumPy; bools and numbers stay."""
    return trees.map_leaves(lambda leaf: np.asarray(leaf) if hasattr(leaf, "shape") else leaf, tree)


def check_record(record: Any) -> None:
    """That every field of a Params or Cache record, and of the records in it, is what its annotation says.

    The run-time shape checks do not look inside NamedTuples; this does. All fields of one record share their axes.
    """
    if isinstance(record, tuple) and not hasattr(record, "_fields"):
        for part in record:
            check_record(part)
        return
    hints = get_type_hints(type(record))

    arrays = {
        name: member
        for name, hint in hints.items()
        for member in (get_args(hint) or (hint,))  # of a union, the array
        if isinstance(member, type) and issubclass(member, AbstractArray) and hasattr(getattr(record, name), "shape")
    }
    namespace: dict[str, Any] = {}
    exec(f"def fields({', '.join(arrays)}): pass", namespace)  # one function, so that its arguments share their axes
    namespace["fields"].__annotations__ = arrays
    jaxtyped(typechecker=beartype)(namespace["fields"])(**{name: getattr(record, name) for name in arrays})
    for name in hints:
        value = getattr(record, name)
        if isinstance(value, tuple):
            check_record(value)
