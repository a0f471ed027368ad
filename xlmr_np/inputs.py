"""The model's door: what users pass is checked once here, on the host, and laid out for the encoder.

Decided here and nowhere else:
- Without a mask, the tokens that are not `pad_token_id` are real.
- With ids, positions come from the ids; with embeddings, from the mask.
- The length limit is `max_position_embeddings - pad_token_id - 1`, the token-type limit `type_vocab_size`.
- A two-dimensional mask leads to the packed layout; masks of three and four dimensions need the padded one.
- What the encoder computes is laid back into the users' rectangle with zeros at padding.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from xlmr_np.arrays import Array, array_namespace, to_numpy
from xlmr_np.config import XLMRobertaConfig
from xlmr_np.layers.attention import Mask, PackedMask, PaddedMask, Spans
from xlmr_np.layers.embeddings import position_ids as positions_of
from xlmr_np.losses.cross_entropy import IGNORED_LABEL


class EncoderInputs(NamedTuple):
    """The encoder's index arrays and mask, and what leads back to the users' rectangle [B, T]."""

    ids: Int[Array, "*batch"]
    token_types: Int[Array, "*batch"]
    positions: Int[Array, "*batch"]
    mask: Mask
    is_real: Bool[Array, "B T"]
    token_table: Float[Array, "rows D"] | None  # the users' own embeddings, when they replace the table


def longest_sequence(config: XLMRobertaConfig) -> int:
    """How many tokens the position table serves: its rows up to `pad_token_id` serve none.

    Raises:
        ValueError: the config has no padding id, from which positions are counted.
    """
    if config.pad_token_id is None:
        raise ValueError("The config's pad_token_id is None, but positions are counted from pad_token_id + 1; set it.")
    return config.max_position_embeddings - config.pad_token_id - 1


def prepare_inputs(
    config: XLMRobertaConfig,
    input_ids: Any = None,
    attention_mask: Any = None,
    token_type_ids: Any = None,
    position_ids: Any = None,
    inputs_embeds: Any = None,
    padded: bool = False,
) -> EncoderInputs:
    """Check the arguments of a forward pass and lay them out, in NumPy arrays.

    Args:
        config: of the model.
        input_ids: [B, T] token ids, an array or nested lists; exactly one of this and `inputs_embeds`.
        attention_mask: see `visibility`.
        token_type_ids: [B, T]; zeros if None.
        position_ids: [B, T] or [1, T]; computed if None.
        inputs_embeds: [B, T, D] token embeddings in place of ids.
        padded: keep the rectangle even where the mask would allow packing.

    Raises:
        ValueError: for any argument that does not fit the config or the others, naming the value.
        TypeError: for ids that are no integers, embeddings that are no floats.
    """
    if (input_ids is None) == (inputs_embeds is None):
        came = "neither" if input_ids is None else "both"
        raise ValueError(f"Give exactly one of input_ids and inputs_embeds; {came} came.")
    limit = longest_sequence(config)
    pad_id = config.max_position_embeddings - limit - 1
    if inputs_embeds is None:
        token_table = None
        ids = _indices("input_ids", input_ids, config.vocab_size, "vocab_size")
        is_token = ids != pad_id
    else:
        embeddings = _array("inputs_embeds", inputs_embeds, "f", ("batch", "tokens", "hidden_size"))
        if embeddings.shape[2] != config.hidden_size:
            raise ValueError(
                f"inputs_embeds has width {embeddings.shape[2]}, but the model's hidden_size is {config.hidden_size}."
            )
        token_table = embeddings.reshape(-1, config.hidden_size)
        ids = np.arange(len(token_table)).reshape(embeddings.shape[:2])
        is_token = np.ones(ids.shape, bool)

    is_real, is_visible = visibility(attention_mask, is_token, config.num_attention_heads)
    token_types = np.zeros_like(ids)
    if token_type_ids is not None:
        token_types = _indices("token_type_ids", token_type_ids, config.type_vocab_size, "type_vocab_size")
        _check_shape("token_type_ids", token_types, ids.shape)
    if position_ids is not None:
        size = config.max_position_embeddings
        given = _indices("position_ids", position_ids, size, "max_position_embeddings")
        positions = np.repeat(given, len(ids), axis=0) if len(given) == 1 else given
        _check_shape("position_ids", positions, ids.shape)
    else:
        counted = is_token if token_table is None else is_real
        _check_length(counted, limit, config)
        positions = positions_of(counted.astype(np.int64), pad_id)

    if is_visible is not None or padded:
        mask = PaddedMask(is_real[:, None, None, :] if is_visible is None else is_visible)
        return EncoderInputs(ids, token_types, positions, mask, is_real, token_table)
    lengths = is_real.sum(axis=1)
    spans = Spans(lengths.cumsum() - lengths, lengths)
    return EncoderInputs(
        ids[is_real], token_types[is_real], positions[is_real], PackedMask(spans, spans), is_real, token_table
    )


def visibility(
    attention_mask: Any, is_token: Bool[Array, "B T"], num_heads: int
) -> tuple[Bool[Array, "B T"], Bool[Array, "#B #H T T"] | None]:
    """Which tokens are real, and, if the mask says more than that, which key each query sees.

    Args:
        attention_mask: one of
            None: the tokens that are not padding are real;
            [B, T], bool or numbers: nonzero means real;
            [B, T, T], bool or numbers: nonzero where query t sees key s;
            [B or 1, H or 1, T, T], bool: the same by head;
            the same shape in floats: added to the scores, which here can only mean 0 (seen) or the lowest
            value of a floating type or -inf (hidden).
        is_token: False at padding ids.
        num_heads: H.

    Returns:
        is_real [B, T], and None for the first two forms. The others say who sees whom and not what is real, so
        that the tokens which are not padding are; the second result broadcasts to [B, H, T, T].
    """
    if attention_mask is None:
        return is_token, None
    mask = _rectangle("attention_mask", attention_mask)
    if mask.dtype.name == "bfloat16":  # which NumPy's own functions do not know
        mask = mask.astype(np.float32)
    if mask.dtype.kind not in "biuf" or (mask.dtype.kind == "f" and np.isnan(mask).any()):
        raise ValueError(f"attention_mask must hold booleans or numbers; this one is {mask.dtype} or holds NaN.")
    if mask.ndim in (2, 3) and (mask < 0).any():
        raise ValueError(
            f"An attention_mask of {mask.ndim} dimensions says 1 for seen and 0 for hidden; this one has negative "
            "values, as masks that are added to the scores have. Those need four dimensions."
        )
    batch, length = is_token.shape
    if mask.ndim == 2:
        _check_shape("attention_mask", mask, (batch, length))
        return mask != 0, None
    if mask.ndim == 3:
        _check_shape("attention_mask", mask, (batch, length, length))
        return is_token, (mask != 0)[:, None, :, :]
    if mask.ndim != 4 or any(
        size not in allowed
        for size, allowed in zip(mask.shape, ((1, batch), (1, num_heads), (length,), (length,)), strict=True)
    ):
        raise ValueError(
            f"attention_mask has shape {mask.shape}; for {batch} x {length} tokens and {num_heads} heads it "
            f"must be ({batch}, {length}), ({batch}, {length}, {length}), or "
            f"({batch} or 1, {num_heads} or 1, {length}, {length})."
        )
    if mask.dtype.kind == "b":
        return is_token, mask
    if mask.dtype.kind == "f":
        lowest = max(np.finfo(mask.dtype).min, np.finfo(np.float32).min)  # wide masks may hold a narrow type's lowest
        if ((mask == 0) | (mask <= lowest)).all():
            return is_token, mask == 0
    raise ValueError(
        "An attention_mask with 4 dimensions must be boolean (True: seen), or floats that are 0 (seen) or the type's "
        f"lowest value or -inf (hidden); this one is {mask.dtype} with other values."
    )


def pack(x: Array, is_real: Bool[Array, "B T"]) -> Array:
    """The rows of `x` [B, T, ...] at real tokens, end to end: [N, ...]."""
    xp = array_namespace(x)
    (rows,) = xp.nonzero(xp.reshape(is_real, (-1,)))
    return xp.take(xp.reshape(x, (-1, *x.shape[2:])), rows, axis=0)


def unpack(y: Array, is_real: Bool[Array, "B T"]) -> Array:
    """The inverse of `pack`, with zeros at padding: [N, ...] to [B, T, ...]."""
    xp = array_namespace(y)
    shape = (*is_real.shape, *y.shape[1:])
    (rows,) = xp.nonzero(xp.reshape(is_real, (-1,)))
    if rows.shape[0] == is_real.shape[0] * is_real.shape[1]:  # no padding: spare the copy
        return xp.reshape(y, shape)
    padded = xp.zeros((shape[0] * shape[1], *y.shape[1:]), dtype=y.dtype, device=y.device)
    padded[rows] = y
    return xp.reshape(padded, shape)


def real_rows(x: Array, inputs: EncoderInputs) -> Array:
    """The rows at real tokens, [N, ...], of an array in the inputs' layout, [N, ...] or [B, T, ...]."""
    return x if isinstance(inputs.mask, PackedMask) else pack(x, inputs.is_real)


