"""A training step, ours and transformers': `python -m tests.benchmarks.training_step`.

Random weights of XLM-R base's shape, float32, 8 sentences of 128 tokens: loss and all gradients, for sequence
classification and for masked language modelling with 15 % of the tokens to predict; plain, with dropout, with layers
run again in the backward pass, and whole, that is with dropout, clipping, schedule and AdamW, which updates the
parameters. Each engine runs in a process of its own, in turn: one step to warm up, then the steps that count. Prints a
Markdown table of the median step and of the whole process's peak memory, with ratios.
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
generator = np.random.default_rng(0) if way in ("dropout", "whole") else None
if way == "whole":
    from xlmr_np.training.trainer import AdamWSetting, Trainer, TrainingSetting
    trainer = Trainer(model, TrainingSetting(100, 5e-5, warmup=2, adamw=AdamWSetting(weight_decay=0.01)), generator)
def step():
    if way == "whole":
        return trainer.step({"input_ids": ids, "labels": labels}).loss
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
model = getattr(transformers, class_name).from_pretrained(source).train(way in ("dropout", "whole"))
if way == "checkpointed layers":
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.gradient_checkpointing_enable()
batch = {"input_ids": torch.asarray(ids), "labels": torch.asarray(labels)}
if way == "whole":
    decayed = {name for name, _ in model.named_parameters() if "LayerNorm" not in name and "bias" not in name}
    groups = [
        {"params": [each for name, each in model.named_parameters() if (name in decayed) is is_decayed],
         "weight_decay": 0.01 if is_decayed else 0.0}
        for is_decayed in (True, False)
    ]
    optimizer = torch.optim.AdamW(groups, lr=5e-5, fused=True)  # as transformers' trainer makes it
    schedule = transformers.get_scheduler("linear", optimizer, 2, 100)
def step():
    model.zero_grad(set_to_none=True)
    loss = model(**batch).loss
    loss.backward()
    if way == "whole":
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return float(loss)
measure(step)
"""
)
WAYS = ("plain", "dropout", "checkpointed layers", "whole")
CLASSES = ("XLMRobertaForSequenceClassification", "XLMRobertaForMaskedLM")


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--classes", nargs="+", choices=CLASSES, default=CLASSES)
    options = parser.parse_args()
    config = copy.deepcopy(XLM_ROBERTA_BASE)
    config.num_labels = 3
    print(f"| {options.rounds} rounds in turn, median (range) | seconds a step | peak memory, GB | ratios |")
    print("|---|---|---|---|")
    for class_name in options.classes:
        with tempfile.TemporaryDirectory() as source:
            model = getattr(model_classes, class_name)(config, generator=np.random.default_rng(0))
            model.save_pretrained(source)
            del model
            for way in options.ways:
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
    if way not in ("dropout", "whole") and abs(ours - theirs) > 1e-3 * abs(theirs):
        sys.exit(f"The losses of {class_name} differ: {losses}")
    task = class_name.removeprefix("XLMRobertaFor")
    for engine in engines:
        ratio, peak_ratio = (
            statistics.median(measured[engine]) / statistics.median(measured["transformers"])
            for measured in (seconds, peaks)
        )
        print(
            f"| {task}, {way}, {engine} | {median(seconds[engine])} | {median(peaks[engine])} | {ratio:.2f}, "
            f"{peak_ratio:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
