"""The model's door: what users pass is checked once here, and laid out for the encoder.

Decided here and nowhere else:
- Without a mask, the tokens that are not `pad_token_id` are real.
- With ids, positions come from the ids; with embeddings, from the mask.
- The length limit is `max_position_embeddings - pad_token_id - 1`, the token-type limit `type_vocab_size`.
- A two-dimensional mask leads to the packed layout; masks of three and four dimensions need the padded one.
- What the encoder computes is laid back into the users' rectangle with zeros at padding.
"""

from typing import Any, NamedTuple

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


def prepare_inputs(
    config: XLMRobertaConfig,
    input_ids: Any = None,
    attention_mask: Any = None,
    token_type_ids: Any = None,
    position_ids: Any = None,
    inputs_embeds: Any = None,
    padded: bool = False,
) -> EncoderInputs:
    """Check the arguments of a forward pass and lay them out.

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
        given = "neither" if input_ids is None else "both"
        raise ValueError(f"Give exactly one of input_ids and inputs_embeds; {given} came.")
    token_table = None
    if inputs_embeds is not None:
        embeddings = _array("inputs_embeds", inputs_embeds, "real floating", dimensions=3)
        xp = array_namespace(embeddings)
        batch, length, width = embeddings.shape
        if width != config.hidden_size:
            raise ValueError(f"inputs_embeds has width {width}, but the model's hidden_size is {config.hidden_size}.")
        ids = xp.reshape(xp.arange(batch * length, device=embeddings.device), (batch, length))
        token_table = xp.reshape(embeddings, (batch * length, width))
    else:
        ids = _array("input_ids", input_ids, "integral", dimensions=2)
        xp = array_namespace(ids)
        _check_range("input_ids", ids, config.vocab_size, "vocab_size")
    pad_id = config.pad_token_id
    if pad_id is None:
        raise ValueError("The config's pad_token_id is None, but positions are counted from pad_token_id + 1; set it.")

    is_pad = ids == pad_id if token_table is None else xp.zeros(ids.shape, dtype=xp.bool, device=ids.device)
    is_real, is_visible = visibility(attention_mask, ~is_pad, config.num_attention_heads)
    token_types = xp.zeros_like(ids)
    if token_type_ids is not None:
        token_types = _array("token_type_ids", token_type_ids, "integral", dimensions=2)
        _check_shape("token_type_ids", token_types, ids.shape)
        _check_range("token_type_ids", token_types, config.type_vocab_size, "type_vocab_size")
    if position_ids is not None:
        positions = _array("position_ids", position_ids, "integral", dimensions=2)
        if positions.shape[0] == 1:
            positions = xp.broadcast_to(positions, (ids.shape[0], positions.shape[1]))
        _check_shape("position_ids", positions, ids.shape)
        _check_range("position_ids", positions, config.max_position_embeddings, "max_position_embeddings")
    else:
        is_token = ~is_pad if token_table is None else is_real
        _check_length(is_token, config)
        positions = positions_of(xp.astype(is_token, ids.dtype), pad_id)

    if is_visible is not None or padded:
        if is_visible is None:
            is_visible = is_real[:, None, None, :]
        return EncoderInputs(ids, token_types, positions, PaddedMask(is_visible), is_real, token_table)
    lengths = xp.sum(xp.astype(is_real, xp.int64), axis=1)
    spans = Spans(xp.cumulative_sum(lengths) - lengths, lengths)
    ids, token_types, positions = (pack(each, is_real) for each in (ids, token_types, positions))
    return EncoderInputs(ids, token_types, positions, PackedMask(spans, spans), is_real, token_table)


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
            the same shape in floats: added to the scores, which here can only mean 0 (seen) or the type's
            lowest value or -inf (hidden).
        is_token: False at padding ids.
        num_heads: H.

    Returns:
        is_real [B, T] and None for the first two forms; for the others every token is real, and the second
        result broadcasts to [B, H, T, T].
    """
    xp = array_namespace(is_token)
    if attention_mask is None:
        return is_token, None
    mask = attention_mask if hasattr(attention_mask, "dtype") else to_numpy(attention_mask)
    batch, length = is_token.shape
    if mask.ndim == 2:
        _check_shape("attention_mask", mask, (batch, length))
        return mask != 0, None
    everything = xp.ones((batch, length), dtype=xp.bool, device=is_token.device)
    if mask.ndim == 3:
        _check_shape("attention_mask", mask, (batch, length, length))
        return everything, (mask != 0)[:, None, :, :]
    if mask.ndim != 4 or any(
        size not in allowed
        for size, allowed in zip(mask.shape, ((1, batch), (1, num_heads), (length,), (length,)), strict=True)
    ):
        raise ValueError(
            f"attention_mask has shape {tuple(mask.shape)}; for {batch} x {length} tokens and {num_heads} heads it "
            f"must be ({batch}, {length}), ({batch}, {length}, {length}), or "
            f"({batch} or 1, {num_heads} or 1, {length}, {length})."
        )
    if xp.isdtype(mask.dtype, "bool"):
        return everything, mask
    if xp.isdtype(mask.dtype, "real floating"):
        lowest = max(xp.finfo(mask.dtype).min, xp.finfo(xp.float32).min)  # a wide mask may hold a narrow type's lowest
        is_visible, is_hidden = mask == 0, mask <= lowest
        if bool(xp.all(is_visible | is_hidden)):
            return everything, is_visible
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
    xp = array_namespace(y, is_real)
    if y.shape[0] == is_real.shape[0] * is_real.shape[1]:  # no padding: spare the copy
        return xp.reshape(y, (*is_real.shape, *y.shape[1:]))
    flat = xp.reshape(is_real, (-1,))
    rank = xp.cumulative_sum(xp.astype(flat, xp.int64)) - 1
    row = xp.where(flat, rank, xp.full_like(rank, y.shape[0]))
    zero = xp.zeros((1, *y.shape[1:]), dtype=y.dtype, device=y.device)
    padded = xp.take(xp.concat([y, zero], axis=0), row, axis=0)
    return xp.reshape(padded, (*is_real.shape, *y.shape[1:]))


