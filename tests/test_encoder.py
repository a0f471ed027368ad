"""The whole encoder on every array library, in both layouts, with caches and without."""

import numpy as np
import pytest
import torch

from tests.gradients import check_gradients
from tests.libraries import LIBRARIES, Library, check_record, to_numpy
from xlmr_np import XLMRobertaConfig, trees
from xlmr_np.encoder import Asking, EncoderDropout, LayerInput, encoder_backward, encoder_forward, encoder_steps
from xlmr_np.heads.masked_lm import masked_lm_forward
from xlmr_np.heads.pooler import pooler_forward
from xlmr_np.inputs import EncoderInputs, prepare_inputs, token_places, with_source
from xlmr_np.layers.attention import PackedMask, Spans
from xlmr_np.layers.cross_attention import source_forward
from xlmr_np.layers.dropout import Dropout, Philox, TokenKey
from xlmr_np.layers.encoder_layer import EncoderSetting
from xlmr_np.layers.self_attention import LayerDropout
from xlmr_np.ops import without_caches
from xlmr_np.ops.reference import REFERENCE
from xlmr_np.weights.specification import encoder_specification, masked_lm_specification, pooler_specification

CONFIG = XLMRobertaConfig(
    vocab_size=19,
    hidden_size=12,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=10,
    max_position_embeddings=12,
)
SETTING = EncoderSetting(3, "gelu", 1e-5)
IDS = np.array([[5, 6, 7, 8, 9], [10, 11, 12, 1, 1]])
RANDOM = np.random.default_rng(4)


def random_params(specification: trees.Tree) -> trees.Tree:
    return trees.map_leaves(lambda parameter: RANDOM.normal(size=parameter.shape), specification)


PARAMS = random_params(encoder_specification(CONFIG))


def run(library: Library, padded: bool, ops=REFERENCE, dropout=None):
    inputs = prepare_inputs(CONFIG, IDS, padded=padded)
    index = [library.array(each) for each in (inputs.ids, inputs.token_types, inputs.positions)]
    mask = library.tree(inputs.mask)
    y, cache = encoder_forward(*index, library.tree(PARAMS), mask, SETTING, ops, dropout)
    real = to_numpy(y)[inputs.is_real] if padded else to_numpy(y)
    return real, cache


TORCH = next(library for library in LIBRARIES if library.name == "torch")
EXPECTED, _ = run(LIBRARIES[0], padded=True)


@pytest.mark.parametrize("padded", [True, False], ids=["padded", "packed"])
@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.name)
def test_every_library_and_layout_agree(library: Library, padded: bool) -> None:
    y, cache = run(library, padded)
    np.testing.assert_allclose(y, EXPECTED, atol=1e-12)
    check_record(cache.embeddings)
    assert len(cache.layers) == 2
    for layer in cache.layers:
        for record in (*layer.attention.projections, layer.attention.output, layer.feed_forward):
            check_record(record)
    without, no_cache = run(library, padded, without_caches(REFERENCE))
    np.testing.assert_array_equal(without, y)
    assert no_cache.embeddings is None
    assert [layer.feed_forward for layer in no_cache.layers] == [None, None]


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.name)
def test_dropout_is_the_same_in_both_layouts(library: Library) -> None:
    keep_rows = RANDOM.random((5, *IDS.shape, 12)) > 0.2
    is_real = IDS != 1

    def dropout(padded: bool) -> EncoderDropout:
        rows = [Dropout(0.2, library.array(keep if padded else keep[is_real])) for keep in keep_rows]
        layers = tuple(LayerDropout(Dropout(0.1, Philox(3, i)), rows[1 + 2 * i], rows[2 + 2 * i]) for i in range(2))
        return EncoderDropout(rows[0], layers)

    padded, _ = run(library, True, dropout=dropout(True))
    packed, _ = run(library, False, dropout=dropout(False))
    np.testing.assert_allclose(packed, padded, atol=1e-12)
    assert np.abs(packed - EXPECTED).max() > 0.1


