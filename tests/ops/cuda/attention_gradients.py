"""The gradients of packed attention in float64, and cases for the kernels that compute them."""

from typing import NamedTuple

import numpy as np

from tests.ops.cuda import test_attention as forward
from xlmr_np.layers.attention import PackedMask, attention_backward, attention_forward, sentence_slices
from xlmr_np.layers.dropout import Dropout, Philox


class GradientCase(NamedTuple):
    """What goes into the backward pass, but for the results of the forward pass."""

    d_context: np.ndarray
    query: np.ndarray
    key: np.ndarray
    value: np.ndarray
    mask: PackedMask
    dropout: Dropout | None


class Gradients(NamedTuple):
    d_query: np.ndarray
    d_key: np.ndarray
    d_value: np.ndarray


def gradient_case(
    lengths: list[tuple[int, int]],
    heads: int,
    width: int,
    dtype: str,
    is_causal: bool = False,
    rate: float = 0.0,
    layout: str = "apart",
    seed: int = 0,
) -> GradientCase:
    """Sentences of so many queries and keys, whose probabilities are dropped at this rate.

    For the layouts, see `test_attention.case`; the gradient of the context has that of the query.
    """
    case = forward.case(lengths, heads, width, dtype, is_causal, layout=layout, seed=seed)
    other = forward.case(lengths, heads, width, dtype, is_causal, layout=layout, seed=seed + 2**20)
    dropout = Dropout(rate, Philox(seed, 2**32 - 1 - seed)) if rate else None
    return GradientCase(other.query, case.query, case.key, case.value, case.mask, dropout)


def exact_gradients(case: GradientCase, context: np.ndarray | None = None) -> Gradients:
    """In float64, of the numbers as they are stored.

    Args:
        case: of which.
        context: from which delta is made (ATT.16), rounded as it is; None for the exact one. Where the probability of a
            key is nearly 1, d_scores are small differences, and what is left may be little but this rounding.
    """
    d_context, query, key, value = (x.astype(np.float64) for x in case[:4])
    exact, cache = attention_forward(query, key, value, case.mask, case.dropout)
    d_query, d_key, d_value = attention_backward(d_context, cache, case.mask, case.dropout)
    if context is not None:
        too_small = (d_context * (exact - context.astype(np.float64))).sum(axis=2).T * query.shape[2] ** -0.5
        for (queries, keys), own in zip(sentence_slices(case.mask), cache.sentences, strict=True):
            shift = own.softmax.probabilities[0] * too_small[:, queries, None]
            d_query[queries] += np.einsum("hts,shw->thw", shift, key[keys])
            d_key[keys] += np.einsum("hts,thw->shw", shift, query[queries])
    return Gradients(d_query, d_key, d_value)


def exact_context(case: GradientCase) -> tuple[np.ndarray, np.ndarray]:
    """The context in the type of the query, and log Σ exp of the scores in that of sums, both rounded once."""
    query, key, value = (x.astype(np.float64) for x in case[1:4])
    context, _ = attention_forward(query, key, value, case.mask, case.dropout)
    _, log_sum_exp = forward.exact(forward.Case(query, key, value, case.mask, None))
    wide = np.float64 if case.query.dtype == np.float64 else np.float32
    return context.astype(case.query.dtype), log_sum_exp.astype(wide)
