// The backward pass of the end of a sublayer: of layer norm, and of the dropout before or behind it.
//
// Equals: layers.layer_norm.layer_norm_backward (LN.7 to LN.9), then DO.3 and the gradient of the bias before the dropout,
//   what layers.add_norm.add_norm_backward does before its products of matrices. With dropout on the norm's own result,
//   DO.3 comes first (EMB.4).
// Fuses: both means of a row, its gradient, dropout, and the sums over rows for weight, bias, and the bias of what was
//   dropped. The last three are left as sums of groups of 16 rows, for sums.cu to add.
// Block map: grid (groups), block 256; first a warp takes every 8th row of the group for its two means, then a thread takes
//   every 256th vector of LENGTH columns (16 bytes, or single columns where rows are not aligned to that) of all rows of
//   the group, which it reads again, from a cache: rows of any width have room, and columns are summed without exchange.
// Architectures: sm_80 sm_90a sm_100
// Tolerance: sums in float32 (float64 for float64) in another order: 3e-6 (1e-14) of the largest value of a row of d_y times
//   weight, times the largest normalised one; for half types half a unit of the result's last place more. Sums over rows:
//   3e-6 (1e-14) of the sum of magnitudes.
#include "dropout.cuh"
#include "primitives.cuh"
#include "rows.cuh"

template <class T, int LENGTH>
__global__ void __launch_bounds__(256, 3) norm_backward(  // 80 registers, for loads of several vectors at once
    const T* __restrict__ d_y, const T* __restrict__ normalized,  // [N, D]
    const typename Wide<T>::type* __restrict__ inverse_stds,      // [N]
    const T* __restrict__ weight,                                 // [D]
    unsigned key_low, unsigned key_high, unsigned threshold, typename Wide<T>::type scale,        // DropoutKey
    const long long* __restrict__ sentences, const long long* __restrict__ numbers_in_sentences,  // [N]; null: no dropout
    T* __restrict__ d_x,       // [N, D]
    T* __restrict__ d_branch,  // [N, D]: d_x dropped; null: what is dropped, if anything is, is d_y
    typename Wide<T>::type* __restrict__ partial,  // [3, groups, D]: of d_y normalized, of d_y, of d_branch or else d_x
    long long number_of_rows, int width) {
  using Number = typename Wide<T>::type;
  constexpr int ROWS = 16;  // of a group
  extern __shared__ __align__(128) unsigned char shared_memory[];
  Number* means = reinterpret_cast<Number*>(shared_memory);  // [ROWS, 2]: of d_normalized, and of it along normalized
  const DropoutKey<Number> key{key_low, key_high, threshold, scale};
  const long long first = static_cast<long long>(blockIdx.x) * ROWS;
  const int rows = static_cast<int>(min(static_cast<long long>(ROWS), number_of_rows - first)), vectors = width / LENGTH;
  const bool drops_d_y = sentences && !d_branch;

  const auto gradient = [&](Number(&numbers)[LENGTH], long long row, int vector) {
    add_vector<T, LENGTH>(numbers, d_y + row * width, vector);
    if (drops_d_y) drop_features(numbers, key, vector, numbers_in_sentences[row], sentences[row]);
  };

  for (int number = threadIdx.x / 32; number < rows; number += blockDim.x / 32) {
    const long long row = first + number;
    Number sum = 0, along = 0;
#pragma unroll 2
    for (int vector = threadIdx.x & 31; vector < vectors; vector += 32) {
      Number d_results[LENGTH] = {};
      gradient(d_results, row, vector);
      const Vector<T, LENGTH> places = vector_of_row<LENGTH>(normalized + row * width, vector);
      const Vector<T, LENGTH> scales = vector_of_row<LENGTH>(weight, vector);
#pragma unroll
      for (int i = 0; i < LENGTH; ++i) {
        const Number d_normalized = d_results[i] * to_wide(scales.elements[i]);
        sum += d_normalized;
        along += d_normalized * to_wide(places.elements[i]);
      }
    }
    sum = sum_of_warp(sum);
    along = sum_of_warp(along);
    if ((threadIdx.x & 31) == 0) {
      means[2 * number] = sum / width;
      means[2 * number + 1] = along / width;
    }
  }
  __syncthreads();

  for (int vector = threadIdx.x; vector < vectors; vector += blockDim.x) {
    const Vector<T, LENGTH> scales = vector_of_row<LENGTH>(weight, vector);
    Number d_weight[LENGTH] = {}, d_shift[LENGTH] = {}, d_bias[LENGTH] = {};
#pragma unroll 2
    for (int number = 0; number < rows; ++number) {
      const long long row = first + number;
      const Number inverse_std = inverse_stds[row], mean = means[2 * number], along = means[2 * number + 1];
      Number d_results[LENGTH] = {}, gradients[LENGTH];
      gradient(d_results, row, vector);
      const Vector<T, LENGTH> places = vector_of_row<LENGTH>(normalized + row * width, vector);
#pragma unroll
      for (int i = 0; i < LENGTH; ++i) {
        const Number place = to_wide(places.elements[i]);
        d_weight[i] += d_results[i] * place;
        d_shift[i] += d_results[i];
        gradients[i] = inverse_std * (d_results[i] * to_wide(scales.elements[i]) - mean - place * along);
      }
      store_vector(d_x + row * width, vector, gradients);
      if (d_branch) {
        drop_features(gradients, key, vector, numbers_in_sentences[row], sentences[row]);
        store_vector(d_branch + row * width, vector, gradients);
      }
#pragma unroll
      for (int i = 0; i < LENGTH; ++i) d_bias[i] += gradients[i];
    }
    const long long size = static_cast<long long>(gridDim.x) * width;  // of one of the three
    Number* group = partial + static_cast<long long>(blockIdx.x) * width;
    store_wide_vector(group, vector, d_weight);
    store_wide_vector(group + size, vector, d_shift);
    store_wide_vector(group + 2 * size, vector, d_bias);
  }
}
