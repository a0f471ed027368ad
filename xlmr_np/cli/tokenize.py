"""`xlmr-np tokenize`: what a text is to a model."""

import argparse
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from .answering import answer_records
from .records import Source, Taken, add_input_arguments
from .results import Fields, Form, add_output_arguments
from .source import add_model_argument, add_source_arguments, location, model_or_demo
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

TAKEN = Taken(("text",), "a text")
WIDTH = 116  # columns of a line with pieces


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    add_input_arguments(parser, "TEXT", "texts")
    add_model_argument(parser, "--model")
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
    add_output_arguments(parser)
    add_source_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Show each text's tokens."""
    source = Source.of(options, TAKEN, keeps_blank_lines=True)  # the blank ones too: an answer for each line
    form = Form(_table, _as_json, _rows, ("token", "id", "start", "end"))
    return answer_records(options, source, form, lambda: _analysis(options), lambda fields: fields["text"])


class Analysis(NamedTuple):
    """What a tokenizer makes of a text.

    Attributes:
        tokens: each as it is written, with its id and where it comes from.
        explanation: why they are these; None if nobody asks.
    """

    tokens: "list[tuple[str, int, tuple[int, int]]]"
    explanation: "list[Found | Stretch] | None"


def _analysis(options: argparse.Namespace) -> Callable[..., Iterator[Any]]:
    """What analyses texts."""
    from xlmr_np.tokenizer import XLMRobertaTokenizer

    given = {"normalization": options.normalization, "allow_special_tokens": options.allow_special_tokens}
    settings = {name: value for name, value in given.items() if value is not None}
    tokenizer = XLMRobertaTokenizer.from_pretrained(model_or_demo(options), **location(options), **settings)

    def analyse(texts: Iterable[str], on_error: Callable[[int, Exception], Any], batch_size: int = 1) -> Iterator[Any]:
        for number, text in enumerate(texts, 1):
            try:
                encoded = tokenizer(text, return_offsets_mapping=True, verbose=False)
                tokens = list(zip(encoded.tokens(), encoded.input_ids, encoded.offset_mapping, strict=True))
                yield Analysis(tokens, tokenizer.explain(text) if options.explain else None)
            except ValueError as error:
                yield on_error(number, error)

    return analyse


def _as_json(fields: Fields, answer: Analysis) -> dict[str, Any]:
    names = ("tokens", "ids", "offsets")
    facts = dict(zip(names, map(list, zip(*answer.tokens, strict=True)), strict=True))
    if answer.explanation is not None:
        facts["explanation"] = [_part_as_json(part) for part in answer.explanation]
    return {**fields, **facts}


def _rows(answer: Analysis) -> Iterable[dict[str, Any]]:
    for token, token_id, (start, end) in answer.tokens:
        yield {"token": token, "id": token_id, "start": start, "end": end}


def _table(fields: Fields, answer: Analysis) -> Iterable[str]:
    """One token a line: how it is written, its id, where it comes from, and what stands there."""
    text = fields["text"]
    yield printable(text)
    for part in answer.explanation or ():
        yield from _lines_of(part, text)
    written = [printable(token) for token, _, _ in answer.tokens]
    width = max(map(columns, written))
    digits = max(len(str(token_id)) for _, token_id, _ in answer.tokens)
    for shown, (_, token_id, (start, end)) in zip(written, answer.tokens, strict=True):
        line = f"  {shown}{' ' * (width - columns(shown))}  {token_id:>{digits}}"
        yield line if start == end else f"{line}  {f'{start}-{end}':<9}  {printable(text[start:end])}".rstrip()


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


def _part_as_json(part: "Found | Stretch") -> dict[str, Any]:
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