def dropouts(inputs, library: Library) -> EncoderDropout:
    """Dropout by keys, for the places of these inputs."""
    sentences, rows = token_places(IDS != 1)
    if inputs.ids.ndim == 1:
        sentences, rows = sentences[IDS != 1], rows[IDS != 1]
    place = library.array(sentences.copy()), library.array(rows)
    tokens = [Dropout(0.2, TokenKey(Philox(5, i), *place)) for i in range(5)]
    return EncoderDropout(
        tokens[0], tuple(LayerDropout(Dropout(0.1, Philox(3, i)), *tokens[1 + 2 * i : 3 + 2 * i]) for i in range(2))
    )


@pytest.mark.parametrize("drops", [False, True], ids=["", "dropout"])
@pytest.mark.parametrize("padded", [True, False], ids=["padded", "packed"])
def test_gradients_of_the_whole_encoder(padded: bool, drops: bool) -> None:
    inputs = prepare_inputs(CONFIG, IDS, padded=padded)

    def given(params: trees.Tree):
        library = TORCH if isinstance(params.embeddings.token, torch.Tensor) else LIBRARIES[0]
        dropout = dropouts(inputs, library) if drops else None
        return [library.array(each) for each in inputs[:3]], library.tree(inputs.mask), dropout

    def forward(params: trees.Tree):
        index, mask, dropout = given(params)
        y, cache = encoder_forward(*index, params, mask, SETTING, REFERENCE, dropout)
        return y * (index[0] != 1)[..., None] if padded else y, cache

    def backward(d_y, cache, params):
        index, mask, dropout = given(params)
        d_x = d_y * (IDS != 1)[..., None] if padded else d_y
        d_source, gradients = encoder_backward(d_x, cache, *index, params, mask, SETTING, REFERENCE, None, dropout)
        assert cache.layers == []
        assert d_source is None
        return with_dense_table(gradients)

    check_gradients(forward, backward, PARAMS)


def with_dense_table(gradients: trees.Tree) -> trees.Tree:
    embeddings = gradients.embeddings
    return gradients._replace(embeddings=embeddings._replace(token=embeddings.token.to_dense()))


def packed(library: Library):
    """Indices, parameters and mask of the packed inputs, in arrays of the library."""
    inputs = prepare_inputs(CONFIG, IDS)
    return [library.array(each) for each in inputs[:3]], library.tree(PARAMS), library.tree(inputs.mask)


@pytest.mark.parametrize("checkpoint_layers", [False, True], ids=["", "checkpoints"])
@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.name)
def test_some_tokens_ask_the_last_layer(library: Library, checkpoint_layers: bool) -> None:
    """Their states are those of the whole encoder, and so are the gradients, if the other tokens' are zero."""
    inputs = prepare_inputs(CONFIG, IDS)
    index, params, mask = packed(library)
    rows = np.array([1, 4, 5])  # of the 5 and 3 real tokens
    asking = library.tree(Asking(rows, PackedMask(Spans(np.array([0, 2]), np.array([2, 1])), inputs.mask.key)))
    checkpoint_ops = without_caches(REFERENCE) if checkpoint_layers else None
    y, cache = encoder_forward(*index, params, mask, SETTING, REFERENCE, None, checkpoint_ops, asking)
    np.testing.assert_allclose(to_numpy(y), EXPECTED[rows], atol=1e-12)  # float64's rounding, of sums over fewer rows

    d_y = np.random.default_rng(0).normal(size=y.shape)
    d_x = np.zeros_like(EXPECTED)
    d_x[rows] = d_y
    _, gradients = encoder_backward(
        library.array(d_y), cache, *index, params, mask, SETTING, REFERENCE, 1, None, asking
    )
    _, whole_cache = encoder_forward(*index, params, mask, SETTING, REFERENCE)
    _, expected = encoder_backward(library.array(d_x), whole_cache, *index, params, mask, SETTING, REFERENCE, 1)
    for own, their in zip(
        trees.leaves(with_dense_table(gradients)), trees.leaves(with_dense_table(expected)), strict=True
    ):
        np.testing.assert_allclose(
            to_numpy(own), to_numpy(their), atol=1e-12
        )  # float64's rounding, of sums over fewer rows


