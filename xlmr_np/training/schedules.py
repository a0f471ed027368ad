"""Learning rates over time: what the highest rate is multiplied with at each step.

Steps count from 0, so that a schedule with warm-up begins at a rate of 0, as the reference's does.
"""

import math
from collections.abc import Callable

Schedule = Callable[[int, int, int], float]


def linear(step: int, warmup_steps: int, total_steps: int) -> float:
    """Up from 0 during the warm-up, then down to 0 at the end, in straight lines."""
    if step < warmup_steps:
        return step / warmup_steps
    return max(0.0, (total_steps - step) / max(1, total_steps - warmup_steps))


def cosine(step: int, warmup_steps: int, total_steps: int) -> float:
    """Up from 0 in a straight line, then down to 0 along half a cosine (Loshchilov & Hutter 2017, arXiv:1608.03983)."""
    if step < warmup_steps:
        return step / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def constant(step: int, warmup_steps: int, total_steps: int) -> float:
    """Up from 0 in a straight line, and there it stays."""
    return step / warmup_steps if step < warmup_steps else 1.0


SCHEDULES: dict[str, Schedule] = {"linear": linear, "cosine": cosine, "constant": constant}


def warmup_steps_of(warmup: float, total_steps: int) -> int:
    """A number of steps, or a share of them all below 1, in steps (rounded up).

    Raises:
        ValueError: it is negative.
    """
    if warmup < 0:
        raise ValueError(f"A warm-up has a number of steps, or a share of them below 1; this one is {warmup}.")
    return math.ceil(warmup * total_steps) if warmup < 1 else int(warmup)
