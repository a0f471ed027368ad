"""The multiple-choice head: one logit for every (question, choice) pair, from the pair's first token."""

from typing import NamedTuple

from jaxtyping import Float

from xlmr_np.arrays import Array
from xlmr_np.heads.pooler import pooler_backward, pooler_forward
from xlmr_np.layers.dropout import Dropout, dropout_backward, dropout_forward
from xlmr_np.layers.linear import LinearParams
from xlmr_np.ops import Ops


class MultipleChoiceParams(NamedTuple):
    """The pooler, and a projection onto one output."""

    pooler: LinearParams
    classifier: LinearParams


class MultipleChoiceCache(NamedTuple):
    """The caches of the two layers, in whatever form the engine keeps them."""

    pooler: object
    classifier: object


def multiple_choice_forward(
    first_token: Float[Array, "N D"], params: MultipleChoiceParams, ops: Ops, dropout: Dropout | None = None
) -> tuple[Float[Array, " N"], MultipleChoiceCache]:
    """How well each choice answers its question (MC.1 to MC.3).

    Args:
        first_token: [N, D], the hidden state of the first real token of every choice of every question.
        params: of the two layers.
        ops: the engine.
        dropout: on the pooled vectors.

    Returns:
        Logits [N], to be compared within each question, and the cache.
    """
    pooled, pooler_cache = pooler_forward(first_token, params.pooler, ops)
    (logits,), classifier_cache = ops.linears.forward(dropout_forward(pooled, dropout), (params.classifier,))
    return logits[:, 0], MultipleChoiceCache(pooler_cache, classifier_cache)


def multiple_choice_backward(
    d_logits: Float[Array, " N"],
    cache: MultipleChoiceCache,
    params: MultipleChoiceParams,
    ops: Ops,
    dropout: Dropout | None = None,
) -> tuple[Float[Array, "N D"], MultipleChoiceParams]:
    """The gradients of the first tokens [N, D] (MC.8) and of the parameters (MC.5, MC.8)."""
    d_dropped, (d_classifier,) = ops.linears.backward((d_logits[:, None],), cache.classifier, (params.classifier,))
    d_first_token, d_pooler = pooler_backward(dropout_backward(d_dropped, dropout), cache.pooler, params.pooler, ops)
    return d_first_token, MultipleChoiceParams(d_pooler, d_classifier)
