"""The examples of the Hugging Face page of XLM-RoBERTa, for the classes that exist, changed only in the import.

Where they compute with torch, NumPy stands here. Their results are compared with those of transformers running the same
lines on the same checkpoint and ids.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from tests.reference_models import save_reference
from xlmr_np import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoTokenizer,
    XLMRobertaForCausalLM,
    XLMRobertaForMaskedLM,
    XLMRobertaForMultipleChoice,
    XLMRobertaForQuestionAnswering,
    XLMRobertaForSequenceClassification,
    XLMRobertaForTokenClassification,
    pipeline,
)


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


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory, real_vocabulary: Path) -> Callable[..., Path]:
    """Makes narrow checkpoints with the real vocabulary, which stand for "FacebookAI/xlm-roberta-base"."""

    def checkpoint_of(class_name: str, **changes: Any) -> Path:
        directory = tmp_path_factory.mktemp(class_name)
        narrow = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1}
        save_reference(directory, class_name, vocab_size=250002, **narrow, **changes)
        shutil.copyfile(real_vocabulary, directory / "sentencepiece.bpe.model")
        return directory

    return checkpoint_of


def reference_outputs(class_name: str, directory: Path, arrays: dict[str, Any], **settings: Any) -> Any:
    """What transformers' class computes from the same checkpoint and the same arrays."""
    model = getattr(transformers, class_name).from_pretrained(directory, **settings)
    with torch.no_grad():
        return model(**{name: torch.asarray(np.asarray(array)) for name, array in arrays.items()})


def test_causal_lm(checkpoints: Callable[..., Path]) -> None:
    checkpoint = checkpoints("XLMRobertaForMaskedLM")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    config = AutoConfig.from_pretrained(checkpoint)
    config.is_decoder = True
    model = XLMRobertaForCausalLM.from_pretrained(checkpoint, config=config)

    inputs = tokenizer("Hello, my dog is cute", return_tensors="np")
    outputs = model(**inputs)

    prediction_logits = outputs.logits
    theirs = reference_outputs("XLMRobertaForCausalLM", checkpoint, inputs, is_decoder=True)
    assert prediction_logits.shape == (1, 8, 250002)
    np.testing.assert_allclose(prediction_logits, theirs.logits, atol=1e-10)

    # and its loss, which the page leaves out
    outputs = model(**inputs, labels=inputs["input_ids"])
    theirs = reference_outputs(
        "XLMRobertaForCausalLM", checkpoint, {**inputs, "labels": inputs["input_ids"]}, is_decoder=True
    )
    np.testing.assert_allclose(outputs.loss, theirs.loss, rtol=1e-6)  # the reference computes this loss in float32


def test_single_label_classification(checkpoints: Callable[..., Path]) -> None:
    checkpoint = checkpoints("XLMRobertaForSequenceClassification", num_labels=3)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = XLMRobertaForSequenceClassification.from_pretrained(checkpoint)

    inputs = tokenizer("Hello, my dog is cute", return_tensors="np")

    logits = model(**inputs).logits
    predicted_class_id = logits.argmax().item()
    answer = model.config.id2label[predicted_class_id]

    # To train a model on `num_labels` classes, you can pass `num_labels=num_labels` to `.from_pretrained(...)`
    num_labels = len(model.config.id2label)
    model = XLMRobertaForSequenceClassification.from_pretrained(checkpoint, num_labels=num_labels)

    labels = np.array([1])
    loss = model(**inputs, labels=labels).loss

    theirs = reference_outputs("XLMRobertaForSequenceClassification", checkpoint, {**inputs, "labels": labels})
    np.testing.assert_allclose(logits, theirs.logits, atol=1e-10)
    assert answer == f"LABEL_{theirs.logits.argmax().item()}"
    assert num_labels == 3
    np.testing.assert_allclose(loss, theirs.loss, rtol=1e-10)
    assert round(loss.item(), 2) == round(theirs.loss.item(), 2)


def test_multi_label_classification(checkpoints: Callable[..., Path]) -> None:
    checkpoint = checkpoints("XLMRobertaForSequenceClassification", num_labels=4)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = XLMRobertaForSequenceClassification.from_pretrained(checkpoint, problem_type="multi_label_classification")

    inputs = tokenizer("Hello, my dog is cute", return_tensors="np")

    logits = model(**inputs).logits

    predicted_class_ids = np.arange(0, logits.shape[-1])[(1 / (1 + np.exp(-logits))).squeeze(axis=0) > 0.5]

    # To train a model on `num_labels` classes, you can pass `num_labels=num_labels` to `.from_pretrained(...)`
    num_labels = len(model.config.id2label)
    model = XLMRobertaForSequenceClassification.from_pretrained(
        checkpoint, num_labels=num_labels, problem_type="multi_label_classification"
    )

    labels = np.sum(np.eye(num_labels)[predicted_class_ids[None, :].copy()], axis=1)
    loss = model(**inputs, labels=labels).loss

    theirs = reference_outputs(
        "XLMRobertaForSequenceClassification",
        checkpoint,
        {**inputs, "labels": labels},
        problem_type="multi_label_classification",
    )
    np.testing.assert_allclose(logits, theirs.logits, atol=1e-10)
    assert labels.shape == (1, 4)
    np.testing.assert_array_equal(labels[0], theirs.logits[0] > 0)
    np.testing.assert_allclose(loss, theirs.loss, rtol=1e-10)


