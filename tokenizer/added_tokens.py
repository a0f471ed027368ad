"""Tokens that are found in a text as they are written, before the rest is normalised and cut into pieces."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Self

import regex

from .arguments import checked_flag, checked_text
from .normalization import WHITE_SPACE

# What a word consists of, by https://www.unicode.org/reports/tr18/#word: `tokenizers` means the same.
WORD_CHARACTER = regex.compile(r"[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]")


@dataclass(frozen=True, slots=True)
class AddedToken:
    """How a token is written, and where it is found.

    Attributes:
        content: how it is written.
        single_word: whether it must not be part of a longer word.
        lstrip: whether it takes the white space before it.
        rstrip: whether it takes the white space after it.
        normalized: whether `normalization="huggingface"` looks for it in the normalised text; the other mode always
            looks in the text as it is. None means: unless it is special.
        special: whether it is a control token, which decoding may skip.

    Raises:
        TypeError: `content` is no str, or a flag is neither True nor False.
        ValueError: `content` is empty, or has a lone surrogate.
    """

    content: str
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool | None = None
    special: bool = False

    def __post_init__(self) -> None:
        if not checked_text(self.content, "content of an added token"):
            raise ValueError("The content of an added token is empty: write what is to be found in texts.")
        if self.normalized is None:
            object.__setattr__(self, "normalized", not self.special)
        for name in ("single_word", "lstrip", "rstrip", "normalized", "special"):
            checked_flag(f"{name} of an added token", getattr(self, name))

    def as_special(self) -> "AddedToken":
        """The same as a special token; unless it was one before, it is then found in texts as they are."""
        return self if self.special else replace(self, special=True, normalized=False)


class Found(NamedTuple):
    """An added token in a text, from `start` to `end`."""

    start: int
    end: int
    token_id: int


class Between(NamedTuple):
    """What is between two added tokens, or before the first, or after the last."""

    start: int
    end: int


class TokenFinder:
    """Finds tokens in a text: of two that overlap the one that starts first, of two that start there the longer.

    Immutable; takes time linear in the text.

    Args:
        tokens: by id; their `content` is what is looked for.
    """

    def __init__(self, tokens: Mapping[int, AddedToken]) -> None:
        self._tokens = dict(tokens)
        self._ids = {token.content: token_id for token_id, token in tokens.items()}
        self._lengths = sorted({len(content) for content in self._ids}, reverse=True)
        firsts = sorted({content[0] for content in self._ids})
        self._first = re.compile(f"[{re.escape(''.join(firsts))}]" if firsts else "(?!)")

    def split(self, text: str) -> list[Found | Between]:
        """The text from its start to its end, without empty parts."""
        parts: list[Found | Between] = []
        end = 0
        if not self._first.search(text):
            return [Between(0, len(text))] if text else []
        for start, stop, token_id in self._occurrences(text):
            token = self._tokens[token_id]
            if token.single_word and _is_within_word(text, start, stop):
                continue
            if token.lstrip:
                start = max(start, end)  # the token before may have taken some
                while start > end and text[start - 1] in WHITE_SPACE:
                    start -= 1
            while token.rstrip and stop < len(text) and text[stop] in WHITE_SPACE:
                stop += 1
            if start >= stop:  # it was white space, which the token before has taken
                continue
            if end < start:
                parts.append(Between(end, start))
            parts.append(Found(start, stop, token_id))
            end = stop
        if end < len(text):
            parts.append(Between(end, len(text)))
        return parts

    def _occurrences(self, text: str) -> Iterator[tuple[int, int, int]]:
        """Start, end and token id of each."""
        position = 0
        while found := self._first.search(text, position):
            position = found.end()
            for length in self._lengths:
                content = text[found.start() : found.start() + length]
                if content in self._ids:
                    position = found.start() + len(content)
                    yield found.start(), position, self._ids[content]
                    break


def _is_within_word(text: str, start: int, end: int) -> bool:
    """Whether a character of a word stands right before `start` or right at `end`."""
    before, after = text[max(start - 1, 0) : start], text[end : end + 1]
    return WORD_CHARACTER.match(before) is not None or WORD_CHARACTER.match(after) is not None


class AddedTokens:
    """The added tokens of a tokenizer, the special ones among them. Immutable.

    Args:
        by_id: each token by its id.
    """

    def __init__(self, by_id: Mapping[int, AddedToken]) -> None:
        self.by_id = dict(sorted(by_id.items()))
        self.ids = {token.content: token_id for token_id, token in self.by_id.items()}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids of the special ones."""
        return frozenset(token_id for token_id, token in self.by_id.items() if token.special)

    def without(self, contents: Iterable[str]) -> "AddedTokens":
        """These tokens but those that are written so."""
        left_out = set(contents)
        return AddedTokens({i: token for i, token in self.by_id.items() if token.content not in left_out})
