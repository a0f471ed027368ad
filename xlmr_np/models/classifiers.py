"""The encoder with a head that classifies: sentences, tokens, the ends of an answer, or choices."""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, NamedTuple, Self, Unpack

import numpy as np

from xlmr_np import trees
from xlmr_np.arrays import Array, array_namespace, or_minus_infinity, to_numpy
from xlmr_np.config import XLMRobertaConfig
from xlmr_np.heads.multiple_choice import multiple_choice_backward, multiple_choice_forward
from xlmr_np.heads.question_answering import (
    question_answering_backward,
    question_answering_forward,
    span_loss_backward,
    span_loss_forward,
)
from xlmr_np.heads.sequence_classification import (
    SequenceClassificationDropout,
    sequence_classification_backward,
    sequence_classification_forward,
)
from xlmr_np.heads.token_classification import token_classification_backward, token_classification_forward
from xlmr_np.inputs import (
    EncoderInputs,
    by_sentence_backward,
    by_sentence_forward,
    flat_choices,
    pack,
    sentence_places,
    token_places,
    unpack,
)
from xlmr_np.labels import choice_labels, sequence_labels, span_labels, token_labels, warn_if_nothing_counts
from xlmr_np.layers.dropout import Dropout
from xlmr_np.losses.binary_cross_entropy import binary_cross_entropy_backward, binary_cross_entropy_forward
from xlmr_np.losses.cross_entropy import cross_entropy_backward, cross_entropy_forward
from xlmr_np.losses.mean_squared_error import mean_squared_error_backward, mean_squared_error_forward
from xlmr_np.models.encoding import DropoutKeys, Requests, TaskModel
from xlmr_np.models.on_device import on_device
from xlmr_np.models.pretrained import ModelParams
from xlmr_np.ops import Ops
from xlmr_np.outputs import (
    ModelOutput,
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from xlmr_np.weights.specification import (
    classifier_specification,
    encoder_specification,
    multiple_choice_specification,
    question_answering_specification,
    sequence_classification_specification,
)


class Loss(NamedTuple):
    """A loss: `forward(logits, labels) -> (loss, cache)` and `backward(d_loss, cache, labels) -> d_logits`."""

    forward: Callable[..., Any]
    backward: Callable[..., Any]
    is_cross_entropy: bool = False  # of classes of which one is right: both functions then take `smoothing`, too


CROSS_ENTROPY = Loss(cross_entropy_forward, cross_entropy_backward, is_cross_entropy=True)
SPAN_LOSS = Loss(span_loss_forward, span_loss_backward, is_cross_entropy=True)
LOSSES = {
    "single_label_classification": CROSS_ENTROPY,
    "multi_label_classification": Loss(binary_cross_entropy_forward, binary_cross_entropy_backward),
    "regression": Loss(mean_squared_error_forward, mean_squared_error_backward),
}


class Targets(NamedTuple):
    """What a model is to say, and how wrong it is if it says otherwise."""

    loss: Loss
    labels: Any  # one array, or one for each array of logits

    def smoothed(self, smoothing: float) -> Self:
        """The same with a part of the loss for all classes alike.

        Raises:
            ValueError: the labels are not classes of which one is right.
        """
        if not self.loss.is_cross_entropy:
            raise ValueError(
                f"label_smoothing={smoothing} needs labels that are classes, one for each sentence; for regression and "
                "for several labels a sentence leave it at 0."
            )
        forward, backward = (partial(each, smoothing=smoothing) for each in self.loss[:2])
        return self._replace(loss=Loss(forward, backward, is_cross_entropy=True))


class ClassifierModel(TaskModel):
    """A model whose loss is a function of a few logits: encoder, then head, then loss, and the same way back.

    A class says what its head is, by the methods that raise NotImplementedError here.
    """

    output_class: ClassVar[type[ModelOutput]]

    def _forward(self, requests: Requests, labels: dict[str, Any], **arguments: Any) -> Any:
        inputs, encoded = self._run(requests, **arguments)
        targets = self._targets(inputs, **labels)
        logits, _ = self._head_forward(encoded.rows, inputs, self.engine.inference, None)
        self._checked(*trees.leaves(logits))
        loss = None if targets is None else targets.loss.forward(logits, targets.labels)[0]
        output = self._output(loss, logits, inputs, encoded.hidden_states, encoded.attentions)
        return self._returned(output, requests)

    @on_device
    def loss_and_gradients(
        self,
        generator: np.random.Generator | None = None,
        *,
        checkpoint_layers: bool = False,
        label_smoothing: float = 0.0,
        loss_scale: float = 1.0,
        **batch: Any,
    ) -> tuple[Any, ModelParams]:
        """The output with its loss, and the gradient of the loss for every parameter.

        Args:
            generator: draws what is dropped, at the rates of the config; None drops nothing.
            checkpoint_layers: trade time for memory, see `xlmr_np.encoder.encoder_forward`.
            label_smoothing: the share of the loss, below 1, that asks for all classes alike in place of the right one;
                classes are also the places of an answer (all real tokens) and choices (those with a real token).
            loss_scale: what the gradients, though not the loss, are multiplied with, so that small ones do not vanish
                in float16.
            **batch: the arguments of `forward` but for requests, with labels.

        Returns:
            The output of `forward`, and gradients in the tree of the parameters, in the type that is computed in. The
            token table's is a `RowSparse`. `named` gives them their official names.

        Raises:
            ValueError, TypeError: as for `forward`; or there are no labels, or no real token; or `label_smoothing` is
                no share, or there are no classes to smooth.
        """
        inputs, targets = self._training_inputs(batch, label_smoothing)
        keys = DropoutKeys(generator)
        training_pass = self._encode_for_training(inputs, keys, checkpoint_layers)
        ops, dropout = self.engine.training, self._head_dropout(inputs, keys)

        logits, head_cache = self._head_forward(training_pass.rows, inputs, ops, dropout)
        loss, loss_cache = targets.loss.forward(logits, targets.labels)

        d_loss = array_namespace(loss).ones_like(loss) * loss_scale
        d_logits = targets.loss.backward(d_loss, loss_cache, targets.labels)
        d_rows, d_head = self._head_backward(d_logits, head_cache, inputs, ops, dropout)
        _, d_encoder = self._encoder_gradients(d_rows, inputs, training_pass)
        return self._output(loss, logits, inputs), ModelParams(d_encoder, d_head)

    @property
    def _classifier_dropout(self) -> float:
        """The rate at which the head drops features."""
        rate = self.config.classifier_dropout
        return self.config.hidden_dropout_prob if rate is None else rate

    def _head_forward(self, rows: Array, inputs: EncoderInputs, ops: Ops, dropout: Any) -> tuple[Any, Any]:
        """(Logits as the loss takes them, cache) from the hidden states [N, D] of real tokens, see `Encoded.rows`."""
        raise NotImplementedError

    def _head_backward(
        self, d_logits: Any, cache: Any, inputs: EncoderInputs, ops: Ops, dropout: Any
    ) -> tuple[Array, Any]:
        """The gradients of the hidden states [N, D] and of the head's parameters."""
        raise NotImplementedError

    def _head_dropout(self, inputs: EncoderInputs, keys: DropoutKeys) -> Any:
        """What the head drops in a training step."""
        raise NotImplementedError

    def _laid_out(self, logits: Any, inputs: EncoderInputs) -> tuple[Array, ...]:
        """The logits as the users get them."""
        return (logits,)

    def _output(self, loss: Array | None, logits: Any, inputs: EncoderInputs, *requested: Any) -> Any:
        return self.output_class(loss, *self._laid_out(logits, inputs), *requested)  # type: ignore[call-arg]


class LabelledModel(ClassifierModel):
    """A classifier whose right answers are one array `labels`; which, its class says."""

    @on_device
    def forward(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        inputs_embeds: Any = None,
        labels: Any = None,
        **requests: Unpack[Requests],
    ) -> Any:
        """The logits, and their loss if there are labels.

        Args:
            input_ids: see `XLMRobertaModel.forward`, as for the next four.
            attention_mask: see there.
            token_type_ids: see there.
            position_ids: see there.
            inputs_embeds: see there.
            labels: see the class.
            **requests: see `Requests`.

        Returns:
            The record that the class names, or its tuple.

        Raises:
            ValueError, TypeError: as for `XLMRobertaModel.forward`; or the labels are not what the class asks for.
        """
        return self._forward(
            requests,
            {"labels": labels},
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
        )


class XLMRobertaForSequenceClassification(LabelledModel):
    """The encoder with a classifier of sentences (sentiment, topic, entailment, similarity).

    Labels are [B] classes, -100 leaving a sentence out; [B, C] numbers from 0 to 1 for several labels a sentence; or
    [B] or [B, C] numbers for regression. `config.problem_type` says which; where it is None, one label means
    regression, integers mean classes, and anything else several labels. `forward` returns a
    `SequenceClassifierOutput`.
    """

    output_class = SequenceClassifierOutput
    reads_first_tokens = True

    @classmethod
    def _specification(cls, config: XLMRobertaConfig, is_tied: bool, has_pooler: bool) -> ModelParams:
        return ModelParams(encoder_specification(config), sequence_classification_specification(config))

    def _head_forward(self, rows: Array, inputs: EncoderInputs, ops: Ops, dropout: Any) -> tuple[Array, Any]:
        first = by_sentence_forward(rows, inputs.is_real)
        return sequence_classification_forward(first, self.params.head, ops, dropout or SequenceClassificationDropout())

    def _head_backward(
        self, d_logits: Any, cache: Any, inputs: EncoderInputs, ops: Ops, dropout: Any
    ) -> tuple[Array, Any]:
        d_first, d_head = sequence_classification_backward(d_logits, cache, self.params.head, ops, dropout)
        return by_sentence_backward(d_first, inputs.is_real), d_head

    def _head_dropout(self, inputs: EncoderInputs, keys: DropoutKeys) -> SequenceClassificationDropout:
        places = sentence_places(inputs.is_real)
        first_token = keys.tokens(self._classifier_dropout, *places)
        return SequenceClassificationDropout(first_token, keys.tokens(self._classifier_dropout, *places))

    def _targets(self, inputs: EncoderInputs, **labels: Any) -> Targets | None:
        if labels["labels"] is None:
            return None
        problem_type, array = sequence_labels(
            labels["labels"],
            self.config.problem_type,
            to_numpy(inputs.is_real).any(axis=1),
            number_of_labels=self.params.head.out_proj.bias.shape[0],
        )
        return Targets(LOSSES[problem_type], self._to_device(array))


class XLMRobertaForTokenClassification(LabelledModel):
    """The encoder with a classifier of tokens (named entities, parts of speech).

    Labels are [B, T] classes; -100 leaves a token out of the loss, as every padding token must be. `forward` returns a
    `TokenClassifierOutput`.
    """

    output_class = TokenClassifierOutput

    @classmethod
    def _specification(cls, config: XLMRobertaConfig, is_tied: bool, has_pooler: bool) -> ModelParams:
        return ModelParams(encoder_specification(config), classifier_specification(config, config.num_labels))

    def _head_forward(self, rows: Array, inputs: EncoderInputs, ops: Ops, dropout: Any) -> tuple[Array, Any]:
        return token_classification_forward(rows, self.params.head, ops, dropout)

    def _head_backward(
        self, d_logits: Any, cache: Any, inputs: EncoderInputs, ops: Ops, dropout: Any
    ) -> tuple[Array, Any]:
        return token_classification_backward(d_logits, cache, self.params.head, ops, dropout)

    def _head_dropout(self, inputs: EncoderInputs, keys: DropoutKeys) -> Dropout | None:
        sentences, rows = token_places(inputs.is_real)
        return keys.tokens(self._classifier_dropout, pack(sentences, inputs.is_real), pack(rows, inputs.is_real))

    def _targets(self, inputs: EncoderInputs, **labels: Any) -> Targets | None:
        if labels["labels"] is None:
            return None
        is_real = to_numpy(inputs.is_real)
        array = token_labels(labels["labels"], is_real, self.params.head.bias.shape[0])
        warn_if_nothing_counts(array)
        return Targets(CROSS_ENTROPY, self._to_device(array[is_real]))

    def _laid_out(self, logits: Any, inputs: EncoderInputs) -> tuple[Array, ...]:
        return (unpack(logits, inputs.is_real),)


class XLMRobertaForQuestionAnswering(ClassifierModel):
    """The encoder with a head that says where in a text an answer starts and where it ends.

    A choice is made among the real tokens of a row, so that an answer does not depend on the padding beside it.
    """

    output_class = QuestionAnsweringModelOutput
    label_names = ("start_positions", "end_positions")

    @classmethod
    def _specification(cls, config: XLMRobertaConfig, is_tied: bool, has_pooler: bool) -> ModelParams:
        if config.num_labels != 2:
            raise ValueError(f"Question answering has two labels, start and end; the config has {config.num_labels}.")
        return ModelParams(encoder_specification(config), question_answering_specification(config))

    @on_device
    def forward(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        inputs_embeds: Any = None,
        start_positions: Any = None,
        end_positions: Any = None,
        **requests: Unpack[Requests],
    ) -> QuestionAnsweringModelOutput | tuple[Any, ...]:
        """The start and end logits of every token, and their loss if both positions are given.

        Args:
            input_ids: see `XLMRobertaModel.forward`, as for the next four.
            attention_mask: see there.
            token_type_ids: see there.
            position_ids: see there.
            inputs_embeds: see there.
            start_positions: [B] or [B, 1], where in the row each answer starts. A negative place means the
                classification token, and one behind the row leaves the question out of the loss.
            end_positions: the same for the answer's last token.
            **requests: see `Requests`.

        Returns:
            A `QuestionAnsweringModelOutput`.

        Raises:
            ValueError, TypeError: as for `XLMRobertaModel.forward`; or a position is padding, or no integer.
        """
        return self._forward(
            requests,
            {"start_positions": start_positions, "end_positions": end_positions},
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
        )

    def _head_forward(self, rows: Array, inputs: EncoderInputs, ops: Ops, dropout: None) -> tuple[Any, Any]:
        logits, cache = question_answering_forward(rows, self.params.head, ops)
        return tuple(_ruled_out_at_padding(each, inputs) for each in logits), cache

    def _head_backward(
        self, d_logits: Any, cache: Any, inputs: EncoderInputs, ops: Ops, dropout: None
    ) -> tuple[Array, Any]:
        d_rows = tuple(pack(each, inputs.is_real) for each in d_logits)
        return question_answering_backward(d_rows, cache, self.params.head, ops)

    def _head_dropout(self, inputs: EncoderInputs, keys: DropoutKeys) -> None:
        return None

    def _targets(self, inputs: EncoderInputs, **labels: Any) -> Targets | None:
        if any(each is None for each in labels.values()):
            return None
        arrays = span_labels(**labels, is_real=to_numpy(inputs.is_real))
        return Targets(SPAN_LOSS, trees.map_leaves(self._to_device, arrays))

    def _laid_out(self, logits: Any, inputs: EncoderInputs) -> tuple[Array, ...]:
        return tuple(logits)


class XLMRobertaForMultipleChoice(ClassifierModel):
    """The encoder with a head that chooses among several continuations or answers.

    The arguments have one axis more than those of other classes, [B, C, T] for C choices of B questions;
    `hidden_states` and `attentions` come back for B·C sentences. A choice without a real token has the logit -inf.
    """

    output_class = MultipleChoiceModelOutput
    reads_first_tokens = True

    @classmethod
    def _specification(cls, config: XLMRobertaConfig, is_tied: bool, has_pooler: bool) -> ModelParams:
        return ModelParams(encoder_specification(config), multiple_choice_specification(config))

    @on_device
    def forward(
        self,
        input_ids: Any = None,
        token_type_ids: Any = None,
        attention_mask: Any = None,
        labels: Any = None,
        position_ids: Any = None,
        inputs_embeds: Any = None,
        **requests: Unpack[Requests],
    ) -> MultipleChoiceModelOutput | tuple[Any, ...]:
        """A logit for every choice, and the loss if there are labels. Mind the order of the arguments.

        Args:
            input_ids: [B, C, T] token ids; exactly one of this and `inputs_embeds`.
            token_type_ids: [B, C, T]; zeros if None.
            attention_mask: [B, C, T], nonzero at real tokens; None: all tokens that are not padding.
            labels: [B], the number of the right choice; -100 leaves a question out of the loss.
            position_ids: [B, C, T]; None counts the real tokens.
            inputs_embeds: [B, C, T, D] vectors in place of the token table's rows.
            **requests: see `Requests`.

        Returns:
            A `MultipleChoiceModelOutput`.

        Raises:
            ValueError, TypeError: as for `XLMRobertaModel.forward`; or the labels are no choices.
        """
        return self._forward(
            requests,
            {"labels": labels},
            input_ids=input_ids,
            token_type_ids=token_type_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
        )

    def _prepare(self, output_attentions: bool = False, **arguments: Any) -> EncoderInputs:
        """The choices of all questions as sentences, one after the other."""
        flat, choices = flat_choices(arguments)
        return super()._prepare(output_attentions, **flat)._replace(sentences_per_example=choices)

    def _head_forward(self, rows: Array, inputs: EncoderInputs, ops: Ops, dropout: Any) -> tuple[Array, Any]:
        first = by_sentence_forward(rows, inputs.is_real)
        logits, cache = multiple_choice_forward(first, self.params.head, ops, dropout)
        xp = array_namespace(logits)
        possible = or_minus_infinity(xp.any(inputs.is_real, axis=1), logits)
        return xp.reshape(possible, (-1, inputs.sentences_per_example)), cache

    def _head_backward(
        self, d_logits: Any, cache: Any, inputs: EncoderInputs, ops: Ops, dropout: Any
    ) -> tuple[Array, Any]:
        d_flat = array_namespace(d_logits).reshape(d_logits, (-1,))
        d_first, d_head = multiple_choice_backward(d_flat, cache, self.params.head, ops, dropout)
        return by_sentence_backward(d_first, inputs.is_real), d_head

    def _head_dropout(self, inputs: EncoderInputs, keys: DropoutKeys) -> Dropout | None:
        return keys.tokens(self.config.hidden_dropout_prob, *sentence_places(inputs.is_real))

    def _targets(self, inputs: EncoderInputs, **labels: Any) -> Targets | None:
        if labels["labels"] is None:
            return None
        has_token = to_numpy(inputs.is_real).any(axis=1)
        array = choice_labels(labels["labels"], has_token.reshape(-1, inputs.sentences_per_example))
        return Targets(CROSS_ENTROPY, self._to_device(array))


def _ruled_out_at_padding(logits: Array, inputs: EncoderInputs) -> Array:
    """The logits [N] of the real tokens as [B, T], with -inf at padding, which can then neither win nor count."""
    return or_minus_infinity(inputs.is_real, unpack(logits, inputs.is_real))
