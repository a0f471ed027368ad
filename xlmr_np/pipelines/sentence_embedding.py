"""Sentence embeddings: one vector for a text, such that texts of like meaning have vectors that are near each other."""

import os
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np

from xlmr_np.arrays import Array, array_namespace, device_context, to_device
from xlmr_np.heads.sentence_pooling import (
    Dense,
    Normalize,
    Pooling,
    Step,
    check_pooling,
    dense_forward,
    normalize_forward,
    pooling_forward,
)
from xlmr_np.inputs import longest_sequence
from xlmr_np.layers.linear import LinearParams
from xlmr_np.pipelines.base import (
    Location,
    RunSetting,
    TaskPipeline,
    TruncationSetting,
    WarnOnce,
    finite,
    known_settings,
    logger,
)
from xlmr_np.pipelines.pairing import is_empty_text
from xlmr_np.pipelines.streaming import Row
from xlmr_np.semantic_search import BLOCK_ROWS, are_numbers, check_similarity, nearest, similarities
from xlmr_np.tokenizer.arguments import checked_flag, checked_text, whole_number
from xlmr_np.weights.sentence_transformers import read_sentence_transformer

LONG_TEXTS = ("truncate", "mean", "error")


@dataclass(frozen=True, kw_only=True)
class SentenceEmbeddingSetting(RunSetting):
    """What may be asked of sentence embeddings; a checkpoint of sentence-transformers sets what its files say.

    Attributes:
        pooling: what makes one vector of those of a text's tokens, a name among
            `xlmr_np.heads.sentence_pooling.POOLINGS`, or several, whose vectors then stand side by side. None: what
            `steps` say, the mean where there are none.
        normalize: True makes embeddings of length one, False leaves them as they are; None: as `steps` say.
        prompt: put before each text.
        prompt_name: the name of one of `prompts`, in place of `prompt`.
        max_length: how many tokens of a text are read, the prompt and special tokens among them; None: as many as model
            and tokenizer allow.
        long_texts: what becomes of texts that are longer. "truncate": their beginning is read, with one warning a call;
            "mean": all of their parts are, and the embedding is the mean of those of the parts, weighted by their
            numbers of tokens, and made of length one if those are; "error": they are refused.
        truncate_dim: keep so many numbers of an embedding, the first ones; None: all.
        similarity: by which embeddings are compared: "cosine", "dot", "euclidean" or "manhattan".
        steps: from the model's states to an embedding, a `Pooling` first.
        prompts: by name.
        default_prompt_name: of the one that is taken if there is neither `prompt` nor `prompt_name`.
        do_lower_case: texts are lowered.
    """

    pooling: str | Sequence[str] | None = None
    normalize: bool | None = None
    prompt: str | None = None
    prompt_name: str | None = None
    max_length: int | None = None
    long_texts: str = "truncate"
    truncate_dim: int | None = None
    similarity: str = "cosine"
    steps: tuple[Step, ...] | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    do_lower_case: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pooling is not None:
            if not isinstance(self.pooling, str | list | tuple) or not self.pooling:
                raise TypeError(f"pooling={self.pooling!r} is no name of a pooling, and no list of some.")
            for mode in [self.pooling] if isinstance(self.pooling, str) else self.pooling:
                check_pooling(mode)
        if self.normalize is not None:
            checked_flag("normalize", self.normalize)
        if self.prompt is not None:
            checked_text(self.prompt, "prompt")
            if self.prompt_name is not None:
                raise ValueError(f"Both prompt and prompt_name={self.prompt_name!r} are given; give one of them.")
        if not isinstance(self.prompts, Mapping):
            raise TypeError(f"prompts={self.prompts!r} must be a dict of prompts by their names.")
        for known_name, prompt in self.prompts.items():
            checked_text(prompt, f"prompts[{known_name!r}]")
        for name in (self.prompt_name, self.default_prompt_name):
            if name is not None and checked_text(name, "prompt_name") not in self.prompts:
                known = f"there are {', '.join(map(repr, self.prompts))}" if self.prompts else "the model brings none"
                raise ValueError(f"There is no prompt of the name {name!r}: {known}; or give the prompt itself.")
        for name in ("max_length", "truncate_dim"):
            if getattr(self, name) is not None:
                whole_number(name, getattr(self, name), minimum=1)
        if self.long_texts not in LONG_TEXTS:
            raise ValueError(f"long_texts={self.long_texts!r} is not known; there are {', '.join(LONG_TEXTS)}.")
        check_similarity(self.similarity)
        checked_flag("do_lower_case", self.do_lower_case)

    @property
    def prefix(self) -> str:
        """What is put before each text."""
        if self.prompt is not None:
            return self.prompt
        name = self.default_prompt_name if self.prompt_name is None else self.prompt_name
        return "" if name is None else self.prompts[name]

    @property
    def all_steps(self) -> tuple[Step, ...]:
        """From the model's states to an embedding."""
        steps = self.steps or (Pooling(),)
        if self.pooling is not None:
            modes = (self.pooling,) if isinstance(self.pooling, str) else tuple(self.pooling)
            steps = tuple(each._replace(modes=modes) if isinstance(each, Pooling) else each for each in steps)
        if self.normalize is False and isinstance(steps[-1], Normalize):
            steps = steps[:-1]
        return steps

    @property
    def is_normalized(self) -> bool:
        """Whether embeddings have the length one."""
        return bool(self.normalize) or (self.truncate_dim is None and isinstance(self.all_steps[-1], Normalize))


