"""Every parameter of every model class: its official name, its shape, and how it starts.

The specification of a model is a tree with the structure of its parameters and a `Parameter` at each leaf,
so that names, shapes and initial values stand in one place, and reading a checkpoint, writing one and
making random weights are three walks over the same tree.

Names here are those of a bare `XLMRobertaModel`. In models with a head, the names of the body carry the
prefix "roberta."; `official_name` adds it and `bare_name` takes it away.
"""

from dataclasses import dataclass
from math import prod
from typing import Literal

from xlmr_np.config import XLMRobertaConfig
from xlmr_np.encoder import EncoderParams
from xlmr_np.heads.masked_lm import MaskedLMParams
from xlmr_np.heads.multiple_choice import MultipleChoiceParams
from xlmr_np.heads.sequence_classification import SequenceClassificationParams
from xlmr_np.layers.add_norm import AddNormParams
from xlmr_np.layers.embeddings import EmbeddingsParams
from xlmr_np.layers.encoder_layer import EncoderLayerParams
from xlmr_np.layers.feed_forward import FeedForwardParams
from xlmr_np.layers.layer_norm import LayerNormParams
from xlmr_np.layers.linear import LinearParams
from xlmr_np.layers.self_attention import AttentionParams

BODY_PREFIX = "roberta."
BODY_PARTS = ("embeddings.", "encoder.", "pooler.")
HEAD_PARTS = ("lm_head.", "classifier.", "qa_outputs.")

CROSS_ATTENTION = ".crossattention"  # in the names of its parameters, behind their layer's
TOKEN_TABLE = "embeddings.word_embeddings.weight"
DECODER_WEIGHT = "lm_head.decoder.weight"
DECODER_BIAS = "lm_head.decoder.bias"
TIED_DECODER_BIAS = "lm_head.bias"


@dataclass(frozen=True)
class Parameter:
    """One array of a checkpoint.

    Attributes:
        name: the bare official name.
        shape: of the array.
        initial: "normal" (mean 0, standard deviation `initializer_range`), "zeros" or "ones".
        zero_row: a row that starts as zeros (padding), or None.
    """

    name: str
    shape: tuple[int, ...]
    initial: Literal["normal", "zeros", "ones"]
    zero_row: int | None = None

    @property
    def size(self) -> int:
        """The number of elements."""
        return prod(self.shape)


def official_name(name: str, has_head: bool) -> str:
    """The name in the checkpoint of a model with or without a head."""
    return BODY_PREFIX + name if has_head and name.startswith(BODY_PARTS) else name


def bare_name(name: str) -> str:
    """The inverse of `official_name`, for both kinds of model; old spellings of layer norms are modernised."""
    name = name.removeprefix(BODY_PREFIX)
    for old, new in (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")):
        if name.endswith(old):
            name = name.removesuffix(old) + new
    return name


def _linear(name: str, outputs: int, inputs: int) -> LinearParams:
    return LinearParams(
        Parameter(f"{name}.weight", (outputs, inputs), "normal"),
        Parameter(f"{name}.bias", (outputs,), "zeros"),
    )


def _layer_norm(name: str, width: int) -> LayerNormParams:
    return LayerNormParams(Parameter(f"{name}.weight", (width,), "ones"), Parameter(f"{name}.bias", (width,), "zeros"))


def _add_norm(name: str, width: int, inputs: int) -> AddNormParams:
    return AddNormParams(_linear(f"{name}.dense", width, inputs), _layer_norm(f"{name}.LayerNorm", width))


def _attention(name: str, width: int) -> AttentionParams:
    return AttentionParams(
        query=_linear(f"{name}.self.query", width, width),
        key=_linear(f"{name}.self.key", width, width),
        value=_linear(f"{name}.self.value", width, width),
        output=_add_norm(f"{name}.output", width, width),
    )


def _encoder_layer(name: str, width: int, intermediate_width: int, has_cross_attention: bool) -> EncoderLayerParams:
    return EncoderLayerParams(
        attention=_attention(f"{name}.attention", width),
        feed_forward=FeedForwardParams(
            intermediate=_linear(f"{name}.intermediate.dense", intermediate_width, width),
            output=_add_norm(f"{name}.output", width, intermediate_width),
        ),
        cross_attention=_attention(f"{name}{CROSS_ATTENTION}", width) if has_cross_attention else None,
    )


def encoder_specification(config: XLMRobertaConfig) -> EncoderParams:
    """The embeddings and the layers."""
    width, pad_id = config.hidden_size, config.pad_token_id
    return EncoderParams(
        embeddings=EmbeddingsParams(
            token=Parameter(TOKEN_TABLE, (config.vocab_size, width), "normal", zero_row=pad_id),
            position=Parameter(
                "embeddings.position_embeddings.weight",
                (config.max_position_embeddings, width),
                "normal",
                zero_row=pad_id,
            ),
            token_type=Parameter("embeddings.token_type_embeddings.weight", (config.type_vocab_size, width), "normal"),
            layer_norm=_layer_norm("embeddings.LayerNorm", width),
        ),
        layers=tuple(
            _encoder_layer(f"encoder.layer.{i}", width, config.intermediate_size, config.add_cross_attention)
            for i in range(config.num_hidden_layers)
        ),
    )


def pooler_specification(config: XLMRobertaConfig) -> LinearParams:
    """The dense layer on the classification token."""
    return _linear("pooler.dense", config.hidden_size, config.hidden_size)


def masked_lm_specification(config: XLMRobertaConfig, is_tied: bool) -> MaskedLMParams:
    """The language-model head; tied, its decoder weight is the token table and has no place of its own."""
    width, vocabulary = config.hidden_size, config.vocab_size
    return MaskedLMParams(
        dense=_linear("lm_head.dense", width, width),
        layer_norm=_layer_norm("lm_head.layer_norm", width),
        decoder=LinearParams(
            weight=None if is_tied else Parameter(DECODER_WEIGHT, (vocabulary, width), "normal"),
            bias=Parameter(TIED_DECODER_BIAS if is_tied else DECODER_BIAS, (vocabulary,), "zeros"),
        ),
    )


def classifier_specification(config: XLMRobertaConfig, outputs: int) -> LinearParams:
    """One projection of every token, or of every pooled sentence."""
    return _linear("classifier", outputs, config.hidden_size)


def sequence_classification_specification(config: XLMRobertaConfig) -> SequenceClassificationParams:
    """The classifier of sentences."""
    return SequenceClassificationParams(
        dense=_linear("classifier.dense", config.hidden_size, config.hidden_size),
        out_proj=_linear("classifier.out_proj", config.num_labels, config.hidden_size),
    )


def question_answering_specification(config: XLMRobertaConfig) -> LinearParams:
    """The projection of every token onto start and end."""
    return _linear("qa_outputs", 2, config.hidden_size)


def multiple_choice_specification(config: XLMRobertaConfig) -> MultipleChoiceParams:
    """The pooler, and one logit for every choice."""
    return MultipleChoiceParams(pooler_specification(config), classifier_specification(config, 1))
