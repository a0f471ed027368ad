"""How well a pretrained model guesses hidden tokens, against counting: `python -m tests.benchmarks.demo_model`.

    python -m tests.benchmarks.demo_model MODEL_DIR TEXT_DIR [--hide words|pieces] [--json FILE]

Takes a model of `xlmr-np pretrain --hold-out-every 20` and the directory with the texts it learned from, whose files
are named by language (see `LANGUAGES`). Prints, for the model card, the negative log-likelihood per masked token and
the accuracy by language, on lines that were held out, less those whose text also stands among the lines to learn from.
15 % of the words are masked, with all their pieces, or of the pieces, one by one; each line is masked in several ways,
drawn with a fixed seed, and all that is masked is shown as <mask>. At exactly the same places two baselines guess, each
with the counts of that language alone where it has any:

- frequencies: how often each piece occurs;
- neighbours: how often it stands between these two neighbours, backing off to a mixture of how often it follows the
  left one and how often it precedes the right one, and from there to the frequencies. A neighbour that is masked too
  is hidden from the baseline, as it is from the model; <s> and </s> are neighbours as any token.

Both back off further to the frequencies in all languages together, and then to the uniform distribution, all by
interpolated absolute discounting (Ney, Essen and Kneser 1994, "On structuring probabilistic dependences in stochastic
language modelling"). The discounts and the weight of the mixture are those that do best on every twentieth line to
learn from, counted on the others; with them, all lines to learn from are counted.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from jaxtyping import Bool, Float, Int

from xlmr_np import XLMRobertaForMaskedLM, XLMRobertaTokenizer
from xlmr_np.inputs import longest_sequence
from xlmr_np.losses.cross_entropy import IGNORED_LABEL
from xlmr_np.training.batches import Masker, Sequences, sequences_of
from xlmr_np.training.corpus import documents, is_held_out
from xlmr_np.training.masking import MaskingSetting
from xlmr_np.trees import map_leaves
from xlmr_np.weights.saving import replacing

HOLD_OUT_EVERY = 20  # as the model was trained
ASIDE_EVERY = 20  # lines to learn from on which the baselines' numbers are chosen
MASKING = MaskingSetting(0.15, masked=1.0, replaced=0.0)
SEED = 0
DRAWS = 2  # of what is masked, for each line: some languages have only fifty
LARGE = 500  # sentences to learn from
LOGITS = 2**24  # of the model, held at a time
PROBABILITIES = 2**21  # of a baseline, held at a time

HIDDEN = -1  # stands for a neighbour that is masked itself
NO_NEIGHBOUR = np.zeros(1, np.int64)  # the only context of frequencies

# Code, ISO 639-3 code, English name: files have the one name or the other.
LANGUAGES = [
    ("af", "afr", "Afrikaans"),
    ("am", "amh", "Amharic"),
    ("ar", "ara", "Arabic"),
    ("arq", "arq", "Algerian Arabic"),
    ("az", "aze", "Azerbaijani"),
    ("be", "bel", "Belarusian"),
    ("ber", "ber", "Berber"),
    ("bg", "bul", "Bulgarian"),
    ("bn", "ben", "Bengali"),
    ("br", "bre", "Breton"),
    ("ca", "cat", "Catalan"),
    ("cbk", "cbk", "Chavacano"),
    ("cs", "ces", "Czech"),
    ("cy", "cym", "Welsh"),
    ("da", "dan", "Danish"),
    ("de", "deu", "German"),
    ("dtp", "dtp", "Central Dusun"),
    ("el", "ell", "Greek"),
    ("en", "eng", "English"),
    ("eo", "epo", "Esperanto"),
    ("es", "spa", "Spanish"),
    ("et", "est", "Estonian"),
    ("eu", "eus", "Basque"),
    ("fa", "pes", "Persian"),
    ("fi", "fin", "Finnish"),
    ("fr", "fra", "French"),
    ("ga", "gle", "Irish"),
    ("gd", "gla", "Scottish Gaelic"),
    ("gl", "glg", "Galician"),
    ("he", "heb", "Hebrew"),
    ("hi", "hin", "Hindi"),
    ("hr", "hrv", "Croatian"),
    ("hu", "hun", "Hungarian"),
    ("hy", "hye", "Armenian"),
    ("ia", "ina", "Interlingua"),
    ("id", "ind", "Indonesian"),
    ("ie", "ile", "Interlingue"),
    ("io", "ido", "Ido"),
    ("is", "isl", "Icelandic"),
    ("it", "ita", "Italian"),
    ("ja", "jpn", "Japanese"),
    ("ka", "kat", "Georgian"),
    ("kab", "kab", "Kabyle"),
    ("kk", "kaz", "Kazakh"),
    ("km", "khm", "Khmer"),
    ("ko", "kor", "Korean"),
    ("kw", "cor", "Cornish"),
    ("kzj", "kzj", "Coastal Kadazan"),
    ("la", "lat", "Latin"),
    ("lfn", "lfn", "Lingua Franca Nova"),
    ("lt", "lit", "Lithuanian"),
    ("lv", "lvs", "Latvian"),
    ("mhr", "mhr", "Meadow Mari"),
    ("mk", "mkd", "Macedonian"),
    ("ml", "mal", "Malayalam"),
    ("mn", "mon", "Mongolian"),
    ("mr", "mar", "Marathi"),
    ("ms", "zsm", "Malay"),
    ("nb", "nob", "Norwegian Bokmål"),
    ("nds", "nds", "Low German"),
    ("nl", "nld", "Dutch"),
    ("nn", "nno", "Norwegian Nynorsk"),
    ("oc", "oci", "Occitan"),
    ("orv", "orv", "Old East Slavic"),
    ("pam", "pam", "Kapampangan"),
    ("pl", "pol", "Polish"),
    ("pms", "pms", "Piedmontese"),
    ("pt", "por", "Portuguese"),
    ("ro", "ron", "Romanian"),
    ("ru", "rus", "Russian"),
    ("sk", "slk", "Slovak"),
    ("sl", "slv", "Slovenian"),
    ("sq", "sqi", "Albanian"),
    ("sr", "srp", "Serbian"),
    ("sv", "swe", "Swedish"),
    ("sw", "swa", "Swahili"),
    ("ta", "tam", "Tamil"),
    ("te", "tel", "Telugu"),
    ("th", "tha", "Thai"),
    ("tl", "tgl", "Tagalog"),
    ("tr", "tur", "Turkish"),
    ("tt", "tat", "Tatar"),
    ("ug", "uig", "Uyghur"),
    ("uk", "ukr", "Ukrainian"),
    ("ur", "urd", "Urdu"),
    ("vi", "vie", "Vietnamese"),
    ("war", "war", "Waray"),
    ("wuu", "wuu", "Wu Chinese"),
    ("yi", "yid", "Yiddish"),
    ("yue", "yue", "Cantonese"),
    ("zh", "cmn", "Chinese"),
]
ENGLISH_NAMES = {code: name for code, _, name in LANGUAGES}
CODES = {file_name: code for code, three_letters, _ in LANGUAGES for file_name in (code, three_letters)}


# --- Texts ---


def files_by_language(directory: Path) -> dict[str, list[Path]]:
    """The text files in a directory and those within it, by the code of their language.

    Raises:
        ValueError: there are none, or a name is no language's.
    """
    files: dict[str, list[Path]] = {}
    for file in sorted(directory.glob("**/*.txt")):
        if file.stem not in CODES:
            raise ValueError(f"{file} has no language's name; rename it, or give its language a row in LANGUAGES.")
        files.setdefault(CODES[file.stem], []).append(file)
    if not files:
        raise ValueError(f"{directory} has no text files; give the directory that the model's texts are in.")
    return dict(sorted(files.items(), key=lambda item: ENGLISH_NAMES[item[0]]))


def without(texts: Iterable[str], known: set[str]) -> list[str]:
    """Those texts that are not known."""
    return [text for text in texts if text not in known]


# --- What is masked ---


class Positions(NamedTuple):
    """Where tokens are masked: the token that stands there, and what can be seen beside it."""

    labels: Int[np.ndarray, " N"]
    left: Int[np.ndarray, " N"]  # HIDDEN where that is masked too
    right: Int[np.ndarray, " N"]


class Reader:
    """Turns texts into tokens, as in training, and masks some of them: words, or single pieces."""

    def __init__(self, tokenizer: XLMRobertaTokenizer, max_length: int, whole_words: bool = True) -> None:
        tokenizer.model_max_length = None  # longer texts are cut up
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._masker = Masker(tokenizer, MASKING, whole_words)
        self.is_ordinary: Bool[np.ndarray, " V"] = ~np.isin(np.arange(len(tokenizer)), tokenizer.all_special_ids)

    def sequences(self, texts: Sequence[str]) -> Sequences:
        """The texts' tokens, end to end."""
        return sequences_of(texts, self._tokenizer, self._max_length)

    def masked(self, texts: Sequence[str]) -> dict[str, Any]:
        """A batch of all texts, some times over, the shortest first; the same texts always give the same one."""
        if not texts:
            return {name: np.zeros((0, 0), np.int64) for name in ("input_ids", "attention_mask", "labels")}
        sequences = self.sequences(texts)
        by_length = np.repeat(np.argsort(np.diff(sequences.ends), kind="stable"), DRAWS)
        return self._masker.batch(sequences, by_length, np.random.default_rng(SEED))

    def positions(self, batch: dict[str, Any]) -> Positions:
        """What is masked in a batch, row by row."""
        labels = batch["labels"].astype(np.int64)
        visible = np.where(batch["input_ids"] == self._tokenizer.mask_token_id, HIDDEN, batch["input_ids"])
        rows, columns = np.nonzero(labels != IGNORED_LABEL)  # never the first or the last of a row
        return Positions(labels[rows, columns], visible[rows, columns - 1], visible[rows, columns + 1])


