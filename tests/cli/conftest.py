"""A small model, and commands run within this process."""

import io
import sys
from pathlib import Path

import pytest

from tests.cli.finished import Finished, Run
from tests.pipelines.saved_models import save_fill_mask_model
from xlmr_np.cli import main


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory, small_vocabulary: Path) -> str:
    directory = tmp_path_factory.mktemp("models") / "small"
    save_fill_mask_model(directory, small_vocabulary)
    return str(directory)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command in this process, with bytes as its standard input."""

    def run(*arguments: str, stdin: bytes = b"") -> Finished:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        capsys.readouterr()
        try:
            status = main(arguments)
        except SystemExit as stop:
            status = stop.code
        return Finished(status, *capsys.readouterr())

    return run
