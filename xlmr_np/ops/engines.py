"""Which operations run a model on which device, and how they share out the sentences of a batch."""

from typing import NamedTuple

from xlmr_np.ops import Ops, without_caches
from xlmr_np.ops.numpy_ops import inference_ops, training_ops
from xlmr_np.ops.reference import REFERENCE
from xlmr_np.ops.threads import ALONE, Threads


class Sharding(NamedTuple):
    """The threads among which sentences are shared out, and the operations for inference on one of them."""

    threads: Threads
    inference: Ops


class Engine(NamedTuple):
    """The operations of one kind of device: those of inference make no caches and have no backward pass.

    `sharding` is None where a device shares out its work itself.
    """

    inference: Ops
    training: Ops
    sharding: Sharding | None


def engine_for(device: str, number_of_threads: int) -> Engine:
    """The engine of a device, "cpu" or "cuda:N"; the number of threads concerns the CPU."""
    if device == "cpu":
        threads = Threads(number_of_threads)
        return Engine(inference_ops(threads), training_ops(threads), Sharding(threads, inference_ops(ALONE)))
    return Engine(without_caches(REFERENCE), REFERENCE, None)