# --- Counting ---


class Evidence(NamedTuple):
    """What was counted in the contexts of N positions; all have a last axis of 1 where `counts` has one of V.

    Attributes:
        counts: of one piece in each context, [N], or of all, [N, V].
        totals: of all pieces in the context; 0 for one that never occurred, or is not known.
        kinds: how many pieces occurred in it.
    """

    counts: np.ndarray
    totals: np.ndarray
    kinds: np.ndarray


class Counts:
    """How often each piece stood in each context."""

    def __init__(self, contexts: Int[np.ndarray, " N"], pieces: Int[np.ndarray, " N"], vocabulary: int) -> None:
        """Count.

        Args:
            contexts: a number that is not negative for the context of each occurrence.
            pieces: what occurred there.
            vocabulary: how many pieces there are.
        """
        self._vocabulary = vocabulary
        self._keys, self._counts = np.unique(contexts * vocabulary + pieces, return_counts=True)
        owners = self._keys // vocabulary
        self._contexts, self._starts, self._kinds = np.unique(owners, return_index=True, return_counts=True)
        self._totals = np.add.reduceat(self._counts, self._starts)

    def of_pieces(self, contexts: Int[np.ndarray, " N"], pieces: Int[np.ndarray, " N"]) -> Evidence:
        """The evidence for one piece in each context; a negative context is one that is not known."""
        rows, is_known = _find(self._contexts, contexts)
        places, has_occurred = _find(self._keys, contexts * self._vocabulary + pieces)
        return Evidence(
            np.where(is_known & has_occurred, self._counts[places], 0),
            np.where(is_known, self._totals[rows], 0),
            np.where(is_known, self._kinds[rows], 0),
        )

    def of_all_pieces(self, contexts: Int[np.ndarray, " N"]) -> Evidence:
        """The evidence for every piece in each context."""
        rows, is_known = _find(self._contexts, contexts)
        totals, kinds = np.where(is_known, self._totals[rows], 0), np.where(is_known, self._kinds[rows], 0)
        owners = np.repeat(np.arange(len(contexts)), kinds)
        firsts = np.cumsum(kinds) - kinds
        places = np.repeat(self._starts[rows] - firsts, kinds) + np.arange(len(owners))
        counts = np.zeros((len(contexts), self._vocabulary))
        counts[owners, self._keys[places] % self._vocabulary] = self._counts[places]
        return Evidence(counts, totals[:, None], kinds[:, None])


