import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.make_small_vocabulary import SENTENCES


def test_a_sentence(small):
    ids = small.encode("the garden <mask> the")
    assert small.decode(ids) == "<s> the garden<mask> the</s>"
    assert small.decode(ids, skip_special_tokens=True) == "the garden the"


@given(st.lists(st.sampled_from(" ".join(SENTENCES).split()), min_size=1).map(" ".join))
def test_decoding_reverses_encoding_of_normalised_text(small, text):
    normalised = small.decode(small.encode(text), skip_special_tokens=True)
    assert small.decode(small.encode(normalised), skip_special_tokens=True) == normalised


def test_only_the_first_space_of_the_first_piece_is_dropped(small):
    space, the = small.convert_tokens_to_ids(["▁", "▁the"])
    assert small.decode([space, space, the]) == "  the"
    assert small.decode([the, the]) == "the the"
    assert small.decode([]) == ""


def test_one_id_in_every_form(small):
    the = small.convert_tokens_to_ids("▁the")
    for ids in (the, np.int64(the), np.array(the), np.array([the]), [the], (the,), [np.int32(the)]):
        assert small.decode(ids) == "the"


def test_the_model_pages_example(small):
    """Logits, the position of the mask, the best id there as an array of one, and its text."""
    ids = small("the <mask>.", return_tensors="np").input_ids
    logits = np.zeros((*ids.shape, len(small)))
    logits[..., small.convert_tokens_to_ids("▁the")] = 1
    positions = np.where(ids == small.mask_token_id)[1]
    assert small.decode(logits[0, positions].argmax(axis=-1)) == "the"


def test_batches(small):
    texts = ["the garden", "", "the"]
    batch = small(texts, padding=True, return_tensors="np")
    for rows in (batch.input_ids, batch.input_ids.tolist(), list(batch.input_ids)):
        assert small.batch_decode(rows, skip_special_tokens=True) == texts
    assert small.batch_decode([]) == []


def test_convert_ids_to_tokens(small):
    ids = small.encode("the")
    assert small.convert_ids_to_tokens(ids) == ["<s>", "▁the", "</s>"]
    assert small.convert_ids_to_tokens(np.array(ids)) == ["<s>", "▁the", "</s>"]
    assert small.convert_ids_to_tokens(ids, skip_special_tokens=True) == ["▁the"]
    assert small.convert_ids_to_tokens(ids[1]) == small.convert_ids_to_tokens(np.int64(ids[1])) == "▁the"


@pytest.mark.parametrize("token_id", [482, 10**12, 10**30, -1])
def test_ids_outside_the_vocabulary(small, token_id):
    for call in (small.decode, small.convert_ids_to_tokens):
        for ids in (token_id, [0, token_id]):
            with pytest.raises(
                ValueError, match=rf"token id.{token_id} is (not in the vocabulary.*0 to 481|too small)"
            ):
                call(ids)


@pytest.mark.parametrize(
    "ids", [None, "the", 1.0, [1.5], [None], ["the"], [True], True, np.array([0.5]), np.array([True])]
)
def test_what_is_no_id(small, ids):
    for call in (small.decode, small.convert_ids_to_tokens):
        with pytest.raises(TypeError, match=r"token id must be a whole number|Token ids are a whole number"):
            call(ids)


@pytest.mark.parametrize("rows", [[[4, 5]], np.array([[4, 5]]), [np.array([4, 5])]])
def test_rows(small, rows):
    assert small.decode(rows) == small.batch_decode(rows) == [small.decode([4, 5])]
