"""The config: its fields and JSON beside the reference's, and the contradictions that the reference lets pass."""

import copy
import json
import math
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import XLMRobertaConfig as ReferenceConfig
from transformers.activations import ACT2FN
from transformers.generation.configuration_utils import GenerationConfig

import xlmr_np.weights.files
from xlmr_np import config as config_module
from xlmr_np.config import (
    GENERATION_KEYS,
    KNOWN_ACTIVATIONS,
    MAX_LAYERS,
    MAX_ROWS,
    MAX_WIDTH,
    XLM_ROBERTA_BASE,
    XLM_ROBERTA_LARGE,
    AutoConfig,
    XLMRobertaConfig,
)

# Config files as published, or as old versions of the reference wrote them.
BASE = {
    "architectures": ["XLMRobertaForMaskedLM"],
    "attention_probs_dropout_prob": 0.1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 514,
    "model_type": "xlm-roberta",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "output_past": True,
    "pad_token_id": 1,
    "position_embedding_type": "absolute",
    "transformers_version": "4.17.0.dev0",
    "type_vocab_size": 1,
    "use_cache": True,
    "vocab_size": 250002,
}
LARGE_SIZES = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
NER = {
    **BASE,
    "_num_labels": 3,
    "id2label": {"0": "O", "1": "B-PER", "2": "I-PER"},
    "label2id": {"O": 0, "B-PER": 1, "I-PER": 2},
    "torch_dtype": "float32",
    "classifier_dropout": None,
}
BGE_M3 = {**BASE, **LARGE_SIZES, "max_position_embeddings": 8194, "torch_dtype": "float32"}
XXL_SIZES = {
    "vocab_size": 250880,
    "hidden_size": 4096,
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
    "intermediate_size": 16384,
}
OLD = {
    **BASE,
    "finetuning_task": None,
    "is_decoder": False,
    "num_labels": 2,
    "pruned_heads": {},
    "torchscript": False,
    "use_bfloat16": False,
    "tie_encoder_decoder": False,
    "gradient_checkpointing": False,
    "_name_or_path": "xlm-roberta-base",
    "_commit_hash": "0123abc",
    "output_attentions": False,
    "max_length": 20,
    "num_beams": 1,
    "do_sample": False,
    "bad_words_ids": None,
}
MULTI_LABEL = {
    **BASE,
    "problem_type": "multi_label_classification",
    "id2label": {str(index): f"emotion {index}" for index in range(11)},
    "label2id": {f"emotion {index}": index for index in range(11)},
    "hidden_dropout_prob": 0,
}
PUBLISHED = {
    "base": BASE,
    "large": {**BASE, **LARGE_SIZES},
    "ner": NER,
    "bge-m3": BGE_M3,
    "old": OLD,
    "multi-label": MULTI_LABEL,
    "empty": {"model_type": "xlm-roberta"},
}


def settings_of(config: XLMRobertaConfig | ReferenceConfig) -> dict[str, Any]:
    """All that a config says of its model."""
    settings = config.to_dict()
    del settings["transformers_version"]  # of the library that wrote the file
    return settings


def write_json(directory: Path, content: object) -> Path:
    directory.mkdir(exist_ok=True)
    path = directory / "config.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


# Fields, beside the reference


def test_defaults_are_those_of_the_reference() -> None:
    assert settings_of(XLMRobertaConfig()) == settings_of(ReferenceConfig())


def test_names_known_by_the_reference_are_complete() -> None:
    assert set(KNOWN_ACTIVATIONS) == set(ACT2FN)
    assert set(GENERATION_KEYS) == set(GenerationConfig._get_default_generation_params()) - {"use_cache"}


@pytest.mark.parametrize("published", PUBLISHED.values(), ids=PUBLISHED)
def test_published_files_read_as_in_the_reference(published: dict[str, Any], tmp_path: Path) -> None:
    write_json(tmp_path, published)
    ours, theirs = XLMRobertaConfig.from_pretrained(tmp_path), ReferenceConfig.from_pretrained(tmp_path)
    assert settings_of(ours) == settings_of(theirs)
    assert ours.transformers_version == published.get("transformers_version")
    assert ours.num_labels == theirs.num_labels


@pytest.mark.parametrize("published", PUBLISHED.values(), ids=PUBLISHED)
def test_each_library_reads_what_the_other_wrote(published: dict[str, Any], tmp_path: Path) -> None:
    write_json(tmp_path / "published", published)
    ours = XLMRobertaConfig.from_pretrained(tmp_path / "published")
    theirs = ReferenceConfig.from_pretrained(tmp_path / "published")
    ours.save_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    for reader in (XLMRobertaConfig, ReferenceConfig):
        of_ours = settings_of(reader.from_pretrained(tmp_path / "ours"))
        assert of_ours == settings_of(reader.from_pretrained(tmp_path / "theirs"))
        assert of_ours == {**settings_of(ours), "_name_or_path": ""}
    written = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("ours", "theirs")]
    for content in written:
        content.pop("transformers_version", None)
    assert written[0] == written[1]


