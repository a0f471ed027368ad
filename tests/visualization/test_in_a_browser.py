"""The page in a real browser: keyboard, phone, colours, and that nothing is loaded and no text runs."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.visualization.browser import Browser
from tests.visualization.test_attention_page import HOSTILE, attentions_of
from xlmr_np.visualization import attention_page

pytestmark = pytest.mark.xdist_group("browser")

LAYERS, HEADS = 3, 4
TOKENS = ["<s>", "▁The", "▁cat", "▁", "القط", "▁نائم", "猫", "แมว", "่", "\u202eb", *HOSTILE, "</s>"]
TITLE = "</title><script>hacked=1</script><img src=x onerror=hacked=1>"
ATTENTIONS = attentions_of(len(TOKENS), LAYERS, HEADS)
PHONE = (360, 740)

# The contrast of text with what is behind it, as WCAG 2 counts it; the least that any visible text has.
LEAST_CONTRAST = """
const channel = (value) => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
const parsed = (colour) => colour.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
const behind = (node) => {
  for (; node; node = node.parentElement) {
    const colour = parsed(getComputedStyle(node).backgroundColor);
    if (colour.length === 3 || colour[3] === 1) return colour;
  }
};
let least = [99, ''];
for (const node of document.querySelectorAll('body *')) {
  const hasText = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
  if (!hasText || node.closest('.space, script, noscript') || !node.getClientRects().length) continue;
  const [text, back] = [light(parsed(getComputedStyle(node).color)), light(behind(node))];
  const contrast = (Math.max(text, back) + 0.05) / (Math.min(text, back) + 0.05);
  if (contrast < least[0]) least = [contrast, node.outerHTML];
}
return least;
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "attention.html"
    file.write_text(attention_page(TOKENS, ATTENTIONS, TITLE), encoding="utf-8")
    return file


@pytest.fixture(autouse=True)
def shown(browser: Browser, page: Path) -> Iterator[None]:
    """The page on a desk by day, afresh; whatever a test did with it, nothing was logged, and nothing loaded."""
    browser.show_as(1280, 900, "light")
    browser.open(page)
    yield
    assert browser.log("browser") == []
    assert browser.requests() == [page.as_uri()]
    assert browser.run("return [typeof hacked, document.images.length, document.scripts.length]") == ["undefined", 0, 2]


def text_of(browser: Browser, selector: str) -> str:
    return browser.run("return document.querySelector(arguments[0]).textContent", selector)


def percent(weight: float) -> str:
    return f"{100 * weight:.1f} %" if weight < 0.0995 else f"{100 * weight:.0f} %"


def focus(browser: Browser, selector: str) -> None:
    browser.run("document.querySelector(arguments[0]).focus()", selector)


def test_what_it_shows_first(browser: Browser) -> None:
    assert text_of(browser, "h1") == TITLE
    assert text_of(browser, ".facts") == f"{LAYERS} layers · {HEADS} heads · {len(TOKENS)} tokens"
    assert text_of(browser, "#chosen-title") == "Layer 3, average of its heads"
    assert browser.run("return document.querySelectorAll('#overview button').length") == LAYERS * (HEADS + 1)
    drawn = np.count_nonzero(ATTENTIONS[-1].mean(axis=0) >= 0.02)
    assert browser.run("return document.querySelectorAll('#lines path').length") == pytest.approx(
        drawn, abs=3
    )  # 8 bits


