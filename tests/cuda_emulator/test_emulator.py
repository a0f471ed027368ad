"""The emulator itself, by small kernels that are written here."""

import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays

from tests.cuda_emulator import BARRIER, EmulatedGpu, Schedule, run_sanitized, why_not, without
from xlmr_np.ops.cuda.kernels import Gpu, Kernel, LaunchShape

can_emulate = pytest.mark.skipif(why_not() is not None, reason=f"kernels cannot be executed here: {why_not()}")

NATURAL, EARLY = Schedule(), Schedule(arrival="early")
SCHEDULES = [Schedule(seed) for seed in range(8)]
EVERY_HALF_TYPE = pytest.mark.parametrize(
    ("c_type", "dtype"), [("__half", np.dtype(np.float16)), ("__nv_bfloat16", np.dtype(ml_dtypes.bfloat16))]
)


def small_gpu(source: str, schedule: Schedule = NATURAL, edit: Callable[[str], str] | None = None) -> EmulatedGpu:
    return EmulatedGpu(schedule, edit, sources={"small.cu": '#include "primitives.cuh"\n' + source})


def small_kernel(expression: str) -> Kernel:
    return Kernel("small.cu", expression)


def run(
    source: str,
    expression: str,
    arguments: list[Any],
    grid: tuple[int, ...] = (1,),
    block: tuple[int, ...] = (32,),
    schedule: Schedule = NATURAL,
    edit: Callable[[str], str] | None = None,
    shared_memory: int = 0,
) -> None:
    """Launches a kernel of a source that needs not include primitives.cuh."""
    small_gpu(source, schedule, edit).launch(
        small_kernel(expression), LaunchShape(grid, block, shared_memory), arguments
    )


INDICES = """
__global__ void number_threads(long long* numbers, int* sizes) {
  const long long block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  const int threads = blockDim.x * blockDim.y * blockDim.z;
  numbers[block * threads + thread] = block * threads + thread;
  if (thread == 0) sizes[block] = threads * 100000 + gridDim.x * gridDim.y * gridDim.z;
}
"""


@can_emulate
@pytest.mark.parametrize("schedule", SCHEDULES[:3])
@pytest.mark.parametrize(
    ("grid", "block"), [((5,), (7,)), ((2, 3), (32, 2)), ((2, 1, 4), (3, 5, 2)), ((1, 1, 3), (1024,))]
)
def test_every_thread_runs_once(schedule: Schedule, grid: tuple[int, ...], block: tuple[int, ...]) -> None:
    blocks, threads = np.prod(grid), np.prod(block)
    numbers, sizes = np.full(blocks * threads, -1), np.zeros(blocks, np.int32)
    run(INDICES, "number_threads", [numbers, sizes], grid, block, schedule)
    np.testing.assert_array_equal(numbers, np.arange(blocks * threads))
    assert (sizes == threads * 100000 + blocks).all()


WARPS = """
__global__ void ask_lanes(const int* numbers, int* mirrored, double* first, unsigned* votes, int* halves) {
  const int lane = threadIdx.x & 31, number = numbers[threadIdx.x];
  mirrored[threadIdx.x] = __shfl_xor_sync(0xffffffffu, number, 31);
  first[threadIdx.x] = __shfl_sync(0xffffffffu, number + 0.5, 32 + 3);  // modulo 32
  votes[threadIdx.x] = __ballot_sync(0xffffffffu, number & 1);
  if (lane < 16) {
    halves[threadIdx.x] = __any_sync(0x0000ffffu, number == 5);
    halves[threadIdx.x] += 2 * __shfl_xor_sync(0x0000ffffu, lane, 8);
  } else {
    __syncwarp(0xffff0000u);
    halves[threadIdx.x] = __shfl_xor_sync(0xffff0000u, lane, 1);
  }
}
"""


