"""Training steps of every class against transformers' own models and torch's autograd: losses and all gradients."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import xlmr_np
from tests.gradients import DIFFERENCE_TOLERANCE, STEP, inner_product, random_like
from tests.models.reference_gradients import (
    SOURCE,
    TOLERANCE,
    Batch,
    Step,
    dense,
    drawn,
    our_step,
    parity_error,
    reference_step,
    relative_error,
)
from tests.reference_models import TINY, save_reference
from xlmr_np import trees
from xlmr_np.ops import reference as reference_ops
from xlmr_np.row_sparse import RowSparse

SEED = 7
VOCABULARY, WIDTH, HEADS = (TINY[name] for name in ("vocab_size", "hidden_size", "num_attention_heads"))
LENGTHS = (7, 4, 6, 3)
CHOICES = 2  # of each question of multiple choice: two questions are four sentences
RATES = {"hidden_dropout_prob": 0.15, "attention_probs_dropout_prob": 0.25, "classifier_dropout": 0.35}
PADDINGS = ("none", "right", "left", "holes")
LAYOUTS = {"packed": "sdpa", "padded": "eager"}
Labels = dict[str, Any]


def token_labels(generator: np.random.Generator, is_real: np.ndarray) -> Labels:
    """About two thirds of the real tokens have one."""
    labels = generator.integers(0, VOCABULARY, is_real.shape)
    return {"labels": np.where(is_real & (generator.random(is_real.shape) < 0.7), labels, -100)}


def token_classes(generator: np.random.Generator, is_real: np.ndarray) -> Labels:
    labels = token_labels(generator, is_real)["labels"]
    return {"labels": np.where(labels == -100, -100, labels % 4)}


def shifted_labels(generator: np.random.Generator, is_real: np.ndarray) -> Labels:
    return {**token_labels(generator, is_real), "shift_labels": token_labels(generator, is_real)["labels"]}


def classes(generator: np.random.Generator, is_real: np.ndarray) -> Labels:
    """One of them left out."""
    labels = generator.integers(0, 4, len(is_real))
    labels[2] = -100
    return {"labels": labels}


def applicable(generator: np.random.Generator, is_real: np.ndarray) -> Labels:
    return {"labels": (generator.random((len(is_real), 4)) > 0.5).astype(float)}


def places(generator: np.random.Generator, is_real: np.ndarray) -> Labels:
    """Real tokens, but one before the row (the classification token) and some behind it (left out)."""
    start, end = (np.array([generator.choice(np.flatnonzero(row)) for row in is_real]) for _ in range(2))
    start[1], start[2], end[2], end[3] = -5, is_real.shape[1], is_real.shape[1] + 9, is_real.shape[1]
    return {"start_positions": start, "end_positions": end}


def output_gradients(generator: np.random.Generator, is_real: np.ndarray) -> Labels:
    d_last_hidden_state = generator.normal(size=(*is_real.shape, WIDTH)) * is_real[..., None]
    return {
        "d_last_hidden_state": d_last_hidden_state,
        "d_pooler_output": generator.normal(size=(len(is_real), WIDTH)),
    }


@dataclass(frozen=True)
class Case:
    """A model class and one way to train it."""

    model_class: str
    labels: Callable[[np.random.Generator, np.ndarray], Labels]
    settings: dict[str, Any] = field(default_factory=dict)  # of the config; one with cross-attention has a source


MASKED, CAUSAL, SEQUENCE = (f"XLMRobertaFor{name}" for name in ("MaskedLM", "CausalLM", "SequenceClassification"))
UNTIED, DECODER, FOUR = {"tie_word_embeddings": False}, {"is_decoder": True}, {"num_labels": 4}
CROSS = {**DECODER, "add_cross_attention": True}
CASES = {
    "model with a source": Case("XLMRobertaModel", output_gradients, CROSS),
    "causal LM with a source": Case(CAUSAL, token_labels, CROSS),
    "masked LM with a source": Case(MASKED, token_labels, {**CROSS, **UNTIED}),
    "model": Case("XLMRobertaModel", output_gradients),
    "model, tokens alone": Case(
        "XLMRobertaModel", lambda *given: {"d_last_hidden_state": output_gradients(*given)["d_last_hidden_state"]}
    ),
    "model, pooled alone": Case(
        "XLMRobertaModel", lambda *given: {"d_pooler_output": output_gradients(*given)["d_pooler_output"]}
    ),
    "masked LM, tied": Case(MASKED, token_labels),
    "masked LM, untied": Case(MASKED, token_labels, {**UNTIED, "hidden_act": "relu"}),
    "causal LM, tied": Case(CAUSAL, token_labels, DECODER),
    "causal LM, untied": Case(CAUSAL, token_labels, {**DECODER, **UNTIED, "hidden_act": "gelu_new"}),
    "causal LM, part of a batch": Case(
        CAUSAL, lambda *given: {**token_labels(*given), "num_items_in_batch": 50}, DECODER
    ),
    "causal LM, shifted labels": Case(CAUSAL, shifted_labels, DECODER),
    "single label": Case(SEQUENCE, classes, FOUR),
    "single label, explicit": Case(
        SEQUENCE, classes, {**FOUR, "problem_type": "single_label_classification", "classifier_dropout": None}
    ),
    "multi label": Case(SEQUENCE, applicable, FOUR),
    "multi label, explicit": Case(
        SEQUENCE, applicable, {**FOUR, "problem_type": "multi_label_classification", "hidden_act": "silu"}
    ),
    "regression": Case(
        SEQUENCE, lambda generator, is_real: {"labels": generator.normal(size=len(is_real))}, {"num_labels": 1}
    ),
    "regression, several": Case(
        SEQUENCE,
        lambda generator, is_real: {"labels": generator.normal(size=(len(is_real), 4))},
        {**FOUR, "problem_type": "regression"},
    ),
    "token classification": Case("XLMRobertaForTokenClassification", token_classes, FOUR),
    "question answering": Case("XLMRobertaForQuestionAnswering", places, {"num_labels": 2}),
    "multiple choice": Case("XLMRobertaForMultipleChoice", lambda *_: {"labels": np.array([1, 0])}),
    "multiple choice, one left out": Case("XLMRobertaForMultipleChoice", lambda *_: {"labels": np.array([-100, 1])}),
}
# one for each class, and both kinds of token table, where the way to train it cannot matter
CLASSES = (
    "model with a source",
    "causal LM with a source",
    "model",
    "masked LM, tied",
    "masked LM, untied",
    "causal LM, tied",
    "single label",
    "token classification",
    "question answering",
    "multiple choice",
)
WITH_A_LOSS = [name for name in CLASSES if CASES[name].model_class != "XLMRobertaModel"]


class Pair(NamedTuple):
    """A model of transformers, and ours with its weights."""

    reference: Any
    ours: Any


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Pair]:
    """Gives the pair of models for the name of a case and a type, each made once; ours in the packed layout."""

    @cache
    def made(name: str, dtype: str, **changes: Any) -> Pair:
        case, directory = CASES[name], tmp_path_factory.mktemp("reference")
        settings = {**RATES, **case.settings, **changes}
        reference = save_reference(directory, case.model_class, getattr(torch, dtype), **settings)
        reference.set_attn_implementation("eager")  # the only one whose dropout can be replaced
        return Pair(reference, getattr(xlmr_np, case.model_class).from_pretrained(directory))

    def pair(name: str, dtype: str = "float64", **changes: Any) -> Pair:
        models = made(name, dtype, **changes)
        models.ours.set_attn_implementation(LAYOUTS["packed"])
        return models

    return pair


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Torch's threads take longer to wake than these models to run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Walk the vocabulary of 61 in several chunks, as the real one's 250,002 are."""
    monkeypatch.setattr(reference_ops, "VOCABULARY_CHUNK", 20)


