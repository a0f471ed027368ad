"""The largest logits without a sort, on vocabularies of many blocks."""

import numpy as np
import pytest

from xlmr_np.layers.linear import LinearParams
from xlmr_np.ops.cpu import vocabulary
from xlmr_np.ops.numpy_ops import NUMPY_INFERENCE
from xlmr_np.ops.reference import REFERENCE


@pytest.mark.parametrize("tokens", [0, 1, 3])
@pytest.mark.parametrize("k", [1, 5, 40])
@pytest.mark.parametrize("rows", [40, 4000, 40_001])
def test_top_k_of_many_blocks(tokens: int, k: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "LOGITS", 30_000)
    random = np.random.default_rng(rows)
    x = random.standard_normal((tokens, 8), dtype=np.float32)
    params = LinearParams(random.integers(-2, 3, (rows, 8)).astype(np.float32), np.zeros(rows, np.float32))  # with ties
    x = np.round(x)  # so that equal logits are equal in every order of summing
    ours, _ = NUMPY_INFERENCE.vocabulary_top_k.forward(x, params, k)
    theirs, _ = REFERENCE.vocabulary_top_k.forward(x, params, k)
    np.testing.assert_array_equal(ours.ids, theirs.ids)
    np.testing.assert_array_equal(ours.logits, theirs.logits)
    np.testing.assert_allclose(ours.log_sum_exp, theirs.log_sum_exp, rtol=1e-6)  # float32's rounding