def test_multiple_choice(checkpoints: Callable[..., Path]) -> None:
    checkpoint = checkpoints("XLMRobertaForMultipleChoice", max_position_embeddings=66)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = XLMRobertaForMultipleChoice.from_pretrained(checkpoint)

    prompt = "In Italy, pizza served in formal settings, such as at a restaurant, is presented unsliced."
    choice0 = "It is eaten with a fork and a knife."
    choice1 = "It is eaten while held in the hand."
    labels = np.array(0)[None]  # choice0 is correct (according to Wikipedia ;)), batch size 1

    encoding = tokenizer([prompt, prompt], [choice0, choice1], return_tensors="np", padding=True)
    outputs = model(**{k: v[None] for k, v in encoding.items()}, labels=labels)  # batch size is 1

    # the linear classifier still needs to be trained
    loss = outputs.loss
    logits = outputs.logits

    arrays = {"labels": labels, **{k: v[None] for k, v in encoding.items()}}
    theirs = reference_outputs("XLMRobertaForMultipleChoice", checkpoint, arrays)
    assert logits.shape == (1, 2)
    np.testing.assert_allclose(logits, theirs.logits, atol=1e-10)
    np.testing.assert_allclose(loss, theirs.loss, rtol=1e-10)


def test_token_classification(checkpoints: Callable[..., Path]) -> None:
    checkpoint = checkpoints("XLMRobertaForTokenClassification", num_labels=5)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = XLMRobertaForTokenClassification.from_pretrained(checkpoint)

    inputs = tokenizer(
        "HuggingFace is a company based in Paris and New York", add_special_tokens=False, return_tensors="np"
    )

    logits = model(**inputs).logits

    predicted_token_class_ids = logits.argmax(-1)

    # Note that tokens are classified rather then input words which means that
    # there might be more predicted token classes than words.
    # Multiple token classes might account for the same word
    predicted_tokens_classes = [model.config.id2label[t.item()] for t in predicted_token_class_ids[0]]

    labels = predicted_token_class_ids
    loss = model(**inputs, labels=labels).loss

    theirs = reference_outputs("XLMRobertaForTokenClassification", checkpoint, {**inputs, "labels": labels})
    np.testing.assert_allclose(logits, theirs.logits, atol=1e-10)
    assert predicted_tokens_classes == [f"LABEL_{each}" for each in theirs.logits[0].argmax(-1).tolist()]
    assert len(predicted_tokens_classes) == len(
        tokenizer.tokenize("HuggingFace is a company based in Paris and New York")
    )
    np.testing.assert_allclose(loss, theirs.loss, rtol=1e-10)


def test_question_answering(checkpoints: Callable[..., Path]) -> None:
    checkpoint = checkpoints("XLMRobertaForQuestionAnswering", intermediate_size=54)  # random weights with an answer
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = XLMRobertaForQuestionAnswering.from_pretrained(checkpoint)

    question, text = "Who was Jim Henson?", "Jim Henson was a nice puppet"

    inputs = tokenizer(question, text, return_tensors="np")
    outputs = model(**inputs)

    answer_start_index = outputs.start_logits.argmax()
    answer_end_index = outputs.end_logits.argmax()

    predict_answer_tokens = inputs.input_ids[0, answer_start_index : answer_end_index + 1]
    answer = tokenizer.decode(predict_answer_tokens, skip_special_tokens=True)

    # target is "nice puppet"
    target_start_index = np.array([14])
    target_end_index = np.array([15])

    outputs = model(**inputs, start_positions=target_start_index, end_positions=target_end_index)
    loss = outputs.loss

    arrays = {**inputs, "start_positions": target_start_index, "end_positions": target_end_index}
    theirs = reference_outputs("XLMRobertaForQuestionAnswering", checkpoint, arrays)
    np.testing.assert_allclose(outputs.start_logits, theirs.start_logits, atol=1e-10)
    np.testing.assert_allclose(outputs.end_logits, theirs.end_logits, atol=1e-10)
    np.testing.assert_allclose(loss, theirs.loss, rtol=1e-10)
    assert round(loss.item(), 2) == round(theirs.loss.item(), 2)
    start, end = theirs.start_logits.argmax().item(), theirs.end_logits.argmax().item()
    assert (
        answer
        == "Jim Henson was a"
        == tokenizer.decode(inputs.input_ids[0].tolist()[start : end + 1], skip_special_tokens=True)
    )
    nice_puppet = inputs.input_ids[0, 14:17]  # XLM-R's pieces are not those for which the page counted
    assert tokenizer.decode(nice_puppet, skip_special_tokens=True) == "nice puppet"
