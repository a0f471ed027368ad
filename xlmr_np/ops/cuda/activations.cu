// The bias and the nonlinearity behind a product of matrices, which they may overwrite, and the backward pass of both.
//
// Equals: layers.activations.activation_forward(product + bias, name); `Identity` is the bias alone, what
//   layers.linear.linear_forward does after its product. `activation_backward` is that of layers.activations (ACT.2 to
//   ACT.7), with the result once more, and the sum over rows that is the gradient of the bias.
// Fuses: bias and activation; in the backward pass also the sums of groups of 64 rows, for sums.cu to add.
// Block map: grid (32 vectors of columns each, blocks of rows), block (32, 8); a thread keeps the bias of its vector of
//   LENGTH columns (16 bytes, or a single column where rows are not aligned to that) and takes every so manieth row. In the
//   backward pass the blocks are (groups, 32 vectors of columns each), and every 8th row of the group is a thread's.
// Architectures: sm_80 sm_90a sm_100
// Tolerance: computed in float32 (float64 for float64), with CUDA's erf, exp and tanh to 2 units in the last place: 5e-7
//   (1e-15) of the input, or of 1; for half types half a unit of the result's last place more. Slopes 1e-6 (2e-15); sums
//   over rows 3e-6 (1e-14) of the sum of magnitudes.
#include "primitives.cuh"
#include "rows.cuh"

// `of` is the function, `slope` its derivative.
struct Identity {
  template <class Number>
  static __device__ __forceinline__ Number of(Number x) {
    return x;
  }
};

// x Φ(x), with the exact normal distribution function Φ; √½ is 0.7071...
struct Gelu {
  template <class Number>
  static __device__ __forceinline__ Number of(Number x) {
    return Number(0.5) * x * (Number(1) + erf(x * Number(0.7071067811865476)));
  }
  template <class Number>
  static __device__ __forceinline__ Number slope(Number x) {
    const Number density = Number(0.3989422804014327) * exp(Number(-0.5) * x * x);  // 1 / √(2π)
    return Number(0.5) * (Number(1) + erf(x * Number(0.7071067811865476))) + x * density;
  }
};

// Its approximation by the hyperbolic tangent; √(2/π) is 0.7978...
struct GeluNew {
  template <class Number>
  static __device__ __forceinline__ Number of(Number x) {
    const Number inner = Number(0.7978845608028654) * (x + Number(0.044715) * x * x * x);
    return Number(0.5) * x * (Number(1) + tanh(inner));
  }
  template <class Number>
  static __device__ __forceinline__ Number slope(Number x) {
    const Number square = x * x;
    const Number inner = Number(0.7978845608028654) * (x + Number(0.044715) * square * x), bent = tanh(inner);
    const Number flat = Number(1) - bent * bent;  // soon exactly 0, while what follows grows without bounds
    const Number d_inner = Number(0.7978845608028654) * (Number(1) + Number(0.134145) * square);
    return Number(0.5) * (Number(1) + bent) + (flat == 0 ? Number(0) : Number(0.5) * x * flat * d_inner);
  }
};

struct Relu {
  template <class Number>
  static __device__ __forceinline__ Number of(Number x) {
    return x > 0 ? x : Number(0);
  }
  template <class Number>
  static __device__ __forceinline__ Number slope(Number x) {
    return Number(x > 0);
  }
};

struct Silu {
  template <class Number>
  static __device__ __forceinline__ Number of(Number x) {
    return Number(0.5) * x * (Number(1) + tanh(Number(0.5) * x));
  }
  template <class Number>
  static __device__ __forceinline__ Number slope(Number x) {
    const Number sigmoid = Number(0.5) * (Number(1) + tanh(Number(0.5) * x));
    return sigmoid * (Number(1) + x * (Number(1) - sigmoid));
  }
};

struct Tanh {
  template <class Number>
  static __device__ __forceinline__ Number of(Number x) {
    return tanh(x);
  }
  template <class Number>
  static __device__ __forceinline__ Number slope(Number x) {
    const Number bent = tanh(x);
    return Number(1) - bent * bent;
  }
};

// `result` may be `product`.
template <class T, int LENGTH, class Activation>
__global__ void __launch_bounds__(256) bias_activation(const T* product,            // [N, D]
                                                       const T* __restrict__ bias,  // [D]
                                                       T* result,                   // [N, D]
                                                       long long number_of_rows, int width) {
  using Number = typename Wide<T>::type;
  const int vector = blockIdx.x * 32 + threadIdx.x;
  if (vector >= width / LENGTH) return;
  const Vector<T, LENGTH> shifts = vector_of_row<LENGTH>(bias, vector);
  const long long step = static_cast<long long>(gridDim.y) * 8;
  for (long long row = static_cast<long long>(blockIdx.y) * 8 + threadIdx.y; row < number_of_rows; row += step) {
    Vector<T, LENGTH> values = reinterpret_cast<const Vector<T, LENGTH>*>(product + row * width)[vector];
#pragma unroll
    for (int i = 0; i < LENGTH; ++i) {
      const Number x = to_wide(values.elements[i]) + to_wide(shifts.elements[i]);
      values.elements[i] = from_wide<T>(Activation::of(x));
    }
    reinterpret_cast<Vector<T, LENGTH>*>(result + row * width)[vector] = values;
  }
}

template <class T, int LENGTH, class Activation>
__global__ void __launch_bounds__(256) activation_backward(
    T* __restrict__ gradient,                      // [N, D]: d_y, overwritten by d_product
    const T* __restrict__ product,                 // [N, D]
    const T* __restrict__ bias,                    // [D]
    T* __restrict__ y,                             // [N, D], written; null: not wanted
    typename Wide<T>::type* __restrict__ partial,  // [groups, D]: of d_product
    long long number_of_rows, int width) {
  using Number = typename Wide<T>::type;
  constexpr int ROWS = 64, SHARES = 8, COLUMNS = 32 * LENGTH;  // of a group; threads of a column; of a block
  extern __shared__ __align__(128) unsigned char shared_memory[];
  Number* shared_sums = reinterpret_cast<Number*>(shared_memory);  // [SHARES, LENGTH, 32]
  const int vector = blockIdx.y * 32 + threadIdx.x;
  const long long first = static_cast<long long>(blockIdx.x) * ROWS, last = min(first + ROWS, number_of_rows);
  Number sums[LENGTH] = {};
  if (vector < width / LENGTH) {
    const Vector<T, LENGTH> shifts = vector_of_row<LENGTH>(bias, vector);
    for (long long row = first + threadIdx.y; row < last; row += SHARES) {
      T* gradient_row = gradient + row * width;
      const Vector<T, LENGTH> products = vector_of_row<LENGTH>(product + row * width, vector);
      const Vector<T, LENGTH> d_results = reinterpret_cast<const Vector<T, LENGTH>*>(gradient_row)[vector];
      Number gradients[LENGTH], results[LENGTH];
#pragma unroll
      for (int i = 0; i < LENGTH; ++i) {
        const Number x = to_wide(products.elements[i]) + to_wide(shifts.elements[i]);
        results[i] = Activation::of(x);
        gradients[i] = to_wide(d_results.elements[i]) * Activation::slope(x);
        sums[i] += gradients[i];
      }
      store_vector(gradient_row, vector, gradients);
      if (y) store_vector(y + row * width, vector, results);
    }
  }
#pragma unroll
  for (int i = 0; i < LENGTH; ++i) shared_sums[(threadIdx.y * LENGTH + i) * 32 + threadIdx.x] = sums[i];
  __syncthreads();
  for (int column = threadIdx.y * 32 + threadIdx.x; column < COLUMNS; column += 256) {
    if (blockIdx.y * COLUMNS + column >= width) return;
    Number sum = 0;
#pragma unroll
    for (int share = 0; share < SHARES; ++share)
      sum += shared_sums[(share * LENGTH + column % LENGTH) * 32 + column / LENGTH];
    partial[static_cast<long long>(blockIdx.x) * width + blockIdx.y * COLUMNS + column] = sum;
  }
}
