// The gradients of tables from those of the rows that were looked up, in the order of a stable sort of the index.
//
// Equals: EMB.5 to EMB.8, what layers.embeddings.table_gradients does with scatter_add_rows; without atomics, so that the
//   same bits come in every run.
// Fuses: the gather in sorted order and the sums of equal indices. The sorted index is cut into tiles of 32: `add_runs`
//   adds up each run of equal ones within its tile, and `join_runs` adds what is left of a run that goes on over several
//   tiles. So the work is spread evenly however often a row was looked up.
// Block map: add_runs: grid (tiles), block 128; a thread takes every 128th vector of LENGTH columns (16 bytes, or single
//   columns where rows are not aligned to that). join_runs: grid (tiles but the last), block 128, likewise; a block adds up
//   the run that begins in its tile and goes on behind it, if there is one.
// Architectures: sm_80 sm_90a sm_100
// Tolerance: sums in float32 (float64 for float64): 3e-6 (1e-14) of the sum of magnitudes.
#include "primitives.cuh"
#include "rows.cuh"

constexpr int ROWS_OF_TILE = 32;

template <class T, int LENGTH>
__global__ void __launch_bounds__(128) add_runs(
    const T* __restrict__ d_rows,                  // [N, D]
    const long long* __restrict__ order,           // [N], rows of d_rows
    const long long* __restrict__ places,          // [N], rows of the result, equal ones side by side; negative: none
    typename Wide<T>::type* __restrict__ result,   // [places, D], zeros
    typename Wide<T>::type* __restrict__ partial,  // [tiles, 2, D]: the part of a run from before, of one that goes on
    long long number_of_rows, int width) {
  using Number = typename Wide<T>::type;
  constexpr int BATCH = 4;  // rows that are loaded together
  extern __shared__ __align__(128) unsigned char shared_memory[];
  long long* tile_order = reinterpret_cast<long long*>(shared_memory);  // [ROWS_OF_TILE]
  long long* tile_places = tile_order + ROWS_OF_TILE + 1;  // [-1 to ROWS_OF_TILE], those of the neighbours included
  const long long first = static_cast<long long>(blockIdx.x) * ROWS_OF_TILE;
  const int rows = static_cast<int>(min(static_cast<long long>(ROWS_OF_TILE), number_of_rows - first));
  if (threadIdx.x < rows) tile_order[threadIdx.x] = order[first + threadIdx.x];
  if (threadIdx.x < rows + 2) {
    const long long number = first + threadIdx.x - 1;
    tile_places[static_cast<int>(threadIdx.x) - 1] = number >= 0 && number < number_of_rows ? places[number] : -1;
  }
  __syncthreads();

  for (int vector = threadIdx.x; vector < width / LENGTH; vector += blockDim.x) {
    Number sums[LENGTH] = {};
    bool is_from_before = tile_places[-1] == tile_places[0];
    for (int batch = 0; batch < rows; batch += BATCH) {
      Vector<T, LENGTH> loaded[BATCH];
#pragma unroll
      for (int i = 0; i < BATCH; ++i)
        if (batch + i < rows) loaded[i] = vector_of_row<LENGTH>(d_rows + tile_order[batch + i] * width, vector);
#pragma unroll
      for (int i = 0; i < BATCH; ++i) {
        const int row = batch + i;
        if (row >= rows) break;
#pragma unroll
        for (int column = 0; column < LENGTH; ++column) sums[column] += to_wide(loaded[i].elements[column]);
        const long long place = tile_places[row];
        const bool goes_on = place == tile_places[row + 1], is_last_of_tile = row == rows - 1;
        if (goes_on && !is_last_of_tile) continue;
        if (place >= 0) {
          Number* part = partial + (2ll * blockIdx.x + !is_from_before) * width;
          store_wide_vector(is_from_before || goes_on ? part : result + place * width, vector, sums);
        }
        is_from_before = false;
#pragma unroll
        for (int column = 0; column < LENGTH; ++column) sums[column] = 0;
      }
    }
  }
}

template <class Number, int LENGTH>
__global__ void __launch_bounds__(128) join_runs(
    const Number* __restrict__ partial,    // [tiles, 2, D]
    const long long* __restrict__ places,  // [N]
    Number* __restrict__ result,           // [places, D]
    long long number_of_rows, int width) {
  const long long behind = (blockIdx.x + 1ll) * ROWS_OF_TILE, place = places[behind - 1];
  const bool is_from_before = blockIdx.x > 0 && places[behind - ROWS_OF_TILE - 1] == place;
  if (place < 0 || places[behind] != place || is_from_before) return;

  // The tiles over which the run goes on: a run of one place is all there is of it, so that its end can be bisected ...
  long long tiles = 1, too_many = (number_of_rows + ROWS_OF_TILE - 1) / ROWS_OF_TILE - blockIdx.x;
  while (too_many - tiles > 1) {
    const long long middle = (tiles + too_many) / 2;
    (places[(blockIdx.x + middle) * ROWS_OF_TILE] == place ? tiles : too_many) = middle;
  }
  for (int vector = threadIdx.x; vector < width / LENGTH; vector += blockDim.x) {
    Number sums[LENGTH] = {};
    add_vector<Number, LENGTH>(sums, partial + (2ll * blockIdx.x + 1) * width, vector);
#pragma unroll 4
    for (long long tile = 1; tile <= tiles; ++tile)
      add_vector<Number, LENGTH>(sums, partial + 2 * (blockIdx.x + tile) * width, vector);
    store_wide_vector(result + place * width, vector, sums);
  }
}