@pytest.mark.parametrize("drops", [False, True], ids=["", "dropout"])
@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.name)
def test_layers_that_run_again_have_the_same_gradients(library: Library, drops: bool) -> None:
    index, params, mask = packed(library)
    dropout = dropouts(prepare_inputs(CONFIG, IDS), library) if drops else None
    results = []
    for checkpoint_layers in (False, True):
        y, cache = encoder_forward(
            *index, params, mask, SETTING, REFERENCE, dropout, without_caches(REFERENCE) if checkpoint_layers else None
        )
        assert [isinstance(layer, LayerInput) for layer in cache.layers] == [checkpoint_layers] * 2
        _, gradients = encoder_backward(y, cache, *index, params, mask, SETTING, REFERENCE, 1, dropout)
        assert cache.layers == []
        results.append([to_numpy(leaf) for leaf in trees.leaves(with_dense_table(gradients))])
    for kept, again in zip(*results, strict=True):
        np.testing.assert_array_equal(again, kept)


# A decoder that sees a source

DECODER = XLMRobertaConfig(**{**CONFIG.to_dict(), "is_decoder": True, "add_cross_attention": True})
DECODER_PARAMS = random_params(encoder_specification(DECODER))
STATES = RANDOM.normal(size=(2, 4, 12))
STATES_MASK = np.array([[0, 1, 1, 1], [1, 0, 1, 0]])


def decoder_inputs(padded: bool) -> EncoderInputs:
    return with_source(prepare_inputs(DECODER, IDS, padded=padded), DECODER, STATES, STATES_MASK, np.float64)


def decoder_dropouts(inputs: EncoderInputs, library: Library) -> EncoderDropout:
    """Dropout by keys, for the places of these inputs and of their source."""
    padded = inputs.ids.ndim == 2
    own_places, source_places = token_places(inputs.is_real), token_places(inputs.source_is_real)
    place = [np.array(each if padded else each[inputs.is_real]) for each in own_places]
    tokens = [Dropout(0.2, library.tree(TokenKey(Philox(5, i), *place))) for i in range(7)]

    def attention(i: int, columns: np.ndarray | None) -> Dropout:
        key = Philox(3, i)
        return Dropout(0.1, library.tree(TokenKey(key, *place, columns)) if padded else key)

    layers = tuple(
        LayerDropout(attention(2 * i, None), *tokens[1 + i : 3 + i], attention(2 * i + 1, source_places[1]), tokens[i])
        for i in range(2)
    )
    return EncoderDropout(tokens[6], layers)


def run_decoder(library: Library, padded: bool, drops: bool, checkpoint_layers: bool = False):
    """The last hidden state at real tokens, then the gradients of the states, at real ones, and of all parameters."""
    inputs = decoder_inputs(padded)
    index = [library.array(each) for each in inputs[:3]]
    params, mask, source = map(library.tree, (DECODER_PARAMS, inputs.mask, inputs.source))
    dropout = decoder_dropouts(inputs, library) if drops else None
    checkpoint_ops = without_caches(REFERENCE) if checkpoint_layers else None
    y, cache = encoder_forward(
        *index, params, mask, SETTING, REFERENCE, dropout, checkpoint_ops=checkpoint_ops, source=source
    )
    d_rows = np.random.default_rng(0).normal(size=(8, 12))
    d_y = np.zeros((2, 5, 12))
    d_y[inputs.is_real] = d_rows
    d_states, gradients = encoder_backward(
        library.array(d_y if padded else d_rows),
        cache,
        *index,
        params,
        mask,
        SETTING,
        REFERENCE,
        1,
        dropout,
        source=source,
    )
    assert cache.layers == []
    y, d_states = to_numpy((y, d_states))
    if padded:
        assert not d_states[~inputs.source_is_real].any()
        y, d_states = y[inputs.is_real], d_states[inputs.source_is_real]
    return [y, d_states, *map(to_numpy, trees.leaves(with_dense_table(gradients)))]


