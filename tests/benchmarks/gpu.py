"""How fast the GPU engine is, beside torch and transformers on the same card: python -m tests.benchmarks.gpu [--json F]

Attention alone, forward and backward, whole encoders of XLM-R's two shapes with random weights, and whole steps of
training. Every figure is the median of runs in
turn, timed by events of the card after warming up. A share is of the rate at which this card multiplies large matrices
of the same type, measured in the same run. Tokens are real ones: padding counts for nothing.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import date
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from tests.benchmarks.gpu_timing import HEADS, WIDTH, seconds, spans_on_card
from tests.benchmarks.gpu_training import BATCH, LENGTH, attention_gradients_alone, training_steps
from tests.gpu.card import why_not
from xlmr_np import XLMRobertaConfig, XLMRobertaModel
from xlmr_np.arrays import to_device
from xlmr_np.config import XLM_ROBERTA_BASE, XLM_ROBERTA_LARGE
from xlmr_np.layers.attention import PackedMask
from xlmr_np.ops.cuda.attention import attention
from xlmr_np.ops.cuda.cupy_gpu import CupyGpu
from xlmr_np.ops.cuda.kernels import Kernel, LaunchShape
from xlmr_np.ops.engines import gpu_engine

SHAPES = {"base": XLM_ROBERTA_BASE, "large": XLM_ROBERTA_LARGE}
DTYPES = ("float16", "bfloat16")
ATTENTION_LENGTHS = (128, 512, 2048, 8192)
ATTENTION_TOKENS = 131072  # of a batch, whatever the length: at 128 a kernel then takes longer than its launch
MATRIX = 8192  # rows and columns of the matrices that give the card's rate


class Workload(NamedTuple):
    """Sentences of an encoder's batch: of equal length, or of random ones whose sum is a share of the rectangle."""

    batch: int
    length: int
    share: float = 1.0

    def __str__(self) -> str:
        ragged = "" if self.share == 1 else f", {self.share:.0%} real"
        return f"{self.batch} x {self.length}{ragged}"

    def lengths(self) -> list[int]:
        if self.share == 1:
            return [self.length] * self.batch
        random = np.random.default_rng(0)
        drawn = random.random(self.batch)
        lengths = np.maximum(4, drawn / drawn.mean() * self.share * self.length).astype(int)
        return np.minimum(lengths, self.length).tolist()


WORKLOADS = (Workload(1, 16), Workload(32, 128), Workload(64, 512), Workload(64, 512, 0.5), Workload(64, 512, 0.25))


class Counting:
    """A GPU that counts the launches of kernels and products of its layers."""

    def __init__(self) -> None:
        self._gpu = CupyGpu()
        self.count = 0

    def launch(self, kernel: Kernel, shape: LaunchShape, arguments: Sequence[Any]) -> None:
        self.count += kernel.file not in ("embeddings.cu", "unpadding.cu")
        self._gpu.launch(kernel, shape, arguments)

    def matmul(self, a: Any, b: Any) -> Any:
        self.count += 1
        return self._gpu.matmul(a, b)


def matrix_rate(dtype: str) -> float:
    """Operations a second of a product of two large matrices."""
    import torch

    a, b = (torch.randn(MATRIX, MATRIX, device="cuda", dtype=getattr(torch, dtype)) for _ in range(2))
    return 2 * MATRIX**3 / seconds({"product": lambda: a @ b})["product"]


