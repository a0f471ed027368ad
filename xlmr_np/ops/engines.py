"""Which operations run a model on which device, and how they share out the sentences of a batch."""

from collections.abc import Callable
from typing import NamedTuple

from xlmr_np.arrays import Array
from xlmr_np.ops import Op, Ops
from xlmr_np.ops.cuda.kernels import Gpu
from xlmr_np.ops.numpy_ops import inference_ops, training_ops
from xlmr_np.ops.reference import REFERENCE
from xlmr_np.ops.threads import ALONE, Threads


class Sharding(NamedTuple):
    """The threads among which sentences are shared out, and the operations for inference on one of them."""

    threads: Threads
    inference: Ops


class Engine(NamedTuple):
    """The operations of one kind of device, and what is particular to it.

    Attributes:
        inference: make no caches and have no backward pass; also for layers that a backward pass runs again.
        training: with caches and backward passes.
        attention_with_probabilities: whose cache has the probabilities.
        sharding: None where a device shares out its work itself.
        gpu: what launches its kernels; None on a CPU.
        check: refuses a result of a model in float16 that this type could not hold; None where float32 is computed in.
    """

    inference: Ops
    training: Ops
    attention_with_probabilities: Op
    sharding: Sharding | None
    gpu: Gpu | None
    check: Callable[[Array], None] | None


def engine_for(device: str, number_of_threads: int) -> Engine:
    """The engine of a device, "cpu" or "cuda:N"; the number of threads concerns the CPU."""
    if device == "cpu":
        return cpu_engine(Threads(number_of_threads))
    from xlmr_np.ops.cuda.cupy_gpu import CupyGpu

    return gpu_engine(CupyGpu())


def cpu_engine(threads: Threads) -> Engine:
    """NumPy on these threads."""
    return Engine(
        inference=inference_ops(threads),
        training=training_ops(threads),
        attention_with_probabilities=REFERENCE.attention,
        sharding=Sharding(threads, inference_ops(ALONE)),
        gpu=None,
        check=None,
    )


def gpu_engine(gpu: Gpu) -> Engine:
    """Kernels and products of this GPU."""
    from xlmr_np.ops import cuda_ops
    from xlmr_np.ops.cuda.overflow import check_overflow

    return Engine(
        inference=cuda_ops.inference_ops(gpu),
        training=cuda_ops.training_ops(gpu),
        attention_with_probabilities=Op(cuda_ops.attention_with_probabilities_forward),
        sharding=None,
        gpu=gpu,
        check=check_overflow,
    )
