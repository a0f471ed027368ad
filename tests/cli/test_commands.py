"""The command `xlmr-np`, mostly within this process, and as a process where that is what matters."""

import importlib.metadata
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xlmr_np
from tests.cli.finished import Finished, Run, assert_bad_input, assert_harmless
from tests.pipelines.saved_models import LONGEST
from tests.reference_models import save_reference
from xlmr_np import pipeline
from xlmr_np.cli import COMMANDS, main

TEXT = "Bonjour, je suis un petit modèle de <mask>."
TWO_MASKS = "The <mask> is <mask> today."
LONG = "the <mask> " + "and the cat " * LONGEST
COMMAND = [sys.executable, "-m", "xlmr_np"]

# Text that might do something to a terminal: colours, a title, C1 controls, deletion, another direction, tags.
HOSTILE = "the \x1b[31m\x1b]0;title\x07 \x9b2J\x9d \x7f\x08 \u202eback\u2066 \u2028 \U000e0041 <mask>"


@pytest.fixture(scope="session")
def answers(model: str) -> Callable[..., Any]:
    return pipeline("fill-mask", model)


def start(*arguments: str, **settings: Any) -> "subprocess.Popen[bytes]":
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([*COMMAND, *arguments], **{**pipes, **settings})


# --- the table ---


def test_table_of_one_mask(run: Run, model: str, answers: Callable[..., Any]) -> None:
    status, out, err = run("fill-mask", "--model", model, TEXT)
    assert (status, err) == (0, "")
    first, *rows = out.splitlines()
    assert first == TEXT
    assert len(rows) == 5
    for row, prediction in zip(rows, answers(TEXT), strict=True):
        assert row.split()[0] == f"{prediction['score']:#.4g}"
        assert row.split()[1] == prediction["token_str"]
        assert row.endswith(prediction["sequence"])


def test_table_of_several_masks(run: Run, model: str, answers: Callable[..., Any]) -> None:
    status, out, err = run("fill-mask", "--model", model, "--top-k", "2", TWO_MASKS)
    assert (status, err) == (0, "")
    words = [[prediction["token_str"] for prediction in each] for each in answers(TWO_MASKS, top_k=2)]
    lines = out.splitlines()
    assert [lines[0], lines[1], lines[4]] == [TWO_MASKS, "  mask 1", "  mask 2"]
    assert [[line.split()[1] for line in lines[i : i + 2]] for i in (2, 5)] == words


class FixedAnswer:
    """Stands in for a pipeline: the same predictions for every text."""

    def __init__(self, *predictions: tuple[float, str]) -> None:
        self.answer = [
            {"score": score, "token": 5, "token_str": word, "sequence": f"a {word}"} for score, word in predictions
        ]

    def __call__(self, texts: Iterator[str], **_: Any) -> Iterator[Any]:
        return (self.answer for _ in texts)


