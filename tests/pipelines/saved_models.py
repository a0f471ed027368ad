"""Complete checkpoints of language models, weights and vocabulary, with random weights of transformers."""

import shutil
from pathlib import Path
from typing import Any

import torch
import transformers

from tests.reference_models import save_reference
from xlmr_np import XLMRobertaTokenizer

LONGEST = 64  # tokens that these models take


def save_fill_mask_model(
    directory: Path, vocabulary: Path, dtype: torch.dtype = torch.float32, **changes: Any
) -> transformers.PreTrainedModel:
    """A random masked language model for that vocabulary, saved by transformers, and the vocabulary beside it."""
    return _save(directory, "XLMRobertaForMaskedLM", vocabulary, dtype, **changes)


def save_text_generation_model(
    directory: Path, vocabulary: Path, dtype: torch.dtype = torch.float32, **changes: Any
) -> transformers.PreTrainedModel:
    """The same for a causal language model."""
    return _save(directory, "XLMRobertaForCausalLM", vocabulary, dtype, is_decoder=True, **changes)


def _save(
    directory: Path, model_class: str, vocabulary: Path, dtype: torch.dtype, **changes: Any
) -> transformers.PreTrainedModel:
    settings = {
        "vocab_size": len(XLMRobertaTokenizer(vocabulary)),
        "hidden_size": 32,
        "num_attention_heads": 4,
        "max_position_embeddings": LONGEST + 2,
        **changes,
    }
    model = save_reference(directory, model_class, dtype, **settings)
    shutil.copy(vocabulary, directory / "sentencepiece.bpe.model")
    return model
