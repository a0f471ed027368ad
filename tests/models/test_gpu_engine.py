"""Whole models on the GPU engine, its kernels executed in emulation, against the same weights on the CPU in float64."""

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import xlmr_np
from tests.cuda_emulator import EmulatedGpu, why_not
from tests.ops.calls import DTYPES
from tests.reference_models import TINY, random_ids
from xlmr_np import XLMRobertaConfig, XLMRobertaForMaskedLM, XLMRobertaModel, trees
from xlmr_np.inputs import prepare_inputs
from xlmr_np.inputs_on_gpu import prepare_inputs_on_gpu
from xlmr_np.layers.attention import PackedMask
from xlmr_np.ops.engines import gpu_engine

pytestmark = pytest.mark.skipif(why_not() is not None, reason=f"kernels cannot be executed here: {why_not()}")

SHAPE = {**TINY, "hidden_size": 64, "num_attention_heads": 2, "initializer_range": 0.1, "use_cache": False}
CLASSES = (
    "XLMRobertaModel",
    "XLMRobertaForMaskedLM",
    "XLMRobertaForCausalLM",
    "XLMRobertaForSequenceClassification",
    "XLMRobertaForTokenClassification",
    "XLMRobertaForQuestionAnswering",
    "XLMRobertaForMultipleChoice",
)
LENGTHS = [9, 4, 7, 0, 1, 20]
# Of outputs of order one, larger ones by size: two layers round a dozen times, to 2^-11 and 2^-8 of each number.
TOLERANCE = {"float16": 0.005, "bfloat16": 0.04, "float32": 2e-5, "float64": 1e-10}
EVERY_DTYPE = pytest.mark.parametrize("dtype", TOLERANCE)


@cache
def model_of(class_name: str, dtype: str, is_emulated: bool, **changes: Any) -> Any:
    """A random model: in emulation stored in this type, otherwise the same numbers in float64 on the CPU."""
    model = getattr(xlmr_np, class_name)(XLMRobertaConfig(**SHAPE, **changes), generator=np.random.default_rng(0))
    random = np.random.default_rng(1)

    def shaken(leaf: np.ndarray) -> np.ndarray:
        stored = (leaf + 0.1 * random.normal(size=leaf.shape)).astype(DTYPES[dtype])
        return stored if is_emulated else stored.astype(np.float64)

    model.params = trees.map_leaves(shaken, model.params)
    if is_emulated:
        model.engine = gpu_engine(EmulatedGpu())
    return model


def assert_close(ours: Any, expected: Any, dtype: str) -> None:
    pairs = list(zip(trees.leaves(ours), trees.leaves(expected), strict=True))
    assert pairs
    for our, their in pairs:
        assert np.shape(our) == np.shape(their)
        our, their = np.asarray(our, np.float64), np.asarray(their)
        is_finite = np.isfinite(their)
        np.testing.assert_array_equal(our[~is_finite], their[~is_finite])  # an answer cannot begin at padding
        error = np.abs(our[is_finite] - their[is_finite]).max(initial=0)
        assert error <= TOLERANCE[dtype] * max(1, np.abs(their[is_finite]).max(initial=0))


def arguments(class_name: str) -> dict[str, Any]:
    ids = random_ids(LENGTHS, SHAPE["vocab_size"])
    if class_name == "XLMRobertaForMultipleChoice":
        ids = ids.reshape(3, 2, -1)
    return {"input_ids": ids, "attention_mask": ids != 1}


@EVERY_DTYPE
@pytest.mark.parametrize("class_name", CLASSES)
def test_every_class_computes_what_it_does_on_the_cpu(class_name: str, dtype: str) -> None:
    ours, expected = (model_of(class_name, dtype, on_gpu)(**arguments(class_name)) for on_gpu in (True, False))
    assert_close(ours.to_tuple(), expected.to_tuple(), dtype)


@EVERY_DTYPE
def test_padded_layout_attentions_and_hidden_states(dtype: str) -> None:
    given = arguments("XLMRobertaModel")
    seen = np.random.default_rng(0).random((6, 1, 20, 20)) < 0.7
    for requests in (
        {"output_attentions": True, "output_hidden_states": True},
        {"attention_mask": seen},
        {"attention_mask": seen[:, 0]},
    ):
        ours, expected = (
            model_of("XLMRobertaModel", dtype, on_gpu)(**{**given, **requests}).to_tuple() for on_gpu in (True, False)
        )
        assert_close(ours, expected, dtype)


