// Attention for steps of cached decoding, where a sentence has one query or none, and many keys: the work is to read
// keys and values once, and tensor cores would have nothing to share.
//
// Equals: layers.attention.attention_forward on packed sentences, as attention.cu does, with bias, mask, dropout and
//   log Σ exp.
//   It is right for any number of queries, and fast for few.
//   The scheme is that of "Flash-Decoding for long-context inference" (Dao et al. 2023) within a block: softmaxes over
//   parts of the keys, ATT.10 to ATT.12 of docs/derivations/attention.md, that ATT.13 merges.
// Fuses: scores, scale, bias, causal mask, softmax, dropout, average.
// Block map: grid (tiles of one query, heads), see tiles.cuh; a block takes the query, and its WARPS warps share out
//   the keys. In a warp as many lanes as a row has parts of FEATURES features are a group, which takes a key; a lane
//   loads its part as vectors of LENGTH elements (16 bytes, or a single element where rows are not aligned to that),
//   those of KEYS keys and as many values at one time. Each group has a softmax of its own, which shuffles merge with
//   the others of its warp, and shared memory with those of the other warps; there a thread takes one feature.
// Architectures: sm_80 sm_90a sm_100
// Tolerance: sums in float32 (float64 for float64) in another order: 5e-6 (1e-13) of the largest value, and for half
//   types half a unit of the result's last place more.
#include "dropout.cuh"
#include "primitives.cuh"
#include "rows.cuh"
#include "tiles.cuh"

constexpr int WARPS = 8, THREADS = WARPS * 32;
constexpr int FEATURES = 8;            // that a lane holds of a row
constexpr int WIDEST = 32 * FEATURES;  // head
static_assert(WIDEST <= THREADS, "every feature of the context has a thread");

// exp(largest - highest): what makes sums of exp(score - largest) those of exp(score - highest).
template <class Number>
__device__ __forceinline__ Number rescaling(Number largest, Number highest) {
  return largest == highest ? Number(1) : exp(largest - highest);  // also where both are -inf
}

template <class T, int LENGTH, bool HAS_DROPOUT>
__global__ void __launch_bounds__(THREADS, 2) attention_decode_forward(
    const T* __restrict__ query, const T* __restrict__ key, const T* __restrict__ value,
    long long query_stride, long long key_stride, long long value_stride,
    const long long* __restrict__ query_starts, const long long* __restrict__ query_lengths,
    const long long* __restrict__ key_starts, const long long* __restrict__ key_lengths, int sentences,
    const T* __restrict__ bias,  // or null
    long long bias_of_sentence, long long bias_of_head, long long bias_of_query, long long bias_of_key,
    double scale,
    T* __restrict__ context,                            // [N, H, W]
    typename Wide<T>::type* __restrict__ log_sum_exp,   // [H, N], or null
    long long number_of_queries,                        // N
    int width, int is_causal,
    unsigned key_low, unsigned key_high, unsigned threshold, typename Wide<T>::type dropout_scale) {  // a DropoutKey
  using Number = typename Wide<T>::type;
  constexpr int VECTORS = FEATURES / LENGTH, KEYS = (LENGTH + 1) / 2;  // 64 bytes of keys at one time, or one key
  __shared__ Number largest_of_warps[WARPS], totals_of_warps[WARPS], sums_of_warps[WARPS][WIDEST];

  const int head = blockIdx.y, heads = gridDim.y;
  const Tile tile = tile_of_number<1>(blockIdx.x, query_starts, sentences);
  const int own_query = tile.first_query;
  const int queries = query_lengths[tile.sentence], keys = key_lengths[tile.sentence];
  if (own_query >= queries) return;
  const long long own_row = query_starts[tile.sentence] + own_query;
  const T* own_keys = key + key_starts[tile.sentence] * key_stride + head * width;
  const T* own_values = value + key_starts[tile.sentence] * value_stride + head * width;
  const T* own_bias = bias + (tile.sentence * bias_of_sentence + head * bias_of_head + own_query * bias_of_query);
  const int seen = is_causal ? min(keys, own_query + 1 + keys - queries) : keys;  // by this query; may be negative

  const DropoutKey<Number> dropout{key_low, key_high, threshold, dropout_scale};

  int lanes = 1;  // of a group
  while (lanes * FEATURES < width) lanes *= 2;
  const int warp = threadIdx.x / 32, lane = threadIdx.x & 31;
  const int groups = 32 / lanes, group = lane / lanes, place = lane & (lanes - 1), vectors = width / LENGTH;

  // This lane's vectors of a row. Where it has fewer, the row's last one comes instead and is not used, and so do keys
  // beyond the last below: then loads hang on no condition, and all are on their way together.
  auto load = [&](Vector<T, LENGTH>(&loaded)[VECTORS], const T* __restrict__ row) {
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) loaded[i] = vector_of_row<LENGTH>(row, min(place + i * lanes, vectors - 1));
  };
  Number own_features[FEATURES];
  Vector<T, LENGTH> loaded_query[VECTORS];
  load(loaded_query, query + own_row * query_stride + head * width);
