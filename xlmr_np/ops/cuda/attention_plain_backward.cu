// The backward pass of attention for the types and head widths that have no tiles for tensor cores: float32 and float64
// without any rounding of their products (no TF32), and half types of other widths than 32, 64 and 128.
//
// Equals: layers.attention.attention_backward on packed sentences, as attention_backward.cu does: ATT.14 to ATT.18 of
//   docs/derivations/attention.md, in two kernels without atomics, each sum with one owner and in one order.
// Fuses: scores, scale, causal mask, softmax, dropout and the backward pass of each.
// Block map: grid (tiles of ROWS queries or keys, heads), see tiles.cuh. attention_plain_backward_queries: a warp takes
//   a query and walks over the keys that it sees; attention_plain_backward_keys: the same with queries and keys
//   exchanged. A lane has FEATURES features of each row, 32 apart, so that all it sums up stays in its registers, and
//   there is neither shared memory nor a barrier; the warps of a block read the same rows, from the caches.
// Architectures: sm_80 sm_90a sm_100
// Tolerance: sums in float32 (float64 for float64) in another order: 1e-5 (1e-13) of the largest term; for half types
//   what the roundings of the context, in delta (ATT.16), and of the result do: two of the largest term.
#include "dropout.cuh"
#include "primitives.cuh"
#include "rows.cuh"
#include "tiles.cuh"

constexpr int ROWS = 8;  // of a tile: one warp each

// This lane's features of a row; zeros beyond the last.
template <class T, int FEATURES>
__device__ __forceinline__ void load_features(typename Wide<T>::type (&features)[FEATURES], const T* __restrict__ row,
                                              int width) {
  const int lane = threadIdx.x & 31;
#pragma unroll
  for (int i = 0; i < FEATURES; ++i)
    features[i] = lane + 32 * i < width ? to_wide(row[lane + 32 * i]) : typename Wide<T>::type(0);
}

template <class T, int FEATURES>
__device__ __forceinline__ void store_features(T* __restrict__ row, const typename Wide<T>::type (&features)[FEATURES],
                                               typename Wide<T>::type factor, int width) {
  const int lane = threadIdx.x & 31;
#pragma unroll
  for (int i = 0; i < FEATURES; ++i)
    if (lane + 32 * i < width) row[lane + 32 * i] = from_wide<T>(features[i] * factor);
}

// Of two rows; every lane gets it.
template <class Number, int FEATURES>
__device__ __forceinline__ Number dot_product(const Number (&a)[FEATURES], const Number (&b)[FEATURES]) {
  Number sum = 0;
#pragma unroll
  for (int i = 0; i < FEATURES; ++i) sum += a[i] * b[i];
  return sum_of_warp(sum);
}

template <class T, int FEATURES>
__global__ void __launch_bounds__(ROWS * 32) attention_plain_backward_queries(
    const T* __restrict__ query, const T* __restrict__ key, const T* __restrict__ value,  // rows of all heads
    const T* __restrict__ context, const T* __restrict__ d_context,                       // the same
    long long query_stride, long long key_stride, long long value_stride,                 // from row to row
    long long context_stride, long long d_context_stride,                                 // the same
    const long long* __restrict__ query_starts, const long long* __restrict__ query_lengths,
    const long long* __restrict__ key_starts, const long long* __restrict__ key_lengths, int sentences, int is_causal,
    double scale,                                               // 1 / √W
    const typename Wide<T>::type* __restrict__ log_sum_exp,     // [H, N]
    int has_dropout, unsigned key_low, unsigned key_high, unsigned threshold,
    typename Wide<T>::type dropout_scale,                       // a DropoutKey
    typename Wide<T>::type* __restrict__ delta,                 // [H, N], for attention_plain_backward_keys
    T* __restrict__ d_query,                                    // [N, H, W]
    long long number_of_queries, int width) {                   // N, W
  using Number = typename Wide<T>::type;
  const int head = blockIdx.y, heads = gridDim.y, lane = threadIdx.x & 31;
  const Tile tile = tile_of_number<ROWS>(blockIdx.x, query_starts, sentences);
  const int queries = query_lengths[tile.sentence], keys = key_lengths[tile.sentence];
  const int own_query = tile.first_query + threadIdx.x / 32;
  if (own_query >= queries) return;
  const long long own_row = query_starts[tile.sentence] + own_query;
  const T* own_keys = key + key_starts[tile.sentence] * key_stride + head * width;
  const T* own_values = value + key_starts[tile.sentence] * value_stride + head * width;
  const int seen = is_causal ? min(keys, own_query + 1 + keys - queries) : keys;  // by this query; may be negative
  const DropoutKey<Number> dropout{key_low, key_high, threshold, dropout_scale};

  Number own_features[FEATURES], own_context[FEATURES], own_d_context[FEATURES];
  load_features<T>(own_features, query + own_row * query_stride + head * width, width);
  load_features<T>(own_context, context + own_row * context_stride + head * width, width);
  load_features<T>(own_d_context, d_context + own_row * d_context_stride + head * width, width);
  const Number own_delta = dot_product(own_d_context, own_context);
  const Number own_log_sum_exp = log_sum_exp[head * number_of_queries + own_row];
  if (lane == 0) delta[head * number_of_queries + own_row] = own_delta;

  Number sums[FEATURES];
#pragma unroll
  for (int i = 0; i < FEATURES; ++i) sums[i] = 0;
  for (int first_key = 0; first_key < seen; first_key += 32) {
    unsigned kept = ALL_LANES;  // bit i is that of key first_key + i, drawn by lane i
    if (has_dropout)
      kept = __ballot_sync(ALL_LANES, is_kept(dropout, first_key + lane, own_query, head, tile.sentence));
    const int last_key = min(first_key + 32, seen);
    for (int own_key = first_key; own_key < last_key; ++own_key) {
      Number key_features[FEATURES], value_features[FEATURES];
      load_features<T>(key_features, own_keys + own_key * key_stride, width);
      load_features<T>(value_features, own_values + own_key * value_stride, width);
      const Number score = dot_product(own_features, key_features) * static_cast<Number>(scale);
      const Number probability = exp(score - own_log_sum_exp);
      Number d_probability = dot_product(own_d_context, value_features);
      if (has_dropout) d_probability *= kept >> (own_key - first_key) & 1 ? dropout.scale : Number(0);
      const Number d_score = probability * (d_probability - own_delta);
#pragma unroll
      for (int i = 0; i < FEATURES; ++i) sums[i] += d_score * key_features[i];
    }
  }
  store_features(d_query + (own_row * heads + head) * width, sums, static_cast<Number>(scale), width);
}

