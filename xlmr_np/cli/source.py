"""Where the model of a command comes from."""

import argparse
from pathlib import Path
from typing import Any

from xlmr_np.weights.files import DEMO, DEMO_DIRECTORY

from .terminal import complain

REAL_MODEL = "FacebookAI/xlm-roberta-base"


def add_model_argument(parser: argparse.ArgumentParser, name: str, **settings: Any) -> None:
    """Let a command say which model it uses; `chosen_model` tells."""
    parser.add_argument(
        name, help="a directory, or the id of a hub model (default: demo, which comes with xlmr-np)", **settings
    )


def add_trained_model_argument(parser: argparse.ArgumentParser, purpose: str, example: str) -> None:
    """Let a command say which model it uses, where no answer of the demo model has a meaning; `trained_model` tells."""
    parser.add_argument("--model", help=f"a directory, or the id of a hub model, trained for {purpose}: {example}, say")
    parser.set_defaults(purpose=purpose, example=example)


def trained_model(options: argparse.Namespace) -> str:
    """The model that was asked for.

    Raises:
        ValueError: none was.
    """
    if options.model is None:
        raise ValueError(
            f"A model that was trained for {options.purpose} is needed: give --model a directory, or the id of a hub "
            f"model such as {options.example}."
        )
    return str(options.model)


def chosen_model(options: argparse.Namespace) -> str:
    """The model that was asked for, or else the demo model, with a line on standard error about it."""
    tell_of_demo(options)
    return model_or_demo(options)


def model_or_demo(options: argparse.Namespace) -> str:
    """The model that was asked for, or else the demo model; `tell_of_demo` is for when there is something to show."""
    return str(DEMO_DIRECTORY) if options.model is None else options.model


def tell_of_demo(options: argparse.Namespace) -> None:
    """Say on standard error which model this is, if none was asked for."""
    if options.model is None:
        complain(
            f"this is {DEMO}, a small model for trying things out; for real work choose a model such as {REAL_MODEL}."
        )


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Let a command say where in a directory or on the hub its model is."""
    parser.add_argument("--revision", help="branch, tag or commit of a hub model")
    parser.add_argument("--cache-dir", type=Path, help="hub cache to use in place of the usual one")
    parser.add_argument("--subfolder", default="", help="folder of the model within its directory or repository")
    parser.add_argument("--offline", action="store_true", help="never ask the network")


def add_variant_argument(parser: argparse.ArgumentParser) -> None:
    """Let a command that reads weights say which."""
    parser.add_argument("--variant", help="weights of another kind, such as fp16 for model.fp16.safetensors")


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """Let a command say on what its model runs."""
    parser.add_argument("--device", type=_device, default="cpu", help="cpu, cuda, cuda:N or N (default: cpu)")
    parser.add_argument("--threads", type=int, help="threads to use on a CPU (default: all processors)")


def add_device_arguments(parser: argparse.ArgumentParser) -> None:
    """Let a command say on what its model runs, and in which numbers."""
    add_device_argument(parser)
    parser.add_argument("--dtype", default="auto", help="element type of the weights (default: as stored)")


LONG_TEXTS = {"truncate": "a part is read", "error": "an error"}


def add_running_arguments(parser: argparse.ArgumentParser, long_texts: dict[str, str] | None = None) -> None:
    """Let a command say where its model is, on what it runs, how much at once, and what becomes of long texts.

    Args:
        parser: of the command.
        long_texts: what may be asked for texts that are longer than the model takes, and what each means; the first is
            done otherwise. None: there are none.
    """
    if long_texts is not None:
        first = next(iter(long_texts))
        described = "; ".join(f"{name}: {meaning}" for name, meaning in long_texts.items())
        parser.add_argument(
            "--long-texts",
            choices=tuple(long_texts),
            default=first,
            help=f"what to do with texts that are longer than the model takes; {described} (default: {first})",
        )
    parser.add_argument("--batch-size", type=int, help="texts run together (default: as many as have 4,096 tokens)")
    add_device_arguments(parser)
    add_source_arguments(parser)
    add_variant_argument(parser)


def check_at_least(option: str, value: int | None, least: int) -> None:
    """Refuse a number that is too small (ValueError); None is one that was not given."""
    if value is not None and value < least:
        raise ValueError(f"{option} {value} is too small; give at least {least}.")


def _device(name: str) -> str | int:
    """A device as the library takes it: GPUs by number, and -1 for the CPU."""
    return int(name) if name.removeprefix("-").isdecimal() else name


def loading(options: argparse.Namespace) -> dict[str, Any]:
    """What was asked of the model by the functions above, as `pipeline` takes it."""
    return {
        **location(options),
        "model_kwargs": {"variant": options.variant},
        "device": options.device,
        "dtype": options.dtype,
        "num_threads": options.threads,
    }


def location(options: argparse.Namespace) -> dict[str, Any]:
    """Where the model is, as functions that load one take it."""
    return {
        "revision": options.revision,
        "cache_dir": options.cache_dir,
        "local_files_only": options.offline,
        "subfolder": options.subfolder,
    }
