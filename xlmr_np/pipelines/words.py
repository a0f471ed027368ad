"""Where tokens lie in their text, and which of them start a word.

A tokenizer's words are what stands between white space; punctuation sticks to them, and a sentence in a script without
spaces is one word. Unicode's word boundaries (https://www.unicode.org/reports/tr29/#Word_Boundaries) are in the text,
and so are asked as well.
"""

import unicodedata
from itertools import chain

import numpy as np
import regex

from xlmr_np.tokenizer.normalization import WHITE_SPACE, WORD_START

# What XLM-R's normalisation makes a space, or takes away.
BLANKS = {
    *WHITE_SPACE,
    WORD_START,
    *"\u200b\u200c\u200d\u200e\u200f\ufeff\ufffd\x7f\x8f\x9f",
    *map(chr, range(1, 0x20)),
}
MAY_BE_TOKENS = BLANKS - WHITE_SPACE - {WORD_START}  # of vocabularies with another normalisation

WORD_BOUNDARY = regex.compile(r"\b", regex.WORD)
GRAPHEME = regex.compile(r"\X")

# The letters of flags, of which two are one grapheme. `regex` takes quadratic time on many in a row; what is put in
# their place has the same boundaries.
FLAG_LETTERS = regex.compile("[\U0001f1e6-\U0001f1ff]{1,2}")
LIKE_A_FLAG = "!\u0301"


def token_spans(text: str, tokens: list[str], offsets: np.ndarray) -> np.ndarray:
    """Where tokens lie in their text [T, 2], without the white space around them.

    A token that has no character of its own, such as a bare "▁", shares the one after it. A character that XLM-R's
    normalisation takes away, such as a joiner, is one's own where tokens are written with it.

    Args:
        text: the text.
        tokens: how its tokens are written.
        offsets: where they come from [T, 2], start and end, which may take in the white space before a word.
    """
    size = len(text)
    blanks = BLANKS - MAY_BE_TOKENS.intersection(chain.from_iterable(tokens))
    is_blank = np.isin(np.frombuffer(text.encode("utf-32-le"), "<u4"), np.array(sorted(map(ord, blanks)), "<u4"))
    places = np.arange(size)
    next_kept = np.append(np.minimum.accumulate(np.where(is_blank, size, places)[::-1])[::-1], size)
    end_of_kept = np.append(0, np.maximum.accumulate(np.where(is_blank, 0, places + 1)))
    starts, ends = offsets.T
    ends = ends + _parts_character_behind(text, tokens, offsets)
    trimmed = np.stack([next_kept[starts], end_of_kept[ends]], axis=1)
    is_empty = trimmed[:, 0] >= trimmed[:, 1]
    character_behind = next_kept[ends][:, None] + [0, 1]
    has_one = character_behind[:, 1] <= size
    return np.where(is_empty[:, None], np.where(has_one[:, None], character_behind, offsets), trimmed)


def _parts_character_behind(text: str, tokens: list[str], offsets: np.ndarray) -> np.ndarray:
    """Which tokens [T] end within a character, as a letter of Hindi that is written as one (U+095B) may be cut in two.

    sentencepiece says that all of the character belongs to the later token.
    """
    is_parted = np.zeros(len(tokens), bool)
    forms = {character: unicodedata.normalize("NFKC", character) for character in set(text)}
    expanded = {character: form for character, form in forms.items() if len(form) > 1}
    if expanded:
        for token, (end, start) in enumerate(zip(offsets[:-1, 1].tolist(), offsets[1:, 0].tolist(), strict=True)):
            form, behind = expanded.get(text[start : start + 1]), tokens[token + 1]
            if form and end == start and not behind.startswith((form, WORD_START)) and not form.startswith(behind):
                is_parted[token] = True
    return is_parted


def starts_of_words(text: str, spans: np.ndarray, is_mark: np.ndarray, word_ids: np.ndarray) -> np.ndarray:
    """Which tokens start a word [T].

    They are those before which the tokenizer or Unicode sees a boundary; in scripts without spaces that is almost
    every token. No word starts within a grapheme, nor behind a bare "▁", which belongs to what comes after it.

    Args:
        text: the text.
        spans: where the tokens lie in it [T, 2], see `token_spans`.
        is_mark: which are a bare "▁" [T].
        word_ids: the tokenizer's word of each [T].
    """
    graphemes, words = boundaries(text)
    ends = np.maximum.accumulate(np.where(is_mark, spans[:, 0], spans[:, 1]))[:-1]
    starts = spans[1:, 0]
    is_apart = starts >= ends  # several tokens may come from one character, such as "㎏"
    starts = np.maximum(starts, ends)

    def between(is_boundary: np.ndarray) -> np.ndarray:
        """Whether there is a boundary from the end of a token to the start of the next."""
        before = np.append(0, np.cumsum(is_boundary))
        return before[starts + 1] > before[ends]

    changes = word_ids[1:] != word_ids[:-1]
    is_start = is_apart & ~is_mark[:-1] & (changes & between(graphemes) | between(words))
    return np.append(True, is_start)


def boundaries(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Before which characters a grapheme starts, and before which a word does; both [size + 1], with the text's end.

    Takes time linear in the text.
    """
    text = FLAG_LETTERS.sub(lambda found: LIKE_A_FLAG[: len(found[0])], text)
    graphemes, words = np.zeros((2, len(text) + 1), bool)
    graphemes[[found.start() for found in GRAPHEME.finditer(text)]] = True
    graphemes[len(text)] = True
    words[[found.start() for found in WORD_BOUNDARY.finditer(text)]] = True
    return graphemes, words & graphemes
