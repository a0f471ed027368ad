"""Question answering against the pipeline of transformers 4.57, and what it does where that one guesses or fails.

Transformers 5 has no such pipeline; what 4.57 answered is recorded in tests/data, see the script beside the file.
"""

import dataclasses
import itertools
import json
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.make_question_answering_answers import (
    ANSWERS,
    LONGEST,
    SETTINGS,
    Question,
    random_model,
    real_questions,
    small_questions,
    xquad,
)
from tests.data.make_small_vocabulary import SENTENCES
from xlmr_np import XLMRobertaForQuestionAnswering, XLMRobertaTokenizer, pipeline
from xlmr_np.pipelines import answer_spans
from xlmr_np.pipelines.answer_spans import (
    NORMALIZERS,
    ContextTokens,
    Window,
    all_together,
    each_by_itself,
    each_start_once,
    likeliest_spans,
)
from xlmr_np.pipelines.question_answering import (
    QuestionAnsweringPipeline,
    QuestionAnsweringSetting,
    merged,
    scored_spans,
)
from xlmr_np.tokenizer.truncation import Limit
from xlmr_np.tokenizer.truncation import windows as token_windows

QUESTION = "Where is the cat?"
CONTEXT = "My dog is cute, but the cat next door is cuter and much louder."
LONG = " ".join(SENTENCES)
BETWEEN_WORDS = " \n\xa0\u200b\ufeff"  # what normalisation makes spaces of
SCORES = ("across_windows", "per_window")
RECORDED = json.loads(ANSWERS.read_text(encoding="utf-8"))
KINDS = ("small", "real")

# Weights are drawn by NumPy, and scores come from logits of some ten in float64, whose errors they multiply.
TOLERANCE = {"rel": 1e-9, "abs": 1e-12}


class Models(NamedTuple):
    """One model with a tokenizer in both readings."""

    huggingface: QuestionAnsweringPipeline
    sentencepiece: QuestionAnsweringPipeline
    questions: list[Question]


def models(vocabulary: Path, longest: int, questions: list[Question]) -> Models:
    model = random_model(len(XLMRobertaTokenizer(vocabulary)), longest)
    tokenizers = (XLMRobertaTokenizer(vocabulary, normalization=name) for name in ("huggingface", "sentencepiece"))
    return Models(*(QuestionAnsweringPipeline(model, tokenizer) for tokenizer in tokenizers), questions)


@pytest.fixture(scope="module")
def small(small_vocabulary: Path) -> Models:
    return models(small_vocabulary, LONGEST["small"], small_questions())


@pytest.fixture(scope="module")
def real(real_vocabulary: Path, shared_data: Path) -> Models:
    return models(real_vocabulary, LONGEST["real"], real_questions(shared_data))


@pytest.fixture
def answer(small: Models) -> QuestionAnsweringPipeline:
    return small.sentencepiece


def as_list(answer: Any) -> list[dict[str, Any]]:
    return answer if isinstance(answer, list) else [answer]


def assert_same(ours: Any, theirs: list[list[float]], tolerance: dict[str, float], context: str) -> None:
    """Ours are theirs, but for answers of score 0 to which transformers comes for want of others."""
    ours, theirs = as_list(ours), [each for each in theirs if each[0] > 0]
    assert [[each["start"], each["end"]] for each in ours] == [[start, end] for _, start, end in theirs]
    assert [each["answer"] for each in ours] == [context[start:end] for _, start, end in theirs]
    assert [each["score"] for each in ours] == pytest.approx([score for score, _, _ in theirs], **tolerance)


def assert_equal_answers(some: Any, others: Any, tolerance: float) -> None:
    others = [[each["score"], each["start"], each["end"]] for each in as_list(others)]
    answers = as_list(some)
    assert [[each["start"], each["end"]] for each in answers] == [each[1:] for each in others]
    assert [each["score"] for each in answers] == pytest.approx([each[0] for each in others], abs=tolerance)


