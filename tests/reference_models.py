"""Models of transformers with random weights, saved as it saves them, for us to load; and its smoothed loss."""

from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import transformers

TINY: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 34,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
    "initializer_range": 0.3,  # large enough that every part of the model shows in its output
}

TASK_CLASSES = (
    "XLMRobertaForMaskedLM",
    "XLMRobertaForCausalLM",
    "XLMRobertaForSequenceClassification",
    "XLMRobertaForTokenClassification",
    "XLMRobertaForQuestionAnswering",
    "XLMRobertaForMultipleChoice",
)


def save_reference(
    directory: Path, model_class: str, dtype: torch.dtype = torch.float64, **changes: Any
) -> transformers.PreTrainedModel:
    """A random model of transformers' class of that name, saved to the directory, in evaluation mode."""
    torch.manual_seed(0)
    model = getattr(transformers, model_class)(transformers.XLMRobertaConfig(**{**TINY, **changes}))
    for name, parameter in model.named_parameters():  # biases and norms too, which start as zeros and ones
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=1.0 if name.endswith("orm.weight") else 0.0, std=0.2)
    model = model.to(dtype).eval()
    model.save_pretrained(directory)
    return model


def random_ids(lengths: list[int], vocab_size: int = TINY["vocab_size"], side: str = "right") -> np.ndarray:
    """Rows of random tokens of these lengths, padded with 1 to the longest."""
    generator = np.random.default_rng(len(lengths))
    ids = np.ones((len(lengths), max(lengths)), np.int64)
    for row, length in zip(ids, lengths, strict=True):
        row[slice(0, length) if side == "right" else slice(len(row) - length, None)] = generator.integers(
            4, vocab_size, length
        )
    return ids


def label_smoother_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    smoothing: float,
    is_causal: bool = False,
    number_of_items: float | None = None,
) -> torch.Tensor:
    """The loss of transformers' trainer with smoothed labels, without its rounding of one sum to float32."""
    smoother = transformers.trainer_pt_utils.LabelSmoother(smoothing)
    with mock.patch.object(torch, "float32", torch.float64):
        return smoother({"logits": logits}, labels, shift_labels=is_causal, num_items_in_batch=number_of_items)
