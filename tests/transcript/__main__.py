"""Try every command as a new user would, on real texts: `python -m tests.transcript`.

Runs the commands of docs/command_line.md anew, with small models that it trains first (a quarter of an hour on two
cores), and writes what they print below them.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.transcript.inputs import write_inputs
from tests.transcript.models import Maker

PROJECT = Path(__file__).resolve().parents[2]
PAGE = PROJECT / "docs" / "command_line.md"
BEGIN, END, PROMPT, CONTINUED = "```console", "```", "$ ", "\\"


def main() -> None:
    """Write the page anew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=PROJECT.parent / "shared" / "data", help="the public data")
    parser.add_argument("--models", type=Path, help="where the models are, or where they are kept (default: nowhere)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "trial"
        directory.mkdir()
        models = options.models or Path(folder) / "models"
        maker = Maker(options.data, models, print)
        for make in (maker.topics, maker.names, maker.entailment, maker.answers, maker.relevance, maker.embeddings):
            if not (models / make.__name__).exists():
                make()
            (directory / make.__name__).symlink_to((models / make.__name__).resolve())
        write_inputs(options.data, directory)
        lines = PAGE.read_text(encoding="utf-8").splitlines()
        PAGE.write_text("\n".join(rewritten(lines, directory)) + "\n", encoding="utf-8")


def rewritten(lines: list[str], directory: Path) -> Iterator[str]:
    """The page with the commands' output of now, run in the directory."""
    is_console = False
    rest = iter(lines)
    for line in rest:
        if not is_console or line == END or line.startswith(PROMPT):
            yield line
        is_console = line == BEGIN or (is_console and line != END)
        if is_console and line.startswith(PROMPT):
            command = [line.removeprefix(PROMPT)]
            while command[-1].endswith(CONTINUED):
                command.append(next(rest))
                yield command[-1]
            yield from output_of("\n".join(command), directory)


def output_of(command: str, directory: Path) -> list[str]:
    """What a shell command prints, on both streams, and its status where that is not 0."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=directory,
        env={**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    return [*lines, f"[status {done.returncode}]"] if done.returncode else lines


def commands_of(lines: list[str]) -> Iterator[str]:
    """The commands of the page."""
    inside = False
    rest = iter(lines)
    for line in rest:
        inside = line == BEGIN or (inside and line != END)
        if inside and line.startswith(PROMPT):
            parts = [line.removeprefix(PROMPT)]
            while parts[-1].endswith(CONTINUED):
                parts[-1] = parts[-1].removesuffix(CONTINUED)
                parts.append(next(rest))
            yield "".join(parts)


if __name__ == "__main__":
    main()
