"""`generate()`: from a prompt and what is asked for to the texts, greedily, by sampling, or by beam search."""

import copy
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import numpy as np
from jaxtyping import Int

from xlmr_np.arrays import array_namespace, as_generator
from xlmr_np.config import XLMRobertaConfig
from xlmr_np.decoding.beam_search import NOTHING, Beams, BeamSetting, search_beams
from xlmr_np.decoding.cache import NO_ID, KeyValueCache, check_past
from xlmr_np.decoding.continuation import Continuation, Prompt
from xlmr_np.decoding.generation_config import GenerationConfig, unknown_setting
from xlmr_np.decoding.processors import ScoresFunction, name_of, processors_for
from xlmr_np.decoding.sampling import draw, likeliest_token
from xlmr_np.decoding.stopping import StoppingFunction, stopping_for
from xlmr_np.decoding.token_by_token import Steps, continue_token_by_token
from xlmr_np.decoding.warpers import warpers_for
from xlmr_np.inputs import longest_sequence, read_array, visibility
from xlmr_np.outputs import GenerateBeamDecoderOnlyOutput, GenerateDecoderOnlyOutput

logger = logging.getLogger("xlmr_np")


def generate(
    model: Any,
    input_ids: Any = None,
    generation_config: GenerationConfig | None = None,
    *,
    attention_mask: Any = None,
    inputs_embeds: Any = None,
    encoder_hidden_states: Any = None,
    encoder_attention_mask: Any = None,
    past_key_values: KeyValueCache | None = None,
    logits_processor: Iterable[ScoresFunction] = (),
    stopping_criteria: Iterable[StoppingFunction] = (),
    streamer: Any = None,
    tokenizer: Any = None,
    generator: np.random.Generator | None = None,
    **settings: Any,
) -> Int[np.ndarray, "texts T"] | GenerateDecoderOnlyOutput | GenerateBeamDecoderOnlyOutput:
    """See `XLMRobertaForCausalLM.generate`."""
    with _ending(streamer):
        config = merged_config(model, generation_config, settings)
        source = {"encoder_hidden_states": encoder_hidden_states, "encoder_attention_mask": encoder_attention_mask}
        prompt = _prompt(config, input_ids, attention_mask, inputs_embeds)._replace(source=source)
        prompts = len(prompt.is_real)
        copies = max(config.num_beams, config.num_return_sequences)
        if streamer is not None and prompts * copies > 1:
            raise ValueError(
                "A streamer shows one text while it grows; give one prompt, and no beams or further texts."
            )
        new_tokens = _limit(config, prompt, model.config)
        length, ends = prompt.ids.shape[1], config.eos_ids
        own_processors = _functions("logits_processor", logits_processor)
        own_criteria = _functions("stopping_criteria", stopping_criteria)
        processors = processors_for(config, length, ends, model.config.vocab_size, own_processors)
        processors += warpers_for(config, ends)
        criteria = stopping_for(config, length, ends, tokenizer, own_criteria)
        generator = as_generator(generator)
        chance = generator if config.do_sample else None
        keeps = config.output_scores, config.output_logits
        texts = Continuation(
            model,
            prompt,
            _cache(config, prompt, past_key_values, new_tokens),
            config.position_mode,
            output_attentions=config.return_dict_in_generate and config.output_attentions,
            output_hidden_states=config.return_dict_in_generate and config.output_hidden_states,
        )
        if streamer is not None:
            streamer.put(prompt.ids)
        logits = texts.logits()  # of each prompt once, however many texts it is to have
        texts.select(np.repeat(np.arange(prompts), copies))
        logits = array_namespace(logits).repeat(logits, copies, axis=0)
        record: GenerateDecoderOnlyOutput | GenerateBeamDecoderOnlyOutput
        if config.num_beams == 1:
            choose = likeliest_token if chance is None else partial(draw, generator=chance)
            pad_id = _pad_id(config)
            steps = continue_token_by_token(texts, logits, processors, criteria, choose, pad_id, keeps, streamer)
            record = GenerateDecoderOnlyOutput(texts.ids, **_kept(config, steps, texts, copies))
        else:
            penalty, early_stopping = config.length_penalty, config.early_stopping
            setting = BeamSetting(config.num_beams, new_tokens, len(ends), penalty, early_stopping)
            ended, steps = search_beams(texts, logits, processors, criteria, setting, chance, keeps)
            record = _best(config, prompt, ended, _kept(config, steps, texts, copies))
    return record if config.return_dict_in_generate else record.sequences


