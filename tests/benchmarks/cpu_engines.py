"""The engines that `tests.benchmarks.cpu` compares, and the process in which one of them waits for work.

`python -m tests.benchmarks.cpu_engines ENGINE TASK DIRECTORY` reads commands from standard input, a JSON object a line,
and answers each with a line of JSON. The directory holds the checkpoint, what was exported from it, and the sentences
of every workload. TASK is "prepare" (make the engine's files there, and end), "encode" or "train".
"""

import copy
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.benchmarks.bar_chart import Series
from tests.benchmarks.cpu_workloads import PEERS_BATCH, WORKLOADS, Batch, batches
from xlmr_np import XLM_ROBERTA_BASE

THREADS = 2
CHECKPOINT, ONNX, OPENVINO = "checkpoint", "model.onnx", "openvino.xml"
SENTENCES = "sentences-{}.npz"

Encode = Callable[[np.ndarray, np.ndarray], Any]  # (ids, mask), each [B, T] -> last hidden states, [B, T, D]
Step = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[float, list[np.ndarray]]]  # ... labels -> loss, gradients


class Engine(NamedTuple):
    """One way to run the model.

    Attributes:
        series: its name and colours in the chart.
        modules: that must be installed.
        encoder: loads the bare encoder from the directory.
        trainer: loads the classifier of sentences, if the engine can train.
        prepare: makes the engine's files in the directory; engines may share it.
        packs: whether it takes the corpus in one call, and not sorted by length in small batches.
        tolerance: how far its hidden states may be from the float32 ones of another engine; None: it makes none.
    """

    series: Series
    modules: tuple[str, ...]
    encoder: Callable[[Path], Encode]
    trainer: Callable[[Path], Step] | None = None
    prepare: Callable[[Path], None] | None = None
    packs: bool = False
    tolerance: float | None = 1e-3


def save_checkpoint(directory: Path) -> None:
    """A classifier of XLM-R base's shape with random weights, the same in every run."""
    from xlmr_np import XLMRobertaForSequenceClassification

    config = copy.deepcopy(XLM_ROBERTA_BASE)
    config.num_labels = 3
    model = XLMRobertaForSequenceClassification(config, generator=np.random.default_rng(0))
    model.save_pretrained(directory / CHECKPOINT)


def xlmr_np_encoder(directory: Path) -> Encode:
    from xlmr_np import XLMRobertaModel

    model = XLMRobertaModel.from_pretrained(directory / CHECKPOINT)
    return lambda ids, mask: model(input_ids=ids, attention_mask=mask).last_hidden_state


def xlmr_np_trainer(directory: Path) -> Step:
    from xlmr_np import XLMRobertaForSequenceClassification, trees
    from xlmr_np.row_sparse import RowSparse

    model = XLMRobertaForSequenceClassification.from_pretrained(directory / CHECKPOINT)

    def step(ids: np.ndarray, mask: np.ndarray, labels: np.ndarray) -> tuple[float, list[np.ndarray]]:
        output, gradients = model.loss_and_gradients(input_ids=ids, attention_mask=mask, labels=labels)
        arrays = [leaf.rows if isinstance(leaf, RowSparse) else leaf for leaf in trees.leaves(gradients)]
        return float(output.loss), arrays

    return step


def transformers_model(directory: Path, class_name: str, **settings: Any) -> Any:
    import torch
    import transformers

    torch.set_num_threads(THREADS)
    return getattr(transformers, class_name).from_pretrained(directory / CHECKPOINT, **settings).eval()


def transformers_encoder(directory: Path, dtype: str) -> Encode:
    import torch

    model = transformers_model(
        directory, "XLMRobertaModel", add_pooling_layer=False, attn_implementation="sdpa", dtype=dtype
    )

    @torch.inference_mode()
    def encode(ids: np.ndarray, mask: np.ndarray) -> Any:
        return model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).last_hidden_state

    return encode


def transformers_float32(directory: Path) -> Encode:
    return transformers_encoder(directory, "float32")


def transformers_bfloat16(directory: Path) -> Encode:
    return transformers_encoder(directory, "bfloat16")


def transformers_trainer(directory: Path) -> Step:
    import torch

    model = transformers_model(directory, "XLMRobertaForSequenceClassification", attn_implementation="sdpa")

    def step(ids: np.ndarray, mask: np.ndarray, labels: np.ndarray) -> tuple[float, list[np.ndarray]]:
        model.zero_grad(set_to_none=True)
        arrays = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        loss = model(**{name: torch.from_numpy(array) for name, array in arrays.items()}).loss
        loss.backward()
        return float(loss), [parameter.grad.numpy() for parameter in model.parameters()]

    return step


