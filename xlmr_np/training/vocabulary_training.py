"""A new vocabulary: SentencePiece's unigram trainer (Kudo 2018, arXiv:1804.10959), in XLM-R's layout."""

import io
from collections.abc import Iterable, Iterator
from pathlib import Path

from xlmr_np.weights.saving import replacing

LONGEST_DOCUMENT = 1_000_000  # bytes; SentencePiece leaves out longer ones, so they are handed over in parts
MOST_BYTES_OF_A_CHARACTER = 4
CHARACTER_COVERAGE = 0.9995  # what XLM-R was trained with
LEAST_CHARACTER_COVERAGE = 0.98  # that SentencePiece takes
LEAST_PIECES = 4  # three control symbols, and something to write with


def train_vocabulary(
    documents: Iterable[str], path: Path, pieces: int, character_coverage: float = CHARACTER_COVERAGE
) -> None:
    """Write a sentencepiece model with XLM-R's normalisation and control symbols.

    The same documents give the same file every time.

    Args:
        documents: to find pieces in.
        path: of the file.
        pieces: how many, the three control symbols included.
        character_coverage: the share of the documents' characters that have pieces; the rarest have none.

    Raises:
        ValueError: the documents are too few for so many pieces, or too many characters for so few.
        OSError: the file cannot be written.
        Exception: whatever the documents raise.
    """
    import sentencepiece

    model = io.BytesIO()
    failures: list[Exception] = []

    def parts() -> Iterator[str]:
        """Of the documents; SentencePiece would hide within its own error what they raise."""
        size = LONGEST_DOCUMENT // MOST_BYTES_OF_A_CHARACTER
        try:
            for document in documents:
                for start in range(0, len(document), size):
                    yield document[start : start + size]
        except Exception as error:
            failures.append(error)
            raise

    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=parts(),
            model_writer=model,
            model_type="unigram",
            vocab_size=pieces,
            character_coverage=character_coverage,
            normalization_rule_name="nmt_nfkc",
            max_sentence_length=LONGEST_DOCUMENT,
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=-1,
            num_threads=1,  # so that sums come out the same each time
            shuffle_input_sentence=False,
            minloglevel=2,
        )
    except RuntimeError as error:
        for failure in failures:
            raise failure from None
        *_, reason = " ".join(str(error).split()).rpartition("] ")  # without the place in its source
        raise ValueError(
            f"No vocabulary of {pieces:,} pieces can be made of these documents; SentencePiece says: {reason}"
        ) from error
    with replacing(path) as beside:
        beside.write_bytes(model.getvalue())
