"""What a call takes and returns."""

import warnings

import numpy as np
import pytest

import xlmr_np.arrays
from xlmr_np.tokenizer import BatchEncoding, XLMRobertaTokenizer, XLMRobertaTokenizerFast

THE, GARDEN = "the", "the garden"


@pytest.fixture(scope="module")
def plain(small):
    """The ids of a text without special tokens."""
    return lambda text: small.encode(text, add_special_tokens=False)


def test_a_text(small, plain):
    assert small(GARDEN) == {
        "input_ids": [0, *plain(GARDEN), 2],
        "attention_mask": [1] * (len(plain(GARDEN)) + 2),
    }
    assert isinstance(small(GARDEN), BatchEncoding)


def test_a_pair(small, plain):
    assert small(GARDEN, THE)["input_ids"] == [0, *plain(GARDEN), 2, 2, *plain(THE), 2]
    assert small(GARDEN, THE, add_special_tokens=False)["input_ids"] == plain(GARDEN) + plain(THE)


def test_empty_texts(small, plain):
    assert small("")["input_ids"] == [0, 2]
    assert small("", add_special_tokens=False)["input_ids"] == []
    assert small(THE, "")["input_ids"] == [0, *plain(THE), 2, 2, 2]  # the reference takes "" for no pair
    assert small([THE], [""])["input_ids"] == [[0, *plain(THE), 2, 2, 2]]


@pytest.mark.parametrize("kind", [list, tuple])
def test_a_batch(small, kind):
    texts = [THE, GARDEN, ""]
    assert small(kind(texts))["input_ids"] == [small(text)["input_ids"] for text in texts]


@pytest.mark.parametrize("kind", [list, tuple])
def test_batches_of_pairs(small, small_reference, kind):
    first, second = [THE, GARDEN, ""], [GARDEN, "", THE]
    rows = [small(a, b)["input_ids"] for a, b in zip(first, second, strict=True)]
    assert small(kind(first), kind(second))["input_ids"] == rows
    assert small([kind(pair) for pair in zip(first, second, strict=True)])["input_ids"] == rows
    assert small_reference(first, second)["input_ids"] == rows


@pytest.mark.parametrize("settings", [{}, {"padding": True}, {"padding": True, "pad_to_multiple_of": 8}])
@pytest.mark.parametrize("texts", [([],), ([], []), ((),)])
def test_an_empty_batch_gives_an_empty_result(small, settings, texts):
    assert small(*texts, **settings) == {"input_ids": [], "attention_mask": []}
    arrays = small(*texts, return_tensors="np", **settings)
    assert arrays.input_ids.shape == arrays.attention_mask.shape == (0, 0)
    assert arrays.input_ids.dtype == np.int64


def test_arrays(small):
    for name, value in small([THE, GARDEN], padding=True, return_tensors="np", return_token_type_ids=True).items():
        expected = small([THE, GARDEN], padding=True, return_token_type_ids=True)[name]
        assert isinstance(value, np.ndarray)
        assert value.dtype == np.int64
        assert value.tolist() == expected


def test_the_array_of_one_text_is_a_batch(small):
    assert small(GARDEN, return_tensors="np").input_ids.tolist() == [small(GARDEN)["input_ids"]]
    assert small(GARDEN, THE, return_tensors="np").attention_mask.shape == (1, len(small(GARDEN, THE).input_ids))
    assert small("", return_tensors="np", add_special_tokens=False).input_ids.shape == (1, 0)


def test_what_is_returned(small):
    assert list(small(THE)) == small.model_input_names == ["input_ids", "attention_mask"]
    assert small(THE, return_attention_mask=False) == {"input_ids": small(THE)["input_ids"]}
    both = small([(THE, GARDEN)], return_token_type_ids=True)
    assert list(both) == ["input_ids", "token_type_ids", "attention_mask"]
    assert both["token_type_ids"] == [[0] * len(both["input_ids"][0])]  # XLM-R has one type, for pairs too


def test_ragged_arrays_are_refused(small):
    with pytest.raises(
        ValueError, match=r"Rows of 3 to \d+ tokens in input_ids do not make one array: pass padding=True"
    ):
        small([THE, GARDEN], return_tensors="np")
    with pytest.raises(ValueError, match="truncation=True"):
        small([THE, GARDEN], padding="max_length", max_length=3, return_tensors="np")


