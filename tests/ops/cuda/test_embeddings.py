"""The kernels of embeddings.cu and embeddings_backward.cu, executed in emulation, against layers.embeddings."""

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.cuda_emulator import BARRIER, EmulatedGpu, Schedule, run_sanitized, some_of, why_not, without
from tests.ops.calls import DTYPES, EPS
from tests.ops.cuda.test_norms import (
    EVERY_DTYPE,
    HOW_MANY_EXAMPLES,
    LAYOUTS,
    RATES,
    ROUNDING,
    SCHEDULES,
    SMALLEST,
    SUMS,
    check,
    dropped,
    emulated,
    is_seen,
    placed,
    wide,
)
from xlmr_np import trees
from xlmr_np.layers.dropout import Dropout, dropout_backward, dropout_forward
from xlmr_np.layers.embeddings import EmbeddingsParams, table_gradients
from xlmr_np.layers.layer_norm import LayerNormCache, LayerNormParams, layer_norm_backward, layer_norm_forward
from xlmr_np.ops.cuda import embeddings
from xlmr_np.ops.cuda.embeddings import embed, embed_backward
from xlmr_np.ops.cuda.norms import NormCache

pytestmark = pytest.mark.skipif(why_not() is not None, reason=f"kernels cannot be executed here: {why_not()}")

SIZES = 23, 3, 31  # of the tables of tokens, token types and positions


def tables(random: np.random.Generator, width: int, dtype: str, layout: str = "C") -> EmbeddingsParams:
    token, token_type, position = (placed(random.normal(size=(size, width)), dtype, layout) for size in SIZES)
    norm = LayerNormParams(*(placed(random.normal(size=width), dtype, layout) for _ in range(2)))
    return EmbeddingsParams(token, position, token_type, norm)


def check_embedded(result: np.ndarray, indices: list[np.ndarray], params: EmbeddingsParams, dtype: str) -> None:
    pairs = zip((params.token, params.token_type, params.position), indices, strict=True)
    terms = [wide(table)[index] for table, index in pairs]
    check(result, sum(terms), wide(params.layer_norm), dtype, sum(np.abs(term) for term in terms))


@HOW_MANY_EXAMPLES
@EVERY_DTYPE
def test_equal_to_the_reference(dtype: str, examples: int) -> None:
    @settings(max_examples=examples, phases=set(Phase) - {Phase.explain})
    @given(
        rows=st.one_of(st.integers(0, 9), st.just(40)),
        width=st.one_of(st.sampled_from([1, 8, 64, 264]), st.integers(1, 100)),
        index_type=st.sampled_from(["int64", "int32"]),
        layout=LAYOUTS,
        schedule=st.sampled_from(SCHEDULES),
        seed=st.integers(0, 2**16),
    )
    def compare(rows: int, width: int, index_type: str, layout: str, schedule: Schedule, seed: int) -> None:
        random = np.random.default_rng(seed)
        params = tables(random, width, dtype, layout)
        indices = [random.integers(0, size, rows).astype(index_type) for size in SIZES]
        for index in indices:
            index.flags.writeable = False
        check_embedded(embed(emulated(schedule), *indices, params, EPS)[0], indices, params, dtype)

    compare()
    launched = [kernel for schedule in SCHEDULES for kernel in emulated(schedule).launches]
    assert {kernel for kernel in launched if kernel.file == "embeddings.cu"} <= set(embeddings.kernels())


WRONG = [-1, -(2**31), -(2**63), 2**31, 2**63 - 1]


@EVERY_DTYPE
@pytest.mark.parametrize("which", range(3))
def test_a_wrong_index_gives_a_row_of_nan_and_spoils_no_other(which: int, dtype: str) -> None:
    random = np.random.default_rng(0)
    wrong = [*WRONG, SIZES[which]]
    indices = [random.integers(0, size, 4 * len(wrong)) for size in SIZES]
    indices[which][::4] = wrong
    params = tables(random, 16, dtype)
    result, _ = embed(emulated(SCHEDULES[1]), *indices, params, EPS)
    is_wrong = np.arange(len(result)) % 4 == 0
    assert np.isnan(result[is_wrong].astype(np.float32)).all()
    check_embedded(result[~is_wrong], [index[~is_wrong] for index in indices], params, dtype)


def test_the_first_and_the_last_rows_of_tables_are_used() -> None:
    params = tables(np.random.default_rng(0), 40, "float32")
    indices = [np.array([0, size - 1]) for size in SIZES]
    check_embedded(embed(emulated(), *indices, params, EPS)[0], indices, params, "float32")


