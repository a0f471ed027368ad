"""Two proofs of a backward function: central differences, and torch's autograd through our own forward function."""

from collections.abc import Callable

import numpy as np
import torch

from xlmr_np import trees

STEP = 1e-6
DIFFERENCE_TOLERANCE = 1e-6  # of central differences in float64, whose own error is about STEP² and 1e-16 / STEP
AUTOGRAD_TOLERANCE = 1e-10


def random_like(tree: trees.Tree, generator: np.random.Generator) -> trees.Tree:
    return trees.map_leaves(lambda leaf: generator.normal(size=leaf.shape), tree)


def inner_product(first: trees.Tree, second: trees.Tree) -> float:
    return sum(float((a * b).sum()) for a, b in zip(trees.leaves(first), trees.leaves(second), strict=True))


def check_gradients(
    forward: Callable[[trees.Tree], tuple[trees.Tree, object]],
    backward: Callable[[trees.Tree, object, trees.Tree], trees.Tree],
    inputs: trees.Tree,
    seed: int = 0,
) -> None:
    """Prove `backward` for one random gradient of the output, through all inputs at once.

    Args:
        forward: inputs -> (output, cache), any trees.
        backward: (gradient of the output, cache, inputs) -> gradient of the inputs, in their own tree.
        inputs: every differentiable input and parameter; handed on as read-only arrays.
        seed: of the directions.
    """
    generator = np.random.default_rng(seed)
    inputs = trees.map_leaves(np.array, inputs)
    for leaf in trees.leaves(inputs):
        leaf.flags.writeable = False
    output, cache = forward(inputs)
    d_output = random_like(output, generator)
    d_inputs = backward(d_output, cache, inputs)
    trees.map_leaves(lambda leaf, gradient: np.testing.assert_equal(gradient.shape, leaf.shape), inputs, d_inputs)

    direction = random_like(inputs, generator)

    def along(step: float) -> float:
        moved = trees.map_leaves(lambda leaf, way: leaf + step * way, inputs, direction)
        return inner_product(forward(moved)[0], d_output)

    slope = (along(STEP) - along(-STEP)) / (2 * STEP)
    ours = inner_product(d_inputs, direction)
    assert abs(ours - slope) <= DIFFERENCE_TOLERANCE * max(1.0, abs(slope)), (ours, slope)

    tensors = trees.map_leaves(lambda leaf: torch.tensor(leaf, requires_grad=True), inputs)
    torch_output, _ = forward(tensors)
    sum(
        (y * torch.asarray(d_y)).sum()
        for y, d_y in zip(trees.leaves(torch_output), trees.leaves(d_output), strict=True)
    ).backward()
    for tensor, gradient in zip(trees.leaves(tensors), trees.leaves(d_inputs), strict=True):
        expected = np.zeros(gradient.shape) if tensor.grad is None else tensor.grad.numpy()
        assert np.abs(gradient - expected).max() <= AUTOGRAD_TOLERANCE * max(1.0, np.abs(expected).max())
