"""Token classification against transformers' own pipeline, and what it does where that one guesses."""

import functools
import itertools
import json
import math
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import regex
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.pipelines.token_classification import AggregationStrategy

from tests.data.make_small_vocabulary import SENTENCES
from tests.pipelines.saved_models import LONGEST, save_model
from tests.tokenizer.reference import reference_tokenizer
from xlmr_np import XLMRobertaTokenizer, pipeline
from xlmr_np.pipelines.token_classification import OF_WORDS, STRATEGIES, TokenClassificationPipeline
from xlmr_np.pipelines.windows import windows_over

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
ROOM = LONGEST - 2
TEXTS = [
    "The weather is lovely today, and the children are playing in the garden.",
    "HuggingFace is based in\tParis.\nNew York\u00a0has 8.3 million people (2020)!",
    "  Le chat dort sur la table ;  l'élève lit. ",
    "Übermorgen fahren wir mit dem Zug über die Brücke nach Süden.",
    "Старый учитель читает книгу у окна.",
    "Η γάτα κοιμάται πάνω στο τραπέζι.",
    "الطقس جميل اليوم والأطفال يلعبون في الحديقة.",
    "आज मौसम अच्छा है और बच्चे खेल रहे हैं।",
    "今天天气很好，孩子们在花园里玩。",
    "先生は東京タワーの窓のそばで本を読みます。",
    "오늘은 날씨가 좋아서 아이들이 놀고 있어요.",
    "วันนี้อากาศดี และเด็ก ๆ กำลังเล่น",
    "I 💛 <mask>! 👨\u200d👩\u200d👧 🇩🇪🇫🇷 ½ ﬃ",
]
# Where the reference's heuristic is right: words between single spaces, without punctuation, unknown characters, or
# pieces that are a bare "▁".
PLAIN = [
    "My dog is but the cat next door is cuter and",
    "Das Wetter ist heute die Kinder spielen",
    "Mwalimu anasoma kitabu kizuri na dirisha la",
    "Старый учитель книгу у и пьёт",
]
UNICODE_WORDS = [  # a text, and its words
    ("HuggingFace is in Paris.\nNew York", ["HuggingFace", "is", "in", "Paris", ".", "New", "York"]),
    ("a\tb\u00a0c", ["a", "b", "c"]),
    ("今天天气很好。", ["今天", "天气", "很好", "。"]),
    ("(2020)!", ["(", "2020", ")", "!"]),
]

Both = tuple[TokenClassificationPipeline, transformers.Pipeline]
Make = Callable[..., Both]
Answer = list[dict[str, Any]]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Makes our pipeline and theirs on one random model."""

    @functools.cache
    def tokenizers(vocabulary: Path) -> tuple[XLMRobertaTokenizer, transformers.XLMRobertaTokenizer]:
        return XLMRobertaTokenizer(vocabulary), reference_tokenizer(vocabulary, model_max_length=LONGEST)

    def made(vocabulary: Path, dtype: torch.dtype = torch.float64, labels: list[str] = LABELS, **changes: Any) -> Both:
        directory = tmp_path_factory.mktemp("model")
        changes["id2label"] = dict(enumerate(labels))
        model = save_model(directory, "XLMRobertaForTokenClassification", vocabulary, dtype, **changes)
        tokenizer, of_theirs = tokenizers(vocabulary)
        theirs = transformers.pipeline("token-classification", model=model, tokenizer=of_theirs, device="cpu")
        return pipeline("token-classification", directory, tokenizer=tokenizer), theirs

    return made


@pytest.fixture(scope="module")
def exact(make: Make, small_vocabulary: Path) -> Both:
    """The small vocabulary in float64."""
    return make(small_vocabulary)


@pytest.fixture(scope="module")
def real(make: Make, real_vocabulary: Path) -> Both:
    """XLM-R's own vocabulary, in float32."""
    return make(real_vocabulary, torch.float32)


@pytest.fixture(params=["exact", "real"])
def both(request: pytest.FixtureRequest) -> Both:
    """Each of the two in turn."""
    return request.getfixturevalue(request.param)