dropout = st.one_of(st.floats(0, 1), st.sampled_from([0, 1]))
field_values = st.fixed_dictionaries(
    {},
    optional={
        "vocab_size": st.integers(3, MAX_ROWS),
        "num_hidden_layers": st.integers(1, MAX_LAYERS),
        "intermediate_size": st.integers(1, MAX_WIDTH),
        "hidden_act": st.sampled_from(KNOWN_ACTIVATIONS),
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
        "classifier_dropout": st.none() | dropout,
        "max_position_embeddings": st.integers(4, MAX_ROWS),
        "type_vocab_size": st.integers(1, MAX_ROWS),
        "initializer_range": st.floats(0, 1e300),
        "layer_norm_eps": st.floats(0, 1, exclude_min=True),
        "pad_token_id": st.none() | st.integers(0, 2),
        "bos_token_id": st.none() | st.integers(0, 2),
        "eos_token_id": st.none() | st.integers(0, 2) | st.lists(st.integers(0, 2)),
        "use_cache": st.booleans(),
        "is_decoder": st.booleans(),
        "add_cross_attention": st.booleans(),
        "tie_word_embeddings": st.booleans(),
        "output_hidden_states": st.booleans(),
        "output_attentions": st.booleans(),
        "return_dict": st.booleans(),
        "dtype": st.none() | st.sampled_from(["float64", "float32", "float16", "bfloat16"]),
        "chunk_size_feed_forward": st.integers(0, 100),
        "is_encoder_decoder": st.booleans(),
        "problem_type": st.sampled_from([None, "regression", "multi_label_classification"]),
        "architectures": st.none() | st.lists(st.text()),
        "num_labels": st.integers(0, 20),
        "a key of somebody's own": st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=5,
        ),
    },
).filter(lambda values: values.get("is_decoder") or not values.get("add_cross_attention"))


@settings(deadline=None)  # the first example imports half of the reference
@given(field_values)
def test_any_config_survives_the_way_through_both_libraries(values: dict[str, Any]) -> None:
    config = XLMRobertaConfig(**values)
    theirs = ReferenceConfig(**values)
    assert settings_of(config) == settings_of(theirs)
    again = XLMRobertaConfig.from_dict(json.loads(config.to_json_string(use_diff=False)))
    assert json.loads(config.to_json_string()) == json.loads(again.to_json_string())
    back = json.loads(theirs.to_json_string())
    assert back.pop("transformers_version") == transformers.__version__
    assert json.loads(config.to_json_string()) == back


# One field at a time

WRONG_TYPES: list[tuple[str, Any]] = [
    *(("hidden_size", value) for value in ("768", 768.0, True, None, [768], np.int64(768))),
    *(("num_hidden_layers", value) for value in (False, "12", 1.5)),
    *(("hidden_act", value) for value in (None, math.tanh, 1)),
    *(("hidden_dropout_prob", value) for value in ("0.1", None, True)),
    *(("layer_norm_eps", value) for value in (1, "1e-5", None)),
    *(("initializer_range", value) for value in (0, None)),
    *(("pad_token_id", value) for value in (1.0, "1", True)),
    *(("eos_token_id", value) for value in ("2", [2, "3"], 2.0)),
    *(("use_cache", value) for value in (1, "true", None)),
    *(("classifier_dropout", value) for value in ("0.1", False)),
]
WRONG_TYPES_HERE_ONLY: list[tuple[str, Any]] = [
    ("model_type", None),
    ("dtype", 16),
    ("architectures", "XLMRobertaModel"),
    ("output_hidden_states", "all"),
    ("return_dict", "no"),
    ("problem_type", 1),
    ("num_labels", None),
    ("num_labels", 2.0),
    ("num_labels", True),
    ("num_labels", "3"),
    ("id2label", ["a", "b"]),
    ("id2label", {0: None}),
    ("id2label", {"first": "a"}),
    ("id2label", {0.0: "a"}),
    ("label2id", "a"),
    ("label2id", {"a": 0.0}),
    ("generation_parameters", 5),
]


@pytest.mark.parametrize(("name", "value"), WRONG_TYPES + WRONG_TYPES_HERE_ONLY)
def test_a_wrong_type_is_an_error_at_construction_and_on_assignment(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=r"(must be|A label's)"):
        XLMRobertaConfig(**{name: value})
    config = XLMRobertaConfig()
    with pytest.raises(TypeError):
        setattr(config, name, value)
    assert config == XLMRobertaConfig()


@pytest.mark.parametrize(("name", "value"), WRONG_TYPES)
def test_the_reference_refuses_the_same_types(name: str, value: Any) -> None:
    with pytest.raises(Exception, match=name):
        ReferenceConfig(**{name: value})


