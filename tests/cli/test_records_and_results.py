"""What commands read, and where they write: formats, columns, bad lines, files beside and renamed."""

import csv
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.finished import Run, assert_bad_input
from tests.cli.test_tasks import good, lines_of_json
from tests.pipelines.saved_models import save_model
from xlmr_np.cli.records import Problems, Record, Source, Taken, columns_of
from xlmr_np.cli.terminal import Span, columns, marked, scored_lines, shortened

TEXT = Taken(("text",), "a text")
PAIR = Taken(("text",), "a text", optional=("text_pair",))
ASKED = Taken(("question", "context"), "a question with its context")


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory, small_vocabulary: Path) -> str:
    directory = tmp_path_factory.mktemp("encoder")
    save_model(directory, "XLMRobertaModel", small_vocabulary)
    return str(directory)


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., list[Record]]:
    """Reads bytes as a file of that name."""

    def read(name: str, content: bytes, taken: Taken = TEXT, **settings: Any) -> list[Record]:
        (tmp_path / name).write_bytes(content)
        return list(Source(taken, file=tmp_path / name, **settings))

    return read


Read = Callable[..., list[Record]]


def fields(records: list[Record]) -> list[dict[str, Any]]:
    return [record.fields for record in records]


def lines(records: list[Record]) -> list[str]:
    return [record.place.rpartition(", ")[2] for record in records]


# --- records ---


def test_the_same_records_in_every_format(read: Read) -> None:
    expected = [{"question": "Wer?", "context": "Ein „Test“,\nzwei Zeilen"}, {"question": "何?", "context": "猫"}]
    rows = [",".join(f'"{cell}"' for cell in each.values()) for each in expected]
    written = {
        "a.jsonl": "\n\n".join(json.dumps(each) for each in expected),
        "a.json": json.dumps(expected, indent=1),
        "a.csv": "question,context\r\n" + "\r\n".join(rows) + "\r\n\r\n",
        "a.TSV": "\ufeffquestion\tcontext\n" + "\n".join(row.replace('","', '"\t"') for row in rows),
    }
    for name, content in written.items():
        assert fields(read(name, content.encode(), ASKED)) == expected
        assert fields(read("a.dat", content.encode(), ASKED, file_format=name[2:].lower())) == expected
    text = "\ufeff  Wer?\n\n何?".encode()
    assert fields(read("a.txt", text)) == [{"text": "Wer?"}, {"text": "何?"}]
    assert fields(read("a.txt", text, keeps_blank_lines=True)) == [{"text": "  Wer?"}, {"text": ""}, {"text": "何?"}]


def test_places_are_lines_of_the_file(read: Read) -> None:
    assert lines(read("a.txt", b"one\n\ntwo\n")) == ["line 1", "line 3"]
    assert lines(read("a.jsonl", b'"one"\n\n{"text": "two"}\n')) == ["line 1", "line 3"]
    assert lines(read("a.csv", b'text\n"one\n\nstill"\ntwo\n"three\n"\nfour\n')) == [
        "line 2",
        "line 5",
        "line 6",
        "line 8",
    ]
    assert lines(read("a.json", b'["one", "two"]')) == ["item 1", "item 2"]


def test_columns(read: Read) -> None:
    table = b"id,review,title\n1,good,A\n"
    assert fields(read("a.csv", table, column="review")) == [{"text": "good"}]
    assert fields(read("a.csv", table, PAIR, column="review,title")) == [{"text": "good", "text_pair": "A"}]
    assert fields(read("a.csv", table, PAIR, column="text_pair=review,text=title")) == [
        {"text": "A", "text_pair": "good"}
    ]
    assert fields(read("a.csv", b"review\ngood\n")) == [{"text": "good"}]  # the only one
    assert fields(read("a.csv", b"text,id,text_pair\ngood,1,A\n", PAIR)) == [{"text": "good", "text_pair": "A"}]
    assert fields(read("a.jsonl", b'{"text": "good", "text_pair": null}', PAIR)) == [{"text": "good"}]
    with pytest.raises(ValueError, match=r"a\.csv, line 2: no column 'text' among 'id', 'review', 'title'; name"):
        read("a.csv", table)
    with pytest.raises(ValueError, match=r"line 2: no column 'body' among"):
        read("a.csv", table, column="body")
    with pytest.raises(ValueError, match="Columns are named in JSON lines, CSV or TSV"):
        read("a.txt", b"one", column="text")
    for description in ("a,b,c", "text=a,text=b", "other=a", "", "text="):
        with pytest.raises(ValueError, match="does not name columns of text, text_pair"):
            columns_of(description, PAIR)
    with pytest.raises(ValueError, match="names no column of context"):
        columns_of("q", ASKED)