def _functions(name: str, given: Any) -> list[Any]:
    """The users' functions of this argument, of which there may be none.

    Raises:
        TypeError: it is a function itself.
    """
    if callable(given) and not isinstance(given, Iterable):
        raise TypeError(f"{name} must be a list of functions, even of one: [{name_of(given)}].")
    return list(given or ())


@contextmanager
def _ending(streamer: Any) -> Iterator[None]:
    """Says to the streamer that the text is at its end, or that there will be none because of an error."""
    try:
        yield
    except BaseException as error:
        if hasattr(streamer, "abort"):
            streamer.abort(error)
        raise
    if streamer is not None:
        streamer.end()


def merged_config(model: Any, given: GenerationConfig | None, settings: dict[str, Any]) -> GenerationConfig:
    """What is asked for: by the call, or else by the config of the call or of the model; special tokens by any of them.

    Raises:
        TypeError: a setting has an unknown name.
        ValueError: a setting is out of its range, or contradicts another.
    """
    if not isinstance(given, GenerationConfig | None):
        raise TypeError(
            f"generation_config must be a GenerationConfig, not {given!r:.60}; pass settings by their names."
        )
    config = copy.deepcopy(model.generation_config if given is None else given)
    unknown = config.update(**settings)
    if unknown:
        raise TypeError(unknown_setting(min(unknown)))
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if getattr(config, name) is None:
            setattr(config, name, getattr(model.config, name))
    config.validate()
    return config


def _pad_id(config: GenerationConfig) -> int:
    """What stands behind the end of a text."""
    return next((token for token in (config.pad_token_id, *config.eos_ids) if token is not None), 0)


def _prompt(config: GenerationConfig, input_ids: Any, attention_mask: Any, inputs_embeds: Any) -> Prompt:
    """What the texts begin with, with all padding on the left.

    Raises:
        ValueError: an array has another shape than the others ask for, or a prompt is empty.
        TypeError: ids are no integers, or embeddings no floats.
    """
    if input_ids is not None and inputs_embeds is not None:
        raise ValueError("Give input_ids or inputs_embeds as the prompt, not both.")
    if inputs_embeds is not None:
        embeddings = read_array("inputs_embeds", inputs_embeds, "f", ("batch", "tokens", "hidden_size"))
        ids = np.zeros((len(embeddings), 0), np.int64)
        is_real = np.ones(embeddings.shape[:2], bool)
    else:
        if input_ids is None:
            if config.bos_token_id is None:
                raise ValueError("There is no prompt, and no bos_token_id to begin with; pass input_ids.")
            input_ids = [[config.bos_token_id]]
        embeddings = None
        ids = read_array("input_ids", input_ids, "iu", ("batch", "tokens")).astype(np.int64)
        may_be_padded = config.pad_token_id is not None and config.pad_token_id not in config.eos_ids
        is_real = ids != config.pad_token_id if may_be_padded else np.ones(ids.shape, bool)
    is_real, is_visible = visibility(attention_mask, is_real, num_heads=1)
    if is_visible is not None:
        raise ValueError(
            f"generate() takes an attention_mask of shape {is_real.shape}, which says what is padding; this one says "
            "who sees whom."
        )
    for row in np.flatnonzero(~is_real.any(axis=1))[:1]:
        raise ValueError(f"Prompt {row} has no token that is not padding; give it at least one, such as <s>.")
    if not is_real[:, -1].all():
        logger.warning("Prompts are padded on the right; their padding is moved to the left, where texts do not grow.")
        order = np.argsort(is_real, axis=1, kind="stable")
        is_real = np.take_along_axis(is_real, order, axis=1)
        if embeddings is None:
            ids = np.take_along_axis(ids, order, axis=1)
        else:
            embeddings = np.take_along_axis(embeddings, order[:, :, None], axis=1)
    return Prompt(ids, is_real, embeddings)


