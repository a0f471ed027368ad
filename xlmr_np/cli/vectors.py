"""What commands that make vectors of texts share."""

import argparse
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .terminal import printable

if TYPE_CHECKING:
    import numpy as np

PURPOSE = "sentence embeddings"
EXAMPLE = "intfloat/multilingual-e5-base"
LONG_TEXTS = {
    "truncate": "their beginning is read",
    "mean": "all of their parts, and the vector is the mean",
    "error": "an error",
}

SHOWN = 6  # numbers of a vector


def add_prompt_arguments(parser: argparse.ArgumentParser, owner: str = "") -> None:
    """Let a command say what is put before texts, for those of one kind if there are several; `prompt_of` tells."""
    prefix = f"{owner}-" if owner else ""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(f"--{prefix}prompt", metavar="TEXT", help=f"put this before each {owner or 'text'}")
    group.add_argument(f"--{prefix}prompt-name", metavar="NAME", help="or the prompt of the model with this name")


def prompt_of(options: argparse.Namespace, owner: str = "") -> dict[str, Any]:
    """What was asked, as settings of the pipeline."""
    prefix = f"{owner}_" if owner else ""
    given = {name: getattr(options, f"{prefix}{name}") for name in ("prompt", "prompt_name")}
    return {name: value for name, value in given.items() if value is not None}


def summary(text: str, vectors: "np.ndarray") -> Iterable[str]:
    """A text, and the first numbers of its vectors [N, D], with their lengths."""
    import numpy as np

    yield printable(text)
    for vector in vectors:
        length = float(np.linalg.norm(vector.astype(np.float64)))
        numbers = " ".join(f"{value:7.4f}" for value in vector[:SHOWN].tolist())
        dots = " …" if len(vector) > SHOWN else ""
        yield printable(f"  {len(vector)} numbers, length {length:.4g}: {numbers}{dots}")
