"""From token ids to vectors: three tables, their sum, and a layer norm."""

from typing import NamedTuple

from jaxtyping import Float, Int

from xlmr_np.arrays import Array, array_namespace, at_least_float32, compute_dtype, scatter_add_rows
from xlmr_np.layers.dropout import Dropout, dropout_backward, dropout_forward
from xlmr_np.layers.layer_norm import LayerNormCache, LayerNormParams, layer_norm_backward, layer_norm_forward
from xlmr_np.row_sparse import RowSparse


class EmbeddingsParams(NamedTuple):
    """The tables for tokens, positions and token types, and the norm of their sum.

    As a gradient, `token` holds only the rows that the batch has touched.
    """

    token: Float[Array, "V D"] | RowSparse
    position: Float[Array, "positions D"]
    token_type: Float[Array, "types D"]
    layer_norm: LayerNormParams


class EmbeddingsCache(NamedTuple):
    """What the backward pass needs besides its index arrays."""

    layer_norm: LayerNormCache


def position_ids(is_token: Int[Array, "B T"], pad_id: int) -> Int[Array, "B T"]:
    """The positions of tokens that fairseq's models count from `pad_id + 1`, row by row.

    A token's position is the number of tokens before it in its row plus `pad_id + 1`; everything else has
    position `pad_id`. Padding on the left or in the middle therefore shifts nothing, and of a table of 514
    rows with pad_id 1, the rows 2 to 513 serve at most 512 tokens.

    Args:
        is_token: 1 at tokens and 0 at padding.
        pad_id: the padding id, which is also the position of padding.
    """
    xp = array_namespace(is_token)
    return xp.cumulative_sum(is_token, axis=1) * is_token + pad_id


def embeddings_forward(
    ids: Int[Array, "*batch"],
    token_types: Int[Array, "*batch"],
    positions: Int[Array, "*batch"],
    params: EmbeddingsParams,
    eps: float,
    dropout: Dropout | None = None,
) -> tuple[Float[Array, "*batch D"], EmbeddingsCache]:
    """Look up and add (token + token type) + position, normalise, and drop.

    Args:
        ids: rows of the token table.
        token_types: rows of the token-type table; all 0 in XLM-R.
        positions: rows of the position table, see `position_ids`.
        params: the tables. Only the rows that are asked for are read.
        eps: of the layer norm.
        dropout: on the result; None for none.
    """
    token = _rows(params.token, ids)
    total = token + _rows(params.token_type, token_types) + _rows(params.position, positions)
    y, layer_norm_cache = layer_norm_forward(total, params.layer_norm, eps)
    return dropout_forward(y, dropout), EmbeddingsCache(layer_norm_cache)


def embeddings_backward(
    d_y: Float[Array, "*batch D"],
    cache: EmbeddingsCache,
    ids: Int[Array, "*batch"],
    token_types: Int[Array, "*batch"],
    positions: Int[Array, "*batch"],
    params: EmbeddingsParams,
    pad_id: int | None,
    dropout: Dropout | None = None,
) -> EmbeddingsParams:
    """The gradients of the tables (EMB.4 to EMB.8) and of the norm, in at least float32.

    Padding rows are not trained from here, as in the reference implementation: the row `pad_id` of the token and of
    the position table gets nothing, whatever `d_y` says. Token types know no padding.

    Args:
        d_y: the gradient of the result.
        cache: of the forward pass.
        ids: as in the forward pass.
        token_types: as in the forward pass.
        positions: as in the forward pass.
        params: the tables, of which only the shapes are used, and the norm.
        pad_id: the padding id, which is also the position of padding; None leaves out nothing.
        dropout: as in the forward pass.

    Returns:
        `token` is a `RowSparse` of the rows in `ids` without `pad_id`; the other fields are dense.
    """
    d_total, d_layer_norm = layer_norm_backward(dropout_backward(d_y, dropout), cache.layer_norm, params.layer_norm)
    return table_gradients(d_total, ids, token_types, positions, params, pad_id)._replace(layer_norm=d_layer_norm)


def table_gradients(
    d_total: Float[Array, "*batch D"],
    ids: Int[Array, "*batch"],
    token_types: Int[Array, "*batch"],
    positions: Int[Array, "*batch"],
    params: EmbeddingsParams,
    pad_id: int | None,
) -> EmbeddingsParams:
    """The gradients of the tables (EMB.5 to EMB.8), given that of their sum; the norm is left as it is in `params`."""
    xp = array_namespace(d_total)
    d_rows = at_least_float32(xp.reshape(d_total, (-1, d_total.shape[-1])))
    token_index, d_token_rows = _without(pad_id, xp.reshape(ids, (-1,)), d_rows)
    position_index, d_position_rows = _without(pad_id, xp.reshape(positions, (-1,)), d_rows)
    touched = xp.sort(xp.unique_values(token_index))
    place = xp.searchsorted(touched, token_index)
    return params._replace(
        token=RowSparse(touched, scatter_add_rows(d_token_rows, place, touched.shape[0]), params.token.shape[0]),
        position=scatter_add_rows(d_position_rows, position_index, params.position.shape[0]),
        token_type=scatter_add_rows(d_rows, xp.reshape(token_types, (-1,)), params.token_type.shape[0]),
    )


def _without(
    pad_id: int | None, index: Int[Array, " N"], d_rows: Float[Array, "N D"]
) -> tuple[Int[Array, " real"], Float[Array, "real D"]]:
    """Both without the entries whose index is `pad_id` (EMB.8)."""
    if pad_id is None:
        return index, d_rows
    is_trained = index != pad_id
    return index[is_trained], d_rows[is_trained]


def _rows(table: Float[Array, "rows D"], index: Int[Array, "*batch"]) -> Float[Array, "*batch D"]:
    """The rows of `table` at `index`, in the type that is computed in."""
    xp = array_namespace(table, index)
    rows = xp.take(table, xp.reshape(index, (-1,)), axis=0)
    return xp.astype(xp.reshape(rows, (*index.shape, table.shape[1])), compute_dtype(table), copy=False)
