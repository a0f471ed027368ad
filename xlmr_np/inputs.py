"""The model's door: what users pass is checked once here, on the host, and laid out for the encoder.

Decided here and nowhere else:
- Without a mask, the tokens that are not `pad_token_id` are real.
- In encoders, positions come from the ids, whatever the mask says; with embeddings, and in decoders, from the mask.
- The length limit is `max_position_embeddings - pad_token_id - 1`, the token-type limit `type_vocab_size`.
- A two-dimensional mask leads to the packed layout; masks of three and four dimensions need the padded one.
- A decoder's token sees no later one, unless a mask of three or four dimensions says who sees whom.
- The states that cross-attention sees are laid out as the tokens are; without a mask of their own, all are real.
- With a cache, the mask is of the tokens in it, too, and positions are counted on from theirs.
- What the encoder computes is laid back into the users' rectangle with zeros at padding.
"""

from math import prod
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from xlmr_np.arrays import Array, array_namespace, is_cupy_array, to_numpy
from xlmr_np.config import XLMRobertaConfig
from xlmr_np.decoding.cache import NO_ID, CacheStep, KeyValueCache, LayerStep, StoreShape
from xlmr_np.layers.attention import Mask, PackedMask, PaddedMask, Spans
from xlmr_np.layers.embeddings import position_ids as positions_of
from xlmr_np.layers.encoder_layer import Source


class EncoderInputs(NamedTuple):
    """The encoder's index arrays and mask, and what leads back to the users' rectangle [B, T]."""

    ids: Int[Array, "*batch"]
    token_types: Int[Array, "*batch"]
    positions: Int[Array, "*batch"]
    mask: Mask
    is_real: Bool[Array, "B T"]
    token_table: Float[Array, "rows D"] | None  # the users' own embeddings, when they replace the table
    sentences_per_example: int = 1  # the choices of multiple choice; the rows of an example follow each other
    source: Source | tuple[Source, ...] | None = None  # what cross-attention sees; of a cache, for each layer
    source_is_real: Bool[Array, "B S"] | None = None
    step: CacheStep | None = None  # what the tokens add to a cache
    past: tuple[LayerStep, ...] | None = None  # and by which stores


class Caching(NamedTuple):
    """The cache that a forward pass adds to, and the shape of the model's stores."""

    cache: KeyValueCache
    shape: StoreShape


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
    caching: Caching | None = None,
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
        caching: what the tokens are added to, which holds those before them; `attention_mask` is of both, [B, P + T].

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
        embeddings = read_array("inputs_embeds", inputs_embeds, "f", ("batch", "tokens", "hidden_size"))
        if embeddings.shape[2] != config.hidden_size:
            raise ValueError(
                f"inputs_embeds has width {embeddings.shape[2]}, but the model's hidden_size is {config.hidden_size}."
            )
        token_table = embeddings.reshape(-1, config.hidden_size)
        ids = np.arange(len(token_table)).reshape(embeddings.shape[:2])
        is_token = np.ones(ids.shape, bool)

    if caching is not None and attention_mask is not None:
        attention_mask = _mask_of_new_tokens(attention_mask, ids.shape, caching.cache)
    is_real, is_visible = visibility(attention_mask, is_token, config.num_attention_heads)
    token_types = np.zeros_like(ids)
    if token_type_ids is not None:
        token_types = _indices("token_type_ids", token_type_ids, config.type_vocab_size, "type_vocab_size")
        check_shape("token_type_ids", token_types, ids.shape)
    if position_ids is not None:
        size = config.max_position_embeddings
        given = _indices("position_ids", position_ids, size, "max_position_embeddings")
        positions = np.repeat(given, len(ids), axis=0) if len(given) == 1 else given
        check_shape("position_ids", positions, ids.shape)
    else:
        counted = (is_token if token_table is None and not config.is_decoder else is_real).astype(np.int64)
        before = np.zeros(len(ids), np.int64) if caching is None else caching.cache.lengths(len(ids))
        check_lengths(before + counted.sum(axis=1), config)
        positions = positions_of(counted, pad_id) + before[:, None] * counted

    own_ids = ids if token_table is None else np.full_like(ids, NO_ID)
    step = None if caching is None else caching.cache.begin(caching.shape, is_real, own_ids)
    padded = padded or is_visible is not None
    past = None if step is None else step.layers(padded)
    if padded:
        if is_visible is None:
            is_real_key = is_real if step is None else step.is_real
            is_visible = is_real_key[:, None, None, :]
            if config.is_decoder:
                seen = is_real_key.shape[1] - ids.shape[1]
                is_visible = is_visible & np.tri(ids.shape[1], is_real_key.shape[1], seen, dtype=bool)
        mask = PaddedMask(is_visible)
        return EncoderInputs(ids, token_types, positions, mask, is_real, token_table, step=step, past=past)
    lengths = is_real.sum(axis=1)
    spans = Spans(lengths.cumsum() - lengths, lengths)
    is_causal = config.is_decoder and (step is None or bool((lengths > 1).any()))  # single tokens see all before them
    return EncoderInputs(
        ids[is_real],
        token_types[is_real],
        positions[is_real],
        PackedMask(spans, spans if step is None else step.key, is_causal),
        is_real,
        token_table,
        step=step,
        past=past,
    )


