// What attention on tensor cores keeps in shared memory: tiles of rows, which arrive by asynchronous copies.
//
// A row of a tile lies in chunks of 16 bytes, permuted so that eight rows meet each bank once.
#pragma once
#include "primitives.cuh"

constexpr float LOG2_E = 1.4426950408889634f;

// Where the chunk of 8 values of a row lies in a tile of rows of WIDTH values.
template <int WIDTH, class T>
__device__ T* chunk_of_tile(T* tile, int row, int chunk) {
  constexpr int CHUNKS = WIDTH / 8;
  const int place = CHUNKS >= 8 ? chunk ^ (row & 7) : chunk ^ ((row >> 1) & (CHUNKS - 1));
  return tile + row * WIDTH + place * 8;
}

// Begin to copy ROWS rows into a tile; rows from `real_rows` on become zeros.
template <int WIDTH, int ROWS, int THREADS, class T>
__device__ void copy_tile(T* tile, const T* __restrict__ rows, long long stride, int real_rows) {
  constexpr int CHUNKS = WIDTH / 8;
  static_assert(ROWS * CHUNKS % THREADS == 0, "every thread copies as many chunks");
#pragma unroll
  for (int i = 0; i < ROWS * CHUNKS / THREADS; ++i) {
    const int number = threadIdx.x + i * THREADS, row = number / CHUNKS, chunk = number % CHUNKS;
    const bool is_real = row < real_rows;
    copy_16_bytes(chunk_of_tile<WIDTH>(tile, row, chunk), rows + (is_real ? row : 0) * stride + chunk * 8, is_real);
  }
}
