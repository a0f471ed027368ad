"""The command `xlmr-np generate`."""

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.finished import Finished, Run, assert_bad_input, assert_harmless
from tests.pipelines.saved_models import LONGEST, save_text_generation_model
from xlmr_np import pipeline
from xlmr_np.cli import main

PROMPTS = ["the cat", "Das Wetter ist", "今天天气很"]
HOSTILE = "the \x1b[31m\x1b]0;title\x07 \x9b2J \x7f\x08 \u202eback\u2066 \u2028 \U000e0041"
LENGTH = ("--max-new-tokens", "5")
GREEDY = {"do_sample": False, "max_new_tokens": 5}
COMMAND = [sys.executable, "-m", "xlmr_np", "generate"]


@pytest.fixture(scope="session")
def decoder(tmp_path_factory: pytest.TempPathFactory, small_vocabulary: Path) -> str:
    directory = tmp_path_factory.mktemp("models") / "decoder"
    save_text_generation_model(directory, small_vocabulary)
    return str(directory)


@pytest.fixture(scope="session")
def answers(decoder: str) -> Callable[..., Any]:
    return pipeline("text-generation", decoder)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has standard output say that it is one."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)


def good(finished: Finished) -> str:
    assert (finished.status, finished.err) == (0, "")
    return finished.out


def texts(answer: list[dict[str, str]]) -> list[str]:
    return [each["generated_text"] for each in answer]


# --- what is printed ---


def test_a_line_for_each_text(run: Run, decoder: str, answers: Callable[..., Any]) -> None:
    lines = good(run("generate", "--model", decoder, *LENGTH, *PROMPTS)).splitlines()
    assert lines == [text for answer in answers(PROMPTS, **GREEDY) for text in texts(answer)]
    several = ("--num-beams", "3", "--num-return-sequences", "2")
    lines = good(run("generate", "--model", decoder, *LENGTH, *several, *PROMPTS)).splitlines()
    expected = answers(PROMPTS, num_beams=3, num_return_sequences=2, **GREEDY)
    assert lines == [text for answer in expected for text in texts(answer)]
    assert len(lines) == 6


def test_json_lines(run: Run, decoder: str, answers: Callable[..., Any]) -> None:
    out = good(run("generate", "--model", decoder, *LENGTH, "--json", "--batch-size", "2", *PROMPTS))
    expected = [{"text": text, "answers": answers(text, **GREEDY)} for text in PROMPTS]
    assert [json.loads(line) for line in out.splitlines()] == expected
    assert "今天天气很" in out


def test_only_new_text(run: Run, decoder: str, answers: Callable[..., Any]) -> None:
    out = good(run("generate", "--model", decoder, *LENGTH, "--only-new-text", "the cat"))
    assert out == answers("the cat", return_full_text=False, **GREEDY)[0]["generated_text"] + "\n"


def test_settings(run: Run, decoder: str, answers: Callable[..., Any]) -> None:
    def generated(*options: str) -> str:
        return good(run("generate", "--model", decoder, *options, "the cat")).removesuffix("\n")

    whole = generated(*LENGTH)
    assert (
        generated(*LENGTH, "--repetition-penalty", "5")
        == texts(answers("the cat", repetition_penalty=5.0, **GREEDY))[0]
    )
    stop = whole.removeprefix("the cat").strip()[0]
    cut = generated(*LENGTH, "--stop", "no such text", "--stop", stop)
    assert whole.startswith(cut)
    assert cut.endswith(stop)
    drawn = [generated(*LENGTH, "--sample", "--seed", seed) for seed in ("1", "1", "2")]
    assert drawn[0] == drawn[1] != drawn[2]
    assert generated(*LENGTH, "--sample", "--top-k", "1", "--top-p", "0.5", "--temperature", "2") == whole
    several = generated(*LENGTH, "--sample", "--num-return-sequences", "3", "--seed", "1").splitlines()
    assert len(set(several)) == 3


def test_long_prompts(run: Run, decoder: str) -> None:
    long = "the cat " * LONGEST
    assert_bad_input(run("generate", "--model", decoder, long), f"Prompt 1 has .* at most {LONGEST}.*--truncate")
    out = good(run("generate", "--model", decoder, *LENGTH, "--truncate", long))
    assert out.startswith(long.strip())
    status, out, err = run("generate", "--model", decoder, "--max-new-tokens", "9", " ".join(["the"] * 60))
    assert (status, out.count("\n")) == (0, 1)
    assert err == (
        "xlmr-np: Prompt 1 of 61 tokens leaves room for 3 new ones only, and so may others: this model takes texts of "
        f"at most {LONGEST} tokens.\n"
    )


