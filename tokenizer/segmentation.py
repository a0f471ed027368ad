"""From a text to its tokens, without those that a template puts around it, in either of two readings.

sentencepiece   what XLM-R was pretrained with: the sentencepiece library normalises and cuts what is between added
                tokens.
huggingface     what transformers does: its normalisation, then words between white space, each cut for itself.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import accumulate, chain, islice, repeat
from typing import Any, NamedTuple, Protocol, Self

from .added_tokens import AddedTokens, Between, Found, TokenFinder
from .explanation import Explanation, Stretch, changes_of, cut_of
from .normalization import OTHER_SPACES, Normalized
from .vocabulary import LEADING_TOKENS, PIECE_OFFSET, UNK_ID, WORD_START, Vocabulary
from .word_pieces import Pieces, WordPieces

Offsets = tuple[int, int]

# What str.split takes for white space and Unicode does not, and what begins a word within one.
UNLIKE_SPLIT = re.compile(f"[\x1c-\x1f{WORD_START}]")
# A word with the "▁" that it starts with, if it has one.
WORD = re.compile(f"{WORD_START}?[^ {OTHER_SPACES}{WORD_START}]+|{WORD_START}")


class Tokens(NamedTuple):
    """The tokens of a text.

    Attributes:
        ids: token ids.
        offsets: where each comes from: start and end in the text, in code points.
        words: the number of the word that each belongs to. A word is what stands between white space after
            normalisation, or an added token.
        unknown: what the unknown ones are in the normalised text, by their places among the tokens.
    """

    ids: list[int]
    offsets: list[Offsets]
    words: list[int]
    unknown: dict[int, str]


class Reading(Protocol):
    """A way to cut texts into tokens. Immutable, so that threads may share it."""

    def ids(self, texts: list[str]) -> list[list[int]]:
        """The token ids of each text: those of `tokens`, sooner."""

    def tokens(self, texts: list[str]) -> list[Tokens]:
        """The tokens of each text."""

    def explain(self, text: str) -> Explanation:
        """The added tokens of a text, and how what is between them is normalised and cut."""


class SentencepieceReading:
    """The text between added tokens is cut as by the sentencepiece library, whose pieces and offsets these are.

    Args:
        vocabulary: what it is cut into.
        added_tokens: which added tokens there are.
        allow_special_tokens: whether `<s>`, `<pad>`, `</s>` and `<unk>` in a text are tokens.
    """

    def __init__(self, vocabulary: Vocabulary, added_tokens: AddedTokens, allow_special_tokens: bool) -> None:
        self._vocabulary = vocabulary
        self._finder = TokenFinder(_found_in_text(added_tokens, allow_special_tokens).by_id)

    def ids(self, texts: list[str]) -> list[list[int]]:
        """See `Reading`."""
        parts = [self._finder.split(text) for text in texts]
        between = iter(self._vocabulary.encode(_between(texts, parts)))
        rows = []
        for text_parts in parts:
            row: list[int] = []
            for part in text_parts:
                if isinstance(part, Found):
                    row.append(part.token_id)
                else:
                    row += next(between)
            rows.append(row)
        return rows

    def tokens(self, texts: list[str]) -> list[Tokens]:
        """See `Reading`."""
        parts = [self._finder.split(text) for text in texts]
        between = iter(self._vocabulary.encode_with_offsets(_between(texts, parts)))
        rows = []
        for text_parts in parts:
            row = Tokens([], [], [], {})
            word = -1
            for part in text_parts:
                word += 1
                if isinstance(part, Found):
                    _append_added(row, part, word)
                    continue
                found = next(between)
                pieces = found["pieces"]
                words = list(accumulate([piece.startswith(WORD_START) for piece in pieces[1:]], initial=word))
                if 0 in found["ids"]:
                    unknown = [place for place, piece in enumerate(found["ids"]) if piece == 0]
                    row.unknown.update({len(row.ids) + place: pieces[place] for place in unknown})
                row.ids.extend([piece + PIECE_OFFSET if piece else UNK_ID for piece in found["ids"]])
                row.offsets.extend([(start + part.start, end + part.start) for start, end in found["offsets"]])
                row.words.extend(words[: len(pieces)])
                word = words[-1] if pieces else word - 1
            rows.append(row)
        return rows

    def explain(self, text: str) -> Explanation:
        """See `Reading`."""
        unigram = self._vocabulary.unigram("sentencepiece")
        explanation: Explanation = []
        for part in self._finder.split(text):
            if isinstance(part, Found):
                explanation.append(part)
                continue
            original = text[part.start : part.end]
            normalized = self._vocabulary.normalizer.sentencepiece(original)
            cut = cut_of(normalized.text, unigram, lambda piece: piece + PIECE_OFFSET if piece else UNK_ID)
            explanation.append(
                Stretch(*part, normalized.text, changes_of(original, normalized, 0, len(normalized.text)), [cut])
            )
        return explanation


class HuggingfaceReading:
    """Equal to the `tokenizers` library under XLM-R's pipeline: Precompiled, WhitespaceSplit, Metaspace, Unigram.

    Args: as for `SentencepieceReading`.
    """

    def __init__(self, vocabulary: Vocabulary, added_tokens: AddedTokens, allow_special_tokens: bool) -> None:
        self._vocabulary = vocabulary
        self._normalizer = vocabulary.normalizer
        tokens = _found_in_text(added_tokens, allow_special_tokens).by_id
        self._finder = TokenFinder({i: token for i, token in tokens.items() if not token.normalized})
        normalized = {i: self._normalizer.huggingface(token.content).text for i, token in tokens.items()}
        self._finder_in_normalized = TokenFinder(
            {
                i: replace(token, content=normalized[i])
                for i, token in tokens.items()
                if token.normalized and normalized[i]
            }
        )
        self._word_pieces = WordPieces(vocabulary, spells_special_tokens=allow_special_tokens)

    def ids(self, texts: list[str]) -> list[list[int]]:
        """See `Reading`."""
        parts = [list(self._parts(text)) for text in texts]
        pieces = self._pieces(parts)
        rows = []
        for text_parts in parts:
            row: list[int] = []
            for part in text_parts:
                if isinstance(part, Found):
                    row.append(part.token_id)
                else:
                    row.extend(chain.from_iterable(islice(pieces, len(part.words))))
            rows.append(row)
        return rows

    def tokens(self, texts: list[str]) -> list[Tokens]:
        """See `Reading`."""
        parts = [list(self._parts(text)) for text in texts]
        pieces = self._pieces(parts)
        rows = []
        for text_parts in parts:
            row = Tokens([], [], [], {})
            word = -1
            for part in text_parts:
                if isinstance(part, Found):
                    word += 1
                    _append_added(row, part, word)
                    continue
                found = list(islice(pieces, len(part.words)))
                counts = [*map(len, found)]
                lengths = self._word_pieces.lengths(part.words, found)
                ids = [*chain.from_iterable(found)]
                if UNK_ID in ids:
                    row.unknown.update(part.unknown(ids, lengths, len(row.ids)))
                row.ids.extend(ids)
                row.offsets.extend(part.offsets(counts, lengths))
                row.words.extend(chain.from_iterable(map(repeat, range(word + 1, word + 1 + len(counts)), counts)))
                word += len(counts)
            rows.append(row)
        return rows

    def explain(self, text: str) -> Explanation:
        """See `Reading`."""
        unigram = self._vocabulary.unigram("huggingface")
        explanation: Explanation = []
        for part in self._parts(text):
            if isinstance(part, Found):
                explanation.append(part)
                continue
            original, normalized, start, end = part.original, part.normalized, part.start, part.end
            changes = changes_of(original, normalized, start, end)
            cuts = [cut_of(word, unigram, lambda token_id: token_id) for word in part.words]
            at = part.base + (normalized.starts[start] if start > 0 else 0)
            to = part.base + (normalized.starts[end] if end < len(normalized.text) else len(original))
            explanation.append(Stretch(at, to, normalized.text[start:end], changes, cuts))
        return explanation

    def _parts(self, text: str) -> Iterator["Found | _Stretch"]:
        """The added tokens of a text and what is between them."""
        for part in self._finder.split(text):
            if isinstance(part, Found):
                yield part
                continue
            original = text[part.start : part.end]
            normalized = self._normalizer.huggingface(original)
            for inner in self._finder_in_normalized.split(normalized.text):
                if isinstance(inner, Found):
                    start, end = normalized.starts[inner.start], normalized.ends[inner.end - 1]
                    yield Found(part.start + start, part.start + end, inner.token_id)
                else:
                    yield _Stretch.of(original, normalized, inner, part.start)

    def _pieces(self, parts: "list[list[Found | _Stretch]]") -> Iterator[Pieces]:
        """The pieces of all words, one after the other."""
        stretches = [part for text_parts in parts for part in text_parts if isinstance(part, _Stretch)]
        return iter(self._word_pieces([word for stretch in stretches for word in stretch.words]))


READINGS: dict[str, Callable[[Vocabulary, AddedTokens, bool], Reading]] = {
    "sentencepiece": SentencepieceReading,
    "huggingface": HuggingfaceReading,
}


def ids_of(reading: Reading, texts: list[Any], are_words: bool) -> list[list[int]]:
    """The token ids of each text.

    Args:
        reading: how texts are read.
        texts: the texts, or the words of each text, which are read one by one.
        are_words: which of the two.
    """
    if not are_words:
        return reading.ids(texts)
    rows = iter(reading.ids([word for words in texts for word in words]))
    return [[token_id for _ in words for token_id in next(rows)] for words in texts]


def tokens_of(reading: Reading, texts: list[Any], are_words: bool) -> list[Tokens]:
    """The tokens of each text, as `ids_of`. Offsets are those in a word if texts come in words."""
    if not are_words:
        return reading.tokens(texts)
    rows = iter(reading.tokens([word for words in texts for word in words]))
    joined = []
    for words in texts:
        row = Tokens([], [], [], {})
        for number, tokens in enumerate(next(rows) for _ in words):
            row.unknown.update({len(row.ids) + place: text for place, text in tokens.unknown.items()})
            row.ids.extend(tokens.ids)
            row.offsets.extend(tokens.offsets)
            row.words.extend([number] * len(tokens.ids))
        joined.append(row)
    return joined


class _Stretch(NamedTuple):
    """What is between two added tokens.

    Attributes:
        words: its words, each with the "▁" that it starts with.
        original: the text before normalisation.
        normalized: the text.
        start: where the stretch starts in it.
        end: where it ends in it.
        base: where the original starts in the whole text.
    """

    words: list[str]
    original: str
    normalized: Normalized
    start: int
    end: int
    base: int

    @classmethod
    def of(cls, original: str, normalized: Normalized, between: Between, base: int) -> Self:
        """What is between two added tokens of a normalised text."""
        text = normalized.text[between.start : between.end]
        if UNLIKE_SPLIT.search(text):
            words = [word if word.startswith(WORD_START) else WORD_START + word for word in WORD.findall(text)]
        else:
            words = [WORD_START + word for word in text.split()]
        return cls(words, original, normalized, *between, base)

    def offsets(self, counts: list[int], lengths: list[int]) -> list[Offsets]:
        """Where the pieces of its words come from; a "▁" that the text does not have, from the character after it.

        Args:
            counts: how many pieces each word has.
            lengths: how many characters each piece has.
        """
        text, starts, ends = self.normalized
        located: list[Offsets] = []
        if self._is_single_spaced():
            located = _consecutive_offsets(self.start - 1, counts, lengths)
        else:
            left = iter(lengths)
            for found, count in zip(WORD.finditer(text, self.start, self.end), counts, strict=True):
                start = found.start()
                end = start if text[start] == WORD_START else start - 1
                for length in islice(left, count):
                    end += length
                    located.append((start, end if end > start else start + 1))
                    start = end
        if isinstance(starts, range):  # normalisation has changed nothing
            return located if self.base == 0 else [(start + self.base, end + self.base) for start, end in located]
        return [(starts[start] + self.base, ends[end - 1] + self.base) for start, end in located]

    def unknown(self, ids: list[int], lengths: list[int], first: int) -> dict[int, str]:
        """What the unknown pieces are, by their places, of which the first piece's is given."""
        text = "".join(self.words)
        pieces = enumerate(zip(ids, lengths, accumulate(lengths), strict=True), first)
        return {place: text[end - length : end] for place, (token_id, length, end) in pieces if token_id == UNK_ID}

    def _is_single_spaced(self) -> bool:
        """Whether one character stands between any two words and none around them, so that it may be the "▁"."""
        characters = self.end - self.start + 1
        return sum(map(len, self.words)) == characters and WORD_START not in self.normalized.text


def _consecutive_offsets(start: int, counts: list[int], lengths: list[int]) -> list[Offsets]:
    """The offsets of pieces that follow each other, the first word's "▁" being at `start`."""
    starts = [*accumulate(lengths, initial=start)]
    ends = starts[1:]
    del starts[-1]
    first = 0
    for count in counts:
        starts[first] += 1
        if lengths[first] == 1:
            ends[first] += 1
        first += count
    return [*zip(starts, ends, strict=True)]


def _found_in_text(added_tokens: AddedTokens, allow_special_tokens: bool) -> AddedTokens:
    """The added tokens that a text may contain."""
    return added_tokens if allow_special_tokens else added_tokens.without(LEADING_TOKENS)


def _between(texts: list[str], parts: list[list[Found | Between]]) -> list[str]:
    """What is between the added tokens, of all texts."""
    return [
        text[part.start : part.end]
        for text, text_parts in zip(texts, parts, strict=True)
        for part in text_parts
        if isinstance(part, Between)
    ]


def _append_added(row: Tokens, part: Found, word: int) -> None:
    """Appends an added token to `row`."""
    row.ids.append(part.token_id)
    row.offsets.append((part.start, part.end))
    row.words.append(word)