def random_batch(name: str, padding: str, **more_arguments: Any) -> Batch:
    """Four sentences of 7 tokens at most, their labels, and a mask where it says more than nothing.

    Args:
        name: of the case.
        padding: "none"; "right" or "left"; "holes" for a mask that hides tokens anywhere, the first among them; "seen"
            for padding on the right that the mask calls real.
        **more_arguments: [sentences, ...] each.
    """
    generator = np.random.default_rng(len(name))
    place, lengths = np.arange(max(LENGTHS)), np.array(LENGTHS)[:, None]
    is_token = place < lengths
    if padding == "left":
        is_token = is_token[:, ::-1]
    if padding in ("none", "holes"):
        is_token = np.ones_like(is_token)
    ids = np.where(is_token, generator.integers(4, 12, is_token.shape), 1)  # few of them, so that tokens come again
    is_real = is_token.copy()
    if padding == "seen":
        is_real[:] = True
    if padding == "holes":
        is_real[[0, 0, 1, 2, 3, 3], [0, 3, 6, 0, 2, 3]] = False
    arguments = {"input_ids": ids, **more_arguments}
    if padding != "none" and "attention_mask" not in arguments:
        arguments["attention_mask"] = is_real.astype(int)
    labels = CASES[name].labels(generator, is_real)
    if CASES[name].settings.get("add_cross_attention"):
        arguments[SOURCE] = generator.normal(size=(len(LENGTHS), 5, WIDTH))
        arguments["encoder_attention_mask"] = np.array([[1] * 5, [1, 1, 0, 0, 0], [0, 0, 0, 1, 1], [0, 1, 1, 0, 1]])
    if CASES[name].model_class == "XLMRobertaForMultipleChoice":
        arguments = {key: each.reshape(-1, CHOICES, *each.shape[1:]) for key, each in arguments.items()}
    return Batch(arguments, labels, is_real)


