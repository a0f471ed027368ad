"""The encoder with the language-model head, reading masks from both sides or tokens from the left."""

import logging
import os
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Self, Unpack

import numpy as np

from xlmr_np.arrays import Array, array_namespace, device_context, to_device, to_numpy
from xlmr_np.config import XLMRobertaConfig
from xlmr_np.decoding.cache import KeyValueCache
from xlmr_np.decoding.generation_config import GENERATION_CONFIG_FILE, GenerationConfig
from xlmr_np.heads.causal_lm import next_token_labels
from xlmr_np.heads.masked_lm import (
    MaskedLMParams,
    masked_lm_forward,
    masked_lm_loss_backward,
    masked_lm_loss_forward,
    masked_lm_transform_forward,
)
from xlmr_np.inputs import EncoderInputs, check_places, pack, places_to_keep, unpack
from xlmr_np.labels import counted_items, token_labels
from xlmr_np.layers.linear import LinearParams
from xlmr_np.losses.cross_entropy import cross_entropy_forward
from xlmr_np.models.encoding import DropoutKeys, Encoded, Requests, TaskModel
from xlmr_np.models.on_device import on_device
from xlmr_np.models.pretrained import ModelParams
from xlmr_np.ops.reference import TopK
from xlmr_np.outputs import CausalLMOutput, MaskedLMOutput
from xlmr_np.weights.files import locate
from xlmr_np.weights.loading import Loaded
from xlmr_np.weights.specification import (
    DECODER_BIAS,
    DECODER_WEIGHT,
    TIED_DECODER_BIAS,
    encoder_specification,
    masked_lm_specification,
)

logger = logging.getLogger("xlmr_np")


class TokenTargets(NamedTuple):
    """Which of the N real tokens have something to predict, what, and what the mean loss is multiplied with."""

    is_labelled: Array  # [N]
    labels: Array  # [M], one for each True
    scale: float
    smoothing: float = 0.0  # of the labels

    def smoothed(self, smoothing: float) -> Self:
        """The same with a part of the loss for all tokens of the vocabulary alike."""
        return self._replace(smoothing=smoothing)


class LanguageModel(TaskModel):
    """What both language models share: the head, its tying, and a training step."""

    takes_source = True

    @classmethod
    def _specification(cls, config: XLMRobertaConfig, is_tied: bool, has_pooler: bool) -> ModelParams:
        return ModelParams(encoder_specification(config), masked_lm_specification(config, is_tied))

    @property
    def is_tied(self) -> bool:
        """Whether the decoder's weight is the token table."""
        return self.params.head.decoder.weight is None

    def state_dict(self) -> dict[str, Array]:
        """All parameters by official name, tied ones under each of their names."""
        decoder = self._head().decoder
        return {
            **self.named(self.params),
            DECODER_WEIGHT: decoder.weight,
            DECODER_BIAS: decoder.bias,
            TIED_DECODER_BIAS: decoder.bias,
        }

    def get_output_embeddings(self) -> Array:
        """The weight of the decoder onto the vocabulary, [V, D]; tied, the token table."""
        return self._head().decoder.weight

    def _saved(self) -> dict[str, Array]:
        """As the reference saves: tied arrays once, untied biases twice, though it computes with one only."""
        named = self.named(self.params)
        return named if self.is_tied else {**named, TIED_DECODER_BIAS: self.params.head.decoder.bias}

    def _head(self) -> MaskedLMParams:
        """The head's parameters with the decoder's weight in its place, tied or not."""
        head: MaskedLMParams = self.params.head
        if not self.is_tied:
            return head
        return head._replace(decoder=head.decoder._replace(weight=self.params.encoder.embeddings.token))

    def _logits(self, rows: Array) -> Array:
        """A logit for every token of the vocabulary at each of the N real tokens: [N, V]."""
        logits, _ = masked_lm_forward(rows, self._head(), self.config.layer_norm_eps, self.engine.inference)
        self._checked(logits)
        return logits

    def _counted(self, labels: np.ndarray, number_of_items: float | None = None) -> TokenTargets:
        """Those of the labels [N] of the real tokens that count."""
        is_labelled, scale = counted_items(labels, number_of_items)
        return TokenTargets(self._to_device(is_labelled), self._to_device(labels[is_labelled]), scale)

    @staticmethod
    def _loss(logits: Array, targets: TokenTargets) -> Array:
        """The mean cross-entropy at the labelled tokens, given the logits [N, V] of all."""
        return cross_entropy_forward(pack(logits, targets.is_labelled), targets.labels)[0] * targets.scale

    @on_device
    def loss(self, **batch: Any) -> Array:
        """The loss alone, of logits that are computed for the labelled tokens only, and by parts of the vocabulary.

        Args:
            **batch: as for `loss_and_gradients`.

        Raises:
            ValueError, TypeError: as there.
        """
        inputs, targets = self._training_inputs(batch)
        rows = self._encode(inputs, read=targets.is_labelled).rows
        head, eps, ops = self._head(), self.config.layer_norm_eps, self.engine.inference
        loss, _ = masked_lm_loss_forward(rows, head, targets.labels, eps, ops)
        self._checked(loss)
        return loss * targets.scale

    def _loss_and_gradients(
        self,
        generator: np.random.Generator | None,
        checkpoint_layers: bool,
        label_smoothing: float,
        loss_scale: float,
        batch: dict[str, Any],
    ) -> tuple[Array, ModelParams]:
        inputs, targets = self._training_inputs(batch, label_smoothing)
        training_pass = self._encode_for_training(
            inputs, DropoutKeys(generator), checkpoint_layers, targets.is_labelled
        )
        head, eps, ops = self._head(), self.config.layer_norm_eps, self.engine.training

        loss, cache = masked_lm_loss_forward(training_pass.rows, head, targets.labels, eps, ops, targets.smoothing)

        d_loss = array_namespace(loss).ones_like(loss) * (targets.scale * loss_scale)
        d_labelled, d_head = masked_lm_loss_backward(d_loss, cache, head, targets.labels, eps, ops, targets.smoothing)
        _, d_encoder = self._encoder_gradients(d_labelled, inputs, training_pass)
        if self.is_tied:  # one matrix with two uses: the decoder's gradient is dense, and so is the sum
            d_token = d_head.decoder.weight
            d_encoder.embeddings.token.add_to(d_token)
            d_encoder = d_encoder._replace(embeddings=d_encoder.embeddings._replace(token=d_token))
            d_head = d_head._replace(decoder=d_head.decoder._replace(weight=None))
        return loss * targets.scale, ModelParams(d_encoder, d_head)


