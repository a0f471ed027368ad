"""The seam between the model and its engines: a record of fusible operations, passed in.

The model calls nothing but the fields of an `Ops`. `xlmr_np.ops.reference.REFERENCE` composes them from
`xlmr_np.layers`; an engine is another record with the same signatures. An op never writes into an
argument and never returns workspace. Inference is another record too, not a mode: each of its forwards
returns `(y, None)`, and caches are never made.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple


def no_backward(*_: Any) -> Any:
    """Stands where an engine has no backward pass."""
    raise NotImplementedError("This operation is for inference: it made no cache, and there is no backward pass.")


class Op(NamedTuple):
    """One operation: `forward(...) -> (y, cache)`, and its backward where the engine has one."""

    forward: Callable[..., Any]
    backward: Callable[..., Any] = no_backward


class Ops(NamedTuple):
    """The operations of one engine; the arguments are those of the reference functions.

    Attributes:
        embed: (ids, token_types, positions, params, eps, dropout) -> y; backward: pad_id in place of eps
        linears: (x, (params, ...)) -> (y, ...): projections of one x
        attention: (query, key, value, mask, dropout) -> context
        add_norm: (x, residual, params, eps, dropout) -> y
        feed_forward: (x, params, activation, eps, dropout) -> y
        linear_activation: (x, params, activation) -> y
        layer_norm: (x, params, eps) -> y
        vocabulary_cross_entropy: (x, params, labels, smoothing) -> loss
        vocabulary_top_k: (x, params, k) -> TopK; forward only
    """

    embed: Op
    linears: Op
    attention: Op
    add_norm: Op
    feed_forward: Op
    linear_activation: Op
    layer_norm: Op
    vocabulary_cross_entropy: Op
    vocabulary_top_k: Op


def without_caches(ops: Ops) -> Ops:
    """The same operations for inference: a forward hands out no cache, and there is no backward."""
    return Ops(*(Op(partial(_forget_cache, op.forward)) for op in ops))


def _forget_cache(forward: Callable[..., Any], *arguments: Any) -> tuple[Any, None]:
    return forward(*arguments)[0], None