def test_everything_is_in_the_type_of_the_token_table() -> None:
    """Users' own embeddings come in its place."""
    random = np.random.default_rng(0)
    token = placed(random.normal(size=(6, 24)), "float32")
    params = tables(random, 24, "float16")._replace(token=token)
    indices = [np.arange(6), np.zeros(6, int), np.arange(2, 8)]
    check_embedded(embed(emulated(), *indices, params, EPS)[0], indices, params, "float32")


@pytest.mark.exhaustive
def test_nothing_outside_of_arrays_is_touched() -> None:
    """By wrong indices too."""
    done = run_sanitized(f"""
import numpy as np
from tests.cuda_emulator import EmulatedGpu
from xlmr_np.layers.embeddings import EmbeddingsParams
from xlmr_np.layers.layer_norm import LayerNormParams
from xlmr_np.ops.cuda.embeddings import embed, embed_backward
from xlmr_np.ops.cuda.norms import NormCache
gpu = EmulatedGpu(sanitize=True)
index = np.array({[0, *WRONG, 5, 4, 1]})
for width in (72, 264):
    table, row = np.ones((5, width), np.float16), np.ones(width, np.float16)
    params = EmbeddingsParams(table, table, table[:1], LayerNormParams(row, row))
    y, _ = embed(gpu, index, index * 0, index % 7, params, 1e-5)
    y, cache = embed(gpu, index, index * 0, index % 7, params, 1e-5, with_cache=True)
    print(np.isnan(y).all(axis=1).sum())
    d_params = embed_backward(gpu, y, cache, index, index, index % 7, params._replace(token_type=table), 1)
    print(d_params.token.index)
    many = np.repeat(index, 13)
    cache = NormCache(np.ones((len(many), width), np.float16), np.ones(len(many), np.float32))
    embed_backward(gpu, cache.normalized, cache, many, many * 0, many % 7, params, None)
print("done", len(set(gpu.launches)))
""")
    assert done.stdout == "6\n[0 4]\n6\n[0 4]\ndone 6\n", done.stderr


def test_no_tokens() -> None:
    nothing = np.zeros(0, np.int64)
    for dtype in DTYPES:
        result, _ = embed(emulated(), nothing, nothing, nothing, tables(np.random.default_rng(0), 8, dtype), EPS)
        assert (result.shape, result.dtype) == ((0, 8), DTYPES[dtype])


# --- training ---


@HOW_MANY_EXAMPLES
@EVERY_DTYPE
def test_forward_for_training(dtype: str, examples: int) -> None:
    """With dropout and a cache; without dropout, the very bits of inference."""

    @settings(max_examples=examples, phases=set(Phase) - {Phase.explain})
    @given(
        rows=st.integers(0, 9),
        width=st.one_of(st.sampled_from([1, 8, 64, 264]), st.integers(1, 100)),
        rate=RATES,
        with_cache=st.booleans(),
        schedule=st.sampled_from(SCHEDULES),
        seed=st.integers(0, 2**16),
    )
    def compare(rows: int, width: int, rate: float | None, with_cache: bool, schedule: Schedule, seed: int) -> None:
        random, gpu = np.random.default_rng(seed), emulated(schedule)
        params = tables(random, width, dtype)
        indices = [random.integers(0, size, rows) for size in SIZES]
        dropout = dropped(rate, rows, random)
        result, kept = embed(gpu, *indices, params, EPS, dropout, with_cache)
        inference, _ = embed(gpu, *indices, params, EPS)
        scaled = dropout_forward(wide(inference), dropout)
        # Rounded once, behind the dropout, where inference is rounded before it; and half the step near 0 on each side.
        np.testing.assert_allclose(
            wide(result), scaled, rtol=3 * ROUNDING[dtype], atol=4 * SMALLEST[dtype] * np.isfinite(scaled).all()
        )
        assert rate is not None or result.tobytes() == inference.tobytes()
        assert (kept is not None) == with_cache
        if kept is not None:
            ones = LayerNormParams(np.ones(width), np.zeros(width))
            check_embedded(kept.normalized, indices, params._replace(layer_norm=ones), dtype)
            pairs = zip((params.token, params.token_type, params.position), indices, strict=True)
            _, (_, inverse_std) = layer_norm_forward(sum(wide(table)[index] for table, index in pairs), ones, EPS)
            np.testing.assert_allclose(kept.inverse_std, inverse_std[:, 0], rtol=1e-12 if dtype == "float64" else 1e-4)

    compare()