@can_emulate
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_lanes_of_a_warp_see_each_other(schedule: Schedule) -> None:
    numbers = np.random.default_rng(0).permutation(64).astype(np.int32)
    mirrored, first = np.zeros(64, np.int32), np.zeros(64)
    votes, halves = np.zeros(64, np.uint32), np.zeros(64, np.int32)
    run(WARPS, "ask_lanes", [numbers, mirrored, first, votes, halves], block=(64,), schedule=schedule)
    by_warp = numbers.reshape(2, 32)
    np.testing.assert_array_equal(mirrored, by_warp[:, ::-1].reshape(-1))
    np.testing.assert_array_equal(first, np.repeat(by_warp[:, 3] + 0.5, 32))
    np.testing.assert_array_equal(votes, np.repeat(np.sum((by_warp & 1) << np.arange(32), axis=1), 32))
    lanes = np.arange(16)
    low = (by_warp[:, :16] == 5).any(axis=1, keepdims=True) + 2 * (lanes ^ 8)
    np.testing.assert_array_equal(halves.reshape(2, 32), np.hstack([low, [(lanes + 16) ^ 1] * 2]))


ROTATION = """
__global__ void rotate(const float* numbers, float* rotated, int steps) {
  __shared__ float row[128];
  float own = numbers[blockIdx.x * 128 + threadIdx.x];
  for (int step = 0; step < steps; ++step) {
    row[threadIdx.x] = own;
    __syncthreads();  // all have written
    own = row[(threadIdx.x + 1) & 127];
    __syncthreads();  // all have read
  }
  rotated[blockIdx.x * 128 + threadIdx.x] = own;
}
"""


@can_emulate
@pytest.mark.parametrize("missing", [None, "written", "read"])
def test_a_missing_barrier_is_seen_under_some_schedule(missing: str | None) -> None:
    numbers = np.arange(256, dtype=np.float32).reshape(2, 128)
    edit = without(f"{BARRIER}  // all have {missing}", 0, "//") if missing else None
    are_right = []
    for schedule in SCHEDULES:
        rotated = np.full_like(numbers, np.nan)
        run(ROTATION, "rotate", [numbers, rotated, np.int32(3)], (2,), (128,), schedule, edit)
        are_right.append(np.array_equal(rotated, np.roll(numbers, -3, axis=1)))
    assert all(are_right) == (missing is None)


LEAVING = """
__global__ void leave_early(int* present, int staying) {
  if (threadIdx.x >= staying) return;
  __syncthreads();
  present[threadIdx.x] = __ballot_sync(0xffffffffu, 1);
  __syncwarp();
}
"""


@can_emulate
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_nobody_waits_for_threads_that_have_ended(schedule: Schedule) -> None:
    present = np.zeros(96, np.int32)
    run(LEAVING, "leave_early", [present, np.int32(40)], block=(96,), schedule=schedule)
    np.testing.assert_array_equal(present, [-1] * 32 + [255] * 8 + [0] * 56)


FAULTS = """
__global__ void commit(int fault, const float* numbers, float4* chunk) {
  extern __shared__ __align__(128) unsigned char shared_memory[];
  __shared__ __align__(16) float row[32];
  const bool is_odd = threadIdx.x & 1;
  unsigned fragments[4];
  if (fault == 0) {
    if (is_odd) __syncthreads();
    __syncwarp();
  }
  if (fault == 1) {
    if (threadIdx.x < 32)
      __syncthreads();
    else
      __syncthreads();
  }
  if (fault == 2) {
    if (is_odd)
      __syncwarp();
    else
      __ballot_sync(0xffffffffu, 1);
  }
  if (fault == 3) __syncwarp(2);
  if (fault == 4 && threadIdx.x < 16) load_matrices(fragments, row);
  if (fault == 5) load_matrices(fragments, row + 2);
  if (fault == 6) load_matrices_transposed(fragments, numbers);
  if (fault == 7) copy_16_bytes(fragments, numbers, true);
  if (fault == 8) copy_16_bytes(row, numbers + 1, true);
  if (fault == 9) *chunk = *reinterpret_cast<const float4*>(numbers + 2);
  if (fault == 10) shared_memory[512 + threadIdx.x] = 0;
}
"""