def _find(keys: Int[np.ndarray, " K"], wanted: Int[np.ndarray, " N"]) -> tuple[np.ndarray, np.ndarray]:
    """Where each of the wanted stands in ascending keys, and whether it does at all."""
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return places, keys[places] == wanted


class Evidences(NamedTuple):
    """All that a baseline knows at N positions, for one piece at each of them or, with an axis more, for all pieces."""

    uniform: np.ndarray  # the probability of a piece, before anything is counted
    everyone: Evidence  # frequencies in all languages
    language: Evidence  # frequencies in this one
    left: Evidence
    right: Evidence
    both: Evidence
    sees_left: np.ndarray
    sees_right: np.ndarray


class Occurrences(NamedTuple):
    """The ordinary tokens of sequences, each with its neighbours."""

    left: Int[np.ndarray, " N"]
    pieces: Int[np.ndarray, " N"]
    right: Int[np.ndarray, " N"]

    @classmethod
    def of(cls, sequences: Sequences, is_ordinary: Bool[np.ndarray, " V"]) -> Self:
        """Every sequence begins and ends with a token that is not ordinary, so neighbours are always of the same."""
        ids = sequences.ids.astype(np.int64)
        places = np.flatnonzero(is_ordinary[ids])
        return cls(ids[places - 1], ids[places], ids[places + 1])