def with_embeddings(batch: Batch) -> Batch:
    """The batch with vectors in place of ids."""
    arguments = dict(batch.arguments)
    shape = arguments.pop("input_ids").shape
    arguments["inputs_embeds"] = np.random.default_rng(3).normal(size=(*shape, WIDTH))
    return batch._replace(arguments=arguments)


def has_tied_decoder(model: Any) -> bool:
    return model.get_output_embeddings() is not None and model.is_tied


def assert_identical(first: Step, second: Step) -> None:
    assert first.loss == second.loss
    assert first.gradients.keys() == second.gradients.keys()
    for name, gradient in first.gradients.items():
        np.testing.assert_array_equal(dense(gradient), dense(second.gradients[name]), strict=True)


def runs() -> list[Any]:
    """Every case, padding, layout and type, with dropout and without; those that say little new are exhaustive."""
    params = []
    for name, dtype, padding, layout, drops in product(CASES, TOLERANCE, PADDINGS, LAYOUTS, (False, True)):
        words = (name, dtype, padding, layout, *["dropout"] * drops)
        is_ordinary = name in CLASSES or (padding == "left" and dtype == "float64")
        if dtype == "float32" and (layout == "padded" or padding in ("none", "holes")):
            is_ordinary = False
        marks = [] if is_ordinary else [pytest.mark.exhaustive]
        params.append(pytest.param(*words[:4], drops, marks=marks, id="-".join(words)))
    return params


@pytest.mark.parametrize(("name", "dtype", "padding", "layout", "drops"), runs())
def test_gradients_equal_the_references(
    pair: Callable[..., Pair], name: str, dtype: str, padding: str, layout: str, drops: bool
) -> None:
    reference, ours = pair(name, dtype)
    ours.set_attn_implementation(LAYOUTS[layout])
    batch = random_batch(name, padding)
    theirs = reference_step(reference, batch, drawn(ours, batch, SEED) if drops else None)
    error = parity_error(our_step(ours, batch, SEED if drops else None), theirs, reference)
    assert error <= TOLERANCE[dtype]