def lay_back(x: Array, inputs: EncoderInputs) -> Array:
    """An array in the inputs' layout, [N, ...] or [B, T, ...], as [B, T, ...] with zeros at padding."""
    if isinstance(inputs.mask, PackedMask):
        return unpack(x, inputs.is_real)
    xp = array_namespace(x)
    is_real = xp.reshape(inputs.is_real, (*inputs.is_real.shape, *(1,) * (x.ndim - 2)))
    return xp.where(is_real, x, xp.zeros_like(x))


def first_real_token(hidden_states: Float[Array, "B T D"], is_real: Bool[Array, "B T"]) -> Float[Array, "B D"]:
    """The hidden state of each row's first real token; zeros for a row that has none."""
    xp = array_namespace(hidden_states)
    batch, length, width = hidden_states.shape
    first = xp.argmax(xp.astype(is_real, xp.int8), axis=1)
    rows = first + length * xp.arange(batch, device=hidden_states.device)
    return xp.take(xp.reshape(hidden_states, (batch * length, width)), rows, axis=0)


def check_labels(labels: Any, is_real: Bool[Array, "B T"], number_of_classes: int) -> Int[Array, "B T"]:
    """The labels of tokens as an array, if each is a class or -100, and -100 wherever there is padding.

    Raises:
        ValueError: naming the first label that is not.
        TypeError: labels are not integers.
    """
    array = _array("labels", labels, "iu", ("batch", "tokens"))
    _check_shape("labels", array, is_real.shape)
    is_counted = array != IGNORED_LABEL
    _check_range("labels", np.where(is_counted, array, 0), number_of_classes, "number of classes")
    for row, column in np.argwhere(is_counted & ~is_real)[:1]:
        raise ValueError(
            f"labels[{row}, {column}] is {array[row, column]}, but there is padding; write {IGNORED_LABEL} there."
        )
    return array.astype(np.int64)