def test_the_message_for_a_wrong_type_names_the_field_the_want_and_the_value() -> None:
    with pytest.raises(TypeError, match=r"^hidden_size must be int, between 1 and 65536; got str 'a'\.$"):
        XLMRobertaConfig(hidden_size="a")
    with pytest.raises(TypeError, match=r"^dtype must be .*float16.*; got dtype torch.float16\.$"):
        XLMRobertaConfig(dtype=torch.float16)


OUT_OF_RANGE: list[tuple[str, Any]] = [
    *((name, value) for name in ("hidden_size", "intermediate_size", "num_attention_heads") for value in (0, -1)),
    *((name, MAX_WIDTH + 1) for name in ("hidden_size", "intermediate_size", "num_attention_heads")),
    *((name, value) for name in ("vocab_size", "max_position_embeddings") for value in (0, MAX_ROWS + 1, 10**18)),
    *(("type_vocab_size", value) for value in (0, MAX_ROWS + 1)),
    *(("num_hidden_layers", value) for value in (0, -3, MAX_LAYERS + 1)),
    *(("num_labels", value) for value in (-1, MAX_ROWS + 1, 10**18)),
    *(("hidden_dropout_prob", value) for value in (-0.1, 1.1, 2, math.nan, math.inf)),
    *(("attention_probs_dropout_prob", value) for value in (-1, 1.0001)),
    *(("classifier_dropout", value) for value in (-1, 7.5, math.nan)),
    *(("layer_norm_eps", value) for value in (0.0, -1e-5, math.nan, math.inf)),
    *(("initializer_range", value) for value in (-0.02, math.nan, math.inf)),
    *(("chunk_size_feed_forward", value) for value in (-1,)),
    *(("hidden_act", value) for value in ("geluu", "", "GELU", "os.system")),
    *(("problem_type", value) for value in ("foo", "")),
    *(("position_embedding_type", value) for value in ("relative_key", "relative_key_query", "")),
    *(("model_type", value) for value in ("bert", "xlm-roberta-xl", "")),
    *(("dtype", value) for value in ("float8", "torch.float16", "auto")),
    ("pad_token_id", -1),
    ("id2label", {1: "a", 2: "b"}),
    ("id2label", {0: "a", "0": "b"}),
    ("id2label", {0: "a", 1: "a"}),
    ("label2id", {"a": 0, "b": 0}),
    ("label2id", {"a": -1}),
]


@pytest.mark.parametrize(("name", "value"), OUT_OF_RANGE)
def test_a_value_out_of_range_is_an_error_at_construction_and_on_assignment(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=r"(must be|same name)"):
        XLMRobertaConfig(**{name: value})
    config = XLMRobertaConfig()
    with pytest.raises(ValueError, match=r"(must be|same name)"):
        setattr(config, name, value)
    assert config == XLMRobertaConfig()


def test_the_largest_models_pass_the_limits() -> None:
    for sizes in (XXL_SIZES, {"vocab_size": 901629}, {"max_position_embeddings": 8194}):
        assert XLMRobertaConfig(**sizes).to_dict().items() >= sizes.items()


def test_numpy_types_are_dtypes() -> None:
    for dtype in (np.float16, np.dtype("float16"), "float16"):
        assert XLMRobertaConfig(dtype=dtype).dtype == "float16"


# Several fields together

CONTRADICTIONS: list[tuple[dict[str, Any], str]] = [
    ({"hidden_size": 16, "num_attention_heads": 3}, "hidden_size 16 must be a multiple of num_attention_heads 3"),
    ({"pad_token_id": 30522}, "pad_token_id 30522 must be below vocab_size 30522"),
    ({"max_position_embeddings": 2}, "max_position_embeddings 2 must be above 2"),
    ({"problem_type": "single_label_classification", "num_labels": 1}, "num_labels=1"),
    ({"add_cross_attention": True}, "add_cross_attention=True needs is_decoder=True: only a decoder sees"),
    ({"num_labels": 3, "id2label": {0: "a", 1: "b"}}, "contradictory"),
    ({"num_labels": 1, "label2id": {"a": 0, "b": 1}}, "contradictory"),
    ({"id2label": {0: "a", 1: "b"}, "label2id": {"a": 1, "b": 0}}, "contradictory"),
    ({"id2label": {0: "a", 1: "b"}, "label2id": {"a": 0}}, "contradictory"),
]


