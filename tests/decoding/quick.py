"""Many small steps in little time."""

from collections.abc import Iterator
from contextlib import contextmanager

import jaxtyping
import torch

import xlmr_np.decoding.generation  # noqa: F401 - now, as what is first imported without checks would never have any


@contextmanager
def quick_steps() -> Iterator[None]:
    """Shape checks would take half of the time, and threads of torch wait for each other.

    Shapes are checked where single passes over a cache are tested.
    """
    number = torch.get_num_threads()
    torch.set_num_threads(1)
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
        torch.set_num_threads(number)
