"""Where generation looks as if all were well: settings, masks and functions that leave it little, or count oddly."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.decoding.decoders import VOCABULARY, WIDTH, decoder
from xlmr_np import GenerationConfig, XLMRobertaForCausalLM, XLMRobertaModel
from xlmr_np.decoding.cache import KeyValueCache

pytestmark = pytest.mark.usefixtures("quick_steps")

PROMPT = np.array([[0, 5, 9]])


@pytest.mark.parametrize("length_penalty", [-100, -6.0, -2.5, 100.0])
def test_beams_end_under_any_length_penalty(length_penalty: float) -> None:
    model = decoder(max_position_embeddings=130)
    texts = model.generate(
        PROMPT, num_beams=2, max_new_tokens=100, min_new_tokens=90, length_penalty=length_penalty, eos_token_id=2
    )
    assert texts.shape[1] >= 3 + 90


def test_ended_texts_are_left_alone() -> None:
    """Whatever a processor leaves of what comes behind the end."""

    def nothing_behind_the_end(ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        allowed = np.full_like(scores, -np.inf)
        number = ids.shape[1] - 3
        allowed[0, [7, 2][number : number + 1]] = 0
        allowed[1, 9] = 0
        return allowed

    texts = decoder().generate(
        np.array([[0, 5, 9], [0, 6, 8]]), max_new_tokens=4, eos_token_id=2, logits_processor=[nothing_behind_the_end]
    )
    assert texts[:, 3:].tolist() == [[7, 2, 1, 1], [9, 9, 9, 9]]


@pytest.mark.parametrize("forced", [{"forced_eos_token_id": 2}, {"forced_bos_token_id": 7}])
def test_beams_that_draw_do_with_one_possible_token(forced: dict[str, int]) -> None:
    texts = decoder().generate(
        PROMPT[:, :1], num_beams=2, do_sample=True, max_new_tokens=3, generator=np.random.default_rng(0), **forced
    )
    assert (texts[0, 1] == 7) if "forced_bos_token_id" in forced else (texts[0, -1] == 2)


MASKED = {"input_ids": np.array([[0, 7, 5, 6, 8]]), "attention_mask": np.array([[1, 0, 1, 1, 1]])}


def test_what_a_mask_hides_has_no_position() -> None:
    """Alone, step by step, as embeddings and in generate()."""
    model = decoder()
    is_real = MASKED["attention_mask"] != 0
    expected = model(MASKED["input_ids"][is_real][None]).logits[0]
    np.testing.assert_allclose(model(**MASKED).logits[is_real], expected, atol=1e-12)  # the order of sums
    embeddings = model.get_input_embeddings()[MASKED["input_ids"]]
    given = {"inputs_embeds": embeddings, "attention_mask": MASKED["attention_mask"]}
    np.testing.assert_allclose(model(**given).logits[is_real], expected, atol=1e-12)  # the order of sums
    plain = model.generate(MASKED["input_ids"][is_real][None], max_new_tokens=5)[:, 4:]
    for settings in ({}, {"use_cache": False}, {"past_key_values": None}):
        np.testing.assert_array_equal(model.generate(**MASKED, max_new_tokens=5, **settings)[:, 5:], plain)
    cache = model(MASKED["input_ids"][:, :3], attention_mask=MASKED["attention_mask"][:, :3]).past_key_values
    again = model.generate(**MASKED, past_key_values=cache or KeyValueCache(), max_new_tokens=5)
    np.testing.assert_array_equal(again[:, 5:], plain)


def test_a_generated_padding_id_counts_as_any_other_token() -> None:
    def forced(ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        chosen = np.full_like(scores, -np.inf)
        chosen[:, [9, 1, 9, 9][ids.shape[1]]] = 0
        return chosen

    embeddings = np.random.default_rng(0).normal(size=(1, 3, WIDTH))
    kept = [
        decoder().generate(
            inputs_embeds=embeddings,
            max_new_tokens=4,
            use_cache=use_cache,
            logits_processor=[forced],
            output_logits=True,
            return_dict_in_generate=True,
        )
        for use_cache in (True, False)
    ]
    assert kept[0].sequences.tolist() == [[9, 1, 9, 9]]
    np.testing.assert_allclose(kept[0].logits, kept[1].logits, atol=1e-10)  # the order of sums


def test_a_cache_knows_its_model_and_its_tokens() -> None:
    model = decoder()
    twin = XLMRobertaForCausalLM(model.config, generator=np.random.default_rng(1), dtype="float64")
    cache = model(PROMPT, use_cache=True).past_key_values
    with pytest.raises(ValueError, match="The cache was filled by another model"):
        twin(PROMPT, past_key_values=cache)
    with pytest.raises(ValueError, match=r"holds token 5 at \[0, 1\], where the prompt has 6; give the whole prompt"):
        model.generate(np.array([[0, 6, 9, 4]]), past_key_values=cache)
    assert model.generate(np.array([[0, 5, 9, 4]]), past_key_values=cache, max_new_tokens=1).shape == (1, 5)


def test_no_room_is_made_for_what_is_too_long() -> None:
    model = decoder()
    ids = np.full((8, 20_000), 5)
    tracemalloc.start()
    with pytest.raises(ValueError, match="Sequence 0 has 20000 tokens"):
        model(ids, use_cache=True)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 * ids.nbytes  # a few arrays of its size; keys and values would be hundreds of them


@pytest.mark.parametrize("class_name", ["XLMRobertaModel", "XLMRobertaForCausalLM"])
def test_a_ragged_mask_has_our_words(class_name: str) -> None:
    with pytest.raises(ValueError, match="attention_mask has rows of different lengths"):
        decoder(class_name)([[5, 6], [7, 8]], attention_mask=[[1, 1], [1]])


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"eos_token_id": -1}, {"bad_words_ids": []}, []])
def test_settings_of_a_checkpoint_that_make_no_sense_do_not_hide_its_weights(
    settings: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = decoder()
    model.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps(settings), encoding="utf-8")
    loaded = XLMRobertaForCausalLM.from_pretrained(tmp_path)
    assert "generate() begins with its defaults" in caplog.text
    np.testing.assert_array_equal(loaded.generate(PROMPT, max_new_tokens=3), model.generate(PROMPT, max_new_tokens=3))


def test_none_is_no_function_and_a_function_is_no_list() -> None:
    model = decoder()
    expected = model.generate(PROMPT, max_new_tokens=2)
    ours = model.generate(PROMPT, max_new_tokens=2, logits_processor=None, stopping_criteria=None)
    np.testing.assert_array_equal(ours, expected)
    for name in ("logits_processor", "stopping_criteria"):
        with pytest.raises(TypeError, match=f"{name} must be a list of functions, even of one: \\[max\\]"):
            model.generate(PROMPT, **{name: max})


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"generation_config": {"max_new_tokens": 3}}, TypeError, "must be a GenerationConfig"),
        (
            {"num_beam_groups": 2},
            TypeError,
            "num_beam_groups is a setting of transformers that xlmr-np does not support",
        ),
        ({"pad_token_id": VOCABULARY}, ValueError, f"pad_token_id names token {VOCABULARY}"),
        ({"num_beams": 2, "length_penalty": 2000.0}, ValueError, "length_penalty"),
    ],
)
def test_more_that_is_refused(given: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        decoder().generate(PROMPT, **given)


def test_the_names_are_those_of_the_package() -> None:
    assert GenerationConfig(max_new_tokens=3).max_new_tokens == 3
    assert XLMRobertaModel is not None
