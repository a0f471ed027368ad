"""The bare encoder."""

from collections.abc import Callable
from typing import Any, Unpack

import numpy as np

from xlmr_np.arrays import Array, array_namespace, device_context, to_device
from xlmr_np.config import XLMRobertaConfig
from xlmr_np.heads.pooler import pooler_backward, pooler_forward
from xlmr_np.inputs import first_token_backward, first_token_forward, pack, rectangle, unpack
from xlmr_np.models.encoding import DropoutKeys, EncoderModel, Requests
from xlmr_np.models.on_device import on_device
from xlmr_np.models.pretrained import ModelParams
from xlmr_np.outputs import BaseModelOutput
from xlmr_np.weights.specification import encoder_specification, pooler_specification


class XLMRobertaModel(EncoderModel):
    """The bare encoder, with an optional pooling layer on the classification token."""

    has_head = False
    takes_source = True
    head_settings = ("add_pooling_layer",)

    def __init__(self, config: XLMRobertaConfig, add_pooling_layer: bool = True, **settings: Any) -> None:
        """Make a model with random weights.

        Args:
            config: of the model.
            add_pooling_layer: whether there is a `pooler_output`.
            **settings: `generator`, `dtype`, `device`, see `XLMRobertaPreTrainedModel`.
        """
        super().__init__(config, add_pooling_layer=add_pooling_layer, **settings)

    @classmethod
    def _specification(
        cls, config: XLMRobertaConfig, is_tied: bool, has_pooler: bool, add_pooling_layer: bool | None = None
    ) -> ModelParams:
        """By default a pooler is there if the checkpoint has one: a random one would put out noise."""
        with_pooler = has_pooler if add_pooling_layer is None else add_pooling_layer
        return ModelParams(encoder_specification(config), pooler_specification(config) if with_pooler else None)

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
        past_key_values: Any = None,
        use_cache: bool | None = None,
        *,
        cache_position: Any = None,
        **requests: Unpack[Requests],
    ) -> BaseModelOutput | tuple[Any, ...]:
        """The hidden states of every token, and the pooled classification token of every sentence.

        Args:
            input_ids: [B, T] token ids; exactly one of this and `inputs_embeds`. The sentences' lengths may
                differ: pad them with `config.pad_token_id`, on any side.
            attention_mask: which tokens are real ([B, T], nonzero), or who sees whom ([B, T, T] or
                [B, H, T, T]); see `xlmr_np.inputs.visibility`. None: all tokens that are not padding.
            token_type_ids: [B, T]; zeros if None.
            position_ids: [B, T] or [1, T]; None counts the real tokens from `pad_token_id + 1`.
            inputs_embeds: [B, T, D] vectors in place of the token table's rows.
            encoder_hidden_states: [B, S, D] for cross-attention (`is_decoder=True, add_cross_attention=True`): what the
                sentences see of another model, such as its last hidden states. Such a model needs them.
            encoder_attention_mask: [B, S], nonzero at those of them that are real; None: all are.
            past_key_values: a cache of earlier tokens, as a forward pass of a decoder returns it: those given now come
                behind them, and `attention_mask` is of all, [B, P + T]. The cache grows.
            use_cache: whether a decoder returns its cache; None: as the config says, but not with labels or with masks
                of more dimensions. Encoders have none.
            cache_position: [T], the numbers of the tokens given now among all; they follow from the cache, so that this
                can be left out.
            **requests: see `Requests`.

        Returns:
            A `BaseModelOutput`. What stands at padding is zero.

        Raises:
            ValueError: an argument does not fit the model, or the cache; the message names the value and the limit.
            TypeError: ids are not integers, embeddings not floats, or the cache is none.
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
            past_key_values=past_key_values,
            use_cache=self._uses_cache(use_cache, past_key_values, attention_mask),
            cache_position=cache_position,
        )
        pooled = None
        if self.params.head is not None:
            pooled, _ = pooler_forward(
                first_token_forward(encoded.rows, inputs.is_real), self.params.head, self.engine.inference
            )
        last_hidden_state = unpack(encoded.rows, inputs.is_real)
        return self._returned(BaseModelOutput(last_hidden_state, pooled, *encoded[1:]), requests, inputs.step)

    @on_device
    def vjp(
        self, generator: np.random.Generator | None = None, *, checkpoint_layers: bool = False, **batch: Any
    ) -> tuple[BaseModelOutput, Callable[..., Any]]:
        """The outputs, and the vector-Jacobian product: from the gradients of a loss of one's own to the parameters'.

        Args:
            generator: draws what is dropped; None drops nothing.
            checkpoint_layers: see `xlmr_np.encoder.encoder_forward`.
            **batch: the arguments of `forward` but for requests.

        Returns:
            The output, and a function `backward(d_last_hidden_state=None, d_pooler_output=None)`, to be called once,
            whose arguments have the shapes of the outputs and whose result has the tree of the parameters. With
            `encoder_hidden_states`, the result is that tree and their gradient [B, S, D].

        Raises:
            ValueError, TypeError: as for `forward`; or the batch holds no real token.
        """
        inputs = self._prepare(**self._arguments(batch))
        training_pass = self._encode_for_training(inputs, DropoutKeys(generator), checkpoint_layers)
        ops, pooler = self.engine.training, self.params.head
        pooled, pooler_cache = None, None
        if pooler is not None:
            pooled, pooler_cache = pooler_forward(first_token_forward(training_pass.rows, inputs.is_real), pooler, ops)
        output = BaseModelOutput(unpack(training_pass.rows, inputs.is_real), pooled)

        def backward(d_last_hidden_state: Any = None, d_pooler_output: Any = None) -> Any:
            with device_context(self.device):
                if len(training_pass.cache.layers) < len(self.params.encoder.layers):
                    raise RuntimeError("A forward pass can be taken back once only; call vjp() again.")
                xp = array_namespace(training_pass.rows)
                d_rows, d_pooler = xp.zeros_like(training_pass.rows), None
                if d_last_hidden_state is not None:
                    d_rows = d_rows + pack(self._like(d_last_hidden_state, output.last_hidden_state), inputs.is_real)
                if pooler is not None:
                    d_pooled = xp.zeros_like(pooled) if d_pooler_output is None else self._like(d_pooler_output, pooled)
                    d_first, d_pooler = pooler_backward(d_pooled, pooler_cache, pooler, ops)
                    d_rows = d_rows + first_token_backward(d_first, inputs.is_real)
                elif d_pooler_output is not None:
                    raise ValueError("d_pooler_output is given, but this model has no pooling layer.")
                d_states, d_encoder = self._encoder_gradients(d_rows, inputs, training_pass)
                gradients = ModelParams(d_encoder, d_pooler)
                return gradients if d_states is None else (gradients, d_states)

        return output, backward

    def _like(self, gradient: Any, output: Array) -> Array:
        """A gradient from the user, in the shape, type and place of the output."""
        array = rectangle("The gradient", gradient)
        if array.shape != output.shape:
            raise ValueError(f"The gradient of an output {output.shape} has the shape {array.shape}.")
        return to_device(array.astype(output.dtype, copy=False), self.device)
