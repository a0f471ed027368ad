// The best k of a vocabulary of which only a chunk of logits exists at a time, and log Σ exp of all of them.
//
// Equals: ops.reference.vocabulary_top_k_forward, a chunk at a time: the best k so far and log Σ exp so far are
//   replaced by those with this chunk's. Falling order; of equal logits the smaller id comes first, so that the chunks
//   must come in the order of their ids. A logit that is NaN is never among the best and makes log Σ exp NaN.
// Fuses: bias, selection, log Σ exp, the merge with the chunks before.
// Block map: grid (rows), 256 threads; a block takes a row, a thread every 256th vector of LENGTH columns (16 bytes, or
//   single columns where rows are not aligned to that). Every thread holds the best of its columns that is not chosen
//   yet; in a round the block chooses the best of these, and the thread that had it looks for its next. The rounds end
//   with k, or when what is left is not better than what earlier chunks have.
// Architectures: sm_80 sm_90a sm_100
// Tolerance: logits exactly those of the product as it is stored (rounded to T) plus the bias, in float32 (float64 for
//   float64); log Σ exp, in another order, to 2e-6 (1e-14) of itself or, near 0, of 1.
#include "primitives.cuh"
#include "rows.cuh"

constexpr int THREADS = 256, WARPS = THREADS / 32;
constexpr int NONE = 0x7fffffff;  // in place of a column

template <class Number>
struct Candidate {
  Number logit;
  int column;

  __device__ bool comes_before(const Candidate& other) const {
    return logit > other.logit || (logit == other.logit && column < other.column);
  }
};

// Calls `take(logit, column)` for all columns of this thread.
template <class T, int LENGTH, class Take>
__device__ __forceinline__ void for_own_logits(const T* __restrict__ product, const T* __restrict__ bias, int columns,
                                               Take take) {
  for (int vector = threadIdx.x; vector < columns / LENGTH; vector += THREADS) {
    const Vector<T, LENGTH> products = vector_of_row<LENGTH>(product, vector);
    const Vector<T, LENGTH> shifts = vector_of_row<LENGTH>(bias, vector);
#pragma unroll
    for (int i = 0; i < LENGTH; ++i)
      take(to_wide(products.elements[i]) + to_wide(shifts.elements[i]), vector * LENGTH + i);
  }
}

// The best of this thread's candidates that come after `last`.
template <class T, int LENGTH, class Number>
__device__ __forceinline__ Candidate<Number> best_after(const Candidate<Number>& last, const T* __restrict__ product,
                                                        const T* __restrict__ bias, int columns) {
  Candidate<Number> best{-Number(INFINITY), NONE};
  for_own_logits<T, LENGTH>(product, bias, columns, [&](Number logit, int column) {
    const Candidate<Number> candidate{logit, column};
    if (last.comes_before(candidate) && candidate.comes_before(best)) best = candidate;
  });
  return best;
}

// The best of all threads' candidates, in every thread.
template <class Number>
__device__ __forceinline__ Candidate<Number> best_of_block(Candidate<Number> best,
                                                           Candidate<Number> (&of_warps)[WARPS]) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    const Candidate<Number> other{__shfl_xor_sync(ALL_LANES, best.logit, distance),
                                  __shfl_xor_sync(ALL_LANES, best.column, distance)};
    if (other.comes_before(best)) best = other;
  }
  __syncthreads();  // nobody reads the last round's any more
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = best;
  __syncthreads();
  best = of_warps[0];
  for (int warp = 1; warp < WARPS; ++warp)
    if (of_warps[warp].comes_before(best)) best = of_warps[warp];
  return best;
}

// log(exp(first) + exp(second)), of infinities too.
template <class Number>
__device__ __forceinline__ Number log_of_sum(Number first, Number second) {
  if (first == second) return first + log(Number(2));
  const bool is_first_larger = first > second;
  const Number high = is_first_larger ? first : second, low = is_first_larger ? second : first;
  return high + log(Number(1) + exp(low - high));
}

// Whether a candidate of this chunk comes before one of an earlier chunk, or takes a place that is still free (NaN).
template <class Number>
__device__ __forceinline__ bool overtakes(Number logit, Number earlier_logit) {
  return !(logit <= earlier_logit);
}

template <class T, int LENGTH>
__global__ void __launch_bounds__(THREADS) merge_top_k(
    const T* __restrict__ product,  // [N, C]
    const T* __restrict__ bias,     // [C]
    int columns,                    // C
    long long first_id,             // of the chunk
    typename Wide<T>::type* __restrict__ best_logits, long long* __restrict__ best_ids,  // [N, k]; NaN at free places
    typename Wide<T>::type* __restrict__ log_sum_exp,                                    // [N]
    int k) {
  using Number = typename Wide<T>::type;
  extern __shared__ __align__(128) unsigned char shared_memory[];
  long long* earlier_ids = reinterpret_cast<long long*>(shared_memory);
  Number* earlier_logits = reinterpret_cast<Number*>(earlier_ids + k);
  Number* chosen_logits = earlier_logits + k;
  int* chosen_columns = reinterpret_cast<int*>(chosen_logits + k);
  __shared__ Candidate<Number> of_warps[WARPS];
  __shared__ Number sums_of_warps[WARPS];
  const long long row = blockIdx.x;
  product += row * columns;
  best_logits += row * k;
  best_ids += row * k;
  for (int i = threadIdx.x; i < k; i += THREADS) {
    earlier_logits[i] = best_logits[i];
    earlier_ids[i] = best_ids[i];
  }  // which all threads see after the barriers of the first round

  Candidate<Number> own = best_after<T, LENGTH>(Candidate<Number>{Number(INFINITY), -1}, product, bias, columns);
  Candidate<Number> best = best_of_block(own, of_warps);

  const bool is_finite = best.logit > -Number(INFINITY) && best.logit < Number(INFINITY);
  const Number shift = is_finite ? best.logit : Number(0);
  Number sum = 0;
  for_own_logits<T, LENGTH>(product, bias, columns, [&](Number logit, int) { sum += exp(logit - shift); });
  sum = sum_of_warp(sum);
  if (threadIdx.x % 32 == 0) sums_of_warps[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    sum = 0;
    for (int warp = 0; warp < WARPS; ++warp) sum += sums_of_warps[warp];
    log_sum_exp[row] = log_of_sum(log_sum_exp[row], log(sum) + shift);
  }

  int chosen = 0;
  while (best.column != NONE && overtakes(best.logit, earlier_logits[k - 1 - chosen])) {
    if (threadIdx.x == 0) {
      chosen_logits[chosen] = best.logit;
      chosen_columns[chosen] = best.column;
    }
    if (++chosen == k) break;
    if (own.column == best.column) own = best_after<T, LENGTH>(best, product, bias, columns);
    best = best_of_block(own, of_warps);
  }
  __syncthreads();

  // Both lists are sorted: an entry's place is its own number and how many of the other list come before it.
  for (int i = threadIdx.x; i < k; i += THREADS) {
    int place = i;
    for (int j = 0; j < chosen; ++j) place += overtakes(chosen_logits[j], earlier_logits[i]);
    if (place < k) {
      best_logits[place] = earlier_logits[i];
      best_ids[place] = earlier_ids[i];
    }
    if (i >= chosen) continue;
    place = i;
    for (int j = 0; j < k; ++j) place += !overtakes(chosen_logits[i], earlier_logits[j]);
    if (place < k) {
      best_logits[place] = chosen_logits[i];
      best_ids[place] = first_id + chosen_columns[i];
    }
  }
}
