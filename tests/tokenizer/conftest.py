"""Tokenizers on the project's small vocabulary, and on XLM-R's own where the shared data is present."""

import pytest

from xlmr_np.tokenizer import XLMRobertaTokenizer

from .reference import reference_tokenizer


@pytest.fixture(scope="session")
def small(small_vocabulary) -> XLMRobertaTokenizer:
    return XLMRobertaTokenizer(small_vocabulary)


@pytest.fixture(scope="session")
def references() -> list:
    """The reference tokenizers that tests share."""
    return []


@pytest.fixture(autouse=True)
def references_without_settings(references):
    """A call leaves its truncation and padding in a reference, which saves them."""
    yield
    for reference in references:
        reference.backend_tokenizer.no_truncation()
        reference.backend_tokenizer.no_padding()


@pytest.fixture(scope="session")
def small_reference(small_vocabulary, references):
    references.append(reference_tokenizer(small_vocabulary))
    return references[-1]


@pytest.fixture(scope="session")
def real(real_vocabulary) -> XLMRobertaTokenizer:
    return XLMRobertaTokenizer(real_vocabulary)


@pytest.fixture(scope="session")
def real_reference(real_vocabulary, references):
    references.append(reference_tokenizer(real_vocabulary))
    return references[-1]
