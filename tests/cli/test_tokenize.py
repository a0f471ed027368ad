"""The command `xlmr-np tokenize`."""

import json
from pathlib import Path

from tests.cli.finished import Run, assert_bad_input, assert_harmless
from xlmr_np.tokenizer import XLMRobertaTokenizer

TEXT = "Der ﬁ <mask> Garten."


def test_table(run: Run, model: str) -> None:
    status, out, err = run("tokenize", "--model", model, TEXT, "the")
    assert (status, err) == (0, "")
    tokenizer = XLMRobertaTokenizer.from_pretrained(model)
    lines = out.splitlines()
    encoded = tokenizer(TEXT, return_offsets_mapping=True)
    assert lines[0] == TEXT
    for line, token, token_id, (start, end) in zip(
        lines[1:], encoded.tokens(), encoded.input_ids, encoded.offset_mapping, strict=False
    ):
        place = [f"{start}-{end}", *TEXT[start:end].split()] if end > start else []
        assert line.split() == [token, str(token_id), *place]
    assert lines[len(encoded.input_ids) + 1 :] == ["the", "  <s>    0", "  ▁the  18  0-3        the", "  </s>   2"]


def test_json(run: Run, model: str) -> None:
    status, out, err = run("tokenize", "--model", model, "--json", stdin=f"{TEXT}\n\nthe\n".encode())
    assert (status, err) == (0, "")
    answers = [json.loads(line) for line in out.splitlines()]
    tokenizer = XLMRobertaTokenizer.from_pretrained(model)
    for text, answer in zip((TEXT, "", "the"), answers, strict=True):
        encoded = tokenizer(text, return_offsets_mapping=True)
        offsets = [list(span) for span in encoded.offset_mapping]
        expected = {"text": text, "tokens": encoded.tokens(), "ids": encoded.input_ids, "offsets": offsets}
        assert answer == expected


def test_explanation(run: Run, model: str) -> None:
    status, out, err = run("tokenize", "--model", model, "--explain", TEXT)
    assert (status, err) == (0, "")
    assert "normalised  ▁Der▁fi" in out
    assert "changed    ﬁ to fi\n" in out
    assert "6-12  <mask>  is a token" in out
    best, second = (
        next(line for line in out.splitlines() if line.strip().startswith(name)) for name in ("best", "next")
    )
    assert float(best.split()[-1]) >= float(second.split()[-1])


def test_explanation_as_json(run: Run, model: str) -> None:
    status, out, _ = run("tokenize", "--model", model, "--explain", "--json", "--normalization", "huggingface", TEXT)
    assert status == 0
    answer = json.loads(out)
    cuts = [cut for part in answer["explanation"] for cut in part.get("cuts", ())]
    assert [cut["text"] for cut in cuts] == ["▁Der", "▁fi", "▁Garten."]
    pieces = [candidate["token_id"] for cut in cuts for candidate in cut["best"]]
    tokenizer = XLMRobertaTokenizer.from_pretrained(model)
    assert pieces == [token_id for token_id in answer["ids"][1:-1] if token_id != tokenizer.mask_token_id]


def test_whose_tokens(run: Run, model: str) -> None:
    text = "</s> e\u0302\u0301"
    for arguments, settings in (
        ([], {}),
        (["--normalization", "huggingface"], {"normalization": "huggingface"}),
        (["--allow-special-tokens"], {"allow_special_tokens": True}),
    ):
        _, out, _ = run("tokenize", "--model", model, "--json", *arguments, text)
        tokenizer = XLMRobertaTokenizer.from_pretrained(model, **settings)
        assert json.loads(out)["ids"] == tokenizer(text)["input_ids"]


def test_nothing_that_a_terminal_obeys_is_printed(run: Run, model: str) -> None:
    for arguments in ([], ["--explain"], ["--json"]):
        status, out, _ = run("tokenize", "--model", model, *arguments, "a\x1b[31m\u202eb\r\u0085")
        assert status == 0
        assert_harmless(out)


def test_bad_input(run: Run, model: str, tmp_path: Path) -> None:
    assert_bad_input(run("tokenize", "--model", str(tmp_path), "the"), "has no vocabulary")
    assert_bad_input(run("tokenize", "--model", model, "--input", "lines.txt", "the"), "in one way")
    assert_bad_input(run("tokenize", "--model", model, stdin=b"\xff\n"), "not UTF-8")
