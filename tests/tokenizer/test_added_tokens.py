"""Tokens that are added: how they are found in a text, under every flag, and what they are called."""

import copy
import functools
import itertools
import re
import unicodedata

import pytest
import transformers
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from xlmr_np.tokenizer import AddedToken, XLMRobertaTokenizer

from .comparison import EVERYTHING, all_of, any_texts, words

FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")

# Words, words within words, overlapping ones, punctuation, pieces of the vocabulary, and what normalisation changes.
contents = st.sampled_from(
    ["cat", "at", "catalogue", "logue", "ta", "a", "e", "a b", "the", "▁the", "▁", "▁gar", "den", "[X]", "[X", "X]",
     "<ent>", "<", "!", "...", "?!", "C++", "1", "_", "é", "e\u0301", "ﬁ", "ＡＢ", "AB", "½", "ª", "在", "天气", "가",
     "👩", "\u0301", "x\u0301", "the garden", " cat", "cat ", "\tcat", "\u3000", "İ", "ß", "नमस्ते"]
)  # fmt: skip
added_tokens = st.builds(
    lambda content, flags: {"content": content, **flags},
    contents,
    st.fixed_dictionaries({}, optional=dict.fromkeys(FLAGS, st.booleans())),
)


@st.composite
def texts_with(draw, tokens: list[dict]) -> str:
    """A text in which some of the tokens may stand, alone or within something else.

    Without characters that Python's Unicode does not have: whether they belong to words, as single_word asks, is known
    to `regex` here and not yet to the reference.
    """
    own = st.sampled_from([token["content"] for token in tokens])
    around = st.sampled_from(
        ["", " ", "  ", "\t", "\u3000", "\u0085", "s", "é", "_", "-", ".", "1", "在", "\u0301", "\u200d"]
    )
    parts = st.one_of(own, own, around, around, words, contents, st.just("<mask>"), any_texts)
    text = "".join(draw(st.lists(parts, max_size=10)))
    return "".join(character for character in text if unicodedata.category(character) != "Cn")


@pytest.fixture(scope="module")
def huggingface(small_vocabulary) -> XLMRobertaTokenizer:
    return XLMRobertaTokenizer(small_vocabulary, normalization="huggingface")


def check_equal(huggingface, small_reference, calls: list[list[dict]], data: st.DataObject) -> None:
    """Adds tokens, in one or more calls, and compares all that follows from them."""
    ours, theirs = copy.deepcopy(huggingface), copy.deepcopy(small_reference)
    every = [token for tokens in calls for token in tokens]
    written = {token["content"] for token in every}
    normalized = {small_reference.backend_tokenizer.normalizer.normalize_str(content) for content in written}
    assume(len(normalized) == len(written))  # the reference finds any one of two that are normalised alike
    for tokens in calls:
        added = [ours.add_tokens([AddedToken(**token) for token in tokens])]
        added.append(theirs.add_tokens([transformers.AddedToken(**token) for token in tokens]))
        assert added[0] == added[1], tokens
    assert len(ours) == len(theirs)
    assert ours.get_vocab() == theirs.get_vocab()
    assert ours.get_added_vocab() == theirs.get_added_vocab()
    texts = data.draw(st.lists(texts_with(every), min_size=1, max_size=8))
    found = all_of(ours(texts, **EVERYTHING))
    try:
        expected = all_of(theirs(texts, **EVERYTHING))
    except BaseException as error:
        if "bad split" not in str(error):
            raise
        return  # it panics where one token takes all of another, which is white space
    assert found == expected
    # The reference decodes into what is normalised, and not into what was added; and once special is special for ever.
    is_special = {(token["content"], token.get("special", False)) for token in every}
    if normalized == written and len(is_special) == len(written):
        for ids in found["input_ids"]:
            for skip in (False, True):
                assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)


any_calls = st.lists(st.lists(added_tokens, min_size=1, max_size=3), min_size=1, max_size=2)


@settings(max_examples=250)
@given(any_calls, st.data())
def test_equal_to_the_reference(huggingface, small_reference, calls, data):
    check_equal(huggingface, small_reference, calls, data)


@pytest.mark.exhaustive
@settings(max_examples=10_000, suppress_health_check=list(HealthCheck))
@given(any_calls, st.data())
def test_many_sets_of_tokens(huggingface, small_reference, calls, data):
    check_equal(huggingface, small_reference, calls, data)


@settings(max_examples=200)
@given(st.lists(contents, min_size=1, max_size=3, unique=True), st.data())
def test_the_default_mode_finds_them_in_the_text_as_it_is(small, contents, data):
    tokenizer = copy.deepcopy(small)
    tokenizer.add_tokens(contents)
    text = data.draw(texts_with([{"content": content} for content in contents]))
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = set(tokenizer.convert_tokens_to_ids([*contents, "<mask>"]))
    spans = [span for token, span in zip(found["input_ids"], found["offset_mapping"], strict=True) if token in ids]
    longest_first = sorted([*contents, "<mask>"], key=len, reverse=True)
    occurrences = [match.span() for match in re.finditer("|".join(map(re.escape, longest_first)), text)]
    assert set(occurrences) <= set(spans)  # pieces that are in the vocabulary anyway are found elsewhere too
    parts = [text[end:start] for (_, end), (start, _) in itertools.pairwise([(0, 0), *occurrences, (len(text), 0)])]
    between = sum(len(small(part, add_special_tokens=False)["input_ids"]) for part in parts)
    assert len(found["input_ids"]) == len(occurrences) + between