def _mask_of_new_tokens(attention_mask: Any, shape: tuple[int, ...], cache: KeyValueCache) -> Array:
    """The part [B, T] of a mask [B, P + T] whose first P columns say again which tokens of the cache are real."""
    mask = numbers_of_mask("attention_mask", rectangle("attention_mask", attention_mask))
    seen = cache.get_seq_length()
    if mask.shape != (shape[0], seen + shape[1]):
        raise ValueError(
            f"attention_mask has shape {mask.shape}; with {seen} cached tokens a sentence and {shape[1]} new ones it "
            f"must be ({shape[0]}, {seen + shape[1]}), of both. For masks that say who sees whom, pass use_cache=False."
        )
    is_real_before = cache.is_real
    fits = len(is_real_before) == len(mask)  # or else the cache is new, or refuses other sentences
    for row, column in np.argwhere((mask[:, :seen] != 0) != is_real_before)[:1] if fits else ():
        raise ValueError(
            f"attention_mask[{row}, {column}] is {mask[row, column]}, but that token was "
            f"{'real' if is_real_before[row, column] else 'hidden'} when it came into the cache; begin another one."
        )
    return mask[:, seen:]


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
    mask = numbers_of_mask("attention_mask", rectangle("attention_mask", attention_mask))
    if mask.ndim in (2, 3) and (mask < 0).any():
        raise ValueError(negative_mask(mask.ndim))
    batch, length = is_token.shape
    if mask.ndim == 2:
        check_shape("attention_mask", mask, (batch, length))
        return mask != 0, None
    if mask.ndim == 3:
        check_shape("attention_mask", mask, (batch, length, length))
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


def numbers_of_mask(name: str, mask: Array) -> Array:
    """A mask in a type that every library can compare, if its elements are numbers (ValueError otherwise)."""
    xp = array_namespace(mask)
    comparable = xp.astype(mask, xp.float32) if mask.dtype.name == "bfloat16" else mask
    if comparable.dtype.kind not in "biuf" or (comparable.dtype.kind == "f" and bool(xp.any(xp.isnan(comparable)))):
        raise ValueError(no_mask(mask, name))
    return comparable


def no_mask(mask: Array, name: str = "attention_mask") -> str:
    """What is wrong with a mask whose elements are no numbers."""
    return f"{name} must hold booleans or numbers; this one is {mask.dtype} or holds NaN."


def negative_mask(dimensions: int) -> str:
    """What is wrong with a mask of two or three dimensions that has negative values."""
    return (
        f"An attention_mask of {dimensions} dimensions says 1 for seen and 0 for hidden; this one has negative values, "
        "as masks that are added to the scores have. Those need four dimensions."
    )