def number_of_windows(answer: QuestionAnsweringPipeline, question: Question, setting: dict[str, Any]) -> int:
    return len(answer.read(1, question._asdict(), answer.changed(setting), None).rows)


# --- the same as transformers 4.57 ---


def test_the_recorded_version() -> None:
    assert RECORDED["transformers"].startswith("4.57.")


@pytest.mark.parametrize("kind", KINDS)
def test_answers_of_each_window_by_itself(request: pytest.FixtureRequest, kind: str) -> None:
    answer, _, questions = request.getfixturevalue(kind)
    windows = []
    for question, recorded in zip(questions, RECORDED[kind], strict=True):
        for setting, theirs in zip(SETTINGS[kind], recorded, strict=True):
            ours = answer(question._asdict(), scores="per_window", **setting)
            assert_same(ours, theirs, TOLERANCE, question.context)
            windows.append(number_of_windows(answer, question, setting))
    assert min(windows) == 1
    assert sum(number > 1 for number in windows) > 25
    assert max(windows) > 5


@pytest.mark.parametrize("kind", KINDS)
def test_answers_of_one_window_do_not_depend_on_how_windows_are_scored(
    request: pytest.FixtureRequest, kind: str
) -> None:
    answer, _, questions = request.getfixturevalue(kind)
    compared = 0
    for question, recorded in zip(questions, RECORDED[kind], strict=True):
        for setting, theirs in zip(SETTINGS[kind], recorded, strict=True):
            if number_of_windows(answer, question, setting) == 1:
                assert_same(answer(question._asdict(), **setting), theirs, TOLERANCE, question.context)
                compared += 1
    assert compared > 25


@pytest.mark.parametrize("kind", KINDS)
def test_the_reading_of_sentencepiece(request: pytest.FixtureRequest, kind: str) -> None:
    """Its offsets have the space before a word, which is no part of an answer."""
    theirs, answer, questions = request.getfixturevalue(kind)
    compared = 0
    for question, recorded in zip(questions, RECORDED[kind], strict=True):
        if theirs.tokenizer(*question)["input_ids"] != answer.tokenizer(*question)["input_ids"]:
            continue  # two segmentations of the same score, of which either is right
        for setting, expected in zip(SETTINGS[kind], recorded, strict=True):
            if setting.get("align_to_words", True) and number_of_windows(answer, question, setting) == 1:
                assert_same(answer(question._asdict(), **setting), expected, TOLERANCE, question.context)
                compared += 1
    assert compared > 25


@pytest.mark.parametrize("kind", KINDS)
def test_half_of_the_precision(request: pytest.FixtureRequest, kind: str, tmp_path: Path) -> None:
    """In float32, the likeliest answer with its score."""
    exact, _, questions = request.getfixturevalue(kind)
    exact.model.save_pretrained(tmp_path)
    answer = pipeline("question-answering", tmp_path, tokenizer=exact.tokenizer, dtype="float32")
    for question, recorded in zip(questions, RECORDED[kind], strict=True):
        ours = answer(question._asdict(), scores="per_window", **SETTINGS[kind][0])
        assert ours["score"] == pytest.approx(recorded[0][0][0], abs=2e-4)  # logits of some ten, so errors of 1e-5
        assert [ours["start"], ours["end"]] == recorded[0][0][1:]


# --- better than transformers 4.57 ---


def test_scores_of_windows_sum_to_more_than_one_in_the_reference(small: Models) -> None:
    """Equal answers of several windows are one answer, whose scores are summed."""
    question, setting = small.questions[-2], SETTINGS["small"][6]
    theirs = RECORDED["small"][-2][6]
    assert theirs[0][0] > 2.8
    assert_same(
        small.huggingface(question._asdict(), scores="per_window", **setting), theirs, TOLERANCE, question.context
    )
    ours = small.huggingface(question._asdict(), **setting)
    assert sum(each["score"] for each in ours) < 1
    assert len({each["answer"].lower() for each in ours}) == len(ours)
    assert any(question.context.lower().count(each["answer"].lower()) > 1 for each in ours)


