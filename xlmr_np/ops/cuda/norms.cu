// The end of a sublayer: bias, dropout, residual and layer norm in one pass over memory.
//
// Equals: LayerNorm(dropout(product + bias) + residual) of each row, what layers.add_norm.add_norm_forward does after its
//   product of matrices; without bias and residual, layers.layer_norm.layer_norm_forward. `add_norm_with_cache` drops,
//   and keeps what norms_backward.cu needs: LN.4 and LN.3.
// Fuses: bias, dropout, residual, mean, variance, normalisation, scale and shift; the row is read once and written once.
// Block map: grid (blocks of rows), blocks of at most 128 threads; a warp takes a row, a lane every 32nd vector of
//   LENGTH elements (16 bytes, or single elements where rows are not aligned to that). The row waits in dynamic shared
//   memory.
// Architectures: sm_80 sm_90a sm_100
// Tolerance: sums in float32 (float64 for float64) in another order: 3e-6 (1e-14) of the largest value, times the ratio
//   of the row's largest value to its standard deviation; for half types half a unit of the result's last place more.
#include "dropout.cuh"
#include "primitives.cuh"
#include "rows.cuh"

// With ADDS: without, `bias` and `residual` are not looked at.
template <class T, int LENGTH, bool ADDS>
__global__ void __launch_bounds__(128, 8) add_norm(  // 64 registers, for loads of several vectors at once
    const T* __restrict__ product,   // [N, D]
    const T* __restrict__ bias,      // [D]
    const T* __restrict__ residual,  // [N, D]
    const T* __restrict__ norm_weight, const T* __restrict__ norm_bias,  // [D]
    typename Wide<T>::type eps,
    T* __restrict__ result,  // [N, D]
    long long number_of_rows, int width) {
  using Number = typename Wide<T>::type;
  const long long row = row_of_warp();
  if (row >= number_of_rows) return;
  layer_norm_of_row<T, LENGTH>(
      [&](Number(&sums)[LENGTH], int vector) {
        add_vector<T, LENGTH>(sums, product + row * width, vector);
        if constexpr (ADDS) {
          add_vector<T, LENGTH>(sums, bias, vector);
          add_vector<T, LENGTH>(sums, residual + row * width, vector);
        }
      },
      kept_row_of_warp<Number, LENGTH>(width), norm_weight, norm_bias, eps, result + row * width, width);
}

// For training. Without bias, without residual, and without `sentences`, where nothing is dropped, these are null.
template <class T, int LENGTH>
__global__ void __launch_bounds__(128, 6) add_norm_with_cache(
    const T* __restrict__ product,   // [N, D]
    const T* __restrict__ bias,      // [D]
    const T* __restrict__ residual,  // [N, D]
    const T* __restrict__ norm_weight, const T* __restrict__ norm_bias,  // [D]
    typename Wide<T>::type eps,
    unsigned key_low, unsigned key_high, unsigned threshold, typename Wide<T>::type scale,        // DropoutKey
    const long long* __restrict__ sentences, const long long* __restrict__ numbers_in_sentences,  // [N]
    T* __restrict__ result,                               // [N, D]
    T* __restrict__ normalized,                           // [N, D]
    typename Wide<T>::type* __restrict__ inverse_stds,    // [N]
    long long number_of_rows, int width) {
  using Number = typename Wide<T>::type;
  const long long row = row_of_warp();
  if (row >= number_of_rows) return;
  const DropoutKey<Number> key{key_low, key_high, threshold, scale};
  const unsigned sentence = sentences ? sentences[row] : 0, number = sentences ? numbers_in_sentences[row] : 0;
  const Number inverse_std = layer_norm_of_row<T, LENGTH>(
      [&](Number(&sums)[LENGTH], int vector) {
        add_vector<T, LENGTH>(sums, product + row * width, vector);
        if (bias) add_vector<T, LENGTH>(sums, bias, vector);
        if (sentences) drop_features(sums, key, vector, number, sentence);
        if (residual) add_vector<T, LENGTH>(sums, residual + row * width, vector);
      },
      kept_row_of_warp<Number, LENGTH>(width), norm_weight, norm_bias, eps, result + row * width, width,
      [&](Number(&numbers)[LENGTH], Number(&)[LENGTH], int vector) {
        store_vector(normalized + row * width, vector, numbers);
      });
  if ((threadIdx.x & 31) == 0) inverse_stds[row] = inverse_std;
}
