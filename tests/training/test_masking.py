"""Which tokens are hidden, how often, and by what."""

import numpy as np
import pytest

from xlmr_np.training.masking import MaskingSetting, mask_tokens

MASK_ID, ORDINARY = 99, np.arange(4, 99)
SIZE = (200, 500)
SETTING = MaskingSetting()


def some_ids() -> np.ndarray:
    return np.random.default_rng(0).integers(4, 99, SIZE)


def test_shares_are_those_asked_for() -> None:
    ids = some_ids()
    everywhere = np.ones(SIZE, bool)
    seen, labels = mask_tokens(ids, everywhere, MASK_ID, ORDINARY, np.random.default_rng(1), SETTING)
    is_chosen = labels != -100
    np.testing.assert_array_equal(labels[is_chosen], ids[is_chosen])
    np.testing.assert_array_equal(seen[~is_chosen], ids[~is_chosen])
    chosen = is_chosen.sum()
    assert is_chosen.mean() == pytest.approx(0.15, abs=0.005)  # 100,000 draws: four standard deviations
    assert (seen == MASK_ID).sum() / chosen == pytest.approx(0.8, abs=0.014)  # 15,000 draws: four standard deviations
    differs = is_chosen & (seen != ids) & (seen != MASK_ID)
    assert differs.sum() / chosen == pytest.approx(0.1 * 94 / 95, abs=0.01)  # a random token may be the same one


def test_special_tokens_are_neither_chosen_nor_drawn() -> None:
    ids = some_ids()
    ids[:, 0], ids[:, -1] = 0, 2
    ordinary = (ids != 0) & (ids != 2)
    setting = MaskingSetting(0.9, 0.0, 1.0)
    seen, labels = mask_tokens(ids, ordinary, MASK_ID, ORDINARY, np.random.default_rng(1), setting)
    assert (labels[~ordinary] == -100).all()
    np.testing.assert_array_equal(seen[~ordinary], ids[~ordinary])
    assert set(np.unique(seen[ordinary])) == set(ORDINARY.tolist())


def test_words_are_chosen_whole() -> None:
    ids = some_ids()
    words = np.cumsum(np.random.default_rng(2).random(SIZE) < 0.5, axis=1)
    _, labels = mask_tokens(ids, np.ones(SIZE, bool), MASK_ID, ORDINARY, np.random.default_rng(1), SETTING, words)
    is_chosen = labels != -100
    for row, row_words in zip(is_chosen, words, strict=True):
        chosen_words = np.unique(row_words[row])
        np.testing.assert_array_equal(row, np.isin(row_words, chosen_words))
    assert is_chosen.mean() == pytest.approx(0.15, abs=0.01)  # 50,000 words of some tokens: five standard deviations


def test_the_same_generator_hides_the_same_tokens() -> None:
    ids, everywhere = some_ids(), np.ones(SIZE, bool)
    first, second = (
        mask_tokens(ids, everywhere, MASK_ID, ORDINARY, np.random.default_rng(5), SETTING) for _ in range(2)
    )
    np.testing.assert_array_equal(first.ids, second.ids)
    np.testing.assert_array_equal(first.labels, second.labels)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (MaskingSetting(probability=1.5), r"probability must be from 0 to 1; it is 1\.5"),
        (MaskingSetting(masked=-0.1), r"masked must be from 0 to 1; it is -0\.1"),
        (MaskingSetting(masked=0.8, replaced=0.3), r"0\.8 and 0\.3 are more than 1"),
    ],
)
def test_settings_are_probabilities(setting: MaskingSetting, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        setting.check()
    assert MaskingSetting().check() == MaskingSetting()
