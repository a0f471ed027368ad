// Attention for the types and head widths that have no tiles for tensor cores: float32 and float64 without any rounding
// of their products (no TF32), and half types of other widths than 32, 64 and 128.
//
// Equals: layers.attention.attention_forward on packed sentences, as attention.cu does, with bias, mask, dropout and
//   log Σ exp.
// Fuses: scores, scale, bias, causal mask, softmax, dropout, average.
// Block map: grid (tiles of QUERIES queries, heads), see tiles.cuh; a block shares KEYS keys and values at a time in
//   shared memory, a warp takes one query: for the scores a lane takes one key, for the average FEATURES features, 32
//   apart.
// Architectures: sm_80 sm_90a sm_100
// Tolerance: sums in float32 (float64 for float64) in another order: 5e-6 (1e-13) of the largest value, and for half
//   types half a unit of the result's last place more.
#include "dropout.cuh"
#include "primitives.cuh"
#include "rows.cuh"
#include "tiles.cuh"

constexpr int QUERIES = 8, KEYS = 32;  // of a tile: one warp each, one lane each

template <class T, int FEATURES>
__global__ void __launch_bounds__(QUERIES * 32) attention_plain_forward(
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
    int has_dropout, unsigned key_low, unsigned key_high, unsigned threshold,
    typename Wide<T>::type dropout_scale) {  // a DropoutKey
  using Number = typename Wide<T>::type;
  extern __shared__ __align__(128) unsigned char shared_memory[];
  Number* own_query_row = reinterpret_cast<Number*>(shared_memory) + threadIdx.x / 32 * width;
  Number* key_tile = reinterpret_cast<Number*>(shared_memory) + QUERIES * width;  // [KEYS, width + 1]: no conflicts
  Number* value_tile = key_tile + KEYS * (width + 1);                             // [KEYS, width]

  const int head = blockIdx.y, heads = gridDim.y, lane = threadIdx.x & 31;
  const Tile tile = tile_of_number<QUERIES>(blockIdx.x, query_starts, sentences);
  const int queries = query_lengths[tile.sentence], keys = key_lengths[tile.sentence];
  if (tile.first_query >= queries) return;
  const int own_query = tile.first_query + threadIdx.x / 32;
  const long long own_row = query_starts[tile.sentence] + own_query;
  const bool is_real = own_query < queries;
  const T* own_keys = key + key_starts[tile.sentence] * key_stride + head * width;
  const T* own_values = value + key_starts[tile.sentence] * value_stride + head * width;
  const int seen = is_causal ? min(keys, own_query + 1 + keys - queries) : keys;  // by this query
  const int seen_by_tile = is_causal ? min(keys, tile.first_query + QUERIES + keys - queries) : keys;

  const T* own_query_values = query + own_row * query_stride + head * width;
  for (int feature = lane; is_real && feature < width; feature += 32)
    own_query_row[feature] = static_cast<Number>(scale) * to_wide(own_query_values[feature]);

  const DropoutKey<Number> dropout{key_low, key_high, threshold, dropout_scale};
  Number sums[FEATURES], largest = -INFINITY, total = 0;
#pragma unroll
  for (int i = 0; i < FEATURES; ++i) sums[i] = 0;
  for (int first_key = 0; first_key < seen_by_tile; first_key += KEYS) {
    const int tile_keys = min(KEYS, keys - first_key);
    const bool is_dropped = has_dropout && !is_kept(dropout, first_key + lane, own_query, head, tile.sentence);
    __syncthreads();  // nobody reads the tile before any more; queries are there after the next
    for (int place = threadIdx.x; place < tile_keys * width; place += QUERIES * 32) {
      const int row = place / width, feature = place % width;
      key_tile[row * (width + 1) + feature] = to_wide(own_keys[(first_key + row) * key_stride + feature]);
      value_tile[place] = to_wide(own_values[(first_key + row) * value_stride + feature]);
    }
    __syncthreads();

    Number score = -INFINITY;
    if (is_real && first_key + lane < seen) {
      score = 0;
      for (int feature = 0; feature < width; ++feature)
        score += own_query_row[feature] * key_tile[lane * (width + 1) + feature];
      if (bias != nullptr)
        score += to_wide(bias[tile.sentence * bias_of_sentence + head * bias_of_head + own_query * bias_of_query +
                              (first_key + lane) * bias_of_key]);
    }
    const Number highest = max_of_warp(larger(score, largest));
    const Number probability = score == -INFINITY ? Number(0) : exp(score - highest);  // also where both are -inf
    const Number rescale = largest == highest ? Number(1) : exp(largest - highest);
    const Number own_weight = is_dropped ? Number(0) : probability;  // dropout's scale comes when all are summed
    largest = highest;
    total = total * rescale + sum_of_warp(probability);
#pragma unroll
    for (int i = 0; i < FEATURES; ++i) sums[i] *= rescale;
    for (int row = 0; row < tile_keys; ++row) {
      const Number weight = __shfl_sync(ALL_LANES, own_weight, row);
#pragma unroll
      for (int i = 0; i < FEATURES; ++i)
        if (lane + 32 * i < width) sums[i] += weight * value_tile[row * width + lane + 32 * i];
    }
  }

  if (!is_real) return;
  const Number scale_of_sums = has_dropout ? dropout.scale : Number(1);
#pragma unroll
  for (int i = 0; i < FEATURES; ++i)
    if (lane + 32 * i < width)
      context[(own_row * heads + head) * width + lane + 32 * i] =
          from_wide<T>(total == 0 ? Number(0) : sums[i] / total * scale_of_sums);  // a NaN stays one
  if (log_sum_exp != nullptr && lane == 0)
    log_sum_exp[head * number_of_queries + own_row] = total == 0 ? -INFINITY : largest + log(total);
}
