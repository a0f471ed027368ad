"""The embeddings' backward pass, in both layouts: proven, against torch's own modules, and on every array library."""

import numpy as np
import pytest
import torch

from tests.gradients import check_gradients
from tests.layers.test_gradients import Bits
from tests.libraries import LIBRARIES, Library, check_record, to_numpy
from xlmr_np import trees
from xlmr_np.layers.dropout import Dropout, Philox, TokenKey, token_keep
from xlmr_np.layers.embeddings import (
    EmbeddingsParams,
    embeddings_backward,
    embeddings_forward,
    position_ids,
)
from xlmr_np.layers.layer_norm import LayerNormParams
from xlmr_np.row_sparse import RowSparse

B, T, D = 3, 4, 6
V, POSITIONS, TYPES = 11, 9, 2
PAD = 1
EPS = 1e-5
RANDOM = np.random.default_rng(11)

PADDED_IDS = np.array([[0, 9, 9, 2], [0, 4, 2, PAD], [PAD, PAD, 9, 10]])
IS_REAL = PADDED_IDS != PAD
PADDED_POSITIONS = position_ids(IS_REAL.astype(np.int64), PAD)
PADDED_TYPES = RANDOM.integers(0, TYPES, (B, T))
SENTENCES, ROWS = np.indices((B, T))
PADDED = PADDED_IDS, PADDED_TYPES, PADDED_POSITIONS
PACKED = tuple(index[IS_REAL] for index in PADDED)
LAYOUTS = {"padded": PADDED, "packed": PACKED}
TOKEN_KEY = TokenKey(Philox(3, 4), SENTENCES, ROWS)
DROPOUTS = {
    "no dropout": {"padded": None, "packed": None},
    "bits": {
        "padded": Dropout(0.3, RANDOM.random((B, T, D)) > 0.3),
        "packed": Dropout(0.3, RANDOM.random((9, D)) > 0.3),
    },
    "key": {
        "padded": Dropout(0.3, TOKEN_KEY),
        "packed": Dropout(0.3, TokenKey(TOKEN_KEY.key, SENTENCES[IS_REAL], ROWS[IS_REAL])),
    },
}


def tables() -> EmbeddingsParams:
    norm = LayerNormParams(RANDOM.normal(size=D), RANDOM.normal(size=D))
    return EmbeddingsParams(*(RANDOM.normal(size=(rows, D)) for rows in (V, POSITIONS, TYPES)), norm)


def dense(gradient: EmbeddingsParams) -> EmbeddingsParams:
    return gradient._replace(token=gradient.token.to_dense())


def gradient_of(
    d_y: np.ndarray,
    index: tuple[np.ndarray, ...],
    params: EmbeddingsParams,
    pad_id: int | None,
    dropout: Dropout | None = None,
    library: Library = LIBRARIES[0],
) -> EmbeddingsParams:
    """Forward and backward on one library."""
    d_y, index, params, dropout = library.tree((d_y, index, params, dropout))
    _, cache = embeddings_forward(*index, params, EPS, dropout)
    return embeddings_backward(d_y, cache, *index, params, pad_id, dropout)


