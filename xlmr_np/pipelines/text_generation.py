"""Text generation: how a causal language model goes on with a text."""

import dataclasses
import logging
import reprlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any, NamedTuple

import numpy as np

from xlmr_np.decoding.generation import longest_text, merged_config
from xlmr_np.decoding.generation_config import GenerationConfig
from xlmr_np.models import XLMRobertaForCausalLM
from xlmr_np.pipelines.pairing import check_pair
from xlmr_np.tokenizer import XLMRobertaTokenizer
from xlmr_np.tokenizer.arguments import checked_text, whole_number

logger = logging.getLogger("xlmr_np")

Answer = list[dict[str, Any]]  # for each text that goes on with the prompt

# The reference's: what is done where neither a caller nor the model's generation_config.json says.
NEW_TOKENS = 256  # but at most half of what the model takes
SAMPLING = {"do_sample": True, "temperature": 0.7}

BATCHES_IN_WINDOW = 8  # prompts so many batches wide are sorted by length


@dataclass(frozen=True, kw_only=True)
class Options:
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
        batch_size: how many prompts are run together.
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
    batch_size: int = 8
    generation_config: GenerationConfig | None = None
    generator: np.random.Generator | None = None
    streamer: Any = None
    logits_processor: Sequence[Any] = ()
    stopping_criteria: Sequence[Any] = ()

    def __post_init__(self) -> None:
        whole_number("batch_size", self.batch_size, minimum=1)
        checked_text(self.prefix, "prefix")
        if self.return_tensors and self.return_full_text is not None:
            raise ValueError(
                "return_full_text says which text is returned, and return_tensors=True returns ids; leave one out."
            )
        if self.handle_long_generation not in (None, "hole"):
            raise ValueError(f'handle_long_generation={self.handle_long_generation!r} must be None or "hole".')


_OPTIONS = {each.name for each in dataclasses.fields(Options)}
SETTINGS = _OPTIONS | {each.name for each in dataclasses.fields(GenerationConfig)} - {"other_settings"}


class Request(NamedTuple):
    """All that is asked for."""

    options: Options
    config: GenerationConfig
    has_length: bool  # whether somebody said how long texts are to be


class Prompt(NamedTuple):
    """A text to go on with, and how."""

    number: int  # among all, for messages
    text: str
    ids: list[int]
    new_tokens: int  # at most
    fewest: int  # and at least
    is_short_of_room: bool


