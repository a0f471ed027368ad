"""`generate()` against the reference's on models with random weights, token for token."""

import logging
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
import torch

from tests.decoding.decoders import VOCABULARY, WIDTH, decoder
from tests.reference_models import TINY, random_ids, save_reference
from xlmr_np import XLMRobertaForCausalLM
from xlmr_np.decoding.cache import KeyValueCache
from xlmr_np.decoding.generation_config import GenerationConfig

pytestmark = [pytest.mark.usefixtures("quick_steps"), pytest.mark.filterwarnings("ignore::UserWarning:transformers")]

PROMPTS = random_ids([5, 3, 4], side="left")
ENDS = [4, 28, 55, 12, 23]  # of what the random models like to say
MODES = pytest.mark.parametrize("position_mode", ["huggingface", "model"])
RECORD = {
    "return_dict_in_generate": True,
    "output_scores": True,
    "output_logits": True,
    "output_hidden_states": True,
    "output_attentions": True,
}


@cache
def pair(**changes: Any) -> tuple[Any, Any]:
    """A decoder of the reference in float32, and ours with the same weights."""
    directory = Path(mkdtemp())
    reference = save_reference(
        directory, "XLMRobertaForCausalLM", torch.float32, is_decoder=True, use_cache=True, **changes
    )
    reference.set_attn_implementation("eager")
    return reference, XLMRobertaForCausalLM.from_pretrained(directory)


def mask_of(prompts: np.ndarray) -> np.ndarray:
    return (prompts != 1).astype(np.int64) if prompts.ndim == 2 else np.ones(prompts.shape[:2], np.int64)


def reference_tokens(
    reference: Any, prompts: np.ndarray, position_mode: str, mask: np.ndarray | None = None, **settings: Any
) -> Any:
    """What the reference generates, by its own positions, or by those that the model counts in training."""
    is_real = torch.tensor(mask_of(prompts) if mask is None else mask)
    if position_mode == "model":
        settings["position_ids"] = (is_real.cumsum(1) + 1) * is_real + (1 - is_real)  # and one more with every step
    name = "input_ids" if prompts.ndim == 2 else "inputs_embeds"
    tensors = {key: torch.tensor(each) if isinstance(each, np.ndarray) else each for key, each in settings.items()}
    return reference.generate(**{name: torch.tensor(prompts)}, attention_mask=is_real, **tensors)


def same_tokens(
    prompts: np.ndarray, position_mode: str, changes: dict[str, Any] | None = None, **settings: Any
) -> np.ndarray:
    """Ours, after a comparison with the reference's."""
    reference, model = pair(**(changes or {}))
    expected = reference_tokens(reference, prompts, position_mode, **settings).numpy()
    name = "input_ids" if prompts.ndim == 2 else "inputs_embeds"
    ours = model.generate(**{name: prompts}, attention_mask=mask_of(prompts), position_mode=position_mode, **settings)
    np.testing.assert_array_equal(ours, expected)
    return ours


@MODES
@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("num_beams", [1, 3])
def test_tokens_are_the_references(num_beams: int, use_cache: bool, position_mode: str) -> None:
    texts = same_tokens(PROMPTS, position_mode, num_beams=num_beams, use_cache=use_cache, max_new_tokens=15)
    assert texts.dtype == np.int64
    np.testing.assert_array_equal(texts[:, :5], PROMPTS)


@MODES
@pytest.mark.parametrize("num_beams", [1, 4])
def test_a_larger_vocabulary(num_beams: int, position_mode: str) -> None:
    changes = {"vocab_size": 1000, "initializer_range": 0.2}
    prompts = random_ids([2, 9, 6], 1000, side="left")
    same_tokens(prompts, position_mode, changes, num_beams=num_beams, max_new_tokens=12, num_return_sequences=num_beams)


@MODES
@pytest.mark.parametrize("num_beams", [1, 3])
def test_texts_that_end_at_different_steps(num_beams: int, position_mode: str) -> None:
    """What stands behind an end is padding, and changes nothing in the texts that go on."""
    prompts = random_ids([5, 3, 4, 7, 2, 6], side="left")
    texts = same_tokens(prompts, position_mode, num_beams=num_beams, eos_token_id=ENDS, max_new_tokens=20)
    lengths = (texts[:, 7:] != 1).sum(axis=1)
    assert len(set(lengths)) > 1
    assert np.isin(texts[np.arange(6), 6 + lengths], ENDS).sum() >= 4