@pytest.mark.parametrize("align_to_words", [True, False])
@pytest.mark.parametrize("question", [QUESTION, "车站在哪里？"])
def test_scores_of_all_answers_sum_to_less_than_one(
    answer: QuestionAnsweringPipeline, question: str, align_to_words: bool
) -> None:
    everything = {"top_k": 10_000, "max_answer_len": 512, "align_to_words": align_to_words}
    answers = answer(question=question, context=LONG, handle_impossible_answer=True, **everything)
    assert len(answers) > 1000
    assert 0.5 < sum(each["score"] for each in answers) < 1
    assert [each["score"] for each in answers] == sorted((each["score"] for each in answers), reverse=True)


def test_answers_that_are_none_do_not_fill_a_list(small: Models) -> None:
    """A context of one word has no five answers: transformers gives some of score 0, we give one."""
    assert small.questions[-1].context == "cat"
    theirs = RECORDED["small"][-1][4]
    assert [score for score, _, _ in theirs].count(0.0) > 0
    ours = small.huggingface(small.questions[-1]._asdict(), **SETTINGS["small"][4])
    assert 1 <= len(ours) < len(theirs)
    assert all(each["score"] > 0 and each["answer"] for each in ours)


def test_several_answers_are_a_list_however_many_there_are(answer: QuestionAnsweringPipeline) -> None:
    """Where there is but one, transformers gives it without a list."""
    assert isinstance(answer(QUESTION, "a", top_k=5), list)
    assert isinstance(answer(QUESTION, "a", top_k=1), dict)


def test_words_are_whole_where_windows_end(answer: QuestionAnsweringPipeline) -> None:
    """Of each window by itself, as in transformers, an answer may be a part of a word."""
    cut = {"max_seq_len": 30, "doc_stride": 0, "top_k": 300, "max_answer_len": 5}
    words = set(LONG.split())
    whole, parts = (answer(QUESTION, LONG, scores=scores, **cut) for scores in SCORES)
    assert all(set(each["answer"].split()) <= words for each in whole)
    assert not all(set(each["answer"].split()) <= words for each in parts)


def test_white_space_is_not_part_of_an_answer(answer: QuestionAnsweringPipeline) -> None:
    spaced = "  \n".join(["", *CONTEXT.split(), "\t "])
    for align_to_words in (True, False):
        for each in answer(QUESTION, spaced, top_k=500, align_to_words=align_to_words):
            assert each["answer"] == spaced[each["start"] : each["end"]] == each["answer"].strip() != ""


def test_words_of_languages_without_spaces(answer: QuestionAnsweringPipeline) -> None:
    """A word is what stands between white space, as in transformers; without words, answers are as short as found."""
    context = "今天天气很好，孩子们在花园里玩。 老师坐在窗边看一本旧书，喝一杯茶。"
    aligned = answer("车站在哪里？", context, top_k=3)
    assert {each["answer"] for each in aligned} <= {*context.split(), context}
    assert min(len(each["answer"]) for each in answer("车站在哪里？", context, top_k=9, align_to_words=False)) < 9


def test_the_side_of_padding_does_not_matter(small: Models, small_vocabulary: Path) -> None:
    """Transformers puts the context first for a tokenizer that pads on the left, as no model was trained."""
    tokenizer = XLMRobertaTokenizer(small_vocabulary, padding_side="left", truncation_side="left")
    left = QuestionAnsweringPipeline(small.sentencepiece.model, tokenizer)
    assert_equal_answers(left(QUESTION, LONG, top_k=5), small.sentencepiece(QUESTION, LONG, top_k=5), 1e-12)


# --- spans and scores, from logits ---


