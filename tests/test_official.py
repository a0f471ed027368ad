"""The comparison of `python -m tests.official`, where the weights are in the hub's cache."""

import pytest

from tests.official import LIMITS, MODELS, Official, compare, unavailable


@pytest.mark.official
@pytest.mark.parametrize("official", MODELS, ids=lambda official: official.name)
def test_official_weights(official: Official, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # the suite itself downloads nothing
    reason = unavailable(official.name)
    if reason is not None:
        pytest.skip(reason)
    for what, difference in compare(official).items():
        assert difference <= LIMITS[what], what
