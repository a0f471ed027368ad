"""Cross-attention against torch's own, in both layouts, and what it sees of its source."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.libraries import Library, check_record, to_numpy
from xlmr_np import trees
from xlmr_np.layers.add_norm import AddNormParams, add_norm_forward
from xlmr_np.layers.attention import Mask, PackedMask, PaddedMask, Spans
from xlmr_np.layers.cross_attention import cross_attention_forward, source_forward
from xlmr_np.layers.encoder_layer import EncoderLayerParams, EncoderSetting, Source, encoder_layer_forward
from xlmr_np.layers.feed_forward import FeedForwardParams
from xlmr_np.layers.layer_norm import LayerNormParams
from xlmr_np.layers.linear import LinearParams
from xlmr_np.layers.self_attention import AttentionParams
from xlmr_np.ops.engines import cpu_engine
from xlmr_np.ops.reference import REFERENCE
from xlmr_np.ops.threads import Threads

B, T, S, D, F, H = 3, 4, 6, 8, 10, 2
EPS = 1e-5
RANDOM = np.random.default_rng(2)
SETTING = EncoderSetting(H, "gelu", EPS)


def linear(outputs: int, inputs: int) -> LinearParams:
    return LinearParams(RANDOM.normal(size=(outputs, inputs)), RANDOM.normal(size=outputs))


def layer_norm() -> LayerNormParams:
    return LayerNormParams(RANDOM.normal(size=D), RANDOM.normal(size=D))


def attention() -> AttentionParams:
    return AttentionParams(*(linear(D, D) for _ in range(3)), AddNormParams(linear(D, D), layer_norm()))


PARAMS = attention()
LAYER = EncoderLayerParams(
    attention(), FeedForwardParams(linear(F, D), AddNormParams(linear(D, F), layer_norm())), attention()
)


def spans(lengths: list[int] | np.ndarray) -> Spans:
    ends = np.cumsum(np.asarray(lengths, int))
    return Spans(ends - lengths, np.asarray(lengths, int))


def expected(x: np.ndarray, source: np.ndarray, is_hidden: np.ndarray) -> np.ndarray:
    """torch's multi-head attention with our parameters, then its norm of the sum."""
    module = torch.nn.MultiheadAttention(D, H, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        module.in_proj_weight.copy_(torch.asarray(np.concatenate([each.weight for each in PARAMS[:3]])))
        module.in_proj_bias.copy_(torch.asarray(np.concatenate([each.bias for each in PARAMS[:3]])))
        module.out_proj.weight.copy_(torch.asarray(PARAMS.output.linear.weight))
        module.out_proj.bias.copy_(torch.asarray(PARAMS.output.linear.bias))
        query, key = map(torch.asarray, (x, source))
        attended, _ = module(query, key, key, key_padding_mask=torch.asarray(is_hidden))
        norm = map(torch.asarray, PARAMS.output.layer_norm)
        return torch.nn.functional.layer_norm(attended + query, (D,), *norm, EPS).numpy()


def run(x: np.ndarray, source: np.ndarray, mask: Mask, ops=REFERENCE) -> np.ndarray:
    keys_values, _ = source_forward(source, PARAMS, H, ops)
    return cross_attention_forward(x, keys_values, PARAMS, mask, H, EPS, ops)[0]


def test_cross_attention_is_torchs(library: Library) -> None:
    x, source = RANDOM.normal(size=(B, T, D)), RANDOM.normal(size=(B, S, D))
    is_real = RANDOM.random((B, S)) > 0.4
    is_real[:, 2] = True
    params, mask = library.tree(PARAMS), library.tree(PaddedMask(is_real[:, None, None, :]))
    keys_values, source_cache = source_forward(library.array(source), params, H, REFERENCE)
    y, cache = cross_attention_forward(library.array(x), keys_values, params, mask, H, EPS, REFERENCE)
    np.testing.assert_allclose(to_numpy(y), expected(x, source, ~is_real), atol=1e-12)  # float64, sums in another order
    check_record(keys_values)
    check_record(source_cache)
    for record in cache:
        check_record(record)


@given(
    lengths=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 7)), min_size=1, max_size=4),
    seed=st.integers(0, 99),
    threads=st.sampled_from([1, 2]),
)
def test_both_layouts_and_both_engines_agree(lengths: list[tuple[int, int]], seed: int, threads: int) -> None:
    """For any numbers of tokens and of source tokens, none among them."""
    random = np.random.default_rng(seed)
    queries, keys = np.array(lengths).T
    is_real, source_is_real = (np.arange(max(1, each.max())) < each[:, None] for each in (queries, keys))
    x, source = (random.normal(size=(*places.shape, D)) for places in (is_real, source_is_real))
    padded_mask = PaddedMask(source_is_real[:, None, None, :])
    packed_mask = PackedMask(spans(queries), spans(keys))
    engine = cpu_engine(Threads(threads)).training
    padded = run(x, source, padded_mask)[is_real]
    np.testing.assert_allclose(run(x, source, padded_mask, engine)[is_real], padded, atol=1e-12)  # the order of sums
    for ops in (REFERENCE, engine):
        packed = run(x[is_real], source[source_is_real], packed_mask, ops)
        np.testing.assert_allclose(packed, padded, atol=1e-12)  # float64, sums in another order