@pytest.mark.parametrize("drops", DROPOUTS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients(layout: str, drops: str) -> None:
    bits = Bits((LAYOUTS[layout], DROPOUTS[drops][layout]))
    pad_id = None if layout == "padded" else PAD  # where padding is looked up, what it gets is not its derivative

    def forward(params):
        index, dropout = bits.like(params.token)
        return embeddings_forward(*index, params, EPS, dropout)

    def backward(d_y, cache, params):
        index, dropout = bits.like(params.token)
        return dense(embeddings_backward(d_y, cache, *index, params, pad_id, dropout))

    check_gradients(forward, backward, tables())


@pytest.mark.parametrize("drops", DROPOUTS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pad_id", [None, 0, PAD, V - 3])
def test_torch_modules_have_the_same_gradients(layout: str, drops: str, pad_id: int | None) -> None:
    ids, token_types, positions = index = LAYOUTS[layout]
    dropout, params, d_y = DROPOUTS[drops][layout], tables(), RANDOM.normal(size=(*ids.shape, D))

    def module(table: np.ndarray, padding_idx: int | None) -> torch.nn.Embedding:
        return torch.nn.Embedding.from_pretrained(torch.tensor(table), freeze=False, padding_idx=padding_idx)

    token, position, token_type = (
        module(params.token, pad_id),
        module(params.position, pad_id),
        module(params.token_type, None),
    )
    norm = torch.nn.LayerNorm(D, EPS, dtype=torch.float64)
    norm.load_state_dict(
        {"weight": torch.tensor(params.layer_norm.weight), "bias": torch.tensor(params.layer_norm.bias)}
    )
    y = norm(token(torch.tensor(ids)) + token_type(torch.tensor(token_types)) + position(torch.tensor(positions)))
    y.backward(torch.tensor(d_y * survivors(dropout, d_y)))

    gradient = dense(gradient_of(d_y, index, params, pad_id, dropout))
    expected = EmbeddingsParams(
        token.weight.grad,
        position.weight.grad,
        token_type.weight.grad,
        LayerNormParams(norm.weight.grad, norm.bias.grad),
    )
    trees.map_leaves(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-12), gradient, expected
    )


def survivors(dropout: Dropout | None, like: np.ndarray) -> np.ndarray:
    """What dropout multiplies with."""
    if dropout is None:
        return np.ones_like(like)
    keep = token_keep(dropout.keep, dropout.rate, like) if isinstance(dropout.keep, TokenKey) else dropout.keep
    return keep / (1 - dropout.rate)


def test_m12_padding_rows_get_no_gradient_from_the_input() -> None:
    params, d_y = tables(), RANDOM.normal(size=(B, T, D))
    trained, derivative = (gradient_of(d_y, PADDED, params, pad_id) for pad_id in (PAD, None))
    assert PAD not in trained.token.index
    assert (trained.position[PAD] == 0).all()
    for gradient in (derivative.token.to_dense(), derivative.position):
        assert (gradient[PAD] != 0).all()
    # Nothing else is left out, and token types and norm see padding too.
    others = derivative.token.index != PAD
    np.testing.assert_array_equal(trained.token.index, derivative.token.index[others])
    np.testing.assert_allclose(trained.token.rows, derivative.token.rows[others], rtol=1e-14)
    np.testing.assert_allclose(np.delete(trained.position, PAD, 0), np.delete(derivative.position, PAD, 0), rtol=1e-14)
    np.testing.assert_array_equal(trained.token_type, derivative.token_type)
    trees.map_leaves(np.testing.assert_array_equal, trained.layer_norm, derivative.layer_norm)


def test_padding_of_the_two_tables_is_told_apart() -> None:
    """A real token may stand at position `pad_id`, and padding at another one, if the caller says so."""
    ids, positions = np.array([PAD, 5]), np.array([4, PAD])
    index, params = (ids, ids * 0, positions), tables()
    d_y = RANDOM.normal(size=(2, D))
    gradient, derivative = (gradient_of(d_y, index, params, pad_id) for pad_id in (PAD, None))
    assert gradient.token.index.tolist() == [5]
    np.testing.assert_allclose(gradient.token.rows[0], derivative.token.to_dense()[5], rtol=1e-14)
    assert np.flatnonzero(gradient.position.any(1)).tolist() == [4]
    np.testing.assert_allclose(gradient.position[4], derivative.position[4], rtol=1e-14)


def test_both_layouts_have_the_same_gradients() -> None:
    params, d_y = tables(), RANDOM.normal(size=(B, T, D)) * IS_REAL[..., None]
    padded, packed = (
        dense(gradient_of(d_rows, index, params, PAD, DROPOUTS["key"][layout]))
        for layout, index, d_rows in (("padded", PADDED, d_y), ("packed", PACKED, d_y[IS_REAL]))
    )
    trees.map_leaves(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-13), padded, packed)


