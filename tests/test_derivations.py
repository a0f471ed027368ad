"""The derivation pages: their examples run, and tags, pages and functions all exist where they are cited."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs" / "derivations").glob("*.md"))
UNIGRAM = ROOT / "tokenizer" / "unigram.py"  # the one derived file outside xlmr_np
SOURCES = [*sorted((ROOT / "xlmr_np").rglob("*.py")), UNIGRAM]
TEXTBOOK = ("layers", "heads", "losses")
DERIVED = [file for file in SOURCES if file.parent.name in TEXTBOOK and file.stem != "__init__"] + [UNIGRAM]
TAG = r"\b[A-Z]{2,3}\.\d+\b"
CODE = r"\]\(\.\./\.\./((?:xlmr_np|tokenizer)/[\w/]+\.py)\)"


def defined_tags(page: Path) -> list[str]:
    return re.findall(rf"^    ({TAG})   ", page.read_text(), re.MULTILINE)


def test_every_file_has_a_page_and_every_page_a_file() -> None:
    assert sorted(page.stem for page in PAGES) == sorted(file.stem for file in DERIVED)


def test_every_backward_function_is_named_on_its_page() -> None:
    named = {page.stem: set(re.findall(r"`(\w+)`", page.read_text())) for page in PAGES}
    for file in DERIVED:
        functions = set(re.findall(r"^def ([a-z]\w*_backward)\(", file.read_text(), re.MULTILINE))
        assert functions <= named.get(file.stem, set()), file


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_example_runs(page: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    assert "assert" in example
    exec(example, {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_page_names_code_that_exists(page: Path) -> None:
    text = page.read_text()
    (path,) = re.findall(CODE, text)
    assert Path(path).stem == page.stem
    source = (ROOT / path).read_text()
    for function in re.findall(r"`(\w+_(?:forward|backward|keep|labels))`", text):
        assert f"def {function}(" in source, function


def test_every_tag_is_defined_once_and_numbered_in_order() -> None:
    for page in PAGES:
        tags = defined_tags(page)
        prefix = tags[0].split(".")[0]
        assert tags == [f"{prefix}.{number}" for number in range(1, len(tags) + 1)], page
    prefixes = [defined_tags(page)[0].split(".")[0] for page in PAGES]
    assert len(prefixes) == len(set(prefixes))


def test_every_cited_tag_is_defined() -> None:
    defined = {tag for page in PAGES for tag in defined_tags(page)}
    for file in [*SOURCES, *PAGES]:
        cited = set(re.findall(TAG, file.read_text()))
        assert cited <= defined, file


def test_every_backward_function_of_a_derived_layer_cites_its_page() -> None:
    for page in PAGES:
        prefix = defined_tags(page)[0].split(".")[0]
        (path,) = re.findall(CODE, page.read_text())
        assert f"{prefix}." in (ROOT / path).read_text(), page
