"""`xlmr-np generate`: how a causal language model goes on with a text."""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING

from xlmr_np.weights.files import DEMO

from .source import add_device_arguments, add_source_arguments, add_variant_argument, loading
from .terminal import printable, read_texts, warnings_at_once, warnings_on_one_line, with_progress_bar

if TYPE_CHECKING:
    import numpy as np

    from xlmr_np.pipelines.text_generation import TextGenerationPipeline

SUMMARY = "how a causal language model goes on with a text"
DESCRIPTION = """\
Goes on with texts, by the likeliest token each time, or by tokens drawn at random (--sample), or by beam search
(--num-beams).

Prompts are the arguments, or the lines of a file (--input), or the lines of standard input. On a terminal the text of
a single prompt is shown while it grows.

The model must have been trained to go on with texts. XLM-R's official checkpoints, and the demo model, were trained to
fill masks; what they write has no meaning.

  xlmr-np generate --model ./my-decoder "Le chat dort"
  xlmr-np generate --model ./my-decoder --sample --seed 1 --num-return-sequences 3 "Le chat dort"
  xlmr-np generate --model ./my-decoder --input prompts.txt --num-beams 4 --json > answers.jsonl
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("text", nargs="*", help="prompts")
    parser.add_argument("--model", default=DEMO, help="a directory, or the id of a hub model (default: demo)")
    parser.add_argument("--input", type=Path, help="a file with a prompt a line; - is standard input")
    parser.add_argument("--max-new-tokens", type=int, default=50, help="how many tokens at most (default: 50)")
    parser.add_argument("--num-beams", type=int, help="search with so many beams")
    parser.add_argument("--repetition-penalty", type=float, help="above 1 makes tokens that were there less likely")
    parser.add_argument("--stop", action="append", metavar="TEXT", help="end after this text; may be given again")
    parser.add_argument("--num-return-sequences", type=int, help="how many texts for each prompt (default: 1)")
    drawing = parser.add_argument_group("drawing tokens at random")
    drawing.add_argument("--sample", action="store_true", help="draw them; the options below need this one")
    drawing.add_argument("--temperature", type=float, help="below 1 prefers likely tokens more (default: 0.7)")
    drawing.add_argument("--top-k", type=int, help="only so many of the likeliest (default: 50; 0: all)")
    drawing.add_argument("--top-p", type=float, help="only the likeliest that together have this probability")
    drawing.add_argument("--seed", type=int, help="the same number draws the same tokens again")
    parser.add_argument("--truncate", action="store_true", help="cut off the beginning of prompts that are too long")
    parser.add_argument("--only-new-text", action="store_true", help="leave out the prompt")
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument(
        "--stream",
        action=argparse.BooleanOptionalAction,
        help="show texts while they grow (default: on a terminal, for a single prompt)",
    )
    shown.add_argument("--json", action="store_true", help="print a JSON object a line")
    parser.add_argument("--batch-size", type=int, default=8, help="prompts run together (default: 8)")
    add_device_arguments(parser)
    add_source_arguments(parser)
    add_variant_argument(parser)


def run(options: argparse.Namespace) -> None:
    """Answer the prompts in their order."""
    generator = _generator(options)
    prompts, number = read_texts(options.text, options.input, "a prompt")
    is_typed = number is None and sys.stdin.isatty()
    is_single = max(options.num_beams or 1, options.num_return_sequences or 1) == 1
    may_stream = sys.stdout.isatty() and (number == 1 or is_typed) and is_single and not options.json
    from xlmr_np.pipelines import pipeline

    with warnings_on_one_line():
        generate = pipeline(
            "text-generation",
            options.model,
            **loading(options),
            do_sample=options.sample,
            max_new_tokens=options.max_new_tokens,
            num_beams=options.num_beams,
            repetition_penalty=options.repetition_penalty,
            stop_sequence=options.stop,
            num_return_sequences=options.num_return_sequences,
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            generator=generator,
            handle_long_generation="hole" if options.truncate else None,
            return_full_text=not options.only_new_text,
            batch_size=1 if is_typed else options.batch_size,  # each typed line is answered at once
        )
    if is_typed:
        print("Type prompts, one a line, and end with Ctrl-D.", file=sys.stderr)
    with warnings_at_once():
        if may_stream if options.stream is None else options.stream:
            for prompt in prompts:
                generate(prompt, streamer=_Shown(generate, prompt, options.only_new_text))
        else:
            for line in _lines(generate, prompts, number, options.json):
                print(line, flush=True)


def _generator(options: argparse.Namespace) -> "np.random.Generator | None":
    """What draws the tokens.

    Raises:
        ValueError: tokens are not drawn, but something is asked of it.
    """
    for name in ("temperature", "top_k", "top_p", "seed"):
        if getattr(options, name) is not None and not options.sample:
            raise ValueError(
                f"--{name.replace('_', '-')} is for tokens drawn at random; add --sample, or leave it out."
            )
    import numpy as np

    from xlmr_np.tokenizer.arguments import whole_number

    return None if options.seed is None else np.random.default_rng(whole_number("seed", options.seed, minimum=0))


def _lines(
    generate: "TextGenerationPipeline", prompts: Iterable[str], number: int | None, as_json: bool
) -> Iterator[str]:
    """A line for each text, or with JSON one for each prompt."""
    asked, shown = tee(prompts)
    answers = generate(asked)
    if not sys.stdout.isatty():  # where answers appear there is no place for a bar
        answers = with_progress_bar(answers, number)
    for answer, prompt in zip(answers, shown, strict=True):
        if as_json:
            yield printable(json.dumps({"text": prompt, "answers": answer}, ensure_ascii=False))
        else:
            yield from (printable(each["generated_text"]) for each in answer)


class _Shown:
    """A streamer that prints what the pipeline would return, as it grows."""

    def __init__(self, generate: "TextGenerationPipeline", prompt: str, is_prompt_left_out: bool) -> None:
        self._generate, self._prompt = generate, prompt
        self._is_prompt_left_out = is_prompt_left_out
        self._prompt_ids: list[int] | None = None
        self._new_ids: list[int] = []
        self._number_shown = 0  # characters

    def put(self, ids: "np.ndarray") -> None:
        """Takes what the model has read, and then one token after the other."""
        taken = ids.ravel().tolist()
        if self._prompt_ids is None:
            self._prompt_ids = taken
            self._show("" if self._is_prompt_left_out else self._prompt)
        else:
            self._new_ids += taken
            text = self._generate.new_text(self._prompt, self._prompt_ids, self._new_ids)
            self._show(text[self._number_shown :])
            self._number_shown = len(text)

    def end(self) -> None:
        """Ends the line."""
        print(flush=True)

    def abort(self, error: BaseException) -> None:
        """Ends a line that was begun."""
        if self._prompt_ids is not None:
            self.end()

    def _show(self, text: str) -> None:
        print(printable(text), end="", flush=True)
