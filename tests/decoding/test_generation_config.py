"""Settings of generation: checked, and read by and written for transformers."""

import copy
import json
import logging
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers

from xlmr_np.config import XLMRobertaConfig
from xlmr_np.decoding import GenerationConfig, generation_config
from xlmr_np.weights.errors import CheckpointError

# Every setting of the reference that is supported, with a value that is not its default.
SETTINGS: dict[str, Any] = {
    "max_length": 40,
    "max_new_tokens": 20,
    "min_length": 2,
    "min_new_tokens": 3,
    "max_time": 1.5,
    "stop_strings": ["stop", "."],
    "early_stopping": "never",
    "do_sample": True,
    "num_beams": 4,
    "use_cache": False,
    "temperature": 0.7,
    "top_k": 10,
    "top_p": 0.9,
    "min_p": 0.1,
    "typical_p": 0.8,
    "epsilon_cutoff": 0.01,
    "eta_cutoff": 0.02,
    "repetition_penalty": 1.2,
    "length_penalty": -0.5,
    "no_repeat_ngram_size": 3,
    "bad_words_ids": [[5, 6], [7]],
    "forced_bos_token_id": 8,
    "forced_eos_token_id": [2, 9],
    "remove_invalid_values": True,
    "exponential_decay_length_penalty": [5, 1.1],
    "suppress_tokens": [10, 11],
    "begin_suppress_tokens": [12],
    "sequence_bias": [[[13, 14], -2.5], [[15], 1.0]],
    "renormalize_logits": True,
    "num_return_sequences": 2,
    "output_scores": True,
    "output_logits": True,
    "output_attentions": True,
    "output_hidden_states": True,
    "return_dict_in_generate": True,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": [2, 3],
}


@pytest.fixture(autouse=True)
def _each_test_is_warned_anew() -> None:
    generation_config._warn_once.cache_clear()


def test_the_settings_above_are_all() -> None:
    assert SETTINGS.keys() | {"position_mode", "other_settings"} == vars(GenerationConfig()).keys()


def test_defaults_are_the_references() -> None:
    defaults = transformers.GenerationConfig._get_default_generation_params()
    ours = GenerationConfig().to_dict()
    ours["max_length"] = generation_config.DEFAULT_NEW_TOKENS
    ours["min_length"] = 0
    shared = ours.keys() & defaults.keys()
    assert len(shared) > 20
    assert {name: ours[name] for name in shared} == {name: defaults[name] for name in shared}


def test_transformers_reads_what_is_written(tmp_path: Path) -> None:
    GenerationConfig(**SETTINGS, position_mode="huggingface").save_pretrained(tmp_path)
    theirs = transformers.GenerationConfig.from_pretrained(tmp_path)
    assert {name: getattr(theirs, name) for name in SETTINGS} == SETTINGS


def test_what_transformers_writes_is_read(tmp_path: Path) -> None:
    transformers.GenerationConfig(**SETTINGS).save_pretrained(tmp_path)
    ours = GenerationConfig.from_pretrained(tmp_path)
    assert {name: getattr(ours, name) for name in SETTINGS} == SETTINGS
    assert ours.other_settings == {"transformers_version": transformers.__version__}


def test_files_are_the_same_after_a_second_time(tmp_path: Path) -> None:
    content = {**SETTINGS, "_from_model_config": True, "transformers_version": "4.40.0", "alignment_heads": [[1, 2]]}
    file = tmp_path / "generation_config.json"
    file.write_text(json.dumps(content))
    GenerationConfig.from_pretrained(tmp_path).save_pretrained(tmp_path)
    assert json.loads(file.read_text()) == content
    assert [each.name for each in tmp_path.iterdir()] == ["generation_config.json"]


def test_only_what_is_not_the_default_is_written() -> None:
    assert json.loads(GenerationConfig(top_k=7, do_sample=True).to_json_string()) == {"top_k": 7, "do_sample": True}
    assert json.loads(GenerationConfig().to_json_string(use_diff=False)) == GenerationConfig().to_dict()


def test_a_ban_by_bias_can_be_written(tmp_path: Path) -> None:
    config = GenerationConfig(sequence_bias={(4, 5): -math.inf})
    config.save_pretrained(tmp_path)
    assert GenerationConfig.from_pretrained(tmp_path) == config
    assert transformers.GenerationConfig.from_pretrained(tmp_path).sequence_bias == [[[4, 5], -math.inf]]


