"""What the engines are given to do in `tests.benchmarks.cpu`."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from xlmr_np import XLM_ROBERTA_BASE

BEGIN, PADDING, END = 0, 1, 2
SENTENCES_OF_CORPUS = 256
PEERS_BATCH = 32  # the peers get the corpus sorted by length, so many sentences at a time


class Workload(NamedTuple):
    """Sentences of random ids, or the corpus.

    Attributes:
        title: for tables and the chart.
        lengths: of the sentences in tokens, in the order in which they are given; empty for the corpus.
        repetitions: timed one after another whenever it is an engine's turn.
        rounds: in each, every engine has its turn.
        task: "encode" for the last hidden states, "train" for the loss and all gradients.
        is_cost: whether it only shows how our time grows with the number of tokens; the peers are left out.
    """

    title: str
    lengths: tuple[int, ...]
    repetitions: int = 1
    rounds: int = 3
    task: str = "encode"
    is_cost: bool = False


class Batch(NamedTuple):
    """Sentences in a rectangle, padded on the right."""

    numbers: tuple[int, ...]  # of the sentences within the workload
    ids: np.ndarray  # [B, T], int64
    mask: np.ndarray  # [B, T], int64: 1 at real tokens


def ragged_lengths(number: int, shortest: int, longest: int, share: float) -> tuple[int, ...]:
    """Lengths from `shortest` to `longest`, many short and few long, that fill a share of their rectangle.

    They follow a power law and stand in a fixed random order.

    Raises:
        ValueError: no such lengths can add up to the share.
    """
    total = round(number * longest * share)
    places = np.linspace(0, 1, number)

    def lengths(power: float) -> np.ndarray:
        return shortest + (longest - shortest) * places**power

    low, high = 1 / 64, 64.0
    if not lengths(high).sum() <= total <= lengths(low).sum():
        raise ValueError(f"{number} lengths from {shortest} to {longest} cannot fill {share} of their rectangle.")
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if lengths(middle).sum() > total else (low, middle)
    whole = np.floor(lengths(high) + 1e-9).astype(int)
    whole[1 : 1 + total - whole.sum()] += 1  # what rounding down took away, fewer tokens than there are sentences
    return tuple(np.random.default_rng(0).permutation(whole).tolist())


WORKLOADS = {
    "1x16": Workload("1 × 16 tokens", (16,), repetitions=10, rounds=9),
    "1x128": Workload("1 × 128 tokens", (128,), repetitions=4, rounds=9),
    "32x128": Workload("32 × 128 tokens", (128,) * 32),
    "8x512": Workload("8 × 512 tokens", (512,) * 8),
    "ragged": Workload("64 ragged, 25 % real", ragged_lengths(64, 8, 256, 0.25), rounds=2),
    "corpus": Workload(f"{SENTENCES_OF_CORPUS} real sentences", (), rounds=2),
    "cost-1k": Workload("8 × 128", (128,) * 8, repetitions=3, rounds=1, is_cost=True),
    "cost-10k": Workload("79 × 128", (128,) * 79, rounds=1, is_cost=True),
    "cost-100k": Workload("781 × 128", (128,) * 781, rounds=1, is_cost=True),
    "training": Workload("training step, 8 × 128", (128,) * 8, task="train"),
    "training-ragged": Workload("training step, 8 ragged, 40 % real", ragged_lengths(8, 8, 128, 0.40), task="train"),
}


def sentences(workload: Workload, data: Path) -> list[np.ndarray]:
    """The ids of every sentence of a workload, the same in every run."""
    if not workload.lengths:
        return corpus(data)
    random = np.random.default_rng(0)
    made = []
    for length in workload.lengths:
        ids = random.integers(5, 250_000, length)
        ids[0], ids[-1] = BEGIN, END
        made.append(ids)
    return made


def corpus(data: Path) -> list[np.ndarray]:
    """Real sentences of NTREX-128, one language after another in turn, in XLM-R's vocabulary."""
    from xlmr_np import XLMRobertaTokenizer

    tokenizer = XLMRobertaTokenizer(data / "xlmr-tokenizer" / "sentencepiece.bpe.model")
    languages = [path.read_text(encoding="utf-8").split("\n") for path in sorted((data / "text/ntrex").glob("*.txt"))]
    texts = [languages[number % len(languages)][number] for number in range(SENTENCES_OF_CORPUS)]
    return [np.array(ids) for ids in tokenizer(texts)["input_ids"]]


def batches(given: list[np.ndarray], size: int | None = None) -> list[Batch]:
    """All sentences in one batch as they stand, or sorted by length in batches of a size."""
    if size is None:
        return [_padded(tuple(range(len(given))), given)]
    order = sorted(range(len(given)), key=lambda number: len(given[number]))
    return [_padded(tuple(order[start : start + size]), given) for start in range(0, len(order), size)]


def _padded(numbers: tuple[int, ...], given: list[np.ndarray]) -> Batch:
    longest = max(len(given[number]) for number in numbers)
    ids = np.full((len(numbers), longest), PADDING)
    mask = np.zeros_like(ids)
    for row, number in enumerate(numbers):
        ids[row, : len(given[number])] = given[number]
        mask[row, : len(given[number])] = 1
    return Batch(numbers, ids, mask)


def floating_point_operations(lengths: list[int], task: str, with_attention: bool = True) -> int:
    """Of the encoder's matrix products at real tokens, forward or forward and backward.

    Args:
        lengths: of the sentences, in tokens.
        task: see `Workload`.
        with_attention: whether attention's own products count, or the weights' only.
    """
    config = XLM_ROBERTA_BASE
    weights = 4 * config.hidden_size**2 + 2 * config.hidden_size * config.intermediate_size
    layer = sum(2 * weights * length + with_attention * 4 * config.hidden_size * length**2 for length in lengths)
    return config.num_hidden_layers * layer * (3 if task == "train" else 1)
