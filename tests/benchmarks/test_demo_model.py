"""The arithmetic of `tests.benchmarks.demo_model`, on tiny models and texts."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.benchmarks import demo_model
from tests.benchmarks.demo_model import (
    BASELINES,
    DRAWS,
    HIDDEN,
    LARGE,
    MODEL,
    Answers,
    Counts,
    FrequencyNumbers,
    Measured,
    NeighbourNumbers,
    Occurrences,
    Positions,
    Reader,
    Result,
    Statistics,
    baseline_answers,
    chosen,
    chosen_numbers,
    facts,
    files_by_language,
    frequencies_of,
    frequency_probabilities,
    interpolated,
    main,
    markdown,
    measure,
    model_answers,
    neighbour_probabilities,
    ranks,
    score,
)
from xlmr_np import XLMRobertaConfig, XLMRobertaForMaskedLM, XLMRobertaTokenizer
from xlmr_np.training.batches import Sequences

VOCABULARY = 9  # <s> is 0 and </s> is 2; the ordinary ones are 4 to 7
IS_ORDINARY = np.isin(np.arange(VOCABULARY), [4, 5, 6, 7])
NUMBERS = NeighbourNumbers(0.1, 0.2, 0.3, 0.4, 0.6, 0.7)
MAX_LENGTH = 30


def sequences(*rows: list[int]) -> Sequences:
    ends = np.cumsum([0, *(len(row) + 2 for row in rows)])
    return Sequences(np.array([token for row in rows for token in (0, *row, 2)], np.int32), ends)


def statistics(own: Sequences, *others: Sequences) -> Statistics:
    occurrences = [Occurrences.of(each, IS_ORDINARY) for each in (own, *others)]
    everyone = frequencies_of([each.pieces for each in occurrences], VOCABULARY)
    return Statistics(occurrences[0], everyone, IS_ORDINARY)


def positions(*rows: tuple[int, int, int]) -> Positions:
    """Of (left, label, right)."""
    left, labels, right = np.array(rows, np.int64).T
    return Positions(labels, left, right)


# --- Texts ---


def test_files_of_a_language_are_found_under_both_names(tmp_path: Path) -> None:
    for name in ("one/de.txt", "two/deu.txt", "two/cmn.txt", "one/arq.txt", "two/other.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert files_by_language(tmp_path) == {
        "arq": [tmp_path / "one/arq.txt"],  # Algerian Arabic, Chinese, German
        "zh": [tmp_path / "two/cmn.txt"],
        "de": [tmp_path / "one/de.txt", tmp_path / "two/deu.txt"],
    }


def test_every_language_has_its_own_names() -> None:
    codes, three_letters, names = zip(*demo_model.LANGUAGES, strict=True)
    for column in (codes, three_letters, names):
        assert len(set(column)) == len(column)
    for code, three in zip(codes, three_letters, strict=True):
        assert len(three) == 3
        assert len(code) == 2 or code == three


def test_directories_of_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no text files"):
        files_by_language(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"notes\.txt has no language's name"):
        files_by_language(tmp_path)


# --- Counting ---


def test_counts_by_hand() -> None:
    left, pieces, right = Occurrences.of(sequences([4, 5, 4], [5, 3, 4, 5]), IS_ORDINARY)  # 3 is not ordinary
    assert list(zip(left, pieces, right, strict=True)) == [
        (0, 4, 5),
        (4, 5, 4),
        (5, 4, 2),
        (0, 5, 3),
        (3, 4, 5),
        (4, 5, 2),
    ]
    counts = Counts(left, pieces, VOCABULARY)
    contexts = np.array([4, 0, 0, 0, 6, HIDDEN, 3])
    evidence = counts.of_pieces(contexts, np.array([5, 4, 5, 6, 4, 4, 4]))
    assert evidence.counts.tolist() == [2, 1, 1, 0, 0, 0, 1]
    assert evidence.totals.tolist() == [2, 2, 2, 2, 0, 0, 1]
    assert evidence.kinds.tolist() == [1, 2, 2, 2, 0, 0, 1]


@given(data=st.data())
def test_both_ways_to_ask_for_counts_agree(data: st.DataObject) -> None:
    pairs = data.draw(st.lists(st.tuples(st.integers(0, 5), st.integers(0, VOCABULARY - 1)), min_size=1))
    of_pairs, pieces = np.array(pairs, np.int64).T
    counts = Counts(of_pairs, pieces, VOCABULARY)
    contexts = np.array(data.draw(st.lists(st.integers(HIDDEN, 7), min_size=1)))
    of_all = counts.of_all_pieces(contexts)
    for row, context in enumerate(contexts):
        for piece in range(VOCABULARY):
            assert of_all.counts[row, piece] == pairs.count((context, piece))
        of_one = counts.of_pieces(np.full(VOCABULARY, context), np.arange(VOCABULARY))
        np.testing.assert_array_equal(of_one.counts, of_all.counts[row])
        np.testing.assert_array_equal(of_one.totals, of_all.totals[row, 0])
        np.testing.assert_array_equal(of_one.kinds, of_all.kinds[row, 0])


# --- Baselines ---


def test_neighbours_by_hand() -> None:
    own = statistics(sequences([4, 5, 4], [5, 4, 5]), sequences([6, 6]))
    everyone = {4: (3 - 0.1) / 8, 5: (3 - 0.1) / 8, 6: (2 - 0.1) / 8, 7: 0.0}
    everyone = {piece: value + 3 * 0.1 / 8 / 4 for piece, value in everyone.items()}
    counted = {4: (3 - 0.2) / 6, 5: (3 - 0.2) / 6, 6: 0.0, 7: 0.0}
    language = {piece: value + 2 * 0.2 / 6 * everyone[piece] for piece, value in counted.items()}
    for piece, by_hand in language.items():
        got = frequency_probabilities(own.at_labels(positions((0, piece, 2))), NUMBERS)
        np.testing.assert_allclose(got, [by_hand], rtol=1e-12)  # roundings of sums in another order
    # 5 after 4: twice, and nothing else; 5 before 4: twice, and nothing else; between them: once, and nothing else
    left = (2 - 0.3) / 2 + 0.3 / 2 * language[5]
    right = (2 - 0.4) / 2 + 0.4 / 2 * language[5]
    both = (1 - 0.6) / 1 + 0.6 / 1 * (0.7 * left + 0.3 * right)
    # 4 never came after 6, or before it, though these occur
    rows = positions((4, 5, 4), (4, 5, HIDDEN), (HIDDEN, 5, 4), (HIDDEN, 5, HIDDEN), (6, 4, 6))
    got = neighbour_probabilities(own.at_labels(rows), NUMBERS)
    np.testing.assert_allclose(got, [both, left, right, language[5], language[4]], rtol=1e-12)  # roundings


def test_the_ends_of_a_sentence_are_neighbours() -> None:
    own = statistics(sequences([4, 5], [4, 6], [7, 4]))
    rows = positions((0, 4, HIDDEN), (HIDDEN, 4, HIDDEN), (HIDDEN, 4, 2))
    first, anywhere, last = neighbour_probabilities(own.at_labels(rows), NUMBERS)
    assert first > anywhere > last / 1.1 > 0  # two of three begin with it, half the tokens are it, one of three ends so
    assert last == pytest.approx((1 - 0.4) / 3 + 3 * 0.4 / 3 * anywhere, rel=1e-12)  # roundings


@st.composite
def texts_and_positions(draw: st.DrawFn) -> tuple[Statistics, Positions]:
    rows = st.lists(st.lists(st.integers(3, 7), max_size=6), min_size=1, max_size=8)
    own, other = draw(rows), draw(rows)
    neighbour = st.sampled_from([HIDDEN, 0, 2, 3, 4, 5, 6, 7])
    wanted = draw(st.lists(st.tuples(neighbour, st.integers(4, 7), neighbour), min_size=1, max_size=10))
    return statistics(sequences([4], *own), sequences(*other, [5])), positions(*wanted)


discounts = st.floats(0.02, 0.98)


@given(case=texts_and_positions(), numbers=st.builds(NeighbourNumbers, *[discounts] * 6))
def test_probabilities_sum_to_one(case: tuple[Statistics, Positions], numbers: NeighbourNumbers) -> None:
    """Over ordinary tokens, of which each has a share, and whether asked for one piece or for all."""
    own, wanted = case
    for baseline in BASELINES.values():
        of_all = baseline.probabilities(own.at_all_pieces(wanted), numbers)
        of_all = np.broadcast_to(of_all, (len(wanted.labels), VOCABULARY))
        np.testing.assert_allclose(of_all[:, IS_ORDINARY].sum(axis=1), 1, rtol=1e-12)  # roundings
        assert (of_all[:, ~IS_ORDINARY] == 0).all()
        assert (of_all[:, IS_ORDINARY] > 0).all()
        of_one = np.broadcast_to(baseline.probabilities(own.at_labels(wanted), numbers), len(wanted.labels))
        at_labels = of_all[np.arange(len(wanted.labels)), wanted.labels]
        np.testing.assert_allclose(of_one, at_labels, rtol=1e-12)  # roundings of sums in another order


@given(case=texts_and_positions())
def test_what_is_hidden_makes_no_difference(case: tuple[Statistics, Positions]) -> None:
    own, wanted = case
    frequencies = frequency_probabilities(own.at_all_pieces(wanted), NUMBERS)
    hidden = wanted._replace(left=np.full_like(wanted.left, HIDDEN), right=np.full_like(wanted.right, HIDDEN))
    shares = neighbour_probabilities(own.at_all_pieces(hidden), NUMBERS)
    np.testing.assert_allclose(shares, np.broadcast_to(frequencies, shares.shape), rtol=1e-12)  # roundings
    one_sided = own.at_all_pieces(wanted._replace(right=hidden.right))
    expected = interpolated(one_sided.left, NUMBERS.left, frequencies)
    np.testing.assert_allclose(neighbour_probabilities(one_sided, NUMBERS), expected, rtol=1e-12)  # roundings


def test_chosen_numbers_are_the_best_of_their_kind() -> None:
    random = np.random.default_rng(0)
    parts, baseline = [], BASELINES["neighbours"]
    for _ in range(2):
        rows = np.cumsum(random.integers(0, 2, (60, 5)), axis=1) % 4 + 4
        own = statistics(sequences(*rows[:40].tolist()))
        wanted = Occurrences.of(sequences(*rows[40:].tolist()), IS_ORDINARY)
        parts.append(own.at_labels(Positions(wanted.pieces, wanted.left, wanted.right)))
    best = chosen(baseline, parts)

    def loss(numbers: FrequencyNumbers | NeighbourNumbers) -> float:
        return -sum(np.log(baseline.probabilities(part, numbers)).sum() for part in parts)

    assert loss(best) < loss(baseline.start)
    for name, value in best._asdict().items():
        for other in (value - 0.02, value + 0.02):
            if 0.01 < other < 0.99:
                assert loss(best._replace(**{name: other})) >= loss(best) - 1e-9  # sums in another order


def test_baselines_answer_alike_in_parts_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    own = statistics(sequences([4, 5, 4], [5, 4, 5]), sequences([6, 6]))
    wanted = positions((4, 5, 4), (0, 5, 4), (HIDDEN, 7, 2), (4, 6, 5), (5, 4, HIDDEN))
    for baseline in BASELINES.values():
        whole = baseline_answers(baseline, NUMBERS, own, wanted)
        with monkeypatch.context() as changed:
            changed.setattr(demo_model, "PROBABILITIES", 2 * VOCABULARY)
            parts = baseline_answers(baseline, NUMBERS, own, wanted)
        np.testing.assert_array_equal(whole.losses, parts.losses)
        np.testing.assert_array_equal(whole.ranks, parts.ranks)
        right = np.broadcast_to(baseline.probabilities(own.at_labels(wanted), NUMBERS), 5)
        np.testing.assert_allclose(whole.losses, -np.log(right), rtol=1e-12)  # roundings of sums in another order
    assert whole.ranks[0] == 0  # 5 between 4 and 4
    assert whole.ranks[2] == 3  # 7 occurs nowhere


# --- Answers ---


def test_ranks_prefer_lower_ids_among_equals() -> None:
    scores = np.array([[0.1, 0.5, 0.5, 0.2]] * 4)
    assert ranks(scores, np.arange(4)).tolist() == [3, 0, 1, 2]


def test_scores_are_means() -> None:
    got = score(Answers(np.array([1.0, 2.0, 3.0, 6.0]), np.array([0, 1, 4, 5])))
    assert got == (3.0, 0.25, 0.75)


# --- A model and its texts ---


@pytest.fixture(scope="module")
def tokenizer(small_vocabulary: Path) -> XLMRobertaTokenizer:
    return XLMRobertaTokenizer(small_vocabulary)


@pytest.fixture(scope="module")
def model(tokenizer: XLMRobertaTokenizer) -> XLMRobertaForMaskedLM:
    config = XLMRobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=MAX_LENGTH + 2,
        type_vocab_size=1,
        initializer_range=0.5,
    )
    return XLMRobertaForMaskedLM(config, generator=np.random.default_rng(0), num_threads=1)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Two languages with 120 and 60 lines; two of the nine lines that are held out stand among the others too."""
    random = np.random.default_rng(1)
    directory = tmp_path / "texts"
    directory.mkdir()
    words = ["the", "a", "house", "tree", "sees", "of", "water", "and", "goes", "home"]

    def line() -> str:
        return " ".join(random.choice(words, 9))

    german, english = [line() for _ in range(120)], [line() for _ in range(60)]
    german[39] = english[17]
    english[59] = f"  {english[5]} "
    (directory / "deu.txt").write_text("\n".join(german), encoding="utf-8")
    (directory / "en.txt").write_text("\n".join(english), encoding="utf-8")
    return directory


