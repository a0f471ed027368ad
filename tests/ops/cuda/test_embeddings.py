"""The kernels of embeddings.cu and embeddings_backward.cu, executed in emulation, against layers.embeddings."""

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.cuda_emulator import Schedule, run_sanitized, why_not
from tests.ops.calls import DTYPES, EPS
from tests.ops.cuda.test_norms import EVERY_DTYPE, HOW_MANY_EXAMPLES, LAYOUTS, SCHEDULES, check, emulated, placed, wide
from xlmr_np.layers.embeddings import EmbeddingsParams
from xlmr_np.layers.layer_norm import LayerNormParams
from xlmr_np.ops.cuda import embeddings
from xlmr_np.ops.cuda.embeddings import embed

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


def test_nothing_outside_of_arrays_is_touched() -> None:
    """By wrong indices too."""
    done = run_sanitized(f"""
import numpy as np
from tests.cuda_emulator import EmulatedGpu
from xlmr_np.layers.embeddings import EmbeddingsParams
from xlmr_np.layers.layer_norm import LayerNormParams
from xlmr_np.ops.cuda.embeddings import embed
gpu = EmulatedGpu(sanitize=True)
index = np.array({[0, *WRONG, 5, 4, 1]})
for width in (72, 264):
    table, row = np.ones((5, width), np.float16), np.ones(width, np.float16)
    params = EmbeddingsParams(table, table, table[:1], LayerNormParams(row, row))
    y, _ = embed(gpu, index, index * 0, index % 7, params, 1e-5)
    print(np.isnan(y).all(axis=1).sum())
print("done", len(set(gpu.launches)))
""")
    assert done.stdout == "6\n6\ndone 1\n", done.stderr


def test_no_tokens() -> None:
    nothing = np.zeros(0, np.int64)
    for dtype in DTYPES:
        result, _ = embed(emulated(), nothing, nothing, nothing, tables(np.random.default_rng(0), 8, dtype), EPS)
        assert (result.shape, result.dtype) == ((0, 8), DTYPES[dtype])