def real_rows(x: Array, inputs: EncoderInputs) -> Array:
    """The rows of `x`, an array in the inputs' layout, at real tokens: [N, ...]."""
    return x if isinstance(inputs.mask, PackedMask) else pack(x, inputs.is_real)


def lay_back(x: Array, inputs: EncoderInputs) -> Array:
    """`x`, an array in the inputs' layout, as the users' rectangle [B, T, ...] with zeros at padding."""
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
    array = _array("labels", labels, "integral", dimensions=2)
    _check_shape("labels", array, is_real.shape)
    xp = array_namespace(array)
    is_counted = array != IGNORED_LABEL
    _check_range("labels", xp.where(is_counted, array, xp.zeros_like(array)), number_of_classes, "number of classes")
    if bool(xp.any(is_counted & ~is_real)):
        row, column = (int(axis[0]) for axis in xp.nonzero(is_counted & ~is_real))
        raise ValueError(
            f"labels[{row}, {column}] is {int(array[row, column])}, but there is padding; write -100 there."
        )
    return array


def check_places(where: Any, is_real: Bool[Array, "B T"]) -> Bool[Array, "B T"]:
    """Booleans that choose tokens, if they choose real ones.

    Raises:
        ValueError: a place is padding, or the shape does not fit.
        TypeError: these are not booleans.
    """
    places = _array("where", where, "bool", dimensions=2)
    _check_shape("where", places, is_real.shape)
    xp = array_namespace(places)
    if bool(xp.any(places & ~is_real)):
        row, column = (int(axis[0]) for axis in xp.nonzero(places & ~is_real))
        raise ValueError(f"where[{row}, {column}] chooses a place that is padding.")
    return places


KINDS = {"integral": "integers", "real floating": "floating-point numbers", "bool": "booleans"}


def _array(name: str, x: Any, kind: str, dimensions: int) -> Array:
    """`x` as an array of the wanted kind and number of dimensions; integers become int64."""
    array = x if hasattr(x, "dtype") else to_numpy(x)
    xp = array_namespace(array)
    if not xp.isdtype(array.dtype, kind):
        raise TypeError(f"{name} must be an array of {KINDS[kind]}; it holds {array.dtype}.")
    if array.ndim != dimensions or 0 in array.shape:
        axes = "[batch, tokens]" if dimensions == 2 else "[batch, tokens, hidden_size]"
        raise ValueError(f"{name} must have the axes {axes}, none of them empty; its shape is {tuple(array.shape)}.")
    return xp.astype(array, xp.int64, copy=False) if kind == "integral" else array


def _check_shape(name: str, x: Array, shape: tuple[int, ...]) -> None:
    if tuple(x.shape) != tuple(shape):
        raise ValueError(f"{name} has shape {tuple(x.shape)}, but the inputs ask for {tuple(shape)}.")


def _check_range(name: str, x: Int[Array, "B T"], size: int, field: str) -> None:
    xp = array_namespace(x)
    is_wrong = (x < 0) | (x >= size)
    if bool(xp.any(is_wrong)):
        row, column = (int(axis[0]) for axis in xp.nonzero(is_wrong))
        raise ValueError(
            f"{name}[{row}, {column}] is {int(x[row, column])}; the model's {field} of {size} allows 0 to {size - 1}."
        )


def _check_length(is_token: Bool[Array, "B T"], config: XLMRobertaConfig) -> None:
    xp = array_namespace(is_token)
    lengths = xp.sum(xp.astype(is_token, xp.int64), axis=1)
    row = int(xp.argmax(lengths))
    limit = config.max_sequence_length
    if int(lengths[row]) > limit:
        raise ValueError(
            f"Sequence {row} has {int(lengths[row])} tokens, and this model takes at most {limit} "
            f"(max_position_embeddings {config.max_position_embeddings} - pad_token_id {config.pad_token_id} - 1); "
            f"shorten it, for example with tokenizer(..., truncation=True, max_length={limit})."
        )
