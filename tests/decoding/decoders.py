"""Decoders with random weights, and batches for them."""

from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np

import xlmr_np
from tests.reference_models import TINY
from xlmr_np import XLMRobertaConfig, trees

MODEL, CAUSAL = "XLMRobertaModel", "XLMRobertaForCausalLM"
WIDTH, VOCABULARY = TINY["hidden_size"], TINY["vocab_size"]


@cache
def decoder(
    class_name: str = CAUSAL, has_source: bool = False, num_threads: int = 1, dtype: str = "float64", **changes: Any
) -> Any:
    """The same for every call; biases and norms are random too."""
    config = XLMRobertaConfig(**{**TINY, **changes}, is_decoder=True, add_cross_attention=has_source)
    generator = np.random.default_rng(0)
    model = getattr(xlmr_np, class_name)(config, generator=generator, dtype=dtype, num_threads=num_threads)
    model.params = trees.map_leaves(
        lambda leaf: (leaf + 0.1 * generator.normal(size=leaf.shape)).astype(leaf.dtype), model.params
    )
    return model


def random_source(sentences: int, seed: int = 0, length: int = 5) -> dict[str, np.ndarray]:
    """States of different lengths for every sentence, of some none; what stands at padding must not matter."""
    random = np.random.default_rng(seed)
    states = random.normal(size=(sentences, length, WIDTH))
    is_real = np.arange(length) < random.integers(0, length + 1, (sentences, 1))
    states[~is_real] = 1e3
    return {"encoder_hidden_states": states, "encoder_attention_mask": is_real}


def result(output: Any) -> np.ndarray:
    """Logits, or the last hidden states."""
    return output.logits if "logits" in output else output.last_hidden_state


def in_steps(
    model: Any, ids: np.ndarray, is_real: np.ndarray, lengths: Iterable[int], past_key_values: Any = None, **others: Any
) -> Any:
    """The outputs of forward passes over so many tokens each, on one cache; of all B x T tokens of it and after it."""
    seen = 0 if past_key_values is None else past_key_values.get_seq_length()
    name = "inputs_embeds" if ids.ndim == 3 else "input_ids"
    for length in lengths:
        stop = seen + length
        tokens = {name: ids[:, seen:stop], "attention_mask": is_real[:, :stop]}
        output = model(**tokens, past_key_values=past_key_values, use_cache=True, **others)
        past_key_values, seen = output.past_key_values, stop
        yield output
