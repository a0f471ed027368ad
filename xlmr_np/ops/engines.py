"""Which operations run a model on which device, and how they share out the sentences of a batch."""

from typing import NamedTuple

from xlmr_np.ops import Ops, without_caches
from xlmr_np.ops.numpy_ops import inference_ops, training_ops
from xlmr_np.ops.reference import REFERENCE
from xlmr_np.ops.threads import ALONE, Threads


class Engine(NamedTuple):
    """The operations of one kind of device: those of inference make no caches and have no backward pass.

    Attributes:
        inference: all of them.
        training: all of them.
        threads: None where the operations run on a device that shares out its own work.
        alone: those of inference for one of the threads, which works on a part of the batch.
    """

    inference: Ops
    training: Ops
    threads: Threads | None = None
    alone: Ops | None = None


def engine_for(device: str, number_of_threads: int) -> Engine:
    """The engine of a device, "cpu" or "cuda:N"; the number of threads concerns the CPU."""
    if device == "cpu":
        threads = Threads(number_of_threads)
        return Engine(inference_ops(threads), training_ops(threads), threads, inference_ops(ALONE))
    return Engine(without_caches(REFERENCE), REFERENCE)
