"""Generating text, ours and transformers': `python -m tests.benchmarks.generation`.

Random weights of the shape of XLM-R base, float32, a prompt of 16 tokens: 64 greedy tokens, and four beams; then 480
tokens, by which the time a token takes is fitted as a line over how many were generated before. The end token is never
taken. Each engine runs in a process of its own, in turn: one generation to warm up, then those that count. The tokens
must be the same, with positions as transformers' `generate()` numbers them. Prints Markdown tables.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

from tests.benchmarks.processes import median, run
from xlmr_np import XLM_ROBERTA_BASE, XLMRobertaForCausalLM

RUNS = 3
TASKS = {"64 tokens, greedy": (64, 1), "64 tokens, 4 beams": (64, 4), "480 tokens, greedy": (480, 1)}
MEASURE = """
import json, sys, time
import numpy as np
source, new_tokens, num_beams = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
ids = np.random.default_rng(0).integers(5, 250_000, (1, 16))
settings = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "num_beams": num_beams}
class Clock:
    def __init__(self):
        self.times = []
    def put(self, ids):
        self.times.append(time.perf_counter())
    def end(self):
        pass
def measure(generate):
    seconds, gaps = [], []
    for _ in range(1 + RUNS):
        clock = None if num_beams > 1 else Clock()
        start = time.perf_counter()
        tokens = generate(clock)
        seconds.append(time.perf_counter() - start)
        gaps.append(np.diff(clock.times[2:]).tolist() if clock else [])
    print(json.dumps([np.asarray(tokens).tolist(), seconds[1:], gaps[1:]]))
""".replace("RUNS", str(RUNS))
OURS = (
    MEASURE
    + """
import xlmr_np
model = xlmr_np.XLMRobertaForCausalLM.from_pretrained(source)
measure(lambda clock: model.generate(ids, position_mode="huggingface", streamer=clock, **settings))
"""
)
THEIRS = (
    MEASURE
    + """
import torch, transformers
model = transformers.XLMRobertaForCausalLM.from_pretrained(source, is_decoder=True).eval()
mask = torch.ones(ids.shape, dtype=torch.int64)
measure(lambda clock: model.generate(torch.asarray(ids), attention_mask=mask, streamer=clock, **settings))
"""
)


def main() -> None:
    """Measure and print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    options = parser.parse_args()
    print(f"| {options.rounds} rounds in turn, median (range) | seconds | peak memory, GB | ratios |")
    print("|---|---|---|---|")
    growth: list[str] = []
    with tempfile.TemporaryDirectory() as source:
        model = XLMRobertaForCausalLM(XLM_ROBERTA_BASE, generator=np.random.default_rng(0))
        model.save_pretrained(source)
        del model
        for task in options.tasks:
            growth += compare(task, Path(source), options.rounds)
    print("\n| a token | ms, the first 32 | ms, the last 32 | ms more for each 100 tokens before |")
    print("|---|---|---|---|")
    print("\n".join(growth))


def compare(task: str, source: Path, rounds: int) -> list[str]:
    """Measure one task, print a row for each engine, and return rows of what a token takes, early and late."""
    engines = {"xlmr-np": OURS, "transformers": THEIRS}
    seconds: dict[str, list[float]] = {engine: [] for engine in engines}
    peaks: dict[str, list[float]] = {engine: [] for engine in engines}
    gaps: dict[str, list[list[float]]] = {engine: [] for engine in engines}
    tokens: dict[str, list[list[int]]] = {}
    for _ in range(rounds):
        for engine, program in engines.items():
            result = run(program, source, *map(str, TASKS[task]))
            tokens[engine], own_seconds, own_gaps = json.loads(result.output)
            seconds[engine] += own_seconds
            gaps[engine] += [each for each in own_gaps if each]
            peaks[engine].append(result.peak / 1e9)
    ours, theirs = tokens.values()
    if ours != theirs:
        sys.exit(f"The tokens of {task} differ: {tokens}")
    rows = []
    for engine in engines:
        ratios = (
            f"{statistics.median(measured[engine]) / statistics.median(measured['transformers']):.2f}"
            for measured in (seconds, peaks)
        )
        print(f"| {task}, {engine} | {median(seconds[engine])} | {median(peaks[engine])} | {', '.join(ratios)} |")
        if gaps[engine]:
            middle = 1000 * np.median(np.array(gaps[engine]), axis=0)
            slope = np.polyfit(np.arange(len(middle)), middle, 1)[0]
            first, last = np.median(middle[:32]), np.median(middle[-32:])
            rows.append(f"| {task}, {engine} | {first:.1f} | {last:.1f} | {100 * slope:.2f} |")
    return rows


if __name__ == "__main__":
    main()
