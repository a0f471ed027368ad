// A machine that runs the blocks of a CUDA kernel on one CPU thread.
//
// Every CUDA thread is a fiber: it has its own stack and runs until it must wait for others, at a barrier or at what
// lanes of a warp do together. Then another one runs. So a run is deterministic: the seed of the schedule alone decides
// who is next. With seed 0 that is the first in the natural order that can run. Other seeds draw an order of the lanes
// for every block, and for every interval between two barriers an order of the warps, and whether the first of them
// runs as far as it can or all of them by turns. A kernel without a race gives the same under all seeds.
//
// Memory that nobody has written yet is NaN: shared memory is filled with ones before every block.
// What the machine does not have: a memory model weaker than the program's order, blocks that run at the same time.
#pragma once
#if !defined(__x86_64__) || !defined(__linux__)
#error "The CUDA emulator changes stacks by x86-64 instructions and finds shared memory by the means of Linux."
#endif
#include <link.h>
#include <sys/mman.h>

#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

namespace emulator {

constexpr unsigned LANES = 32, ALL_LANES = ~0u, MOST_THREADS = 1024, MOST_WARPS = MOST_THREADS / LANES;
constexpr size_t MOST_SHARED_MEMORY = 227 * 1024, STACK_SIZE = 128 * 1024;
#ifdef __SANITIZE_ADDRESS__
constexpr size_t MARGIN = 0;  // the sanitizer sees more
#else
constexpr size_t MARGIN = 4096;
#endif

// What a kernel calls that makes a thread wait, and where in the kernel.
struct Call {
  const char* name;  // null: the thread does not wait
  const char* file;
  int line;
};
inline bool is_same_call(const Call& one, const Call& other) {  // a compiler keeps equal literals once
  return one.line == other.line && one.name == other.name && one.file == other.file;
}

// 16 bytes on their way from global to shared memory.
struct Copy {
  void* shared;
  unsigned char bytes[16];
  unsigned group;
};

struct Thread {
  void* stack_pointer;  // while it does not run
  uint3 index;
  unsigned warp, lane;
  unsigned place;  // in the order of its warp
  bool is_done;
  Call call;                // that it waits in, for the block or, by what follows, for lanes of its warp
  unsigned mask;            // of the lanes that make the call together
  bool needs_all;           // lanes of the warp
  void* operands;           // of the call
  void (*finish)(Thread&);  // what the last lane to come does for all
  unsigned groups;  // of copies, committed
  std::vector<Copy> copies;
};

struct Warp {
  Thread* lanes[LANES];   // null: the block has no such thread
  Thread* places[LANES];  // the same in the order in which they are run
  unsigned ready;         // bit p: the thread at place p can run
  unsigned alive;         // bit l: lane l has not ended
  unsigned waiting;       // bit l: lane l waits for other lanes
  unsigned rank;          // in the order of the warps
};

// One per kernel, as a library has one kernel. Static, not thread-local: thread-local is what shared memory is.
struct Machine {
  Thread threads[MOST_THREADS];
  Warp warps[MOST_WARPS];
  unsigned ranked[MOST_WARPS];  // warp numbers in the order in which they are run
  unsigned ready_ranks;         // bit r: a thread of the warp of rank r can run
  bool by_turns;                // warps change whenever a thread waits
  unsigned thread_count, warp_count, alive, waiting;  // of a block; waiting: for the block's barrier
  Call barrier;                                       // that the first of them waits in
  Thread* current;
  void* own_stack_pointer;  // the machine's, while fibers run
  unsigned char* stacks;
  uint3 block_index;
  dim3 block_size, grid_size;
  uint64_t random;
  bool is_random, copies_come_early;
  unsigned char *shared_begin, *shared_end;  // all of a block's, static and dynamic
  void (*kernel)(void*);
  void* kernel_arguments;
  char error[1024];  // empty: none
};
inline Machine machine;

}  // namespace emulator

// The dynamic shared memory, aligned as kernels declare it. The margin behind it shows who writes past the end.
alignas(128) inline thread_local unsigned char shared_memory[emulator::MOST_SHARED_MEMORY + emulator::MARGIN];