@pytest.mark.parametrize(("contradiction", "message"), CONTRADICTIONS, ids=[message for _, message in CONTRADICTIONS])
def test_contradictions_are_errors_wherever_a_config_comes_from(
    contradiction: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = write_json(tmp_path, contradiction)
    with pytest.raises(ValueError, match=message):
        XLMRobertaConfig(**contradiction)
    with pytest.raises(ValueError, match=message):
        XLMRobertaConfig.from_dict(contradiction)
    for read in (XLMRobertaConfig.from_pretrained, XLMRobertaConfig.from_json_file):
        with pytest.raises(ValueError, match=message) as caught:
            read(path)
        assert str(path) in str(caught.value)


def test_fields_that_depend_on_each_other_can_be_changed_one_after_the_other(tmp_path: Path) -> None:
    config = XLMRobertaConfig()
    config.num_attention_heads = 5
    with pytest.raises(ValueError, match="multiple"):
        config.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    config.hidden_size = 40
    config.save_pretrained(tmp_path / "new")
    assert XLMRobertaConfig.from_pretrained(tmp_path / "new").hidden_size == 40


def test_validate_sees_what_was_put_into_a_list_or_a_map() -> None:
    config = XLMRobertaConfig(eos_token_id=[2], id2label={0: "a"})
    config.validate()
    config.eos_token_id.append("3")
    with pytest.raises(TypeError, match="eos_token_id"):
        config.validate()
    config.eos_token_id = 2
    config.id2label[0] = "b"
    with pytest.raises(ValueError, match="contradictory"):
        config.validate()


# Labels


@pytest.mark.parametrize(
    "given_settings",
    [
        {"id2label": {0: "no", 1: "yes", 2: "?"}},
        {"id2label": {"2": "?", "0": "no", "1": "yes"}},
        {"label2id": {"?": 2, "no": 0, "yes": 1}},
        {"label2id": {"?": "2", "no": "0", "yes": "1"}},
        {"id2label": {0: "no", 1: "yes", 2: "?"}, "label2id": {"no": 0, "yes": 1, "?": 2}, "num_labels": 3},
        {"id2label": {0: "no", 1: "yes", 2: "?"}, "label2id": None},
        {"id2label": None, "label2id": {"no": 0, "yes": 1, "?": 2}},
    ],
)
def test_either_label_map_gives_both(given_settings: dict[str, Any]) -> None:
    config = XLMRobertaConfig(**given_settings)
    assert list(config.id2label.items()) == [(0, "no"), (1, "yes"), (2, "?")]
    assert config.label2id == {"no": 0, "yes": 1, "?": 2}
    assert config.num_labels == 3


@pytest.mark.parametrize("number", [0, 1, 2, 3, 12])
def test_num_labels_alone_names_them_as_the_reference_does(number: int) -> None:
    ours, theirs = XLMRobertaConfig(num_labels=number), ReferenceConfig(num_labels=number)
    assert (ours.id2label, ours.label2id) == (theirs.id2label, theirs.label2id)
    assert ours.to_diff_dict().get("id2label") == theirs.to_diff_dict().get("id2label")


def test_labels_that_were_numbers_become_strings() -> None:
    config = XLMRobertaConfig.from_dict({"id2label": {"0": 1, "1": 5}, "label2id": {"1": 0, "5": 1}})
    assert config.id2label == {0: "1", 1: "5"}


def test_assigning_one_label_map_derives_the_other() -> None:
    config = XLMRobertaConfig()
    config.id2label = {0: "a", 1: "b", 2: "c"}
    assert config.label2id == {"a": 0, "b": 1, "c": 2}
    config.label2id = {"x": 1, "y": 0}
    assert config.id2label == {0: "y", 1: "x"}
    config.num_labels = 2
    assert config.id2label == {0: "y", 1: "x"}
    config.num_labels = 3
    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    config.id2label = None
    assert config.num_labels == 2


def test_overriding_labels_of_a_file(tmp_path: Path) -> None:
    write_json(tmp_path, NER)

    def labels(**overrides: Any) -> list[str]:
        config = XLMRobertaConfig.from_pretrained(tmp_path, **overrides)
        assert config.label2id == {name: index for index, name in config.id2label.items()}
        return list(config.id2label.values())

    assert labels(num_labels=3) == ["O", "B-PER", "I-PER"]
    assert labels(num_labels=5) == [f"LABEL_{index}" for index in range(5)]
    assert labels(num_labels=5) == list(ReferenceConfig.from_pretrained(tmp_path, num_labels=5).id2label.values())
    assert labels(id2label={0: "x"}) == labels(label2id={"x": 0}) == labels(id2label={0: "x"}, num_labels=1) == ["x"]
    assert labels(id2label=None) == ["O", "B-PER", "I-PER"]
    assert labels(id2label=None, label2id=None) == ["LABEL_0", "LABEL_1"]
    with pytest.raises(ValueError, match="contradictory"):
        labels(id2label={0: "x"}, num_labels=2)
    with pytest.raises(TypeError, match="num_labels"):
        labels(num_labels=None)


def test_overriding_the_number_of_labels_of_a_file() -> None:
    assert XLMRobertaConfig.from_dict({"num_labels": 3}, id2label={0: "x"}).num_labels == 1
    assert XLMRobertaConfig.from_dict({"num_labels": 3}, num_labels=4).num_labels == 4


def test_a_contradictory_file_can_be_read_by_choosing_one_map(tmp_path: Path) -> None:
    write_json(tmp_path, {"id2label": {"0": "a", "1": "b", "2": "c"}, "label2id": {"x": 0}})
    with pytest.raises(ValueError, match="None for the other"):
        XLMRobertaConfig.from_pretrained(tmp_path)
    assert XLMRobertaConfig.from_pretrained(tmp_path, label2id=None).label2id == {"a": 0, "b": 1, "c": 2}
    assert XLMRobertaConfig.from_pretrained(tmp_path, id2label=None).id2label == {0: "x"}


def test_default_names_that_old_files_keep_beside_real_ones_say_nothing(tmp_path: Path) -> None:
    write_json(tmp_path, {"id2label": {"0": "a", "1": "b", "2": "c"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}})
    assert XLMRobertaConfig.from_pretrained(tmp_path).label2id == {"a": 0, "b": 1, "c": 2}


# Keys that are no fields, other names, and keys of old


def test_unknown_keys_are_kept_and_written_again(tmp_path: Path) -> None:
    unknown = {"foo": {"bar": [1, None]}, "gradient_checkpointing": False, "self": 1, "source": 2, "": 3}
    XLMRobertaConfig(**unknown).save_pretrained(tmp_path)
    config = XLMRobertaConfig.from_pretrained(tmp_path)
    assert config.to_diff_dict().items() >= unknown.items()
    assert config.foo == {"bar": [1, None]}
    config.foo = "changed"
    assert json.loads(config.to_json_string())["foo"] == "changed"


@pytest.mark.parametrize("name", ["to_dict", "validate", "use_return_dict", "__class__", "__dict__", "__deepcopy__"])
def test_a_key_that_would_replace_part_of_the_class_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        XLMRobertaConfig.from_dict({name: {"hidden_size": -1}})
    with pytest.raises(ValueError, match=name):
        setattr(XLMRobertaConfig(), name, {})


def test_torch_dtype_is_dtype() -> None:
    assert XLMRobertaConfig(torch_dtype="float16").dtype == "float16"
    assert XLMRobertaConfig(torch_dtype="float16", dtype="float32").dtype == "float32"
    assert XLMRobertaConfig(torch_dtype="float16", dtype=None).dtype == "float16"
    assert XLMRobertaConfig.from_dict({"dtype": "float32"}, torch_dtype="float16").dtype == "float16"
    config = XLMRobertaConfig(torch_dtype=None)
    config.torch_dtype = "bfloat16"
    assert config.dtype == config.torch_dtype == "bfloat16"
    assert '"dtype": "bfloat16"' in config.to_json_string()
    assert "torch_dtype" not in config.to_json_string()


def test_return_dict_has_its_old_name() -> None:
    assert XLMRobertaConfig().use_return_dict is True
    assert XLMRobertaConfig(return_dict=False).use_return_dict is False


def test_generation_settings_leave_the_config(tmp_path: Path) -> None:
    config = XLMRobertaConfig.from_dict(OLD)
    moved = {"max_length": 20, "num_beams": 1, "do_sample": False, "bad_words_ids": None}
    assert config.generation_parameters == moved
    assert not hasattr(config, "max_length")
    config.save_pretrained(tmp_path)
    assert not {"max_length", "generation_parameters"} & json.loads((tmp_path / "config.json").read_text()).keys()
    with pytest.raises(ValueError, match="num_beams is a setting of generation"):
        config.num_beams = 4


def test_what_belongs_to_a_run_is_not_written() -> None:
    config = XLMRobertaConfig(attn_implementation="eager", _commit_hash="abc", name_or_path="somewhere")
    assert config._attn_implementation == config.attn_implementation == "eager"
    assert config.name_or_path == config._name_or_path == "somewhere"
    assert config.to_json_string() == XLMRobertaConfig().to_json_string()
    assert "attn" not in "".join(config.to_dict())
    assert XLMRobertaConfig.from_dict({"_attn_implementation_internal": "sdpa"})._attn_implementation is None


def test_absolute_positions_may_be_named() -> None:
    config = XLMRobertaConfig(position_embedding_type="absolute")
    assert config.position_embedding_type == "absolute"
    assert not hasattr(XLMRobertaConfig(), "position_embedding_type")
    with pytest.raises(ValueError, match="no relative positions"):
        config.position_embedding_type = "relative_key"


@pytest.mark.parametrize("model_type", ["roberta", "camembert"])
def test_the_same_layers_under_other_names(
    model_type: str, tmp_path: Path, recwarn: pytest.WarningsRecorder, capfd: pytest.CaptureFixture[str]
) -> None:
    write_json(tmp_path / "theirs", {**BASE, "model_type": model_type, "vocab_size": 50265})
    config = XLMRobertaConfig.from_pretrained(tmp_path / "theirs")
    assert (config.model_type, config.vocab_size) == (model_type, 50265)
    assert AutoConfig.from_pretrained(tmp_path / "theirs") == config
    assert not recwarn.list
    assert capfd.readouterr() == ("", "")
    config.save_pretrained(tmp_path / "ours")
    theirs = transformers.AutoConfig.from_pretrained(tmp_path / "ours")
    assert (theirs.model_type, theirs.vocab_size) == (model_type, 50265)


# Reading


def test_auto_config_needs_a_model_type_it_knows(tmp_path: Path) -> None:
    write_json(tmp_path / "none", {"vocab_size": 5})
    write_json(tmp_path / "bert", {"model_type": "bert"})
    with pytest.raises(ValueError, match="no model_type; it must state one of xlm-roberta, roberta, camembert"):
        AutoConfig.from_pretrained(tmp_path / "none")
    assert AutoConfig.from_pretrained(tmp_path / "none", model_type="roberta").model_type == "roberta"
    assert XLMRobertaConfig.from_pretrained(tmp_path / "none").model_type == "xlm-roberta"
    for reader in (AutoConfig, XLMRobertaConfig):
        with pytest.raises(ValueError, match=r"xlm-roberta, roberta, camembert; got str 'bert'"):
            reader.from_pretrained(tmp_path / "bert")
    assert AutoConfig.from_pretrained(tmp_path / "none", model_type="roberta", foo=1, return_unused_kwargs=True) == (
        XLMRobertaConfig(model_type="roberta", vocab_size=5),
        {"foo": 1},
    )


def test_overrides_replace_settings_of_the_file(tmp_path: Path) -> None:
    write_json(tmp_path, {**BASE, "foo": 1})
    config = XLMRobertaConfig.from_pretrained(
        tmp_path, num_hidden_layers=3, foo=2, output_hidden_states=True, attn_implementation="eager"
    )
    assert (config.num_hidden_layers, config.foo, config.output_hidden_states) == (3, 2, True)
    assert config._attn_implementation == "eager"
    with pytest.raises(ValueError, match="multiple"):
        XLMRobertaConfig.from_pretrained(tmp_path, num_attention_heads=7)


def test_overrides_that_are_no_settings(tmp_path: Path) -> None:
    write_json(tmp_path, BASE)
    with pytest.raises(TypeError, match="num_label, to_dict: no setting"):
        XLMRobertaConfig.from_pretrained(tmp_path, num_label=3, to_dict=1, num_labels=3)
    config, unused = XLMRobertaConfig.from_pretrained(tmp_path, bar=1, num_labels=3, return_unused_kwargs=True)
    assert (config.num_labels, unused) == (3, {"bar": 1})
    theirs, their_unused = ReferenceConfig.from_pretrained(tmp_path, bar=1, num_labels=3, return_unused_kwargs=True)
    assert (theirs.num_labels, their_unused) == (3, unused)


def test_from_dict_leaves_its_arguments_as_they_are() -> None:
    settings = {"id2label": {"0": "a"}, "eos_token_id": [1], "max_length": 3, "torch_dtype": "float16"}
    before = copy.deepcopy(settings)
    config = XLMRobertaConfig.from_dict(settings, num_labels=4)
    config.eos_token_id.append(2)
    assert settings == before


def test_a_directory_without_config_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"has no config\.json") as caught:
        XLMRobertaConfig.from_pretrained(tmp_path)
    assert str(tmp_path) in str(caught.value)
    with pytest.raises(OSError, match=r"inner has no config.json"):
        XLMRobertaConfig.from_pretrained(tmp_path, subfolder="inner")
    with pytest.raises(OSError, match="nowhere"):
        XLMRobertaConfig.from_pretrained(tmp_path / "nowhere")


