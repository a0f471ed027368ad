"""The command `xlmr-np`."""

import argparse
import json
import logging
import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import tee
from pathlib import Path
from typing import Any, NoReturn

from xlmr_np import __version__

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
BAR_AFTER = 1.0  # seconds of work from which a progress bar is worth its line

HIDDEN_CATEGORIES = ("Cc", "Cf", "Cs", "Zl", "Zp")  # what a terminal may obey in place of showing it
JOINERS = "\u200c\u200d"  # of category Cf, but part of the spelling in Persian, Hindi and others
ZERO_WIDTH_CATEGORIES = ("Mn", "Me", "Cf")

FILL_MASK_HELP = """\
Says which words fit where a text says <mask>, the likeliest first, each with its probability.

Texts are the arguments, or the lines of a file (--input), or the lines of standard input.

  xlmr-np fill-mask --model FacebookAI/xlm-roberta-base "Le chat dort sur la <mask>."
  xlmr-np fill-mask --model ./my-model --input lines.txt --json > answers.jsonl
"""

INFO_HELP = """\
Shows what a checkpoint holds without loading its weights: architecture, number of parameters, element types,
files, and their size on disk and in memory.

  xlmr-np info FacebookAI/xlm-roberta-base
"""


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
    except (OSError, ValueError, TypeError, RuntimeError, MemoryError) as error:
        _complain(_message(error))
        try:
            sys.stdout.flush()
        except OSError:  # a full disk, say
            _drop_output()
        return EXIT_BAD_INPUT
    return 0


def _drop_output() -> None:
    """Send what standard output could not take nowhere, or the interpreter would try again at its exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _message(error: BaseException) -> str:
    """What an exception says."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


