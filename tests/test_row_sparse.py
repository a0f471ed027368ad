"""A matrix with few rows that are not zero, against the dense one."""

from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.libraries import LIBRARIES, Library, check_record, to_numpy
from xlmr_np import trees
from xlmr_np.row_sparse import RowSparse


def row_sparse(index: list[int], rows: np.ndarray, number_of_rows: int, library: Library = LIBRARIES[0]) -> RowSparse:
    return RowSparse(library.array(np.array(index, np.int64)), library.array(rows), number_of_rows)


@given(st.integers(1, 8), st.integers(1, 3), st.data(), st.sampled_from(LIBRARIES))
def test_to_dense_and_add_to_agree_with_the_dense_matrix(
    number_of_rows: int, width: int, data: st.DataObject, library: Library
) -> None:
    index = sorted(data.draw(st.sets(st.integers(0, number_of_rows - 1))))
    rows = 1.0 + np.arange(len(index) * width, dtype=np.float32).reshape(len(index), width)
    sparse = row_sparse(index, rows, number_of_rows, library)
    expected = np.zeros((number_of_rows, width), np.float32)
    expected[index] = rows
    check_record(sparse)
    assert sparse.shape == expected.shape
    assert sparse.dtype == sparse.rows.dtype
    dense = sparse.to_dense()
    assert dense.dtype == sparse.dtype
    np.testing.assert_array_equal(to_numpy(dense), expected, strict=True)


@pytest.mark.parametrize("array", [np.array, torch.tensor], ids=["numpy", "torch"])
def test_add_to_adds_in_place(array) -> None:
    sparse = RowSparse(array([0, 2, 4]), array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), 5)
    dense = array([[10.0, 20.0]] * 5)
    sparse.add_to(dense)
    np.testing.assert_array_equal(to_numpy(dense), [[11, 22], [10, 20], [13, 24], [10, 20], [15, 26]])


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.name)
def test_nothing_touched_is_all_zeros(library: Library) -> None:
    empty = row_sparse([], np.zeros((0, 3)), 4, library)
    np.testing.assert_array_equal(to_numpy(empty.to_dense()), np.zeros((4, 3)), strict=True)
    dense = np.ones((4, 3))
    row_sparse([], np.zeros((0, 3)), 4).add_to(dense)
    np.testing.assert_array_equal(dense, np.ones((4, 3)))


@pytest.mark.parametrize("shape", [(5, 2), (4, 1), (3, 2)])
def test_a_matrix_of_another_shape_is_refused_and_left_alone(shape: tuple[int, int]) -> None:
    dense = np.zeros(shape)
    with pytest.raises(ValueError, match=rf"^A matrix \(4, 2\) cannot .* shape, \({shape[0]}, {shape[1]}\)\.$"):
        row_sparse([0], np.ones((1, 2)), 4).add_to(dense)
    assert not dense.any()


def test_it_is_one_leaf_of_a_tree_and_cannot_be_changed() -> None:
    sparse = row_sparse([1], np.ones((1, 2)), 3)
    assert list(trees.leaves((sparse, None, (sparse,)))) == [sparse, sparse]
    assert sparse != row_sparse([1], np.ones((1, 2)), 3)  # comparing arrays has no one answer
    with pytest.raises(FrozenInstanceError):
        sparse.number_of_rows = 4
