"""What comparisons with whole generations of the reference need."""

from collections.abc import Iterator

import pytest
import transformers

from tests.decoding import quick


@pytest.fixture
def quick_steps() -> Iterator[None]:
    """Quick steps, of which the reference says nothing."""
    transformers.logging.set_verbosity_error()
    with quick.quick_steps():
        yield
    transformers.logging.set_verbosity_warning()