namespace emulator {

// Saves on the stack the registers that a function must keep, and its pointer in `saved` (rdi); goes on where the stack
// of the pointer `other` (rsi) was left.
[[gnu::naked, gnu::noinline, gnu::no_sanitize("address")]] inline void change_stack(void** saved, void* other) {
  asm("pushq %rbp\n pushq %rbx\n pushq %r12\n pushq %r13\n pushq %r14\n pushq %r15\n"
      "movq %rsp, (%rdi)\n movq %rsi, %rsp\n"
      "popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbx\n popq %rbp\n ret\n");
}

// Adds to the text of the launch's error, as printf does, what has room.
[[gnu::format(printf, 1, 2), gnu::noinline, gnu::cold]] inline void add_to_error(const char* format, ...) {
  const size_t length = strlen(machine.error);
  va_list values;
  va_start(values, format);
  vsnprintf(machine.error + length, sizeof machine.error - length, format, values);
  va_end(values);
}

// Ends the launch; the fibers stay where they are.
[[gnu::noinline, gnu::cold]] inline void stop() {
  const uint3 block = machine.block_index, thread = machine.current->index;
  add_to_error("; seen by thread %u, %u, %u of block %u, %u, %u", thread.x, thread.y, thread.z, block.x, block.y,
               block.z);
  void* abandoned;
  change_stack(&abandoned, machine.own_stack_pointer);
  __builtin_unreachable();
}

// Ends the launch with an error.
template <class... Values>
[[gnu::noinline, gnu::cold]] inline void fail(const char* format, const Values&... values) {
  add_to_error(format, values...);
  stop();
}

// Where g++ finds by its own checks that a kernel does wrong.
struct SourcePlace {
  const char* file;
  unsigned line, column;
};

}  // namespace emulator

// These take the place of functions of g++'s run-time library. Their first argument begins with the place.
extern "C" [[gnu::used, gnu::noinline]] inline void __ubsan_handle_type_mismatch_v1_abort(emulator::SourcePlace* place,
                                                                                          void* address) {
  emulator::fail("%s:%u uses the address %p, which is not aligned for its type", place->file, place->line, address);
}
extern "C" [[gnu::used, gnu::noinline]] inline void __ubsan_handle_out_of_bounds_abort(emulator::SourcePlace* place,
                                                                                       size_t index) {
  emulator::fail("%s:%u uses index %zd of an array, which is outside of it", place->file, place->line,
                 static_cast<ptrdiff_t>(index));
}