def test_heads_by_keyboard(browser: Browser) -> None:
    focus(browser, "#overview [tabindex='0']")
    for keys, name in (
        (["Home"], "Layer 3, head 1"),
        (["ArrowUp", "ArrowRight"], "Layer 2, head 2"),
        (["PageUp", "ArrowUp", "ArrowLeft", "ArrowLeft"], "Layer 1, head 1"),
        (["PageDown", "End", "ArrowRight", "ArrowDown"], "Layer 3, average of its heads"),
    ):
        browser.press(*keys)
        assert text_of(browser, "#chosen-title") == name
        assert browser.run("return document.activeElement.getAttribute('aria-label')") == name
        assert browser.run("return document.querySelectorAll('#overview [aria-selected=true]').length") == 1
        assert browser.run("return document.querySelectorAll('#overview [tabindex=\"0\"]').length") == 1
    assert browser.run("return getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_tokens_by_keyboard(browser: Browser) -> None:
    browser.run("const head = document.getElementById('head'); head.value = 1; head.dispatchEvent(new Event('change'))")
    focus(browser, "#from [tabindex='0']")
    browser.press("ArrowDown", "ArrowDown")
    weights = ATTENTIONS[2, 1]
    first = int(weights[2].argmax())
    assert text_of(browser, "#from [aria-selected=true] bdi") == "▁cat"
    assert text_of(browser, "#readout").startswith("▁cat attends to ")
    assert text_of(browser, "#lists li .number") == percent(weights[2].max())
    assert text_of(browser, "#lists li .place") == str(first + 1)
    assert text_of(browser, "#announcement") == text_of(browser, "#readout")
    browser.press("ArrowRight")
    assert text_of(browser, "#to [aria-selected=true] bdi") == "▁cat"
    assert text_of(browser, "#readout").startswith("▁cat is attended by ")
    assert text_of(browser, "#lists li .number") == percent(weights[:, 2].max())
    browser.press("End")
    assert text_of(browser, "#to [aria-selected=true] bdi") == "</s>"
    browser.press("Escape")
    assert browser.run("return document.querySelectorAll('.side [aria-selected=true]').length") == 0
    assert text_of(browser, "#detail-title") == "Strongest links"
    browser.press("ArrowUp")
    assert browser.run("return document.activeElement.dataset.token") == str(len(TOKENS) - 2)


def test_the_matrix_by_keyboard(browser: Browser) -> None:
    focus(browser, "[name=view]")
    browser.press("ArrowRight")
    assert browser.run(
        "return [document.getElementById('links').hidden, document.getElementById('matrix').hidden]"
    ) == [
        True,
        False,
    ]
    focus(browser, "#cells")
    browser.press("Home", "ArrowDown", "ArrowRight", "ArrowRight")
    assert text_of(browser, "#rows .picked") == "▁The"
    assert text_of(browser, "#columns .picked") == "▁cat"
    assert text_of(browser, "#readout") == f"▁The attends to ▁cat: {percent(ATTENTIONS[2].mean(axis=0)[1, 2])}"
    browser.press("Escape")
    assert browser.run("return document.getElementById('cursor').hidden")


def test_tab_reaches_every_control(browser: Browser) -> None:
    browser.run("document.body.tabIndex = -1; document.body.focus()")
    reached = []
    for _ in range(8):
        browser.press("Tab")
        reached.append(
            browser.run("const at = document.activeElement; return at.id || at.name || at.closest('[id]').id")
        )
    assert reached == ["overview", "layer", "head", "view", "special", "release", "from", "to"]


def test_without_special_tokens(browser: Browser) -> None:
    focus(browser, "#special")
    browser.press("Space")
    assert browser.run("return document.querySelectorAll('#from li').length") == len(TOKENS) - 2
    focus(browser, "#from [tabindex='0']")
    weights = ATTENTIONS[2].mean(axis=0)[1, 1:-1]
    assert text_of(browser, "#from [aria-selected=true] bdi") == "▁The"
    assert text_of(browser, "#lists li .number") == percent(weights.max() / weights.sum())


def test_scripts_and_what_has_no_shape(browser: Browser) -> None:
    pieces = browser.run("return [...document.querySelectorAll('#from bdi')].map((node) => node.textContent)")
    expected = list(TOKENS)
    expected[8] = "◌่"
    expected[9] = "U+202Eb"
    expected[13] = "U+2028U+202EU+0000\\\"'"
    assert pieces == expected
    assert browser.run("return [...document.querySelectorAll('#from bdi')].every((node) => node.dir === 'auto')")
    assert browser.run("return document.querySelectorAll('#from .special').length") == 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours(browser: Browser, page: Path, scheme: str) -> None:
    browser.show_as(1280, 900, scheme)
    red, green, blue = browser.run("return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (red + green + blue > 600) == (scheme == "light")
    pixels = "return [...document.getElementById('legend').getContext('2d').getImageData(0, 0, 256, 1).data]"
    lightness = np.reshape(browser.run(pixels), (256, 4))[:, :3].sum(axis=1)
    steps = np.diff(lightness) * (1 if scheme == "dark" else -1)
    assert (steps >= -3).all()  # each channel is rounded
    assert abs(lightness[-1] - lightness[0]) > 450
    focus(browser, "#from [tabindex='0']")
    contrast, element = browser.run(LEAST_CONTRAST)
    assert contrast >= 4.5, element


@pytest.mark.parametrize("view", ["links", "matrix"])
def test_on_a_phone_only_the_picture_scrolls(browser: Browser, page: Path, view: str) -> None:
    browser.show_as(*PHONE, "dark", is_phone=True)
    browser.open(page)
    browser.run("document.querySelector(`[name=view][value=${arguments[0]}]`).click()", view)
    width = PHONE[0]
    assert browser.run("return [innerWidth, document.documentElement.scrollWidth, document.body.scrollWidth]") == [
        width,
        width,
        width,
    ]
    outside = browser.run("""
        return [...document.querySelectorAll('body *')]
            .filter((node) => !node.closest('.scroll, .unseen, .words, .piece'))
            .filter((node) => node.getBoundingClientRect().right > innerWidth + 1)
            .map((node) => node.outerHTML)
    """)
    assert outside == []
    small = "return [...document.querySelectorAll('#from li, select, .said button')].filter((node) => node.offsetHeight"
    assert browser.run(f"{small} > 0 && node.offsetHeight < 24).length") == 0  # CSS pixels that WCAG 2.2 asks for


def test_motion_only_where_it_is_wanted(browser: Browser) -> None:
    browser.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "reduce"}])
    duration = "return getComputedStyle(document.querySelector('#to li'), '::before').transitionDuration"
    assert browser.run(duration) == "0s"


def test_without_javascript_it_says_so(browser: Browser, page: Path) -> None:
    browser.devtools("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(page)
        shown = browser.devtools("Accessibility.getFullAXTree")["nodes"]
    finally:
        browser.devtools("Emulation.setScriptExecutionDisabled", value=False)
        browser.open(page)
    texts = [node["name"]["value"] for node in shown if node["role"]["value"] == "StaticText"]
    assert any("JavaScript, which is turned off" in text for text in texts)
    assert "All heads" not in texts