def test_a_wrong_index_gives_a_cache_of_nan() -> None:
    params = tables(np.random.default_rng(0), 16, "float32")
    _, kept = embed(emulated(), np.array([3, 99]), np.zeros(2, int), np.zeros(2, int), params, EPS, with_cache=True)
    assert np.isnan(kept.normalized).all(axis=1).tolist() == [False, True]
    assert np.isnan(kept.inverse_std).tolist() == [False, True]


class Gradient(NamedTuple):
    """Arguments of `embed_backward`."""

    d_y: np.ndarray
    cache: NormCache
    ids: np.ndarray
    token_types: np.ndarray
    positions: np.ndarray
    params: EmbeddingsParams
    pad_id: int | None
    dropout: Dropout | None


def gradient(
    rows: int,
    width: int,
    dtype: str,
    different: int = 23,
    types: int = 3,
    pad_id: int | None = 1,
    rate: float | None = None,
    seed: int = 0,
) -> Gradient:
    """With so many different ids and token types."""
    random = np.random.default_rng(seed)
    params = tables(random, width, dtype)
    params = params._replace(token_type=params.token_type[:types])
    d_y, normalized = (placed(random.normal(size=(rows, width)), dtype) for _ in range(2))
    cache = NormCache(
        normalized, placed(np.exp(random.normal(size=rows)), "float64" if dtype == "float64" else "float32")
    )
    indices = [random.integers(0, size, rows) for size in (different, types, SIZES[2])]
    return Gradient(d_y, cache, *indices, params, pad_id, dropped(rate, rows, random))


def check_gradients(result: EmbeddingsParams, given: Gradient, dtype: str) -> None:
    d_y, (normalized, inverse_std), params = wide((given.d_y, given.cache, given.params))
    d_y = dropout_backward(d_y, given.dropout)
    d_total, d_norm = layer_norm_backward(d_y, LayerNormCache(normalized, inverse_std[:, None]), params.layer_norm)
    sizes = inverse_std * np.abs(d_y * params.layer_norm.weight).max(axis=1, initial=0)
    sizes = sizes * (2 + np.abs(normalized).max(axis=1, initial=0))
    # Each row is rounded before it is added, and sums are then rounded in units of their terms.
    inexact = (ROUNDING[dtype] + SUMS[dtype]) * np.abs(d_total) + SUMS[dtype] * sizes[:, None] + SMALLEST[dtype]
    indices = given.ids, given.token_types, given.positions
    expected, allowed = (table_gradients(each, *indices, params, given.pad_id) for each in (d_total, inexact))
    np.testing.assert_array_equal(result.token.index, expected.token.index)
    assert result.token.number_of_rows == SIZES[0]
    for ours, theirs, most in (
        (result.token.rows, expected.token.rows, allowed.token.rows),
        (result.token_type, expected.token_type, allowed.token_type),
        (result.position, expected.position, allowed.position),
        (result.layer_norm.weight, d_norm.weight, SUMS[dtype] * np.abs(d_y * normalized).sum(axis=0)),
        (result.layer_norm.bias, d_norm.bias, SUMS[dtype] * np.abs(d_y).sum(axis=0)),
    ):
        assert ours.dtype == (np.float64 if dtype == "float64" else np.float32)
        assert ours.shape == theirs.shape
        assert (np.abs(ours - theirs) <= 2 * most).all()


@HOW_MANY_EXAMPLES
@EVERY_DTYPE
def test_backward_is_equal_to_the_reference(dtype: str, examples: int) -> None:
    @settings(max_examples=examples, phases=set(Phase) - {Phase.explain})
    @given(
        rows=st.one_of(st.integers(0, 9), st.sampled_from([31, 32, 33, 64, 100, 200])),
        width=st.one_of(st.sampled_from([1, 8, 64, 264]), st.integers(1, 100)),
        different=st.sampled_from([1, 2, 5, 23]),
        types=st.sampled_from([1, 2, 3]),
        pad_id=st.sampled_from([None, 0, 1]),
        rate=RATES,
        schedule=st.sampled_from(SCHEDULES),
        seed=st.integers(0, 2**16),
    )
    def compare(
        rows: int,
        width: int,
        different: int,
        types: int,
        pad_id: int | None,
        rate: float | None,
        schedule: Schedule,
        seed: int,
    ) -> None:
        given = gradient(rows, width, dtype, different, types, pad_id, rate, seed)
        check_gradients(embed_backward(emulated(schedule), *given), given, dtype)

    compare()
    launched = [kernel for schedule in SCHEDULES for kernel in emulated(schedule).launches]
    assert {kernel for kernel in launched if kernel.file.startswith("embeddings")} <= set(embeddings.kernels())


