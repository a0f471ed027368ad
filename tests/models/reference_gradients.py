"""A training step of transformers' own models, and of ours, in one form: what goes in, the loss, and all gradients.

The reference runs its own code, its own losses included (with smoothed labels, that of its trainer). Where we mean to
differ from it, a hook changes what passes between two of its modules, and only for batches with padding:
- its pooling module is handed the first real token of each row in place of the first token;
- question answering rules padding out;
- a causal label behind padding, which nothing predicts, is left out.
What is dropped is injected by replacing `torch.nn.functional.dropout`.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
import transformers

from tests.reference_models import label_smoother_loss
from xlmr_np import XLMRobertaForTokenClassification, XLMRobertaModel
from xlmr_np.heads.sequence_classification import SequenceClassificationDropout
from xlmr_np.inputs import sentence_places, token_places
from xlmr_np.layers.dropout import Dropout, Philox, TokenKey, attention_keep, token_keep
from xlmr_np.models.classifiers import ClassifierModel
from xlmr_np.models.encoding import DropoutKeys, EncoderModel
from xlmr_np.row_sparse import RowSparse

TOLERANCE = {"float64": 1e-9, "float32": 1e-4}
ROUNDING = {"float64": 1e-14, "float32": 1e-6}  # of the largest gradient: below, what ought to cancel is taken to do so
SOURCE = "encoder_hidden_states"  # an input that has a gradient, too
POOLING_MODULES = {
    "XLMRobertaModel": "pooler",
    "XLMRobertaForSequenceClassification": "classifier",
    "XLMRobertaForMultipleChoice": "roberta.pooler",
}


class Batch(NamedTuple):
    """One training step's input, in NumPy arrays and numbers."""

    arguments: dict[str, Any]  # of forward, without labels
    labels: dict[str, Any]  # for the bare model: the gradients of its outputs
    is_real: np.ndarray  # [sentences, T]


class Step(NamedTuple):
    """What a training step gives: the loss, and the gradients by official name."""

    loss: float
    gradients: dict[str, Any]


class DroppedElements(NamedTuple):
    """What one dropout of the reference drops."""

    rate: float
    keep: np.ndarray


def our_step(model: Any, batch: Batch, seed: int | None = None, **settings: Any) -> Step:
    """Ours, dropping what a generator of that seed draws; None drops nothing."""
    generator = None if seed is None else np.random.default_rng(seed)
    if isinstance(model, XLMRobertaModel):
        output, backward = model.vjp(generator, **batch.arguments, **settings)
        gradients = backward(**batch.labels)
        loss = sum(
            float((getattr(output, name.removeprefix("d_")) * gradient).sum())
            for name, gradient in batch.labels.items()
        )
        if SOURCE not in batch.arguments:
            return Step(loss, model.named(gradients))
        return Step(loss, {**model.named(gradients[0]), SOURCE: gradients[1]})
    output, gradients = model.loss_and_gradients(generator, **batch.arguments, **batch.labels, **settings)
    return Step(float(output.loss), model.named(gradients))


def reference_step(
    reference: transformers.PreTrainedModel,
    batch: Batch,
    dropped: list[DroppedElements] | None = None,
    label_smoothing: float = 0.0,
) -> Step:
    """The reference's; a parameter under several names has its gradient under each of them, None where torch has none.

    Args:
        reference: the model.
        batch: the same that we get.
        dropped: what to drop, in the order of the reference's calls; None drops nothing.
        label_smoothing: as its trainer would smooth them, which knows `labels` alone.
    """
    reference.train(dropped is not None)
    reference.zero_grad()
    with ExitStack() as stack:
        labels = batch.labels
        if not batch.is_real.all():
            labels = stack.enter_context(_our_rules(reference, batch))
        if dropped is not None:
            stack.enter_context(_injected(dropped))
        # the causal loss rounds the logits to float32, which would hide half of the digits of float64
        stack.enter_context(mock.patch.object(torch.Tensor, "float", _at_least_float32))
        arguments = _tensors(reference, {**_our_positions(reference, batch), **batch.arguments})
        inputs = {SOURCE: arguments[SOURCE].requires_grad_()} if SOURCE in arguments else {}
        loss = _loss(reference, arguments, _tensors(reference, labels), label_smoothing)
    loss.backward()
    leaves = {**dict(reference.named_parameters(remove_duplicate=False)), **inputs}
    return Step(
        loss.item(), {name: None if each.grad is None else each.grad.numpy().copy() for name, each in leaves.items()}
    )


