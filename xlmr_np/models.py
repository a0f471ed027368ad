"""The model classes under the names of transformers: thin holders of a config, parameters and an engine."""

import copy
import logging
import os
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from xlmr_np import trees
from xlmr_np.arrays import Array, array_namespace, compute_dtype, dtype_from_name, resolve_device, to_device, to_numpy
from xlmr_np.config import CONFIG_FILE, AutoConfig, XLMRobertaConfig
from xlmr_np.encoder import EncoderParams, encoder_steps
from xlmr_np.heads.masked_lm import MaskedLMParams, masked_lm_forward, masked_lm_transform_forward
from xlmr_np.heads.pooler import pooler_forward
from xlmr_np.inputs import (
    EncoderInputs,
    check_labels,
    check_places,
    first_real_token,
    lay_back,
    prepare_inputs,
    real_rows,
)
from xlmr_np.layers.activations import check_activation
from xlmr_np.layers.encoder_layer import EncoderSetting
from xlmr_np.layers.linear import LinearParams
from xlmr_np.losses.cross_entropy import IGNORED_LABEL, cross_entropy_forward
from xlmr_np.ops import Ops, without_caches
from xlmr_np.ops.reference import REFERENCE, TopK
from xlmr_np.outputs import BaseModelOutput, MaskedLMOutput, ModelOutput
from xlmr_np.weights.checkpoint import find_weight_files, read_tensors
from xlmr_np.weights.initialization import check_size, count_parameters, initial_array
from xlmr_np.weights.loading import Loaded, LoadReport, load_parameters
from xlmr_np.weights.saving import save_tensors
from xlmr_np.weights.specification import (
    DECODER_BIAS,
    DECODER_WEIGHT,
    TIED_DECODER_BIAS,
    encoder_specification,
    masked_lm_specification,
    official_name,
    pooler_specification,
)

logger = logging.getLogger("xlmr_np")

# The engine that runs inference on each kind of device.
ENGINES: dict[str, Ops] = {"cpu": without_caches(REFERENCE), "cuda": without_caches(REFERENCE)}

# The reference's names for ways to compute attention, and the layout in which the device's engine runs under
# each of them: "eager" keeps the textbook's padded rectangle, the others spend no work on padding.
ATTENTION_LAYOUTS = {
    "eager": "padded",
    "sdpa": "packed",
    "flash_attention_2": "packed",
    "flash_attention_3": "packed",
    "flash_attention_4": "packed",
    "flex_attention": "packed",
}
DEFAULT_ATTENTION = "sdpa"
# Arguments that code written for the reference passes, and that change nothing here: nothing in a checkpoint is
# ever executed, and memory is never wasted on a second copy.
MEANINGLESS_ARGUMENTS = ("trust_remote_code", "low_cpu_mem_usage", "weights_only")


class ModelParams(NamedTuple):
    """The parameters of a whole model."""

    encoder: EncoderParams
    head: Any  # the head's own record; for the bare model the pooler's, or None


class Encoded(NamedTuple):
    """What the encoder made of some inputs, in the layout of their mask."""

    last_hidden_state: Array
    hidden_states: tuple[Array | None, ...] | None
    attentions: tuple[Array, ...] | None


def check_supported(config: XLMRobertaConfig) -> None:
    """Refuse a config that no model class here can run, before anything is read or allocated.

    Raises:
        TypeError: it is no `XLMRobertaConfig`.
        ValueError: its activation is unknown.
        NotImplementedError: it describes a decoder, or quantised weights.
    """
    if not isinstance(config, XLMRobertaConfig):
        raise TypeError(f"A model is made from an XLMRobertaConfig, not from {config!r:.60}; see from_pretrained().")
    check_activation(config.hidden_act)
    for name in ("is_decoder", "add_cross_attention", "is_encoder_decoder"):
        if getattr(config, name):
            raise NotImplementedError(f"The config says {name}=True; decoders are not supported yet, encoders are.")
    if getattr(config, "quantization_config", None) is not None:
        raise NotImplementedError("quantization_config is not supported yet; choose a checkpoint without it.")


