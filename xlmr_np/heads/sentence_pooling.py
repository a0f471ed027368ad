"""From the states of a sentence's tokens to one vector: pooling, a dense layer, and scaling to length one."""

from typing import NamedTuple

from jaxtyping import Bool, Float

from xlmr_np.arrays import Array, array_namespace, at_least_float32, or_minus_infinity
from xlmr_np.layers.linear import LinearParams
from xlmr_np.ops import Ops

POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
SHORTEST = 1e-12  # vectors that are shorter are not scaled to length one


class Pooling(NamedTuple):
    """The first step from states to an embedding.

    Attributes:
        modes: among `POOLINGS`; the vectors of several stand side by side.
        includes_prompt: whether the tokens of a prompt are pooled with the others.
    """

    modes: tuple[str, ...] = ("mean",)
    includes_prompt: bool = True


class Dense(NamedTuple):
    """A step through a linear layer and an activation of `xlmr_np.layers.activations`, or None."""

    params: LinearParams
    activation: str | None


class Normalize(NamedTuple):
    """A step that scales vectors to length one."""


Step = Pooling | Dense | Normalize


class PoolingCache(NamedTuple):
    """How much of every token's state is in the vector; by feature for "max", the same for all of them otherwise."""

    weights: Float[Array, "B T _"]


class NormalizeCache(NamedTuple):
    """The scaled vectors, the lengths that they were divided by, and whether those were theirs."""

    y: Float[Array, "*batch D"]
    length: Float[Array, "*batch 1"]
    is_scaled: Bool[Array, "*batch 1"]


def pooling_forward(
    states: Float[Array, "B T D"], is_real: Bool[Array, "B T"], mode: str, skipped: int = 0
) -> tuple[Float[Array, "B D"], PoolingCache]:
    """One vector per sentence: a weighted sum of its tokens' states (SP.1 to SP.8).

    Args:
        states: [B, T, D], of any values at padding, but finite ones.
        is_real: [B, T], False at padding, on whatever side it is. `<s>` and `</s>` are real.
        mode: one of `POOLINGS`.
        skipped: so many real tokens at the beginning of each sentence are left out.

    Returns:
        [B, D] in at least float32, with zeros for a sentence of which nothing is pooled, and the cache.

    Raises:
        ValueError: the mode is unknown.
    """
    check_pooling(mode)
    wide = at_least_float32(states)
    xp = array_namespace(wide)
    real = xp.astype(is_real, wide.dtype)
    position = xp.cumulative_sum(real, axis=1)  # 1, 2, ..., n at real tokens
    is_pooled = is_real & (position > skipped)
    if mode == "max":
        largest = xp.argmax(or_minus_infinity(is_pooled[..., None], wide), axis=1, keepdims=True)
        place = xp.arange(wide.shape[1], dtype=largest.dtype, device=largest.device)
        weights = xp.astype((place[None, :, None] == largest) & is_pooled[..., None], wide.dtype)
        return xp.sum(weights * wide, axis=1), PoolingCache(weights)
    if mode == "cls":
        is_pooled = is_pooled & (position == skipped + 1)
    elif mode == "lasttoken":
        is_pooled = is_pooled & (position == xp.sum(real, axis=1, keepdims=True))
    weights = xp.astype(is_pooled, wide.dtype)
    if mode == "weightedmean":
        weights = weights * position
    total = xp.clip(xp.sum(weights, axis=1, keepdims=True), min=1.0)
    weights = weights / (xp.sqrt(total) if mode == "mean_sqrt_len_tokens" else total)
    return (weights[:, None, :] @ wide)[:, 0, :], PoolingCache(weights[..., None])


def pooling_backward(d_pooled: Float[Array, "B D"], cache: PoolingCache) -> Float[Array, "B T D"]:
    """The gradient of the states [B, T, D], 0 at padding (SP.9)."""
    return cache.weights * d_pooled[:, None, :]


def check_pooling(mode: str) -> None:
    """Refuse what is not one of `POOLINGS` (ValueError)."""
    if mode not in POOLINGS:
        raise ValueError(f"The pooling {mode!r} is not known; there are {', '.join(POOLINGS)}.")


def normalize_forward(x: Float[Array, "*batch D"]) -> tuple[Float[Array, "*batch D"], NormalizeCache]:
    """Divide every vector of `x` [..., D] by its Euclidean length, or by 1e-12 if it is shorter (SP.10, SP.11).

    The result is in at least float32; a vector of zeros stays one.
    """
    wide = at_least_float32(x)
    xp = array_namespace(wide)
    length = xp.sqrt(xp.sum(wide * wide, axis=-1, keepdims=True))
    divisor = xp.clip(length, min=SHORTEST)
    y = wide / divisor
    return y, NormalizeCache(y, divisor, length > SHORTEST)


def normalize_backward(d_y: Float[Array, "*batch D"], cache: NormalizeCache) -> Float[Array, "*batch D"]:
    """The gradient of x [..., D]: what of d_y is across y, by the length (SP.12)."""
    xp = array_namespace(d_y)
    along = cache.y * xp.sum(d_y * cache.y, axis=-1, keepdims=True)
    return (d_y - xp.where(cache.is_scaled, along, xp.zeros_like(along))) / cache.length


def dense_forward(
    x: Float[Array, "*batch in"], params: LinearParams, activation: str | None, ops: Ops
) -> tuple[Float[Array, "*batch out"], object]:
    """activation(x Wᵀ + b), from [..., in] to [..., out]; None is no activation (SP.13)."""
    if activation is not None:
        return ops.linear_activation.forward(x, params, activation)
    (y,), cache = ops.linears.forward(x, (params,))
    return y, cache


def dense_backward(
    d_y: Float[Array, "*batch out"], cache: object, params: LinearParams, activation: str | None, ops: Ops
) -> tuple[Float[Array, "*batch in"], LinearParams]:
    """The gradients of x [..., in] and of the parameters (SP.14)."""
    if activation is not None:
        return ops.linear_activation.backward(d_y, cache, params, activation)
    d_x, (d_params,) = ops.linears.backward((d_y,), cache, (params,))
    return d_x, d_params