def assert_same(ours: Any, theirs: Any, tolerance: float = 1e-10, is_word_the_same: bool = True) -> None:
    assert len(ours) == len(theirs)
    for our_part, their_part in zip(ours, theirs, strict=True):
        if isinstance(their_part, list):
            assert_same(our_part, their_part, tolerance, is_word_the_same)
            continue
        assert our_part.keys() == their_part.keys()
        assert type(our_part["score"]) is float
        assert our_part["score"] == pytest.approx(their_part["score"], abs=tolerance)
        for key in our_part.keys() - {"score"} - ({"word"} if not is_word_the_same else set()):
            assert our_part[key] == their_part[key]
            assert type(our_part[key]) is type(their_part[key])


def tolerance_of(both: Both) -> float:
    return 2e-5 if both[1].model.dtype == torch.float32 else 1e-10  # float32: logits of order 10


def tokens_are_the_same(both: Both, text: Any, **settings: Any) -> bool:
    """Whether both cut a text in the same way; the reference's normalisation is another."""
    return both[0].tokenizer(text, **settings)["input_ids"] == both[1].tokenizer(text, **settings)["input_ids"]


def words_of(answer: Answer) -> list[str]:
    return [entity["word"] for entity in answer]


# --- the same as the reference ---


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("strategy", ["none", "simple"])
def test_tokens_and_their_groups(both: Both, text: str, strategy: str) -> None:
    assert tokens_are_the_same(both, text)
    ours, theirs = (each(text, aggregation_strategy=strategy, ignore_labels=[]) for each in both)
    assert_same(ours, theirs, tolerance_of(both), is_word_the_same=strategy == "none")
    assert ours != []
    if strategy == "simple":
        assert words_of(ours) == [text[entity["start"] : entity["end"]] for entity in ours]


@pytest.mark.parametrize("text", PLAIN)
@pytest.mark.parametrize("strategy", OF_WORDS)
def test_words_between_spaces(both: Both, text: str, strategy: str) -> None:
    assert tokens_are_the_same(both, text)
    assert not {"▁", "<unk>"} & set(both[1].tokenizer.tokenize(text))
    for ignored in ([], ["O"], ["PER", "LOC"]):
        ours, theirs = (each(text, aggregation_strategy=strategy, ignore_labels=ignored) for each in both)
        assert_same(ours, theirs, tolerance_of(both), is_word_the_same=False)
        assert words_of(ours) == [text[entity["start"] : entity["end"]] for entity in ours]


@given(st.lists(st.sampled_from(" ".join(SENTENCES).split()), min_size=1, max_size=12), st.sampled_from(STRATEGIES))
@settings(max_examples=30)
def test_any_words(exact: Both, words: list[str], strategy: str) -> None:
    text = " ".join(word for word in words if word.isalpha()) or "la"
    if {"▁", "<unk>"} & set(exact[1].tokenizer.tokenize(text)) or not tokens_are_the_same(exact, text):
        strategy = "simple"
    ours, theirs = (each(text, aggregation_strategy=strategy, ignore_labels=[]) for each in exact)
    if tokens_are_the_same(exact, text):
        assert_same(ours, theirs, is_word_the_same=strategy == "none")


def lines(folder: Path, step: int) -> Iterator[str]:
    for file in sorted(folder.glob("*.txt")):
        yield from file.read_text(encoding="utf-8").splitlines()[::step]


def assert_same_on_lines(real: Both, texts: Iterable[str]) -> None:
    compared = dict.fromkeys(STRATEGIES, 0)
    for text in texts:
        if not unicodedata.is_normalized("NFC", text):
            continue  # of a letter and marks that are composed, the reference's tokens have the letter alone
        plain = regex.sub(r"[^\p{L}\p{M}]+", " ", text).strip()
        is_spaced = not regex.search(r"[\p{Han}\p{Hira}\p{Kana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]", plain)
        for strategy in STRATEGIES:
            words = plain if strategy in OF_WORDS else text
            tokens = real[0].tokenizer.tokenize(words)
            if len(tokens) > ROOM or not tokens_are_the_same(real, words):
                continue
            if strategy in OF_WORDS and ("▁" in tokens or not is_spaced):
                continue
            ours, theirs = (each(words, aggregation_strategy=strategy, ignore_labels=[]) for each in real)
            assert_same(ours, theirs, 2e-5, is_word_the_same=strategy == "none")  # float32, logits of order 10
            compared[strategy] += 1
    assert min(compared.values()) > 5


