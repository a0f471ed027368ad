"""Where activations lie: rows that do not compete for the same places of a cache, and no needless copies."""

import numpy as np
import pytest

from xlmr_np.ops.cpu.memory import activations, copied, features_first, scratch_activations, tokens_first

TOKENS = (0, 1, 3, 16, 128, 255, 256, 512, 1000, 1024, 4096)


@pytest.mark.parametrize("dtype", [np.dtype(np.float32), np.dtype(np.float64)])
@pytest.mark.parametrize("tokens", TOKENS)
def test_columns_do_not_lie_at_the_same_place(tokens: int, dtype: np.dtype) -> None:
    for x in (activations((5, tokens), dtype), scratch_activations("test", (5, tokens), dtype)):
        assert x.shape == (5, tokens)
        assert x.dtype == dtype
        assert tokens == 0 or x.strides[0] % 1024 != 0
        assert x.strides[0] - tokens * dtype.itemsize in (0, 64)


@pytest.mark.parametrize("tokens", TOKENS)
def test_what_the_engine_makes_is_not_copied(tokens: int) -> None:
    x = activations((6, tokens), np.dtype(np.float32))
    seen = tokens_first(x, (tokens,))
    assert seen.shape == (tokens, 6)
    again = features_first(seen)
    assert again.shape == x.shape
    assert tokens <= 1 or np.shares_memory(again, x)


@pytest.mark.parametrize("layout", ["tokens first", "broadcast", "every second token", "reversed"])
def test_anything_else_is_copied_into_such_rows(layout: str) -> None:
    numbers = np.arange(256 * 6, dtype=np.float32).reshape(256, 6)
    x = {
        "tokens first": numbers,
        "broadcast": np.broadcast_to(numbers[:, :1], (256, 6)),
        "every second token": np.repeat(np.ascontiguousarray(numbers.T), 2, axis=1)[:, ::2].T,
        "reversed": np.ascontiguousarray(numbers.T)[:, ::-1].T,
    }[layout]
    own = features_first(x)
    np.testing.assert_array_equal(own, x.T)
    assert own.strides == (1024 + 64, 4)
    assert not np.shares_memory(copied(own), own)
