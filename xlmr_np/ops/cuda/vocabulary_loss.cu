// The cross-entropy over a vocabulary of which only a chunk of logits exists at a time, forward and backward.
//
// Equals: ops.reference.vocabulary_cross_entropy_forward and _backward (MLM.10 to MLM.14), a chunk at a time. A row
//   whose label is ignored has no loss and a gradient of exactly 0.
// Fuses: add_logits: bias, log Σ exp so far, the label's logit, the sum of possible logits. mean_loss: log Σ exp, the
//   losses and their mean. logits_gradient: bias, softmax, smoothed one-hot, the loss's gradient; in place.
//   The backward pass computes logits again, as the gradient of every row of the table needs log Σ exp of whole rows
//   first; with a chunk in the second-level cache that costs about what writing and reading all logits would.
// Block map: add_logits, logits_gradient: grid (rows), 256 threads; a block takes a row, a thread every 256th vector of
//   LENGTH columns (16 bytes, or single columns where rows are not aligned to that). mean_loss: one block.
// Architectures: sm_80 sm_90a sm_100
// Tolerance: logits exactly those of the product as it is stored (rounded to T) plus the bias, in float32 (float64 for
//   float64); sums of them and of their exponentials in another order, 2e-6 (1e-14) of the sum of magnitudes; gradients
//   2e-6 (1e-14) times the size of log Σ exp, and for half types half a unit of the result's last place more.
#include "primitives.cuh"
#include "rows.cuh"

constexpr int THREADS = 256, WARPS = THREADS / 32;
constexpr long long IGNORED = -100;  // as a label

// The number of rows, or of tokens, to divide by: 1 if there is none, as what is divided is 0 then.
template <class Number>
__device__ __forceinline__ Number divisor(const long long* __restrict__ count) {
  return static_cast<Number>(*count > 1 ? *count : 1);
}

// Some exponentials: their sum is `sum` times the exponential of what `shift_of` says of the largest exponent.
template <class Number>
struct Exponentials {
  Number largest, sum;

  // Nothing, where the largest is infinite.
  static __device__ __forceinline__ Number shift_of(Number largest) {
    return largest > -Number(INFINITY) && largest < Number(INFINITY) ? largest : Number(0);
  }

  // The same sum with a larger exponent to come; smaller ones and NaN change nothing.
  __device__ __forceinline__ void raise(Number to) {
    if (!(to > largest)) return;
    if (sum != 0) sum *= exp(shift_of(largest) - shift_of(to));
    largest = to;
  }

  __device__ __forceinline__ void add(Exponentials other) {
    raise(other.largest);
    other.raise(largest);
    sum += other.sum;
  }

  __device__ __forceinline__ Number log_of_sum() const { return log(sum) + shift_of(largest); }
};

// What is known of a row after some chunks.
template <class Number>
struct RowSoFar {
  Exponentials<Number> exponentials;
  Number of_label;  // the label's logit, -inf if it has not come yet
  Number of_all;    // the sum of all logits but those that their bias rules out, if labels are smoothed
};

