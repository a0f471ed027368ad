"""Which arguments count as being on the GPU; that needs their kind and their device alone, so that fakes serve."""

import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.reference_models import TINY
from xlmr_np import XLMRobertaConfig, XLMRobertaModel, inputs_on_gpu
from xlmr_np.inputs_on_gpu import are_on_gpu, stays_on_gpu


class OnGpu:
    """An array on a GPU, as far as `are_on_gpu` looks at it."""

    def __init__(self, device: int = 0, ndim: int = 2) -> None:
        self.device, self.ndim = SimpleNamespace(id=device), ndim


@pytest.fixture(autouse=True)
def _fakes_are_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs_on_gpu, "is_cupy_array", lambda x: isinstance(x, OnGpu))


@pytest.mark.parametrize(
    ("arguments", "device", "expected"),
    [
        ({"input_ids": OnGpu(), "attention_mask": None}, "cuda:0", True),
        ({"input_ids": OnGpu(1), "attention_mask": OnGpu(1)}, "cuda:1", True),
        ({"input_ids": [[1, 2]], "attention_mask": np.ones((1, 2))}, "cuda:0", False),
        ({"input_ids": None}, "cpu", False),
    ],
)
def test_all_or_none_are(arguments: dict[str, Any], device: str, expected: bool) -> None:
    assert are_on_gpu(arguments, device) is expected


@pytest.mark.parametrize(
    ("arguments", "device", "message"),
    [
        (
            {"input_ids": OnGpu(), "attention_mask": np.ones((1, 2))},
            "cuda:0",
            "input_ids is on cuda:0 and attention_mask on cpu; bring them to the same device.",
        ),
        (
            {"input_ids": OnGpu(), "token_type_ids": OnGpu(1)},
            "cuda:0",
            "input_ids is on cuda:0 and token_type_ids on cuda:1; bring them to the same device.",
        ),
        (
            {"input_ids": OnGpu(), "encoder_hidden_states": np.ones((1, 2, 3))},
            "cuda:0",
            "input_ids is on cuda:0 and encoder_hidden_states on cpu; bring them to the same device.",
        ),
        (
            {"input_ids": OnGpu()},
            "cpu",
            "input_ids is on cuda:0 and the model on cpu; move the model with model.to('cuda:0'), or",
        ),
    ],
)
def test_mixtures_are_refused_by_name(arguments: dict[str, Any], device: str, message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        are_on_gpu(arguments, device)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"input_ids": OnGpu()}, True),
        ({"input_ids": OnGpu(), "attention_mask": OnGpu(ndim=2)}, True),
        ({"input_ids": OnGpu(), "attention_mask": OnGpu(ndim=4)}, False),
        ({"inputs_embeds": OnGpu(ndim=3)}, False),
    ],
)
def test_masks_that_say_who_sees_whom_go_by_the_host(arguments: dict[str, Any], expected: bool) -> None:
    assert stays_on_gpu(**arguments) is expected


@pytest.mark.parametrize("name", ["encoder_hidden_states", "encoder_attention_mask"])
def test_a_source_on_another_device_is_refused_by_the_model(name: str) -> None:
    model = XLMRobertaModel(XLMRobertaConfig(**TINY, is_decoder=True, add_cross_attention=True))
    source = {"encoder_hidden_states": np.zeros((1, 2, 24)), "encoder_attention_mask": np.ones((1, 2)), name: OnGpu()}
    with pytest.raises(TypeError, match=rf"{name} is on cuda:0 and input_ids on cpu; bring them to the same device"):
        model([[5, 6]], **source)