@given(st.integers(1, 40), st.integers(1, 50), st.integers(1, 60), st.integers(1, 64), st.integers(0, 2**32))
@settings(max_examples=60)
def test_spans_are_those_of_all_pairs(length: int, most: int, number: int, cells: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    logits = random.normal(size=(2, length))
    starts = np.arange(length)
    ends = starts + random.integers(0, 2, length)  # every other token has no character of its own
    sums = logits[0, :, None] + logits[1]
    allowed = np.tril(np.triu(np.ones_like(sums)), most - 1) * (ends > starts[:, None]) > 0
    expected = sorted(zip(sums[allowed], *np.nonzero(allowed), strict=True), key=lambda span: -span[0])[:number]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answer_spans, "CELLS", cells)
        found = likeliest_spans(logits, starts, ends, most, number)
    assert list(zip(*found, strict=True)) == [(start, ends[last], logit) for logit, start, last in expected]


@given(st.lists(st.integers(1, 8), min_size=1, max_size=4), st.integers(0, 2**32), st.floats(-1000, 1000))
@settings(max_examples=60)
def test_probabilities_are_shares_of_all_pairs(lengths: list[int], seed: int, shift: float) -> None:
    """The definition, written down pair by pair; and a constant that is added to all logits changes nothing."""
    random = np.random.default_rng(seed)
    all_logits = [3 * random.normal(size=(2, length + 1)) for length in lengths]
    nulls = [logits[0, 0] + logits[1, 0] for logits in all_logits]
    least = nulls.index(min(nulls))
    pairs, shares = [], []
    for number, logits in enumerate(all_logits):
        with_null = [np.exp(start + end) for start, end in itertools.product(*logits)]
        pairs += with_null if number == least else [np.exp(sum(pair)) for pair in itertools.product(*logits[:, 1:])]
        shares.append(np.exp(nulls[number]) / sum(with_null))
    windows = [Window(0, logits + shift) for logits in all_logits]
    together, alone = all_together(windows), each_by_itself(windows)
    np.testing.assert_allclose(together.of_spans - 2 * shift, np.log(sum(pairs)), atol=1e-9)  # of logits up to 1000
    assert together.no_answer == pytest.approx(np.exp(min(nulls)) / sum(pairs), rel=1e-9)  # the same
    assert alone.no_answer == pytest.approx(min(shares), rel=1e-9)  # the same
    if len(lengths) == 1:
        np.testing.assert_allclose(alone.of_spans, together.of_spans, rtol=1e-12)
        assert alone.no_answer == pytest.approx(together.no_answer)


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 11), st.integers(1, 8))
def test_a_span_counts_once_whatever_windows_it_is_in(length: int, room: int, stride: int, longest: int) -> None:
    cut = Limit(room, "only_first", min(stride, room - 1), side="right", with_overflow=True, as_in_reference=False)
    parts = [window for (window,) in token_windows([length], cut)]
    windows = each_start_once([Window(start, np.zeros((2, 1 + end - start))) for start, end in parts], longest)
    asked = Counter(
        (window.first + start, window.first + end)
        for window in windows
        for start in np.flatnonzero(np.isfinite(window.logits[0, 1:])).tolist()
        for end in range(start, min(start + longest, window.logits.shape[1] - 1))
    )
    held = {
        (start, end)
        for first, behind in parts
        for start in range(first, behind)
        for end in range(start, min(start + longest, behind))
    }
    assert asked == Counter(held)


def test_spans_of_equal_logits_have_equal_scores() -> None:
    """Of six tokens in windows of four that share two, the first is in one window and the fourth in both."""
    context = "a b c d e f"
    words = ContextTokens.of(context, [(place, place + 1) for place in range(0, 11, 2)], range(6))
    setting = QuestionAnsweringSetting(top_k=6, max_answer_len=1)
    logits = np.full((2, 7), -5.0)
    logits[:, [1, 4]] = 5.0  # after that of no answer: the first token and the fourth
    windows = [Window(first, logits[:, [0, *range(1 + first, 5 + first)]]) for first in (0, 2)]
    scores = {}
    for name, parts in (("across_windows", each_start_once(windows, 1)), ("per_window", windows)):
        normalizers = NORMALIZERS[name](parts).of_spans
        spans = scored_spans(parts, words, normalizers, dataclasses.replace(setting, scores=name))
        scores[name] = {each["answer"]: each["score"] for each in merged(context, spans)}
    together, alone = scores.values()
    assert together["a"] == pytest.approx(together["d"]) == pytest.approx(1 / 3, rel=1e-3)  # from "a" to "d", too
    assert alone["d"] > 3 * alone["a"]  # seen twice, and alone in its second window


