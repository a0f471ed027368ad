"""Our pipeline and transformers' own, on the same weights and the same vocabulary."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import transformers

from tests.pipelines.saved_models import save_fill_mask_model
from tests.tokenizer.reference import reference_tokenizer
from xlmr_np import pipeline
from xlmr_np.pipelines.fill_mask import FillMaskPipeline


class Pair(NamedTuple):
    """One task on one checkpoint, and how close its scores must come, relatively."""

    ours: FillMaskPipeline
    theirs: transformers.Pipeline
    directory: Path
    tolerance: float


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small gain nothing from torch's threads, which spin while they wait for each other."""
    number = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(number)


def make_pair(directory: Path, vocabulary: Path, dtype: torch.dtype, tolerance: float) -> Pair:
    model = save_fill_mask_model(directory, vocabulary, dtype)
    theirs = transformers.pipeline("fill-mask", model=model, tokenizer=reference_tokenizer(vocabulary), device="cpu")
    return Pair(pipeline("fill-mask", directory), theirs, directory, tolerance)


@pytest.fixture(scope="session")
def exact(tmp_path_factory: pytest.TempPathFactory, small_vocabulary: Path) -> Pair:
    """The small vocabulary in float64, in which answers that are nearly equal keep their order."""
    return make_pair(tmp_path_factory.mktemp("exact"), small_vocabulary, torch.float64, 1e-10)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory, small_vocabulary: Path) -> Pair:
    """The small vocabulary in float32."""
    return make_pair(tmp_path_factory.mktemp("small"), small_vocabulary, torch.float32, 1e-4)  # logits of order 10


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory, real_vocabulary: Path) -> Pair:
    """XLM-R's own vocabulary, in float32."""
    return make_pair(tmp_path_factory.mktemp("real"), real_vocabulary, torch.float32, 1e-4)  # logits of order 10


@pytest.fixture(params=["exact", "small", "real"])
def pair(request: pytest.FixtureRequest) -> Pair:
    """Each of the three in turn."""
    return request.getfixturevalue(request.param)
