"""The normalisation of a text before it is cut into pieces: by the rules of a vocabulary, in either of two readings.

The rules are the vocabulary's own (`charsmap.py`); sentencepiece, with which XLM-R was pretrained, and the `tokenizers`
library, on which transformers builds, apply them differently:

    sentencepiece   from left to right, the longest key that matches is replaced.
    tokenizers      a grapheme cluster of less than 6 bytes is replaced whole by what its *shortest* matching prefix
                    becomes. In every other cluster each character is replaced for itself.

So a decomposed letter loses its marks in the second reading where it keeps them in the first ("e" with U+0302 and
U+0301 becomes "ê" and "ế"), and decomposed Hangul is left as it is. Spaces belong to normalisation in sentencepiece and
to a later step in `tokenizers`.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple, Self

import regex

from .charsmap import Charsmap
from .model_proto import NormalizerSpec, TrainerSpec

WORD_START = "▁"  # U+2581, how a piece spells the space before it

# What Unicode calls White_Space, apart from the space itself, and with it.
OTHER_SPACES = "\t\n\v\f\r\x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
WHITE_SPACE = frozenset(" " + OTHER_SPACES)

SHORT_CLUSTER = 5  # bytes

# An extended grapheme cluster, table 1c of https://www.unicode.org/reports/tr29/. \X of `regex` means the same, but
# also joins a consonant to a linker that no consonant comes before ("!" U+094D U+0958), and takes quadratic time on
# regional indicators. Here each of these stands alone: it has 4 bytes, so that no cluster with it is short.
CLUSTER = regex.compile(
    r"""(?x)
    \r\n
    | \p{GCB=Prepend}*+
      (?: \p{InCB=Consonant} (?: \p{InCB=Extend}*+ \p{InCB=Linker} [\p{InCB=Extend}\p{InCB=Linker}]*+
                                   \p{InCB=Consonant} )*+
        | \p{Extended_Pictographic} (?: \p{GCB=Extend}*+ \p{GCB=ZWJ} \p{Extended_Pictographic} )*+
        | \p{GCB=L}*+ (?: \p{GCB=V}++ | \p{GCB=LV} \p{GCB=V}*+ | \p{GCB=LVT} ) \p{GCB=T}*+
        | \p{GCB=L}++ | \p{GCB=T}++
        | [^\p{GCB=Prepend}\p{GCB=Control}\r\n] )
      [\p{GCB=Extend}\p{GCB=ZWJ}\p{GCB=SpacingMark}]*+
    | \p{GCB=Prepend}++
    | [\p{GCB=Control}\r\n]
    """
)

# What joins its neighbours since Unicode 18, which `regex` has, and the pictographs that no longer do. `tokenizers` has
# Unicode 17; so CLUSTER is shown other characters in their place.
JOINERS_SINCE_18 = (
    "\u05c8\u05c9\u0b53\u0b54\u1ade\u1adf\u1aec\u1aed\u1aee\u1aef\u1af0\u1cf5\u1cf6\U00010ecb\U00010ecc"
    "\U00010ecd\U00010ece\U00010ecf\U00010ef0\U00010ef1\U00010ef2\U00010ef3\U00010ef4\U00010ef5\U00010ef6"
    "\U00010ef7\U00010ef8\U00010ef9\U00011a3a\U00011b0a\U00011df0\U00011df1\U0001d127\U0001d128\U0001d250"
    "\U0001d251\U0001d252\U0001d25b\U0001d25c\U0001d25f\U0001d280\U0001d281"
)
PICTOGRAPHS_UNTIL_17 = (
    "\U0001f1ae\U0001f7da\U0001f7db\U0001f7f1\U0001f7f2\U0001f7f3\U0001f7f4\U0001f7f5\U0001f7f6\U0001f7f7"
    "\U0001f7f8\U0001f7f9\U0001f7fa\U0001f7fb\U0001f7fc\U0001f7fd\U0001f7fe\U0001f7ff"
)
AS_IN_17 = str.maketrans(dict.fromkeys(JOINERS_SINCE_18, "\ufffd") | dict.fromkeys(PICTOGRAPHS_UNTIL_17, "\U0001f600"))


class Normalized(NamedTuple):
    """A normalised text, and where each of its characters comes from.

    Characters i to j-1 come from `original[starts[i] : ends[j - 1]]`, counted in code points.
    """

    text: str
    starts: Sequence[int]
    ends: Sequence[int]


class Whitespace(NamedTuple):
    """What sentencepiece does with spaces: the settings of a model, whose names these are."""

    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    escape_whitespaces: bool = True
    treat_whitespace_as_suffix: bool = False


DEFAULT_WHITESPACE = Whitespace()


class Normalizer:
    """The two normalisations under one vocabulary's rules. Immutable; both take time linear in the text.

    Args:
        charsmap: the rules.
        whitespace: what sentencepiece does with spaces.
    """

    def __init__(self, charsmap: Charsmap, whitespace: Whitespace = DEFAULT_WHITESPACE) -> None:
        self._charsmap = charsmap
        self._whitespace = whitespace

    @classmethod
    def from_specs(cls, normalizer: NormalizerSpec, trainer: TrainerSpec) -> Self:
        """The normaliser of a sentencepiece model.

        Raises:
            CheckpointError: its charsmap is damaged or hostile; see `Charsmap`.
        """
        whitespace = Whitespace(
            normalizer.add_dummy_prefix,
            normalizer.remove_extra_whitespaces,
            normalizer.escape_whitespaces,
            trainer.treat_whitespace_as_suffix,
        )
        return cls(Charsmap(normalizer.precompiled_charsmap), whitespace)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def sentencepiece(self, text: str) -> Normalized:
        """The text as sentencepiece normalises it, spaces included.

        Its alignment is sentencepiece's: what is removed belongs to the character before it, and of several characters
        that replace one the last alone has it.
        """
        whitespace = self._whitespace
        collapse = whitespace.remove_extra_whitespaces
        space = WORD_START if whitespace.escape_whitespaces else " "
        begin = self._end_of_leading_spaces(text) if collapse else 0
        if begin == len(text):
            return Normalized("", [], [])

        parts: list[str] = []
        starts: list[int] = []
        if whitespace.add_dummy_prefix and not whitespace.treat_whitespace_as_suffix:
            parts.append(" ")
            starts.append(begin)
        drops_space = collapse  # whether a space that comes next is dropped
        end = begin
        for start, stop, replacement in self._longest_keys(text, begin):
            if drops_space and text.startswith(" ", end, start):
                end += 1
            if end < start:
                parts.append(text[end:start])
                starts.extend(range(end, start))
                drops_space = collapse and text[start - 1] == " "
            if drops_space:
                replacement = replacement.lstrip(" ")
            if replacement:
                parts.append(replacement)
                starts.extend([start] * len(replacement))
                drops_space = collapse and replacement.endswith(" ")
            end = stop
        normalized = "".join(parts)
        if whitespace.escape_whitespaces:
            normalized = normalized.replace(" ", WORD_START)
        if collapse and normalized.endswith(space):
            normalized = normalized.rstrip(space)
            end = starts[len(normalized)]
            del starts[len(normalized) :]
        if whitespace.add_dummy_prefix and whitespace.treat_whitespace_as_suffix:
            normalized += space
            starts.append(end)
        return Normalized(normalized, starts, [*starts[1:], end] if starts else [])

    def huggingface(self, text: str) -> Normalized:
        """The text as the normaliser `Precompiled` of the `tokenizers` library gives it, spaces left as they are.

        Its alignment is that library's: every character comes from one character, of several that are replaced
        together the one at the same place; and what is removed before the first character that stays is taken for not
        there, so that all characters seem to come from further left.
        """
        if not self._single.search(text) and not self._second.search(text):
            return Normalized(text, range(len(text)), range(1, len(text) + 1))
        parts: list[str] = []
        starts: list[int] = []
        end = removed_first = 0
        is_inserted = False  # whether the last character has no counterpart in the text
        for start, stop, replacement in self._cluster_keys(text):
            if end < start:
                parts.append(text[end:start])
                starts.extend(range(end - removed_first, start - removed_first))
                is_inserted = False
            if replacement:
                parts.append(replacement)
                last = stop - 1 - removed_first
                starts.extend(min(start - removed_first + place, last) for place in range(len(replacement)))
                is_inserted = len(replacement) > stop - start
            elif not starts:
                removed_first += stop - start
            elif is_inserted and start < stop:
                starts[-1] = start - removed_first
                is_inserted = False
            end = stop
        return Normalized("".join(parts), starts, [start + 1 for start in starts])

    def is_unchanged_by_sentencepiece(self, text: str) -> bool:
        """Whether sentencepiece is quickly seen to change nothing in a text but spaces.

        True: if the text is words with single spaces between them, it becomes the same words, each with "▁" before it.
        False says nothing: the model treats spaces in another way, or the text would need a closer look.
        """
        if self._whitespace != DEFAULT_WHITESPACE or WORD_START in text:
            return False
        singles, pairs = self._singles, self._pairs
        for found in self._keyed.finditer(text):
            at = found.start()
            if text[at] in singles or text[at - 1 : at + 1] in pairs:
                return False
        return True

    def _end_of_leading_spaces(self, text: str) -> int:
        """Where the keys and characters end with which the text starts and which become single spaces."""
        end = 0
        while end < len(text):
            stop, replacement = self._charsmap.longest_match(text, end) or (end + 1, text[end])
            if replacement != " ":
                break
            end = stop
        return end

    def _longest_keys(self, text: str, begin: int) -> Iterator[tuple[int, int, str]]:
        """What sentencepiece replaces from `begin` on: start, stop and replacement; the last is empty, at the end.

        A space before a space is among them, as it may have to go.
        """
        longest_match = self._charsmap.longest_match
        end = begin
        for found in self._keyed.finditer(text, begin):
            at = found.start()
            for start in range(max(end, at - 1), at + 1):
                match = longest_match(text, start)
                if match is None and start == at and text[at] == " ":
                    match = at + 1, " "
                if match is not None:
                    end, replacement = match
                    yield start, end, replacement
                    break
        yield len(text), len(text), ""

    def _cluster_keys(self, text: str) -> Iterator[tuple[int, int, str]]:
        """What `tokenizers` replaces: start, stop and replacement; the last is empty, at the end."""
        singles = self._singles
        if "\r\n" in text or self._has_joined_keys(text):
            for found in CLUSTER.finditer(text.translate(AS_IN_17)):
                start, end = found.span()
                cluster = text[start:end]
                replacement = None
                if 1 < len(cluster) <= SHORT_CLUSTER and len(cluster.encode()) <= SHORT_CLUSTER:
                    replacement = self._charsmap.shortest_match(cluster)
                if replacement is not None:
                    yield start, end, replacement
                else:
                    for at, character in enumerate(cluster, start):
                        if character in singles:
                            yield at, at + 1, singles[character]
        else:
            for found in self._single.finditer(text):
                if found[0] in singles:
                    yield found.start(), found.end(), singles[found[0]]
        yield len(text), len(text), ""

    def _has_joined_keys(self, text: str) -> bool:
        """Whether there may be keys of several characters, or keys that begin a short cluster of several.

        Where there are none, both readings replace the same single characters.
        """
        if any(text[found.start() - 1 : found.end()] in self._pairs for found in self._second.finditer(text, 1)):
            return True
        for found in self._single.finditer(text):
            pair = text[found.start() : found.end() + 1]
            if len(pair.encode()) <= SHORT_CLUSTER and CLUSTER.match(pair).end() == 2:
                return True
        return False

    @cached_property
    def _singles(self) -> dict[str, str]:
        return self._charsmap.single_characters

    @cached_property
    def _pairs(self) -> set[str]:
        return self._charsmap.first_pairs

    @cached_property
    def _single(self) -> re.Pattern[str]:
        """A character that may be a key by itself."""
        return re.compile(_one_of(self._singles))

    @cached_property
    def _second(self) -> re.Pattern[str]:
        """A character with which some key may go on after its first."""
        return re.compile(_one_of(pair[1] for pair in self._pairs))

    @cached_property
    def _keyed(self) -> re.Pattern[str]:
        """Either of these, or a space before a space."""
        return re.compile(_one_of([*self._singles, *(pair[1] for pair in self._pairs)]) + "| (?= )")


def _one_of(characters: Iterable[str]) -> str:
    """The regular expression of any of these characters, and of all beyond U+FFFF if some of them are there.

    `re` looks up characters to U+FFFF in a table, but runs through those beyond one by one.
    """
    members = set(characters)
    listed = "".join(re.escape(character) for character in sorted(members) if character <= "\uffff")
    if any(character > "\uffff" for character in members):
        listed += "\U00010000-\U0010ffff"
    return f"[{listed}]" if listed else "(?!)"