def test_subfolder_and_single_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_json(tmp_path / "inner", BASE)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))  # the same on Windows
    assert XLMRobertaConfig.from_pretrained("~/inner/config.json") == XLMRobertaConfig(**BASE)
    assert XLMRobertaConfig.from_pretrained("~/inner") == XLMRobertaConfig(**BASE)
    config = XLMRobertaConfig.from_pretrained(tmp_path, subfolder="inner")
    assert config == XLMRobertaConfig.from_pretrained(str(path)) == XLMRobertaConfig.from_json_file(path)
    settings, unused = XLMRobertaConfig.get_config_dict(tmp_path, subfolder="inner", revision="main", foo=1)
    assert (settings, unused) == (BASE, {"foo": 1})


def test_a_hub_id_goes_to_the_hub_with_all_that_helps_to_find_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_json(tmp_path, BASE)
    asked = {}

    def locate(source: str, filename: str, **where: Any) -> Path:
        asked.update(where, source=source, filename=filename)
        return path

    monkeypatch.setattr(xlmr_np.weights.files, "locate", locate)
    where = {"cache_dir": "c", "revision": "r", "token": "t", "local_files_only": True, "subfolder": "s"}
    assert XLMRobertaConfig.from_pretrained("org/name", **where) == XLMRobertaConfig(**BASE)
    assert asked == {**where, "source": "org/name", "filename": "config.json"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ('{"vocab_size": 5, "vocab_size": 6}', "key 'vocab_size' twice"),
        ("[1, 2]", "must hold a JSON object; it holds list"),
        ("null", "must hold a JSON object"),
        ("[" * 100_000, "not valid JSON"),
        ('{"vocab_size": ' + "9" * 5000 + "}", "not valid JSON"),
    ],
)
def test_a_damaged_file_is_an_error_that_names_it(content: str, message: str, tmp_path: Path) -> None:
    path = write_json(tmp_path, content)
    for source in (tmp_path, path):
        with pytest.raises(OSError, match=message) as caught:
            XLMRobertaConfig.from_pretrained(source)
        assert str(path) in str(caught.value)


