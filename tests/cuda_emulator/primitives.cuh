// The twin of xlmr_np/ops/cuda/primitives.cuh for the machine of machine.h: the same functions, explained there.
#pragma once

struct __half {
  unsigned short bits;
};
struct __nv_bfloat16 {
  unsigned short bits;
};
template <>
inline void emulator::TypeName<__half>::write(char* text, size_t room) {
  snprintf(text, room, "float16");
}
template <>
inline void emulator::TypeName<__nv_bfloat16>::write(char* text, size_t room) {
  snprintf(text, room, "bfloat16");
}

template <class T>
struct Wide {
  using type = float;
};
template <>
struct Wide<double> {
  using type = double;
};

inline double to_wide(double value) { return value; }
inline float to_wide(float value) { return value; }
inline float to_wide(__half value) { return emulator::value_at<_Float16>(&value); }
inline float to_wide(__nv_bfloat16 value) {
  const unsigned bits = static_cast<unsigned>(value.bits) << 16;
  return emulator::value_at<float>(&bits);
}

template <class T>
inline T from_wide(typename Wide<T>::type value) {
  return value;
}
template <>
inline __half from_wide<__half>(float value) {
  if (value != value) return {0x7fff};
  const _Float16 rounded = value;
  return emulator::value_at<__half>(&rounded);
}
template <>
inline __nv_bfloat16 from_wide<__nv_bfloat16>(float value) {
  if (value != value) return {0x7fff};
  const unsigned bits = emulator::value_at<unsigned>(&value), last_kept = bits >> 16 & 1;
  return {static_cast<unsigned short>((bits + 0x7fff + last_kept) >> 16)};
}

template <class T>
inline unsigned pack2(float low, float high) {
  return from_wide<T>(low).bits | static_cast<unsigned>(from_wide<T>(high).bits) << 16;
}
template <class T>
inline float2 unpack2(unsigned pair) {
  return {to_wide(T{static_cast<unsigned short>(pair)}), to_wide(T{static_cast<unsigned short>(pair >> 16)})};
}

inline float exp2_approximate(float exponent) {
  const float power = exp2f(exponent);
  return power < 0x1p-126f ? 0.f : power;
}

namespace emulator {

template <class T>
struct MultiplyAccumulate {
  float (&c)[4];
  const unsigned (&a)[4];
  unsigned b[2];
  static void work(MultiplyAccumulate* const (&lanes)[LANES]) {
    float a[16][16], b[16][8], c[16][8];
    for (unsigned lane = 0; lane < LANES; ++lane) {
      const unsigned row = lane / 4, column = lane % 4 * 2;
      for (unsigned part = 0; part < 4; ++part) {
        const float2 pair = unpack2<T>(lanes[lane]->a[part]);
        a[row + part % 2 * 8][column + part / 2 * 8] = pair.x;
        a[row + part % 2 * 8][column + part / 2 * 8 + 1] = pair.y;
        c[row + part / 2 * 8][column + part % 2] = lanes[lane]->c[part];
      }
      for (unsigned part = 0; part < 2; ++part) {
        const float2 pair = unpack2<T>(lanes[lane]->b[part]);
        b[column + part * 8][row] = pair.x;
        b[column + part * 8 + 1][row] = pair.y;
      }
    }
    for (unsigned row = 0; row < 16; ++row)
      for (unsigned i = 0; i < 16; ++i)
        for (unsigned column = 0; column < 8; ++column) c[row][column] += a[row][i] * b[i][column];
    for (unsigned lane = 0; lane < LANES; ++lane)
      for (unsigned part = 0; part < 4; ++part)
        lanes[lane]->c[part] = c[lane / 4 + part / 2 * 8][lane % 4 * 2 + part % 2];
  }
};

template <bool IS_TRANSPOSED>
struct LoadMatrices {
  const void* address;
  unsigned (&fragments)[4];
  static void work(LoadMatrices* const (&lanes)[LANES]) {
    for (unsigned lane = 0; lane < LANES; ++lane)
      for (unsigned matrix = 0; matrix < 4; ++matrix) {
        unsigned short pair[2];
        for (unsigned i = 0; i < 2; ++i) {
          const unsigned one = lane / 4, other = lane % 4 * 2 + i;
          const unsigned row = IS_TRANSPOSED ? other : one, column = IS_TRANSPOSED ? one : other;
          pair[i] = static_cast<const unsigned short*>(lanes[matrix * 8 + row]->address)[column];
        }
        lanes[lane]->fragments[matrix] = pair[0] | static_cast<unsigned>(pair[1]) << 16;
      }
  }
};

inline void check_shared(const Call& call, const void* address) {
  if (!is_shared(address)) fail("%s (%s:%d): the address is not in shared memory", call.name, call.file, call.line);
}
inline void check_aligned(const Call& call, const void* address) {
  if (reinterpret_cast<uintptr_t>(address) % 16)
    fail("%s (%s:%d): the address is no multiple of 16", call.name, call.file, call.line);
}

}  // namespace emulator

#define PLACE const char *file = __builtin_FILE(), int line = __builtin_LINE()

template <class T>
inline void multiply_accumulate(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, PLACE) {
  emulator::MultiplyAccumulate<T> operands{c, a, {b0, b1}};
  emulator::together({"multiply_accumulate", file, line}, emulator::ALL_LANES, operands, true);
}

inline void load_matrices(unsigned (&fragments)[4], const void* row, PLACE) {
  const emulator::Call call{"load_matrices", file, line};
  emulator::check_shared(call, row);
  emulator::check_aligned(call, row);
  emulator::LoadMatrices<false> operands{row, fragments};
  emulator::together(call, emulator::ALL_LANES, operands, true);
}

inline void load_matrices_transposed(unsigned (&fragments)[4], const void* row, PLACE) {
  const emulator::Call call{"load_matrices_transposed", file, line};
  emulator::check_shared(call, row);
  emulator::check_aligned(call, row);
  emulator::LoadMatrices<true> operands{row, fragments};
  emulator::together(call, emulator::ALL_LANES, operands, true);
}

// What is on its way arrives at once, or when the thread waits for it: the earliest and the latest that there is.
inline void copy_16_bytes(void* shared, const void* global, bool is_real, PLACE) {
  const emulator::Call call{"copy_16_bytes", file, line};
  emulator::check_shared(call, shared);
  emulator::check_aligned(call, shared);
  emulator::check_aligned(call, global);
  emulator::Thread& self = *emulator::machine.current;
  emulator::Copy copy{shared, {}, self.groups};
  if (is_real) memcpy(copy.bytes, global, sizeof copy.bytes);
  if (emulator::machine.copies_come_early)
    memcpy(shared, copy.bytes, sizeof copy.bytes);
  else
    self.copies.push_back(copy);
}

inline void commit_copies() { ++emulator::machine.current->groups; }

template <int N>
inline void wait_for_copies() {
  emulator::Thread& self = *emulator::machine.current;
  size_t kept = 0;
  for (const emulator::Copy& copy : self.copies)
    if (copy.group + N < self.groups)
      memcpy(copy.shared, copy.bytes, sizeof copy.bytes);
    else
      self.copies[kept++] = copy;
  self.copies.resize(kept);
}

#undef PLACE
