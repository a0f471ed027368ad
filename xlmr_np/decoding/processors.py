"""What changes the model's scores before a token is chosen, in the reference's order.

A processor is called with the tokens so far and the scores of the next one, and returns changed scores; it writes to
neither. Tokens are on the host; scores are on the host or on a GPU.
"""

import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from xlmr_np.arrays import Array, array_namespace
from xlmr_np.decoding.generation_config import GenerationConfig, as_tuple

EVER = range(sys.maxsize)  # every length
LARGEST_GROWTH = 1e30  # of a score, so that none of a model's grows beyond float32

Ids = Int[np.ndarray, "B T"]
IsReal = Bool[np.ndarray, "B T"] | None
Scores = Float[Array, "B V"]
ScoresFunction = Callable[[np.ndarray, Array], Array]


@runtime_checkable
class Processor(Protocol):
    """Changes the scores of the next token."""

    def __call__(self, ids: Ids, is_real: IsReal, scores: Scores) -> Scores:
        """The changed scores.

        Args:
            ids: the tokens so far, prompt and padding included.
            is_real: False at padding; None if there is none.
            scores: of every token of the vocabulary, float32 or float64.
        """


def process(processors: Iterable[Processor], ids: Ids, is_real: IsReal, scores: Scores) -> Scores:
    """The scores [B, V] as one processor after the other leaves them."""
    for processor in processors:
        scores = processor(ids, is_real, scores)
    return scores


class _SameLength(NamedTuple):
    """The sequences of one length."""

    prefixes: Int[np.ndarray, "S P"]  # all tokens but the last
    places: Int[np.ndarray, " S"]  # where the last token stands among `SequenceBias.last_tokens`
    biases: Float[np.ndarray, " S"]


@dataclass(frozen=True)
class SequenceBias:
    """Adds to the score of a token a bias for each sequence that it would complete.

    A sequence of one token is completed whenever that comes. A bias of -inf bans.

    Attributes:
        biases: by sequence of tokens.
    """

    biases: Mapping[tuple[int, ...], float]

    @cached_property
    def last_tokens(self) -> Int[np.ndarray, " K"]:
        """Whose scores may change, each once."""
        return np.array(sorted({sequence[-1] for sequence in self.biases}))

    @cached_property
    def _groups(self) -> list[_SameLength]:
        groups = []
        for length in sorted({len(sequence) for sequence in self.biases}):
            sequences = np.array([sequence for sequence in self.biases if len(sequence) == length])
            biases = np.array([bias for sequence, bias in self.biases.items() if len(sequence) == length], np.float64)
            groups.append(_SameLength(sequences[:, :-1], np.searchsorted(self.last_tokens, sequences[:, -1]), biases))
        return groups

    def __call__(self, ids: Ids, is_real: IsReal, scores: Scores) -> Scores:
        """As `Processor` says."""
        xp = array_namespace(scores)
        total = np.zeros((len(self.last_tokens), len(ids)))
        for prefixes, places, biases in self._groups:
            begin = ids.shape[1] - prefixes.shape[1]
            if begin >= 0:
                is_begun = np.all(ids[:, None, begin:] == prefixes, axis=-1)  # [B, S]
                np.add.at(total, places, np.where(is_begun, biases, 0.0).T)
        columns = xp.asarray(self.last_tokens, device=scores.device)
        changed = xp.asarray(scores, copy=True)
        changed[:, columns] += xp.asarray(total.T, dtype=scores.dtype, device=scores.device)
        return changed


@dataclass(frozen=True)
class RepetitionPenalty:
    """Divides positive scores of tokens that were there before by a penalty, and multiplies negative ones by it.

    Source: Keskar et al., "CTRL" (2019), section 4.1, with the case of negative scores added.

    Attributes:
        penalty: above 1 makes repetition less likely, below 1 likelier.
    """

    penalty: float

    def __call__(self, ids: Ids, is_real: IsReal, scores: Scores) -> Scores:
        """As `Processor` says."""
        xp = array_namespace(scores)
        rows, places = np.nonzero(np.ones_like(ids) if is_real is None else is_real)
        where = _on_device_of(scores, rows, ids[rows, places])
        seen = scores[where]
        changed = xp.asarray(scores, copy=True)
        changed[where] = xp.where(seen < 0, seen * self.penalty, seen / self.penalty)
        return changed


