"""Fill-mask against transformers' own pipeline, and what it does where that one fails or guesses."""

import itertools
import json
import logging
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.make_small_vocabulary import SENTENCES
from tests.pipelines.conftest import Pair
from tests.pipelines.saved_models import LONGEST
from xlmr_np import XLMRobertaConfig, XLMRobertaForMaskedLM, XLMRobertaTokenizer
from xlmr_np.ops import Op
from xlmr_np.pipelines.fill_mask import FillMaskPipeline
from xlmr_np.pipelines.streaming import BATCHES_IN_WINDOW

ONE_MASK = [
    "Bonjour, je suis un petit modèle de <mask>.",
    "<mask>",
    "<mask> dort sur la table",
    "  Das Wetter\tist heute <mask>,  und die Kinder spielen. ",
    "the<mask>s and a cat",
    "Старый учитель читает <mask> у окна.",
    "Η γάτα <mask> πάνω στο τραπέζι.",
    "الطقس <mask> اليوم والأطفال يلعبون.",
    "आज मौसम <mask> है और बच्चे खेल रहे हैं।",
    "今天天气很<mask>，孩子们在花园里玩。",
    "先生は窓のそばで<mask>を読みます。",
    "오늘은 <mask> 좋아서 아이들이 놀고 있어요.",
    "วันนี้อากาศ<mask> และเด็ก ๆ กำลังเล่น",
    "I 💛 <mask>!",
]
SEVERAL_MASKS = [
    "The <mask> is <mask> today.",
    "<mask><mask>",
    "Где <mask>? <mask> за <mask>.",
    "今<mask>天气<mask>",
]
LONGER = "A much longer text, so that the others are padded, <mask>"
MIXED = [ONE_MASK[0], SEVERAL_MASKS[0], "<mask>", ONE_MASK[7], LONGER]


def flat(answer: Any) -> Iterator[dict[str, Any]]:
    """All predictions of an answer, however deep they lie."""
    for part in answer:
        if isinstance(part, dict):
            yield part
        else:
            yield from flat(part)


def shape(answer: Any) -> Any:
    """The answer with a number in the place of every list of predictions."""
    return len(answer) if not answer or isinstance(answer[0], dict) else [shape(part) for part in answer]


def assert_same(ours: Any, theirs: Any, tolerance: float) -> None:
    assert shape(ours) == shape(theirs)
    for our_prediction, their_prediction in zip(flat(ours), flat(theirs), strict=True):
        assert our_prediction.keys() == their_prediction.keys()
        for key in ("token", "token_str", "sequence"):
            assert our_prediction[key] == their_prediction[key]
        assert our_prediction["score"] == pytest.approx(their_prediction["score"], rel=tolerance)


# --- the same as the reference ---


@pytest.mark.parametrize("text", ONE_MASK)
def test_one_mask(pair: Pair, text: str) -> None:
    answer = pair.ours(text)
    assert_same(answer, pair.theirs(text), pair.tolerance)
    assert len(answer) == 5
    assert [type(answer[0][key]) for key in ("score", "token", "token_str", "sequence")] == [float, int, str, str]
    assert answer == sorted(answer, key=lambda prediction: -prediction["score"])


@pytest.mark.parametrize("text", SEVERAL_MASKS)
def test_several_masks(pair: Pair, text: str) -> None:
    answer = pair.ours(text)
    assert_same(answer, pair.theirs(text), pair.tolerance)
    assert shape(answer) == [5] * text.count("<mask>")
    for prediction in flat(answer):
        assert prediction["sequence"].startswith("<s>")
        assert prediction["sequence"].count("<mask>") == text.count("<mask>") - 1


@pytest.mark.parametrize("top_k", [0, 1, 3, 10])
@pytest.mark.parametrize("text", [ONE_MASK[0], SEVERAL_MASKS[0]])
def test_top_k(pair: Pair, text: str, top_k: int) -> None:
    assert_same(pair.ours(text, top_k=top_k), pair.theirs(text, top_k=top_k), pair.tolerance)


