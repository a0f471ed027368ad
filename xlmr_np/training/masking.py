"""Masked language modelling: which tokens a model is to guess, and what it sees in their place.

Devlin et al. 2019 (arXiv:1810.04805, section 3.1): of the chosen tokens most become the mask, some another token, so
that the model cannot trust what it sees, and the rest stay, so that it learns what an unmasked token looks like.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from xlmr_np.losses.cross_entropy import IGNORED_LABEL


class MaskingSetting(NamedTuple):
    """How many tokens are chosen, and what becomes of them.

    Attributes:
        probability: with which a token, or a word, is chosen.
        masked: the share of the chosen tokens that become the mask.
        replaced: the share that becomes a random token; the rest stay as they are.
    """

    probability: float = 0.15
    masked: float = 0.8
    replaced: float = 0.1

    def check(self) -> "MaskingSetting":
        """The setting itself.

        Raises:
            ValueError: a number is no probability, or the shares add up to more than 1.
        """
        for name, value in self._asdict().items():
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} must be from 0 to 1; it is {value}.")
        if self.masked + self.replaced > 1.0:
            raise ValueError(
                f"masked and replaced are shares of the same tokens; {self.masked} and {self.replaced} are more than 1."
            )
        return self


class MaskedTokens(NamedTuple):
    """What the model sees, and what it is to say: the token where one was chosen, -100 elsewhere."""

    ids: Int[np.ndarray, "B T"]
    labels: Int[np.ndarray, "B T"]


def mask_tokens(
    ids: Int[np.ndarray, "B T"],
    can_be_chosen: Bool[np.ndarray, "B T"],
    mask_id: int,
    replacements: Int[np.ndarray, " R"],
    generator: np.random.Generator,
    setting: MaskingSetting,
    words: Int[np.ndarray, "B T"] | None = None,
) -> MaskedTokens:
    """Choose tokens and hide them.

    Args:
        ids: token ids.
        can_be_chosen: False at special tokens and padding.
        mask_id: the id of the mask.
        replacements: ids from which random tokens are drawn: ordinary ones, as a random padding id would shift the
            positions of all tokens after it.
        generator: draws.
        setting: how many, and what becomes of them.
        words: the number of each token's word within its row, from 0; whole words are chosen then, though what becomes
            of their tokens is drawn for each. None: tokens are chosen one by one.
    """
    draws = generator.random(ids.shape)
    if words is not None:
        draws = np.take_along_axis(draws, words, axis=1)
    is_chosen = can_be_chosen & (draws < setting.probability)
    fate = generator.random(ids.shape)
    others = replacements[generator.integers(len(replacements), size=ids.shape)]
    becomes_another = is_chosen & (fate >= setting.masked) & (fate < setting.masked + setting.replaced)
    seen = np.where(is_chosen & (fate < setting.masked), mask_id, np.where(becomes_another, others, ids))
    return MaskedTokens(seen, np.where(is_chosen, ids, IGNORED_LABEL))
