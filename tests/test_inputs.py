"""The model's door: layouts, positions, masks, limits, and what bad input is told."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from xlmr_np.arrays import dtype_from_name
from xlmr_np.config import XLMRobertaConfig
from xlmr_np.inputs import (
    check_places,
    first_token_backward,
    first_token_forward,
    in_layout,
    pack,
    places_to_keep,
    prepare_inputs,
    real_rows,
    unpack,
    with_source,
)
from xlmr_np.layers.attention import PackedMask, PaddedMask

CONFIG = XLMRobertaConfig(
    vocab_size=20, hidden_size=4, num_attention_heads=2, max_position_embeddings=12, type_vocab_size=2
)
IDS = np.array([[5, 6, 7, 1], [1, 8, 1, 9]])

bits = arrays.arrays(bool, st.tuples(st.integers(1, 4), st.integers(1, 6)))


@given(bits, st.integers(1, 3))
def test_packing_is_undone_with_zeros_at_padding(is_real: np.ndarray, width: int) -> None:
    x = np.arange(1.0, is_real.size * width + 1).reshape(*is_real.shape, width)
    packed = pack(x, is_real)
    np.testing.assert_array_equal(packed, x[is_real])
    np.testing.assert_array_equal(unpack(packed, is_real), x * is_real[..., None])


def test_without_a_mask_padding_ids_are_not_real() -> None:
    inputs = prepare_inputs(CONFIG, IDS)
    np.testing.assert_array_equal(inputs.is_real, IDS != 1)
    np.testing.assert_array_equal(inputs.ids, [5, 6, 7, 8, 9])
    np.testing.assert_array_equal(inputs.positions, [2, 3, 4, 2, 3])
    assert isinstance(inputs.mask, PackedMask)
    np.testing.assert_array_equal(inputs.mask.query.starts, [0, 3])
    np.testing.assert_array_equal(inputs.mask.key.lengths, [3, 2])


def test_positions_come_from_the_ids_and_not_from_the_mask() -> None:
    mask = np.array([[0, 1, 1, 0], [1, 1, 1, 1]])
    inputs = prepare_inputs(CONFIG, IDS, mask)
    np.testing.assert_array_equal(inputs.ids, [6, 7, 1, 8, 1, 9])
    np.testing.assert_array_equal(inputs.positions, [3, 4, 1, 2, 1, 3])


def test_an_all_ones_mask_makes_padding_real() -> None:
    inputs = prepare_inputs(CONFIG, IDS, np.ones_like(IDS))
    assert inputs.is_real.all()
    np.testing.assert_array_equal(inputs.positions, [2, 3, 4, 1, 1, 2, 1, 3])


@pytest.mark.parametrize("mask", [[[2, 1, 0.5, 0]], [[True, True, True, False]], np.array([[1, 1, 1, 0]], np.uint8)])
def test_a_mask_counts_what_is_not_zero(mask: object) -> None:
    np.testing.assert_array_equal(prepare_inputs(CONFIG, IDS[:1], mask).is_real, [[True, True, True, False]])


def test_with_embeddings_positions_come_from_the_mask() -> None:
    embeddings = np.arange(32.0).reshape(2, 4, 4)
    inputs = prepare_inputs(CONFIG, inputs_embeds=embeddings, attention_mask=[[0, 1, 1, 1], [1, 1, 0, 0]])
    np.testing.assert_array_equal(inputs.positions, [2, 3, 4, 2, 3])
    np.testing.assert_array_equal(inputs.token_table[inputs.ids], embeddings[inputs.is_real])
    everything = prepare_inputs(CONFIG, inputs_embeds=embeddings)
    np.testing.assert_array_equal(everything.positions, [2, 3, 4, 5, 2, 3, 4, 5])


def test_given_positions_and_token_types_are_used() -> None:
    inputs = prepare_inputs(CONFIG, IDS, position_ids=[[9, 8, 7, 6]], token_type_ids=[[0, 1, 0, 1], [1, 0, 1, 0]])
    np.testing.assert_array_equal(inputs.positions, [9, 8, 7, 8, 6])
    np.testing.assert_array_equal(inputs.token_types, [0, 1, 0, 0, 0])


@pytest.mark.parametrize(
    "mask",
    [
        np.tril(np.ones((2, 4, 4), int)),
        np.tril(np.ones((2, 4, 4), bool))[:, None],
        np.where(np.tril(np.ones((2, 1, 4, 4))) == 1, 0.0, -np.inf),
        np.where(np.tril(np.ones((1, 2, 4, 4))) == 1, 0.0, np.finfo(np.float32).min).astype(np.float32),
    ],
    ids=["3-D", "4-D bool", "4-D -inf", "4-D lowest"],
)
def test_masks_that_say_who_sees_whom(mask: np.ndarray) -> None:
    inputs = prepare_inputs(CONFIG, IDS, mask)
    assert isinstance(inputs.mask, PaddedMask)
    np.testing.assert_array_equal(inputs.is_real, IDS != 1)  # such a mask says who sees whom, not what is real
    visible = np.broadcast_to(inputs.mask.is_visible, (2, 2, 4, 4))
    np.testing.assert_array_equal(visible, np.broadcast_to(np.tril(np.ones((4, 4), bool)), (2, 2, 4, 4)))


def test_bfloat16_masks() -> None:
    mask = np.where(np.tril(np.ones((2, 1, 4, 4))) == 1, 0.0, -np.inf).astype(dtype_from_name("bfloat16"))
    np.testing.assert_array_equal(prepare_inputs(CONFIG, IDS, mask).mask.is_visible, mask == 0)


def test_arrays_of_other_libraries_are_taken() -> None:
    ours, mixed = prepare_inputs(CONFIG, IDS, IDS != 1), prepare_inputs(CONFIG, torch.asarray(IDS), IDS != 1)
    np.testing.assert_array_equal(mixed.ids, ours.ids)
    np.testing.assert_array_equal(prepare_inputs(CONFIG, IDS, torch.asarray(IDS != 1)).is_real, ours.is_real)


def test_the_padded_layout_on_request() -> None:
    inputs = prepare_inputs(CONFIG, IDS, padded=True)
    np.testing.assert_array_equal(inputs.ids, IDS)
    np.testing.assert_array_equal(inputs.mask.is_visible[:, 0, 0], IDS != 1)
    x = np.ones((2, 4, 3))
    np.testing.assert_array_equal(real_rows(x, inputs), np.ones((5, 3)))
    np.testing.assert_array_equal(in_layout(np.ones((5, 3)), inputs), x * (IDS != 1)[..., None])


def test_the_first_real_token_on_either_side() -> None:
    hidden = np.arange(24.0).reshape(3, 4, 2)
    is_real = np.array([[1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]], bool)
    rows = hidden[is_real]
    np.testing.assert_array_equal(first_token_forward(rows, is_real), [hidden[0, 0], hidden[1, 2], [0, 0]])
    d_first = np.array([[1.0, 2], [3, 4], [5, 6]])
    np.testing.assert_array_equal(first_token_backward(d_first, is_real), [[1, 2], [0, 0], [3, 4], [0, 0]])


def test_the_length_limit_counts_tokens_and_not_padding() -> None:
    fits = np.full((1, 30), 1)
    fits[0, 20:] = 7  # ten tokens
    assert prepare_inputs(CONFIG, fits).positions.max() == 11
    with pytest.raises(
        ValueError, match=r"Sequence 1 has 11 tokens, .* at most 10 \(max_position_embeddings 12 - pad_token_id 1 - 1\)"
    ):
        prepare_inputs(CONFIG, [[7] + [1] * 10, [7] * 11])


BAD = {
    "both": ({"input_ids": IDS, "inputs_embeds": np.zeros((2, 4, 4))}, ValueError, "exactly one of .*; both came"),
    "neither": ({}, ValueError, "exactly one of .*; neither came"),
    "too large": ({"input_ids": [[5, 20]]}, ValueError, r"input_ids\[0, 1\] is 20; .*vocab_size of 20 allows 0 to 19"),
    "negative": ({"input_ids": [[-1, 5]]}, ValueError, r"input_ids\[0, 0\] is -1"),
    "floats": ({"input_ids": [[1.0]]}, TypeError, "input_ids must be an array of integers; it holds float64"),
    "ragged": ({"input_ids": [[5, 6], [5]]}, ValueError, "input_ids has rows of different lengths; .*padding=True"),
    "nothing": ({"input_ids": []}, ValueError, r"none of them empty; its shape is \(0,\)"),
    "huge": ({"input_ids": np.array([[2**63 + 5]], np.uint64)}, ValueError, "is 9223372036854775813"),
    "mask added": ({"input_ids": [[5, 6]], "attention_mask": [[0, -1e9]]}, ValueError, "has negative values, as masks"),
    "mask added by query": (
        {"input_ids": [[5, 6]], "attention_mask": [[[0, -np.inf], [0, 0]]]},
        ValueError,
        "of 3 dimensions says 1 for seen .*Those need four dimensions",
    ),
    "mask text": ({"input_ids": [[5]], "attention_mask": [["0"]]}, ValueError, "must hold booleans or numbers"),
    "mask NaN": ({"input_ids": [[5]], "attention_mask": [[np.nan]]}, ValueError, "or holds NaN"),
    "mask None": ({"input_ids": [[5]], "attention_mask": [[None]]}, ValueError, "must hold booleans or numbers"),
    "flat": ({"input_ids": [5, 6]}, ValueError, r"input_ids must have the axes \[batch, tokens\].*shape is \(2,\)"),
    "no batch": ({"input_ids": np.zeros((0, 3), int)}, ValueError, r"none of them empty; its shape is \(0, 3\)"),
    "no tokens": ({"input_ids": np.zeros((2, 0), int)}, ValueError, r"none of them empty; its shape is \(2, 0\)"),
    "width": ({"inputs_embeds": np.zeros((1, 2, 5))}, ValueError, "width 5, but the model's hidden_size is 4"),
    "integers": ({"inputs_embeds": np.zeros((1, 2, 4), int)}, TypeError, "floating-point numbers; it holds int64"),
    "types": (
        {"input_ids": [[5]], "token_type_ids": [[2]]},
        ValueError,
        r"token_type_ids\[0, 0\] is 2; .*type_vocab_size of 2 allows 0 to 1",
    ),
    "types' shape": (
        {"input_ids": [[5]], "token_type_ids": [[0, 0]]},
        ValueError,
        r"token_type_ids has shape \(1, 2\)",
    ),
    "positions": (
        {"input_ids": [[5]], "position_ids": [[12]]},
        ValueError,
        r"position_ids\[0, 0\] is 12; .*max_position_embeddings of 12 allows 0 to 11",
    ),
    "mask length": (
        {"input_ids": IDS, "attention_mask": np.ones((2, 3))},
        ValueError,
        r"\(2, 3\), .* ask for \(2, 4\)",
    ),
    "mask batch": ({"input_ids": IDS, "attention_mask": np.ones((1, 4))}, ValueError, r"\(1, 4\), .* ask for \(2, 4\)"),
    "mask axes": ({"input_ids": IDS, "attention_mask": np.ones(4)}, ValueError, r"shape \(4,\); for 2 x 4 tokens"),
    "mask heads": ({"input_ids": IDS, "attention_mask": np.ones((2, 3, 4, 4), bool)}, ValueError, "and 2 heads"),
    "mask additive": (
        {"input_ids": IDS, "attention_mask": np.eye(4)[None, None]},
        ValueError,
        "must be boolean .*or floats that are 0 .*; this one is float64",
    ),
    "mask integers": (
        {"input_ids": IDS, "attention_mask": np.ones((2, 1, 4, 4), int)},
        ValueError,
        "this one is int64",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name: str) -> None:
    arguments, error, message = BAD[name]
    with pytest.raises(error, match=message):
        prepare_inputs(CONFIG, **arguments)


def test_a_config_without_padding_is_refused() -> None:
    with pytest.raises(ValueError, match="pad_token_id is None"):
        prepare_inputs(XLMRobertaConfig(pad_token_id=None), [[5]])


def test_places_are_checked() -> None:
    is_real = np.array([[True, False]])
    with pytest.raises(ValueError, match=r"where\[0, 1\] chooses a place that is padding"):
        check_places(np.array([[False, True]]), is_real)
    with pytest.raises(TypeError, match="booleans"):
        check_places([[0, 1]], is_real)


# What cross-attention sees

DECODER = XLMRobertaConfig(**{**CONFIG.to_dict(), "is_decoder": True, "add_cross_attention": True})
STATES = np.arange(24.0).reshape(2, 3, 4)


def decoder_inputs(states: Any = STATES, mask: Any = None, padded: bool = False, config: Any = DECODER) -> Any:
    inputs = prepare_inputs(config, IDS, padded=padded)
    return with_source(inputs, config, states, mask, np.float32)


@pytest.mark.parametrize(
    "mask", [[[0, 1, 1], [0, 0, 0]], np.array([[0, 0.5, 2], [0, 0, 0]]), [[False, True, True]] * 2]
)
def test_a_source_is_laid_out_as_the_tokens_are(mask: Any) -> None:
    is_real = np.asarray(mask) != 0
    packed = decoder_inputs(mask=mask)
    np.testing.assert_array_equal(packed.source.states, STATES[is_real])
    assert packed.source.states.dtype == np.float32
    np.testing.assert_array_equal(packed.source.mask.key.lengths, is_real.sum(axis=1))
    np.testing.assert_array_equal(packed.source.mask.key.starts, [0, 2])
    assert packed.source.mask.query is packed.mask.query
    assert not packed.source.mask.is_causal
    padded = decoder_inputs(mask=mask, padded=True)
    np.testing.assert_array_equal(padded.source.states, STATES)
    np.testing.assert_array_equal(padded.source.mask.is_visible[:, 0, 0], is_real)
    for inputs in (packed, padded):
        np.testing.assert_array_equal(inputs.source_is_real, is_real)


def test_without_a_mask_a_whole_source_is_real() -> None:
    assert decoder_inputs().source_is_real.all()
    inputs = decoder_inputs(STATES.tolist(), torch.asarray([[1, 1, 0], [1, 0, 1]]))
    np.testing.assert_array_equal(inputs.source_is_real, [[1, 1, 0], [1, 0, 1]])
    lowest = np.array([[1, 0, 1], [0, 0, 1]], dtype_from_name("bfloat16"))
    np.testing.assert_array_equal(decoder_inputs(mask=lowest).source_is_real, lowest != 0)


def test_models_without_cross_attention_have_no_source() -> None:
    assert decoder_inputs(None, config=CONFIG).source is None


PLAIN_DECODER = XLMRobertaConfig(**{**CONFIG.to_dict(), "is_decoder": True})
BAD_SOURCES: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "none": ({"states": None}, ValueError, "has cross-attention, so that it needs encoder_hidden_states"),
    "a mask of nothing": ({"states": None, "mask": np.ones((2, 3))}, ValueError, "without the encoder_hidden_states"),
    "an encoder": ({"config": CONFIG}, ValueError, "this model is an encoder, which could not see them"),
    "a plain decoder": ({"config": PLAIN_DECODER}, ValueError, "this model is a decoder without cross-attention"),
    "axes": ({"states": STATES[0]}, ValueError, r"axes \[batch, source tokens, hidden_size\].*its shape is \(3, 4\)"),
    "no token": ({"states": STATES[:, :0]}, ValueError, r"none of them empty; its shape is \(2, 0, 4\)"),
    "ragged": ({"states": [[[0.0] * 4] * 2, [[0.0] * 4]]}, ValueError, "rows of different lengths"),
    "integers": ({"states": STATES.astype(int)}, TypeError, "floating-point numbers; it holds int64"),
    "width": ({"states": STATES[..., :3]}, ValueError, r"shape \(2, 3, 3\); .* must be \(2, source tokens, 4\)"),
    "batch": ({"states": STATES[:1]}, ValueError, r"shape \(1, 3, 4\); for a batch of 2"),
    "mask shape": ({"mask": np.ones((2, 4))}, ValueError, r"encoder_attention_mask has shape \(2, 4\), .* \(2, 3\)"),
    "mask axes": ({"mask": np.ones((2, 1, 1, 3))}, ValueError, r"has shape \(2, 1, 1, 3\)"),
    "mask batch": ({"mask": np.ones((1, 3))}, ValueError, r"has shape \(1, 3\)"),
    "mask added": ({"mask": [[0, 0, -1e9]] * 2}, ValueError, "encoder_attention_mask says 1 for seen .* negative"),
    "mask NaN": ({"mask": [[0, 0, np.nan]] * 2}, ValueError, "encoder_attention_mask must hold booleans or numbers"),
    "mask text": ({"mask": [["1", "1", "1"]] * 2}, ValueError, "encoder_attention_mask must hold booleans or numbers"),
}


@pytest.mark.parametrize("name", BAD_SOURCES)
@pytest.mark.parametrize("padded", [False, True])
def test_a_bad_source_is_named(name: str, padded: bool) -> None:
    arguments, error, message = BAD_SOURCES[name]
    with pytest.raises(error, match=message):
        decoder_inputs(**arguments, padded=padded)


# Which logits are kept


def test_places_to_keep() -> None:
    x = np.arange(10).reshape(2, 5)
    assert places_to_keep(0, x.shape) is None
    for wanted, expected in (
        (2, x[:, -2:]),
        (np.int32(5), x),
        ([3, 0, 3], x[:, [3, 0, 3]]),
        (torch.asarray([1]), x[:, [1]]),
        ([[0, 4], [2, 1]], [[0, 4], [7, 6]]),
        (x % 3 == 0, [0, 3, 6, 9]),
        (np.zeros((2, 5), bool), []),
    ):
        np.testing.assert_array_equal(x[places_to_keep(wanted, x.shape)], expected)


@pytest.mark.parametrize(
    ("wanted", "error", "message"),
    [
        (-1, ValueError, r"logits_to_keep=-1 must be from 0 \(all\) to the 5 places of a row"),
        (6, ValueError, "logits_to_keep=6 must be from 0"),
        (True, ValueError, r"logits_to_keep of booleans has shape \(\)"),
        (2.0, TypeError, "must be a number, or places as integers or booleans; it holds float64"),
        ("last", TypeError, "must be a number, or places"),
        ([], TypeError, "it holds float64"),
        ([0, 5], ValueError, "asks for place 5; a row has the places 0 to 4"),
        ([-1], ValueError, "asks for place -1"),
        (np.array(2), ValueError, r"must be places \[K\] of every row, or \[2, K\] .*; its shape is \(\)"),
        ([[0, 1]], ValueError, r"its shape is \(1, 2\)"),
        ([True] * 5, ValueError, r"logits_to_keep of booleans has shape \(5,\)"),
        ([[0], [1, 2]], ValueError, "logits_to_keep has rows of different lengths"),
    ],
    ids=str,
)
def test_places_that_are_not_there_are_named(wanted: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        places_to_keep(wanted, (2, 5))
