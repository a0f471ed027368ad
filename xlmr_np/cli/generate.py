"""`xlmr-np generate`: how a causal language model goes on with a text."""

import argparse
import sys
from typing import TYPE_CHECKING, Any

from xlmr_np.weights.files import DEMO

from .answering import answer_records, loaded_pipeline, status_of
from .records import Source, Taken, add_input_arguments
from .results import Form, add_output_arguments, with_fields
from .source import add_running_arguments
from .terminal import printable, warnings_at_once, write_errors_name

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


TAKEN = Taken(("text",), "a prompt")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    add_input_arguments(parser, "PROMPT", "prompts")
    parser.add_argument("--model", default=DEMO, help="a directory, or the id of a hub model (default: demo)")
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
    add_output_arguments(parser).add_argument(
        "--stream",
        action=argparse.BooleanOptionalAction,
        help="show texts while they grow (default: on a terminal, for a single prompt)",
    )
    add_running_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Answer the prompts in their order."""
    if options.stream and options.output is not None:
        raise ValueError("--stream shows texts on standard output, and --output writes a file; leave one of them out.")
    if (options.num_return_sequences or 1) > 1 and not options.sample and (options.num_beams or 1) == 1:
        raise ValueError(
            f"--num-return-sequences {options.num_return_sequences} would all be the same text; add --sample or "
            "--num-beams."
        )
    generator = _generator(options)
    source = Source.of(options, TAKEN)

    def load() -> Any:
        return loaded_pipeline(
            "text-generation",
            options.model,
            options,
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
        )

    if _may_stream(options, source) if options.stream is None else options.stream:
        return _stream(source, load(), options.only_new_text)
    form = Form(
        lambda fields, answer: (printable(each["generated_text"]) for each in answer),
        with_fields("answers"),
        lambda answer: answer,
        ("generated_text",),
        is_one_row=(options.num_return_sequences or 1) == 1,
    )
    return answer_records(options, source, form, load, lambda fields: fields["text"])


def _may_stream(options: argparse.Namespace, source: Source) -> bool:
    """Whether somebody looks at the only text that grows."""
    is_single = max(options.num_beams or 1, options.num_return_sequences or 1) == 1
    is_shown = sys.stdout.isatty() and options.output is None and options.format is None
    return is_shown and is_single and (len(options.texts) == 1 or source.is_typed)


@write_errors_name("standard output")
def _stream(source: Source, generate: "TextGenerationPipeline", only_new_text: bool) -> int:
    """Show the texts while they grow, one after the other."""
    source.ask()
    with warnings_at_once():
        for record in source:
            prompt = record.fields["text"]
            try:
                generate(prompt, streamer=_Shown(generate, prompt, only_new_text))
            except (ValueError, TypeError) as error:
                source.problems.report(record.place, error)
    return status_of(source)


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