def test_the_whole_vocabulary_has_probability_one(exact: Pair) -> None:
    answer = exact.ours("<mask>", top_k=482)
    assert sorted(prediction["token"] for prediction in answer) == list(range(482))
    assert sum(prediction["score"] for prediction in answer) == pytest.approx(1)
    assert_same(answer, exact.theirs("<mask>", top_k=482), exact.tolerance)


@pytest.mark.parametrize("texts", [MIXED, MIXED[:1], MIXED[1:2]], ids=["five", "one", "one of two masks"])
@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_lists(pair: Pair, texts: list[str], batch_size: int) -> None:
    answers = pair.ours(texts, batch_size=batch_size)
    assert_same(answers, pair.theirs(texts, batch_size=batch_size), pair.tolerance)
    if len(texts) == 1:
        assert_same(answers, pair.ours(texts[0]), pair.tolerance)


def test_no_texts_get_no_answers(exact: Pair) -> None:
    assert exact.ours([]) == []
    with pytest.raises(IndexError):
        exact.theirs([])


def test_a_tuple_is_a_list(exact: Pair) -> None:
    assert exact.ours(tuple(MIXED)) == exact.ours(MIXED)


def test_settings_of_the_pipeline_are_defaults_of_its_calls(exact: Pair) -> None:
    model, tokenizer = exact.ours.model, exact.ours.tokenizer
    fill_mask = FillMaskPipeline(
        model, tokenizer, top_k=2, targets=[7, 8, 9], tokenizer_kwargs={"truncation": True, "max_length": 4}
    )
    assert_same(fill_mask("<mask>"), exact.ours("<mask>", top_k=2, targets=[7, 8, 9]), 1e-12)
    assert [prediction["token"] for prediction in fill_mask("<mask>", top_k=1, targets=11)] == [11]
    assert "cat" not in fill_mask("<mask> and the cat")[0]["sequence"]
    assert "cat" in fill_mask("<mask> and the cat", tokenizer_kwargs={"max_length": None})[0]["sequence"]


@given(st.lists(st.sampled_from([*" ".join(SENTENCES).split(), "<mask>", "<mask>"]), min_size=1, max_size=5))
@settings(max_examples=30)
def test_any_words(exact: Pair, words: list[str]) -> None:
    text = " ".join([*words, "<mask>"])
    assert_same(exact.ours(text), exact.theirs(text), exact.tolerance)


@given(st.lists(st.sampled_from([*ONE_MASK, *SEVERAL_MASKS]), min_size=2, max_size=9), st.integers(1, 9))
@settings(max_examples=15)
def test_neighbours_in_a_batch_change_nothing(exact: Pair, texts: list[str], batch_size: int) -> None:
    for answer, text in zip(exact.ours(texts, batch_size=batch_size), texts, strict=True):
        assert_same(answer, exact.ours(text), exact.tolerance)