@dataclass(frozen=True)
class NoRepeatNGrams:
    """Bans a token that would complete a sequence of `size` tokens for the second time.

    Source: Paulus et al., "A Deep Reinforced Model for Abstractive Summarization" (2018), section 2.5.

    Attributes:
        size: of the sequences, at least 1.
    """

    size: int

    def __call__(self, ids: Ids, is_real: IsReal, scores: Scores) -> Scores:
        """As `Processor` says."""
        xp = array_namespace(scores)
        length = ids.shape[1]
        if length < self.size:
            return scores
        windows = np.lib.stride_tricks.sliding_window_view(ids, self.size, axis=1)  # [B, T - size + 1, size]
        begun = ids[:, length + 1 - self.size :]
        rows, places = np.nonzero(np.all(windows[..., :-1] == begun[:, None], axis=-1))
        changed = xp.asarray(scores, copy=True)
        changed[_on_device_of(scores, rows, windows[rows, places, -1])] = -xp.inf
        return changed


@dataclass(frozen=True)
class BannedTokens:
    """Bans tokens while the text has certain lengths.

    Attributes:
        token_ids: what is banned.
        lengths: numbers of tokens so far, padding included.
    """

    token_ids: tuple[int, ...]
    lengths: range = EVER

    def __call__(self, ids: Ids, is_real: IsReal, scores: Scores) -> Scores:
        """As `Processor` says."""
        if ids.shape[1] not in self.lengths:
            return scores
        xp = array_namespace(scores)
        changed = xp.asarray(scores, copy=True)
        changed[:, list(self.token_ids)] = -xp.inf
        return changed


@dataclass(frozen=True)
class ForcedTokens:
    """Leaves only certain tokens, with a score of 0, when the text has a certain length.

    Attributes:
        token_ids: what is left.
        length: number of tokens so far, padding included.
    """

    token_ids: tuple[int, ...]
    length: int

    def __call__(self, ids: Ids, is_real: IsReal, scores: Scores) -> Scores:
        """As `Processor` says."""
        if ids.shape[1] != self.length:
            return scores
        xp = array_namespace(scores)
        changed = xp.full_like(scores, -xp.inf)
        changed[:, list(self.token_ids)] = 0.0
        return changed


@dataclass(frozen=True)
class RemoveInvalid:
    """Turns NaN into 0, and infinite scores, those of banned tokens too, into the largest and smallest finite ones."""

    def __call__(self, ids: Ids, is_real: IsReal, scores: Scores) -> Scores:
        """As `Processor` says."""
        return array_namespace(scores).nan_to_num(scores)


@dataclass(frozen=True)
class ExponentialDecay:
    """Adds ``abs(score) * (factor ** (length - start) - 1)`` to the scores of end tokens once `start` is passed.

    Attributes:
        start: number of tokens, prompt and padding included.
        factor: above 1 makes the end likelier with every token, below 1 less likely.
        token_ids: the end tokens.
    """

    start: int
    factor: float
    token_ids: tuple[int, ...]

    def __call__(self, ids: Ids, is_real: IsReal, scores: Scores) -> Scores:
        """As `Processor` says."""
        excess = ids.shape[1] - self.start
        if excess <= 0:
            return scores
        xp = array_namespace(scores)
        with np.errstate(over="ignore"):
            growth = min(float(np.float64(self.factor) ** excess), LARGEST_GROWTH)
        changed = xp.asarray(scores, copy=True)
        ends = changed[:, list(self.token_ids)]
        size = xp.where(xp.isfinite(ends), xp.abs(ends), xp.zeros_like(ends))
        changed[:, list(self.token_ids)] = ends + size * (growth - 1.0)
        return changed


@dataclass(frozen=True)
class Custom:
    """A user's function of the tokens so far [B, T], which it cannot change, and of scores [B, V] of its own.

    Attributes:
        function: returns scores of the same shape; they may be those that it got, changed.
    """

    function: ScoresFunction

    def __call__(self, ids: Ids, is_real: IsReal, scores: Scores) -> Scores:
        """As `Processor` says."""
        xp = array_namespace(scores)
        changed = self.function(unchangeable(ids), xp.asarray(scores, copy=True))
        if not isinstance(changed, type(scores)) or changed.shape != scores.shape:
            shape = getattr(changed, "shape", "no shape")
            raise ValueError(
                f"The logits processor {name_of(self.function)} must return {type(scores).__name__} of shape "
                f"{scores.shape}; it returned {type(changed).__name__} of {shape}."
            )
        return xp.astype(changed, scores.dtype, copy=False)


