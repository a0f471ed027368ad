"""The encoder: embeddings, then L layers. This is XLM-RoBERTa (Conneau et al. 2020, arXiv:1911.02116).

A decoder is the same under a causal mask; it may see the states of another model, its source.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from jaxtyping import Float, Int

from xlmr_np.arrays import Array
from xlmr_np.layers.attention import Mask, PackedMask
from xlmr_np.layers.dropout import Dropout
from xlmr_np.layers.embeddings import EmbeddingsParams
from xlmr_np.layers.encoder_layer import (
    EncoderLayerCache,
    EncoderLayerParams,
    EncoderSetting,
    Source,
    encoder_layer_backward,
    encoder_layer_forward,
)
from xlmr_np.layers.self_attention import LayerDropout, Past
from xlmr_np.ops import Ops


class EncoderParams(NamedTuple):
    """All parameters below the heads."""

    embeddings: EmbeddingsParams
    layers: tuple[EncoderLayerParams, ...]


class LayerInput(NamedTuple):
    """What is kept of a layer that the backward pass is to run again."""

    x: Float[Array, "*batch D"]


class EncoderCache(NamedTuple):
    """The cache of the embeddings, and a list of the layers' caches, which the backward pass pops."""

    embeddings: object
    layers: list[EncoderLayerCache | LayerInput]


class EncoderDropout(NamedTuple):
    """The dropouts of a whole encoder: on the embeddings, and of each layer."""

    embeddings: Dropout | None
    layers: tuple[LayerDropout, ...]

    @classmethod
    def none(cls, number_of_layers: int) -> "EncoderDropout":
        """Nothing is dropped (inference)."""
        return cls(None, (LayerDropout(),) * number_of_layers)


class Asking(NamedTuple):
    """The tokens for which alone the last layer has a result, as a head reads no others."""

    rows: Int[Array, " n"]  # of the packed hidden states, each at most once
    mask: PackedMask  # whose query spans are of these rows
    source_mask: PackedMask | None = None  # likewise, where there is a source


def encoder_steps(
    ids: Int[Array, "*batch"],
    token_types: Int[Array, "*batch"],
    positions: Int[Array, "*batch"],
    params: EncoderParams,
    mask: Mask,
    setting: EncoderSetting,
    ops: Ops,
    dropout: EncoderDropout | None = None,
    past: tuple[Past, ...] | None = None,
    asking: Asking | None = None,
    source: Source | tuple[Source, ...] | None = None,
) -> Iterator[tuple[Float[Array, "*batch D"], Any]]:
    """Yield the hidden states and the cache of the embeddings, then of each layer from the first to the last.

    The last hidden states have only the rows that ask, if some do.

    Args:
        ids: padded [B, T] or packed [N], as `mask` says; so are the next two.
        token_types: rows of the token-type table.
        positions: rows of the position table, see `layers.embeddings.position_ids`.
        params: of the encoder.
        mask: who sees whom.
        setting: number of heads, activation, eps.
        ops: the engine.
        dropout: None for inference.
        past: one store of earlier keys and values per layer, or None.
        asking: the tokens for which alone the last layer has a result, or None.
        source: what a decoder's cross-attention sees; one for each layer, if keys and values were made before.
    """
    drops = dropout or EncoderDropout.none(len(params.layers))
    x, cache = ops.embed.forward(ids, token_types, positions, params.embeddings, setting.eps, drops.embeddings)
    yield x, cache
    for i, layer in enumerate(params.layers):
        own_mask, rows, own_source = _of_layer(i, len(params.layers), mask, asking, source)
        own_past = past[i] if past else None
        x, cache = encoder_layer_forward(x, layer, own_mask, setting, ops, drops.layers[i], own_past, rows, own_source)
        yield x, cache


def _of_layer(
    i: int, number_of_layers: int, mask: Mask, asking: Asking | None, source: Source | tuple[Source, ...] | None
) -> tuple[Mask, Int[Array, " n"] | None, Source | None]:
    """The mask of layer i, the rows for which alone it has a result, or None for all of them, and its source."""
    own_source = source if source is None or isinstance(source, Source) else source[i]
    if asking is None or i < number_of_layers - 1:
        return mask, None, own_source
    if own_source is not None:
        assert asking.source_mask is not None
        own_source = own_source._replace(mask=asking.source_mask)
    return asking.mask, asking.rows, own_source