class XLMRobertaPreTrainedModel:
    """What all model classes share: making, loading and saving parameters, and running the encoder.

    Attributes:
        config: the configuration.
        params: the parameter tree, see `ModelParams`.
        device: "cpu" or "cuda:N".
        ops: the engine that runs inference there.
        attn_implementation: see `set_attn_implementation`.
        load_report: what differed between the checkpoint and the model; empty for a new model.
    """

    has_head: ClassVar[bool] = True
    head_settings: ClassVar[tuple[str, ...]] = ()  # keywords of from_pretrained that shape the head

    def __init__(
        self,
        config: XLMRobertaConfig,
        *,
        generator: np.random.Generator | None = None,
        dtype: Any = "float32",
        device: Any = None,
        **head_settings: Any,
    ) -> None:
        """Make a model with random weights.

        Args:
            config: of the model.
            generator: draws the weights; None takes fresh randomness.
            dtype: of the weights.
            device: "cpu", "cuda", "cuda:1" or a number.
            **head_settings: of the class, if it has any.
        """
        check_supported(config)
        generator = generator or np.random.default_rng()
        element_type = dtype_from_name(dtype)
        specification = self._specification(config, config.tie_word_embeddings, True, **head_settings)
        check_size(specification)
        params = trees.map_leaves(
            lambda parameter: initial_array(parameter, config.initializer_range, generator, element_type),
            specification,
        )
        self._assemble(config, Loaded(params, specification, LoadReport()), resolve_device(device), None)

    @classmethod
    def _specification(cls, config: XLMRobertaConfig, is_tied: bool, has_pooler: bool) -> ModelParams:
        """The tree of this class's parameters, a `Parameter` at each leaf."""
        raise NotImplementedError

    def _assemble(self, config: XLMRobertaConfig, loaded: Loaded, device: str, attention: str | None) -> None:
        self.config = copy.deepcopy(config)
        self.load_report = loaded.report
        self._specified = loaded.specification
        self.params: ModelParams = loaded.params
        self.to(device)
        self.set_attn_implementation(attention or config._attn_implementation or DEFAULT_ATTENTION)

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        *,
        config: XLMRobertaConfig | str | os.PathLike[str] | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        subfolder: str = "",
        variant: str | None = None,
        use_safetensors: bool | None = None,
        dtype: Any = "auto",
        torch_dtype: Any = None,
        device: Any = None,
        device_map: Any = None,
        attn_implementation: str | None = None,
        ignore_mismatched_sizes: bool = False,
        output_loading_info: bool = False,
        config_class: type[XLMRobertaConfig | AutoConfig] = XLMRobertaConfig,
        **config_overrides: Any,
    ) -> Any:
        """Load a model from a directory or from the Hugging Face Hub.

        Safetensors are memory-mapped: opening a model reads its headers only, and rows of the embedding table
        that no text needs never take memory.

        Args:
            source: a directory with config.json and weights, or a hub id such as "FacebookAI/xlm-roberta-base".
            config: a config, or where to read it, in place of the source's own.
            cache_dir: the hub cache to use.
            revision: branch, tag or commit on the hub.
            token: for private or gated models.
            local_files_only: never ask the network.
            subfolder: folder of the model within the source.
            variant: as in "fp16" for model.fp16.safetensors.
            use_safetensors: True refuses pytorch_model.bin, False takes nothing else.
            dtype: convert the weights to "float64", "float32", "float16" or "bfloat16"; "auto" keeps what is
                stored. On a CPU, half types are computed in float32 all the same.
            torch_dtype: the former name of `dtype`.
            device: "cpu", "cuda", "cuda:1" or the number of a GPU.
            device_map: "auto" means the GPU if there is one; otherwise like `device`.
            attn_implementation: see `set_attn_implementation`.
            ignore_mismatched_sizes: initialise tensors of another shape at random instead of failing.
            output_loading_info: return (model, information) with the names that differed.
            config_class: reads the config; `AutoConfig` refuses one that names no architecture.
            **config_overrides: fields of the config to change; for the bare model also `add_pooling_layer`.

        Raises:
            OSError: there is no such source, it cannot be reached, or a file is missing or damaged.
            TypeError: an argument is neither known here nor a field of the config.
            ValueError: an argument or the config makes no sense.
            RuntimeError: a GPU was asked for, and there is none.
        """
        chosen = torch_dtype if dtype in ("auto", None) else dtype
        element_type = None if chosen in ("auto", None) else dtype_from_name(chosen)
        device_name = resolve_device(device, device_map)
        location = {
            "cache_dir": cache_dir,
            "revision": revision,
            "token": token,
            "local_files_only": local_files_only,
            "subfolder": subfolder,
        }
        head_settings = {key: config_overrides.pop(key) for key in cls.head_settings if key in config_overrides}
        if not isinstance(config, XLMRobertaConfig | str | os.PathLike | None):
            raise TypeError(f"config must be an XLMRobertaConfig or where to read one; got {type(config).__name__}.")
        if isinstance(config, XLMRobertaConfig):
            unknown = config_overrides
        else:
            config, unknown = config_class.from_pretrained(
                config or source, return_unused_kwargs=True, **location, **config_overrides
            )
        if unknown.pop("quantization_config", None) is not None:
            raise NotImplementedError("quantization_config is not supported yet; load the model without it.")
        meaningful = [name for name in unknown if name not in MEANINGLESS_ARGUMENTS]
        if meaningful:
            raise TypeError(
                f"from_pretrained() got {', '.join(meaningful)}: neither an argument nor a field that config.json may "
                "change; correct the name, or set it in the config that is passed."
            )
        check_supported(config)
        tensors = read_tensors(find_weight_files(source, variant=variant, use_safetensors=use_safetensors, **location))
        loaded = load_parameters(
            tensors,
            lambda is_tied, has_pooler: cls._specification(config, is_tied, has_pooler, **head_settings),
            is_tied=config.tie_word_embeddings,
            has_head=cls.has_head,
            initializer_range=config.initializer_range,
            ignore_mismatched_sizes=ignore_mismatched_sizes,
            dtype=element_type,
        )
        if not loaded.report.is_as_expected:
            logger.warning("%s from %s differs from the checkpoint:\n%s", cls.__name__, source, loaded.report)
        model = cls.__new__(cls)
        model._assemble(config, loaded, device_name, attn_implementation)
        if output_loading_info:
            report = loaded.report
            return model, {
                "missing_keys": set(report.missing),
                "unexpected_keys": set(report.unexpected),
                "mismatched_keys": {tuple(mismatch) for mismatch in report.mismatched},
                "error_msgs": [],
            }
        return model

    @classmethod
    def from_config(cls, config: XLMRobertaConfig, **settings: Any) -> Self:
        """A model with random weights; the settings are those of the constructor."""
        return cls(config, **settings)

    def to(self, device: Any) -> Self:
        """Move the parameters to "cpu", "cuda", "cuda:1" or the GPU of that number; returns the model itself."""
        self.device = resolve_device(device)
        self.params = trees.map_leaves(lambda leaf: to_device(leaf, self.device), self.params)
        self.ops = ENGINES[self.device.split(":")[0]]
        return self

    def eval(self) -> Self:
        """The model itself: a call never drops anything, so that code written for torch runs unchanged."""
        return self

    def set_attn_implementation(self, name: str) -> None:
        """Choose how attention is laid out, by one of the reference's names.

        "eager" computes on padded rectangles, as the textbook does; "sdpa", "flex_attention" and
        "flash_attention_2" to "_4" all select the packed layout of this device's engine, which spends no work on
        padding. A prefix "paged|" changes nothing. Real tokens get the same values either way.

        Raises:
            ValueError: for any other name.
        """
        if not isinstance(name, str) or name.removeprefix("paged|") not in ATTENTION_LAYOUTS:
            raise ValueError(f"attn_implementation={name!r} is not one of {', '.join(ATTENTION_LAYOUTS)}.")
        self.attn_implementation = name

    @property
    def dtype(self) -> np.dtype:
        """The element type in which the weights are stored."""
        return next(trees.leaves(self.params)).dtype

    def num_parameters(self) -> int:
        """The number of weights, tied ones once."""
        return count_parameters(self._specified)

    def named(self, tree: trees.Tree) -> dict[str, Any]:
        """The leaves of a tree with the structure of `params` (the parameters, their gradients), by official name."""
        named: dict[str, Any] = {}
        trees.map_leaves(
            lambda parameter, leaf: named.update({official_name(parameter.name, self.has_head): leaf}),
            self._specified,
            tree,
        )
        return named

    def state_dict(self) -> dict[str, Array]:
        """All parameters by official name, tied ones under each of their names."""
        return self.named(self.params)

    def save_pretrained(
        self,
        directory: str | os.PathLike[str],
        max_shard_size: int | str = "50GB",
        *,
        safe_serialization: bool = True,
    ) -> None:
        """Write config.json and the weights, as safetensors in the type they are stored in.

        All files are written beside their places and then renamed, so that saving onto the very directory the model
        is mapped from is safe, and a failed write leaves the old files as they were. Shards and indexes of an earlier
        save that no longer belong are removed.

        Args:
            directory: made if it does not exist.
            max_shard_size: bytes, or for example "500MB", above which the weights are split into shards.
            safe_serialization: must be True, as it is today in the reference: no pickles are written.

        Raises:
            ValueError: the config is contradictory, a size is none, or a pickle was asked for.
            OSError: the directory cannot be written.
        """
        if not safe_serialization:
            raise ValueError("safe_serialization=False asks for a pickle; only safetensors are written.")
        path = Path(directory)
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(f"{path} is a file; give a directory to save into.")
        config = copy.deepcopy(self.config)
        config.architectures = [type(self).__name__]
        config.dtype = self.dtype.name
        config.tie_word_embeddings = self.is_tied
        config.validate()
        self._check_describes_params(config)
        text = config.to_json_string()
        path.mkdir(parents=True, exist_ok=True)
        tensors = {name: to_numpy(array) for name, array in self._saved().items()}
        save_tensors(path, tensors, max_shard_size, {CONFIG_FILE: text})

    @property
    def is_tied(self) -> bool:
        """Whether the decoder's weight is the token table; of a model without a decoder, what its config says."""
        return self.config.tie_word_embeddings

    def _check_describes_params(self, config: XLMRobertaConfig) -> None:
        """Refuse a config that was changed after the parameters were made: nobody could load the two together."""
        specification = self._specification(config, self.is_tied, self.params.head is not None)
        described = {parameter.name: parameter.shape for parameter in trees.leaves(specification)}
        there = {parameter.name: parameter.shape for parameter in trees.leaves(self._specified)}
        for name in described.keys() | there.keys():
            if described.get(name) != there.get(name):
                raise ValueError(
                    f"The config describes {name} as {described.get(name)}, but the model has {there.get(name)}; a "
                    "model's sizes cannot be changed by its config alone."
                )

    def _saved(self) -> dict[str, Array]:
        """What a checkpoint holds: each array once."""
        return self.named(self.params)

    def _prepare(self, output_attentions: bool = False, **arguments: Any) -> EncoderInputs:
        """Check and lay out the arguments of a forward pass, on the model's device."""
        for name in ("encoder_hidden_states", "encoder_attention_mask", "past_key_values"):
            if arguments.pop(name, None) is not None:
                raise NotImplementedError(f"{type(self).__name__} runs encoders only and cannot take {name}.")
        padded = output_attentions or ATTENTION_LAYOUTS[self.attn_implementation.removeprefix("paged|")] == "padded"
        inputs = prepare_inputs(self.config, **arguments, padded=padded)
        if inputs.token_table is not None:  # lists and NumPy's own results are float64; the model stays in its type
            dtype = compute_dtype(to_numpy(self.params.encoder.embeddings.layer_norm.weight))
            inputs = inputs._replace(token_table=inputs.token_table.astype(dtype, copy=False))
        return trees.map_leaves(lambda leaf: leaf if isinstance(leaf, bool) else to_device(leaf, self.device), inputs)

    def _encode(
        self,
        inputs: EncoderInputs,
        output_hidden_states: bool | int | list[int] = False,
        output_attentions: bool = False,
    ) -> Encoded:
        """Run the encoder; the last hidden state stays in the inputs' layout, all else is laid back padded."""
        config, params = self.config, self.params.encoder
        if inputs.token_table is not None:
            params = params._replace(embeddings=params.embeddings._replace(token=inputs.token_table))
        ops = self.ops._replace(attention=REFERENCE.attention) if output_attentions else self.ops
        setting = EncoderSetting(config.num_attention_heads, config.hidden_act, config.layer_norm_eps)
        selected = _selected_steps(output_hidden_states, len(params.layers) + 1)
        hidden_states: list[Array | None] = []
        attentions: list[Array] = []
        steps = encoder_steps(inputs.ids, inputs.token_types, inputs.positions, params, inputs.mask, setting, ops)
        for step, (x, cache) in enumerate(steps):
            hidden_states.append(lay_back(x, inputs) if step in selected else None)
            if output_attentions and step > 0:
                probabilities = cache.attention.attention.softmax.probabilities
                attentions.append(
                    probabilities * array_namespace(x).astype(inputs.is_real, probabilities.dtype)[:, None, :, None]
                )
        return Encoded(x, tuple(hidden_states) if selected else None, tuple(attentions) if output_attentions else None)

    def _run(
        self,
        output_attentions: bool | None,
        output_hidden_states: bool | int | list[int] | None,
        **arguments: Any,
    ) -> tuple[EncoderInputs, Encoded]:
        """What every forward pass begins with; a request left at None is what the config says."""
        wants_attentions = self.config.output_attentions if output_attentions is None else output_attentions
        wanted_states = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        inputs = self._prepare(bool(wants_attentions), **arguments)
        return inputs, self._encode(inputs, False if wanted_states is None else wanted_states, bool(wants_attentions))

    def _returned(self, output: ModelOutput, return_dict: bool | None) -> Any:
        """The record, or its tuple if the call or the config asks for that."""
        wants_record = self.config.return_dict if return_dict is None else return_dict
        return output.to_tuple() if wants_record is False else output