def test_lines_in_many_languages(real: Both, shared_data: Path) -> None:
    assert_same_on_lines(real, lines(shared_data / "text" / "ntrex", 2000))


@pytest.mark.exhaustive
def test_lines_in_all_languages(real: Both, shared_data: Path) -> None:
    assert_same_on_lines(real, lines(shared_data / "text" / "udhr", 10))
    assert_same_on_lines(real, lines(shared_data / "text" / "ntrex", 100))


@pytest.mark.parametrize(
    "labels",
    [
        ["NOUN", "VERB", "ADP", "O"],
        ["LABEL_0", "LABEL_1", "LABEL_2"],
        ["B-PER", "PER", "I-PER", "O", "B-"],  # a tag with and without a prefix
        ["E-LOC", "S-LOC", "I-LOC-city", "B-LOC-city", "X-"],  # whose names end behind the first hyphen
    ],
)
def test_other_schemes_of_labels(make: Make, small_vocabulary: Path, labels: list[str]) -> None:
    both = make(small_vocabulary, labels=labels)
    for strategy in STRATEGIES:
        texts = PLAIN if strategy in OF_WORDS else [*PLAIN, TEXTS[0]]
        ours, theirs = (each(texts, aggregation_strategy=strategy) for each in both)
        assert_same(ours, theirs, is_word_the_same=False)


@pytest.mark.parametrize("ignored", [["O"], [], ["PER"], ["B-PER", "O"], ("LOC", "PER", "O"), None])
def test_ignored_labels(exact: Both, ignored: Any) -> None:
    for strategy in ("none", "simple"):
        ours, theirs = (each(TEXTS[0], aggregation_strategy=strategy, ignore_labels=ignored) for each in exact)
        assert_same(ours, theirs, is_word_the_same=False)


def test_ignored_labels_may_be_any_iterable(exact: Both) -> None:
    ours, _ = exact
    expected = ours(TEXTS, ignore_labels=["B-PER", "O"])
    assert ours(TEXTS, ignore_labels=(label for label in ("B-PER", "O"))) == expected
    assert ours(TEXTS, ignore_labels={"B-PER": 1, "O": 2}) == expected


def test_strategies_as_the_reference_takes_them(exact: Both) -> None:
    ours, _ = exact
    for strategy in STRATEGIES:
        expected = ours(TEXTS[0], aggregation_strategy=strategy)
        for same in (strategy.upper(), strategy.capitalize(), AggregationStrategy(strategy)):
            assert ours(TEXTS[0], aggregation_strategy=same) == expected
    assert ours(TEXTS[0], aggregation_strategy=None) == ours(TEXTS[0]) == ours(TEXTS[0], aggregation_strategy="none")


def test_forms_of_inputs(exact: Both) -> None:
    ours, theirs = exact
    assert_same(ours(PLAIN[0]), theirs(PLAIN[0]))
    assert_same(ours([PLAIN[0]]), theirs([PLAIN[0]]))
    assert ours([]) == []
    with pytest.raises(ValueError, match="At least one input is required"):
        theirs([])
    answers = ours((each for each in itertools.cycle(PLAIN)), batch_size=1)
    assert_same([next(answers), next(answers)], ours(PLAIN[:2]))
    assert ours(tuple(PLAIN)) == ours(PLAIN)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_batches_change_nothing(both: Both, strategy: str) -> None:
    ours, _ = both
    texts = [*TEXTS, " ".join(TEXTS)]
    alone, together = (ours(texts, aggregation_strategy=strategy, batch_size=size) for size in (1, 8))
    assert_same(together, alone, 2e-5)  # float32, logits of order 10
    assert_same(alone[:2], [ours(text, aggregation_strategy=strategy) for text in texts[:2]], 2e-5)  # likewise


# --- words ---


