"""Hidden states that the head does not read are not computed in the last layer, and nobody can tell."""

from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import xlmr_np
from tests.reference_models import TINY
from xlmr_np import XLMRobertaConfig, encoder

MASKED, CAUSAL = "XLMRobertaForMaskedLM", "XLMRobertaForCausalLM"
BOTH = pytest.mark.parametrize("class_name", [MASKED, CAUSAL])
EAGER, PACKED = "eager", "sdpa"


def model_of(class_name: str, attention: str = PACKED, **changes: Any) -> Any:
    config = XLMRobertaConfig(**{**TINY, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, **changes})
    model = getattr(xlmr_np, class_name)(config, generator=np.random.default_rng(0), dtype="float64")
    model.set_attn_implementation(attention)
    return model


shared_model_of = cache(model_of)


def batch_of(lengths: list[int], share: float, seed: int = 0, side: str = "right") -> dict[str, np.ndarray]:
    """Sentences of random tokens, of which this share has labels."""
    random = np.random.default_rng(seed)
    width = max(lengths)
    is_real = np.arange(width) < np.array(lengths)[:, None]
    if side == "left":
        is_real = is_real[:, ::-1]
    ids = np.where(is_real, random.integers(4, 61, is_real.shape), 1)
    is_labelled = is_real & (random.random(ids.shape) < share)
    labels = np.where(is_labelled, random.integers(0, 61, ids.shape), -100)
    return {"input_ids": ids, "attention_mask": is_real.astype(np.int64), "labels": labels}


def assert_losses_agree(model: Any, batch: dict[str, Any]) -> None:
    expected = float(model(**batch).loss)
    assert float(model.loss(**batch)) == pytest.approx(expected, rel=1e-12)  # float64, sums in another order
    assert float(model.loss_and_gradients(**batch)[0].loss) == pytest.approx(expected, rel=1e-12)  # the same


@BOTH
@settings(max_examples=8)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    share=st.sampled_from([0.05, 0.3, 1.0]),
    seed=st.integers(0, 99),
    side=st.sampled_from(["right", "left"]),
)
def test_the_three_losses_agree(class_name: str, lengths: list[int], share: float, seed: int, side: str) -> None:
    assert_losses_agree(shared_model_of(class_name), batch_of(lengths, share, seed, side))


@BOTH
@pytest.mark.parametrize(
    "changes",
    [
        {"output_hidden_states": True},
        {"output_attentions": True},
        {"return_dict": True},
        {"num_hidden_layers": 1},
        {"tie_word_embeddings": False},
    ],
)
@pytest.mark.parametrize("attention", [EAGER, PACKED])
def test_whatever_the_config_asks_for(class_name: str, changes: dict[str, Any], attention: str) -> None:
    model, batch = model_of(class_name, attention, **changes), batch_of([9, 4, 7, 1], 0.3)
    assert_losses_agree(model, batch)
    where = batch["labels"] != -100
    if class_name == MASKED:
        predicted = model.predict(batch["input_ids"], batch["attention_mask"], where=where, k=61)
        logits = model(batch["input_ids"], batch["attention_mask"]).logits[where]
        np.testing.assert_allclose(predicted.logits, -np.sort(-logits), rtol=1e-9)  # float64, sums in another order


def test_other_forms_of_labels_and_inputs() -> None:
    batch = batch_of([9, 4, 7], 0.4)
    causal = model_of(CAUSAL)
    assert_losses_agree(causal, {**batch, "num_items_in_batch": 5})
    assert_losses_agree(
        causal, {**{key: batch[key] for key in ("input_ids", "attention_mask")}, "shift_labels": batch["labels"]}
    )
    masked = model_of(MASKED)
    embeddings = np.random.default_rng(0).normal(size=(3, 9, 24))
    assert_losses_agree(
        masked, {"inputs_embeds": embeddings, **{key: batch[key] for key in ("attention_mask", "labels")}}
    )


@BOTH
def test_without_labels_the_loss_is_zero(class_name: str, caplog: pytest.LogCaptureFixture) -> None:
    batch = batch_of([9, 4], 0.0)
    model = model_of(class_name)
    assert float(model.loss(**batch)) == 0.0
    output, gradients = model.loss_and_gradients(**batch)
    assert float(output.loss) == 0.0
    for name, gradient in model.named(gradients).items():
        dense = gradient.to_dense() if hasattr(gradient, "to_dense") else gradient
        assert not np.asarray(dense).any(), name
    assert "Every label is left out, so that the loss is 0." in caplog.text


