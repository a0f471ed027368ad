"""One tokenizer in many threads, in copies and in other processes."""

import copy
import itertools
import pickle
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.data.make_small_vocabulary import SENTENCES
from xlmr_np.tokenizer import AddedToken, XLMRobertaTokenizer

from .comparison import EVERYTHING, LITERALS, all_of

SETTINGS = [
    {"padding": padding, "truncation": truncation, "max_length": max_length, "stride": stride, "padding_side": side,
     "return_overflowing_tokens": stride > 0, "allow_special_tokens": allow}
    for padding, truncation, (max_length, stride), side, allow in itertools.product(
        [True, False, "max_length"], ["longest_first", False], [(5, 0), (40, 7)], ["left", "right"], [None, True, False]
    )
    if not (padding is True and truncation is False)  # warns that max_length has no effect
]  # fmt: skip


def new(model_file, normalization: str) -> XLMRobertaTokenizer:
    """A tokenizer with nothing in its caches."""
    tokenizer = XLMRobertaTokenizer(model_file, normalization=normalization)
    tokenizer.add_tokens([AddedToken("garden", lstrip=True), AddedToken("<ent>", special=True)])
    return tokenizer


@pytest.mark.parametrize("normalization", ["sentencepiece", "huggingface"])
def test_threads_with_different_settings(small_vocabulary, normalization):
    chosen = random.Random(0)
    texts = [*SENTENCES, *LITERALS, "e\u0302\u0301", "the <ent> garden <s>"]
    calls = [(chosen.sample(texts, 10), settings) for settings in SETTINGS * 3]
    alone, shared = new(small_vocabulary, normalization), new(small_vocabulary, normalization)
    expected = [all_of(alone(texts, **EVERYTHING, **settings)) for texts, settings in calls]
    with ThreadPoolExecutor(16) as threads:
        results = threads.map(lambda call: all_of(shared(call[0], **EVERYTHING, **call[1])), calls)
        assert list(results) == expected


@pytest.mark.parametrize("normalization", ["sentencepiece", "huggingface"])
def test_pickle(small_vocabulary, normalization):
    tokenizer = new(small_vocabulary, normalization)
    tokenizer.allow_special_tokens = True
    texts = [*SENTENCES, *LITERALS, "the <ent> garden"]
    for other in (pickle.loads(pickle.dumps(tokenizer)), copy.deepcopy(tokenizer)):
        assert all_of(other(texts, **EVERYTHING)) == all_of(tokenizer(texts, **EVERYTHING))
        assert repr(other) == repr(tokenizer)
        assert other.get_vocab() == tokenizer.get_vocab()
        assert other.added_tokens_decoder == tokenizer.added_tokens_decoder


def test_copies_have_their_own_added_tokens(small):
    other = copy.deepcopy(small)
    other.add_tokens("garden")
    assert other.tokenize("the garden") == ["▁the", "garden"]
    assert small.tokenize("the garden") == ["▁the", "▁gar", "den"]
    assert len(small) == len(other) - 1


@pytest.mark.filterwarnings("ignore:A row of .* tokens is longer")
def test_a_copy_has_its_own_settings_and_the_same_vocabulary(small):
    for other in (copy.deepcopy(small), copy.copy(small)):
        other.padding_side = "left"
        other.model_max_length = 5
        assert small.padding_side == "right"
        assert small.model_max_length is None
        assert other(SENTENCES) == small(SENTENCES)
        assert other._vocabulary is small._vocabulary
