"""Numbers that float16 could not hold."""

from jaxtyping import Float

from xlmr_np.arrays import Array, array_namespace


def check_overflow(hidden_states: Float[Array, "N D"]) -> None:
    """Refuse hidden states in float16 that are not finite: what overflowed in a layer is NaN after the next norm.

    Waits for the GPU to come to them.

    Raises:
        FloatingPointError: they are not.
    """
    xp = array_namespace(hidden_states)
    if hidden_states.dtype == xp.float16 and not bool(xp.all(xp.isfinite(hidden_states))):
        raise FloatingPointError(
            "The model's activations left the range of float16 (65,504); load it with dtype='bfloat16', which has the "
            "range of float32."
        )
