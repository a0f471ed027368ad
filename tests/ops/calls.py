"""Calls of the operations on random arrays of any shape, type and memory order, for engines to be held to REFERENCE.

A call is described by numbers and names, from which it is built: a failing example says all it takes to repeat it.
"""

from collections.abc import Callable
from itertools import accumulate
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from hypothesis import strategies as st

from xlmr_np import trees
from xlmr_np.layers.activations import ACTIVATIONS
from xlmr_np.layers.add_norm import AddNormParams
from xlmr_np.layers.attention import Mask, PackedMask, PaddedMask, Spans
from xlmr_np.layers.dropout import Dropout, Philox, TokenKey
from xlmr_np.layers.embeddings import EmbeddingsParams
from xlmr_np.layers.feed_forward import FeedForwardParams
from xlmr_np.layers.layer_norm import LayerNormParams
from xlmr_np.layers.linear import LinearParams
from xlmr_np.row_sparse import RowSparse

EPS = 1e-5
ACTIVATION_NAMES = sorted(ACTIVATIONS)
DTYPES = {name: np.dtype(name) for name in ("float64", "float32", "float16")} | {
    "bfloat16": np.dtype(ml_dtypes.bfloat16)
}


class Call(NamedTuple):
    """The arguments of one operation, floats in float64."""

    op: str
    forward: tuple[Any, ...]
    backward: tuple[Any, ...] | None  # those behind the output's gradient and the cache; None: forward only


class Storage(NamedTuple):
    """How the arguments are stored."""

    dtype: str
    parameters: str  # the type of everything in a record of parameters
    layout_seed: int | None  # of each array's memory order; None: all in C order


class Kind(NamedTuple):
    """How calls of one operation are built, and from what."""

    build: Callable[..., Call]
    settings: dict[str, st.SearchStrategy]


def stored(tree: trees.Tree, storage: Storage) -> trees.Tree:
    """The tree with its floats in the types, and all its arrays in the memory orders, that the storage says."""
    random = None if storage.layout_seed is None else np.random.default_rng(storage.layout_seed)

    def store(tree: trees.Tree, dtype: str) -> trees.Tree:
        if isinstance(tree, tuple):
            is_parameters = type(tree).__name__.endswith("Params")
            branches = [store(each, storage.parameters if is_parameters else dtype) for each in tree]
            return type(tree)(*branches) if hasattr(tree, "_fields") else tuple(branches)
        if not isinstance(tree, np.ndarray):
            return tree
        array = tree.astype(DTYPES[dtype]) if tree.dtype.kind == "f" else tree
        array = array.copy() if random is None else laid_out(array, random)
        array.flags.writeable = False
        return array

    return store(tree, storage.dtype)


def gradient_of(output: Any, storage: Storage) -> Any:
    """A random gradient of the output of an operation, of the same structure, stored alike."""
    random = np.random.default_rng(1)
    gradient = trees.map_leaves(lambda leaf: np.asarray(random.normal(size=np.shape(leaf))), output)
    return stored(gradient, storage)


def widened(tree: trees.Tree) -> trees.Tree:
    """The same values with all floats in float64, in C order."""

    def widen(leaf: Any) -> Any:
        if not isinstance(leaf, np.ndarray):
            return leaf
        is_float = leaf.dtype.kind == "f" or leaf.dtype == DTYPES["bfloat16"]
        return np.array(leaf, np.float64 if is_float else leaf.dtype, order="C")

    return trees.map_leaves(widen, tree)