@can_emulate
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (0, r"deadlock.*: 32 at __syncwarp \(small.cu:10\), 32 at __syncthreads \(small.cu:9\)"),
        (1, r"different barriers: small.cu:14 and small.cu:16"),
        (2, r"different calls: 31 in __syncwarp \(small.cu:20.*0 in __ballot_sync \(small.cu:22"),
        (3, r"lane 0 calls __syncwarp \(small.cu:24\) with a mask without itself, 00000002"),
        (4, r"load_matrices \(small.cu:25\) needs all 32 lanes of a warp"),
        (5, r"load_matrices \(small.cu:26\).* no multiple of 16"),
        (6, r"load_matrices_transposed \(small.cu:27\).* not in shared memory"),
        (7, r"copy_16_bytes \(small.cu:28\).* not in shared memory"),
        (8, r"copy_16_bytes \(small.cu:29\).* no multiple of 16"),
        (9, r"small.cu:30 uses the address 0x.*, which is not aligned for its type"),
        (10, r"block 0, 0, 0 writes past its 512 bytes of dynamic shared memory"),
    ],
)
def test_what_must_not_be_is_an_error(fault: int, message: str) -> None:
    gpu = small_gpu(FAULTS)
    numbers = np.zeros(32, np.float32)
    with pytest.raises(RuntimeError, match=f"^commit of small.cu: .*{message}"):
        gpu.launch(small_kernel("commit"), LaunchShape((1,), (64,), 512), [np.int32(fault), numbers, numbers])
    assert gpu.launches == []


COPIES = """
template <int STAGES, int ON_THEIR_WAY>
__global__ void add_tiles(const float* numbers, float* sums, int tiles) {
  __shared__ __align__(16) float stages[STAGES][128];
  auto copy_tile = [&](int tile) {
    if (tile < tiles)
      copy_16_bytes(stages[tile % STAGES] + 4 * threadIdx.x, numbers + 128 * tile + 4 * threadIdx.x, threadIdx.x < 31);
    commit_copies();
  };
  copy_tile(0);
  for (int i = 0; i < 4; ++i) sums[4 * threadIdx.x + i] = 0;
  for (int tile = 0; tile < tiles; ++tile) {
    copy_tile(tile + 1);
    wait_for_copies<ON_THEIR_WAY>();
    __syncthreads();
    for (int i = 0; i < 4; ++i) sums[4 * threadIdx.x + i] += stages[tile % STAGES][(4 * threadIdx.x + i + 4) % 128];
    __syncthreads();
  }
}
"""


@can_emulate
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("stages", "on_their_way", "fails"),
    [(2, 1, ""), (2, 0, ""), (2, 2, "late"), (1, 1, "early"), (3, 1, "")],
    ids=["right", "waiting too much", "waiting too little", "overwritten", "three stages"],
)
def test_copies_arrive_late_and_early(seed: int, stages: int, on_their_way: int, fails: str) -> None:
    numbers = np.random.default_rng(0).integers(0, 100, (4, 128)).astype(np.float32)
    expected = np.where(np.arange(128) < 124, numbers, 0).sum(axis=0)  # the last lane copies nothing, which gives zeros
    for arrival in ("late", "early"):
        sums = np.full(128, np.nan, np.float32)
        name = f"add_tiles<{stages}, {on_their_way}>"
        run(COPIES, name, [numbers, sums, np.int32(4)], schedule=Schedule(seed, arrival))
        assert np.array_equal(sums, np.roll(expected, -4)) == (arrival != fails), arrival


