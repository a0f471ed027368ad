"""The command `xlmr-np`: a module for each of its commands, one for where models come from, one for the terminal."""

import argparse
import errno
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import FrameType
from typing import NoReturn, Protocol, cast

from xlmr_np import __version__

from .terminal import complain, message_of, printable, write_errors_name

FORMATTER = argparse.RawDescriptionHelpFormatter

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
ENDING_SIGNALS = ("SIGTERM", "SIGHUP")  # some systems lack the second


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


# The module of each. They are imported where Ctrl-C is heeded already.
COMMANDS = {
    "attention": "attention",
    "classify": "classify",
    "embed": "embed",
    "features": "features",
    "fill-mask": "fill_mask",
    "generate": "generate",
    "info": "info",
    "ner": "ner",
    "pretrain": "pretrain",
    "qa": "qa",
    "rank": "rank",
    "run": "run",
    "search": "search",
    "tokenize": "tokenize",
    "trim-vocab": "trim_vocab",
    "zero-shot": "zero_shot",
}

STATUSES = """\
exit status:
  0  all is done
  1  all is done but for what --skip-errors has left out
  2  something is wrong with what was given; the message on standard error says what
  128+N  ended by signal N: 130 by Ctrl-C, 143 by SIGTERM, 129 when the terminal is closed; no half file is left
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status, see `STATUSES`."""
    _open_closed_streams()
    try:
        with _ended_by_signals():
            options = _parser().parse_args(arguments)
            status: int = options.run(options) or 0
            with write_errors_name("standard output"):
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


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let a signal to end unwind the stack, so that files that are half written are removed; Ctrl-C does so already."""

    def end(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    numbers = [getattr(signal, name) for name in ENDING_SIGNALS if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():  # no other may say what signals do
        numbers = []
    numbers = [number for number in numbers if signal.getsignal(number) == signal.SIG_DFL]  # nohup ignores SIGHUP
    for number in numbers:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


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
    for name, module in COMMANDS.items():
        command = cast(Command, import_module(f".{module}", __name__))
        subparser = commands.add_parser(
            name,
            help=command.SUMMARY,
            description=command.DESCRIPTION,
            formatter_class=FORMATTER,
        )
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    return parser
