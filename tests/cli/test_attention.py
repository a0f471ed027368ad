"""The command `xlmr-np attention`."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from tests.cli.finished import Run, assert_bad_input, assert_harmless
from tests.pipelines.saved_models import LONGEST
from xlmr_np import XLMRobertaTokenizer
from xlmr_np.visualization import MOST_TOKENS

TEXT = "Der Garten."


def test_page(run: Run, model: str, tmp_path: Path) -> None:
    file = tmp_path / "out.html"
    status, out, err = run("attention", "--model", model, "--html", str(file), TEXT)
    assert (status, out, err) == (0, "", f"xlmr-np: wrote {file}; open it in a browser.\n")
    page = file.read_text(encoding="utf-8")
    assert f'<h1 dir="auto">{TEXT}</h1>' in page
    tokens = XLMRobertaTokenizer.from_pretrained(model)(TEXT).tokens()
    assert f'"tokens":{json.dumps(tokens).replace(", ", ",")}'.replace("<", "\\u003c").replace(">", "\\u003e") in page
    assert os.listdir(tmp_path) == ["out.html"]


def test_standard_input_is_one_text(run: Run, model: str, tmp_path: Path) -> None:
    written = [tmp_path / "argument.html", tmp_path / "input.html"]
    assert run("attention", "--model", model, "--html", str(written[0]), TEXT).status == 0
    lines = b"\n Der\nGarten. \n"
    assert run("attention", "--model", model, "--html", str(written[1]), stdin=lines).status == 0
    assert written[0].read_bytes() == written[1].read_bytes()


def test_json(run: Run, model: str) -> None:
    status, out, err = run("attention", "--model", model, "--json", TEXT, "--pair", "the")
    assert (status, err) == (0, "")
    answer = json.loads(out)
    assert answer["tokens"] == XLMRobertaTokenizer.from_pretrained(model)(TEXT, "the").tokens()
    assert (answer["text"], answer["pair"]) == (TEXT, "the")
    attentions = np.array(answer["attentions"])
    assert attentions.shape[2:] == (len(answer["tokens"]),) * 2
    np.testing.assert_allclose(attentions.sum(axis=-1), 1, rtol=0, atol=1e-4)  # printed to six digits each


def test_nothing_that_a_terminal_obeys_is_printed(run: Run, model: str) -> None:
    status, out, _ = run("attention", "--model", model, "--json", "a\x1b[31m\u202eb\u0085c")
    assert status == 0
    assert_harmless(out)


def test_the_demo_model(run: Run, tmp_path: Path) -> None:
    status, _, err = run("attention", "--html", str(tmp_path / "out.html"), TEXT)
    assert status == 0
    assert "this is demo" in err


def test_as_many_tokens_as_in_python(run: Run, tmp_path: Path) -> None:
    finished = run("attention", "--html", str(tmp_path / "out.html"), "the " * (MOST_TOKENS - 1))
    assert finished.status == 2
    assert f"has {MOST_TOKENS + 1} tokens, and attention is kept for at most {MOST_TOKENS} " in finished.err
    assert run("attention", "--html", str(tmp_path / "out.html"), "the " * (MOST_TOKENS - 2)).status == 0


def test_a_page_is_replaced_when_asked(run: Run, model: str, tmp_path: Path) -> None:
    file = tmp_path / "out.html"
    file.write_text("old")
    command = ("attention", "--model", model, "--html", str(file))
    assert_bad_input(run(*command, TEXT), "exists already; add --overwrite")
    assert_bad_input(run(*command, "--overwrite", " "), "no text to read")
    assert_bad_input(run(*command, "--overwrite", "<mask>"), "holds nothing to read")
    assert file.read_text() == "old"
    assert run(*command, "--overwrite", TEXT).status == 0
    assert file.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert os.listdir(tmp_path) == ["out.html"]


def test_a_place_that_cannot_be_written(run: Run, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("attention", "--model", model, "--html")
    assert_bad_input(run(*command, str(tmp_path / "no" / "out.html"), TEXT), "No such file or directory")
    assert_bad_input(run(*command, str(tmp_path), TEXT), "Is a directory")

    def refuse(self: Path) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "touch", refuse)  # root may write everywhere
    file = tmp_path / "out.html"
    assert_bad_input(run(*command, str(file), TEXT), f"{file}: Permission denied")
    assert os.listdir(tmp_path) == []


def test_bad_input(run: Run, model: str, tmp_path: Path) -> None:
    file = str(tmp_path / "out.html")
    command = ("attention", "--model", model, "--html", file)
    assert_bad_input(run("attention", "--model", model, TEXT), "--html FILE")
    assert_bad_input(run(*command, ""), "no text to read")
    assert_bad_input(run(*command, stdin=b" \n"), "no text to read")
    assert_bad_input(run(*command, TEXT, "--pair", "\u200b"), "holds nothing to read: '.u200b'")
    assert_bad_input(run(*command, stdin=b"\xff\n"), "not UTF-8")
    assert_bad_input(run(*command, "the " * 10, "--max-tokens", "8"), "at most 8 .*--max-tokens")
    assert_bad_input(run(*command, TEXT, "--max-tokens", "0"), "max_tokens")
    assert_bad_input(run(*command, stdin=b"the cat " * 2**17), f"the model reads {LONGEST}")
    assert_bad_input(run("attention", "--model", str(tmp_path), "--html", file, TEXT), "has no")
    assert os.listdir(tmp_path) == []