def test_a_model_that_fills_masks(run: Run, model: str) -> None:
    for options in (("--model", model), ("--model", "demo"), ()):
        status, out, err = run("generate", *options, *LENGTH, "the cat")
        assert (status, out.count("\n")) == (0, 1)
        assert out.startswith("the cat")
        assert err.startswith("xlmr-np: This model was trained to fill masks, and not to go on with texts")
        assert err.count("\n") == 1


# --- texts that grow ---


class Written(io.StringIO):
    """A terminal, and what was on it each time something was written."""

    def __init__(self) -> None:
        super().__init__()
        self.states: list[str] = []

    def isatty(self) -> bool:
        return True

    def flush(self) -> None:
        self.states.append(self.getvalue())


@pytest.mark.parametrize("options", [(), ("--only-new-text",)])
@pytest.mark.parametrize("prompt", [*PROMPTS, "", "ﬁ ☃  the"])
def test_a_stream_shows_what_is_printed_otherwise(
    run: Run, decoder: str, monkeypatch: pytest.MonkeyPatch, prompt: str, options: tuple[str, ...]
) -> None:
    expected = good(run("generate", "--model", decoder, *LENGTH, *options, "--no-stream", prompt))
    written = Written()
    monkeypatch.setattr(sys, "stdout", written)
    assert main(["generate", "--model", decoder, *LENGTH, *options, prompt]) == 0
    assert written.getvalue() == expected
    assert len(set(written.states)) > 3
    for before, after in zip(written.states, written.states[1:], strict=False):
        assert after.startswith(before)


@pytest.mark.parametrize(
    ("arguments", "is_stream"),
    [
        (("the cat",), True),
        (("--no-stream", "the cat"), False),
        (("--json", "the cat"), False),
        (("--num-beams", "2", "the cat"), False),
        (("--sample", "--num-return-sequences", "2", "the cat"), False),
        (("the cat", "Le"), False),
        (("--stream", "the cat", "Le"), True),
    ],
)
@pytest.mark.parametrize("is_terminal", [True, False])
def test_when_texts_are_streamed(
    decoder: str, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], is_stream: bool, is_terminal: bool
) -> None:
    written = Written()
    monkeypatch.setattr(written, "isatty", lambda: is_terminal)
    monkeypatch.setattr(sys, "stdout", written)
    assert main(["generate", "--model", decoder, *LENGTH, *arguments]) == 0
    is_stream = is_stream and (is_terminal or "--stream" in arguments)
    assert any(state and not state.endswith("\n") for state in written.states) == is_stream


def test_a_stream_of_beams(run: Run, decoder: str) -> None:
    message = "A streamer shows one text"
    assert_bad_input(run("generate", "--model", decoder, "--stream", "--num-beams", "2", "the cat"), message)
    status, out, err = run("generate", "--model", decoder, "--stream", "--json", "the cat")
    assert (status, out) == (2, "")
    assert "not allowed with argument --stream" in err


# --- where prompts come from ---


def test_lines(run: Run, decoder: str, tmp_path: Path) -> None:
    expected = good(run("generate", "--model", decoder, *LENGTH, *PROMPTS))
    lines = "\n\n".join(PROMPTS).encode("utf-8-sig")
    (tmp_path / "prompts.txt").write_bytes(lines)
    assert good(run("generate", "--model", decoder, *LENGTH, stdin=lines)) == expected
    assert good(run("generate", "--model", decoder, *LENGTH, "--input", str(tmp_path / "prompts.txt"))) == expected
    assert good(run("generate", "--model", decoder, *LENGTH, "--input", "-", stdin=lines)) == expected


class Typist(io.RawIOBase):
    """A terminal at which somebody waits for the answer to a line before typing the next."""

    def __init__(self, lines: list[bytes], read_answer: Callable[[], str]) -> None:
        self.answers: list[str] = []
        self.buffer = self.type(lines, read_answer)

    def isatty(self) -> bool:
        return True

    def type(self, lines: list[bytes], read_answer: Callable[[], str]) -> Iterator[bytes]:
        for line in lines:
            yield line
            self.answers.append(read_answer())