def test_bytes_that_are_no_text_are_an_error_and_a_byte_order_mark_is_none(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b'{"hidden_act": "\xff"}')
    with pytest.raises(OSError, match="not valid JSON"):
        XLMRobertaConfig.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_bytes(b'\xef\xbb\xbf{"vocab_size": 7}')
    assert XLMRobertaConfig.from_pretrained(tmp_path).vocab_size == 7


def test_floats_json_has_no_number_for_are_read_and_written_as_in_the_reference(tmp_path: Path) -> None:
    values = {"a": math.inf, "b": [-math.inf, {"c": math.nan}], "d": (1.5,), "e": {"__float__": "seven"}}
    text = XLMRobertaConfig(**values).to_json_string()
    theirs = ReferenceConfig(**values).to_json_string()
    assert [line for line in theirs.splitlines() if "transformers_version" not in line] == text.splitlines()
    assert '"__float__": "-Infinity"' in text
    config = XLMRobertaConfig.from_json_file(write_json(tmp_path, text))
    assert (config.a, config.b[0], config.d) == (math.inf, -math.inf, [1.5])
    assert math.isnan(config.b[1]["c"])
    assert config.e == {"__float__": "seven"}
    with pytest.raises(ValueError, match="layer_norm_eps must be float, finite"):
        XLMRobertaConfig.from_json_file(write_json(tmp_path, '{"layer_norm_eps": {"__float__": "Infinity"}}'))