@pytest.mark.parametrize("kind", ["pt", "tf", "jax", "mlx", "numpy", 1, True])
def test_other_tensors_are_refused(small, kind):
    with pytest.raises(ValueError, match=r"write return_tensors='np', or 'cp' for the GPU"):
        small(THE, return_tensors=kind)


def test_arrays_on_a_gpu(small, monkeypatch):
    """With "cp" every array goes to the device that "cuda" resolves to."""
    monkeypatch.setattr(xlmr_np.arrays, "resolve_device", {"cuda": "cuda:0"}.__getitem__)
    monkeypatch.setattr(xlmr_np.arrays, "to_device", lambda array, device: (device, array.tolist()))
    ids = small(GARDEN)["input_ids"]
    assert small(GARDEN, return_tensors="cp") == {
        "input_ids": ("cuda:0", [ids]),
        "attention_mask": ("cuda:0", [[1] * len(ids)]),
    }


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ((None,), "text must be a str, .* not None"),
        ((5,), "text must be a str, .* not int 5"),
        ((b"the",), "text must be a str"),
        ((iter(["the"]),), "text must be a str, .* not list_iterator"),
        (([THE, None],), r"text\[1\] must be a str, not None"),
        (([THE, b"the"],), r"text\[1\] must be a str, not bytes b'the': decode the bytes first"),
        (([THE, (THE, THE)],), r"text\[1\] must be a str, not tuple"),
        (([(THE, THE), THE],), r"text\[1\] must be a pair too, not str 'the'"),
        (([(THE, None)],), r"text\[0\]\[1\] must be a str, not None"),
        ((THE, [THE]), "text is one str, so text_pair must be one str too, not list"),
        ((THE, 5), "text is one str, so text_pair must be one str too, not int 5"),
        (([THE], THE), "text is a batch, so text_pair must be a list of str, not str 'the'"),
        (([THE], [None]), r"text_pair\[0\] must be a str, not None"),
        (([(THE, THE)], [THE]), r"text\[0\] must be a str, not tuple"),
    ],
)
def test_what_is_no_text_is_a_type_error(small, texts, message):
    with pytest.raises(TypeError, match=message):
        small(*texts)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (([THE, THE], [THE]), "text has 2 texts and text_pair 1"),
        (([THE], []), "text has 1 texts and text_pair 0"),
        (([(THE, THE, THE)],), r"text\[0\] holds 3 texts, where a pair has two"),
        (([(THE, THE), (THE,)],), r"text\[1\] holds 1 texts"),
        (("a\ud800b",), r"text has a lone surrogate at character 1 \('\\ud800'\)"),
        (([THE, "\udfff"],), r"text\[1\] has a lone surrogate at character 0"),
        ((THE, "\udfff"), "text_pair has a lone surrogate"),
        (([(THE, "ab\udc00")],), r"text\[0\]\[1\] has a lone surrogate at character 2"),
    ],
)
def test_texts_that_cannot_be_encoded_are_a_value_error(small, texts, message):
    with pytest.raises(ValueError, match=message):
        small(*texts)


def test_subclasses_of_str_are_text(small):
    assert small(np.str_(GARDEN)) == small(GARDEN)
    assert small([np.str_(GARDEN)]) == small([GARDEN])


@pytest.mark.parametrize("name", ["truncate", "return_offset_mapping", "paddding"])
def test_unknown_arguments_are_refused(small, name):
    with pytest.raises(TypeError, match=name):
        small(THE, **{name: True})
    with pytest.raises(TypeError, match=name):
        small.encode(THE, **{name: True})


def test_encode(small):
    assert small.encode(GARDEN, THE) == small(GARDEN, THE)["input_ids"]
    assert small.encode(GARDEN, max_length=3) == small(GARDEN, max_length=3)["input_ids"]
    assert small.encode(GARDEN, return_tensors="np").tolist() == [small(GARDEN)["input_ids"]]
    with pytest.raises(TypeError, match="encode takes one text, not list: for a batch, call the tokenizer"):
        small.encode([THE, GARDEN])


def test_tokenize(small):
    assert small.tokenize("the garden") == ["▁the", "▁gar", "den"]
    assert small.tokenize("the", "<mask>", add_special_tokens=True) == ["<s>", "▁the", "</s>", "</s>", "<mask>", "</s>"]


