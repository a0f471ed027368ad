"""Text generation: how a causal language model goes on with a text."""

import dataclasses
import logging
import reprlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from xlmr_np.decoding.generation import longest_text, merged_config
from xlmr_np.decoding.generation_config import GenerationConfig
from xlmr_np.models import XLMRobertaForCausalLM
from xlmr_np.pipelines.base import RunSetting, TaskPipeline, WarnOnce, known_settings
from xlmr_np.pipelines.pairing import check_pair
from xlmr_np.pipelines.streaming import Row
from xlmr_np.tokenizer import XLMRobertaTokenizer
from xlmr_np.tokenizer.arguments import checked_text

logger = logging.getLogger("xlmr_np")

Answer = list[dict[str, Any]]  # for each text that goes on with the prompt

# The reference's: what is done where neither a caller nor the model's generation_config.json says.
NEW_TOKENS = 256  # but at most half of what the model takes
SAMPLING = {"do_sample": True, "temperature": 0.7}


@dataclass(frozen=True, kw_only=True)
class Options(RunSetting):
    """What may be asked of the pipeline besides the settings of `GenerationConfig`.

    Attributes:
        return_full_text: put the prompt before what is generated.
        return_tensors: return ids, of the prompt and of what is generated, in place of texts.
        prefix: what the model reads before each prompt, and no answer shows.
        stop_sequence: a text, or several, after which generation ends; it is part of the answer.
        clean_up_tokenization_spaces: take away spaces before English punctuation in what is generated.
        handle_long_generation: "hole" cuts off the beginning of prompts (but not `<s>`) that leave no room for all the
            new tokens; None generates as many as there is room for.
        add_end_token: end prompts with `</s>`, as the reference does, so that the model begins another text.
        generation_config: what is asked for, in place of what the model's own says.
        generator: draws the tokens; None takes fresh randomness.
        streamer: as for `generate`; prompts are then run one after the other.
        logits_processor: as for `generate`.
        stopping_criteria: as for `generate`.
    """

    return_full_text: bool | None = None  # the same as True, but not beside return_tensors
    return_tensors: bool = False
    prefix: str = ""
    stop_sequence: str | Sequence[str] | None = None
    clean_up_tokenization_spaces: bool = False
    handle_long_generation: str | None = None
    add_end_token: bool = False
    batch_size: int | None = 8
    generation_config: GenerationConfig | None = None
    generator: np.random.Generator | None = None
    streamer: Any = None
    logits_processor: Sequence[Any] = ()
    stopping_criteria: Sequence[Any] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_text(self.prefix, "prefix")
        if self.return_tensors and self.return_full_text is not None:
            raise ValueError(
                "return_full_text says which text is returned, and return_tensors=True returns ids; leave one out."
            )
        if self.handle_long_generation not in (None, "hole"):
            raise ValueError(f'handle_long_generation={self.handle_long_generation!r} must be None or "hole".')


@dataclass(frozen=True, kw_only=True)
class Request(Options):
    """All that is asked for.

    Attributes:
        config: how to generate.
        has_length: whether somebody said how long texts are to be.
    """

    config: GenerationConfig
    has_length: bool


_OPTIONS = {each.name for each in dataclasses.fields(Options)}


class Prompt(NamedTuple):
    """A text to go on with, as one row; prompts of one kind may have equally many new tokens."""

    text: str
    rows: tuple[Row]


