"""Every backward function of the layers, heads and losses, against central differences and torch's autograd."""

import array_api_strict
import numpy as np
import pytest
import torch

from tests.gradients import check_gradients
from tests.libraries import Library
from xlmr_np import trees
from xlmr_np.heads.masked_lm import MaskedLMParams, masked_lm_backward, masked_lm_forward
from xlmr_np.heads.pooler import pooler_backward, pooler_forward
from xlmr_np.layers.activations import ACTIVATIONS, activation_backward, activation_forward
from xlmr_np.layers.add_norm import AddNormParams, add_norm_backward, add_norm_forward
from xlmr_np.layers.attention import PackedMask, PaddedMask, Spans, attention_backward, attention_forward
from xlmr_np.layers.cross_attention import (
    SourceKeysValues,
    cross_attention_backward,
    cross_attention_forward,
    source_backward,
    source_forward,
)
from xlmr_np.layers.dropout import Dropout, Philox, dropout_backward, dropout_forward
from xlmr_np.layers.encoder_layer import (
    EncoderLayerParams,
    EncoderSetting,
    Source,
    encoder_layer_backward,
    encoder_layer_forward,
)
from xlmr_np.layers.feed_forward import FeedForwardParams, feed_forward_backward, feed_forward_forward
from xlmr_np.layers.layer_norm import LayerNormParams, layer_norm_backward, layer_norm_forward
from xlmr_np.layers.linear import LinearParams, linear_backward, linear_forward
from xlmr_np.layers.self_attention import AttentionParams, LayerDropout
from xlmr_np.layers.softmax import softmax_backward, softmax_forward
from xlmr_np.losses.cross_entropy import cross_entropy_backward, cross_entropy_forward
from xlmr_np.ops.reference import REFERENCE

B, T, S, D, F, H, W, V = 2, 4, 5, 6, 7, 2, 3, 9
EPS = 1e-5
RANDOM = np.random.default_rng(5)


def normal(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape)


def linear(outputs: int, inputs: int) -> LinearParams:
    return LinearParams(normal(outputs, inputs), normal(outputs))


def layer_norm() -> LayerNormParams:
    return LayerNormParams(normal(D), normal(D))


def add_norm(inputs: int) -> AddNormParams:
    return AddNormParams(linear(D, inputs), layer_norm())


def attention() -> AttentionParams:
    return AttentionParams(linear(D, D), linear(D, D), linear(D, D), add_norm(D))


def keep(*shape: int) -> np.ndarray:
    return RANDOM.random(shape) > 0.3


class Bits:
    """Boolean arrays and masks for whichever library the inputs are of."""

    def __init__(self, tree: trees.Tree) -> None:
        self.tree = tree

    def like(self, x: object) -> trees.Tree:
        if isinstance(x, torch.Tensor):
            return trees.map_leaves(lambda leaf: torch.asarray(leaf) if hasattr(leaf, "shape") else leaf, self.tree)
        return self.tree


def test_linear() -> None:
    check_gradients(
        lambda inputs: linear_forward(*inputs),
        lambda d_y, cache, inputs: linear_backward(d_y, cache, inputs[1]),
        (normal(B, T, D), linear(F, D)),
    )


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name: str) -> None:
    check_gradients(
        lambda x: activation_forward(x, name),
        lambda d_y, cache, _: activation_backward(d_y, cache, name),
        normal(B, T, D),
    )


def test_the_slope_of_relu_at_zero_is_zero() -> None:
    zeros = np.zeros(3)
    _, cache = activation_forward(zeros, "relu")
    np.testing.assert_array_equal(activation_backward(np.ones(3), cache, "relu"), zeros)


def test_layer_norm() -> None:
    check_gradients(
        lambda inputs: layer_norm_forward(*inputs, EPS),
        lambda d_y, cache, inputs: layer_norm_backward(d_y, cache, inputs[1]),
        (normal(B, T, D), layer_norm()),
    )


@pytest.mark.parametrize("is_masked", [False, True])
def test_softmax(is_masked: bool) -> None:
    is_visible = Bits(np.array([True, False, True, True, False])) if is_masked else Bits(None)
    check_gradients(
        lambda scores: softmax_forward(scores, is_visible.like(scores)),
        lambda d_y, cache, _: softmax_backward(d_y, cache),
        normal(B, T, S),
    )


def test_softmax_of_a_row_that_sees_nothing_has_no_gradient() -> None:
    _, cache = softmax_forward(normal(2, S), np.zeros((2, S), bool))
    np.testing.assert_array_equal(softmax_backward(normal(2, S), cache), np.zeros((2, S)))


