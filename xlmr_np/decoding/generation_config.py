"""All that can be asked of text generation, read from and written as the ``generation_config.json`` of a checkpoint.

The table of settings is the body of `GenerationConfig`: a line has a setting's type, the rule its value must obey
besides, and its default. Names and defaults are the reference's; what it ignores or crashes on is an error here.
"""

import copy
import dataclasses
import difflib
import functools
import json
import logging
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, cast, get_type_hints

import numpy as np

from xlmr_np.config import Rule, XLMRobertaConfig, checked, read_json
from xlmr_np.weights.errors import CheckpointError

logger = logging.getLogger("xlmr_np")

GENERATION_CONFIG_FILE = "generation_config.json"
LARGEST_FILE = 2**22  # bytes; the longest part of such a file is a list of banned tokens
DEFAULT_NEW_TOKENS = 20  # where no length is asked for
LARGEST_POWER = 100  # of a length of some hundred tokens, still a number
MOST_SEQUENCES = 2**16  # per prompt: a config is data from somebody else, and each of them takes memory

# Settings of the reference that change what it generates, and the values with which they do not.
NOT_SUPPORTED = {
    "constraints": None,
    "diversity_penalty": 0.0,
    "dola_layers": None,
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1.0,
    "force_words_ids": None,
    "guidance_scale": 1.0,
    "num_beam_groups": 1,
    "penalty_alpha": None,
    "token_healing": False,
    "top_h": None,
    "watermarking_config": None,
}
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
_BEAMS = ("early_stopping", "length_penalty")
_IN_RECORD = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")


def _is_text(value: str | list[str]) -> bool:
    texts = [value] if isinstance(value, str) else value
    return bool(texts) and all(texts)


def _are_ids(value: int | list[int]) -> bool:
    ids = [value] if isinstance(value, int) else value
    return bool(ids) and min(ids) >= 0


def _are_sequences(value: list[list[int]]) -> bool:
    return bool(value) and all(map(_are_ids, value))


def _are_biases(value: list[list]) -> bool:
    """Whether it is a list of pairs such as ``[[10, 45], -2.0]``, each sequence once."""
    for pair in value:
        if len(pair) != 2 or not _is_list_of_ids(pair[0]) or not _is_number(pair[1]) or not pair[1] < math.inf:
            return False
    return 0 < len(value) == len({tuple(sequence) for sequence, _ in value})


def _is_decay(value: list) -> bool:
    if len(value) != 2 or not all(map(_is_number, value)) or not isinstance(value[0], int):
        return False
    return value[0] >= 0 and 0 < value[1] < math.inf


