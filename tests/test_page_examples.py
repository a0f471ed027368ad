"""The examples of the Hugging Face page of XLM-RoBERTa, for the classes that exist, changed only in the import."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.reference_models import save_reference
from xlmr_np import AutoModelForMaskedLM, AutoTokenizer, XLMRobertaForMaskedLM, pipeline


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, small_vocabulary: Path) -> Path:
    """Stands for "FacebookAI/xlm-roberta-base"."""
    directory = tmp_path_factory.mktemp("checkpoint")
    save_reference(directory, "XLMRobertaForMaskedLM", vocab_size=482)
    shutil.copy(small_vocabulary, directory / "sentencepiece.bpe.model")
    return directory


def test_pipeline(checkpoint: Path) -> None:
    fill_mask = pipeline(task="fill-mask", model=checkpoint, dtype="float16", device=-1)
    # Example in French
    answer = fill_mask("Bonjour, je suis un modèle <mask>.")
    assert len(answer) == 5
    assert set(answer[0]) == {"score", "token", "token_str", "sequence"}
    assert fill_mask.model.dtype == np.float16


def test_auto_model(checkpoint: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForMaskedLM.from_pretrained(
        checkpoint, dtype="float16", device_map="auto", attn_implementation="sdpa"
    )
    # Prepare input
    inputs = tokenizer("Bonjour, je suis un modèle <mask>.", return_tensors="np").to(model.device)
    outputs = model(**inputs)
    predictions = outputs.logits
    masked_index = np.where(inputs["input_ids"] == tokenizer.mask_token_id)[1]
    predicted_token_id = predictions[0, masked_index].argmax(axis=-1)
    predicted_token = tokenizer.decode(predicted_token_id)
    fill_mask = pipeline("fill-mask", model=model, tokenizer=tokenizer)
    assert predicted_token == fill_mask("Bonjour, je suis un modèle <mask>.")[0]["token_str"]


def test_masked_lm_loss(checkpoint: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = XLMRobertaForMaskedLM.from_pretrained(checkpoint)
    inputs = tokenizer("The capital of France is <mask>.", return_tensors="np")
    logits = model(**inputs).logits
    # retrieve index of <mask>
    mask_token_index = (inputs.input_ids == tokenizer.mask_token_id)[0].nonzero()[0]
    predicted_token_id = logits[0, mask_token_index].argmax(axis=-1)
    assert tokenizer.decode(predicted_token_id) == tokenizer.decode([int(predicted_token_id[0])])
    labels = inputs["input_ids"].copy()
    labels[:, mask_token_index] = tokenizer.convert_tokens_to_ids("▁a")
    # mask labels of non-<mask> tokens
    labels = np.where(inputs.input_ids == tokenizer.mask_token_id, labels, -100)
    outputs = model(**inputs, labels=labels)
    shifted = logits[0, mask_token_index[0]] - logits[0, mask_token_index[0]].max()
    expected = np.log(np.exp(shifted).sum()) - shifted[labels[0, mask_token_index[0]]]
    np.testing.assert_allclose(outputs.loss, expected, rtol=1e-12)
