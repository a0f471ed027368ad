"""`xlmr-np info`: what a checkpoint holds."""

import argparse
import json

from .source import add_model_argument, add_source_arguments, add_variant_argument, chosen_model, location
from .terminal import megabytes, print_rows, write_errors_name

SUMMARY = "what a checkpoint holds"
DESCRIPTION = """\
Shows what a checkpoint holds without loading its weights: architecture, number of parameters, element types,
files, and their size on disk and in memory.

  xlmr-np info FacebookAI/xlm-roberta-base
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    add_model_argument(parser, "model", nargs="?")
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    add_source_arguments(parser)
    add_variant_argument(parser)


@write_errors_name("standard output")
def run(options: argparse.Namespace) -> None:
    """Print the facts."""
    from xlmr_np.inputs import longest_sequence
    from xlmr_np.weights.inspection import describe

    model = chosen_model(options)
    description = describe(model, variant=options.variant, **location(options))
    config = description.config
    on_disk = sum(description.files.values())
    if options.json:
        facts = {
            "model": model,
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
    print_rows(
        [
            ("model", model),
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
            *(("file", f"{name}  {megabytes(size)}") for name, size in description.files.items()),
            ("on disk", megabytes(on_disk)),
            (
                "in memory",
                f"{megabytes(description.bytes_in_memory)} once all of it has been used (mapped from the file)",
            ),
        ]
    )
