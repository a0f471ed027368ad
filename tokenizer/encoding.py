"""One row that a tokenizer returns, token by token, and where in its texts each token comes from."""

from dataclasses import dataclass, field
from typing import NamedTuple


class CharSpan(NamedTuple):
    """Characters of a text, from `start` to before `end`, in code points."""

    start: int
    end: int


class TokenSpan(NamedTuple):
    """Tokens of a row, from `start` to before `end`."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Encoding:
    """A row of T tokens. The methods give None where the answer is nothing: a space, a special token, padding.

    Attributes:
        ids: token ids.
        type_ids: 0 for each: XLM-R has one type.
        tokens: how each is written.
        offsets: where each comes from in its text; (0, 0) for special tokens and padding.
        word_ids: the number of the word in its text that each belongs to, or None.
        sequence_ids: 0 or 1, the text of a pair that each belongs to, or None.
        special_tokens_mask: 1 for the special tokens around texts and for padding.
        attention_mask: 1 for tokens, 0 for padding.
        n_sequences: number of texts, empty ones included: 1, or 2 for a pair.
        overflowing: further rows of the same text.
    """

    ids: list[int]
    type_ids: list[int]
    tokens: list[str]
    offsets: list[tuple[int, int]]
    word_ids: list[int | None]
    sequence_ids: list[int | None]
    special_tokens_mask: list[int]
    attention_mask: list[int]
    n_sequences: int
    overflowing: list["Encoding"] = field(default_factory=list, repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    def token_to_sequence(self, token: int) -> int | None:
        """The text that a token belongs to."""
        return self.sequence_ids[token] if 0 <= token < len(self) else None

    def token_to_word(self, token: int) -> int | None:
        """The word that a token belongs to."""
        return self.word_ids[token] if 0 <= token < len(self) else None

    def token_to_chars(self, token: int) -> CharSpan | None:
        """The characters that a token comes from."""
        return None if self.token_to_sequence(token) is None else CharSpan(*self.offsets[token])

    def word_to_tokens(self, word: int, sequence: int = 0) -> TokenSpan | None:
        """The tokens of a word of a text."""
        tokens = [token for token in self._tokens_of(sequence) if self.word_ids[token] == word]
        return TokenSpan(tokens[0], tokens[-1] + 1) if tokens else None

    def word_to_chars(self, word: int, sequence: int = 0) -> CharSpan | None:
        """The characters of a word of a text."""
        span = self.word_to_tokens(word, sequence)
        return None if span is None else CharSpan(self.offsets[span.start][0], self.offsets[span.end - 1][1])

    def char_to_token(self, character: int, sequence: int = 0) -> int | None:
        """The first token that a character of a text belongs to."""
        for token in self._tokens_of(sequence):
            start, end = self.offsets[token]
            if start <= character < end:
                return token
        return None

    def char_to_word(self, character: int, sequence: int = 0) -> int | None:
        """The word that a character of a text belongs to."""
        token = self.char_to_token(character, sequence)
        return None if token is None else self.word_ids[token]

    def _tokens_of(self, sequence: int) -> list[int]:
        return [token for token, number in enumerate(self.sequence_ids) if number == sequence]