def check_places(where: Any, is_real: Bool[Array, "B T"]) -> Bool[Array, "B T"]:
    """Booleans that choose tokens, if they choose real ones.

    Raises:
        ValueError: a place is padding, or the shape does not fit.
        TypeError: these are not booleans.
    """
    places = _array("where", where, "b", ("batch", "tokens"))
    _check_shape("where", places, is_real.shape)
    for row, column in np.argwhere(places & ~is_real)[:1]:
        raise ValueError(f"where[{row}, {column}] chooses a place that is padding.")
    return places


KINDS = {"iu": "integers", "f": "floating-point numbers", "b": "booleans"}


def _rectangle(name: str, x: Any) -> np.ndarray:
    try:
        return to_numpy(x)
    except ValueError as error:  # NumPy's words for rows of different lengths
        raise ValueError(
            f"{name} has rows of different lengths; make them equal, for example with tokenizer(..., padding=True)."
        ) from error
    except (TypeError, RuntimeError) as error:  # tensors of torch in bfloat16, on a GPU, or with a gradient
        raise TypeError(f"{name} cannot be read as a NumPy array ({error}); pass one.") from error


def _array(name: str, x: Any, kinds: str, axes: tuple[str, ...]) -> np.ndarray:
    """`x` as an array of one of the wanted kinds (letters of NumPy's `dtype.kind`) with the wanted axes."""
    array = _rectangle(name, x)
    if array.ndim != len(axes) or 0 in array.shape:
        raise ValueError(
            f"{name} must have the axes [{', '.join(axes)}], none of them empty; its shape is {array.shape}."
        )
    if array.dtype.kind not in kinds and not (kinds == "f" and array.dtype.name == "bfloat16"):
        raise TypeError(f"{name} must be an array of {KINDS[kinds]}; it holds {array.dtype}.")
    return array


def _indices(name: str, x: Any, size: int, field: str) -> np.ndarray:
    """`x` as an array [B, T] of indices into a table of `size` rows, a size that the config calls `field`."""
    array = _array(name, x, "iu", ("batch", "tokens"))
    _check_range(name, array, size, field)
    return array.astype(np.int64, copy=False)


def _check_shape(name: str, x: np.ndarray, shape: tuple[int, ...]) -> None:
    if x.shape != tuple(shape):
        raise ValueError(f"{name} has shape {x.shape}, but the inputs ask for {tuple(shape)}.")


def _check_range(name: str, x: np.ndarray, size: int, field: str) -> None:
    for row, column in np.argwhere((x < 0) | (x >= size))[:1]:
        raise ValueError(
            f"{name}[{row}, {column}] is {x[row, column]}; the model's {field} of {size} allows 0 to {size - 1}."
        )


def _check_length(is_token: np.ndarray, limit: int, config: XLMRobertaConfig) -> None:
    lengths = is_token.sum(axis=1)
    row = int(lengths.argmax())
    if lengths[row] > limit:
        raise ValueError(
            f"Sequence {row} has {lengths[row]} tokens, and this model takes at most {limit} "
            f"(max_position_embeddings {config.max_position_embeddings} - pad_token_id {config.pad_token_id} - 1); "
            f"shorten it, for example with tokenizer(..., truncation=True, max_length={limit})."
        )