def exportable(directory: Path, attn_implementation: str) -> tuple[Any, tuple[Any, Any]]:
    """A torch module from (input_ids, attention_mask) to the last hidden states, and an example of its inputs."""
    import torch

    model = transformers_model(
        directory, "XLMRobertaModel", add_pooling_layer=False, attn_implementation=attn_implementation
    )

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    ids = torch.randint(5, 250_000, (2, 8))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0  # so that the mask is not traced away
    return Encoder(), (ids, mask)


def export_onnx(directory: Path) -> None:
    import torch

    # ONNX Runtime is faster with the eager graph than with SDPA's: by a fifth at 512 tokens.
    model, example = exportable(directory, "eager")
    names = ["input_ids", "attention_mask", "last_hidden_state"]
    torch.onnx.export(
        model,
        example,
        directory / ONNX,
        input_names=names[:2],
        output_names=names[2:],
        dynamic_axes={name: {0: "batch", 1: "tokens"} for name in names},
        dynamo=False,
    )


def onnxruntime_encoder(directory: Path) -> Encode:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(directory / ONNX, options, providers=["CPUExecutionProvider"])
    return lambda ids, mask: session.run(None, {"input_ids": ids, "attention_mask": mask})[0]


def export_openvino(directory: Path) -> None:
    import openvino

    model, (ids, mask) = exportable(directory, "sdpa")
    converted = openvino.convert_model(model, example_input={"input_ids": ids, "attention_mask": mask})
    openvino.save_model(converted, directory / OPENVINO, compress_to_fp16=False)


def openvino_encoder(directory: Path, precision: str) -> Encode:
    import openvino

    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": THREADS,
        "INFERENCE_PRECISION_HINT": precision,
    }
    request = openvino.Core().compile_model(directory / OPENVINO, "CPU", settings).create_infer_request()
    return lambda ids, mask: request.infer(
        {"input_ids": ids, "attention_mask": mask}, share_inputs=True, share_outputs=True
    )[0]


def openvino_float32(directory: Path) -> Encode:
    return openvino_encoder(directory, "f32")


def openvino_bfloat16(directory: Path) -> Encode:
    return openvino_encoder(directory, "bf16")


class BareProducts:
    """Nothing but the products of the encoder's 48 weight matrices with as many rows as there are real tokens.

    Each shape is multiplied in the faster of two ways: rows @ weight.T, or weight @ columns.
    """

    def __init__(self, directory: Path) -> None:
        config = XLM_ROBERTA_BASE
        width, inner = config.hidden_size, config.intermediate_size
        self.random = np.random.default_rng(0)
        self.widest = inner
        shapes = [(3 * width, width), (width, width), (inner, width), (width, inner)]  # query, key and value are one
        self.layers = [
            [self.random.standard_normal(shape, dtype=np.float32) for shape in shapes]
            for _ in range(config.num_hidden_layers)
        ]
        self.tokens = 0

    def __call__(self, ids: np.ndarray, mask: np.ndarray) -> None:
        tokens = int(mask.sum())
        if tokens != self.tokens:
            self._prepare(tokens)
        for layer in self.layers:
            for weight, by_rows in zip(layer, self.by_rows, strict=True):
                self._multiply(weight, by_rows)

    def _prepare(self, tokens: int) -> None:
        """Make room for so many rows, and find the faster way for each shape."""
        self.tokens = tokens
        self.given = self.random.standard_normal(tokens * self.widest, dtype=np.float32)
        self.result = np.zeros_like(self.given)
        places = range(len(self.layers[0]))
        self.by_rows = [self._seconds(place, True) < self._seconds(place, False) for place in places]

    def _seconds(self, place: int, by_rows: bool) -> float:
        """How long one of the shapes takes in all layers."""
        self._multiply(self.layers[0][place], by_rows)
        start = time.perf_counter()
        for layer in self.layers:
            self._multiply(layer[place], by_rows)
        return time.perf_counter() - start

    def _multiply(self, weight: np.ndarray, by_rows: bool) -> None:
        outputs, inputs = weight.shape
        x, y = self.given[: self.tokens * inputs], self.result[: self.tokens * outputs]
        if by_rows:
            np.matmul(x.reshape(self.tokens, inputs), weight.T, out=y.reshape(self.tokens, outputs))
        else:
            np.matmul(weight, x.reshape(inputs, self.tokens), out=y.reshape(outputs, self.tokens))


