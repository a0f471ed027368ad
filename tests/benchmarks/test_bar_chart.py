from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.benchmarks.bar_chart import WIDTH, Bar, Group, Series, bar_chart

SVG = "{http://www.w3.org/2000/svg}"
SERIES = [Series("ours", "#000001", "#fffff1"), Series("a < b & c", "#000002", "#fffff2")]
TEXTS = st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=8)
GROUPS = st.lists(
    st.builds(
        Group,
        TEXTS,
        st.lists(
            st.builds(Bar, st.sampled_from([entry.name for entry in SERIES]), st.floats(0, 50), TEXTS), min_size=1
        ),
    ),
    min_size=1,
)


@given(groups=GROUPS)
def test_every_bar_is_drawn_to_scale_with_its_name_and_text(groups: list[Group]) -> None:
    root = ElementTree.fromstring(bar_chart("title", "subtitle", groups, SERIES))
    bars = [bar for group in groups for bar in group.bars]
    rectangles = [element for element in root.iter(f"{SVG}rect") if element.get("class") != "background"]
    widths = [float(element.attrib["width"]) for element in rectangles]
    texts = {
        kind: [element.text or "" for element in root.iter(f"{SVG}text") if element.get("class") == kind]
        for kind in ("group", "name", "value")
    }
    assert texts["group"] == [group.title for group in groups]
    assert texts["name"] == [bar.series for bar in bars]
    assert texts["value"] == [bar.text for bar in bars]
    one = next(root.iter(f"{SVG}line"))
    scale = float(one.attrib["x1"]) - float(rectangles[0].attrib["x"])
    assert widths == pytest.approx([bar.value * scale for bar in bars], abs=6)  # coordinates have one decimal, times 50
    for element in rectangles:
        assert float(element.attrib["x"]) + float(element.attrib["width"]) < WIDTH
        assert float(element.attrib["y"]) < float(root.attrib["height"])


def test_every_series_has_a_colour_for_light_and_for_dark_pages() -> None:
    text = bar_chart("title", "subtitle", [Group("group", [Bar("ours", 1, "1")])], SERIES)
    light, dark = text.split("@media (prefers-color-scheme:dark)")
    for number, entry in enumerate(SERIES):
        assert f".series-{number}{{fill:{entry.light}}}" in light
        assert f".series-{number}{{fill:{entry.dark}}}" in dark


@pytest.mark.parametrize("groups", [[], [Group("empty", [])], [Group("group", [Bar("nobody", 1, "")])]])
def test_what_cannot_be_drawn_is_refused(groups: list[Group]) -> None:
    with pytest.raises(ValueError, match="A chart needs bars"):
        bar_chart("title", "subtitle", groups, SERIES)