template <class T, int FEATURES>
__global__ void __launch_bounds__(ROWS * 32) attention_plain_backward_keys(
    const T* __restrict__ query, const T* __restrict__ key, const T* __restrict__ value,  // rows of all heads
    const T* __restrict__ d_context,                                                      // the same
    long long query_stride, long long key_stride, long long value_stride, long long d_context_stride,  // row to row
    const long long* __restrict__ query_starts, const long long* __restrict__ query_lengths,
    const long long* __restrict__ key_starts, const long long* __restrict__ key_lengths, int sentences, int is_causal,
    double scale,                                               // 1 / √W
    const typename Wide<T>::type* __restrict__ log_sum_exp,     // [H, N]
    int has_dropout, unsigned key_low, unsigned key_high, unsigned threshold,
    typename Wide<T>::type dropout_scale,                       // a DropoutKey
    const typename Wide<T>::type* __restrict__ delta,           // [H, N]
    T* __restrict__ d_key, T* __restrict__ d_value,             // [M, H, W]
    long long number_of_queries, int width) {                   // N, W
  using Number = typename Wide<T>::type;
  const int head = blockIdx.y, heads = gridDim.y, lane = threadIdx.x & 31;
  const Tile tile = tile_of_number<ROWS>(blockIdx.x, key_starts, sentences);
  const int queries = query_lengths[tile.sentence], keys = key_lengths[tile.sentence];
  const int own_key = tile.first_query + threadIdx.x / 32;
  if (own_key >= keys) return;
  const long long own_row = key_starts[tile.sentence] + own_key, first_row = query_starts[tile.sentence];
  const T* own_queries = query + first_row * query_stride + head * width;
  const T* own_d_contexts = d_context + first_row * d_context_stride + head * width;
  const Number* own_log_sum_exps = log_sum_exp + (head * number_of_queries + first_row);
  const Number* own_deltas = delta + (head * number_of_queries + first_row);
  const int first_seeing = is_causal ? max(0, own_key - (keys - queries)) : 0;  // of the queries
  const DropoutKey<Number> dropout{key_low, key_high, threshold, dropout_scale};

  Number own_features[FEATURES], own_value[FEATURES];
  load_features<T>(own_features, key + own_row * key_stride + head * width, width);
  load_features<T>(own_value, value + own_row * value_stride + head * width, width);

  Number key_sums[FEATURES], value_sums[FEATURES];
#pragma unroll
  for (int i = 0; i < FEATURES; ++i) key_sums[i] = value_sums[i] = 0;
  for (int first_query = first_seeing; first_query < queries; first_query += 32) {
    unsigned kept = ALL_LANES;  // bit i is that of query first_query + i, drawn by lane i
    if (has_dropout)
      kept = __ballot_sync(ALL_LANES, is_kept(dropout, own_key, first_query + lane, head, tile.sentence));
    const int last_query = min(first_query + 32, queries);
    for (int own_query = first_query; own_query < last_query; ++own_query) {
      Number query_features[FEATURES], own_d_context[FEATURES];
      load_features<T>(query_features, own_queries + own_query * query_stride, width);
      load_features<T>(own_d_context, own_d_contexts + own_query * d_context_stride, width);
      const Number score = dot_product(query_features, own_features) * static_cast<Number>(scale);
      const Number probability = exp(score - own_log_sum_exps[own_query]);
      Number weight = probability, d_probability = dot_product(own_d_context, own_value);
      if (has_dropout) {
        const Number factor = kept >> (own_query - first_query) & 1 ? dropout.scale : Number(0);
        weight *= factor;
        d_probability *= factor;
      }
      const Number d_score = probability * (d_probability - own_deltas[own_query]);
#pragma unroll
      for (int i = 0; i < FEATURES; ++i) {
        key_sums[i] += d_score * query_features[i];
        value_sums[i] += weight * own_d_context[i];
      }
    }
  }
  const long long place = (own_row * heads + head) * width;
  store_features(d_key + place, key_sums, static_cast<Number>(scale), width);
  store_features(d_value + place, value_sums, Number(1), width);
}
