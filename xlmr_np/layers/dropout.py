"""Inverted dropout (Srivastava et al. 2014, JMLR 15) with the random bits as an input."""

from typing import NamedTuple

from jaxtyping import Bool, Float, Int

from xlmr_np.arrays import Array, array_namespace

PHILOX_FACTORS = 0xD2511F53, 0xCD9E8D57  # what each round multiplies the counter's words 0 and 2 with
PHILOX_WEYL = 0x9E3779B9, 0xBB67AE85  # what it adds to the key


class Philox(NamedTuple):
    """A key of the counter-based generator Philox4x32-10 (Salmon et al. 2011, doi:10.1145/2063384.2063405).

    A bit is a function of the key and of a place alone: (sentence, head, row, column) for an attention probability,
    (sentence, row, column) for a feature of a token. It is hence the same in every layout, tiling and engine.
    Every dropout of a step needs a key of its own.
    """

    low: int
    high: int


class TokenKey(NamedTuple):
    """A key, and where each token of the layout stands.

    A token has the number of its sentence in the batch, and its own number among the real tokens of that sentence.
    Padding may have any number: nobody sees it, but for masks that show it on purpose. In cross-attention the columns
    are tokens of another layout, with numbers of their own.
    """

    key: Philox
    sentences: Int[Array, "*batch"]
    rows: Int[Array, "*batch"]
    columns: Int[Array, "*source"] | None = None  # of attention probabilities; None: the same as the rows


class Dropout(NamedTuple):
    """Which elements survive: `keep` is True at those, or the key from which it is drawn.

    A layer that treats each token alone takes a `TokenKey`; attention takes a `Philox` where its tokens are packed,
    and a `TokenKey` where padding stands between them.
    """

    rate: float
    keep: Bool[Array, "..."] | Philox | TokenKey


def dropout_forward(x: Float[Array, "*shape"], dropout: Dropout | None) -> Float[Array, "*shape"]:
    """Zero the dropped elements of `x` and divide the others by `1 - rate`, which keeps the expectation.

    None drops nothing, and a rate of 1 drops everything. There is no cache, because the bits, or the key from which
    they can be drawn again, are passed to the backward function as well.

    Raises:
        TypeError: `keep` is a `Philox` alone, which does not say where the elements stand.
    """
    if dropout is None:
        return x
    rate, keep = dropout
    check_places(keep)
    xp = array_namespace(x)
    zeros = xp.zeros_like(x)
    if rate == 1.0:
        return zeros
    bits = token_keep(keep, rate, x) if isinstance(keep, TokenKey) else keep
    return xp.astype(xp.where(bits, x, zeros) / (1.0 - rate), x.dtype, copy=False)


def check_places(keep: Bool[Array, "..."] | Philox | TokenKey) -> None:
    """Refuse a key that does not say where the elements stand (TypeError)."""
    if isinstance(keep, Philox):
        raise TypeError(f"{keep} does not say where the elements of x stand; put it into a TokenKey.")


def dropout_backward(d_y: Float[Array, "*shape"], dropout: Dropout | None) -> Float[Array, "*shape"]:
    """The gradient of x: dropout is linear and diagonal, so it is the same map (DO.3)."""
    return dropout_forward(d_y, dropout)


def attention_keep(key: Philox, rate: float, sentence: int, like: Float[Array, "H T S"]) -> Bool[Array, "H T S"]:
    """True where the attention probabilities of one sentence survive; `like` gives shape and library (DO.4).

    Column s of row t of head h takes word s mod 4 of the block with the counter (s div 4, t, h, sentence),
    and survives if that word is below (1 - rate) 2³².
    """
    xp = array_namespace(like)
    heads, rows, columns = like.shape

    def axis(size: int, *shape: int) -> Int[Array, "..."]:
        return xp.reshape(xp.arange(size, dtype=xp.int64, device=like.device), shape)

    sentences = xp.full((1, 1, 1), sentence, dtype=xp.int64, device=like.device)
    return _keep(key, rate, columns, axis(rows, 1, rows, 1), axis(heads, heads, 1, 1), sentences)


def token_keep(token_key: TokenKey, rate: float, like: Float[Array, "*batch D"]) -> Bool[Array, "*batch D"]:
    """True where the features of tokens survive; `like` gives shape and library (DO.5).

    Column c of token r of sentence b takes word c mod 4 of the block with the counter (c div 4, r, 0, b), and
    survives if that word is below (1 - rate) 2³².
    """
    xp = array_namespace(like)
    numbers = token_key.rows, token_key.sentences
    row, sentence = (xp.astype(number[..., None], xp.int64, copy=False) for number in numbers)
    return _keep(token_key.key, rate, like.shape[-1], row, xp.zeros_like(row), sentence)


def _keep(
    key: Philox,
    rate: float,
    columns: int,
    row: Int[Array, "#*place 1"],
    head: Int[Array, "#*place 1"],
    sentence: Int[Array, "#*place 1"],
) -> Bool[Array, "*place columns"]:
    """True where columns 0, 1, … of the rows at these places survive (DO.6); one counter serves four columns."""
    xp = array_namespace(row)
    block = xp.arange(-(-columns // 4), dtype=xp.int64, device=row.device)
    counter = tuple(xp.broadcast_arrays(block, row, head, sentence))
    words = xp.stack(philox_block(counter, key), axis=-1)
    each = xp.reshape(words, (*words.shape[:-2], 4 * words.shape[-2]))
    return each[..., :columns] < round((1.0 - rate) * 2**32)


def philox_block(counter: tuple[Int[Array, "..."], ...], key: Philox) -> tuple[Int[Array, "..."], ...]:
    """Four random 32-bit words for each four-word counter, all held in int64 arrays."""
    c0, c1, c2, c3 = counter
    low, high = key
    for _ in range(10):
        high0, low0 = _multiply_32_bits(c0, PHILOX_FACTORS[0])
        high1, low1 = _multiply_32_bits(c2, PHILOX_FACTORS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ low, low1, high0 ^ c3 ^ high, low0
        low, high = (low + PHILOX_WEYL[0]) & 0xFFFFFFFF, (high + PHILOX_WEYL[1]) & 0xFFFFFFFF
    return c0, c1, c2, c3


def _multiply_32_bits(x: Int[Array, "..."], factor: int) -> tuple[Int[Array, "..."], Int[Array, "..."]]:
    """The high and the low 32 bits of x times factor, by halves of the factor so that int64 never overflows."""
    upper = x * (factor >> 16)
    lower = x * (factor & 0xFFFF)
    middle = upper + (lower >> 16)
    return middle >> 16, ((middle & 0xFFFF) << 16) | (lower & 0xFFFF)
