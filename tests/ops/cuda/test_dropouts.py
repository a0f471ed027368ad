"""dropout.cuh, executed in emulation, and what it is told, against layers.dropout."""

import numpy as np
import pytest

from tests.cuda_emulator import EmulatedGpu, why_not
from xlmr_np.layers.dropout import Dropout, Philox, TokenKey, attention_keep, dropout_forward
from xlmr_np.ops.cuda.dropouts import drops, key_arguments, probability_arguments, token_arguments
from xlmr_np.ops.cuda.kernels import Kernel, LaunchShape
from xlmr_np.ops.cuda.sources import source

needs_emulator = pytest.mark.skipif(why_not() is not None, reason=f"kernels cannot be executed here: {why_not()}")

KERNELS = """
__global__ void draw(unsigned low, unsigned high, unsigned threshold, float scale, int sentence, bool* kept, int rows,
                     int columns) {
  const DropoutKey<float> key{low, high, threshold, scale};
  const int head = blockIdx.x;
  for (int place = threadIdx.x; place < rows * columns; place += blockDim.x)
    kept[head * rows * columns + place] = is_kept(key, place % columns, place / columns, head, sentence);
}

// A warp for each head; its accumulators cover the rows by 16 and the columns by 8.
__global__ void draw_fragments(unsigned low, unsigned high, unsigned threshold, float scale, int sentence, bool* kept,
                               int rows, int columns) {
  const DropoutKey<float> key{low, high, threshold, scale};
  const int head = blockIdx.x, row = threadIdx.x / 4, column = threadIdx.x % 4 * 2;
  for (int first_row = 0; first_row < rows; first_row += 16)
    for (int first_column = 0; first_column < columns; first_column += 8) {
      const unsigned bits = kept_of_fragment(key, first_row, first_column, head, sentence);
      for (int i = 0; i < 4; ++i)
        kept[(head * rows + first_row + row + i / 2 * 8) * columns + first_column + column + i % 2] = bits >> i & 1;
    }
}

template <class Number, int LENGTH>
__global__ void drop(unsigned low, unsigned high, unsigned threshold, Number scale, const long long* sentences,
                     const long long* rows, Number* x, int width) {
  const DropoutKey<Number> key{low, high, threshold, scale};
  for (int vector = threadIdx.x; vector < width / LENGTH; vector += blockDim.x) {
    Number values[LENGTH];
    Number* place = x + blockIdx.x * width + vector * LENGTH;
    for (int i = 0; i < LENGTH; ++i) values[i] = place[i];
    drop_features<LENGTH>(values, key, vector, rows[blockIdx.x], sentences[blockIdx.x]);
    for (int i = 0; i < LENGTH; ++i) place[i] = values[i];
  }
}
"""


def gpu() -> EmulatedGpu:
    text = source("dropout.cuh", {"primitives.cuh": "#include <primitives.cuh>"})
    return EmulatedGpu(sources={"draw.cu": text + KERNELS})


@needs_emulator
@pytest.mark.parametrize("rate", [0.1, 0.5, 1.0, 1 - 2**-32])
def test_attention_bits(rate: float) -> None:
    key, heads, rows, columns = Philox(2**32 - 1, 12345), 2, 5, 11
    kept = np.empty((heads, rows, columns), bool)
    key_values = key_arguments(Dropout(rate, key), np.dtype(np.float16))
    shape = LaunchShape((heads,), (32,))
    arguments = [*key_values, np.int32(7), kept, np.int32(rows), np.int32(columns)]
    gpu().launch(Kernel("draw.cu", "draw"), shape, arguments)
    np.testing.assert_array_equal(kept, attention_keep(key, rate, 7, np.zeros(kept.shape)))


@needs_emulator
@pytest.mark.parametrize("rate", [0.1, 0.5, 1.0])
def test_attention_bits_of_accumulators(rate: float) -> None:
    key, heads, rows, columns = Philox(5, 2**32 - 7), 2, 32, 24
    kept = np.empty((heads, rows, columns), bool)
    key_values = key_arguments(Dropout(rate, key), np.dtype(np.float16))
    arguments = [*key_values, np.int32(3), kept, np.int32(rows), np.int32(columns)]
    gpu().launch(Kernel("draw.cu", "draw_fragments"), LaunchShape((heads,), (32,)), arguments)
    np.testing.assert_array_equal(kept, attention_keep(key, rate, 3, np.zeros(kept.shape)))


@needs_emulator
@pytest.mark.parametrize("length", [1, 2, 4, 8])
@pytest.mark.parametrize("rate", [0.1, 0.75, 1.0])
def test_features_of_tokens(rate: float, length: int) -> None:
    sentences, rows = np.array([0, 0, 3, 70_000]), np.array([0, 5, 1, 511])
    dropout = Dropout(rate, TokenKey(Philox(3, 2**31), sentences, rows))
    x = np.random.default_rng(0).normal(size=(4, 24))
    ours = x.copy()
    arguments = [*token_arguments(dropout, x.dtype), ours, np.int32(24)]
    gpu().launch(Kernel("draw.cu", f"drop<double, {length}>"), LaunchShape((4,), (32,)), arguments)
    np.testing.assert_allclose(ours, dropout_forward(x, dropout), rtol=1e-15)  # times 1 / (1 - rate), or divided by it


def test_what_drops_nothing_needs_no_places() -> None:
    places = np.zeros(3, np.int64)
    for nothing in (None, Dropout(0.0, Philox(1, 2)), Dropout(1e-12, TokenKey(Philox(1, 2), places, places))):
        assert not drops(nothing)
        assert token_arguments(nothing, np.dtype(np.float32)) == [0, 0, 0, 0, None, None]
    assert drops(Dropout(1.0, Philox(1, 2)))


def test_bits_without_a_key_are_refused() -> None:
    with pytest.raises(TypeError, match="drawn from a key"):
        key_arguments(Dropout(0.5, np.ones(3, bool)), np.dtype(np.float32))
    with pytest.raises(TypeError, match="by a TokenKey"):
        token_arguments(Dropout(0.5, Philox(1, 2)), np.dtype(np.float32))
    places = np.zeros(3, np.int64)
    for keep in (np.ones(3, bool), TokenKey(Philox(1, 2), places, places)):
        with pytest.raises(TypeError, match="drops by a Philox"):
            probability_arguments(Dropout(0.5, keep), np.dtype(np.float32))
