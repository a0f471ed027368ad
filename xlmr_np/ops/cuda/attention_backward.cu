// The backward pass of attention by tiles: probabilities are made again from log Σ exp, in two kernels without atomics.
//
// Equals: layers.attention.attention_backward on packed sentences, the gradients of query, key and value for each
//   sentence and head, from that of the context, the context itself and log Σ exp; ATT.14 to ATT.18 of
//   docs/derivations/attention.md. The scheme is FlashAttention-2's (Dao 2023, arXiv:2307.08691), but for its atomic
//   sums of d_query: scores are made twice instead, once by queries and once by keys, so that every sum has one owner
//   and one order.
// Fuses: scores, scale, causal mask, softmax, dropout and the backward pass of each.
// Block map: attention_backward_queries: grid (tiles of queries, heads), see tiles.cuh; a block of WARPS warps takes
//   QUERY_TILE queries of a sentence and walks over its keys, KEY_TILE at a time; a warp takes QUERY_TILE / WARPS of
//   the queries, 16 in a block of rows, and all keys. attention_backward_keys: the same with queries and keys
//   exchanged. Its scores are key queryᵀ, and so in both kernels what a lane holds of the scores is what the next
//   product wants as its left fragment: see multiply_accumulate in primitives.cuh.
// Memory: what a block walks over arrives by asynchronous copies in two stages, so that the next tile travels while one
//   is worked on; see tensor_tiles.cuh.
// Architectures: sm_80 sm_90a sm_100
// Tolerance: probabilities, d_scores and results are rounded to T once each (by 2^-11 of themselves for float16, 2^-8
//   for bfloat16), sums are float32: of a gradient's largest value, three such roundings. To this comes what the
//   rounding of the context does to delta (ATT.16).
#include "dropout.cuh"
#include "tensor_tiles.cuh"
#include "tiles.cuh"

// Rows of a tile as left operands of products: ROW_BLOCKS times 16 of them, of WIDTH values. They stay in registers, or
// where those are scarce come from shared memory at each use.
template <class T, int WIDTH, int ROW_BLOCKS, bool STAY>
struct LeftRows {
  T* tile;  // begins with these rows; those before it are a multiple of 16
  unsigned kept[STAY ? ROW_BLOCKS : 1][STAY ? WIDTH / 16 : 1][4];

  __device__ __forceinline__ void load(unsigned (&fragment)[4], int block, int step) const {
    const int lane = threadIdx.x & 31;
    load_matrices(fragment, chunk_of_tile<WIDTH>(tile, block * 16 + (lane & 15), step * 2 + lane / 16));
  }
  __device__ __forceinline__ void keep() {
    if (STAY) {
#pragma unroll
      for (int block = 0; block < ROW_BLOCKS; ++block)
#pragma unroll
        for (int step = 0; step < WIDTH / 16; ++step) load(kept[block][step], block, step);
    }
  }
  // The values 16 `step` .. 16 `step` + 15 of the rows of a block.
  __device__ __forceinline__ void fragment_of(unsigned (&fragment)[4], int block, int step) const {
    if (STAY) {
#pragma unroll
      for (int i = 0; i < 4; ++i) fragment[i] = kept[STAY ? block : 0][STAY ? step : 0][i];
    } else {
      load(fragment, block, step);
    }
  }
};

template <int ROW_BLOCKS, int COLUMNS>
__device__ __forceinline__ void set_to_zero(float (&sums)[ROW_BLOCKS][COLUMNS][4]) {
#pragma unroll
  for (int block = 0; block < ROW_BLOCKS; ++block)
#pragma unroll
    for (int column = 0; column < COLUMNS; ++column)
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[block][column][i] = 0.f;
}

// products = rows otherᵀ, with the COLUMNS * 8 rows of another tile that `other` begins with.
template <class T, int WIDTH, int ROW_BLOCKS, bool STAY, int COLUMNS>
__device__ __forceinline__ void multiply_rows(float (&products)[ROW_BLOCKS][COLUMNS][4],
                                              const LeftRows<T, WIDTH, ROW_BLOCKS, STAY>& rows, T* other) {
  const int lane = threadIdx.x & 31;
  set_to_zero(products);
#pragma unroll
  for (int step = 0; step < WIDTH / 16; ++step) {
    unsigned left[ROW_BLOCKS][4];
#pragma unroll
    for (int block = 0; block < ROW_BLOCKS; ++block) rows.fragment_of(left[block], block, step);
#pragma unroll
    for (int column = 0; column < COLUMNS; column += 2) {
      unsigned right[4];  // of 16 rows of the other tile
      load_matrices(right, chunk_of_tile<WIDTH>(other, column * 8 + (lane & 7) + lane / 16 * 8,
                                                step * 2 + (lane / 8 & 1)));
#pragma unroll
      for (int block = 0; block < ROW_BLOCKS; ++block) {
        multiply_accumulate<T>(products[block][column], left[block], right[0], right[1]);
        multiply_accumulate<T>(products[block][column + 1], left[block], right[2], right[3]);
      }
    }
  }
}

