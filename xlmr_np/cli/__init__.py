"""The command `xlmr-np`: a module for each of its commands, one for where models come from, one for the terminal."""

import argparse
import errno
import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn, Protocol

from xlmr_np import __version__

from . import (
    attention,
    classify,
    embed,
    features,
    fill_mask,
    generate,
    info,
    ner,
    pretrain,
    qa,
    rank,
    run,
    search,
    tokenize,
    trim_vocab,
    zero_shot,
)
from .terminal import complain, message_of, printable

FORMATTER = argparse.RawDescriptionHelpFormatter

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


class Command(Protocol):
    """What the module of a command has. It imports what takes time where it runs, and not before.

    Attributes:
        SUMMARY: what it does, in the list of commands.
        DESCRIPTION: what it does, in its own help, with examples.
    """

    SUMMARY: str
    DESCRIPTION: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Say what it takes."""

    def run(self, options: argparse.Namespace) -> int | None:
        """Do it; returns the exit status, or None for 0."""


COMMANDS: dict[str, Command] = {
    "attention": attention,
    "classify": classify,
    "embed": embed,
    "features": features,
    "fill-mask": fill_mask,
    "generate": generate,
    "info": info,
    "ner": ner,
    "pretrain": pretrain,
    "qa": qa,
    "rank": rank,
    "run": run,
    "search": search,
    "tokenize": tokenize,
    "trim-vocab": trim_vocab,
    "zero-shot": zero_shot,
}

STATUSES = """\
exit status:
  0  all is done
  1  all is done but for what --skip-errors has left out
  2  something is wrong with what was given; the message on standard error says what
  130  interrupted
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status, see `STATUSES`."""
    _open_closed_streams()
    options = _parser().parse_args(arguments)
    try:
        status = options.run(options) or 0
        sys.stdout.flush()
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output has seen enough, as `| head` does
        _drop_output()
        return 0
    except (OSError, ValueError, TypeError, RuntimeError, MemoryError, FloatingPointError) as error:
        complain(message_of(error))
        try:
            sys.stdout.flush()
        except OSError:  # a full disk, say
            _drop_output()
        return EXIT_BAD_INPUT
    return status


class _ClosedOutput(io.StringIO):
    """A standard output that was closed before this process began."""

    def write(self, text: str) -> int:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF), "standard output")


def _open_closed_streams() -> None:
    """Let what is written to closed streams fail as it does elsewhere, or go nowhere if it is a message."""
    if sys.stdout is None:
        sys.stdout = _ClosedOutput()
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115


def _drop_output() -> None:
    """Send what standard output could not take nowhere, or the interpreter would try again at its exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        super().error(printable(message))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="xlmr-np", description="XLM-RoBERTa in NumPy and CuPy.", epilog=STATUSES, formatter_class=FORMATTER
    )
    parser.add_argument("--version", action="version", version=f"xlmr-np {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        subparser = commands.add_parser(
            name,
            help=command.SUMMARY,
            description=command.DESCRIPTION,
            formatter_class=FORMATTER,
        )
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    return parser