def assert_same_on_lines(real: Pair, files: Iterable[Path], step: int) -> None:
    """Parity on lines of many languages, the word in the middle of each replaced by a mask."""
    texts = []
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines()[::step]:
            words = unicodedata.normalize("NFC", line).split()  # what is not, the reference normalises otherwise
            words[len(words) // 2] = "<mask>"
            texts.append(" ".join(words))
    limit = {"truncation": True, "max_length": LONGEST}
    ids = [tokenizer(texts, **limit)["input_ids"] for tokenizer in (real.ours.tokenizer, real.theirs.tokenizer)]
    # Where two segmentations have the same score, either is right, and the sentences are not the same.
    same = [text for text, ours, theirs in zip(texts, *ids, strict=True) if ours == theirs and 250001 in ours]
    assert len(same) > 0.9 * len(texts) > 20
    for answer, text in zip(real.ours(same, tokenizer_kwargs=limit), same, strict=True):
        assert_same(answer, real.theirs(text, tokenizer_kwargs=limit), real.tolerance)


def test_lines_in_many_languages(real: Pair, shared_data: Path) -> None:
    assert_same_on_lines(real, sorted((shared_data / "text" / "ntrex").glob("*.txt")), step=2000)


@pytest.mark.exhaustive
def test_lines_in_all_languages(real: Pair, shared_data: Path) -> None:
    assert_same_on_lines(real, sorted((shared_data / "text").glob("*/*.txt")), step=100)


# --- targets ---


def both_spellings(tokenizer: XLMRobertaTokenizer) -> str:
    """A word that the vocabulary has as a word and within words, as two tokens."""
    vocabulary = tokenizer.get_vocab()
    return next(piece for piece in vocabulary if piece.isalpha() and "▁" + piece in vocabulary)


def test_targets_as_the_reference_takes_them(pair: Pair) -> None:
    vocabulary = [token for token in pair.ours.tokenizer.get_vocab() if token.startswith("▁")]
    targets = vocabulary[5:25]
    for text, top_k in ((ONE_MASK[0], 3), (SEVERAL_MASKS[0], 20), (ONE_MASK[0], 40)):
        ours, theirs = (fill(text, targets=targets, top_k=top_k) for fill in (pair.ours, pair.theirs))
        assert_same(ours, theirs, pair.tolerance)
    assert_same(pair.ours("<mask>", targets=targets[0]), pair.theirs("<mask>", targets=targets[0]), pair.tolerance)


def test_scores_of_targets_are_probabilities_among_the_whole_vocabulary(exact: Pair) -> None:
    everything = {each["token"]: each["score"] for each in exact.ours(ONE_MASK[0], top_k=482)}
    for prediction in exact.ours(ONE_MASK[0], targets=[5, 100, 300]):
        assert prediction["score"] == pytest.approx(everything[prediction["token"]])


def test_a_plain_word_is_the_word_here_and_a_piece_within_words_in_the_reference(pair: Pair) -> None:
    word = both_spellings(pair.ours.tokenizer)
    vocabulary = pair.ours.tokenizer.get_vocab()
    assert [each["token"] for each in pair.ours("<mask>", targets=word)] == [vocabulary["▁" + word]]
    assert [each["token"] for each in pair.theirs("<mask>", targets=word)] == [vocabulary[word]]
    assert pair.ours.target_ids("▁" + word) == [vocabulary["▁" + word]]
    assert pair.ours.target_ids(vocabulary[word]) == [vocabulary[word]]


def test_a_word_that_exists_within_words_only_is_taken_there(exact: Pair) -> None:
    vocabulary = exact.ours.tokenizer.get_vocab()
    piece = next(piece for piece in vocabulary if piece.isalpha() and "▁" + piece not in vocabulary)
    assert exact.ours.target_ids([piece]) == [vocabulary[piece]]


def test_targets_are_normalised_like_text(exact: Pair) -> None:
    vocabulary = exact.ours.tokenizer.get_vocab()
    word = next(piece for piece in vocabulary if piece.startswith("▁") and piece[1:].isascii() and piece[1:].isalpha())
    full_width = "".join(chr(ord(letter) + 0xFEE0) for letter in word[1:])
    assert exact.ours.target_ids([" " + word[1:], full_width]) == [vocabulary[word]]


def test_duplicate_targets_count_once(exact: Pair) -> None:
    word = both_spellings(exact.ours.tokenizer)
    targets = [word, "▁" + word, word, exact.ours.tokenizer.convert_tokens_to_ids("▁" + word), np.int64(9)]
    assert len(exact.ours("<mask>", targets=targets)) == 2
    assert exact.ours.target_ids(targets) == [targets[3], 9]
    assert exact.ours.target_ids(np.asarray([9, 9, 8])) == [9, 8]


def test_a_word_of_several_pieces_is_refused_where_the_reference_takes_its_first_piece(
    exact: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ValueError, match=r"'windowsill' is not one token .*cut into \['▁w"):
        exact.ours("<mask>", targets="windowsill")
    first_piece = exact.ours.tokenizer.convert_tokens_to_ids(exact.ours.tokenizer.tokenize("windowsill")[0])
    with caplog.at_level(logging.WARNING):
        assert [each["token"] for each in exact.theirs("<mask>", targets="windowsill")] == [first_piece]


@pytest.mark.parametrize("targets", ["", " ", ["la", ""], "\t\n", "☃", "<unk>", "la la"])
def test_what_is_no_token_is_refused(exact: Pair, targets: Any) -> None:
    with pytest.raises(ValueError, match="is not one token of the vocabulary"):
        exact.ours("<mask>", targets=targets)


@pytest.mark.parametrize("targets", [[], (), np.asarray([], int)])
def test_no_targets(exact: Pair, targets: Any) -> None:
    with pytest.raises(ValueError, match="targets is empty; give at least one word"):
        exact.ours("<mask>", targets=targets)


@pytest.mark.parametrize(
    ("target", "error"), [(482, ValueError), (-1, ValueError), (1.0, TypeError), (True, TypeError)]
)
def test_a_target_that_is_no_token_id(exact: Pair, target: Any, error: type[Exception]) -> None:
    for targets in (target, [target]):
        with pytest.raises(error, match=r"482 is not a token id; they go from 0 to 481|A target that is not a word"):
            exact.ours("<mask>", targets=targets)


def test_bytes_are_not_token_ids(exact: Pair) -> None:
    for targets in (b"la", [b"la"], [None]):
        with pytest.raises(TypeError, match="A target that is not a word must be a whole number, not"):
            exact.ours("<mask>", targets=targets)


# --- only what is needed is computed ---


@pytest.fixture
def rows_of_logits(exact: Pair, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows of logits each call of the engine's `vocabulary_top_k` computes."""
    rows, model, original = [], exact.ours.model, exact.ours.model.engine.inference.vocabulary_top_k.forward

    def counting(x: Any, *arguments: Any) -> Any:
        rows.append(x.shape[0])
        return original(x, *arguments)

    def forbidden(*arguments: Any, **keywords: Any) -> None:
        raise AssertionError("fill-mask needs no logits of the whole text")

    inference = model.engine.inference._replace(vocabulary_top_k=Op(counting))
    monkeypatch.setattr(model, "engine", model.engine._replace(inference=inference))
    monkeypatch.setattr(XLMRobertaForMaskedLM, "forward", forbidden)
    monkeypatch.setattr(XLMRobertaForMaskedLM, "__call__", forbidden)
    return rows


def test_logits_are_computed_at_masks_only(exact: Pair, rows_of_logits: list[int]) -> None:
    exact.ours(MIXED, batch_size=3)
    assert rows_of_logits == [4, 2]  # of 1 + 2 + 1 and 1 + 1 masks, among dozens of tokens


def test_no_prediction_needs_no_logits(exact: Pair, rows_of_logits: list[int]) -> None:
    exact.ours(MIXED, top_k=0)
    assert rows_of_logits == []


@pytest.mark.parametrize("batch_size", [1, 3])
def test_iterators_are_read_a_window_at_a_time(exact: Pair, batch_size: int) -> None:
    read: list[int] = []

    def endless() -> Iterator[str]:
        for number in itertools.count():
            read.append(number)
            yield MIXED[number % len(MIXED)]

    answers = exact.ours(endless(), batch_size=batch_size)
    assert iter(answers) is answers
    assert read == []
    for number in range(7):
        assert_same(next(answers), exact.ours(MIXED[number % len(MIXED)]), exact.tolerance)
        window = 1 if batch_size == 1 else batch_size * BATCHES_IN_WINDOW
        assert len(read) == (number // window + 1) * window


def test_an_iterator_ends_with_its_texts(exact: Pair) -> None:
    answers = list(exact.ours((text for text in MIXED), batch_size=2))
    assert_same(answers, list(exact.theirs((text for text in MIXED), batch_size=2)), exact.tolerance)
    assert len(list(exact.ours(iter(MIXED[:1])))) == 1
    assert list(exact.ours(iter([]))) == []


# --- settings of the tokenizer ---


def test_padding_by_the_tokenizer_changes_nothing(exact: Pair) -> None:
    for padding in ({"padding": "max_length", "max_length": 40}, {"padding": "max_length", "max_length": 200}):
        for side in ("left", "right"):
            answers = exact.ours(MIXED, tokenizer_kwargs={**padding, "padding_side": side})
            assert_same(answers, exact.ours(MIXED), exact.tolerance)


def test_truncation_cuts_to_what_the_model_takes(exact: Pair) -> None:
    text = "the <mask> " + "and the cat " * 100
    cut = exact.ours(text, tokenizer_kwargs={"truncation": True})
    same = exact.ours(text, tokenizer_kwargs={"truncation": True, "max_length": LONGEST})
    assert_same(cut, same, 1e-12)
    assert len(exact.ours.tokenizer(cut[0]["sequence"])["input_ids"]) <= LONGEST
    theirs = exact.theirs(text, tokenizer_kwargs={"truncation": True, "max_length": LONGEST})
    assert_same(cut, theirs, exact.tolerance)


def test_truncation_knows_the_tokenizers_own_limit(exact: Pair, small_vocabulary: Path) -> None:
    short = FillMaskPipeline(exact.ours.model, XLMRobertaTokenizer(small_vocabulary, model_max_length=6))
    text = "the <mask> and the cat and the dog"
    cut = short(text, tokenizer_kwargs={"truncation": True})
    assert_same(cut, exact.ours(text, tokenizer_kwargs={"truncation": True, "max_length": 6}), 1e-12)


def test_no_arguments_for_the_tokenizer(exact: Pair) -> None:
    assert_same(exact.ours("<mask>", tokenizer_kwargs=None), exact.ours("<mask>"), exact.tolerance)


# --- settings that are wrong are refused once, and not for every text ---


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"tokenizer_kwargs": ["truncation"]}, TypeError, r"tokenizer_kwargs=\['truncation'\] must be a dict"),
        ({"tokenizer_kwargs": {"foo": 1}}, TypeError, "unexpected keyword argument 'foo'"),
        ({"tokenizer_kwargs": {"truncation": "foo"}}, ValueError, "truncation='foo' is not True, False or one of"),
        ({"top_k": 483}, ValueError, "top_k=483 is more than the 482 tokens of the vocabulary"),
        ({"targets": "windowsill"}, ValueError, "'windowsill' is not one token"),
        ({"targets": []}, ValueError, "targets is empty"),
    ],
)
def test_wrong_settings(exact: Pair, changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        FillMaskPipeline(exact.ours.model, exact.ours.tokenizer, **changes)
    with pytest.raises(error, match=message):
        exact.ours(["<mask>", "<mask>"], on_error=lambda number, error: None, **changes)


def test_targets_of_an_iterator_are_for_all_calls(exact: Pair) -> None:
    fill_mask = FillMaskPipeline(exact.ours.model, exact.ours.tokenizer, targets=iter([5, 9]))
    for _ in range(2):
        assert {each["token"] for each in fill_mask("<mask>")} == {5, 9}


# --- bad input ---


@pytest.mark.parametrize("text", ["", "   ", "no mask here", "<MASK> [MASK] < mask>"])
def test_no_mask(exact: Pair, text: str) -> None:
    with pytest.raises(ValueError, match=r"^Text 1 has no <mask>: .*; write <mask> where a word is to be found\.$"):
        exact.ours(text)


def test_the_text_without_a_mask_is_named(exact: Pair) -> None:
    texts = [*MIXED, "none\x1b[31m", *MIXED]
    with pytest.raises(ValueError, match=r"Text 6 has no <mask>: 'none\\x1b\[31m'"):
        exact.ours(texts, batch_size=4)
    answers = exact.ours(iter(texts), batch_size=4)
    assert len(list(itertools.islice(answers, 5))) == 5  # those before it are answered
    with pytest.raises(ValueError, match="Text 6 has no <mask>"):
        next(answers)


def test_no_mask_after_truncation(exact: Pair) -> None:
    with pytest.raises(ValueError, match=r"Text 1 has no <mask> after truncation: 'the cat and "):
        exact.ours("the cat and the dog and <mask>", tokenizer_kwargs={"truncation": True, "max_length": 6})


@pytest.fixture(scope="module")
def of_512_tokens(small_vocabulary: Path) -> FillMaskPipeline:
    tokenizer = XLMRobertaTokenizer(small_vocabulary)
    config = XLMRobertaConfig(
        vocab_size=len(tokenizer), hidden_size=8, num_attention_heads=1, num_hidden_layers=1, intermediate_size=8,
        max_position_embeddings=514, type_vocab_size=1,
    )  # fmt: skip
    return FillMaskPipeline(XLMRobertaForMaskedLM(config, generator=np.random.default_rng(0)), tokenizer)


def test_too_many_masks(of_512_tokens: FillMaskPipeline, caplog: pytest.LogCaptureFixture) -> None:
    assert len(of_512_tokens("<mask>" * 510, top_k=1)) == 510
    for texts in (["<mask>", "<mask>" * 511], ["<mask>", "<mask>" + "the " * 509 + "<mask>"]):
        with pytest.raises(ValueError, match=r"^Text 2 has (511|2) masks over 511 tokens, and this model takes 510"):
            of_512_tokens(texts)
    assert caplog.records == []  # nothing is said to be cut that is refused


@pytest.mark.parametrize("settings", [{"truncation": False}, {"tokenizer_kwargs": {"truncation": False}}])
def test_too_long_where_nothing_may_be_cut(of_512_tokens: FillMaskPipeline, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^Text 2 has 514 tokens, and this model takes at most 512: .*let it be cut"):
        of_512_tokens(["<mask>", "<mask>" + "the " * 511], **settings)


def test_texts_that_are_too_long_are_read_around_their_masks(exact: Pair, caplog: pytest.LogCaptureFixture) -> None:
    room = LONGEST - 2
    answers = {}
    with caplog.at_level(logging.WARNING, "xlmr_np"):
        for before, after in ((0, 100), (100, 0), (100, 100), (10, 100)):
            caplog.clear()
            text = "the " * before + "<mask>" + " the" * after
            answers[before, after] = exact.ours([text, text])[0]
            message = f"Text 1 has {before + after + 3} tokens, of which {LONGEST} around the masks are read"
            assert [record.getMessage()[: len(message)] for record in caplog.records] == [message]  # one for both
    short = {
        (0, 100): "<mask>" + " the" * (room - 1),
        (100, 0): "the " * (room - 1) + "<mask>",
        (100, 100): "the " * (room // 2) + "<mask>" + " the" * (room - room // 2 - 1),
        (10, 100): "the " * 10 + "<mask>" + " the" * (room - 11),
    }
    for key, text in short.items():
        assert_same(answers[key], exact.ours(text), exact.tolerance)
    with pytest.raises(Exception, match="index"):  # IndexError or RuntimeError, by the place of the table
        exact.theirs("the " * 100 + "<mask>")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (None, "Text 2 must be a str, not None"),
        (b"<mask>", r"Text 2 must be a str, not bytes b'<mask>': decode the bytes first"),
        (7, "Text 2 must be a str, not int 7"),
        (["<mask>"], r"Text 2 must be a str, not list \['<mask>'\]"),
    ],
)
def test_what_is_no_text_in_a_list(exact: Pair, wrong: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        exact.ours(["<mask>", wrong])


def test_half_a_character(exact: Pair) -> None:
    with pytest.raises(ValueError, match="Text 2 has a lone surrogate at character 7"):
        exact.ours(["<mask>", "<mask> \ud83d"])


@pytest.mark.parametrize("inputs", [None, b"<mask>", 7])
def test_what_is_neither_a_text_nor_texts(exact: Pair, inputs: Any) -> None:
    with pytest.raises(
        TypeError, match=f"Give a text, or a list or another iterable of them; got {type(inputs).__name__}"
    ):
        exact.ours(inputs)


@pytest.mark.parametrize(
    ("top_k", "error", "message"),
    [
        (-1, ValueError, "top_k=-1 is too small"),
        (483, ValueError, "top_k=483 is more than the 482 tokens of the vocabulary"),
        (2.5, TypeError, "top_k must be a whole number, not float 2.5"),
        ("5", TypeError, "top_k must be a whole number"),
        (True, TypeError, "top_k must be a whole number"),
    ],
)
def test_top_k_out_of_range(exact: Pair, top_k: Any, error: type[Exception], message: str) -> None:
    for call in (lambda: exact.ours("<mask>", top_k=top_k), lambda: exact.ours(iter(["<mask>"]), top_k=top_k)):
        with pytest.raises(error, match=message):  # at once, also where the answers come one by one
            call()


def test_numbers_of_numpy_are_numbers(exact: Pair) -> None:
    assert len(exact.ours("<mask>", top_k=np.int64(3))) == 3


@pytest.mark.parametrize(("batch_size", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError)])
def test_batch_size_out_of_range(exact: Pair, batch_size: Any, error: type[Exception]) -> None:
    makers: list[Callable[[], Any]] = [
        lambda: FillMaskPipeline(exact.ours.model, exact.ours.tokenizer, batch_size=batch_size),
        lambda: exact.ours("<mask>", batch_size=batch_size),
    ]
    for make in makers:
        with pytest.raises(error, match="batch_size"):
            make()


# --- models that do not fit, or are damaged ---


def random_model(vocabulary_size: int) -> XLMRobertaForMaskedLM:
    config = XLMRobertaConfig(
        vocab_size=vocabulary_size, hidden_size=8, num_attention_heads=1, num_hidden_layers=1, intermediate_size=8,
        max_position_embeddings=34, type_vocab_size=1,
    )  # fmt: skip
    return XLMRobertaForMaskedLM(config, generator=np.random.default_rng(0), dtype="float64")


def test_a_tokenizer_with_more_tokens_than_the_model(small_vocabulary: Path) -> None:
    with pytest.raises(ValueError, match="The tokenizer has 482 tokens and the model 481, so they do not belong"):
        FillMaskPipeline(random_model(481), XLMRobertaTokenizer(small_vocabulary))


def test_a_model_whose_vocabulary_was_rounded_up(small_vocabulary: Path) -> None:
    fill_mask = FillMaskPipeline(random_model(512), XLMRobertaTokenizer(small_vocabulary))
    answer = fill_mask("the <mask>", top_k=512)
    assert len(answer) == 512
    assert sum(prediction["score"] for prediction in answer) == pytest.approx(1)
    for prediction in answer:
        if prediction["token"] >= 482:
            assert (prediction["token_str"], prediction["sequence"]) == ("", "the")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_damaged_weights_give_no_answer(small_vocabulary: Path, value: float) -> None:
    model = random_model(482)
    model.params.head.dense.bias[:] = value
    with pytest.raises(ValueError, match="logits are not finite numbers: its weights are damaged"):
        FillMaskPipeline(model, XLMRobertaTokenizer(small_vocabulary))("the <mask>")


def test_answers_are_json(exact: Pair) -> None:
    answers = exact.ours(MIXED)
    assert json.loads(json.dumps(answers, allow_nan=False)) == answers
