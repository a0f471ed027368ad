"""Text files, line by line."""

import io
import sys
from pathlib import Path

import pytest

from xlmr_np.text_files import lines_of, shown_name


def written(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "texts.txt"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"", []),
        (b"one\ntwo", ["one\n", "two"]),
        (b"one\r\n\n two \n", ["one\r\n", "\n", " two \n"]),
        ("één\nдва\n三".encode(), ["één\n", "два\n", "三"]),
        (b"a\x85b\xe2\x80\xa8c\x0cd\re\n".replace(b"\x85", "\x85".encode()), ["a\x85b\u2028c\x0cd\re\n"]),
    ],
)
def test_only_a_line_feed_ends_a_line(tmp_path: Path, content: bytes, lines: list[str]) -> None:
    assert list(lines_of(written(tmp_path, content))) == lines


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    content = "\ufeffone\n\ufefftwo\n".encode()
    assert list(lines_of(written(tmp_path, content))) == ["one\n", "\ufefftwo\n"]


@pytest.mark.parametrize("content", [b"one\ntw\xff\n", b"one\n\xed\xa0\x80\n", b"one\n\xc0\x80\n", b"one\n\xe4"])
def test_what_is_not_utf8_is_named_with_its_line(tmp_path: Path, content: bytes) -> None:
    path = written(tmp_path, content)
    lines = lines_of(path)
    assert next(lines) == "one\n"
    with pytest.raises(ValueError, match=rf"{path}, line 2: not UTF-8 \(.+\); convert it first"):
        next(lines)


def test_utf16_is_missed_in_the_first_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="line 1: not UTF-8"):
        list(lines_of(written(tmp_path, "Grüße\n".encode("utf-16"))))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.txt"):
        list(lines_of(tmp_path / "nothing.txt"))


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\ufeffone\nzwölf\n".encode())))
    assert list(lines_of("-")) == ["one\n", "zwölf\n"]
    assert not sys.stdin.buffer.closed
    assert (shown_name("-"), shown_name(Path("a.txt"))) == ("Standard input", "a.txt")
