"""The command `xlmr-np`: a module for each of its commands, one for where models come from, one for the terminal."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn, Protocol

from xlmr_np import __version__

from . import attention, fill_mask, generate, info, pretrain, tokenize, trim_vocab
from .terminal import complain, message_of, printable

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

    def run(self, options: argparse.Namespace) -> None:
        """Do it."""


COMMANDS: dict[str, Command] = {
    "attention": attention,
    "fill-mask": fill_mask,
    "generate": generate,
    "info": info,
    "pretrain": pretrain,
    "tokenize": tokenize,
    "trim-vocab": trim_vocab,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 2 for bad input, 130 when interrupted."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
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
    return 0


def _drop_output() -> None:
    """Send what standard output could not take nowhere, or the interpreter would try again at its exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        super().error(printable(message))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="xlmr-np", description="XLM-RoBERTa in NumPy and CuPy.")
    parser.add_argument("--version", action="version", version=f"xlmr-np {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        subparser = commands.add_parser(
            name,
            help=command.SUMMARY,
            description=command.DESCRIPTION,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    return parser