@pytest.mark.parametrize("run", [31, 32, 33, 63, 64, 65, 97])
@pytest.mark.parametrize("before", [0, 1, 31, 32, 40])
def test_a_run_that_lies_anywhere_between_tiles(before: int, run: int) -> None:
    """Whole numbers, whose sums are exact."""
    ids = np.concatenate([np.zeros(before, int), np.full(run, 4), np.full(30, 7)])
    order = np.random.default_rng(run).permutation(len(ids))
    numbers = np.arange(len(ids), dtype=np.float32) % 17
    rows = np.stack([numbers, numbers + 1], axis=1)[order]
    places, sorted_ids = np.argsort(ids[order], stable=True), np.sort(ids)
    result = embeddings._add_runs(emulated(), rows, places, sorted_ids, 9)
    expected = np.zeros((9, 2), np.float32)
    np.add.at(expected, ids[order], rows)
    np.testing.assert_array_equal(result, expected)


def test_gradients_of_wrong_indices_are_left_out() -> None:
    """They come from rows of NaN, which only sums over all tokens have to show."""
    given = gradient(60, 16, "float32")
    indices = {}
    for name, size in zip(("ids", "token_types", "positions"), (SIZES[0], SIZES[1], SIZES[2]), strict=True):
        index = getattr(given, name).copy()
        index[::10] = [*WRONG, size]
        indices[name] = index
    d_y = given.d_y.copy()
    d_y[::10] = np.nan
    result = embed_backward(emulated(), *given._replace(d_y=d_y, **indices))
    is_right = np.arange(60) % 10 != 0
    rest = [leaf[is_right] for leaf in (given.d_y, *given.cache, given.ids, given.token_types, given.positions)]
    right = Gradient(rest[0], NormCache(*rest[1:3]), *rest[3:], given.params, given.pad_id, None)
    assert np.isnan(result.layer_norm.bias).all()
    check_gradients(result._replace(layer_norm=embed_backward(emulated(), *right).layer_norm), right, "float32")


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_gradients_have_the_same_bits_under_every_schedule(dtype: str) -> None:
    given = gradient(150, 72, dtype, different=5, rate=0.3)
    results = [embed_backward(emulated(schedule), *given) for schedule in SCHEDULES]
    flat = [[result.token.rows, *trees.leaves(result._replace(token=result.token.index))] for result in results]
    assert len({b"".join(leaf.tobytes() for leaf in leaves) for leaves in flat}) == 1


BACKWARD_FAULTS = {
    "no barrier before the order is used": without(BARRIER),
    "a run from before taken for a new one": without(
        r"is_from_before = tile_places\[-1\] == tile_places\[0\]", 0, "is_from_before = false"
    ),
    "sums not begun anew": without(r"sums\[column\] = 0;", 0, ";"),
    "a part written as the whole": without(r"is_from_before \|\| goes_on \?", 0, "is_from_before ?"),
    "the last tile of a run left out": without(r"tile <= tiles", 0, "tile < tiles"),
    "the first tile of a run left out": without(r"long long tile = 1;", 0, "long long tile = 2;"),
    "runs joined in every tile that they cross": without(r" \|\| is_from_before\) return", 0, ") return"),
    "a tile of the next run": without(r"long long tiles = 1,", 0, "long long tiles = 2,"),
}


@pytest.mark.parametrize("fault", some_of(BACKWARD_FAULTS))
def test_a_fault_in_the_backward_kernels_is_seen(fault: str) -> None:
    given = gradient(200, 72, "float16", different=3, types=2)
    assert is_seen(
        "embeddings_backward.cu",
        BACKWARD_FAULTS[fault],
        lambda gpu: check_gradients(embed_backward(gpu, *given), given, "float16"),
    )


def test_a_dropout_forgotten_in_the_training_kernel_is_seen() -> None:
    params, dropout = tables(np.random.default_rng(0), 72, "float32"), dropped(0.5, 3, np.random.default_rng(0))
    index = np.arange(3)
    expected, _ = embed(emulated(), index, index, index, params, EPS, dropout)

    def run(gpu: EmulatedGpu) -> None:
        assert embed(gpu, index, index, index, params, EPS, dropout)[0].tobytes() == expected.tobytes()

    run(emulated(SCHEDULES[1]))
    assert is_seen("embeddings.cu", without(r"if \(sentences\) drop_features[^;]*;"), run)
