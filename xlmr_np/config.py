"""The configuration of an XLM-RoBERTa model, read from and written as the ``config.json`` of a checkpoint.

The table of fields is the body of `XLMRobertaConfig`: a line has a field's type, the rule its value must obey
besides, and its default. What the reference calls the same behaves the same, except where it is silent on
contradictions: here they are errors.
"""

import copy
import json
import math
import os
import re
import reprlib
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, cast, get_args, get_origin, get_type_hints, overload

from xlmr_np.arrays import DTYPE_NAMES

CONFIG_FILE = "config.json"

# A config is data from somebody else: no size in it may ask for absurd memory. The limits leave room above
# the largest models known: XLM-V has 901,629 tokens, bge-m3 8,194 positions, and XLM-R XXL 48 layers, 4,096
# wide and 16,384 within the feed-forward.
MAX_ROWS = 2**22  # of an embedding table or a classifier
MAX_WIDTH = 2**16
MAX_LAYERS = 1000

SUPPORTED_MODEL_TYPES = ("xlm-roberta", "roberta", "camembert")  # the same layers under three names

# fmt: off
# Whatever `hidden_act` names in the reference; the layers may know fewer, and say so.
KNOWN_ACTIVATIONS = (
    "gelu", "gelu_10", "gelu_accurate", "gelu_fast", "gelu_new", "gelu_python", "gelu_python_tanh",
    "gelu_pytorch_tanh", "hardswish", "laplace", "leaky_relu", "linear", "mish", "prelu", "quick_gelu",
    "relu", "relu2", "relu6", "sigmoid", "silu", "sqrtsoftplus", "swish", "tanh", "xielu",
)
# Settings of text generation, which old config files have. They are not the model's: a config puts them into
# `generation_parameters`, and writes none.
GENERATION_KEYS = (
    "assistant_confidence_threshold", "assistant_lookbehind", "bad_words_ids", "begin_suppress_tokens",
    "diversity_penalty", "do_sample", "early_stopping", "encoder_no_repeat_ngram_size",
    "encoder_repetition_penalty", "epsilon_cutoff", "eta_cutoff", "exponential_decay_length_penalty",
    "forced_bos_token_id", "forced_eos_token_id", "length_penalty", "max_length", "min_length",
    "no_repeat_ngram_size", "num_assistant_tokens", "num_assistant_tokens_schedule", "num_beam_groups",
    "num_beams", "num_return_sequences", "output_scores", "remove_invalid_values", "repetition_penalty",
    "return_dict_in_generate", "suppress_tokens", "target_lookbehind", "temperature", "top_k", "top_p",
    "typical_p",
)
# fmt: on

_LABEL_KEYS = ("id2label", "label2id", "num_labels")
_ALIASES = {
    "torch_dtype": "dtype",
    "name_or_path": "_name_or_path",
    "attn_implementation": "_attn_implementation",
}
_DROPPED_KEYS = ("_commit_hash", "_attn_implementation_internal", "_experts_implementation_internal")
_NOT_WRITTEN = ("_attn_implementation", "generation_parameters")  # of a run, not of the model
_DEFAULT_LABEL = re.compile(r"LABEL_\d+")
_BOOLEANS = dict.fromkeys(("true", "1", "y", "yes"), True) | dict.fromkeys(("false", "0", "n", "no"), False)
_SPECIAL_FLOATS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class Rule(NamedTuple):
    """What a value of the right type must satisfy besides, and the words for it."""

    holds: Callable[[Any], bool]
    meaning: str


def _between(low: int, high: int) -> Rule:
    return Rule(lambda value: low <= value <= high, f"between {low} and {high}")


def _one_of(*choices: str) -> Rule:
    return Rule(lambda value: value in choices, "one of " + ", ".join(choices))


Rows = Annotated[int, _between(1, MAX_ROWS)]
Width = Annotated[int, _between(1, MAX_WIDTH)]
Layers = Annotated[int, _between(1, MAX_LAYERS)]
Count = Annotated[int, _between(0, MAX_ROWS)]
Probability = Annotated[float | int, _between(0, 1)]
OptionalProbability = Annotated[float | int | None, _between(0, 1)]
Deviation = Annotated[float, Rule(lambda value: 0 <= value < math.inf, "finite and not negative")]
Epsilon = Annotated[float, Rule(lambda value: 0 < value < math.inf, "finite and above 0")]
PadId = Annotated[int | None, Rule(lambda value: value >= 0, "a token's id")]
ModelType = Annotated[str, _one_of(*SUPPORTED_MODEL_TYPES)]
Activation = Annotated[str, _one_of(*KNOWN_ACTIVATIONS)]
DType = Annotated[str | None, _one_of(*DTYPE_NAMES)]
ProblemType = Annotated[str | None, _one_of("regression", "single_label_classification", "multi_label_classification")]
PositionType = Annotated[str | None, Rule("absolute".__eq__, "absolute (XLM-RoBERTa has no relative positions)")]


