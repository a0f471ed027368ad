// From token ids to vectors: three gathers, their sum, and its layer norm.
//
// Equals: layers.embeddings.embeddings_forward. An index outside its table makes its row of the result NaN; nothing is
//   read outside a table.
// Fuses: the gathers from the tables of tokens, token types and positions, their sum, the layer norm.
// Block map: grid (blocks of rows), blocks of at most 128 threads; a warp takes a token, a lane every 32nd vector of
//   LENGTH elements (16 bytes, or single elements where rows are not aligned to that). The row waits in dynamic shared
//   memory.
// Architectures: sm_80 sm_90a sm_100
// Tolerance: as of norms.cu.
#include "primitives.cuh"
#include "rows.cuh"

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
    for (int column = threadIdx.x & 31; column < width; column += 32)
      result_row[column] = from_wide<T>(Number(INFINITY) - Number(INFINITY));
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
