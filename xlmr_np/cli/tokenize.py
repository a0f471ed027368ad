"""`xlmr-np tokenize`: what a text is to a model."""

import argparse
import json
import sys
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xlmr_np.text_files import STANDARD_INPUT, lines_of

from .source import add_model_argument, add_source_arguments, chosen_model, location
from .terminal import columns, printable

if TYPE_CHECKING:
    from xlmr_np.tokenizer.added_tokens import Found
    from xlmr_np.tokenizer.explanation import Candidate, Stretch

SUMMARY = "the tokens of texts, and why they are these"
DESCRIPTION = """\
Shows the tokens of texts with their ids and where in the text they come from.

Texts are the arguments, or the lines of a file (--input), or the lines of standard input.

  xlmr-np tokenize --model FacebookAI/xlm-roberta-base "Ein Esel liest nie."
  xlmr-np tokenize --model ./my-model --input lines.txt --json > tokens.jsonl
  xlmr-np tokenize --model ./my-model --explain "Ein Esel"
"""

WIDTH = 116  # columns of a line with pieces


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("text", nargs="*", help="texts")
    add_model_argument(parser, "--model")
    parser.add_argument("--input", type=Path, help="a file with a text a line; - is standard input")
    parser.add_argument(
        "--explain", action="store_true", help="show how texts are normalised, all pieces that fit, and the best way"
    )
    parser.add_argument(
        "--normalization",
        choices=("sentencepiece", "huggingface"),
        help="whose tokens: those that XLM-R was pretrained with, or transformers' (default: as the model says)",
    )
    parser.add_argument(
        "--allow-special-tokens",
        action="store_true",
        default=None,
        help="take <s>, <pad>, </s> and <unk> in texts for the special tokens",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object a line")
    add_source_arguments(parser)


def run(options: argparse.Namespace) -> None:
    """Show each text's tokens."""
    if options.text and options.input:
        raise ValueError("Texts came both as arguments and with --input; give them in one way.")
    # Lines as they are, the blank ones too: a line of the answer for each.
    texts = options.text or (line.rstrip("\r\n") for line in lines_of(options.input or STANDARD_INPUT))
    from xlmr_np.tokenizer import XLMRobertaTokenizer

    settings = {
        name: value
        for name, value in (
            ("normalization", options.normalization),
            ("allow_special_tokens", options.allow_special_tokens),
        )
        if value is not None
    }
    tokenizer = XLMRobertaTokenizer.from_pretrained(chosen_model(options), **location(options), **settings)
    for text in texts:
        encoded = tokenizer(text, return_offsets_mapping=True, verbose=False)
        tokens = list(zip(encoded.tokens(), encoded.input_ids, encoded.offset_mapping, strict=True))
        explanation = tokenizer.explain(text) if options.explain else None
        if options.json:
            answer: dict[str, Any] = {
                "text": text,
                "tokens": [token for token, _, _ in tokens],
                "ids": encoded.input_ids,
                "offsets": encoded.offset_mapping,
            }
            if explanation is not None:
                answer["explanation"] = [_as_json(part) for part in explanation]
            print(printable(json.dumps(answer, ensure_ascii=False)), flush=True)
        else:
            print(printable(text))
            for part in explanation or ():
                print("\n".join(_lines_of(part, text)))
            _print_tokens(text, tokens)
            sys.stdout.flush()


def _print_tokens(text: str, tokens: list[tuple[str, int, tuple[int, int]]]) -> None:
    """One token a line: how it is written, its id, where it comes from, and what stands there."""
    written = [printable(token) for token, _, _ in tokens]
    width = max(map(columns, written))
    digits = max(len(str(token_id)) for _, token_id, _ in tokens)
    for shown, (_, token_id, (start, end)) in zip(written, tokens, strict=True):
        line = f"  {shown}{' ' * (width - columns(shown))}  {token_id:>{digits}}"
        print(line if start == end else f"{line}  {f'{start}-{end}':<9}  {printable(text[start:end])}".rstrip())


def _lines_of(part: "Found | Stretch", text: str) -> Iterable[str]:
    """How a part of a text is normalised and cut."""
    from xlmr_np.tokenizer.explanation import Stretch

    if not isinstance(part, Stretch):
        return [f"  {part.start}-{part.end}  {printable(text[part.start : part.end])}  is a token"]
    lines = [f"  {part.start}-{part.end}  normalised  {printable(part.normalized)}"]
    if part.changes:
        changes = ", ".join(f"{before or 'nothing'} to {after or 'nothing'}" for before, after in part.changes)
        lines.append(f"    changed    {printable(changes)}")
    for cut in filter(lambda cut: cut.text, part.cuts):
        lines.append(f"    pieces that fit {printable(cut.text)}, with the logarithms of their probabilities")
        for start, candidates in groupby(cut.candidates, lambda candidate: candidate.start):
            lines += _wrapped(f"    {start:>4}  ", list(candidates))
        lines += _wrapped("    best      ", cut.best, is_path=True)
        if cut.second is not None:
            lines += _wrapped("    next best ", cut.second, is_path=True)
    return lines


def _wrapped(head: str, candidates: "list[Candidate]", is_path: bool = False) -> list[str]:
    """Pieces with their scores, on as many lines as they need; the score of all together, if they are a path."""
    shown = [f"{printable(candidate.text)} {candidate.score:.2f}" for candidate in candidates]
    if is_path:
        shown.append(f"= {sum(candidate.score for candidate in candidates):.2f}")
    lines, line = [], head
    for piece in shown:
        if columns(line) + columns(piece) > WIDTH:
            lines.append(line.rstrip())
            line = " " * len(head)
        line += piece + "   "
    return [*lines, line.rstrip()]


def _as_json(part: "Found | Stretch") -> dict[str, Any]:
    """A part of an explanation as JSON."""
    from xlmr_np.tokenizer.explanation import Stretch

    if not isinstance(part, Stretch):
        return part._asdict()
    cuts = [
        {
            "text": cut.text,
            "candidates": [candidate._asdict() for candidate in cut.candidates],
            "best": [candidate._asdict() for candidate in cut.best],
            "second": None if cut.second is None else [candidate._asdict() for candidate in cut.second],
        }
        for cut in part.cuts
    ]
    return part._asdict() | {"cuts": cuts}
