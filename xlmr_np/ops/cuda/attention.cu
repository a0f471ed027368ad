// Attention by tiles with an online softmax: the scores never leave the registers.
//
// Equals: layers.attention.attention_forward on packed sentences, dropout(softmax(query keyᵀ / √W + bias)) value for
//   each sentence and head; a query that sees no key gets zeros. Also gives log Σ exp of each row of scores, for the
//   backward pass.
//   The scheme, ATT.10 to ATT.12 of docs/derivations/attention.md, is FlashAttention-2's (Dao 2023, arXiv:2307.08691).
// Fuses: scores, scale, bias, causal mask, softmax, dropout, average.
// Block map: grid (tiles of queries, heads), see tiles.cuh; a block of WARPS warps takes QUERY_TILE queries of a
//   sentence and walks over its keys, KEY_TILE at a time; a warp takes QUERY_TILE / WARPS of the queries, 16 in a block
//   of rows, and all keys. What a lane holds of them: see multiply_accumulate in primitives.cuh.
// Memory: keys and values arrive by asynchronous copies in two stages each, so that the next tile travels while one is
//   worked on. A row of a tile lies in chunks of 16 bytes, permuted so that eight rows meet each bank once.
// Architectures: sm_80 sm_90a sm_100
// Tolerance: probabilities and results are rounded to T (by 2^-11 of themselves for float16, 2^-8 for bfloat16), sums
//   are float32: three such roundings of the largest value, which dropout multiplies; log Σ exp to 2e-5.
#include "dropout.cuh"
#include "tensor_tiles.cuh"
#include "tiles.cuh"

constexpr float LOWEST = -1e30f;  // below every score; finite, so that a difference of two is no NaN
constexpr float LN_2 = 0.6931471805599453f;

