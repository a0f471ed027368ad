"""Clipping by the global norm (Pascanu et al. 2013, arXiv:1211.5063)."""

import math

from xlmr_np import trees
from xlmr_np.arrays import array_namespace
from xlmr_np.row_sparse import RowSparse

ADDED_TO_NORM = 1e-6  # before it divides, as the reference does


def global_norm(gradients: trees.Tree) -> float:
    """The Euclidean norm of all gradients as one vector; not finite if one of them is not."""
    total = 0.0
    for leaf in trees.leaves(gradients):
        flat = (leaf.rows if isinstance(leaf, RowSparse) else leaf).reshape(-1)
        total += float(array_namespace(flat).vecdot(flat, flat))
    return math.sqrt(total)


def clipping_factor(norm: float, largest: float) -> float:
    """What gradients are multiplied with so that their norm is at most `largest`, up to `ADDED_TO_NORM`."""
    return min(1.0, largest / (norm + ADDED_TO_NORM))
