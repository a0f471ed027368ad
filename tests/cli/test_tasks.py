"""The commands of the tasks, on small random models: what they print and write, and what the pipelines say."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.finished import Finished, Run, assert_bad_input, assert_harmless
from tests.pipelines.saved_models import LONGEST, save_model
from xlmr_np import pipeline
from xlmr_np.cli.answering import answered
from xlmr_np.cli.records import Source, Taken
from xlmr_np.pipelines.streaming import BATCHES_IN_WINDOW

SCRIPTS = ["The cat sleeps in Berlin.", "Привет, мир!", "今天天气很好。", "مرحبا بالعالم", "नमस्ते दुनिया"]
HOSTILE = "the \x1b[31m\x1b]0;title\x07 \x9b2J\x9d \x7f\x08 \u202eback\u2066 \u2028 \U000e0041 cat"
NAMES = {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC", 4: "I-LOC"}
CLASSES = {
    "classify": ("XLMRobertaForSequenceClassification", {"id2label": {0: "bad", 1: "good", 2: "so-so"}}),
    "zero-shot": (
        "XLMRobertaForSequenceClassification",
        {"id2label": {0: "contradiction", 1: "neutral", 2: "entailment"}},
    ),
    "rank": ("XLMRobertaForSequenceClassification", {"num_labels": 1}),
    "ner": ("XLMRobertaForTokenClassification", {"id2label": NAMES}),
    "qa": ("XLMRobertaForQuestionAnswering", {}),
    "embed": ("XLMRobertaModel", {}),
}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory, small_vocabulary: Path) -> dict[str, str]:
    """A directory for each command."""
    root = tmp_path_factory.mktemp("task models")
    found = {}
    for command, (model_class, settings) in CLASSES.items():
        if "id2label" in settings:
            settings = {**settings, "label2id": {label: number for number, label in settings["id2label"].items()}}
        save_model(root / command, model_class, small_vocabulary, initializer_range=0.5, **settings)
        found[command] = str(root / command)
    found["search"] = found["features"] = found["embed"]
    return found


def good(finished: Finished, status: int = 0) -> str:
    assert (finished.status, finished.err) == (status, "")
    return finished.out


def lines_of_json(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def almost(value: Any) -> Any:
    """The same with numbers that may differ as batches do."""
    if isinstance(value, float):
        return pytest.approx(value, rel=1e-4, abs=1e-6)  # float32, logits of order 10
    if isinstance(value, dict):
        return {name: almost(each) for name, each in value.items()}
    return [almost(each) for each in value] if isinstance(value, list | tuple) else value


QA = [{"question": "Who sleeps?", "context": text} for text in SCRIPTS]


# --- each command says what its pipeline says, in five scripts ---


def test_classify(run: Run, models: dict[str, str], tmp_path: Path) -> None:
    pipe = pipeline("text-classification", models["classify"])
    command = ("classify", "--model", models["classify"])
    answers = lines_of_json(good(run(*command, "--all", "--json", *SCRIPTS)))
    expected = [{"text": text, "labels": pipe(text, top_k=None)} for text in SCRIPTS]
    assert answers == almost(expected)
    lines = good(run(*command, *SCRIPTS)).splitlines()
    assert lines[::2] == SCRIPTS
    assert [line.split()[1] for line in lines[1::2]] == [each["labels"][0]["label"] for each in expected]
    (tmp_path / "pairs.tsv").write_text("hypothesis\tpremise\nB.\tA.\nD.\tC.\n")
    columns = ("--input", str(tmp_path / "pairs.tsv"), "--column", "text=premise,text_pair=hypothesis")
    answers = lines_of_json(good(run(*command, "--json", *columns, "--function", "none")))
    pairs = [{"text": "A.", "text_pair": "B."}, {"text": "C.", "text_pair": "D."}]
    scores = pipe(pairs, top_k=1, function_to_apply="none")
    assert answers == almost([{**pair, "labels": score} for pair, score in zip(pairs, scores, strict=True)])


def test_ner(run: Run, models: dict[str, str]) -> None:
    pipe = pipeline("token-classification", models["ner"], aggregation_strategy="average")
    command = ("ner", "--model", models["ner"])
    answers = lines_of_json(good(run(*command, "--json", *SCRIPTS)))
    assert answers == almost([{"text": text, "entities": pipe(text)} for text in SCRIPTS])
    assert sum(len(answer["entities"]) for answer in answers) > len(SCRIPTS)
    for line, answer in zip(good(run(*command, *SCRIPTS)).splitlines(), answers, strict=True):
        for each in answer["entities"]:
            assert f"[{each['word']}]({each['entity_group']} {each['score']:.2f})" in line
    tokens = lines_of_json(good(run(*command, "--json", "--aggregation", "none", "--keep-others", SCRIPTS[0])))[0]
    assert len(tokens["entities"]) == len(pipe.tokenizer(SCRIPTS[0])["input_ids"]) - 2


def test_colors_where_they_are_seen(run: Run, models: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("ner", "--model", models["ner"], SCRIPTS[0])
    plain = good(run(*command))
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    colored = run(*command).out
    assert "\x1b[1;3" in colored
    assert "](" in plain
    assert "](" not in colored
    monkeypatch.setenv("NO_COLOR", "1")
    assert run(*command).out == plain
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert run(*command).out == plain


def test_qa(run: Run, models: dict[str, str], tmp_path: Path) -> None:
    pipe = pipeline("question-answering", models["qa"])
    command = ("qa", "--model", models["qa"])
    records = "".join(json.dumps(each) + "\n" for each in QA).encode()
    answers = lines_of_json(good(run(*command, "--json", "--input-format", "jsonl", stdin=records)))
    assert answers == almost([{**each, "answers": [pipe(each)]} for each in QA])
    context = "\n".join(SCRIPTS)
    (tmp_path / "context.txt").write_text(context, encoding="utf-8")
    best = pipe({"question": "Who sleeps?", "context": context}, top_k=2)
    for given in (("--context", context), ("--context-file", str(tmp_path / "context.txt"))):
        out = good(run(*command, *given, "--top-k", "2", "Who sleeps?"))
        assert out.splitlines()[0] == "Who sleeps?"
        for each in best:
            assert f"[{' '.join(each['answer'].split())}]" in out
    assert_bad_input(run(*command, "Who?"), "A text alone is not a question with its context: give --context")


def test_zero_shot(run: Run, models: dict[str, str]) -> None:
    pipe = pipeline("zero-shot-classification", models["zero-shot"])
    template = "Es geht um {}."
    options = ("--labels", "sport, art", "--template", template)
    answers = lines_of_json(good(run("zero-shot", "--model", models["zero-shot"], *options, "--json", *SCRIPTS)))
    for text, answer in zip(SCRIPTS, answers, strict=True):
        expected = pipe(text, candidate_labels=["sport", "art"], hypothesis_template=template)
        assert answer == almost({"text": text, "labels": expected["labels"], "scores": expected["scores"]})
    command = ("zero-shot", "--model", models["zero-shot"])
    assert_bad_input(run(*command, "--labels", "a,b", "--template", "no place", "the cat"), "has no place for a label")
    assert_bad_input(run(*command, "--labels", "", "the cat"), "--labels '' has no label")


def test_rank(run: Run, models: dict[str, str], tmp_path: Path) -> None:
    pipe = pipeline("reranking", models["rank"])
    expected = almost([{"query": "cat", "results": pipe.rank("cat", SCRIPTS)}])
    command = ("rank", "--model", models["rank"])
    assert lines_of_json(good(run(*command, "--json", "cat", *SCRIPTS))) == expected
    (tmp_path / "docs.txt").write_text("\n".join(SCRIPTS), encoding="utf-8")
    documents = ("--documents", str(tmp_path / "docs.txt"))
    assert lines_of_json(good(run(*command, "--json", *documents, "cat"))) == expected
    records = json.dumps({"query": "cat", "documents": SCRIPTS}).encode()
    (own,) = lines_of_json(good(run(*command, "--json", "--input-format", "jsonl", stdin=records)))
    assert own["results"] == expected[0]["results"]
    table = good(run(*command, *documents, "--top-k", "2", "cat")).splitlines()
    assert table[0] == "cat"
    assert [line.split()[1] for line in table[1:]] == [str(each["corpus_id"]) for each in own["results"][:2]]
    assert_bad_input(run(*command, "cat"), "A text alone is not a query with its documents: give --documents")


@pytest.mark.filterwarnings("ignore")
def test_embed_and_search(run: Run, models: dict[str, str], tmp_path: Path) -> None:
    pipe = pipeline("sentence-embedding", models["embed"], pooling="mean")
    vectors = pipe([f"passage: {text}" for text in SCRIPTS], normalize=True)
    (tmp_path / "docs.txt").write_text("\n".join(SCRIPTS), encoding="utf-8")
    command = ("embed", "--model", models["embed"], "--pooling", "mean", "--normalize", "--prompt", "passage: ")
    target = tmp_path / "docs.npy"
    assert good(run(*command, "--input", str(tmp_path / "docs.txt"), "--output", str(target))) == ""
    written = np.load(target)
    assert written.dtype == np.float32
    np.testing.assert_allclose(written, vectors, atol=2e-5)  # float32, run in other batches
    answers = lines_of_json(good(run(*command, "--json", *SCRIPTS)))
    assert [each["text"] for each in answers] == SCRIPTS
    np.testing.assert_allclose([each["embedding"] for each in answers], vectors, atol=2e-5)  # likewise
    assert "32 numbers, length 1:" in good(run(*command, SCRIPTS[0]))

    search = ("search", "--model", models["embed"], "--corpus", str(tmp_path / "docs.txt"), "--top-k", "2", "--json")
    expected = pipe.semantic_search(["a cat"], SCRIPTS, 2, corpus_prompt="passage: ")[0]
    anew = run(*search, "--document-prompt", "passage: ", "a cat")
    stored = run(*search, "--vectors", str(target), "a cat")
    for finished in (anew, stored):
        assert finished.status == 0
        (answer,) = lines_of_json(finished.out)
        assert answer["query"] == "a cat"
        assert [each["corpus_id"] for each in answer["results"]] == [each["corpus_id"] for each in expected]
        assert [each["text"] for each in answer["results"]] == [SCRIPTS[each["corpus_id"]] for each in expected]
    np.save(tmp_path / "few.npy", written[:2])
    assert "2 vectors, and there are 5 documents" in run(*search, "--vectors", str(tmp_path / "few.npy"), "a cat").err
    assert "is no .npy file" in run(*search, "--vectors", str(tmp_path / "docs.txt"), "a cat").err


def test_features(run: Run, models: dict[str, str], tmp_path: Path) -> None:
    pipe = pipeline("feature-extraction", models["features"], return_tensors=True)
    states = [pipe(text)[0] for text in SCRIPTS]
    target = tmp_path / "states.npy"
    assert good(run("features", "--model", models["features"], "--output", str(target), *SCRIPTS)) == ""
    np.testing.assert_allclose(np.load(target), np.concatenate(states), atol=2e-5)  # float32, run in other batches
    (answer,) = lines_of_json(good(run("features", "--model", models["features"], "--json", SCRIPTS[0])))
    np.testing.assert_allclose(answer["features"], states[0], atol=2e-5)  # likewise


def test_a_megabyte(run: Run, models: dict[str, str], tmp_path: Path) -> None:
    """A text, and a cell of CSV, of a megabyte are cut, with a warning."""
    (tmp_path / "long.csv").write_text('text\n"' + "the cat " * 131_072 + '"\n')
    command = ("classify", "--model", models["classify"], "--input", str(tmp_path / "long.csv"))
    status, out, err = run(*command, "--format", "csv")
    assert (status, err.count("\n")) == (0, 1)
    assert f"of which {LONGEST} are read" in err
    assert out.count("\n") == 2
    assert run(*command, "--long-texts", "error").status == 2


@pytest.mark.parametrize(
    "command", ["embed", *(pytest.param(slow, marks=pytest.mark.exhaustive) for slow in ("ner", "qa"))]
)
def test_a_megabyte_of_other_tasks(run: Run, models: dict[str, str], tmp_path: Path, command: str) -> None:
    text = "the cat " * 131_072
    (tmp_path / "long.txt").write_text(text)
    given = {"qa": ("--context-file", str(tmp_path / "long.txt"), "Who sleeps?")}
    finished = run(
        command, "--model", models[command], "--format", "csv", "--output", str(tmp_path / "out.csv"),
        *given.get(command, ("--input", str(tmp_path / "long.txt"))),
    )  # fmt: skip
    assert finished.status == 0
    size = (tmp_path / "out.csv").stat().st_size
    assert (len(text) if command != "qa" else 0) < size < 50 * len(text)


def test_the_size_of_a_table_is_linear_in_that_of_a_text(run: Run, models: dict[str, str]) -> None:
    command = ("ner", "--model", models["ner"], "--aggregation", "none", "--keep-others", "--format", "csv")
    short, long = (good(run(*command, "the cat " * number)) for number in (100, 800))
    assert 7 < len(long) / len(short) < 9.5  # 64 if the text were in each row
    rows = list(csv.DictReader(io.StringIO(good(run(*command, "the cat", "a dog")))))
    assert [*rows[0]][:3] == ["number", "text", "entity"]
    first = [row["number"] for row in rows].index("2")
    assert [row["text"] for row in rows] == ["the cat"] + [""] * (first - 1) + ["a dog"] + [""] * (
        len(rows) - first - 1
    )


def test_numbers_of_records_count_what_is_left_out(run: Run, models: dict[str, str]) -> None:
    command = ("classify", "--model", models["classify"], "--skip-errors", "--format", "csv")
    finished = run(*command, "--all", stdin=b"the cat\nc\xfft\na dog\n")
    rows = list(csv.DictReader(io.StringIO(finished.out)))
    assert [row["number"] for row in rows] == ["1"] * 3 + ["3"] * 3
    one_row = list(csv.DictReader(io.StringIO(run(*command, stdin=b"the cat\nc\xfft\na dog\n").out)))
    assert [[*row] for row in one_row] == [["text", "label", "score"]] * 2


def test_columns_that_records_may_have(run: Run, models: dict[str, str]) -> None:
    def header(stdin: bytes, *options: str) -> str:
        command = ("classify", "--model", models["classify"], "--format", "csv", "--input-format")
        return good(run(*command, *options, stdin=stdin)).splitlines()[0]

    assert header(b"text,id\na,1\n", "csv") == "text,label,score"
    assert header(b"text,text_pair\na,b\n", "csv") == "text,text_pair,label,score"
    assert header(b'{"t": "a", "text_pair": "b"}', "jsonl", "--column", "t") == "text,label,score"
    assert header(b'{"t": "a", "u": "b"}', "jsonl", "--column", "t,u") == "text,text_pair,label,score"
    assert header(b'"a"\n{"text": "a", "text_pair": "b"}', "jsonl") == "text,text_pair,label,score"  # a later one


def test_long_lines_are_cut_on_a_terminal(run: Run, models: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for command in ("classify", "embed"):
        arguments = (command, "--model", models[command], "the cat " * 2000)
        assert len(run(*arguments).out.splitlines()[0]) == 15_999 + 1
        with monkeypatch.context() as patched:
            patched.setattr(sys.stdout, "isatty", lambda: True)
            assert len(run(*arguments).out.splitlines()[0]) == 1000


class Endless:
    """A standard input that never ends."""

    def __init__(self) -> None:
        self.taken = 0
        self.buffer = self

    def isatty(self) -> bool:
        return False

    def __iter__(self) -> Iterator[bytes]:
        while True:
            self.taken += 1
            yield b"the cat\n"


def test_no_more_than_a_window_is_read_ahead(models: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = pipeline("text-classification", models["classify"], batch_size=2)
    endless = Endless()
    monkeypatch.setattr(sys, "stdin", endless)
    answers = answered(pipe, Source(Taken(("text",), "a text")), lambda fields: fields["text"])
    for number in range(1, 100):
        next(answers)
        assert number <= endless.taken <= number + 2 * BATCHES_IN_WINDOW


# --- options that are checked before there is work ---


def test_options_out_of_range(run: Run, models: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "docs.txt").write_text("a cat\n")
    documents = str(tmp_path / "docs.txt")
    for command, message in (
        (("search", "--corpus", documents, "--top-k", "0", "cat"), "--top-k 0 is too small"),
        (("rank", "--documents", documents, "--top-k", "0", "cat"), "--top-k 0 is too small"),
        (("qa", "--context", "a cat", "--top-k", "0", "Who?"), "--top-k 0 is too small"),
        (("qa", "--context", "a cat", "--max-answer-length", "0", "Who?"), "--max-answer-length 0 is too small"),
        (("qa", "--context", "a cat", "--window", "0", "Who?"), "--window 0 is too small"),
        (("qa", "--context", "a cat", "--stride", "-1", "Who?"), "--stride -1 is too small"),
        (("zero-shot", "--labels", " ,", "cat"), "--labels ' ,' has no label"),
        (("search", "--corpus", documents, "--vectors", "v.npy", "--document-prompt", "x", "cat"), "no prompt for"),
        (("search", "--corpus", documents, "--vectors", "v.npy", "--document-prompt-name", "x", "a"), "no prompt for"),
    ):
        assert_bad_input(run(*command, "--model", "no/such model"), message)


@pytest.mark.filterwarnings("ignore")
def test_vectors_that_do_not_fit(run: Run, models: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "docs.txt").write_text("a cat\na dog\n")
    command = ("search", "--model", models["embed"], "--corpus", str(tmp_path / "docs.txt"), "--vectors")
    for vectors, message in (
        (np.ones((2, 31), np.float32), "has vectors of 31 numbers, and this model makes 32"),
        (np.full((2, 32), np.nan, np.float32), "holds numbers that are not finite"),
    ):
        np.save(tmp_path / "vectors.npy", vectors)
        status, out, err = run(*command, str(tmp_path / "vectors.npy"), "cat")
        assert (status, out) == (2, "")
        assert f"{tmp_path / 'vectors.npy'} {message}" in err
    status, out, err = run(*command, str(tmp_path / "docs.txt"), "cat")
    assert (status, out) == (2, "")
    assert "docs.txt is no .npy file of vectors; make one with xlmr-np embed." in err
    assert "pickle" not in err


def test_questions_with_and_without_a_context(run: Run, models: dict[str, str]) -> None:
    records = b'{"question": "Who?", "context": "A dog."}\n"Who?"\n'
    command = ("qa", "--model", models["qa"], "--context", "The cat.", "--input-format", "jsonl", "--json")
    own, given = (each["answers"][0] for each in lines_of_json(good(run(*command, stdin=records))))
    assert own["answer"] in "A dog."
    assert given["answer"] in "The cat."


def test_documents_without_words(run: Run, models: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "docs.txt").write_text("the cat\n<mask>\nthe dog\n")
    command = ("rank", "--model", models["rank"], "--documents", str(tmp_path / "docs.txt"), "--json")
    assert_bad_input(run(*command, "cat", "dog"), "docs.txt, line 2: holds nothing to read")
    status, out, err = run(*command, "--skip-errors", "cat", "dog")
    assert (status, err.count("\n")) == (1, 1)
    for answer in lines_of_json(out):
        assert {each["corpus_id"]: each["text"] for each in answer["results"]} == {0: "the cat", 1: "the dog"}
    (tmp_path / "docs.txt").write_text("<mask>\n")
    assert "No document of" in run(*command, "--skip-errors", "cat").err


def test_run_writes_what_a_name_says(run: Run, models: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("text\nthe cat\n")
    command = ("run", "--model", models["classify"], "--task", "text-classification")
    made = ("--input", str(tmp_path / "in.csv"), "--output", str(tmp_path / "out.json"))
    assert_bad_input(run(*command, *made), "answers csv, and .*out.json is named as json; name it .*out.csv")
    assert_bad_input(run(*command, *made[2:], stdin=b"the cat\n"), "answers jsonl, and .*out.json is named as json")
    assert [each.name for each in tmp_path.iterdir()] == ["in.csv"]
    good(run(*command, *made, "--format", "csv"))


# --- models ---


@pytest.mark.parametrize("command", ["classify", "ner", "qa", "zero-shot", "embed", "rank", "search"])
def test_a_model_is_needed(run: Run, tmp_path: Path, command: str) -> None:
    (tmp_path / "docs.txt").write_text("a cat\n")
    further = {"search": ("--corpus", str(tmp_path / "docs.txt")), "rank": ("--documents", str(tmp_path / "docs.txt"))}
    further |= {"zero-shot": ("--labels", "a,b"), "qa": ("--context", "a cat")}
    finished = run(command, *further.get(command, ()), "the cat")
    assert_bad_input(finished, "A model that was trained for .* is needed: give --model")


def test_a_model_of_another_task(run: Run, models: dict[str, str]) -> None:
    assert_bad_input(run("ner", "--model", models["embed"], "the cat"), "lacks weights that token-classification needs")
    assert_bad_input(run("rank", "--model", models["classify"], "the", "cat"), "a model with one label")
    finished = run("zero-shot", "--model", models["classify"], "--labels", "a,b", "the cat")
    assert_bad_input(finished, "entail")


# --- nothing reaches the terminal that it would obey ---


def test_hostile_texts(run: Run, models: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docs.txt").write_text(HOSTILE + "\n", encoding="utf-8")
    further = {
        "qa": ("--context", HOSTILE),
        "zero-shot": ("--labels", HOSTILE),
        "rank": ("--documents", str(tmp_path / "docs.txt")),
        "search": ("--corpus", str(tmp_path / "docs.txt")),
    }
    monkeypatch.setenv("NO_COLOR", "1")
    for is_terminal in (False, True):
        monkeypatch.setattr(sys.stdout, "isatty", lambda is_terminal=is_terminal: is_terminal)
        for command, model in models.items():
            for shown in ("table", "jsonl", *["csv"] * is_terminal):
                finished = run(command, "--model", model, *further.get(command, ()), "--format", shown, HOSTILE)
                assert finished.status == 0
                assert_harmless(finished.out + finished.err)


# --- run, as transformers had it ---


PHOTOSYNTHESIS = "Plants create <mask> through a process known as photosynthesis."


def test_run_reads_a_pipe(run: Run, model: str, models: dict[str, str]) -> None:
    out = good(run("run", "--task", "fill-mask", "--model", model, "--device", "-1", stdin=PHOTOSYNTHESIS.encode()))
    assert lines_of_json(out) == almost([pipeline("fill-mask", model)(PHOTOSYNTHESIS)])
    pipe = pipeline("question-answering", models["qa"])
    piped = "".join(f"{each['question']}\t{each['context']}\n" for each in QA).encode()
    out = good(run("run", "--task", "question-answering", "--model", models["qa"], stdin=piped))
    assert lines_of_json(out) == almost([pipe(each) for each in QA])
    piped = b"the cat\tsport,art\n"
    out = good(run("run", "--task", "zero-shot-classification", "--model", models["zero-shot"], stdin=piped))
    assert {*lines_of_json(out)[0]["labels"]} == {"sport", "art"}


def test_run_reads_and_writes_files(run: Run, models: dict[str, str], tmp_path: Path) -> None:
    answers = pipeline("text-classification", models["classify"])(SCRIPTS)
    (tmp_path / "in.json").write_text(json.dumps([{"review": text} for text in SCRIPTS]))
    (tmp_path / "in.csv").write_text(
        "number,review\n" + "".join(f"1,{json.dumps(text, ensure_ascii=False)}\n" for text in SCRIPTS)
    )
    command = ("run", "--task", "sentiment-analysis", "--model", models["classify"], "--column", "review")
    assert good(run(*command, "--input", str(tmp_path / "in.json"), "--output", str(tmp_path / "out.json"))) == ""
    assert json.loads((tmp_path / "out.json").read_text()) == almost(answers)
    good(run(*command, "--input", str(tmp_path / "in.csv"), "--output", str(tmp_path / "out.csv")))
    rows = (tmp_path / "out.csv").read_text().splitlines()
    assert rows[0] == "label,score"
    assert [row.split(",")[0] for row in rows[1:]] == [answer["label"] for answer in answers]
    again = run(*command, "--input", str(tmp_path / "in.csv"), "--output", str(tmp_path / "out.csv"))
    assert_bad_input(again, "out.csv exists already; add --overwrite")
    good(run(*command, "--overwrite", "--input", str(tmp_path / "in.csv"), "--output", str(tmp_path / "out.csv")))


def test_run_refuses(run: Run, models: dict[str, str], model: str, tmp_path: Path) -> None:
    assert_bad_input(run("run", "--task", "translation", "--model", model, stdin=b"the"), "'translation' is not known")
    assert_bad_input(run("run", "--task", "ner", stdin=b"the"), "needs a model that was trained for it")
    assert_bad_input(run("run", "--task", "fill-mask", "--input", "lines.txt"), "does not tell its format")
    (tmp_path / "in.json").write_text('{"text": "the"}')
    command = ("run", "--model", models["classify"], "--task", "text-classification")
    assert_bad_input(run(*command, "--input", str(tmp_path / "in.json")), "an object; a file in JSON holds a list")


# --- signals ---


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_while_a_file_is_written(models: dict[str, str], tmp_path: Path, name: str, status: int) -> None:
    number = getattr(signal, name)

    def heed_the_signal() -> None:  # which a suite that runs in the background of a shell ignores
        signal.signal(number, signal.SIG_DFL)

    target = tmp_path / "labels.jsonl"
    target.write_text("old")
    process = subprocess.Popen(
        [sys.executable, "-m", "xlmr_np", "classify", "--model", models["classify"], "--batch-size", "1",
         "--output", str(target), "--overwrite"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=heed_the_signal,
    )  # fmt: skip
    process.stdin.write(b"the cat\n")
    process.stdin.flush()
    until = time.monotonic() + 30
    while len(list(tmp_path.iterdir())) == 1 and time.monotonic() < until:
        time.sleep(0.01)
    assert len(list(tmp_path.iterdir())) == 2  # the new file is beside the old one
    process.send_signal(number)
    assert process.communicate(timeout=30) == (b"", b"")
    assert process.returncode == status
    assert target.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["labels.jsonl"]


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs SIGHUP")
def test_signals_are_as_they_were_afterwards(run: Run, models: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What nohup ignores stays ignored; and a thread, which may not say what signals do, can run a command."""
    seen = []
    monkeypatch.setattr("xlmr_np.cli.info.run", lambda _: seen.append([*map(signal.getsignal, numbers)]))
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(signal.SIGTERM, signal.SIG_DFL), signal.signal(signal.SIGHUP, signal.SIG_IGN)]
    try:
        good(run("info", "any"))
        assert [*map(signal.getsignal, numbers)] == [signal.SIG_DFL, signal.SIG_IGN]
        thread = threading.Thread(target=run, args=("info", "any"))
        thread.start()
        thread.join()
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    (in_main, ignored), in_thread = seen
    assert callable(in_main)
    assert in_main is not signal.SIG_DFL
    assert ignored == signal.SIG_IGN
    assert in_thread == [signal.SIG_DFL, signal.SIG_IGN]


def test_an_interrupt_while_commands_are_imported(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("xlmr_np.cli.import_module", interrupted)
    assert run("--version") == Finished(130, "", "")