def test_hidden_neighbours_are_those_that_the_model_does_not_see(tokenizer: XLMRobertaTokenizer) -> None:
    reader = Reader(tokenizer, MAX_LENGTH)
    lines = ["the house and the tree goes home", "of water " * 40, "a house"]
    batch = reader.masked(lines)
    labels, left, right = reader.positions(batch)
    ids = np.where(batch["labels"] == -100, batch["input_ids"], batch["labels"])
    whole = reader.sequences(lines)
    by_row = sorted((row[mask == 1].tolist() for row, mask in zip(ids, batch["attention_mask"], strict=True)))
    own = [whole.ids[start:end].tolist() for start, end in zip(whole.ends, whole.ends[1:], strict=False)]
    assert by_row == sorted(own * DRAWS)
    is_masked = batch["input_ids"] == tokenizer.mask_token_id
    np.testing.assert_array_equal(is_masked, batch["labels"] != -100)  # all are masked, none is replaced or kept
    assert 0.05 < is_masked.sum() / batch["attention_mask"].sum() < 0.3
    found = iter(zip(labels, left, right, strict=True))
    for row, column in np.argwhere(is_masked):
        beside = [HIDDEN if is_masked[row, place] else ids[row, place] for place in (column - 1, column + 1)]
        assert next(found) == (ids[row, column], *beside)
    assert (left == HIDDEN).any()
    np.testing.assert_array_equal(reader.masked(lines)["labels"], batch["labels"])