MATRICES = """
template <bool IS_TRANSPOSED>
__global__ void fragments_of(const unsigned short* matrices, unsigned* fragments) {
  __shared__ __align__(16) unsigned short rows[32][8];
  for (int i = 0; i < 8; ++i) rows[threadIdx.x][i] = matrices[threadIdx.x * 8 + i];
  __syncwarp();
  unsigned own[4];
  if (IS_TRANSPOSED)
    load_matrices_transposed(own, rows[threadIdx.x]);
  else
    load_matrices(own, rows[threadIdx.x]);
  for (int i = 0; i < 4; ++i) fragments[threadIdx.x * 4 + i] = own[i];
}
// c += a b for a [16, 16] and b [16, 8], as the attention kernel does it: rows of a, and columns of b by transposition.
template <class T>
__global__ void product(const T* a, const T* b, float* c) {
  __shared__ __align__(16) T a_rows[16][16], b_rows[16][8];
  for (int i = threadIdx.x; i < 256; i += 32) a_rows[i / 16][i % 16] = a[i];
  for (int i = threadIdx.x; i < 128; i += 32) b_rows[i / 8][i % 8] = b[i];
  __syncwarp();
  const int lane = threadIdx.x;
  unsigned a_fragments[4], b_fragments[4];
  load_matrices(a_fragments, &a_rows[lane & 15][lane / 16 * 8]);
  load_matrices_transposed(b_fragments, &b_rows[lane & 15][0]);
  float sums[4];
  for (int i = 0; i < 4; ++i) sums[i] = c[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2];
  multiply_accumulate<T>(sums, a_fragments, b_fragments[0], b_fragments[1]);
  for (int i = 0; i < 4; ++i) c[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sums[i];
}
"""


@can_emulate
@pytest.mark.parametrize("schedule", SCHEDULES[:3])
@pytest.mark.parametrize("is_transposed", [False, True])
def test_fragments_of_matrices(schedule: Schedule, is_transposed: bool) -> None:
    matrices = np.arange(256, dtype=np.uint16).reshape(4, 8, 8) * 251
    fragments = np.zeros((32, 4), np.uint32)
    run(MATRICES, f"fragments_of<{str(is_transposed).lower()}>", [matrices, fragments], schedule=schedule)
    rows = np.ascontiguousarray(matrices.swapaxes(1, 2) if is_transposed else matrices)
    np.testing.assert_array_equal(fragments, rows.view(np.uint32).reshape(4, 32).T)


@can_emulate
@EVERY_HALF_TYPE
def test_product_of_fragments(c_type: str, dtype: np.dtype) -> None:
    random = np.random.default_rng(0)
    for schedule in SCHEDULES[:3]:
        a, b = (random.normal(size=shape).astype(dtype) for shape in ((16, 16), (16, 8)))
        c = random.normal(size=(16, 8)).astype(np.float32)
        expected = c + a.astype(np.float64) @ b.astype(np.float64)
        run(MATRICES, f"product<{c_type}>", [a, b, c], schedule=schedule)
        np.testing.assert_allclose(c, expected, atol=1e-5)  # 16 products of order one, added in float32


CONVERSIONS = """
template <class T>
__global__ void convert(const float* numbers, T* rounded, float* widened, unsigned* packed, float* unpacked) {
  const int i = blockIdx.x * 64 + 2 * threadIdx.x;
  for (int j = 0; j < 2; ++j) {
    rounded[i + j] = from_wide<T>(numbers[i + j]);
    widened[i + j] = to_wide(rounded[i + j]);
  }
  packed[i / 2] = pack2<T>(numbers[i], numbers[i + 1]);
  const float2 pair = unpack2<T>(packed[i / 2]);
  unpacked[i] = pair.x;
  unpacked[i + 1] = pair.y;
}
__global__ void convert_plain(const float* number, const double* wide_number, double* result) {
  *result = from_wide<double>(to_wide(*wide_number)) + from_wide<float>(to_wide(*number));
}
__global__ void powers_of_2(const float* exponents, float* powers) {
  powers[threadIdx.x] = exp2_approximate(exponents[threadIdx.x]);
}
"""