def longest_text(config: GenerationConfig, model_config: XLMRobertaConfig) -> int:
    """How many tokens a prompt and what is generated may have together."""
    if config.position_mode == "huggingface":  # whose positions begin at 0
        return model_config.max_position_embeddings
    return longest_sequence(model_config)


def _limit(config: GenerationConfig, prompt: Prompt, model_config: XLMRobertaConfig) -> int:
    """How many tokens may be generated; the config then says so, in new tokens.

    Raises:
        ValueError: none may.
    """
    longest, length = int(prompt.is_real.sum(axis=1).max()), prompt.is_real.shape[1]
    limit = longest_text(config, model_config)
    if longest >= limit:
        raise ValueError(
            f"A prompt has {longest} tokens, and this model takes texts of at most {limit}; shorten it, so that there "
            "is room to go on."
        )
    least, most = config.lengths(length)
    if most - length > limit - longest:
        logger.warning(
            "At most %d of %d new tokens are generated: this model takes texts of at most %d tokens.",
            limit - longest,
            most - length,
            limit,
        )
    config.max_length = config.min_length = None
    config.max_new_tokens = min(most - length, limit - longest)
    config.min_new_tokens = min(max(0, least - length), config.max_new_tokens)
    return config.max_new_tokens


def _cache(config: GenerationConfig, prompt: Prompt, given: Any, new_tokens: int) -> KeyValueCache | None:
    """The given cache, or a new one if the config asks for that.

    Raises:
        TypeError: the given one is none of ours.
        ValueError: it is not to be used, or leaves nothing of the prompts to compute.
    """
    check_past(given, config.use_cache)
    length = prompt.is_real.shape[1]
    if given is None:
        return KeyValueCache(length + new_tokens) if config.use_cache else None
    cached = given.get_seq_length()
    if cached >= length:
        raise ValueError(
            f"The cache holds {cached} tokens and the prompt has {length} in all; it must have more: those after the "
            "cached ones are computed, and the last of them says what comes next."
        )
    if prompt.embeddings is None and given.ids.shape[:1] == prompt.ids.shape[:1]:
        is_other = (given.ids != prompt.ids[:, :cached]) & given.is_real & (given.ids != NO_ID)
        for row, column in np.argwhere(is_other)[:1]:
            raise ValueError(
                f"The cache holds token {given.ids[row, column]} at [{row}, {column}], where the prompt has "
                f"{prompt.ids[row, column]}; give the whole prompt, of which the cache has the beginning."
            )
    return cast(KeyValueCache, given)


def _kept(config: GenerationConfig, steps: Steps, texts: Continuation, copies: int) -> dict[str, Any]:
    """The fields of a record that all ways of generating share."""
    kept: dict[str, Any] = {"past_key_values": texts.cache}
    if config.output_scores:
        kept["scores"] = tuple(steps.scores)
    if config.output_logits:
        kept["logits"] = tuple(steps.logits)
    for name in ("attentions", "cross_attentions", "hidden_states"):
        of_steps = [getattr(output, name) for output in texts.outputs]
        if any(of_step is not None for of_step in of_steps):
            xp = array_namespace(of_steps[0][0])
            of_steps[0] = tuple(xp.repeat(each, copies, axis=0) for each in of_steps[0])  # the prompts were read once
            kept[name] = tuple(of_steps)
    return kept


def _best(
    config: GenerationConfig, prompt: Prompt, ended: Beams, kept: dict[str, Any]
) -> GenerateBeamDecoderOnlyOutput:
    """The texts that are asked for, in a rectangle as wide as the longest."""
    number = config.num_return_sequences
    tokens, rows = (each[:, :number].reshape(-1, each.shape[2]) for each in ended[:2])
    longest = int((tokens != NOTHING).sum(axis=1).max(initial=0))
    tokens, rows = tokens[:, :longest], rows[:, :longest]
    new = np.where(tokens == NOTHING, _pad_id(config), tokens)
    sequences = np.concatenate([np.repeat(prompt.ids, number, axis=0), new], axis=1)
    scores = ended.scores[:, :number].ravel() if config.output_scores else None
    return GenerateBeamDecoderOnlyOutput(sequences, scores, beam_indices=rows, **kept)
