// The end of a training step for all parameters at once: the norm of all gradients, clipping, AdamW.
//
// Equals: training.clipping.global_norm and clipping_factor, and training.adamw.AdamW.update, on gradients that are
//   loss_scale times too large. Where the norm is not finite, nothing is written but the norm.
// Fuses: sum_squares: the squares of all gradients, of any types. clip: their sum, its root, the clipping factor, the
//   loss scale. update: gradient times factor, both means, decay, the step, and the half-precision copy. update_rows:
//   the same for a table with a row-sparse gradient, of which rows that no gradient has ever reached only decay, as
//   their means are zero.
// Block map: a list, made once, of which part of which tensor a block takes: BLOCK numbers, a thread every 256th of
//   them. clip: one block. update_rows: a warp takes a row of the table, a lane every 32nd number of it.
// Architectures: sm_80 sm_90a sm_100
// Tolerance: the norm in float64, 1e-14 of itself; an update to a few roundings of its terms.
#include "primitives.cuh"
#include "rows.cuh"

constexpr int THREADS = 256, WARPS = THREADS / 32;
constexpr int BLOCK = 16384;                                             // numbers of a tensor that a block takes
constexpr int AT_ONCE = 4;                                               // numbers that a thread loads before it stores
constexpr long long FLOAT64 = 0, FLOAT32 = 1, FLOAT16 = 2, BFLOAT16 = 3;  // types of elements

// A gradient: the address of its elements, their type, and how many there are.
struct Gradient {
  long long elements, type, size;
};

// A parameter and what is kept for it: addresses, 0 where there is no copy.
struct Tensor {
  long long parameter, mean, square, copy, copy_type, decays;
};

// The part of a tensor that a block takes.
struct Part {
  long long tensor, first;
};

// Calls `use` with a pointer to elements of the type of this number.
template <class Use>
__device__ __forceinline__ void with_elements(long long address, long long type, Use use) {
  if (type == FLOAT64)
    use(reinterpret_cast<const double*>(address));
  else if (type == FLOAT32)
    use(reinterpret_cast<const float*>(address));
  else if (type == FLOAT16)
    use(reinterpret_cast<const __half*>(address));
  else
    use(reinterpret_cast<const __nv_bfloat16*>(address));
}

// In thread 0, the sum over all threads in the order of their numbers.
__device__ __forceinline__ double sum_of_block(double value) {
  __shared__ double of_warps[WARPS];
  value = sum_of_warp(value);
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = value;
  __syncthreads();
  if (threadIdx.x != 0) return value;
  for (int warp = 1; warp < WARPS; ++warp) value += of_warps[warp];
  return value;
}

