"""The log of a training run: a JSON object a line, and the curve of the loss drawn from it."""

import json
from pathlib import Path
from typing import Any

from xlmr_np.training.loss_curve import loss_curve
from xlmr_np.weights.saving import replacing

LOG_FILE = "log.jsonl"
CURVE_FILE = "loss.svg"


class RunLog:
    """Lines are added as steps are done; those of steps that a run does again are forgotten when it is taken up.

    Args:
        run: the directory of the run.
        step: from which the run goes on.
    """

    def __init__(self, run: Path, step: int) -> None:
        self.path = run / LOG_FILE
        kept = [line for line in _whole_lines(self.path) if line["step"] <= step]
        with replacing(self.path) as beside:
            beside.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")

    def write(self, **facts: Any) -> None:
        """Add a line."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(facts) + "\n")

    def draw(self) -> None:
        """Draw the curve of all lines."""
        lines = _whole_lines(self.path)
        training = [(line["step"], line["loss"]) for line in lines if "loss" in line]
        held_out = [(line["step"], line["held_out_loss"]) for line in lines if "held_out_loss" in line]
        with replacing(self.path.with_name(CURVE_FILE)) as beside:
            beside.write_text(loss_curve(training, held_out), encoding="utf-8")


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; the last may have been cut off when its process was killed."""
    if not path.exists():
        return []
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines
