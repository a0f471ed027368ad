"""What a user installs: how large it is, how fast it is imported, and what it does not need."""

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import xlmr_np

ROOT = Path(__file__).parent.parent
FORBIDDEN = {"torch", "transformers", "scipy", "jax", "tensorflow"}


def run_time_distributions() -> dict[str, metadata.Distribution]:
    """xlmr-np and everything that it needs at run time, without extras."""
    found: dict[str, metadata.Distribution] = {}
    wanted = ["xlmr-np"]
    while wanted:
        name = re.sub(r"[-_.]+", "-", wanted.pop()).lower()
        if name in found:
            continue
        found[name] = metadata.distribution(name)
        for line in found[name].requires or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                wanted.append(requirement.name)
    return found


def size(distribution: metadata.Distribution) -> int:
    paths = [Path(str(distribution.locate_file(file))) for file in distribution.files or ()]
    return sum(path.stat().st_size for path in paths if path.is_file() and path.suffix != ".pyc")


def test_installed_size_of_the_run_time_dependencies(capsys: pytest.CaptureFixture[str]) -> None:
    distributions = run_time_distributions()
    sizes = {name: size(distribution) for name, distribution in distributions.items()}
    sizes["xlmr-np"] = sum(  # installed for development, so its files are those of the project
        file.stat().st_size
        for part in ("xlmr_np", "tokenizer", "weights")
        for file in (ROOT / part).rglob("*")
        if file.is_file() and file.suffix != ".pyc"
    )
    with capsys.disabled():
        print("\n| package | installed, MB |\n|---|---|")
        for name, number in sorted(sizes.items(), key=lambda item: -item[1]):
            print(f"| {name} | {number / 1e6:.1f} |")
        print(f"| all {len(sizes)} | {sum(sizes.values()) / 1e6:.1f} |")
    assert FORBIDDEN.isdisjoint(distributions)
    assert sum(sizes.values()) < 150e6


def test_import_takes_milliseconds_and_loads_nothing_heavy() -> None:
    program = (
        "import sys, time; start = time.perf_counter(); import xlmr_np; seconds = time.perf_counter() - start;"
        "print(seconds, *sorted({name.split('.')[0] for name in sys.modules}))"
    )
    runs = [subprocess.check_output([sys.executable, "-c", program], text=True, cwd="/").split() for _ in range(3)]
    assert min(float(run[0]) for run in runs) <= 0.3
    assert not {"numpy", "sentencepiece", "huggingface_hub", *FORBIDDEN} & set(runs[0][1:])


def test_models_load_nothing_that_is_not_needed() -> None:
    program = "import sys, xlmr_np.pipelines; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    modules = set(subprocess.check_output([sys.executable, "-c", program], text=True, cwd="/").split())
    assert "numpy" in modules
    assert not {"cupy", "huggingface_hub", "tqdm", *FORBIDDEN} & modules


def test_every_public_name_is_there() -> None:
    for name in xlmr_np.__all__:
        assert getattr(xlmr_np, name).__doc__, name
    assert set(xlmr_np.__all__) <= set(dir(xlmr_np))
    with pytest.raises(AttributeError, match="no attribute 'foo'"):
        xlmr_np.foo  # noqa: B018


def test_the_textbook_names_no_array_library_and_writes_nothing_in_place() -> None:
    for folder in ("layers", "heads", "losses"):
        for file in (ROOT / "xlmr_np" / folder).glob("*.py"):
            source = file.read_text()
            assert not re.search(r"import (numpy|cupy|torch)|\bnp\.|\bcp\.", source), file
            assert not re.search(r"^\s*[\w.\[\]]+ [-+*/|&]= |\bout=|^\s*\w+\[.*\] = ", source, re.MULTILINE), file


def test_the_readme_names_only_commands_and_files_that_exist() -> None:
    readme = (ROOT / "README.md").read_text()
    for path in re.findall(r"`((?:layers|heads|losses|ops)/\w+\.py|encoder\.py)`", readme):
        assert (ROOT / "xlmr_np" / path).is_file(), path
    for path in re.findall(r"\]\((docs/[\w/.]+)\)", readme):
        assert (ROOT / path).exists(), path


def test_documents_have_no_placeholders() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        assert not re.search(r"^[A-Z_]{5,}$|TODO|TBD", page.read_text(), re.MULTILINE), page


def test_the_readme_pins_the_peer_that_the_extra_pins() -> None:
    pinned = re.findall(r"torch==[\d.]+", (ROOT / "pyproject.toml").read_text())
    assert re.findall(r"torch==[\d.]+", (ROOT / "README.md").read_text()) == pinned