def check_conversions(numbers: np.ndarray, c_type: str, dtype: np.dtype) -> None:
    """Of a multiple of 64 numbers."""
    rounded, packed = np.zeros(numbers.size, dtype), np.zeros(numbers.size // 2, np.uint32)
    widened, unpacked = np.zeros_like(numbers), np.zeros_like(numbers)
    arguments = [numbers, rounded, widened, packed, unpacked]
    run(CONVERSIONS, f"convert<{c_type}>", arguments, (numbers.size // 64,))
    with np.errstate(over="ignore", invalid="ignore"):
        expected = numbers.astype(dtype)
    is_number = ~np.isnan(numbers)
    for result in (rounded, packed.view(dtype)):
        np.testing.assert_array_equal(result.view(np.uint16)[is_number], expected.view(np.uint16)[is_number])
        assert np.isnan(result.astype(np.float32)[~is_number]).all()
    for result in (widened, unpacked):
        np.testing.assert_array_equal(result, expected.astype(np.float32))


@can_emulate
@EVERY_HALF_TYPE
def test_every_16_bit_value_and_every_tie_between_two(c_type: str, dtype: np.dtype) -> None:
    """Subnormals, infinities and what is no number among them."""
    with np.errstate(over="ignore", invalid="ignore"):
        values = np.arange(2**16, dtype=np.uint16).view(dtype).astype(np.float64)
        following = np.append(values[1:], np.nan)
        ties = (values + following) / 2
        numbers = np.concatenate([values, ties]).astype(np.float32)
    check_conversions(numbers, c_type, dtype)


@can_emulate
@EVERY_HALF_TYPE
@given(bits=arrays(np.uint32, 64))
def test_any_number_is_rounded_to_nearest_even(c_type: str, dtype: np.dtype, bits: np.ndarray) -> None:
    check_conversions(bits.view(np.float32), c_type, dtype)


@can_emulate
def test_wide_types_stay_what_they_are() -> None:
    result = np.zeros(1)
    run(CONVERSIONS, "convert_plain", [np.full(1, 1 / 3, np.float32), np.full(1, 1 / 3), result], block=(1,))
    assert result[0] == 1 / 3 + float(np.float32(1 / 3))


@can_emulate
def test_powers_of_2() -> None:
    exponents = np.concatenate([np.linspace(-130, 127, 124), [-np.inf, np.inf, 0, -126]]).astype(np.float32)
    powers = np.full(128, np.nan, np.float32)
    run(CONVERSIONS, "powers_of_2", [exponents, powers], block=(128,))
    expected = np.where(exponents < -126, 0, np.exp2(exponents.astype(np.float64)))
    np.testing.assert_allclose(powers, expected, rtol=2**-22)  # what PTX promises of ex2.approx.ftz.f32


ATOMICS = """
template <class T>
__global__ void gather(const T* numbers, T* sum, T* least, T* most) {
  const T number = numbers[blockIdx.x * blockDim.x + threadIdx.x];
  atomicAdd(sum, number);
  atomicMin(least, number);
  atomicMax(most, number);
}
__global__ void count(float* counts) { counts[blockIdx.x * blockDim.x + threadIdx.x] = atomicAdd(&counts[0], 1.f); }
__global__ void compare(const float* a, const float* b, float* results) {
  results[0] = min(a[0], b[0]);
  results[1] = max(a[0], b[0]);
  results[2] = min(-3, 2) + max(2ll, 7ll);
  results[3] = rsqrtf(a[1]) + static_cast<float>(rsqrt(4.)) + __popc(0xf0f0u);
}
"""


@can_emulate
@pytest.mark.parametrize(("c_type", "dtype"), [("int", np.int32), ("unsigned", np.uint32)])
def test_atomic_functions(c_type: str, dtype: Any) -> None:
    numbers = np.random.default_rng(0).integers(0, 1000, 200).astype(dtype)
    if dtype is np.int32:
        numbers -= 500
    sums = [np.array([start], dtype) for start in (7, 100, 100)]
    run(ATOMICS, f"gather<{c_type}>", [numbers, *sums], (2,), (100,), SCHEDULES[1])
    assert [int(each[0]) for each in sums] == [7 + numbers.sum(), min(100, numbers.min()), max(100, numbers.max())]


@can_emulate
def test_an_atomic_function_gives_the_old_value() -> None:
    counts = np.full(65, 0, np.float32)
    run(ATOMICS, "count", [counts[:64]], (2,), (32,), SCHEDULES[2])
    assert sorted(counts[1:64]) == sorted(set(counts[1:64]))
    assert counts[64] == 0


@can_emulate
def test_comparisons_prefer_numbers() -> None:
    results = np.zeros(4, np.float32)
    run(ATOMICS, "compare", [np.array([np.nan, 4], np.float32), np.array([2], np.float32), results], block=(1,))
    np.testing.assert_array_equal(results, [2, 2, 4, 9])


UNWRITTEN = """
template <class T>
__global__ void read_first(T* fixed, T* dynamic) {
  extern __shared__ __align__(128) unsigned char shared_memory[];
  __shared__ T row[64];
  T* dynamic_row = reinterpret_cast<T*>(shared_memory);
  const int i = blockIdx.x * 64 + threadIdx.x;
  fixed[i] = row[threadIdx.x];
  dynamic[i] = dynamic_row[threadIdx.x];
  row[threadIdx.x] = dynamic_row[threadIdx.x] = from_wide<T>(1);
}
"""


@can_emulate
@pytest.mark.parametrize(
    ("c_type", "dtype"), [("double", np.float64), ("float", np.float32), ("__nv_bfloat16", ml_dtypes.bfloat16)]
)
def test_shared_memory_begins_as_nan_in_every_block(c_type: str, dtype: Any) -> None:
    fixed, dynamic = np.zeros(192, dtype), np.zeros(192, dtype)
    run(UNWRITTEN, f"read_first<{c_type}>", [fixed, dynamic], (3,), (64,), shared_memory=64 * fixed.itemsize)
    assert np.isnan(fixed.astype(np.float32)).all()
    assert np.isnan(dynamic.astype(np.float32)).all()


SCALE = """
__global__ void scale(const float* numbers, float* scaled, const __half* half, float factor, long long size,
                      bool adds) {
  const long long i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < size) scaled[i] = numbers[i] * factor + (half ? to_wide(half[i]) : 0) + adds;
}
"""
NUMBERS = np.arange(40, dtype=np.float32)
NUMBERS.flags.writeable = False
HALF = np.arange(40, dtype=np.float16)


def scale_arguments(**changes: Any) -> list[Any]:
    arguments = {
        "numbers": NUMBERS,
        "scaled": np.zeros(40, np.float32),
        "half": HALF,
        "factor": np.float32(2),
        "size": np.int64(40),
        "adds": np.bool_(True),
    }
    return list({**arguments, **changes}.values())


@can_emulate
def test_arguments_are_passed_as_they_are() -> None:
    gpu = small_gpu(SCALE)
    assert isinstance(gpu, Gpu)
    for half, expected in ((HALF, 3 * NUMBERS + 1), (None, 2 * NUMBERS + 1), (HALF[:0], None)):
        arguments = scale_arguments(half=half, size=np.int64(0 if expected is None else 40))
        gpu.launch(small_kernel("scale"), LaunchShape((2,), (32,)), arguments)
        np.testing.assert_array_equal(arguments[1], 0 if expected is None else expected)
    assert gpu.launches == [small_kernel("scale")] * 3


@can_emulate
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"factor": np.float64(2)}, "argument 4 is a scalar of float64, its parameter float32"),
        ({"factor": np.int32(2)}, "argument 4 is a scalar of int32, its parameter float32"),
        ({"size": np.int32(2)}, "argument 5 is a scalar of int32, its parameter int64"),
        ({"size": np.uint64(2)}, "argument 5 is a scalar of uint64, its parameter int64"),
        ({"size": np.array(2)}, "argument 5 is an array of int64, its parameter int64"),
        ({"factor": None}, "argument 4 is None, a null pointer, its parameter float32"),
        ({"numbers": np.float32(2)}, r"argument 1 is a scalar of float32, its parameter const float32\*"),
        ({"numbers": np.zeros(40)}, r"argument 1 is an array of float64, its parameter const float32\*"),
        (
            {"half": np.zeros(40, ml_dtypes.bfloat16)},
            r"argument 3 is an array of bfloat16, its parameter const float16\*",
        ),
        ({"scaled": NUMBERS}, r"argument 2 is a read-only array of float32, its parameter float32\*"),
        ({"more": NUMBERS}, "has 6 parameters, but 7 arguments came"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RuntimeError, match=f"^scale of small.cu.*{message}"):
        run(SCALE, "scale", scale_arguments(**changes), (2,))


@can_emulate
@pytest.mark.parametrize("number", [2.0, 2, True, "2", [2]])
def test_python_values_are_refused(number: Any) -> None:
    with pytest.raises(TypeError, match="cannot be passed to a kernel"):
        run(SCALE, "scale", scale_arguments(factor=number), (2,))


@can_emulate
@pytest.mark.parametrize(
    ("grid", "block", "shared_memory", "message"),
    [
        ((0,), (32,), 0, "a grid of"),
        ((1, 0), (32,), 0, "a grid of"),
        ((), (32,), 0, "a grid of"),
        ((1, 1, 1, 1), (32,), 0, "a grid of"),
        ((2**31,), (32,), 0, "a grid of"),
        ((1, 65536), (32,), 0, "a grid of"),
        ((1, 1, 65536), (32,), 0, "a grid of"),
        ((1,), (0,), 0, "a block of"),
        ((1,), (1025,), 0, "a block of"),
        ((1,), (1, 1, 65), 0, "a block of"),
        ((1,), (64, 32), 0, "2048 threads; a block has 1024 at most"),
        ((1,), (32,), 227 * 1024 + 1, "232449 bytes of dynamic and 0 of static shared memory"),
    ],
)
def test_impossible_sizes_are_refused(grid: Any, block: Any, shared_memory: int, message: str) -> None:
    with pytest.raises(RuntimeError, match=f"^scale of small.cu: {message}"):
        run(SCALE, "scale", scale_arguments(), grid, block, shared_memory=shared_memory)


@can_emulate
def test_an_edit_changes_the_kernel_and_nothing_else() -> None:
    seen = []

    def edit(source: str) -> str:
        seen.append(source)
        return source.replace("* factor", "- factor")

    arguments = scale_arguments(half=None)
    run(SCALE, "scale", arguments, (2,), edit=edit)
    np.testing.assert_array_equal(arguments[1], NUMBERS - 1)
    assert "__half" in seen[0]
    assert "to_wide(__half" not in seen[0]  # primitives.cuh is not there to be edited


@can_emulate
def test_a_source_that_does_not_compile_is_an_error() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)cannot build broken of small.cu.*small.cu:2.*nonsense"):
        run("__global__ void broken() { nonsense(); }", "broken", [])


