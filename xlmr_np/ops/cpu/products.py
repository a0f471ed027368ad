"""Matrix products on the checkpoint's own matrices."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from xlmr_np.arrays import Array
from xlmr_np.layers.linear import LinearParams
from xlmr_np.ops.cpu.memory import rows_of_a_block
from xlmr_np.ops.threads import Threads, small_products_are_fast

# OpenBLAS takes its kernels for small products, which read the matrix where it lies in place of packing it first, up
# to this many multiplications. They pay for so many tokens, and best for blocks of so many.
SMALL_PRODUCT = 1_000_000
FEW_TOKENS = 128
FEWER_TOKENS = 64
TOKENS_OF_A_BLOCK = 32
ROWS_OF_A_BLOCK = (48, 32, 16, 8)

FEWEST_NUMBERS = 131_072  # in fewer, element-wise steps are quicker on one thread than on two that wait for each other
CONVERTED = 4_000_000  # numbers of a half-precision matrix that a thread has in full precision at a time


def columns_of_a_small_product(rows: int, terms: int) -> int:
    """How many columns such a product may have for BLAS to take it as a small one; 0 if it knows none."""
    return SMALL_PRODUCT // max(1, rows * terms) if small_products_are_fast() else 0


def multiply(weight: Float[Array, "out in"], x: Float[Array, "in N"], y: Float[Array, "out N"]) -> None:
    """y = weight @ x.

    For few tokens BLAS spends more time on copying the matrix than on multiplying. Where it has kernels for small
    products it is given a stack of them, each with a few rows of the matrix: 1.2 to 1.9 times as fast for up to 64
    tokens (docs/cpu_engine.md).
    """
    tokens = x.shape[1]
    if 0 < tokens <= FEW_TOKENS and x.dtype == np.float32 and small_products_are_fast():
        rows, block_rows = _rows_of_a_block(weight, tokens), _rows_of_a_block(weight, TOKENS_OF_A_BLOCK)
        if rows:
            _multiply_in_blocks(weight, np.ascontiguousarray(x), y, rows)
            return
        if block_rows and tokens <= FEWER_TOKENS:
            for start in range(0, tokens, TOKENS_OF_A_BLOCK):
                block = slice(start, start + TOKENS_OF_A_BLOCK)
                _multiply_in_blocks(weight, np.ascontiguousarray(x[:, block]), y[:, block], block_rows)
            return
    np.matmul(weight, x, out=y)


def _rows_of_a_block(weight: Float[Array, "out in"], tokens: int) -> int:
    """How many rows of the matrix make a small product; 0 if it would be too few."""
    return next((rows for rows in ROWS_OF_A_BLOCK if rows * weight.shape[1] * tokens <= SMALL_PRODUCT), 0)


def _multiply_in_blocks(
    weight: Float[Array, "out in"], x: Float[Array, "in N"], y: Float[Array, "out N"], rows: int
) -> None:
    whole = weight.shape[0] // rows * rows
    np.matmul(weight[:whole].reshape(-1, rows, weight.shape[1]), x, out=y[:whole].reshape(-1, rows, x.shape[1]))
    np.matmul(weight[whole:], x, out=y[whole:])


def linears(
    params: tuple[LinearParams, ...],
    x: Float[Array, "in N"],
    ys: Sequence[Float[Array, "_ N"]],
    threads: Threads,
    epilogue: Callable[[slice, Array, Array], None] | None = None,
) -> None:
    """y = weight @ x + bias for each; or y = weight @ x, and the epilogue does what is to be done with the bias.

    It is called for some rows at a time, with their numbers, their part of y, and their bias.
    """
    step = rows_of_a_block(x.shape[1])

    def finish(bias: Array, y: Array, rows: slice) -> None:
        own_bias = bias.astype(x.dtype, copy=False)[:, None]
        for start in range(rows.start, rows.stop, step):
            block = slice(start, min(start + step, rows.stop))
            if epilogue is None:
                y[block] += own_bias[block]
            else:
                epilogue(block, y[block], own_bias[block])

    def part(number: int) -> None:
        for (weight, bias), y in zip(params, ys, strict=True):
            for rows in threads.ranges(len(weight))[number : number + 1]:
                _product_of_rows(weight, x, y, rows)
                if y.size >= FEWEST_NUMBERS:
                    finish(bias, y, rows)

    threads.run(part, range(threads.number))
    for (_, bias), y in zip(params, ys, strict=True):
        if y.size < FEWEST_NUMBERS:
            finish(bias, y, slice(0, len(y)))


def product(
    weight: Float[Array, "out in"], x: Float[Array, "in N"], y: Float[Array, "out N"], threads: Threads
) -> None:
    """y = weight @ x, for whoever adds the bias later."""
    threads.run(lambda rows: _product_of_rows(weight, x, y, rows), threads.ranges(len(weight)))


def _product_of_rows(
    weight: Float[Array, "out in"], x: Float[Array, "in N"], y: Float[Array, "out N"], rows: slice
) -> None:
    """Some rows of the product; those of a matrix of another type, such as half precision, are converted on the way."""
    step = len(weight) if weight.dtype == x.dtype else max(1, CONVERTED // weight.shape[1])
    for start in range(rows.start, rows.stop, step):
        block = slice(start, min(start + step, rows.stop))
        multiply(weight[block].astype(x.dtype, copy=False), x, y[block])
