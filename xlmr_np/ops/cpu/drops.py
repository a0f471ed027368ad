"""Dropout in place, and its random bits on 64-bit integers, a block at a time."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt64

from xlmr_np.arrays import Array
from xlmr_np.layers.attention import bits_of_row
from xlmr_np.layers.dropout import PHILOX_FACTORS, PHILOX_WEYL, Dropout, Philox, TokenKey, check_places
from xlmr_np.ops.threads import Threads

WORDS = 131072  # random words of 64 bits that are drawn at a time


class Dropped(NamedTuple):
    """Where a dropout sets zeros, and at what rate it does."""

    at: Bool[Array, "..."]
    rate: float


def drop(x: Float[Array, "..."], at: Bool[Array, "..."], rate: float) -> None:
    """Zero what is dropped, and divide the rest by 1 - rate, in place."""
    np.copyto(x, 0, where=at if rate < 1.0 else True)
    if rate < 1.0:
        x /= x.dtype.type(1.0 - rate)


def dropped_features(dropout: Dropout | None, x: Float[Array, "*batch D"], threads: Threads) -> Dropped | None:
    """What a token-wise dropout drops of an array shaped like x, as [D, N] (DO.5)."""
    if dropout is None:
        return None
    keep: Any = dropout.keep
    if not isinstance(keep, TokenKey):
        check_places(keep)
        bits = np.broadcast_to(keep, x.shape).reshape(-1, x.shape[-1])
        return Dropped(~np.ascontiguousarray(bits.T), dropout.rate)
    rows, sentences = (each.reshape(-1).astype(np.uint64) for each in (keep.rows, keep.sentences))
    features = x.shape[-1]
    blocks = np.arange(-(-features // 4), dtype=np.uint64)[:, None]
    at = np.empty((features, len(rows)), bool)
    step = max(1, WORDS // features)

    def part(tokens: slice) -> None:
        for start in range(tokens.start, tokens.stop, step):
            some = slice(start, min(start + step, tokens.stop))
            words = _philox(keep.key, blocks, rows[some], np.uint64(0), sentences[some])
            for number, word in enumerate(words):
                own = at[number::4, some]
                np.greater_equal(word[: len(own)], _threshold(dropout.rate), out=own)

    threads.run(part, threads.ranges(len(rows), step))
    return Dropped(at, dropout.rate)


def dropped_probabilities(dropout: Dropout, row: int, shape: tuple[int, int, int], is_packed: bool) -> Dropped:
    """What a dropout drops of the attention probabilities [H, T, S] of one sentence, as [H, S, T] (DO.4)."""
    keep: Any = dropout.keep
    if isinstance(keep, TokenKey):
        return Dropped(
            ~bits_of_row(dropout, np.broadcast_to(np.float32(0), shape), 0, row).transpose(0, 2, 1), dropout.rate
        )
    if not isinstance(keep, Philox):
        own = keep[0 if is_packed or len(keep) == 1 else row]
        return Dropped(~np.broadcast_to(own, shape).transpose(0, 2, 1), dropout.rate)
    heads, queries, keys = shape
    blocks = np.arange(-(-keys // 4), dtype=np.uint64)[:, None]
    at = np.empty((heads, keys, queries), bool)
    step = max(1, WORDS // max(1, keys))
    for head in range(heads):
        for start in range(0, queries, step):
            rows = np.arange(start, min(start + step, queries), dtype=np.uint64)
            for number, word in enumerate(_philox(keep, blocks, rows, np.uint64(head), np.uint64(row))):
                own = at[head, number::4, start : start + step]
                np.greater_equal(word[: len(own)], _threshold(dropout.rate), out=own)
    return Dropped(at, dropout.rate)


def _threshold(rate: float) -> np.uint64:
    """Random words from this one on drop (DO.6)."""
    return np.uint64(round((1.0 - rate) * 2**32))


def _philox(key: Philox, *counter: UInt64[Array, "..."]) -> tuple[UInt64[Array, "..."], ...]:
    """As `layers.dropout.philox_block`: 64 bits hold the product of two words, so that no halves are needed."""
    c0, c1, c2, c3 = counter
    low, high = key
    half, lower = np.uint64(32), np.uint64(0xFFFFFFFF)
    for _ in range(10):
        p0, p1 = c0 * np.uint64(PHILOX_FACTORS[0]), c2 * np.uint64(PHILOX_FACTORS[1])
        c0 = (p1 >> half) ^ c1 ^ np.uint64(low)
        c2 = (p0 >> half) ^ c3 ^ np.uint64(high)
        c1, c3 = p1 & lower, p0 & lower
        low, high = (low + PHILOX_WEYL[0]) & 0xFFFFFFFF, (high + PHILOX_WEYL[1]) & 0xFFFFFFFF
    return c0, c1, c2, c3
