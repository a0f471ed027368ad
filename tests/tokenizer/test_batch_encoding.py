import copy
import pickle

import numpy as np
import pytest

import xlmr_np.arrays
from xlmr_np.tokenizer import BatchEncoding


def test_entries_by_key_and_by_attribute(small):
    batch = small("the garden")
    assert batch.input_ids is batch["input_ids"]
    assert dict(**batch) == batch


def test_what_it_does_not_hold(small):
    batch = small("the garden")
    with pytest.raises(AttributeError, match="has no 'labels': it holds input_ids, attention_mask"):
        _ = batch.labels
    with pytest.raises(KeyError):
        batch["labels"]
    assert not hasattr(batch, "token_type_ids")


def test_an_attribute_cannot_be_assigned(small):
    batch = small("the garden")
    with pytest.raises(AttributeError):
        batch.labels = [1]
    batch["labels"] = [1]
    assert batch.labels == [1]


def test_copies(small):
    batch = small("the garden", return_tensors="np")
    for other in (copy.copy(batch), copy.deepcopy(batch), pickle.loads(pickle.dumps(batch))):
        assert type(other) is BatchEncoding
        np.testing.assert_array_equal(other.input_ids, batch.input_ids)


def test_to_the_cpu(small):
    batch = small("the garden", return_tensors="np")
    moved = batch.to("cpu")
    assert type(moved) is BatchEncoding
    assert moved is not batch
    assert list(moved) == list(batch)
    for name in batch:
        np.testing.assert_array_equal(moved[name], batch[name])


def test_to_a_gpu(small, monkeypatch):
    """Every array goes to the device that the name resolves to."""
    monkeypatch.setattr(xlmr_np.arrays, "resolve_device", {"cuda": "cuda:0"}.__getitem__)
    monkeypatch.setattr(xlmr_np.arrays, "to_device", lambda array, device: (device, array.shape))
    batch = small("the", return_tensors="np").to("cuda")
    assert batch == {"input_ids": ("cuda:0", (1, 3)), "attention_mask": ("cuda:0", (1, 3))}


@pytest.mark.parametrize("device", ["gpu", "cuda:x", object()])
def test_an_unknown_device(small, device):
    with pytest.raises(ValueError, match="device"):
        small("the", return_tensors="np").to(device)


def test_lists_are_on_no_device(small):
    with pytest.raises(TypeError, match=r"input_ids is a list.*return_tensors='np'"):
        small("the").to("cpu")
