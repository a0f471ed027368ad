import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xlmr_np.tokenizer import XLMRobertaTokenizer
from xlmr_np.tokenizer.padding import pad, padded_length

TEXTS = ["", "the garden", "A small library with good tests."]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("padding", [True, False, "longest", "max_length", "do_not_pad"])
@pytest.mark.filterwarnings("ignore:max_length=.* has no effect", "ignore:`max_length` is ignored")
def test_equal_to_the_reference(small, small_reference, side, padding):
    batches = [TEXTS, TEXTS[:1], list(zip(TEXTS, reversed(TEXTS), strict=True))]
    for batch, max_length, multiple, truncation in itertools.product(
        batches, [None, 4, 8, 30], [None, 1, 4, 7], [False, True]
    ):
        if max_length is None and (truncation or padding == "max_length"):
            continue  # the reference then does neither, silently
        settings = {
            "padding": padding,
            "max_length": max_length,
            "pad_to_multiple_of": multiple,
            "padding_side": side,
            "truncation": truncation,
            "return_token_type_ids": True,
        }
        if truncation and padding not in (False, "do_not_pad") and max_length % (multiple or 1):
            with pytest.raises(ValueError, match="no multiple of pad_to_multiple_of"):
                small(batch, **settings)
            with pytest.raises(ValueError, match="is not a multiple of"):
                small_reference(batch, **settings)
        else:
            assert small(batch, **settings) == dict(small_reference(batch, **settings)), settings


@given(
    st.lists(st.lists(st.integers(4, 400), max_size=12), max_size=5),
    st.none() | st.integers(0, 20),
    st.none() | st.integers(1, 9),
    st.sampled_from(["left", "right"]),
)
def test_padding_keeps_the_row_and_reaches_the_length(rows, fixed_length, multiple, side):
    longest = max(map(len, rows), default=0)
    length = padded_length(longest, fixed_length, multiple)
    wanted = longest if fixed_length is None else fixed_length
    assert 0 <= length - wanted < (multiple or 1)
    assert length % (multiple or 1) == 0
    for row in rows:
        padded = pad(row, 1, length, side)
        assert len(padded) == max(length, len(row))
        filling = [1] * (len(padded) - len(row))
        assert padded == (row + filling if side == "right" else filling + row)


@given(st.lists(st.sampled_from([*TEXTS, "the", "在"]), min_size=1, max_size=6), st.sampled_from(["left", "right"]))
def test_the_mask_finds_each_row_as_it_is_alone(small, texts, side):
    batch = small(texts, padding=True, padding_side=side, return_tensors="np")
    for text, ids, mask in zip(texts, batch.input_ids, batch.attention_mask, strict=True):
        assert ids[mask == 1].tolist() == small(text)["input_ids"]
        assert np.all(ids[mask == 0] == small.pad_token_id)


def test_the_tokenizers_own_side(small_vocabulary):
    tokenizer = XLMRobertaTokenizer(small_vocabulary, padding_side="left")
    assert tokenizer(["the", ""], padding=True)["attention_mask"] == [[1, 1, 1], [0, 1, 1]]
    tokenizer.padding_side = "right"
    assert tokenizer(["the", ""], padding=True)["attention_mask"] == [[1, 1, 1], [1, 1, 0]]


def test_the_models_length_is_used_when_none_is_given(small_vocabulary):
    tokenizer = XLMRobertaTokenizer(small_vocabulary, model_max_length=6)
    assert tokenizer("the", padding="max_length")["attention_mask"] == [1, 1, 1, 0, 0, 0]


def test_no_length_is_known(small):
    with pytest.raises(ValueError, match=r"padding='max_length' needs a length.*pass max_length"):
        small("the", padding="max_length")


def test_a_length_without_effect_is_warned_of(small):
    with pytest.warns(UserWarning, match="max_length=4 has no effect with padding=True: add truncation=True") as caught:
        batch = small(TEXTS, padding=True, max_length=4)
    assert caught[0].filename == __file__
    assert batch == small(TEXTS, padding=True)


@pytest.mark.parametrize("padding", ["length", "", None, 1, 0, ["longest"]])
def test_there_is_no_such_strategy(small, padding):
    with pytest.raises(ValueError, match="is not True, False or one of longest, max_length, do_not_pad"):
        small("the", padding=padding)


