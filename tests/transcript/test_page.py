"""The page of commands: what it shows can be typed, and every command is on it."""

import itertools
import shlex
from pathlib import Path

import pytest

from tests.transcript.__main__ import BEGIN, END, PAGE, PROMPT, commands_of, rewritten
from xlmr_np.cli import COMMANDS, _parser

LINES = PAGE.read_text(encoding="utf-8").splitlines()
ELSEWHERE = {"pretrain", "trim-vocab"}  # commands of pages of their own


def arguments_of(command: str) -> list[str]:
    """The arguments of `xlmr-np` in a shell command, up to what the shell does besides."""
    words = shlex.split(command[command.index("xlmr-np ") :])[1:]
    ends = [index for index, word in enumerate(words) if word in ("|", "&&", "<", ">")]
    return words[: min(ends, default=len(words))]


OURS = [command for command in commands_of(LINES) if "xlmr-np " in command]


@pytest.mark.parametrize("command", OURS)
def test_commands_can_be_typed(command: str) -> None:
    options = _parser().parse_args(arguments_of(command))
    assert callable(options.run)


def test_every_command_is_there() -> None:
    assert {arguments_of(command)[0] for command in OURS} == COMMANDS.keys() - ELSEWHERE


def test_every_command_shows_what_it_printed_but_those_that_say_nothing() -> None:
    silent = [
        first
        for first, second in itertools.pairwise(LINES)
        if first.startswith(PROMPT) and (second.startswith(PROMPT) or second == END)
    ]
    assert all("--output" in command for command in silent)


def test_only_what_is_printed_is_written_anew(tmp_path: Path) -> None:
    page = [
        "before",
        BEGIN,
        "$ echo one; exit 3",
        "old",
        "old",
        "$ echo \\",
        "two",
        "old",
        END,
        "after",
        "$ no command",
    ]
    expected = [
        "before", BEGIN, "$ echo one; exit 3", "one", "[status 3]", "$ echo \\", "two", "two", END, "after",
        "$ no command",
    ]  # fmt: skip
    assert list(rewritten(page, tmp_path)) == expected
    assert list(commands_of(page)) == ["echo one; exit 3", "echo two"]
