"""A disk that fills up at a chosen moment."""

import builtins
import errno
import io
import os
from collections.abc import Callable
from typing import Any

import pytest


class FullDisk:
    """Counts what is written, as calls, and lets one of them fail halfway and all after it.

    Attributes:
        calls: how many there have been.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails_at: int) -> None:
        self.calls, self.fails_at = 0, fails_at
        for module, name in ((os, "mkdir"), (os, "rename"), (os, "replace")):
            monkeypatch.setattr(module, name, self._counted(getattr(module, name)))
        opened = builtins.open
        for module in (builtins, io):
            monkeypatch.setattr(module, "open", lambda *given, **named: self._file(opened(*given, **named)))

    def check(self, *name: Any) -> None:
        """Count a call, with the name of its file if the system would say it.

        Raises:
            OSError: the disk is full.
        """
        self.calls += 1
        if self.calls >= self.fails_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), *name)

    def _counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*given: Any, **named: Any) -> Any:
            self.check(os.fspath(given[0]))
            return function(*given, **named)

        return counted

    def _file(self, file: Any) -> Any:
        return _File(file, self) if file.writable() else file


class _File:
    """A file of that disk."""

    def __init__(self, file: Any, disk: FullDisk) -> None:
        self._file, self._disk = file, disk

    def write(self, content: Any) -> int:
        try:
            self._disk.check()
        except OSError:
            self._file.write(content[: len(content) // 2])
            raise
        return self._file.write(content)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "_File":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
