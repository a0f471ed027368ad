// Which elements survive a dropout: bits that depend on a key and on an element's place alone.
//
// Equals: DO.4 to DO.6 of docs/derivations/dropout.md, bit for bit. The block of Philox4x32-10 (Salmon et al. 2011) with
//   the counter (column / 4, row, head, sentence) has a word for each of four neighbouring columns; an element survives
//   if its word is below the threshold (1 - rate) 2^32, and is then divided by 1 - rate. Features of tokens are of head 0.
#pragma once
#include "rows.cuh"

// As a launch passes it: `dropouts.py` makes these from a layers.dropout.Dropout.
template <class Number>
struct DropoutKey {
  unsigned low, high;  // the key
  unsigned threshold;  // 0 where nothing survives
  Number scale;        // of what survives: 1 / (1 - rate)
};

// The four words of a counter.
__device__ __forceinline__ uint4 philox(unsigned low, unsigned high, uint4 counter) {
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const unsigned long long first = 0xD2511F53ull * counter.x, second = 0xCD9E8D57ull * counter.z;
    counter = {static_cast<unsigned>(second >> 32) ^ counter.y ^ low, static_cast<unsigned>(second),
               static_cast<unsigned>(first >> 32) ^ counter.w ^ high, static_cast<unsigned>(first)};
    low += 0x9E3779B9u;
    high += 0xBB67AE85u;
  }
  return counter;
}

// Bit i says whether column 4 `block` + i survives.
template <class Number>
__device__ __forceinline__ unsigned kept_of_block(const DropoutKey<Number>& key, unsigned block, unsigned row,
                                                  unsigned head, unsigned sentence) {
  const uint4 words = philox(key.low, key.high, {block, row, head, sentence});
  return (words.x < key.threshold) | (words.y < key.threshold) << 1 | (words.z < key.threshold) << 2 |
         (words.w < key.threshold) << 3;
}

// Whether a single element survives.
template <class Number>
__device__ __forceinline__ bool is_kept(const DropoutKey<Number>& key, unsigned column, unsigned row, unsigned head,
                                        unsigned sentence) {
  return kept_of_block(key, column / 4, row, head, sentence) >> (column % 4) & 1;
}

// Which of its four elements a lane keeps of an accumulator of multiply_accumulate, [16 rows, 8 columns] from first_row
// and first_column, a multiple of 8, on: bit i is that of c[i]. Neighbouring lanes hold the two halves of two blocks:
// each draws one, and they tell each other. All lanes of a warp ask together.
template <class Number>
__device__ __forceinline__ unsigned kept_of_fragment(const DropoutKey<Number>& key, unsigned first_row,
                                                     unsigned first_column, unsigned head, unsigned sentence) {
  const unsigned lane = threadIdx.x & 31, is_right = lane & 1;
  const unsigned own = kept_of_block(key, first_column / 4 + (lane / 2 & 1), first_row + lane / 4 + 8 * is_right, head,
                                     sentence);
  const unsigned other = __shfl_xor_sync(ALL_LANES, own, 1);
  const unsigned both = (is_right ? other | own << 4 : own | other << 4) >> (2 * is_right);
  return (both & 3) | (both >> 2 & 12);
}

// Drops or scales LENGTH neighbouring features, from column LENGTH `vector` on, of a token that stands in this sentence
// as its row of this number.
template <int LENGTH, class Number>
__device__ __forceinline__ void drop_features(Number (&values)[LENGTH], const DropoutKey<Number>& key, int vector,
                                              unsigned row, unsigned sentence) {
  constexpr int OF_BLOCK = LENGTH < 4 ? LENGTH : 4;
#pragma unroll
  for (int first = 0; first < LENGTH; first += OF_BLOCK) {
    const unsigned column = vector * LENGTH + first;
    const unsigned kept = kept_of_block(key, column / 4, row, 0, sentence) >> (column % 4);
#pragma unroll
    for (int i = 0; i < OF_BLOCK; ++i) values[first + i] = kept >> i & 1 ? values[first + i] * key.scale : Number(0);
  }
}
