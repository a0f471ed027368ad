"""The model classes against transformers' own, on random weights that transformers saved."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.reference_models import TINY, random_ids, save_reference
from xlmr_np import AutoModel, AutoModelForMaskedLM, XLMRobertaConfig, XLMRobertaForMaskedLM, XLMRobertaModel

TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5}
SHAPES = {
    "tiny": {},
    "one head": {"num_attention_heads": 1},
    "five layers": {"num_hidden_layers": 5, "hidden_size": 20, "num_attention_heads": 5, "intermediate_size": 11},
    "two token types": {"type_vocab_size": 2},
    "512 tokens": {"max_position_embeddings": 514},
    "pad id 0": {"pad_token_id": 0},
    **{name: {"hidden_act": name} for name in ("gelu_new", "relu", "silu", "tanh")},
}


def run_reference(model: torch.nn.Module, ids: np.ndarray, mask: np.ndarray, **arguments: object) -> object:
    with torch.no_grad():
        return model(torch.asarray(ids), torch.asarray(mask), **arguments)


def assert_close(ours: np.ndarray, theirs: torch.Tensor, where: np.ndarray, dtype: torch.dtype) -> None:
    """Equal at real tokens to the tolerance of the type; outputs are of order one, larger ones count by size."""
    expected = theirs.numpy()[where]
    assert ours.dtype == expected.dtype
    assert np.abs(ours[where] - expected).max() <= TOLERANCE[dtype] * max(1, np.abs(expected).max())


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", SHAPES)
def test_model_equals_the_reference(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    changes = SHAPES[name]
    reference = save_reference(tmp_path, "XLMRobertaModel", dtype, **changes)
    model = XLMRobertaModel.from_pretrained(tmp_path)
    lengths = [512, 3] if name == "512 tokens" else [9, 4, 1, 7]
    for side in ("right", "left"):
        ids = random_ids(lengths, side=side)
        mask = (ids != 1).astype(int)
        ids = np.where(mask == 1, ids, model.config.pad_token_id)
        theirs = run_reference(reference, ids, mask, output_hidden_states=True)
        ours = model(ids, mask, output_hidden_states=True)
        assert_close(ours.last_hidden_state, theirs.last_hidden_state, mask == 1, dtype)
        assert (ours.last_hidden_state[mask == 0] == 0).all()
        for our_state, their_state in zip(ours.hidden_states, theirs.hidden_states, strict=True):
            assert_close(our_state, their_state, mask == 1, dtype)
        if side == "right":  # on the left, the reference pools padding; see the next test
            assert_close(ours.pooler_output, theirs.pooler_output, np.ones(len(lengths), bool), dtype)


def test_the_classification_token_is_the_first_real_one(tmp_path: Path) -> None:
    save_reference(tmp_path, "XLMRobertaModel")
    model = XLMRobertaModel.from_pretrained(tmp_path)
    right, left = (model(random_ids([6, 3], side=side)).pooler_output for side in ("right", "left"))
    np.testing.assert_allclose(left, right, atol=1e-12)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("is_tied", [True, False])
def test_masked_lm_equals_the_reference(tmp_path: Path, is_tied: bool, dtype: torch.dtype) -> None:
    reference = save_reference(tmp_path, "XLMRobertaForMaskedLM", dtype, tie_word_embeddings=is_tied, hidden_act="relu")
    model = XLMRobertaForMaskedLM.from_pretrained(tmp_path)
    assert model.is_tied == is_tied
    ids = random_ids([9, 4, 7])
    mask = (ids != 1).astype(int)
    labels = np.where((mask == 1) & (np.arange(9) % 2 == 0), ids, -100)
    theirs = run_reference(reference, ids, mask, labels=torch.asarray(labels))
    ours = model(ids, mask, labels=labels)
    assert_close(ours.logits, theirs.logits, mask == 1, dtype)
    assert (ours.logits[mask == 0] == 0).all()
    assert abs(float(ours.loss) - float(theirs.loss)) <= TOLERANCE[dtype] * 10
    order = np.argsort(-ours.logits[mask == 1], axis=1)[:, :5]
    np.testing.assert_array_equal(order, torch.topk(theirs.logits[torch.asarray(mask == 1)], 5).indices.numpy())


def test_predict_is_the_top_of_the_logits(tmp_path: Path) -> None:
    save_reference(tmp_path, "XLMRobertaForMaskedLM")
    model = XLMRobertaForMaskedLM.from_pretrained(tmp_path)
    ids = random_ids([9, 4])
    where = np.zeros(ids.shape, bool)
    where[0, [2, 5]] = where[1, 3] = True
    top = model.predict(ids, where=where, k=4)
    logits = model(ids).logits[where]
    np.testing.assert_array_equal(top.ids, np.argsort(-logits, axis=1)[:, :4])
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(
        np.exp(top.logits - top.log_sum_exp[:, None]), -np.sort(-probabilities, axis=1)[:, :4], rtol=1e-12
    )
    targets = [40, 7, 12]
    among = model.predict(ids, where=where, k=2, targets=targets)
    np.testing.assert_array_equal(among.ids, np.array(targets)[np.argsort(-logits[:, targets], axis=1)[:, :2]])
    np.testing.assert_allclose(among.log_sum_exp, top.log_sum_exp)
    for k, chosen in ((0, None), (62, None), (4, targets), (2, [7, 7]), (1.5, None)):
        with pytest.raises(ValueError, match=f"{k} tokens were asked for"):
            model.predict(ids, where=where, k=k, targets=chosen)


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    save_reference(directory, "XLMRobertaModel")
    return directory


@pytest.fixture(scope="module")
def model(model_directory: Path) -> XLMRobertaModel:
    return XLMRobertaModel.from_pretrained(model_directory)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> torch.nn.Module:
    return save_reference(tmp_path_factory.mktemp("reference"), "XLMRobertaModel")


def test_attentions_are_really_returned(model: XLMRobertaModel, reference: torch.nn.Module) -> None:
    ids = random_ids([5, 3])
    mask = (ids != 1).astype(int)
    reference.set_attn_implementation("eager")  # the only one of the reference's that returns them
    theirs = run_reference(reference, ids, mask, output_attentions=True)
    reference.set_attn_implementation("sdpa")
    ours = model(ids, output_attentions=True)
    assert len(ours.attentions) == TINY["num_hidden_layers"]
    for our_layer, their_layer in zip(ours.attentions, theirs.attentions, strict=True):
        real_queries = np.broadcast_to(mask[:, None, :, None] == 1, our_layer.shape)
        np.testing.assert_allclose(our_layer[real_queries], their_layer.numpy()[real_queries], atol=1e-12)
        assert (our_layer[~real_queries] == 0).all()
    np.testing.assert_allclose(ours.last_hidden_state, model(ids).last_hidden_state, atol=1e-12)


def test_masks_of_every_kind_equal_the_reference(model: XLMRobertaModel, reference: torch.nn.Module) -> None:
    ids = random_ids([6, 6])
    everything = np.ones((2, 6), bool)
    causal = np.tril(np.ones((2, 1, 6, 6), bool))
    heads = np.random.default_rng(0).random((2, 3, 6, 6)) > 0.3
    heads[..., 0] = True
    for mask in (causal, heads):
        theirs = run_reference(reference, ids, mask)
        np.testing.assert_allclose(model(ids, mask).last_hidden_state, theirs.last_hidden_state.numpy(), atol=1e-11)
    three = causal[:, 0].astype(int)  # transformers 5 takes no masks of three dimensions; it means the same
    np.testing.assert_allclose(model(ids, three).last_hidden_state, model(ids, causal).last_hidden_state, atol=1e-13)
    additive = np.where(causal, 0.0, np.finfo(np.float64).min)
    theirs = run_reference(reference, ids, additive)
    np.testing.assert_allclose(model(ids, additive).last_hidden_state, theirs.last_hidden_state.numpy(), atol=1e-11)
    np.testing.assert_allclose(model(ids, everything).last_hidden_state, model(ids).last_hidden_state, atol=1e-13)


def test_an_all_ones_mask_over_padding_equals_the_reference(model: XLMRobertaModel, reference: torch.nn.Module) -> None:
    ids = random_ids([6, 2])
    theirs = run_reference(reference, ids, np.ones_like(ids))
    ours = model(ids, np.ones_like(ids))
    np.testing.assert_allclose(ours.last_hidden_state, theirs.last_hidden_state.numpy(), atol=1e-11)


def test_embeddings_in_place_of_ids(model: XLMRobertaModel, reference: torch.nn.Module) -> None:
    embeddings = np.random.default_rng(1).normal(size=(2, 5, TINY["hidden_size"]))
    with torch.no_grad():
        theirs = reference(inputs_embeds=torch.asarray(embeddings))
    ours = model(inputs_embeds=embeddings)
    np.testing.assert_allclose(ours.last_hidden_state, theirs.last_hidden_state.numpy(), atol=1e-11)
    ids = random_ids([5, 3])
    table = model.params.encoder.embeddings.token
    by_embeddings = model(inputs_embeds=table[ids], attention_mask=ids != 1)
    np.testing.assert_allclose(by_embeddings.last_hidden_state, model(ids).last_hidden_state, atol=1e-12)


def test_given_positions_and_types_equal_the_reference(tmp_path: Path) -> None:
    reference = save_reference(tmp_path, "XLMRobertaModel", type_vocab_size=3)
    model = XLMRobertaModel.from_pretrained(tmp_path)
    ids, generator = random_ids([5, 5]), np.random.default_rng(0)
    positions, types = generator.integers(0, 34, (2, 5)), generator.integers(0, 3, (2, 5))
    with torch.no_grad():
        theirs = reference(
            torch.asarray(ids), position_ids=torch.asarray(positions), token_type_ids=torch.asarray(types)
        )
    ours = model(ids, position_ids=positions, token_type_ids=types)
    np.testing.assert_allclose(ours.last_hidden_state, theirs.last_hidden_state.numpy(), atol=1e-11)


@given(
    st.lists(st.integers(1, 8), min_size=1, max_size=5),
    st.randoms(use_true_random=False),
    st.integers(0, 4),
    st.sampled_from(["packed", "padded"]),
)
def test_a_sentence_does_not_depend_on_its_company(model: XLMRobertaModel, lengths, random, extra, layout) -> None:
    """Neither neighbours, nor their order, nor the side and amount of padding change a sentence's output."""
    sentences = [random_ids([length])[0] for length in lengths]
    alone = [model(sentence[None]).last_hidden_state[0] for sentence in sentences]
    order = random.sample(range(len(lengths)), len(lengths))
    width = max(lengths) + extra
    ids, starts = np.ones((len(lengths), width), int), {}
    for row, i in enumerate(order):
        starts[i] = random.randint(0, width - lengths[i])
        ids[row, starts[i] : starts[i] + lengths[i]] = sentences[i]
    model.set_attn_implementation("eager" if layout == "padded" else "sdpa")
    together = model(ids).last_hidden_state
    model.set_attn_implementation("sdpa")
    for row, i in enumerate(order):
        np.testing.assert_allclose(together[row, starts[i] : starts[i] + lengths[i]], alone[i], atol=1e-12)