template <class T, int WIDTH, int QUERY_TILE, int KEY_TILE, int WARPS, bool HAS_BIAS, bool HAS_DROPOUT>
__global__ void __launch_bounds__(WARPS * 32) attention_forward(
    const T* __restrict__ query, const T* __restrict__ key, const T* __restrict__ value,  // rows of all heads
    long long query_stride, long long key_stride, long long value_stride,                 // from row to row
    const long long* __restrict__ query_starts, const long long* __restrict__ query_lengths,
    const long long* __restrict__ key_starts, const long long* __restrict__ key_lengths, int sentences,
    const T* __restrict__ bias, long long bias_of_sentence, long long bias_of_head, long long bias_of_query,
    long long bias_of_key,               // strides of the bias [B, H, T, S]; 0 where it is the same for all
    float scale,                         // 1 / √W
    int is_causal, unsigned key_low, unsigned key_high, unsigned threshold, float dropout_scale,  // a DropoutKey
    T* __restrict__ context,             // [N, H, W]
    float* __restrict__ log_sum_exp,     // [H, N], or null
    long long number_of_queries) {       // N
  constexpr int THREADS = WARPS * 32, ROW_BLOCKS = QUERY_TILE / (16 * WARPS);
  constexpr int WIDTH_STEPS = WIDTH / 16, KEY_STEPS = KEY_TILE / 16, KEY_COLUMNS = KEY_TILE / 8, FEATURES = WIDTH / 8;
  extern __shared__ __align__(128) unsigned char shared_memory[];
  T* query_tile = reinterpret_cast<T*>(shared_memory);
  T* key_tiles = query_tile + QUERY_TILE * WIDTH;
  T* value_tiles = key_tiles + 2 * KEY_TILE * WIDTH;

  const int head = blockIdx.y, heads = gridDim.y;
  const Tile tile = tile_of_number<QUERY_TILE>(blockIdx.x, query_starts, sentences);
  const int queries = query_lengths[tile.sentence], keys = key_lengths[tile.sentence];
  if (tile.first_query >= queries) return;
  const long long first_row = query_starts[tile.sentence] + tile.first_query;
  const T* own_keys = key + key_starts[tile.sentence] * key_stride + head * WIDTH;
  const T* own_values = value + key_starts[tile.sentence] * value_stride + head * WIDTH;
  const int offset = is_causal ? keys - queries : keys;  // query i sees the keys up to i + offset
  const int seen = min(keys, tile.first_query + QUERY_TILE + offset);  // by the last query, at most; may be negative
  const int key_tile_count = (seen + KEY_TILE - 1) / KEY_TILE;

  auto copy_keys = [&](int number) {
    if (number < key_tile_count)
      copy_tile<WIDTH, KEY_TILE, THREADS>(key_tiles + (number & 1) * KEY_TILE * WIDTH,
                                          own_keys + static_cast<long long>(number) * KEY_TILE * key_stride, key_stride,
                                          keys - number * KEY_TILE);
    commit_copies();
  };
  auto copy_values = [&](int number) {
    if (number < key_tile_count)
      copy_tile<WIDTH, KEY_TILE, THREADS>(value_tiles + (number & 1) * KEY_TILE * WIDTH,
                                          own_values + static_cast<long long>(number) * KEY_TILE * value_stride,
                                          value_stride, keys - number * KEY_TILE);
    commit_copies();
  };
  copy_tile<WIDTH, QUERY_TILE, THREADS>(query_tile, query + first_row * query_stride + head * WIDTH, query_stride,
                                        queries - tile.first_query);
  copy_keys(0);  // in one group with the queries
  copy_values(0);

  const int warp = threadIdx.x / 32, lane = threadIdx.x & 31;
  const int lane_row = lane / 4, lane_column = (lane & 3) * 2, warp_row = warp * ROW_BLOCKS * 16;
  const DropoutKey<float> dropout{key_low, key_high, threshold, dropout_scale};
  const float factor = HAS_BIAS ? LOG2_E : scale * LOG2_E;
  unsigned query_fragments[ROW_BLOCKS][WIDTH_STEPS][4];
  float sums[ROW_BLOCKS][FEATURES][4];  // Σ exp(score - largest) value
  float largest[ROW_BLOCKS][2], totals[ROW_BLOCKS][2];  // of two rows; totals are those of this lane's columns
#pragma unroll
  for (int block = 0; block < ROW_BLOCKS; ++block) {
    largest[block][0] = largest[block][1] = LOWEST;
    totals[block][0] = totals[block][1] = 0.f;
#pragma unroll
    for (int feature = 0; feature < FEATURES; ++feature)
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[block][feature][i] = 0.f;
  }

  for (int number = 0; number < key_tile_count; ++number) {
    T* key_tile = key_tiles + (number & 1) * KEY_TILE * WIDTH;
    T* value_tile = value_tiles + (number & 1) * KEY_TILE * WIDTH;
    wait_for_copies<1>();  // these keys are there (and the queries); these values may be on their way
    __syncthreads();       // for all threads, and none of them still reads the tiles before
    if (number == 0) {
#pragma unroll
      for (int block = 0; block < ROW_BLOCKS; ++block)
#pragma unroll
        for (int step = 0; step < WIDTH_STEPS; ++step)
          load_matrices(query_fragments[block][step],
                        chunk_of_tile<WIDTH>(query_tile, warp_row + block * 16 + (lane & 15), step * 2 + lane / 16));
    }
    copy_keys(number + 1);

    // scores = query keyᵀ
    float scores[ROW_BLOCKS][KEY_COLUMNS][4];
#pragma unroll
    for (int column = 0; column < KEY_COLUMNS; ++column) {
#pragma unroll
      for (int block = 0; block < ROW_BLOCKS; ++block)
#pragma unroll
        for (int i = 0; i < 4; ++i) scores[block][column][i] = 0.f;
#pragma unroll
      for (int step = 0; step < WIDTH_STEPS; step += 2) {
        unsigned fragments[4];  // of 8 keys, for two steps
        load_matrices(fragments, chunk_of_tile<WIDTH>(key_tile, column * 8 + (lane & 7), step * 2 + lane / 8));
#pragma unroll
        for (int block = 0; block < ROW_BLOCKS; ++block) {
          multiply_accumulate<T>(scores[block][column], query_fragments[block][step], fragments[0], fragments[1]);
          multiply_accumulate<T>(scores[block][column], query_fragments[block][step + 1], fragments[2], fragments[3]);
        }
      }
    }

    // bias and mask, then the online softmax; what `factor` makes powers of 2 of is scale, unless it is in the scores
    const int first_key = number * KEY_TILE;
    const bool has_hidden = first_key + KEY_TILE > min(keys, tile.first_query + offset + 1);
#pragma unroll
    for (int block = 0; block < ROW_BLOCKS; ++block) {
#pragma unroll
      for (int column = 0; column < KEY_COLUMNS; ++column)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int own_query = tile.first_query + warp_row + block * 16 + lane_row + (i / 2) * 8;
          const int own_key = first_key + column * 8 + lane_column + (i & 1);
          float& score = scores[block][column][i];
          if (HAS_BIAS && own_query < queries && own_key < keys)
            score = score * scale + to_wide(bias[tile.sentence * bias_of_sentence + head * bias_of_head +
                                                 own_query * bias_of_query + own_key * bias_of_key]);
          if (has_hidden && own_key > min(keys - 1, own_query + offset)) score = -INFINITY;
        }
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        float highest = largest[block][row];
#pragma unroll
        for (int column = 0; column < KEY_COLUMNS; ++column)
          highest = fmaxf(highest, fmaxf(scores[block][column][2 * row], scores[block][column][2 * row + 1]));
        highest = fmaxf(highest, __shfl_xor_sync(ALL_LANES, highest, 1));
        highest = fmaxf(highest, __shfl_xor_sync(ALL_LANES, highest, 2));
        const float rescale = exp2_approximate((largest[block][row] - highest) * factor);
        largest[block][row] = highest;
        float total = 0.f;
#pragma unroll
        for (int column = 0; column < KEY_COLUMNS; ++column)
#pragma unroll
          for (int i = 2 * row; i < 2 * row + 2; ++i) {
            scores[block][column][i] = exp2_approximate(scores[block][column][i] * factor - highest * factor);
            total += scores[block][column][i];
          }
        totals[block][row] = totals[block][row] * rescale + total;
#pragma unroll
        for (int feature = 0; feature < FEATURES; ++feature) {
          sums[block][feature][2 * row] *= rescale;
          sums[block][feature][2 * row + 1] *= rescale;
        }
      }
    }

    wait_for_copies<1>();  // these values are there; the next keys may be on their way
    __syncthreads();
    copy_values(number + 1);

    // sums += probabilities value: what two columns of scores hold of a row is what a step's left fragment wants;
    // dropout's scale comes when all are summed
