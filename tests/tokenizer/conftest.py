"""Tokenizers on the project's small vocabulary, and on XLM-R's own where the shared data is present."""

import functools
import os
from pathlib import Path

import pytest
from xlmr_np.tokenizer import XLMRobertaTokenizer

from .reference import reference_tokenizer

ours = functools.cache(XLMRobertaTokenizer)
reference = functools.cache(reference_tokenizer)


@pytest.fixture(scope="session")
def small_model() -> Path:
    return Path(__file__).parents[1] / "data" / "small.model"


@pytest.fixture(scope="session")
def small(small_model) -> XLMRobertaTokenizer:
    return ours(small_model)


@pytest.fixture(scope="session")
def small_reference(small_model):
    return reference(small_model)


@pytest.fixture
def real_model(shared_data) -> Path:
    return shared_data / "xlmr-tokenizer" / "sentencepiece.bpe.model"


@pytest.fixture
def real(real_model) -> XLMRobertaTokenizer:
    return ours(real_model)


@pytest.fixture
def real_reference(real_model):
    return reference(real_model)


@pytest.fixture(scope="session")
def shared_data() -> Path:  # to be removed when tests/conftest.py has it
    path = Path(os.environ.get("XLMR_NP_TEST_DATA") or Path(__file__).parents[3] / "shared" / "data")
    if not path.is_dir():
        pytest.skip(f"needs the shared data: no directory {path} (set XLMR_NP_TEST_DATA)")
    return path