@pytest.mark.parametrize("drops", [False, True], ids=["", "dropout"])
@pytest.mark.parametrize("name", CLASSES)
def test_checkpointed_layers_have_the_same_gradients(pair: Callable[..., Pair], name: str, drops: bool) -> None:
    _, ours = pair(name)
    batch, seed = random_batch(name, "left"), SEED if drops else None
    for layout in LAYOUTS.values():
        ours.set_attn_implementation(layout)
        assert_identical(our_step(ours, batch, seed, checkpoint_layers=True), our_step(ours, batch, seed))


@pytest.mark.parametrize("padding", ["none", "right", "left"])
@pytest.mark.parametrize("name", CLASSES)
def test_embeddings_in_place_of_ids(pair: Callable[..., Pair], name: str, padding: str) -> None:
    """The token table then has the gradient of a tied decoder only."""
    reference, ours = pair(name)
    is_real = random_batch(name, padding).is_real
    positions = is_real.cumsum(axis=1) * is_real + 1  # the reference would count padding on the left
    batch = with_embeddings(random_batch(name, padding, **({"position_ids": positions} if padding == "left" else {})))
    for seed in (None, SEED):
        theirs = reference_step(reference, batch, None if seed is None else drawn(ours, batch, seed))
        step = our_step(ours, batch, seed)
        assert parity_error(step, theirs, reference) <= TOLERANCE["float64"]
        (table,) = (dense(each) for key, each in step.gradients.items() if "word_embeddings" in key)
        assert table.any() == has_tied_decoder(ours)


@pytest.mark.parametrize("pad_id", [1, 0])
@pytest.mark.parametrize("name", CLASSES)
def test_padding_that_is_seen_does_not_train_its_rows(pair: Callable[..., Pair], name: str, pad_id: int) -> None:
    """A mask of ones over padding; the row of padding has a gradient only as one of a tied decoder's outputs."""
    reference, ours = pair(name, pad_token_id=pad_id)
    batch = random_batch(name, "seen")
    ids = batch.arguments["input_ids"]
    batch.arguments["input_ids"] = np.where(ids == 1, pad_id, ids)
    for layout in LAYOUTS.values():
        ours.set_attn_implementation(layout)
        theirs = reference_step(reference, batch, drawn(ours, batch, SEED))
        step = our_step(ours, batch, SEED)
        assert parity_error(step, theirs, reference) <= TOLERANCE["float64"]
        tables = {key.split(".")[-2]: dense(each) for key, each in step.gradients.items() if key != SOURCE}
        assert (tables["position_embeddings"][pad_id] == 0).all()
        assert tables["word_embeddings"][pad_id].any() == has_tied_decoder(ours)


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("name", CLASSES)
def test_two_token_types(pair: Callable[..., Pair], name: str, padding: str) -> None:
    reference, ours = pair(name, type_vocab_size=2)
    types = np.random.default_rng(5).integers(0, 2, (len(LENGTHS), max(LENGTHS)))
    batch = random_batch(name, padding, token_type_ids=types)
    theirs = reference_step(reference, batch, drawn(ours, batch, SEED))
    step = our_step(ours, batch, SEED)
    assert parity_error(step, theirs, reference) <= TOLERANCE["float64"]
    (table,) = (each for key, each in step.gradients.items() if "token_type" in key)
    assert table.any(axis=1).all()


