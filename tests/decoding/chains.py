"""The reference's processors and warpers for one config, and random batches for both."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import transformers
from transformers import GenerationMixin
from transformers.generation import LogitsProcessorList


def reference_chain(settings: dict[str, Any], prompt_length: int, eos_ids: tuple[int, ...], **arguments: Any) -> Any:
    """What the reference's `generate()` would apply."""
    defaults = transformers.GenerationConfig._get_default_generation_params()
    config = transformers.GenerationConfig(**defaults | settings)
    config._eos_token_tensor = torch.tensor(eos_ids) if eos_ids else None
    model = SimpleNamespace(
        config=SimpleNamespace(is_encoder_decoder=False),
        _merge_criteria_processor_list=lambda default, custom: LogitsProcessorList([*default, *custom]),
    )
    return GenerationMixin._get_logits_processor(model, config, prompt_length, device="cpu", **arguments)


def random_batch(seed: int, dtype: Any = np.float64) -> tuple[np.ndarray, np.ndarray]:
    """Tokens so far [B, T] and scores [B, V], without ties, neither of which can be written to."""
    random = np.random.default_rng(seed)
    rows, length, size = (int(random.integers(1, most)) for most in (4, 12, 60))
    ids = random.integers(0, size, (rows, length))
    scores = (random.standard_normal((rows, size)) * random.uniform(0.1, 5.0)).astype(dtype)
    ids.flags.writeable = scores.flags.writeable = False
    return ids, scores


def apply_reference(processor: Any, ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
    return processor(torch.tensor(ids), torch.tensor(scores)).numpy()


def assert_same_scores(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Equal to a few roundings of values of order ten, and -inf at the same places."""
    assert ours.dtype == theirs.dtype
    np.testing.assert_array_equal(np.isinf(ours), np.isinf(theirs))
    tolerance = 1e-12 if ours.dtype == np.float64 else 5e-6  # float32 has 1e-6 between neighbours of order ten
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)  # by type, see above