def parity_error(ours: Step, theirs: Step, reference: transformers.PreTrainedModel) -> float:
    """The `relative_error` of our step from the reference's, over all parameters, each under the name it has here."""
    _check_names(ours, theirs, reference)
    expected = {}
    for name, gradient in ours.gradients.items():
        expected[name] = theirs.gradients[name]
        if expected[name] is None:
            expected[name] = np.zeros(gradient.shape, gradient.dtype)
            assert not dense(gradient).any(), f"{name} has a gradient, but has no part in the reference's loss"
    return relative_error(ours, Step(theirs.loss, expected))


def relative_error(step: Step, expected: Step) -> float:
    """The largest relative error of the loss and of any gradient, whose measure is its parameter's largest entry.

    Where the expected gradient is zero but for rounding, judged by the largest gradient of the model, the step's must
    be so too. That is what shifts all scores of a query, all choices of a question or all places of an answer alike,
    which changes no probability: the biases of keys, and the last ones before some losses.
    """
    assert step.gradients.keys() == expected.gradients.keys()
    arrays = {name: dense(gradient) for name, gradient in expected.gradients.items()}
    dtype = next(iter(arrays.values())).dtype.name
    rounding = ROUNDING[dtype] * max(np.abs(each).max() for each in arrays.values())
    errors = [abs(step.loss - expected.loss) / abs(expected.loss)]
    for name, gradient in step.gradients.items():
        ours, theirs = dense(gradient), arrays[name]
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype), name
        largest = np.abs(theirs).max()
        if largest <= rounding:
            assert np.abs(ours).max() <= rounding, f"{name} has a gradient, but should not"
        else:
            errors.append(np.abs(ours - theirs).max() / largest)
    return float(max(errors))


def dense(gradient: Any) -> np.ndarray:
    """The whole array of a gradient, whichever form it has."""
    return gradient.to_dense() if isinstance(gradient, RowSparse) else gradient


def drawn(model: EncoderModel, batch: Batch, seed: int) -> list[DroppedElements]:
    """What our training step drops with a generator of that seed, in the reference's padded layout and call order."""
    inputs = model._prepare(**batch.arguments)
    keys = DropoutKeys(np.random.default_rng(seed))
    encoder = model._encoder_dropout(inputs, keys, None)
    head = model._head_dropout(inputs, keys) if isinstance(model, ClassifierModel) else None
    width, heads, is_real = model.config.hidden_size, model.config.num_attention_heads, batch.is_real

    def tokens(dropout: Dropout | None) -> DroppedElements:
        return _features(dropout, token_places(is_real), width)

    elements = [tokens(encoder.embeddings)]
    for layer in encoder.layers:
        elements += [_probabilities(layer.probabilities, is_real, is_real, heads), tokens(layer.attention)]
        if inputs.source is not None:
            source_is_real = np.asarray(inputs.source_is_real)
            elements += [_probabilities(layer.cross_probabilities, is_real, source_is_real, heads)]
            elements += [tokens(layer.cross_attention)]
        elements += [tokens(layer.feed_forward)]
    if isinstance(model, XLMRobertaForTokenClassification):
        elements += [tokens(head)]
    elif head is not None:
        both = head if isinstance(head, SequenceClassificationDropout) else (head,)
        elements += [_features(dropout, sentence_places(is_real), width) for dropout in both]
    return elements


def _check_names(ours: Step, theirs: Step, reference: transformers.PreTrainedModel) -> None:
    """Each parameter of the reference is one of ours, under one of its names, but for the bias that it never uses."""
    assert ours.gradients.keys() <= theirs.gradients.keys()
    parameters = dict(reference.named_parameters(remove_duplicate=False))
    compared = [id(parameters[name]) for name in ours.gradients if name != SOURCE]
    assert len(set(compared)) == len(compared)
    left_out = {name for name, parameter in parameters.items() if id(parameter) not in compared}
    is_untied = "lm_head.bias" in parameters and not reference.config.tie_word_embeddings
    assert left_out == ({"lm_head.bias"} if is_untied else set())
    assert all(theirs.gradients[name] is None for name in left_out)


def _loss(
    reference: transformers.PreTrainedModel,
    arguments: dict[str, Any],
    labels: dict[str, Any],
    label_smoothing: float,
) -> torch.Tensor:
    name = type(reference).__name__
    if name != "XLMRobertaModel" and not label_smoothing:
        return reference(**arguments, **labels).loss
    output = reference(**arguments)
    if label_smoothing:
        is_causal, number_of_items = name == "XLMRobertaForCausalLM", labels.get("num_items_in_batch")
        return label_smoother_loss(output.logits, labels["labels"], label_smoothing, is_causal, number_of_items)
    return sum((output[name.removeprefix("d_")] * gradient).sum() for name, gradient in labels.items())