// sums += left other, with the STEPS * 16 rows of a tile that `other` begins with.
template <class T, int WIDTH, int ROW_BLOCKS, int STEPS>
__device__ __forceinline__ void add_products(float (&sums)[ROW_BLOCKS][WIDTH / 8][4],
                                             const unsigned (&left)[ROW_BLOCKS][STEPS][4], T* other) {
  const int lane = threadIdx.x & 31;
#pragma unroll
  for (int step = 0; step < STEPS; ++step)
#pragma unroll
    for (int feature = 0; feature < WIDTH / 8; feature += 2) {
      unsigned right[4];  // of 16 rows, for two columns of features
      load_matrices_transposed(right, chunk_of_tile<WIDTH>(other, step * 16 + (lane & 15), feature + lane / 16));
#pragma unroll
      for (int block = 0; block < ROW_BLOCKS; ++block) {
        multiply_accumulate<T>(sums[block][feature], left[block][step], right[0], right[1]);
        multiply_accumulate<T>(sums[block][feature + 1], left[block][step], right[2], right[3]);
      }
    }
}

// What a lane holds of the sums of its warp, times `factor`, to rows of which so many are real.
template <class T, int WIDTH, int ROW_BLOCKS>
__device__ __forceinline__ void store_rows(T* __restrict__ rows, long long stride, int real_rows,
                                           const float (&sums)[ROW_BLOCKS][WIDTH / 8][4], float factor) {
  const int lane = threadIdx.x & 31;
#pragma unroll
  for (int block = 0; block < ROW_BLOCKS; ++block)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = block * 16 + lane / 4 + half * 8;
      if (row >= real_rows) continue;
#pragma unroll
      for (int feature = 0; feature < WIDTH / 8; ++feature)
        *reinterpret_cast<unsigned*>(rows + row * stride + feature * 8 + (lane & 3) * 2) =
            pack2<T>(sums[block][feature][2 * half] * factor, sums[block][feature][2 * half + 1] * factor);
    }
}

// kept_of_fragment of an accumulator whose rows are keys and whose columns are queries: [16 keys, 8 queries] from
// first_key, a multiple of 16, and first_query on. Each of its 32 blocks, of 4 keys and a query, is drawn by one lane;
// the four lanes that hold parts of the same four blocks tell each other. All lanes of a warp ask together.
__device__ __forceinline__ unsigned kept_of_transposed_fragment(const DropoutKey<float>& key, unsigned first_key,
                                                                unsigned first_query, unsigned head,
                                                                unsigned sentence) {
  const unsigned lane = threadIdx.x & 31, own = lane / 4 & 3;  // of the four blocks, and of a block's keys
  const unsigned block = first_key / 4 + lane / 16 + own / 2 * 2, query = first_query + (lane & 3) * 2 + (own & 1);
  unsigned kept = kept_of_block(key, block, query, head, sentence) << (4 * own);
  kept |= __shfl_xor_sync(ALL_LANES, kept, 4);
  kept |= __shfl_xor_sync(ALL_LANES, kept, 8);
  kept >>= own;  // every fourth bit is of the lane's own keys
  return (kept & 1) | (kept >> 3 & 2) | (kept >> 6 & 4) | (kept >> 9 & 8);
}