def attention_alone(dtype: str, lengths: list[int]) -> dict[str, Any]:
    """Ours and torch's kernels: seconds, and operations a second. Those that know no lengths need equal ones."""
    import cupy
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    packed = [torch.randn(sum(lengths), HEADS, WIDTH, device="cuda", dtype=getattr(torch, dtype)) for _ in range(3)]
    query, key, value = (cupy.from_dlpack(x) for x in packed)
    spans = spans_on_card(lengths)
    gpu, mask = CupyGpu(), PackedMask(spans, spans)

    def by(backend: SDPBackend) -> Callable[[], Any]:
        def run() -> Any:
            with sdpa_kernel(backend):
                return scaled_dot_product_attention(*padded)

        return run

    contestants: dict[str, Callable[[], Any]] = {"xlmr-np": lambda: attention(gpu, query, key, value, mask)}
    if len(set(lengths)) == 1:
        padded = [x.view(len(lengths), -1, HEADS, WIDTH).transpose(1, 2) for x in packed]
        contestants["torch flash"] = by(SDPBackend.FLASH_ATTENTION)
        contestants["torch cuDNN"] = by(SDPBackend.CUDNN_ATTENTION)
        contestants["torch efficient"] = by(SDPBackend.EFFICIENT_ATTENTION)
    with suppress(ImportError):
        from torch.nn.attention.varlen import varlen_attn

        offsets = torch.tensor([0, *np.cumsum(lengths)], device="cuda", dtype=torch.int32)
        contestants["torch varlen"] = lambda: varlen_attn(*packed, offsets, offsets, max(lengths), max(lengths))
    times = seconds(contestants)
    operations = 4 * HEADS * WIDTH * sum(length**2 for length in lengths)
    return {name: {"seconds": time, "rate": operations / time} for name, time in times.items()}


def operations_of(config: XLMRobertaConfig, lengths: list[int]) -> float:
    """Multiplications and additions of all products of the encoder's layers."""
    width, inner = config.hidden_size, config.intermediate_size
    linear = 2 * (4 * width * width + 2 * width * inner) * sum(lengths)
    scores = 4 * width * sum(length**2 for length in lengths)
    return float(config.num_hidden_layers * (linear + scores))


