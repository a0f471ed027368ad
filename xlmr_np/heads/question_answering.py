"""The question-answering head: at every token, a logit that the answer starts there, and one that it ends there."""

from typing import NamedTuple

from jaxtyping import Float, Int

from xlmr_np.arrays import Array, array_namespace
from xlmr_np.layers.linear import LinearParams
from xlmr_np.losses.cross_entropy import CrossEntropyCache, cross_entropy_backward, cross_entropy_forward
from xlmr_np.ops import Ops


class SpanLossCache(NamedTuple):
    """The caches of the two cross-entropies."""

    start: CrossEntropyCache
    end: CrossEntropyCache


def question_answering_forward(
    x: Float[Array, "*batch D"], params: LinearParams, ops: Ops
) -> tuple[tuple[Float[Array, "*batch"], Float[Array, "*batch"]], object]:
    """The start logits [...] and the end logits [...] of hidden states [..., D] (QA.1).

    Args:
        x: [..., D].
        params: a projection onto two outputs, start before end.
        ops: the engine.
    """
    (logits,), cache = ops.linears.forward(x, (params,))
    return (logits[..., 0], logits[..., 1]), cache


def question_answering_backward(
    d_logits: tuple[Float[Array, "*batch"], Float[Array, "*batch"]], cache: object, params: LinearParams, ops: Ops
) -> tuple[Float[Array, "*batch D"], LinearParams]:
    """The gradients of x [..., D] and of the parameters, given those of the start and end logits (QA.6, QA.7)."""
    d_start, d_end = d_logits
    d_both = array_namespace(d_start).stack((d_start, d_end), axis=-1)
    d_x, (d_params,) = ops.linears.backward((d_both,), cache, (params,))
    return d_x, d_params


def span_loss_forward(
    logits: tuple[Float[Array, "B T"], Float[Array, "B T"]],
    labels: tuple[Int[Array, " B"], Int[Array, " B"]],
    smoothing: float = 0.0,
) -> tuple[Float[Array, ""], SpanLossCache]:
    """The mean of the cross-entropies of the start and of the end, each a choice between T places (QA.3).

    Args:
        logits: of start and end, each [B, T]; -inf at places that cannot be chosen, such as padding.
        labels: of start and end, each [B]: a place from 0 to T - 1, or -100 to leave it out. A label at a place
            that cannot be chosen has an infinite loss.
        smoothing: the share of the loss that belongs to all places which can be chosen, see `cross_entropy_forward`.
    """
    start_loss, start_cache = cross_entropy_forward(logits[0], labels[0], smoothing)
    end_loss, end_cache = cross_entropy_forward(logits[1], labels[1], smoothing)
    return 0.5 * (start_loss + end_loss), SpanLossCache(start_cache, end_cache)


def span_loss_backward(
    d_loss: Float[Array, ""],
    cache: SpanLossCache,
    labels: tuple[Int[Array, " B"], Int[Array, " B"]],
    smoothing: float = 0.0,
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """The gradients of the start and the end logits, each [B, T] (QA.4), exactly 0 at -inf (QA.5)."""
    d_start = cross_entropy_backward(0.5 * d_loss, cache.start, labels[0], smoothing)
    d_end = cross_entropy_backward(0.5 * d_loss, cache.end, labels[1], smoothing)
    return d_start, d_end