def test_words_by_unicode_where_the_reference_glues_them(make: Make, real_vocabulary: Path) -> None:
    ours, theirs = make(real_vocabulary, torch.float32, labels=["B-X", "B-Y"], num_hidden_layers=1, hidden_size=4)
    for (text, words), strategy in itertools.product(UNICODE_WORDS, OF_WORDS):
        assert words_of(ours(text, aggregation_strategy=strategy)) == words
        glued = theirs(text, aggregation_strategy=strategy)
        assert len(glued) < len(words)
        assert [(entity["start"], entity["end"]) for entity in glued] == [
            found.span() for found in regex.finditer(r"[^ ]+", text)
        ]


def test_text_of_groups(make: Make, small_vocabulary: Path) -> None:
    ours, theirs = make(small_vocabulary, labels=["X"])  # so that all is one group
    text = "The cat,\nthe table."
    (simple,) = ours(text, aggregation_strategy="simple")
    (glued,) = theirs(text, aggregation_strategy="first")
    assert simple["word"] == ours(text, aggregation_strategy="first")[0]["word"] == text
    assert glued["word"] == "Thecat, thetable."
    assert (glued["start"], glued["end"]) == (0, len(text)) == (simple["start"], simple["end"])
    assert theirs(text, aggregation_strategy="simple")[0]["word"] == "The cat, the table."  # without the line break


def test_a_bare_mark_belongs_to_the_word_behind_it(real: Both) -> None:
    text = "the 東京 and 💛"
    ours, theirs = real
    assert ours.tokenizer.tokenize(text).count("▁") == 2
    setting = ours.changed({"aggregation_strategy": "first"})
    reading = ours.read(1, text, setting, None)
    assert [token for token, starts in zip(reading.tokens, reading.starts_word, strict=True) if starts] == [
        "▁the", "▁", "▁and", "▁"
    ]  # fmt: skip
    found = theirs.preprocess(text, is_split_into_words=False)
    inputs = next(found)
    offsets, mask = inputs["offset_mapping"][0], inputs["special_tokens_mask"][0].numpy()
    scores = np.zeros((len(offsets), len(LABELS)))
    tokens = theirs.gather_pre_entities(text, inputs["input_ids"][0], scores, offsets, mask, AggregationStrategy.FIRST)
    assert [(token["word"], token["is_subword"]) for token in tokens[1:3]] == [("▁", False), ("東京", False)]


def test_the_tokenizer_sees_words_within_a_picture(real: Both) -> None:
    ours, _ = real
    joined = ["👨\u200d👩\u200d👧", "می\u200cخواهم"]  # joiners are spaces to the tokenizer
    for text, number in zip(joined, (1, 2), strict=True):
        assert len(set(ours.tokenizer(text, add_special_tokens=False).word_ids())) > 1
        reading = ours.read(1, text, ours.changed({"aggregation_strategy": "max"}), None)
        assert reading.starts_word.sum() == number


def test_what_a_word_is_made_of(exact: Both) -> None:
    """Each strategy, from the predictions for tokens."""
    ours, _ = exact
    text = TEXTS[1]
    reading = ours.read(1, text, ours.changed({"aggregation_strategy": "first"}), None)
    (probabilities,) = ours.compute(reading.rows, ours.setting)
    firsts = [*np.flatnonzero(reading.starts_word).tolist(), len(probabilities)]
    assert max(end - start for start, end in itertools.pairwise(firsts)) > 2
    for strategy in OF_WORDS:
        entities = []
        for start, end in itertools.pairwise(firsts):
            of_tokens = probabilities[start:end]
            surest = max(range(end - start), key=lambda token: of_tokens[token].max())
            of_word = {"first": of_tokens[0], "average": of_tokens.mean(axis=0), "max": of_tokens[surest]}[strategy]
            label = LABELS[of_word.argmax()]
            span = reading.spans[start, 0], reading.spans[end - 1, 1]
            if entities and not label.startswith("B-") and label[-3:] == entities[-1][0]:
                entities[-1] = label[-3:], [*entities[-1][1], of_word.max()], (entities[-1][2][0], span[1])
            else:
                entities.append((label[-3:], [of_word.max()], span))
        expected = [(name, text[start:end], start, end) for name, _, (start, end) in entities]
        answer = ours(text, aggregation_strategy=strategy, ignore_labels=[])
        assert [tuple(entity[key] for key in ("entity_group", "word", "start", "end")) for entity in answer] == expected
        assert [entity["score"] for entity in answer] == pytest.approx([np.mean(scores) for _, scores, _ in entities])