class Statistics:
    """The counts of one language, with those of all languages to back off to."""

    def __init__(self, occurrences: Occurrences, everyone: Counts, is_ordinary: Bool[np.ndarray, " V"]) -> None:
        left, pieces, right = occurrences
        self.vocabulary = len(is_ordinary)
        self._uniform = is_ordinary / is_ordinary.sum()
        self._everyone = everyone
        self._language = frequencies_of([pieces], self.vocabulary)
        self._left = Counts(left, pieces, self.vocabulary)
        self._right = Counts(right, pieces, self.vocabulary)
        self._both = Counts(left * self.vocabulary + right, pieces, self.vocabulary)

    def at_labels(self, positions: Positions) -> Evidences:
        """What is known of the right piece at each position."""
        labels = positions.labels
        return self._gather(
            positions, self._uniform[labels], lambda counts, contexts: counts.of_pieces(contexts, labels)
        )

    def at_all_pieces(self, positions: Positions) -> Evidences:
        """What is known of every piece at each position."""
        evidences = self._gather(positions, self._uniform, Counts.of_all_pieces)
        return evidences._replace(sees_left=evidences.sees_left[:, None], sees_right=evidences.sees_right[:, None])

    def _gather(
        self, positions: Positions, uniform: np.ndarray, ask: Callable[[Counts, np.ndarray], Evidence]
    ) -> Evidences:
        _, left, right = positions
        sees_left, sees_right = left != HIDDEN, right != HIDDEN
        both = np.where(sees_left & sees_right, left * self.vocabulary + right, HIDDEN)
        return Evidences(
            uniform,
            ask(self._everyone, NO_NEIGHBOUR),
            ask(self._language, NO_NEIGHBOUR),
            ask(self._left, left),
            ask(self._right, right),
            ask(self._both, both),
            sees_left,
            sees_right,
        )


def frequencies_of(pieces: Sequence[Int[np.ndarray, " N"]], vocabulary: int) -> Counts:
    """Counts of pieces whatever stands beside them."""
    together = np.concatenate(pieces)
    return Counts(np.zeros_like(together), together, vocabulary)


