"""What all model classes share but running: making, loading, saving, moving, naming and resizing parameters."""

import copy
import logging
import os
import secrets
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from xlmr_np import trees
from xlmr_np.arrays import Array, as_generator, dtype_from_name, resolve_device, to_device, to_numpy
from xlmr_np.config import CONFIG_FILE, AutoConfig, XLMRobertaConfig
from xlmr_np.encoder import EncoderParams
from xlmr_np.inputs import rectangle
from xlmr_np.layers.activations import check_activation
from xlmr_np.ops.engines import engine_for
from xlmr_np.ops.threads import check_number_of_threads
from xlmr_np.weights.checkpoint import find_weight_files, read_tensors
from xlmr_np.weights.initialization import check_size, count_parameters, initial_array
from xlmr_np.weights.loading import Loaded, LoadReport, load_parameters
from xlmr_np.weights.resizing import resized_bias, resized_table, rounded_up
from xlmr_np.weights.saving import save_tensors
from xlmr_np.weights.specification import Parameter, official_name

logger = logging.getLogger("xlmr_np")


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


def check_supported(config: XLMRobertaConfig, model_class: type["XLMRobertaPreTrainedModel"]) -> None:
    """Refuse a config that this model class cannot run, before anything is read or allocated.

    Raises:
        TypeError: it is no `XLMRobertaConfig`.
        ValueError: it contradicts itself, its activation is unknown, or it asks for cross-attention in a class whose
            `forward` takes nothing for it to see.
        NotImplementedError: it describes two models in one, or quantised weights.
    """
    if not isinstance(config, XLMRobertaConfig):
        raise TypeError(f"A model is made from an XLMRobertaConfig, not from {config!r:.60}; see from_pretrained().")
    config.validate()
    check_activation(config.hidden_act)
    if config.add_cross_attention and not model_class.takes_source:
        raise ValueError(
            f"{model_class.__name__} takes no encoder_hidden_states that cross-attention could see; leave it out with "
            "add_cross_attention=False."
        )
    if config.is_encoder_decoder:
        raise NotImplementedError(
            "The config says is_encoder_decoder=True, an encoder and a decoder in one, which is not supported; load "
            "each of them as a model of its own."
        )
    if getattr(config, "quantization_config", None) is not None:
        raise NotImplementedError("quantization_config is not supported yet; choose a checkpoint without it.")


