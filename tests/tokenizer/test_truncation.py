import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xlmr_np.tokenizer import XLMRobertaTokenizer
from xlmr_np.tokenizer.truncation import Limit, longest_first_lengths, windows

TEXTS = ["", "the", "the garden", "A small library with good tests."]
STRATEGIES = ["longest_first", "only_first", "only_second"]


def ids_or_error(tokenizer, item, **settings):
    """The ids of a text or a pair, or None where truncation is impossible: the reference raises Exception there."""
    try:
        return tokenizer([item], **settings)["input_ids"]
    except Exception as error:
        assert type(error) is ValueError or "Truncation error" in str(error)  # noqa: PT017
        return None


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("add_special_tokens", [True, False])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_equal_to_the_reference(small_vocabulary, small_reference, monkeypatch, side, add_special_tokens, strategy):
    tokenizer = XLMRobertaTokenizer(small_vocabulary, truncation_side=side)
    monkeypatch.setattr(small_reference, "truncation_side", side)
    pairs = list(itertools.product(TEXTS, TEXTS))
    for item in pairs if strategy == "only_second" else [*TEXTS, *pairs]:
        specials = tokenizer.num_special_tokens_to_add(isinstance(item, tuple)) if add_special_tokens else 0
        for room in range(26):
            if room == 0 and strategy != "longest_first":
                continue  # the reference then empties both texts, whichever may be cut
            settings = {
                "truncation": strategy,
                "max_length": specials + room,
                "add_special_tokens": add_special_tokens,
            }
            ours = ids_or_error(tokenizer, item, **settings)
            assert ours == ids_or_error(small_reference, item, **settings), (item, room)
            assert ours is None or len(ours[0]) <= specials + room


@pytest.mark.parametrize("strategy", ["only_first", "only_second"])
def test_a_text_that_may_not_be_cut_is_never_emptied(small, strategy):
    for text in TEXTS[1:]:
        pair = ("", text) if strategy == "only_first" else (text, "")
        assert ids_or_error(small, pair, truncation=strategy, max_length=4) is None
    assert ids_or_error(small, ("", ""), truncation=strategy, max_length=4) == [[0, 2, 2, 2]]


@pytest.mark.parametrize("truncation", [None, True, False, "longest_first", "do_not_truncate"])
@pytest.mark.parametrize("padding", [True, False, "max_length"])
@pytest.mark.filterwarnings("ignore:max_length=5 has no effect", "ignore:`max_length` is ignored")
def test_when_it_is_on_is_as_in_the_reference(small, small_reference, truncation, padding):
    settings = {"max_length": 5, "truncation": truncation, "padding": padding}
    assert small(TEXTS, **settings) == dict(small_reference(TEXTS, **settings))


def limit(room: int, **settings) -> Limit:
    usual = {
        "strategy": "longest_first",
        "stride": 0,
        "side": "right",
        "with_overflow": False,
        "as_in_reference": False,
    }
    return Limit(room=room, **(usual | settings))


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60))
def test_longest_first(first, second, room):
    if first + second <= room:
        assert windows([first, second], limit(room)) == [((0, first), (0, second))]
        return
    kept = longest_first_lengths(first, second, room)
    assert windows([first, second], limit(room)) == [((0, kept[0]), (0, kept[1]))]
    assert sum(kept) == room
    # A text is cut only down to the other's length; what then remains is shared, but for an odd token.
    for length, other, full in [(kept[0], kept[1], first), (kept[1], kept[0], second)]:
        assert 0 <= length <= full
        assert length == full or length >= other - 1


@given(st.integers(0, 60), st.integers(1, 20), st.data(), st.sampled_from(["left", "right"]))
def test_overflow_covers_the_text_once_but_for_the_stride(length, room, data, side):
    stride = data.draw(st.integers(0, room - 1))
    rows = windows([length], limit(room, stride=stride, side=side, with_overflow=True))
    spans = [row[0] for row in rows]
    assert all(end - start <= room for start, end in spans)
    assert all(end - start == min(room, length) for start, end in spans[:-1])
    ordered = spans if side == "right" else spans[::-1]
    assert ordered[0][0] == 0
    assert ordered[-1][1] == length
    for (_, end), (start, _) in itertools.pairwise(ordered):
        assert end - start == stride


@given(st.integers(1, 30), st.integers(1, 30), st.integers(2, 20), st.sampled_from(["left", "right"]))
def test_overflow_of_pairs_is_every_window_with_every_other(first, second, room, side):
    rows = windows([first, second], limit(room, side=side, with_overflow=True))
    firsts = {row[0] for row in rows}
    seconds = {row[1] for row in rows}
    assert len(rows) == len(set(rows)) == len(firsts) * len(seconds)
    assert rows[0] == windows([first, second], limit(room, side=side))[0]


def test_max_length_alone_truncates(small):
    assert len(small("A small library with good tests.", max_length=5)["input_ids"]) == 5


def test_only_the_special_tokens_fit(small):
    assert small("the garden", truncation=True, max_length=2)["input_ids"] == [0, 2]
    assert small("the", "garden", truncation=True, max_length=4)["input_ids"] == [0, 2, 2, 2]


@pytest.mark.parametrize(("texts", "specials"), [(("the garden",), 2), (("the", "garden"), 4), (([], []), 4)])
def test_not_even_the_special_tokens_fit(small, texts, specials):
    for max_length in range(specials):
        with pytest.raises(ValueError, match=f"max_length={max_length} has no room for the {specials} special tokens"):
            small(*texts, truncation=True, max_length=max_length)


def test_without_special_tokens_nothing_may_be_left(small):
    assert small("the garden", truncation=True, max_length=0, add_special_tokens=False)["input_ids"] == []


@pytest.mark.parametrize("strategy", ["only_first", "only_second"])
def test_the_text_to_be_cut_is_too_short(small, strategy):
    texts = ("the", TEXTS[3]) if strategy == "only_first" else (TEXTS[3], "the")
    with pytest.raises(ValueError, match=f"truncation='{strategy}' must drop .* of a text that has 1"):
        small(*texts, truncation=strategy, max_length=7)


def test_only_second_needs_a_second_text(small):
    with pytest.raises(ValueError, match="needs pairs"):
        small("the", truncation="only_second", max_length=7)


def test_the_models_length_is_used_when_none_is_given(small_vocabulary):
    tokenizer = XLMRobertaTokenizer(small_vocabulary, model_max_length=6)
    assert len(tokenizer(TEXTS[3], truncation=True)["input_ids"]) == 6
    assert len(tokenizer(TEXTS[3])["input_ids"]) > 6


def test_no_length_is_known(small):
    assert small.model_max_length is None
    with pytest.raises(ValueError, match=r"truncation=True needs a length.*pass max_length"):
        small("the", truncation=True)


@pytest.mark.parametrize("truncation", ["longest", "", 1, 0, ["longest_first"], b"longest_first"])
def test_there_is_no_such_strategy(small, truncation):
    with pytest.raises(ValueError, match="is not True, False or one of longest_first, only_first, only_second"):
        small("the", truncation=truncation, max_length=5)


@pytest.mark.parametrize(
    ("max_length", "error"), [(-1, ValueError), (2.5, TypeError), ("5", TypeError), (True, TypeError)]
)
def test_max_length_must_be_a_length(small, max_length, error):
    with pytest.raises(error, match="max_length"):
        small("the", max_length=max_length)


def test_an_enormous_max_length_cuts_nothing(small):
    assert small(TEXTS[3], truncation=True, max_length=10**30) == small(TEXTS[3])