def encoder_forward(
    ids: Int[Array, "*batch"],
    token_types: Int[Array, "*batch"],
    positions: Int[Array, "*batch"],
    params: EncoderParams,
    mask: Mask,
    setting: EncoderSetting,
    ops: Ops,
    dropout: EncoderDropout | None = None,
    checkpoint_ops: Ops | None = None,
    asking: Asking | None = None,
    source: Source | None = None,
) -> tuple[Float[Array, "*asked D"], EncoderCache]:
    """The hidden states after the last layer, and what `encoder_backward` needs.

    Args:
        ids: padded [B, T] or packed [N], as `mask` says; so are the next two.
        token_types: rows of the token-type table.
        positions: rows of the position table.
        params: of the encoder.
        mask: who sees whom.
        setting: number of heads, activation, eps.
        ops: the engine.
        dropout: None for none.
        checkpoint_ops: the engine's operations without caches. If given, they run the layers here, only each layer's
            input is kept, and the backward pass runs the layer again: about a third more work for a fraction of the
            memory (Chen et al. 2016, arXiv:1604.06174).
        asking: the tokens for which alone the last layer has a result, or None.
        source: what a decoder's cross-attention sees, as hidden states.
    """
    first_ops = ops if checkpoint_ops is None else checkpoint_ops._replace(embed=ops.embed)
    steps = encoder_steps(ids, token_types, positions, params, mask, setting, first_ops, dropout, None, asking, source)
    x, embeddings_cache = next(steps)
    layer_caches: list[EncoderLayerCache | LayerInput] = []
    for y, layer_cache in steps:
        layer_caches.append(layer_cache if checkpoint_ops is None else LayerInput(x))
        x = y
    return x, EncoderCache(embeddings_cache, layer_caches)


def encoder_backward(
    d_x: Float[Array, "*asked D"],
    cache: EncoderCache,
    ids: Int[Array, "*batch"],
    token_types: Int[Array, "*batch"],
    positions: Int[Array, "*batch"],
    params: EncoderParams,
    mask: Mask,
    setting: EncoderSetting,
    ops: Ops,
    pad_id: int | None,
    dropout: EncoderDropout | None = None,
    asking: Asking | None = None,
    source: Source | None = None,
) -> tuple[Float[Array, "*source D"] | None, EncoderParams]:
    """The gradients of the source's states (CA.7) and of all parameters, given that of the last hidden states.

    Without a source, its gradient is None.

    The layers' caches are popped from the cache as they are used, so that memory falls while gradients grow.

    Args:
        d_x: padded [B, T, D] or packed [N, D], as `mask` says.
        cache: from `encoder_forward`; empty afterwards.
        ids: as in the forward pass; so are the others not named here.
        token_types: see there.
        positions: see there.
        params: see there.
        mask: see there.
        setting: see there.
        ops: see there.
        pad_id: the row of the token and position tables that gets no gradient from here.
        dropout: see there.
        asking: see there; if given, d_x has the rows of these tokens.
        source: see there.
    """
    drops = dropout or EncoderDropout.none(len(params.layers))
    d_source = None
    d_layers: list[EncoderLayerParams] = []
    numbered = list(enumerate(zip(params.layers, drops.layers, strict=True)))
    for i, (layer, own_dropout) in reversed(numbered):
        own_mask, rows, own_source = _of_layer(i, len(params.layers), mask, asking, source)
        layer_cache = cache.layers.pop()
        if isinstance(layer_cache, LayerInput):
            _, layer_cache = encoder_layer_forward(
                layer_cache.x, layer, own_mask, setting, ops, own_dropout, None, rows, own_source
            )
        d_x, d_states, d_layer = encoder_layer_backward(
            d_x, layer_cache, layer, own_mask, setting, ops, own_dropout, rows, own_source
        )
        d_source = d_states if d_source is None else d_source + d_states
        d_layers.append(d_layer)
    d_embeddings = ops.embed.backward(
        d_x, cache.embeddings, ids, token_types, positions, params.embeddings, pad_id, drops.embeddings
    )
    return d_source, EncoderParams(d_embeddings, tuple(reversed(d_layers)))