@MODES
def test_each_text_is_that_of_its_prompt_alone(position_mode: str) -> None:
    prompts = random_ids([5, 3, 4, 7, 2, 6], side="left")
    _, model = pair()
    for num_beams in (1, 3):
        settings = {"num_beams": num_beams, "eos_token_id": ENDS, "max_new_tokens": 12, "position_mode": position_mode}
        together = model.generate(prompts, **settings)
        for prompt, text in zip(prompts, together, strict=True):
            alone = model.generate(prompt[None, prompt != 1], **settings)[0]
            padding = int((prompt == 1).sum())
            np.testing.assert_array_equal(text[padding : padding + len(alone)], alone)
            assert (text[padding + len(alone) :] == 1).all()


SETTINGS: dict[str, dict[str, Any]] = {
    "repetition_penalty": {"repetition_penalty": 1.7},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 2},
    "bad_words_ids": {"bad_words_ids": [[7], [18, 55], [55, 7]]},
    "min_length": {"min_length": 12, "eos_token_id": ENDS},
    "min_new_tokens": {"min_new_tokens": 9, "eos_token_id": ENDS},
    "max_length": {"max_length": 14, "max_new_tokens": None},
    "forced_eos_token_id": {"forced_eos_token_id": 2},
    "exponential_decay_length_penalty": {"exponential_decay_length_penalty": (2, 1.4)},
    "suppress_tokens": {"suppress_tokens": [7, 18]},
    "begin_suppress_tokens": {"begin_suppress_tokens": [7, 18, 28, 43]},
    "sequence_bias": {"sequence_bias": [[[18], -3.0], [[7, 43], 4.0]]},
    "renormalize_logits": {"renormalize_logits": True, "repetition_penalty": 1.3},
    "remove_invalid_values": {"remove_invalid_values": True, "suppress_tokens": [7]},
    "pad_token_id": {"pad_token_id": 3, "eos_token_id": ENDS},
    "eos_token_id": {"eos_token_id": 7},
    "no end": {"eos_token_id": 60},
}


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("what", SETTINGS)
def test_every_setting(what: str, num_beams: int) -> None:
    settings = {"max_new_tokens": 12, **SETTINGS[what], "num_beams": num_beams}
    changed = same_tokens(PROMPTS, "huggingface", **settings)
    plain = pair()[1].generate(PROMPTS, max_new_tokens=12, num_beams=num_beams, position_mode="huggingface")
    if what not in ("remove_invalid_values", "no end", "renormalize_logits"):
        assert changed.shape != plain.shape or (changed != plain).any()


def test_no_prompt_and_a_forced_beginning() -> None:
    reference, model = pair()
    settings = {"max_new_tokens": 6, "position_mode": "huggingface"}
    expected = reference.generate(max_new_tokens=6, pad_token_id=1).numpy()
    np.testing.assert_array_equal(model.generate(**settings), expected)
    assert expected[0, 0] == 0
    forced = reference.generate(torch.tensor([[0], [0]]), max_new_tokens=6, forced_bos_token_id=9).numpy()
    ours = model.generate([[0], [0]], forced_bos_token_id=9, **settings)
    np.testing.assert_array_equal(ours, forced)
    assert (ours[:, 1] == 9).all()


def test_default_length() -> None:
    texts = same_tokens(PROMPTS, "huggingface", eos_token_id=60)
    assert texts.shape == (3, 5 + 20)


@MODES
@pytest.mark.parametrize("num_beams", [1, 3])
def test_prompts_of_embeddings(num_beams: int, position_mode: str) -> None:
    """The result has the new tokens alone; without a cache, those are looked up in the table again and again."""
    _, model = pair()
    embeddings = np.random.default_rng(0).normal(size=(2, 4, WIDTH)).astype(np.float32)
    settings = {"num_beams": num_beams, "max_new_tokens": 8, "repetition_penalty": 1.2}
    texts = same_tokens(embeddings, position_mode, **settings)
    assert texts.shape == (2, 8)
    again = model.generate(inputs_embeds=embeddings, use_cache=False, position_mode=position_mode, **settings)
    np.testing.assert_array_equal(again, texts)
    looked_up = model.get_input_embeddings()[PROMPTS[:1]]
    from_ids = model.generate(PROMPTS[:1], num_beams=num_beams, max_new_tokens=8, position_mode=position_mode)
    from_vectors = model.generate(
        inputs_embeds=looked_up, num_beams=num_beams, max_new_tokens=8, position_mode=position_mode
    )
    np.testing.assert_array_equal(from_vectors, from_ids[:, 5:])


