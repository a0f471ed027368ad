"""Names and shapes of parameters: one table, reversible, equal to the reference's."""

from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

import xlmr_np
from xlmr_np import XLM_ROBERTA_BASE, XLM_ROBERTA_LARGE, XLMRobertaConfig, trees
from xlmr_np.weights.specification import (
    HEAD_PARTS,
    Parameter,
    bare_name,
    classifier_specification,
    encoder_specification,
    masked_lm_specification,
    multiple_choice_specification,
    official_name,
    pooler_specification,
    question_answering_specification,
    sequence_classification_specification,
)

SIZES: dict[str, Any] = {
    "vocab_size": 31,
    "hidden_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 20,
    "max_position_embeddings": 18,
    "type_vocab_size": 2,
}

CROSS_ATTENTION = {"is_decoder": True, "add_cross_attention": True}
MODELS = {
    "with a pooler": ("XLMRobertaModel", {}, {}),
    "without a pooler": ("XLMRobertaModel", {}, {"add_pooling_layer": False}),
    "tied": ("XLMRobertaForMaskedLM", {"tie_word_embeddings": True}, {}),
    "untied": ("XLMRobertaForMaskedLM", {"tie_word_embeddings": False}, {}),
    "tied, causal": ("XLMRobertaForCausalLM", {"tie_word_embeddings": True, "is_decoder": True}, {}),
    "untied, causal": ("XLMRobertaForCausalLM", {"tie_word_embeddings": False, "is_decoder": True}, {}),
    "cross-attention": ("XLMRobertaModel", CROSS_ATTENTION, {}),
    "tied, causal, cross-attention": ("XLMRobertaForCausalLM", CROSS_ATTENTION, {}),
    "masked, cross-attention": ("XLMRobertaForMaskedLM", CROSS_ATTENTION, {}),
    "sentences": ("XLMRobertaForSequenceClassification", {"num_labels": 5}, {}),
    "one number": ("XLMRobertaForSequenceClassification", {"num_labels": 1}, {}),
    "tokens": ("XLMRobertaForTokenClassification", {"num_labels": 5}, {}),
    "answers": ("XLMRobertaForQuestionAnswering", {}, {}),
    "choices": ("XLMRobertaForMultipleChoice", {"num_labels": 5}, {}),  # which it has no use for
}


def all_parameters(config: XLMRobertaConfig, is_tied: bool) -> list[list[Parameter]]:
    """Those of every head, with the encoder and the pooler."""
    return [
        list(trees.leaves((encoder_specification(config), pooler_specification(config), head)))
        for head in (
            masked_lm_specification(config, is_tied),
            classifier_specification(config, 5),
            sequence_classification_specification(config),
            question_answering_specification(config),
            multiple_choice_specification(config).classifier,
        )
    ]


NAMES = sorted(
    {
        parameter.name
        for is_tied in (True, False)
        for parameters in all_parameters(XLMRobertaConfig(**SIZES, **CROSS_ATTENTION), is_tied)
        for parameter in parameters
    }
)


@pytest.mark.parametrize("model", MODELS)
def test_names_and_shapes_are_the_references(model: str) -> None:
    class_name, changes, settings = MODELS[model]
    with torch.device("meta"):
        theirs = getattr(transformers, class_name)(transformers.XLMRobertaConfig(**SIZES, **changes), **settings)
    ours = getattr(xlmr_np, class_name)(XLMRobertaConfig(**SIZES, **changes), **settings)
    assert {name: array.shape for name, array in ours.state_dict().items()} == {
        name: tuple(tensor.shape) for name, tensor in theirs.state_dict().items()
    }
    assert ours.num_parameters() == theirs.num_parameters() - ("untied" in model) * SIZES["vocab_size"]
    # ... for the reference counts the untied lm_head.bias, which it never uses


@given(name=st.sampled_from(NAMES), has_head=st.booleans())
def test_official_names_turn_back_into_bare_ones(name: str, has_head: bool) -> None:
    official = official_name(name, has_head)
    assert bare_name(official) == name
    assert official_name(bare_name(official), has_head) == official


@given(name=st.sampled_from(NAMES))
def test_the_prefix_stands_before_the_body_of_models_with_a_head(name: str) -> None:
    is_of_the_head = name.startswith(HEAD_PARTS)
    assert official_name(name, has_head=True) == (name if is_of_the_head else f"roberta.{name}")
    assert official_name(name, has_head=False) == name


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("roberta.embeddings.LayerNorm.gamma", "embeddings.LayerNorm.weight"),
        ("encoder.layer.0.output.LayerNorm.beta", "encoder.layer.0.output.LayerNorm.bias"),
        ("encoder.layer.0.gamma.weight", "encoder.layer.0.gamma.weight"),
        ("lm_head.layer_norm.gamma", "lm_head.layer_norm.gamma"),  # no old program wrote this head
    ],
)
def test_old_spellings_of_layer_norms(old: str, new: str) -> None:
    assert bare_name(old) == new


@pytest.mark.parametrize("is_tied", [True, False])
def test_every_name_appears_once(is_tied: bool) -> None:
    for parameters in all_parameters(XLMRobertaConfig(**SIZES, **CROSS_ATTENTION), is_tied):
        names = [parameter.name for parameter in parameters]
        assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("config", "per_layer", "with_pooler", "masked_lm"),
    [
        (XLM_ROBERTA_BASE, 7_087_872, 278_043_648, 278_295_186),
        (XLM_ROBERTA_LARGE, 12_596_224, 559_890_432, 560_142_482),
    ],
    ids=["base", "large"],
)
def test_the_published_models_have_their_published_sizes(
    config: XLMRobertaConfig, per_layer: int, with_pooler: int, masked_lm: int
) -> None:
    def size(*parts: trees.Tree) -> int:
        return sum(parameter.size for parameter in trees.leaves(parts))

    encoder = encoder_specification(config)
    assert {size(layer) for layer in encoder.layers} == {per_layer}
    assert size(encoder, pooler_specification(config)) == with_pooler
    assert size(encoder, masked_lm_specification(config, is_tied=True)) == masked_lm