def with_source(
    inputs: EncoderInputs, config: XLMRobertaConfig, encoder_hidden_states: Any, encoder_attention_mask: Any, dtype: Any
) -> EncoderInputs:
    """The inputs with what their cross-attention sees, on the device of what came.

    Args:
        inputs: of the decoder's own tokens.
        config: of the model.
        encoder_hidden_states: [B, S, D] the states of another model, for each sentence those that it sees.
        encoder_attention_mask: [B, S], nonzero at real ones; None: all of them.
        dtype: in which the model computes.

    Raises:
        ValueError: they do not fit the model, the sentences or each other.
        TypeError: the states are no floats.
    """
    states, mask = encoder_hidden_states, encoder_attention_mask
    if states is None:
        if mask is not None:
            raise ValueError("encoder_attention_mask is given without the encoder_hidden_states that it is of.")
        if config.add_cross_attention:
            raise ValueError(
                "This model has cross-attention, so that it needs encoder_hidden_states, the last hidden states of an "
                "encoder; to use it without, load it with add_cross_attention=False."
            )
        return inputs
    if not config.add_cross_attention:
        has = "is a decoder without cross-attention" if config.is_decoder else "is an encoder"
        raise ValueError(
            f"encoder_hidden_states are given, but this model {has}, which could not see them; make it with "
            "is_decoder=True and add_cross_attention=True, or leave them out."
        )
    states = states if is_cupy_array(states) else rectangle("encoder_hidden_states", states)
    check_kind("encoder_hidden_states", states, "f", ("batch", "source tokens", "hidden_size"))
    sentences = inputs.is_real.shape[0]
    if states.shape[0] != sentences or states.shape[2] != config.hidden_size:
        raise ValueError(
            f"encoder_hidden_states has shape {states.shape}; for a batch of {sentences} and a hidden_size of "
            f"{config.hidden_size} it must be ({sentences}, source tokens, {config.hidden_size})."
        )
    xp = array_namespace(states)
    if mask is None:
        is_real = xp.ones(states.shape[:2], dtype=xp.bool, device=states.device)
    else:
        numbers = numbers_of_mask(
            "encoder_attention_mask", mask if is_cupy_array(mask) else rectangle("encoder_attention_mask", mask)
        )
        if numbers.shape != states.shape[:2]:
            raise ValueError(
                f"encoder_attention_mask has shape {numbers.shape}, but encoder_hidden_states asks for "
                f"{states.shape[:2]}."
            )
        if xp.any(numbers < 0):
            raise ValueError("encoder_attention_mask says 1 for seen and 0 for hidden; this one has negative values.")
        is_real = numbers != 0
    states = xp.astype(states, dtype, copy=False)
    if isinstance(inputs.mask, PaddedMask):
        source = Source(states, PaddedMask(is_real[:, None, None, :]))
    else:
        lengths = xp.sum(xp.astype(is_real, xp.int64), axis=1)
        spans = Spans(xp.cumulative_sum(lengths) - lengths, lengths)
        source = Source(pack(states, is_real), PackedMask(inputs.mask.query, spans))
    return inputs._replace(source=source, source_is_real=is_real)


def pack(x: Array, is_chosen: Bool[Array, "*places"]) -> Array:
    """The rows of `x` [*places, ...] where `is_chosen`, end to end: [N, ...]. `unpack` is its backward pass."""
    xp = array_namespace(x)
    (rows,) = xp.nonzero(xp.reshape(is_chosen, (-1,)))
    return xp.take(xp.reshape(x, (-1, *x.shape[is_chosen.ndim :])), rows, axis=0)


def unpack(y: Array, is_chosen: Bool[Array, "*places"]) -> Array:
    """The rows of `y` [N, ...] laid where `is_chosen`, zeros elsewhere: [*places, ...]. `pack` is its backward pass."""
    xp = array_namespace(y)
    shape = (*is_chosen.shape, *y.shape[1:])
    if y.shape[0] == prod(is_chosen.shape):  # all of them: spare the copy
        return xp.reshape(y, shape)
    (rows,) = xp.nonzero(xp.reshape(is_chosen, (-1,)))
    padded = xp.zeros((prod(is_chosen.shape), *y.shape[1:]), dtype=y.dtype, device=y.device)
    padded[rows] = y
    return xp.reshape(padded, shape)


def real_rows(x: Array, inputs: EncoderInputs) -> Array:
    """The rows at real tokens, [N, ...], of an array in the inputs' layout, [N, ...] or [B, T, ...]."""
    return x if isinstance(inputs.mask, PackedMask) else pack(x, inputs.is_real)


def in_layout(rows: Array, inputs: EncoderInputs) -> Array:
    """The rows at real tokens, [N, ...], in the inputs' layout: the backward pass of `real_rows`."""
    return rows if isinstance(inputs.mask, PackedMask) else unpack(rows, inputs.is_real)


def first_token_forward(rows: Float[Array, "N D"], is_real: Bool[Array, "B T"]) -> Float[Array, "B D"]:
    """The state of each sentence's first real token, its classification token; zeros for one that has none."""
    return by_sentence_forward(pack(rows, is_first(is_real)), is_real)


def first_token_backward(d_first: Float[Array, "B D"], is_real: Bool[Array, "B T"]) -> Float[Array, "N D"]:
    """The gradient of the rows at real tokens: that of the first tokens, and zeros at all others."""
    return unpack(by_sentence_backward(d_first, is_real), is_first(is_real))


