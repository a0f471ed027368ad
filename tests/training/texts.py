"""Sentences of invented words in several scripts, the same every time."""

from collections.abc import Iterator

import numpy as np

LANGUAGES = ("bdegiklmnorstu", "αγεικλνορστυ", "абвдеиклмнорст", "一三上下中人大小山")


def sentences(number: int, seed: int = 0) -> Iterator[str]:
    """Of some words each; those of one language are put together from its own few syllables."""
    random = np.random.default_rng(seed)
    for place in range(number):
        letters = LANGUAGES[place % len(LANGUAGES)]
        lengths = random.integers(1, 6, random.integers(2, 12))
        yield " ".join("".join(letters[i] for i in random.integers(0, len(letters), length)) for length in lengths)
