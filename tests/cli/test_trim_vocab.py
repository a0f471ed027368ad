"""The command `xlmr-np trim-vocab`; what it writes is tested in tests/quantization."""

import json
import sys
from pathlib import Path

import pytest

from tests.cli.finished import Finished, Run, assert_bad_input, assert_harmless
from xlmr_np.tokenizer import XLMRobertaTokenizer
from xlmr_np.weights.inspection import describe

GERMAN = "Das Wetter ist heute schön.\n\n  Der alte Mann <mask>\r\n"
GREEK = "Η γάτα κοιμάται\n"


@pytest.fixture
def corpus(tmp_path: Path) -> list[str]:
    """Two files."""
    for name, content in (("german.txt", GERMAN), ("greek.txt", GREEK)):
        (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    return [str(tmp_path / "german.txt"), str(tmp_path / "greek.txt")]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "small"


def test_table(run: Run, model: str, corpus: list[str], out: Path) -> None:
    status, printed, err = run("trim-vocab", model, "--corpus", *corpus, "--out", str(out))
    assert (status, err) == (0, "")
    rows = [line.split() for line in printed.splitlines()]
    pieces = len(XLMRobertaTokenizer.from_pretrained(out)) - 2
    assert rows == [
        ["before", "after"],
        ["pieces", "480", str(pieces)],
        ["parameters", f"{describe(model).parameters:,}", f"{describe(out).parameters:,}"],
        ["on", "disk", "0.4", "MB", "0.3", "MB"],
        ["scripts", "Common,", "Greek,", "Latin"],
    ]
    assert len({line.rindex(line.split()[-1]) + len(line.split()[-1]) for line in printed.splitlines()[:4]}) == 1


def test_json(run: Run, model: str, corpus: list[str], out: Path) -> None:
    status, printed, err = run("trim-vocab", model, "--corpus", *corpus, "--out", str(out), "--json")
    assert (status, err) == (0, "")
    after = [out / name for name in ("model.safetensors", "sentencepiece.bpe.model")]
    before = [Path(model) / path.name for path in after]
    assert json.loads(printed) == {
        "model": model,
        "out": str(out),
        "pieces": {"before": 480, "after": len(XLMRobertaTokenizer.from_pretrained(out)) - 2},
        "parameters": {"before": describe(model).parameters, "after": describe(out).parameters},
        "bytes_on_disk": {
            name: sum(path.stat().st_size for path in paths) for name, paths in (("before", before), ("after", after))
        },
        "scripts": ["Common", "Greek", "Latin"],
    }


def test_standard_input_beside_a_file(run: Run, model: str, corpus: list[str], tmp_path: Path, out: Path) -> None:
    run("trim-vocab", model, "--corpus", *corpus, "--out", str(out))
    options = ("--corpus", "-", corpus[1], "--out", str(tmp_path / "again"))
    assert run("trim-vocab", model, *options, stdin=GERMAN.encode("utf-8-sig")).status == 0
    for path in out.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_the_trimmed_model_answers_as_before(run: Run, model: str, corpus: list[str], out: Path) -> None:
    run("trim-vocab", model, "--corpus", *corpus, "--out", str(out))
    text = "Der alte <mask>"
    answers = [
        json.loads(run("fill-mask", "--model", directory, "--json", "--targets", "▁a,te,an", text).out)
        for directory in (model, str(out))
    ]
    words = [[prediction["token_str"] for prediction in answer["predictions"]] for answer in answers]
    assert words[0] == words[1]
    assert len(words[0]) == 3


def test_pieces_of_a_list(run: Run, model: str, tmp_path: Path, out: Path) -> None:
    (tmp_path / "pieces.txt").write_text("▁with\r\n\nи\n", encoding="utf-8", newline="")
    finished = run("trim-vocab", model, "--keep-pieces", str(tmp_path / "pieces.txt"), "--out", str(out))
    assert (finished.status, finished.err) == (0, "")
    assert "Common, Cyrillic, Latin" in finished.out
    vocabulary = XLMRobertaTokenizer.from_pretrained(out).get_vocab()
    assert {"▁with", "и"} <= vocabulary.keys()
    assert "▁the" not in vocabulary


def test_bad_input(run: Run, model: str, corpus: list[str], tmp_path: Path, out: Path) -> None:
    def run_with(*options: str, stdin: bytes = b"", source: str = model) -> Finished:
        return run("trim-vocab", source, *options, "--out", str(out), stdin=stdin)

    (tmp_path / "pieces.txt").write_text("▁with\n▁no\x1b[31m\n", encoding="utf-8")
    finished = run_with("--keep-pieces", str(tmp_path / "pieces.txt"))
    assert_bad_input(finished, r"Line 2 of the pieces to keep, '▁no\\x1b\[31m', is no piece of the vocabulary")
    assert_harmless(finished.err)
    assert_bad_input(run_with("--keep-pieces", "-"), "There is nothing to keep")
    assert_bad_input(run_with("--corpus", *corpus, "-"), "Standard input holds no text; give a text a line")
    assert_bad_input(run_with("--corpus", "-", str(tmp_path / "none.txt"), stdin=b"\xff"), "none.txt: No such file")
    assert_bad_input(run_with("--corpus", "-", stdin=b"fine\n\xff\n"), "Standard input, line 2: not UTF-8")
    assert_bad_input(run_with("--corpus", str(tmp_path)), "Is a directory")
    assert_bad_input(run_with("--corpus", *corpus, source="./nowhere"), "There is no directory")
    assert_bad_input(run_with("--corpus", *corpus, "--variant", "fp16"), "holds no weights")
    assert not out.exists()
    out.write_text("a file")
    assert_bad_input(run_with("--corpus", *corpus), "is a file; give a new directory")
    assert out.read_text() == "a file"
    finished = run("trim-vocab", model, "--corpus", *corpus, "--out", str(tmp_path))
    assert_bad_input(finished, "is not empty, and nothing is overwritten")


@pytest.mark.parametrize(
    "options", [("--out", "x"), ("--corpus", "a"), ("--corpus", "a", "--keep-pieces", "b", "--out", "x")]
)
def test_usage_errors(run: Run, options: tuple[str, ...]) -> None:
    status, printed, err = run("trim-vocab", "model", *options)
    assert (status, printed) == (2, "")
    assert err.startswith("usage: xlmr-np trim-vocab")


def test_a_bar_on_a_terminal(
    run: Run, model: str, corpus: list[str], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While texts are counted nothing else is printed, so that the bar has its place even if answers go there too."""
    monkeypatch.setattr("xlmr_np.progress.BAR_AFTER", 0)
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    finished = run("trim-vocab", model, "--corpus", *corpus, "--out", str(out))
    assert finished.status == 0
    assert "3 texts" in finished.err
