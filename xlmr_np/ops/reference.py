"""The reference engine: the seam's operations composed from the textbook, on any array library."""

from typing import NamedTuple

from jaxtyping import Float, Int

from xlmr_np.arrays import Array, array_namespace, at_least_float32
from xlmr_np.layers.activations import ActivationCache, activation_forward
from xlmr_np.layers.add_norm import add_norm_forward
from xlmr_np.layers.attention import attention_forward
from xlmr_np.layers.embeddings import embeddings_forward
from xlmr_np.layers.feed_forward import feed_forward_forward
from xlmr_np.layers.layer_norm import layer_norm_forward
from xlmr_np.layers.linear import LinearCache, LinearParams, linear_forward
from xlmr_np.ops import Op, Ops

VOCABULARY_CHUNK = 16384  # rows of a half-precision table that are converted at a time


class LinearActivationCache(NamedTuple):
    """The caches of its two steps."""

    linear: LinearCache
    activation: ActivationCache


class TopK(NamedTuple):
    """The k largest logits of each row, and the logarithm of the sum of the exponentials of all of them."""

    logits: Float[Array, "N k"]
    ids: Int[Array, "N k"]
    log_sum_exp: Float[Array, " N"]


def linears_forward(
    x: Float[Array, "*batch in"], params: tuple[LinearParams, ...]
) -> tuple[tuple[Array, ...], LinearCache]:
    """Several linear layers of one x."""
    return tuple(linear_forward(x, each)[0] for each in params), LinearCache(x)


def linear_activation_forward(
    x: Float[Array, "*batch in"], params: LinearParams, activation: str
) -> tuple[Float[Array, "*batch out"], LinearActivationCache]:
    """A linear layer and a nonlinearity."""
    projected, linear_cache = linear_forward(x, params)
    y, activation_cache = activation_forward(projected, activation)
    return y, LinearActivationCache(linear_cache, activation_cache)


def vocabulary_top_k_forward(x: Float[Array, "N D"], params: LinearParams, k: int) -> tuple[TopK, None]:
    """The k tokens with the largest logits `x Wᵀ + b`, in falling order; of equal ones the smaller id first.

    Logits are in at least float32. The vocabulary is walked in chunks of rows, so that a table stored in
    half precision is never converted as a whole.
    """
    xp = array_namespace(x)
    size = params.weight.shape[0]
    chunks = (
        LinearParams(*(leaf[start : min(start + VOCABULARY_CHUNK, size), ...] for leaf in params))
        for start in range(0, size, VOCABULARY_CHUNK)
    )
    logits = at_least_float32(xp.concat([linear_forward(x, chunk)[0] for chunk in chunks], axis=1))
    ids = xp.argsort(logits, axis=1, descending=True, stable=True)[:, :k]
    largest = xp.max(logits, axis=1, keepdims=True)
    log_sum_exp = xp.log(xp.sum(xp.exp(logits - largest), axis=1)) + largest[:, 0]
    return TopK(xp.take_along_axis(logits, ids, axis=1), ids, log_sum_exp), None


REFERENCE = Ops(
    embed=Op(embeddings_forward),
    linears=Op(linears_forward),
    attention=Op(attention_forward),
    add_norm=Op(add_norm_forward),
    feed_forward=Op(feed_forward_forward),
    linear_activation=Op(linear_activation_forward),
    layer_norm=Op(layer_norm_forward),
    vocabulary_top_k=Op(vocabulary_top_k_forward),
)