@pytest.mark.parametrize("language", ["en", "ru", "ar", "hi", "th", "zh"])
def test_words_of_treebanks_start_words(real: Both, shared_data: Path, language: str) -> None:
    """Where an annotated word starts with a token, a word starts here; the reference misses a part of them."""
    ours, _ = real
    setting = ours.changed({"aggregation_strategy": "first"})
    number = found = found_by_theirs = 0
    for words, text in itertools.islice(treebank(shared_data / "pos" / f"{language}_pud-test.conllu"), 0, 200, 10):
        starts = set(itertools.accumulate((len(word) + space for word, space in words), initial=0))
        reading = ours.read(1, text, setting, None)
        of_tokens = reading.spans[:, 0]
        for start in starts & set(of_tokens.tolist()):
            number += 1
            found += bool(reading.starts_word[of_tokens == start].any())
            found_by_theirs += start == 0 or " " in text[start - 1 : start + 1]
    assert number > 250
    assert found > (0.95 if language == "ar" else 0.98) * number  # Arabic treebanks part what is written together
    assert found_by_theirs < 0.95 * number


def treebank(file: Path) -> Iterator[tuple[list[tuple[str, bool]], str]]:
    """Sentences: words, each with whether a space follows, and the text."""
    for block in file.read_text(encoding="utf-8").strip().split("\n\n"):
        rows = [line.split("\t") for line in block.splitlines() if not line.startswith("#")]
        words = [(row[1], "SpaceAfter=No" not in row[-1]) for row in rows if "." not in row[0]]
        yield words, "".join(word + " " * space for word, space in words).strip()


# --- texts in words ---


def test_given_words(both: Both) -> None:
    arguments = {"is_split_into_words": True, "ignore_labels": []}
    words = [text.split() for text in TEXTS[:8]]
    for strategy in ("none", "simple"):
        ours, theirs = (each(words, aggregation_strategy=strategy, **arguments) for each in both)
        assert_same(ours, theirs, tolerance_of(both), is_word_the_same=strategy == "none")
    plain = [text.split() for text in PLAIN]
    for strategy in OF_WORDS:
        ours, theirs = (each(plain, aggregation_strategy=strategy, **arguments) for each in both)
        assert_same(ours, theirs, tolerance_of(both), is_word_the_same=False)
    one, of_theirs = (each(plain[0], **arguments) for each in both)
    assert_same(one, of_theirs, tolerance_of(both))  # a list of one answer in both
    assert_same(both[0](tuple(plain[0]), **arguments), one, 2e-5)
    assert_same(list(both[0](iter(plain[:1]), **arguments)), one, 2e-5)


@pytest.mark.parametrize("delimiter", ["", " ", " | ", "\n"])
def test_the_delimiter_of_given_words(both: Both, delimiter: str) -> None:
    words = ["New York", "is", "", "big.", "東京タワー", "don't!", "👨\u200d👩"]
    arguments = {"is_split_into_words": True, "delimiter": delimiter, "ignore_labels": []}
    ours, theirs = (each(words, aggregation_strategy="simple", **arguments) for each in both)
    assert_same(ours, theirs, tolerance_of(both), is_word_the_same=False)
    text = delimiter.join(words)
    for strategy in OF_WORDS:
        (answer,) = both[0](words, aggregation_strategy=strategy, **arguments)
        assert words_of(answer) == [text[entity["start"] : entity["end"]] for entity in answer]


def test_given_words_are_the_words(make: Make, small_vocabulary: Path) -> None:
    ours, _ = make(small_vocabulary, labels=["B-X", "B-Y"])
    words = ["New York", "is", "big.", "今天天气", "don't!"]
    for strategy in OF_WORDS:
        (answer,) = ours(words, is_split_into_words=True, aggregation_strategy=strategy)
        assert words_of(answer) == words


# --- long texts ---


LONG = " ".join(sentence for sentence in SENTENCES if sentence.isascii()) * 2


