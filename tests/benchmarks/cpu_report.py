"""What `tests.benchmarks.cpu` says of its measurements: Markdown tables, checked targets, and a bar chart."""

import statistics
from typing import NamedTuple

from tests.benchmarks.bar_chart import Bar, Group, bar_chart
from tests.benchmarks.cpu_engines import BARE, BASELINE, ENGINES, OURS
from tests.benchmarks.cpu_workloads import WORKLOADS, floating_point_operations


class Target(NamedTuple):
    """The most that our time may be, as a multiple of another engine's."""

    workload: str
    engine: str
    limit: float


TARGETS = [
    Target("1x16", BASELINE, 0.60),
    Target("1x16", "openvino", 1.35),
    Target("1x128", BASELINE, 0.80),
    Target("1x128", "openvino", 1.05),
    Target("32x128", BASELINE, 0.90),
    Target("32x128", "openvino", 1.08),
    Target("32x128", BARE, 1.12),
    Target("8x512", BASELINE, 0.90),
    Target("8x512", "openvino", 1.08),
    Target("ragged", BASELINE, 0.21),
    Target("ragged", "openvino", 0.27),
    Target("corpus", BASELINE, 0.85),
    Target("corpus", "openvino", 1.0),
    Target("training", BASELINE, 0.90),
    Target("training-ragged", BASELINE, 0.45),
]


class Measurement(NamedTuple):
    """What was measured of one engine at one workload."""

    rounds: list[list[float]]  # seconds of every repetition, round by round
    others: list[float]  # seconds of processor time that anything else used meanwhile, round by round
    peak: int  # bytes

    @property
    def seconds(self) -> list[float]:
        return [seconds for turn in self.rounds for seconds in turn]


class Measured(NamedTuple):
    """What was measured of one workload."""

    lengths: list[int]  # of its sentences, in tokens
    engines: dict[str, Measurement]


def ratios(ours: Measurement, theirs: Measurement) -> list[float]:
    """Of the medians of both turns, round by round."""
    pairs = zip(ours.rounds, theirs.rounds, strict=True)
    return [statistics.median(our_turn) / statistics.median(their_turn) for our_turn, their_turn in pairs]


def spread(values: list[float], digits: str) -> str:
    """The median with the range, all in the same format."""
    return f"{statistics.median(values):{digits}} ({min(values):{digits}} to {max(values):{digits}})"


def table(measured: dict[str, Measured]) -> list[str]:
    """A Markdown table of all workloads that the engines share."""
    lines = [
        "| each engine in its own process, in turn | seconds, median (range) | xlmr-np's time relative to it | GFLOP/s "
        "| peak memory, GB | BLAS share |",
        "|---|---|---|---|---|---|",
    ]
    for workload, (lengths, engines) in measured.items():
        given = WORKLOADS[workload]
        if given.is_cost:
            continue
        for name, measurement in engines.items():
            operations = floating_point_operations(lengths, given.task, with_attention=name != BARE)
            blas = statistics.median(ratios(engines[BARE], measurement)) if name == OURS and BARE in engines else None
            cells = [
                f"{given.title}, {ENGINES[name].series.name}",
                spread(measurement.seconds, ".3g"),
                "" if name == OURS else spread(ratios(engines[OURS], measurement), ".2f"),
                f"{operations / statistics.median(measurement.seconds) / 1e9:.0f}",
                f"{measurement.peak / 1e9:.2f}",
                "" if blas is None else f"{blas:.0%}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def targets_table(measured: dict[str, Measured]) -> list[str]:
    """A Markdown table of the targets that this run can check."""
    lines = ["| target | xlmr-np's time relative to it | at most | |", "|---|---|---|---|"]
    for workload, engine, limit in TARGETS:
        if workload in measured and engine in measured[workload].engines:
            engines = measured[workload].engines
            values = ratios(engines[OURS], engines[engine])
            verdict = "met" if statistics.median(values) <= limit else "missed"
            title = f"{WORKLOADS[workload].title}, {ENGINES[engine].series.name}"
            lines.append(f"| {title} | {spread(values, '.2f')} | {limit:.2f} | {verdict} |")
    return lines


def cost_table(measured: dict[str, Measured]) -> list[str]:
    """A Markdown table of our time for more and more sentences of 128 tokens."""
    lines = ["| xlmr-np, sentences of 128 tokens | seconds | milliseconds a token | relative |", "|---|---|---|---|"]
    first = None
    for workload, (lengths, engines) in measured.items():
        if WORKLOADS[workload].is_cost:
            seconds, tokens = statistics.median(engines[OURS].seconds), sum(lengths)
            first = first or seconds / tokens
            cells = [f"{seconds:.2f}", f"{seconds / tokens * 1e3:.3f}", f"{seconds / tokens / first:.2f}"]
            lines.append(f"| {len(lengths)}: {tokens:,} tokens | {' | '.join(cells)} |")
    return lines


def chart(measured: dict[str, Measured], processor: str) -> str:
    """An SVG of all engines' times relative to transformers' in float32."""
    groups = []
    for workload, (_, engines) in measured.items():
        if WORKLOADS[workload].is_cost:
            continue
        bars = []
        for name, measurement in engines.items():
            if name != BARE:
                ratio = statistics.median(ratios(measurement, engines[BASELINE]))
                text = f"{ratio:.2f} ({duration(statistics.median(measurement.seconds))})"
                bars.append(Bar(ENGINES[name].series.name, ratio, text))
        groups.append(Group(WORKLOADS[workload].title, bars))
    return bar_chart(
        "XLM-R base on two processor cores: wall time relative to transformers float32",
        f"Shorter is better; the dashed line is transformers float32. {processor}.",
        groups,
        [engine.series for name, engine in ENGINES.items() if name != BARE],
    )


def duration(seconds: float) -> str:
    """Seconds in three digits, as people read them."""
    return f"{seconds * 1e3:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"