def laid_out(x: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A copy of `x` with another memory order: axes rotated or reversed, gaps between elements, or off alignment."""
    if x.ndim == 0:
        return x.copy()
    manner = random.choice(["C", "rotated", "reversed", "gaps", "every other", "unaligned"], p=[0.3, 0.3] + [0.1] * 4)
    if manner == "reversed":
        return np.array(x, order="F")
    if manner == "rotated":
        by = int(random.integers(x.ndim))
        axes = [*range(by, x.ndim), *range(by)]
        return np.array(x.transpose(axes), order="C").transpose(np.argsort(axes))
    if manner in ("gaps", "every other"):
        step = 1 if manner == "gaps" else 2
        around = np.full([step * size + 3 for size in x.shape], 99, x.dtype, order=random.choice(["C", "F"]))
        inside = around[tuple(slice(2, 2 + step * size, step) for size in x.shape)]
        inside[...] = x
        return inside
    if manner == "unaligned":
        data = np.zeros(x.nbytes + 1, np.uint8)[1:]
        data[...] = np.frombuffer(np.ascontiguousarray(x).tobytes(), np.uint8)
        return data.view(x.dtype).reshape(x.shape)
    return np.array(x, order="C")


def arrays_of(tree: trees.Tree) -> list[np.ndarray]:
    """All arrays of a tree of arguments or results, those of row-sparse gradients too."""
    arrays: list[np.ndarray] = []
    for leaf in trees.leaves(tree):
        if isinstance(leaf, RowSparse):
            arrays += [leaf.index, leaf.rows]
        elif isinstance(leaf, np.ndarray | np.generic):
            arrays.append(np.asarray(leaf))
    return arrays


# Parameters and dropout


def linear_params(random: np.random.Generator, outputs: int, inputs: int) -> LinearParams:
    return LinearParams(random.normal(size=(outputs, inputs)) * inputs**-0.5, random.normal(size=outputs) * 0.3)


def norm_params(random: np.random.Generator, width: int) -> LayerNormParams:
    return LayerNormParams(random.normal(size=width) * 0.2 + 1, random.normal(size=width) * 0.3)


def add_norm_params(random: np.random.Generator, inputs: int, width: int) -> AddNormParams:
    return AddNormParams(linear_params(random, width, inputs), norm_params(random, width))


def philox(random: np.random.Generator) -> Philox:
    return Philox(*random.integers(2**32, size=2).tolist())


def feature_dropout(
    random: np.random.Generator, form: str, rate: float, batch: tuple[int, ...], width: int
) -> Dropout | None:
    """On the features of tokens: by bits, by a key, or none."""
    if form == "none":
        return None
    if form == "bits":
        return Dropout(rate, random.random((*batch, width)) >= min(rate, 0.5))  # all are dropped at rate 1
    places = random.integers(0, 50, (2, *batch))
    return Dropout(rate, TokenKey(philox(random), *places))


# Calls


def embed(
    batch: tuple[int, ...],
    width: int,
    index_type: str,
    pad_id: int | None,
    form: str,
    rate: float,
    seed: int,
) -> Call:
    random = np.random.default_rng(seed)
    vocabulary, positions, types = 23, 31, 3
    index = tuple(random.integers(0, size, batch).astype(index_type) for size in (vocabulary, types, positions))
    tables = (random.normal(size=(size, width)) for size in (vocabulary, positions, types))
    params = EmbeddingsParams(*tables, norm_params(random, width))
    dropout = feature_dropout(random, form, rate, batch, width)
    return Call("embed", (*index, params, EPS, dropout), (*index, params, pad_id, dropout))


def linears(batch: tuple[int, ...], width: int, outputs: list[int], seed: int) -> Call:
    random = np.random.default_rng(seed)
    params = tuple(linear_params(random, each, width) for each in outputs)
    return Call("linears", (random.normal(size=(*batch, width)), params), (params,))


def add_norm(batch: tuple[int, ...], inputs: int, width: int, form: str, rate: float, seed: int) -> Call:
    random = np.random.default_rng(seed)
    x, residual = random.normal(size=(*batch, inputs)), random.normal(size=(*batch, width))
    settings = add_norm_params(random, inputs, width), EPS, feature_dropout(random, form, rate, batch, width)
    return Call("add_norm", (x, residual, *settings), settings)


def feed_forward(
    batch: tuple[int, ...], width: int, inner: int, activation: str, form: str, rate: float, seed: int
) -> Call:
    random = np.random.default_rng(seed)
    params = FeedForwardParams(linear_params(random, inner, width), add_norm_params(random, inner, width))
    settings = params, activation, EPS, feature_dropout(random, form, rate, batch, width)
    return Call("feed_forward", (2 * random.normal(size=(*batch, width)), *settings), settings)


def linear_activation(batch: tuple[int, ...], width: int, outputs: int, activation: str, seed: int) -> Call:
    random = np.random.default_rng(seed)
    settings = linear_params(random, outputs, width), activation
    return Call("linear_activation", (2 * random.normal(size=(*batch, width)), *settings), settings)


def layer_norm(batch: tuple[int, ...], width: int, seed: int) -> Call:
    random = np.random.default_rng(seed)
    params = norm_params(random, width)
    return Call("layer_norm", (3 * random.normal(size=(*batch, width)) + 1, params, EPS), (params,))


def vocabulary_cross_entropy(
    tokens: int, width: int, vocabulary: int, ignored: float, smoothing: float, seed: int
) -> Call:
    random = np.random.default_rng(seed)
    labels = np.where(random.random(tokens) < ignored, -100, random.integers(0, vocabulary, tokens))
    if vocabulary == 1:  # the smoothed gradient would be rounding alone, with nothing to measure it by
        smoothing = 0.0
    settings = linear_params(random, vocabulary, width), labels, smoothing
    return Call("vocabulary_cross_entropy", (random.normal(size=(tokens, width)), *settings), settings)


def vocabulary_top_k(tokens: int, width: int, vocabulary: int, share: float, seed: int) -> Call:
    random = np.random.default_rng(seed)
    k = min(vocabulary, 1 + int(share * vocabulary))
    x, params = random.normal(size=(tokens, width)), linear_params(random, vocabulary, width)
    return Call("vocabulary_top_k", (x, params, k), None)


def packed_attention(
    lengths: list[tuple[int, int]], heads: int, width: int, keys: str, is_causal: bool, rate: float, seed: int
) -> Call:
    """Sentences of so many queries and keys.

    Keys lie end to end in a row of their own ("across"), with gaps between them or on top of each other ("free", for
    which there is no backward pass), or are as many as the queries ("within").
    """
    random = np.random.default_rng(seed)
    queries = [each for each, _ in lengths]
    sources = queries if keys == "within" else [each for _, each in lengths]
    query = spans(queries)
    key = Spans(random.integers(0, 40, len(sources)), np.array(sources)) if keys == "free" else spans(sources)
    size = int((key.starts + key.lengths).max(initial=0)) + (7 if keys == "free" else 0)
    arrays = (random.normal(size=(each, heads, width)) for each in (sum(queries), size, size))
    dropout = Dropout(rate, philox(random)) if rate else None
    settings = PackedMask(query, query if keys == "within" else key, is_causal), dropout
    return Call("attention", (*arrays, *settings), None if keys == "free" else settings)


def padded_attention(
    batch: int, queries: int, sources: int, heads: int, width: int, mask: str, form: str, rate: float, seed: int
) -> Call:
    """`mask` says which axes of [B, H, T, S] the boolean array has, the others being 1; "none" is no array."""
    random = np.random.default_rng(seed)
    if form == "token key":  # for self-attention alone
        sources = queries
    shape = tuple(
        size if axis in mask else 1 for axis, size in zip("BHTS", (batch, heads, queries, sources), strict=True)
    )
    visible = PaddedMask(None if mask == "none" else random.random(shape) < random.choice([0.1, 0.6, 0.95]))
    dropout = None
    if form == "bits":
        dropout = Dropout(rate, random.random((batch, heads, queries, sources)) >= min(rate, 0.5))
    elif form == "key":
        dropout = Dropout(rate, philox(random))
    elif form == "token key":
        sentences = np.repeat(np.arange(batch)[:, None] + 5, queries, axis=1)
        dropout = Dropout(rate, TokenKey(philox(random), sentences, random.integers(0, queries, (batch, queries))))
    sizes = queries, sources, sources
    arrays = (random.normal(size=(batch, size, heads, width)) for size in sizes)
    return Call("attention", (*arrays, visible, dropout), (visible, dropout))


def spans(lengths: list[int]) -> Spans:
    """End to end."""
    return Spans(np.array([0, *accumulate(lengths)][:-1], np.int64), np.array(lengths, np.int64))


def hides_everything(mask: Mask, query: np.ndarray, key: np.ndarray) -> np.ndarray:
    """True at the queries [..., T] (packed) or [B, T, H] (padded) that see no key."""
    if isinstance(mask, PackedMask):
        blind = np.zeros(len(query), bool)
        for start, length, keys in zip(*mask.query, mask.key.lengths, strict=True):
            number = max(0, length - keys) if mask.is_causal else length * (keys == 0)
            blind[start : start + number] = True
        return blind
    batch, queries, heads, _ = query.shape
    if mask.is_visible is None or key.shape[1] == 0:
        return np.full((batch, queries, heads), key.shape[1] == 0)
    everywhere = np.broadcast_to(mask.is_visible, (batch, heads, queries, key.shape[1]))
    return ~everywhere.any(axis=-1).transpose(0, 2, 1)


def check_top_k(ours: Any, expected: Any, call: Call, close: Callable[[Any, Any], None]) -> None:
    """That `vocabulary_top_k` chose well.

    Logits that differ by less than rounding may change places; those of equal ones have a test of their own.

    Args:
        ours: the result.
        expected: what REFERENCE makes of `call`.
        call: in float64.
        close: asserts that arrays differ by no more than roundings.
    """
    assert ours.ids.shape == expected.ids.shape
    assert ours.ids.dtype.kind == "i"
    assert all(len(set(row)) == len(row) for row in ours.ids.tolist())
    x, params, _ = call.forward
    logits = x @ params.weight.T + params.bias
    close(np.take_along_axis(logits, ours.ids, axis=1).astype(ours.logits.dtype), expected.logits)
    close((ours.logits, ours.log_sum_exp), (expected.logits, expected.log_sum_exp))


# What they are built from

seeds = st.integers(0, 2**16)
few = st.integers(0, 40)
tokens = st.one_of(few, st.integers(1, 200), st.sampled_from([127, 128, 129, 256, 512, 513]))
batches = st.one_of(st.tuples(tokens), st.tuples(st.integers(1, 5), few))
widths = st.one_of(st.sampled_from([64, 96, 128]), st.integers(3, 50))
head_widths = st.sampled_from([1, 2, 5, 8, 16, 32, 33, 64])
forms = st.sampled_from(["none", "bits", "key"])
rates = st.sampled_from([0.1, 0.5, 1.0])
vocabularies = st.one_of(st.integers(1, 300), st.sampled_from([4096, 16384, 16385, 33000]))
spans_of_tokens = st.one_of(st.integers(0, 20), st.integers(0, 70), st.sampled_from([64, 65, 128, 200]))

KINDS = {
    "embed": Kind(
        embed,
        {
            "batch": batches,
            "width": widths,
            "index_type": st.sampled_from(["int64", "int32"]),
            "pad_id": st.sampled_from([None, 0, 1]),
            "form": forms,
            "rate": rates,
            "seed": seeds,
        },
    ),
    "linears": Kind(
        linears,
        {"batch": batches, "width": widths, "outputs": st.lists(widths, min_size=1, max_size=3), "seed": seeds},
    ),
    "add norm": Kind(
        add_norm,
        {"batch": batches, "inputs": widths, "width": widths, "form": forms, "rate": rates, "seed": seeds},
    ),
    "feed forward": Kind(
        feed_forward,
        {
            "batch": batches,
            "width": widths,
            "inner": st.one_of(widths, st.sampled_from([256, 300])),
            "activation": st.sampled_from(ACTIVATION_NAMES),
            "form": forms,
            "rate": rates,
            "seed": seeds,
        },
    ),
    "linear activation": Kind(
        linear_activation,
        {
            "batch": batches,
            "width": widths,
            "outputs": widths,
            "activation": st.sampled_from(ACTIVATION_NAMES),
            "seed": seeds,
        },
    ),
    "layer norm": Kind(layer_norm, {"batch": batches, "width": widths, "seed": seeds}),
    "vocabulary cross-entropy": Kind(
        vocabulary_cross_entropy,
        {
            "tokens": few,
            "width": st.integers(1, 40),
            "vocabulary": vocabularies,
            "ignored": st.sampled_from([0.0, 0.3, 1.0]),
            "smoothing": st.sampled_from([0.0, 0.1, 0.9]),
            "seed": seeds,
        },
    ),
    "vocabulary top-k": Kind(
        vocabulary_top_k,
        {
            "tokens": st.integers(0, 12),
            "width": st.integers(1, 40),
            "vocabulary": vocabularies,
            "share": st.sampled_from([0.0, 1e-4, 1e-3, 0.1, 0.6, 1.0]),
            "seed": seeds,
        },
    ),
    "packed attention": Kind(
        packed_attention,
        {
            "lengths": st.lists(st.tuples(spans_of_tokens, spans_of_tokens), min_size=1, max_size=5),
            "heads": st.integers(1, 5),
            "width": head_widths,
            "keys": st.sampled_from(["within", "across", "free"]),
            "is_causal": st.booleans(),
            "rate": st.sampled_from([0.0, 0.3, 1.0]),
            "seed": seeds,
        },
    ),
    "padded attention": Kind(
        padded_attention,
        {
            "batch": st.integers(1, 4),
            "queries": st.integers(1, 60),
            "sources": st.integers(0, 60),
            "heads": st.integers(1, 5),
            "width": head_widths,
            "mask": st.sampled_from(["none", "BS", "BTS", "BHTS", "TS", "S", "HS"]),
            "form": st.sampled_from(["none", "bits", "key", "token key"]),
            "rate": rates,
            "seed": seeds,
        },
    ),
}
STORAGES = st.builds(
    lambda dtypes, layout_seed: Storage(*dtypes, layout_seed),
    st.sampled_from([("float32", "float32"), ("float32", "float16"), ("float32", "bfloat16"), ("float64", "float64")]),
    st.one_of(st.none(), st.integers(0, 1000)),
)
