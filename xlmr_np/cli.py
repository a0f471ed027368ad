"""The command `xlmr-np`."""

import argparse
import json
import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from xlmr_np import __version__

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
BAR_FROM = 32  # texts of known number from which a progress bar is worth its line

FILL_MASK_HELP = """\
Says which words fit where a text says <mask>, the likeliest first.

Texts are the arguments, or the lines of a file (--input), or the lines of standard input.

  xlmr-np fill-mask --model FacebookAI/xlm-roberta-base "Bonjour, je suis un modèle <mask>."
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
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (OSError, ValueError, TypeError, RuntimeError, MemoryError) as error:
        print(f"xlmr-np: {_printable(_message(error))}", file=sys.stderr)
        return EXIT_BAD_INPUT
    return 0


def _message(error: BaseException) -> str:
    """What an exception says, on one line."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="xlmr-np", description="XLM-RoBERTa in NumPy and CuPy.")
    parser.add_argument("--version", action="version", version=f"xlmr-np {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    source = argparse.ArgumentParser(add_help=False)
    source.add_argument("--revision", help="branch, tag or commit of a hub model")
    source.add_argument("--cache-dir", type=Path, help="hub cache to use in place of the usual one")
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
    fill_mask.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default: cpu)")
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


def _fill_mask(options: argparse.Namespace) -> None:
    texts, number = _texts(options)
    from xlmr_np.pipelines import pipeline

    fill_mask = pipeline(
        "fill-mask",
        options.model,
        revision=options.revision,
        cache_dir=options.cache_dir,
        local_files_only=options.offline,
        device=options.device,
        dtype=options.dtype,
        batch_size=options.batch_size,
    )
    tokenizer_kwargs: dict[str, Any] = {}
    if options.truncate:
        config = fill_mask.model.config
        limit = config.max_position_embeddings - config.pad_token_id - 1
        tokenizer_kwargs = {"truncation": True, "max_length": limit}
    shown: list[str] = []  # the texts that are in the pipeline, in order; an answer takes the first

    def remembered(texts: Iterable[str]) -> Iterator[str]:
        for text in texts:
            shown.append(text)
            yield text

    targets = options.targets.split(",") if options.targets else None
    answers = fill_mask(remembered(texts), top_k=options.top_k, targets=targets, tokenizer_kwargs=tokenizer_kwargs)
    for answer in _with_progress_bar(answers, number):
        text = shown.pop(0)
        if options.json:
            print(json.dumps({"text": text, "predictions": answer}, ensure_ascii=False))
        else:
            print(_fill_mask_table(text, answer))


def _texts(options: argparse.Namespace) -> tuple[Iterable[str], int | None]:
    """The texts of the arguments, of the file, or of standard input, and their number where it is known."""
    if options.text and options.input:
        raise ValueError("Texts came both as arguments and with --input; give them in one way.")
    if options.text:
        return options.text, len(options.text)
    if options.input and str(options.input) != "-":
        lines = _lines(options.input.read_bytes().splitlines(), str(options.input))
        texts = list(lines)
        if not texts:
            raise ValueError(f"{options.input} holds no text.")
        return texts, len(texts)
    if sys.stdin.isatty():
        print("Type texts with <mask>, one a line, and end with Ctrl-D.", file=sys.stderr)
    return _lines(sys.stdin.buffer, "standard input"), None


def _lines(lines: Iterable[bytes], source: str) -> Iterator[str]:
    """The lines that are not blank, as text."""
    for number, line in enumerate(lines, 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            raise ValueError(f"Line {number} of {source} is not UTF-8 ({error.reason}); convert it first.") from error
        if text:
            yield text


def _with_progress_bar(items: Iterable[Any], number: int | None) -> Iterable[Any]:
    """The items, with a bar on a terminal's standard error while there are many of them to come."""
    if not sys.stderr.isatty() or (number is not None and number < BAR_FROM):
        return items
    from tqdm import tqdm

    return tqdm(items, total=number, unit="text", file=sys.stderr, delay=1)


def _fill_mask_table(text: str, answer: list[Any]) -> str:
    """One text and its predictions, for people."""
    several = bool(answer) and isinstance(answer[0], list)
    lines = [_printable(text)]
    for number, predictions in enumerate(answer if several else [answer], 1):
        if several:
            lines.append(f"  mask {number}")
        words = [_printable(prediction["token_str"]) for prediction in predictions]
        width = max(map(_columns, words), default=0)
        for word, prediction in zip(words, predictions, strict=True):
            padding = " " * (width - _columns(word))
            sequence = "" if several else f"  {_printable(prediction['sequence'])}"
            lines.append(f"  {prediction['score']:7.2%}  {word}{padding}{sequence}".rstrip())
    return "\n".join(lines)


def _info(options: argparse.Namespace) -> None:
    from xlmr_np.weights.inspection import describe

    description = describe(
        options.model, revision=options.revision, cache_dir=options.cache_dir, local_files_only=options.offline
    )
    config = description.config
    on_disk = sum(description.files.values())
    if options.json:
        facts = {
            "model": options.model,
            "config": config.to_dict(),
            "parameters": description.parameters,
            "dtypes": description.dtypes,
            "files": description.files,
            "bytes_on_disk": on_disk,
            "bytes_in_memory": description.bytes_in_memory,
        }
        print(json.dumps(facts, ensure_ascii=False, indent=2))
        return
    limit = config.max_position_embeddings - (config.pad_token_id or 0) - 1
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
        ("longest text", f"{limit} tokens"),
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
    """The text with control characters shown as escapes, so that none of them reaches a terminal."""
    return "".join(
        character
        if unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp") or character in "\u200c\u200d"
        else character.encode("unicode_escape").decode()
        for character in text
    )


def _columns(text: str) -> int:
    """How many columns of a terminal the text takes."""
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )
