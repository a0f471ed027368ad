// The bias and the nonlinearity behind a product of matrices, in place.
//
// Equals: layers.activations.activation_forward(product + bias, name); `Identity` is the bias alone, what
//   layers.linear.linear_forward does after its product.
// Fuses: bias and activation.
// Block map: grid (32 vectors of columns each, blocks of rows), block (32, 8); a thread keeps the bias of its vector of
//   LENGTH columns (16 bytes, or a single column where rows are not aligned to that) and takes every so manieth row.
// Architectures: sm_80 sm_90a sm_100
// Tolerance: computed in float32 (float64 for float64), with CUDA's erf and tanh to 2 units in the last place: 5e-7
//   (1e-15) of the input, or of 1; for half types half a unit of the result's last place more.
#include "primitives.cuh"
#include "rows.cuh"

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
};

// Its approximation by the hyperbolic tangent; √(2/π) is 0.7978...
struct GeluNew {
  template <class Number>
  static __device__ __forceinline__ Number of(Number x) {
    const Number inner = Number(0.7978845608028654) * (x + Number(0.044715) * x * x * x);
    return Number(0.5) * x * (Number(1) + tanh(inner));
  }
};

struct Relu {
  template <class Number>
  static __device__ __forceinline__ Number of(Number x) {
    return x > 0 ? x : Number(0);
  }
};

struct Silu {
  template <class Number>
  static __device__ __forceinline__ Number of(Number x) {
    return Number(0.5) * x * (Number(1) + tanh(Number(0.5) * x));
  }
};

struct Tanh {
  template <class Number>
  static __device__ __forceinline__ Number of(Number x) {
    return tanh(x);
  }
};

template <class T, int LENGTH, class Activation>
__global__ void __launch_bounds__(256) bias_activation(T* __restrict__ product,     // [N, D], overwritten
                                                       const T* __restrict__ bias,  // [D]
                                                       long long number_of_rows, int width) {
  using Number = typename Wide<T>::type;
  const int vector = blockIdx.x * 32 + threadIdx.x;
  if (vector >= width / LENGTH) return;
  const Vector<T, LENGTH> shifts = vector_of_row<LENGTH>(bias, vector);
  const long long step = static_cast<long long>(gridDim.y) * 8;
  for (long long row = static_cast<long long>(blockIdx.y) * 8 + threadIdx.y; row < number_of_rows; row += step) {
    Vector<T, LENGTH>* place = reinterpret_cast<Vector<T, LENGTH>*>(product + row * width) + vector;
    Vector<T, LENGTH> values = *place;
#pragma unroll
    for (int i = 0; i < LENGTH; ++i) {
      const Number x = to_wide(values.elements[i]) + to_wide(shifts.elements[i]);
      values.elements[i] = from_wide<T>(Activation::of(x));
    }
    *place = values;
  }
}
