"""Scaled dot-product attention (Vaswani et al. 2017, section 3.2.1) in two layouts.

Padded: sentences are rows of a rectangle, and a boolean array says which key each query may see.
Packed: sentences lie end to end on one axis, and spans say where each of them is; no work is spent on padding.
"""

from collections.abc import Iterator
from typing import NamedTuple

from jaxtyping import Bool, Float, Int

from xlmr_np.arrays import Array, array_namespace
from xlmr_np.layers.dropout import Dropout, Philox, TokenKey, attention_keep, dropout_backward, dropout_forward
from xlmr_np.layers.softmax import SoftmaxCache, softmax_backward, softmax_forward


class Spans(NamedTuple):
    """Where each of B sequences lies on a packed axis; spans may leave gaps or repeat."""

    starts: Int[Array, " B"]
    lengths: Int[Array, " B"]


class PackedMask(NamedTuple):
    """Every query sees the keys of its own sequence; if causal, the last query sees up to the last key.

    The query spans lie end to end, in order, without gaps; the key spans are free.
    """

    query: Spans
    key: Spans
    is_causal: bool = False


class PaddedMask(NamedTuple):
    """Which key each query sees: broadcasts to [B, H, T, S]; None shows every key to every query."""

    is_visible: Bool[Array, "#B #H #T #S"] | None


Mask = PackedMask | PaddedMask


class AttentionCache(NamedTuple):
    """Everything the backward pass multiplies with; heads come before tokens here."""

    query: Float[Array, "B H T W"]
    key: Float[Array, "B H S W"]
    value: Float[Array, "B H S W"]
    softmax: SoftmaxCache


class PackedAttentionCache(NamedTuple):
    """One cache per sentence, each with B = 1."""

    sentences: tuple[AttentionCache, ...]


def causal_visibility(query: Float[Array, "B H T W"], key: Float[Array, "B H S W"]) -> Bool[Array, "1 1 T S"]:
    """True where key s is not in the future of query t, if the last query stands at the last key."""
    xp = array_namespace(query)
    queries, keys = query.shape[2], key.shape[2]
    row = xp.arange(queries, device=query.device)[None, None, :, None]
    column = xp.arange(keys, device=query.device)[None, None, None, :]
    return column <= row + (keys - queries)


def attention_forward(
    query: Float[Array, "*batch H W"],
    key: Float[Array, "*keys H W"],
    value: Float[Array, "*keys H W"],
    mask: Mask,
    dropout: Dropout | None = None,
) -> tuple[Float[Array, "*batch H W"], AttentionCache | PackedAttentionCache]:
    """The average of the values, weighted by softmax(query · key / √W), for every query and head.

    Args:
        query: padded [B, T, H, W] or packed [N, H, W].
        key: padded [B, S, H, W] or packed [M, H, W].
        value: like `key`.
        mask: a `PaddedMask` or a `PackedMask`; its type says which layout the others have.
        dropout: on the weights, keep [B, H, T, S], a `Philox` key, or in the padded layout a `TokenKey`, which gives
            the bits of the packed layout wherever the padding is; packed attention takes the `Philox` only.

    Returns:
        The context, shaped like `query`; a query that sees no key gets exact zeros.
    """
    if isinstance(mask, PackedMask):
        return _packed_attention_forward(query, key, value, mask, dropout)
    context, cache = _padded_attention_forward(
        _heads_first(query), _heads_first(key), _heads_first(value), mask.is_visible, dropout
    )
    return _heads_first(context), cache


def _padded_attention_forward(
    query: Float[Array, "B H T W"],
    key: Float[Array, "B H S W"],
    value: Float[Array, "B H S W"],
    is_visible: Bool[Array, "..."] | None,
    dropout: Dropout | None,
    first_sentence: int = 0,
) -> tuple[Float[Array, "B H T W"], AttentionCache]:
    """Attention with heads before tokens; `first_sentence` is the number of row 0, for the dropout key."""
    xp = array_namespace(query)
    scores = query.shape[-1] ** -0.5 * (query @ xp.matrix_transpose(key))
    probabilities, softmax_cache = softmax_forward(scores, is_visible)
    dropped = dropout_forward(probabilities, _with_bits(dropout, probabilities, first_sentence))
    weights = xp.astype(dropped, value.dtype, copy=False)
    return weights @ value, AttentionCache(query, key, value, softmax_cache)


