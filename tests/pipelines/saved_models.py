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
    return save_model(directory, "XLMRobertaForMaskedLM", vocabulary, dtype, **changes)


def save_text_generation_model(
    directory: Path, vocabulary: Path, dtype: torch.dtype = torch.float32, **changes: Any
) -> transformers.PreTrainedModel:
    """The same for a causal language model."""
    return save_model(directory, "XLMRobertaForCausalLM", vocabulary, dtype, is_decoder=True, **changes)


def save_model(
    directory: Path, model_class: str, vocabulary: Path, dtype: torch.dtype = torch.float32, **changes: Any
) -> transformers.PreTrainedModel:
    """The same for transformers' class of that name."""
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