def test_a_sure_answer_is_sure_among_windows_without_one() -> None:
    """However many windows have no answer, and in however many places the answer is found."""
    without = np.array([[20.0, 0, 0, 0], [20.0, 0, 0, 0]])
    found = np.array([[0.0, 0, 20, 0], [0.0, 0, 20, 0]])
    for times in (1, 2):
        windows = [Window(0, logits) for logits in [without] * 500 + [found] * times]
        normalizers = all_together(windows)
        assert times * np.exp(40 - normalizers.of_spans[0]) == pytest.approx(1, abs=1e-4)
        assert normalizers.no_answer < 1e-12
    no_answer = all_together([Window(0, without)] * 500).no_answer
    assert no_answer == pytest.approx(1, abs=1e-4)


# --- real questions ---


def placed(answer: QuestionAnsweringPipeline, question: Question, gold: tuple[int, int], **changes: Any) -> Any:
    """What the pipeline says if the model were sure of the characters that are the right answer."""
    setting = answer.changed(changes)
    reading = answer.read(1, question._asdict(), setting, None)
    first = int(np.flatnonzero(reading.tokens.ends > gold[0])[0])
    last = int(np.flatnonzero(reading.tokens.starts < gold[1])[-1])
    results = []
    for row, (start, end) in zip(reading.rows, reading.windows, strict=True):
        logits = np.zeros((2, len(row.ids)), np.float32)
        before = len(row.ids) - (end - start) - 1
        assert row.ids[:before] == [0, *answer.tokenizer(question.question)["input_ids"][1:], 2]
        if start <= first <= last < end:
            logits[[0, 1], [before + first - start, before + last - start]] = 30
        results.append(logits)
    assert any(start <= first <= last < end for start, end in reading.windows)
    return answer.answer(reading, results, setting)


def assert_gold_answers_are_reached(answer: QuestionAnsweringPipeline, shared_data: Path, step: int) -> None:
    setting = {"max_seq_len": 192, "max_answer_len": 100}
    for path in sorted((shared_data / "qa").glob("xquad.*.json")):
        exact = questions = 0
        for question, right in itertools.islice(xquad(path), 0, None, step):
            start, end = right["answer_start"], right["answer_start"] + len(right["text"])
            found = placed(answer, question, (start, end), align_to_words=False, **setting)
            whole = placed(answer, question, (start, end), align_to_words=True, **setting)
            assert found["score"] == pytest.approx(1, abs=1e-4)  # 200 tokens of logit 0, and one of 30
            for each in (found, whole):
                assert each["answer"] == question.context[each["start"] : each["end"]]
                assert each["start"] <= start
                assert each["end"] >= end
            assert whole["start"] <= found["start"]
            assert whole["end"] >= found["end"]
            around = question.context[whole["start"] - 1 : whole["start"]] + question.context[whole["end"] :][:1]
            assert not around.strip(BETWEEN_WORDS)
            exact += found["answer"] == right["text"]
            questions += 1
        assert questions > 1000 // step
        assert exact > 0.75 * questions  # pieces such as "年的" hold more than the answer


@pytest.mark.parametrize("reading", ["huggingface", "sentencepiece"])
def test_right_answers_are_reached(real: Models, shared_data: Path, reading: str) -> None:
    assert_gold_answers_are_reached(getattr(real, reading), shared_data, step=80)


@pytest.mark.exhaustive
@pytest.mark.parametrize("reading", ["huggingface", "sentencepiece"])
def test_more_right_answers_are_reached(real: Models, shared_data: Path, reading: str) -> None:
    assert_gold_answers_are_reached(getattr(real, reading), shared_data, step=5)


# --- batches and forms of input ---