def _tensors(reference: transformers.PreTrainedModel, arrays: dict[str, Any]) -> dict[str, Any]:
    """Arrays as tensors, floats in the type of the model."""
    tensors = {name: torch.tensor(each) if isinstance(each, np.ndarray) else each for name, each in arrays.items()}
    return {
        name: each.to(reference.dtype) if torch.is_tensor(each) and each.is_floating_point() else each
        for name, each in tensors.items()
    }


_float = torch.Tensor.float


def _at_least_float32(x: torch.Tensor) -> torch.Tensor:
    return x if x.dtype == torch.float64 else _float(x)


def _our_positions(reference: transformers.PreTrainedModel, batch: Batch) -> dict[str, np.ndarray]:
    """Our decoders count the tokens that the mask shows; the reference's count ids that are no padding."""
    if not reference.config.is_decoder or "input_ids" not in batch.arguments:
        return {}
    counted = batch.is_real.astype(np.int64)
    return {"position_ids": counted.cumsum(axis=1) * counted + reference.config.pad_token_id}


@contextmanager
def _our_rules(reference: transformers.PreTrainedModel, batch: Batch) -> Iterator[dict[str, Any]]:
    """Let the reference treat padding as we do, and give the labels that say so."""
    name, is_real = type(reference).__name__, torch.tensor(batch.is_real)
    labels, handles = dict(batch.labels), []
    first = batch.is_real.argmax(axis=1)
    if name in POOLING_MODULES:
        handles.append(
            reference.get_submodule(POOLING_MODULES[name]).register_forward_pre_hook(
                lambda _, inputs: (inputs[0][torch.arange(len(first)), torch.tensor(first)][:, None],)
            )
        )
    if name == "XLMRobertaForQuestionAnswering":
        handles.append(
            reference.get_submodule("qa_outputs").register_forward_hook(
                lambda *inputs_and_output: inputs_and_output[-1].masked_fill(~is_real[..., None], -torch.inf)
            )
        )
        labels = {key: np.where(places < 0, first, places) for key, places in labels.items()}
    if name == "XLMRobertaForCausalLM":
        labels["labels"] = labels["labels"].copy()
        labels["labels"][:, 1:][~batch.is_real[:, :-1]] = -100
    try:
        yield labels
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _injected(dropped: list[DroppedElements]) -> Iterator[None]:
    """Let torch drop these elements, call by call, and see that it asks for every one of them."""
    waiting = list(dropped)

    def dropout(x: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
        rate, keep = waiting.pop(0)
        assert training
        assert (p, x.shape) == (rate, keep.shape)
        return torch.where(torch.tensor(keep), x, 0.0) / (1 - rate)

    with mock.patch.object(torch.nn.functional, "dropout", dropout):
        yield
    assert waiting == []


def _features(dropout: Dropout | None, places: tuple[np.ndarray, np.ndarray], width: int) -> DroppedElements:
    """The bits [*places, width] of tokens, given the number of each one's sentence and its own number there."""
    assert dropout is not None
    assert isinstance(dropout.keep, TokenKey)
    token_key = TokenKey(dropout.keep.key, *places)
    return DroppedElements(dropout.rate, token_keep(token_key, dropout.rate, np.empty((*places[0].shape, width))))


def _probabilities(
    dropout: Dropout | None, is_real: np.ndarray, is_real_key: np.ndarray, heads: int
) -> DroppedElements:
    """The bits [B, H, T, S] of attention probabilities, which count a sentence's real tokens; True elsewhere."""
    assert dropout is not None
    key = dropout.keep.key if isinstance(dropout.keep, TokenKey) else dropout.keep
    assert isinstance(key, Philox)
    keep = np.ones((len(is_real), heads, is_real.shape[1], is_real_key.shape[1]), bool)
    for sentence, real in enumerate(zip(is_real, is_real_key, strict=True)):
        queries, keys = map(np.flatnonzero, real)
        bits = _bits(dropout.rate, key, sentence, (heads, len(queries), len(keys)))
        keep[sentence][:, queries[:, None], keys] = bits
    return DroppedElements(dropout.rate, keep)


@cache
def _bits(rate: float, key: Philox, sentence: int, shape: tuple[int, int, int]) -> np.ndarray:
    return attention_keep(key, rate, sentence, np.empty(shape))
