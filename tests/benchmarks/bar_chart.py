"""Groups of horizontal bars as an SVG that can be read on light and on dark pages."""

from typing import NamedTuple
from xml.sax.saxutils import escape

COLUMNS = 2
WIDTH, MARGIN, HEADER = 900, 20, 64  # of the whole picture
ROW, BAR, GROUP_HEADER, GROUP_GAP = 18, 12, 26, 18
NAMES, TEXTS = 142, 94  # the room left of the bars and right of them


class Series(NamedTuple):
    """What one bar of every group stands for, and its colour on a light and on a dark page."""

    name: str
    light: str
    dark: str


class Bar(NamedTuple):
    """A bar of a group: which series it belongs to, how long it is, and what is written beside it."""

    series: str
    value: float
    text: str


class Group(NamedTuple):
    """Bars that are compared with each other."""

    title: str
    bars: list[Bar]


def bar_chart(title: str, subtitle: str, groups: list[Group], series: list[Series]) -> str:
    """The text of an SVG file: the groups in two columns, all on one scale, with a line at 1.

    The picture has a background of its own, which follows the reader's preference for light or dark, so that it can be
    read even where the page around it does not follow.

    Args:
        title: of the picture.
        subtitle: what the bars' lengths mean.
        groups: in reading order.
        series: all that occur in the groups.

    Raises:
        ValueError: there is no bar, or a bar belongs to no series.
    """
    values = [bar.value for group in groups for bar in group.bars]
    numbers = {entry.name: number for number, entry in enumerate(series)}
    unknown = {bar.series for group in groups for bar in group.bars} - numbers.keys()
    if not values or unknown:
        raise ValueError(f"A chart needs bars, each of one of the series; it got {len(values)}, unknown: {unknown}.")
    column = (WIDTH - MARGIN * (COLUMNS + 1)) / COLUMNS
    scale = (column - NAMES - TEXTS) / max(1.0, *values)  # pixels for 1

    body = []
    y = float(HEADER)
    for start in range(0, len(groups), COLUMNS):
        line = groups[start : start + COLUMNS]
        for number, group in enumerate(line):
            x = MARGIN + number * (column + MARGIN)
            body += [f'<text class="group" x="{x:.1f}" y="{y + 14:.1f}">{escape(group.title)}</text>']
            top, left = y + GROUP_HEADER, x + NAMES
            bottom = top + ROW * len(group.bars)
            one = left + scale
            body.append(f'<line class="one" x1="{one:.1f}" y1="{top:.1f}" x2="{one:.1f}" y2="{bottom:.1f}"/>')
            for row, bar in enumerate(group.bars):
                middle = top + ROW * (row + 0.5)
                baseline = middle + 4
                body += [
                    f'<text class="name" x="{left - 6:.1f}" y="{baseline:.1f}">{escape(bar.series)}</text>',
                    f'<rect class="series-{numbers[bar.series]}" x="{left:.1f}" y="{middle - BAR / 2:.1f}" '
                    f'width="{bar.value * scale:.1f}" height="{BAR}" rx="2"/>',
                    f'<text class="value" x="{x + column:.1f}" y="{baseline:.1f}">{escape(bar.text)}</text>',
                ]
        y += GROUP_HEADER + ROW * max(len(group.bars) for group in line) + GROUP_GAP
    height = round(y - GROUP_GAP + MARGIN)
    light = "".join(f".series-{number}{{fill:{entry.light}}}" for number, entry in enumerate(series))
    dark = "".join(f".series-{number}{{fill:{entry.dark}}}" for number, entry in enumerate(series))
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'role="img" aria-labelledby="title">',
        f'<title id="title">{escape(title)}</title>',
        "<style>",
        "text{font:12px system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif;fill:#1f2328}",
        ".title{font-size:17px;font-weight:600}.group{font-size:13px;font-weight:600}.name,.value{text-anchor:end}",
        ".subtitle,.name{fill:#59636e}.one{stroke:#59636e;stroke-dasharray:3 3}.background{fill:#ffffff}",
        light,
        "@media (prefers-color-scheme:dark){",
        "text{fill:#f0f6fc}.subtitle,.name{fill:#9198a1}.one{stroke:#9198a1}.background{fill:#0d1117}",
        dark,
        "}",
        "</style>",
        f'<rect class="background" width="{WIDTH}" height="{height}" rx="6"/>',
        f'<text class="title" x="{MARGIN}" y="28">{escape(title)}</text>',
        f'<text class="subtitle" x="{MARGIN}" y="47">{escape(subtitle)}</text>',
    ]
    return "\n".join([*head, *body, "</svg>", ""])