def _is_list_of_ids(value: object) -> bool:
    return isinstance(value, list) and all(_is_number(i) and isinstance(i, int) for i in value) and _are_ids(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_POSITIVE = Rule(lambda value: 0 < value < math.inf, "finite and above 0")

Length = Annotated[int | None, Rule(lambda value: value >= 1, "at least 1")]
Count = Annotated[int, Rule(lambda value: value >= 0, "0 (off) or more")]
OptionalCount = Annotated[int | None, Rule(lambda value: value >= 0, "at least 0")]
Sequences = Annotated[int, Rule(lambda value: 1 <= value <= MOST_SEQUENCES, f"between 1 and {MOST_SEQUENCES}")]
Positive = Annotated[float | int, _POSITIVE]
Seconds = Annotated[float | int | None, _POSITIVE]
Temperature = Annotated[
    float | int,
    Rule(_POSITIVE.holds, "finite and above 0 (for the likeliest token each time, leave it out and do not sample)"),
]
Power = Annotated[float | int, Rule(lambda value: abs(value) <= LARGEST_POWER, f"at most {LARGEST_POWER} from 0")]
Mass = Annotated[float | int, Rule(lambda value: 0 < value <= 1, "above 0 and at most 1 (off)")]
Ratio = Annotated[float | int | None, Rule(lambda value: 0 <= value <= 1, "between 0 and 1")]
Cutoff = Annotated[float | int, Rule(lambda value: 0 <= value < 1, "at least 0 (off) and below 1")]
EarlyStopping = Annotated[bool | str, Rule(lambda value: value in (True, False, "never"), 'a boolean or "never"')]
Texts = Annotated[str | list[str] | None, Rule(_is_text, "of at least one character each")]
TokenId = Annotated[int | None, Rule(_are_ids, "a token's id, which is never negative")]
TokenIds = Annotated[int | list[int] | None, Rule(_are_ids, "a token's id, which is never negative, or several")]
SuppressedIds = Annotated[list[int] | None, Rule(lambda value: not value or _are_ids(value), "of tokens' ids")]
BadWords = Annotated[list[list[int]] | None, Rule(_are_sequences, "of at least one list of tokens' ids each")]
Biases = Annotated[
    list[list] | None,
    Rule(_are_biases, "of pairs, such as [[[10, 45], -2.0]], of tokens' ids, each list once, and a number below inf"),
]
Decay = Annotated[list | None, Rule(_is_decay, "of a number of tokens and a factor above 0, such as [15, 1.1]")]
PositionMode = Annotated[str, Rule(lambda value: value in ("model", "huggingface"), '"model" or "huggingface"')]


@dataclass(kw_only=True, repr=False)
class GenerationConfig:
    """All that can be asked of text generation.

    None stands for the default, as in the reference. Tuples and dicts are kept in the form JSON has for them, as
    lists. A setting is checked whenever it is set; what several must satisfy together is checked by `validate`, at
    construction and before every use, so that two can be changed one after the other.

    Attributes:
        max_length: tokens in all, the prompt and its padding included; not used beside `max_new_tokens`.
        max_new_tokens: tokens after the prompt; 20 if neither is set.
        min_length: tokens in all before the text may end; not used beside `min_new_tokens`.
        min_new_tokens: tokens after the prompt before the text may end.
        max_time: seconds after which no further token is begun.
        stop_strings: texts, one or several, after which generation ends; they are part of the result.
        early_stopping: beam search ends as soon as there are enough finished beams (True), when better ones have
            become improbable (False), or impossible ("never").
        do_sample: draw tokens at random, rather than take the likeliest.
        num_beams: width of the beam search; 1 is none.
        use_cache: keep keys and values of earlier tokens, rather than compute them for each token anew.
        temperature: what scores are divided by, when sampling, like what follows up to `eta_cutoff`.
        top_k: keep so many of the likeliest tokens (0: all).
        top_p: keep the likeliest tokens that together have this probability.
        min_p: keep tokens with this share of the likeliest token's probability.
        typical_p: keep the tokens of this probability whose surprisal is nearest to the expected one.
        epsilon_cutoff: keep tokens with this probability.
        eta_cutoff: like `epsilon_cutoff`, with a bound that falls as the entropy rises.
        repetition_penalty: above 1 makes tokens less likely that were there before.
        length_penalty: power of the length that a beam's score is divided by.
        no_repeat_ngram_size: no sequence of so many tokens comes twice (0: it may).
        bad_words_ids: sequences of tokens that never come.
        forced_bos_token_id: the second token of all.
        forced_eos_token_id: the last token, where the text reaches its greatest length.
        remove_invalid_values: turn NaN scores into 0, and infinite ones into finite.
        exponential_decay_length_penalty: a number of new tokens, from which on the end becomes likelier, and the
            factor by which it does.
        suppress_tokens: tokens that never come.
        begin_suppress_tokens: tokens that do not come first.
        sequence_bias: pairs of a sequence of tokens and what is added to the score of completing it; a dict with
            tuples as keys will do.
        renormalize_logits: turn the changed scores into logarithms of probabilities again.
        num_return_sequences: results for each prompt.
        output_scores: return the changed scores of each step.
        output_logits: return the model's scores of each step.
        output_attentions: return the attention weights of each step.
        output_hidden_states: return the hidden states of each step.
        return_dict_in_generate: return a record, in which alone the four above have a place.
        pad_token_id: what follows the end of a text in a batch.
        bos_token_id: what generation begins with where there is no prompt.
        eos_token_id: the token, or the tokens, that end a text.
        position_mode: "model" numbers positions as the model does in training; "huggingface" as the reference's
            `generate()`, which begins at 0.
        other_settings: what a file holds besides; it is written again, and nothing else is done with it.

    Raises:
        TypeError: there is no such setting, or a value has the wrong type.
        ValueError: a value is out of its range, or contradicts another.
    """

    max_length: Length = None
    max_new_tokens: Length = None
    min_length: OptionalCount = None
    min_new_tokens: OptionalCount = None
    max_time: Seconds = None
    stop_strings: Texts = None
    early_stopping: EarlyStopping = False
    do_sample: bool = False
    num_beams: Sequences = 1
    use_cache: bool = True
    temperature: Temperature = 1.0
    top_k: Count = 50
    top_p: Mass = 1.0
    min_p: Ratio = None
    typical_p: Mass = 1.0
    epsilon_cutoff: Cutoff = 0.0
    eta_cutoff: Cutoff = 0.0
    repetition_penalty: Positive = 1.0
    length_penalty: Power = 1.0
    no_repeat_ngram_size: Count = 0
    bad_words_ids: BadWords = None
    forced_bos_token_id: TokenId = None
    forced_eos_token_id: TokenIds = None
    remove_invalid_values: bool = False
    exponential_decay_length_penalty: Decay = None
    suppress_tokens: SuppressedIds = None
    begin_suppress_tokens: SuppressedIds = None
    sequence_bias: Biases = None
    renormalize_logits: bool = False
    num_return_sequences: Sequences = 1
    output_scores: bool = False
    output_logits: bool = False
    output_attentions: bool = False
    output_hidden_states: bool = False
    return_dict_in_generate: bool = False
    pad_token_id: TokenId = None
    bos_token_id: TokenId = None
    eos_token_id: TokenIds = None
    position_mode: PositionMode = "model"
    other_settings: dict[str, Any] = field(default_factory=dict, compare=False)

    def __new__(cls, **settings: Any) -> "GenerationConfig":
        """Refuses names that `__init__` does not have, with a proposal."""
        for name in settings.keys() - _HINTS.keys():
            raise TypeError(unknown_setting(name))
        return super().__new__(cls)

    def __post_init__(self) -> None:
        self.validate()

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _HINTS:
            raise AttributeError(unknown_setting(name))
        value = _as_json_has_it(value)
        if value is None:
            value = _DEFAULTS[name]
        vars(self)[name] = checked(name, value, _HINTS[name])

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """The tokens that end a text, none, one or several."""
        return as_tuple(self.eos_token_id)

    def lengths(self, prompt_length: int) -> tuple[int, int]:
        """The length below which a text may not end, and that at which it does, both with the prompt.

        Args:
            prompt_length: tokens of the prompt, its padding included.

        Raises:
            ValueError: the greatest length leaves no token to generate, or is below the least one.
        """
        least, most = self.min_length or 0, self.max_length
        if self.min_new_tokens is not None:
            least = prompt_length + self.min_new_tokens
        if self.max_new_tokens is not None or most is None:
            most = prompt_length + (self.max_new_tokens or DEFAULT_NEW_TOKENS)
        if most <= prompt_length:
            raise ValueError(
                f"max_length={most} leaves no token to generate after a prompt of {prompt_length} tokens; "
                "increase it, or set max_new_tokens in its place."
            )
        if least > most:
            raise ValueError(
                f"At least {least - prompt_length} new tokens are asked for, but at most {most - prompt_length}; "
                "change the least or the greatest length."
            )
        return least, most

    def validate(self) -> None:
        """Checks every setting, and what settings must satisfy together; logs once which have no effect.

        Raises:
            TypeError: something of the wrong type was put into a list.
            ValueError: a value is out of its range, or settings contradict each other; the message names them.
        """
        for name, hint in _HINTS.items():
            checked(name, getattr(self, name), hint)
        if self.num_return_sequences > 1 and self.num_beams == 1 and not self.do_sample:
            raise ValueError(
                f"num_return_sequences={self.num_return_sequences} would all be the same with neither do_sample=True "
                "nor num_beams above 1."
            )
        if 1 < self.num_beams < self.num_return_sequences:
            raise ValueError(
                f"num_return_sequences={self.num_return_sequences} must be at most num_beams={self.num_beams}."
            )
        if self.max_new_tokens is not None and (self.min_new_tokens or 0) > self.max_new_tokens:
            raise ValueError(
                f"min_new_tokens={self.min_new_tokens} is more than max_new_tokens={self.max_new_tokens} allows; "
                "change one of them."
            )
        suppressed = set(self.suppress_tokens or ())
        for name in ("forced_bos_token_id", "forced_eos_token_id"):
            forced = as_tuple(getattr(self, name))
            if forced and suppressed.issuperset(forced):
                raise ValueError(
                    f"{name}={getattr(self, name)} and suppress_tokens, which holds it, are contradictory; "
                    "to put off the end, set min_new_tokens."
                )
        for notice in self._notices():
            _warn_once(notice)

    def _notices(self) -> Iterator[str]:
        """Sentences about settings that have no effect beside the others."""
        if not self.do_sample:
            yield from self._unused(_SAMPLING, "do_sample=True")
        if self.num_beams == 1:
            yield from self._unused(_BEAMS, "num_beams above 1")
        if not self.return_dict_in_generate:
            yield from self._unused(_IN_RECORD, "return_dict_in_generate=True")
        for unused, used in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
            if getattr(self, unused) and getattr(self, used) is not None:
                yield f"{unused}={getattr(self, unused)} has no effect beside {used}={getattr(self, used)}."
        ignored = [
            f"{name}={value!r:.60}"
            for name, value in self.other_settings.items()
            if name in NOT_SUPPORTED and value is not None and value != NOT_SUPPORTED[name]
        ]
        if ignored:
            yield f"Of the generation config, {', '.join(ignored)} has no effect: xlmr-np does not support it."

    def _unused(self, names: tuple[str, ...], condition: str) -> Iterator[str]:
        settings = [f"{name}={getattr(self, name)!r}" for name in names if getattr(self, name) != _DEFAULTS[name]]
        if settings:
            yield f"{', '.join(settings)} has no effect without {condition}."

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        config_file_name: str = GENERATION_CONFIG_FILE,
        *,
        cache_dir: str | os.PathLike[str] | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        subfolder: str = "",
        **overrides: Any,
    ) -> Any:
        """The generation config of a model.

        Args:
            source: a directory, or the id of a hub repository.
            config_file_name: the name of the file there.
            cache_dir: the hub cache to use in place of the usual one.
            revision: branch, tag or commit of the repository.
            token: for private repositories.
            local_files_only: never ask the network.
            subfolder: folder of the model within the directory or repository.
            overrides: as for `from_dict`.

        Raises:
            OSError: there is no such source, it has no such file, or that holds no JSON object.
            TypeError, ValueError: as for `from_dict`, naming the source.
        """
        from xlmr_np.weights.files import cached_only, locate

        path = locate(
            source,
            config_file_name,
            subfolder=subfolder,
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
        )
        if path is None:
            place = f"{source}/{subfolder}" if subfolder else source
            raise CheckpointError(
                f"{place} has no {config_file_name}{cached_only(source)}; "
                "GenerationConfig.from_model_config(model.config) makes one."
            )
        return cls.from_json_file(path, **overrides)

    @classmethod
    def from_json_file(cls, json_file: str | os.PathLike[str], **overrides: Any) -> Any:
        """The generation config in one JSON file; arguments and errors are those of `from_dict`, naming the file.

        Raises:
            OSError: the file cannot be read, is too large, or holds no JSON object.
        """
        path = Path(json_file)
        if path.stat().st_size > LARGEST_FILE:
            raise CheckpointError(f"{path} has more than {LARGEST_FILE} bytes, which no generation config has.")
        settings = read_json(path)
        try:
            return cls.from_dict(settings, **overrides)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{path}: {error}") from error

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any], *, return_unused_kwargs: bool = False, **overrides: Any) -> Any:
        """The generation config that a dict describes; the dict stays as it is.

        Args:
            config_dict: what a generation_config.json holds; what is no setting here becomes `other_settings`.
            return_unused_kwargs: return the config and a dict of the overrides that are no settings.
            overrides: settings that replace the dict's.

        Raises:
            TypeError: an override is no setting, or a value has the wrong type.
            ValueError: a value is out of its range, or contradicts another.
        """
        unused = {name: value for name, value in overrides.items() if name not in _SETTINGS}
        if unused and not return_unused_kwargs:
            raise TypeError(unknown_setting(next(iter(unused))))
        described = {name: value for name, value in config_dict.items() if name in _SETTINGS}
        others = {name: copy.deepcopy(value) for name, value in config_dict.items() if name not in _SETTINGS}
        used = {name: value for name, value in overrides.items() if name in _SETTINGS}
        config = cls(**described | used, other_settings=others)
        return (config, unused) if return_unused_kwargs else config

    @classmethod
    def from_model_config(cls, model_config: XLMRobertaConfig) -> "GenerationConfig":
        """The generation config of a model that has none: its special tokens, and what old files say of generation.

        Raises:
            TypeError, ValueError: as for `from_dict`.
        """
        output = {name: bool(getattr(model_config, name)) for name in ("output_attentions", "output_hidden_states")}
        inherited = {
            name: getattr(model_config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id", "use_cache")
        }
        settings = {
            "_from_model_config": True,
            "return_dict_in_generate": any(output.values()),
            **inherited,
            **output,
            **model_config.generation_parameters,
        }
        return cast(GenerationConfig, cls.from_dict(settings))

    def update(self, **settings: Any) -> dict[str, Any]:
        """Changes several settings, or none if they do not fit together.

        Returns:
            What is no setting here.

        Raises:
            TypeError, ValueError: as at construction.
        """
        used = {name: value for name, value in settings.items() if name in _SETTINGS}
        vars(self).update(vars(dataclasses.replace(self, **used)))
        return {name: value for name, value in settings.items() if name not in used}

    def to_dict(self) -> dict[str, Any]:
        """A copy of every setting, defaults and `other_settings` included, each by its name."""
        settings = copy.deepcopy(vars(self))
        return settings.pop("other_settings") | settings

    def to_diff_dict(self) -> dict[str, Any]:
        """`to_dict` without the settings that have their defaults: what a generation_config.json holds."""
        return {
            name: value for name, value in self.to_dict().items() if name not in _SETTINGS or value != _DEFAULTS[name]
        }

    def to_json_string(self, use_diff: bool = True) -> str:
        """`to_diff_dict`, or else `to_dict`, as JSON with sorted keys and a newline at the end."""
        settings = self.to_diff_dict() if use_diff else self.to_dict()
        return json.dumps(settings, indent=2, sort_keys=True) + "\n"

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], config_file_name: str = GENERATION_CONFIG_FILE
    ) -> None:
        """Writes the file into a directory, which is made if need be; a failure leaves an old file as it was.

        Raises:
            NotADirectoryError: the path is a file.
            TypeError, ValueError: as for `validate`; nothing has been written then.
        """
        from xlmr_np.weights.saving import replacing

        directory = Path(save_directory)
        if directory.is_file():
            raise NotADirectoryError(f"{directory} is a file; give a directory for {config_file_name}.")
        self.validate()
        text = self.to_json_string()
        directory.mkdir(parents=True, exist_ok=True)
        with replacing(directory / config_file_name) as beside:
            beside.write_text(text, encoding="utf-8", newline="\n")

    def __repr__(self) -> str:
        return f"GenerationConfig {self.to_json_string()}"