def _alias(name: str) -> property:
    return property(lambda self: getattr(self, name), lambda self, value: setattr(self, name, value))


class _CommonFields:
    """Fields of every model in the reference: written to JSON only where they differ from these defaults."""

    output_hidden_states: bool | int | list[int] | None = False
    output_attentions: bool | None = False
    return_dict: bool | None = True
    dtype: DType = None
    chunk_size_feed_forward: Count = 0
    is_encoder_decoder: bool = False
    problem_type: ProblemType = None
    architectures: list[str] | None = None
    transformers_version: str | None = None  # of the file read; this library has none of its own to write
    _name_or_path: str = ""
    _attn_implementation: str | None = None
    generation_parameters: dict[str, Any]


class XLMRobertaConfig(_CommonFields):
    """All that shapes an XLM-RoBERTa model besides its weights.

    The defaults are those of the reference's class, which are BERT's: a checkpoint states its own, and
    `XLM_ROBERTA_BASE` and `XLM_ROBERTA_LARGE` have the published ones. A key that is no field becomes an
    attribute and is written again. ``id2label`` and ``label2id`` are each other's inverse: give either, or
    only ``num_labels``. A field is checked whenever it is set; what several must satisfy together is checked
    by `validate`, at construction and before every save, so that two can be changed one after the other.

    Raises:
        TypeError: a value has the wrong type.
        ValueError: a value is out of its range, or contradicts another.
    """

    model_type: ModelType = "xlm-roberta"
    vocab_size: Rows = 30522
    hidden_size: Width = 768
    num_hidden_layers: Layers = 12
    num_attention_heads: Width = 12
    intermediate_size: Width = 3072
    hidden_act: Activation = "gelu"
    hidden_dropout_prob: Probability = 0.1
    attention_probs_dropout_prob: Probability = 0.1
    max_position_embeddings: Rows = 512  # of which pad_token_id + 1 serve no token
    type_vocab_size: Rows = 2
    initializer_range: Deviation = 0.02
    layer_norm_eps: Epsilon = 1e-12
    pad_token_id: PadId = 1
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 2
    use_cache: bool = True
    classifier_dropout: OptionalProbability = None  # None: as hidden_dropout_prob
    is_decoder: bool = False
    add_cross_attention: bool = False
    tie_word_embeddings: bool = True
    position_embedding_type: PositionType  # only in files that have it

    torch_dtype = _alias("dtype")
    name_or_path = _alias("_name_or_path")
    attn_implementation = _alias("_attn_implementation")
    use_return_dict = property(lambda self: self.return_dict)

    def __init__(self, /, **settings: Any) -> None:
        settings = copy.deepcopy(_canonical(settings))
        if "num_labels" in settings:
            checked("num_labels", settings["num_labels"], Count)
        vars(self).update(_label_maps(**{key: settings.pop(key) for key in _LABEL_KEYS if key in settings}))
        generation = {key: settings.pop(key) for key in GENERATION_KEYS if key in settings}
        self.generation_parameters = settings.pop("generation_parameters", {})
        self.generation_parameters.update(generation)
        for name, value in (_DEFAULTS | settings).items():
            setattr(self, name, value)
        self.validate()

    def __setattr__(self, name: str, value: Any) -> None:
        attribute = getattr(type(self), name, None)
        if name in _FIELDS:
            if name == "dtype":  # NumPy's dtypes and scalar types by their names, as JSON has them
                value = getattr(value, "__name__", getattr(value, "name", value))
            vars(self)[name] = checked(name, value, _FIELDS[name])
        elif isinstance(attribute, property) and attribute.fset is not None:
            object.__setattr__(self, name, value)
        elif name in GENERATION_KEYS:
            raise ValueError(f"{name} is a setting of generation, not of the model: pass it to generate().")
        elif attribute is not None or name.startswith("__"):
            raise ValueError(f"{name!r} cannot be set on a config: its class uses that name; take another.")
        else:
            vars(self)[name] = value

    @property
    def id2label(self) -> dict[int, str]:
        """The labels' names by id; setting it derives `label2id`, and None gives two labels without names."""
        return cast(dict[int, str], vars(self)["id2label"])

    @id2label.setter
    def id2label(self, names: dict[int, str] | None) -> None:
        vars(self).update(_label_maps(id2label=names))

    @property
    def label2id(self) -> dict[str, int]:
        """The labels' ids by name; setting it derives `id2label`."""
        return cast(dict[str, int], vars(self)["label2id"])

    @label2id.setter
    def label2id(self, ids: dict[str, int] | None) -> None:
        vars(self).update(_label_maps(label2id=ids))

    @property
    def num_labels(self) -> int:
        """How many labels there are; setting another number names them LABEL_0, LABEL_1 and so on."""
        return len(self.id2label)

    @num_labels.setter
    def num_labels(self, number: int) -> None:
        if checked("num_labels", number, Count) != self.num_labels:
            vars(self).update(_label_maps(num_labels=number))

    def validate(self) -> None:
        """Checks every field, and what fields must satisfy together.

        Raises:
            TypeError: something of the wrong type was put into a list or dict of a field.
            ValueError: fields contradict each other; the message names them.
        """
        for name in _FIELDS.keys() & vars(self).keys():
            checked(name, vars(self)[name], _FIELDS[name])
        _label_maps(self.id2label, self.label2id)
        width, heads = self.hidden_size, self.num_attention_heads
        pad_id, rows = self.pad_token_id, self.max_position_embeddings
        if width % heads:
            raise ValueError(f"hidden_size {width} must be a multiple of num_attention_heads {heads}.")
        if pad_id is not None and pad_id >= self.vocab_size:
            raise ValueError(f"pad_token_id {pad_id} must be below vocab_size {self.vocab_size}.")
        if pad_id is not None and pad_id + 1 >= rows:
            raise ValueError(
                f"max_position_embeddings {rows} must be above {pad_id + 1}, the position of the first token."
            )
        if self.add_cross_attention and not self.is_decoder:
            raise ValueError(
                "add_cross_attention=True needs is_decoder=True: only a decoder sees the states of another model."
            )
        if self.problem_type == "single_label_classification" and self.num_labels == 1:
            raise ValueError(
                'problem_type="single_label_classification" needs more than the one label of num_labels=1: '
                'take num_labels=2 for yes or no, or problem_type="regression" for a number.'
            )

    @classmethod
    def get_config_dict(
        cls,
        source: str | os.PathLike[str],
        *,
        cache_dir: str | os.PathLike[str] | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        subfolder: str = "",
        **unused: Any,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the config file of a model says, unchecked, and the arguments that were not needed to find it.

        Args:
            source: a directory that holds a config.json, the id of a hub repository, or a JSON file.
            cache_dir: the hub cache to use in place of the usual one.
            revision: branch, tag or commit of the repository.
            token: for private repositories.
            local_files_only: never ask the network.
            subfolder: folder of the model within the directory or repository.
            unused: returned as they are.

        Raises:
            OSError: there is no such source, it has no config.json, or that holds no JSON object.
        """
        from xlmr_np.weights.errors import CheckpointError
        from xlmr_np.weights.files import local_path, locate

        path = local_path(source)
        if path.is_file():
            return read_json(path), unused
        found = locate(
            source,
            CONFIG_FILE,
            subfolder=subfolder,
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
        )
        if found is None:
            place = f"{source}/{subfolder}" if subfolder else source
            raise CheckpointError(f"{place} has no {CONFIG_FILE}; a model needs one beside its weights.")
        return read_json(found), unused

    @overload
    @classmethod
    def from_pretrained(
        cls, source: str | os.PathLike[str], *, return_unused_kwargs: Literal[False] = False, **options: Any
    ) -> "XLMRobertaConfig": ...
    @overload
    @classmethod
    def from_pretrained(
        cls, source: str | os.PathLike[str], *, return_unused_kwargs: Literal[True], **options: Any
    ) -> tuple["XLMRobertaConfig", dict[str, Any]]: ...
    @classmethod
    def from_pretrained(cls, source: str | os.PathLike[str], **options: Any) -> Any:
        """The config of a model: `get_config_dict`, then `from_dict`, with the arguments of both.

        Raises:
            OSError: there is no such source, it has no config.json, or that holds no JSON object.
            TypeError, ValueError: as for `from_dict`, naming the source.
        """
        return cls._build(source, *cls.get_config_dict(source, **options))

    @classmethod
    def _build(cls, source: str | os.PathLike[str], settings: dict[str, Any], overrides: dict[str, Any]) -> Any:
        try:
            return cls.from_dict(settings, **overrides)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{source}: {error}") from error

    @classmethod
    def from_json_file(cls, json_file: str | os.PathLike[str]) -> "XLMRobertaConfig":
        """The config in one JSON file; errors as for `from_pretrained`."""
        return cast(XLMRobertaConfig, cls._build(json_file, read_json(Path(json_file)), {}))

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any], *, return_unused_kwargs: bool = False, **overrides: Any) -> Any:
        """The config that a dict describes; the dict stays as it is.

        Args:
            config_dict: what a config.json holds.
            return_unused_kwargs: return the config and a dict of the overrides that are no settings of it.
            overrides: settings that replace the dict's. A label map replaces both of the dict's, and None
                forgets that one; another ``num_labels`` gives the labels new names.

        Raises:
            TypeError: an override is no setting of the config, or a value has the wrong type.
            ValueError: a value is out of its range, or contradicts another.
        """
        unused = {name: value for name, value in overrides.items() if not cls._is_setting(name, config_dict)}
        if unused and not return_unused_kwargs:
            raise TypeError(f"{', '.join(unused)}: no setting of this config; correct or omit the name.")
        used = {name: value for name, value in overrides.items() if name not in unused}
        config = cls(**_merged(config_dict, used))
        return (config, unused) if return_unused_kwargs else config

    @classmethod
    def _is_setting(cls, name: str, settings: Mapping[str, Any]) -> bool:
        return name in settings or name in _FIELDS or isinstance(getattr(cls, name, None), property)

    def update(self, config_dict: Mapping[str, Any]) -> None:
        """Changes several settings, or none if they do not fit together; labels change as in `from_dict`."""
        changed = type(self)(**_merged(vars(self), config_dict))
        for name, value in vars(changed).items():
            setattr(self, name, value)

    def update_from_string(self, update_str: str) -> None:
        """Changes settings written as ``"hidden_act=relu,use_cache=false"``.

        Raises:
            TypeError: a setting is no number, boolean or string.
            ValueError: there is no such setting, or its value is of another type.
        """
        changes: dict[str, Any] = {}
        for item in update_str.split(","):
            name, _, text = item.partition("=")
            if not self._is_setting(name, vars(self)):
                raise ValueError(f"{item!r} changes no setting of this config; write name=value,name=value.")
            kind = type(getattr(self, name, None))
            if kind not in (bool, int, float, str):
                raise TypeError(f"{name} is {kind.__name__}; a string can set only int, float, bool and str.")
            try:
                changes[name] = _BOOLEANS[text.lower()] if kind is bool else kind(text)
            except (KeyError, ValueError):
                raise ValueError(f"{name} must be {kind.__name__}; got {text!r}.") from None
        self.update(changes)

    def to_dict(self) -> dict[str, Any]:
        """A copy of every setting of the model, defaults included."""
        return copy.deepcopy({name: value for name, value in vars(self).items() if name not in _NOT_WRITTEN})

    def to_diff_dict(self) -> dict[str, Any]:
        """`to_dict` without what goes without saying: what a config.json holds."""
        settings = self.to_dict()
        unsaid = {"_name_or_path"}
        if settings["id2label"] == _label_maps()["id2label"]:
            unsaid |= {"id2label", "label2id"}
        for name in _CommonFields.__annotations__.keys() & settings.keys():
            # Types count: `output_hidden_states` 0 is a layer, and False is none.
            if (type(settings[name]), settings[name]) == (type(_DEFAULTS[name]), _DEFAULTS[name]):
                unsaid.add(name)
        return {name: value for name, value in settings.items() if name not in unsaid}

    def to_json_string(self, use_diff: bool = True) -> str:
        """`to_diff_dict`, or else `to_dict`, as JSON with sorted keys and a newline at the end.

        Raises:
            TypeError: an attribute that is no field has a value JSON cannot hold.
        """
        settings = self.to_diff_dict() if use_diff else self.to_dict()
        return json.dumps(_encoded(settings), indent=2, sort_keys=True) + "\n"

    def to_json_file(self, json_file_path: str | os.PathLike[str], use_diff: bool = True) -> None:
        """Writes `to_json_string` beside the file and renames it: a failure leaves an old file as it was."""
        from xlmr_np.weights.saving import replacing

        text = self.to_json_string(use_diff)
        with replacing(Path(json_file_path)) as beside:
            beside.write_text(text, encoding="utf-8", newline="\n")

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> None:
        """Writes config.json into a directory, which is made if need be.

        Raises:
            NotADirectoryError: the path is a file.
            TypeError, ValueError: as for `validate` and `to_json_string`; nothing has been written then.
        """
        directory = Path(save_directory)
        if directory.is_file():
            raise NotADirectoryError(f"{directory} is a file; give a directory for {CONFIG_FILE}.")
        self.validate()
        self.to_json_string()
        directory.mkdir(parents=True, exist_ok=True)
        self.to_json_file(directory / CONFIG_FILE)

    def __eq__(self, other: object) -> bool:
        """Whether both say the same of a model, wherever they came from."""
        if not isinstance(other, XLMRobertaConfig):
            return NotImplemented
        origin = {"transformers_version": None}
        return self.to_diff_dict() | origin == other.to_diff_dict() | origin

    def __repr__(self) -> str:
        return f"XLMRobertaConfig {self.to_json_string()}"


_FIELDS = get_type_hints(XLMRobertaConfig, include_extras=True)
_DEFAULTS = {name: getattr(XLMRobertaConfig, name) for name in _FIELDS if hasattr(XLMRobertaConfig, name)}


class AutoConfig:
    """The config of any model this library knows, by the ``model_type`` it states."""

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike[str], **options: Any) -> Any:
        """As `XLMRobertaConfig.from_pretrained`.

        Raises:
            ValueError: the config states no model_type, or another than those of SUPPORTED_MODEL_TYPES.
        """
        settings, overrides = XLMRobertaConfig.get_config_dict(source, **options)
        if (settings | overrides).get("model_type") is None:
            supported = ", ".join(SUPPORTED_MODEL_TYPES)
            raise ValueError(f"{source}: the config has no model_type; it must state one of {supported}.")
        return XLMRobertaConfig._build(source, settings, overrides)


# Checking one value


def checked(name: str, value: Any, hint: Any) -> Any:
    """The value itself, if it has the type and obeys the rules of a field's annotation."""
    kind, rules = (hint.__origin__, hint.__metadata__) if get_origin(hint) is Annotated else (hint, ())
    is_right_type = _matches(value, kind)
    if is_right_type and (value is None or all(rule.holds(value) for rule in rules)):
        return value
    wanted = [kind.__name__ if isinstance(kind, type) else str(kind), *(rule.meaning for rule in rules)]
    message = f"{name} must be {', '.join(wanted)}; got {type(value).__name__} {reprlib.repr(value)}."
    raise ValueError(message) if is_right_type else TypeError(message)


def _matches(value: object, kind: Any) -> bool:
    if isinstance(kind, UnionType):
        return any(_matches(value, member) for member in get_args(kind))
    if get_origin(kind) is list:
        return isinstance(value, list) and all(_matches(item, get_args(kind)[0]) for item in value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, get_origin(kind) or kind)


# Labels


def _label_maps(id2label: Any = None, label2id: Any = None, num_labels: int | None = None) -> dict[str, Any]:
    """Both label maps, from whatever was given of them.

    Raises:
        TypeError: a map is no dict, an id no integer, or a name no string.
        ValueError: ids are not 0, 1, 2 and so on, or what was given contradicts itself.
    """
    checked("id2label", id2label, dict | None)
    checked("label2id", label2id, dict | None)
    if id2label and label2id and all(_DEFAULT_LABEL.fullmatch(str(name)) for name in label2id):
        label2id = None  # old files keep the default names here beside a fine-tune's own in id2label
    if id2label is not None:
        labels = [(_label_id(index), _label_name(name)) for index, name in id2label.items()]
    elif label2id is not None:
        labels = [(_label_id(index), _label_name(name)) for name, index in label2id.items()]
    else:
        labels = [(index, f"LABEL_{index}") for index in range(2 if num_labels is None else num_labels)]
    labels.sort()
    maps: dict[str, Any] = {"id2label": dict(labels), "label2id": {name: index for index, name in labels}}
    if [index for index, _ in labels] != list(range(len(labels))):
        raise ValueError(f"The labels' ids must be 0, 1, 2 and so on; got {reprlib.repr(labels)}.")
    if len(maps["label2id"]) != len(labels):
        raise ValueError(f"Two labels have the same name; rename one in {reprlib.repr(maps['id2label'])}.")
    if id2label is not None and label2id is not None and maps != _label_maps(label2id=label2id):
        raise ValueError(
            f"id2label and label2id are contradictory: {reprlib.repr(label2id)} is not the inverse of "
            f"{reprlib.repr(id2label)}; give the right one, and None for the other."
        )
    if num_labels is not None and num_labels != len(labels):
        raise ValueError(
            f"num_labels={num_labels} and label maps of {len(labels)} names are contradictory; leave one out."
        )
    return maps


def _label_id(value: object) -> int:
    if isinstance(value, str) and value.isdecimal():  # the keys of a JSON object are strings
        return int(value)
    return cast(int, checked("A label's id", value, int))


def _label_name(value: object) -> str:
    if _matches(value, int):  # a fine-tune whose labels were numbers: as keys of label2id they are strings
        return str(value)
    return cast(str, checked("A label's name", value, str))


# Settings as a dict, and as JSON


def _canonical(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A copy under the fields' own names; where a field is given by both its names, its own wins."""
    canonical = {name: value for name, value in settings.items() if name not in {*_ALIASES, *_DROPPED_KEYS}}
    for alias, name in _ALIASES.items():
        if settings.get(alias) is not None and canonical.get(name) is None:
            canonical[name] = settings[alias]
    return canonical


def _merged(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with a caller's changes, without the labels that the changes make stale."""
    settings, changes = _canonical(settings), _canonical(changes)
    maps = [settings[name] for name in ("id2label", "label2id") if isinstance(settings.get(name), dict)]
    stale: tuple[str, ...] = ()
    if changes.get("id2label") is not None or changes.get("label2id") is not None:
        stale = _LABEL_KEYS
    elif "num_labels" in changes and any(len(names) != changes["num_labels"] for names in maps):
        stale = ("id2label", "label2id")
    return {name: value for name, value in settings.items() if name not in stale} | changes


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a checkpoint.

    Raises:
        CheckpointError: it cannot be read, or holds something else.
    """
    from xlmr_np.weights.errors import CheckpointError

    try:
        settings = json.loads(path.read_bytes(), object_pairs_hook=_decoded)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}); mend it or get it anew.") from error
    if not isinstance(settings, dict):
        raise CheckpointError(f"{path} must hold a JSON object; it holds {type(settings).__name__}.")
    return settings


def _decoded(pairs: list[tuple[str, Any]]) -> Any:
    """One object of a JSON file; the reference writes what is no JSON number as ``{"__float__": "NaN"}``."""
    found = dict(pairs)
    if len(found) != len(pairs):
        key, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"an object has the key {key!r} twice")
    if list(found) == ["__float__"] and isinstance(found["__float__"], str):
        return _SPECIAL_FLOATS.get(found["__float__"], found)
    return found


def _encoded(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return {"__float__": json.dumps(value)}
    if isinstance(value, dict):
        return {key: _encoded(item) for key, item in value.items()}
    return [_encoded(item) for item in value] if isinstance(value, list | tuple) else value


# The published sizes


class _SharedConfig(XLMRobertaConfig):
    """A constant: it reads like any config and refuses to change, and its copies are ordinary configs."""

    def __init__(self, /, **settings: Any) -> None:
        vars(self).update(vars(XLMRobertaConfig(**settings)))

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"This config is a shared constant: set {name} on copy.deepcopy(config).")

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        return dict(value) if name in ("id2label", "label2id", "generation_parameters") else value

    def __reduce__(self) -> tuple[Any, ...]:  # copy, deepcopy and pickle
        return XLMRobertaConfig.from_dict, (self.to_dict(),)


XLM_ROBERTA_BASE: XLMRobertaConfig = _SharedConfig(
    vocab_size=250002, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5
)
XLM_ROBERTA_LARGE: XLMRobertaConfig = _SharedConfig(
    **XLM_ROBERTA_BASE.to_dict()
    | {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
)