def by_sentence_forward(first_rows: Float[Array, "n D"], is_real: Bool[Array, "B T"]) -> Float[Array, "B D"]:
    """A row of every sentence that has real tokens, with zeros for the others."""
    return unpack(first_rows, array_namespace(is_real).any(is_real, axis=1))


def by_sentence_backward(d_first: Float[Array, "B D"], is_real: Bool[Array, "B T"]) -> Float[Array, "n D"]:
    """The rows of the sentences that have real tokens."""
    return pack(d_first, array_namespace(is_real).any(is_real, axis=1))


def is_first(is_real: Bool[Array, "B T"]) -> Bool[Array, " N"]:
    """Which of the N real tokens are the first of their sentence."""
    _, places = token_places(is_real)
    return pack(places, is_real) == 0


def token_places(is_real: Bool[Array, "B T"]) -> tuple[Int[Array, "B T"], Int[Array, "B T"]]:
    """For every token, the number of its sentence, and how many real tokens of that sentence stand before it."""
    xp = array_namespace(is_real)
    real = xp.astype(is_real, xp.int64)
    sentences = xp.broadcast_to(xp.arange(is_real.shape[0], device=is_real.device)[:, None], is_real.shape)
    return sentences, xp.cumulative_sum(real, axis=1) - real


def sentence_places(is_real: Bool[Array, "B T"]) -> tuple[Int[Array, " B"], Int[Array, " B"]]:
    """For a vector per sentence, what `token_places` says of its first token."""
    xp = array_namespace(is_real)
    sentences = xp.arange(is_real.shape[0], device=is_real.device)
    return sentences, xp.zeros_like(sentences)