_HINTS = get_type_hints(GenerationConfig, include_extras=True)
_DEFAULTS = {each.name: each.default for each in dataclasses.fields(GenerationConfig)}
_SETTINGS = _HINTS.keys() - {"other_settings"}


def as_tuple(ids: int | list[int] | None) -> tuple[int, ...]:
    """None, one or several ids, as a tuple."""
    if ids is None:
        return ()
    return (ids,) if isinstance(ids, int) else tuple(ids)


def _as_json_has_it(value: Any) -> Any:
    """Tuples and arrays as lists, a dict of sequences as a list of pairs, and NumPy's numbers as Python's."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, dict) and any(isinstance(key, tuple) for key in value):
        return _as_json_has_it(list(value.items()))
    return [_as_json_has_it(item) for item in value] if isinstance(value, list | tuple) else value


def unknown_setting(name: str) -> str:
    """What messages say of a name that no setting has, with the nearest one that is."""
    if name in NOT_SUPPORTED:
        return f"{name} is a setting of transformers that xlmr-np does not support; leave it out."
    near = difflib.get_close_matches(name, _SETTINGS, n=1)
    proposal = f"did you mean {near[0]}?" if near else "correct or omit the name."
    return f"{name} is no setting of generation; {proposal}"


@functools.lru_cache(maxsize=256)
def _warn_once(message: str) -> None:
    logger.warning(message)