@pytest.mark.parametrize("padding", ["none", "right", "left"])
@pytest.mark.parametrize("kind", ["sentence", "head"])
@pytest.mark.parametrize("name", [name for name in CLASSES if name != "multiple choice"])  # whose masks are [B, C, T]
def test_masks_that_say_who_sees_whom(pair: Callable[..., Pair], name: str, kind: str, padding: str) -> None:
    """Of three dimensions, and of four; the reference takes only those of four. Every real token sees itself."""
    reference, ours = pair(name)
    batch, (sentences, length) = random_batch(name, padding), (len(LENGTHS), max(LENGTHS))
    heads = 1 if kind == "sentence" else HEADS
    is_visible = np.random.default_rng(6).random((sentences, heads, length, length)) < 0.5
    is_visible = (is_visible & batch.is_real[:, None, None, :]) | np.eye(length, dtype=bool)
    added = np.where(is_visible, 0.0, np.finfo(np.float64).min)
    with_mask, reference_batch = (
        batch._replace(arguments={**batch.arguments, "attention_mask": mask})
        for mask in (is_visible[:, 0].astype(int) if kind == "sentence" else is_visible, added)
    )
    for seed in (None, SEED):
        theirs = reference_step(reference, reference_batch, None if seed is None else drawn(ours, with_mask, seed))
        assert parity_error(our_step(ours, with_mask, seed), theirs, reference) <= TOLERANCE["float64"]


@pytest.mark.parametrize("name", ["masked LM, tied", "causal LM, tied", "single label", "token classification"])
def test_a_row_without_a_real_token_changes_nothing(pair: Callable[..., Pair], name: str) -> None:
    _, ours = pair(name)
    batch = random_batch(name, "right")
    is_real = np.concatenate([batch.is_real, np.zeros((1, max(LENGTHS)), bool)])
    labels = batch.labels["labels"]
    longer = Batch(
        {key: np.concatenate([each, 0 * each[:1] + (key == "input_ids")]) for key, each in batch.arguments.items()},
        {"labels": np.concatenate([labels, np.full_like(labels[:1], -100)])},
        is_real,
    )
    for layout in LAYOUTS.values():
        ours.set_attn_implementation(layout)
        for seed in (None, SEED):
            assert relative_error(our_step(ours, longer, seed), our_step(ours, batch, seed)) <= 1e-13


