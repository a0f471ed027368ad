"""How benchmarks on a card take times, and what they have in common."""

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from xlmr_np.arrays import to_device
from xlmr_np.layers.attention import Spans

HEADS, WIDTH = 12, 64  # of attention, as in base
ROUNDS = 7  # of all contestants in turn
SECONDS_OF_ROUND = 0.05  # that one contestant's part of a round takes at least


def seconds(contestants: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """The median time of a call of each, in rounds of all in turn; those that fail are left out."""
    import cupy
    import torch

    calls: dict[str, int] = {}
    for name, run in contestants.items():
        with reported(name):
            for _ in range(3):
                run()
            torch.cuda.synchronize()
            calls[name] = max(1, round(SECONDS_OF_ROUND / timed(run, 3)))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, number in calls.items():
            with reported(name):
                times[name].append(timed(contestants[name], number))
    cupy.get_default_memory_pool().free_all_blocks()
    torch.cuda.empty_cache()
    return {name: statistics.median(each) for name, each in times.items() if len(each) == ROUNDS}


def timed(run: Callable[[], Any], number: int) -> float:
    """Seconds of a call, over so many, on the streams of CuPy and torch, which are both the default one."""
    import cupy

    begin, end = cupy.cuda.Event(), cupy.cuda.Event()
    begin.record()
    for _ in range(number):
        run()
    end.record()
    end.synchronize()
    return float(cupy.cuda.get_elapsed_time(begin, end)) / 1000 / number


@contextmanager
def reported(name: str) -> Iterator[None]:
    """A peer that cannot run here is said to be missing, and the rest goes on."""
    try:
        yield
    except Exception as error:
        what = " ".join([type(error).__name__, *str(error).splitlines()[:1]])
        print(f"  {name}: not measured ({what:.120})", flush=True)


def spans_on_card(lengths: list[int]) -> Spans:
    sizes = np.array(lengths, np.int64)
    return Spans(to_device(sizes.cumsum() - sizes, "cuda:0"), to_device(sizes, "cuda:0"))
