"""One training step without the optimiser, ours and transformers': `python -m tests.benchmarks.training_step`.

Random weights of XLM-R base's shape, float32, 8 sentences of 128 tokens: loss and all gradients, for sequence
classification and for masked language modelling with 15 % of the tokens to predict; plain, with dropout, and with
layers run again in the backward pass. Each engine runs in a process of its own, in turn: one step to warm up, then the
steps that count. Prints a Markdown table of the median step and of the whole process's peak memory.
"""

import argparse
import copy
import json
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

from tests.benchmarks.processes import median, run
from xlmr_np import XLM_ROBERTA_BASE
from xlmr_np import models as model_classes

STEPS = 3
BATCH = """
import json, sys, time
import numpy as np
source, class_name, way = sys.argv[1:]
random = np.random.default_rng(0)
ids = random.integers(5, 250_000, (8, 128))
ids[:, 0], ids[:, -1] = 0, 2
if class_name.endswith("MaskedLM"):
    labels = np.where(random.random(ids.shape) < 0.15, ids, -100)
else:
    labels = random.integers(0, 3, 8)
def measure(step):
    seconds = []
    for _ in range(1 + STEPS):
        start = time.perf_counter()
        loss = step()
        seconds.append(time.perf_counter() - start)
    print(json.dumps([loss, *seconds[1:]]))
""".replace("STEPS", str(STEPS))
OURS = (
    BATCH
    + """
import xlmr_np
model = getattr(xlmr_np, class_name).from_pretrained(source)
generator = np.random.default_rng(0) if way == "dropout" else None
def step():
    output, gradients = model.loss_and_gradients(
        generator, input_ids=ids, labels=labels, checkpoint_layers=way == "checkpointed layers"
    )
    return float(output.loss)
measure(step)
"""
)
THEIRS = (
    BATCH
    + """
import torch, transformers
model = getattr(transformers, class_name).from_pretrained(source).train(way == "dropout")
if way == "checkpointed layers":
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.gradient_checkpointing_enable()
batch = {"input_ids": torch.asarray(ids), "labels": torch.asarray(labels)}
def step():
    model.zero_grad(set_to_none=True)
    loss = model(**batch).loss
    loss.backward()
    return float(loss)
measure(step)
"""
)
WAYS = ("plain", "dropout", "checkpointed layers")


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    config = copy.deepcopy(XLM_ROBERTA_BASE)
    config.num_labels = 3
    print(f"| {options.rounds} rounds in turn, median (range) | seconds a step | peak memory, GB | ratio |")
    print("|---|---|---|---|")
    for class_name in ("XLMRobertaForSequenceClassification", "XLMRobertaForMaskedLM"):
        with tempfile.TemporaryDirectory() as source:
            model = getattr(model_classes, class_name)(config, generator=np.random.default_rng(0))
            model.save_pretrained(source)
            del model
            for way in WAYS:
                compare(class_name, way, Path(source), options.rounds)


def compare(class_name: str, way: str, source: Path, rounds: int) -> None:
    """Measure one task in one way, and print a row for each engine."""
    engines = {"xlmr-np": OURS, "transformers": THEIRS}
    seconds: dict[str, list[float]] = {engine: [] for engine in engines}
    peaks: dict[str, list[float]] = {engine: [] for engine in engines}
    losses: dict[str, float] = {}
    for _ in range(rounds):
        for engine, program in engines.items():
            result = run(program, source, class_name, way)
            losses[engine], *steps = json.loads(result.output)
            seconds[engine] += steps
            peaks[engine].append(result.peak / 1e9)
    ours, theirs = losses.values()
    if way != "dropout" and abs(ours - theirs) > 1e-3 * abs(theirs):
        sys.exit(f"The losses of {class_name} differ: {losses}")
    task = class_name.removeprefix("XLMRobertaFor")
    for engine in engines:
        ratio = statistics.median(seconds[engine]) / statistics.median(seconds["transformers"])
        print(
            f"| {task}, {way}, {engine} | {median(seconds[engine])} | {median(peaks[engine])} | {ratio:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
