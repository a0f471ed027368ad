"""Faults planted into kernels, which the tests must see."""

import re
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from xlmr_np.ops.cuda.sources import source

BARRIER = r"__syncthreads\(\);"


def number_of_barriers(file: str) -> int:
    """In a kernel file and its headers."""
    return len(re.findall(BARRIER, source(file)))


def without(pattern: str, number: int = 0, instead: str = "") -> Callable[[str], str]:
    """An edit that replaces the match of this number of a regular expression in the text of a kernel file."""

    def edit(text: str) -> str:
        start, stop = list(re.finditer(pattern, text))[number].span()
        return text[:start] + instead + text[stop:]

    return edit


def some_of(faults: Iterable[str]) -> list[Any]:
    """Names to parametrize a test with, of which the ordinary suite takes every fifth: each is a build of its own."""
    return [
        pytest.param(fault, marks=() if number % 5 == 0 else pytest.mark.exhaustive)
        for number, fault in enumerate(faults)
    ]