class TextParts(NamedTuple):
    """A text as the rows that are read of it, and the number of its own tokens in each."""

    rows: tuple[Row, ...]
    lengths: tuple[int, ...]


class SentenceEmbeddingPipeline(TaskPipeline[SentenceEmbeddingSetting]):
    """Embeds texts, by a bare encoder.

    The embedding of a text is an array [D] in float32 (in float64 from a model in float64). A list of texts gives an
    array [N, D], with `on_error` a list; another iterable gives an iterator of arrays [D].

    Directories and hub repositories of sentence-transformers are loaded with all that they ask for: pooling, dense
    layers, normalisation, prompts, and how much of a text is read.
    """

    setting_class = SentenceEmbeddingSetting
    setting: SentenceEmbeddingSetting

    def __init__(self, model: Any, tokenizer: Any, **settings: Any) -> None:
        """See `TaskPipeline.__init__`; and steps that do not fit the model are a ValueError."""
        super().__init__(model, tokenizer, **settings)
        self._width_of(self.setting)
        self._measured_prefix = ("", 0)
        if self.setting.steps is None and self.setting.pooling is None:
            logger.warning(
                "The model does not say how the embedding of a text is made of its tokens'; it is their mean here; "
                "ask for the pooling 'mean' if that is right."
            )

    def __call__(self, inputs: Any, **changes: Any) -> Any:
        """See `TaskPipeline.__call__`; a list of texts gives an array [N, D]."""
        answers = super().__call__(inputs, **changes)
        if not isinstance(answers, list):
            return answers
        setting = self.changed(changes)
        if setting.on_error is not None:
            return answers
        if not answers:
            return np.empty((0, self._width_of(setting)), np.result_type(self.model.dtype, np.float32))
        return np.stack(answers)

    def encode(self, texts: Any, **changes: Any) -> Any:
        """The same as a call, by the name that sentence-transformers has for it."""
        return self(texts, **changes)

    def similarity(self, a: Any, b: Any, **changes: Any) -> np.ndarray:
        """How alike texts are, [N, M]; larger is nearer, and distances are negative.

        Args:
            a: a text, a list of texts, or their embeddings [N, D].
            b: the same, [M, D].
            **changes: as for a call.

        Raises:
            ValueError, TypeError: as for a call, or embeddings cannot be compared.
        """
        name = self.changed(changes).similarity
        return similarities(self._embedded(a, changes), self._embedded(b, changes), name)

    def semantic_search(
        self,
        queries: Any,
        corpus: Any,
        top_k: int = 10,
        *,
        query_prompt: str | None = None,
        corpus_prompt: str | None = None,
        **changes: Any,
    ) -> list[list[dict[str, int | float]]]:
        """The texts of a corpus that are nearest to each query; no more than some thousand are held at a time.

        Args:
            queries: a text, a list of texts, or their embeddings [Q, D].
            corpus: texts in a list or any other iterable; or their embeddings, [N, D] or an iterable of [D].
            top_k: how many for each query, if there are so many.
            query_prompt: the prompt of the queries; None: as for a call.
            corpus_prompt: the prompt of the corpus; None: as for a call.
            **changes: as for a call; what cannot be embedded is an error.

        Returns:
            For each query, dicts of `corpus_id`, the text's number from 0, and `score`, the nearest first.

        Raises:
            ValueError, TypeError: as for a call, embeddings cannot be compared, or `top_k` is no positive number.
        """
        changes = {**changes, "on_error": None}
        name = self.changed(changes).similarity
        corpus, is_embedded = _looked_at(corpus)
        rows = self._embedded(queries, changes if query_prompt is None else {**changes, "prompt": query_prompt})
        if corpus_prompt is not None:
            changes["prompt"] = corpus_prompt
        return nearest(rows, corpus if is_embedded else self._blocks(corpus, changes), top_k, name)

    def changed(self, changes: dict[str, Any]) -> SentenceEmbeddingSetting:
        """See `TaskPipeline.changed`; a prompt or its name takes the place of the other."""
        changes = known_settings(type(self), changes)
        for name, other in (("prompt", "prompt_name"), ("prompt_name", "prompt")):
            if changes.get(name) is not None:
                changes.setdefault(other, None)
        setting = super().changed(changes)
        self._width_of(setting)
        return setting

    @classmethod
    def from_checkpoint(cls, source: str | os.PathLike[str], location: Location) -> tuple[Location, dict[str, Any]]:
        """See `TaskPipeline.from_checkpoint`: what the files of sentence-transformers say, if there are any."""
        found = read_sentence_transformer(source, **location)
        if found is None:
            return location, {}
        settings = found._asdict()
        return {**location, "subfolder": settings.pop("subfolder")}, {
            **settings,
            "similarity": found.similarity or cls.setting_class.similarity,
        }

    def longest(self, max_length: int | None = None) -> int:
        """How many tokens are read: as many as are asked for, or the tokenizer says, if the model takes so many."""
        asked_for = self.tokenizer.model_max_length if max_length is None else max_length
        longest = longest_sequence(self.model.config)
        return longest if asked_for is None else min(longest, asked_for)

    def read(self, number: int, value: Any, setting: SentenceEmbeddingSetting, warned: WarnOnce) -> TextParts:
        """The row of a text, or the rows of its parts."""
        name = self.name_of(number)
        text, prefix = (self._cased(each, setting) for each in (checked_text(value, name), setting.prefix))
        in_prefix = self._length_of_prefix(prefix)
        ids = self._ids(prefix + text)
        if is_empty_text(self.tokenizer, text, ids[in_prefix:]):
            self.tokens_of(name, text)  # raises, unless the text's first token is one with the prompt's last
        specials, limit = self.tokenizer.num_special_tokens_to_add(), self.longest(setting.max_length)
        room = limit - specials - in_prefix
        if len(ids) - in_prefix <= room:
            return TextParts((self._row(ids),), (1,))
        if setting.long_texts == "error":
            raise ValueError(
                f"{name} has {specials + len(ids)} tokens with the special ones, and at most {limit} are read: "
                f"{reprlib.repr(text)}; shorten it, or read its beginning (long_texts='truncate') or all of its parts "
                "('mean')."
            )
        if room < 1:
            raise ValueError(
                f"{name} cannot be cut to the {limit} tokens that are read: {specials} special ones and the prompt's "
                f"{in_prefix} leave no room; shorten the prompt, or have more read (max_length)."
            )
        if setting.long_texts == "truncate":
            row = self.row_of(name, [ids], TruncationSetting(max_length=limit), warned)
            return TextParts((row,), (1,))
        parts = [ids[start : start + room] for start in range(in_prefix, len(ids), room)]
        return TextParts(tuple(self._row(ids[:in_prefix] + part) for part in parts), tuple(map(len, parts)))

    def compute(self, rows: list[Row], setting: SentenceEmbeddingSetting) -> Iterable[np.ndarray]:
        """The embedding [D] of each row; only these leave the model's device."""
        output, is_real = self.forward(rows)
        with device_context(self.model.device):
            return finite(self._embeddings(output.last_hidden_state, is_real, setting), "embeddings")

    def answer(self, reading: Any, results: list[np.ndarray], setting: SentenceEmbeddingSetting) -> np.ndarray:
        """The embedding of a text, [D]."""
        if len(results) == 1:
            return results[0]
        mean = np.average(results, axis=0, weights=reading.lengths)
        embedding: np.ndarray = normalize_forward(mean)[0] if setting.is_normalized else mean
        return embedding.astype(results[0].dtype)

    def _embeddings(self, states: Array, is_real: np.ndarray, setting: SentenceEmbeddingSetting) -> Array:
        """The embeddings [B, D] of states [B, T, D], on the model's device."""
        x = states
        for step in setting.all_steps:
            if isinstance(step, Pooling):
                in_prefix = self._length_of_prefix(self._cased(setting.prefix, setting))
                skipped = (
                    0 if step.includes_prompt or in_prefix == 0 else 1 + in_prefix
                )  # with <s>, as in the reference
                x = self._pooled(x, to_device(is_real, self.model.device), step.modes, skipped)
            elif isinstance(step, Dense):
                params = LinearParams(*(to_device(each, self.model.device) for each in step.params))
                x, _ = dense_forward(x, params, step.activation, self.model.engine.inference)
            else:
                x, _ = normalize_forward(x)
        x = x[:, : setting.truncate_dim]
        return normalize_forward(x)[0] if setting.normalize else x

    def _pooled(self, states: Array, is_real: Array, modes: Sequence[str], skipped: int) -> Array:
        pooled = [pooling_forward(states, is_real, mode, skipped)[0] for mode in modes]
        return pooled[0] if len(pooled) == 1 else array_namespace(states).concat(pooled, axis=1)

    def _embedded(self, values: Any, changes: dict[str, Any]) -> Any:
        """Embeddings of texts; or what are embeddings already."""
        values, is_embedded = _looked_at(values)
        if hasattr(values, "ndim") and is_embedded:
            return values
        return list(values) if is_embedded else self(list(values), **{**changes, "on_error": None})

    def _blocks(self, texts: Iterable[Any], changes: dict[str, Any]) -> Iterator[np.ndarray]:
        """Embeddings of many texts, some thousand at a time."""
        embeddings = self(iter(texts), **changes)
        while block := list(islice(embeddings, BLOCK_ROWS)):
            yield np.stack(block)

    def _width_of(self, setting: SentenceEmbeddingSetting) -> int:
        """How many numbers an embedding has.

        Raises:
            ValueError: a step does not fit what comes before it.
        """
        width: int = self.model.config.hidden_size
        for number, step in enumerate(setting.all_steps):
            if isinstance(step, Pooling) != (number == 0):
                raise ValueError("The steps to an embedding begin with a Pooling, and have no other.")
            if isinstance(step, Pooling):
                width *= len(step.modes)
            elif isinstance(step, Dense):
                outputs, inputs = step.params.weight.shape
                if inputs != width:
                    raise ValueError(
                        f"The dense layer takes {inputs} numbers, and gets {width} of the model and its pooling; load "
                        "both from one checkpoint, with its own pooling."
                    )
                width = outputs
        return min(width, setting.truncate_dim or width)

    def _cased(self, text: str, setting: SentenceEmbeddingSetting) -> str:
        """Lowered by characters, as the reference does it: a final Σ becomes σ, which is the model's spelling of it."""
        return "".join(map(str.lower, text)) if setting.do_lower_case else text

    def _ids(self, text: str) -> list[int]:
        """Without special tokens around them."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
        return ids

    def _row(self, ids: list[int]) -> Row:
        return Row(self.tokenizer.build_inputs_with_special_tokens(ids))

    def _length_of_prefix(self, prefix: str) -> int:
        """How many tokens a prompt has, remembered of the last one."""
        known, length = self._measured_prefix
        if known != prefix:
            length = len(self._ids(prefix))
            self._measured_prefix = prefix, length
        return length


def _looked_at(values: Any) -> tuple[Any, bool]:
    """Texts or embeddings, the first of an iterator put back, and whether they are embeddings, as the first says.

    One text becomes a list of it; where there is nothing, there are no texts.
    """
    if isinstance(values, str):
        return [values], False
    if hasattr(values, "ndim"):
        return values, are_numbers(values)
    if isinstance(values, bytes | dict) or not isinstance(values, Iterable):
        raise TypeError(
            f"Give a text, an iterable of texts, or embeddings, to be compared; got a {type(values).__name__}."
        )
    first = list(islice(values, 1))
    all_values = chain(first, values) if isinstance(values, Iterator) else values
    return all_values, bool(first) and are_numbers(first[0])
