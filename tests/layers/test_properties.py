"""What must hold of softmax, layer norm, positions and random bits for any input."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tests.libraries import LIBRARIES, Library, check_record, to_numpy
from xlmr_np.layers.dropout import Philox, attention_keep, philox_block
from xlmr_np.layers.embeddings import position_ids
from xlmr_np.layers.layer_norm import LayerNormParams, layer_norm_forward
from xlmr_np.layers.softmax import softmax_forward

numbers = st.floats(-1e3, 1e3)
matrices = arrays.arrays(
    np.float64, arrays.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=6), elements=numbers
)


@given(matrices, numbers)
def test_softmax_ignores_a_shift(scores: np.ndarray, shift: float) -> None:
    probabilities, cache = softmax_forward(scores)
    shifted, _ = softmax_forward(scores + shift)
    np.testing.assert_allclose(shifted, probabilities, atol=1e-12)  # the shift itself is rounded
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-14)
    assert (probabilities >= 0).all()
    check_record(cache)


@given(matrices, st.data())
def test_softmax_over_the_visible_is_softmax_of_the_visible(scores: np.ndarray, data: st.DataObject) -> None:
    is_visible = data.draw(arrays.arrays(bool, scores.shape[-1]))
    probabilities, _ = softmax_forward(scores, is_visible)
    assert (probabilities[..., ~is_visible] == 0).all()
    if is_visible.any():
        np.testing.assert_allclose(
            probabilities[..., is_visible], softmax_forward(scores[..., is_visible])[0], atol=1e-15
        )


def test_softmax_neither_overflows_nor_divides_by_zero(library: Library) -> None:
    scores = np.array([[1e4, -1e4, 0.0], [np.finfo(np.float64).max, 0.0, 0.0], [5.0, 5.0, 5.0]])
    is_visible = np.array([[True, True, True], [True, True, True], [False, False, False]])
    probabilities, _ = softmax_forward(library.array(scores), library.array(is_visible))
    np.testing.assert_array_equal(to_numpy(probabilities), [[1, 0, 0], [1, 0, 0], [0, 0, 0]])
    nothing, _ = softmax_forward(library.array(np.zeros((2, 0))))
    assert to_numpy(nothing).shape == (2, 0)


@pytest.mark.parametrize("is_visible", [None, np.array([True, False, True])], ids=["all visible", "some hidden"])
@pytest.mark.parametrize(("storage", "computed"), [("float16", "float32"), ("float32", "float32"), ("float64",) * 2])
def test_softmax_is_computed_in_at_least_float32(storage: str, computed: str, is_visible: np.ndarray | None) -> None:
    probabilities, _ = softmax_forward(np.zeros((1, 3), storage), is_visible)
    assert probabilities.dtype == computed


@given(
    arrays.arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(2, 8)), elements=st.floats(-10, 10)),
    st.floats(-100, 100),
    st.floats(0.5, 20),
)
def test_layer_norm_ignores_shift_and_scale(x: np.ndarray, shift: float, scale: float) -> None:
    eps = 1e-9
    params = LayerNormParams(np.ones(x.shape[1]), np.zeros(x.shape[1]))
    spread = x.var(axis=1, keepdims=True)
    x = x[(spread > 1e-2)[:, 0]]  # of a constant row, eps is all that is left
    y, _ = layer_norm_forward(x, params, eps)
    moved, _ = layer_norm_forward(x * scale + shift, params, eps)
    np.testing.assert_allclose(moved, y, atol=1e-6)  # eps itself is not scaled
    np.testing.assert_allclose(y.mean(1), 0, atol=1e-12)
    np.testing.assert_allclose(y.var(1), 1, atol=1e-6)  # by eps less than 1


rows_of_bits = arrays.arrays(bool, st.tuples(st.integers(1, 4), st.integers(1, 9)))


@given(rows_of_bits, st.integers(0, 3), st.sampled_from(LIBRARIES))
def test_positions_count_the_tokens_of_a_row(is_token: np.ndarray, pad_id: int, library: Library) -> None:
    positions = to_numpy(position_ids(library.array(is_token.astype(np.int64)), pad_id))
    for row, places in zip(is_token, positions, strict=True):
        assert places[row].tolist() == list(range(pad_id + 1, pad_id + 1 + row.sum()))
        assert (places[~row] == pad_id).all()


def test_positions_of_the_published_example() -> None:
    # transformers, test_create_position_ids_respects_padding_index
    ids = np.array([[12, 31, 13, 1]])
    np.testing.assert_array_equal(position_ids((ids != 1).astype(int), 1), [[2, 3, 4, 1]])


def test_philox_gives_the_published_words(library: Library) -> None:
    # Random123's known answers for philox4x32-10: (counter, key, words)
    known = [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ]
    for counter, key, words in known:
        block = philox_block(tuple(library.array(np.array([word])) for word in counter), Philox(*key))
        assert tuple(int(word[0]) for word in block) == words


def test_dropout_bits_depend_on_the_place_alone(library: Library) -> None:
    key = Philox(7, 9)
    large = to_numpy(attention_keep(key, 0.3, 2, library.array(np.zeros((3, 8, 10)))))
    small = to_numpy(attention_keep(key, 0.3, 2, library.array(np.zeros((2, 5, 7)))))
    np.testing.assert_array_equal(large[:2, :5, :7], small)
    other = to_numpy(attention_keep(key, 0.3, 3, library.array(np.zeros((3, 8, 10)))))
    assert (large != other).any()


def test_dropout_keeps_the_right_share() -> None:
    keep = attention_keep(Philox(1, 1), 0.1, 0, np.zeros((8, 64, 64)))
    assert abs(keep.mean() - 0.9) < 0.01  # 32768 draws: five standard deviations