class XLMRobertaForMaskedLM(LanguageModel):
    """The encoder with the masked-language-model head."""

    def _assemble(self, config: XLMRobertaConfig, loaded: Loaded, device: str, attention: str | None) -> None:
        super()._assemble(config, loaded, device, attention)
        if config.is_decoder:
            logger.warning("The config says is_decoder=True: tokens see no later ones, unlike in a masked model.")

    @on_device
    def forward(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        inputs_embeds: Any = None,
        encoder_hidden_states: Any = None,
        encoder_attention_mask: Any = None,
        labels: Any = None,
        **requests: Unpack[Requests],
    ) -> MaskedLMOutput | tuple[Any, ...]:
        """A logit for every token of the vocabulary, at every token of the input.

        This is an array of B x T x V numbers, a megabyte for each token of XLM-R; `predict` answers for
        the masks alone.

        Args:
            input_ids: see `XLMRobertaModel.forward`, as for all others but `labels`.
            attention_mask: see there.
            token_type_ids: see there.
            position_ids: see there.
            inputs_embeds: see there.
            encoder_hidden_states: see there.
            encoder_attention_mask: see there.
            labels: [B, T] the right tokens; -100 leaves a token out of the loss, as every padding token must be.
            **requests: see `Requests`.

        Returns:
            A `MaskedLMOutput`; logits at padding are zeros.

        Raises:
            ValueError, TypeError: as for `XLMRobertaModel.forward`; or a label is no token id, or stands at padding.
        """
        inputs, encoded = self._run(
            requests,
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
        )
        targets = self._targets(inputs, labels=labels)
        logits = self._logits(encoded.rows)
        loss = None if targets is None else self._loss(logits, targets)
        output = MaskedLMOutput(loss, unpack(logits, inputs.is_real), encoded.hidden_states, encoded.attentions)
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
    ) -> tuple[MaskedLMOutput, ModelParams]:
        """The loss, and its gradient for every parameter.

        Logits are computed for the labelled tokens only, and by parts of the vocabulary: the output has none. The
        gradient of `encoder_hidden_states` is left out; `XLMRobertaModel.vjp` gives it.

        Args:
            generator: draws what is dropped, at the rates of the config; None drops nothing.
            checkpoint_layers: trade time for memory, see `xlmr_np.encoder.encoder_forward`.
            label_smoothing: the share of the loss, below 1, that asks for all tokens of the vocabulary alike in place
                of the right one.
            loss_scale: what the gradients, though not the loss, are multiplied with, so that small ones do not vanish
                in float16.
            **batch: the arguments of `forward` but for requests, with labels.

        Returns:
            A `MaskedLMOutput` with the loss alone, and gradients in the tree of the parameters, in the type that is
            computed in. The token table's is a `RowSparse` unless the decoder is tied to it. `named` gives them their
            official names.

        Raises:
            ValueError, TypeError: as for `forward`; or there are no labels, or no real token; or `label_smoothing` is
                no share.
        """
        loss, gradients = self._loss_and_gradients(generator, checkpoint_layers, label_smoothing, loss_scale, batch)
        return MaskedLMOutput(loss), gradients

    def _targets(self, inputs: EncoderInputs, **labels: Any) -> TokenTargets | None:
        if labels["labels"] is None:
            return None
        is_real = to_numpy(inputs.is_real)
        return self._counted(token_labels(labels["labels"], is_real, self.config.vocab_size)[is_real])

    @on_device
    def predict(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        *,
        where: Any,
        k: int = 5,
        targets: list[int] | None = None,
    ) -> TopK:
        """The likeliest tokens at some places, computing logits nowhere else.

        Args:
            input_ids: [B, T].
            attention_mask: as for `forward`.
            where: [B, T] booleans, True at the N tokens to predict (the masks), which must be real ones.
            k: how many tokens for each of them.
            targets: choose among these token ids only.

        Returns:
            A `TopK` with N rows in the order of the text; `exp(logits - log_sum_exp)` are the probabilities
            over the whole vocabulary.

        Raises:
            ValueError: `k` is not between 1 and the number of tokens to choose from, or `where` does not fit.
        """
        vocabulary = self.config.vocab_size
        for target in targets or ():
            if not isinstance(target, int | np.integer) or not 0 <= target < vocabulary:
                raise ValueError(f"The target {target!r} is not a token id; they go from 0 to {vocabulary - 1}.")
        target_ids = None if targets is None else list(dict.fromkeys(map(int, targets)))
        choices = vocabulary if target_ids is None else len(target_ids)
        if not isinstance(k, int | np.integer) or not 1 <= k <= choices:
            raise ValueError(f"{k!r} tokens were asked for at each place; there are {choices} to choose from.")
        inputs = self._prepare(input_ids=input_ids, attention_mask=attention_mask)
        is_real = to_numpy(inputs.is_real)
        is_chosen = to_device(check_places(where, is_real)[is_real], self.device)
        rows = self._encode(inputs, read=is_chosen).rows
        xp, head, ops = array_namespace(rows), self._head(), self.engine.inference
        transformed, _ = masked_lm_transform_forward(rows, head, self.config.layer_norm_eps, ops)
        over_all, _ = ops.vocabulary_top_k.forward(transformed, head.decoder, k if target_ids is None else 1)
        self._checked(over_all.log_sum_exp)
        if target_ids is None:
            return over_all
        chosen = to_device(np.asarray(target_ids), self.device)
        decoder = LinearParams(*(xp.take(leaf, chosen, axis=0) for leaf in head.decoder))
        among, _ = ops.vocabulary_top_k.forward(transformed, decoder, k)
        ids = xp.reshape(xp.take(chosen, xp.reshape(among.ids, (-1,))), among.ids.shape)
        return TopK(among.logits, ids, over_all.log_sum_exp)


