// What CUDA C++ has without an include, for the machine of machine.h: what the project's kernels use of it, no more.
// Functions that wait take their place in the kernel as last arguments that no kernel passes.
#pragma once
#include <math.h>
#include <stdlib.h>

#include "machine.h"

#define __global__
#define __device__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __shared__ thread_local  // one for all threads of a block, as they are fibers of one CPU thread

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

#define threadIdx (emulator::machine.current->index)
#define blockIdx (emulator::machine.block_index)
#define blockDim (emulator::machine.block_size)
#define gridDim (emulator::machine.grid_size)

namespace emulator {

struct Nothing {
  static void work(Nothing* const (&)[LANES]) {}
};

// A value that another lane of the mask reads. What a lane reads that does not take part is undefined: here ones.
template <class T>
struct Shuffle {
  T value;
  unsigned source;
  T result;
  static void work(Shuffle* const (&lanes)[LANES]) {
    for (Shuffle* lane : lanes) {
      if (!lane) continue;
      if (const Shuffle* source = lanes[lane->source])
        lane->result = source->value;
      else
        memset(&lane->result, 0xff, sizeof(T));
    }
  }
};

struct Vote {
  bool is_for;
  unsigned result;
  static void work(Vote* const (&lanes)[LANES]) {
    unsigned votes = 0;
    for (unsigned lane = 0; lane < LANES; ++lane)
      if (lanes[lane] && lanes[lane]->is_for) votes |= 1u << lane;
    for (Vote* lane : lanes)
      if (lane) lane->result = votes;
  }
};

template <class T>
inline T shuffled(const Call& call, unsigned mask, T value, unsigned source) {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8), "numbers of 32 or 64 bits only");
  Shuffle<T> shuffle{value, source, T()};
  together(call, mask, shuffle);
  return shuffle.result;
}

inline unsigned votes(const Call& call, unsigned mask, bool is_for) {
  Vote vote{is_for, 0};
  together(call, mask, vote);
  return vote.result;
}

template <class T>
struct Same {
  using type = T;
};

}  // namespace emulator

#define PLACE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(PLACE) { emulator::wait_for_block({"__syncthreads", file, line}); }
inline void __syncwarp(unsigned mask = emulator::ALL_LANES, PLACE) {
  emulator::Nothing nothing;
  emulator::together({"__syncwarp", file, line}, mask, nothing);
}
template <class T>
inline T __shfl_sync(unsigned mask, T value, int source, PLACE) {
  return emulator::shuffled({"__shfl_sync", file, line}, mask, value, source % emulator::LANES);
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int bits, PLACE) {
  const unsigned source = emulator::machine.current->lane ^ bits;
  return emulator::shuffled({"__shfl_xor_sync", file, line}, mask, value, source % emulator::LANES);
}
inline unsigned __ballot_sync(unsigned mask, int is_for, PLACE) {
  return emulator::votes({"__ballot_sync", file, line}, mask, is_for);
}
inline int __any_sync(unsigned mask, int is_for, PLACE) {
  return emulator::votes({"__any_sync", file, line}, mask, is_for) != 0;
}

#undef PLACE

// One thread runs at a time, between the places where it waits: every function is atomic. The type is the address's.
template <class T>
inline T atomicAdd(T* address, typename emulator::Same<T>::type value) {
  const T old = *address;
  *address = old + value;
  return old;
}
template <class T>
inline T atomicMin(T* address, typename emulator::Same<T>::type value) {
  static_assert(std::is_integral_v<T>, "CUDA has no atomicMin of this type");
  const T old = *address;
  if (value < old) *address = value;
  return old;
}
template <class T>
inline T atomicMax(T* address, typename emulator::Same<T>::type value) {
  static_assert(std::is_integral_v<T>, "CUDA has no atomicMax of this type");
  const T old = *address;
  if (value > old) *address = value;
  return old;
}

template <class A, class B>
inline std::common_type_t<A, B> min(A a, B b) {
  if constexpr (std::is_floating_point_v<std::common_type_t<A, B>>)
    return fmin(a, b);
  else
    return b < a ? b : a;
}
template <class A, class B>
inline std::common_type_t<A, B> max(A a, B b) {
  if constexpr (std::is_floating_point_v<std::common_type_t<A, B>>)
    return fmax(a, b);
  else
    return b > a ? b : a;
}

inline float emulated_rsqrtf(float x) { return 1.f / sqrtf(x); }
inline double emulated_rsqrt(double x) { return 1. / sqrt(x); }
#define rsqrtf emulated_rsqrtf  // macros, as new C libraries have functions of these names
#define rsqrt emulated_rsqrt

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