def test_dropout() -> None:
    dropout = Bits(Dropout(0.3, keep(B, T, D)))
    check_gradients(
        lambda x: (dropout_forward(x, dropout.like(x)), None),
        lambda d_y, _, x: dropout_backward(d_y, dropout.like(x)),
        normal(B, T, D),
    )


@pytest.mark.parametrize("drops", [False, True])
def test_add_norm(drops: bool) -> None:
    dropout = Bits(Dropout(0.3, keep(B, T, D)) if drops else None)
    check_gradients(
        lambda inputs: add_norm_forward(*inputs, EPS, dropout.like(inputs[0])),
        lambda d_y, cache, inputs: add_norm_backward(d_y, cache, inputs[2], EPS, dropout.like(inputs[0])),
        (normal(B, T, F), normal(B, T, D), add_norm(F)),
    )


@pytest.mark.parametrize("drops", [False, True])
def test_feed_forward(drops: bool) -> None:
    dropout = Bits(Dropout(0.3, keep(B, T, D)) if drops else None)
    check_gradients(
        lambda inputs: feed_forward_forward(*inputs, "gelu", EPS, dropout.like(inputs[0])),
        lambda d_y, cache, inputs: feed_forward_backward(d_y, cache, inputs[1], "gelu", EPS, dropout.like(inputs[0])),
        (normal(B, T, D), FeedForwardParams(linear(F, D), add_norm(F))),
    )


def spans(*lengths: int) -> Spans:
    return Spans(np.cumsum(lengths) - lengths, np.asarray(lengths))


PADDED = PaddedMask(keep(B, 1, T, S))
PADDED.is_visible[0, 0, 1] = False  # a query that sees nothing
ATTENTIONS = {
    "padded": (PADDED, (B, T), (B, S)),
    "packed": (PackedMask(spans(3, 0, 4), spans(2, 3, 5)), (7,), (10,)),
    "packed causal": (PackedMask(spans(3, 4), spans(3, 6), is_causal=True), (7,), (9,)),
    "packed, a sentence without keys": (PackedMask(spans(3, 4), spans(0, 5)), (7,), (5,)),
}


@pytest.mark.parametrize("drops", [False, True])
@pytest.mark.parametrize("name", ATTENTIONS)
def test_attention(name: str, drops: bool) -> None:
    mask, query_shape, key_shape = ATTENTIONS[name]
    bits, dropout = Bits(mask), Dropout(0.3, Philox(1, 2)) if drops else None
    check_gradients(
        lambda inputs: attention_forward(*inputs, bits.like(inputs[0]), dropout),
        lambda d_y, cache, inputs: attention_backward(d_y, cache, bits.like(inputs[0]), dropout),
        (normal(*query_shape, H, W), normal(*key_shape, H, W), normal(*key_shape, H, W)),
    )