def test_building_inputs(small):
    assert small.build_inputs_with_special_tokens([5, 6]) == [0, 5, 6, 2]
    assert small.build_inputs_with_special_tokens([5, 6], [7]) == [0, 5, 6, 2, 2, 7, 2]
    assert small.build_inputs_with_special_tokens([], []) == [0, 2, 2, 2]
    assert small.num_special_tokens_to_add() == 2
    assert small.num_special_tokens_to_add(pair=True) == 4


def test_names_and_settings(small, small_vocabulary):
    assert XLMRobertaTokenizerFast is XLMRobertaTokenizer
    assert small.is_fast
    tokenizer = XLMRobertaTokenizer(small_vocabulary, model_max_length=512, padding_side="left")
    assert repr(tokenizer) == (
        "XLMRobertaTokenizer(vocab_size=482, model_max_length=512, padding_side='left', truncation_side='right', "
        "normalization='sentencepiece', allow_special_tokens=None)"
    )


@pytest.mark.parametrize("unlimited", [None, 1e30, int(1e30), float("inf")])
def test_a_length_without_limit(small_vocabulary, unlimited):
    assert XLMRobertaTokenizer(small_vocabulary, model_max_length=unlimited).model_max_length is None


@pytest.mark.parametrize("value", [0, -1, 512.5, "512", True, float("nan"), [512]])
def test_a_length_that_is_none(small_vocabulary, small, value):
    with pytest.raises((TypeError, ValueError), match="model_max_length"):
        XLMRobertaTokenizer(small_vocabulary, model_max_length=value)
    with pytest.raises((TypeError, ValueError), match="model_max_length"):
        small.model_max_length = value
    assert small.model_max_length is None


def test_targets_become_labels(small):
    ids = small(GARDEN)["input_ids"]
    assert small(THE, text_target=GARDEN) == dict(small(THE)) | {"labels": ids}
    assert small([THE, ""], text_target=[GARDEN, THE])["labels"] == small([GARDEN, THE])["input_ids"]
    assert small(THE, text_target=GARDEN, text_pair_target=THE)["labels"] == small(GARDEN, THE)["input_ids"]
    assert small(text_target=GARDEN) == small(GARDEN)
    arrays = small([THE, THE], text_target=[GARDEN, THE], padding=True, return_tensors="np")
    assert arrays["labels"].tolist() == small([GARDEN, THE], padding=True)["input_ids"]
    assert arrays["input_ids"].shape == (2, 3)


def test_words(small, small_reference):
    words = [["the", "garden"], ["", "the", " "], []]
    batch = small(words, is_split_into_words=True, return_offsets_mapping=True)
    assert [batch.word_ids(row) for row in range(3)] == [[None, 0, 1, 1, None], [None, 1, None], [None, None]]
    assert batch["offset_mapping"][0] == [(0, 0), (0, 3), (0, 3), (3, 6), (0, 0)]
    assert small(words[0], is_split_into_words=True)["input_ids"] == batch["input_ids"][0]
    assert batch["input_ids"] == small_reference(words, is_split_into_words=True)["input_ids"]
    assert small([], [], is_split_into_words=True)["input_ids"] == [0, 2, 2, 2]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (("the",), "text must be a list of words, .* not str 'the'"),
        ((["the", None],), r"text\[1\] must be a str, not None"),
        (([["the"], "the"],), r"text\[1\] must be a list of words, not str 'the'"),
        (([["the"], [b"the"]],), r"text\[1\]\[0\] must be a str, not bytes b'the'"),
        ((["the"], "the"), "text is one list of words, so text_pair must be one list of words too, not str 'the'"),
    ],
)
def test_what_are_no_words(small, texts, message):
    with pytest.raises(TypeError, match=message):
        small(*texts, is_split_into_words=True)


