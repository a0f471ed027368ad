"""The encoder: embeddings, then L layers. This is XLM-RoBERTa (Conneau et al. 2020, arXiv:1911.02116)."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from jaxtyping import Float, Int

from xlmr_np.arrays import Array
from xlmr_np.layers.attention import Mask
from xlmr_np.layers.dropout import Dropout
from xlmr_np.layers.embeddings import EmbeddingsParams
from xlmr_np.layers.encoder_layer import (
    EncoderLayerCache,
    EncoderLayerParams,
    EncoderSetting,
    encoder_layer_forward,
)
from xlmr_np.layers.self_attention import LayerDropout, Past
from xlmr_np.ops import Ops


class EncoderParams(NamedTuple):
    """All parameters below the heads."""

    embeddings: EmbeddingsParams
    layers: tuple[EncoderLayerParams, ...]


class EncoderCache(NamedTuple):
    """The cache of the embeddings, and a list of the layers' caches, which the backward pass pops."""

    embeddings: object
    layers: list[EncoderLayerCache]


class EncoderDropout(NamedTuple):
    """The dropouts of a whole encoder: on the embeddings, and of each layer."""

    embeddings: Dropout | None
    layers: tuple[LayerDropout, ...]

    @classmethod
    def none(cls, number_of_layers: int) -> "EncoderDropout":
        """Nothing is dropped (inference)."""
        return cls(None, (LayerDropout(),) * number_of_layers)


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
) -> Iterator[tuple[Float[Array, "*batch D"], Any]]:
    """Yield the hidden states and the cache of the embeddings, then of each layer from the first to the last.

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
    """
    drops = dropout or EncoderDropout.none(len(params.layers))
    x, cache = ops.embed.forward(ids, token_types, positions, params.embeddings, setting.eps, drops.embeddings)
    yield x, cache
    for i, layer in enumerate(params.layers):
        x, cache = encoder_layer_forward(x, layer, mask, setting, ops, drops.layers[i], past[i] if past else None)
        yield x, cache


def encoder_forward(
    ids: Int[Array, "*batch"],
    token_types: Int[Array, "*batch"],
    positions: Int[Array, "*batch"],
    params: EncoderParams,
    mask: Mask,
    setting: EncoderSetting,
    ops: Ops,
    dropout: EncoderDropout | None = None,
    past: tuple[Past, ...] | None = None,
) -> tuple[Float[Array, "*batch D"], EncoderCache]:
    """The hidden states after the last layer; the arguments are those of `encoder_steps`."""
    steps = encoder_steps(ids, token_types, positions, params, mask, setting, ops, dropout, past)
    x, embeddings_cache = next(steps)
    layer_caches = []
    for x, layer_cache in steps:  # noqa: B007 - the last x is the result, and earlier ones are not kept alive
        layer_caches.append(layer_cache)
    return x, EncoderCache(embeddings_cache, layer_caches)
