"""Learning rates as the reference's schedules have them."""

import pytest
import torch
from transformers import get_scheduler

from xlmr_np.training.schedules import SCHEDULES, warmup_steps_of

NAMES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}


@pytest.mark.parametrize(("warmup_steps", "total_steps"), [(0, 10), (3, 10), (1, 1), (0, 1), (10, 10), (5, 3)])
@pytest.mark.parametrize("name", SCHEDULES)
def test_rates_are_the_references(name: str, warmup_steps: int, total_steps: int) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = get_scheduler(NAMES[name], optimizer, warmup_steps, total_steps)
    for step in range(total_steps + 1):
        rate = SCHEDULES[name](step, warmup_steps, total_steps)
        assert rate == pytest.approx(scheduler.get_last_lr()[0], abs=1e-15)  # roundings of a cosine
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_rates_stay_at_zero_behind_the_end(name: str) -> None:
    assert SCHEDULES[name](25, 2, 10) == pytest.approx(0.0, abs=1e-15)  # cos π is not quite -1


@pytest.mark.parametrize(("warmup", "steps"), [(0, 0), (7, 7), (0.1, 11), (0.06, 7), (1, 1), (500.0, 500)])
def test_a_warmup_in_steps_or_as_a_share(warmup: float, steps: int) -> None:
    assert warmup_steps_of(warmup, 103) == steps


def test_a_warmup_is_not_negative() -> None:
    with pytest.raises(ValueError, match=r"this one is -0\.5"):
        warmup_steps_of(-0.5, 100)