# Changing


def test_update_changes_all_or_nothing() -> None:
    config = XLMRobertaConfig(id2label={0: "a"}, attn_implementation="eager", max_length=7)
    before = copy.deepcopy(vars(config))
    for bad in ({"vocab_size": 5, "hidden_size": 7}, {"vocab_size": 5, "hidden_act": "foo"}, {"hidden_size": "a"}):
        with pytest.raises((TypeError, ValueError)):
            config.update(bad)
        assert vars(config) == before
    config.update({"hidden_size": 30, "num_attention_heads": 5, "new": 1, "num_labels": 2})
    assert (config.hidden_size, config.num_attention_heads, config.new) == (30, 5, 1)
    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1"}
    assert (config._attn_implementation, config.generation_parameters) == ("eager", {"max_length": 7})
    config.update({"label2id": {"x": 0}})
    assert config.id2label == {0: "x"}


def test_update_from_string_reads_what_the_reference_reads() -> None:
    text = (
        "vocab_size=99,layer_norm_eps=1e-6,hidden_act=relu,use_cache=No,is_decoder=y,num_labels=3,hidden_dropout_prob=0"
    )
    ours, theirs = XLMRobertaConfig(), ReferenceConfig()
    ours.update_from_string(text)
    theirs.update_from_string(text)
    assert settings_of(ours) == settings_of(theirs)
    assert ours.vocab_size == 99


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("zzz=1", ValueError, "'zzz=1' changes no setting"),
        ("to_dict=1", ValueError, "changes no setting"),
        ("vocab_size=99,", ValueError, "'' changes no setting"),
        ("vocab_size=99,hidden_size=a", ValueError, "hidden_size must be int; got 'a'"),
        ("vocab_size=99,hidden_size=7.0", ValueError, "hidden_size must be int"),
        ("use_cache=maybe", ValueError, "use_cache must be bool"),
        ("vocab_size", ValueError, "vocab_size must be int; got ''"),
        ("architectures=a", TypeError, "architectures is NoneType"),
        ("vocab_size=99,hidden_size=7", ValueError, "multiple"),
        ("position_embedding_type=absolute", TypeError, "position_embedding_type is NoneType"),
    ],
)
def test_update_from_string_refuses_the_rest(text: str, error: type[Exception], message: str) -> None:
    config = XLMRobertaConfig()
    with pytest.raises(error, match=message):
        config.update_from_string(text)
    assert config == XLMRobertaConfig()


# Writing


def test_json_is_sorted_indented_and_ends_with_a_newline() -> None:
    config = XLMRobertaConfig(**BASE, id2label={index: str(index) for index in range(11)})
    text = config.to_json_string()
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=False) + "\n"
    assert list(json.loads(text)) == sorted(json.loads(text))
    assert config.to_json_string(use_diff=False).count("\n") > text.count("\n")


def test_a_transformers_version_is_kept_and_none_is_made_up() -> None:
    assert '"transformers_version": "4.17.0.dev0"' in XLMRobertaConfig(**BASE).to_json_string()
    assert "transformers_version" not in XLMRobertaConfig().to_json_string()


