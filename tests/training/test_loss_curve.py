"""The curve is a picture that every program shows, with all of its points in the frame."""

import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from xlmr_np.training.loss_curve import BOTTOM, HEIGHT, LARGEST_LOSS, LEFT, MOST_POINTS, RIGHT, TOP, WIDTH, loss_curve

SVG = "{http://www.w3.org/2000/svg}"
ANY_LOSSES = st.lists(st.floats(), min_size=1, max_size=30)


def drawn(training: list[tuple[int, float]], held_out: list[tuple[int, float]] = ()) -> ElementTree.Element:
    """The picture, of which everything is in the frame."""
    svg = ElementTree.fromstring(loss_curve(training, held_out))
    assert svg.tag == f"{SVG}svg"
    places = [place for points in curves(svg).values() for place in points]
    places += [(float(each.get("cx")), float(each.get("cy"))) for each in svg.iter(f"{SVG}circle")]
    for x, y in places:
        assert LEFT - 0.1 <= x <= WIDTH - RIGHT + 0.1
        assert TOP - 0.1 <= y <= HEIGHT - BOTTOM + 0.1
    return svg


def curves(svg: ElementTree.Element) -> dict[str, list[tuple[float, float]]]:
    return {
        line.get("class"): [tuple(map(float, place.split(","))) for place in line.get("points").split()]
        for line in svg.iter(f"{SVG}polyline")
    }


def ticks(svg: ElementTree.Element, kind: str) -> list[float]:
    texts = [text.text for text in svg.iter(f"{SVG}text") if text.get("class") == f"tick {kind}"]
    return [float(text.replace(",", "")) for text in texts]


@given(training=ANY_LOSSES, held_out=ANY_LOSSES, every=st.integers(1, 1000))
@example(training=[2.5] * 9, held_out=[2.5], every=1)  # constant
@example(training=[0.0], held_out=[math.nan], every=1)
@example(training=[1e300, -1e300, math.inf, 5e-324], held_out=[-math.inf], every=7)
@example(training=[1e17, 1e17 + 16], held_out=[1e17], every=1)  # closer together than rounding
@example(training=[3.4e38, -3.4e38], held_out=[], every=1)
def test_any_losses(training: list[float], held_out: list[float], every: int) -> None:
    points = [(step, loss) for step, loss in enumerate(training, 1)]
    measured = [(step * every, loss) for step, loss in enumerate(held_out, 1)]
    if not any(abs(loss) <= LARGEST_LOSS for loss in training):
        with pytest.raises(ValueError, match="at least one step with a finite loss"):
            loss_curve(points, measured)
        return
    svg = drawn(points, measured)
    finite = [loss for loss in held_out if abs(loss) <= LARGEST_LOSS]
    assert len(list(svg.iter(f"{SVG}circle"))) == len(finite)
    assert len(curves(svg)["training"]) == sum(abs(loss) <= LARGEST_LOSS for loss in training)


@given(steps=st.integers(1, 3000))
@example(steps=1)
@example(steps=2)
@example(steps=3)
def test_axes_have_distinct_ticks_around_everything(steps: int) -> None:
    svg = drawn([(step, 9.0 - 2.0 * (step > steps / 2)) for step in range(1, steps + 1)])
    for kind, lowest, highest in (("middle", 0, steps), ("left", 7.0, 7.0 + 2.0 * (steps > 1))):
        values = ticks(svg, kind)
        assert values == sorted(set(values))
        assert 2 <= len(values) <= 10
        assert values[0] <= lowest
        assert values[-1] >= highest
    assert len(curves(svg)["training"]) == min(steps, MOST_POINTS)


def test_a_falling_loss_falls() -> None:
    svg = drawn([(step, 8.0 - step) for step in range(1, 6)], [(2, 6.5), (4, 5.0)])
    for points in curves(svg).values():
        assert points == sorted(points)
        assert [y for _, y in points] == sorted(y for _, y in points)  # y counts downwards
    texts = [text.text for text in svg.iter(f"{SVG}text")]
    assert "training, 3.000 at the end" in texts
    assert "held out, 5.000 at the end" in texts


def test_without_held_out_losses_there_is_no_such_curve() -> None:
    text = loss_curve([(1, 3.0), (2, 2.0)])
    assert set(curves(ElementTree.fromstring(text))) == {"training"}
    assert "held out" not in text


def test_neighbours_become_their_mean() -> None:
    points = [(step, float(step % 2)) for step in range(1, 2 * MOST_POINTS + 1)]
    (line,) = curves(drawn(points)).values()
    assert len({y for _, y in line}) == 1


def test_nothing_is_loaded_from_elsewhere() -> None:
    text = loss_curve([(1, 3.0)])
    assert re.findall(r"(?:href|src|url)\W", text) == []
    assert "<script" not in text


def test_a_curve_needs_a_step() -> None:
    with pytest.raises(ValueError, match="at least one step"):
        loss_curve([])