class TextGenerationPipeline:
    """Goes on with texts, by a causal language model.

    A prompt gets a list of answers, one unless `num_return_sequences` asks for more, each a dict of

    - generated_text: the prompt and what follows, or with `return_full_text=False` what follows alone, which begins
      with a space if a word does;
    - generated_token_ids: in its place with `return_tensors=True`, the ids of both, without padding.

    Special tokens are never part of a text, and nothing is that comes after an end token. Unless told otherwise,
    tokens are drawn at random, with a temperature of 0.7, up to 256 of them, or half of what the model takes; with
    `do_sample=False` each is the likeliest one.
    """

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
        self.settings = _given(settings)
        self._request({})  # what is wrong with them is said now
        if any(name.endswith("ForMaskedLM") for name in model.config.architectures or ()):
            logger.warning(
                "This model was trained to fill masks, and not to go on with texts: what it generates has no meaning, "
                "and is for trying things out only."
            )

    def __call__(self, inputs: str | Iterable[str], **settings: Any) -> Any:
        """Go on with one or many prompts.

        Args:
            inputs: a prompt, answered by a list of dicts; a list of prompts, answered by a list of such lists; or any
                other iterable of prompts, answered by an iterator that works through it by and by.
            **settings: of `Options` and of `GenerationConfig`, such as `return_full_text=False` and
                `max_new_tokens=50`; None leaves one as the pipeline, the model, or else the default has it.

        Raises:
            ValueError: a prompt is too long for the model, or a setting is out of its range or contradicts another.
            TypeError: a prompt is not a text, or a setting is unknown.
        """
        request = self._request(settings)
        prompts = [inputs] if isinstance(inputs, str) else inputs
        if isinstance(prompts, bytes) or not isinstance(prompts, Iterable):
            raise TypeError(f"Give a prompt or prompts to go on with; got {type(inputs).__name__}.")
        answers = self._stream(iter(prompts), request)
        if isinstance(inputs, str):
            return next(answers)
        return list(answers) if isinstance(inputs, list | tuple) else answers

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

    def _request(self, changes: dict[str, Any]) -> Request:
        """What the pipeline, a call and the model ask for together.

        Raises:
            ValueError, TypeError: as for `__call__`.
        """
        settings = {**self.settings, **_given(changes)}
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
        return Request(options, config, has_length)

    def _stream(self, prompts: Iterator[str], request: Request) -> Iterator[Answer]:
        """The answers in the order of the prompts, of which no more than a window are held."""
        batch_size = request.options.batch_size if request.options.streamer is None else 1
        size = 1 if batch_size == 1 else batch_size * BATCHES_IN_WINDOW
        first, is_warned = 1, not request.has_length
        while texts := list(islice(prompts, size)):
            window = [self._prompt(text, number, request) for number, text in enumerate(texts, first)]
            for prompt in window:
                if prompt.is_short_of_room and not is_warned:
                    is_warned = True
                    logger.warning(
                        "Prompt %d of %d tokens leaves room for %d new ones only, and so may others: this model takes "
                        "texts of at most %d tokens.",
                        prompt.number,
                        len(prompt.ids),
                        prompt.new_tokens,
                        longest_text(request.config, self.model.config),
                    )
            answers: dict[int, Answer] = {}
            for batch in _batches(window, batch_size):
                answers.update(zip([prompt.number for prompt in batch], self._answers(batch, request), strict=True))
            yield from (answers[prompt.number] for prompt in window)
            first += len(window)

    def _prompt(self, text: str, number: int, request: Request) -> Prompt:
        """A prompt as the model reads it.

        Raises:
            ValueError: there is no room for a token after it.
            TypeError: it is not a text.
        """
        options, config = request.options, request.config
        read = options.prefix + checked_text(text, "Prompt", f" {number}")
        ids = self.tokenizer(read, truncation=False, verbose=False)["input_ids"]  # its length is looked at below
        ids = ids if options.add_end_token else ids[:-1]
        limit = longest_text(config, self.model.config)
        if options.handle_long_generation == "hole":
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
                f"Prompt {number} has {len(ids)} tokens, and this model takes texts of at most {limit}, so that there "
                f"is no room to go on: {reprlib.repr(text)}; shorten it, or have its beginning cut off "
                '(handle_long_generation="hole", or --truncate on the command line).'
            )
        least, most = (length - len(ids) for length in config.lengths(len(ids)))
        return Prompt(number, text, ids, min(most, room), max(least, 0), most > room)

    def _answers(self, batch: list[Prompt], request: Request) -> Iterator[Answer]:
        """The answers to prompts that may have equally many new tokens."""
        options, config = request.options, request.config
        length = max(len(prompt.ids) for prompt in batch)
        ids = np.full((len(batch), length), self.tokenizer.pad_token_id)
        is_real = np.zeros(ids.shape, bool)
        for prompt, row, real in zip(batch, ids, is_real, strict=True):
            row[length - len(prompt.ids) :] = prompt.ids
            real[length - len(prompt.ids) :] = True
        sequences = self.model.generate(
            ids,
            config,
            attention_mask=is_real,
            logits_processor=options.logits_processor,
            stopping_criteria=options.stopping_criteria,
            streamer=options.streamer,
            tokenizer=self.tokenizer,
            generator=options.generator,
            max_length=None,  # which would count padding
            min_length=None,
            max_new_tokens=batch[0].new_tokens,
            min_new_tokens=batch[0].fewest,
        )
        of_prompts = sequences[:, length:].reshape(len(batch), config.num_return_sequences, -1)
        for prompt, rows in zip(batch, of_prompts, strict=True):
            yield [self._answer(prompt, row, request) for row in rows]

    def _answer(self, prompt: Prompt, row: np.ndarray, request: Request) -> dict[str, Any]:
        """One answer, given the new tokens and the padding behind them."""
        options, config = request.options, request.config
        is_end = np.isin(row, config.eos_ids)
        padding = np.logical_and.accumulate(row[::-1] == config.pad_token_id).sum()
        new = row[: int(is_end.argmax()) + 1 if is_end.any() else len(row) - int(padding)].tolist()
        if options.return_tensors:
            return {"generated_token_ids": [*prompt.ids, *new]}
        text = self.new_text(prompt.text, prompt.ids, new, options.clean_up_tokenization_spaces)
        return {"generated_text": text if options.return_full_text is False else prompt.text + text}


def _given(settings: dict[str, Any]) -> dict[str, Any]:
    """Those that are not None."""
    return {name: value for name, value in settings.items() if value is not None}


def _batches(window: list[Prompt], batch_size: int) -> Iterator[list[Prompt]]:
    """Batches of prompts of similar length; a long one must not leave the others less room than they have alone."""

    def lengths(prompt: Prompt) -> tuple[int, int]:
        return prompt.new_tokens, prompt.fewest

    ordered = sorted(window, key=lambda prompt: (*lengths(prompt), len(prompt.ids)))
    for _, group in groupby(ordered, lengths):
        while batch := list(islice(group, batch_size)):
            yield batch