BAD = {
    "a.txt": (b"good\nb\xffd\ngood\n", 2, "not UTF-8"),
    "latin.jsonl": (b'"good"\n"b\xffd"\n"good"\n', 2, "not UTF-8"),
    "a.jsonl": (b'"good"\n\n{"text": \n"good"\n', 3, r"not valid JSON \(Expecting value, at character 1 of line 2\)"),
    "number.jsonl": (b'"good"\n{"text": 3}\n"good"\n', 2, "'text' is a number; it must be a text"),
    "digits.jsonl": (b'"good"\n' + b"9" * 5000 + b'\n"good"\n', 2, "not valid JSON"),
    "deep.jsonl": (b'"good"\n' + b"[" * 100_000 + b'\n"good"\n', 2, "not valid JSON"),
    "list.jsonl": (b'"good"\n["text"]\n"good"\n', 2, "a list; write a text as an object with text"),
    "other.jsonl": (b'"good"\n{"a": "1", "b": "2"}\n"good"\n', 2, "no column 'text' among 'a', 'b'"),
    "a.csv": (b'text,id\ngood,1\n"b\xffd\nx",2\ngood,3\n', 3, "not UTF-8"),
    "cells.csv": (b"text,id\ngood,1\nbad\ngood,3\n", 3, "1 cell, and there are 2 columns"),
    "quotes.csv": (b'text\ngood\n"bad"x\ngood\n', 3, "not valid CSV"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_lines_are_named_or_left_out(read: Read, capsys: pytest.CaptureFixture[str], name: str) -> None:
    content, number, problem = BAD[name]
    with pytest.raises(ValueError, match=rf"{name}, line {number}: {problem}"):
        read(name, content)
    assert [each["text"] for each in fields(read(name, content, may_skip=True))] == ["good", "good"]
    assert f"{name}, line {number}: " in capsys.readouterr().err


def test_bad_headers(read: Read) -> None:
    for content, problem in ((b"text,text\na,b\n", "two columns have one name"), (b"t\xff\na\n", "not UTF-8")):
        with pytest.raises(ValueError, match=rf"a\.csv, line 1: {problem}"):
            read("a.csv", content, may_skip=True)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json", "a.csv"])
def test_nothing_at_all(read: Read, name: str) -> None:
    content = b"[]" if name == "a.json" else b"text\n" if name == "a.csv" else b"\n \n"
    place = {"a.json": "as an item of its list", "a.csv": "a row"}.get(name, "a line")
    with pytest.raises(ValueError, match=rf"{name} holds no text; give a text {place}"):
        read(name, content)


def test_a_quotation_mark_without_its_partner_is_bounded(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xlmr_np.cli.records.LONGEST_CELL", 1000)
    content = b'text\n"' + b"a\n" * 1000
    with pytest.raises(ValueError, match=r"line 2: not valid CSV \(field larger than field limit"):
        read("a.csv", content)


def test_records_are_counted_where_they_can_be_read_twice(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('text\n"one\nline"\ntwo\n')
    assert Source(TEXT, file=tmp_path / "a.csv").count() == 2
    assert Source(TEXT, ["one", "two", "three"]).count() == 3
    assert Source(TEXT).count() is None


# --- bad lines on the command line ---


def test_skipping_errors(run: Run, model: str, tmp_path: Path) -> None:
    content = b"one <mask>\nno mask\n\nb\xffd <mask>\ntwo <mask>\n"
    (tmp_path / "lines.txt").write_bytes(content)
    command = ("fill-mask", "--model", model, "--json", "--input", str(tmp_path / "lines.txt"))
    status, out, err = run(*command, "--skip-errors")
    assert status == 1
    assert [each["text"] for each in lines_of_json(out)] == ["one <mask>", "two <mask>"]
    first, second = sorted(err.splitlines())
    assert "lines.txt, line 2: has no <mask>" in first
    assert "lines.txt, line 4: not UTF-8" in second
    status, out, err = run(*command)
    assert (status, err.count("\n")) == (2, 1)
    assert [each["text"] for each in lines_of_json(out)] == ["one <mask>"]
    assert "lines.txt, line 2: has no <mask>" in err


def test_skipping_documents(run: Run, encoder: str, tmp_path: Path) -> None:
    (tmp_path / "docs.txt").write_bytes(b"the cat\nb\xffd\n<mask>\nthe dog\n")
    command = ("search", "--model", encoder, "--corpus", str(tmp_path / "docs.txt"), "--json", "the cat")
    status, out, err = run(*command, "--skip-errors")
    assert (status, err.count("docs.txt, line ")) == (1, 2)
    assert sorted(each["text"] for each in lines_of_json(out)[0]["results"]) == ["the cat", "the dog"]
    status, out, err = run(*command)
    assert (status, out) == (2, "")
    assert "docs.txt, line 2: not UTF-8" in err


@pytest.mark.parametrize("text", ["", "   ", "<mask>"])
def test_texts_without_words(run: Run, encoder: str, tmp_path: Path, text: str) -> None:
    (tmp_path / "lines.csv").write_text(f'text\n"{text}"\n')
    command = ("embed", "--model", encoder, "--pooling", "mean")
    assert_bad_input(run(*command, "--input", str(tmp_path / "lines.csv")), "lines.csv, line 2: .*nothing to read")
    assert_bad_input(run(*command, text), "nothing to read")


def test_rows_of_vectors_keep_their_numbers(run: Run, encoder: str, tmp_path: Path) -> None:
    target = tmp_path / "vectors.npy"
    command = ("embed", "--model", encoder, "--pooling", "mean", "--output", str(target))
    assert_bad_input(run(*command, stdin=b"one\n\ntwo\n"), "Standard input, line 2: .*nothing to read")
    assert not target.exists()
    assert_bad_input(run(*command, "--skip-errors", stdin=b"one\n"), "none can be left out")


def test_a_message_has_one_number(capsys: pytest.CaptureFixture[str]) -> None:
    problems = Problems(may_skip=True)
    for said, shown in (
        ("Text 4 holds nothing", "f, line 9: holds nothing"),
        ("Question 1, context, holds nothing", "f, line 9: context holds nothing"),
        ("Query 12, documents[3], holds nothing", "f, line 9: documents[3] holds nothing"),
        ("Texts 4 are bad", "f, line 9: Texts 4 are bad"),
        ("not UTF-8", "f, line 9: not UTF-8"),
    ):
        problems.report("f, line 9", said)
        assert capsys.readouterr().err == f"xlmr-np: {shown}\n"
    problems.report(None, "Text 4 holds nothing")
    assert capsys.readouterr().err == "xlmr-np: Text 4 holds nothing\n"


def test_a_quotation_mark_that_is_never_closed(read: Read) -> None:
    with pytest.raises(ValueError, match=r"line 3: not valid CSV .*; nothing after it could be read\.$"):
        read("a.csv", b'text\ngood\n"bad\ngood\ngood\n')
    with pytest.raises(ValueError, match=r"line 2: not valid CSV [^;]*$"):
        read("a.csv", b'text\n"bad"x\ngood\n')


def test_a_dash(run: Run, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = ("fill-mask", "--model", model, "--json")
    answers = good(run(*command, "the <mask>"))
    assert good(run(*command, "--output", "-", "the <mask>")) == answers
    assert list(tmp_path.iterdir()) == []
    assert_bad_input(run(*command, "-", stdin=b"the <mask>\n"), "to read standard input, write --input -")


# --- files ---


def test_files_of_every_format(run: Run, model: str, tmp_path: Path) -> None:
    command = ("fill-mask", "--model", model, "--top-k", "2")
    texts = ['one, "quoted" <mask>', "今天 <mask>"]
    table = good(run(*command, *texts))
    answers = lines_of_json(good(run(*command, "--json", *texts)))
    for name in ("a.txt", "a.jsonl", "a.json", "a.csv", "a.tsv"):
        assert good(run(*command, "--output", str(tmp_path / name), *texts)) == ""
    assert (tmp_path / "a.txt").read_text() == table
    assert lines_of_json((tmp_path / "a.jsonl").read_text()) == answers
    assert json.loads((tmp_path / "a.json").read_text()) == answers
    for name, delimiter in (("a.csv", ","), ("a.tsv", "\t")):
        with open(tmp_path / name, newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream, delimiter=delimiter))
        assert [(row["number"], row["text"]) for row in rows] == [
            ("1", texts[0]), ("1", ""), ("2", texts[1]), ("2", ""),
        ]  # fmt: skip
        assert [float(row["score"]) for row in rows] == [
            pytest.approx(each["score"]) for answer in answers for each in answer["predictions"]
        ]
        assert list(rows[0]) == ["number", "text", "mask", "score", "token", "token_str", "sequence"]
    assert good(run(*command, "--format", "csv", *texts)).encode() == (tmp_path / "a.csv").read_bytes()
    assert json.loads(good(run(*command, "--format", "json", *texts))) == answers


def test_an_output_is_complete_or_not_there(run: Run, model: str, tmp_path: Path) -> None:
    target = tmp_path / "answers.jsonl"
    command = ("fill-mask", "--model", model, "--output", str(target))
    status, out, _ = run(*command, "one <mask>", "no mask")
    assert (status, out, list(tmp_path.iterdir())) == (2, "", [])
    target.write_text("old")
    assert_bad_input(run(*command, "one <mask>"), "answers.jsonl exists already; add --overwrite")
    assert run(*command, "--overwrite", "no mask").status == 2
    assert target.read_text() == "old"
    good(run(*command, "--overwrite", "one <mask>"))
    assert lines_of_json(target.read_text())[0]["text"] == "one <mask>"
    assert list(tmp_path.iterdir()) == [target]


def test_an_input_may_be_replaced_by_its_answers(run: Run, model: str, tmp_path: Path) -> None:
    both = tmp_path / "both.jsonl"
    both.write_text('"one <mask>"\n"two <mask>"\n')
    (tmp_path / "link.jsonl").symlink_to(both)
    command = ("fill-mask", "--model", model, "--overwrite")
    good(run(*command, "--input", str(both), "--output", str(tmp_path / "link.jsonl")))
    assert [each["text"] for each in lines_of_json(both.read_text())] == ["one <mask>", "two <mask>"]
    assert (tmp_path / "link.jsonl").is_symlink()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no such folder/a.jsonl", "No such file or directory"),
        ("a.docx", "does not end like one of"),
        ("a.npy", "holds vectors, and these answers are none"),
        ("folder.csv", "Is a directory"),
    ],
)
def test_outputs_that_cannot_be(run: Run, tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "folder.csv").mkdir()
    # Before the model is loaded, which is not there.
    finished = run("fill-mask", "--model", "no/such model", "--output", str(tmp_path / name), "one <mask>")
    assert_bad_input(finished, message)
    assert [each.name for each in tmp_path.iterdir()] == ["folder.csv"]


def test_a_device_is_written_and_stays(run: Run, model: str) -> None:
    good(run("fill-mask", "--model", model, "--output", "/dev/null", "--format", "jsonl", "one <mask>"))
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_vectors_are_streamed(run: Run, encoder: str, tmp_path: Path) -> None:
    """A header with room for any number of rows; and half precision is kept where there is some."""
    command = ("embed", "--model", encoder, "--pooling", "mean", "--batch-size", "8")
    for number in (1, 12, 345):
        target = tmp_path / f"{number}.npy"
        good(run(*command, "--output", str(target), stdin=b"the cat\n" * number))
        assert np.load(target).shape == (number, 32)
    assert_bad_input(run(*command, "--format", "npy", "the cat"), "name it with --output")


# --- the terminal ---


def test_marks() -> None:
    text = "Frau \x1b[1m 今天 lebt"
    spans = [Span(10, 12, "LOC", 0.987), Span(0, 4, "PER")]
    assert marked(text, spans, False) == "[Frau](PER) \\u001b[1m [今天](LOC 0.99) lebt"
    colored = marked(text, spans, True)
    assert colored.startswith("\x1b[1;34mFrau\x1b[0m")
    assert "\\u001b[1m" in colored
    assert marked("the cat", [Span(4, 7)], False) == "the [cat]"


def test_widths() -> None:
    assert shortened("今天天气很好", 7) == "今天天…"
    assert shortened("今天", 4) == "今天"
    rows = scored_lines([(0.5, "今天", "x"), (0.25, "abc", "y\x07")])
    assert [columns(row[: row.index(last)]) for row, last in zip(rows, "xy", strict=True)] == [19, 19]
    assert rows[1].endswith("y\\u0007")


# --- streams that are closed ---


@pytest.mark.skipif(os.name != "posix", reason="closes streams as a shell does")
@pytest.mark.parametrize(
    ("closing", "status", "message"),
    [("<&-", 2, "Standard input is closed"), (">&-", 2, "standard output: Bad file descriptor"), ("2>&-", 0, "")],
)
def test_closed_streams(model: str, closing: str, status: int, message: str) -> None:
    text = "" if closing == "<&-" else '"one <mask>"'
    line = f'"$PYTHON" -m xlmr_np fill-mask --model "$MODEL" {text} {closing}'
    environment = {**os.environ, "MODEL": model, "PYTHON": sys.executable}
    finished = subprocess.run(["sh", "-c", line], env=environment, capture_output=True, check=False)
    assert finished.returncode == status
    assert message in finished.stderr.decode()
    assert finished.stderr.count(b"\n") == bool(message)
    assert (finished.stdout != b"") == (status == 0)


def test_memory_is_flat_in_the_number_of_records() -> None:
    """Records are read as they are asked for."""
    taken = 0

    class Endless:
        def __iter__(self) -> Iterator[bytes]:
            nonlocal taken
            while True:
                taken += 1
                yield b"text\n"

    class Stream:
        buffer = Endless()

    original, sys.stdin = sys.stdin, Stream()  # type: ignore[assignment]
    try:
        records = iter(Source(TEXT))
        for _ in range(3):
            next(records)
    finally:
        sys.stdin = original
    assert taken == 3
