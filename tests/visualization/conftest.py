"""A small model, and one browser for all tests."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipelines.saved_models import save_fill_mask_model
from tests.visualization.browser import Browser, why_not

REQUIRED = "XLMR_NP_REQUIRE_BROWSER"


@pytest.fixture(scope="session")
def attention_model(tmp_path_factory: pytest.TempPathFactory, small_vocabulary: Path) -> str:
    directory = tmp_path_factory.mktemp("attention") / "small"
    save_fill_mask_model(directory, small_vocabulary)
    return str(directory)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium, without which its tests are skipped, unless the environment variable says that they must run."""
    reason = why_not()
    if reason is not None:
        if os.environ.get(REQUIRED) == "1":
            pytest.fail(f"{REQUIRED} is set, but there is {reason}")
        pytest.skip(reason)
    with Browser() as browser:
        yield browser