@pytest.mark.parametrize("scores", SCORES)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_batches_change_nothing(small: Models, tmp_path: Path, scores: str, dtype: str) -> None:
    small.huggingface.model.save_pretrained(tmp_path)
    tokenizer = small.sentencepiece.tokenizer
    answer = pipeline("question-answering", tmp_path, tokenizer=tokenizer, dtype=dtype, scores=scores)
    inputs = [question._asdict() for question in small.questions[::4]]
    alone = [answer(each) for each in inputs]
    for batch in ({"batch_size": 1}, {"batch_size": 8}, {"batch_tokens": 100}):
        for together, each in zip(answer(inputs, **batch), alone, strict=True):
            assert_equal_answers(together, each, 1e-12 if dtype == "float64" else 2e-5)  # of scores up to 1


def test_forms_of_input(answer: QuestionAnsweringPipeline) -> None:
    one = answer(question=QUESTION, context=CONTEXT)
    assert one.keys() == {"score", "start", "end", "answer"}
    assert [type(value) for value in one.values()] == [float, int, int, str]
    given = {"question": QUESTION, "context": CONTEXT}
    for same in (
        answer(given),
        answer(QUESTION, CONTEXT),
        answer(QUESTION, context=CONTEXT),
        answer([given]),
        answer(question=[QUESTION], context=[CONTEXT]),
        answer(question=[QUESTION], context=CONTEXT),
        answer({**given, "id": "17", "answers": []}),
    ):
        assert_equal_answers(same, one, 1e-12)
    other = {"question": "Where?", "context": LONG}
    both = [one, answer(other)]
    for several in (
        answer([given, other]),
        answer((given, other)),
        answer(question=[QUESTION, "Where?"], context=(CONTEXT, LONG)),
    ):
        assert isinstance(several, list)
        for each, expected in zip(several, both, strict=True):
            assert_equal_answers(each, expected, 1e-12)
    for each, expected in zip(
        answer([QUESTION, "Where?"], CONTEXT, top_k=3),
        [answer(question, CONTEXT, top_k=3) for question in (QUESTION, "Where?")],
        strict=True,
    ):
        assert_equal_answers(each, expected, 1e-12)
    assert answer([]) == answer(question=[], context=[]) == []


def test_streams_are_read_by_and_by(answer: QuestionAnsweringPipeline) -> None:
    taken = []

    def questions() -> Iterator[dict[str, str]]:
        for number in range(1000):
            taken.append(number)
            yield {"question": QUESTION, "context": CONTEXT}

    answers = answer(questions(), batch_size=2)
    assert next(answers)["answer"]
    assert len(taken) <= 16
    assert len([next(answers) for _ in range(30)]) == 30
    assert len(taken) <= 48


def test_answers_are_json(answer: QuestionAnsweringPipeline) -> None:
    answers = answer(QUESTION, LONG, top_k=5, handle_impossible_answer=True)
    assert json.loads(json.dumps(answers, allow_nan=False)) == answers


def test_no_answer_is_an_answer_if_it_is_asked_for(answer: QuestionAnsweringPipeline) -> None:
    everything = {"top_k": 10_000, "max_answer_len": 512}
    for scores in SCORES:
        with_none = answer(QUESTION, LONG, handle_impossible_answer=True, scores=scores, **everything)
        without = answer(QUESTION, LONG, scores=scores, **everything)
        (none,) = [each for each in with_none if not each["answer"]]
        assert (none["start"], none["end"]) == (0, 0)
        assert 0 < none["score"] < 1
        assert [each for each in with_none if each["answer"]] == without


@given(st.text(min_size=1, max_size=60), st.sampled_from(SCORES), st.booleans())
@settings(max_examples=25)
def test_any_text(small: Models, context: str, scores: str, align_to_words: bool) -> None:
    for answer in small[:2]:
        try:
            found = answer(QUESTION, context, scores=scores, align_to_words=align_to_words)
        except ValueError:
            with pytest.raises(ValueError, match="Question 1, context, "):
                answer(QUESTION, context)
            continue
        assert found["answer"] == context[found["start"] : found["end"]] == found["answer"].strip() != ""
        assert found["score"] > 0


