"""A new vocabulary: its layout, that it is the same each time, and what it cannot be made of."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import transformers

from tests.training.texts import LANGUAGES, sentences
from xlmr_np.tokenizer import XLMRobertaTokenizer
from xlmr_np.training import vocabulary_training
from xlmr_np.training.vocabulary_training import train_vocabulary

PIECES = 120


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vocabulary") / "sentencepiece.bpe.model"
    train_vocabulary(sentences(400), path, PIECES)
    return path


def test_it_has_the_layout_of_xlm_r(trained: Path) -> None:
    tokenizer = XLMRobertaTokenizer(trained)
    assert len(tokenizer) == PIECES + 2  # <pad> and <mask>, which no sentencepiece model of this layout has
    assert tokenizer.convert_tokens_to_ids(["<s>", "<pad>", "</s>", "<unk>", "<mask>"]) == [0, 1, 2, 3, PIECES + 1]
    for text in sentences(20):
        ids = tokenizer(text).input_ids
        assert ids[0] == 0
        assert ids[-1] == 2
        assert 3 not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_transformers_reads_the_same_ids(trained: Path, tmp_path: Path) -> None:
    ours = XLMRobertaTokenizer(trained)
    ours.save_pretrained(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    texts = list(sentences(20))
    assert theirs(texts)["input_ids"] == ours(texts).input_ids


def test_the_same_documents_give_the_same_bytes(trained: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.model"
    train_vocabulary(list(sentences(400)), again, PIECES)
    assert again.read_bytes() == trained.read_bytes()


def test_long_documents_are_not_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SentencePiece passes over what is longer than its limit, here of a few sentences."""
    monkeypatch.setattr(vocabulary_training, "LONGEST_DOCUMENT", 200)
    train_vocabulary([" ".join(sentences(400))], tmp_path / "a.model", PIECES)
    assert set("".join(LANGUAGES)) <= set("".join(pieces_of(tmp_path / "a.model"))) | {" "}


def pieces_of(path: Path) -> list[str]:
    tokenizer = XLMRobertaTokenizer(path)
    return tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))


def test_rare_characters_have_no_pieces_unless_all_are_covered(tmp_path: Path) -> None:
    texts = [*sentences(400), "ж"]
    for coverage, has_piece in ((1.0, True), (0.999, False)):
        train_vocabulary(texts, tmp_path / "a.model", PIECES, coverage)
        assert any("ж" in piece for piece in pieces_of(tmp_path / "a.model")) == has_piece


def failing() -> Iterator[str]:
    yield "one document"
    raise FileNotFoundError(2, "No such file or directory", "gone.txt")


@pytest.mark.parametrize(
    ("documents", "pieces", "error", "message"),
    [
        (list(sentences(400)), 50_000, ValueError, r"No vocabulary of 50,000 pieces .* says: Vocabulary size too high"),
        (list(sentences(400)), 5, ValueError, r"No vocabulary of 5 pieces .* says: Vocabulary size is smaller than"),
        (["\u200b"], 20, ValueError, "No vocabulary of 20 pieces can be made of these documents"),
        ([], 20, ValueError, "No vocabulary of 20 pieces can be made of these documents"),
        (failing(), 20, FileNotFoundError, "gone.txt"),
    ],
)
def test_a_failure_says_why_and_leaves_the_file_that_was_there(
    documents: list[str],
    pieces: int,
    error: type[Exception],
    message: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "a.model"
    path.write_bytes(b"the one before")
    with pytest.raises(error, match=message) as raised:
        train_vocabulary(documents, path, pieces)
    assert "\n" not in str(raised.value)
    assert path.read_bytes() == b"the one before"
    assert list(tmp_path.iterdir()) == [path]
    assert capfd.readouterr() == ("", "")  # the library writes nothing past us


def test_a_vocabulary_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "a.model"
    with pytest.raises(OSError, match=r"nowhere.*a\.model"):
        train_vocabulary(sentences(400), path, PIECES)