def test_an_empty_source_gives_zeros() -> None:
    x = RANDOM.normal(size=(3, D))
    y = run(x, np.zeros((0, D)), PackedMask(spans([3]), spans([0])))
    np.testing.assert_allclose(y, add_norm_forward(np.zeros((3, D)), x, PARAMS.output, EPS)[0], atol=1e-14)  # float64


def test_sentences_may_share_a_source() -> None:
    """As beams do: key spans may repeat."""
    x, source = RANDOM.normal(size=(5, D)), RANDOM.normal(size=(4, D))
    together = run(x, source, PackedMask(spans([2, 3]), Spans(np.array([0, 0]), np.array([4, 4]))))
    for rows in (slice(0, 2), slice(2, 5)):
        alone = run(x[rows], source, PackedMask(spans([rows.stop - rows.start]), spans([4])))
        np.testing.assert_allclose(together[rows], alone, atol=1e-13)  # float64, sums in another order


def test_keys_and_values_may_be_made_before(library: Library) -> None:
    x, states = library.array(RANDOM.normal(size=(5, D))), library.array(RANDOM.normal(size=(6, D)))
    layer = library.tree(LAYER)
    mask, source_mask = (library.tree(PackedMask(spans([2, 3]), spans(keys))) for keys in ([2, 3], [4, 2]))
    y, cache = encoder_layer_forward(x, layer, mask, SETTING, REFERENCE, source=Source(states, source_mask))
    keys_values, _ = source_forward(states, layer.cross_attention, H, REFERENCE)
    again, own_cache = encoder_layer_forward(
        x, layer, mask, SETTING, REFERENCE, source=Source(keys_values, source_mask)
    )
    np.testing.assert_array_equal(to_numpy(again), to_numpy(y))
    assert cache.source is not None
    assert own_cache.source is None


def test_a_layer_and_its_source_belong_together() -> None:
    x, mask = RANDOM.normal(size=(3, D)), PackedMask(spans([3]), spans([3]))
    for layer, source in ((LAYER, None), (LAYER._replace(cross_attention=None), Source(x, mask))):
        with pytest.raises(ValueError, match="A layer with cross-attention needs a source"):
            encoder_layer_forward(x, layer, mask, SETTING, REFERENCE, source=source)


def test_a_layer_without_cross_attention_has_no_leaves_of_it() -> None:
    plain = LAYER._replace(cross_attention=None)
    assert len(list(trees.leaves(LAYER))) - len(list(trees.leaves(plain))) == 10
