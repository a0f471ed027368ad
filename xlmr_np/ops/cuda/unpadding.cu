// From the users' rectangle of tokens to the real ones end to end, without the host seeing more than a few numbers.
//
// Equals: what inputs.prepare_inputs finds out about ids and a mask [B, T], and the packed ids, token types and
//   positions that it makes of them; positions as of layers.embeddings.position_ids, counted before packing.
// Fuses: measure: which tokens are real, how many each sentence has, and every check of ranges. pack: starts, positions
//   and three gathers.
// Block map: grid (sentences), 256 threads; a block takes a sentence, a thread every 256th token of it.
// Architectures: sm_80 sm_90a sm_100
// Tolerance: none, these are integers.
#include "primitives.cuh"
#include "rows.cuh"

constexpr int THREADS = 256, WARPS = THREADS / 32;
constexpr int NONE = 0x7fffffff;                // in place of a column
constexpr unsigned char REAL = 1, INVALID = 2;  // of a mask; 0 is padding
constexpr int SUMS = 2, FINDINGS = 6;           // of a sentence: two sums, then first columns

// The number of real tokens and of those that are not padding ids, then the first columns of an id, a token type, a
// position and a mask value that is out of range, or -1.
__global__ void __launch_bounds__(THREADS) measure(
    const long long* __restrict__ ids,          // [B, T]
    const long long* __restrict__ token_types,  // [B, T], or null
    const long long* __restrict__ positions,    // [B, T], or null
    const unsigned char* __restrict__ mask,     // [B, T], or null: the tokens that are not padding ids are real
    long long pad_id, long long number_of_tokens, long long number_of_token_types, long long number_of_positions,
    bool* __restrict__ is_real,        // [B, T]
    long long* __restrict__ findings,  // [FINDINGS, B]
    int length) {                      // T
  __shared__ int of_warps[FINDINGS][WARPS];
  const long long row = static_cast<long long>(blockIdx.x) * length;
  int own[FINDINGS] = {0, 0, NONE, NONE, NONE, NONE};
  for (int column = threadIdx.x; column < length; column += THREADS) {
    const long long place = row + column;
    const bool is_token = ids[place] != pad_id;
    const bool is_chosen = mask == nullptr ? is_token : mask[place] == REAL;
    is_real[place] = is_chosen;
    own[0] += is_chosen;
    own[1] += is_token;
    const bool is_wrong[FINDINGS - SUMS] = {
        ids[place] < 0 || ids[place] >= number_of_tokens,
        token_types != nullptr && (token_types[place] < 0 || token_types[place] >= number_of_token_types),
        positions != nullptr && (positions[place] < 0 || positions[place] >= number_of_positions),
        mask != nullptr && mask[place] == INVALID};
#pragma unroll
    for (int i = SUMS; i < FINDINGS; ++i)
      if (is_wrong[i - SUMS]) own[i] = min(own[i], column);
  }
#pragma unroll
  for (int i = 0; i < FINDINGS; ++i) {
    const int of_warp = i < SUMS ? sum_of_warp(own[i]) : -max_of_warp(-own[i]);
    if (threadIdx.x % 32 == 0) of_warps[i][threadIdx.x / 32] = of_warp;
  }
  __syncthreads();
  if (threadIdx.x >= FINDINGS) return;
  int finding = of_warps[threadIdx.x][0];
  for (int warp = 1; warp < WARPS; ++warp) {
    const int of_warp = of_warps[threadIdx.x][warp];
    finding = threadIdx.x < SUMS ? finding + of_warp : min(finding, of_warp);
  }
  findings[static_cast<long long>(threadIdx.x) * gridDim.x + blockIdx.x] = finding == NONE ? -1 : finding;
}

__global__ void __launch_bounds__(THREADS) pack(
    const long long* __restrict__ ids,          // [B, T]
    const long long* __restrict__ token_types,  // [B, T], or null: all 0
    const long long* __restrict__ positions,    // [B, T], or null: counted
    const bool* __restrict__ is_real,           // [B, T]
    const long long* __restrict__ lengths,      // [B], the number of real tokens of each sentence
    long long pad_id,
    long long* __restrict__ packed_ids, long long* __restrict__ packed_token_types,
    long long* __restrict__ packed_positions,  // [N]
    long long* __restrict__ starts,            // [B], where the sentence begins in these
    int length,                                // T
    long long number_of_real) {                // N
  __shared__ long long starts_of_warps[WARPS];
  __shared__ int real_of_warps[WARPS], tokens_of_warps[WARPS];
  const int warp = threadIdx.x / 32;
  const unsigned lanes_before = (1u << (threadIdx.x % 32)) - 1;

  long long start = 0;  // the real tokens of all sentences before
  for (long long sentence = threadIdx.x; sentence < blockIdx.x; sentence += THREADS) start += lengths[sentence];
  start = sum_of_warp(start);
  if (threadIdx.x % 32 == 0) starts_of_warps[warp] = start;
  __syncthreads();
  start = 0;
  for (int i = 0; i < WARPS; ++i) start += starts_of_warps[i];
  if (threadIdx.x == 0) starts[blockIdx.x] = start;

  long long real_before = start, tokens_before = 0;
  for (int first_column = 0; first_column < length; first_column += THREADS) {
    const int column = first_column + threadIdx.x;
    const long long place = static_cast<long long>(blockIdx.x) * length + column;
    const bool is_chosen = column < length && is_real[place];
    const bool is_token = column < length && ids[place] != pad_id;
    const unsigned real = __ballot_sync(ALL_LANES, is_chosen), tokens = __ballot_sync(ALL_LANES, is_token);
    if (threadIdx.x % 32 == 0) {
      real_of_warps[warp] = __popc(real);
      tokens_of_warps[warp] = __popc(tokens);
    }
    __syncthreads();
    long long rank = real_before + __popc(real & lanes_before);
    long long tokens_until = tokens_before + __popc(tokens & lanes_before) + 1;  // with this one
    for (int i = 0; i < WARPS; ++i) {
      if (i < warp) {
        rank += real_of_warps[i];
        tokens_until += tokens_of_warps[i];
      }
      real_before += real_of_warps[i];
      tokens_before += tokens_of_warps[i];
    }
    if (is_chosen && rank >= 0 && rank < number_of_real) {  // whatever lengths and N the caller gave
      packed_ids[rank] = ids[place];
      packed_token_types[rank] = token_types == nullptr ? 0 : token_types[place];
      packed_positions[rank] = positions != nullptr ? positions[place] : pad_id + (is_token ? tokens_until : 0);
    }
    __syncthreads();  // the sums of the warps are read
  }
}
