"""A progress bar for long work, where somebody looks at it."""

import sys
from collections.abc import Iterable
from typing import Any

BAR_AFTER = 1.0  # seconds of work from which a bar is worth its line


def with_progress_bar(
    items: Iterable[Any], number: int | None, unit: str = "texts", is_wanted: bool | None = None
) -> Iterable[Any]:
    """The items, with a bar on standard error.

    Args:
        items: what is counted as it goes by.
        number: how many there are; None if that is not known.
        unit: what they are.
        is_wanted: None shows the bar on a terminal, and after a second; True at once and anywhere; False never.
    """
    if not (sys.stderr.isatty() if is_wanted is None else is_wanted):
        return items
    from tqdm import tqdm

    return tqdm(items, total=number, unit=f" {unit}", delay=BAR_AFTER if is_wanted is None else 0)