def flat_choices(arguments: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Arguments of multiple choice, [B, C, T, ...] each, as those of B·C sentences; and C.

    Raises:
        ValueError: an array lacks the axes, or has other choices than the rest.
    """
    flat, leading = dict(arguments), set()
    for name, given in arguments.items():
        if given is not None:
            array = given if is_cupy_array(given) else rectangle(name, given)
            if array.ndim != (4 if name == "inputs_embeds" else 3):
                raise ValueError(
                    f"{name} of multiple choice needs the axes questions, choices and tokens (inputs_embeds also the "
                    f"width); its shape is {array.shape}."
                )
            leading.add(array.shape[:2])
            flat[name] = array.reshape(prod(array.shape[:2]), *array.shape[2:])
    if len(leading) > 1:
        raise ValueError(f"The arguments have different numbers of questions and choices: {sorted(leading)}.")
    return flat, leading.pop()[1] if leading else 1


def check_places(where: Any, is_real: Bool[Array, "B T"]) -> Bool[Array, "B T"]:
    """Booleans that choose tokens, if they choose real ones.

    Raises:
        ValueError: a place is padding, or the shape does not fit.
        TypeError: these are not booleans.
    """
    places = read_array("where", where, "b", ("batch", "tokens"))
    check_shape("where", places, is_real.shape)
    for row, column in np.argwhere(places & ~is_real)[:1]:
        raise ValueError(f"where[{row}, {column}] chooses a place that is padding.")
    return places


def places_to_keep(logits_to_keep: Any, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray] | None:
    """The rows and the columns of the places whose logits are wanted, in the order and shape in which they are.

    Args:
        logits_to_keep: one of
            0: all of them, and the result is None;
            n: the last n places of every row, [B, n];
            [K] integers: these places of every row, [B, K];
            [B, K] integers: of each row its own, [B, K];
            [B, T] booleans: those that are True, from left to right and row by row, [number of them].
        shape: B and T.

    Raises:
        ValueError: there are no such places.
        TypeError: these are neither integers nor booleans.
    """
    batch, length = shape
    if isinstance(logits_to_keep, int | np.integer) and not isinstance(logits_to_keep, bool):
        if not 0 <= logits_to_keep <= length:
            raise ValueError(f"logits_to_keep={logits_to_keep} must be from 0 (all) to the {length} places of a row.")
        last = np.arange(length - int(logits_to_keep), length)
        return _of_every_row(last, batch) if logits_to_keep else None
    wanted = rectangle("logits_to_keep", logits_to_keep)
    if wanted.dtype.kind not in "biu":
        raise TypeError(f"logits_to_keep must be a number, or places as integers or booleans; it holds {wanted.dtype}.")
    if wanted.dtype.kind == "b":
        check_shape("logits_to_keep of booleans", wanted, shape)
        rows, columns = np.nonzero(wanted)
        return rows, columns
    if wanted.ndim not in (1, 2) or (wanted.ndim == 2 and len(wanted) != batch):
        raise ValueError(
            f"logits_to_keep of integers must be places [K] of every row, or [{batch}, K] of each of them; its shape "
            f"is {wanted.shape}."
        )
    for place in wanted[(wanted < 0) | (wanted >= length)][:1]:
        raise ValueError(f"logits_to_keep asks for place {place}; a row has the places 0 to {length - 1}.")
    return _of_every_row(wanted.astype(np.int64), batch)


def _of_every_row(columns: np.ndarray, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns [K] or [B, K] with the rows that they are of, both [B, K]."""
    shape = batch, columns.shape[-1]
    return np.broadcast_to(np.arange(batch)[:, None], shape), np.broadcast_to(columns, shape)


KINDS = {"iu": "integers", "f": "floating-point numbers", "b": "booleans"}


def rectangle(name: str, x: Any) -> np.ndarray:
    """`x` as an array of any kind and shape.

    Raises:
        ValueError: it has rows of different lengths.
        TypeError: it is a tensor that NumPy cannot read.
    """
    try:
        return to_numpy(x)
    except ValueError as error:  # NumPy's words for rows of different lengths
        raise ValueError(
            f"{name} has rows of different lengths; make them equal: tokenizer(..., padding=True) pads inputs, and "
            "labels are padded with -100."
        ) from error
    except (TypeError, RuntimeError) as error:  # tensors of torch in bfloat16, on a GPU, or with a gradient
        raise TypeError(f"{name} cannot be read as a NumPy array ({error}); pass one.") from error


def read_array(name: str, x: Any, kinds: str, axes: tuple[str, ...]) -> np.ndarray:
    """`x` as an array of one of the wanted kinds (letters of NumPy's `dtype.kind`) with the wanted axes.

    Raises:
        ValueError: it has other axes, an empty one, or rows of different lengths.
        TypeError: it holds something else.
    """
    array = rectangle(name, x)
    check_kind(name, array, kinds, axes)
    return array


def check_kind(name: str, array: Array, kinds: str, axes: tuple[str, ...]) -> None:
    """Refuse what `read_array` does not return."""
    if array.ndim != len(axes) or 0 in array.shape:
        raise ValueError(
            f"{name} must have the axes [{', '.join(axes)}], none of them empty; its shape is {array.shape}."
        )
    if array.dtype.kind not in kinds and not (kinds == "f" and array.dtype.name == "bfloat16"):
        raise TypeError(f"{name} must be an array of {KINDS[kinds]}; it holds {array.dtype}.")


def _indices(name: str, x: Any, size: int, field: str) -> np.ndarray:
    """`x` as an array [B, T] of indices into a table of `size` rows, a size that the config calls `field`."""
    array = read_array(name, x, "iu", ("batch", "tokens"))
    check_indices(name, array, size, field)
    return array.astype(np.int64, copy=False)


def check_shape(name: str, x: np.ndarray, shape: tuple[int, ...]) -> None:
    """Refuse an array of another shape than the inputs ask for (ValueError)."""
    if x.shape != tuple(shape):
        raise ValueError(f"{name} has shape {x.shape}, but the inputs ask for {tuple(shape)}.")


def check_indices(name: str, x: np.ndarray, size: int, field: str) -> None:
    """Refuse numbers that are not from 0 to `size - 1`, a limit that is called `field` (ValueError)."""
    for place in np.argwhere((x < 0) | (x >= size))[:1]:
        raise ValueError(wrong_index(name, tuple(map(int, place)), int(x[tuple(place)]), size, field))


def wrong_index(name: str, place: tuple[int, ...], index: int, size: int, field: str) -> str:
    """What is wrong with an index that is not from 0 to `size - 1`."""
    return f"{name}[{', '.join(map(str, place))}] is {index}; the model's {field} of {size} allows 0 to {size - 1}."


def check_lengths(lengths: Int[np.ndarray, " B"], config: XLMRobertaConfig) -> None:
    """Refuse sequences of more tokens than there are positions for (ValueError)."""
    limit = longest_sequence(config)
    row = int(lengths.argmax())
    if lengths[row] > limit:
        raise ValueError(
            f"Sequence {row} has {lengths[row]} tokens, and this model takes at most {limit} "
            f"(max_position_embeddings {config.max_position_embeddings} - pad_token_id {config.pad_token_id} - 1); "
            f"shorten it, for example with tokenizer(..., truncation=True, max_length={limit})."
        )