#pragma unroll
    for (int step = 0; step < KEY_STEPS; ++step) {
      unsigned probabilities[ROW_BLOCKS][4];
#pragma unroll
      for (int block = 0; block < ROW_BLOCKS; ++block) {
        if (HAS_DROPOUT) {
#pragma unroll
          for (int column = 2 * step; column < 2 * step + 2; ++column) {
            const unsigned kept = kept_of_fragment(dropout, tile.first_query + warp_row + block * 16,
                                                   first_key + column * 8, head, tile.sentence);
#pragma unroll
            for (int i = 0; i < 4; ++i)
              if (!(kept >> i & 1)) scores[block][column][i] = 0.f;
          }
        }
#pragma unroll
        for (int i = 0; i < 4; ++i)
          probabilities[block][i] = pack2<T>(scores[block][2 * step + i / 2][2 * (i & 1)],
                                             scores[block][2 * step + i / 2][2 * (i & 1) + 1]);
      }
#pragma unroll
      for (int feature = 0; feature < FEATURES; feature += 2) {
        unsigned fragments[4];  // of 16 keys, for two columns of features
        load_matrices_transposed(fragments,
                                 chunk_of_tile<WIDTH>(value_tile, step * 16 + (lane & 15), feature + lane / 16));
#pragma unroll
        for (int block = 0; block < ROW_BLOCKS; ++block) {
          multiply_accumulate<T>(sums[block][feature], probabilities[block], fragments[0], fragments[1]);
          multiply_accumulate<T>(sums[block][feature + 1], probabilities[block], fragments[2], fragments[3]);
        }
      }
    }
  }
  wait_for_copies<0>();

#pragma unroll
  for (int block = 0; block < ROW_BLOCKS; ++block)
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      float total = totals[block][row];
      total += __shfl_xor_sync(ALL_LANES, total, 1);
      total += __shfl_xor_sync(ALL_LANES, total, 2);
      const int own_query = warp_row + block * 16 + lane_row + row * 8;
      if (tile.first_query + own_query >= queries) continue;
      const float inverse = total == 0.f ? 0.f : (HAS_DROPOUT ? dropout.scale : 1.f) / total;  // a NaN stays one
      T* own_context = context + ((first_row + own_query) * heads + head) * WIDTH + lane_column;
#pragma unroll
      for (int feature = 0; feature < FEATURES; ++feature)
        *reinterpret_cast<unsigned*>(own_context + feature * 8) =
            pack2<T>(sums[block][feature][2 * row] * inverse, sums[block][feature][2 * row + 1] * inverse);
      if (log_sum_exp != nullptr && (lane & 3) == 0)
        log_sum_exp[head * number_of_queries + first_row + own_query] =
            total == 0.f ? -INFINITY : (largest[block][row] * factor + log2f(total)) * LN_2;
    }
}
