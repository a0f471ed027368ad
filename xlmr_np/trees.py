"""Parameter trees: NamedTuples and tuples all the way down to arrays; None stands for an absent part."""

from collections.abc import Callable, Iterator
from typing import Any

Tree = Any


def map_leaves(function: Callable[..., Any], tree: Tree, *others: Tree) -> Tree:
    """A tree of the same structure whose leaves are `function(leaf, *leaves of the others)`.

    Raises:
        ValueError: one of the others has another structure.
    """
    for other in others:
        if _branching(other) != _branching(tree):
            raise ValueError(f"Two trees differ in structure: {_branching(tree)} and {_branching(other)} at one place.")
    if tree is None:
        return None
    if isinstance(tree, tuple):
        branches = [map_leaves(function, *branch) for branch in zip(tree, *others, strict=True)]
        return type(tree)(*branches) if hasattr(tree, "_fields") else tuple(branches)
    return function(tree, *others)


def leaves(tree: Tree) -> Iterator[Any]:
    """The leaves of `tree`, from left to right."""
    if isinstance(tree, tuple):
        for branch in tree:
            yield from leaves(branch)
    elif tree is not None:
        yield tree


def _branching(tree: Tree) -> str:
    """How a tree goes on from here."""
    if isinstance(tree, tuple):
        return f"{type(tree).__name__} of {len(tree)}"
    return "nothing" if tree is None else "a leaf"
