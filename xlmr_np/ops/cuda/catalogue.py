"""Every kernel instance there is."""

from . import (
    activations,
    adamw,
    attention,
    attention_backward,
    attention_plain_backward,
    embeddings,
    norms,
    sums,
    unpadding,
    vocabulary,
    vocabulary_loss,
)
from .kernels import Kernel

_LAUNCH_MODULES = (
    activations,
    adamw,
    attention,
    attention_backward,
    attention_plain_backward,
    embeddings,
    norms,
    sums,
    unpadding,
    vocabulary,
    vocabulary_loss,
)


def all_kernels() -> list[Kernel]:
    """All instances that the launch modules may ever ask for."""
    return [kernel for module in _LAUNCH_MODULES for kernel in module.kernels()]