@pytest.mark.parametrize("drops", DROPOUTS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pad_id", [None, PAD])
def test_every_library_agrees(library: Library, layout: str, drops: str, pad_id: int | None) -> None:
    index, params, dropout = LAYOUTS[layout], tables(), DROPOUTS[drops][layout]
    d_y = RANDOM.normal(size=(*index[0].shape, D))
    gradient = gradient_of(d_y, index, params, pad_id, dropout, library)
    check_record(gradient)
    check_record(gradient.token)
    assert type(gradient.token.rows) is type(library.array(d_y))
    trees.map_leaves(
        lambda ours, expected: np.testing.assert_allclose(to_numpy(ours), expected, rtol=1e-12, atol=1e-13),
        dense(gradient),
        dense(gradient_of(d_y, index, params, pad_id, dropout)),
    )


def test_the_rows_of_the_token_gradient_are_distinct_and_rise(library: Library) -> None:
    ids = RANDOM.integers(0, 3000, 400)
    params = tables()._replace(token=RANDOM.normal(size=(3000, D)))
    zeros = np.zeros_like(ids)
    token = gradient_of(RANDOM.normal(size=(400, D)), (ids, zeros, zeros), params, None, library=library).token
    assert isinstance(token, RowSparse)
    assert to_numpy(token.index).tolist() == sorted(set(ids.tolist()))
    assert token.number_of_rows == 3000
    assert token.shape == (3000, D)


@pytest.mark.parametrize("pad_id", [None, PAD])
@pytest.mark.parametrize("index", [np.zeros(0, np.int64), np.full(2, PAD), np.zeros((2, 0), np.int64)])
def test_a_batch_without_a_trained_token(library: Library, index: np.ndarray, pad_id: int | None) -> None:
    d_y = np.ones((*index.shape, D))
    gradient = gradient_of(d_y, (index, index * 0, index), tables(), pad_id, library=library)
    trained = 1 if pad_id is None and index.size else 0
    assert gradient.token.index.shape == (trained,)
    assert gradient.token.rows.shape == (trained, D)
    assert gradient.token.number_of_rows == V
    assert gradient.position.shape == (POSITIONS, D)
    np.testing.assert_array_equal(to_numpy(gradient.layer_norm.bias), np.full(D, index.size))


def test_indices_may_be_32_bit_numbers(library: Library) -> None:
    params, d_y = tables(), RANDOM.normal(size=(B, T, D))
    narrow = tuple(index.astype(np.int32) for index in PADDED)
    gradients = [dense(gradient_of(d_y, index, params, PAD, library=library)) for index in (narrow, PADDED)]
    trees.map_leaves(lambda a, b: np.testing.assert_array_equal(to_numpy(a), to_numpy(b)), *gradients)


def half(params: EmbeddingsParams) -> EmbeddingsParams:
    return trees.map_leaves(lambda leaf: leaf.astype(np.float16), params)


def test_half_precision_tables_have_float32_gradients() -> None:
    params, d_y = half(tables()), RANDOM.normal(size=(B, T, D)).astype(np.float32)
    gradient = dense(gradient_of(d_y, PADDED, params, PAD))
    wide = trees.map_leaves(lambda leaf: leaf.astype(np.float64), params)
    expected = dense(gradient_of(d_y.astype(np.float64), PADDED, wide, PAD))
    assert {leaf.dtype for leaf in trees.leaves(gradient)} == {np.dtype(np.float32)}
    trees.map_leaves(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), gradient, expected)


def test_a_half_precision_gradient_is_summed_in_float32() -> None:
    tokens = 5000  # beyond 2048 float16 has no odd numbers
    ids = np.full(tokens, 7)
    params = tables()
    d_y = np.tile(RANDOM.normal(size=D), (tokens, 1)).astype(np.float16)
    gradient = gradient_of(d_y, (ids, ids * 0, ids), half(params), None)
    one = gradient_of(d_y[:1], (ids[:1], ids[:1] * 0, ids[:1]), half(params), None)
    assert {leaf.dtype for leaf in trees.leaves(gradient)} == {np.dtype(np.float32)}
    np.testing.assert_allclose(gradient.token.rows, tokens * one.token.rows, rtol=1e-5)
    np.testing.assert_allclose(gradient.position, tokens * one.position, rtol=1e-5)
    np.testing.assert_allclose(gradient.token_type, tokens * one.token_type, rtol=1e-5)


def test_a_gradient_with_a_wrong_type_of_rows_is_found_out() -> None:
    gradient = gradient_of(RANDOM.normal(size=(B, T, D)), PADDED, tables(), PAD)
    with pytest.raises(TypeError):
        check_record(RowSparse(gradient.token.index, gradient.token.rows[1:], V))
