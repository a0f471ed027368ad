"""Settings and added tokens as the files of a checkpoint list them, against what transformers reads there."""

import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st

from xlmr_np.tokenizer import files
from xlmr_np.tokenizer.added_tokens import AddedToken
from xlmr_np.tokenizer.files import read_added_tokens, read_tokenizer_config
from xlmr_np.tokenizer.model_proto import read_model_proto
from xlmr_np.tokenizer.tokenizer_json import write_tokenizer_json
from xlmr_np.tokenizer.vocabulary import Vocabulary, read_vocabulary
from xlmr_np.weights.errors import CheckpointError

USUAL = {
    **{token_id: AddedToken(token, special=True) for token_id, token in enumerate(("<s>", "<pad>", "</s>", "<unk>"))},
    481: AddedToken("<mask>", special=True),
}


@pytest.fixture(scope="module")
def vocabulary(small_vocabulary) -> Vocabulary:
    return read_vocabulary(small_vocabulary)[0]


@pytest.fixture
def find(tmp_path):
    """Finds the files of a directory."""

    def path_of(filename: str) -> Path | None:
        path = tmp_path / filename
        return path if path.is_file() else None

    return path_of


@pytest.fixture
def write(tmp_path, small_vocabulary):
    """Writes files by name without suffix: JSON values, or of tokenizer.json the added tokens."""

    def write_files(**contents: Any) -> None:
        for name, content in contents.items():
            if name == "tokenizer":
                text = write_tokenizer_json(read_model_proto(small_vocabulary.read_bytes()), content)
                (tmp_path / "tokenizer.json").write_bytes(text)
            else:
                (tmp_path / f"{name}.json").write_text(json.dumps(content))

    return write_files


def read(find, vocabulary: Vocabulary) -> dict[int, AddedToken]:
    return read_added_tokens(find, read_tokenizer_config("here", find), {}, vocabulary)


def entry(content: str, **flags: bool) -> dict[str, Any]:
    """A token with all its flags, as transformers writes it in its settings."""
    names = ("lstrip", "normalized", "rstrip", "single_word", "special")
    return {"content": content, **dict.fromkeys(names, False), **flags}


def without_special(token: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in token.items() if name != "special"}


def decoder(*own: dict[str, Any]) -> dict[str, Any]:
    usual = {str(token_id): entry(token.content, special=True) for token_id, token in USUAL.items()}
    return usual | {str(token_id): token for token_id, token in enumerate(own, start=482)}


A, B = entry("<a>", special=True, rstrip=True), entry("new", normalized=True, single_word=True)
OWN = {
    482: AddedToken("<a>", special=True, rstrip=True),
    483: AddedToken("new", single_word=True),
}
LSTRIP_MASK = {481: AddedToken("<mask>", special=True, lstrip=True)}

DIRECTORIES = {
    "nothing": ({}, {}),
    "usual tokens": ({"tokenizer_config": {"bos_token": "<s>", "mask_token": "<mask>", "pad_token": None}}, {}),
    "list with ids": ({"tokenizer_config": {"added_tokens_decoder": decoder(A, B)}}, OWN),
    "an empty list": ({"tokenizer_config": {"added_tokens_decoder": {}}, "tokenizer": OWN}, OWN),
    "tokenizer.json": ({"tokenizer": USUAL | OWN}, OWN),
    "tokenizer.json's mask": ({"tokenizer": USUAL | LSTRIP_MASK}, LSTRIP_MASK),
    "transformers 5": ({"tokenizer": OWN, "tokenizer_config": {"extra_special_tokens": ["<a>"]}}, OWN),
    "transformers 4": (
        {
            "tokenizer": USUAL | OWN,
            "tokenizer_config": {
                "added_tokens_decoder": decoder(A, B),
                "additional_special_tokens": ["<a>"],
                "extra_special_tokens": {},
                "sp_model_kwargs": {},
            },
            "special_tokens_map": {"additional_special_tokens": [without_special(A)], "mask_token": "<mask>"},
            "added_tokens": {"<a>": 482, "new": 483},
        },
        OWN,
    ),
    "the list wins over tokenizer.json": (
        {"tokenizer_config": {"added_tokens_decoder": decoder(entry("new"))}, "tokenizer": {482: AddedToken("new")}},
        {482: AddedToken("new", normalized=False)},
    ),
    "tokenizer.json wins over the map": (
        {"tokenizer": LSTRIP_MASK, "special_tokens_map": {"mask_token": without_special(entry("<mask>", rstrip=True))}},
        LSTRIP_MASK,
    ),
    "ids alone": (
        {"added_tokens": {"new": 483, "<a>": 482}, "tokenizer_config": {"additional_special_tokens": ["<a>"]}},
        {482: AddedToken("<a>", special=True), 483: AddedToken("new")},
    ),
    "additional tokens without ids": (
        {"tokenizer_config": {"additional_special_tokens": ["<x>", "e", "<a>"]}},
        {6: AddedToken("e", special=True), 482: AddedToken("<x>", special=True), 483: AddedToken("<a>", special=True)},
    ),
    "extra tokens with names": (
        {"tokenizer_config": {"extra_special_tokens": {"image_token": "<image>"}, "image_token": "<image>"}},
        {482: AddedToken("<image>", special=True)},
    ),
    "a token of an own name": (
        {"tokenizer_config": {"image_token": "<image>", "add_bos_token": True}},
        {482: AddedToken("<image>", special=True)},
    ),
    "additional tokens after those with ids": (
        {
            "tokenizer_config": {
                "added_tokens_decoder": decoder(A),
                "additional_special_tokens": [
                    "<a>",
                    "<x>",
                    {"__type": "AddedToken", **entry("<y>", special=True, lstrip=True)},
                ],
            }
        },
        {
            482: OWN[482],
            483: AddedToken("<x>", special=True),
            484: AddedToken("<y>", special=True, lstrip=True),
        },
    ),
    "the map's mask": (
        {"special_tokens_map": {"mask_token": without_special(entry("<mask>", lstrip=True))}},
        LSTRIP_MASK,
    ),
    "the config's mask": (
        {"tokenizer_config": {"mask_token": {"__type": "AddedToken", "content": "<mask>", "lstrip": True}}},
        LSTRIP_MASK,
    ),
}


