"""The log of a training run: a JSON object a line, and the curve of the loss drawn from it."""

import json
import os
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
    """

    def __init__(self, run: Path) -> None:
        self.path = run / LOG_FILE

    def forget_after(self, step: int) -> None:
        """Leave the lines up to this step, and none that was cut off.

        Raises:
            OSError: the log cannot be read or written.
        """
        kept = [line for line in self._lines() if line["step"] <= step]
        with replacing(self.path) as beside:
            beside.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")

    def write(self, **facts: Any) -> None:
        """Add a line.

        Raises:
            OSError: it cannot be written; the error names the log.
        """
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(facts) + "\n")
        except OSError as error:
            error.filename = os.fspath(self.path)  # which a full disk does not say
            raise

    def draw(self) -> None:
        """Draw the curve of all lines.

        Raises:
            OSError: it cannot be written.
        """
        lines = self._lines()
        training = [(line["step"], line["loss"]) for line in lines if "loss" in line]
        held_out = [(line["step"], line["held_out_loss"]) for line in lines if "held_out_loss" in line]
        with replacing(self.path.with_name(CURVE_FILE)) as beside:
            beside.write_text(loss_curve(training, held_out), encoding="utf-8")

    def _lines(self) -> list[dict[str, Any]]:
        """Those that tell of a step; one may have been cut off when its process was killed, or the disk was full."""
        if not self.path.exists():
            return []
        lines = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                facts = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(facts, dict) and all(isinstance(value, int | float) for value in facts.values()):
                lines += [facts] if "step" in facts else []
        return lines