def test_a_row_of_padding_is_all_zeros(model: XLMRobertaModel) -> None:
    ids = random_ids([3, 2])
    ids[1] = 1
    for implementation in ("sdpa", "eager"):
        model.set_attn_implementation(implementation)
        output = model(ids)
        assert (output.last_hidden_state[1] == 0).all()
        assert np.isfinite(output.pooler_output).all()
    model.set_attn_implementation("sdpa")
    assert (model(np.ones((2, 3), int)).last_hidden_state == 0).all()


def test_hidden_states_on_request(model: XLMRobertaModel) -> None:
    ids = random_ids([4])
    every = model(ids, output_hidden_states=True).hidden_states
    np.testing.assert_array_equal(every[-1], model(ids).last_hidden_state)
    some = model(ids, output_hidden_states=[-1, 0]).hidden_states
    np.testing.assert_array_equal(some[0], every[0])
    np.testing.assert_array_equal(some[2], every[2])
    assert some[1] is None
    one = model(ids, output_hidden_states=1).hidden_states
    assert [state is None for state in one] == [True, False, True]
    for wrong in (3, "all", [0, -4]):
        with pytest.raises(ValueError, match=r"asks for .*; they are 0 to 2"):
            model(ids, output_hidden_states=wrong)
    assert model(ids, output_hidden_states=np.True_).hidden_states is not None