def test_none_is_the_default() -> None:
    assert GenerationConfig(top_k=None, temperature=None, num_beams=None, use_cache=None) == GenerationConfig()  # type: ignore[arg-type]


def test_values_are_kept_as_json_has_them() -> None:
    config = GenerationConfig(
        max_new_tokens=np.int64(5),  # type: ignore[arg-type]
        sequence_bias={(1, 2): 3},  # type: ignore[arg-type]
        suppress_tokens=np.array([4, 5]),  # type: ignore[arg-type]
        exponential_decay_length_penalty=(6, 1.5),  # type: ignore[arg-type]
    )
    assert config.to_diff_dict() == {
        "max_new_tokens": 5,
        "sequence_bias": [[[1, 2], 3]],
        "suppress_tokens": [4, 5],
        "exponential_decay_length_penalty": [6, 1.5],
    }


def test_a_list_is_copied() -> None:
    tokens = [4]
    config = GenerationConfig(suppress_tokens=tokens)
    tokens.append(5)
    config.to_dict()["suppress_tokens"].append(6)
    assert config.suppress_tokens == [4]


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda config: pickle.loads(pickle.dumps(config))])
def test_copies_are_equal(duplicate: Any) -> None:
    config = GenerationConfig(**SETTINGS)
    assert duplicate(config) == config
    assert GenerationConfig.from_dict(config.to_dict()) == config
    assert config != GenerationConfig()


def test_update_returns_what_is_no_setting() -> None:
    config = GenerationConfig()
    assert config.update(do_sample=True, top_k=3, foo=1) == {"foo": 1}
    assert (config.do_sample, config.top_k) == (True, 3)


def test_an_update_that_does_not_fit_changes_nothing() -> None:
    config = GenerationConfig()
    with pytest.raises(ValueError, match="num_return_sequences=3"):
        config.update(top_k=3, num_return_sequences=3)
    assert config == GenerationConfig()


def test_overrides_of_a_file(tmp_path: Path) -> None:
    GenerationConfig(max_new_tokens=5).save_pretrained(tmp_path, "other.json")
    config, unused = GenerationConfig.from_pretrained(
        tmp_path, "other.json", max_new_tokens=6, foo=1, return_unused_kwargs=True
    )
    assert (config.max_new_tokens, unused) == (6, {"foo": 1})
    with pytest.raises(TypeError, match="foo is no setting"):
        GenerationConfig.from_pretrained(tmp_path, "other.json", foo=1)


def test_a_model_without_such_a_file() -> None:
    model_config = XLMRobertaConfig(eos_token_id=[2, 5], output_attentions=True, generation_parameters={"top_k": 4})
    config = GenerationConfig.from_model_config(model_config)
    theirs = transformers.GenerationConfig.from_model_config(
        transformers.XLMRobertaConfig(eos_token_id=[2, 5], output_attentions=True)
    )
    written = theirs.to_diff_dict()
    del written["transformers_version"]
    written.pop("use_cache", None)  # True, which goes without saying here
    written.pop("output_hidden_states", None)  # False, likewise
    assert config.to_diff_dict() == written | {"top_k": 4}
    assert config.eos_ids == (2, 5)


@pytest.mark.parametrize(("token", "ids"), [(None, ()), (0, (0,)), ([2, 3], (2, 3))])
def test_end_tokens(token: Any, ids: tuple[int, ...]) -> None:
    assert GenerationConfig(eos_token_id=token).eos_ids == ids


@pytest.mark.parametrize(
    ("settings", "lengths"),
    [
        ({}, (0, 24)),
        ({"max_length": 9}, (0, 9)),
        ({"max_length": 3, "max_new_tokens": 5}, (0, 9)),
        ({"min_length": 7}, (7, 24)),
        ({"min_length": 7, "min_new_tokens": 1}, (5, 24)),
        ({"min_new_tokens": 2, "max_new_tokens": 2}, (6, 6)),
    ],
)
def test_lengths(settings: dict[str, int], lengths: tuple[int, int]) -> None:
    assert GenerationConfig(**settings).lengths(4) == lengths


def test_no_room_after_the_prompt() -> None:
    with pytest.raises(ValueError, match="max_length=4 leaves no token to generate after a prompt of 4 tokens"):
        GenerationConfig(max_length=4).lengths(4)


@pytest.mark.parametrize("settings", [{"min_length": 25}, {"min_new_tokens": 21}, {"min_length": 9, "max_length": 8}])
def test_a_least_length_above_the_greatest(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"At least \d+ new tokens are asked for, but at most \d+"):
        GenerationConfig(**settings).lengths(4)


