"""What `explain` says of a text, against what the tokenizer does with it."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.make_small_vocabulary import SENTENCES
from xlmr_np.tokenizer import XLMRobertaTokenizer
from xlmr_np.tokenizer.added_tokens import Found

texts = st.lists(
    st.one_of(
        st.text(max_size=4), st.sampled_from([*SENTENCES, "<mask>", " ", "ﬁ", "½", "e\u0302\u0301", "ｶﾞ", "\x01", "▁"])
    ),
    max_size=5,
).map("".join)


@pytest.fixture(scope="module", params=["sentencepiece", "huggingface"])
def tokenizer(request, small_vocabulary):
    return XLMRobertaTokenizer(small_vocabulary, normalization=request.param)


@given(text=texts)
def test_the_best_way_is_what_the_tokenizer_takes(tokenizer, text: str):
    ids = []
    for part in tokenizer.explain(text):
        if isinstance(part, Found):
            ids.append(part.token_id)
        else:
            ids += [candidate.token_id for cut in part.cuts for candidate in cut.best]
    assert ids == tokenizer.encode(text, add_special_tokens=False)


@given(text=texts)
def test_parts_cover_the_text_and_ways_cover_their_words(tokenizer, text: str):
    parts = tokenizer.explain(text)
    assert all(before.end <= after.start for before, after in itertools.pairwise(parts))
    for part in parts:
        if isinstance(part, Found):
            assert text[part.start : part.end].strip() == "<mask>"
            continue
        for cut in part.cuts:
            candidates = {candidate[:3] for candidate in cut.candidates}
            for way in filter(None, (cut.best, cut.second)):
                assert "".join(candidate.text for candidate in way) == cut.text
                known = [candidate for candidate in way if candidate.token_id != tokenizer.unk_token_id]
                assert {candidate[:3] for candidate in known} <= candidates
            if cut.second is not None:
                best, second = (sum(candidate.score for candidate in way) for way in (cut.best, cut.second))
                assert best >= second or math.isclose(best, second, rel_tol=1e-5)  # float32 sums decide


def test_changes(small_vocabulary):
    (part,) = XLMRobertaTokenizer(small_vocabulary).explain("the ﬁ e\u0301  ½\x01 the")
    assert part.changes == [("ﬁ", "fi"), ("e\u0301", "é"), ("½\x01", "1⁄2")]
    (part,) = XLMRobertaTokenizer(small_vocabulary).explain("the garden")
    assert part.changes == []
    (part,) = XLMRobertaTokenizer(small_vocabulary, normalization="huggingface").explain("e\u0302\u0301")
    assert part.changes == [("e\u0302\u0301", "ê")]


def test_what_is_no_text(small):
    with pytest.raises(TypeError, match="text must be a str"):
        small.explain(["the"])