def test_hidden_states_of_layer_zero_are_written() -> None:
    config = XLMRobertaConfig(output_hidden_states=0)
    assert json.loads(config.to_json_string())["output_hidden_states"] == 0
    assert config != XLMRobertaConfig()


def test_saving_makes_directories_and_leaves_nothing_else(tmp_path: Path) -> None:
    XLMRobertaConfig(vocab_size=7).save_pretrained(tmp_path / "a" / "b")
    XLMRobertaConfig(vocab_size=8).save_pretrained(tmp_path / "a" / "b")
    assert os.listdir(tmp_path / "a" / "b") == ["config.json"]
    assert XLMRobertaConfig.from_pretrained(tmp_path / "a" / "b").vocab_size == 8


def test_saving_to_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(NotADirectoryError, match="taken is a file"):
        XLMRobertaConfig().save_pretrained(tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    XLMRobertaConfig(vocab_size=7).save_pretrained(tmp_path)
    old = (tmp_path / "config.json").read_bytes()
    unwritable = XLMRobertaConfig(foo=object())
    for directory in (tmp_path, tmp_path / "new"):
        with pytest.raises(TypeError, match="not JSON serializable"):
            unwritable.save_pretrained(directory)

    real_write_text = Path.write_text

    def write_half(self: Path, text: str, **options: Any) -> None:
        real_write_text(self, text[: len(text) // 2], **options)
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_text", write_half)
    with pytest.raises(OSError, match="No space left"):
        XLMRobertaConfig(vocab_size=8).save_pretrained(tmp_path)
    assert (tmp_path / "config.json").read_bytes() == old
    assert os.listdir(tmp_path) == ["config.json"]


# As an object


def test_a_dict_of_a_config_is_the_callers_own() -> None:
    config = XLMRobertaConfig(eos_token_id=[2], foo={"bar": 1})
    config.to_dict()["eos_token_id"].append(3)
    config.to_diff_dict()["foo"].clear()
    assert (config.eos_token_id, config.foo) == ([2], {"bar": 1})


def test_equality_copies_and_representation() -> None:
    config = XLMRobertaConfig(**NER)
    assert config == XLMRobertaConfig(**NER)
    assert config == XLMRobertaConfig(**{**NER, "transformers_version": "5.0.0", "_name_or_path": "elsewhere"})
    assert config != XLMRobertaConfig(**{**NER, "vocab_size": 9})
    assert config != settings_of(config)
    for twin in (copy.deepcopy(config), copy.copy(config), pickle.loads(pickle.dumps(config))):
        assert twin == config
        assert vars(twin) == vars(config)
    deep = copy.deepcopy(config)
    deep.id2label = {0: "changed"}
    assert config.num_labels == 3
    assert repr(config) == f"XLMRobertaConfig {config.to_json_string()}"


def test_the_constants_have_the_published_values() -> None:
    for constant, published in ((XLM_ROBERTA_BASE, BASE), (XLM_ROBERTA_LARGE, {**BASE, **LARGE_SIZES})):
        fields = {name: value for name, value in published.items() if name in XLMRobertaConfig().to_dict()}
        del fields["architectures"], fields["transformers_version"]
        assert constant.to_dict().items() >= fields.items()
        assert constant == XLMRobertaConfig(**fields)
        assert isinstance(constant, XLMRobertaConfig)


def test_the_constants_cannot_be_changed_and_their_copies_can(tmp_path: Path) -> None:
    before = XLM_ROBERTA_BASE.to_dict()
    changes = [
        lambda config: setattr(config, "vocab_size", 5),
        lambda config: setattr(config, "num_labels", 3),
        lambda config: setattr(config, "new", 1),
        lambda config: config.update({"vocab_size": 5}),
        lambda config: config.update_from_string("vocab_size=5"),
    ]
    for change in changes:
        with pytest.raises(AttributeError, match=r"shared constant.*deepcopy"):
            change(XLM_ROBERTA_BASE)
    XLM_ROBERTA_BASE.id2label[0] = "changed"
    XLM_ROBERTA_BASE.label2id.clear()
    assert XLM_ROBERTA_BASE.to_dict() == before
    for twin in (copy.deepcopy(XLM_ROBERTA_BASE), pickle.loads(pickle.dumps(XLM_ROBERTA_BASE))):
        assert twin == XLM_ROBERTA_BASE
        twin.vocab_size = 5
        assert type(twin) is XLMRobertaConfig
    assert repr(XLM_ROBERTA_BASE).startswith("XLMRobertaConfig {")
    XLM_ROBERTA_BASE.save_pretrained(tmp_path)
    assert XLMRobertaConfig.from_pretrained(tmp_path) == XLM_ROBERTA_BASE


def test_every_field_has_a_default_its_own_rule_accepts() -> None:
    assert config_module._DEFAULTS.items() <= vars(XLMRobertaConfig()).items()
    assert config_module._FIELDS.keys() - config_module._DEFAULTS.keys() == {
        "position_embedding_type",
        "generation_parameters",
    }