#pragma unroll
  for (int i = 0; i < FEATURES; ++i)
    own_features[i] = static_cast<Number>(scale) * to_wide(loaded_query[i / LENGTH].elements[i % LENGTH]);

  Number sums[FEATURES], largest = -INFINITY, total = 0;  // Σ exp(score - largest) value; Σ exp(score - largest)
#pragma unroll
  for (int i = 0; i < FEATURES; ++i) sums[i] = 0;
  auto raise_largest = [&](Number highest) {
    const Number rescale = rescaling(largest, highest);
    largest = highest;
    total *= rescale;
#pragma unroll
    for (int i = 0; i < FEATURES; ++i) sums[i] *= rescale;
  };

  for (int first_key = warp * groups * KEYS; first_key < seen; first_key += WARPS * groups * KEYS) {
    Vector<T, LENGTH> loaded_keys[KEYS][VECTORS], loaded_values[KEYS][VECTORS];
    Number scores[KEYS];
#pragma unroll
    for (int i = 0; i < KEYS; ++i) {
      const int own_key = min(first_key + i * groups + group, seen - 1);
      load(loaded_keys[i], own_keys + own_key * key_stride);
      load(loaded_values[i], own_values + own_key * value_stride);
      scores[i] = bias != nullptr && place == 0 ? to_wide(own_bias[own_key * bias_of_key]) : Number(0);
    }
#pragma unroll
    for (int i = 0; i < KEYS; ++i)
#pragma unroll
      for (int j = 0; j < VECTORS; ++j) {
        Number product = 0;
#pragma unroll
        for (int k = 0; k < LENGTH; ++k)
          product += own_features[j * LENGTH + k] * to_wide(loaded_keys[i][j].elements[k]);
        scores[i] += place + j * lanes < vectors ? product : Number(0);
      }
#pragma unroll 1
    for (int distance = 1; distance < lanes; distance *= 2)
#pragma unroll
      for (int i = 0; i < KEYS; ++i) scores[i] += __shfl_xor_sync(ALL_LANES, scores[i], distance);

    Number highest = largest;
#pragma unroll
    for (int i = 0; i < KEYS; ++i) highest = larger(scores[i], highest);
    raise_largest(highest);
#pragma unroll
    for (int i = 0; i < KEYS; ++i) {
      const int own_key = first_key + i * groups + group;
      if (own_key >= seen) break;
      const Number probability = scores[i] == -INFINITY ? Number(0) : exp(scores[i] - largest);
      total += probability;
      // dropout's scale comes when all are summed
      if (HAS_DROPOUT && !is_kept(dropout, own_key, own_query, head, tile.sentence)) continue;
#pragma unroll
      for (int j = 0; j < FEATURES; ++j)
        sums[j] += probability * to_wide(loaded_values[i][j / LENGTH].elements[j % LENGTH]);
    }
  }

#pragma unroll 1
  for (int distance = lanes; distance < 32; distance *= 2) {
    raise_largest(larger(largest, __shfl_xor_sync(ALL_LANES, largest, distance)));
    total += __shfl_xor_sync(ALL_LANES, total, distance);
#pragma unroll
    for (int i = 0; i < FEATURES; ++i) sums[i] += __shfl_xor_sync(ALL_LANES, sums[i], distance);
  }
#pragma unroll
  for (int i = 0; i < FEATURES; ++i) {
    const int vector = place + i / LENGTH * lanes;
    if (group == 0 && vector < vectors) sums_of_warps[warp][vector * LENGTH + i % LENGTH] = sums[i];
  }
  if (lane == 0) {
    largest_of_warps[warp] = largest;
    totals_of_warps[warp] = total;
  }
  __syncthreads();

  if (threadIdx.x >= width) return;
  Number highest = -INFINITY, block_total = 0, block_sum = 0;
#pragma unroll
  for (int i = 0; i < WARPS; ++i) highest = larger(largest_of_warps[i], highest);
#pragma unroll
  for (int i = 0; i < WARPS; ++i) {
    const Number rescale = rescaling(largest_of_warps[i], highest);
    block_total += rescale * totals_of_warps[i];
    block_sum += rescale * sums_of_warps[i][threadIdx.x];
  }
  const Number scale_of_sums = HAS_DROPOUT ? dropout.scale : Number(1);
  context[(own_row * heads + head) * width + threadIdx.x] =
      from_wide<T>(block_total == 0 ? Number(0) : block_sum / block_total * scale_of_sums);  // a NaN stays one
  if (log_sum_exp != nullptr && threadIdx.x == 0)
    log_sum_exp[head * number_of_queries + own_row] = block_total == 0 ? -INFINITY : highest + log(block_total);
}
