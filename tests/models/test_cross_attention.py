"""Decoders that see a source, against transformers' own, and what must not change what they say."""

import pickle
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

import xlmr_np
from tests.reference_models import TINY, random_ids, save_reference
from xlmr_np import XLMRobertaConfig, trees

MODEL, CAUSAL, MASKED = "XLMRobertaModel", "XLMRobertaForCausalLM", "XLMRobertaForMaskedLM"
CROSS = {"is_decoder": True, "add_cross_attention": True}
EVERY_CLASS = pytest.mark.parametrize("class_name", [MODEL, CAUSAL, MASKED])
LAYOUTS = pytest.mark.parametrize("implementation", ["sdpa", "eager"])
LENGTHS, SOURCE_LENGTHS = [9, 4, 7], [5, 6, 2]
WIDTH = TINY["hidden_size"]
REQUESTS = {"output_hidden_states": True, "output_attentions": True}


def arguments(
    lengths: list[int] = LENGTHS, source_lengths: list[int] = SOURCE_LENGTHS, extra: int = 0
) -> dict[str, Any]:
    """Token ids and the states of a source, both padded on the right, the latter by some more."""
    ids = random_ids(lengths)
    source_is_real = np.arange(max(source_lengths) + extra) < np.array(source_lengths)[:, None]
    states = np.random.default_rng(1).normal(size=(len(lengths), max(source_lengths), WIDTH))
    padded = np.full((*source_is_real.shape, WIDTH), 1e3)  # what stands at padding must not matter
    padded[:, : states.shape[1]] = states
    return {
        "input_ids": ids,
        "attention_mask": (ids != 1).astype(np.int64),
        "encoder_hidden_states": np.where(source_is_real[..., None], padded, 1e3),
        "encoder_attention_mask": source_is_real.astype(np.int64),
    }


def in_torch(arrays: dict[str, Any], dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    tensors = {name: torch.asarray(array) for name, array in arrays.items()}
    return {name: each.to(dtype) if each.is_floating_point() else each for name, each in tensors.items()}


def run_reference(model: Any, arrays: dict[str, Any], **requests: Any) -> Any:
    with torch.no_grad():
        return model(**in_torch(arrays, model.dtype), **requests)


@cache
def random_model(class_name: str = CAUSAL, num_threads: int | None = None) -> Any:
    """In float64, biases and norms random too."""
    config = XLMRobertaConfig(**TINY, **CROSS)
    generator = np.random.default_rng(0)
    model = getattr(xlmr_np, class_name)(config, generator=generator, dtype="float64", num_threads=num_threads)
    model.params = trees.map_leaves(lambda leaf: leaf + 0.1 * generator.normal(size=leaf.shape), model.params)
    return model


def last(output: Any) -> np.ndarray:
    return output.logits if "logits" in output else output.last_hidden_state


@LAYOUTS
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-5)], ids=str)
@EVERY_CLASS
def test_outputs_are_the_references(
    tmp_path: Path, class_name: str, dtype: torch.dtype, tolerance: float, implementation: str
) -> None:
    reference = save_reference(tmp_path, class_name, dtype, use_cache=False, **CROSS)
    reference.set_attn_implementation("eager")
    model = getattr(xlmr_np, class_name).from_pretrained(tmp_path)
    model.set_attn_implementation(implementation)
    assert model.load_report.is_as_expected
    given_ = arguments()
    is_real = given_["attention_mask"] == 1
    theirs = run_reference(reference, given_, **REQUESTS)
    plain, ours = model(**given_), model(**given_, **REQUESTS)
    assert plain.keys() == [key for key in ours if key not in ("hidden_states", "attentions", "cross_attentions")]
    assert ours.keys() == list(theirs)

    def assert_close(our: np.ndarray, their: torch.Tensor) -> None:
        expected = their.numpy()
        assert our.dtype == expected.dtype
        assert np.abs(our - expected).max() <= tolerance * max(1, np.abs(expected).max())

    for output in (plain, ours):
        assert_close(last(output)[is_real], last(theirs)[is_real])
        assert not last(output)[~is_real].any()
    for our, their in zip(ours.hidden_states, theirs.hidden_states, strict=True):
        assert_close(our[is_real], their[is_real])
    if class_name == MASKED:
        assert "cross_attentions" not in ours  # as of the reference
        return
    assert len(ours.cross_attentions) == TINY["num_hidden_layers"]
    for our, their in zip(ours.cross_attentions, theirs.cross_attentions, strict=True):
        assert our.shape == (3, TINY["num_attention_heads"], 9, 6)
        by_query = our.transpose(0, 2, 1, 3)
        assert_close(by_query[is_real], their.transpose(1, 2)[is_real])
        assert not by_query[~is_real].any()
        assert not our.transpose(0, 3, 1, 2)[given_["encoder_attention_mask"] == 0].any()