template <class T, int WIDTH, int QUERY_TILE, int KEY_TILE, int WARPS, bool HAS_DROPOUT>
__global__ void __launch_bounds__(WARPS * 32) attention_backward_queries(
    const T* __restrict__ query, const T* __restrict__ key, const T* __restrict__ value,  // rows of all heads
    const T* __restrict__ context, const T* __restrict__ d_context,                       // the same
    long long query_stride, long long key_stride, long long value_stride,                 // from row to row
    long long context_stride, long long d_context_stride,                                 // the same
    const long long* __restrict__ query_starts, const long long* __restrict__ query_lengths,
    const long long* __restrict__ key_starts, const long long* __restrict__ key_lengths, int sentences, int is_causal,
    float scale,                                                           // 1 / √W
    const float* __restrict__ log_sum_exp,                                 // [H, N]
    unsigned low, unsigned high, unsigned threshold, float dropout_scale,  // a DropoutKey
    float* __restrict__ delta,                                             // [H, N], for attention_backward_keys
    T* __restrict__ d_query,                                               // [N, H, W]
    long long number_of_queries) {                                         // N
  constexpr int THREADS = WARPS * 32, ROW_BLOCKS = QUERY_TILE / (16 * WARPS);
  constexpr int PART = 32;  // keys whose scores are in registers at one time
  extern __shared__ __align__(128) unsigned char shared_memory[];
  T* query_tile = reinterpret_cast<T*>(shared_memory);
  T* d_context_tile = query_tile + QUERY_TILE * WIDTH;
  T* key_tiles = d_context_tile + QUERY_TILE * WIDTH;
  T* value_tiles = key_tiles + 2 * KEY_TILE * WIDTH;

  const int head = blockIdx.y, heads = gridDim.y;
  const Tile tile = tile_of_number<QUERY_TILE>(blockIdx.x, query_starts, sentences);
  const int queries = query_lengths[tile.sentence], keys = key_lengths[tile.sentence];
  if (tile.first_query >= queries) return;
  const long long first_row = query_starts[tile.sentence] + tile.first_query;
  const T* own_keys = key + key_starts[tile.sentence] * key_stride + head * WIDTH;
  const T* own_values = value + key_starts[tile.sentence] * value_stride + head * WIDTH;
  const int offset = is_causal ? keys - queries : keys;  // query i sees the keys up to i + offset
  const int seen = tile.first_query + QUERY_TILE + offset;  // how many, by the last query at most; may be negative
  const int key_tile_count = (min(keys, seen) + KEY_TILE - 1) / KEY_TILE;

  auto copy_keys_and_values = [&](int number) {
    if (number < key_tile_count) {
      const long long first_key = static_cast<long long>(number) * KEY_TILE;
      copy_tile<WIDTH, KEY_TILE, THREADS>(key_tiles + (number & 1) * KEY_TILE * WIDTH,
                                          own_keys + first_key * key_stride, key_stride, keys - number * KEY_TILE);
      copy_tile<WIDTH, KEY_TILE, THREADS>(value_tiles + (number & 1) * KEY_TILE * WIDTH,
                                          own_values + first_key * value_stride, value_stride,
                                          keys - number * KEY_TILE);
    }
    commit_copies();
  };
  copy_tile<WIDTH, QUERY_TILE, THREADS>(query_tile, query + first_row * query_stride + head * WIDTH, query_stride,
                                        queries - tile.first_query);
  copy_tile<WIDTH, QUERY_TILE, THREADS>(d_context_tile, d_context + first_row * d_context_stride + head * WIDTH,
                                        d_context_stride, queries - tile.first_query);
  commit_copies();
  copy_keys_and_values(0);

  const int warp = threadIdx.x / 32, lane = threadIdx.x & 31;
  const int lane_row = lane / 4, lane_column = (lane & 3) * 2, warp_row = warp * ROW_BLOCKS * 16;
  const DropoutKey<float> dropout{low, high, threshold, dropout_scale};
  LeftRows<T, WIDTH, ROW_BLOCKS, true> query_rows, d_context_rows;
  query_rows.tile = query_tile + warp_row * WIDTH;
  d_context_rows.tile = d_context_tile + warp_row * WIDTH;
  wait_for_copies<1>();  // the queries are there; keys and values may be on their way
  __syncthreads();       // for all threads
  query_rows.keep();
  d_context_rows.keep();

  // delta = Σ d_context context of each row (ATT.16), whose parts four lanes hold
  float own_log_sum_exp[ROW_BLOCKS][2], own_delta[ROW_BLOCKS][2];  // of two rows; the former in powers of 2
#pragma unroll
  for (int block = 0; block < ROW_BLOCKS; ++block)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int own_query = warp_row + block * 16 + lane_row + half * 8;
      const bool is_real = tile.first_query + own_query < queries;
      const long long row = first_row + (is_real ? own_query : 0);
      const T* own_context = context + row * context_stride + head * WIDTH + lane_column;
      float sum = 0.f;
#pragma unroll
      for (int i = 0; i < WIDTH / 8; ++i) {
        const float2 ours = unpack2<T>(*reinterpret_cast<const unsigned*>(own_context + i * 8));
        const float2 theirs = unpack2<T>(d_context_rows.kept[block][i / 2][i % 2 * 2 + half]);
        sum += ours.x * theirs.x + ours.y * theirs.y;
      }
      sum += __shfl_xor_sync(ALL_LANES, sum, 1);
      sum += __shfl_xor_sync(ALL_LANES, sum, 2);
      own_delta[block][half] = sum;
      own_log_sum_exp[block][half] = log_sum_exp[head * number_of_queries + row] * LOG2_E;
      if (is_real && (lane & 3) == 0) delta[head * number_of_queries + row] = sum;
    }

  float sums[ROW_BLOCKS][WIDTH / 8][4];  // Σ d_scores key
  set_to_zero(sums);
  for (int number = 0; number < key_tile_count; ++number) {
    wait_for_copies<0>();  // these keys and values are there
    __syncthreads();       // for all threads, and none of them still reads the tiles before
    copy_keys_and_values(number + 1);
#pragma unroll 1
    for (int part = 0; part < KEY_TILE; part += PART) {
      T* key_rows = key_tiles + ((number & 1) * KEY_TILE + part) * WIDTH;
      T* value_rows = value_tiles + ((number & 1) * KEY_TILE + part) * WIDTH;
      float scores[ROW_BLOCKS][PART / 8][4], d_weights[ROW_BLOCKS][PART / 8][4];
      multiply_rows(scores, query_rows, key_rows);
      multiply_rows(d_weights, d_context_rows, value_rows);

      const int first_key = number * KEY_TILE + part;
      const bool has_hidden = first_key + PART > keys || first_key + PART - 1 > tile.first_query + offset;
      unsigned d_scores[ROW_BLOCKS][PART / 16][4];  // what two columns hold of a row is what a step's fragment wants
#pragma unroll
      for (int block = 0; block < ROW_BLOCKS; ++block)
#pragma unroll
        for (int column = 0; column < PART / 8; ++column) {
          const int block_query = tile.first_query + warp_row + block * 16;
          unsigned kept = 0;
          if (HAS_DROPOUT)
            kept = kept_of_fragment(dropout, block_query, first_key + column * 8, head, tile.sentence);
          float d_score[4];
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const int own_query = block_query + lane_row + i / 2 * 8;
            const int own_key = first_key + column * 8 + lane_column + (i & 1);
            float probability =
                exp2_approximate(scores[block][column][i] * (scale * LOG2_E) - own_log_sum_exp[block][i / 2]);
            if (has_hidden && (own_key >= keys || own_key > own_query + offset)) probability = 0.f;
            float d_probability = d_weights[block][column][i];
            if (HAS_DROPOUT) d_probability *= kept >> i & 1 ? dropout.scale : 0.f;
            d_score[i] = probability * (d_probability - own_delta[block][i / 2]);
          }
#pragma unroll
          for (int half = 0; half < 2; ++half)
            d_scores[block][column / 2][column % 2 * 2 + half] = pack2<T>(d_score[2 * half], d_score[2 * half + 1]);
        }
      add_products<T, WIDTH>(sums, d_scores, key_rows);
    }
  }
  wait_for_copies<0>();
  const long long stride = static_cast<long long>(heads) * WIDTH;
  store_rows<T, WIDTH>(d_query + (first_row + warp_row) * stride + head * WIDTH, stride,
                       queries - tile.first_query - warp_row, sums, scale);
}

