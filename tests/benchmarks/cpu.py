"""The encoder on a CPU's two cores, ours and the peers': `python -m tests.benchmarks.cpu`.

XLM-R base's shape with random weights, the same for all engines: from token ids to the last hidden states of single
sentences, of full and ragged batches, and of 256 real sentences; and a training step, from ids to the loss and all
gradients, without dropout and optimiser. Ragged batches are padded on the right. Of the real sentences the peers get
their best practice (sorted by length, in batches of 32), and ours gets all of them in one call.

Every engine runs in a process of its own, which stays; only one works at a moment, and in every round each has its
turn. A ratio is the median of the rounds' ratios. All real tokens' hidden states, and losses and lengths of gradients,
must agree between the engines, or the benchmark fails. `numpy.matmul alone` multiplies as many rows as there are real
tokens with the encoder's 48 matrices and does nothing else, not even attention; the share of our time that this takes
is the "BLAS share". GFLOP/s count the encoder's products at real tokens, those of attention among them. Peak memory is
that of the whole process during the workload. Ratios mean little if the machine has anything else to do: the last line
tells how much it had. Peers that are not installed are skipped; `pip install -e ".[test,bench]"` has them all. The real
sentences need XLMR_NP_TEST_DATA, or ../shared/data beside the project.
"""

import argparse
import contextlib
import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info

from tests.benchmarks.cpu_engines import BASELINE, ENGINES, OURS, SENTENCES, THREADS
from tests.benchmarks.cpu_report import Measured, Measurement, chart, cost_table, table, targets_table
from tests.benchmarks.cpu_workloads import WORKLOADS, floating_point_operations, sentences

REST = 0.1  # seconds between turns: after its work, ONNX Runtime's second thread spins for 0.04 s
TRAINING_TOLERANCE = 1e-3  # relative, of the loss and of the length of the whole gradient


class Worker:
    """An engine in a process of its own that does what it is asked for."""

    def __init__(self, name: str, task: str, directory: Path) -> None:
        self.name, self.task = name, task
        self.log = directory / f"{name}-{task}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                worker_command(name, task, directory),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self._answer("being loaded")

    def ask(self, workload: str, repetitions: int, answers: Path | None = None) -> dict[str, Any]:
        """See `cpu_engines.serve`; the answer also tells what processor time anything else used meanwhile."""
        assert self.process.stdin is not None
        command = {"workload": workload, "repetitions": repetitions, "answers": answers and str(answers)}
        before = busy_seconds()
        with contextlib.suppress(BrokenPipeError):  # then there is no answer either
            print(json.dumps(command), file=self.process.stdin, flush=True)
        reply = self._answer(workload)
        others = busy_seconds() - before - reply["processor_time"]
        time.sleep(REST)
        return reply | {"others": others}

    def _answer(self, asked: str) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.name} ended at {asked}:\n{self.log.read_text()[-2000:]}")
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()


def busy_seconds() -> float:
    """How long our cores have worked for anybody since the machine was started, or were taken by another machine."""
    ticks = 0
    ours = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name in ours:
            user, nice, system, _idle, _waiting, interrupts, soft_interrupts, stolen, *_ = map(int, fields)
            ticks += user + nice + system + interrupts + soft_interrupts + stolen
    return ticks / os.sysconf("SC_CLK_TCK")


def worker_command(name: str, task: str, directory: Path) -> list[str]:
    """How to start `cpu_engines`."""
    return [sys.executable, "-m", "tests.benchmarks.cpu_engines", name, task, str(directory)]


def prepare(engines: list[str], directory: Path) -> None:
    """Make the files of all engines, the checkpoint first; each kind once."""
    made: list[Any] = [None]
    for name in engines:
        if ENGINES[name].prepare in made:
            continue
        made.append(ENGINES[name].prepare)
        report(f"files of {name}")
        result = subprocess.run(worker_command(name, "prepare", directory), capture_output=True, text=True)
        if result.returncode:
            sys.exit(f"The files of {name} could not be made:\n{result.stderr[-2000:]}")