# Bad input: the settings, the kind of the error, and what it says.
BAD = [
    ({"max_new_token": 5}, TypeError, "max_new_token is no setting of generation; did you mean max_new_tokens"),
    ({"qqqq": 5}, TypeError, "qqqq is no setting of generation; correct or omit"),
    ({"max_new_tokens": 0}, ValueError, "max_new_tokens must be .* at least 1; got int 0"),
    ({"max_new_tokens": "5"}, TypeError, "max_new_tokens must be .* got str '5'"),
    ({"max_length": 0}, ValueError, "max_length must be .* got int 0"),
    ({"min_length": -1}, ValueError, "min_length must be .* got int -1"),
    ({"min_new_tokens": -1}, ValueError, "min_new_tokens must be .* got int -1"),
    ({"min_new_tokens": 6, "max_new_tokens": 5}, ValueError, "min_new_tokens=6 is more than max_new_tokens=5 allows"),
    ({"max_time": 0}, ValueError, "max_time must be .* above 0; got int 0"),
    ({"stop_strings": ""}, ValueError, "stop_strings must be .* at least one character"),
    ({"stop_strings": []}, ValueError, "stop_strings must be .* at least one character"),
    ({"stop_strings": [1]}, TypeError, "stop_strings must be"),
    ({"early_stopping": "maybe"}, ValueError, "early_stopping must be .* got str 'maybe'"),
    ({"do_sample": 1}, TypeError, "do_sample must be bool; got int 1"),
    ({"num_beams": 0}, ValueError, "num_beams must be .* got int 0"),
    ({"num_beams": 2**40}, ValueError, "num_beams must be int, between 1 and 65536"),
    ({"temperature": 0.0}, ValueError, "temperature must be .* do not sample.; got float 0.0"),
    ({"temperature": math.nan}, ValueError, "temperature must be .* got float nan"),
    ({"temperature": True}, TypeError, "temperature must be .* got bool True"),
    ({"top_k": -1}, ValueError, "top_k must be .* got int -1"),
    ({"top_k": 1.5}, TypeError, "top_k must be .* got float 1.5"),
    ({"top_p": 0.0}, ValueError, "top_p must be .* got float 0.0"),
    ({"top_p": 1.5}, ValueError, "top_p must be .* got float 1.5"),
    ({"min_p": 2.0}, ValueError, "min_p must be .* got float 2.0"),
    ({"typical_p": 0.0}, ValueError, "typical_p must be .* got float 0.0"),
    ({"epsilon_cutoff": 1.0}, ValueError, "epsilon_cutoff must be .* got float 1.0"),
    ({"eta_cutoff": -0.1}, ValueError, "eta_cutoff must be .* got float -0.1"),
    ({"repetition_penalty": 0.0}, ValueError, "repetition_penalty must be .* got float 0.0"),
    ({"length_penalty": math.inf}, ValueError, "length_penalty must be .* got float inf"),
    ({"no_repeat_ngram_size": -1}, ValueError, "no_repeat_ngram_size must be .* got int -1"),
    ({"bad_words_ids": []}, ValueError, "bad_words_ids must be"),
    ({"bad_words_ids": [[]]}, ValueError, "bad_words_ids must be"),
    ({"bad_words_ids": [5]}, TypeError, "bad_words_ids must be"),
    ({"forced_bos_token_id": -1}, ValueError, "forced_bos_token_id must be .* got int -1"),
    ({"forced_eos_token_id": []}, ValueError, "forced_eos_token_id must be"),
    ({"exponential_decay_length_penalty": [5]}, ValueError, "exponential_decay_length_penalty must be"),
    ({"exponential_decay_length_penalty": [5, 0]}, ValueError, "exponential_decay_length_penalty must be"),
    ({"exponential_decay_length_penalty": [0.5, 2]}, ValueError, "exponential_decay_length_penalty must be"),
    ({"suppress_tokens": [-1]}, ValueError, "suppress_tokens must be"),
    ({"begin_suppress_tokens": 5}, TypeError, "begin_suppress_tokens must be"),
    ({"sequence_bias": {}}, TypeError, "sequence_bias must be"),
    ({"sequence_bias": {(): 1.0}}, ValueError, "sequence_bias must be"),
    ({"sequence_bias": {(5,): math.nan}}, ValueError, "sequence_bias must be"),
    ({"sequence_bias": {(5,): math.inf}}, ValueError, "sequence_bias must be"),
    ({"sequence_bias": {(5,): "1"}}, ValueError, "sequence_bias must be"),
    ({"sequence_bias": [[[5], 1.0], [[5], 2.0]]}, ValueError, "each list once"),
    ({"num_return_sequences": 0}, ValueError, "num_return_sequences must be .* got int 0"),
    ({"num_return_sequences": 2}, ValueError, "num_return_sequences=2 would all be the same"),
    ({"num_return_sequences": 3, "num_beams": 2}, ValueError, "num_return_sequences=3 must be at most num_beams=2"),
    ({"eos_token_id": []}, ValueError, "eos_token_id must be"),
    ({"pad_token_id": -1}, ValueError, "pad_token_id must be .* got int -1"),
    ({"position_mode": "torch"}, ValueError, "position_mode must be .* got str 'torch'"),
    (
        {"forced_eos_token_id": 2, "suppress_tokens": [2]},
        ValueError,
        "forced_eos_token_id=2 and suppress_tokens, which holds it, are contradictory",
    ),
    (
        {"forced_bos_token_id": 5, "suppress_tokens": [5]},
        ValueError,
        "forced_bos_token_id=5 and suppress_tokens, which holds it, are contradictory",
    ),
]


