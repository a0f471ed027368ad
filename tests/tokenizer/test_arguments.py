"""Arguments of the wrong kind: an error that says so, and never another answer."""

import numpy as np
import pytest

from xlmr_np.tokenizer import AddedToken, XLMRobertaTokenizer


@pytest.fixture
def own(small_vocabulary) -> XLMRobertaTokenizer:
    return XLMRobertaTokenizer(small_vocabulary)


@pytest.mark.parametrize("flag", ["add_special_tokens", "return_overflowing_tokens", "return_length", "verbose"])
@pytest.mark.parametrize("value", ["no", 1, None, [True]])
def test_flags(small, flag, value):
    with pytest.raises(TypeError, match=f"{flag} must be True or False, not"):
        small("the", **{flag: value})


def test_flags_of_tokens():
    with pytest.raises(TypeError, match="lstrip of an added token must be True or False, not str 'yes'"):
        AddedToken("x", lstrip="yes")


@pytest.mark.parametrize(
    ("tokens", "error", "message"),
    [
        ({"additional_special_tokens": "<e3>"}, TypeError, "takes a list of tokens, not the str '<e3>'"),
        (["<x>"], TypeError, "add_special_tokens takes a dict"),
        ({"additional_special_tokens": 5}, TypeError, "must be a token or a list of tokens, not 5"),
        ({"sep_token": "<sep>"}, ValueError, "'sep_token' cannot become '<sep>'"),
        ({"new_token": "<new>"}, ValueError, "'new_token' cannot become '<new>'"),
        ({"additional_special_tokens": [""]}, ValueError, "is empty"),
    ],
)
def test_special_tokens_that_are_none(own, tokens, error, message):
    with pytest.raises(error, match=message):
        own.add_special_tokens(tokens)
    assert len(own) == own.vocab_size


def test_special_tokens_in_the_forms_of_the_reference(own):
    assert own.add_special_tokens({"extra_special_tokens": {"image_token": "<image>"}}) == 1
    assert own.add_special_tokens({"mask_token": AddedToken("<mask>", lstrip=True)}) == 1
    assert own.additional_special_tokens == own.extra_special_tokens == ["<image>"]
    assert own("the <mask>", return_offsets_mapping=True).offset_mapping[2] == (3, 10)


def test_control_tokens_are_not_looked_for_in_normalised_text(small_vocabulary):
    tokenizer = XLMRobertaTokenizer(small_vocabulary, normalization="huggingface")
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken("<Ａ>", lstrip=True)]})
    tokenizer.add_tokens([AddedToken("<Ｂ>")], special_tokens=True)
    assert [token.normalized for token in tokenizer.added_tokens_decoder.values()] == [False] * 7
    ids = tokenizer.encode("the <A> <B> <Ａ> <Ｂ>")
    assert [token_id for token_id in ids if token_id >= tokenizer.vocab_size] == [482, 483]


def test_tokenize_takes_one_text_and_gives_one_row(small):
    with pytest.raises(TypeError, match="tokenize takes one text, not list"):
        small.tokenize(["the", "garden"])
    with pytest.raises(ValueError, match="tokenize gives one row"):
        small.tokenize("the garden", max_length=2, return_overflowing_tokens=True)
    assert small.tokenize(["the", "garden"], is_split_into_words=True) == ["▁the", "▁gar", "den"]


@pytest.mark.parametrize(
    ("texts", "settings", "message"),
    [
        (["the"], {"text_target": ["a", "b"]}, "text_target does not have a text for each one"),
        (["the"], {"text_target": "a"}, "text_target does not have a text for each one"),
        ("the", {"text_pair_target": "a"}, "text_pair_target is the second text of pairs"),
        ("the", {"text_target": "a", "return_overflowing_tokens": True}, "What overflows has no target"),
    ],
)
def test_targets_that_fit_no_text(small, texts, settings, message):
    with pytest.raises(ValueError, match=message):
        small(texts, **settings)


def test_fractions_stay_fractions(small):
    rows = [{"input_ids": [0, 10], "labels": 0.7}, {"input_ids": [0], "labels": -1.5}]
    padded = small.pad(rows, return_tensors="np")
    assert padded.labels.tolist() == [0.7, -1.5]
    assert padded.input_ids.dtype == np.int64
    with pytest.raises(ValueError, match="name does not make an array of numbers"):
        small.pad({"input_ids": [[0]], "name": ["abc"]}, return_tensors="np")


@pytest.mark.parametrize("rows", [[1, 2], None, "abc", 5, {"input_ids": 5}, {"input_ids": ["a"]}, {"input_ids": [0.5]}])
def test_what_cannot_be_padded(small, rows):
    with pytest.raises(TypeError):
        small.pad(rows)


def test_one_row_with_one_label(small):
    assert small.pad({"input_ids": [0, 10], "labels": 1}, padding="max_length", max_length=3) == {
        "input_ids": [0, 10, 1],
        "attention_mask": [1, 1, 0],
        "labels": 1,
    }


@pytest.mark.parametrize(
    ("texts", "settings"),
    [
        (["a"] * 10_000, {"padding": "max_length", "max_length": 2**20}),
        (["a "] * 10_000, {"padding": True, "pad_to_multiple_of": 2**20}),
        ("the " * 200_000, {"max_length": 4000, "truncation": True, "stride": 3996, "return_overflowing_tokens": True}),
    ],
)
def test_rows_that_would_take_up_all_memory(small, texts, settings):
    with pytest.raises(ValueError, match="The rows would have"):
        small(texts, **settings)


@pytest.mark.parametrize("save", ["save_pretrained", "save_vocabulary"])
def test_saving_nowhere(small, save, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="the empty string"):
        getattr(small, save)("")
    assert list(tmp_path.iterdir()) == []


def test_arguments_of_the_reference_that_change_nothing(small, tmp_path):
    small.save_pretrained(tmp_path)
    tokenizer = XLMRobertaTokenizer.from_pretrained(
        tmp_path,
        use_fast=True,
        add_prefix_space=True,
        do_lower_case=False,
        clean_up_tokenization_spaces=False,
        bos_token="<s>",
        additional_special_tokens=["<e>"],
    )
    assert tokenizer.additional_special_tokens == ["<e>"]
    assert tokenizer.encode_plus("the") == tokenizer.batch_encode_plus("the") == small("the")
    for name, value in (("add_prefix_space", False), ("sep_token", "<sep>"), ("do_lower_case", True), ("foo", 1)):
        with pytest.raises(TypeError, match=f"from_pretrained has no argument {name}="):
            XLMRobertaTokenizer.from_pretrained(tmp_path, **{name: value})


def test_a_directory_is_no_vocabulary_file(tmp_path):
    with pytest.raises(IsADirectoryError, match="load it with XLMRobertaTokenizer"):
        XLMRobertaTokenizer(tmp_path)