def test_padded_prompts_of_embeddings() -> None:
    _, model = pair()
    embeddings = np.random.default_rng(0).normal(size=(2, 6, WIDTH)).astype(np.float32)
    mask = np.array([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    for num_beams in (1, 3):
        settings = {"num_beams": num_beams, "max_new_tokens": 8}
        together = model.generate(inputs_embeds=embeddings, attention_mask=mask, **settings)
        alone = model.generate(inputs_embeds=embeddings[:1, 2:], **settings)
        np.testing.assert_array_equal(together[:1], alone)
        right = np.take_along_axis(embeddings, np.array([[2, 3, 4, 5, 0, 1], [0, 1, 2, 3, 4, 5]])[..., None], axis=1)
        moved = model.generate(inputs_embeds=right, attention_mask=np.sort(mask)[:, ::-1], **settings)
        np.testing.assert_array_equal(moved, together)


@MODES
@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("num_beams", [1, 3])
def test_with_a_source(num_beams: int, use_cache: bool, position_mode: str) -> None:
    """The reference does it without a cache only: with one, its generate() fails."""
    reference, model = pair(add_cross_attention=True)
    random = np.random.default_rng(0)
    source = {
        "encoder_hidden_states": random.normal(size=(3, 6, WIDTH)).astype(np.float32),
        "encoder_attention_mask": (np.arange(6) < np.array([[6], [3], [4]])).astype(np.int64),
    }
    settings = {**source, "num_beams": num_beams, "max_new_tokens": 10, "num_return_sequences": num_beams}
    expected = reference_tokens(reference, PROMPTS, position_mode, use_cache=False, **settings).numpy()
    ours = model.generate(PROMPTS, position_mode=position_mode, use_cache=use_cache, **settings)
    np.testing.assert_array_equal(ours, expected)
    other = {**settings, "encoder_hidden_states": source["encoder_hidden_states"][::-1]}
    assert (model.generate(PROMPTS, position_mode=position_mode, **other) != expected).any()


@MODES
@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("ends", [[60], ENDS], ids=["all go on", "some end"])
def test_the_record_of_a_greedy_search(ends: list[int], use_cache: bool, position_mode: str) -> None:
    reference, model = pair()
    settings = {"max_new_tokens": 9, "eos_token_id": ends, "repetition_penalty": 1.3, "use_cache": use_cache, **RECORD}
    theirs = reference_tokens(reference, PROMPTS, position_mode, **settings)
    ours = model.generate(PROMPTS, position_mode=position_mode, **settings)
    assert set(ours.keys()) == set(theirs.keys())
    np.testing.assert_array_equal(ours.sequences, theirs.sequences.numpy())
    new = ours.sequences[:, 5:]
    assert len(ours.scores) == len(ours.logits) == len(ours.attentions) == len(ours.hidden_states) == new.shape[1]
    for step in range(new.shape[1]):
        goes_on = ~np.isin(new[:, :step], ends).any(axis=1)
        for name in ("scores", "logits"):
            assert ours[name][step].shape == (3, VOCABULARY)
            expected = theirs[name][step].numpy()
            np.testing.assert_allclose(ours[name][step][goes_on], expected[goes_on], atol=2e-4, rtol=1e-4)  # float32
        is_real = (ours.sequences[:, : 5 + step] != 1)[:, None if use_cache or step == 0 else 0 :][goes_on]
        computed = slice(5 + step - 1, None) if use_cache and step else slice(None)
        queries = is_real.reshape(len(is_real), -1)[:, computed]
        for name in ("hidden_states", "attentions"):
            assert len(ours[name][step]) == len(theirs[name][step])
            for our, their in zip(ours[name][step], theirs[name][step], strict=True):
                assert our.shape == tuple(their.shape)
                by_query = (lambda each: each) if name == "hidden_states" else (lambda each: each.swapaxes(1, 2))
                our, expected = by_query(our)[goes_on][queries], by_query(their.numpy())[goes_on][queries]
                np.testing.assert_allclose(our, expected, atol=2e-4, rtol=1e-3)  # float32, through all layers
    if use_cache:
        assert isinstance(ours.past_key_values, KeyValueCache)
        assert ours.past_key_values.get_seq_length() == ours.sequences.shape[1] - 1


def test_what_is_not_asked_for_is_not_in_the_record() -> None:
    _, model = pair()
    record = model.generate(PROMPTS, max_new_tokens=3, return_dict_in_generate=True)
    assert record.keys() == ["sequences", "past_key_values"]
    record = model.generate(PROMPTS, max_new_tokens=3, return_dict_in_generate=True, num_beams=2, use_cache=False)
    assert record.keys() == ["sequences", "beam_indices"]


def test_attentions_of_a_source() -> None:
    _, model = pair(add_cross_attention=True)
    states = np.random.default_rng(0).normal(size=(3, 6, WIDTH)).astype(np.float32)
    for settings in ({}, {"num_beams": 2}, {"do_sample": True, "num_return_sequences": 2}):
        record = model.generate(PROMPTS, encoder_hidden_states=states, max_new_tokens=4, **settings, **RECORD)
        rows = 3 if not settings else 6
        shapes = [tuple(each.shape for each in step) for step in record.cross_attentions]
        heads, layers = TINY["num_attention_heads"], TINY["num_hidden_layers"]
        assert shapes == [((rows, heads, 5 if step == 0 else 1, 6),) * layers for step in range(len(shapes))]


# --- going on from a cache ---


@pytest.mark.parametrize("position_mode", ["huggingface", "model"])
@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 2}], ids=str)
def test_a_cache_holds_the_beginning_of_the_prompt(settings: dict[str, Any], position_mode: str) -> None:
    _, model = pair()
    settings = {**settings, "max_new_tokens": 8, "position_mode": position_mode}
    expected = model.generate(PROMPTS, **settings)
    positions = np.maximum(mask_of(PROMPTS).cumsum(axis=1) - 1, 0)[:, :3] if position_mode == "huggingface" else None
    past = model(PROMPTS[:, :3], position_ids=positions).past_key_values
    np.testing.assert_array_equal(model.generate(PROMPTS, past_key_values=past, **settings), expected)


