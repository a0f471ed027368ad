"""Tokenizers on the project's small vocabulary, and on XLM-R's own where the shared data is present."""

import pytest

from xlmr_np.tokenizer import XLMRobertaTokenizer

from .reference import reference_tokenizer


@pytest.fixture(scope="session")
def small(small_vocabulary) -> XLMRobertaTokenizer:
    return XLMRobertaTokenizer(small_vocabulary)


@pytest.fixture(scope="session")
def small_reference(small_vocabulary):
    return reference_tokenizer(small_vocabulary)


@pytest.fixture(scope="session")
def real(real_vocabulary) -> XLMRobertaTokenizer:
    return XLMRobertaTokenizer(real_vocabulary)


@pytest.fixture(scope="session")
def real_reference(real_vocabulary):
    return reference_tokenizer(real_vocabulary)
