"""One tokenizer in many threads, in copies and in other processes."""

import copy
import itertools
import pickle
from concurrent.futures import ThreadPoolExecutor

from tests.data.make_small_vocabulary import SENTENCES

SETTINGS = [
    {"padding": padding, "truncation": truncation, "max_length": max_length, "padding_side": side}
    for padding, truncation, max_length, side in itertools.product(
        [True, False, "max_length"], ["longest_first", False], [5, 40], ["left", "right"]
    )
    if not (padding is True and truncation is False)  # warns that max_length has no effect
]


def test_threads_with_different_settings(small):
    calls = [(SENTENCES[start:], settings) for start in range(0, 40, 10) for settings in SETTINGS] * 5
    expected = [small(texts, **settings) for texts, settings in calls]
    with ThreadPoolExecutor(16) as threads:
        results = list(threads.map(lambda call: small(call[0], **call[1]), calls))
    assert results == expected


def test_pickle(small):
    other = pickle.loads(pickle.dumps(small))
    assert other(SENTENCES) == small(SENTENCES)
    assert repr(other) == repr(small)
    assert other.get_vocab() == small.get_vocab()


def test_a_copy_has_its_own_settings_and_the_same_vocabulary(small):
    for other in (copy.deepcopy(small), copy.copy(small)):
        other.padding_side = "left"
        other.model_max_length = 5
        assert small.padding_side == "right"
        assert small.model_max_length is None
        assert other(SENTENCES) == small(SENTENCES)
        assert other._vocabulary is small._vocabulary
