"""`xlmr-np qa`: where a text answers a question."""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from xlmr_np.text_files import lines_of

from .answering import answer_records, loaded_pipeline
from .records import Source, Taken, add_input_arguments
from .results import Fields, Form, add_output_arguments
from .source import add_running_arguments, add_trained_model_argument, check_at_least, trained_model
from .terminal import Span, has_colors, marked, printable, scored_lines

SUMMARY = "where a text answers a question"
DESCRIPTION = """\
Finds the answers to questions in a text of any length, which is read in windows. A table shows them in their context.

Questions are the arguments, or the lines of a file (--input), or the lines of standard input; the text is --context or
--context-file. Or each question has its own: JSON lines, CSV or TSV with question and context.

  xlmr-np qa --model deepset/xlm-roberta-base-squad2 --context-file article.txt "Wer hat das Buch geschrieben?"
  xlmr-np qa --model ./my-model --input questions.jsonl --top-k 3 --output answers.jsonl
"""

AROUND = 60  # characters of the context on either side of an answer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    add_input_arguments(parser, "QUESTION", "questions")
    context = parser.add_mutually_exclusive_group()
    context.add_argument(
        "--context", metavar="TEXT", help="the text in which the answers are, for questions that have none of their own"
    )
    context.add_argument("--context-file", type=Path, metavar="FILE", help="a file with that text")
    add_trained_model_argument(parser, "question answering", "deepset/xlm-roberta-base-squad2")
    parser.add_argument("--top-k", type=int, default=1, help="how many answers, the likeliest first (default: 1)")
    parser.add_argument("--max-answer-length", type=int, default=15, help="tokens of an answer (default: 15)")
    parser.add_argument("--window", type=int, help="tokens read at once, with the question (default: 384)")
    parser.add_argument("--stride", type=int, help="tokens that windows share (default: half of one, at most 128)")
    parser.add_argument("--may-be-impossible", action="store_true", help="the text may not have the answer")
    parser.add_argument(
        "--part-words", action="store_true", help="do not complete answers to words; for scripts without spaces"
    )
    add_output_arguments(parser)
    add_running_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Answer the questions in their order."""
    check_at_least("--top-k", options.top_k, 1)
    check_at_least("--max-answer-length", options.max_answer_length, 1)
    check_at_least("--window", options.window, 1)
    check_at_least("--stride", options.stride, 0)
    context = options.context if options.context_file is None else "".join(lines_of(options.context_file))
    kind, instead = "a question with its context", "--context or --context-file, or "
    taken = Taken(("question", "context"), kind, instead)
    if context is not None:
        taken = Taken(("question",), "a question", optional=("context",))
    source = Source.of(options, taken)
    model = trained_model(options)
    is_colored = options.output is None and has_colors()

    def load() -> Any:
        return loaded_pipeline(
            "question-answering",
            model,
            options,
            top_k=options.top_k,
            max_answer_len=options.max_answer_length,
            max_seq_len=options.window,
            doc_stride=options.stride,
            handle_impossible_answer=options.may_be_impossible,
            align_to_words=not options.part_words,
        )

    def table(fields: Fields, answer: Any) -> Iterable[str]:
        yield printable(fields["question"])
        for each in _answers(answer):
            yield from scored_lines([(each["score"], each["answer"] or "no answer", "")])
            if each["answer"]:
                excerpt = _excerpt(fields.get("context", context), each["start"], each["end"], is_colored)
                yield f"             {excerpt}"

    form = Form(
        table,
        lambda fields, answer: {**fields, "answers": _answers(answer)},
        _answers,
        ("score", "start", "end", "answer"),
        is_one_row=options.top_k == 1,
    )
    return answer_records(options, source, form, load, lambda fields: {"context": context, **fields})


def _answers(answer: Any) -> list[dict[str, Any]]:
    """The answers, also if there is but one."""
    return answer if isinstance(answer, list) else [answer]


def _excerpt(context: str, start: int, end: int, is_colored: bool) -> str:
    """What stands around an answer, on one line."""
    before, inside, after = (
        " ".join(f"|{part}|".split())[1:-1]  # white space becomes one space, also at the ends
        for part in (context[max(start - AROUND, 0) : start], context[start:end], context[end : end + AROUND])
    )
    text = ("…" if start > AROUND else "") + before
    span = Span(len(text), len(text) + len(inside))
    return marked(text + inside + after + ("…" if end + AROUND < len(context) else ""), [span], is_colored)
