"""Where the model of a command comes from."""

import argparse
from pathlib import Path
from typing import Any


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Let a command say where in a directory or on the hub its model is."""
    parser.add_argument("--revision", help="branch, tag or commit of a hub model")
    parser.add_argument("--cache-dir", type=Path, help="hub cache to use in place of the usual one")
    parser.add_argument("--subfolder", default="", help="folder of the model within its directory or repository")
    parser.add_argument("--offline", action="store_true", help="never ask the network")


def add_variant_argument(parser: argparse.ArgumentParser) -> None:
    """Let a command that reads weights say which."""
    parser.add_argument("--variant", help="weights of another kind, such as fp16 for model.fp16.safetensors")


def location(options: argparse.Namespace) -> dict[str, Any]:
    """Where the model is, as functions that load one take it."""
    return {
        "revision": options.revision,
        "cache_dir": options.cache_dir,
        "local_files_only": options.offline,
        "subfolder": options.subfolder,
    }
