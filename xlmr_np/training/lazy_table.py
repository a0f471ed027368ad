"""A token table in training, of which only those rows are kept in memory that a gradient has ever reached.

XLM-R's table has 192 of the model's 278 million parameters, and a task's texts reach a few thousand of its 250,002
rows. AdamW does the same to all others: at every step it multiplies them with 1 - rate * decay. So one number stands
for what has happened to them, and they can stay in the mapped file.
"""

from typing import Any

import numpy as np
from jaxtyping import Float, Int


class LazyTable:
    """A matrix [V, D], a leaf of the parameter tree: whoever reads it sees every row as it is at that moment.

    Attributes:
        stored: [V, D], the table as it was loaded or last saved, which is never written to.
        decay: what the rows that no gradient has reached have been multiplied with.
        reached: [U], the rows that gradients have reached, in the order in which they did.
    """

    def __init__(self, stored: Float[np.ndarray, "V D"], decay: float = 1.0) -> None:
        self.stored = stored
        self.decay = decay
        self.reached = np.zeros(0, np.int64)
        self._place = np.full(len(stored), -1, np.int64)  # of each row among those reached; -1 for the others
        self._rows = np.empty((0, stored.shape[1]), stored.dtype)  # with room for more

    @property
    def rows(self) -> Float[np.ndarray, "U D"]:
        """The rows that were reached; what is written here is written to the table."""
        return self._rows[: len(self.reached)]

    def reach(self, index: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        """Make rows writable, and say where among `rows` they are.

        Args:
            index: distinct rows of the table.
        """
        new = index[self._place[index] < 0]
        if len(new):
            values = self[new]
            first, last = len(self.reached), len(self.reached) + len(new)
            self._rows = grown(self._rows, last)
            self._rows[first:last] = values
            self._place[new] = np.arange(first, last)
            self.reached = np.concatenate([self.reached, new])
        return self._place[index]

    def rebase(self, stored: Float[np.ndarray, "V D"]) -> None:
        """Go on from a copy of the whole table as it is now, in which what has decayed is decayed."""
        self.stored, self.decay = stored, 1.0

    def __getitem__(self, index: Any) -> Float[np.ndarray, "*index D"]:
        """Copies of rows, as an array does for integers in an array."""
        index = np.asarray(index)
        values = np.asarray(self.stored[index])
        values = values * values.dtype.type(self.decay)
        place = self._place[index]
        is_reached = place >= 0
        values[is_reached] = self._rows[place[is_reached]]
        return values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The whole table as an array of its own."""
        if copy is False:
            raise ValueError("The whole of a lazy table can only be read as a copy.")
        whole = np.multiply(self.stored, self.dtype.type(self.decay), dtype=self.dtype)
        whole[self.reached] = self.rows
        return whole if dtype is None else whole.astype(dtype, copy=False)

    def __len__(self) -> int:
        return len(self.stored)

    @property
    def shape(self) -> tuple[int, int]:
        """[V, D]."""
        return self.stored.shape

    @property
    def dtype(self) -> np.dtype:
        """The element type."""
        return self.stored.dtype


def grown(rows: Float[np.ndarray, "R D"], least: int) -> Float[np.ndarray, "S D"]:
    """The same rows with room for at least so many, doubled so that growing costs little in all; new ones are zero."""
    if len(rows) >= least:
        return rows
    larger = np.zeros((max(least, 2 * len(rows)), rows.shape[1]), rows.dtype)
    larger[: len(rows)] = rows
    return larger
