"""Equal to transformers' tokenizer in what is neither reading texts (test_readings.py) nor rows (test_grid.py)."""

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xlmr_np.tokenizer import XLMRobertaTokenizer

from .comparison import any_texts


@pytest.fixture(scope="module")
def huggingface(small_vocabulary) -> XLMRobertaTokenizer:
    return XLMRobertaTokenizer(small_vocabulary, normalization="huggingface")


every_id = st.integers(0, 481)
rows_of_ids = st.lists(every_id, max_size=12)


def test_the_vocabularies_are_equal(real, real_reference, small, small_reference):
    for ours, theirs in ((real, real_reference), (small, small_reference)):
        assert ours.get_vocab() == theirs.get_vocab()
        assert len(ours) == len(theirs)
        assert ours.vocab_size == theirs.vocab_size
        assert ours.all_special_tokens == theirs.all_special_tokens
        assert ours.all_special_ids == theirs.all_special_ids
        assert ours.get_added_vocab() == theirs.get_added_vocab()
        for name in ("bos", "eos", "sep", "cls", "unk", "pad", "mask"):
            assert getattr(ours, f"{name}_token") == getattr(theirs, f"{name}_token")
            assert getattr(ours, f"{name}_token_id") == getattr(theirs, f"{name}_token_id")


def test_numbers_of_special_tokens(small, small_reference):
    for pair in (False, True):
        assert small.num_special_tokens_to_add(pair) == small_reference.num_special_tokens_to_add(pair)


@given(rows_of_ids, st.booleans(), st.sampled_from([None, False, True]))
def test_decoding(small, small_reference, ids, skip_special_tokens, clean_up):
    assert len(small) == 482
    settings = {"skip_special_tokens": skip_special_tokens, "clean_up_tokenization_spaces": clean_up}
    expected = small_reference.decode(ids, **settings)
    assert small.decode(ids, **settings) == expected
    assert small.decode(np.array(ids, dtype=np.int64), **settings) == expected
    assert small.convert_ids_to_tokens(ids, skip_special_tokens) == small_reference.convert_ids_to_tokens(
        ids, skip_special_tokens
    )


@given(
    st.lists(st.sampled_from(["▁the", ".", " .", "▁", "▁?", "▁n't", "▁,", "'", "▁'", "s", "m", "▁I", "▁'ve", "a b"]))
)
def test_cleaning_up_of_spaces(small, small_reference, tokens):
    spelled = small.convert_tokens_to_string(tokens)
    assert spelled == small_reference.convert_tokens_to_string(tokens)
    ids = small.convert_tokens_to_ids(tokens)
    assert ids == small_reference.convert_tokens_to_ids(tokens)
    expected = small_reference.decode(ids, clean_up_tokenization_spaces=True)
    assert small.decode(ids, clean_up_tokenization_spaces=True) == expected


@given(st.lists(rows_of_ids, min_size=1, max_size=4), st.booleans())
def test_decoding_of_rows(small, small_reference, rows, skip_special_tokens):
    if any(rows[0]):
        expected = small_reference.batch_decode(rows, skip_special_tokens=skip_special_tokens)
        assert small.batch_decode(rows, skip_special_tokens) == expected
        assert small.decode(rows, skip_special_tokens) == expected


@given(any_texts)
def test_decoding_of_texts(huggingface, small_reference, text):
    assert huggingface.decode(huggingface.encode(text)) == small_reference.decode(small_reference.encode(text))


@given(rows_of_ids)
def test_special_tokens_of_a_row(small, small_reference, ids):
    expected = small_reference.get_special_tokens_mask(ids, already_has_special_tokens=True)
    assert small.get_special_tokens_mask(ids, already_has_special_tokens=True) == expected


@pytest.mark.parametrize("pair", [None, [7, 481]])
def test_special_tokens_around_texts(small, pair):
    """The reference's documentation promises this form, and the reference raises."""
    mask = small.get_special_tokens_mask([5, 3, 481], pair)
    assert mask == ([1, 0, 0, 0, 1] if pair is None else [1, 0, 0, 0, 1, 1, 0, 0, 1])
    assert len(mask) == len(small.build_inputs_with_special_tokens([5, 3, 481], pair))
    with pytest.raises(ValueError, match="leave token_ids_1 out"):
        small.get_special_tokens_mask([0, 5, 2], [5], already_has_special_tokens=True)


@pytest.mark.parametrize("literal", ["<s>", "</s>", "<pad>", "<unk>"])
def test_literal_specials_are_text_by_default_unlike_in_the_reference(small, small_reference, literal):
    token_id = small.convert_tokens_to_ids(literal)
    text = f"the {literal} garden"
    assert token_id in small_reference.encode(text, add_special_tokens=False)
    assert small.encode(text, add_special_tokens=False) == [
        *small.encode("the", add_special_tokens=False),
        *small.encode(f"{literal} garden", add_special_tokens=False),
    ]
    assert small.encode(text, allow_special_tokens=True) == small_reference.encode(text)


# --- pad ---


@st.composite
def encoded(draw) -> list[dict[str, list[int]]]:
    """Rows as a data set holds them, with some of the entries that there can be, all in every row."""
    names = draw(st.sets(st.sampled_from(["attention_mask", "token_type_ids", "special_tokens_mask"])))
    rows = []
    for ids in draw(st.lists(rows_of_ids.filter(bool), min_size=1, max_size=4)):
        flags = st.lists(st.integers(0, 1), min_size=len(ids), max_size=len(ids))
        rows.append({"input_ids": ids} | {name: draw(flags) for name in sorted(names)})
    return rows


pad_settings = st.fixed_dictionaries(
    {},
    optional={
        "padding": st.sampled_from([True, "longest", False, "do_not_pad"]),
        "pad_to_multiple_of": st.sampled_from([None, 1, 4, 7]),
        "padding_side": st.sampled_from([None, "left", "right"]),
        "return_attention_mask": st.sampled_from([None, True, False]),
    },
) | st.fixed_dictionaries(
    {"padding": st.just("max_length"), "max_length": st.integers(0, 20)},
    optional={"pad_to_multiple_of": st.sampled_from([None, 4]), "padding_side": st.sampled_from(["left", "right"])},
)


@given(encoded(), pad_settings)
def test_pad(small, small_reference, rows, settings):
    batch = {name: [row[name] for row in rows] for name in rows[0]}
    for features in (rows, batch, rows[0]):
        expected = small_reference.pad(copy.deepcopy(features), **settings)  # which changes what it is given
        assert small.pad(features, **settings) == dict(expected)
    arrays = [{name: np.array(value) for name, value in row.items()} for row in rows]
    assert small.pad(arrays, **settings) == small.pad(rows, **settings)
