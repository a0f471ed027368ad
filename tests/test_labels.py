"""Labels are checked at the door: what counts, what is an error, and what is said about it."""

import logging

import numpy as np
import pytest

from xlmr_np.labels import class_labels, counted_items, sequence_labels, span_labels, token_labels

def test_labels_are_checked() -> None:
    is_real = np.array([[True, True, False]])
    np.testing.assert_array_equal(token_labels([[3, -100, -100]], is_real, 4), [[3, -100, -100]])
    with pytest.raises(ValueError, match=r"labels\[0, 1\] is 4; .*number of classes of 4 allows 0 to 3"):
        token_labels([[3, 4, -100]], is_real, 4)
    with pytest.raises(ValueError, match=r"labels\[0, 2\] is 1, but there is padding; write -100 there"):
        token_labels([[3, -100, 1]], is_real, 4)
    with pytest.raises(ValueError, match=r"labels has shape \(1, 2\)"):
        token_labels([[3, 3]], is_real, 4)
    with pytest.raises(TypeError, match="integers; it holds float64"):
        token_labels([[3.0, 3.0, 3.0]], is_real, 4)


