"""The model that comes with the package: what is there, what it answers, and where it is used unasked."""

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
import regex
import torch
import transformers

import xlmr_np
from tests.cli.conftest import run as run  # the fixture
from tests.cli.finished import Run, assert_bad_input
from tests.pipelines.saved_models import save_fill_mask_model
from xlmr_np import AutoTokenizer, XLMRobertaForMaskedLM, pipeline
from xlmr_np.pipelines.fill_mask import FillMaskPipeline
from xlmr_np.weights.files import DEMO_DIRECTORY

ROOT = Path(__file__).parent.parent
FILES = {"README.md", "config.json", "model.safetensors", "sentencepiece.bpe.model", "tokenizer_config.json"}
NOTICE = (
    "xlmr-np: this is demo, a small model for trying things out; for real work choose a model such as "
    "FacebookAI/xlm-roberta-base.\n"
)
SENTENCES = {
    "Latin": "Everyone has the right to <mask>.",
    "Cyrillic": "Каждый человек имеет право на <mask>.",
    "Greek": "Καθένας έχει δικαίωμα στην <mask>.",
    "Arabic": "لكل شخص الحق في <mask>.",
    "Han": "人人有权享有<mask>。",
}


@pytest.fixture(scope="module")
def fill_mask() -> FillMaskPipeline:
    return pipeline("fill-mask", "demo")


def test_what_comes_with_the_package() -> None:
    assert {path.name for path in DEMO_DIRECTORY.iterdir()} == FILES
    weights, vocabulary = (DEMO_DIRECTORY / name for name in ("model.safetensors", "sentencepiece.bpe.model"))
    assert weights.stat().st_size + vocabulary.stat().st_size <= 12e6
    model = XLMRobertaForMaskedLM.from_pretrained("demo")
    assert model.dtype == np.float16
    assert model.num_parameters() > 2_000_000
    assert len(AutoTokenizer.from_pretrained("demo")) == model.config.vocab_size >= 8_000
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert "demo/*" in settings["package-data"]["xlmr_np"]  # or a wheel would have no demo


@pytest.mark.parametrize("script", SENTENCES)
def test_answers_are_words_of_the_language(script: str, fill_mask: FillMaskPipeline) -> None:
    """None of the first five is a special token, and most are in the script of the text."""
    answers = fill_mask(SENTENCES[script], top_k=5)
    tokens = [answer["token"] for answer in answers]
    assert not set(tokens) & set(fill_mask.tokenizer.all_special_ids)
    scores = [answer["score"] for answer in answers]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > 100 / len(fill_mask.tokenizer)  # a hundred times what blind guessing gives
    letters = [word[0] for answer in answers if (word := answer["token_str"]) and word[0].isalpha()]
    of_the_script = [letter for letter in letters if regex.match(rf"\p{{{script}}}", letter)]
    assert len(of_the_script) > len(letters) / 2


def test_transformers_loads_it() -> None:
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(DEMO_DIRECTORY, dtype="float32").eval()
    tokenizer = AutoTokenizer.from_pretrained("demo")
    batch = tokenizer(list(SENTENCES.values()), padding=True, return_tensors="np")
    with torch.no_grad():
        expected = theirs(**{name: torch.tensor(array) for name, array in batch.items()}).logits.numpy()
    logits = XLMRobertaForMaskedLM.from_pretrained("demo")(**batch).logits
    is_real = batch["attention_mask"].astype(bool)
    np.testing.assert_allclose(logits[is_real], expected[is_real], atol=2e-4)  # logits of up to 20, in float32


def test_commands_use_it_unasked_and_say_so(run: Run) -> None:
    status, out, err = run("fill-mask", SENTENCES["Latin"])
    assert (status, err) == (0, NOTICE)
    assert out.splitlines()[0] == SENTENCES["Latin"]
    assert len(out.splitlines()) == 6
    status, out, err = run("tokenize", "Ein Esel")
    assert (status, err) == (0, NOTICE)
    assert "<s>" in out
    status, out, err = run("info", "--json")
    assert (status, err) == (0, NOTICE)
    assert json.loads(out)["config"]["vocab_size"] == XLMRobertaForMaskedLM.from_pretrained("demo").config.vocab_size


def test_asked_for_by_name_it_needs_no_notice(run: Run) -> None:
    by_name = run("fill-mask", "--model", "demo", SENTENCES["Han"])
    assert (by_name.status, by_name.err) == (0, "")
    assert by_name.out == run("fill-mask", SENTENCES["Han"]).out


def test_trimming_it(run: Run, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("Everyone has the right to life.\n")
    status, out, err = run("trim-vocab", "--corpus", str(corpus), "--out", str(tmp_path / "small"))
    assert (status, err) == (0, NOTICE)
    assert "pieces" in out
    assert (tmp_path / "small" / "model.safetensors").stat().st_size < 12e6


def test_a_directory_of_that_name_comes_first(
    tmp_path: Path, small_vocabulary: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    save_fill_mask_model(tmp_path / "demo", small_vocabulary)
    monkeypatch.chdir(tmp_path)
    own = XLMRobertaForMaskedLM.from_pretrained("demo")
    assert own.config.vocab_size < 1000
    assert run("fill-mask", "--model", "demo", "a <mask>").status == 0
    status, out, _ = run("info", "--json")  # unasked, it is the package's all the same
    assert (status, json.loads(out)["config"]["vocab_size"] >= 8_000) == (0, True)


def test_a_text_that_is_too_long_or_has_no_mask(run: Run) -> None:
    longest = xlmr_np.inputs.longest_sequence(XLMRobertaForMaskedLM.from_pretrained("demo").config)
    text = "the <mask> " + "and " * longest
    assert_bad_input(run("fill-mask", "--model", "demo", "--long-texts", "error", text), "let it be cut")
    status, out, err = run("fill-mask", "--model", "demo", text)
    assert (status, len(out.splitlines())) == (0, 6)
    assert f"of which {longest} around the masks are read" in err
    assert_bad_input(run("fill-mask", "--model", "demo", "no hole"), "mask")


def test_the_example_of_the_page_on_training() -> None:
    """Its own assertions hold; the second defines what needs a GPU to be run."""
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    examples = regex.findall(r"^```python\n(.*?)^```", page, regex.MULTILINE | regex.DOTALL)
    names: dict[str, object] = {}
    for example in examples:
        exec(compile(example, "docs/training.md", "exec"), names)
    assert len(examples) == 2
    assert names["step"].loss < 0.05  # type: ignore[attr-defined]
    assert callable(names["fine_tuned"])