def test_every_token_of_a_long_text_is_predicted_once(exact: Both) -> None:
    ours, theirs = exact
    tokens = ours.tokenizer.tokenize(LONG)
    assert len(tokens) > 4 * ROOM
    answer = ours(LONG, ignore_labels=[])
    assert [entity["word"] for entity in answer] == tokens
    assert [entity["index"] for entity in answer] == list(range(1, len(tokens) + 1))
    cut = theirs(LONG, ignore_labels=[])
    assert len(cut) == ROOM  # the reference reads the beginning, and says nothing
    windows = windows_over(len(tokens), ROOM, ROOM // 4)
    first = windows[0].last
    assert first < ROOM
    assert_same(answer[:first], cut[:first])
    with pytest.raises(ValueError, match="please select another one instead"):
        theirs(LONG, aggregation_strategy="none", stride=8)


def test_predictions_come_from_the_middle_of_windows(exact: Both) -> None:
    ours, _ = exact
    ids = ours.tokenizer(LONG, add_special_tokens=False, verbose=False)["input_ids"]
    for stride in (0, 1, 20, ROOM - 3):
        answer = ours(LONG, ignore_labels=[], stride=stride)
        assert len(answer) == len(ids)
        for window in windows_over(len(ids), ROOM, stride)[:: 1 if stride < ROOM - 3 else 20]:
            row = np.array([[0, *ids[window.start : window.stop], 2]])
            logits = np.asarray(ours.model(row, return_dict=True).logits)[0, 1:-1]
            scores = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
            for token in range(window.first, window.last):
                assert answer[token]["score"] == pytest.approx(scores[token - window.start].max(), rel=1e-9)
                assert answer[token]["entity"] == LABELS[scores[token - window.start].argmax()]


def without_context(both: Both, directory: Path) -> Both:
    """The same model, except that no token sees its place or its neighbours."""
    ours, theirs = both
    with torch.no_grad():
        for name, parameter in theirs.model.named_parameters():
            if ".attention.self.value." in name or "position_embeddings" in name:
                parameter.zero_()
    theirs.model.save_pretrained(directory)
    ours.tokenizer.save_pretrained(directory)
    return pipeline("ner", directory), theirs


def test_windows_that_agree_and_windows_that_do_not(make: Make, small_vocabulary: Path, tmp_path: Path) -> None:
    both = make(small_vocabulary)
    ours, theirs = (each(LONG, aggregation_strategy="simple", stride=20) for each in both)
    spans = [[(entity["start"], entity["end"]) for entity in answer] for answer in (ours, theirs)]
    assert spans[0] != spans[1]  # the reference prefers long entities, whatever stood at the edge of a window
    both = without_context(both, tmp_path)
    for strategy in ("simple", "average"):
        ours, theirs = (each(LONG, aggregation_strategy=strategy, stride=20) for each in both)
        if strategy == "simple":
            assert_same(ours, theirs, is_word_the_same=False)
        whole = both[0](LONG, aggregation_strategy=strategy, stride=0)
        assert_same(ours, whole)


@given(st.lists(st.sampled_from(TEXTS), min_size=1, max_size=2), st.integers(0, ROOM - 1), st.sampled_from(STRATEGIES))
@settings(max_examples=25)
def test_the_stride_changes_nothing_in_short_texts(exact: Both, texts: list[str], stride: int, strategy: str) -> None:
    ours, _ = exact
    text = texts[0][:30]
    assert len(ours.tokenizer.tokenize(text)) <= ROOM
    assert_same(ours(text, stride=stride, aggregation_strategy=strategy), ours(text, aggregation_strategy=strategy))


def test_a_very_long_text(make: Make, small_vocabulary: Path) -> None:
    ours, _ = make(small_vocabulary, torch.float32, max_position_embeddings=514, hidden_size=4, num_hidden_layers=1)
    text = "\n".join(itertools.islice(itertools.cycle(SENTENCES), 1000))
    assert len(text) > 40_000
    answer = ours(text, aggregation_strategy="max", ignore_labels=[])
    assert answer[-1]["end"] == len(text.rstrip())
    assert_in_order(answer, text)


# --- properties ---


def assert_in_order(answer: Answer, text: str) -> None:
    """Entities lie in the text, one behind the other, and are what stands there."""
    end = 0
    for entity in answer:
        assert end <= entity["start"] < entity["end"] <= len(text)
        assert entity["word"] == text[entity["start"] : entity["end"]]
        assert 0 < entity["score"] <= 1
        end = entity["end"]


CHARACTERS = list("aB1 .,'\t\n-\u00a0\u3000éß\u0301Жя今天タワｶﾞのกำลังน้ำខ្មែរलि\u095bم،한국💛▁½ﬃ㎏´\u200d\u200b🇩🇪")
PARTS = [*CHARACTERS, "the ", "cat", "<mask>", "</s>", "👨\u200d👩\u200d👧", "e\u0301", "\u1112\u1161\u11ab"]


@given(st.lists(st.sampled_from(PARTS), min_size=1, max_size=60).map("".join), st.sampled_from(OF_WORDS))
@settings(max_examples=60)
def test_words_of_any_text(exact: Both, text: str, strategy: str) -> None:
    ours, _ = exact
    text = "a " + text
    answer = ours(text, aggregation_strategy=strategy, ignore_labels=[])
    assert_in_order(answer, text)
    graphemes = {0, len(text), *(found.start() for found in regex.finditer(r"\X", text))}
    for entity in answer:
        behind_white_space = regex.match(r"[\s▁\u200b\u200d]", text[entity["start"] - 1])
        assert entity["start"] in graphemes or behind_white_space
    letters = [place for place, character in enumerate(text) if character.isalpha()]
    covered = {place for entity in answer for place in range(entity["start"], entity["end"])}
    assert covered.issuperset(letters)


@given(st.lists(st.sampled_from(PARTS), min_size=1, max_size=60).map("".join))
@settings(max_examples=40)
def test_tokens_of_any_text(exact: Both, text: str) -> None:
    ours, _ = exact
    text = "a " + text
    tokens = ours(text, ignore_labels=[])
    assert [entity["index"] for entity in tokens] == list(range(1, len(tokens) + 1))
    groups = ours(text, ignore_labels=[], aggregation_strategy="simple")
    for answer in (tokens, groups):  # where one character is several tokens, they share it
        starts = [entity["start"] for entity in answer]
        assert starts == sorted(starts)
        assert all(0 <= entity["start"] < entity["end"] <= len(text) for entity in answer)
    assert words_of(groups) == [text[entity["start"] : entity["end"]] for entity in groups]


@given(st.lists(st.sampled_from(PARTS), min_size=1, max_size=20), st.sampled_from(OF_WORDS))
@settings(max_examples=30)
def test_any_given_words(exact: Both, words: list[str], strategy: str) -> None:
    ours, _ = exact
    words = ["a", *words]
    (answer,) = ours(words, is_split_into_words=True, aggregation_strategy=strategy, ignore_labels=[])
    assert_in_order(answer, " ".join(words))


# --- what is refused ---


@pytest.mark.parametrize("text", ["", "   ", "\n\t", "<mask>", "<mask> <mask>"])
def test_nothing_to_read(exact: Both, text: str) -> None:
    ours, _ = exact
    with pytest.raises(ValueError, match=r"^Text 2 holds nothing to read: "):
        ours(["the cat", text])
    with pytest.raises(ValueError, match=r"^Text 1 holds nothing to read: "):
        ours([[text]], is_split_into_words=True)
    answers = ours(["the cat", text, "la"], on_error=lambda number, error: (number, type(error)))
    assert answers[1] == (2, ValueError)
    assert_same(answers[2], ours("la"))


def test_no_words(exact: Both) -> None:
    ours, _ = exact
    with pytest.raises(ValueError, match=r"^Text 1 holds nothing to read: ''"):
        ours([[]], is_split_into_words=True)
    with pytest.raises(ValueError, match=r"^Text 1 holds nothing to read: '"):
        ours([["", " "]], is_split_into_words=True)


@pytest.mark.parametrize(
    ("inputs", "settings", "error", "message"),
    [
        (None, {}, TypeError, "Give a text, or a list or another iterable of them; got NoneType"),
        (b"the cat", {}, TypeError, "got bytes"),
        ([b"the cat"], {}, TypeError, "Text 1 must be a str, not bytes"),
        ([["the", "cat"]], {}, TypeError, "Text 1 is a list; texts in words need is_split_into_words=True"),
        ({"text": "the cat"}, {}, TypeError, "Text 1 must be a str, not dict"),
        ("the \ud83d", {}, ValueError, "Text 1 has a lone surrogate at character 4"),
        ("the cat", {"is_split_into_words": True}, TypeError, "Text 1 must be a list of words.* got a str"),
        (["the", 5], {"is_split_into_words": True}, TypeError, "Text 1, word 2, must be a str, not int 5"),
        (["the", ["cat"]], {"is_split_into_words": True}, TypeError, "Text 1, word 2, must be a str, not list"),
        ([["the"], "cat"], {"is_split_into_words": True}, TypeError, "Text 1, word 1, must be a str, not list"),
        (["a", "\ud83d"], {"is_split_into_words": True}, ValueError, "Text 1, word 2, has a lone surrogate"),
    ],
)
def test_what_is_no_text(
    exact: Both, inputs: Any, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        exact[0](inputs, **settings)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"aggregation_strategy": "mean"}, ValueError, "aggregation_strategy='mean' is none of none, simple, first, "),
        ({"aggregation_strategy": 3}, ValueError, "aggregation_strategy=3 is none of"),
        ({"ignore_labels": "O"}, TypeError, "ignore_labels must be a list of labels, not 'O'"),
        ({"ignore_labels": 0}, TypeError, "ignore_labels must be a list of labels, not 0"),
        ({"stride": -1}, ValueError, "stride=-1 is too small"),
        ({"stride": 1.5}, TypeError, "stride must be a whole number"),
        (
            {"stride": ROOM},
            ValueError,
            f"stride={ROOM} is too large, as a window has {ROOM} tokens.*at most {ROOM - 1}",
        ),
        ({"is_split_into_words": 1}, TypeError, "is_split_into_words must be True or False"),
        ({"delimiter": None}, TypeError, "delimiter must be a str, not None"),
        ({"batch_size": 0}, ValueError, "batch_size=0 is too small"),
        ({"agregation_strategy": "simple"}, TypeError, "has no setting agregation_strategy .did you mean aggreg"),
        ({"grouped_entities": True}, TypeError, "has no setting grouped_entities"),
    ],
)
def test_wrong_settings(exact: Both, settings: dict[str, Any], error: type[Exception], message: str) -> None:
    ours, _ = exact
    with pytest.raises(error, match=message):
        ours("the cat", **settings)
    with pytest.raises(error, match=message):  # at once, also where the answers come one by one
        ours(iter(["the cat"]), **settings)
    with pytest.raises(error, match=message):
        TokenClassificationPipeline(ours.model, ours.tokenizer, **settings)