def test_special_tokens_by_their_names(small_vocabulary, small_reference):
    ours, theirs = XLMRobertaTokenizer(small_vocabulary), copy.deepcopy(small_reference)
    new = {"additional_special_tokens": ["<ent>", "</ent>"], "mask_token": "<mask>"}
    assert ours.add_special_tokens(new) == theirs.add_special_tokens(new) == 2
    assert ours.add_special_tokens(new) == theirs.add_special_tokens(new) == 0
    assert len(ours) == len(theirs) == 484
    assert ours.all_special_tokens == theirs.all_special_tokens
    assert ours.all_special_ids == theirs.all_special_ids == [0, 2, 3, 1, 481, 482, 483]
    assert ours.special_tokens_map["additional_special_tokens"] == ours.additional_special_tokens == ["<ent>", "</ent>"]
    ids = ours.encode("the <ent>garden</ent>")
    assert ids == theirs.encode("the <ent>garden</ent>")
    assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True) == "the garden"
    assert ours.get_special_tokens_mask(ids, already_has_special_tokens=True) == [1, 0, 1, 0, 0, 1, 1]


def test_a_token_of_the_vocabulary_keeps_its_id(small_vocabulary):
    tokenizer = XLMRobertaTokenizer(small_vocabulary)
    assert tokenizer.add_tokens(["den", "den"]) == 1
    assert tokenizer.add_tokens("den") == 0
    assert len(tokenizer) == 482
    assert tokenizer.tokenize("xdenx") == ["▁", "x", "den", "▁", "x"]
    assert tokenizer.convert_tokens_to_ids("den") == 136


@pytest.mark.parametrize("tokens", [None, 5, [5], [None], [b"x"], [("a", "b")], ["x", None]])
def test_what_is_no_token(small, tokens):
    tokenizer = copy.deepcopy(small)
    with pytest.raises(TypeError):
        tokenizer.add_tokens(tokens)
    assert len(tokenizer) == 482


@pytest.mark.parametrize(
    "tokens", [[""], ["x", ""], ["\ud800"], ["<s>"], ["<mask>"], [AddedToken("<mask>", lstrip=True)]]
)
def test_tokens_that_cannot_be(small, tokens):
    tokenizer = copy.deepcopy(small)
    with pytest.raises(ValueError, match=r"empty|surrogate|special token"):
        tokenizer.add_tokens(tokens)
    assert len(tokenizer) == 482


@pytest.mark.parametrize(
    "named", [{"bos_token": "<b>"}, {"sep_token": "</sep>"}, {"foo_token": "<x>"}, {"mask_token": "[M]"}]
)
def test_the_models_own_special_tokens_stay(small, named):
    tokenizer = copy.deepcopy(small)
    with pytest.raises(ValueError, match="XLM-R's own special tokens are part of its vocabulary"):
        tokenizer.add_special_tokens(named)
    assert len(tokenizer) == 482


@functools.cache
def of(model_file, normalization: str) -> XLMRobertaTokenizer:
    return XLMRobertaTokenizer(model_file, normalization=normalization)


SPECIALS = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
spelled = st.lists(
    st.one_of(
        st.sampled_from(
            [*SPECIALS, "<mask>", "＜s＞", "＜/ｓ＞", "＜pad＞", "<\u200bs>", "<s", ">", "<", "s", "/", "\x01", " "]
        ),
        words,
    ),
    max_size=8,
).map("".join)


@pytest.mark.parametrize("normalization", ["sentencepiece", "huggingface"])
@settings(max_examples=300)
@given(text=spelled)
def test_no_text_can_spell_a_special_token(real_vocabulary, normalization, text):
    tokenizer = of(real_vocabulary, normalization)
    asked = {"add_special_tokens": False, "allow_special_tokens": False}
    for ids in (
        tokenizer(text, **asked)["input_ids"],
        tokenizer(text, return_offsets_mapping=True, **asked)["input_ids"],
        tokenizer(text.split(), is_split_into_words=True, **asked)["input_ids"],
    ):
        assert not {0, 1, 2} & set(ids)
        assert ids.count(tokenizer.mask_token_id) == text.count("<mask>")


@given(text=spelled)
def test_allowed_special_tokens(small, small_reference, text):
    """In the default mode each literal is its token, and what is between them is text."""
    ids = small.encode(text, add_special_tokens=False, allow_special_tokens=True)
    expected = []
    for part in re.split("(<s>|<pad>|</s>|<unk>|<mask>)", text):
        own = {**SPECIALS, "<mask>": small.mask_token_id}.get(part)
        expected += [own] if own is not None else small.encode(part, add_special_tokens=False)
    assert ids == expected
    huggingface = copy.deepcopy(small)
    huggingface.normalization = "huggingface"
    assert huggingface.encode(text) == small_reference.encode(text)
    huggingface.allow_special_tokens = True
    assert huggingface.encode(text) == small_reference.encode(text)
