"""What narrows the scores before a token is drawn at random, in the reference's order.

A warper is a processor (see `processors.py`) that looks at the scores alone. Each takes away, by -inf, tokens beyond
an edge; tokens on the edge, whose scores are equal, all stay.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from xlmr_np.arrays import Array, array_namespace, or_minus_infinity
from xlmr_np.decoding.generation_config import GenerationConfig
from xlmr_np.decoding.processors import Ids, IsReal, Processor, Scores

# Finding an edge sorts so many of the tokens first, and so many times as many if they were too few: those that matter
# are some hundred of 250,000, and sorting all takes five times as long as finding the edge.
FIRST_SORTED = 1024
MORE_SORTED = 16


@dataclass(frozen=True)
class Temperature:
    """Divides all scores: below 1 the likelier become likelier still, above 1 all come nearer to each other."""

    temperature: float

    def __call__(self, ids: Ids, is_real: IsReal, scores: Scores) -> Scores:
        """As `Processor` says."""
        with np.errstate(over="ignore"):  # the smallest finite score, which RemoveInvalid gives, may become -inf again
            return scores / self.temperature


@dataclass(frozen=True)
class TopK:
    """Keeps the `top_k` likeliest tokens, and what is as likely as the last of them.

    Source: Fan et al., "Hierarchical Neural Story Generation" (2018), section 5.4.
    """

    top_k: int

    def __call__(self, ids: Ids, is_real: IsReal, scores: Scores) -> Scores:
        """As `Processor` says."""
        return _without(_is_behind(scores, self.top_k), scores)


@dataclass(frozen=True)
class TopP:
    """Keeps the smallest set of likeliest tokens that together have the probability `top_p` (the nucleus).

    Source: Holtzman et al., "The Curious Case of Neural Text Degeneration" (2020), section 3.1.
    """

    top_p: float
    min_tokens_to_keep: int = 1

    def __call__(self, ids: Ids, is_real: IsReal, scores: Scores) -> Scores:
        """As `Processor` says."""
        probabilities = array_namespace(scores).exp(log_probabilities(scores))
        edge = _edge_of_smallest_set(-scores, probabilities, self.top_p, self.min_tokens_to_keep)
        return _without(-scores > edge, scores)


@dataclass(frozen=True)
class MinP:
    """Keeps the tokens with at least the share `min_p`, above 0, of the likeliest token's probability.

    Source: Nguyen et al., "Turning Up the Heat: Min-p Sampling for Creative and Coherent LLM Outputs" (2024).
    """

    min_p: float
    min_tokens_to_keep: int = 1

    def __call__(self, ids: Ids, is_real: IsReal, scores: Scores) -> Scores:
        """As `Processor` says."""
        largest = array_namespace(scores).max(scores, axis=-1, keepdims=True)
        is_unlikely = scores < largest + math.log(self.min_p)
        return _without(is_unlikely & _is_behind(scores, self.min_tokens_to_keep), scores)


@dataclass(frozen=True)
class Typical:
    """Keeps the tokens of together the probability `mass` whose surprisal is nearest to the entropy, its mean.

    Source: Meister et al., "Locally Typical Sampling" (2023), section 4.
    """

    mass: float
    min_tokens_to_keep: int = 1

    def __call__(self, ids: Ids, is_real: IsReal, scores: Scores) -> Scores:
        """As `Processor` says."""
        xp = array_namespace(scores)
        logarithms = log_probabilities(scores)
        distance = xp.abs(-logarithms - _entropy(logarithms))
        edge = _edge_of_smallest_set(distance, xp.exp(logarithms), self.mass, self.min_tokens_to_keep)
        return _without(distance > edge, scores)


@dataclass(frozen=True)
class Epsilon:
    """Keeps the tokens with at least the probability `epsilon`.

    Source: Hewitt et al., "Truncation Sampling as Language Model Desmoothing" (2022), section 3.
    """

    epsilon: float
    min_tokens_to_keep: int = 1

    def __call__(self, ids: Ids, is_real: IsReal, scores: Scores) -> Scores:
        """As `Processor` says."""
        is_unlikely = log_probabilities(scores) < math.log(self.epsilon)
        return _without(is_unlikely & _is_behind(scores, self.min_tokens_to_keep), scores)


@dataclass(frozen=True)
class Eta:
    """Keeps the tokens with at least the probability ``min(epsilon, sqrt(epsilon) * exp(-entropy))``.

    Source: Hewitt et al., "Truncation Sampling as Language Model Desmoothing" (2022), section 4.
    """

    epsilon: float
    min_tokens_to_keep: int = 1

    def __call__(self, ids: Ids, is_real: IsReal, scores: Scores) -> Scores:
        """As `Processor` says."""
        xp = array_namespace(scores)
        logarithms = log_probabilities(scores)
        eta = xp.clip(0.5 * math.log(self.epsilon) - _entropy(logarithms), max=math.log(self.epsilon))
        return _without((logarithms < eta) & _is_behind(scores, self.min_tokens_to_keep), scores)


@dataclass(frozen=True)
class Renormalize:
    """Turns scores into logarithms of probabilities."""

    def __call__(self, ids: Ids, is_real: IsReal, scores: Scores) -> Scores:
        """As `Processor` says."""
        return log_probabilities(scores)


def warpers_for(config: GenerationConfig, eos_ids: Sequence[int]) -> list[Processor]:
    """The warpers that a config asks for, in the reference's order: those of sampling, and the final renormalization.

    Args:
        config: what is asked for.
        eos_ids: the tokens that end a text; a beam search that draws keeps one token more than these, so that no
            beam can only end.
    """
    keep = max(len(eos_ids), 1) + 1 if config.num_beams > 1 else 1
    result: list[Processor] = []
    if config.do_sample:
        if config.temperature != 1.0:
            result.append(Temperature(config.temperature))
        if config.top_k:
            result.append(TopK(max(config.top_k, keep)))
        if config.top_p < 1.0:
            result.append(TopP(config.top_p, keep))
        if config.min_p:
            result.append(MinP(config.min_p, keep))
        if config.typical_p < 1.0:
            result.append(Typical(config.typical_p, keep))
        if config.epsilon_cutoff:
            result.append(Epsilon(config.epsilon_cutoff, keep))
        if config.eta_cutoff:
            result.append(Eta(config.eta_cutoff, keep))
    if config.renormalize_logits:
        result.append(Renormalize())
    return result


def log_probabilities(scores: Scores) -> Float[Array, "B V"]:
    """The logarithm of softmax(scores) along the last axis; a row of -inf stays one."""
    xp = array_namespace(scores)
    largest = xp.max(scores, axis=-1, keepdims=True)
    shifted = scores - xp.where(largest == -xp.inf, xp.zeros_like(largest), largest)
    total = xp.sum(xp.exp(shifted), axis=-1, keepdims=True)
    return shifted - xp.log(xp.where(total == 0.0, xp.ones_like(total), total))


def _entropy(logarithms: Float[Array, "B V"]) -> Float[Array, "B 1"]:
    """The mean surprisal, to which impossible tokens add nothing."""
    xp = array_namespace(logarithms)
    surprisals = xp.where(logarithms == -xp.inf, xp.zeros_like(logarithms), -logarithms)
    return xp.sum(xp.exp(logarithms) * surprisals, axis=-1, keepdims=True)


def _without(is_removed: Bool[Array, "B V"], scores: Scores) -> Scores:
    """The scores of tokens that stay, NaN among them, so that it is found where tokens are drawn."""
    return or_minus_infinity(~is_removed, scores)


def _is_behind(scores: Scores, number: int) -> Bool[Array, "B V"]:
    """True for tokens that are not among the `number` likeliest."""
    return scores < _kth_largest(scores, number)


def _kth_largest(scores: Scores, k: int) -> Float[Array, "B 1"]:
    """The k-th largest score of each row; the smallest if there are fewer than k."""
    xp = array_namespace(scores)
    if k == 1:
        return xp.max(scores, axis=-1, keepdims=True)
    place = max(scores.shape[-1] - k, 0)
    return xp.partition(scores, place, axis=-1)[:, place : place + 1]


def _edge_of_smallest_set(
    keys: Float[Array, "B V"], probabilities: Float[Array, "B V"], mass: float, min_tokens_to_keep: int
) -> Float[Array, "B 1"]:
    """The key of the last token, when tokens are taken by ascending key until they have the probability `mass`.

    At least `min_tokens_to_keep` are taken. Only the smallest keys are sorted, as many as it takes.
    """
    xp = array_namespace(keys)
    size = keys.shape[-1]
    number = min(max(FIRST_SORTED, min_tokens_to_keep), size)
    while True:
        order = _smallest(keys, number)
        taken = xp.take_along_axis(probabilities, order, axis=-1)
        cumulative = xp.cumulative_sum(taken, axis=-1, dtype=xp.float64)
        if number == size or xp.all(cumulative[:, -1] >= mass):
            break
        number = min(number * MORE_SORTED, size)
    last = xp.sum(xp.astype(cumulative[:, :-1] < mass, xp.int64), axis=-1, keepdims=True)
    last = xp.clip(last, min=min(min_tokens_to_keep, size) - 1)
    return xp.take_along_axis(keys, xp.take_along_axis(order, last, axis=-1), axis=-1)


def _smallest(keys: Float[Array, "B V"], number: int) -> Int[Array, "B K"]:
    """Where the `number` smallest keys of each row stand, in ascending order."""
    xp = array_namespace(keys)
    if number == keys.shape[-1]:
        return xp.argsort(keys, axis=-1, stable=False)
    some = xp.argpartition(keys, number - 1, axis=-1)[:, :number]
    order = xp.argsort(xp.take_along_axis(keys, some, axis=-1), axis=-1, stable=False)
    return xp.take_along_axis(some, order, axis=-1)