@pytest.fixture
def replace_pipeline(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Lets the command load something else."""
    return lambda substitute: monkeypatch.setattr("xlmr_np.pipelines.pipeline", lambda *_, **__: substitute)


def test_scores_keep_their_digits_and_line_up(run: Run, replace_pipeline: Callable[[Any], None]) -> None:
    scores = (1.0, 0.9, 0.0625, 0.00031416, 4e-6, 1.2345678e-30, 0.0)
    replace_pipeline(FixedAnswer(*((score, "word") for score in scores)))
    rows = run("fill-mask", "--model", "any", "<mask>").out.splitlines()[1:]
    assert [row.split()[0] for row in rows] == [
        "1.000", "0.9000", "0.06250", "0.0003142", "4.000e-06", "1.235e-30", "0.000",
    ]  # fmt: skip
    assert {row.index("word") for row in rows} == {13}
    assert {row.index(".") for row in rows} == {3}


def test_words_of_all_widths_line_up(run: Run, replace_pipeline: Callable[[Any], None]) -> None:
    # Columns on a terminal: 3; 2 wide characters; base and combining accent; Thai with vowel signs; RTL; nothing.
    words = {"abc": 3, "天气": 4, "e\u0301": 1, "ที่": 1, "שלום": 4, "": 1}
    replace_pipeline(FixedAnswer(*((0.5, word) for word in words)))
    rows = run("fill-mask", "--model", "any", "<mask>").out.splitlines()[1:]
    for row, (word, columns) in zip(rows, words.items(), strict=True):
        shown = word or "▁"
        assert row == f"  0.5000     {shown}{' ' * (4 - columns)}  a {word}".rstrip()


@pytest.mark.parametrize(
    "text",
    [
        "今天天气很<mask>",
        "הילדים <mask> בגן",
        "ครู <mask> หนังสือ",
        "e\u0301a\u0308 <mask>",
        "👩\u200d🔬 <mask> 🇫🇷",
        "می\u200cخواهم <mask>",
    ],
)
def test_texts_in_any_script(run: Run, model: str, text: str) -> None:
    status, out, err = run("fill-mask", "--model", model, text)
    assert (status, err) == (0, "")
    assert out.splitlines()[0] == text


# --- JSON lines ---


def test_json_lines_are_whole_answers(run: Run, model: str, answers: Callable[..., Any]) -> None:
    texts = [TEXT, TWO_MASKS, '今天天气很<mask> "quoted" \\ {}']
    status, out, err = run("fill-mask", "--model", model, "--json", "--batch-size", "1", *texts)
    assert (status, err) == (0, "")
    assert "今天天气很" in out  # to be read and searched by people, too
    lines = out.removesuffix("\n").split("\n")
    expected = [{"text": text, "predictions": answers(text)} for text in texts]
    assert [json.loads(line) for line in lines] == expected


def test_top_k_and_targets(run: Run, model: str, answers: Callable[..., Any]) -> None:
    def tokens(*options: str) -> list[int]:
        out = run("fill-mask", "--model", model, "--json", TEXT, *options).out
        return [prediction["token"] for prediction in json.loads(out)["predictions"]]

    assert len(tokens("--top-k", "7")) == 7
    words = ["la", "▁the", "и"]
    assert sorted(tokens("--targets", "la, ▁the,и")) == sorted(answers.target_ids(words))
    assert tokens("--targets", "la, ▁the,и", "--top-k", "1") == [answers(TEXT, targets=words)[0]["token"]]


# --- where texts come from ---


def texts_of(finished: Finished) -> list[str]:
    assert (finished.status, finished.err) == (0, "")
    return [json.loads(line)["text"] for line in finished.out.splitlines()]


LINES = "  one <mask>  \n\n\t\ntwo <mask>\nthrée <mask>"
SOURCES = {
    "newlines": LINES.encode(),
    "newline at the end": LINES.encode() + b"\n",
    "CRLF": LINES.replace("\n", "\r\n").encode() + b"\r\n",
    "BOM": LINES.encode("utf-8-sig"),
}


@pytest.mark.parametrize("name", SOURCES)
def test_lines_of_a_file_and_of_standard_input(run: Run, model: str, tmp_path: Path, name: str) -> None:
    command = ("fill-mask", "--model", model, "--json", "--top-k", "1")
    expected = ["one <mask>", "two <mask>", "thrée <mask>"]
    (tmp_path / "lines.txt").write_bytes(SOURCES[name])
    assert texts_of(run(*command, "--input", str(tmp_path / "lines.txt"))) == expected
    assert texts_of(run(*command, stdin=SOURCES[name])) == expected
    assert texts_of(run(*command, "--input", "-", stdin=SOURCES[name])) == expected
    assert texts_of(run(*command, "one <mask>", "two <mask>", stdin=SOURCES[name])) == expected[:2]


def test_lines_are_run_in_batches(run: Run, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    predict = xlmr_np.XLMRobertaForMaskedLM.predict

    def counting(self: Any, ids: np.ndarray, *arguments: Any, **keywords: Any) -> Any:
        sizes.append(len(ids))
        return predict(self, ids, *arguments, **keywords)

    monkeypatch.setattr(xlmr_np.XLMRobertaForMaskedLM, "predict", counting)
    lines = "".join(f"{'very ' * (number % 4)}number {number} <mask>\n" for number in range(20)).encode()
    one_by_one = run("fill-mask", "--model", model, "--batch-size", "1", stdin=lines)
    assert sizes == [1] * 20
    sizes.clear()
    together = run("fill-mask", "--model", model, "--batch-size", "8", stdin=lines)
    assert sizes == [8, 8, 4]
    sizes.clear()
    assert run("fill-mask", "--model", model, stdin=lines).out.count("<mask>") == 20
    assert sizes == [20]
    words = [re.sub(r"\d\.\d+(e-\d+)?", "", each.out) for each in (one_by_one, together)]
    assert words[0] == words[1]
    assert together.out.count("<mask>") == 20


@pytest.mark.parametrize("content", [b"", b"\n", b"  \r\n\t\n", b"\xef\xbb\xbf"])
def test_no_text_at_all(run: Run, model: str, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "empty.txt").write_bytes(content)
    command = ("fill-mask", "--model", model)
    assert_bad_input(run(*command, "--input", str(tmp_path / "empty.txt")), "empty.txt holds no text")
    assert_bad_input(run(*command, stdin=content), "Standard input holds no text")


def test_what_is_not_utf_8(run: Run, model: str, tmp_path: Path) -> None:
    content = b"one <mask>\n\ntwo \xff <mask>\n"
    (tmp_path / "latin.txt").write_bytes(content)
    for name, arguments in (("latin.txt", ("--input", str(tmp_path / "latin.txt"))), ("Standard input", ())):
        status, out, err = run("fill-mask", "--model", model, *arguments, stdin=content)
        assert (status, out.splitlines()[0]) == (2, "one <mask>")  # what comes before is answered
        assert err.endswith(f"{name}, line 3: not UTF-8 (invalid start byte); convert it first.\n")
    (tmp_path / "utf-16.txt").write_text("one <mask>", encoding="utf-16")
    assert_bad_input(run("fill-mask", "--model", model, "--input", str(tmp_path / "utf-16.txt")), "line 1: not UTF-8")
    assert_bad_input(run("fill-mask", "--model", model, os.fsdecode(b"\xff <mask>")), "lone surrogate at character 0")


def test_two_sources_at_once(run: Run, model: str, tmp_path: Path) -> None:
    finished = run("fill-mask", "--model", model, TEXT, "--input", str(tmp_path / "lines.txt"))
    assert_bad_input(finished, "both as arguments and with --input")


def test_no_such_input(run: Run, model: str, tmp_path: Path) -> None:
    finished = run("fill-mask", "--model", model, "--input", str(tmp_path / "lines.txt"))
    assert_bad_input(finished, r"lines\.txt: No such file or directory")
    assert_bad_input(run("fill-mask", "--model", model, "--input", str(tmp_path)), "Is a directory")


class Typist(io.RawIOBase):
    """A terminal at which somebody waits for the answer to a line before typing the next."""

    def __init__(self, lines: list[bytes], read_answer: Callable[[], str]) -> None:
        self.lines, self.read_answer, self.answers = lines, read_answer, list[str]()
        self.buffer = self.type()

    def isatty(self) -> bool:
        return True

    def type(self) -> Iterator[bytes]:
        for line in self.lines:
            yield line
            self.answers.append(self.read_answer())


def test_each_typed_line_is_answered_at_once(
    model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    typist = Typist([b"one <mask>\n", b"two <mask>\n"], lambda: "".join(capsys.readouterr()))
    monkeypatch.setattr(sys, "stdin", typist)
    assert main(["fill-mask", "--model", model]) == 0
    assert [answer.count("<mask>") for answer in typist.answers] == [2, 1]
    assert typist.answers[0].splitlines()[0] == "one <mask>"
    assert typist.answers[0].splitlines()[-1] == "Type a text with <mask> a line, and end with Ctrl-D."


# --- bad input ---


def test_no_mask(run: Run, model: str) -> None:
    assert_bad_input(run("fill-mask", "--model", model, "no mask"), "Text 1 has no <mask>: 'no mask'; write <mask>")
    assert_bad_input(run("fill-mask", "--model", model, ""), "Text 1 has no <mask>")
    assert_bad_input(run("fill-mask", "--model", model, "no mask", TEXT), "Text 1 has no <mask>")


def test_an_error_is_all_that_is_said_with_the_demo_model(run: Run) -> None:
    assert_bad_input(run("fill-mask", "no mask"), "Text 1 has no <mask>")
    status, out, err = run("fill-mask", "--skip-errors", "no mask", "a <mask>", "the <mask>")
    assert (status, out.count("<mask>")) == (1, 2)
    assert [line.split()[1] for line in err.splitlines()] == ["Text", "this"]


def test_what_came_before_a_bad_text_is_answered(run: Run, model: str) -> None:
    status, out, err = run("fill-mask", "--model", model, "--json", "--batch-size", "2", TEXT, TEXT, TEXT, "none")
    assert (status, len(out.splitlines()), err.count("\n")) == (2, 3, 1)
    assert "Text 4 has no <mask>: 'none'" in err


def test_texts_that_are_too_long(run: Run, model: str) -> None:
    refused = run("fill-mask", "--model", model, "--long-texts", "error", LONG)
    assert_bad_input(refused, rf"Text 1 has \d+ tokens, .* at most {LONGEST}: ")
    cut = run("fill-mask", "--model", model, "--top-k", "1", LONG)
    assert (cut.status, cut.err.count("\n")) == (0, 1)
    assert cut.err.startswith("xlmr-np: Text 1 has ")
    assert len(cut.out.splitlines()[1]) < len(LONG) / 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--top-k", "0"), "--top-k 0 is too small; give at least 1"),
        (("--top-k", "-1"), "--top-k -1 is too small"),
        (("--top-k", "1000"), "top_k=1000 is more than the 482 tokens"),
        (("--batch-size", "0"), "batch_size=0 is too small"),
        (("--targets", ""), "The target '' is not one token"),
        (("--targets", "la,,the"), "The target '' is not one token"),
        (("--targets", "windowsill"), "The target 'windowsill' is not one token"),
        (("--dtype", "int8"), "dtype='int8' is not one of"),
        (("--device", "tpu"), "device 'tpu' is not known"),
        (("--device", "-2"), "device -2 is not known"),
    ],
)
def test_values_out_of_range(run: Run, model: str, options: tuple[str, str], message: str) -> None:
    assert_bad_input(run("fill-mask", "--model", model, *options, TEXT), message)


@pytest.mark.parametrize("command", ["fill-mask", "info"])
def test_unknown_models(run: Run, tmp_path: Path, command: str) -> None:
    def run_on(name: str, *options: str) -> Finished:
        return run(command, *options, name) if command == "info" else run(command, *options, "--model", name, TEXT)

    assert_bad_input(run_on("./nowhere"), "There is no directory")
    assert_bad_input(run_on(str(tmp_path)), "has no (config.json|vocabulary)")
    finished = run_on("somebody/some-model", "--offline", "--cache-dir", str(tmp_path))
    assert_bad_input(finished, "'somebody/some-model' is not in the cache, and the network may not be asked")
    assert_bad_input(run_on("not a model"), "'not a model' is neither an existing directory nor the id of a hub model")


def test_a_checkpoint_without_a_head(run: Run, tmp_path: Path, small_vocabulary: Path) -> None:
    save_reference(tmp_path, "XLMRobertaModel", vocab_size=482)
    shutil.copy(small_vocabulary, tmp_path / "sentencepiece.bpe.model")
    assert_bad_input(run("fill-mask", "--model", str(tmp_path), TEXT), r"lacks weights that fill-mask needs: lm_head\.")
    assert run("info", str(tmp_path)).status == 0


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("fill-mask", "--model"),
        ("fill-mask", "--model", "x", "--top-k", "many", "<mask>"),
        ("fill-mask", "--model", "x", "--no-such-option", "<mask>"),
        ("no-such-command",),
        ("pretrain",),
        ("trim-vocab",),
        ("info", "one", "two"),
    ],
)
def test_usage_errors(run: Run, arguments: tuple[str, ...]) -> None:
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("usage: xlmr-np")
    assert re.search(r"^xlmr-np.*: error: ", err, re.MULTILINE)


def test_damaged_settings_are_not_bugs(run: Run, model: str, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "hidden_size": "wide"}))
    assert_bad_input(run("fill-mask", "--model", str(tmp_path), TEXT), "hidden_size")
    (tmp_path / "config.json").write_text("{")
    assert_bad_input(run("fill-mask", "--model", str(tmp_path), TEXT), "is not valid JSON")


@pytest.mark.parametrize("bug", [KeyError, AssertionError, IndexError, AttributeError, ZeroDivisionError, ImportError])
def test_bugs_are_not_hidden(run: Run, replace_pipeline: Callable[[Any], None], bug: type[Exception]) -> None:
    def broken(texts: Iterator[str], **_: Any) -> None:
        raise bug("a bug")

    replace_pipeline(broken)
    with pytest.raises(bug, match="a bug"):
        run("fill-mask", "--model", "any", TEXT)


def test_an_interrupt_is_no_error_message(run: Run, replace_pipeline: Callable[[Any], None]) -> None:
    def interrupted(texts: Iterator[str], **_: Any) -> None:
        raise KeyboardInterrupt

    replace_pipeline(interrupted)
    assert run("fill-mask", "--model", "any", TEXT) == Finished(130, "", "")


# --- nothing reaches the terminal that it would obey ---


def test_hostile_text(run: Run, model: str, tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text(HOSTILE + "\n" + TWO_MASKS + HOSTILE + "\n", encoding="utf-8")
    for arguments in ((HOSTILE,), ("--input", str(tmp_path / "lines.txt"))):
        for options in ((), ("--json",)):
            status, out, err = run("fill-mask", "--model", model, *options, *arguments)
            assert (status, err) == (0, "")
            assert_harmless(out)
    assert json.loads(run("fill-mask", "--model", model, "--json", HOSTILE).out)["text"] == HOSTILE
    assert "\\u001b[31m" in run("fill-mask", "--model", model, HOSTILE).out.splitlines()[0]


@pytest.mark.parametrize(
    "arguments",
    [
        ("fill-mask", "--model", "./" + HOSTILE, TEXT),
        ("fill-mask", "--model", HOSTILE, TEXT),
        ("fill-mask", "--model", "MODEL", HOSTILE.replace("<mask>", "")),
        ("fill-mask", "--model", "MODEL", "--targets", HOSTILE, TEXT),
        ("fill-mask", "--model", "MODEL", "--device", HOSTILE, TEXT),
        ("fill-mask", "--model", "MODEL", "--input", "/" + HOSTILE),
        ("info", HOSTILE),
    ],
)
def test_hostile_arguments(run: Run, model: str, arguments: tuple[str, ...]) -> None:
    finished = run(*(model if argument == "MODEL" else argument for argument in arguments))
    assert_bad_input(finished, "")
    assert_harmless(finished.err)


@pytest.mark.parametrize(
    "arguments", [("info", "a", HOSTILE), (HOSTILE,), ("fill-mask", "--model", "a", "--" + HOSTILE)]
)
def test_hostile_usage(run: Run, arguments: tuple[str, ...]) -> None:
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert_harmless(err)


def test_hostile_checkpoint(run: Run, model: str, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    directory = tmp_path / HOSTILE
    shutil.copytree(model, directory)
    tensors = load_file(directory / "model.safetensors")
    save_file({**tensors, HOSTILE: np.ones(2)}, directory / "model.safetensors", {"format": "pt"})
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "architectures": [HOSTILE]}))
    for command in (
        ("fill-mask", "--model", str(directory), TEXT),
        ("info", str(directory)),
        ("info", "--json", str(directory)),
    ):
        status, out, err = run(*command)
        assert (status, err.count("\n")) == (0, int(command[0] == "fill-mask"))  # a warning, on one line
        assert_harmless(out + err)


# --- info ---


def test_info_table(run: Run, model: str) -> None:
    status, out, err = run("info", model)
    assert (status, err) == (0, "")
    facts = [re.split(r"\s{2,}", line, maxsplit=1) for line in out.splitlines()]
    loaded = xlmr_np.XLMRobertaForMaskedLM.from_pretrained(model)
    size = (Path(model) / "model.safetensors").stat().st_size
    assert dict(facts) == {
        "model": model,
        "architecture": "XLMRobertaForMaskedLM (xlm-roberta)",
        "encoder": "2 layers, width 32, 4 heads, feed-forward 40, gelu",
        "vocabulary": "482 tokens",
        "longest text": f"{LONGEST} tokens",
        "parameters": f"{loaded.num_parameters():,}",
        "element type": "float32",
        "file": f"model.safetensors  {size / 1e6:,.1f} MB",
        "on disk": f"{size / 1e6:,.1f} MB",
        "in memory": f"{loaded.num_parameters() * 4 / 1e6:,.1f} MB once all of it has been used (mapped from the file)",
    }


def test_info_json(run: Run, model: str) -> None:
    status, out, err = run("info", "--json", model)
    assert (status, err) == (0, "")
    facts = json.loads(out)
    loaded = xlmr_np.XLMRobertaForMaskedLM.from_pretrained(model)
    size = (Path(model) / "model.safetensors").stat().st_size
    assert facts["config"]["hidden_size"] == 32
    del facts["config"]
    assert facts == {
        "model": model,
        "parameters": loaded.num_parameters(),
        "dtypes": ["float32"],
        "files": {"model.safetensors": size},
        "bytes_on_disk": size,
        "bytes_in_memory": loaded.num_parameters() * 4,
    }


def test_info_reads_no_weights(run: Run, model: str, tmp_path: Path) -> None:
    """A file of which all but the header is a hole is described like any other."""
    shutil.copytree(model, tmp_path, dirs_exist_ok=True)
    weights = tmp_path / "model.safetensors"
    size, header = weights.stat().st_size, int.from_bytes(weights.read_bytes()[:8], "little") + 8
    os.truncate(weights, header)
    os.truncate(weights, size)
    assert run("info", str(tmp_path)).out.replace(str(tmp_path), model) == run("info", model).out


# --- as a process ---


def test_version_and_help(run: Run) -> None:
    assert run("--version") == Finished(0, f"xlmr-np {xlmr_np.__version__}\n", "")
    for arguments in (("--help",), *((command, "--help") for command in COMMANDS)):
        status, out, err = run(*arguments)
        assert (status, err) == (0, "")
        assert out.startswith("usage: xlmr-np")
        assert out.isascii()  # so that it can be printed everywhere


def test_help_imports_nothing_that_takes_time() -> None:
    code = "from xlmr_np.cli import main, sys\ntry: main(['run', '--help'])\nfinally: assert 'numpy' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.startswith(b"usage")


def test_the_command_is_installed() -> None:
    (command,) = importlib.metadata.entry_points(group="console_scripts", name="xlmr-np")
    assert command.load() is main


@pytest.mark.skipif(shutil.which("bash") is None, reason="the shell line is for bash")
def test_the_shell_line_of_the_reference(model: str, answers: Callable[..., Any]) -> None:
    line = 'echo -e "$TEXT" | "$PYTHON" -m xlmr_np fill-mask --model "$MODEL" --device -1'
    environment = {**os.environ, "TEXT": TEXT, "MODEL": model, "PYTHON": sys.executable}
    finished = subprocess.run(["bash", "-c", line], env=environment, capture_output=True, check=False)
    assert (finished.returncode, finished.stderr) == (0, b"")
    assert [row.split()[1] for row in finished.stdout.decode().splitlines()[1:]] == [
        prediction["token_str"] for prediction in answers(TEXT)
    ]


def test_a_gpu_by_number(run: Run, model: str) -> None:
    """The other half of that line, `--device 0`: an answer where there is a GPU, and a reason where there is none."""
    finished = run("fill-mask", "--model", model, "--device", "0", TEXT)
    if finished.status != 0:
        assert_bad_input(finished, "device 'cuda")


def test_a_reader_that_has_seen_enough(model: str, tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("the <mask> and the cat\n" * 300)
    process = start("fill-mask", "--model", model, "--input", str(tmp_path / "lines.txt"))
    assert process.stdout.readline() == b"the <mask> and the cat\n"
    process.stdout.close()
    assert process.wait(30) == 0
    assert process.stderr.read() == b""
    process.stdin.close()
    process.stderr.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is full")
def test_a_full_disk(run: Run, model: str) -> None:
    for command in (("fill-mask", "--model", model, TEXT), ("info", model)):
        with open("/dev/full", "wb") as full:
            process = start(*command, stdout=full)
            _, err = process.communicate()
        assert process.returncode == 2
        assert err == b"xlmr-np: standard output: No space left on device\n"
    finished = run("fill-mask", "--model", model, "--output", "/dev/full", "--format", "csv", TEXT)
    assert_bad_input(finished, "/dev/full: No space left on device")


@pytest.mark.skipif(os.name != "posix", reason="sends the signal of Ctrl-C")
def test_ctrl_c(model: str) -> None:
    def heed_the_signal() -> (
        None
    ):  # a suite that runs in the background of a shell ignores it, and so would this process
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    process = start("fill-mask", "--model", model, "--batch-size", "1", "--json", preexec_fn=heed_the_signal)
    process.stdin.write(b"the <mask>\n")
    process.stdin.flush()
    assert json.loads(process.stdout.readline())["text"] == "the <mask>"  # answered while standard input is open
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30) == (b"", b"")
    assert process.returncode == 130


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize("text", ["今天 é 😀 <mask>"])
def test_outputs_that_cannot_take_every_character(
    model: str, encoding: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for options in ((), ("--json",)):
        written = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
        assert main(["fill-mask", "--model", model, "--top-k", "1", *options, text]) == 0
        first = written.getvalue().decode(encoding).splitlines()[0]
        if options:
            assert json.loads(first)["text"] == text
        else:
            assert json.loads(f'"{first}"') == text
        assert ("é" in first) == (encoding != "ascii")


def test_the_plainest_locale(model: str) -> None:
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environment.pop("PYTHONIOENCODING", None)
    process = start("fill-mask", "--model", model, "--json", env=environment)
    out, err = process.communicate(TEXT.encode())
    assert (process.returncode, err) == (0, b"")
    assert json.loads(out)["text"] == TEXT


# --- the progress bar ---

WITHOUT_DELAY = """
import sys
from xlmr_np import progress
from xlmr_np.cli import COMMANDS, main
progress.BAR_AFTER = 0
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_a_bar_on_a_terminal(model: str, tmp_path: Path) -> None:
    import pty
    import termios

    (tmp_path / "lines.txt").write_text("the <mask>\n" * 40)
    controller, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    command = [sys.executable, "-c", WITHOUT_DELAY, "fill-mask", "--model", model, "--input", tmp_path / "lines.txt"]
    finished = subprocess.run(command, stdout=subprocess.PIPE, stderr=terminal, stdin=subprocess.DEVNULL, check=False)
    os.close(terminal)
    shown = os.read(controller, 100_000).decode()
    os.close(controller)
    assert finished.returncode == 0
    assert finished.stdout.count(b"the <mask>\n") == 40
    assert "40/40" in shown
    assert "texts/s" in shown


@pytest.mark.parametrize(("out_is_terminal", "err_is_terminal"), [(False, False), (True, False), (True, True)])
def test_no_bar_elsewhere(
    run: Run, model: str, monkeypatch: pytest.MonkeyPatch, out_is_terminal: bool, err_is_terminal: bool
) -> None:
    monkeypatch.setattr("xlmr_np.progress.BAR_AFTER", 0)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: out_is_terminal)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: err_is_terminal)
    assert run("fill-mask", "--model", model, stdin=b"the <mask>\n" * 40).err == ""


def test_no_bar_for_what_is_quick(run: Run, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xlmr_np.progress.BAR_AFTER", 60)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert run("fill-mask", "--model", model, stdin=b"the <mask>\n" * 40).err == ""


def test_subfolder_and_variant(run: Run, model: str, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "inner")
    (folder / "model.safetensors").rename(folder / "model.fp16.safetensors")
    options = ("--subfolder", "inner", "--variant", "fp16")
    expected = run("fill-mask", "--model", model, "--json", TEXT)
    assert run("fill-mask", "--model", str(tmp_path), *options, "--json", TEXT).out == expected.out
    assert "model.fp16.safetensors" in run("info", str(tmp_path), *options).out
    assert_bad_input(run("info", str(tmp_path), "--subfolder", "inner"), "holds no weights")