@pytest.mark.parametrize("name", WITH_A_LOSS)
def test_nothing_is_learnt_where_every_label_is_left_out(
    pair: Callable[..., Pair], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    _, ours = pair(name)
    batch = random_batch(name, "right")
    left_out = max(LENGTHS) if name == "question answering" else -100
    batch = batch._replace(labels={key: np.full_like(each, left_out) for key, each in batch.labels.items()})
    step = our_step(ours, batch, SEED)
    assert "Every label is left out" in caplog.text
    assert step.loss == 0
    assert all((dense(gradient) == 0).all() for gradient in step.gradients.values())


@pytest.mark.parametrize("stored", ["float16", pytest.param("bfloat16", marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("name", CLASSES)
def test_half_precision_weights_have_float32_gradients(
    pair: Callable[..., Pair], tmp_path: Path, name: str, stored: str
) -> None:
    """Those of the same weights in float32; and close to those of the weights before they were rounded."""
    reference, _ = pair(name, "float32")
    reference.save_pretrained(tmp_path / "whole")
    model_class = getattr(xlmr_np, CASES[name].model_class)
    half = model_class.from_pretrained(tmp_path / "whole", dtype=stored)
    half.save_pretrained(tmp_path / "half")
    batch = random_batch(name, "left")
    step = our_step(half, batch, SEED)
    assert all(dense(gradient).dtype == np.float32 for gradient in step.gradients.values())
    widened = model_class.from_pretrained(tmp_path / "half", dtype="float32")
    assert relative_error(step, our_step(widened, batch, SEED)) <= TOLERANCE["float32"]
    whole = our_step(model_class.from_pretrained(tmp_path / "whole"), batch, SEED)
    ours, expected = (
        np.concatenate([dense(gradient).ravel() for gradient in each.gradients.values()]) for each in (step, whole)
    )
    assert np.linalg.norm(ours - expected) < {"float16": 0.01, "bfloat16": 0.1}[stored] * np.linalg.norm(expected)


@pytest.mark.parametrize("name", CLASSES)
def test_a_step_changes_nothing_that_it_is_given(pair: Callable[..., Pair], name: str) -> None:
    """Parameters as they are mapped from a file, or any others that must not be written; inputs and labels."""
    _, ours = pair(name)
    batch = random_batch(name, "left")
    mapped, frozen = ours.params, trees.map_leaves(np.array, ours.params)
    assert not any(leaf.flags.writeable for leaf in trees.leaves(mapped))
    given = [*trees.leaves(frozen), *batch.arguments.values(), *batch.labels.values()]
    before = [each.copy() for each in given]
    for each in given:
        each.flags.writeable = False
    for layout, checkpoint_layers in zip(LAYOUTS.values(), (False, True), strict=True):
        ours.set_attn_implementation(layout)
        ours.params = mapped
        expected = our_step(ours, batch, SEED, checkpoint_layers=checkpoint_layers)
        ours.params = frozen
        step = our_step(ours, batch, SEED, checkpoint_layers=checkpoint_layers)
        ours.params = mapped
        assert relative_error(step, expected) <= 1e-13  # arrays that lie elsewhere may be summed in another order
    for each, old in zip(given, before, strict=True):
        np.testing.assert_array_equal(each, old)


@pytest.mark.parametrize("name", CLASSES)
def test_the_generator_alone_decides_what_is_dropped(pair: Callable[..., Pair], name: str) -> None:
    _, ours = pair(name)
    batch = random_batch(name, "right")
    step = our_step(ours, batch, SEED)
    assert_identical(our_step(ours, batch, SEED), step)
    assert abs(our_step(ours, batch, SEED + 1).loss - step.loss) > 1e-6
    _, without_rates = pair(name, **dict.fromkeys(RATES, 0.0))
    assert abs(our_step(ours, batch).loss - step.loss) > 1e-6
    same = relative_error(our_step(ours, batch), our_step(without_rates, batch, SEED))
    assert same <= 1e-13  # and not 0, as where arrays lie may change the order of a sum


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("model")])
def test_the_loss_is_that_of_a_forward_pass(pair: Callable[..., Pair], name: str) -> None:
    """Which drops nothing, whatever the rates; the language models' losses come in chunks here."""
    _, ours = pair(name)
    for padding in PADDINGS:
        batch = random_batch(name, padding)
        loss = float(ours(**batch.arguments, **batch.labels).loss)
        assert our_step(ours, batch).loss == pytest.approx(loss, rel=1e-13)


SMOOTHED = (
    "masked LM, tied",
    "masked LM, untied",
    "causal LM, tied",
    "causal LM, part of a batch",
    "single label",
    "token classification",
    "multiple choice",
    "multiple choice, one left out",
)


@pytest.mark.parametrize("padding", ["none", "left"])
@pytest.mark.parametrize("name", SMOOTHED)
def test_smoothed_labels_equal_the_references(pair: Callable[..., Pair], name: str, padding: str) -> None:
    reference, ours = pair(name)
    batch = random_batch(name, padding)
    theirs = reference_step(reference, batch, drawn(ours, batch, SEED), label_smoothing=0.2)
    plain = our_step(ours, batch, SEED).loss
    for layout in LAYOUTS.values():
        ours.set_attn_implementation(layout)
        step = our_step(ours, batch, SEED, label_smoothing=0.2)
        assert parity_error(step, theirs, reference) <= 1e-10  # float64 against torch
        assert abs(step.loss - plain) > 1e-3


@pytest.mark.parametrize("padding", PADDINGS)
def test_smoothed_positions_are_those_of_real_tokens(pair: Callable[..., Pair], padding: str) -> None:
    """Torch's loss of each question without its padding."""
    _, ours = pair("question answering")
    batch = random_batch("question answering", padding)

    def loss(logits: np.ndarray, places: np.ndarray) -> float:
        losses = []
        for row, is_real, place in zip(logits, batch.is_real, places, strict=True):
            if place < len(is_real):  # otherwise it is left out
                tokens_before = is_real[: max(place, 0)].sum()
                row, label = torch.tensor(row[is_real]), torch.tensor(tokens_before)
                losses.append(torch.nn.functional.cross_entropy(row, label, label_smoothing=0.2).item())
        return float(np.mean(losses))

    output = ours(**batch.arguments)
    start = loss(output.start_logits, batch.labels["start_positions"])
    end = loss(output.end_logits, batch.labels["end_positions"])
    assert our_step(ours, batch, label_smoothing=0.2).loss == pytest.approx((start + end) / 2, rel=1e-12)  # roundings


def test_a_choice_without_a_real_token_has_no_share(pair: Callable[..., Pair]) -> None:
    _, ours = pair("multiple choice")
    batch = random_batch("multiple choice", "right")
    longer = {name: np.concatenate([each, each[:, :1]], axis=1) for name, each in batch.arguments.items()}
    longer["input_ids"][:, -1], longer["attention_mask"][:, -1] = 1, 0
    step, with_empty_choice = (
        our_step(ours, batch._replace(arguments=arguments), label_smoothing=0.2)
        for arguments in (batch.arguments, longer)
    )
    assert relative_error(with_empty_choice, step) <= 1e-12  # roundings of sums in another order


@pytest.mark.parametrize("name", WITH_A_LOSS)
@pytest.mark.parametrize("wrong", [1.0, float("nan"), "0.1"])
def test_label_smoothing_is_a_share(pair: Callable[..., Pair], name: str, wrong: Any) -> None:
    _, ours = pair(name)
    with pytest.raises(ValueError, match=r"label_smoothing must be a number from 0 .* to below 1.* it is "):
        our_step(ours, random_batch(name, "none"), label_smoothing=wrong)


@pytest.mark.parametrize("name", ["multi label", "multi label, explicit", "regression", "regression, several"])
def test_labels_that_are_no_classes_are_not_smoothed(pair: Callable[..., Pair], name: str) -> None:
    _, ours = pair(name)
    batch = random_batch(name, "none")
    with pytest.raises(ValueError, match=r"label_smoothing=0.1 needs labels that are classes"):
        our_step(ours, batch, label_smoothing=0.1)
    assert_identical(our_step(ours, batch, label_smoothing=0), our_step(ours, batch))


@pytest.mark.parametrize(
    ("name", "seed", "smoothing"),
    [
        *product(CLASSES, [None, SEED], [0.0]),
        *product(WITH_A_LOSS, [SEED], [0.3]),
    ],
)
def test_gradients_equal_central_differences(
    pair: Callable[..., Pair], name: str, seed: int | None, smoothing: float
) -> None:
    """Along one random direction of all parameters at once."""
    _, ours = pair(name)
    batch, params = random_batch(name, "left"), ours.params
    setting = {"label_smoothing": smoothing} if smoothing else {}
    direction = random_like(params, np.random.default_rng(11))

    def along(step: float) -> float:
        ours.params = trees.map_leaves(lambda leaf, way: leaf + step * way, params, direction)
        try:
            return our_step(ours, batch, seed, **setting).loss
        finally:
            ours.params = params

    slope = (along(STEP) - along(-STEP)) / (2 * STEP)
    gradients, ways = our_step(ours, batch, seed, **setting).gradients, ours.named(direction)
    ours_along = sum(inner_product(dense(gradients[key]), way) for key, way in ways.items())
    assert abs(ours_along - slope) <= DIFFERENCE_TOLERANCE * max(1.0, abs(slope))


@pytest.mark.parametrize("name", CLASSES)
def test_the_token_tables_gradient_is_sparse_unless_a_decoder_is_tied(pair: Callable[..., Pair], name: str) -> None:
    _, ours = pair(name)
    batch = random_batch(name, "right")
    (table,) = (each for key, each in our_step(ours, batch).gradients.items() if "word_embeddings" in key)
    assert isinstance(table, RowSparse) == (not has_tied_decoder(ours))
    if isinstance(table, RowSparse):
        np.testing.assert_array_equal(table.index, np.setdiff1d(batch.arguments["input_ids"], [1]))