@EVERY_CLASS
def test_without_a_mask_the_whole_source_is_seen(tmp_path: Path, class_name: str) -> None:
    reference = save_reference(tmp_path, class_name, use_cache=False, **CROSS)
    model = getattr(xlmr_np, class_name).from_pretrained(tmp_path)
    given_ = arguments([5, 5, 5], [4, 4, 4])
    del given_["encoder_attention_mask"]
    theirs = run_reference(reference, given_)
    np.testing.assert_allclose(last(model(**given_)), last(theirs).numpy(), atol=1e-10)  # the order of sums
    given_["encoder_attention_mask"] = np.ones((3, 4))
    np.testing.assert_allclose(last(model(**given_)), last(theirs).numpy(), atol=1e-10)  # the order of sums


@EVERY_CLASS
def test_what_is_saved_loads_here_and_in_the_reference(tmp_path: Path, class_name: str) -> None:
    model = random_model(class_name)
    model.save_pretrained(tmp_path)
    theirs, information = getattr(transformers, class_name).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(information.values())
    given_ = arguments()
    is_real = given_["attention_mask"] == 1
    expected = last(model(**given_))
    reference = last(run_reference(theirs.eval(), given_, use_cache=False)).numpy()
    np.testing.assert_allclose(reference[is_real], expected[is_real], atol=1e-10)  # float64, sums in another order
    again = getattr(xlmr_np, class_name).from_pretrained(tmp_path)
    assert again.load_report.is_as_expected
    for name, array in again.state_dict().items():
        np.testing.assert_array_equal(array, model.state_dict()[name])
    np.testing.assert_allclose(last(pickle.loads(pickle.dumps(model))(**given_)), expected, atol=1e-12)  # float64


def test_an_encoders_states_begin_a_decoder(tmp_path: Path) -> None:
    """As the documentation page has it: the last hidden states of one model are what another sees."""
    save_reference(tmp_path, MODEL)
    encoder = xlmr_np.XLMRobertaModel.from_pretrained(tmp_path)
    decoder = xlmr_np.XLMRobertaModel.from_pretrained(tmp_path, generator=np.random.default_rng(0), **CROSS)
    assert len(decoder.load_report.missing) == 20
    ids = random_ids(SOURCE_LENGTHS)
    states = encoder(ids).last_hidden_state
    output = decoder(random_ids(LENGTHS), encoder_hidden_states=states, encoder_attention_mask=ids != 1)
    assert output.last_hidden_state.shape == (3, 9, WIDTH)
    assert np.isfinite(output.last_hidden_state).all()


# What must not matter


@settings(max_examples=20)
@given(
    lengths=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 7)), min_size=1, max_size=4),
    extra=st.integers(0, 4),
    side=st.sampled_from(["right", "left", "around"]),
    class_name=st.sampled_from([MODEL, CAUSAL]),
    implementation=st.sampled_from(["sdpa", "eager"]),
    num_threads=st.sampled_from([1, 2]),
    seed=st.integers(0, 99),
)
def test_a_sentence_sees_its_own_source_and_nothing_else(
    lengths: list[tuple[int, int]],
    extra: int,
    side: str,
    class_name: str,
    implementation: str,
    num_threads: int,
    seed: int,
) -> None:
    """Neither neighbours, nor their order, nor where the padding of a source is and what stands there matter."""
    model, random = random_model(class_name, num_threads), np.random.default_rng(seed)
    sentences = [random.integers(4, 61, own) for own, _ in lengths]
    sources = [random.normal(size=(own, WIDTH)) for _, own in lengths]
    width, source_width = (max(1, max(own) + extra) for own in zip(*lengths, strict=True))
    ids = np.ones((len(lengths), width), int)
    states = random.normal(size=(len(lengths), source_width, WIDTH))
    mask = np.zeros(states.shape[:2], int)
    rows = random.permutation(len(lengths))
    for row, sentence, source in zip(rows, sentences, sources, strict=True):
        ids[row, : len(sentence)] = sentence
        room = source_width - len(source)
        start = {"right": 0, "left": room, "around": int(random.integers(room + 1))}[side]
        states[row, start : start + len(source)] = source
        mask[row, start : start + len(source)] = 1
    model.set_attn_implementation(implementation)
    together = last(model(ids, encoder_hidden_states=states, encoder_attention_mask=mask))
    model.set_attn_implementation("sdpa")
    for row, sentence, source in zip(rows, sentences, sources, strict=True):
        assert not together[row, len(sentence) :].any()
        if not len(sentence):
            continue
        nothing = np.zeros((1, 1, WIDTH))  # a source of no real token, where there is none
        alone = model(
            sentence[None],
            encoder_hidden_states=source[None] if len(source) else nothing,
            encoder_attention_mask=np.full((1, max(1, len(source))), min(1, len(source))),
        )
        np.testing.assert_allclose(together[row, : len(sentence)], last(alone)[0], atol=1e-11)  # the order of sums