def attention_backward(
    d_context: Float[Array, "*batch H W"],
    cache: AttentionCache | PackedAttentionCache,
    mask: Mask,
    dropout: Dropout | None = None,
) -> tuple[Float[Array, "*batch H W"], Float[Array, "*keys H W"], Float[Array, "*keys H W"]]:
    """The gradients of query, key and value, given that of the context, in the layout that `mask` says.

    In the packed layout the key spans must lie end to end, as the query spans do; in training they always do.
    """
    if isinstance(cache, PackedAttentionCache):
        assert isinstance(mask, PackedMask)  # as it was in the forward pass
        xp = array_namespace(d_context)
        parts = [
            _padded_attention_backward(_heads_first(d_context[queries, ...][None, ...]), own, dropout, sentence)
            for sentence, ((queries, _), own) in enumerate(zip(sentence_slices(mask), cache.sentences, strict=True))
        ]
        return tuple(xp.concat([_heads_first(part[i])[0, ...] for part in parts], axis=0) for i in range(3))
    gradients = _padded_attention_backward(_heads_first(d_context), cache, dropout)
    return tuple(_heads_first(gradient) for gradient in gradients)


def _padded_attention_backward(
    d_context: Float[Array, "B H T W"], cache: AttentionCache, dropout: Dropout | None, first_sentence: int = 0
) -> tuple[Float[Array, "B H T W"], Float[Array, "B H S W"], Float[Array, "B H S W"]]:
    """The steps of the forward function, last to first (ATT.5 to ATT.9)."""
    xp = array_namespace(d_context)
    query, key, value, softmax_cache = cache
    drops = _with_bits(dropout, softmax_cache.probabilities, first_sentence)
    weights = xp.astype(dropout_forward(softmax_cache.probabilities, drops), value.dtype, copy=False)
    d_value = xp.matrix_transpose(weights) @ d_context
    d_probabilities = dropout_backward(d_context @ xp.matrix_transpose(value), drops)
    d_scores = query.shape[-1] ** -0.5 * softmax_backward(d_probabilities, softmax_cache)
    d_products = xp.astype(d_scores, query.dtype, copy=False)
    return d_products @ key, xp.matrix_transpose(d_products) @ query, d_value


def _with_bits(dropout: Dropout | None, probabilities: Float[Array, "B H T S"], first_sentence: int) -> Dropout | None:
    """The dropout with an array in place of a key (DO.4)."""
    if dropout is None or not isinstance(dropout.keep, Philox | TokenKey):
        return dropout
    bits = [bits_of_row(dropout, probabilities[row, ...], first_sentence, row) for row in range(probabilities.shape[0])]
    return Dropout(dropout.rate, array_namespace(probabilities).stack(bits, axis=0))


def bits_of_row(
    dropout: Dropout, probabilities: Float[Array, "H T S"], first_sentence: int, row: int
) -> Bool[Array, "H T S"]:
    """The bits of one sentence; with a `TokenKey`, at the places that its tokens have when padding is left out."""
    keep = dropout.keep
    if isinstance(keep, Philox):
        return attention_keep(keep, dropout.rate, first_sentence + row, probabilities)
    if keep.rows.ndim != 2:
        raise TypeError("A TokenKey places the tokens of padded rows; packed attention takes the Philox alone.")
    xp = array_namespace(probabilities)
    bits = attention_keep(keep.key, dropout.rate, int(keep.sentences[row, 0]), probabilities)
    rows = keep.rows[row, :]
    columns = rows if keep.columns is None else keep.columns[row, :]
    return xp.take(xp.take(bits, rows, axis=1), columns, axis=2)


def _packed_attention_forward(
    query: Float[Array, "N H W"],
    key: Float[Array, "M H W"],
    value: Float[Array, "M H W"],
    mask: PackedMask,
    dropout: Dropout | None,
) -> tuple[Float[Array, "N H W"], PackedAttentionCache]:
    """The padded attention, a sentence at a time."""
    xp = array_namespace(query)
    contexts, caches = [query[:0, ...]], []
    for sentence, (queries, keys) in enumerate(sentence_slices(mask)):
        own_query, own_key, own_value = (
            _heads_first(rows[None, ...]) for rows in (query[queries, ...], key[keys, ...], value[keys, ...])
        )
        is_visible = causal_visibility(own_query, own_key) if mask.is_causal else None
        context, cache = _padded_attention_forward(own_query, own_key, own_value, is_visible, dropout, sentence)
        contexts.append(_heads_first(context)[0, ...])
        caches.append(cache)
    return xp.concat(contexts, axis=0), PackedAttentionCache(tuple(caches))


def sentence_slices(mask: PackedMask) -> Iterator[tuple[slice, slice]]:
    """For each sentence, where its queries and its keys lie."""

    def span(spans: Spans, sentence: int) -> slice:
        start = int(spans.starts[sentence])
        return slice(start, start + int(spans.lengths[sentence]))

    for sentence in range(mask.query.starts.shape[0]):
        yield span(mask.query, sentence), span(mask.key, sentence)


def _heads_first(x: Float[Array, "B first second W"]) -> Float[Array, "B second first W"]:
    """[B, T, H, W] to [B, H, T, W], and back."""
    return array_namespace(x).permute_dims(x, (0, 2, 1, 3))