def encoders(name: str, dtype: str, checkpoint: Path, compiles: bool) -> Iterator[tuple[Workload, dict[str, Any]]]:
    """Ours and transformers' on every workload: tokens a second, peak memory, launches of a layer."""
    import cupy
    import torch
    import transformers

    config = SHAPES[name]
    ours = XLMRobertaModel.from_pretrained(checkpoint, device="cuda", dtype=dtype, add_pooling_layer=False)
    counting = Counting()
    theirs = (
        transformers.XLMRobertaModel.from_pretrained(
            checkpoint, dtype=getattr(torch, dtype), attn_implementation="sdpa", add_pooling_layer=False
        )
        .cuda()
        .eval()
    )
    for workload in WORKLOADS:
        lengths = workload.lengths()
        ids = np.full((workload.batch, workload.length), 1)
        for row, length in zip(ids, lengths, strict=True):
            row[:length] = np.random.default_rng(length).integers(4, 250_000, length)
        own = {
            "input_ids": to_device(ids, "cuda:0"),
            "attention_mask": to_device((ids != 1).astype(np.int64), "cuda:0"),
        }
        tensors = {key: torch.from_dlpack(array) for key, array in own.items()}
        if workload.share == 1:
            tensors.pop("attention_mask")

        def run(model: Any, tensors: dict[str, Any] = tensors) -> Any:
            with torch.inference_mode():
                return model(**tensors)

        contestants = {"xlmr-np": lambda own=own: ours(**own), "transformers": lambda: run(theirs)}
        if compiles:
            torch.compiler.reset()  # a second shape would be compiled for all shapes, and slower
            compiled = torch.compile(theirs, dynamic=False)
            contestants["transformers compiled"] = lambda compiled=compiled: run(compiled)
        times = seconds(contestants)
        result: dict[str, Any] = {
            contestant: {"seconds": time, "tokens per second": sum(lengths) / time}
            for contestant, time in times.items()
        }
        if "xlmr-np" in result:
            pool = cupy.get_default_memory_pool()
            pool.free_all_blocks()
            before = pool.used_bytes()
            ours(**own)
            result["xlmr-np"]["peak bytes"] = pool.total_bytes() - before
            engine, counting.count = ours.engine, 0
            ours.engine = gpu_engine(counting)
            ours(**own)
            ours.engine = engine
            result["xlmr-np"]["launches of a layer"] = counting.count / config.num_hidden_layers
        if "transformers" in result:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            run(theirs)
            result["transformers"]["peak bytes"] = torch.cuda.max_memory_allocated() - before
        result["operations"] = operations_of(config, lengths)
        yield workload, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write what has been measured to this file, row by row")
    parser.add_argument("--only", choices=["attention", *SHAPES, "training"], help="measure this part alone")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile, which takes minutes")
    arguments = parser.parse_args()
    reason = why_not()
    if reason is not None:
        parser.error(f"there is nothing to measure: {reason}.")
    import cupy
    import torch
    import transformers

    name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    versions = {
        "xlmr-np": version("xlmr-np"),
        "cupy": cupy.__version__,
        "CUDA": cupy.cuda.runtime.runtimeGetVersion(),
        "driver": cupy.cuda.runtime.driverGetVersion(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    today = date.today().isoformat()
    print(f"{today}, {name}, {', '.join(f'{what} {number}' for what, number in versions.items())}", flush=True)
    rates = {dtype: matrix_rate(dtype) for dtype in DTYPES}
    print("\nProducts of large matrices: " + ", ".join(f"{d} {r / 1e12:.0f} TFLOP/s" for d, r in rates.items()))
    everything: dict[str, Any] = {"date": today, "card": name, "versions": versions, "matrix rates": rates, "rows": {}}

    def report(row: str, found: dict[str, Any], cells: list[str]) -> None:
        everything["rows"][row] = found
        print(f"| {row} | {' | '.join(cells)} |", flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")

    if arguments.only in (None, "attention"):
        print(f"\nAttention alone, {HEADS} heads of width {WIDTH}, TFLOP/s", flush=True)
        for dtype in DTYPES:
            for length in ATTENTION_LENGTHS:
                found = attention_alone(dtype, [length] * (ATTENTION_TOKENS // length))
                report(f"attention, {dtype}, {length}", found, _rates(found))
            for workload in WORKLOADS[-2:]:
                found = attention_alone(dtype, workload.lengths())
                report(f"attention, {dtype}, {workload}", found, _rates(found))
        print("\nIts backward pass, TFLOP/s", flush=True)
        for dtype in DTYPES:
            for length in ATTENTION_LENGTHS[:3]:
                found = attention_gradients_alone(dtype, [length] * (ATTENTION_TOKENS // length))
                report(f"attention backward, {dtype}, {length}", found, _rates(found))

    for shape in SHAPES if arguments.only is None else {arguments.only} & SHAPES.keys():
        print(f"\n{shape}: thousand tokens a second, share of the rate of products, peak memory", flush=True)
        with TemporaryDirectory() as directory:
            _save_random(shape, directory)
            for dtype in DTYPES:
                for workload, found in encoders(shape, dtype, Path(directory), not arguments.no_compile):
                    report(f"{shape}, {dtype}, {workload}", found, _speeds(found, rates[dtype]))

    if arguments.only in (None, "training"):
        print(f"\nTraining, base, {BATCH} x {LENGTH}, bfloat16: milliseconds a step, peak memory", flush=True)
        with TemporaryDirectory() as directory:
            _save_random("base", directory)
            for what, found in training_steps(Path(directory)):
                report(f"{what}, base, bfloat16, {BATCH} x {LENGTH}", found, _steps(found))


def _save_random(shape: str, directory: str) -> None:
    """A checkpoint with random weights."""
    import torch
    import transformers

    SHAPES[shape].save_pretrained(directory)
    torch.manual_seed(0)
    config = transformers.XLMRobertaConfig.from_pretrained(directory)
    transformers.XLMRobertaModel(config, add_pooling_layer=False).half().save_pretrained(directory)


def _steps(found: dict[str, Any]) -> list[str]:
    return [
        f"{contestant} {1e3 * each['seconds']:.1f} ms, {each['peak bytes'] / 2**20:,.0f} MiB"
        for contestant, each in found.items()
    ]


def _rates(found: dict[str, Any]) -> list[str]:
    return [f"{contestant} {each['rate'] / 1e12:.0f}" for contestant, each in found.items()]


def _speeds(found: dict[str, Any], rate: float) -> list[str]:
    cells = []
    for contestant, each in found.items():
        if contestant == "operations":
            continue
        share = found["operations"] / each["seconds"] / rate
        cell = f"{contestant} {each['tokens per second'] / 1e3:,.0f} ({share:.0%})"
        if "peak bytes" in each:
            cell += f", {each['peak bytes'] / 2**20:,.0f} MiB"
        if "launches of a layer" in each:
            cell += f", {each['launches of a layer']:.1f} launches a layer"
        cells.append(cell)
    return cells


if __name__ == "__main__":
    main()