@LAYOUTS
@EVERY_CLASS
def test_more_padding_of_the_source_changes_nothing(class_name: str, implementation: str) -> None:
    model = random_model(class_name)
    model.set_attn_implementation(implementation)
    few, more = (last(model(**arguments(extra=extra))) for extra in (0, 5))
    model.set_attn_implementation("sdpa")
    np.testing.assert_allclose(more, few, atol=1e-12)  # float64, sums in another order


@LAYOUTS
def test_a_later_token_changes_no_earlier_one_but_a_source_changes_all(implementation: str) -> None:
    model, given_ = random_model(), arguments([9], [6])
    model.set_attn_implementation(implementation)
    before = model(**given_).logits
    ids = given_["input_ids"].copy()
    ids[0, 5] = 4 + (ids[0, 5] - 3) % 57
    after = model(**{**given_, "input_ids": ids}).logits
    states = given_["encoder_hidden_states"].copy()
    states[0, -1] += 1  # no token of a source is in the future of any
    elsewhere = model(**{**given_, "encoder_hidden_states": states}).logits
    model.set_attn_implementation("sdpa")
    np.testing.assert_array_equal(after[0, :5], before[0, :5])
    assert np.abs(after[0, 5] - before[0, 5]).max() > 1e-3
    assert (np.abs(elsewhere - before).max(axis=-1) > 1e-3).all()


@pytest.mark.parametrize("kind", ["lists", "torch", "float32"])
def test_other_forms_of_states(kind: str) -> None:
    model, given_ = random_model(), arguments()
    convert = {"lists": np.ndarray.tolist, "torch": torch.asarray, "float32": lambda x: x.astype(np.float32)}[kind]
    changed = {name: convert(given_[name]) for name in ("encoder_hidden_states", "encoder_attention_mask")}
    expected, ours = model(**given_).logits, model(**{**given_, **changed}).logits
    np.testing.assert_allclose(ours, expected, atol=1e-5 if kind == "float32" else 0)  # of states that were rounded


def test_long_batches_are_not_cut_into_shards() -> None:
    """What a sentence costs is not in its length alone; results are those of single sentences all the same."""
    model = random_model(MODEL, 2)
    given_ = arguments([30] * 40, [7] * 40)
    together = model(**given_).last_hidden_state
    for row in (0, 17, 39):
        alone = model(**{name: each[row : row + 1] for name, each in given_.items()}).last_hidden_state
        np.testing.assert_allclose(together[row], alone[0], atol=1e-11)  # float64, sums in another order


def test_half_precision_weights_compute_in_float32() -> None:
    config = XLMRobertaConfig(**TINY, **CROSS)
    half = xlmr_np.XLMRobertaModel(config, generator=np.random.default_rng(0), dtype="float16")
    wide = xlmr_np.XLMRobertaModel(config, generator=np.random.default_rng(0))
    wide.params = trees.map_leaves(lambda leaf: leaf.astype(np.float32), half.params)
    ours, expected = (model(**arguments()).last_hidden_state for model in (half, wide))
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, expected, atol=2e-6)  # float32, through all layers


# Training; parity of gradients is in test_gradients.py


@LAYOUTS
def test_losses_agree(implementation: str) -> None:
    model, given_ = random_model(), arguments()
    model.set_attn_implementation(implementation)
    labels = np.where(given_["attention_mask"] == 1, given_["input_ids"], -100)
    expected = float(model(**given_, labels=labels).loss)
    losses = [
        float(model.loss(**given_, labels=labels)),
        float(model.loss_and_gradients(**given_, labels=labels)[0].loss),
    ]
    model.set_attn_implementation("sdpa")
    np.testing.assert_allclose(losses, expected, rtol=1e-12)  # float64, sums in another order