@pytest.mark.parametrize("name", DIRECTORIES)
def test_added_tokens(write, find, vocabulary, name):
    contents, own = DIRECTORIES[name]
    write(**contents)
    assert read(find, vocabulary) == USUAL | own
    assert list(read(find, vocabulary)) == sorted(USUAL | own)


# Of an empty list with ids transformers 5 makes that there are no tokens, transformers 4 that it says nothing.
@pytest.mark.parametrize("name", [name for name in DIRECTORIES if name != "an empty list"])
def test_added_tokens_as_in_transformers(write, find, vocabulary, small_vocabulary, tmp_path, name):
    """Which needs a tokenizer.json, so that where there is none one without added tokens is written."""
    write(**({"tokenizer": {}, "tokenizer_config": {}} | DIRECTORIES[name][0]))
    loaded = transformers.XLMRobertaTokenizer.from_pretrained(tmp_path)
    theirs = {
        token_id: AddedToken(**{flag: getattr(token, flag) for flag in entry("")})
        for token_id, token in loaded.added_tokens_decoder.items()
    }
    ours = read(find, vocabulary)
    assert {i: token.content for i, token in ours.items()} == {i: token.content for i, token in theirs.items()}
    assert ours == theirs


def test_a_token_that_transformers_4_only_lists_as_special_is_special(write, find, vocabulary):
    plain = {482: AddedToken("<a>", normalized=False)}
    write(tokenizer=plain, tokenizer_config={"additional_special_tokens": ["<a>"]})
    assert read(find, vocabulary)[482] == AddedToken("<a>", special=True)


