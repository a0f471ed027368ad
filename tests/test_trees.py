"""Walks over parameter trees."""

from typing import Any, NamedTuple

import pytest

from xlmr_np.trees import leaves, map_leaves


class Pair(NamedTuple):
    first: Any
    second: Any


class OtherPair(NamedTuple):
    first: Any
    second: Any


TREE = Pair(1, (2, Pair(None, 3), ()))


def test_leaves_come_from_left_to_right() -> None:
    assert list(leaves(TREE)) == [1, 2, 3]
    assert list(leaves(7)) == [7]
    assert list(leaves(None)) == []


def test_mapping_keeps_the_structure_and_its_types() -> None:
    mapped = map_leaves(lambda leaf: leaf * 10, TREE)
    assert mapped == Pair(10, (20, Pair(None, 30), ()))
    assert type(mapped) is Pair
    assert type(mapped.second) is tuple
    assert type(mapped.second[1]) is Pair
    assert list(leaves(TREE)) == [1, 2, 3]


def test_a_leaf_alone_and_nothing_are_trees() -> None:
    assert map_leaves(str, 1) == "1"
    assert map_leaves(str, None) is None


def test_several_trees_are_walked_together() -> None:
    assert map_leaves(lambda a, b, c: (a + b) * c, TREE, TREE, map_leaves(lambda _: 2, TREE)) == Pair(
        4, (8, Pair(None, 12), ())
    )


def test_lists_and_dicts_are_leaves() -> None:
    assert list(leaves(([1, 2], {"a": 3}))) == [[1, 2], {"a": 3}]


@pytest.mark.parametrize(
    "other",
    [
        (1, 2, 3),
        (1,),
        ((1, 2), 3),
        (1, None),
        (None, 2),
        (1, (2,)),
        "ab",
        None,
        Pair(1, 2),
    ],
    ids=repr,
)
def test_another_structure_is_an_error(other: Any) -> None:
    with pytest.raises(ValueError, match="structure"):
        map_leaves(lambda a, b: (a, b), (1, 2), other)


def test_another_record_or_a_filled_gap_is_another_structure() -> None:
    with pytest.raises(ValueError, match="structure"):
        map_leaves(lambda a, b: (a, b), Pair(1, 2), OtherPair(1, 2))
    with pytest.raises(ValueError, match="structure"):
        map_leaves(lambda a, b: (a, b), (None,), (1,))