class XLMRobertaForCausalLM(LanguageModel):
    """The decoder, in which no token sees a later one, with the head that predicts each next token."""

    label_settings = ("shift_labels", "num_items_in_batch", "logits_to_keep")

    def _assemble(self, config: XLMRobertaConfig, loaded: Loaded, device: str, attention: str | None) -> None:
        super()._assemble(config, loaded, device, attention)
        self.config.is_decoder = True  # otherwise the tokens to be predicted would be seen
        self.generation_config = self._generation_config(lambda: GenerationConfig.from_model_config(self.config))

    def _read_further_files(self, source: str | os.PathLike[str], location: dict[str, Any]) -> None:
        path = locate(source, GENERATION_CONFIG_FILE, **location)
        if path is not None:
            self.generation_config = self._generation_config(lambda: GenerationConfig.from_json_file(path))

    def _generation_config(self, read: Callable[[], GenerationConfig]) -> GenerationConfig:
        """What a checkpoint asks for; where that makes no sense, the defaults."""
        try:
            return read()
        except (ValueError, TypeError, OSError) as error:
            logger.warning(
                "generate() begins with its defaults, as the checkpoint's settings cannot be used: %s", error
            )
            config = self.config
            ids = {name: getattr(config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
            return GenerationConfig(**ids)

    def _further_files(self) -> dict[str, str]:
        self.generation_config.validate()
        return {GENERATION_CONFIG_FILE: self.generation_config.to_json_string()}

    @on_device
    def forward(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        inputs_embeds: Any = None,
        encoder_hidden_states: Any = None,
        encoder_attention_mask: Any = None,
        labels: Any = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        logits_to_keep: Any = 0,
        *,
        cache_position: Any = None,
        shift_labels: Any = None,
        num_items_in_batch: float | None = None,
        **requests: Unpack[Requests],
    ) -> CausalLMOutput | tuple[Any, ...]:
        """At every token, a logit for every token of the vocabulary to be the next one.

        Args:
            input_ids: see `XLMRobertaModel.forward`, as for all others not named below.
            attention_mask: see there.
            token_type_ids: see there.
            position_ids: see there.
            inputs_embeds: see there.
            encoder_hidden_states: see there.
            encoder_attention_mask: see there.
            labels: [B, T], usually the ids themselves: each is compared with what the place before it predicts. -100
                leaves a token out of the loss, as every padding token must be; one behind padding has no predictor.
            past_key_values: see there; so is the next.
            use_cache: see there.
            logits_to_keep: the places whose logits are computed and returned: 0 for all of them, n for the last n of
                every row, places [K] or [B, K], or booleans [B, T]; see `xlmr_np.inputs.places_to_keep`. The last layer
                is computed there alone. Not with labels, which say themselves where the loss reads.
            cache_position: see there.
            shift_labels: [B, T] labels that stand at the place which predicts them, in place of `labels`.
            num_items_in_batch: divide the sum of the losses by this in place of the number of labels, as when a large
                batch is computed in parts.
            **requests: see `Requests`.

        Returns:
            A `CausalLMOutput`; logits at padding are zeros.

        Raises:
            ValueError, TypeError: as for `XLMRobertaModel.forward`; or a label is no token id, or stands at padding; or
                there are no such places to keep logits of, or there are labels as well.
        """
        inputs = self._requested_inputs(
            requests,
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            past_key_values=past_key_values,
            use_cache=self._uses_cache(
                use_cache, past_key_values, attention_mask, labels is not None or shift_labels is not None
            ),
            cache_position=cache_position,
        )
        targets = self._targets(
            inputs,
            labels=labels,
            shift_labels=shift_labels,
            num_items_in_batch=num_items_in_batch,
            logits_to_keep=logits_to_keep,
        )
        kept = places_to_keep(logits_to_keep, inputs.is_real.shape)
        if kept is None:
            encoded = self._encode(inputs, requests)
            rows = self._logits(encoded.rows)
            loss = None if targets is None else self._loss(rows, targets)
            logits = unpack(rows, inputs.is_real)
        else:
            loss = None
            encoded, logits = self._kept_logits(kept, inputs, requests)
        past, states = encoded.past_key_values, encoded.hidden_states
        output = CausalLMOutput(loss, logits, past, states, encoded.attentions, encoded.cross_attentions)
        return self._returned(output, requests, inputs.step)

    def generate(
        self,
        input_ids: Any = None,
        generation_config: GenerationConfig | None = None,
        *,
        attention_mask: Any = None,
        inputs_embeds: Any = None,
        encoder_hidden_states: Any = None,
        encoder_attention_mask: Any = None,
        past_key_values: KeyValueCache | None = None,
        logits_processor: Iterable[Callable[[np.ndarray, Array], Array]] = (),
        stopping_criteria: Iterable[Callable[[np.ndarray, Any], Any]] = (),
        streamer: Any = None,
        tokenizer: Any = None,
        generator: np.random.Generator | None = None,
        **settings: Any,
    ) -> Any:
        """Go on with texts, token by token: greedily, by sampling (`do_sample=True`), or by beam search (`num_beams`).

        Args:
            input_ids: [B, T] the prompts; None begins with `bos_token_id`. Padding on the right is moved to the left.
            generation_config: what is asked for; None: `self.generation_config`.
            attention_mask: [B, T], nonzero at tokens that are no padding; None: at those that are not `pad_token_id`.
            inputs_embeds: [B, T, D] prompts as vectors in place of ids; the result then has the new tokens alone.
            encoder_hidden_states: [B, S, D], as for `forward`.
            encoder_attention_mask: [B, S], as for `forward`.
            past_key_values: a cache that holds the first tokens of the prompts already; it grows.
            logits_processor: functions of (ids [B, T], scores [B, V]) that return changed scores, after all others.
            stopping_criteria: functions of (ids [B, T], scores) that return a boolean for all texts or for each.
            streamer: its `put(ids)` gets the prompt and then each token, and its `end()` is called at the end; if the
                generation fails, `abort(error)` in its place, if there is one. For one text.
            tokenizer: for `stop_strings`.
            generator: draws the tokens; None takes fresh randomness.
            **settings: of `GenerationConfig`, such as `max_new_tokens=50`; they go before those of the config.

        Returns:
            [texts, T] token ids on the host, with `num_return_sequences` texts for each prompt one after the other, and
            padding behind the end of those that are shorter; or with `return_dict_in_generate=True` a
            `GenerateDecoderOnlyOutput`, of beams a `GenerateBeamDecoderOnlyOutput`.

        Raises:
            ValueError: prompts are empty, too long or do not fit the model; settings contradict each other.
            TypeError: a setting has an unknown name, or ids are no integers.
        """
        from xlmr_np.decoding.generation import generate

        with device_context(self.device):
            return generate(
                self,
                input_ids,
                generation_config,
                attention_mask=attention_mask,
                inputs_embeds=inputs_embeds,
                encoder_hidden_states=encoder_hidden_states,
                encoder_attention_mask=encoder_attention_mask,
                past_key_values=past_key_values,
                logits_processor=logits_processor,
                stopping_criteria=stopping_criteria,
                streamer=streamer,
                tokenizer=tokenizer,
                generator=generator,
                **settings,
            )

    def _kept_logits(
        self, kept: tuple[np.ndarray, np.ndarray], inputs: EncoderInputs, requests: Requests
    ) -> tuple[Encoded, Array]:
        """What the encoder made, and the logits at the places to keep (rows and columns of any shape): [*kept, V]."""
        is_real = to_numpy(inputs.is_real)
        is_read = np.zeros_like(is_real)
        is_read[kept] = True
        is_read &= is_real
        encoded = self._encode(inputs, requests, self._to_device(is_read[is_real]))
        logits = self._logits(encoded.rows)
        numbers = is_read.cumsum().reshape(is_read.shape) - 1  # which of these logits are of a place
        order = numbers[kept][is_real[kept]]
        if not np.array_equal(order, np.arange(len(logits))):  # places in another order, or one several times
            logits = array_namespace(logits).take(logits, self._to_device(order), axis=0)
        return encoded, unpack(logits, self._to_device(is_real[kept]))

    @on_device
    def loss_and_gradients(
        self,
        generator: np.random.Generator | None = None,
        *,
        checkpoint_layers: bool = False,
        label_smoothing: float = 0.0,
        loss_scale: float = 1.0,
        **batch: Any,
    ) -> tuple[CausalLMOutput, ModelParams]:
        """The loss, and its gradient for every parameter: see `XLMRobertaForMaskedLM.loss_and_gradients`."""
        loss, gradients = self._loss_and_gradients(generator, checkpoint_layers, label_smoothing, loss_scale, batch)
        return CausalLMOutput(loss), gradients

    def _targets(self, inputs: EncoderInputs, **labels: Any) -> TokenTargets | None:
        is_real, size = to_numpy(inputs.is_real), self.config.vocab_size
        if labels["shift_labels"] is not None:
            at_predictor = token_labels(labels["shift_labels"], is_real, size, "shift_labels")
        elif labels["labels"] is not None:
            at_predictor = next_token_labels(token_labels(labels["labels"], is_real, size), is_real)
        else:
            return None
        to_keep = labels["logits_to_keep"]
        if to_keep is not None and places_to_keep(to_keep, is_real.shape) is not None:
            raise ValueError(
                "logits_to_keep has no meaning beside labels, whose loss reads the logits before each of them; leave "
                "one of the two out."
            )
        return self._counted(at_predictor[is_real], labels["num_items_in_batch"])
