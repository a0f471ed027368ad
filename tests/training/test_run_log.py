"""The log of a run: what is kept when it is taken up again, and what is drawn of it."""

import errno
import json
import math
from pathlib import Path
from xml.etree import ElementTree

import pytest

from xlmr_np.training.run_log import RunLog


def lines_of(log: RunLog) -> list[dict[str, float]]:
    return [json.loads(line) for line in log.path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def log(tmp_path: Path) -> RunLog:
    log = RunLog(tmp_path)
    for step in (1, 2, 3):
        log.write(step=step, loss=7.0 - step, tokens=50)
    log.write(step=3, held_out_loss=4.5)
    return log


def test_lines_are_added(log: RunLog) -> None:
    assert lines_of(log) == [
        {"step": 1, "loss": 6.0, "tokens": 50},
        {"step": 2, "loss": 5.0, "tokens": 50},
        {"step": 3, "loss": 4.0, "tokens": 50},
        {"step": 3, "held_out_loss": 4.5},
    ]


def test_looking_at_a_log_changes_nothing(log: RunLog) -> None:
    before = log.path.read_bytes()
    RunLog(log.path.parent).draw()
    assert log.path.read_bytes() == before


@pytest.mark.parametrize(("step", "kept"), [(0, 0), (1, 1), (2, 2), (3, 4), (9, 4)])
def test_steps_that_are_taken_again_are_forgotten(log: RunLog, step: int, kept: int) -> None:
    before = lines_of(log)
    log.forget_after(step)
    assert lines_of(log) == before[:kept]


@pytest.mark.parametrize(
    "damage",
    ['{"step": 4, "lo', "{}", "5", "null", '["step"]', '{"step": "4"}', '{"step": null, "loss": 1}', "[" * 100_000],
)
def test_what_is_no_line_is_left_out(log: RunLog, damage: str) -> None:
    before = lines_of(log)
    with open(log.path, "a", encoding="utf-8") as file:
        file.write(damage)
    log.draw()
    log.forget_after(4)
    assert lines_of(log) == before


def test_bytes_of_any_kind_are_left_out(log: RunLog) -> None:
    before = lines_of(log)
    with open(log.path, "ab") as file:
        file.write(b"\0\0\xff\xfe\n\n")
    log.forget_after(4)
    assert lines_of(log) == before


def test_a_log_that_is_not_there_is_empty(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.forget_after(3)
    assert lines_of(log) == []


def test_the_curve_is_of_all_lines(log: RunLog) -> None:
    log.write(step=4, held_out_loss=math.nan)
    log.draw()
    svg = ElementTree.parse(log.path.with_name("loss.svg")).getroot()
    points = {
        line.get("class"): line.get("points").split() for line in svg.iter("{http://www.w3.org/2000/svg}polyline")
    }
    assert {name: len(each) for name, each in points.items()} == {"training": 3, "held-out": 1}
    assert sorted(path.name for path in log.path.parent.iterdir()) == ["log.jsonl", "loss.svg"]


def test_a_full_disk_is_told_with_the_name_of_the_log(log: RunLog, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **settings: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("builtins.open", full)
    with pytest.raises(OSError, match="No space left") as raised:
        log.write(step=4, loss=1.0)
    assert raised.value.filename == str(log.path)