# --- long contexts ---


def windows_of(answer: QuestionAnsweringPipeline, context: str, question: str = QUESTION, **changes: Any) -> Any:
    setting = answer.changed(changes)
    return answer.read(1, {"question": question, "context": context}, setting, None)


@pytest.mark.parametrize(
    ("changes", "length", "shared"),
    [({}, 64, 32), ({"max_seq_len": 40}, 40, 20), ({"max_seq_len": 999, "doc_stride": 5}, 64, 5)],
)
def test_windows(answer: QuestionAnsweringPipeline, changes: dict[str, int], length: int, shared: int) -> None:
    reading = windows_of(answer, LONG, question="the cat", **changes)
    assert {len(row.ids) for row in reading.rows[:-1]} == {length}
    assert len(reading.rows[-1].ids) <= length
    (first, *others), tokens = reading.windows, len(reading.tokens.starts)
    assert first[0] == 0
    assert reading.windows[-1][1] == tokens
    for before, after in itertools.pairwise(reading.windows):
        assert before[1] - after[0] == shared
    assert len(others) > 5


def test_windows_after_a_long_question_move_on(answer: QuestionAnsweringPipeline) -> None:
    """Transformers would share 32 tokens of a context that has room for fewer, and fails."""
    question = " ".join([CONTEXT] * 2)[:100]
    reading = windows_of(answer, LONG, question=question)
    room = reading.windows[0][1]
    assert 4 < room < 32
    for before, after in itertools.pairwise(reading.windows):
        assert before[1] - after[0] == room * 3 // 4


def test_a_question_that_is_too_long(answer: QuestionAnsweringPipeline) -> None:
    with pytest.raises(ValueError, match=r"Question 1 has \d+ tokens, and with 4 special ones they leave no room"):
        answer(LONG, CONTEXT)
    with pytest.raises(ValueError, match=r"leaves room for \d+ tokens of the context in windows of 64, and doc_stride"):
        answer(QUESTION, LONG, doc_stride=60)
    assert answer(QUESTION, "the cat", doc_stride=60)["answer"]  # in one window, nothing is shared


def peak_of(run: Callable[[], Any]) -> int:
    """Bytes that a call takes at its peak."""
    tracemalloc.start()
    run()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize("most_tokens", [15, 2048])
def test_all_spans_are_never_held_at_once(monkeypatch: pytest.MonkeyPatch, most_tokens: int) -> None:
    monkeypatch.setattr(answer_spans, "CELLS", 2**16)
    logits, each = np.random.default_rng(0).normal(size=(2, 2048)), np.arange(2048)
    assert peak_of(lambda: likeliest_spans(logits, each, each + 1, most_tokens, 12)) < 8 * 2048**2 / 4


@pytest.mark.exhaustive
def test_a_context_of_a_megabyte(answer: QuestionAnsweringPipeline) -> None:
    """Of which memory is measured for a tenth, because that takes its time."""
    roomy = QuestionAnsweringPipeline(random_model(len(answer.tokenizer), 512), answer.tokenizer)
    context = (LONG + "\n") * (10**6 // len(LONG))
    found = roomy(QUESTION, context, top_k=3)
    assert len({each["answer"].lower() for each in found}) == 3
    assert sum(each["score"] for each in found) < 1
    assert peak_of(lambda: roomy(QUESTION, context[: 10**5])) < 6e7  # 70,000 tokens, of some hundred bytes each


# --- what is refused ---


@pytest.mark.parametrize("blank", ["", "  \n\t ", "\u200b"])
@pytest.mark.parametrize("part", ["question", "context"])
def test_nothing_to_read(answer: QuestionAnsweringPipeline, part: str, blank: str) -> None:
    given = {"question": QUESTION, "context": CONTEXT, part: blank}
    with pytest.raises(ValueError, match=f"Question 1, {part}, holds nothing to read"):
        answer(given)


def test_control_characters_alone(small: Models) -> None:
    """Found by chance: in the reading of transformers both tokens come from the first character."""
    with pytest.raises(ValueError, match=r"Question 1, context, holds nothing that could be an answer: '.x1f0'"):
        small.huggingface(QUESTION, "\x1f0")


def test_special_tokens_alone(small: Models) -> None:
    with pytest.raises(ValueError, match="Question 1, context, holds nothing to read"):
        small.huggingface(QUESTION, "<s></s><pad>")


@pytest.mark.parametrize(
    ("ask", "error", "message"),
    [
        (lambda answer: answer(), TypeError, "Give question and context as two str, .*got NoneType and NoneType"),
        (lambda answer: answer(question=QUESTION), TypeError, "got str and NoneType"),
        (lambda answer: answer(question=QUESTION, context=[CONTEXT]), TypeError, "got str and list"),
        (lambda answer: answer(question=["a", "b"], context=["a"]), ValueError, "2 questions and 1 contexts"),
        (lambda answer: answer({"question": "a", "context": "b"}, question="a"), TypeError, "Give either question and"),
        (lambda answer: answer(QUESTION), TypeError, "Question 1 is a str; write {"),
        (lambda answer: answer(7), TypeError, "got int"),
        (lambda answer: answer([["a", "b"]]), TypeError, "Question 1 is a list; write"),
        (lambda answer: answer({"question": "a"}), ValueError, "Question 1 has no 'context'; write"),
        (lambda answer: answer({"question": "a", "context": None}), TypeError, "context, must be a str, not None"),
        (lambda answer: answer({"question": b"a", "context": "b"}), TypeError, "question, must be a str.*decode"),
        (lambda answer: answer("a\ud800", "b"), ValueError, "Question 1, question, has a lone surrogate"),
        (lambda answer: answer("a", "b", top_k=0), ValueError, "top_k=0 is too small"),
        (lambda answer: answer("a", "b", max_answer_len=0), ValueError, "max_answer_len=0 is too small"),
        (lambda answer: answer("a", "b", max_seq_len=0), ValueError, "max_seq_len=0 is too small"),
        (lambda answer: answer("a", "b", doc_stride=-1), ValueError, "doc_stride=-1 is too small"),
        (lambda answer: answer("a", "b", doc_stride=500), ValueError, "doc_stride=500 is larger than max_seq_len=384"),
        (lambda answer: answer("a", "b", top_k=1.5), TypeError, "top_k must be a whole number"),
        (lambda answer: answer("a", "b", align_to_words=1), TypeError, "align_to_words must be True or False"),
        (lambda answer: answer("a", "b", handle_impossible_answer=None), TypeError, "must be True or False"),
        (lambda answer: answer("a", "b", scores="best"), ValueError, "scores='best' is none of across_windows, per_"),
        (lambda answer: answer("a", "b", max_seq_len=5), ValueError, "leave no room for the context in windows of 5"),
        (lambda answer: answer("a", "b", topk=2), TypeError, "no setting topk"),
    ],
)
def test_bad_input(
    answer: QuestionAnsweringPipeline,
    ask: Callable[[QuestionAnsweringPipeline], Any],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        ask(answer)


def test_what_cannot_be_answered_leaves_the_rest(answer: QuestionAnsweringPipeline) -> None:
    given = [{"question": QUESTION, "context": context} for context in (CONTEXT, " ", LONG)]
    answers = answer(given, on_error=lambda number, error: f"{number}: {error}")
    assert answers[1].startswith("2: Question 2, context, holds nothing to read")
    assert answers[0]["answer"]
    assert answers[2]["answer"]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_damaged_weights_give_no_answer(answer: QuestionAnsweringPipeline, value: float) -> None:
    model: XLMRobertaForQuestionAnswering = random_model(len(answer.tokenizer), 64)
    model.params.head.bias[:] = value
    with pytest.raises(ValueError, match="logits are not finite numbers: its weights are damaged"):
        QuestionAnsweringPipeline(model, answer.tokenizer)(QUESTION, CONTEXT)