def store_sentences(workload: str, data: Path, directory: Path) -> list[int]:
    """Write a workload's sentences where the engines read them, and return their lengths."""
    given = sentences(WORKLOADS[workload], data)
    lengths = [len(sentence) for sentence in given]
    np.savez(directory / SENTENCES.format(workload), ids=np.concatenate(given), lengths=lengths)
    return lengths


def measure(workload: str, rounds: int | None, workers: list[Worker], directory: Path) -> dict[str, Measurement]:
    """Let all engines do a workload: once to warm up and compare their answers, then in turn.

    Of the workloads that show the cost, only we do any, and without warming up: it has been done before.
    """
    given = WORKLOADS[workload]
    taking_part = [worker for worker in workers if worker.name == OURS or not given.is_cost]
    if not given.is_cost:
        answers = {}
        for worker in taking_part:
            path = directory / f"answers-{worker.name}.npy"
            worker.ask(workload, 0, path)
            if ENGINES[worker.name].tolerance is not None:
                answers[worker.name] = np.load(path)
        compare(workload, answers)
    measurements = {worker.name: Measurement([], [], 0) for worker in taking_part}
    for number in range(given.rounds if rounds is None else rounds):
        first = number % len(taking_part)
        for worker in taking_part[first:] + taking_part[:first]:
            reply = worker.ask(workload, given.repetitions)
            turns, others, _ = measurements[worker.name]
            measurements[worker.name] = Measurement(
                [*turns, reply["seconds"]], [*others, reply["others"]], reply["peak"]
            )
    return measurements


def compare(workload: str, answers: dict[str, np.ndarray]) -> None:
    """Fail if an engine's answers are not those of transformers in float32, or without it of xlmr-np."""
    reference = BASELINE if BASELINE in answers else OURS
    expected = answers[reference]
    for name, actual in answers.items():
        if name == reference:
            continue
        if actual.shape != expected.shape:
            sys.exit(f"{name} gives {actual.shape} at {workload}, and {reference} {expected.shape}.")
        is_training = WORKLOADS[workload].task == "train"
        difference = np.max(np.abs(actual / expected - 1) if is_training else np.abs(actual - expected))
        tolerance = TRAINING_TOLERANCE if is_training else ENGINES[name].tolerance
        report(f"{workload}: {name} differs from {reference} by {difference:.1e}")
        if not difference <= tolerance:  # true of nan as well
            sys.exit(f"{name} and {reference} differ by {difference:.1e} at {workload}; {tolerance} is allowed.")


def report(line: str) -> None:
    """Say how far the benchmark has come."""
    print(f"[{time.strftime('%H:%M:%S')}] {line}", file=sys.stderr, flush=True)


def missing_modules(engine: str) -> list[str]:
    """What would have to be installed for an engine."""
    return [module for module in ENGINES[engine].modules if importlib.util.find_spec(module) is None]


def machine() -> dict[str, Any]:
    """What the figures hold for."""
    cpu = Path("/proc/cpuinfo").read_text()
    blas = [
        f"{entry['internal_api']} {entry['version']} {entry.get('architecture', '')}".strip()
        for entry in threadpool_info()
        if entry["user_api"] == "blas"
    ]
    packages = ["numpy", "torch", "transformers", "onnxruntime", "openvino", "onnx"]
    return {
        "processor": next(line.split(": ")[1] for line in cpu.splitlines() if line.startswith("model name")),
        "cores": THREADS,
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
        "blas": blas,
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in packages if importlib.util.find_spec(name)},
    }


