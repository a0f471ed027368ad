// Sums of the columns of a matrix, in an order that its shape alone decides.
//
// Equals: the sums of groups of `rows_of_group` rows, of each of several matrices; a second launch, with all groups of the
//   first as one group, gives the sums over all rows, the gradient of a bias.
// Block map: grid (groups, blocks of 8 vectors of columns, matrices), block (8, 32); a thread adds every 32nd row of the
//   group in its vector of LENGTH columns (16 bytes, or a single column where rows are not aligned to that). Then the 32
//   sums of every column are added, in their order.
// Architectures: sm_80 sm_90a sm_100
// Tolerance: sums in float32 (float64 for float64): 3e-6 (1e-14) of the sum of magnitudes.
#include "primitives.cuh"
#include "rows.cuh"

template <class T, int LENGTH>
__global__ void __launch_bounds__(256) column_sums(
    const T* __restrict__ x,                     // [matrices, rows, D]
    typename Wide<T>::type* __restrict__ sums,   // [matrices, groups, D]
    long long number_of_rows, int width, int rows_of_group) {
  using Number = typename Wide<T>::type;
  constexpr int VECTORS = 8, SHARES = 32, COLUMNS = VECTORS * LENGTH;
  extern __shared__ __align__(128) unsigned char shared_memory[];
  Number* shared_sums = reinterpret_cast<Number*>(shared_memory);  // [SHARES, COLUMNS]
  const T* matrix = x + blockIdx.z * number_of_rows * width;
  const int vector = blockIdx.y * VECTORS + threadIdx.x;
  const long long first = static_cast<long long>(blockIdx.x) * rows_of_group;
  const long long last = min(first + rows_of_group, number_of_rows);  // one behind it

  Number own[LENGTH] = {};
  if (vector < width / LENGTH) {
#pragma unroll 4
    for (long long row = first + threadIdx.y; row < last; row += SHARES)
      add_vector<T, LENGTH>(own, matrix + row * width, vector);
  }
#pragma unroll
  for (int i = 0; i < LENGTH; ++i) shared_sums[threadIdx.y * COLUMNS + threadIdx.x * LENGTH + i] = own[i];
  __syncthreads();
  const int thread = threadIdx.y * VECTORS + threadIdx.x;
  const int column = blockIdx.y * COLUMNS + thread;
  if (thread >= COLUMNS || column >= width) return;
  Number sum = 0;
#pragma unroll
  for (int share = 0; share < SHARES; ++share) sum += shared_sums[share * COLUMNS + thread];
  sums[(static_cast<long long>(blockIdx.z) * gridDim.x + blockIdx.x) * width + column] = sum;
}