namespace emulator {

// A random number below the limit (xorshift64*, Vigna 2016).
inline unsigned random_below(unsigned limit) {
  uint64_t& state = machine.random;
  state ^= state >> 12;
  state ^= state << 25;
  state ^= state >> 27;
  return static_cast<unsigned>((state * 0x2545F4914F6CDD1Dull >> 32) * limit >> 32);
}

template <class T>
inline void shuffle(T* values, unsigned count) {
  for (unsigned i = count; i > 1; --i) std::swap(values[i - 1], values[random_below(i)]);
}

inline void make_ready(Thread& thread) {
  Warp& warp = machine.warps[thread.warp];
  thread.call.name = nullptr;
  warp.ready |= 1u << thread.place;
  machine.ready_ranks |= 1u << warp.rank;
}

// At the beginning of an interval between barriers: who goes first.
inline void order_warps() {
  if (machine.is_random) {
    shuffle(machine.ranked, machine.warp_count);
    machine.by_turns = random_below(2);
  }
  machine.ready_ranks = 0;
  for (unsigned rank = 0; rank < machine.warp_count; ++rank) {
    Warp& warp = machine.warps[machine.ranked[rank]];
    warp.rank = rank;
    if (warp.ready) machine.ready_ranks |= 1u << rank;
  }
}

[[gnu::noinline, gnu::cold]] inline void fail_of_deadlock() {
  add_to_error("deadlock: threads wait for others that never come");
  const char* separator = ":";
  for (unsigned first = 0; first < machine.thread_count; ++first) {
    const Call& call = machine.threads[first].call;
    if (machine.threads[first].is_done) continue;
    unsigned before = 0, count = 0;
    for (unsigned other = 0; other < machine.thread_count; ++other)
      if (!machine.threads[other].is_done && is_same_call(call, machine.threads[other].call))
        ++(other < first ? before : count);
    if (before) continue;
    add_to_error("%s %u at %s (%s:%d)", separator, count, call.name, call.file, call.line);
    separator = ",";
  }
  stop();
}

// Gives the CPU to the thread whose turn it is, which may be the current one.
inline void run_next() {
  if (!machine.ready_ranks) {
    if (machine.alive) fail_of_deadlock();
    void* abandoned;
    change_stack(&abandoned, machine.own_stack_pointer);
  }
  unsigned candidates = machine.ready_ranks;
  if (machine.by_turns) {
    const unsigned later = candidates & (~1u << machine.warps[machine.current->warp].rank);
    if (later) candidates = later;
  }
  const unsigned rank = __builtin_ctz(candidates);
  Warp& warp = machine.warps[machine.ranked[rank]];
  Thread* next = warp.places[__builtin_ctz(warp.ready)];
  warp.ready &= warp.ready - 1;
  if (!warp.ready) machine.ready_ranks &= ~(1u << rank);
  Thread* previous = machine.current;
  if (next == previous) return;
  machine.current = next;
  change_stack(&previous->stack_pointer, next->stack_pointer);
}

// Lets the block go on if all its threads that have not ended wait for its barrier.
inline void open_barrier() {
  if (!machine.waiting || machine.waiting < machine.alive) return;
  machine.waiting = 0;
  for (unsigned i = 0; i < machine.thread_count; ++i)
    if (!machine.threads[i].is_done) make_ready(machine.threads[i]);
  order_warps();
}

inline void wait_for_block(const Call& call) {
  Thread& self = *machine.current;
  if (!machine.waiting) machine.barrier = call;
  if (!is_same_call(machine.barrier, call))
    fail("threads of a block wait at different barriers: %s:%d and %s:%d", machine.barrier.file, machine.barrier.line,
         call.file, call.line);
  self.call = call;
  ++machine.waiting;
  open_barrier();
  run_next();
}

// If all lanes of this thread's mask wait for each other, but for those that have ended, does what they do together and
// wakes them.
inline void finish_if_complete(Thread& thread) {
  Warp& warp = machine.warps[thread.warp];
  const unsigned expected = thread.mask & warp.alive;
  if ((warp.waiting & expected) != expected) return;
  for (unsigned lane = 0; lane < LANES; ++lane) {
    if (!(expected >> lane & 1)) continue;
    const Thread& other = *warp.lanes[lane];
    if (other.mask != thread.mask || !is_same_call(other.call, thread.call))
      fail("lanes of a warp wait in different calls: %u in %s (%s:%d, mask %08x), %u in %s (%s:%d, mask %08x)",
           thread.lane, thread.call.name, thread.call.file, thread.call.line, thread.mask, other.lane, other.call.name,
           other.call.file, other.call.line, other.mask);
  }
  if (thread.needs_all && expected != ALL_LANES)
    fail("%s (%s:%d) needs all 32 lanes of a warp; there are %08x", thread.call.name, thread.call.file,
         thread.call.line, expected);
  thread.finish(thread);
  warp.waiting &= ~expected;
  for (unsigned lane = 0; lane < LANES; ++lane)
    if (expected >> lane & 1) make_ready(*warp.lanes[lane]);
}

// What lanes do together. Each leaves its operands and waits; when the last has come, `Operands::work` gets those of
// every lane, null for one that does not take part, and writes the results into them. Some things only a whole warp can
// do.
template <class Operands>
inline void together(const Call& call, unsigned mask, Operands& operands, bool needs_all = false) {
  Thread& self = *machine.current;
  Warp& warp = machine.warps[self.warp];
  if (!(mask >> self.lane & 1))
    fail("lane %u calls %s (%s:%d) with a mask without itself, %08x", self.lane, call.name, call.file, call.line, mask);
  self.call = call;
  self.mask = mask;
  self.needs_all = needs_all;
  self.operands = &operands;
  self.finish = [](Thread& thread) {
    const Warp& own = machine.warps[thread.warp];
    const unsigned present = thread.mask & own.alive;
    Operands* of_lanes[LANES];
    for (unsigned lane = 0; lane < LANES; ++lane)
      of_lanes[lane] = present >> lane & 1 ? static_cast<Operands*>(own.lanes[lane]->operands) : nullptr;
    Operands::work(of_lanes);
  };
  warp.waiting |= 1u << self.lane;
  finish_if_complete(self);
  run_next();
}

// Where a fiber begins, and ends.
inline void run_thread() {
  machine.kernel(machine.kernel_arguments);
  Thread& self = *machine.current;
  Warp& warp = machine.warps[self.warp];
  self.is_done = true;
  --machine.alive;
  warp.alive &= ~(1u << self.lane);
  for (unsigned lane = 0; lane < LANES; ++lane)  // nobody waits for a thread that has ended
    if (warp.waiting >> lane & 1) finish_if_complete(*warp.lanes[lane]);
  open_barrier();
  run_next();
  __builtin_unreachable();
}

inline bool is_shared(const void* address) { return address >= machine.shared_begin && address < machine.shared_end; }

// Finds the memory of this library's thread-local variables, which are the shared memory of a block.
inline void find_shared_memory() {
  shared_memory[0] = 0;  // the system makes them when they are first used
  dl_iterate_phdr(
      [](dl_phdr_info* library, size_t, void*) {
        for (int i = 0; i < library->dlpi_phnum; ++i) {
          if (library->dlpi_phdr[i].p_type != PT_TLS || !library->dlpi_tls_data) continue;
          auto* begin = static_cast<unsigned char*>(library->dlpi_tls_data);
          auto* end = begin + library->dlpi_phdr[i].p_memsz;
          if (shared_memory < begin || shared_memory >= end) continue;
          machine.shared_begin = begin;
          machine.shared_end = end;
          return 1;
        }
        return 0;
      },
      nullptr);
}

inline void fill_shared_memory(size_t dynamic_size) {
  unsigned char* dynamic_end = shared_memory + sizeof shared_memory;
  memset(machine.shared_begin, 0xff, shared_memory - machine.shared_begin);
  memset(shared_memory, 0xff, dynamic_size + MARGIN);
  memset(dynamic_end, 0xff, machine.shared_end - dynamic_end);
}

// Runs one block to its end, or to an error.
inline void run_block(size_t dynamic_size) {
  fill_shared_memory(dynamic_size);
  const dim3 size = machine.block_size;
  machine.alive = machine.thread_count = size.x * size.y * size.z;
  machine.warp_count = (machine.thread_count + LANES - 1) / LANES;
  machine.waiting = 0;
  for (unsigned number = 0; number < machine.warp_count; ++number) {
    Warp& warp = machine.warps[number];
    const unsigned lanes = number * LANES + LANES <= machine.thread_count ? LANES : machine.thread_count % LANES;
    warp = Warp{};
    warp.ready = warp.alive = lanes == LANES ? ALL_LANES : (1u << lanes) - 1;
    for (unsigned lane = 0; lane < lanes; ++lane)
      warp.lanes[lane] = warp.places[lane] = &machine.threads[number * LANES + lane];
    if (machine.is_random) shuffle(warp.places, lanes);
    for (unsigned place = 0; place < lanes; ++place) warp.places[place]->place = place;
    machine.ranked[number] = number;
  }
  for (unsigned i = 0; i < machine.thread_count; ++i) {
    Thread& thread = machine.threads[i];
    thread.index = {i % size.x, i / size.x % size.y, i / (size.x * size.y)};
    thread.warp = i / LANES;
    thread.lane = i % LANES;
    thread.call.name = nullptr;
    thread.is_done = false;
    thread.groups = 0;
    thread.copies.clear();
    // What change_stack finds on a new stack: six registers, where to go, and no caller.
    void** top = reinterpret_cast<void**>(machine.stacks + (i + 1) * STACK_SIZE);
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(run_thread);
    for (int number = 0; number < 6; ++number) *--top = nullptr;
    thread.stack_pointer = top;
  }
  order_warps();
  Warp& first = machine.warps[machine.ranked[0]];
  machine.current = first.places[0];
  first.ready &= ~1u;
  if (!first.ready) machine.ready_ranks &= ~1u;
  change_stack(&machine.own_stack_pointer, machine.current->stack_pointer);
  for (size_t i = 0; i < MARGIN && !machine.error[0]; ++i)
    if (shared_memory[dynamic_size + i] != 0xff)
      add_to_error("block %u, %u, %u writes past its %zu bytes of dynamic shared memory", machine.block_index.x,
                   machine.block_index.y, machine.block_index.z, dynamic_size);
}

// What Python passes.
struct Launch {
  unsigned grid[3], block[3];
  size_t shared_memory;  // bytes of dynamic shared memory
  unsigned seed;
  int copies_come_early;
  void** arguments;  // the address of each
};

inline void run_grid(const Launch& launch, void (*kernel)(void*), void* arguments) {
  machine.error[0] = 0;
  machine.kernel = kernel;
  machine.kernel_arguments = arguments;
  machine.grid_size = {launch.grid[0], launch.grid[1], launch.grid[2]};
  machine.block_size = {launch.block[0], launch.block[1], launch.block[2]};
  machine.is_random = launch.seed != 0;
  machine.random = 0x9E3779B97F4A7C15ull * (launch.seed + 1ull);
  machine.by_turns = false;
  machine.copies_come_early = launch.copies_come_early;
  find_shared_memory();
  const size_t static_size = machine.shared_end - machine.shared_begin - sizeof shared_memory;
  if (launch.shared_memory > MOST_SHARED_MEMORY - static_size)
    return add_to_error("%zu bytes of dynamic and %zu of static shared memory; a block has %zu at most",
                        launch.shared_memory, static_size, MOST_SHARED_MEMORY);
  const size_t threads = static_cast<size_t>(launch.block[0]) * launch.block[1] * launch.block[2];
  if (threads > MOST_THREADS) return add_to_error("%zu threads; a block has %u at most", threads, MOST_THREADS);
  const size_t stacks_size = threads * STACK_SIZE;
  void* stacks = mmap(nullptr, stacks_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (stacks == MAP_FAILED) return add_to_error("no memory for the stacks of %zu threads", threads);
  machine.stacks = static_cast<unsigned char*>(stacks);
#ifdef __SANITIZE_ADDRESS__
  ASAN_UNPOISON_MEMORY_REGION(stacks, stacks_size);
  ASAN_POISON_MEMORY_REGION(shared_memory + launch.shared_memory, sizeof shared_memory - launch.shared_memory);
#endif
  const uint64_t blocks = static_cast<uint64_t>(launch.grid[0]) * launch.grid[1] * launch.grid[2];
  const bool backwards = machine.is_random && random_below(2);
  for (uint64_t i = 0; i < blocks && !machine.error[0]; ++i) {
    const uint64_t number = backwards ? blocks - 1 - i : i;
    machine.block_index = {static_cast<unsigned>(number % launch.grid[0]),
                           static_cast<unsigned>(number / launch.grid[0] % launch.grid[1]),
                           static_cast<unsigned>(number / launch.grid[0] / launch.grid[1])};
    run_block(launch.shared_memory);
  }
#ifdef __SANITIZE_ADDRESS__
  ASAN_UNPOISON_MEMORY_REGION(shared_memory, sizeof shared_memory);
  ASAN_UNPOISON_MEMORY_REGION(stacks, stacks_size);  // the next library may be loaded to where they were
#endif
  munmap(stacks, stacks_size);
}

template <class T>
inline T value_at(const void* address) {
  T value;
  memcpy(&value, address, sizeof value);  // Python's buffers need not be aligned
  return value;
}

template <class... Parameters, size_t... Numbers>
inline void run_kernel(void (*kernel)(Parameters...), const Launch& launch, std::index_sequence<Numbers...>) {
  auto call = [&] { kernel(value_at<std::remove_cv_t<Parameters>>(launch.arguments[Numbers])...); };
  run_grid(launch, [](void* function) { (*static_cast<decltype(call)*>(function))(); }, &call);
}

// Runs a kernel; null, or what went wrong.
template <class... Parameters>
inline const char* run_kernel(void (*kernel)(Parameters...), const Launch& launch) {
  run_kernel(kernel, launch, std::index_sequence_for<Parameters...>());
  return machine.error[0] ? machine.error : nullptr;
}

// The NumPy name of a type; types that NumPy has no name for are opaque.
template <class T>
struct TypeName {
  static constexpr const char* kind() {
    if (std::is_same_v<T, bool>) return "bool";
    if (std::is_floating_point_v<T>) return "float";
    if (std::is_integral_v<T>) return std::is_signed_v<T> ? "int" : "uint";
    return "opaque";
  }
  static void write(char* text, size_t room) {
    if constexpr (std::is_same_v<T, bool> || !std::is_arithmetic_v<T>)
      snprintf(text, room, "%s", kind());
    else
      snprintf(text, room, "%s%zu", kind(), 8 * sizeof(T));
  }
};

// The type of a parameter, as in "const float32*;".
template <class Parameter>
inline void write_parameter(char* text, size_t room) {
  using Target = std::remove_pointer_t<Parameter>;
  constexpr bool is_pointer = std::is_pointer_v<Parameter>;
  char name[16];
  TypeName<std::remove_cv_t<Target>>::write(name, sizeof name);
  snprintf(text, room, "%s%s%s;", is_pointer && std::is_const_v<Target> ? "const " : "", name, is_pointer ? "*" : "");
}

// The parameters of a kernel, as in "const float32*;float32*;int64;".
template <class... Parameters>
inline const char* signature(void (*)(Parameters...)) {
  static char text[32 * (sizeof...(Parameters) + 1)] = "";
  text[0] = 0;
  ((write_parameter<Parameters>(text + strlen(text), 32)), ...);
  return text;
}

}  // namespace emulator