def _selected_steps(request: bool | int | list[int], number_of_steps: int) -> frozenset[int]:
    """Which hidden states a caller wants: all, none, or those of some indices (negative ones from the end)."""
    if isinstance(request, bool | np.bool_):
        return frozenset(range(number_of_steps) if request else ())
    indices = list(request) if isinstance(request, list | tuple) else [request]
    for index in indices:
        if not isinstance(index, int | np.integer) or not -number_of_steps <= index < number_of_steps:
            raise ValueError(
                f"output_hidden_states asks for {index!r}; they are 0 to {number_of_steps - 1}, and True means all."
            )
    return frozenset(index % number_of_steps for index in indices)


class XLMRobertaModel(XLMRobertaPreTrainedModel):
    """The bare encoder, with an optional pooling layer on the classification token."""

    has_head = False
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
        output_attentions: bool | None = None,
        output_hidden_states: bool | int | list[int] | None = None,
        return_dict: bool | None = None,
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
            encoder_hidden_states: must be None; so must the next two. This class runs encoders.
            encoder_attention_mask: see there.
            past_key_values: see there.
            use_cache: has no effect on an encoder.
            output_attentions: also return the attention probabilities; None asks the config.
            output_hidden_states: also return the hidden states of all steps (True), or of some (an index or a
                list of them: the others are None); None asks the config.
            return_dict: False returns a plain tuple; None asks the config.

        Returns:
            A `BaseModelOutput`. What stands at padding is zero.

        Raises:
            ValueError: an argument does not fit the model; the message names the value and the limit.
            TypeError: ids are not integers, or embeddings not floats.
        """
        inputs, encoded = self._run(
            output_attentions,
            output_hidden_states,
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            past_key_values=past_key_values,
        )
        last_hidden_state = lay_back(encoded.last_hidden_state, inputs)
        pooler_output = None
        if self.params.head is not None:
            first_token = first_real_token(last_hidden_state, inputs.is_real)
            pooler_output, _ = pooler_forward(first_token, self.params.head, self.ops)
        output = BaseModelOutput(last_hidden_state, pooler_output, encoded.hidden_states, encoded.attentions)
        return self._returned(output, return_dict)

    __call__ = forward


class XLMRobertaForMaskedLM(XLMRobertaPreTrainedModel):
    """The encoder with the masked-language-model head."""

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
        output_attentions: bool | None = None,
        output_hidden_states: bool | int | list[int] | None = None,
        return_dict: bool | None = None,
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
            encoder_hidden_states: must be None.
            encoder_attention_mask: must be None.
            labels: [B, T] the right tokens; -100 leaves a token out of the loss, as every padding token must be.
            output_attentions: see there.
            output_hidden_states: see there.
            return_dict: see there.

        Returns:
            A `MaskedLMOutput`; logits at padding are zeros.
        """
        inputs, encoded = self._run(
            output_attentions,
            output_hidden_states,
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
        )
        logits, _ = masked_lm_forward(encoded.last_hidden_state, self._head(), self.config.layer_norm_eps, self.ops)
        loss = None
        if labels is not None:
            loss = self._loss(real_rows(logits, inputs), labels, inputs)
        logits = lay_back(logits, inputs)
        output = MaskedLMOutput(loss, logits, encoded.hidden_states, encoded.attentions)
        return self._returned(output, return_dict)

    __call__ = forward

    def _loss(self, logits: Array, labels: Any, inputs: EncoderInputs) -> Array:
        """The cross-entropy at the labelled tokens; logits are those of the real tokens, [N, V]."""
        is_real = to_numpy(inputs.is_real)
        of_real = check_labels(labels, is_real, self.config.vocab_size)[is_real]
        rows = (of_real != IGNORED_LABEL).nonzero()[0]  # the others would only take memory
        xp = array_namespace(logits)
        labelled = xp.take(logits, to_device(rows, self.device), axis=0)
        return cross_entropy_forward(labelled, to_device(of_real[rows], self.device))[0]

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
        rows = to_device(check_places(where, is_real)[is_real].nonzero()[0], self.device)
        encoded = real_rows(self._encode(inputs).last_hidden_state, inputs)
        xp = array_namespace(encoded)
        head = self._head()
        transformed, _ = masked_lm_transform_forward(
            xp.take(encoded, rows, axis=0), head, self.config.layer_norm_eps, self.ops
        )
        if target_ids is None:
            return self.ops.vocabulary_top_k.forward(transformed, head.decoder, k)[0]
        over_all, _ = self.ops.vocabulary_top_k.forward(transformed, head.decoder, 1)
        chosen = to_device(np.asarray(target_ids), self.device)
        decoder = LinearParams(*(xp.take(leaf, chosen, axis=0) for leaf in head.decoder))
        among, _ = self.ops.vocabulary_top_k.forward(transformed, decoder, k)
        ids = xp.reshape(xp.take(chosen, xp.reshape(among.ids, (-1,))), among.ids.shape)
        return TopK(among.logits, ids, over_all.log_sum_exp)


class _AutoModelClass:
    """Makes models of one class, whichever supported architecture (XLM-R, RoBERTa, CamemBERT) a config names."""

    model_class: ClassVar[type[XLMRobertaPreTrainedModel]]

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike[str], **arguments: Any) -> Any:
        """Load a model; the arguments are those of `XLMRobertaPreTrainedModel.from_pretrained`.

        Raises:
            ValueError: the config names no architecture, or one that this library does not have.
        """
        return cls.model_class.from_pretrained(source, config_class=AutoConfig, **arguments)

    @classmethod
    def from_config(cls, config: XLMRobertaConfig, **settings: Any) -> Any:
        """A model with random weights; the arguments are those of the class's constructor."""
        return cls.model_class.from_config(config, **settings)


class AutoModel(_AutoModelClass):
    """Makes bare encoders."""

    model_class = XLMRobertaModel


class AutoModelForMaskedLM(_AutoModelClass):
    """Makes masked language models."""

    model_class = XLMRobertaForMaskedLM