# --- Baselines ---


class FrequencyNumbers(NamedTuple):
    """What is discounted from each count, in all languages and in one."""

    everyone: float = 0.5
    language: float = 0.5


class NeighbourNumbers(NamedTuple):
    """What is discounted from each count, and the left neighbour's weight where both are seen."""

    everyone: float = 0.5
    language: float = 0.5
    left: float = 0.5
    right: float = 0.5
    both: float = 0.5
    left_weight: float = 0.5


def interpolated(evidence: Evidence, discount: float, lower: np.ndarray) -> np.ndarray:
    """Probabilities by absolute discounting: what all counts of a context lose is shared out as `lower` says."""
    is_known = evidence.totals > 0
    totals = np.where(is_known, evidence.totals, 1)
    lost = np.where(is_known, discount * evidence.kinds / totals, 1.0)
    return np.maximum(evidence.counts - discount, 0) / totals + lost * lower


def frequency_probabilities(evidences: Evidences, numbers: FrequencyNumbers | NeighbourNumbers) -> np.ndarray:
    """The first baseline: the frequencies in this language, backed by those in all."""
    lower = interpolated(evidences.everyone, numbers.everyone, evidences.uniform)
    return interpolated(evidences.language, numbers.language, lower)


def neighbour_probabilities(evidences: Evidences, numbers: NeighbourNumbers) -> np.ndarray:
    """The second baseline: what stands between these two, backed by what stands beside each of them."""
    lower = frequency_probabilities(evidences, numbers)
    left = interpolated(evidences.left, numbers.left, lower)
    right = interpolated(evidences.right, numbers.right, lower)
    left_share = np.where(evidences.sees_right, np.where(evidences.sees_left, numbers.left_weight, 0.0), 1.0)
    return interpolated(evidences.both, numbers.both, left_share * left + (1 - left_share) * right)


class Baseline(NamedTuple):
    """How a baseline guesses, and the numbers from which the search for better ones begins."""

    probabilities: Callable[[Evidences, Any], np.ndarray]
    start: FrequencyNumbers | NeighbourNumbers


MODEL = "model"
BASELINES = {
    "frequencies": Baseline(frequency_probabilities, FrequencyNumbers()),
    "neighbours": Baseline(neighbour_probabilities, NeighbourNumbers()),
}


def chosen(baseline: Baseline, parts: Sequence[Evidences]) -> FrequencyNumbers | NeighbourNumbers:
    """The numbers with the lowest negative log-likelihood, each in turn by steps of 0.02 until none gets better.

    Args:
        baseline: whose numbers they are.
        parts: evidences for the right pieces.
    """
    sizes = [len(part.uniform) for part in parts]
    evidences = map_leaves(
        lambda *each: np.concatenate([np.broadcast_to(leaf, size) for leaf, size in zip(each, sizes, strict=True)]),
        *parts,
    )

    def loss(numbers: FrequencyNumbers | NeighbourNumbers) -> float:
        return -float(np.log(baseline.probabilities(evidences, numbers)).sum())

    numbers, lowest, is_better = baseline.start, loss(baseline.start), True
    while is_better:
        is_better = False
        for name in numbers._fields:
            for value in np.arange(1, 50) / 50:
                other = numbers._replace(**{name: float(value)})
                if (new := loss(other)) < lowest:
                    numbers, lowest, is_better = other, new, True
    return numbers


# --- Answers ---


class Answers(NamedTuple):
    """What became of N masked positions."""

    losses: Float[np.ndarray, " N"]  # nats
    ranks: Int[np.ndarray, " N"]  # of the right piece, 0 if it is thought the likeliest


class Score(NamedTuple):
    """Means over positions: nats per masked token, and the shares where the right piece is the first, or among five."""

    nll: float
    top1: float
    top5: float


def score(answers: Answers) -> Score:
    """The means."""
    return Score(float(answers.losses.mean()), *(float((answers.ranks < best_of).mean()) for best_of in (1, 5)))