@EVERY_DTYPE
def test_the_likeliest_tokens_and_the_loss(dtype: str) -> None:
    ids = random_ids([9, 4, 7], SHAPE["vocab_size"])
    where = np.random.default_rng(0).random(ids.shape) < 0.5
    where &= ids != 1
    ours, expected = (
        model_of("XLMRobertaForMaskedLM", dtype, on_gpu).predict(ids, where=where, k=4) for on_gpu in (True, False)
    )
    assert_close((ours.logits, ours.log_sum_exp), (expected.logits, expected.log_sum_exp), dtype)
    labels = np.where(where, ids, -100)
    losses = [
        model_of("XLMRobertaForMaskedLM", dtype, on_gpu).loss(input_ids=ids, labels=labels) for on_gpu in (True, False)
    ]
    assert_close((losses[0],), (losses[1],), dtype)


@EVERY_DTYPE
def test_users_own_embeddings(dtype: str) -> None:
    embeddings = np.random.default_rng(0).normal(size=(2, 5, SHAPE["hidden_size"])).astype(DTYPES[dtype])
    ours, expected = (
        model_of("XLMRobertaModel", dtype, on_gpu)(
            inputs_embeds=embeddings if on_gpu else embeddings.astype(np.float64)
        )
        for on_gpu in (True, False)
    )
    assert_close(ours.to_tuple(), expected.to_tuple(), dtype)


@EVERY_DTYPE
@pytest.mark.parametrize("class_name", ["XLMRobertaModel", "XLMRobertaForCausalLM"])
def test_cross_attention(class_name: str, dtype: str) -> None:
    """With sources of other lengths than the sentences, one of them empty; in both layouts, with all that returns."""
    source_is_real = np.arange(11) < np.array([11, 5, 0, 3, 8, 2])[:, None]
    states = np.random.default_rng(0).normal(size=(6, 11, SHAPE["hidden_size"])).astype(DTYPES[dtype])
    given = {**arguments(class_name), "encoder_attention_mask": source_is_real}
    requests: list[dict[str, Any]] = [{}, {"output_attentions": True, "output_hidden_states": True}]
    if class_name == "XLMRobertaForCausalLM":
        requests += [{"logits_to_keep": 2}, {"logits_to_keep": [0, 3, 8]}]
    for request in requests:
        ours, expected = (
            model_of(class_name, dtype, on_gpu, is_decoder=True, add_cross_attention=True)(
                **given, **request, encoder_hidden_states=states if on_gpu else states.astype(np.float64)
            ).to_tuple()
            for on_gpu in (True, False)
        )
        assert_close(ours, expected, dtype)


def test_launches_of_a_layer() -> None:
    """Three projections, attention, the norm after it, the activation and the norm after that: no kernel more."""
    model = model_of("XLMRobertaModel", "float16", True)
    launches = model.engine.gpu.launches
    launches.clear()
    model(**arguments("XLMRobertaModel"), output_hidden_states=True)
    names = [kernel.expression.split("<")[0] for kernel in launches]
    layer = ["bias_activation"] * 3 + ["attention_forward", "add_norm", "bias_activation", "add_norm"]
    assert names == ["embed", *layer * SHAPE["num_hidden_layers"], "bias_activation"]


def test_what_overflows_in_float16_is_an_error() -> None:
    model = XLMRobertaModel(XLMRobertaConfig(**SHAPE), generator=np.random.default_rng(0), dtype="float16")
    model.engine = gpu_engine(EmulatedGpu())
    layer = model.params.encoder.layers[0]
    output = layer.feed_forward.output
    bias = np.full_like(output.linear.bias, 6e4)
    large = output._replace(linear=output.linear._replace(weight=np.full_like(output.linear.weight, 6e4), bias=bias))
    layers = (layer._replace(feed_forward=layer.feed_forward._replace(output=large)), *model.params.encoder.layers[1:])
    model.params = model.params._replace(encoder=model.params.encoder._replace(layers=layers))
    with pytest.raises(FloatingPointError, match=r"left the range of float16 .* dtype='bfloat16'"):
        model(random_ids([5], SHAPE["vocab_size"]))