@pytest.mark.parametrize("options", [(), ("--stream",)])
def test_each_typed_line_is_answered_at_once(
    decoder: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    typist = Typist([b"the cat\n", b"Le\n"], lambda: capsys.readouterr().out)
    monkeypatch.setattr(sys, "stdin", typist)
    assert main(["generate", "--model", decoder, *LENGTH, *options]) == 0
    assert [answer.count("\n") for answer in typist.answers] == [1, 1]
    assert [answer[:2] for answer in typist.answers] == ["th", "Le"]


# --- bad input ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--max-new-tokens", "0"), "max_new_tokens"),
        (("--num-beams", "0"), "num_beams"),
        (("--num-return-sequences", "2"), "--num-return-sequences 2 would all be the same text; add --sample"),
        (("--stream", "--output", "no such folder/a.txt"), "--stream shows texts on standard output, and --output"),
        (("--temperature", "0.5"), "--temperature is for tokens drawn at random; add --sample"),
        (("--top-k", "5"), "--top-k is for tokens drawn at random"),
        (("--top-p", "0.5"), "--top-p is for tokens drawn at random"),
        (("--seed", "5"), "--seed is for tokens drawn at random"),
        (("--sample", "--seed", "-1"), "seed=-1 is too small"),
        (("--sample", "--top-p", "1.5"), "top_p must be .* above 0 and at most 1"),
        (("--sample", "--temperature", "0"), "temperature must be .* above 0"),
        (("--repetition-penalty", "0"), "repetition_penalty must be .* above 0"),
        (("--stop", ""), "stop_strings"),
        (("--batch-size", "0"), "batch_size=0 is too small"),
        (("--dtype", "int8"), "dtype='int8' is not one of"),
        (("--device", "tpu"), "device 'tpu' is not known"),
        (("--input", "prompts.txt"), "both as arguments and with --input"),
    ],
)
def test_values_out_of_range(run: Run, decoder: str, options: tuple[str, ...], message: str) -> None:
    assert_bad_input(run("generate", "--model", decoder, *options, "the cat"), message)


def test_what_cannot_be_read(run: Run, decoder: str, tmp_path: Path) -> None:
    command = ("generate", "--model", decoder)
    assert_bad_input(run(*command, stdin=b"c\xfft\nthe\n"), r"line 1: not UTF-8")
    assert_bad_input(run(*command, stdin=b"\n \n"), "Standard input holds no text; give a prompt a line")
    assert_bad_input(run(*command, os.fsdecode(b"\xff")), "lone surrogate at character 0")
    assert_bad_input(run(*command, "--input", str(tmp_path / "none.txt")), r"none\.txt: No such file")
    assert_bad_input(run("generate", "--model", str(tmp_path / "none"), "the"), "There is no directory .*none")
    assert_bad_input(run("generate", "--model", str(tmp_path), "the"), "config.json")


# --- the terminal, and how it ends ---


@pytest.mark.parametrize("options", [("--no-stream",), ("--json",), ("--stream",), ("--stop", HOSTILE)])
def test_nothing_reaches_the_terminal_that_it_would_obey(
    run: Run, decoder: str, terminal: None, options: tuple[str, ...]
) -> None:
    out = good(run("generate", "--model", decoder, *LENGTH, *options, HOSTILE))
    assert_harmless(out)
    assert out.count("\n") == 1
    assert "\\u001b[31m" in out


def test_hostile_arguments(run: Run, decoder: str) -> None:
    for arguments in (("--model", "./" + HOSTILE, "the"), ("--model", decoder, HOSTILE * LONGEST)):
        finished = run("generate", *arguments)
        assert_bad_input(finished, "")
        assert_harmless(finished.err)


def start(*arguments: str, **settings: Any) -> "subprocess.Popen[bytes]":
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([*COMMAND, *arguments], **{**pipes, **settings})


@pytest.mark.parametrize("options", [("--batch-size", "1"), ("--stream",)])
def test_a_reader_that_has_seen_enough(decoder: str, tmp_path: Path, options: tuple[str, ...]) -> None:
    (tmp_path / "prompts.txt").write_text("the cat\n" * 300)
    process = start("--model", decoder, *LENGTH, *options, "--input", str(tmp_path / "prompts.txt"))
    assert process.stdout.readline().startswith(b"the cat")
    process.stdout.close()
    assert process.wait(30) == 0
    assert process.stderr.read() == b""
    process.stdin.close()
    process.stderr.close()


@pytest.mark.skipif(os.name != "posix", reason="sends the signal of Ctrl-C")
@pytest.mark.parametrize("options", [("--batch-size", "1"), ("--stream",)])
def test_ctrl_c(decoder: str, options: tuple[str, ...]) -> None:
    def heed_the_signal() -> None:  # which a suite that runs in the background of a shell ignores
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    process = start("--model", decoder, *LENGTH, *options, preexec_fn=heed_the_signal)
    process.stdin.write(b"the cat\n")
    process.stdin.flush()
    assert process.stdout.readline().startswith(b"the cat")  # answered while standard input is open
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30) == (b"", b"")
    assert process.returncode == 130


def test_an_interrupt_ends_the_line_that_was_begun(
    decoder: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from xlmr_np.cli import generate

    show = generate._Shown._show

    def interrupted(self: Any, text: str) -> None:
        if text != "the cat":
            raise KeyboardInterrupt
        show(self, text)

    monkeypatch.setattr(generate._Shown, "_show", interrupted)
    assert main(["generate", "--model", decoder, *LENGTH, "--stream", "the cat"]) == 130
    assert capsys.readouterr().out == "the cat\n"


def test_help(run: Run) -> None:
    out = good(run("generate", "--help"))
    assert out.startswith("usage: xlmr-np generate")
    assert out.isascii()