def processors_for(
    config: GenerationConfig,
    prompt_length: int,
    eos_ids: Sequence[int],
    vocab_size: int,
    custom: Iterable[Any] = (),
) -> list[Processor]:
    """The processors that a config asks for, in the reference's order; `warpers_for` has what comes after them.

    Args:
        config: what is asked for; its greatest length is that of `config.lengths(prompt_length)`.
        prompt_length: tokens of the prompt, padding included.
        eos_ids: the tokens that end a text.
        vocab_size: how many tokens the model knows.
        custom: functions of `(ids [B, T], scores [B, V])` that return changed scores.

    Raises:
        ValueError: a setting names a token that the model does not know, contradicts another, or leaves none.
        TypeError: a custom processor cannot be called.
    """
    ends = tuple(eos_ids)
    least, most = config.lengths(prompt_length)
    biases = {tuple(sequence): float(bias) for sequence, bias in config.sequence_bias or ()}
    bad_words = [tuple(sequence) for sequence in config.bad_words_ids or ()]
    suppressed, not_first = tuple(config.suppress_tokens or ()), tuple(config.begin_suppress_tokens or ())
    forced_bos, forced_eos = as_tuple(config.forced_bos_token_id), as_tuple(config.forced_eos_token_id)
    named: dict[str, Collection[int]] = {
        "eos_token_id": ends,
        "pad_token_id": as_tuple(config.pad_token_id),
        "sequence_bias": {token for sequence in biases for token in sequence},
        "bad_words_ids": {token for sequence in bad_words for token in sequence},
        "suppress_tokens": suppressed,
        "begin_suppress_tokens": not_first,
        "forced_bos_token_id": forced_bos,
        "forced_eos_token_id": forced_eos,
    }
    for name, tokens in named.items():
        if max(tokens, default=0) >= vocab_size:
            raise ValueError(f"{name} names token {max(tokens)}, but the model knows only 0 to {vocab_size - 1}.")

    result: list[Processor] = []
    if biases:
        result.append(SequenceBias(biases))
    if config.repetition_penalty != 1.0:
        result.append(RepetitionPenalty(config.repetition_penalty))
    if config.no_repeat_ngram_size:
        result.append(NoRepeatNGrams(config.no_repeat_ngram_size))
    if bad_words:
        banned = {sequence: -np.inf for sequence in bad_words if len(sequence) > 1 or sequence[0] not in ends}
        if not banned:
            raise ValueError(
                f"bad_words_ids={config.bad_words_ids} holds only end tokens, which it never bans; "
                "to put off the end, set min_new_tokens."
            )
        _check_some_are_left({*suppressed, *not_first, *(each[0] for each in banned if len(each) == 1)}, vocab_size)
        result.append(SequenceBias(banned))
    if least and ends:
        result.append(BannedTokens(ends, range(least)))
    if forced_bos:
        result.append(ForcedTokens(forced_bos, 1))
    if forced_eos:
        result.append(ForcedTokens(forced_eos, most - 1))
    if config.remove_invalid_values:
        result.append(RemoveInvalid())
    if config.exponential_decay_length_penalty is not None:
        start, factor = config.exponential_decay_length_penalty
        if not ends:
            raise ValueError(
                f"exponential_decay_length_penalty={[start, factor]} makes end tokens likelier; set eos_token_id too."
            )
        result.append(ExponentialDecay(prompt_length + start, factor, ends))
    _check_some_are_left({*suppressed, *not_first}, vocab_size)
    if suppressed:
        result.append(BannedTokens(suppressed))
    if not_first:
        first = prompt_length + (prompt_length <= 1 and bool(forced_bos))
        result.append(BannedTokens(not_first, range(first, first + 1)))
    return [*result, *(Custom(checked_callable("logits_processor", each)) for each in custom)]


def _check_some_are_left(banned: set[int], vocab_size: int) -> None:
    if len(banned) >= vocab_size:
        raise ValueError(
            f"suppress_tokens, begin_suppress_tokens and bad_words_ids leave none of the {vocab_size} tokens to begin "
            "with; ban fewer."
        )


def _on_device_of(scores: Array, rows: np.ndarray, columns: np.ndarray) -> tuple[Array, Array]:
    """Indices of single scores."""
    xp = array_namespace(scores)
    return xp.asarray(rows, device=scores.device), xp.asarray(columns, device=scores.device)


def unchangeable(ids: np.ndarray) -> np.ndarray:
    """A view for a user's function."""
    view = ids.view()
    view.flags.writeable = False
    return view


def name_of(function: Any) -> str:
    """What messages call a user's function or object."""
    return str(getattr(function, "__name__", type(function).__name__))


def checked_callable(name: str, function: Any) -> Any:
    """The function itself, if it is one.

    Raises:
        TypeError: it is not; the message says where it was given.
    """
    if not callable(function):
        raise TypeError(f"{name} must hold functions of (ids, scores); {function!r:.60} cannot be called.")
    return function
