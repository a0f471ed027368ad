"""From token ids to vectors: three tables, their sum, and a layer norm."""

from typing import NamedTuple

from jaxtyping import Float, Int

from xlmr_np.arrays import Array, array_namespace, compute_dtype
from xlmr_np.layers.dropout import Dropout, dropout_forward
from xlmr_np.layers.layer_norm import LayerNormCache, LayerNormParams, layer_norm_forward


class EmbeddingsParams(NamedTuple):
    """The tables for tokens, positions and token types, and the norm of their sum."""

    token: Float[Array, "V D"]
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


def _rows(table: Float[Array, "rows D"], index: Int[Array, "*batch"]) -> Float[Array, "*batch D"]:
    """The rows of `table` at `index`, in the type that is computed in."""
    xp = array_namespace(table, index)
    rows = xp.take(table, xp.reshape(index, (-1,)), axis=0)
    return xp.astype(xp.reshape(rows, (*index.shape, table.shape[1])), compute_dtype(table), copy=False)
