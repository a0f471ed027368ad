"""Showing a text while it is generated, as soon as a word is complete."""

import queue
import sys
from typing import Any, TextIO

import numpy as np

from xlmr_np.arrays import to_numpy

# The blocks of Unicode for Chinese characters, which are words or parts of words without spaces between them:
# https://en.wikipedia.org/wiki/CJK_Unified_Ideographs
_CHINESE = (
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0x2F800, 0x2FA1F),
)


class TextStreamer:
    """Prints the text of one row while it is generated, up to the last complete word.

    A text is shown up to a newline, up to a Chinese character at its end, or else up to its last space. On a terminal,
    characters that it may obey are shown as escapes.

    Args:
        tokenizer: decodes the tokens.
        skip_prompt: leave out what comes with the first `put`.
        file: where to print; None is standard output.
        decode_settings: arguments of the tokenizer's `decode`, such as `skip_special_tokens=True`.

    Raises:
        TypeError: `decode` has no such argument.
    """

    def __init__(
        self, tokenizer: Any, skip_prompt: bool = False, file: TextIO | None = None, **decode_settings: Any
    ) -> None:
        tokenizer.decode([], **decode_settings)  # a wrong setting is an error now, and not in the middle of a text
        self.tokenizer = tokenizer
        self.skip_prompt = skip_prompt
        self.file = file
        self.decode_settings = decode_settings
        self._is_at_prompt = True
        self._line: list[int] = []
        self._number_shown = 0  # characters of the line

    def put(self, ids: Any) -> None:
        """Takes the prompt, and then one token after the other: [T], [1, T], or a list.

        Raises:
            ValueError: there are several rows.
        """
        array = np.asarray(to_numpy(ids))
        if array.ndim > 1 and len(array) > 1:
            raise ValueError(f"A text streamer shows one text, but the batch has {len(array)} rows; pass one prompt.")
        is_prompt, self._is_at_prompt = self._is_at_prompt, False
        if is_prompt and self.skip_prompt:
            return
        self._line += array.ravel().tolist()
        text = self._text()
        if text.endswith("\n"):
            finalized = text[self._number_shown :]
            self._line, self._number_shown = [], 0
        else:
            end = len(text) if text and _is_chinese(text[-1]) else text.rfind(" ") + 1
            finalized = text[self._number_shown : end]
            self._number_shown += len(finalized)
        self.on_finalized_text(finalized)

    def end(self) -> None:
        """Shows what is left; the next `put` begins another text."""
        self.on_finalized_text(self._take_rest(), stream_end=True)

    def abort(self, error: BaseException) -> None:
        """Ends the text because generation failed with `error`, which whoever called for it gets."""
        self.end()

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Prints a part of the text, and a newline after the last one; subclasses may do something else with it."""
        file = sys.stdout if self.file is None else self.file
        if file.isatty():
            from xlmr_np.cli.terminal import printable

            text = "\n".join(map(printable, text.split("\n")))
        print(text, end="\n" if stream_end else "", file=file, flush=True)

    def _text(self) -> str:
        return str(self.tokenizer.decode(self._line, **self.decode_settings))

    def _take_rest(self) -> str:
        try:
            return self._text()[self._number_shown :]
        finally:
            self._is_at_prompt, self._line, self._number_shown = True, [], 0


class TextIteratorStreamer(TextStreamer):
    """An iterator over the parts of a text that another thread generates; each iteration is over one text.

    Args:
        tokenizer: as for `TextStreamer`.
        skip_prompt: see there.
        timeout: how many seconds to wait for the next part, as long as it takes if None.
        decode_settings: as for `TextStreamer`.

    Raises:
        TypeError: as for `TextStreamer`.
    """

    def __init__(
        self, tokenizer: Any, skip_prompt: bool = False, timeout: float | None = None, **decode_settings: Any
    ) -> None:
        super().__init__(tokenizer, skip_prompt, **decode_settings)
        self.timeout = timeout
        self._parts: queue.Queue[str | BaseException | None] = queue.Queue()  # None is the end

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Hands a part of the text to the iterating thread."""
        self._parts.put(text)
        if stream_end:
            self._parts.put(None)

    def abort(self, error: BaseException) -> None:
        """Ends the iteration, after what was generated, by raising `error` there."""
        try:
            self.on_finalized_text(self._take_rest())
        finally:
            self._parts.put(error)

    def __iter__(self) -> "TextIteratorStreamer":
        return self

    def __next__(self) -> str:
        """The next part, which may be empty.

        Raises:
            StopIteration: the text is at its end.
            queue.Empty: nothing came in time.
            BaseException: what `abort` was called with.
        """
        try:
            part = self._parts.get(timeout=self.timeout)
        except queue.Empty:
            raise queue.Empty(f"No text was generated in {self.timeout} seconds; allow a longer timeout.") from None
        if part is None:
            raise StopIteration
        if isinstance(part, BaseException):
            raise part
        return part


def _is_chinese(character: str) -> bool:
    return any(first <= ord(character) <= last for first, last in _CHINESE)