@pytest.mark.parametrize("cells", [1, 20_000, 2**24])
def test_a_models_answers_are_those_of_its_softmax(
    model: XLMRobertaForMaskedLM, tokenizer: XLMRobertaTokenizer, cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = Reader(tokenizer, MAX_LENGTH)
    batch = reader.masked(["the house and the tree", "of water " * 20, "a house", "and"])
    labels = reader.positions(batch).labels
    logits = model(batch["input_ids"], batch["attention_mask"]).logits[batch["labels"] != -100].astype(np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    monkeypatch.setattr(demo_model, "LOGITS", cells)
    answers = model_answers(model, batch)
    rows = np.arange(len(labels))
    np.testing.assert_allclose(answers.losses, -np.log(probabilities[rows, labels]), rtol=1e-5)  # float32 sums
    order = np.argsort(-logits, axis=1)
    assert [order[row, rank] for row, rank in enumerate(answers.ranks)] == labels.tolist()


def test_lines_that_were_learned_are_not_measured(
    model: XLMRobertaForMaskedLM, tokenizer: XLMRobertaTokenizer, texts: Path
) -> None:
    measured = measure(model, tokenizer, texts)
    results = measured.languages
    assert list(results) == ["en", "de"]
    assert [results[code].training_sentences for code in results] == [57, 114]
    assert [results[code].left_out for code in results] == [1, 1]
    assert measured.together.left_out == 2
    reader = Reader(tokenizer, MAX_LENGTH)
    english = (texts / "en.txt").read_text(encoding="utf-8").splitlines()
    batch = reader.masked([english[19], english[39]])
    assert results["en"].masked_positions == len(reader.positions(batch).labels)
    np.testing.assert_array_equal(results["en"].answers[MODEL].losses, model_answers(model, batch).losses)
    for answers in measured.together.answers.values():
        assert len(answers.losses) == results["en"].masked_positions + results["de"].masked_positions
    together = measured.together.scores
    assert together["neighbours"].nll < together["frequencies"].nll < together[MODEL].nll  # which is random


def test_numbers_are_chosen_without_the_lines_held_out(tokenizer: XLMRobertaTokenizer, texts: Path) -> None:
    german = (texts / "deu.txt").read_text(encoding="utf-8").splitlines()
    learned = [line for number, line in enumerate(german, 1) if number % 20]
    reader = Reader(tokenizer, MAX_LENGTH)
    numbers = chosen_numbers(reader, {"de": learned})
    occurrences = Occurrences.of(
        reader.sequences([line for number, line in enumerate(learned, 1) if number % 20]), reader.is_ordinary
    )
    everyone = frequencies_of([occurrences.pieces], len(tokenizer))
    own = Statistics(occurrences, everyone, reader.is_ordinary)
    aside = own.at_labels(reader.positions(reader.masked(learned[19::20])))
    assert numbers == {name: chosen(baseline, [aside]) for name, baseline in BASELINES.items()}
    with pytest.raises(ValueError, match="Nothing is masked in every 20th line to learn from"):
        chosen_numbers(reader, {"de": learned[:19]})


def test_languages_without_a_masked_token_are_named(
    model: XLMRobertaForMaskedLM, tokenizer: XLMRobertaTokenizer, texts: Path
) -> None:
    (texts / "fr.txt").write_text("\n".join(f"home {number % 9}" for number in range(20)), encoding="utf-8")
    measured = measure(model, tokenizer, texts)
    assert measured.unmeasured == ["fr"]
    assert markdown(measured).endswith("No token was masked in the held-out sentences of French.")
    for file in texts.iterdir():
        file.unlink()
    lines = [f"the house and the tree {number}" for number in range(40)]
    lines[19], lines[39] = lines[0], lines[1]
    (texts / "it.txt").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(ValueError, match="No token is masked in the lines that are held out of"):
        measure(model, tokenizer, texts)


def test_a_tokenizer_of_another_model_is_refused(tokenizer: XLMRobertaTokenizer, texts: Path) -> None:
    config = XLMRobertaConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    with pytest.raises(ValueError, match=r"The tokenizer has \d+ tokens and the model 20;"):
        measure(XLMRobertaForMaskedLM(config, generator=np.random.default_rng(0)), tokenizer, texts)


# --- What is printed and written ---


def result(sentences: int, *scores: tuple[float, int]) -> Result:
    """One position, of which the model and the baselines have these losses and ranks."""
    answers = [Answers(np.array([loss]), np.array([rank])) for loss, rank in scores]
    return Result(sentences, 0, dict(zip((MODEL, *BASELINES), answers, strict=True)))


MEASURED = Measured(
    "words",
    {
        "af": result(LARGE, (1.0, 0), (3.0, 4), (2.0, 4)),
        "da": result(LARGE, (2.0, 0), (3.0, 4), (2.0, 0)),
        "de": result(LARGE + 2000, (2.5, 1), (2.0, 3), (4.0, 5)),
        "te": result(LARGE - 1, (9.0, 9), (2.0, 0), (1.0, 0)),
    },
    [],
    {"frequencies": FrequencyNumbers(0.1, 0.2), "neighbours": NUMBERS},
)


def test_the_table_has_a_row_for_each_language_and_for_all() -> None:
    lines = markdown(MEASURED).splitlines()
    assert len({line.count("|") for line in lines[:7]}) == 1
    assert lines[4] == "| German | 2,500 | 1 | 2.500 | 2.000 | 4.000 | 0.0 | 0.0 | 0.0 | 100.0 | 100.0 | 0.0 |"
    assert lines[6].startswith("| **All together** | 3,999 | 4 | 3.625 | 2.500 | 2.250 | 50.0 | 25.0 | 50.0 |")
    assert lines[8] == (
        "Of the 3 languages with at least 500 training sentences, the model beats both baselines in nats per masked "
        "token in 1 (not in Danish, German), and in top-1 accuracy in 1 (not in Danish, German)."
    )
    assert lines[10].startswith("Hidden were 15% of the words, drawn 2 times for each line. 0 held-out sentences")
    assert "frequencies: everyone 0.10, language 0.20; neighbours: everyone 0.10" in lines[10]
    assert "left_weight 0.70." in lines[10]


def test_facts_are_those_of_the_table() -> None:
    got = facts(MEASURED)
    assert got["languages"]["de"] == {
        "name": "German",
        "training_sentences": 2500,
        "left_out": 0,
        "masked_positions": 1,
        "model": {"nll": 2.5, "top1": 0.0, "top5": 1.0},
        "frequencies": {"nll": 2.0, "top1": 0.0, "top5": 1.0},
        "neighbours": {"nll": 4.0, "top1": 0.0, "top5": 0.0},
    }
    assert got["together"]["model"] == {"nll": 3.625, "top1": 0.5, "top5": 0.75}
    assert got["large"] == {
        "training_sentences": 500,
        "languages": ["af", "da", "de"],
        "nll_not_won": ["da", "de"],
        "top1_not_won": ["da", "de"],
    }
    assert got["numbers"]["neighbours"]["left_weight"] == 0.7


def test_the_command(
    model: XLMRobertaForMaskedLM,
    tokenizer: XLMRobertaTokenizer,
    texts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    directory, file = tmp_path / "model", tmp_path / "facts.json"
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    main([str(directory), str(texts)])
    assert "**All together**" in capsys.readouterr().out

    asked = []
    with monkeypatch.context() as patched:
        patched.setattr(demo_model, "measure", lambda *arguments: asked.append(arguments[2:]) or MEASURED)
        main([str(directory), str(texts), "--hide", "pieces", "--json", str(file)])
    assert asked == [(texts, "pieces")]
    assert capsys.readouterr().out == markdown(MEASURED) + "\n"
    assert json.loads(file.read_text(encoding="utf-8")) == facts(MEASURED)
    with pytest.raises(SystemExit, match="has no text files"):
        main([str(directory), str(directory), "--json", str(file)])
    with pytest.raises(SystemExit, match="nowhere"):
        main([str(tmp_path / "nowhere"), str(texts)])