@can_emulate
def test_a_kernel_outside_of_the_catalogue_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"add_norm<int, 3> of norms.cu is not in the catalogue"):
        EmulatedGpu().launch(Kernel("norms.cu", "add_norm<int, 3>"), LaunchShape((1,), (32,)), [])


def test_only_two_arrivals() -> None:
    with pytest.raises(ValueError, match="'late' or 'early', not 'soon'"):
        EmulatedGpu(Schedule(0, "soon"))


def test_matrix_products_sum_in_float32_at_least() -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(size=(5, 300)), random.normal(size=(7, 300)).T
    gpu = EmulatedGpu()
    for dtype in (np.float64, np.float32):
        np.testing.assert_array_equal(gpu.matmul(a.astype(dtype), b.astype(dtype)), a.astype(dtype) @ b.astype(dtype))
    for half in (np.float16, ml_dtypes.bfloat16):
        product = gpu.matmul(a.astype(half), b.astype(half))
        assert product.dtype == half
        exact = a.astype(half).astype(np.float32) @ b.astype(half).astype(np.float32)
        np.testing.assert_array_equal(product, exact.astype(half))
    with pytest.raises(RuntimeError, match="one type"):
        gpu.matmul(a, b.astype(np.float32))


SANITIZED = """
__global__ void fill(float* numbers, int size) {
  __shared__ float row[64];
  extern __shared__ __align__(128) unsigned char shared_memory[];
  float* dynamic_row = reinterpret_cast<float*>(shared_memory);
  row[threadIdx.x] = 1;
  __syncthreads();
  dynamic_row[threadIdx.x] = row[threadIdx.x];
  __syncthreads();
  if (threadIdx.x < size)
    numbers[threadIdx.x] = dynamic_row[threadIdx.x ^ 1];
}
"""