def test_a_loss_needs_labels() -> None:
    batch = batch_of([4], 1.0)
    del batch["labels"]
    with pytest.raises(ValueError, match="needs labels"):
        model_of(MASKED).loss(**batch)
    with pytest.raises(TypeError, match="takes no output_attentions"):
        model_of(MASKED).loss(**batch_of([4], 1.0), output_attentions=True)


@pytest.mark.parametrize("share", [0.0, 0.15, 1.0])
@pytest.mark.parametrize(("dropout", "attention_dropout"), [(0.0, 0.0), (0.3, 0.0), (0.0, 0.3), (0.3, 0.3)])
def test_gradients_are_those_of_all_hidden_states(share: float, dropout: float, attention_dropout: float) -> None:
    """The eager layout computes all of them; what is dropped must be the same in both."""
    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": attention_dropout}
    batch = batch_of([9, 4, 7, 1], share, seed=3)
    results = []
    for attention in (EAGER, PACKED):
        model = model_of(MASKED, attention, **rates)
        output, gradients = model.loss_and_gradients(np.random.default_rng(7), **batch)
        results.append((float(output.loss), model.named(gradients)))
    (eager_loss, eager), (packed_loss, packed) = results
    assert packed_loss == pytest.approx(eager_loss, rel=1e-12)  # float64
    for name, gradient in packed.items():
        np.testing.assert_allclose(
            np.asarray(gradient),
            np.asarray(eager[name]),
            rtol=1e-9,  # float64, through layouts that sum in another order
            atol=1e-13,  # the same, of what should be 0
            err_msg=name,
        )  # float64; what cancels leaves rounding


@pytest.mark.parametrize(
    ("class_name", "attention_dropout", "expected"), [(MASKED, 0.0, 5), (MASKED, 0.1, 20), (CAUSAL, 0.0, 20)]
)
def test_the_last_layer_is_computed_where_the_head_reads(
    class_name: str, attention_dropout: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    forward = encoder.encoder_layer_forward

    def watched(*given: Any, **named: Any) -> Any:
        x, cache = forward(*given, **named)
        rows.append(len(x))
        return x, cache

    monkeypatch.setattr(encoder, "encoder_layer_forward", watched)
    model = model_of(class_name, attention_probs_dropout_prob=attention_dropout)
    batch = batch_of([9, 4, 7], 1.0)
    batch["labels"][:] = -100
    batch["labels"][[0, 0, 1, 2, 2], [1, 5, 2, 3, 4]] = 10
    model.loss_and_gradients(np.random.default_rng(0), **batch)
    assert rows == [20, expected]
    rows.clear()
    model.loss(**batch)
    assert rows == [20, 5]  # inference drops nothing, and needs no gradient of what several runs of tokens see


@pytest.mark.parametrize("has_source", [False, True], ids=["", "cross-attention"])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(
    ("kept", "expected"),
    [(1, {"right": 1, "left": 3}), (3, {"right": 4, "left": 9}), ([0, 2, 7, 8], {"right": 8, "left": 9})],
    ids=["last", "last three", "places"],
)
def test_the_last_layer_is_computed_where_logits_are_kept(
    kept: Any, expected: dict[str, int], side: str, has_source: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At real tokens, each of which sees what it would see among all."""
    rows: list[int] = []
    forward = encoder.encoder_layer_forward

    def watched(*given: Any, **named: Any) -> Any:
        x, cache = forward(*given, **named)
        rows.append(len(x))
        return x, cache

    monkeypatch.setattr(encoder, "encoder_layer_forward", watched)
    batch = batch_of([9, 4, 7], 0.0, side=side)
    del batch["labels"]
    if has_source:
        batch["encoder_hidden_states"] = np.random.default_rng(0).normal(size=(3, 5, 24))
        batch["encoder_attention_mask"] = np.array([[1, 1, 0, 1, 1], [0, 0, 0, 0, 0], [1, 0, 0, 0, 1]])
    model = model_of(CAUSAL, is_decoder=True, add_cross_attention=has_source)
    logits = model(**batch, logits_to_keep=kept).logits
    assert rows == [20, expected[side]]
    every = model(**batch).logits
    places = np.arange(9)[-kept:] if isinstance(kept, int) else kept
    np.testing.assert_allclose(logits, every[:, places], atol=1e-12)  # float64, sums in another order
    with_states = model(**batch, logits_to_keep=kept, output_hidden_states=True)
    np.testing.assert_allclose(with_states.logits, logits, atol=1e-12)  # the same
    assert [each.shape for each in with_states.hidden_states] == [(3, 9, 24)] * 3