def raw(measured: dict[str, Measured]) -> dict[str, Any]:
    """All that was measured, as JSON has it."""
    return {
        workload: {
            "title": WORKLOADS[workload].title,
            "lengths": lengths,
            "operations": floating_point_operations(lengths, WORKLOADS[workload].task),
            "engines": {name: measurement._asdict() for name, measurement in engines.items()},
        }
        for workload, (lengths, engines) in measured.items()
    }


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    peers = [name for name in ENGINES if name != OURS]
    parser.add_argument("--rounds", type=int, help="of every workload; by default 2 or 3, and 9 of the shortest")
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), metavar="NAME")
    parser.add_argument("--engines", nargs="+", choices=peers, default=peers, metavar="NAME", help="besides xlmr-np")
    parser.add_argument("--json", type=Path, help="where to write all that was measured")
    parser.add_argument("--svg", type=Path, help="where to draw a bar chart")
    options = parser.parse_args()
    if options.rounds is not None and options.rounds < 1:
        parser.error(f"--rounds must be at least 1; got {options.rounds}.")
    if options.svg and (BASELINE not in options.engines or missing_modules(BASELINE)):
        parser.error("--svg draws times relative to transformers; install it, and do not leave it out of --engines.")
    if options.svg and all(WORKLOADS[name].is_cost for name in options.workloads):
        parser.error("--svg needs a workload that is no cost workload: those have nothing to compare with.")
    for path in (options.json, options.svg):
        if path and not path.parent.is_dir():
            parser.error(f"{path} cannot be written, as there is no {path.parent}.")
    return options


def main() -> None:
    """Measure and print Markdown tables."""
    options = parse()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(f"Ended by signal {number}."))  # gigabytes to remove
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(THREADS), "OPENBLAS_NUM_THREADS": str(THREADS)}
    data = Path(os.environ.get("XLMR_NP_TEST_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")

    engines = [OURS]
    for name in ENGINES:
        if name in options.engines and (missing := missing_modules(name)):
            print(f"Skipped: {ENGINES[name].series.name}; not installed: {', '.join(missing)}.")
        elif name in options.engines:
            engines.append(name)
    workloads = [name for name in WORKLOADS if name in options.workloads]
    if "corpus" in workloads and not data.is_dir():
        print(
            f"Skipped: {WORKLOADS['corpus'].title}, as there is no {data}; set XLMR_NP_TEST_DATA to the data's folder."
        )
        workloads.remove("corpus")

    measured: dict[str, Measured] = {}
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        prepare(engines, directory)
        for task in ("encode", "train"):
            chosen = [workload for workload in workloads if WORKLOADS[workload].task == task]
            with contextlib.ExitStack() as stack:
                workers = []
                for engine in engines:
                    if chosen and (task == "encode" or ENGINES[engine].trainer is not None):
                        report(f"loading {engine} to {task}")
                        workers.append(Worker(engine, task, directory))
                        stack.callback(workers[-1].close)
                for workload in chosen:
                    lengths = store_sentences(workload, data, directory)
                    report(f"{workload}: {sum(lengths):,} tokens")
                    measured[workload] = Measured(lengths, measure(workload, options.rounds, workers, directory))

    here = machine()
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    tables = [table(measured), targets_table(measured), cost_table(measured)]
    print("\n\n".join("\n".join(lines) for lines in tables if len(lines) > 2))
    turns = [measurement for workload in measured.values() for measurement in workload.engines.values()]
    worked = sum(sum(measurement.seconds) for measurement in turns)
    others = sum(sum(measurement.others) for measurement in turns)
    versions = ", ".join(f"{package} {version}" for package, version in here["versions"].items())
    print(
        f"\nMeasured on {date} on {THREADS} cores of an {here['processor']}, Python {here['python']}, {versions}. "
        f"Of {time.perf_counter() - begin:.0f} s the timed turns took {worked:.0f} s, in which anything else on these "
        f"cores used {others:.1f} s of processor time."
    )
    if options.json:
        options.json.write_text(json.dumps({"date": date, "machine": here, "workloads": raw(measured)}) + "\n")
    if options.svg:
        options.svg.write_text(chart(measured, here["processor"]))


if __name__ == "__main__":
    main()