@LAYOUTS
def test_the_gradient_of_the_states_comes_with_those_of_the_parameters(implementation: str) -> None:
    model, given_ = random_model(MODEL), arguments()
    model.set_attn_implementation(implementation)
    output, backward = model.vjp(**given_)
    gradients, d_states = backward(np.ones_like(output.last_hidden_state))
    model.set_attn_implementation("sdpa")
    assert model.named(gradients).keys() == model.state_dict().keys()
    assert d_states.shape == given_["encoder_hidden_states"].shape
    assert not d_states[given_["encoder_attention_mask"] == 0].any()
    assert d_states[given_["encoder_attention_mask"] == 1].all()


def test_dropout_of_cross_attention_is_drawn_last() -> None:
    """So that models without it drop what they always dropped."""
    from xlmr_np.models.encoding import DropoutKeys

    drops = []
    for model in (random_model(MODEL), xlmr_np.XLMRobertaModel(XLMRobertaConfig(**{**TINY, "num_hidden_layers": 1}))):
        given_ = arguments() if model.config.is_decoder else {"input_ids": arguments()["input_ids"]}
        inputs = model._prepare(**given_)
        drops.append(model._encoder_dropout(inputs, DropoutKeys(np.random.default_rng(0)), None))
    (with_source, without) = (each.layers[0] for each in drops)
    assert with_source.probabilities == without.probabilities
    assert with_source.attention.keep.key == without.attention.keep.key
    assert with_source.feed_forward.keep.key == without.feed_forward.keep.key
    assert without.cross_probabilities is without.cross_attention is None
    assert (
        len(
            {with_source.cross_probabilities.keep, with_source.cross_attention.keep.key, with_source.probabilities.keep}
        )
        == 3
    )


# Bad input


@EVERY_CLASS
def test_a_source_is_neither_ignored_nor_left_out(class_name: str) -> None:
    """The reference does both without a word."""
    given_ = arguments()
    plain = {name: given_[name] for name in ("input_ids", "attention_mask")}
    with pytest.raises(ValueError, match="has cross-attention, so that it needs encoder_hidden_states"):
        random_model(class_name)(**plain)
    decoder = getattr(xlmr_np, class_name)(XLMRobertaConfig(**TINY, is_decoder=True))
    with pytest.raises(ValueError, match="is a decoder without cross-attention, which could not see them"):
        decoder(**given_)
    if class_name != CAUSAL:  # which is never an encoder
        with pytest.raises(ValueError, match="is an encoder, which could not see them"):
            getattr(xlmr_np, class_name)(XLMRobertaConfig(**TINY))(**given_)
    with pytest.raises(ValueError, match="without the encoder_hidden_states that it is of"):
        decoder(**plain, encoder_attention_mask=given_["encoder_attention_mask"])


def test_a_training_step_refuses_what_forward_refuses() -> None:
    given_ = arguments()
    plain = {name: given_[name] for name in ("input_ids", "attention_mask")}
    wrong = {**given_, "encoder_hidden_states": given_["encoder_hidden_states"][..., :-1]}
    labels = {"labels": np.where(plain["attention_mask"] == 1, plain["input_ids"], -100)}
    for refused, message in ((plain, "needs encoder_hidden_states"), (wrong, r"shape \(3, 6, 23\)")):
        for call in (random_model().loss, random_model().loss_and_gradients):
            with pytest.raises(ValueError, match=message):
                call(**refused, **labels)
        with pytest.raises(ValueError, match=message):
            random_model(MODEL).vjp(**refused)


@pytest.mark.parametrize(
    "head", ["SequenceClassification", "TokenClassification", "QuestionAnswering", "MultipleChoice"]
)
def test_classes_that_take_no_source_have_no_cross_attention(head: str, tmp_path: Path) -> None:
    """The reference makes them, and their cross-attention is never run."""
    model_class = getattr(xlmr_np, f"XLMRobertaFor{head}")
    message = f"{model_class.__name__} takes no encoder_hidden_states .*add_cross_attention=False"
    with pytest.raises(ValueError, match=message):
        model_class(XLMRobertaConfig(**TINY, **CROSS))
    save_reference(tmp_path, MODEL, **CROSS)
    with pytest.raises(ValueError, match=message):
        model_class.from_pretrained(tmp_path)
    assert model_class.from_pretrained(tmp_path, add_cross_attention=False).config.is_decoder
