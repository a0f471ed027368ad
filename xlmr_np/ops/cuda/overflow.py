"""Numbers that float16 could not hold."""

from jaxtyping import Float

from xlmr_np.arrays import Array, array_namespace


def check_overflow(result: Float[Array, "*shape"]) -> None:
    """Refuse a result in which something is infinite or NaN, as what overflowed in a layer is after the next norm.

    Minus infinity is what padding and impossible choices get. Waits for the GPU to come to the result.

    Raises:
        FloatingPointError: there is such a number.
    """
    xp = array_namespace(result)
    if not bool(xp.all(result < xp.inf)):
        raise FloatingPointError(
            "The model's activations, or the embeddings given to it, left the range of float16 (65,504); load it with "
            "dtype='bfloat16', which has the range of float32."
        )