template <class T, int WIDTH, int KEY_TILE, int QUERY_TILE, int WARPS, bool HAS_DROPOUT>
__global__ void __launch_bounds__(WARPS * 32, WIDTH <= 64 ? 3 : 2) attention_backward_keys(
    const T* __restrict__ query, const T* __restrict__ key, const T* __restrict__ value,  // rows of all heads
    const T* __restrict__ d_context,                                                      // the same
    long long query_stride, long long key_stride, long long value_stride,                 // from row to row
    long long d_context_stride,                                                           // the same
    const long long* __restrict__ query_starts, const long long* __restrict__ query_lengths,
    const long long* __restrict__ key_starts, const long long* __restrict__ key_lengths,  // end to end as well
    int sentences, int is_causal,
    float scale,                                                           // 1 / √W
    const float* __restrict__ log_sum_exp,                                 // [H, N]
    const float* __restrict__ delta,                                       // [H, N], by attention_backward_queries
    unsigned low, unsigned high, unsigned threshold, float dropout_scale,  // a DropoutKey
    T* __restrict__ d_key, T* __restrict__ d_value,                        // [M, H, W]
    long long number_of_queries) {                                         // N
  constexpr int THREADS = WARPS * 32, ROW_BLOCKS = KEY_TILE / (16 * WARPS);
  constexpr int PART = 16;  // queries whose scores are in registers at one time; there are two sums for each key
  constexpr bool STAY = WIDTH <= 64;
  static_assert(QUERY_TILE <= THREADS, "a thread brings the numbers of one query");
  extern __shared__ __align__(128) unsigned char shared_memory[];
  T* key_tile = reinterpret_cast<T*>(shared_memory);
  T* value_tile = key_tile + KEY_TILE * WIDTH;
  T* query_tiles = value_tile + KEY_TILE * WIDTH;
  T* d_context_tiles = query_tiles + 2 * QUERY_TILE * WIDTH;
  float* log_sum_exps = reinterpret_cast<float*>(d_context_tiles + 2 * QUERY_TILE * WIDTH);  // in powers of 2
  float* deltas = log_sum_exps + 2 * QUERY_TILE;

  const int head = blockIdx.y, heads = gridDim.y;
  const Tile tile = tile_of_number<KEY_TILE>(blockIdx.x, key_starts, sentences);
  const int first_key = tile.first_query;  // the rows of this tile are keys
  const int queries = query_lengths[tile.sentence], keys = key_lengths[tile.sentence];
  if (first_key >= keys) return;
  const long long first_row = key_starts[tile.sentence] + first_key, first_query_row = query_starts[tile.sentence];
  const T* own_queries = query + first_query_row * query_stride + head * WIDTH;
  const T* own_d_contexts = d_context + first_query_row * d_context_stride + head * WIDTH;
  const long long first_number = head * number_of_queries + first_query_row;  // in [H, N]
  const int offset = is_causal ? keys - queries : keys;  // query i sees the keys up to i + offset
  const int query_tile_count = (queries + QUERY_TILE - 1) / QUERY_TILE;
  const int first_tile = max(0, first_key - offset) / QUERY_TILE;  // no query before it sees any of these keys

  auto copy_queries = [&](int number) {
    if (number < query_tile_count) {
      const long long first_query = static_cast<long long>(number) * QUERY_TILE;
      copy_tile<WIDTH, QUERY_TILE, THREADS>(query_tiles + (number & 1) * QUERY_TILE * WIDTH,
                                            own_queries + first_query * query_stride, query_stride,
                                            queries - number * QUERY_TILE);
      copy_tile<WIDTH, QUERY_TILE, THREADS>(d_context_tiles + (number & 1) * QUERY_TILE * WIDTH,
                                            own_d_contexts + first_query * d_context_stride, d_context_stride,
                                            queries - number * QUERY_TILE);
    }
    commit_copies();
  };
  // The numbers of one query, on their way in registers, where they are long before they are stored. Queries beyond the
  // last are zeros, with zeros for numbers: they add nothing, and need no mask.
  float one_log_sum_exp = 0.f, one_delta = 0.f;
  auto load_numbers = [&](int number) {
    const int own_query = number * QUERY_TILE + threadIdx.x;
    const bool is_real = threadIdx.x < QUERY_TILE && own_query < queries;
    one_log_sum_exp = is_real ? log_sum_exp[first_number + own_query] * LOG2_E : 0.f;
    one_delta = is_real ? delta[first_number + own_query] : 0.f;
  };
  auto store_numbers = [&](int number) {
    if (threadIdx.x < QUERY_TILE) {
      log_sum_exps[(number & 1) * QUERY_TILE + threadIdx.x] = one_log_sum_exp;
      deltas[(number & 1) * QUERY_TILE + threadIdx.x] = one_delta;
    }
  };
  copy_tile<WIDTH, KEY_TILE, THREADS>(key_tile, key + first_row * key_stride + head * WIDTH, key_stride,
                                      keys - first_key);
  copy_tile<WIDTH, KEY_TILE, THREADS>(value_tile, value + first_row * value_stride + head * WIDTH, value_stride,
                                      keys - first_key);
  commit_copies();
  copy_queries(first_tile);
  load_numbers(first_tile);
  store_numbers(first_tile);

  const int warp = threadIdx.x / 32, lane = threadIdx.x & 31;
  const int lane_row = lane / 4, lane_column = (lane & 3) * 2, warp_row = warp * ROW_BLOCKS * 16;
  const DropoutKey<float> dropout{low, high, threshold, dropout_scale};
  LeftRows<T, WIDTH, ROW_BLOCKS, STAY> key_rows, value_rows;
  key_rows.tile = key_tile + warp_row * WIDTH;
  value_rows.tile = value_tile + warp_row * WIDTH;
  wait_for_copies<1>();  // the keys and values are there; queries may be on their way
  __syncthreads();       // for all threads
  key_rows.keep();
  value_rows.keep();

  float key_sums[ROW_BLOCKS][WIDTH / 8][4];    // Σ d_scoresᵀ query
  float value_sums[ROW_BLOCKS][WIDTH / 8][4];  // Σ weightsᵀ d_context
  set_to_zero(key_sums);
  set_to_zero(value_sums);
  for (int number = first_tile; number < query_tile_count; ++number) {
    wait_for_copies<0>();  // these queries are there
    __syncthreads();       // for all threads, and none of them still reads the tiles before
    copy_queries(number + 1);
    load_numbers(number + 1);
#pragma unroll 1
    for (int part = 0; part < QUERY_TILE; part += PART) {
      const int place = (number & 1) * QUERY_TILE + part;
      T* query_rows = query_tiles + place * WIDTH;
      T* d_context_rows = d_context_tiles + place * WIDTH;
      float scores[ROW_BLOCKS][PART / 8][4], d_weights[ROW_BLOCKS][PART / 8][4];
      multiply_rows(scores, key_rows, query_rows);
      multiply_rows(d_weights, value_rows, d_context_rows);

      const int first_query = number * QUERY_TILE + part;
      const bool has_hidden = first_key + KEY_TILE - 1 > first_query + offset;
      unsigned weights[ROW_BLOCKS][PART / 16][4], d_scores[ROW_BLOCKS][PART / 16][4];
#pragma unroll
      for (int column = 0; column < PART / 8; ++column) {
        const float2 of_row = *reinterpret_cast<const float2*>(log_sum_exps + place + column * 8 + lane_column);
        const float2 delta_of_row = *reinterpret_cast<const float2*>(deltas + place + column * 8 + lane_column);
#pragma unroll
        for (int block = 0; block < ROW_BLOCKS; ++block) {
          const int block_key = first_key + warp_row + block * 16;
          unsigned kept = 0;
          if (HAS_DROPOUT)
            kept = kept_of_transposed_fragment(dropout, block_key, first_query + column * 8, head, tile.sentence);
          float weight[4], d_score[4];
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const int own_key = block_key + lane_row + i / 2 * 8;
            const int own_query = first_query + column * 8 + lane_column + (i & 1);
            float probability =
                exp2_approximate(scores[block][column][i] * (scale * LOG2_E) - (i & 1 ? of_row.y : of_row.x));
            if (has_hidden && own_key > own_query + offset) probability = 0.f;
            float d_probability = d_weights[block][column][i];
            weight[i] = probability;  // dropout's scale comes when all are summed
            if (HAS_DROPOUT) {
              const bool is_kept = kept >> i & 1;
              weight[i] = is_kept ? probability : 0.f;
              d_probability *= is_kept ? dropout.scale : 0.f;
            }
            d_score[i] = probability * (d_probability - (i & 1 ? delta_of_row.y : delta_of_row.x));
          }
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const int place_in_fragment = column % 2 * 2 + half;
            weights[block][column / 2][place_in_fragment] = pack2<T>(weight[2 * half], weight[2 * half + 1]);
            d_scores[block][column / 2][place_in_fragment] = pack2<T>(d_score[2 * half], d_score[2 * half + 1]);
          }
        }
      }
      add_products<T, WIDTH>(value_sums, weights, d_context_rows);
      add_products<T, WIDTH>(key_sums, d_scores, query_rows);
    }
    store_numbers(number + 1);  // the other stage; who still read it has passed the barrier
  }
  wait_for_copies<0>();
  const long long stride = static_cast<long long>(heads) * WIDTH;
  const long long place = (first_row + warp_row) * stride + head * WIDTH;
  const int real_rows = keys - first_key - warp_row;
  store_rows<T, WIDTH>(d_key + place, stride, real_rows, key_sums, scale);
  store_rows<T, WIDTH>(d_value + place, stride, real_rows, value_sums, HAS_DROPOUT ? dropout.scale : 1.f);
}
