// What kernels need and CUDA C++ has no words for: conversions by element type, and the instructions for tensor cores
// and asynchronous copies. The only file with inline PTX, and the only one that includes CUDA's own headers.
//
// A fragment is the part of a small matrix that lies in the registers of one lane of a warp. A register holds two
// neighbouring 16-bit values, the first in its low half. Below, `row` is lane / 4 and `column` is 2 (lane % 4). What is
// done "together" is done by all 32 lanes of a warp at one time.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#ifndef INFINITY
#define INFINITY __int_as_float(0x7f800000)  // NVRTC has no math.h
#endif

// The type in which values of type T are added and multiplied.
template <class T>
struct Wide {
  using type = float;
};
template <>
struct Wide<double> {
  using type = double;
};

// The value in its wide type, exactly.
__device__ __forceinline__ double to_wide(double value) { return value; }
__device__ __forceinline__ float to_wide(float value) { return value; }
__device__ __forceinline__ float to_wide(__half value) { return __half2float(value); }
__device__ __forceinline__ float to_wide(__nv_bfloat16 value) { return __bfloat162float(value); }

// The value rounded to T, to nearest even.
template <class T>
__device__ __forceinline__ T from_wide(typename Wide<T>::type value) {
  return value;
}
template <>
__device__ __forceinline__ __half from_wide<__half>(float value) {
  return __float2half_rn(value);
}
template <>
__device__ __forceinline__ __nv_bfloat16 from_wide<__nv_bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}

// Two values rounded to T, a 16-bit type, in one register.
template <class T>
__device__ __forceinline__ unsigned pack2(float low, float high);
template <>
__device__ __forceinline__ unsigned pack2<__half>(float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  return *reinterpret_cast<const unsigned*>(&pair);
}
template <>
__device__ __forceinline__ unsigned pack2<__nv_bfloat16>(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const unsigned*>(&pair);
}

// The two values of type T, a 16-bit type, that lie in one register: the low half is x.
template <class T>
__device__ __forceinline__ float2 unpack2(unsigned pair);
template <>
__device__ __forceinline__ float2 unpack2<__half>(unsigned pair) {
  return __half22float2(*reinterpret_cast<const __half2*>(&pair));
}
template <>
__device__ __forceinline__ float2 unpack2<__nv_bfloat16>(unsigned pair) {
  return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&pair));
}

// 2 to the power of the exponent, with a relative error of 2^-22; results below the smallest normal number become 0.
__device__ __forceinline__ float exp2_approximate(float exponent) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(exponent));
  return power;
}

// c += a b, together, with a [16, 16] and b [16, 8] of type T, and c [16, 8]. A lane holds, with its row and column,
//   a[0] = a(row, column), a[1] = a(row + 8, column), a[2] = a(row, column + 8), a[3] = a(row + 8, column + 8),
//          each with the value in the next column;
//   b0 = b(column, row), b1 = b(column + 8, row), each with the value in the next row of b;
//   c[0] = c(row, column), c[1] = c(row, column + 1), c[2] = c(row + 8, column), c[3] = c(row + 8, column + 1).
template <class T>
__device__ __forceinline__ void multiply_accumulate(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1);
template <>
__device__ __forceinline__ void multiply_accumulate<__half>(float (&c)[4], const unsigned (&a)[4], unsigned b0,
                                                            unsigned b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <>
__device__ __forceinline__ void multiply_accumulate<__nv_bfloat16>(float (&c)[4], const unsigned (&a)[4], unsigned b0,
                                                                   unsigned b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The address of shared memory as the instructions below take it.
__device__ __forceinline__ unsigned shared_address(const void* shared) {
  return static_cast<unsigned>(__cvta_generic_to_shared(shared));
}

// Load four 8 x 8 matrices of 16-bit values from shared memory, together. Lane 8 m + i gives the address of row i of
// matrix m: 8 neighbouring values, aligned to 16 bytes. A lane gets, with its row and column,
//   fragments[m] = the values (row, column) and (row, column + 1) of matrix m.
__device__ __forceinline__ void load_matrices(unsigned (&fragments)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(fragments[0]), "=r"(fragments[1]), "=r"(fragments[2]), "=r"(fragments[3])
               : "r"(shared_address(row))
               : "memory");
}

// The same of the transposed matrices:
//   fragments[m] = the values (column, row) and (column + 1, row) of matrix m.
__device__ __forceinline__ void load_matrices_transposed(unsigned (&fragments)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(fragments[0]), "=r"(fragments[1]), "=r"(fragments[2]), "=r"(fragments[3])
               : "r"(shared_address(row))
               : "memory");
}

// Begin to copy 16 bytes from global to shared memory, past the first-level cache; if they are not real, zeros come and
// `global` is not read. Both addresses are multiples of 16.
__device__ __forceinline__ void copy_16_bytes(void* shared, const void* global, bool is_real) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
               "r"(is_real ? 16 : 0)
               : "memory");
}

// The copies that this thread began since the last call are one group.
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Wait until at most the N newest groups of this thread are still on their way. What the others have copied is there
// after a barrier that follows their waits.
template <int N>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}