template <class T, int LENGTH>
__global__ void __launch_bounds__(THREADS) add_logits(
    const T* __restrict__ product,             // [N, C]
    const T* __restrict__ bias,                // [C]
    int columns, long long first_id,           // C, and the id of the first; 0 begins anew
    const long long* __restrict__ labels,      // [N]
    int is_smoothed,
    RowSoFar<typename Wide<T>::type>* __restrict__ rows_so_far) {  // [N]
  using Number = typename Wide<T>::type;
  __shared__ Exponentials<Number> of_warps[WARPS];
  __shared__ Number all_of_warps[WARPS];
  const long long row = blockIdx.x;
  product += row * columns;

  Exponentials<Number> own{-Number(INFINITY), Number(0)};
  Number own_all = 0;
  for (int vector = threadIdx.x; vector < columns / LENGTH; vector += THREADS) {
    const Vector<T, LENGTH> products = vector_of_row<LENGTH>(product, vector);
    const Vector<T, LENGTH> biases = vector_of_row<LENGTH>(bias, vector);
    Number logits[LENGTH], largest = -Number(INFINITY);
#pragma unroll
    for (int i = 0; i < LENGTH; ++i) {
      logits[i] = to_wide(products.elements[i]) + to_wide(biases.elements[i]);
      if (logits[i] > largest) largest = logits[i];
      if (is_smoothed && to_wide(biases.elements[i]) != -Number(INFINITY)) own_all += logits[i];
    }
    own.raise(largest);
    const Number shift = own.shift_of(own.largest);
#pragma unroll
    for (int i = 0; i < LENGTH; ++i) own.sum += exp(logits[i] - shift);
  }

#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2)
    own.add({__shfl_xor_sync(ALL_LANES, own.largest, distance), __shfl_xor_sync(ALL_LANES, own.sum, distance)});
  own_all = sum_of_warp(own_all);
  if (threadIdx.x % 32 == 0) {
    of_warps[threadIdx.x / 32] = own;
    all_of_warps[threadIdx.x / 32] = own_all;
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  RowSoFar<Number> so_far{{-Number(INFINITY), Number(0)}, -Number(INFINITY), Number(0)};
  if (first_id > 0) so_far = rows_so_far[row];
  for (int warp = 0; warp < WARPS; ++warp) {
    so_far.exponentials.add(of_warps[warp]);
    so_far.of_all += all_of_warps[warp];
  }
  const long long column = labels[row] - first_id;
  if (column >= 0 && column < columns) so_far.of_label = to_wide(product[column]) + to_wide(bias[column]);
  rows_so_far[row] = so_far;
}

template <class Number>
__global__ void __launch_bounds__(THREADS) mean_loss(
    const RowSoFar<Number>* __restrict__ rows,  // [N], after all chunks
    const long long* __restrict__ labels,       // [N]
    const long long* __restrict__ counted,      // how many labels are not ignored
    const long long* __restrict__ possible,     // how many tokens their bias does not rule out; null: not smoothed
    Number smoothing,
    Number* __restrict__ log_sum_exp,  // [N]
    Number* __restrict__ loss,         // one number
    long long number_of_rows) {        // N
  __shared__ Number of_warps[WARPS];
  Number sum = 0;
  for (long long row = threadIdx.x; row < number_of_rows; row += THREADS) {
    const Number log_of_sum = rows[row].exponentials.log_of_sum();
    log_sum_exp[row] = log_of_sum;
    if (labels[row] == IGNORED) continue;
    Number expected = (Number(1) - smoothing) * rows[row].of_label;
    if (possible != nullptr) expected += smoothing * rows[row].of_all / divisor<Number>(possible);
    sum += log_of_sum - expected;
  }
  sum = sum_of_warp(sum);
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int warp = 1; warp < WARPS; ++warp) sum += of_warps[warp];
  *loss = sum / divisor<Number>(counted);
}

// The gradient takes the place of the product. It is scaled before it is rounded, as d_loss alone may be beyond T.
template <class T, int LENGTH>
__global__ void __launch_bounds__(THREADS) logits_gradient(
    T* product,                            // [N, C]
    const T* __restrict__ bias,            // [C]
    int columns, long long first_id,       // C, and the id of the first
    const long long* __restrict__ labels,  // [N]
    const long long* __restrict__ counted, const long long* __restrict__ possible,  // as of mean_loss
    typename Wide<T>::type smoothing,
    const typename Wide<T>::type* __restrict__ log_sum_exp,  // [N]
    const typename Wide<T>::type* __restrict__ d_loss) {     // one number
  using Number = typename Wide<T>::type;
  const long long row = blockIdx.x, label = labels[row];
  const Number scale = *d_loss / divisor<Number>(counted), own_log_sum_exp = log_sum_exp[row];
  const Number share = possible == nullptr ? Number(0) : smoothing / divisor<Number>(possible);
  Vector<T, LENGTH>* vectors = reinterpret_cast<Vector<T, LENGTH>*>(product + row * columns);
  for (int vector = threadIdx.x; vector < columns / LENGTH; vector += THREADS) {
    const Vector<T, LENGTH> biases = vector_of_row<LENGTH>(bias, vector);
    Vector<T, LENGTH> values = vectors[vector];
#pragma unroll
    for (int i = 0; i < LENGTH; ++i) {
      const Number shift = to_wide(biases.elements[i]);
      const Number probability = exp(to_wide(values.elements[i]) + shift - own_log_sum_exp);
      Number target = shift == -Number(INFINITY) ? Number(0) : share;
      if (first_id + vector * LENGTH + i == label) target += Number(1) - smoothing;
      values.elements[i] = from_wide<T>(label == IGNORED ? Number(0) : (probability - target) * scale);
    }
    vectors[vector] = values;
  }
}