class XLMRobertaPreTrainedModel:
    """What all model classes share but running: making, loading, saving, moving, naming and resizing parameters.

    Attributes:
        config: the configuration.
        params: the parameter tree, see `ModelParams`.
        device: "cpu" or "cuda:N".
        num_threads: how many threads it may use on a CPU; see `set_num_threads`.
        engine: the operations for inference and for training there.
        attn_implementation: see `set_attn_implementation`.
        identity: of these weights, for what is computed with them and kept; copies have the same.
        load_report: what differed between the checkpoint and the model; empty for a new model.
    """

    has_head: ClassVar[bool] = True
    takes_source: ClassVar[bool] = False  # whether forward takes encoder_hidden_states
    head_settings: ClassVar[tuple[str, ...]] = ()  # keywords of from_pretrained that shape the head

    def __init__(
        self,
        config: XLMRobertaConfig,
        *,
        generator: np.random.Generator | None = None,
        dtype: Any = "float32",
        device: Any = None,
        num_threads: int | None = None,
        **head_settings: Any,
    ) -> None:
        """Make a model with random weights.

        Args:
            config: of the model.
            generator: draws the weights; None takes fresh randomness.
            dtype: of the weights.
            device: "cpu", "cuda", "cuda:1" or a number.
            num_threads: see `set_num_threads`.
            **head_settings: of the class, if it has any.
        """
        check_supported(config, type(self))
        self.num_threads = check_number_of_threads(num_threads)
        generator = as_generator(generator)
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
        self.identity = secrets.token_hex(8)
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
        num_threads: int | None = None,
        attn_implementation: str | None = None,
        ignore_mismatched_sizes: bool = False,
        generator: np.random.Generator | None = None,
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
            num_threads: see `set_num_threads`.
            attn_implementation: see `set_attn_implementation`.
            ignore_mismatched_sizes: initialise tensors of another shape at random instead of failing.
            generator: draws what the checkpoint lacks; None takes fresh randomness.
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
        number_of_threads = check_number_of_threads(num_threads)
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
        check_supported(config, cls)
        tensors = read_tensors(find_weight_files(source, variant=variant, use_safetensors=use_safetensors, **location))
        loaded = load_parameters(
            tensors,
            lambda is_tied, has_pooler: cls._specification(config, is_tied, has_pooler, **head_settings),
            is_tied=config.tie_word_embeddings,
            has_head=cls.has_head,
            initializer_range=config.initializer_range,
            ignore_mismatched_sizes=ignore_mismatched_sizes,
            dtype=element_type,
            generator=as_generator(generator),
        )
        if not loaded.report.is_as_expected:
            logger.warning("%s from %s differs from the checkpoint:\n%s", cls.__name__, source, loaded.report)
        model = cls.__new__(cls)
        model.num_threads = number_of_threads
        model._assemble(config, loaded, device_name, attn_implementation)
        model._read_further_files(source, location)
        if output_loading_info:
            report = loaded.report
            return model, {
                "missing_keys": set(report.missing),
                "unexpected_keys": set(report.unexpected),
                "mismatched_keys": {tuple(mismatch) for mismatch in report.mismatched},
                "error_msgs": [],
            }
        return model

    def _read_further_files(self, source: str | os.PathLike[str], location: dict[str, Any]) -> None:
        """What a checkpoint of this class has besides its config and weights."""

    def _further_files(self) -> dict[str, str]:
        """The contents of these files, by name."""
        return {}

    @classmethod
    def from_config(cls, config: XLMRobertaConfig, **settings: Any) -> Self:
        """A model with random weights; the settings are those of the constructor."""
        return cls(config, **settings)

    def to(self, device: Any) -> Self:
        """Move the parameters to "cpu", "cuda", "cuda:1" or the GPU of that number; returns the model itself."""
        self.device = resolve_device(device)
        self.params = trees.map_leaves(lambda leaf: to_device(leaf, self.device), self.params)
        self.engine = engine_for(self.device, self.num_threads)
        return self

    def set_num_threads(self, number: int | None) -> None:
        """Use so many threads on a CPU; None uses as many as BLAS would (OMP_NUM_THREADS, or all processors).

        The threads are the process's: models that run at the same time share them.

        Raises:
            TypeError, ValueError: the number is not a positive integer.
        """
        self.num_threads = check_number_of_threads(number)
        self.engine = engine_for(self.device, self.num_threads)

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

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """The number of weights, tied ones once.

        Args:
            only_trainable: changes nothing: every parameter can be trained.
            exclude_embeddings: leave out the tables of tokens, positions and token types.
        """
        tables = self._specified.encoder.embeddings[:3] if exclude_embeddings else ()
        return count_parameters(self._specified) - count_parameters(tables)

    def named(self, tree: trees.Tree) -> dict[str, Any]:
        """The leaves of a tree with the structure of `params` (the parameters, their gradients), by official name."""
        named: dict[str, Any] = {}
        trees.map_leaves(
            lambda parameter, leaf: named.update({official_name(parameter.name, self.has_head): leaf}),
            self._specified,
            tree,
        )
        return named

    def get_input_embeddings(self) -> Array:
        """The token table, [V, D]."""
        return self.params.encoder.embeddings.token

    def set_input_embeddings(self, table: Any) -> None:
        """Replace the token table (and with it a tied decoder) by another [V, D], converted to the model's type.

        Raises:
            ValueError: its shape is another; see `resize_token_embeddings`.
            TypeError: it holds no floats.
        """
        array = rectangle("The token table", table)
        shape = self._specified.encoder.embeddings.token.shape
        if array.shape != shape:
            raise ValueError(
                f"The token table has shape {shape}, and the new one {array.shape}; to change the number of tokens, "
                "call resize_token_embeddings() first."
            )
        if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
            raise TypeError(f"Embeddings must be floats; these are {array.dtype}.")
        encoder = self.params.encoder
        embeddings = encoder.embeddings._replace(token=to_device(array.astype(self.dtype, copy=True), self.device))
        self.params = self.params._replace(encoder=encoder._replace(embeddings=embeddings))

    def get_output_embeddings(self) -> Array | None:
        """The weight of the decoder onto the vocabulary, [V, D], of a model that has one."""
        return None

    def resize_token_embeddings(
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
        *,
        generator: np.random.Generator | None = None,
    ) -> Array:
        """Give the vocabulary another size: the last rows of the token table are cut off, or new ones added.

        A decoder onto the vocabulary is resized with it, and `config.vocab_size` follows.

        Args:
            new_num_tokens: the number of tokens; None keeps it.
            pad_to_multiple_of: round the number up to a multiple of this, as fast matrix products like it.
            mean_resizing: draw new rows near the mean of the old ones (see `weights.resizing`), so that no new token is
                likelier than the old ones; False draws them as a new model's.
            generator: draws the new rows; None takes fresh randomness.

        Returns:
            The new token table.

        Raises:
            ValueError: a number is not a positive integer, the padding token would be cut off, or the config was
                changed by hand so that it no longer describes the model.
        """
        self._check_describes_params(self.config)
        number = self.config.vocab_size if new_num_tokens is None else new_num_tokens
        number = rounded_up(number, pad_to_multiple_of)
        if number == self.config.vocab_size:
            return self.get_input_embeddings()
        config = copy.deepcopy(self.config)
        config.vocab_size = number
        config.validate()
        specified = self._specification(config, self.is_tied, self.params.head is not None)
        check_size(specified)
        generator = as_generator(generator)
        deviation = None if mean_resizing else config.initializer_range

        def resized(leaf: Array, before: Parameter, after: Parameter) -> Array:
            if before.shape == after.shape:
                return leaf
            resize = resized_table if len(after.shape) == 2 else resized_bias
            return to_device(resize(to_numpy(leaf), number, generator, deviation), self.device)

        self.params = trees.map_leaves(resized, self.params, self._specified, specified)
        self._specified, self.config.vocab_size = specified, number
        return self.get_input_embeddings()

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
        text, further = config.to_json_string(), self._further_files()
        path.mkdir(parents=True, exist_ok=True)
        tensors = {name: to_numpy(array) for name, array in self._saved().items()}
        save_tensors(path, tensors, max_shard_size, {CONFIG_FILE: text, **further})

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