@pytest.mark.parametrize(("settings", "kind", "message"), BAD)
def test_bad_settings(settings: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        GenerationConfig(**settings)


def test_a_bad_value_is_refused_where_it_is_set() -> None:
    config = GenerationConfig()
    with pytest.raises(ValueError, match=r"top_p must be .* got float 2\.0"):
        config.top_p = 2.0
    assert config == GenerationConfig()


def test_a_typo_is_refused_where_it_is_set() -> None:
    with pytest.raises(AttributeError, match="max_new_token is no setting of generation; did you mean max_new_tokens"):
        GenerationConfig().max_new_token = 5  # type: ignore[attr-defined]


WITHOUT_EFFECT = [
    ({"temperature": 0.7, "top_k": 5}, "temperature=0.7, top_k=5 has no effect without do_sample=True."),
    ({"length_penalty": 2.0}, "length_penalty=2.0 has no effect without num_beams above 1."),
    ({"output_scores": True}, "output_scores=True has no effect without return_dict_in_generate=True."),
    ({"max_length": 9, "max_new_tokens": 5}, "max_length=9 has no effect beside max_new_tokens=5."),
    ({"min_length": 9, "min_new_tokens": 5}, "min_length=9 has no effect beside min_new_tokens=5."),
    (
        {"other_settings": {"guidance_scale": 1.5, "top_h": None, "num_beam_groups": 1, "foo": 2}},
        "Of the generation config, guidance_scale=1.5 has no effect: xlmr-np does not support it.",
    ),
]


@pytest.mark.parametrize(("settings", "message"), WITHOUT_EFFECT)
def test_settings_without_effect_are_told_once(
    settings: dict[str, Any], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "xlmr_np"):
        GenerationConfig(**settings)
        GenerationConfig(**settings)
    assert caplog.messages == [message]


def test_settings_with_effect_are_not_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "xlmr_np"):
        GenerationConfig(do_sample=True, temperature=0.7, num_beams=2, length_penalty=2.0)
        GenerationConfig(output_scores=True, return_dict_in_generate=True, max_new_tokens=5)
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "is not valid JSON"), ("[]", "must hold a JSON object"), (" " * (2**22 + 1), "has more than 4194304 bytes")],
)
def test_bad_files(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "generation_config.json"
    file.write_text(content)
    with pytest.raises(CheckpointError, match=f"{file} {message}"):
        GenerationConfig.from_pretrained(tmp_path)


def test_a_bad_value_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text('{"top_p": 3.0}')
    with pytest.raises(ValueError, match=r"generation_config.json: top_p must be .* got float 3\.0"):
        GenerationConfig.from_pretrained(tmp_path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"{tmp_path} has no generation_config.json; .*from_model_config"):
        GenerationConfig.from_pretrained(tmp_path)


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    config = GenerationConfig(suppress_tokens=[5])
    config.save_pretrained(tmp_path)
    before = (tmp_path / "generation_config.json").read_bytes()
    assert config.suppress_tokens is not None
    config.suppress_tokens.append("6")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="suppress_tokens must be"):
        config.save_pretrained(tmp_path)
    assert (tmp_path / "generation_config.json").read_bytes() == before


def test_saving_onto_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match=r"is a file; give a directory for generation_config\.json"):
        GenerationConfig().save_pretrained(tmp_path / "file")
