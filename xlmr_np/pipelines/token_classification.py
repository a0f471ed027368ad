"""Token classification: names in a text, parts of speech, or whatever labels a model gives to tokens."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from xlmr_np.layers.softmax import softmax_forward
from xlmr_np.pipelines.base import RunSetting, TaskPipeline, WarnOnce, finite
from xlmr_np.pipelines.streaming import Row
from xlmr_np.pipelines.windows import Window, merged, windows_over
from xlmr_np.pipelines.words import starts_of_words, token_spans
from xlmr_np.tokenizer import XLMRobertaTokenizer
from xlmr_np.tokenizer.arguments import checked_flag, checked_text, whole_number
from xlmr_np.tokenizer.vocabulary import WORD_START

STRATEGIES = ("none", "simple", "first", "average", "max")
OF_WORDS = STRATEGIES[2:]
IGNORED = ("O",)
SHARED_BY_WINDOWS = 4  # a quarter of a window is shared with the one before it

Entity = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class TokenClassificationSetting(RunSetting):
    """What may be asked of token classification.

    Attributes:
        aggregation_strategy: what entities are made of. "none": each token is one. "simple": neighbouring tokens of
            one label. "first", "average" and "max": neighbouring words of one label, which is that of a word's first
            token, of the mean of its tokens' probabilities, or of its surest token. None is "none".
        ignore_labels: labels of which nothing is returned; of groups, without "B-" and "I-". None is "O" alone.
        stride: tokens that a window of a long text shares with the one before it; None is a quarter of a window.
        is_split_into_words: inputs are lists of words.
        delimiter: what stands between these words in the text to which `start` and `end` of answers refer.
    """

    aggregation_strategy: str | None = "none"
    ignore_labels: Iterable[str] | None = IGNORED
    stride: int | None = None
    is_split_into_words: bool = False
    delimiter: str = " "

    def __post_init__(self) -> None:
        super().__post_init__()
        strategy = "none" if self.aggregation_strategy is None else self.aggregation_strategy
        if not isinstance(strategy, str) or strategy.lower() not in STRATEGIES:
            raise ValueError(
                f"aggregation_strategy={strategy!r} is none of {', '.join(STRATEGIES)}; write one of these."
            )
        ignored = IGNORED if self.ignore_labels is None else self.ignore_labels
        if isinstance(ignored, str) or not isinstance(ignored, Iterable):
            raise TypeError(f"ignore_labels must be a list of labels, not {ignored!r}.")
        object.__setattr__(self, "aggregation_strategy", strategy.lower())
        object.__setattr__(self, "ignore_labels", frozenset(ignored))
        if self.stride is not None:
            whole_number("stride", self.stride, minimum=0)
        checked_flag("is_split_into_words", self.is_split_into_words)
        checked_text(self.delimiter, "delimiter")


class TokensOfText(NamedTuple):
    """A text as the model reads it.

    Attributes:
        rows: its windows, with special tokens.
        windows: which tokens they have.
        text: the text.
        tokens: how its T tokens are written.
        spans: where they lie in it [T, 2].
        starts_word: which of them start a word [T]; None where nobody asks for words.
    """

    rows: list[Row]
    windows: list[Window]
    text: str
    tokens: list[str]
    spans: np.ndarray
    starts_word: np.ndarray | None


class TokenClassificationPipeline(TaskPipeline[TokenClassificationSetting]):
    """Finds names, parts of speech and the like in texts, by a model that labels tokens.

    An input is a text; with `is_split_into_words` a list of words. Its answer is a list of dicts: with the strategy
    "none" of `entity`, `score`, `index` (of the token, `<s>` being 0), `word` (the token), `start` and `end`; otherwise
    of `entity_group`, `score`, `word`, `start` and `end`, where `word` is `text[start:end]`. As in the reference, the
    answer to the words of a single text is a list of that list.

    A text that is longer than the model takes is read in windows, and each token is labelled in the one in which it
    stands farthest from a cut.
    """

    setting_class = TokenClassificationSetting

    def __init__(self, model: Any, tokenizer: XLMRobertaTokenizer, **settings: Any) -> None:
        """See `TaskPipeline.__init__`."""
        super().__init__(model, tokenizer, **settings)
        self._stride(self.setting)

    def __call__(self, inputs: Any, **changes: Any) -> Any:
        """See `TaskPipeline.__call__`."""
        is_words = changes.get("is_split_into_words", self.setting.is_split_into_words)
        if is_words and isinstance(inputs, list | tuple) and any(isinstance(each, str) for each in inputs):
            inputs = [inputs]
        return super().__call__(inputs, **changes)

    def changed(self, changes: dict[str, Any]) -> TokenClassificationSetting:
        """See `TaskPipeline.changed`."""
        setting = super().changed(changes)
        self._stride(setting)
        return setting

    def read(self, number: int, value: Any, setting: TokenClassificationSetting, warned: WarnOnce) -> TokensOfText:
        """The windows of a text."""
        name = self.name_of(number)
        text, words = _text_and_words(value, name, setting)
        batch = self.tokenizer(
            text if words is None else words,
            is_split_into_words=words is not None,
            add_special_tokens=False,
            truncation=False,
            return_offsets_mapping=True,
            verbose=False,
        )
        ids = batch["input_ids"]
        self.check_has_tokens(name, text, ids)
        offsets, word_ids = np.array(batch["offset_mapping"]), np.array(batch.word_ids())
        if words is not None:
            lengths = [len(word) + len(setting.delimiter) for word in words]
            offsets += np.cumsum([0, *lengths])[word_ids][:, None]
        is_unknown = np.array(ids) == self.tokenizer.unk_token_id
        tokens = batch.tokens()
        is_mark = np.array([token == WORD_START for token in tokens])
        spans = token_spans(text, tokens, offsets)
        for token in np.flatnonzero(is_unknown).tolist():
            tokens[token] = text[slice(*spans[token])]
        starts_word = None
        if setting.aggregation_strategy in OF_WORDS:
            if words is None:
                starts_word = starts_of_words(text, spans, is_mark, word_ids)
            else:
                starts_word = np.append(True, word_ids[1:] != word_ids[:-1])
        windows = windows_over(len(ids), self._room(), self._stride(setting))
        begin, end = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
        rows = [Row([begin, *ids[window.start : window.stop], end]) for window in windows]
        return TokensOfText(rows, windows, text, tokens, spans, starts_word)

    def compute(self, rows: list[Row], setting: TokenClassificationSetting) -> Iterable[np.ndarray]:
        """The probabilities [T, C] of the tokens of each row, without special ones."""
        output, _ = self.forward(rows)
        probabilities, _ = softmax_forward(finite(output.logits))
        return [of_row[1 : len(row.ids) - 1] for of_row, row in zip(probabilities, rows, strict=True)]

    def answer(self, reading: Any, results: list[np.ndarray], setting: TokenClassificationSetting) -> list[Entity]:
        """The entities of a text."""
        probabilities, spans = merged(reading.windows, results), reading.spans
        if reading.starts_word is not None:
            probabilities, spans = _by_word(probabilities, spans, reading.starts_word, setting.aggregation_strategy)
        labels, scores = probabilities.argmax(axis=1), probabilities.max(axis=1)
        if setting.aggregation_strategy == "none":
            return self._tokens(reading, labels, scores, setting)
        return self._groups(reading.text, spans, labels, scores, setting)

    def _room(self) -> int:
        """How many tokens of a text the model reads at once, besides special ones."""
        room = self.longest() - self.tokenizer.num_special_tokens_to_add()
        if room < 1:
            raise ValueError(
                f"The model and its tokenizer take {self.longest()} tokens at once, which leaves no room between <s> "
                "and </s>; set the tokenizer's model_max_length to more."
            )
        return room

    def _stride(self, setting: TokenClassificationSetting) -> int:
        """How many tokens a window shares with the one before it."""
        room = self._room()
        if setting.stride is None:
            return room // SHARED_BY_WINDOWS
        if setting.stride >= room:
            raise ValueError(
                f"stride={setting.stride} is too large, as a window has {room} tokens of a text and must go on; give "
                f"at most {room - 1}."
            )
        return setting.stride

    def _tokens(
        self, reading: TokensOfText, labels: np.ndarray, scores: np.ndarray, setting: TokenClassificationSetting
    ) -> list[Entity]:
        """Each token as an entity."""
        names, ignored = self.model.config.id2label, frozenset(setting.ignore_labels or ())
        kept = [token for token, label in enumerate(labels.tolist()) if names[label] not in ignored]
        return [
            {
                "entity": names[int(labels[token])],
                "score": float(scores[token]),
                "index": token + 1,
                "word": reading.tokens[token],
                "start": int(reading.spans[token, 0]),
                "end": int(reading.spans[token, 1]),
            }
            for token in kept
        ]

    def _groups(
        self, text: str, spans: np.ndarray, labels: np.ndarray, scores: np.ndarray, setting: TokenClassificationSetting
    ) -> list[Entity]:
        """Neighbouring tokens, or words, of one label as an entity; a label "B-" starts another."""
        names = [self.model.config.id2label[label] for label in range(self.model.config.num_labels)]
        tags = [name[2:] if name.startswith(("B-", "I-")) else name for name in names]
        tag = np.array([tags.index(each) for each in tags])[labels]
        is_beginning = np.array([name.startswith("B-") for name in names])[labels]
        firsts = np.flatnonzero(np.append(True, is_beginning[1:] | (tag[1:] != tag[:-1])))
        sizes = np.diff(firsts, append=len(labels))
        means = np.add.reduceat(scores, firsts, dtype=np.float64) / sizes
        ignored = frozenset(setting.ignore_labels or ())
        entities = []
        for first, size, score in zip(firsts.tolist(), sizes.tolist(), means.tolist(), strict=True):
            group = names[labels[first]].split("-", 1)[-1]
            if group not in ignored:
                start, end = int(spans[first, 0]), int(spans[first + size - 1, 1])
                entity = {"entity_group": group, "score": score, "word": text[start:end], "start": start, "end": end}
                entities.append(entity)
        return entities


def _text_and_words(value: Any, name: str, setting: TokenClassificationSetting) -> tuple[str, list[str] | None]:
    """The text of an input, and its words if it came in words."""
    is_list = isinstance(value, list | tuple)
    if not setting.is_split_into_words:
        if is_list:
            raise TypeError(f"{name} is a {type(value).__name__}; texts in words need is_split_into_words=True.")
        return checked_text(value, name), None
    if not is_list:
        raise TypeError(f"{name} must be a list of words, as is_split_into_words=True; got a {type(value).__name__}.")
    words = [checked_text(word, f"{name}, word {number},") for number, word in enumerate(value, 1)]
    return setting.delimiter.join(words), words


def _by_word(
    probabilities: np.ndarray, spans: np.ndarray, starts_word: np.ndarray, strategy: str | None
) -> tuple[np.ndarray, np.ndarray]:
    """The probabilities [W, C] and spans [W, 2] of words, given those of tokens and which of them start a word [T]."""
    firsts = np.flatnonzero(starts_word)
    sizes = np.diff(firsts, append=len(spans))
    spans = np.stack([spans[firsts, 0], spans[firsts + sizes - 1, 1]], axis=1)
    if strategy == "average":
        return np.add.reduceat(probabilities, firsts, axis=0) / sizes[:, None].astype(probabilities.dtype), spans
    if strategy == "max":
        surest_first = np.lexsort([-probabilities.max(axis=1), np.cumsum(starts_word)])  # within each word
        return probabilities[surest_first[firsts]], spans
    return probabilities[firsts], spans