__global__ void __launch_bounds__(THREADS) sum_squares(const Gradient* __restrict__ gradients,  // [K]
                                                       const Part* __restrict__ parts,          // of the blocks
                                                       double* __restrict__ sums) {             // of the blocks
  const Part part = parts[blockIdx.x];
  const Gradient gradient = gradients[part.tensor];
  const long long last = min(part.first + BLOCK, gradient.size);
  double sum = 0;
  with_elements(gradient.elements, gradient.type, [&](const auto* __restrict__ elements) {
#pragma unroll 4
    for (long long place = part.first + threadIdx.x; place < last; place += THREADS) {
      const double value = to_wide(elements[place]);
      sum += value * value;
    }
  });
  sum = sum_of_block(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(THREADS) clip(const double* __restrict__ sums, int number_of_sums,
                                                double largest_norm,
                                                double added_to_norm,  // before it divides
                                                double loss_scale,
                                                double* __restrict__ clipping) {  // [2]: norm, factor
  double sum = 0;
  for (int i = threadIdx.x; i < number_of_sums; i += THREADS) sum += sums[i];
  sum = sum_of_block(sum);
  if (threadIdx.x != 0) return;
  const double norm = sqrt(sum) / loss_scale, factor = largest_norm / (norm + added_to_norm);
  clipping[0] = norm;
  clipping[1] = (factor < 1 ? factor : 1) / loss_scale;
}

// Whether the step counts: not if the norm is infinite or NaN.
__device__ __forceinline__ bool is_finite(const double* __restrict__ clipping) { return clipping[0] < INFINITY; }

// The numbers of this step, see training.adamw.
template <class Number>
struct Step {
  Number beta1, rest1, beta2, rest2, eps;  // rest = 1 - beta
  Number root_scale;                       // the root of the mean square is multiplied with it
  Number rate;                             // the quotient of the means likewise

  // The parameter after this step, of which so much is kept; the means become those after it.
  __device__ __forceinline__ Number updated(Number parameter, Number kept, Number gradient, Number& mean,
                                            Number& square) const {
    mean = beta1 * mean + rest1 * gradient;
    square = beta2 * square + rest2 * (gradient * gradient);
    return kept * parameter - mean / (sqrt(square) * root_scale + eps) * rate;
  }
};

// Numbers of one parameter that are updated together.
template <class Number>
struct Span {
  Number* parameter;
  Number* mean;
  Number* square;
  long long copy, copy_type;  // the address of the first element, or 0
  Number kept;                // the parameter is multiplied with it

  __device__ __forceinline__ void write(int place, Number value) const {
    parameter[place] = value;
    if constexpr (sizeof(Number) == sizeof(float)) {
      if (copy == 0) return;
      if (copy_type == FLOAT16)
        reinterpret_cast<__half*>(copy)[place] = from_wide<__half>(value);
      else
        reinterpret_cast<__nv_bfloat16*>(copy)[place] = from_wide<__nv_bfloat16>(value);
    }
  }

  // Updates the numbers first, first + stride, ... below `last` by gradients, which are 0 if there are none.
  template <class T>
  __device__ __forceinline__ void update(const T* gradient, Number factor, const Step<Number>& step, int first,
                                         int stride, int last) const {
    for (; first < last; first += AT_ONCE * stride) {
      Number parameters[AT_ONCE], means[AT_ONCE], squares[AT_ONCE], gradients[AT_ONCE];
#pragma unroll
      for (int i = 0; i < AT_ONCE; ++i) {
        const int place = first + i * stride;
        if (place >= last) continue;
        parameters[i] = parameter[place];
        means[i] = mean[place];
        squares[i] = square[place];
        gradients[i] = gradient == nullptr ? Number(0) : static_cast<Number>(to_wide(gradient[place]));
      }
#pragma unroll
      for (int i = 0; i < AT_ONCE; ++i) {
        const int place = first + i * stride;
        if (place >= last) continue;
        write(place, step.updated(parameters[i], kept, gradients[i] * factor, means[i], squares[i]));
        mean[place] = means[i];
        square[place] = squares[i];
      }
    }
  }
};

template <class Number>
__global__ void __launch_bounds__(THREADS) update(const Tensor* __restrict__ tensors,      // [K]
                                                  const Gradient* __restrict__ gradients,  // [K]
                                                  const Part* __restrict__ parts,          // of the blocks
                                                  const double* __restrict__ clipping,     // as `clip` writes it
                                                  Number beta1, Number rest1, Number beta2, Number rest2, Number eps,
                                                  Number root_scale, Number rate, Number kept) {
  if (!is_finite(clipping)) return;
  const Step<Number> step{beta1, rest1, beta2, rest2, eps, root_scale, rate};
  const Part part = parts[blockIdx.x];
  const Tensor tensor = tensors[part.tensor];
  const Gradient gradient = gradients[part.tensor];
  const long long rest = gradient.size - part.first;
  const Span<Number> span{reinterpret_cast<Number*>(tensor.parameter) + part.first,
                          reinterpret_cast<Number*>(tensor.mean) + part.first,
                          reinterpret_cast<Number*>(tensor.square) + part.first,
                          tensor.copy == 0 ? 0 : tensor.copy + 2 * part.first,  // 2 bytes an element
                          tensor.copy_type,
                          tensor.decays ? kept : Number(1)};
  with_elements(gradient.elements, gradient.type, [&](const auto* elements) {
    span.update(elements + part.first, static_cast<Number>(clipping[1]), step, threadIdx.x, THREADS,
                static_cast<int>(rest < BLOCK ? rest : BLOCK));
  });
}

// Where `row` stands in a rising index, or -1.
__device__ __forceinline__ int place_of_row(long long row, const long long* __restrict__ index, int length) {
  int low = 0, high = length;  // the place is in [low, high)
  while (low < high) {
    const int middle = low + (high - low) / 2;
    if (index[middle] < row)
      low = middle + 1;
    else
      high = middle;
  }
  return low < length && index[low] == row ? low : -1;
}

template <class Number>
__global__ void __launch_bounds__(THREADS) update_rows(
    const Tensor* __restrict__ table,       // [V, D]
    bool* __restrict__ reached,             // [V]: by a gradient, ever
    const Gradient* __restrict__ gradient,  // [U, D]
    const long long* __restrict__ index,    // [U]: rows of the table, rising
    int rows_of_gradient,                   // U
    const double* __restrict__ clipping,    // as `clip` writes it
    Number beta1, Number rest1, Number beta2, Number rest2, Number eps, Number root_scale, Number rate, Number kept,
    long long number_of_rows, int width) {  // V, D
  const long long row = row_of_warp();
  if (row >= number_of_rows || !is_finite(clipping)) return;
  const Step<Number> step{beta1, rest1, beta2, rest2, eps, root_scale, rate};
  const int lane = threadIdx.x & 31, place = place_of_row(row, index, rows_of_gradient);
  const long long first = row * width;
  const Span<Number> span{reinterpret_cast<Number*>(table->parameter) + first,
                          reinterpret_cast<Number*>(table->mean) + first,
                          reinterpret_cast<Number*>(table->square) + first,
                          table->copy == 0 ? 0 : table->copy + 2 * first,  // 2 bytes an element
                          table->copy_type,
                          table->decays ? kept : Number(1)};
  if (place < 0 && !reached[row]) {
    if (span.kept == 1) return;
    for (int column = lane; column < width; column += 32) span.write(column, span.kept * span.parameter[column]);
    return;
  }
  with_elements(gradient->elements, gradient->type, [&](const auto* elements) {
    const auto* own = place < 0 ? nullptr : elements + static_cast<long long>(place) * width;
    span.update(own, static_cast<Number>(clipping[1]), step, lane, 32, width);
  });
  if (place >= 0 && lane == 0) reached[row] = true;
}