@pytest.mark.parametrize("what", ["logits", "the likeliest tokens", "loss"])
def test_what_overflows_in_a_head_is_an_error(what: str) -> None:
    model = XLMRobertaForMaskedLM(XLMRobertaConfig(**SHAPE), generator=np.random.default_rng(0), dtype="float16")
    model.engine = gpu_engine(EmulatedGpu())
    dense = model.params.head.dense
    large = dense._replace(weight=6e4 * np.sign(dense.weight))
    model.params = model.params._replace(head=model.params.head._replace(dense=large))
    ids = random_ids([5], SHAPE["vocab_size"])
    calls: dict[str, Callable[[], Any]] = {
        "logits": lambda: model(ids),
        "the likeliest tokens": lambda: model.predict(ids, where=ids != 1, k=2),
        "loss": lambda: model.loss(input_ids=ids, labels=ids),
    }
    with pytest.raises(FloatingPointError, match=r"left the range of float16 .* dtype='bfloat16'"):
        calls[what]()


def test_weights_of_several_types_are_computed_in_that_of_the_token_table() -> None:
    """As some fine-tunes store them: a head in float32 on a body in float16; norms in float32."""
    model = model_of("XLMRobertaForMaskedLM", "float16", True)
    expected = model(**arguments("XLMRobertaForMaskedLM")).logits
    wide = trees.map_leaves(lambda leaf: None if leaf is None else leaf.astype(np.float32), model.params.head)
    norm = trees.map_leaves(lambda leaf: leaf.astype(np.float32), model.params.encoder.embeddings.layer_norm)
    encoder = model.params.encoder
    mixed = copy.copy(model)
    mixed.params = model.params._replace(
        head=wide, encoder=encoder._replace(embeddings=encoder.embeddings._replace(layer_norm=norm))
    )
    np.testing.assert_array_equal(mixed(**arguments("XLMRobertaForMaskedLM")).logits, expected)
    embeddings = np.random.default_rng(0).normal(size=(2, 5, SHAPE["hidden_size"]))
    ours, same = (each(inputs_embeds=embeddings).logits for each in (mixed, model))
    np.testing.assert_array_equal(ours, same)


# --- inputs that are on the GPU already ---

ids_of_any_size = st.tuples(st.integers(1, 6), st.integers(1, 30), st.integers(0, 2**16))


@given(size=ids_of_any_size, form=st.sampled_from(["none", "bool", "int32", "float16"]), others=st.booleans())
def test_inputs_on_the_gpu_are_laid_out_as_those_on_the_host(
    size: tuple[int, int, int], form: str, others: bool
) -> None:
    batch, length, seed = size
    random = np.random.default_rng(seed)
    ids = np.where(random.random((batch, length)) < 0.3, 1, random.integers(4, 61, (batch, length)))
    mask = None if form == "none" else (random.random(ids.shape) < 0.7).astype(form)
    more = {}
    if others:
        more = {"token_type_ids": np.zeros_like(ids), "position_ids": random.integers(0, 34, (1, length))}
    config = XLMRobertaConfig(**SHAPE)
    ours = prepare_inputs_on_gpu(EmulatedGpu(), config, ids, mask, **more)
    expected = prepare_inputs(config, ids, mask, **more)
    assert isinstance(ours.mask, PackedMask)
    for our, their in zip(trees.leaves(ours), trees.leaves(expected), strict=True):
        np.testing.assert_array_equal(our, their)


WRONG: dict[str, dict[str, Any]] = {
    "an id": {"input_ids": np.array([[5, 6], [7, 61]])},
    "a negative id": {"input_ids": np.array([[5, 6], [-7, 6]])},
    "floats for ids": {"input_ids": np.ones((2, 2))},
    "no tokens": {"input_ids": np.ones((2, 0), int)},
    "a token type": {"token_type_ids": np.array([[0, 0], [0, 1]])},
    "a position": {"position_ids": np.array([[0, 34]])},
    "positions of another shape": {"position_ids": np.array([[0, 3, 4]])},
    "a negative mask": {"attention_mask": np.array([[0, -1], [0, 0]])},
    "a mask that is no number": {"attention_mask": np.array([[1, np.nan], [0, 0]])},
    "a mask of another shape": {"attention_mask": np.ones((2, 3))},
    "too many tokens": {"input_ids": np.full((1, 33), 5)},
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_inputs_on_the_gpu_have_the_host_s_words(what: str) -> None:
    config = XLMRobertaConfig(**SHAPE)
    given = {"input_ids": np.array([[5, 6], [7, 1]]), **WRONG[what]}
    with pytest.raises((ValueError, TypeError)) as expected:
        prepare_inputs(config, **given)
    with pytest.raises(type(expected.value)) as ours:
        prepare_inputs_on_gpu(EmulatedGpu(), config, **given)
    assert str(ours.value) == str(expected.value)
