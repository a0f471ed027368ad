"""A matrix of which only a few rows are not zero: the gradient of the token table.

XLM-R's token table is 192 of the model's 278 million parameters, and a batch touches a few hundred of its 250,002 rows.
"""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int

from xlmr_np.arrays import Array, array_namespace, at_least_float32, scatter_add_rows


@dataclass(frozen=True, eq=False)
class RowSparse:
    """Some rows of a matrix whose other rows are zero.

    It is one leaf of a tree, as the dense matrix would be, and therefore no tuple.

    Attributes:
        index: which rows: distinct, in rising order, below `number_of_rows`.
        rows: their values.
        number_of_rows: of the whole matrix.
    """

    index: Int[Array, " U"]
    rows: Float[Array, "U D"]
    number_of_rows: int

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the whole matrix."""
        return self.number_of_rows, self.rows.shape[1]

    @property
    def dtype(self) -> Any:
        """The element type of the rows."""
        return self.rows.dtype

    def to_dense(self) -> Float[Array, "number_of_rows D"]:
        """The whole matrix, zeros included, in a new array."""
        return scatter_add_rows(self.rows, self.index, self.number_of_rows)

    def plus(self, other: "RowSparse") -> "RowSparse":
        """The sum of both, of matrices with the same shape."""
        xp = array_namespace(self.rows)
        index = xp.concat([self.index, other.index])
        every = xp.sort(xp.unique_values(index))
        rows = scatter_add_rows(xp.concat([self.rows, other.rows]), xp.searchsorted(every, index), every.shape[0])
        return RowSparse(every, rows, self.number_of_rows)

    def add_to(self, dense: Float[Array, "number_of_rows D"]) -> None:
        """Add the rows to `dense`, in place; for an array that the caller has made and nobody else holds.

        A tied decoder makes the gradient of the token table dense; this adds what the embeddings contribute.

        Raises:
            ValueError: `dense` has another shape.
        """
        if tuple(dense.shape) != self.shape:
            raise ValueError(f"A matrix {self.shape} cannot be added to one of another shape, {tuple(dense.shape)}.")
        xp = array_namespace(dense)
        rows = at_least_float32(dense[self.index]) + self.rows
        dense[self.index] = xp.astype(rows, dense.dtype, copy=False)
