"""The whole encoder on every array library, in both layouts, with caches and without."""

import numpy as np
import pytest
import torch

from tests.gradients import check_gradients
from tests.libraries import LIBRARIES, Library, check_record, to_numpy
from xlmr_np import XLMRobertaConfig, trees
from xlmr_np.encoder import Asking, EncoderDropout, LayerInput, encoder_backward, encoder_forward
from xlmr_np.heads.masked_lm import masked_lm_forward
from xlmr_np.heads.pooler import pooler_forward
from xlmr_np.inputs import prepare_inputs, token_places
from xlmr_np.layers.attention import PackedMask, Spans
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
        gradients = encoder_backward(d_x, cache, *index, params, mask, SETTING, REFERENCE, None, dropout)
        assert cache.layers == []
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
    gradients = encoder_backward(library.array(d_y), cache, *index, params, mask, SETTING, REFERENCE, 1, None, asking)
    _, whole_cache = encoder_forward(*index, params, mask, SETTING, REFERENCE)
    expected = encoder_backward(library.array(d_x), whole_cache, *index, params, mask, SETTING, REFERENCE, 1)
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
        gradients = encoder_backward(y, cache, *index, params, mask, SETTING, REFERENCE, 1, dropout)
        assert cache.layers == []
        results.append([to_numpy(leaf) for leaf in trees.leaves(with_dense_table(gradients))])
    for kept, again in zip(*results, strict=True):
        np.testing.assert_array_equal(again, kept)


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