def test_tokens_that_came_with_the_vocabulary(write, find, vocabulary):
    """They need no second reading, and those that the list with ids leaves out still count."""
    write(tokenizer_config={"added_tokens_decoder": decoder(A)})
    found = []

    def finding(filename: str) -> Path | None:
        found.append(filename)
        return find(filename)

    config = read_tokenizer_config("here", find)
    assert read_added_tokens(finding, config, USUAL | OWN, vocabulary) == USUAL | OWN
    assert found == []
    assert read_added_tokens(finding, {}, USUAL | OWN, vocabulary) == USUAL | OWN
    assert "tokenizer.json" not in found


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"added_tokens": {"new": 483}}, r"added_tokens\.json gives .* 'new' the id 483, .* go on from 482"),
        ({"added_tokens": {"new": 482, "other": 482}}, "'other' the id 482, but 'new' has it too"),
        ({"added_tokens": {"e": 482}}, "'e' the id 482, but the vocabulary has it as 6"),
        ({"added_tokens": {"new": 6}}, "'new' the id 6, but"),
        ({"added_tokens": {"new": -1}}, "'new' the id -1, but"),
        ({"added_tokens": {"new": 10**30}}, "'new' the id 10000"),
        ({"added_tokens": {"<mask>": 482}}, "'<mask>' the id 482, but the vocabulary has it as 481"),
        ({"added_tokens": {"e": 6, "new": 483}}, "no file says what 482 is"),
        ({"added_tokens": {"new": "482"}}, "no whole number"),
        ({"added_tokens": {"new": True}}, "no whole number"),
        ({"added_tokens": {"new": 482.0}}, "no whole number"),
        ({"added_tokens": {"": 482}}, r"added_tokens\.json .* empty"),
        ({"added_tokens": {"\ud800": 482}}, r"added_tokens\.json .* surrogate"),
        ({"added_tokens": ["new"]}, "list"),
        (
            {"added_tokens": {"new": 483, "other": 482}, "tokenizer": {482: AddedToken("new")}},
            "483 in added_tokens.json and 482",
        ),
        ({"special_tokens_map": {"bos_token": "[CLS]"}}, r"special_tokens_map\.json has bos_token '\[CLS\]'"),
        ({"special_tokens_map": {"mask_token": entry("[M]")}}, r"mask_token '\[M\]'"),
        ({"special_tokens_map": {"mask_token": ["<mask>"]}}, r"mask_token \['<mask>'\]"),
        ({"tokenizer_config": {"added_tokens_decoder": []}}, r"added_tokens_decoder \[\]"),
        ({"tokenizer_config": {"added_tokens_decoder": {"x": A}}}, "not an id"),
        ({"tokenizer_config": {"added_tokens_decoder": {"-1": A}}}, "not an id"),
        ({"tokenizer_config": {"added_tokens_decoder": {"0482": A}}}, "not an id"),
        ({"tokenizer_config": {"added_tokens_decoder": {"٤٨٢": A}}}, "not an id"),
        ({"tokenizer_config": {"added_tokens_decoder": {"9" * 5000: A}}}, "not an id"),
        ({"tokenizer_config": {"added_tokens_decoder": {"482": "<a>"}}}, "'482': '<a>'"),
        ({"tokenizer_config": {"added_tokens_decoder": {"482": {}}}}, "where a token belongs"),
        ({"tokenizer_config": {"added_tokens_decoder": {"482": A | {"lstrip": 1}}}}, "where a token belongs"),
        ({"tokenizer_config": {"added_tokens_decoder": {"482": A | {"strip": True}}}}, "where a token belongs"),
        ({"tokenizer_config": {"added_tokens_decoder": {"482": A | {"content": 5}}}}, "must be a str"),
        ({"tokenizer_config": {"added_tokens_decoder": {"482": A | {"content": ""}}}}, "empty"),
        ({"tokenizer_config": {"added_tokens_decoder": {"482": A, "483": A}}}, "'<a>' has the id 482"),
        (
            {"tokenizer_config": {"added_tokens_decoder": {"482": A, "484": B}}},
            "no file says what 483 is|go on from 482",
        ),
        ({"tokenizer_config": {"additional_special_tokens": "<a>"}}, "additional_special_tokens '<a>'"),
        ({"tokenizer_config": {"additional_special_tokens": [5]}}, "additional_special_tokens 5"),
        ({"tokenizer_config": {"additional_special_tokens": [[]]}}, r"additional_special_tokens \[\]"),
        ({"tokenizer_config": {"additional_special_tokens": [""]}}, "empty"),
        ({"tokenizer_config": {"extra_special_tokens": {"a": 5}}}, "has a 5"),
        ({"tokenizer_config": {"extra_special_tokens": 5}}, "extra_special_tokens 5"),
    ],
    ids=str,
)
def test_added_tokens_that_are_refused(write, find, vocabulary, contents, message):
    write(**contents)
    with pytest.raises(CheckpointError, match=message) as error:
        read(find, vocabulary)
    assert len(str(error.value)) < 500


def test_tokens_of_another_vocabulary(write, find, vocabulary, tmp_path):
    """XLM-R's own ids, beside a smaller model."""
    write(tokenizer_config={"added_tokens_decoder": {"250001": entry("<mask>", special=True)}})
    with pytest.raises(CheckpointError, match="'<mask>' the id 250001, but the vocabulary has it as 481"):
        read(find, vocabulary)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"add_prefix_space": False}, "add_prefix_space False"),
        ({"add_prefix_space": "yes"}, "add_prefix_space 'yes'"),
        ({"split_special_tokens": True}, "split_special_tokens True"),
        ({"sp_model_kwargs": {"enable_sampling": True, "alpha": 0.1, "nbest_size": -1}}, "'enable_sampling': True"),
        ({"sp_model_kwargs": {"add_bos": True}}, "'add_bos': True"),
        ({"sp_model_kwargs": [1]}, r"sp_model_kwargs \[1\]"),
        ({"bos_token": "<bos>"}, "bos_token '<bos>', where XLM-R has '<s>'"),
        ({"eos_token": "<s>"}, "eos_token '<s>'"),
        ({"sep_token": "[SEP]"}, "sep_token"),
        ({"cls_token": {"content": "[CLS]"}}, r"cls_token '\[CLS\]'"),
        ({"unk_token": "[UNK]"}, "unk_token"),
        ({"pad_token": "</s>"}, "pad_token"),
        ({"mask_token": 5}, "mask_token 5"),
        ({"mask_token": {"lstrip": True}}, "mask_token"),
        ({"model_max_length": "512"}, "model_max_length '512'"),
        ({"model_max_length": True}, "model_max_length True"),
        ({"max_len": [512]}, r"model_max_length \[512\]"),
        ({"padding_side": ["left"]}, r"padding_side \['left'\]"),
        ({"truncation_side": None}, "truncation_side None"),
        ({"normalization": False}, "normalization False"),
        ({"allow_special_tokens": "no"}, "allow_special_tokens 'no'"),
        ({"tokenizer_class": "x" * 100_000}, "not XLM-R's"),
        ({"padding_side": ["x" * 100_000]}, "padding_side"),
    ],
    ids=range(23),
)
def test_settings_that_are_refused(write, find, config, message):
    write(tokenizer_config=config)
    with pytest.raises(CheckpointError, match=message) as error:
        read_tokenizer_config("here", find)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize(
    "config",
    [
        {"model_max_length": 512, "padding_side": "left", "truncation_side": "left"},
        {"model_max_length": 1e30},
        {"model_max_length": None, "normalization": "huggingface", "allow_special_tokens": True},
        {"add_prefix_space": True, "split_special_tokens": False, "sp_model_kwargs": {"alpha": 0.5, "add_bos": False}},
        {"do_lower_case": True, "clean_up_tokenization_spaces": True, "something_else": [1]},
    ],
)
def test_settings_that_are_read(write, find, config):
    write(tokenizer_config=config)
    assert read_tokenizer_config("here", find) == config


