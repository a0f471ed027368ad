"""Inverted dropout (Srivastava et al. 2014, JMLR 15) with the random bits as an input."""

from typing import NamedTuple

from jaxtyping import Bool, Float, Int

from xlmr_np.arrays import Array, array_namespace


class Philox(NamedTuple):
    """A key of the counter-based generator Philox4x32-10 (Salmon et al. 2011, doi:10.1145/2063384.2063405).

    The bit of an attention probability is a function of the key and of (sentence, head, row, column) alone,
    hence the same in every layout, tiling and engine.
    """

    low: int
    high: int


class Dropout(NamedTuple):
    """Which elements survive: `keep` is True at those, or the key from which attention draws it."""

    rate: float
    keep: Bool[Array, "..."] | Philox


def dropout_forward(x: Float[Array, "*shape"], dropout: Dropout | None) -> Float[Array, "*shape"]:
    """Zero the dropped elements of `x` and divide the others by `1 - rate`, which keeps the expectation.

    None drops nothing. There is no cache, because the bits are passed to the backward function as well.
    """
    if dropout is None:
        return x
    xp = array_namespace(x)
    return xp.where(dropout.keep, x, xp.zeros_like(x)) / (1.0 - dropout.rate)


def dropout_backward(d_y: Float[Array, "*shape"], dropout: Dropout | None) -> Float[Array, "*shape"]:
    """The gradient of x: dropout is linear and diagonal, so it is the same map (DO.3)."""
    return dropout_forward(d_y, dropout)


def attention_keep(key: Philox, rate: float, sentence: int, like: Float[Array, "H T S"]) -> Bool[Array, "H T S"]:
    """True where the attention probabilities of one sentence survive; `like` gives shape and library.

    Column s of row t of head h takes word s mod 4 of the block with the counter (s div 4, t, h, sentence),
    and survives if that word is below (1 - rate) 2³².
    """
    xp = array_namespace(like)
    heads, rows, columns = like.shape

    def axis(size: int, *shape: int) -> Int[Array, "..."]:
        return xp.reshape(xp.arange(size, dtype=xp.int64, device=like.device), shape)

    blocks = -(-columns // 4)
    shape = (heads, rows, blocks)
    counter = (
        xp.broadcast_to(axis(blocks, 1, 1, blocks), shape),
        xp.broadcast_to(axis(rows, 1, rows, 1), shape),
        xp.broadcast_to(axis(heads, heads, 1, 1), shape),
        xp.full(shape, sentence, dtype=xp.int64, device=like.device),
    )
    words = xp.reshape(xp.stack(philox_block(counter, key), axis=-1), (heads, rows, 4 * blocks))
    return words[:, :, :columns] < round((1.0 - rate) * 2**32)


def philox_block(counter: tuple[Int[Array, "..."], ...], key: Philox) -> tuple[Int[Array, "..."], ...]:
    """Four random 32-bit words for each four-word counter, all held in int64 arrays."""
    c0, c1, c2, c3 = counter
    low, high = key
    for _ in range(10):
        high0, low0 = _multiply_32_bits(c0, 0xD2511F53)
        high1, low1 = _multiply_32_bits(c2, 0xCD9E8D57)
        c0, c1, c2, c3 = high1 ^ c1 ^ low, low1, high0 ^ c3 ^ high, low0
        low, high = (low + 0x9E3779B9) & 0xFFFFFFFF, (high + 0xBB67AE85) & 0xFFFFFFFF
    return c0, c1, c2, c3


def _multiply_32_bits(x: Int[Array, "..."], factor: int) -> tuple[Int[Array, "..."], Int[Array, "..."]]:
    """The high and the low 32 bits of x times factor, by halves of the factor so that int64 never overflows."""
    upper = x * (factor >> 16)
    lower = x * (factor & 0xFFFF)
    middle = upper + (lower >> 16)
    return middle >> 16, ((middle & 0xFFFF) << 16) | (lower & 0xFFFF)