class TextGenerationPipeline(TaskPipeline[Request]):
    """Goes on with texts, by a causal language model.

    A prompt gets a list of answers, one unless `num_return_sequences` asks for more, each a dict of

    - generated_text: the prompt and what follows, or with `return_full_text=False` what follows alone, which begins
      with a space if a word does;
    - generated_token_ids: in its place with `return_tensors=True`, the ids of both, without padding.

    Special tokens are never part of a text, and nothing is that comes after an end token. Unless told otherwise,
    tokens are drawn at random, with a temperature of 0.7, up to 256 of them, or half of what the model takes; with
    `do_sample=False` each is the likeliest one. The settings are those of `Options` and of `GenerationConfig`; None
    leaves one as the pipeline, the model, or else the default has it.
    """

    setting_class = Options
    input_name = "Prompt"

    def __init__(self, model: XLMRobertaForCausalLM, tokenizer: XLMRobertaTokenizer, **settings: Any) -> None:
        """Hold the model and the settings that calls may override.

        Args:
            model: the language model.
            tokenizer: its tokenizer.
            **settings: see `__call__`.

        Raises:
            ValueError: the tokenizer has ids that the model does not know; or as for `__call__`.
            TypeError: as for `__call__`.
        """
        check_pair(model, tokenizer)
        self.model = model
        self.tokenizer = tokenizer
        self.settings: dict[str, Any] = {}
        self.settings = _given(known_settings(type(self), settings))
        self.setting = self.changed({})
        if any(name.endswith("ForMaskedLM") for name in model.config.architectures or ()):
            logger.warning(
                "This model was trained to fill masks, and not to go on with texts: what it generates has no meaning, "
                "and is for trying things out only."
            )

    @classmethod
    def setting_names(cls) -> Collection[str]:
        """See `TaskPipeline.setting_names`."""
        return _OPTIONS | {each.name for each in dataclasses.fields(GenerationConfig)} - {"other_settings"}

    def is_one(self, inputs: Any) -> bool:
        """See `TaskPipeline.is_one`."""
        return isinstance(inputs, str)

    def new_text(
        self, prompt: str, prompt_ids: Sequence[int], new_ids: Sequence[int], clean_up_tokenization_spaces: bool = False
    ) -> str:
        """What generated tokens spell after a prompt, with the space before them if they begin a word.

        Args:
            prompt: the text that is shown before them.
            prompt_ids: what the model has read.
            new_ids: what it has generated; those by which its vocabulary exceeds the tokenizer's have no text.
            clean_up_tokenization_spaces: see `Options`.
        """
        special = set(self.tokenizer.all_special_ids)
        before = [token for token in prompt_ids if token not in special][-1:]  # a text's first space would be lost
        known = [token for token in new_ids if token < len(self.tokenizer)]
        start, whole = (
            self.tokenizer.decode(ids, True, clean_up_tokenization_spaces) for ids in (before, [*before, *known])
        )
        text = str(whole[len(start) :])
        return text.removeprefix(" ") if not prompt or prompt[-1].isspace() else text

    def changed(self, changes: dict[str, Any]) -> Request:
        """What the pipeline, a call and the model ask for together.

        Raises:
            ValueError: a setting is out of its range or contradicts another.
            TypeError: a setting is unknown.
        """
        settings = {**self.settings, **_given(known_settings(type(self), changes))}
        options = Options(**{name: settings.pop(name) for name in _OPTIONS & settings.keys()})
        if options.stop_sequence is not None:
            if settings.get("stop_strings") is not None:
                raise ValueError("stop_sequence and stop_strings are two names for one setting; give one of them.")
            settings["stop_strings"] = options.stop_sequence
        if settings.get("return_dict_in_generate"):
            raise ValueError(
                "The pipeline returns texts; for the record of return_dict_in_generate=True call model.generate()."
            )
        if options.generation_config is None:
            said = {**self.model.generation_config.to_diff_dict(), **settings}
            if said.get("do_sample", True):
                settings = {**{name: value for name, value in SAMPLING.items() if name not in said}, **settings}
        config = merged_config(self.model, options.generation_config, settings)
        config.return_dict_in_generate = False  # whatever the model's own config says
        has_length = config.max_new_tokens is not None or config.max_length is not None
        if not has_length:
            config.max_new_tokens = min(NEW_TOKENS, longest_text(config, self.model.config) // 2)
        asked = {name: getattr(options, name) for name in _OPTIONS}
        if options.streamer is not None:
            asked["batch_size"] = 1
        return Request(**asked, config=config, has_length=has_length)

    def read(self, number: int, value: Any, setting: Request, warned: WarnOnce) -> Prompt:
        """A prompt as the model reads it.

        Raises:
            ValueError: there is no room for a token after it.
            TypeError: it is not a text.
        """
        config, name = setting.config, self.name_of(number)
        text = checked_text(value, name)
        ids = self.tokenizer(setting.prefix + text, truncation=False, verbose=False)["input_ids"]  # measured below
        ids = ids if setting.add_end_token else ids[:-1]
        limit = longest_text(config, self.model.config)
        if setting.handle_long_generation == "hole":
            wanted = config.lengths(len(ids))[1] - len(ids)
            if wanted >= limit:
                raise ValueError(
                    f"There is no room for {wanted} new tokens, however much of prompt {number} is cut off: this model "
                    f"takes texts of at most {limit} tokens; ask for fewer."
                )
            if len(ids) + wanted > limit:
                ids = ids[:1] + ids[len(ids) + wanted - limit + 1 :]
        room = limit - len(ids)
        if room < 1:
            raise ValueError(
                f"{name} has {len(ids)} tokens, and this model takes texts of at most {limit}, so that there is no "
                f"room to go on: {reprlib.repr(text)}; shorten it, or have its beginning cut off "
                '(handle_long_generation="hole", or --truncate on the command line).'
            )
        least, most = (length - len(ids) for length in config.lengths(len(ids)))
        if most > room and setting.has_length:
            warned(
                "%s of %d tokens leaves room for %d new ones only, and so may others: this model takes texts of at "
                "most %d tokens.",
                name, len(ids), room, limit,
            )  # fmt: skip
        return Prompt(text, (Row(ids, (min(most, room), max(least, 0))),))

    def compute(self, rows: list[Row], setting: Request) -> Iterable[np.ndarray]:
        """The new tokens after each row, [number of answers, T], and the padding behind them."""
        length = max(len(row.ids) for row in rows)
        ids = np.full((len(rows), length), self.tokenizer.pad_token_id)
        is_real = np.zeros(ids.shape, bool)
        for row, of_row, real in zip(rows, ids, is_real, strict=True):
            of_row[length - len(row.ids) :] = row.ids
            real[length - len(row.ids) :] = True
        lengths: Any = rows[0].kind  # as `read` says
        new_tokens, fewest = lengths
        sequences = self.model.generate(
            ids,
            setting.config,
            attention_mask=is_real,
            logits_processor=setting.logits_processor,
            stopping_criteria=setting.stopping_criteria,
            streamer=setting.streamer,
            tokenizer=self.tokenizer,
            generator=setting.generator,
            max_length=None,  # which would count padding
            min_length=None,
            max_new_tokens=new_tokens,
            min_new_tokens=fewest,
        )
        return sequences[:, length:].reshape(len(rows), setting.config.num_return_sequences, -1)

    def answer(self, reading: Any, results: list[np.ndarray], setting: Request) -> Answer:
        """A dict for each text that goes on with the prompt."""
        return [self._answer(reading, row, setting) for row in results[0]]

    def _answer(self, prompt: Prompt, row: np.ndarray, setting: Request) -> dict[str, Any]:
        """One answer, given the new tokens and the padding behind them."""
        config, prompt_ids = setting.config, prompt.rows[0].ids
        is_end = np.isin(row, config.eos_ids)
        padding = np.logical_and.accumulate(row[::-1] == config.pad_token_id).sum()
        new = row[: int(is_end.argmax()) + 1 if is_end.any() else len(row) - int(padding)].tolist()
        if setting.return_tensors:
            return {"generated_token_ids": [*prompt_ids, *new]}
        text = self.new_text(prompt.text, prompt_ids, new, setting.clean_up_tokenization_spaces)
        return {"generated_text": text if setting.return_full_text is False else prompt.text + text}


def _given(settings: dict[str, Any]) -> dict[str, Any]:
    """Those that are not None; of `batch_size` None says something."""
    return {name: value for name, value in settings.items() if value is not None or name == "batch_size"}