def test_a_model_without_room(make: Make, small_vocabulary: Path) -> None:
    ours, _ = make(small_vocabulary, max_position_embeddings=5)
    tokens = ours("the cat sleeps", ignore_labels=[])  # each alone between <s> and </s>
    assert words_of(tokens) == ours.tokenizer.tokenize("the cat sleeps")
    tokenizer = XLMRobertaTokenizer(small_vocabulary, model_max_length=2)
    with pytest.raises(ValueError, match="take 2 tokens at once, which leaves no room between <s> and </s>"):
        TokenClassificationPipeline(ours.model, tokenizer)


def test_weights_that_are_no_numbers(make: Make, small_vocabulary: Path, tmp_path: Path) -> None:
    ours, theirs = make(small_vocabulary)
    with torch.no_grad():
        theirs.model.classifier.bias[0] = math.nan
    theirs.model.save_pretrained(tmp_path)
    broken = pipeline("ner", tmp_path, tokenizer=ours.tokenizer)
    with pytest.raises(ValueError, match="logits are not finite numbers: its weights are damaged"):
        broken("the cat")


def test_answers_are_plain_json(exact: Both) -> None:
    for strategy in STRATEGIES:
        answer = exact[0](TEXTS[1], aggregation_strategy=strategy)
        assert json.loads(json.dumps(answer)) == answer
