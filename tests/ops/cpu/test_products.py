"""Matrix products for any number of tokens, on any width, whole and into slices."""

import numpy as np
import pytest
from ml_dtypes import bfloat16

from xlmr_np.layers.linear import LinearParams
from xlmr_np.ops.cpu.memory import _own, scratch
from xlmr_np.ops.cpu.products import linears, multiply
from xlmr_np.ops.threads import Threads

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("width", [1, 64, 768, 3072, 3906, 3907, 4096, 10_240])
@pytest.mark.parametrize("tokens", [0, 1, 12, 13, 31, 32, 33, 40, 63, 64, 65, 128, 130])
def test_products_of_every_width_and_number_of_tokens(width: int, tokens: int) -> None:
    rows = 101  # not a multiple of any block
    weight = RANDOM.standard_normal((rows, width), dtype=np.float32)
    x = RANDOM.standard_normal((width, tokens + 3), dtype=np.float32)[:, 1 : tokens + 1]
    y = np.full((rows, tokens + 5), np.nan, np.float32)
    multiply(weight, x, y[:, 2 : tokens + 2])
    exact = weight.astype(np.float64) @ x.astype(np.float64)
    size = np.sqrt(width)
    np.testing.assert_allclose(y[:, 2 : tokens + 2] / size, exact / size, atol=3e-5)  # sums of so many terms in float32
    assert np.isnan(y[:, :2]).all()
    assert np.isnan(y[:, tokens + 2 :]).all()


@pytest.mark.parametrize("dtype", [np.float16, bfloat16])
def test_half_precision_is_converted_some_rows_at_a_time(dtype: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xlmr_np.ops.cpu.products.CONVERTED", 100)
    params = LinearParams(RANDOM.normal(size=(70, 30)).astype(dtype), RANDOM.normal(size=70).astype(dtype))
    x, y = RANDOM.standard_normal((30, 9), dtype=np.float32), np.empty((70, 9), np.float32)
    linears((params,), x, [y], Threads(2))
    expected = params.weight.astype(np.float32) @ x + params.bias.astype(np.float32)[:, None]
    np.testing.assert_allclose(y, expected, atol=1e-5)  # sums of 30 products in float32


def test_scratch_memory_is_used_again_and_grows() -> None:
    name = "of this test"
    first = scratch(name, (3, 4), np.dtype(np.float32))
    assert np.shares_memory(first, scratch(name, (2, 2), np.dtype(np.float32)))
    assert scratch(name, (5, 5), np.dtype(np.float32)).shape == (5, 5)
    del _own.buffers[name, np.dtype(np.float32)]