def joined(parts: Iterable[Answers]) -> Answers:
    """The answers at all positions of several parts."""
    return map_leaves(lambda *arrays: np.concatenate(arrays), *parts)


def ranks(scores: Float[np.ndarray, "N V"], labels: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
    """How many pieces are before the right one; of equals, those with lower ids are."""
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    is_before = np.arange(scores.shape[1]) < labels[:, None]
    return ((scores > own) | ((scores == own) & is_before)).sum(axis=1)


def model_answers(model: XLMRobertaForMaskedLM, batch: dict[str, Any]) -> Answers:
    """The model's, row by row; its probabilities are shared among all tokens of its vocabulary."""
    lengths = batch["attention_mask"].sum(axis=1)  # ascending
    parts = []
    for rows in _slices(len(lengths), LOGITS // (int(lengths.max()) * model.config.vocab_size)):
        shown = {name: array[rows, : lengths[rows].max()] for name, array in batch.items()}
        labels = shown.pop("labels")
        is_masked = labels != IGNORED_LABEL
        logits, own = model(**shown).logits[is_masked].astype(np.float64), labels[is_masked]
        highest = logits.max(axis=1, keepdims=True)
        log_sums = np.log(np.exp(logits - highest).sum(axis=1)) + highest[:, 0]
        parts.append(Answers(log_sums - logits[np.arange(len(own)), own], ranks(logits, own)))
    return joined(parts)


def baseline_answers(
    baseline: Baseline,
    numbers: FrequencyNumbers | NeighbourNumbers,
    statistics: Statistics,
    positions: Positions,
) -> Answers:
    """A baseline's."""
    parts = []
    for rows in _slices(len(positions.labels), PROBABILITIES // statistics.vocabulary):
        some = Positions(*(each[rows] for each in positions))
        shares = baseline.probabilities(statistics.at_all_pieces(some), numbers)
        shares = np.broadcast_to(shares, (len(some.labels), statistics.vocabulary))
        losses = -np.log(shares[np.arange(len(some.labels)), some.labels])
        parts.append(Answers(losses, ranks(shares, some.labels)))
    return joined(parts)


def _slices(number: int, size: int) -> Iterator[slice]:
    """Slices of at most `size`, and at least 1, of so many."""
    size = max(1, size)
    return (slice(start, start + size) for start in range(0, number, size))


# --- The whole ---


class Result(NamedTuple):
    """What was measured in one language, or in several; answers by who gave them."""

    training_sentences: int
    left_out: int  # held-out sentences which are among those to learn from, too
    answers: dict[str, Answers]

    @property
    def masked_positions(self) -> int:
        """At which all guessed."""
        return len(self.answers[MODEL].losses)

    @property
    def scores(self) -> dict[str, Score]:
        """By who is scored."""
        return {who: score(answers) for who, answers in self.answers.items()}


class Measured(NamedTuple):
    """All results by language code, and the baselines' numbers by their names."""

    hidden: str  # "words" or "pieces"
    languages: dict[str, Result]
    unmeasured: list[str]  # languages without a masked token
    numbers: dict[str, FrequencyNumbers | NeighbourNumbers]

    @property
    def together(self) -> Result:
        """Over all positions of all languages."""
        results = list(self.languages.values())
        return Result(
            sum(result.training_sentences for result in results),
            sum(result.left_out for result in results),
            {who: joined([result.answers[who] for result in results]) for who in (MODEL, *BASELINES)},
        )

    @property
    def large(self) -> list[str]:
        """The languages with enough sentences to learn from that the model should be good at them."""
        return [code for code, result in self.languages.items() if result.training_sentences >= LARGE]

    def not_won(self, is_better: Callable[[Score, Score], bool]) -> list[str]:
        """The large languages where the model is not better than both baselines."""
        scores = {code: self.languages[code].scores for code in self.large}
        return [
            code for code, of in scores.items() if not all(is_better(of[MODEL], of[baseline]) for baseline in BASELINES)
        ]


def has_lower_nll(one: Score, other: Score) -> bool:
    """Whether the first is better in nats per masked token."""
    return one.nll < other.nll


def has_higher_top1(one: Score, other: Score) -> bool:
    """Whether the first is better in top-1 accuracy."""
    return one.top1 > other.top1


def measure(
    model: XLMRobertaForMaskedLM, tokenizer: XLMRobertaTokenizer, directory: Path, hidden: str = "words"
) -> Measured:
    """Have the model and both baselines guess hidden words, or hidden pieces.

    Raises:
        ValueError: the tokenizer is not the model's; there are no texts, or too few to learn from or to measure on.
        OSError: a text cannot be read.
    """
    if len(tokenizer) > model.config.vocab_size:
        raise ValueError(
            f"The tokenizer has {len(tokenizer)} tokens and the model {model.config.vocab_size}; give a directory that "
            "holds both of one run."
        )
    reader = Reader(tokenizer, longest_sequence(model.config), hidden == "words")
    files = files_by_language(directory)
    training = {code: list(documents(paths, HOLD_OUT_EVERY)) for code, paths in files.items()}
    numbers = chosen_numbers(reader, training)
    known = {text for texts in training.values() for text in texts}
    languages, unmeasured = {}, []
    for code, statistics in statistics_by_language(reader, training):
        held_out = list(documents(files[code], HOLD_OUT_EVERY, held_out=True))
        kept = without(held_out, known)
        batch = reader.masked(kept)
        positions = reader.positions(batch)
        if not len(positions.labels):
            unmeasured.append(code)
            continue
        answers = {MODEL: model_answers(model, batch)}
        for name, baseline in BASELINES.items():
            answers[name] = baseline_answers(baseline, numbers[name], statistics, positions)
        languages[code] = Result(len(training[code]), len(held_out) - len(kept), answers)
    if not languages:
        raise ValueError(f"No token is masked in the lines that are held out of {directory}; give more texts.")
    return Measured(hidden, languages, unmeasured, numbers)


def statistics_by_language(reader: Reader, texts: dict[str, list[str]]) -> Iterator[tuple[str, Statistics]]:
    """What is counted in each language's texts."""
    occurrences = {code: Occurrences.of(reader.sequences(of), reader.is_ordinary) for code, of in texts.items()}
    everyone = frequencies_of([of.pieces for of in occurrences.values()], len(reader.is_ordinary))
    return ((code, Statistics(of, everyone, reader.is_ordinary)) for code, of in occurrences.items())


def chosen_numbers(reader: Reader, training: dict[str, list[str]]) -> dict[str, FrequencyNumbers | NeighbourNumbers]:
    """Numbers for each baseline, chosen on every so many lines to learn from, and counted on the others.

    Raises:
        ValueError: nothing is masked in these lines.
    """
    aside: dict[str, list[str]] = {code: [] for code in training}
    counted: dict[str, list[str]] = {code: [] for code in training}
    for code, texts in training.items():
        for number, text in enumerate(texts, 1):
            (aside if is_held_out(number, ASIDE_EVERY) else counted)[code].append(text)
    known = {text for texts in counted.values() for text in texts}
    parts = []
    for code, statistics in statistics_by_language(reader, counted):
        positions = reader.positions(reader.masked(without(aside[code], known)))
        parts.append(statistics.at_labels(positions))
    if not sum(len(part.uniform) for part in parts):
        raise ValueError(f"Nothing is masked in every {ASIDE_EVERY}th line to learn from; give more texts.")
    return {name: chosen(baseline, parts) for name, baseline in BASELINES.items()}


# --- What is printed and written ---


def markdown(measured: Measured) -> str:
    """The table, a row for each language, and what stands below it."""
    guessers = (MODEL, *BASELINES)
    groups = [f"{measure}: {' | '.join(guessers)}" for measure in ("nats per masked token", "top-1, %", "top-5, %")]
    lines = [
        f"| Language | training sentences | masked tokens | {' | '.join(groups)} |",
        "|---|" + "--:|" * (2 + 3 * len(guessers)),
        *(_row(ENGLISH_NAMES[code], result) for code, result in measured.languages.items()),
        _row("**All together**", measured.together),
        "",
    ]
    large = measured.large
    wins = []
    for what, is_better in (("nats per masked token", has_lower_nll), ("top-1 accuracy", has_higher_top1)):
        not_won = measured.not_won(is_better)
        exceptions = f" (not in {', '.join(ENGLISH_NAMES[code] for code in not_won)})" if not_won else ""
        wins.append(f"in {what} in {len(large) - len(not_won)}{exceptions}")
    lines += [
        f"Of the {len(large)} languages with at least {LARGE} training sentences, the model beats both baselines "
        f"{', and '.join(wins)}.",
        "",
        f"Hidden were {MASKING.probability:.0%} of the {measured.hidden}, drawn {DRAWS} times for each line. "
        f"{measured.together.left_out} held-out sentences were left out, as their text is among the training sentences "
        f"too. The baselines' numbers, chosen on every {ASIDE_EVERY}th training sentence: "
        + "; ".join(f"{name}: {_listed(numbers)}" for name, numbers in measured.numbers.items())
        + ".",
    ]
    if measured.unmeasured:
        names = ", ".join(ENGLISH_NAMES[code] for code in measured.unmeasured)
        lines += ["", f"No token was masked in the held-out sentences of {names}."]
    return "\n".join(lines)


def _row(name: str, result: Result) -> str:
    scores = result.scores.values()
    cells = [
        name,
        f"{result.training_sentences:,}",
        f"{result.masked_positions:,}",
        *(f"{of.nll:.3f}" for of in scores),
        *(f"{100 * of.top1:.1f}" for of in scores),
        *(f"{100 * of.top5:.1f}" for of in scores),
    ]
    return f"| {' | '.join(cells)} |"


def _listed(numbers: FrequencyNumbers | NeighbourNumbers) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in numbers._asdict().items())


def facts(measured: Measured) -> dict[str, Any]:
    """All that was measured, as it is written to a file."""

    def of(result: Result) -> dict[str, Any]:
        return {
            "training_sentences": result.training_sentences,
            "left_out": result.left_out,
            "masked_positions": result.masked_positions,
            **{who: score._asdict() for who, score in result.scores.items()},
        }

    return {
        "masking": {"hidden": measured.hidden, **MASKING._asdict(), "seed": SEED, "draws": DRAWS},
        "hold_out_every": HOLD_OUT_EVERY,
        "numbers": {name: numbers._asdict() for name, numbers in measured.numbers.items()},
        "together": of(measured.together),
        "languages": {code: {"name": ENGLISH_NAMES[code], **of(result)} for code, result in measured.languages.items()},
        "unmeasured": measured.unmeasured,
        "large": {
            "training_sentences": LARGE,
            "languages": measured.large,
            "nll_not_won": measured.not_won(has_lower_nll),
            "top1_not_won": measured.not_won(has_higher_top1),
        },
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print Markdown, and write the facts where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="MODEL_DIR", help="the directory of a run, or a checkpoint in it")
    parser.add_argument("texts", type=Path, metavar="TEXT_DIR", help="the directory with the texts it learned from")
    parser.add_argument("--hide", choices=("words", "pieces"), default="words", help="what to guess (default: words)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write all that was measured")
    options = parser.parse_args(arguments)
    try:
        model = XLMRobertaForMaskedLM.from_pretrained(options.model)
        tokenizer = XLMRobertaTokenizer.from_pretrained(options.model)
        measured = measure(model, tokenizer, options.texts, options.hide)
        print(markdown(measured))
        if options.json:
            with replacing(options.json) as beside:
                beside.write_text(json.dumps(facts(measured), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except (OSError, ValueError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
