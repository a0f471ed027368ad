"""The curve of a training run's loss, as an SVG that can be read on light and on dark pages."""

import math
from collections.abc import Sequence

import numpy as np

WIDTH, HEIGHT = 720, 360
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 44, 40  # the room around the curves
MOST_POINTS = 300  # of a curve; of more, neighbours are drawn as their mean
LARGEST_LOSS = float(np.finfo(np.float32).max)
FLATTEST = 1e-3  # a smaller range, of losses of order one, is rounding and no curve
STYLE = """\
text{font:12px system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif;fill:#1f2328}
.title{font-size:15px;font-weight:600}.tick{fill:#59636e}.left{text-anchor:end}.middle{text-anchor:middle}
.grid{stroke:#d1d9e0}.background{fill:#ffffff}polyline{fill:none;stroke-width:2;stroke-linejoin:round}
.training{stroke:#0969da}text.training{fill:#0969da;stroke:none}
.held-out{stroke:#bc4c00}text.held-out{fill:#bc4c00;stroke:none}circle.held-out{fill:#bc4c00}
@media (prefers-color-scheme:dark){
text{fill:#f0f6fc}.tick{fill:#9198a1}.grid{stroke:#30363d}.background{fill:#0d1117}
.training{stroke:#4493f8}text.training{fill:#4493f8}
.held-out{stroke:#f0883e}text.held-out{fill:#f0883e}circle.held-out{fill:#f0883e}
}"""

Points = Sequence[tuple[float, float]]  # steps and losses


def loss_curve(training: Points, held_out: Points = ()) -> str:
    """The text of an SVG file.

    Losses that are not finite, or that no float32 holds, are left out.

    Args:
        training: the loss of each step.
        held_out: the loss on texts that are not learnt from, after some of the steps.

    Raises:
        ValueError: there is no step to draw.
    """
    training, held_out = _drawable(training), _drawable(held_out)
    if not training:
        raise ValueError("A curve needs at least one step with a finite loss.")
    curve = _thinned(training)
    steps = _scale([0.0, *(step for step, _ in [*training, *held_out])], smallest_distance=1.0)
    losses = _scale([loss for _, loss in [*curve, *held_out]])

    def x(step: float) -> float:
        return LEFT + (step - steps[0]) / (steps[-1] - steps[0]) * (WIDTH - LEFT - RIGHT)

    def y(loss: float) -> float:
        return HEIGHT - BOTTOM - (loss - losses[0]) / (losses[-1] - losses[0]) * (HEIGHT - TOP - BOTTOM)

    def line(name: str, points: Points) -> str:
        places = " ".join(f"{x(step):.1f},{y(loss):.1f}" for step, loss in points)
        return f'<polyline class="{name}" points="{places}"/>'

    body = []
    for loss in losses:
        body += [
            f'<line class="grid" x1="{LEFT}" y1="{y(loss):.1f}" x2="{WIDTH - RIGHT}" y2="{y(loss):.1f}"/>',
            f'<text class="tick left" x="{LEFT - 8}" y="{y(loss) + 4:.1f}">{loss:g}</text>',
        ]
    body += [
        f'<text class="tick middle" x="{x(step):.1f}" y="{HEIGHT - BOTTOM + 18}">{round(step):,}</text>'
        for step in steps
    ]
    body.append(line("training", curve))
    name = f"training, {curve[-1][1]:.3f} at the end"
    body.append(f'<text class="training" x="{LEFT + 130}" y="26">{name}</text>')
    if held_out:
        body.append(line("held-out", held_out))
        body += [f'<circle class="held-out" cx="{x(step):.1f}" cy="{y(loss):.1f}" r="3"/>' for step, loss in held_out]
        name = f"held out, {held_out[-1][1]:.3f} at the end"
        body.append(f'<text class="held-out" x="{LEFT + 330}" y="26">{name}</text>')
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'role="img" aria-labelledby="title">',
        '<title id="title">Loss by step</title>',
        f"<style>\n{STYLE}\n</style>",
        f'<rect class="background" width="{WIDTH}" height="{HEIGHT}" rx="6"/>',
        f'<text class="title" x="{LEFT}" y="26">Loss by step</text>',
    ]
    return "\n".join([*head, *body, "</svg>", ""])


def _drawable(points: Points) -> Points:
    return [(step, loss) for step, loss in points if abs(loss) <= LARGEST_LOSS]


def _thinned(points: Points) -> Points:
    """Means of neighbours, where there are many points."""
    groups = np.array_split(np.array(points, np.float64), min(len(points), MOST_POINTS))
    return [(float(step), float(loss)) for step, loss in (group.mean(axis=0) for group in groups)]


def _scale(values: Sequence[float], smallest_distance: float = 0.0) -> list[float]:
    """Round numbers at even distances, at most ten of them, around all values."""
    lowest, highest = min(values), max(values)
    magnitude = max(1.0, abs(lowest), abs(highest))
    if highest - lowest < FLATTEST * magnitude:
        highest = lowest + magnitude
    size = 10.0 ** math.floor(math.log10((highest - lowest) / 4))
    distance = next(size * step for step in (1, 2, 5, 10) if size * step * 8 >= highest - lowest)
    distance = max(distance, smallest_distance)
    first, last = math.floor(lowest / distance), math.ceil(highest / distance)
    return [number * distance for number in range(first, last + 1)]