@pytest.mark.parametrize("name", ATTENTIONS)
def test_attention_in_half_precision(name: str) -> None:
    mask, query_shape, key_shape = ATTENTIONS[name]
    own_mask = Bits(mask).like(torch.zeros(0))
    shapes = ((*query_shape, H, W), (*key_shape, H, W), (*key_shape, H, W))
    half = [torch.asarray(normal(*shape), dtype=torch.float16) for shape in shapes]

    def run(inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        context, cache = attention_forward(*inputs, own_mask)
        return [context, *attention_backward(context, cache, own_mask)]

    for narrow, wide in zip(run(half), run([x.double() for x in half]), strict=True):
        assert narrow.dtype == torch.float16
        assert (narrow - wide).abs().max() <= 0.02  # float16 has 11 bits, and the softmax takes its scores in them


LAYERS = {
    "padded": (PaddedMask(keep(B, 1, 1, T) | (np.arange(T) == 0)), (B, T)),
    "packed": (PackedMask(spans(3, 5), spans(3, 5)), (8,)),
    "packed causal": (PackedMask(spans(3, 5), spans(3, 5), is_causal=True), (8,)),
}


@pytest.mark.parametrize("drops", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_encoder_layer(name: str, drops: bool) -> None:
    mask, shape = LAYERS[name]
    rows = [Dropout(0.3, keep(*shape, D)) for _ in range(2)]
    bits = Bits((mask, LayerDropout(Dropout(0.3, Philox(1, 2)), *rows) if drops else LayerDropout()))
    setting = EncoderSetting(H, "gelu_new", EPS)

    def forward(inputs):
        own_mask, dropout = bits.like(inputs[0])
        return encoder_layer_forward(*inputs, own_mask, setting, REFERENCE, dropout)

    def backward(d_y, cache, inputs):
        own_mask, dropout = bits.like(inputs[0])
        d_x, _, d_params = encoder_layer_backward(d_y, cache, inputs[1], own_mask, setting, REFERENCE, dropout)
        return d_x, d_params

    params = EncoderLayerParams(attention(), FeedForwardParams(linear(F, D), add_norm(F)))
    check_gradients(forward, backward, (normal(*shape, D), params))


@pytest.mark.parametrize("drops", [False, True])
def test_encoder_layer_of_which_only_some_tokens_ask(drops: bool) -> None:
    """They get what they get when all tokens ask."""
    (mask, shape), asking = LAYERS["packed"], np.array([0, 3, 5])  # one of the first sentence, two of the second
    asking_mask = PackedMask(spans(1, 2), mask.key)
    rows = [Dropout(0.3, keep(len(asking), D)) for _ in range(2)]
    bits = Bits((asking_mask, LayerDropout(None, *rows) if drops else LayerDropout(), asking))
    setting = EncoderSetting(H, "gelu_new", EPS)

    def forward(inputs):
        own_mask, dropout, own = bits.like(inputs[0])
        return encoder_layer_forward(*inputs, own_mask, setting, REFERENCE, dropout, asking=own)

    def backward(d_y, cache, inputs):
        own_mask, dropout, own = bits.like(inputs[0])
        d_x, _, d_params = encoder_layer_backward(d_y, cache, inputs[1], own_mask, setting, REFERENCE, dropout, own)
        return d_x, d_params

    params = EncoderLayerParams(attention(), FeedForwardParams(linear(F, D), add_norm(F)))
    x = normal(*shape, D)
    check_gradients(forward, backward, (x, params))
    if not drops:
        every, _ = encoder_layer_forward(x, params, mask, setting, REFERENCE)
        np.testing.assert_allclose(forward((x, params))[0], every[asking], atol=1e-12)  # float64's rounding


def test_keys_and_values_of_a_source() -> None:
    params = attention()

    def with_projections(key: LinearParams, value: LinearParams) -> AttentionParams:
        return AttentionParams(params.query, key, value, params.output)

    check_gradients(
        lambda inputs: source_forward(inputs[0], with_projections(*inputs[1:]), H, REFERENCE),
        lambda d_y, cache, inputs: source_backward(d_y, cache, with_projections(*inputs[1:]), REFERENCE),
        (normal(B, S, D), params.key, params.value),
    )


@pytest.mark.parametrize("drops", [False, True])
@pytest.mark.parametrize("name", [name for name in ATTENTIONS if "causal" not in name])
def test_cross_attention(name: str, drops: bool) -> None:
    mask, query_shape, key_shape = ATTENTIONS[name]
    dropout = LayerDropout(
        cross_probabilities=Dropout(0.3, Philox(1, 2)), cross_attention=Dropout(0.3, keep(*query_shape, D))
    )
    bits, params = Bits((mask, dropout if drops else LayerDropout())), attention()

    def run(inputs):
        x, keys_values, query, output = inputs
        own_mask, own_dropout = bits.like(x)
        return x, keys_values, params._replace(query=query, output=output), own_mask, own_dropout

    def forward(inputs):
        x, keys_values, own, own_mask, own_dropout = run(inputs)
        return cross_attention_forward(x, keys_values, own, own_mask, H, EPS, REFERENCE, own_dropout)

    def backward(d_y, cache, inputs):
        _, _, own, own_mask, own_dropout = run(inputs)
        return cross_attention_backward(d_y, cache, own, own_mask, H, EPS, REFERENCE, own_dropout)

    keys_values = SourceKeysValues(normal(*key_shape, H, W), normal(*key_shape, H, W))
    check_gradients(forward, backward, (normal(*query_shape, D), keys_values, params.query, params.output))


SOURCES = {
    "padded": (PaddedMask(keep(B, 1, 1, S)), (B, S)),
    "packed": (PackedMask(spans(3, 5), spans(4, 2)), (6,)),
    "packed causal": (PackedMask(spans(3, 5), spans(0, 6)), (6,)),
}


@pytest.mark.parametrize("drops", [False, True])
@pytest.mark.parametrize(
    ("name", "asking"), [*((name, None) for name in SOURCES), ("packed", np.array([0, 3, 5]))], ids=str
)
def test_a_layer_that_sees_a_source(name: str, asking: np.ndarray | None, drops: bool) -> None:
    (mask, shape), (source_mask, source_shape) = LAYERS[name], SOURCES[name]
    asked_shape = shape
    if asking is not None:  # one of the first sentence, two of the second
        mask, source_mask = (each._replace(query=spans(1, 2)) for each in (mask, source_mask))
        asked_shape = asking.shape
    rows = [Dropout(0.3, keep(*asked_shape, D)) for _ in range(3)]
    dropout = LayerDropout(Dropout(0.3, Philox(1, 2)), *rows[:2], Dropout(0.3, Philox(5, 6)), rows[2])
    bits = Bits((mask, source_mask, dropout if drops else LayerDropout(), asking))
    setting = EncoderSetting(H, "gelu_new", EPS)

    def forward(inputs):
        x, states, params = inputs
        own_mask, own_source_mask, own_dropout, own = bits.like(x)
        source = Source(states, own_source_mask)
        return encoder_layer_forward(x, params, own_mask, setting, REFERENCE, own_dropout, None, own, source)

    def backward(d_y, cache, inputs):
        x, states, params = inputs
        own_mask, own_source_mask, own_dropout, own = bits.like(x)
        source = Source(states, own_source_mask)
        return encoder_layer_backward(d_y, cache, params, own_mask, setting, REFERENCE, own_dropout, own, source)

    params = EncoderLayerParams(attention(), FeedForwardParams(linear(F, D), add_norm(F)), attention())
    check_gradients(forward, backward, (normal(*shape, D), normal(*source_shape, D), params))


@pytest.mark.parametrize("name", LAYERS)
def test_what_a_layer_makes_lies_on_the_device_of_its_inputs(name: str) -> None:
    # no GPU is needed: array_api_strict pretends to have devices, and refuses to combine arrays of two of them
    device = array_api_strict.Device("device1")
    elsewhere = Library("elsewhere", lambda x: array_api_strict.asarray(x, device=device))
    mask, shape = LAYERS[name]
    setting = EncoderSetting(H, "gelu", EPS)
    source_mask, source_shape = SOURCES[name]
    params = EncoderLayerParams(attention(), FeedForwardParams(linear(F, D), add_norm(F)), attention())
    x, params, mask, source = elsewhere.tree(
        (normal(*shape, D), params, mask, Source(normal(*source_shape, D), source_mask))
    )
    dropout = LayerDropout(Dropout(0.3, Philox(1, 2)), cross_probabilities=Dropout(0.3, Philox(5, 6)))
    y, cache = encoder_layer_forward(x, params, mask, setting, REFERENCE, dropout, source=source)
    gradients = encoder_layer_backward(y, cache, params, mask, setting, REFERENCE, dropout, source=source)
    assert {leaf.device for leaf in trees.leaves((y, gradients))} == {device}


def test_a_layer_with_half_precision_parameters_computes_in_the_type_of_its_input() -> None:
    mask, shape = LAYERS["padded"]
    setting = EncoderSetting(H, "gelu", EPS)
    params = EncoderLayerParams(attention(), FeedForwardParams(linear(F, D), add_norm(F)))
    half = trees.map_leaves(lambda leaf: leaf.astype(np.float16), params)
    x = normal(*shape, D).astype(np.float32)

    def run(params: EncoderLayerParams) -> trees.Tree:
        y, cache = encoder_layer_forward(x, params, mask, setting, REFERENCE)
        return y, encoder_layer_backward(y, cache, params, mask, setting, REFERENCE)

    results = run(half), run(trees.map_leaves(lambda leaf: leaf.astype(np.float32), half))
    for narrow, wide in zip(*map(trees.leaves, results), strict=True):
        assert narrow.dtype == np.float32
        np.testing.assert_array_equal(narrow, wide)


def test_pooler() -> None:
    check_gradients(
        lambda inputs: pooler_forward(*inputs, REFERENCE),
        lambda d_y, cache, inputs: pooler_backward(d_y, cache, inputs[1], REFERENCE),
        (normal(B, D), linear(D, D)),
    )


def test_masked_lm() -> None:
    check_gradients(
        lambda inputs: masked_lm_forward(*inputs, EPS, REFERENCE),
        lambda d_y, cache, inputs: masked_lm_backward(d_y, cache, inputs[1], EPS, REFERENCE),
        (normal(B, T, D), MaskedLMParams(linear(D, D), layer_norm(), linear(V, D))),
    )


@pytest.mark.parametrize("labels", [[0, 8, -100, 3], [-100] * 4], ids=["some ignored", "all ignored"])
def test_cross_entropy(labels: list[int]) -> None:
    bits = Bits(np.array(labels))
    check_gradients(
        lambda logits: cross_entropy_forward(logits, bits.like(logits)),
        lambda d_y, cache, logits: cross_entropy_backward(d_y, cache, bits.like(logits)),
        5 * normal(4, V),
    )


def test_a_wrong_gradient_is_found_out() -> None:
    with pytest.raises(AssertionError):
        check_gradients(
            lambda x: activation_forward(x, "tanh"),
            lambda d_y, cache, _: 1.0001 * activation_backward(d_y, cache, "tanh"),
            normal(3),
        )
