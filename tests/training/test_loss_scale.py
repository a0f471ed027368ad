"""The loss scale of training in float16."""

import pytest

from xlmr_np.training.loss_scale import FIRST_SCALE, LARGEST_SCALE, PATIENCE, LossScale


def test_it_is_halved_by_every_overflow_until_it_is_one() -> None:
    scale = LossScale()
    for halvings in range(1, 17):
        assert scale.overflowed()
        assert scale.value == FIRST_SCALE / 2**halvings
    assert scale.value == 1.0
    assert not scale.overflowed()
    assert scale.value == 1.0


def test_it_is_doubled_after_many_steps_in_a_row() -> None:
    scale = LossScale(4.0)
    for _ in range(PATIENCE - 1):
        scale.succeeded()
    scale.overflowed()
    assert (scale.value, scale.steps_since) == (2.0, 0)
    for _ in range(PATIENCE):
        assert scale.value == 2.0
        scale.succeeded()
    assert (scale.value, scale.steps_since) == (4.0, 0)


def test_it_has_an_end() -> None:
    scale = LossScale(LARGEST_SCALE, PATIENCE - 1)
    scale.succeeded()
    assert (scale.value, scale.steps_since) == (LARGEST_SCALE, 0)


@pytest.mark.parametrize("state", [(0.0, 0), (float("nan"), 0), (2 * LARGEST_SCALE, 0), (1.0, -1), (1.0, PATIENCE)])
def test_a_state_that_is_none_is_refused(state: tuple[float, int]) -> None:
    with pytest.raises(ValueError, match="is none that training comes to"):
        LossScale(*state)
