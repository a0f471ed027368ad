"""The token-classification head: a logit for every class, at every token."""

from jaxtyping import Float

from xlmr_np.arrays import Array
from xlmr_np.layers.dropout import Dropout, dropout_backward, dropout_forward
from xlmr_np.layers.linear import LinearParams
from xlmr_np.ops import Ops


def token_classification_forward(
    x: Float[Array, "*batch D"], params: LinearParams, ops: Ops, dropout: Dropout | None = None
) -> tuple[Float[Array, "*batch C"], object]:
    """The logits [..., C] of hidden states [..., D]: linear(dropout(x)) (TOK.2)."""
    (logits,), cache = ops.linears.forward(dropout_forward(x, dropout), (params,))
    return logits, cache


def token_classification_backward(
    d_logits: Float[Array, "*batch C"], cache: object, params: LinearParams, ops: Ops, dropout: Dropout | None = None
) -> tuple[Float[Array, "*batch D"], LinearParams]:
    """The gradients of x [..., D] (TOK.5) and of the parameters (TOK.3)."""
    d_dropped, (d_params,) = ops.linears.backward((d_logits,), cache, (params,))
    return dropout_backward(d_dropped, dropout), d_params