@pytest.mark.parametrize("side", ["middle", "", 0, ["left"]])
def test_there_is_no_such_side(small, small_vocabulary, side):
    with pytest.raises(ValueError, match=r"padding_side=.* is not a side: write 'left' or 'right'"):
        small("the", padding=True, padding_side=side)
    with pytest.raises(ValueError, match=r"truncation_side=.* is not a side"):
        XLMRobertaTokenizer(small_vocabulary, truncation_side=side)


@pytest.mark.parametrize(
    ("multiple", "error"), [(0, ValueError), (-8, ValueError), (8.0, TypeError), (True, TypeError)]
)
def test_a_multiple_must_be_positive(small, multiple, error):
    with pytest.raises(error, match="pad_to_multiple_of"):
        small("the", padding=True, pad_to_multiple_of=multiple)


@pytest.mark.parametrize("settings", [{"max_length": 10**12, "padding": "max_length"}, {"pad_to_multiple_of": 10**30}])
def test_rows_beyond_any_text_are_refused(small, settings):
    with pytest.raises(ValueError, match=r"Rows would be padded to 10+ tokens"):
        small("the", **({"padding": True} | settings))


def test_labels_are_left_alone(small):
    rows = [{"input_ids": [0, 5, 2], "labels": [7]}, {"input_ids": [0, 2], "labels": [8, 9]}]
    padded = small.pad(rows)
    assert padded == {
        "input_ids": [[0, 5, 2], [0, 2, 1]],
        "labels": [[7], [8, 9]],
        "attention_mask": [[1] * 3, [1, 1, 0]],
    }
    assert rows[1] == {"input_ids": [0, 2], "labels": [8, 9]}
    arrays = small.pad([{"input_ids": [0, 5, 2], "labels": 1}, {"input_ids": [0, 2], "labels": 0}], return_tensors="np")
    assert arrays["labels"].tolist() == [1, 0]
    assert arrays["input_ids"].tolist() == [[0, 5, 2], [0, 2, 1]]


def test_padding_what_a_call_returned(small):
    for texts in (TEXTS, TEXTS[:1], []):
        padded = small(texts, padding=True, return_special_tokens_mask=True)
        assert small.pad(small(texts, return_special_tokens_mask=True)) == padded
        assert (
            small.pad([small(text, return_special_tokens_mask=True) for text in texts]).get("input_ids", [])
            == (padded["input_ids"])
        )


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"labels": [1]}, "pad needs input_ids, and was given labels"),
        ([{"labels": [1]}], "pad needs input_ids, and was given labels"),
        ({}, "pad needs input_ids, and was given nothing"),
        ([{"input_ids": [0]}, {"input_ids": [0], "attention_mask": [1]}], "have different entries"),
        ([{"input_ids": [0, 2], "attention_mask": [1]}], "attention_mask does not have as many elements as input_ids"),
        ({"input_ids": [[0], [2]], "attention_mask": [[1]]}, "attention_mask has not one element for each row"),
    ],
)
def test_what_cannot_be_padded(small, rows, message):
    with pytest.raises(ValueError, match=message):
        small.pad(rows)


def test_settings_of_pad(small):
    row = {"input_ids": [0, 2]}
    for settings, message in (
        ({"padding": "most"}, "padding='most' is not"),
        ({"padding": "max_length"}, "padding='max_length' needs a length"),
        ({"padding": "max_length", "max_length": -1}, "max_length=-1 is too small"),
        ({"padding_side": "up"}, "padding_side='up' is not a side"),
        ({"pad_to_multiple_of": 0}, "pad_to_multiple_of=0 is too small"),
        ({"return_tensors": "pt"}, "return_tensors='pt' is not supported"),
        ({"padding": "max_length", "max_length": 10**12}, "Rows would be padded to 10+ tokens"),
    ):
        with pytest.raises(ValueError, match=message):
            small.pad(row, **settings)
    with pytest.raises(ValueError, match="do not make one array"):
        small.pad([row, {"input_ids": [0]}], padding=False, return_tensors="np")