def test_a_conversation_goes_on_with_its_cache() -> None:
    _, model = pair()
    first = model.generate(PROMPTS, max_new_tokens=5, return_dict_in_generate=True, eos_token_id=60)
    prompts = np.concatenate([first.sequences, random_ids([3, 3, 3])], axis=1)
    expected = model.generate(prompts, max_new_tokens=5, eos_token_id=60)
    ours = model.generate(prompts, max_new_tokens=5, eos_token_id=60, past_key_values=first.past_key_values)
    np.testing.assert_array_equal(ours, expected)


# --- prompts ---


@pytest.mark.parametrize("num_beams", [1, 3])
def test_padding_on_the_right_is_moved(num_beams: int, caplog: pytest.LogCaptureFixture) -> None:
    _, model = pair()
    expected = model.generate(PROMPTS, max_new_tokens=6, num_beams=num_beams)
    right = np.take_along_axis(PROMPTS, np.argsort(PROMPTS == 1, axis=1, kind="stable"), axis=1)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        ours = model.generate(right, max_new_tokens=6, num_beams=num_beams)
    np.testing.assert_array_equal(ours, expected)
    (record,) = caplog.records
    assert "padding is moved to the left" in record.message


def test_forms_of_prompts() -> None:
    """Lists, tensors; with a mask, or without; padded with a token that is none of the model's padding."""
    _, model = pair()
    expected = model.generate(PROMPTS, max_new_tokens=6)
    for form in (PROMPTS.tolist(), torch.tensor(PROMPTS), PROMPTS.astype(np.int32)):
        np.testing.assert_array_equal(model.generate(form, max_new_tokens=6), expected)
    for mask in (PROMPTS != 1, (PROMPTS != 1).tolist(), torch.tensor(mask_of(PROMPTS)), mask_of(PROMPTS) * 0.5):
        np.testing.assert_array_equal(model.generate(PROMPTS, attention_mask=mask, max_new_tokens=6), expected)
    others = np.where(PROMPTS == 1, 9, PROMPTS)
    for use_cache in (True, False):
        ours = model.generate(others, attention_mask=PROMPTS != 1, max_new_tokens=6, use_cache=use_cache)
        np.testing.assert_array_equal(ours[:, 5:], expected[:, 5:])
        np.testing.assert_array_equal(ours[:, :5], others)