@pytest.mark.parametrize("drops", [False, True], ids=["", "dropout"])
@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.name)
def test_a_decoder_and_its_gradients_in_every_library_and_layout(library: Library, drops: bool) -> None:
    expected = run_decoder(LIBRARIES[0], padded=True, drops=drops)
    for padded, checkpoint_layers in ((True, True), (False, False), (False, True)):
        ours = run_decoder(library, padded, drops, checkpoint_layers)
        for our, their in zip(ours, expected, strict=True):
            np.testing.assert_allclose(our, their, atol=1e-11)  # float64's rounding; gradients are of order ten


@pytest.mark.parametrize("drops", [False, True], ids=["", "dropout"])
@pytest.mark.parametrize("padded", [True, False], ids=["padded", "packed"])
def test_gradients_of_a_decoder(padded: bool, drops: bool) -> None:
    inputs = decoder_inputs(padded)

    def given(params: trees.Tree):
        library = TORCH if isinstance(params.embeddings.token, torch.Tensor) else LIBRARIES[0]
        dropout = decoder_dropouts(inputs, library) if drops else None
        return [library.array(each) for each in inputs[:3]], *map(library.tree, (inputs.mask, inputs.source)), dropout

    def forward(params_and_states: trees.Tree):
        params, states = params_and_states
        index, mask, source, dropout = given(params)
        y, cache = encoder_forward(
            *index, params, mask, SETTING, REFERENCE, dropout, source=source._replace(states=states)
        )
        return y * (index[0] != 1)[..., None] if padded else y, cache

    def backward(d_y, cache, params_and_states):
        params, states = params_and_states
        index, mask, source, dropout = given(params)
        d_x = d_y * (IDS != 1)[..., None] if padded else d_y
        d_states, gradients = encoder_backward(
            d_x, cache, *index, params, mask, SETTING, REFERENCE, None, dropout, source=source._replace(states=states)
        )
        return with_dense_table(gradients), d_states

    check_gradients(forward, backward, (DECODER_PARAMS, inputs.source.states))


def test_keys_and_values_that_every_layer_had_before() -> None:
    inputs = decoder_inputs(padded=False)
    given = inputs.ids, inputs.token_types, inputs.positions, DECODER_PARAMS, inputs.mask, SETTING, REFERENCE
    sources = tuple(
        inputs.source._replace(states=source_forward(inputs.source.states, layer.cross_attention, 3, REFERENCE)[0])
        for layer in DECODER_PARAMS.layers
    )
    rows = np.array([1, 4, 5])
    query = Spans(np.array([0, 2]), np.array([2, 1]))
    asking = Asking(
        rows,
        PackedMask(query, inputs.mask.key),  # bidirectional, so that tokens may ask from wherever they stand
        PackedMask(query, inputs.source.mask.key),
    )
    for own in (None, asking):
        expected, ours = (
            [x for x, _ in encoder_steps(*given, asking=own, source=source)] for source in (inputs.source, sources)
        )
        assert len(expected[-1]) == (8 if own is None else 3)
        for our, their in zip(ours, expected, strict=True):
            np.testing.assert_array_equal(our, their)


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.name)
def test_heads_on_every_library(library: Library) -> None:
    x = library.array(EXPECTED)
    pooler, head = random_params(pooler_specification(CONFIG)), random_params(masked_lm_specification(CONFIG, False))
    pooled, pooler_cache = pooler_forward(x, library.tree(pooler), REFERENCE)
    np.testing.assert_allclose(to_numpy(pooled), np.tanh(EXPECTED @ pooler.weight.T + pooler.bias), atol=1e-12)
    check_record(pooler_cache)
    logits, cache = masked_lm_forward(x, library.tree(head), 1e-5, REFERENCE)
    expected, _ = masked_lm_forward(EXPECTED, head, 1e-5, REFERENCE)
    np.testing.assert_allclose(to_numpy(logits), expected, atol=1e-11)
    check_record(head)
    check_record(cache.transform)
