"""The pieces of words as the `tokenizers` library finds them: each word for itself, in float64.

`Unigram` computes them as the library does, but in Python. sentencepiece is many times as fast, but adds up scores in
float32, so that of two ways to cut a word that are about equally probable it may choose the other one. So it is asked
for the two best ways: if the better one is ahead by more than rounding can explain, it is the best one in float64 too.
"""

from collections.abc import Iterable
from itertools import chain, islice
from typing import Any, cast

from .vocabulary import LEADING_TOKENS, MASK_TOKEN, PIECE_OFFSET, UNK_ID, WORD_START, Vocabulary

LONGEST_CACHED_WORD = 32  # characters; longer ones hardly come again
MOST_CACHED_WORDS = 2**17  # some 30 MB
CHARACTERS_AT_ONCE = 128  # of several words; the more, the more often the two best ways are close
LONGEST_WORD = 200  # characters; rounding leaves longer ones doubtful
# Characters for each that is different. "hahaha..." can be cut in very many ways that are about as good, among which
# sentencepiece searches long, and complains.
MOST_REPETITIVE = 10
ROUNDING = 2.0**-24  # of a sum in float32, relative

Pieces = tuple[int, ...]  # the token ids of what a word is cut into


class WordPieces:
    """Cuts words into pieces. Results depend on the word alone; those of short words are kept, to a bound.

    Args:
        vocabulary: the pieces and their scores.
        spells_special_tokens: whether a word that contains a special token's name, as can be after normalisation, is
            cut so that it has the token's id, which is what `tokenizers` does.
    """

    def __init__(self, vocabulary: Vocabulary, spells_special_tokens: bool) -> None:
        self._vocabulary = vocabulary
        self._spells_special_tokens = spells_special_tokens
        self._cache: dict[str, Pieces] = {}

    def __call__(self, words: list[str]) -> list[Pieces]:
        """The pieces of each word; a word begins with "▁" and has no other."""
        found = [*map(self._cache.get, words)]
        if None in found:
            resolved = self._cut({word for word, pieces in zip(words, found, strict=True) if pieces is None})
            found = [resolved[word] if pieces is None else pieces for word, pieces in zip(words, found, strict=True)]
            self._remember(resolved)
        return cast(list[Pieces], found)

    def lengths(self, words: list[str], pieces: list[Pieces]) -> list[int]:
        """How many characters each piece of words has, one word after the other; the "▁" of a word is one."""
        lengths = self._vocabulary.piece_table.lengths
        ids = list(chain.from_iterable(pieces))
        if UNK_ID not in ids:
            return [lengths[token_id] for token_id in ids]
        return [
            length
            for word, of_word in zip(words, pieces, strict=True)
            for length in (
                [length for _, length in self._path_in_float64(word)]  # the unknown may be any number of characters
                if UNK_ID in of_word
                else [lengths[token_id] for token_id in of_word]
            )
        ]

    def __reduce__(self) -> tuple[Any, ...]:
        return WordPieces, (self._vocabulary, self._spells_special_tokens)

    def _remember(self, resolved: dict[str, Pieces]) -> None:
        short = {word: pieces for word, pieces in resolved.items() if len(word) <= LONGEST_CACHED_WORD}
        cache = self._cache
        if len(cache) + len(short) > MOST_CACHED_WORDS:  # the older half goes, out of a copy: another thread may read
            cache = dict(islice(cache.copy().items(), len(cache) // 2, None))
        if len(cache) + len(short) <= MOST_CACHED_WORDS:
            cache.update(short)
        self._cache = cache

    def _cut(self, words: Iterable[str]) -> dict[str, Pieces]:
        """The pieces of each word."""
        resolved: dict[str, Pieces] = {}
        together: list[str] = []
        size = 0
        for word in words:
            if size + len(word) > CHARACTERS_AT_ONCE and together:
                resolved.update(self._cut_together(together))
                together, size = [], 0
            together.append(word)
            size += len(word)
        resolved.update(self._cut_together(together))
        return resolved

    def _cut_together(self, words: list[str]) -> dict[str, Pieces]:
        """The pieces of each word, by sentencepiece if its result is certain to be that in float64."""
        pieces = self._certain_pieces(words)
        if pieces is not None:
            return dict(zip(words, pieces, strict=True))
        if len(words) == 1:
            return {words[0]: self._cut_in_float64(words[0])}
        return {word: self._cut_together([word])[word] for word in words}

    def _certain_pieces(self, words: list[str]) -> list[Pieces] | None:
        """What sentencepiece cuts words into; None if it would be other text to it, or rounding may have decided.

        The sum of n numbers that add up to s is off by less than n * 2**-24 * |s|, so that whatever is left out behind
        the second best way is behind it but for twice that. No way has more pieces than there are characters.
        """
        table = self._vocabulary.piece_table
        text = " ".join([word[1:] for word in words])
        if not (
            table.are_ordinary
            and WORD_START not in words  # alone it would leave two spaces in a row
            and 0 < len(text) <= LONGEST_WORD
            and len(text) <= MOST_REPETITIVE * len(set(text))
            and not _has_special_token(text)
            and self._vocabulary.normalizer.is_unchanged_by_sentencepiece(text)
        ):
            return None
        paths = self._vocabulary.processor.nbest_encode(text, nbest_size=2)
        if len(paths) < 2 or 0 in paths[0] or 0 in paths[1]:  # 0 stands for any number of unknown characters
            return None
        best, second = (sum(map(table.scores.__getitem__, path)) for path in paths)
        if not best - second > 2 * (len(text) + 1) * ROUNDING * -second:
            return None
        path = paths[0]
        starts = [place for place, piece in enumerate(path) if table.starts_word[piece]]
        ids = tuple([piece + PIECE_OFFSET for piece in path])
        return [ids[start:end] for start, end in zip(starts, [*starts[1:], len(path)], strict=True)]

    def _cut_in_float64(self, word: str) -> Pieces:
        return tuple(token_id for token_id, _ in self._path_in_float64(word))

    def _path_in_float64(self, word: str) -> list[tuple[int, int]]:
        """The token id of each piece of a word, and how many characters it has."""
        if not self._spells_special_tokens and _has_special_token(word):
            path = self._vocabulary.unigram("sentencepiece").best_path(word)
            ids = [node.piece_id + PIECE_OFFSET if node.piece_id else UNK_ID for node in path]
        else:
            path = self._vocabulary.unigram("huggingface").best_path(word)
            ids = [node.piece_id for node in path]
        return [(token_id, node.end - node.start) for token_id, node in zip(ids, path, strict=True)]


def _has_special_token(word: str) -> bool:
    return "<" in word and any(token in word for token in (*LEADING_TOKENS, MASK_TOKEN))