def test_the_arguments_are_left_as_they_are() -> None:
    _, model = pair()
    prompts, config = PROMPTS.copy(), GenerationConfig(max_new_tokens=4, eos_token_id=60)
    prompts.flags.writeable = False
    before, of_model = repr(config), repr(model.generation_config)
    for settings in ({}, {"num_beams": 2}, {"max_new_tokens": 500, "min_new_tokens": 400}):
        assert model.generate(prompts, config, **settings).shape[1] >= 9
    assert repr(config) == before
    assert repr(model.generation_config) == of_model


def test_the_models_own_config_is_the_default() -> None:
    reference, model = pair(vocab_size=59)
    model.generation_config = GenerationConfig(max_new_tokens=7, num_beams=2, position_mode="huggingface")
    expected = reference_tokens(reference, PROMPTS, "huggingface", max_new_tokens=7, num_beams=2).numpy()
    np.testing.assert_array_equal(model.generate(PROMPTS), expected)
    expected = reference_tokens(reference, PROMPTS, "huggingface", max_new_tokens=4, num_beams=1).numpy()
    np.testing.assert_array_equal(model.generate(PROMPTS, max_new_tokens=4, num_beams=1), expected)


# --- the end of the position table ---


@pytest.mark.parametrize(("position_mode", "limit"), [("model", 32), ("huggingface", 34)])
@pytest.mark.parametrize("settings", [{}, {"num_beams": 2}, {"min_new_tokens": 90}, {"use_cache": False}], ids=str)
def test_texts_stop_where_the_positions_end(
    settings: dict[str, Any], position_mode: str, limit: int, caplog: pytest.LogCaptureFixture
) -> None:
    """With one warning; padding takes no position."""
    _, model = pair()
    settings = {"eos_token_id": 60, "position_mode": position_mode, **settings}
    prompts = np.concatenate([np.ones((3, 7), int), PROMPTS], axis=1)
    with caplog.at_level(logging.WARNING):
        texts = model.generate(prompts, max_new_tokens=100, **settings)
    assert texts.shape == (3, 7 + limit)
    messages = [record.message for record in caplog.records if "new tokens are generated" in record.message]
    assert messages == [
        f"At most {limit - 5} of 100 new tokens are generated: this model takes texts of at most {limit} tokens."
    ]
    caplog.clear()
    settings.pop("min_new_tokens", None)
    again = model.generate(prompts, max_new_tokens=limit - 5, **settings)
    assert again.shape == texts.shape
    assert not caplog.records


@pytest.mark.parametrize(("position_mode", "limit"), [("model", 32), ("huggingface", 34)])
def test_prompts_as_long_as_the_position_table(position_mode: str, limit: int) -> None:
    _, model = pair()
    for length in (limit, limit + 3):
        message = f"A prompt has {length} tokens, and this model takes texts of at most {limit}; shorten it"
        with pytest.raises(ValueError, match=message):
            model.generate(random_ids([3, length], side="left"), position_mode=position_mode)
        with pytest.raises(ValueError, match=message):
            model.generate(inputs_embeds=np.ones((1, length, WIDTH)), position_mode=position_mode)
    texts = model.generate(random_ids([3, limit - 1], side="left"), max_new_tokens=1, position_mode=position_mode)
    assert texts.shape == (2, limit)


# --- other engines and types ---


def test_float64_and_half_precision_weights() -> None:
    exact = decoder()
    texts = exact.generate(PROMPTS, max_new_tokens=8)
    assert texts.shape == (3, 13)
    record = exact.generate(PROMPTS, max_new_tokens=8, num_beams=3, return_dict_in_generate=True, output_scores=True)
    assert record.sequences_scores.dtype == record.scores[0].dtype == np.float64
    half = decoder(dtype="float16")
    record = half.generate(PROMPTS, max_new_tokens=8, return_dict_in_generate=True, output_scores=True)
    assert record.scores[0].dtype == np.float32


def test_threads_change_nothing() -> None:
    prompts = random_ids([2] * 400)
    one, two = (decoder(num_threads=number).generate(prompts, max_new_tokens=3) for number in (1, 2))
    np.testing.assert_array_equal(one, two)