def test_the_older_name_of_model_max_length(write, find):
    write(tokenizer_config={"max_len": 512})
    assert read_tokenizer_config("here", find)["model_max_length"] == 512
    write(tokenizer_config={"max_len": 512, "model_max_length": 128})
    assert read_tokenizer_config("here", find)["model_max_length"] == 128


@pytest.mark.parametrize("name", ["tokenizer_config", "special_tokens_map", "added_tokens", "tokenizer"])
@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        "\udcff",
        "[" * 100_000,
        '{"a": ' * 100_000,
        '{"a": NaN, "added_tokens": NaN}',
        '{"a": ' + "1" * 5000 + "}",
        '{"a": 1, "new": 2, "a": 3}',
    ],
    ids=range(10),
)
def test_broken_files(find, vocabulary, tmp_path, name, content):
    (tmp_path / f"{name}.json").write_text(content, errors="surrogateescape")
    with pytest.raises(CheckpointError, match=rf"{name}\.json") as error:
        read(find, vocabulary)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("name", ["tokenizer_config", "special_tokens_map", "added_tokens", "tokenizer"])
def test_files_beyond_any_size(find, vocabulary, tmp_path, name):
    with (tmp_path / f"{name}.json").open("wb") as file:
        file.truncate(2**27 + 1)  # a hole: it takes no space
    with pytest.raises(CheckpointError, match=rf"{name}\.json has more than \d+ bytes"):
        read(find, vocabulary)


def test_more_values_than_any_file_of_settings_has(find, tmp_path):
    (tmp_path / "tokenizer_config.json").write_text('{"a": [' + "[]," * files.MOST_VALUES + "[]]}")
    with pytest.raises(CheckpointError, match="more than 1048576 values"):
        read_tokenizer_config("here", find)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 490) | st.floats() | st.sampled_from(["", "<s>", "<mask>", "e", "new"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["content", "special", "482", "483", "6", "e", "new"]), inner, max_size=3)
    ),
    max_leaves=5,
)
names = st.sampled_from(
    [
        "added_tokens_decoder",
        "additional_special_tokens",
        "extra_special_tokens",
        "mask_token",
        "image_token",
        "sp_model_kwargs",
        "add_prefix_space",
        "model_max_length",
        "new",
        "e",
    ]
)
objects = st.dictionaries(names, values, max_size=3)


@given(config=objects, special_tokens_map=objects, added_tokens=st.dictionaries(names, values, max_size=2))
def test_whatever_the_files_say_they_are_refused_or_sound(
    tmp_path_factory, vocabulary, config, special_tokens_map, added_tokens
):
    directory = tmp_path_factory.mktemp("any")
    for name, content in (
        ("tokenizer_config", config),
        ("special_tokens_map", special_tokens_map),
        ("added_tokens", added_tokens),
    ):
        (directory / f"{name}.json").write_text(json.dumps(content))

    def find(filename: str) -> Path | None:
        return directory / filename if (directory / filename).is_file() else None

    try:
        tokens = read(find, vocabulary)
    except CheckpointError:
        return
    assert {i: tokens[i].content for i in USUAL} == {i: token.content for i, token in USUAL.items()}
    assert [i for i in tokens if i > 481] == list(range(482, 482 + sum(i > 481 for i in tokens)))
    assert all(vocabulary.token(i) == token.content for i, token in tokens.items() if i < 482)
