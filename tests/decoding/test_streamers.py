"""Texts shown while they are generated, against transformers."""

import io
import queue
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from xlmr_np.decoding import TextIteratorStreamer, TextStreamer
from xlmr_np.tokenizer import XLMRobertaTokenizer


class Characters:
    """A tokenizer whose ids are characters."""

    def decode(self, ids: Any) -> str:
        return "".join(map(chr, ids))


class _Ours(TextStreamer):
    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self.__dict__.setdefault("parts", []).append((text, stream_end))


class _Reference(transformers.TextStreamer):
    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self.__dict__.setdefault("parts", []).append((text, stream_end))


def parts_of(streamer: Any, array: Any, prompt: list[int], ids: list[int]) -> list[tuple[str, bool]]:
    for _ in range(2):  # a streamer serves one text after the other
        streamer.put(array([prompt]))
        for token in ids:
            streamer.put(array([token]))
        streamer.end()
    return streamer.parts


def ours(tokenizer: Any, prompt: list[int], ids: list[int], **settings: Any) -> list[tuple[str, bool]]:
    return parts_of(_Ours(tokenizer, **settings), np.array, prompt, ids)


def theirs(tokenizer: Any, prompt: list[int], ids: list[int], **settings: Any) -> list[tuple[str, bool]]:
    return parts_of(_Reference(tokenizer, **settings), torch.tensor, prompt, ids)


@given(st.text("ab \n語𠀀한あ", min_size=1), st.text("ab \n語𠀀한あ"), st.booleans())
def test_parts_are_the_references(prompt: str, text: str, skip_prompt: bool) -> None:
    ids = [list(map(ord, each)) for each in (prompt, text)]
    parts = ours(Characters(), *ids, skip_prompt=skip_prompt)
    assert parts == theirs(Characters(), *ids, skip_prompt=skip_prompt)
    assert "".join(part for part, _ in parts) == (text if skip_prompt else prompt + text) * 2


@pytest.mark.parametrize("settings", [{}, {"skip_special_tokens": True}, {"skip_prompt": True}])
def test_parts_of_real_tokens_are_the_references(settings: dict[str, Any], small_vocabulary: Path) -> None:
    tokenizer = XLMRobertaTokenizer(small_vocabulary)
    random = np.random.default_rng(0)
    for _ in range(20):
        prompt, ids = ([0, *random.integers(0, len(tokenizer), 15).tolist(), 2] for _ in range(2))
        assert ours(tokenizer, prompt, ids, **settings) == theirs(tokenizer, prompt, ids, **settings)


def shown(text: str, file: io.StringIO) -> str:
    streamer = TextStreamer(Characters(), file=file)
    for character in text:
        streamer.put([ord(character)])
    streamer.end()
    return file.getvalue()


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_text_goes_to_a_file() -> None:
    assert shown("one two\n\x1b[2Jthree", io.StringIO()) == "one two\n\x1b[2Jthree\n"


def test_a_terminal_gets_no_control_characters() -> None:
    assert shown("one two\n\x1b[2Jthree\x07\u202e \u200c語", _Terminal()) == (
        "one two\n\\u001b[2Jthree\\u0007\\u202e \u200c語\n"
    )


def test_text_goes_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    streamer = TextStreamer(Characters())
    streamer.put(list(map(ord, "one two")))
    assert capsys.readouterr().out == "one "
    streamer.end()
    assert capsys.readouterr().out == "two\n"


def test_a_failed_text_is_shown_as_far_as_it_came() -> None:
    file = io.StringIO()
    streamer = TextStreamer(Characters(), file=file)
    streamer.put(list(map(ord, "one two")))
    streamer.abort(RuntimeError("broken"))
    assert file.getvalue() == "one two\n"


@pytest.mark.parametrize("kind", [TextStreamer, TextIteratorStreamer])
def test_one_text_only(kind: type[TextStreamer]) -> None:
    with pytest.raises(ValueError, match="shows one text, but the batch has 2 rows"):
        kind(Characters()).put(np.zeros((2, 3), int))


def test_wrong_settings_of_decode(small_vocabulary: Path) -> None:
    with pytest.raises(TypeError, match="skip_specials"):
        TextStreamer(XLMRobertaTokenizer(small_vocabulary), skip_specials=True)


def generate(streamer: TextIteratorStreamer, text: str, error: Exception | None = None) -> threading.Thread:
    def run() -> None:
        for character in text:
            streamer.put(np.array([ord(character)]))
        if error:
            streamer.abort(error)
        else:
            streamer.end()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_an_iterator_over_two_texts() -> None:
    streamer = TextIteratorStreamer(Characters(), timeout=30)
    for text in ("one two three", "four five"):
        thread = generate(streamer, text)
        assert "".join(streamer) == text
        thread.join()


def test_an_iterator_ends_with_the_error_of_the_producer() -> None:
    streamer = TextIteratorStreamer(Characters(), timeout=30)
    thread = generate(streamer, "one two", RuntimeError("out of memory"))
    parts = []
    with pytest.raises(RuntimeError, match="out of memory"):
        parts.extend(iter(streamer.__next__, None))
    thread.join()
    thread = generate(streamer, "again")
    assert "".join(streamer) == "again"
    thread.join()


def test_what_came_before_an_error_is_handed_out() -> None:
    streamer = TextIteratorStreamer(Characters(), timeout=30)
    generate(streamer, "one two", RuntimeError("out of memory")).join()
    assert "".join(next(streamer) for _ in range(len("one two") + 1)) == "one two"
    with pytest.raises(RuntimeError):
        next(streamer)


def test_a_producer_that_is_silent() -> None:
    with pytest.raises(queue.Empty, match=r"No text was generated in 0\.01 seconds"):
        next(TextIteratorStreamer(Characters(), timeout=0.01))