OURS, BASELINE, BARE = "xlmr-np", "transformers", "numpy.matmul"
ENGINES = {
    OURS: Engine(
        Series("xlmr-np", "#1f6feb", "#4493f8"), (), xlmr_np_encoder, xlmr_np_trainer, save_checkpoint, packs=True
    ),
    BASELINE: Engine(
        Series("transformers float32", "#bf5b04", "#e38b32"),
        ("torch", "transformers"),
        transformers_float32,
        transformers_trainer,
    ),
    "transformers-bfloat16": Engine(
        Series("transformers bfloat16", "#e0a46c", "#96602a"),
        ("torch", "transformers"),
        transformers_bfloat16,
        tolerance=0.25,
    ),
    "onnxruntime": Engine(
        Series("ONNX Runtime float32", "#2b8a3e", "#46a758"),
        ("torch", "transformers", "onnx", "onnxruntime"),
        onnxruntime_encoder,
        prepare=export_onnx,
    ),
    "openvino": Engine(
        Series("OpenVINO float32", "#7747c9", "#a98bf0"),
        ("torch", "transformers", "openvino"),
        openvino_float32,
        prepare=export_openvino,
    ),
    "openvino-bfloat16": Engine(
        Series("OpenVINO bfloat16", "#bda4e6", "#6c54a3"),
        ("torch", "transformers", "openvino"),
        openvino_bfloat16,
        prepare=export_openvino,
        tolerance=0.25,
    ),
    # Not an engine, but what remains of one when all but the matrix products are left out.
    BARE: Engine(Series("numpy.matmul alone", "#6e7781", "#8b949e"), (), BareProducts, packs=True, tolerance=None),
}


class Work(NamedTuple):
    """A workload as one engine does it."""

    run: Callable[[], Any]  # this is timed
    answers: Callable[[], np.ndarray]  # the same once more, for comparison with other engines


def encoding(encode: Encode, given: list[Batch]) -> Work:
    """Run the encoder over batches; the answers are the hidden states of all real tokens, sentence by sentence."""

    def run() -> None:
        for batch in given:
            encode(batch.ids, batch.mask)

    def answers() -> np.ndarray:
        rows = {}
        for batch in given:
            output = encode(batch.ids, batch.mask)
            hidden = np.asarray(output.float() if hasattr(output, "float") else output)  # NumPy has no bfloat16
            for number, is_real, sentence in zip(batch.numbers, batch.mask == 1, hidden, strict=True):
                rows[number] = sentence[is_real]
        return np.concatenate([rows[number] for number in sorted(rows)])

    return Work(run, answers)


def training(step: Step, batch: Batch) -> Work:
    """A step; the answers are the loss and the length of the gradient of all parameters."""
    labels = np.random.default_rng(0).integers(0, 3, len(batch.ids))

    def answers() -> np.ndarray:
        loss, gradients = step(batch.ids, batch.mask, labels)
        return np.array([loss, np.sqrt(sum(float(np.vdot(part, part)) for part in gradients))])

    return Work(lambda: step(batch.ids, batch.mask, labels), answers)


def peak_memory() -> int:
    """The most memory that this process has held since the peak was reset, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) * 1024


def commands() -> Iterator[dict[str, Any]]:
    """What the parent asks for, until it closes the pipe."""
    for line in sys.stdin:
        yield json.loads(line)


def serve(engine: Engine, task: str, directory: Path) -> None:
    """Load the engine, then do what the parent asks for.

    A command names a `workload`. With `answers`, a file to write them to, the workload is run for them alone, which
    also warms the engine up; with `repetitions` it is timed so many times. Every answer tells the processor time that
    it took, too, so that the parent sees what anything else took.
    """
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is not an answer
    if task == "encode":
        encode = engine.encoder(directory)
    else:
        assert engine.trainer is not None
        step = engine.trainer(directory)
    print(json.dumps({"peak": peak_memory()}), file=replies)

    name, work = "", None
    for command in commands():
        before = time.process_time()
        if command["workload"] != name:
            name, work = command["workload"], None  # the work before it is given up first
            Path("/proc/self/clear_refs").write_text("5")  # resets the peak
            is_in_small_batches = not WORKLOADS[name].lengths and not engine.packs
            with np.load(directory / SENTENCES.format(name)) as stored:
                given = np.split(stored["ids"], np.cumsum(stored["lengths"])[:-1])
            parts = batches(given, PEERS_BATCH if is_in_small_batches else None)
            work = encoding(encode, parts) if task == "encode" else training(step, parts[0])
        assert work is not None
        seconds = []
        if engine.tolerance is None and command["answers"]:
            work.run()
        elif command["answers"]:
            np.save(command["answers"], work.answers())
        for _ in range(command["repetitions"]):
            start = time.perf_counter()
            work.run()
            seconds.append(time.perf_counter() - start)
        used = time.process_time() - before
        print(json.dumps({"seconds": seconds, "peak": peak_memory(), "processor_time": used}), file=replies)


def main() -> None:
    """See the module."""
    name, task, path = sys.argv[1:]
    engine, directory = ENGINES[name], Path(path)
    if task == "prepare":
        assert engine.prepare is not None
        engine.prepare(directory)
    else:
        serve(engine, task, directory)


if __name__ == "__main__":
    main()
