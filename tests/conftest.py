"""Run-time shape checks for the textbook, and what all tests share."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

# Every annotated array of these modules is checked on every call of the suite. This must come before anything imports
# them.
CHECKED = ["layers", "heads", "losses", "ops", "encoder", "inputs"]
# Not `decoding.generation_config`, whose class checks itself.
CHECKED += ["decoding.beam_search", "decoding.cache", "decoding.continuation", "decoding.processors"]
CHECKED += ["decoding.sampling", "decoding.stopping", "decoding.token_by_token", "decoding.warpers"]
install_import_hook([f"xlmr_np.{name}" for name in CHECKED], "beartype.beartype")

checked_by_jaxtyping = jaxtyping.jaxtyped


def jaxtyped(**settings: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """What the hook puts before every function, without those inside of functions: they are made anew at every call.

    To decorate them took nine tenths of the time of a small model.
    """
    check = checked_by_jaxtyping(**settings)
    return lambda function: function if "<locals>" in function.__qualname__ else check(function)


jaxtyping.jaxtyped = jaxtyped

settings.register_profile("suite", deadline=None, derandomize=True)
settings.load_profile("suite")

SMALL_VOCABULARY = Path(__file__).parent / "data" / "small.model"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of public texts and of XLM-R's real vocabulary, which is not part of the project."""
    given = os.environ.get("XLMR_NP_TEST_DATA")
    folder = Path(given) if given else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder}; set XLMR_NP_TEST_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def real_vocabulary(shared_data: Path) -> Path:
    """XLM-R's sentencepiece.bpe.model."""
    return shared_data / "xlmr-tokenizer" / "sentencepiece.bpe.model"


@pytest.fixture(scope="session")
def small_vocabulary() -> Path:
    """The project's own vocabulary of a few hundred pieces."""
    return SMALL_VOCABULARY


@pytest.fixture(scope="session")
def base_checkpoint(tmp_path_factory: pytest.TempPathFactory, real_vocabulary: Path) -> Iterator[Path]:
    """A checkpoint of XLM-R base's shape (1.1 GB), random weights saved by transformers, and the real vocabulary.

    Tests that use it belong to the xdist group "base shape", so that it is made once.
    """
    import torch
    import transformers

    from xlmr_np.config import XLM_ROBERTA_BASE

    directory = tmp_path_factory.mktemp("base")
    XLM_ROBERTA_BASE.save_pretrained(directory)
    torch.manual_seed(0)
    config = transformers.XLMRobertaConfig.from_pretrained(directory)
    transformers.XLMRobertaForMaskedLM(config).save_pretrained(directory)
    shutil.copyfile(real_vocabulary, directory / "sentencepiece.bpe.model")
    yield directory
    shutil.rmtree(directory)  # pytest keeps what the last three runs wrote