def _complain(message: str) -> None:
    """Write one line to standard error."""
    print(f"xlmr-np: {_printable(' '.join(message.split()))}", file=sys.stderr)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        super().error(_printable(message))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="xlmr-np", description="XLM-RoBERTa in NumPy and CuPy.")
    parser.add_argument("--version", action="version", version=f"xlmr-np {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    source = _Parser(add_help=False)
    source.add_argument("--revision", help="branch, tag or commit of a hub model")
    source.add_argument("--cache-dir", type=Path, help="hub cache to use in place of the usual one")
    source.add_argument("--subfolder", default="", help="folder of the model within its directory or repository")
    source.add_argument("--variant", help="weights of another kind, such as fp16 for model.fp16.safetensors")
    source.add_argument("--offline", action="store_true", help="never ask the network")

    fill_mask = commands.add_parser(
        "fill-mask",
        parents=[source],
        help="words that fit where a text says <mask>",
        description=FILL_MASK_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    fill_mask.add_argument("text", nargs="*", help="texts with <mask>")
    fill_mask.add_argument("--model", required=True, help="a directory, or the id of a hub model")
    fill_mask.add_argument("--input", type=Path, help="a file with a text a line; - is standard input")
    fill_mask.add_argument("--top-k", type=int, default=5, help="how many words for each mask (default: 5)")
    fill_mask.add_argument("--targets", help="consider these words only, separated by commas")
    fill_mask.add_argument("--truncate", action="store_true", help="cut texts that are too long for the model")
    fill_mask.add_argument("--json", action="store_true", help="print a JSON object a line")
    fill_mask.add_argument("--batch-size", type=int, default=8, help="texts run together (default: 8)")
    fill_mask.add_argument("--device", type=_device, default="cpu", help="cpu, cuda, cuda:N or N (default: cpu)")
    fill_mask.add_argument("--dtype", default="auto", help="element type of the weights (default: as stored)")
    fill_mask.set_defaults(run=_fill_mask)

    info = commands.add_parser(
        "info",
        parents=[source],
        help="what a checkpoint holds",
        description=INFO_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    info.add_argument("model", help="a directory, or the id of a hub model")
    info.add_argument("--json", action="store_true", help="print a JSON object")
    info.set_defaults(run=_info)
    return parser


def _device(name: str) -> str | int:
    """A device as the library takes it: GPUs by number, and -1 for the CPU."""
    return int(name) if name.removeprefix("-").isdecimal() else name


def _fill_mask(options: argparse.Namespace) -> None:
    texts, number = _texts(options)
    is_typed = number is None and sys.stdin.isatty()
    targets = None if options.targets is None else [word.strip() for word in options.targets.split(",")]
    from xlmr_np.pipelines import pipeline

    with _warnings_on_one_line():
        fill_mask = pipeline(
            "fill-mask",
            options.model,
            revision=options.revision,
            cache_dir=options.cache_dir,
            local_files_only=options.offline,
            subfolder=options.subfolder,
            model_kwargs={"variant": options.variant},
            device=options.device,
            dtype=options.dtype,
            top_k=options.top_k,
            targets=targets,
            batch_size=1 if is_typed else options.batch_size,  # each typed line is answered at once
            tokenizer_kwargs={"truncation": options.truncate},
        )
    if is_typed:
        print("Type texts with <mask>, one a line, and end with Ctrl-D.", file=sys.stderr)
    asked, shown = tee(texts)
    for answer, text in zip(_with_progress_bar(fill_mask(asked), number), shown, strict=True):
        if options.json:
            line = _printable(json.dumps({"text": text, "predictions": answer}, ensure_ascii=False))
        else:
            line = _fill_mask_table(text, answer)
        print(line, flush=True)


def _texts(options: argparse.Namespace) -> tuple[Iterable[str], int | None]:
    """The texts of the arguments, of the file, or of standard input, and their number where it is known."""
    if options.text and options.input:
        raise ValueError("Texts came both as arguments and with --input; give them in one way.")
    if options.text:
        return options.text, len(options.text)
    if options.input and str(options.input) != "-":
        with options.input.open("rb") as file:
            texts = list(_lines(file, str(options.input)))
        return texts, len(texts)
    return _lines(sys.stdin.buffer, "Standard input"), None


def _lines(lines: Iterable[bytes], source: str) -> Iterator[str]:
    """The lines that are not blank, as text; ValueError if there is none."""
    is_empty = True
    for number, line in enumerate(lines, 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            raise ValueError(f"{source}, line {number}: not UTF-8 ({error.reason}); convert it first.") from error
        if text:
            is_empty = False
            yield text
    if is_empty:
        raise ValueError(f"{source} holds no text; give a text with <mask> a line.")


def _with_progress_bar(items: Iterable[Any], number: int | None) -> Iterable[Any]:
    """The items, with a bar on the terminal, unless that is where the answers appear."""
    if not sys.stderr.isatty() or sys.stdout.isatty():
        return items
    from tqdm import tqdm

    return tqdm(items, total=number, unit=" texts", delay=BAR_AFTER)


@contextmanager
def _warnings_on_one_line() -> Iterator[None]:
    """Show what the block logs on one line of standard error each; if it fails, its error says all."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("xlmr_np")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
    for message in messages:
        _complain(message)


def _fill_mask_table(text: str, answer: list[Any]) -> str:
    """One text and its predictions, for people."""
    several = bool(answer) and isinstance(answer[0], list)
    lines = [_printable(text)]
    for number, predictions in enumerate(answer if several else [answer], 1):
        if several:
            lines.append(f"  mask {number}")
        # A word start alone is a token too, and its text is empty.
        words = [_printable(prediction["token_str"] or "▁") for prediction in predictions]
        width = max(map(_columns, words), default=0)
        for word, prediction in zip(words, predictions, strict=True):
            padding = " " * (width - _columns(word))
            sequence = "" if several else f"  {_printable(prediction['sequence'])}"
            lines.append(f"  {prediction['score']:<#9.4g}  {word}{padding}{sequence}".rstrip())
    return "\n".join(lines)


def _info(options: argparse.Namespace) -> None:
    from xlmr_np.inputs import longest_sequence
    from xlmr_np.weights.inspection import describe

    description = describe(
        options.model,
        variant=options.variant,
        subfolder=options.subfolder,
        revision=options.revision,
        cache_dir=options.cache_dir,
        local_files_only=options.offline,
    )
    config = description.config
    on_disk = sum(description.files.values())
    if options.json:
        facts = {
            "model": options.model,
            "config": json.loads(config.to_json_string(use_diff=False)),
            "parameters": description.parameters,
            "dtypes": description.dtypes,
            "files": description.files,
            "bytes_on_disk": on_disk,
            "bytes_in_memory": description.bytes_in_memory,
        }
        print(json.dumps(facts, indent=2))
        return
    limit = "not stated" if config.pad_token_id is None else f"{longest_sequence(config)} tokens"
    architecture = ", ".join(config.architectures or ["not stated"])
    rows = [
        ("model", options.model),
        ("architecture", f"{architecture} ({config.model_type})"),
        (
            "encoder",
            f"{config.num_hidden_layers} layers, width {config.hidden_size}, {config.num_attention_heads} heads, "
            f"feed-forward {config.intermediate_size}, {config.hidden_act}",
        ),
        ("vocabulary", f"{config.vocab_size:,} tokens"),
        ("longest text", limit),
        ("parameters", f"{description.parameters:,}"),
        ("element type", ", ".join(description.dtypes)),
        *(("file", f"{name}  {_megabytes(size)}") for name, size in description.files.items()),
        ("on disk", _megabytes(on_disk)),
        ("in memory", f"{_megabytes(description.bytes_in_memory)} once all of it has been used (mapped from the file)"),
    ]
    for name, value in rows:
        print(f"{name:<14}{_printable(value)}")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def _printable(text: str) -> str:
    """The text on one line, with escapes for what a terminal may obey and for what the output cannot encode.

    The escapes are JSON's, so that a line of JSON means the same afterwards.
    """
    encoding = sys.stdout.encoding or "utf-8"

    def is_shown(character: str) -> bool:
        if unicodedata.category(character) in HIDDEN_CATEGORIES:
            return character in JOINERS
        return character.encode(encoding, "ignore") != b""

    return "".join(character if is_shown(character) else json.dumps(character)[1:-1] for character in text)


def _columns(text: str) -> int:
    """How many columns of a terminal the text takes."""
    return sum(
        0
        if unicodedata.category(character) in ZERO_WIDTH_CATEGORIES
        else 2
        if unicodedata.east_asian_width(character) in "WF"
        else 1
        for character in text
    )
