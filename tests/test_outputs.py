"""Outputs are read by attribute, key, index and slice, and cannot be changed."""

import dataclasses

import pytest

from xlmr_np.outputs import MaskedLMOutput

OUTPUT = MaskedLMOutput(logits="logits", attentions=("a", "b"))


def test_absent_fields_do_not_count() -> None:
    assert OUTPUT.keys() == ["logits", "attentions"]
    assert OUTPUT.to_tuple() == ("logits", ("a", "b"))
    assert OUTPUT.items() == [("logits", "logits"), ("attentions", ("a", "b"))]
    assert OUTPUT.values() == ["logits", ("a", "b")]
    assert len(OUTPUT) == 2
    assert list(OUTPUT) == OUTPUT.keys()
    assert "logits" in OUTPUT
    assert "loss" not in OUTPUT
    assert OUTPUT.loss is None


def test_attribute_key_and_index_are_the_same() -> None:
    assert OUTPUT.logits == OUTPUT["logits"] == OUTPUT[0] == OUTPUT[:1][0]
    assert OUTPUT[-1] == OUTPUT.attentions
    assert dict(**{key: OUTPUT[key] for key in OUTPUT}) == {"logits": "logits", "attentions": ("a", "b")}


def test_what_is_not_there_is_named() -> None:
    with pytest.raises(KeyError, match="'loss' is not in this MaskedLMOutput; it has logits, attentions"):
        OUTPUT["loss"]
    with pytest.raises(IndexError):
        OUTPUT[2]


def test_outputs_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        OUTPUT.logits = 1  # type: ignore[misc]
