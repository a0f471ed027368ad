// How blocks find the queries they work on, without the host knowing any length.
//
// The queries of sentence b lie at starts[b] .. starts[b] + lengths[b], end to end and in order. Its tiles of TILE
// queries are numbered from starts[b] / TILE + b on: as floor(x + y) + 1 >= floor(x) + ceil(y), no two sentences share
// a number, and N / TILE + B numbers are enough for B sentences of N queries together. Some numbers belong to no tile;
// their blocks end at once.
#pragma once
#include "rows.cuh"

struct Tile {
  int sentence;
  int first_query;  // of the tile, counted from the sentence's first
};

// The tile of this number; all lanes of a warp ask together. 32 sentences are tried at a time.
template <int TILE>
__device__ Tile tile_of_number(int number, const long long* __restrict__ starts, int sentences) {
  const int lane = threadIdx.x & 31;
  int low = 0, high = sentences;  // the sentence is in [low, high)
  while (high - low > 1) {
    const int step = (high - low + 31) / 32;
    const int tried = low + lane * step;
    const bool begins_before = tried < high && starts[tried] / TILE + tried <= number;
    low += (__popc(__ballot_sync(ALL_LANES, begins_before)) - 1) * step;  // true for low itself, then up to some lane
    high = min(low + step, high);
  }
  return {low, static_cast<int>(number - (starts[low] / TILE + low)) * TILE};
}
