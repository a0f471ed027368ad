"""Runs the tests of this folder on the GPU of this machine, without the suite's run-time checks of shapes."""

import sys
from pathlib import Path

import pytest
from hypothesis import settings

from tests.gpu.card import why_not

if __name__ == "__main__":
    reason = why_not()
    if reason is not None:
        sys.exit(f"The tests need a GPU: {reason}.")
    settings.register_profile("gpu", deadline=None, derandomize=True)
    settings.load_profile("gpu")
    arguments = ["--noconftest", "-p", "no:cacheprovider", "-q", "-s", "--durations=5", *sys.argv[1:]]
    sys.exit(pytest.main([str(Path(__file__).parent), *arguments]))
