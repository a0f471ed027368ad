"""Which lines are learnt from, which are held out, and what is no corpus."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xlmr_np.training.corpus import check_files, documents


def written(tmp_path: Path, *contents: bytes) -> list[Path]:
    paths = [tmp_path / f"{number}.txt" for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return paths


def numbered(*numbers: int, letter: str) -> bytes:
    """Lines that say their number, blank where it is not asked for."""
    return "".join(f" {letter}{n} \n" if n in numbers else "  \t\n" for n in range(1, max(numbers) + 1)).encode()


def test_multiples_of_each_file_are_held_out_blank_lines_counted(tmp_path: Path) -> None:
    files = written(tmp_path, numbered(1, 3, 4, 6, 7, letter="a"), numbered(2, 3, 9, letter="b"))
    assert list(documents(files, 3)) == ["a1", "a4", "a7", "b2"]
    assert list(documents(files, 3, held_out=True)) == ["a3", "a6", "b3", "b9"]
    assert list(documents(files)) == ["a1", "a3", "a4", "a6", "a7", "b2", "b3", "b9"]


@given(texts=st.lists(st.sampled_from(["word", "", " "]), min_size=1, max_size=40), every=st.integers(2, 7))
def test_every_document_is_in_one_of_the_two_parts(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], every: int
) -> None:
    lines = [text and f"{text}{number}" for number, text in enumerate(texts, 1)]
    path = tmp_path_factory.mktemp("corpus") / "a.txt"
    path.write_text("\n".join([*lines, "last"]), encoding="utf-8")  # one that is learnt from, or held out

    def part(held_out: bool) -> list[str]:
        try:
            return list(documents([path], every, held_out))
        except ValueError:  # there is none
            return []

    kept, held_out = part(False), part(True)
    given_documents = [line.strip() for line in [*lines, "last"] if line.strip()]
    assert sorted(kept + held_out) == sorted(given_documents)
    assert held_out == [line.strip() for line in [*lines, "last"][every - 1 :: every] if line.strip()]


def test_a_byte_order_mark_does_not_make_a_document(tmp_path: Path) -> None:
    files = written(tmp_path, "\ufeff\none\n".encode(), "\ufefftwo\n".encode())
    assert list(documents(files)) == ["one", "two"]


@pytest.mark.parametrize("content", [b"", b"\n \n\t\n", "\ufeff".encode(), "\u3000\n\x1c\n".encode()])
def test_files_without_documents(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ValueError, match=r"There is no line to learn from in .*0\.txt; give files with a document"):
        list(documents(written(tmp_path, content)))
    with pytest.raises(ValueError, match=r"no line to learn from in .*0\.txt and 2 more;"):
        list(documents(written(tmp_path, content, content, content)))


def test_too_few_lines_to_hold_one_out(tmp_path: Path) -> None:
    files = written(tmp_path, b"one\ntwo\n")
    assert list(documents(files, 3)) == ["one", "two"]
    with pytest.raises(ValueError, match="no line that is held out"):
        list(documents(files, 3, held_out=True))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"one\n\ntw\0o\n", "line 3: a NUL character"),
        (b"one\n\x89PNG\r\n\x1a\n", "line 2: not UTF-8"),
        (b"PK\x03\x04\x14\x00\x00\x00", "line 1: a NUL character"),
    ],
)
def test_binary_files_are_named_with_the_line(tmp_path: Path, content: bytes, message: str) -> None:
    files = written(tmp_path, b"a text\n", content)
    with pytest.raises(ValueError, match=rf"1\.txt, {message}"):
        list(documents(files))


def test_what_is_no_file_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    (fine,) = written(tmp_path, b"one\n")
    os.mkfifo(tmp_path / "pipe")
    assert check_files([fine]) is None
    with pytest.raises(FileNotFoundError, match=r"nothing\.txt"):
        check_files([fine, tmp_path / "nothing.txt"])
    with pytest.raises(ValueError, match="is a directory; give the files in it"):
        check_files([fine, tmp_path])
    with pytest.raises(ValueError, match="pipe can be read only once"):
        check_files([fine, tmp_path / "pipe"])
    with pytest.raises(ValueError, match=r"^- can be read only once, and texts are read several times; give files"):
        check_files([fine, Path("-")])
    with pytest.raises(ValueError, match="There are no texts"):
        check_files([])
