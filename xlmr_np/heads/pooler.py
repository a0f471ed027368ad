"""The pooler: one vector per sentence, from its classification token."""

from jaxtyping import Float

from xlmr_np.arrays import Array
from xlmr_np.layers.linear import LinearParams
from xlmr_np.ops import Ops


def pooler_forward(
    first_token: Float[Array, "B D"], params: LinearParams, ops: Ops
) -> tuple[Float[Array, "B D"], object]:
    """tanh(linear(first token)) for the hidden state [B, D] of every sentence's first real token (PO.2)."""
    return ops.linear_activation.forward(first_token, params, "tanh")


def pooler_backward(
    d_pooled: Float[Array, "B D"], cache: object, params: LinearParams, ops: Ops
) -> tuple[Float[Array, "B D"], LinearParams]:
    """The gradients of the first tokens [B, D] (PO.4) and of the parameters (PO.5)."""
    return ops.linear_activation.backward(d_pooled, cache, params, "tanh")
