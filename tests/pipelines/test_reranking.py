"""Reranking against sentence-transformers' CrossEncoder, and what it does where that one fails."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder

from tests.pipelines.conftest import Pair
from tests.pipelines.saved_models import LONGEST, save_model
from tests.tokenizer.reference import reference_tokenizer
from xlmr_np import XLMRobertaTokenizer, pipeline

QUERY = "Where is the cat?"
DOCUMENTS = [
    "My dog is cute, but the cat next door is cuter and much louder.",
    "Le chat dort sur la table pendant que la pluie tombe sur le toit.",
    "Η γάτα κοιμάται πάνω στο τραπέζι.",
    "Где вокзал?",
    "أين المحطة؟",
    "स्टेशन कहाँ है?",
    "车站在哪里？在市场后面，离大河很近。",
    "오늘은 날씨가 좋아서 아이들이 마당에서 놀고 있어요.",
]
PAIRS = [(QUERY, document) for document in DOCUMENTS] + [(document, QUERY) for document in DOCUMENTS]
LONG = "the cat and the dog " * LONGEST
IDENTITY, SIGMOID = "torch.nn.modules.linear.Identity", "torch.nn.modules.activation.Sigmoid"
MODEL_CLASS = "XLMRobertaForSequenceClassification"

Both = tuple[Any, CrossEncoder]
Make = Callable[..., Both]


def save_reranker(directory: Path, vocabulary: Path, tokenizer: Any = None, **changes: Any) -> Path:
    """A random model in float64 with all files that either library needs."""
    save_model(directory, MODEL_CLASS, vocabulary, torch.float64, **{"num_labels": 1, **changes})
    (tokenizer or reference_tokenizer(vocabulary)).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory, small_vocabulary: Path) -> Make:
    """Makes our pipeline and their model of one directory."""

    def made(vocabulary: Path = small_vocabulary, tokenizer: Any = None, **changes: Any) -> Both:
        directory = save_reranker(tmp_path_factory.mktemp("model"), vocabulary, tokenizer, **changes)
        return pipeline("reranking", directory), CrossEncoder(str(directory), device="cpu")

    return made


@pytest.fixture(scope="module")
def both(make: Make) -> Both:
    return make()


@pytest.fixture(scope="module")
def cut(make: Make) -> Both:
    """Another pair, for tests that say how much theirs reads."""
    return make()


def assert_same(ours: Any, theirs: Any) -> None:
    assert [list(each) for each in ours] == [list(each) for each in theirs]
    for key in ("corpus_id", "text"):
        assert [each.get(key) for each in ours] == [each.get(key) for each in theirs]
    assert [each["score"] for each in ours] == pytest.approx([each["score"] for each in theirs], rel=1e-10)
    assert all(isinstance(each["corpus_id"], int) and isinstance(each["score"], float) for each in ours)


# --- the same as the reference ---


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_rank(both: Both, batch_size: int) -> None:
    ours, theirs = both
    answer = ours.rank(QUERY, DOCUMENTS, batch_size=batch_size)
    assert_same(answer, theirs.rank(QUERY, DOCUMENTS, batch_size=batch_size, return_documents=True))
    assert len({each["corpus_id"] for each in answer}) == len(DOCUMENTS)
    assert all(0 < each["score"] < 1 for each in answer)


@pytest.mark.parametrize("changes", [{"top_k": 3}, {"top_k": 1}, {"top_k": 99}, {"return_documents": False}], ids=str)
def test_settings_of_rank(both: Both, changes: dict[str, Any]) -> None:
    ours, theirs = both
    assert_same(
        ours.rank(QUERY, DOCUMENTS, **changes), theirs.rank(QUERY, DOCUMENTS, **{"return_documents": True, **changes})
    )


@pytest.mark.parametrize("batch_size", [1, 8])
def test_predict(both: Both, batch_size: int) -> None:
    ours, theirs = both
    scores = ours.predict(PAIRS, batch_size=batch_size)
    assert (scores.shape, scores.dtype) == ((len(PAIRS),), np.float64)
    expected = theirs.predict(PAIRS, batch_size=batch_size)
    assert expected.dtype == np.float32
    np.testing.assert_allclose(scores, expected, rtol=1e-6)  # the reference rounds to float32
    np.testing.assert_allclose(ours.predict(iter(PAIRS)), scores, rtol=1e-12)
    np.testing.assert_allclose(ours.predict([list(pair) for pair in PAIRS]), scores, rtol=1e-12)


def test_raw_logits(both: Both) -> None:
    ours, theirs = both
    expected = theirs.rank(QUERY, DOCUMENTS, activation_fn=torch.nn.Identity(), return_documents=True)
    assert_same(ours.rank(QUERY, DOCUMENTS, activation="none"), expected)
    assert min(each["score"] for each in expected) < 0
    logits = theirs.predict(PAIRS, activation_fn=torch.nn.Identity())
    np.testing.assert_allclose(ours.predict(PAIRS, activation="none"), logits, rtol=1e-6)  # rounded to float32


@pytest.mark.exhaustive  # the tokenizer.json of the real vocabulary takes seconds to write and to read
def test_the_real_vocabulary(make: Make, real_vocabulary: Path, real: Pair) -> None:
    ours, theirs = make(real_vocabulary, real.theirs.tokenizer)
    for batch_size in (1, 8):
        answer = ours.rank(QUERY, DOCUMENTS, batch_size=batch_size)
        assert_same(answer, theirs.rank(QUERY, DOCUMENTS, batch_size=batch_size, return_documents=True))


@pytest.mark.parametrize("length", [8, 9, 20, LONGEST])
@pytest.mark.parametrize("texts", [("the cat", LONG), (LONG, "the cat"), (LONG, LONG)], ids=["second", "first", "both"])
def test_the_longer_text_is_cut_first(cut: Both, length: int, texts: tuple[str, str]) -> None:
    ours, theirs = cut
    theirs.max_seq_length = length
    np.testing.assert_allclose(ours.predict([texts], max_length=length), theirs.predict([texts]), rtol=1e-6)  # float32


@pytest.mark.parametrize("name", [IDENTITY, SIGMOID, "torch.nn.Identity", "torch.nn.Sigmoid"])
@pytest.mark.parametrize("place", ["new", "old"])
def test_the_config_says_how_scores_are_made(make: Make, both: Both, name: str, place: str) -> None:
    said = {"sentence_transformers": {"activation_fn": name}, "sbert_ce_default_activation_function": SIGMOID}
    ours, theirs = make(**(said if place == "new" else {"sbert_ce_default_activation_function": name}))
    answer = ours.rank(QUERY, DOCUMENTS)
    assert_same(answer, theirs.rank(QUERY, DOCUMENTS, return_documents=True))
    assert_same(answer, both[0].rank(QUERY, DOCUMENTS, activation="none" if "Identity" in name else "sigmoid"))


@pytest.mark.parametrize("activation", [torch.nn.Identity(), torch.nn.Sigmoid()])
def test_what_the_reference_saves(both: Both, tmp_path: Path, small_vocabulary: Path, activation: Any) -> None:
    _, theirs = both
    saving = CrossEncoder(str(both[1].model.config._name_or_path), device="cpu", activation_fn=activation)
    saving.save_pretrained(str(tmp_path), create_model_card=False)
    tokenizer = XLMRobertaTokenizer(small_vocabulary)
    ours = pipeline("reranking", tmp_path, tokenizer=tokenizer)
    expected = CrossEncoder(str(tmp_path), device="cpu").rank(QUERY, DOCUMENTS, return_documents=True)
    assert_same(ours.rank(QUERY, DOCUMENTS), expected)
    chosen = pipeline("reranking", tmp_path, tokenizer=tokenizer, activation="none")
    expected = theirs.rank(QUERY, DOCUMENTS, activation_fn=torch.nn.Identity(), return_documents=True)
    assert_same(chosen.rank(QUERY, DOCUMENTS), expected)


# --- inputs of a call ---


def test_inputs_of_a_call(both: Both) -> None:
    ours, _ = both
    inputs = [
        {"query": query, "documents": DOCUMENTS[start:]} for start, query in enumerate(["the cat", "chat", QUERY])
    ]
    answers = ours(inputs)
    for value, answer in zip(inputs, answers, strict=True):
        assert_same(ours(value), ours.rank(value["query"], value["documents"]))
        assert_same(answer, ours(value))
    for answer, streamed in zip(answers, ours(iter(inputs), batch_size=2), strict=True):
        assert_same(streamed, answer)
    assert_same(ours.rank(QUERY, iter(DOCUMENTS)), ours.rank(QUERY, DOCUMENTS))


def test_no_documents(both: Both) -> None:
    ours, theirs = both
    assert ours.rank(QUERY, []) == theirs.rank(QUERY, []) == []
    mixed = [{"query": QUERY, "documents": documents} for documents in ([], DOCUMENTS[:1], [])]
    assert [len(answer) for answer in ours(mixed)] == [0, 1, 0]
    assert ours([]) == []
    assert ours.predict([]).shape == theirs.predict([]).shape == (0,)


def test_a_score_does_not_depend_on_its_batch(both: Both) -> None:
    ours, _ = both
    alone = [ours.predict([pair])[0] for pair in PAIRS]
    for changes in ({"batch_size": 5}, {"batch_tokens": 50}):
        np.testing.assert_allclose(ours.predict(PAIRS, **changes), alone, rtol=1e-10)


def test_equal_documents_keep_their_order(both: Both) -> None:
    ours, theirs = both
    documents = [*DOCUMENTS[:3], *DOCUMENTS[:3]]
    places = [each["corpus_id"] for each in ours.rank(QUERY, documents, batch_size=1)]
    assert places == [each["corpus_id"] for each in theirs.rank(QUERY, documents, batch_size=1)]
    assert all(second == first + 3 for first, second in zip(places[::2], places[1::2], strict=True))


# --- better than the reference ---


def test_scores_that_round_to_one_number_are_still_sorted(both: Both, tmp_path: Path, small_vocabulary: Path) -> None:
    """The reference leaves such documents in the order in which they came."""
    model = save_model(tmp_path, MODEL_CLASS, small_vocabulary, torch.float64, num_labels=1)
    with torch.no_grad():
        model.classifier.out_proj.bias += 100
    model.save_pretrained(tmp_path)
    reference_tokenizer(small_vocabulary).save_pretrained(tmp_path)
    theirs = CrossEncoder(str(tmp_path), device="cpu").rank(QUERY, DOCUMENTS)
    assert [(each["corpus_id"], each["score"]) for each in theirs] == [(n, 1.0) for n in range(len(DOCUMENTS))]
    ours = pipeline("reranking", tmp_path).rank(QUERY, DOCUMENTS)
    assert [each["score"] for each in ours] == [1.0] * len(DOCUMENTS)
    assert [each["corpus_id"] for each in ours] == [each["corpus_id"] for each in both[0].rank(QUERY, DOCUMENTS)]


def test_a_long_document_is_cut_with_a_warning(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """The reference counts two positions too many, where its tokenizer does not say how many there are."""
    ours, theirs = make()
    with pytest.raises((IndexError, RuntimeError), match="index"):
        theirs.rank(QUERY, [LONG])
    with caplog.at_level(logging.WARNING, "xlmr_np"):
        answer = ours.rank(QUERY, ["le chat", LONG, LONG])
    (record,) = caplog.records
    assert "Query 1, documents[1], has " in record.getMessage()
    theirs.max_seq_length = LONGEST
    assert_same(answer, theirs.rank(QUERY, ["le chat", LONG, LONG], return_documents=True))


def test_truncation_may_be_refused(both: Both) -> None:
    with pytest.raises(ValueError, match=rf"Query 1, documents\[1\], has \d+ tokens, and at most {LONGEST} are read"):
        both[0].rank(QUERY, ["le chat", LONG], truncation=False)


def test_a_megabyte(both: Both) -> None:
    ours, _ = both
    scores = ours.predict([(QUERY, LONG), (QUERY, LONG + " Где вокзал?" * 50_000)])
    assert scores[1] == pytest.approx(scores[0], rel=1e-10)


@pytest.mark.parametrize("labels", [2, 3])
def test_a_model_with_several_labels(make: Make, labels: int) -> None:
    with pytest.raises(
        ValueError, match=f"one label, whose logit is the score, and this one has {labels}; the task text-"
    ):
        make(num_labels=labels)


@pytest.mark.parametrize("name", ["os.system", "torch.nn.modules.activation.Tanh", 5, ["torch.nn.Sigmoid"]])
@pytest.mark.parametrize("key", ["sentence_transformers", "sbert_ce_default_activation_function"])
def test_activations_are_not_imported(tmp_path: Path, small_vocabulary: Path, name: Any, key: str) -> None:
    save_reranker(tmp_path, small_vocabulary)
    path = tmp_path / "config.json"
    said = {key: {"activation_fn": name} if key == "sentence_transformers" else name}
    path.write_text(json.dumps({**json.loads(path.read_text()), **said}))
    with pytest.raises(
        ValueError, match=r"The activation .* of this model's scores is not known; the known ones are torch"
    ):
        pipeline("reranking", tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"activation_fn": "os.system"}', "'os.system' of this model's scores is not known"),
        ('{"activation_fn": {}}', "{} of this model's scores is not known"),
        ('{"default_prompt_name": "query", "prompts": {"query": "q: "}}', "asks for the prompt 'query'"),
        ("[]", "must hold a JSON object"),
        ("{", "is not valid JSON"),
    ],
)
def test_a_damaged_file_of_the_reference(tmp_path: Path, small_vocabulary: Path, content: str, message: str) -> None:
    save_reranker(tmp_path, small_vocabulary)
    (tmp_path / "config_sentence_transformers.json").write_text(content)
    with pytest.raises(OSError, match=message) as caught:
        pipeline("reranking", tmp_path)
    assert "config_sentence_transformers.json" in str(caught.value)


@pytest.mark.parametrize("text", ["", " \n", "<s>", "</s><mask>"])
def test_nothing_to_read(both: Both, small_vocabulary: Path, text: str) -> None:
    """The reference scores it."""
    ours, theirs = both
    assert 0 <= theirs.predict([(QUERY, text)])[0] <= 1
    tokenizer = XLMRobertaTokenizer(small_vocabulary, allow_special_tokens=True)
    strict = pipeline("reranking", ours.model, tokenizer=tokenizer)
    with pytest.raises(ValueError, match=r"Query 1, documents\[1\], holds nothing to read"):
        strict.rank(QUERY, ["le chat", text])
    with pytest.raises(ValueError, match=r"Query 1 holds nothing to read"):
        strict.rank(text, ["le chat"])
    for pair in ((QUERY, text), (text, QUERY)):
        with pytest.raises(ValueError, match=r"Pair 2 holds nothing to read"):
            strict.predict([PAIRS[0], pair])


def test_bad_inputs_among_good_ones(both: Both) -> None:
    ours, _ = both
    good = {"query": QUERY, "documents": DOCUMENTS}
    answers = ours([good, {"query": QUERY}, good], on_error=lambda number, error: number)
    assert answers[1] == 2
    assert_same(answers[2], answers[0])
    scores = ours.predict([PAIRS[0], ("", ""), PAIRS[1]], on_error=lambda number, error: float("nan"))
    assert np.isnan(scores).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ("the cat", TypeError, r'Query 1 is a str; write it as {"query": ..., "documents": \[...\]}'),
        ([("the cat", "the dog")], TypeError, "Query 1 is a tuple; write it as"),
        ({"query": "the cat"}, ValueError, "Query 1 has the keys 'query'; write it as"),
        ({"query": "a", "documents": [], "top_k": 1}, ValueError, "has the keys 'query', 'documents', 'top_k'"),
        ({"query": "the cat", "documents": "the dog"}, TypeError, "documents is a str, where a list of str belongs"),
        ({"query": "the cat", "documents": {"a": "b"}}, TypeError, "documents is a dict, where a list of str belongs"),
        ({"query": "the cat", "documents": None}, TypeError, "documents is a NoneType, where a list of str belongs"),
        ({"query": 5, "documents": ["the dog"]}, TypeError, "Query 1 must be a str, not int 5"),
        ({"query": "a", "documents": ["b", None]}, TypeError, r"Query 1, documents\[1\], must be a str, not None"),
        ({"query": "a", "documents": ["\ud800"]}, ValueError, "lone surrogate"),
        (5, TypeError, "Give a query, or a list or another iterable of them; got int"),
    ],
)
def test_bad_inputs(both: Both, value: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        both[0](value)


@pytest.mark.parametrize(
    ("pairs", "error", "message"),
    [
        (("the cat", "the dog"), TypeError, "Pair 1 is str, where a list of pairs"),
        ([("the cat",)], TypeError, "Pair 1 is tuple, where a list of pairs"),
        ([("the cat", 5)], TypeError, "Pair 1, document, must be a str"),
        ("the cat", TypeError, r"Give pairs as a list of \(query, document\); got str"),
        (None, TypeError, "got NoneType"),
    ],
)
def test_bad_pairs(both: Both, pairs: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        both[0].predict(pairs)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"top_k": 0}, ValueError, "top_k=0 is too small"),
        ({"top_k": 1.5}, TypeError, "top_k must be a whole number"),
        ({"return_documents": 1}, TypeError, "return_documents must be True or False"),
        ({"activation": "tanh"}, ValueError, "activation='tanh' is none of sigmoid, none"),
        ({"activation": torch.nn.Sigmoid}, ValueError, "is none of sigmoid, none"),
        ({"apply_softmax": True}, TypeError, "has no setting apply_softmax"),
    ],
)
def test_bad_settings(both: Both, changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        both[0].rank(QUERY, DOCUMENTS, **changes)