def sanitized(arguments: str) -> subprocess.CompletedProcess[str]:
    return run_sanitized(f"""
import numpy as np
from tests.cuda_emulator import EmulatedGpu
from xlmr_np.ops.cuda.kernels import Kernel, LaunchShape

def fill(threads, size, shared_memory):
    numbers = np.empty(400, np.float32)[-40:]  # NumPy itself keeps memory of less than 1 KiB
    gpu.launch(Kernel("small.cu", "fill"), LaunchShape((1,), (threads,), shared_memory), (numbers, np.int32(size)))
    return (numbers == 1).sum()

gpu = EmulatedGpu(sanitize=True, sources={{"small.cu": {SANITIZED!r}}})
for size in (40, 39):
    print(fill(64, size, 256))
print(np.isnan(np.empty(600, np.float16)).all(), flush=True)
fill({arguments})
""")


@can_emulate
@pytest.mark.parametrize(
    ("threads", "size", "shared_memory", "parts"),
    [
        (64, 41, 256, ["heap-buffer-overflow", "WRITE of size 4", "in fill", "small.cu:11"]),
        (64, 40, 252, ["use-after-poison", "WRITE of size 4", "in fill", "small.cu:8"]),
        (65, 40, 512, ["RuntimeError", "small.cu:6 uses index 64 of an array, which is outside of it"]),
    ],
    ids=["global", "dynamic", "static"],
)
def test_the_sanitizer_finds_accesses_outside_of_arrays(
    threads: int, size: int, shared_memory: int, parts: list[str]
) -> None:
    done = sanitized(f"{threads}, {size}, {shared_memory}")
    assert done.stdout == "40\n39\nTrue\n", done.stderr  # memory that nobody has written is NaN there
    assert done.returncode != 0
    place = 0
    for part in parts:
        place = done.stderr.find(part, place)
        assert place >= 0, (part, done.stderr)


