// What kernels over rows share: sums and extremes over a warp, vectors of elements, which row a warp takes, and the
// layer norm of a row.
#pragma once
#include "primitives.cuh"

constexpr unsigned ALL_LANES = 0xffffffffu;

// The larger of two numbers; the second if either is NaN.
template <class Number>
__device__ __forceinline__ Number larger(Number first, Number second) {
  return first > second ? first : second;
}

// Over the 32 lanes of a warp, which ask together; every lane gets the same.
template <class Number>
__device__ __forceinline__ Number sum_of_warp(Number value) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(ALL_LANES, value, distance);
  return value;
}

template <class Number>
__device__ __forceinline__ Number max_of_warp(Number value) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2)
    value = larger(value, __shfl_xor_sync(ALL_LANES, value, distance));
  return value;
}

// LENGTH neighbouring elements that travel together: their address is a multiple of their size.
template <class T, int LENGTH>
struct alignas(sizeof(T) * LENGTH) Vector {
  T elements[LENGTH];
};

// Vector number `vector` of a row.
template <int LENGTH, class T>
__device__ __forceinline__ Vector<T, LENGTH> vector_of_row(const T* __restrict__ row, int vector) {
  return reinterpret_cast<const Vector<T, LENGTH>*>(row)[vector];
}

// Adds vector number `vector` of a row.
template <class T, int LENGTH>
__device__ __forceinline__ void add_vector(typename Wide<T>::type (&sums)[LENGTH], const T* __restrict__ row,
                                           int vector) {
  const Vector<T, LENGTH> loaded = vector_of_row<LENGTH>(row, vector);
#pragma unroll
  for (int i = 0; i < LENGTH; ++i) sums[i] += to_wide(loaded.elements[i]);
}

// The row of this warp, where every warp takes one; the last block's may lie beyond the last row.
__device__ __forceinline__ long long row_of_warp() {
  return static_cast<long long>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
}

// The part of dynamic shared memory in which this warp keeps a row: a multiple of what its lanes take in one round.
template <class Number, int LENGTH>
__device__ __forceinline__ Number* kept_row_of_warp(int width) {
  extern __shared__ __align__(128) unsigned char shared_memory[];
  const int numbers = (width + 32 * LENGTH - 1) / (32 * LENGTH) * (32 * LENGTH);
  return reinterpret_cast<Number*>(shared_memory) + threadIdx.x / 32 * numbers;
}

// Rounds the numbers to vector number `vector` of a row.
template <class T, int LENGTH>
__device__ __forceinline__ void store_vector(T* __restrict__ row, int vector,
                                             const typename Wide<T>::type (&numbers)[LENGTH]) {
  Vector<T, LENGTH> rounded;
#pragma unroll
  for (int i = 0; i < LENGTH; ++i) rounded.elements[i] = from_wide<T>(numbers[i]);
  reinterpret_cast<Vector<T, LENGTH>*>(row)[vector] = rounded;
}

// The same in the wide type, 16 bytes at a time where there are as many.
template <int LENGTH, class Number>
__device__ __forceinline__ void store_wide_vector(Number* __restrict__ row, int vector,
                                                  const Number (&numbers)[LENGTH]) {
  constexpr int MOST = 16 / sizeof(Number), TOGETHER = LENGTH < MOST ? LENGTH : MOST;
#pragma unroll
  for (int first = 0; first < LENGTH; first += TOGETHER) {
    Vector<Number, TOGETHER> part;
#pragma unroll
    for (int i = 0; i < TOGETHER; ++i) part.elements[i] = numbers[first + i];
    *reinterpret_cast<Vector<Number, TOGETHER>*>(row + static_cast<long long>(vector) * LENGTH + first) = part;
  }
}

// What layer_norm_of_row does with a vector beside storing it where there is no training: nothing.
struct Unobserved {
  template <class Numbers>
  __device__ __forceinline__ void operator()(Numbers&, Numbers&, int) const {}
};

// LayerNorm of one row by one warp, with the mean and then the variance each from a pass over the row of their own, as
// in layers.layer_norm. `add_to(sums, vector)` adds the row's vector of that number to zeros; it is asked once, and the
// result is kept in shared memory: lane by lane side by side, so that there are no bank conflicts, and each lane reads
// only what it has written itself, so that there is no barrier. `observe(normalized, results, vector)` sees each vector
// of normalised numbers, and may change the results before they are rounded. Returns the inverse standard deviation.
template <class T, int LENGTH, class AddTo, class Observe = Unobserved>
__device__ __forceinline__ typename Wide<T>::type layer_norm_of_row(
    AddTo add_to, typename Wide<T>::type* kept,  // kept_row_of_warp<Number, LENGTH>(width)
    const T* __restrict__ weight, const T* __restrict__ bias, typename Wide<T>::type eps,
    T* __restrict__ result,  // the row
    int width, Observe observe = Observe()) {
  using Number = typename Wide<T>::type;
  const int lane = threadIdx.x & 31, vectors = width / LENGTH;
  Number* own = kept + lane;

  Number sum = 0;
  for (int vector = lane, place = 0; vector < vectors; vector += 32) {
    Number values[LENGTH] = {};
    add_to(values, vector);
#pragma unroll
    for (int i = 0; i < LENGTH; ++i, place += 32) {
      own[place] = values[i];
      sum += values[i];
    }
  }
  const Number mean = sum_of_warp(sum) / width;

  Number squares = 0;
  for (int vector = lane, place = 0; vector < vectors; vector += 32) {
#pragma unroll
    for (int i = 0; i < LENGTH; ++i, place += 32) {
      const Number centered = own[place] - mean;
      squares += centered * centered;
    }
  }
  const Number inverse_std = Number(1) / sqrt(sum_of_warp(squares) / width + eps);

  for (int vector = lane, place = 0; vector < vectors; vector += 32) {
    const Vector<T, LENGTH> scales = vector_of_row<LENGTH>(weight, vector);
    const Vector<T, LENGTH> shifts = vector_of_row<LENGTH>(bias, vector);
    Number normalized[LENGTH], results[LENGTH];
#pragma unroll
    for (int i = 0; i < LENGTH; ++i, place += 32) {
      normalized[i] = (own[place] - mean) * inverse_std;
      results[i] = normalized[i] * to_wide(scales.elements[i]) + to_wide(shifts.elements[i]);
    }
    observe(normalized, results, vector);
    store_vector(result, vector, results);
  }
  return inverse_std;
}
