// From token ids to vectors: three gathers, their sum, and its layer norm.
//
// Equals: layers.embeddings.embeddings_forward. An index outside its table makes its row of the result NaN, and that of
//   the cache; nothing is read outside a table. `embed_with_cache` drops, and keeps what norms_backward.cu needs: LN.4
//   and LN.3.
// Fuses: the gathers from the tables of tokens, token types and positions, their sum, the layer norm, dropout.
// Block map: grid (blocks of rows), blocks of at most 128 threads; a warp takes a token, a lane every 32nd vector of
//   LENGTH elements (16 bytes, or single elements where rows are not aligned to that). The row waits in dynamic shared
//   memory.
// Architectures: sm_80 sm_90a sm_100
// Tolerance: as of norms.cu.
#include "dropout.cuh"
#include "primitives.cuh"
#include "rows.cuh"

// A row of NaN, by a warp.
template <class T>
__device__ __forceinline__ void store_nan(T* __restrict__ row, int width) {
  using Number = typename Wide<T>::type;
  for (int column = threadIdx.x & 31; column < width; column += 32)
    row[column] = from_wide<T>(Number(INFINITY) - Number(INFINITY));
}

template <class T, int LENGTH>
__global__ void __launch_bounds__(128, 6) embed(  // 80 registers, for loads of several vectors at once
    const long long* __restrict__ ids, const long long* __restrict__ token_types,
    const long long* __restrict__ positions,  // [N], rows of the tables
    const T* __restrict__ token_table, long long number_of_tokens,
    const T* __restrict__ token_type_table, long long number_of_token_types,
    const T* __restrict__ position_table, long long number_of_positions,  // [rows, D] each
    const T* __restrict__ norm_weight, const T* __restrict__ norm_bias,   // [D]
    typename Wide<T>::type eps,
    T* __restrict__ result,  // [N, D]
    long long number_of_rows, int width) {
  using Number = typename Wide<T>::type;
  const long long row = row_of_warp();
  if (row >= number_of_rows) return;
  T* result_row = result + row * width;
  const long long id = ids[row], token_type = token_types[row], position = positions[row];
  const bool is_in_tables = id >= 0 && id < number_of_tokens && token_type >= 0 && token_type < number_of_token_types &&
                            position >= 0 && position < number_of_positions;
  if (!is_in_tables) {
    store_nan(result_row, width);
    return;
  }
  layer_norm_of_row<T, LENGTH>(
      [&](Number(&sums)[LENGTH], int vector) {
        add_vector<T, LENGTH>(sums, token_table + id * width, vector);
        add_vector<T, LENGTH>(sums, token_type_table + token_type * width, vector);
        add_vector<T, LENGTH>(sums, position_table + position * width, vector);
      },
      kept_row_of_warp<Number, LENGTH>(width), norm_weight, norm_bias, eps, result_row, width);
}

// For training. Where nothing is dropped, `sentences` is null.
template <class T, int LENGTH>
__global__ void __launch_bounds__(128, 6) embed_with_cache(
    const long long* __restrict__ ids, const long long* __restrict__ token_types,
    const long long* __restrict__ positions,  // [N], rows of the tables
    const T* __restrict__ token_table, long long number_of_tokens,
    const T* __restrict__ token_type_table, long long number_of_token_types,
    const T* __restrict__ position_table, long long number_of_positions,  // [rows, D] each
    const T* __restrict__ norm_weight, const T* __restrict__ norm_bias,   // [D]
    typename Wide<T>::type eps,
    unsigned key_low, unsigned key_high, unsigned threshold, typename Wide<T>::type scale,        // DropoutKey
    const long long* __restrict__ sentences, const long long* __restrict__ numbers_in_sentences,  // [N]
    T* __restrict__ result,                             // [N, D]
    T* __restrict__ normalized,                         // [N, D]
    typename Wide<T>::type* __restrict__ inverse_stds,  // [N]
    long long number_of_rows, int width) {
  using Number = typename Wide<T>::type;
  const long long row = row_of_warp();
  if (row >= number_of_rows) return;
  T *result_row = result + row * width, *normalized_row = normalized + row * width;
  const long long id = ids[row], token_type = token_types[row], position = positions[row];
  const bool is_in_tables = id >= 0 && id < number_of_tokens && token_type >= 0 && token_type < number_of_token_types &&
                            position >= 0 && position < number_of_positions;
  Number inverse_std = Number(INFINITY) - Number(INFINITY);
  if (is_in_tables) {
    const DropoutKey<Number> key{key_low, key_high, threshold, scale};
    const unsigned sentence = sentences ? sentences[row] : 0, number = sentences ? numbers_in_sentences[row] : 0;
    inverse_std = layer_norm_of_row<T, LENGTH>(
        [&](Number(&sums)[LENGTH], int vector) {
          add_vector<T, LENGTH>(sums, token_table + id * width, vector);
          add_vector<T, LENGTH>(sums, token_type_table + token_type * width, vector);
          add_vector<T, LENGTH>(sums, position_table + position * width, vector);
        },
        kept_row_of_warp<Number, LENGTH>(width), norm_weight, norm_bias, eps, result_row, width,
        [&](Number(&numbers)[LENGTH], Number(&results)[LENGTH], int vector) {
          store_vector(normalized_row, vector, numbers);
          if (sentences) drop_features(results, key, vector, number, sentence);
        });
  } else {
    store_nan(result_row, width);
    store_nan(normalized_row, width);
  }
  if ((threadIdx.x & 31) == 0) inverse_stds[row] = inverse_std;
}