PARALLEL_BUILD = """
import numpy as np
from tests.cuda_emulator import EmulatedGpu
from xlmr_np.ops.cuda.kernels import Kernel, LaunchShape
gpu = EmulatedGpu(sources={"small.cu": "__global__ void fill(float* numbers) { numbers[threadIdx.x] = 1; }"})
numbers = np.zeros(32, np.float32)
gpu.launch(Kernel("small.cu", "fill"), LaunchShape((1,), (32,)), [numbers])
assert numbers.all()
"""


@can_emulate
def test_processes_that_build_the_same_do_not_disturb_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    root = Path(__file__).parents[2]
    processes = [subprocess.Popen([sys.executable, "-c", PARALLEL_BUILD], cwd=root) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    (folder,) = tmp_path.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert sorted(path.suffix for path in folder.iterdir()) == [".gch", ".h", ".so"]


@can_emulate
def test_what_has_been_built_is_not_built_again(monkeypatch: pytest.MonkeyPatch) -> None:
    run(SCALE, "scale", scale_arguments(), (2,))
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("built again"))
    arguments = scale_arguments()
    run(SCALE, "scale", arguments, (2,))
    assert arguments[1].any()


@can_emulate
def test_libraries_that_others_could_change_are_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    run(SCALE, "scale", scale_arguments(), (2,))
    (folder,) = tmp_path.iterdir()
    folder.chmod(0o777)
    with pytest.raises(RuntimeError, match="is not a folder for this user alone; remove it"):
        run(SCALE, "scale", scale_arguments(), (2,))


def test_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    for version, reason in (
        ("12", None),
        ("13.2.0", None),
        ("11.4.0", "builds kernels by g++ 12 or later, not 11.4.0"),
    ):
        done = subprocess.CompletedProcess([], 0, f"{version}\n")
        monkeypatch.setattr(subprocess, "run", lambda *_, done=done, **__: done)
        assert why_not() == (reason and f"the CUDA emulator {reason}")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert why_not() == "the CUDA emulator builds kernels by g++, which is not installed"
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert why_not() == "the CUDA emulator runs on Linux on x86-64, not on linux on aarch64"