def test_outputs_follow_the_config_unless_a_call_says_otherwise(model_directory: Path) -> None:
    model = XLMRobertaModel.from_pretrained(model_directory, output_hidden_states=True, return_dict=False)
    ids = random_ids([4])
    last, pooled, hidden_states = model(ids)
    assert len(hidden_states) == 3
    assert last.shape == (1, 4, 24)
    assert pooled.shape == (1, 24)
    assert model(ids, output_hidden_states=False, return_dict=True).keys() == ["last_hidden_state", "pooler_output"]


def test_pooling_layer(tmp_path: Path, model_directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert (
        XLMRobertaModel.from_pretrained(model_directory, add_pooling_layer=False)(random_ids([3])).pooler_output is None
    )
    save_reference(tmp_path, "XLMRobertaForMaskedLM")
    assert AutoModel.from_pretrained(tmp_path)(random_ids([3])).pooler_output is None
    assert not caplog.records
    model = XLMRobertaModel.from_pretrained(tmp_path, add_pooling_layer=True)
    assert model.load_report.missing == ("pooler.dense.weight", "pooler.dense.bias")
    assert "missing, initialised at random: pooler.dense.weight" in caplog.text
    config = XLMRobertaConfig(**TINY)
    assert XLMRobertaModel(config)(random_ids([3])).pooler_output.shape == (1, 24)
    assert XLMRobertaModel(config, add_pooling_layer=False)(random_ids([3])).pooler_output is None


def test_roberta_and_camembert_are_the_same_layers(tmp_path: Path) -> None:
    import transformers

    for name in ("Roberta", "Camembert"):
        directory = tmp_path / name
        torch.manual_seed(0)
        config = getattr(transformers, f"{name}Config")(**TINY)
        reference = getattr(transformers, f"{name}ForMaskedLM")(config).double().eval()
        reference.save_pretrained(directory)
        ids = random_ids([7, 3])
        theirs = run_reference(reference, ids, ids != 1).logits.numpy()
        ours = AutoModelForMaskedLM.from_pretrained(directory)(ids).logits
        np.testing.assert_allclose(ours[ids != 1], theirs[ids != 1], atol=1e-10)


def test_auto_classes_need_an_architecture(tmp_path: Path, model_directory: Path) -> None:
    (tmp_path / "config.json").write_text('{"hidden_size": 24}')
    with pytest.raises(ValueError, match="model_type"):
        AutoModel.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    for loader in (AutoModel, XLMRobertaModel):
        with pytest.raises(ValueError, match="bert"):
            loader.from_pretrained(tmp_path)
    config = XLMRobertaConfig(**TINY)
    assert isinstance(AutoModel.from_pretrained(model_directory, config=config), XLMRobertaModel)
    assert isinstance(AutoModelForMaskedLM.from_config(config), XLMRobertaForMaskedLM)


BAD_ARGUMENTS = {
    "unknown": ({"foo": 1}, TypeError, "from_pretrained.. got foo: neither an argument nor a field"),
    "attention": ({"attn_implementation": "zzz"}, ValueError, "'zzz' is not one of eager, sdpa, flash_attention_2"),
    "dtype": ({"dtype": "int8"}, ValueError, "dtype='int8' is not one of float64"),
    "torch dtype": ({"torch_dtype": torch.bfloat16}, TypeError, "write dtype='bfloat16'"),
    "device": ({"device": "tpu"}, ValueError, "device 'tpu' is not known"),
    "quantisation": ({"quantization_config": {}}, NotImplementedError, "quantization_config is not supported yet"),
    "cross-attention": ({"add_cross_attention": True}, ValueError, "add_cross_attention=True needs is_decoder=True"),
    "encoder-decoder": (
        {"is_encoder_decoder": True},
        NotImplementedError,
        "is_encoder_decoder=True, an encoder and a decoder in one, which is not supported",
    ),
    "a dict for a config": ({"config": {"hidden_size": 3}}, TypeError, "config must be an XLMRobertaConfig or where"),
    "activation": ({"hidden_act": "mish"}, ValueError, "hidden_act='mish' is not implemented; the activations are"),
    "heads": ({"num_attention_heads": 5}, ValueError, "hidden_size 24 .*num_attention_heads 5"),
    "width": (
        {"hidden_size": 48},
        OSError,
        r"another shape than the config asks for, first embeddings\.word_embeddings",
    ),
    "layers": ({"num_hidden_layers": 3}, OSError, r"lacks 16 of the encoder's tensors \(encoder\.layer\.2"),
}


@pytest.mark.parametrize("name", BAD_ARGUMENTS)
def test_bad_arguments_of_from_pretrained_are_named(model_directory: Path, name: str) -> None:
    arguments, error, message = BAD_ARGUMENTS[name]
    with pytest.raises(error, match=message):
        XLMRobertaModel.from_pretrained(model_directory, **arguments)


def test_arguments_that_change_nothing_are_let_through(model_directory: Path, tmp_path: Path) -> None:
    model = AutoModel.from_pretrained(
        model_directory, trust_remote_code=True, low_cpu_mem_usage=True, torch_dtype="auto"
    )
    model.save_pretrained(tmp_path, safe_serialization=True)
    with pytest.raises(ValueError, match="only safetensors are written"):
        model.save_pretrained(tmp_path, safe_serialization=False)


def test_dtype_goes_before_its_former_name(model_directory: Path) -> None:
    load = XLMRobertaModel.from_pretrained
    assert load(model_directory, dtype="float32", torch_dtype="float16").dtype == np.float32
    assert load(model_directory, torch_dtype="float16").dtype == np.float16


def test_every_attention_name_of_the_reference_is_known(model_directory: Path) -> None:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    names = [name for name in ALL_ATTENTION_FUNCTIONS.valid_keys() if not name.startswith("paged|")]
    model = XLMRobertaModel.from_pretrained(model_directory)
    expected = model(random_ids([4, 2])).last_hidden_state
    for name in ["eager", *names, "paged|eager", "paged|sdpa"]:
        model.set_attn_implementation(name)
        np.testing.assert_allclose(model(random_ids([4, 2])).last_hidden_state, expected, atol=1e-12)
    with pytest.raises(ValueError, match="is not one of"):
        model.set_attn_implementation(["eager"])


def test_a_quantised_checkpoint_is_refused(model_directory: Path) -> None:
    config = XLMRobertaConfig.from_pretrained(model_directory)
    config.quantization_config = {"load_in_4bit": True}
    with pytest.raises(NotImplementedError, match="quantization_config is not supported yet"):
        XLMRobertaModel.from_pretrained(model_directory, config=config)
    with pytest.raises(TypeError, match="A model is made from an XLMRobertaConfig, not from 'FacebookAI"):
        XLMRobertaModel("FacebookAI/xlm-roberta-base")


def test_a_model_keeps_its_own_config() -> None:
    config = XLMRobertaConfig(**TINY)
    model = XLMRobertaModel(config)
    config.num_attention_heads = 1
    assert model.config.num_attention_heads == TINY["num_attention_heads"]


def test_embeddings_are_computed_in_the_models_type(model_directory: Path) -> None:
    model = XLMRobertaModel.from_pretrained(model_directory, dtype="float32")
    assert model(inputs_embeds=np.zeros((1, 2, 24))).last_hidden_state.dtype == np.float32


def test_predict_refuses_targets_that_are_no_tokens(tmp_path: Path) -> None:
    save_reference(tmp_path, "XLMRobertaForMaskedLM")
    model = XLMRobertaForMaskedLM.from_pretrained(tmp_path)
    for target in (-1, 61, "a", 1.0):
        with pytest.raises(ValueError, match="is not a token id; they go from 0 to 60"):
            model.predict([[5, 6]], where=[[True, False]], k=1, targets=[target])


def test_a_config_that_contradicts_itself_makes_no_model() -> None:
    config = XLMRobertaConfig(**TINY)
    config.add_cross_attention = True
    with pytest.raises(ValueError, match="add_cross_attention=True needs is_decoder=True"):
        XLMRobertaModel(config)


def test_lists_work_as_input(model: XLMRobertaModel) -> None:
    ids = random_ids([3])
    np.testing.assert_array_equal(model(ids.tolist()).last_hidden_state, model(ids).last_hidden_state)


def test_inputs_are_left_alone(model: XLMRobertaModel) -> None:
    ids = random_ids([5, 3])
    mask = (ids != 1).astype(int)
    before = ids.copy(), mask.copy()
    for array in (ids, mask):
        array.flags.writeable = False
    model(ids, mask)
    np.testing.assert_array_equal(ids, before[0])
    np.testing.assert_array_equal(mask, before[1])


def test_two_threads_share_a_model(model: XLMRobertaModel) -> None:
    from concurrent.futures import ThreadPoolExecutor

    batches = [random_ids([3 + i, 8 - i]) for i in range(5)] * 4
    expected = [model(batch).last_hidden_state for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        for ours, output in zip(expected, pool.map(model, batches), strict=True):
            np.testing.assert_allclose(output.last_hidden_state, ours, atol=1e-13)
