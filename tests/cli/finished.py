"""What a command left behind, and what must hold of it."""

import re
import unicodedata
from collections.abc import Callable
from typing import NamedTuple


class Finished(NamedTuple):
    """What a command left behind."""

    status: int
    out: str
    err: str


Run = Callable[..., Finished]


def assert_bad_input(finished: Finished, message: str) -> None:
    """Exit status 2, one line that says what is wrong, and nothing that looks like an answer."""
    assert finished.status == 2
    assert finished.out == ""
    assert re.fullmatch(rf"xlmr-np: [^\n]*{message}[^\n]*\n", finished.err)


def assert_harmless(text: str) -> None:
    """Nothing but lines of characters that a terminal shows."""
    obeyed = ("Cc", "Cf", "Cs", "Zl", "Zp")
    assert [each for each in text.replace("\n", "") if unicodedata.category(each) in obeyed] == []
