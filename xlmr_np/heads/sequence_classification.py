"""The sequence-classification head: from a sentence's first token to a logit for every class."""

from typing import NamedTuple

from jaxtyping import Float

from xlmr_np.arrays import Array
from xlmr_np.layers.dropout import Dropout, dropout_backward, dropout_forward
from xlmr_np.layers.linear import LinearParams
from xlmr_np.ops import Ops


class SequenceClassificationParams(NamedTuple):
    """A transform at the model's width, then the projection onto the classes."""

    dense: LinearParams
    out_proj: LinearParams


class SequenceClassificationDropout(NamedTuple):
    """The dropouts before each of the two linear layers."""

    first_token: Dropout | None = None
    activated: Dropout | None = None


class SequenceClassificationCache(NamedTuple):
    """The caches of the two linear layers, in whatever form the engine keeps them."""

    dense: object
    out_proj: object


def sequence_classification_forward(
    first_token: Float[Array, "B D"],
    params: SequenceClassificationParams,
    ops: Ops,
    dropout: SequenceClassificationDropout = SequenceClassificationDropout(),
) -> tuple[Float[Array, "B C"], SequenceClassificationCache]:
    """The logits [B, C] of the hidden state [B, D] of every sentence's first real token (SEQ.1 to SEQ.4)."""
    dropped = dropout_forward(first_token, dropout.first_token)
    activated, dense_cache = ops.linear_activation.forward(dropped, params.dense, "tanh")
    (logits,), out_proj_cache = ops.linears.forward(dropout_forward(activated, dropout.activated), (params.out_proj,))
    return logits, SequenceClassificationCache(dense_cache, out_proj_cache)


def sequence_classification_backward(
    d_logits: Float[Array, "B C"],
    cache: SequenceClassificationCache,
    params: SequenceClassificationParams,
    ops: Ops,
    dropout: SequenceClassificationDropout = SequenceClassificationDropout(),
) -> tuple[Float[Array, "B D"], SequenceClassificationParams]:
    """The gradients of the first tokens [B, D] (SEQ.10) and of the parameters (SEQ.6, SEQ.9)."""
    d_dropped, (d_out_proj,) = ops.linears.backward((d_logits,), cache.out_proj, (params.out_proj,))
    d_activated = dropout_backward(d_dropped, dropout.activated)
    d_first_token, d_dense = ops.linear_activation.backward(d_activated, cache.dense, params.dense, "tanh")
    return dropout_backward(d_first_token, dropout.first_token), SequenceClassificationParams(d_dense, d_out_proj)