def test_every_entry_as_an_array(small):
    asked = dict.fromkeys(
        ("return_token_type_ids", "return_special_tokens_mask", "return_offsets_mapping", "return_length"), True
    )
    asked |= {"padding": True, "truncation": True, "max_length": 4, "return_overflowing_tokens": True}
    lists, arrays = small([GARDEN, THE, ""], **asked), small([GARDEN, THE, ""], return_tensors="np", **asked)
    assert list(arrays) == list(lists)
    shapes = {"offset_mapping": (4, 4, 2), "length": (4,), "overflow_to_sample_mapping": (4,)}
    for name, value in arrays.items():
        assert value.dtype == np.int64
        assert value.shape == shapes.get(name, (4, 4))
        assert value.tolist() == np.array(lists[name]).tolist()
    assert arrays["overflow_to_sample_mapping"].tolist() == [0, 0, 1, 2]
    assert small("", add_special_tokens=False, return_offsets_mapping=True, return_tensors="np")[
        "offset_mapping"
    ].shape == (1, 0, 2)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"stride": -1}, ValueError, "stride=-1 is too small"),
        ({"stride": 1.5}, TypeError, "stride must be a whole number"),
        ({"stride": True}, TypeError, "stride must be a whole number"),
        ({"stride": 3, "max_length": 5}, ValueError, "stride=3 is too large for max_length=5"),
        ({"stride": 10**30, "max_length": 5}, ValueError, "stride=10+ is too large for max_length=5"),
        ({"max_length": -(10**30)}, ValueError, "max_length=-10+ is too small"),
        ({"max_length": 10**30, "padding": "max_length"}, ValueError, "Rows would be padded to 10+ tokens"),
        ({"max_length": 5, "padding": True, "truncation": True, "pad_to_multiple_of": 4}, ValueError, "no multiple of"),
        ({"truncation": "longest"}, ValueError, "truncation='longest' is not"),
        ({"padding": "longest_first"}, ValueError, "padding='longest_first' is not"),
        ({"padding_side": "middle"}, ValueError, "padding_side='middle' is not a side"),
        ({"allow_special_tokens": 1}, TypeError, "allow_special_tokens must be True, False or None, not 1"),
        ({"allow_special_tokens": "yes"}, TypeError, "allow_special_tokens must be True, False or None"),
    ],
)
@pytest.mark.parametrize("normalization", ["sentencepiece", "huggingface"])
@pytest.mark.parametrize("text", ["", GARDEN, [], [GARDEN]])
def test_settings_out_of_range(small_vocabulary, normalization, text, settings, error, message):
    """Whatever the texts, so that a wrong setting does not wait for a long one."""
    tokenizer = XLMRobertaTokenizer(small_vocabulary, normalization=normalization)
    if normalization == "huggingface" and settings.get("stride") == 3:
        settings = settings | {"stride": 4}  # transformers' first that is too large for short texts too
        message = message.replace("3", "4", 1)
    with pytest.raises(error, match=message):
        tokenizer(text, **settings)


@pytest.mark.parametrize("normalization", ["sentencepiece", "huggingface"])
@pytest.mark.parametrize("bad", [None, b"the", 5, ["the"], "a\ud800", "\udfff"])
def test_one_bad_text_in_a_batch(small_vocabulary, normalization, bad):
    tokenizer = XLMRobertaTokenizer(small_vocabulary, normalization=normalization)
    with pytest.raises((TypeError, ValueError), match=r"text\[2\]"):
        tokenizer([THE, GARDEN, bad, THE], padding=True)


@pytest.mark.parametrize("normalization", ["nfkc", "", None, 1, ["sentencepiece"]])
def test_there_is_no_such_normalization(small_vocabulary, normalization):
    with pytest.raises(ValueError, match="is not one of sentencepiece, huggingface"):
        XLMRobertaTokenizer(small_vocabulary, normalization=normalization)


def test_the_settings_may_be_assigned(small_vocabulary):
    tokenizer = XLMRobertaTokenizer(small_vocabulary)
    text = "Tie\u0302\u0301ng <s>"
    rows = []
    for normalization in ("sentencepiece", "huggingface", "sentencepiece"):
        tokenizer.normalization = normalization
        rows.append(tokenizer.encode(text))
    assert (
        rows[0] == rows[2] != rows[1] == XLMRobertaTokenizer(small_vocabulary, normalization="huggingface").encode(text)
    )
    tokenizer.allow_special_tokens = True
    assert tokenizer.encode(text) == tokenizer.encode(text, allow_special_tokens=True) != rows[0]
    with pytest.raises(AttributeError, match=r"mask_token cannot become '\[MASK\]'"):
        tokenizer.mask_token = "[MASK]"
    with pytest.raises(AttributeError):
        tokenizer.paddingside = "left"


def test_rows_longer_than_the_model_takes_are_warned_of(small_vocabulary):
    tokenizer = XLMRobertaTokenizer(small_vocabulary, model_max_length=4)
    with pytest.warns(UserWarning, match="A row of 5 tokens is longer than the 4 that the model takes") as caught:
        tokenizer([THE, GARDEN])
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenizer([THE, GARDEN], truncation=True)
        tokenizer([THE, GARDEN], verbose=False)
        tokenizer(THE)
