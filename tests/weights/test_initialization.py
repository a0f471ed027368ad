"""Random weights: what the reference draws, and never more of them than a machine could hold."""

import tracemalloc

import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

import xlmr_np
from tests.reference_models import TINY
from xlmr_np import XLM_ROBERTA_BASE, XLMRobertaConfig, XLMRobertaModel, trees
from xlmr_np.weights.initialization import MAX_PARAMETERS, check_size, initial_array
from xlmr_np.weights.specification import Parameter, encoder_specification

HALF_TYPES = [np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)]
DTYPES = [np.dtype(np.float64), np.dtype(np.float32), *HALF_TYPES]


def normal(shape: tuple[int, ...], zero_row: int | None = None) -> Parameter:
    return Parameter("some.weight", shape, "normal", zero_row)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_weights_are_normal_and_not_truncated(dtype: np.dtype) -> None:
    array = initial_array(normal((1000, 800)), 0.02, np.random.default_rng(0), dtype)
    assert array.dtype == dtype
    z = array.astype(np.float64) / 0.02
    n = z.size
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):  # of the standard normal
        assert abs(np.mean(z**power) - moment) < 5 * np.sqrt(variance / n), f"moment {power}"
    assert np.abs(z).max() > 4  # 51 of 800,000 lie beyond: none would, were the tails cut at 2 or 3


@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    zero_row=st.none() | st.integers(0, 12),
    dtype=st.sampled_from(DTYPES),
)
def test_the_row_of_padding_is_zeros(rows: int, columns: int, zero_row: int | None, dtype: np.dtype) -> None:
    array = initial_array(normal((rows, columns), zero_row), 1.0, np.random.default_rng(0), dtype)
    zero_rows = [row for row in range(rows) if not array[row].any()]
    assert array.shape == (rows, columns)
    assert zero_rows == ([zero_row] if zero_row is not None and zero_row < rows else [])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_constants(dtype: np.dtype) -> None:
    for initial, value in (("zeros", 0), ("ones", 1)):
        array = initial_array(Parameter("name", (7,), initial), 0.02, np.random.default_rng(0), dtype)
        assert array.dtype == dtype
        assert array.tolist() == [value] * 7


@pytest.mark.parametrize("dtype", HALF_TYPES, ids=str)
def test_half_types_are_rounded_single_precision(dtype: np.dtype) -> None:
    single = initial_array(normal((40, 30)), 0.02, np.random.default_rng(3), np.dtype(np.float32))
    half = initial_array(normal((40, 30)), 0.02, np.random.default_rng(3), dtype)
    np.testing.assert_array_equal(half, single.astype(dtype))


DECODER = {"is_decoder": True, "add_cross_attention": True}


@pytest.mark.parametrize(
    ("class_name", "more"),
    [
        ("XLMRobertaModel", {}),
        ("XLMRobertaModel", DECODER),
        ("XLMRobertaForMaskedLM", {}),
        ("XLMRobertaForMaskedLM", {"tie_word_embeddings": False}),
        ("XLMRobertaForCausalLM", {}),
        ("XLMRobertaForCausalLM", DECODER),
        ("XLMRobertaForSequenceClassification", {}),
        ("XLMRobertaForTokenClassification", {}),
        ("XLMRobertaForQuestionAnswering", {}),
        ("XLMRobertaForMultipleChoice", {}),
    ],
)
def test_a_new_model_starts_as_the_references_does(class_name: str, more: dict[str, bool]) -> None:
    changes = {"pad_token_id": 3, "initializer_range": 0.5, **more}
    torch.manual_seed(0)
    theirs = getattr(transformers, class_name)(transformers.XLMRobertaConfig(**{**TINY, **changes})).state_dict()
    config = XLMRobertaConfig(**{**TINY, **changes})
    ours = getattr(xlmr_np, class_name)(config, generator=np.random.default_rng(0)).state_dict()
    for name, tensor in theirs.items():
        expected = tensor.numpy()
        if is_constant(expected):
            np.testing.assert_array_equal(ours[name], expected, err_msg=name)
        else:
            assert not is_constant(ours[name]), name
            assert (ours[name] == 0).all(axis=1).tolist() == (expected == 0).all(axis=1).tolist(), name
            assert 0.3 < ours[name].std() < 0.7, name  # the smallest of these arrays has 24 elements


def is_constant(array: np.ndarray) -> bool:
    return bool(np.ptp(array) == 0)


def test_cross_attention_does_not_change_what_else_is_drawn() -> None:
    """But in later layers, whose numbers come after those of the first one's cross-attention."""
    plain, decoder = (
        XLMRobertaModel(XLMRobertaConfig(**TINY, **more), generator=np.random.default_rng(0)).params.encoder
        for more in ({}, DECODER)
    )
    np.testing.assert_array_equal(plain.embeddings.token, decoder.embeddings.token)
    for part in ("attention", "feed_forward"):
        pairs = zip(*(trees.leaves(getattr(each.layers[0], part)) for each in (plain, decoder)), strict=True)
        for our, their in pairs:
            np.testing.assert_array_equal(our, their)
    assert plain.layers[0].cross_attention is None


def test_a_generator_makes_models_reproducible() -> None:
    config = XLMRobertaConfig(**TINY)

    def weights(seed: int | None) -> list[np.ndarray]:
        generator = None if seed is None else np.random.default_rng(seed)
        return list(XLMRobertaModel(config, generator=generator).state_dict().values())

    def equal(first: list[np.ndarray], second: list[np.ndarray]) -> bool:
        return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))

    assert equal(weights(5), weights(5))
    assert not equal(weights(5), weights(6))
    assert not equal(weights(None), weights(None))


def test_absurd_sizes_are_refused_before_anything_is_allocated() -> None:
    config = XLMRobertaConfig(vocab_size=2**22, hidden_size=2**16, num_attention_heads=16)
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"describes [\d,]+ parameters; more than 25,000,000,000 is refused"):
        XLMRobertaModel(config)
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()


def test_the_limit_itself_is_allowed() -> None:
    check_size(normal((MAX_PARAMETERS,)))
    with pytest.raises(ValueError, match="25,000,000,001"):
        check_size((normal((MAX_PARAMETERS,)), None, (normal((1,)),)))


def test_the_largest_model_known_is_below_the_limit() -> None:
    xxl = XLMRobertaConfig(
        **XLM_ROBERTA_BASE.to_dict()
        | {"hidden_size": 4096, "num_hidden_layers": 48, "num_attention_heads": 32, "intermediate_size": 16384}
    )
    check_size(encoder_specification(xxl))
    assert encoder_specification(xxl).embeddings.token.size > 1_000_000_000
