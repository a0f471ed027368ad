"""The keys and values of the tokens that a decoder has seen, so that each next token is computed alone.

Of B sentences, each has a stretch of `capacity` rows in both stores [B·capacity, H, W] of every layer, whose first ones
are taken by its real tokens. Padding takes none: wherever it stood, the keys of a sentence lie end to end, and
attention finds them by spans. When a stretch is full, all grow by blocks.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from xlmr_np.arrays import Array, array_namespace, to_device, zeros
from xlmr_np.layers.attention import Spans
from xlmr_np.layers.cross_attention import SourceKeysValues

BLOCK = 64  # tokens of a sentence by which stores grow
NO_ID = -1  # of a token that came as an embedding


class StoreShape(NamedTuple):
    """What the stores of one model's cache have in common."""

    layers: int
    heads: int
    width: int
    dtype: np.dtype
    device: str
    sees_source: bool  # by cross-attention
    model: str  # its identity


class CachedSource(NamedTuple):
    """The keys and values of what cross-attention sees, made once; sentences may share a source."""

    layers: tuple[SourceKeysValues, ...]  # packed, [M, H, W] each
    spans: Spans  # of each sentence's source, on the host
    is_real: Bool[np.ndarray, "B S"]
    states: Float[Array, "M D"]  # that they were made of

    @classmethod
    def of(
        cls, layers: tuple[SourceKeysValues, ...], is_real: Bool[np.ndarray, "B S"], states: Float[Array, "M D"]
    ) -> "CachedSource":
        """A source of its own for each sentence, end to end."""
        lengths = is_real.sum(axis=1)
        return cls(layers, Spans(lengths.cumsum() - lengths, lengths), is_real, states)

    def check_same(self, is_real: Bool[np.ndarray, "B S"], states: Float[Array, "m D"]) -> None:
        """Refuse states that are not those which the keys and values were made of.

        Args:
            is_real: of the states that came.
            states: the real ones of them, end to end.

        Raises:
            ValueError: they are others.
        """
        rows = self.rows
        kept = self.states if np.array_equal(rows, np.arange(len(self.states))) else self.states[rows]
        is_same = np.array_equal(is_real, self.is_real) and states.shape == kept.shape and bool((states == kept).all())
        if not is_same:
            raise ValueError(
                "These encoder_hidden_states are not those whose keys and values the cache has; leave them out, or "
                "begin another cache."
            )

    @property
    def rows(self) -> Int[np.ndarray, " N"]:
        """Of all sentences' sources, one after the other."""
        return np.concatenate([np.arange(start, start + length) for start, length in zip(*self.spans, strict=True)])


def check_past(past_key_values: Any, use_cache: bool | None) -> None:
    """Refuse what is no cache, and one that is not to be used.

    Raises:
        TypeError: it is something else.
        ValueError: there is one, and `use_cache` is False.
    """
    if not isinstance(past_key_values, KeyValueCache | None):
        raise TypeError(
            f"past_key_values must be a KeyValueCache, as a forward pass returns it, not {past_key_values!r:.60}."
        )
    if past_key_values is not None and use_cache is not None and not use_cache:
        raise ValueError("past_key_values are given with use_cache=False; leave one of them out.")


class KeyValueCache:
    """What a decoder keeps of B sentences between its forward passes.

    A model makes one when a forward pass has `use_cache=True`, and adds to the one that it is given as
    `past_key_values`: the same object comes back, changed. A forward pass that fails changes nothing.

    Attributes:
        source: what cross-attention sees, once the first pass has made its keys and values.
    """

    def __init__(self, capacity: Any = 0) -> None:
        """An empty cache.

        Args:
            capacity: tokens of a sentence that there is room for from the beginning; more is made where it is needed.

        Raises:
            ValueError: that is no such number.
        """
        if isinstance(capacity, bool) or not isinstance(capacity, int) or capacity < 0:
            raise ValueError(f"A cache's capacity must be a number of tokens, not {capacity!r}.")
        self.source: CachedSource | None = None
        self._capacity = capacity
        self._shape: StoreShape | None = None
        self._stores: tuple[SourceKeysValues, ...] = ()
        self._is_real, self._ids = np.zeros((0, 0), bool), np.zeros((0, 0), np.int64)  # [B, P] each

    def get_seq_length(self) -> int:
        """How many tokens of each sentence have been seen, padding included."""
        return int(self._is_real.shape[1])

    @property
    def is_real(self) -> Bool[np.ndarray, "B P"]:
        """Which of the tokens seen were real."""
        return self._is_real.copy()

    @property
    def ids(self) -> Int[np.ndarray, "B P"]:
        """The tokens seen; `NO_ID` where embeddings came."""
        return self._ids.copy()

    def lengths(self, sentences: int) -> Int[np.ndarray, " B"]:
        """How many of the tokens seen were real, of so many sentences.

        Raises:
            ValueError: the cache holds tokens of another number of sentences.
        """
        if self._is_empty:
            return np.zeros(sentences, np.int64)
        if sentences != len(self._is_real):
            raise ValueError(
                f"The cache holds {len(self._is_real)} sentences, and {sentences} came; select() chooses some."
            )
        return self._is_real.sum(axis=1)

    @property
    def _is_empty(self) -> bool:
        return self.get_seq_length() == 0 and self.source is None

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values, with those that wait for more."""
        sources = () if self.source is None else self.source.layers
        return sum(int(array.nbytes) for store in (*self._stores, *sources) for array in store)

    def begin(self, shape: StoreShape, is_real: Bool[np.ndarray, "B T"], ids: Int[np.ndarray, "B T"]) -> "CacheStep":
        """Make room for T more tokens of each sentence; none of them is there before `CacheStep.commit`.

        Args:
            shape: of the model's stores.
            is_real: which of the new tokens are real.
            ids: the new tokens.

        Raises:
            ValueError: the cache is another model's, or of another number of sentences.
        """
        sentences = len(is_real)
        if self._is_empty and (self._shape, len(self._is_real)) != (shape, sentences):
            self._shape, self._stores = shape, ()
            self._is_real, self._ids = np.zeros((sentences, 0), bool), np.zeros((sentences, 0), np.int64)
        if self._shape != shape:
            raise ValueError(f"The cache was filled by another model: it is of {self._shape}, this model of {shape}.")
        self.lengths(sentences)
        step = CacheStep(self, is_real, ids)
        self._reserve(int(step.lengths.max(initial=1)))
        return step

    def crop(self, length: Any) -> None:
        """Keep the first `length` tokens, padding included; a negative one forgets so many at the end.

        Raises:
            ValueError: the cache holds fewer.
        """
        seen = self.get_seq_length()
        if not isinstance(length, int | np.integer) or not -seen <= length <= seen:
            raise ValueError(f"The cache holds {seen} tokens of a sentence; it cannot be cropped to {length}.")
        self._is_real, self._ids = self._is_real[:, :length], self._ids[:, :length]

    def select(self, sentences: Any) -> None:
        """Keep the sentences of these numbers, in this order; a number may come more than once.

        Raises:
            ValueError: there is no such sentence.
        """
        chosen, number = np.asarray(sentences), len(self._is_real)
        if chosen.ndim != 1 or chosen.dtype.kind not in "iu" or ((chosen < 0) | (chosen >= number)).any():
            raise ValueError(f"The cache holds the sentences 0 to {number - 1}; {sentences!r:.80} asks for others.")
        if np.array_equal(chosen, np.arange(number)):
            return
        self._stores = self._rebuilt(chosen, self._capacity)
        self._is_real, self._ids = self._is_real[chosen], self._ids[chosen]
        if self.source is not None:
            spans = Spans(*(each[chosen] for each in self.source.spans))
            self.source = self.source._replace(spans=spans, is_real=self.source.is_real[chosen])

    def reorder(self, beams: Any) -> None:
        """The same, for as many sentences as there are.

        Raises:
            ValueError: these are more or fewer, or there is no such sentence.
        """
        if np.shape(beams) != self._is_real.shape[:1]:
            raise ValueError(f"The cache holds {len(self._is_real)} sentences; {beams!r:.80} is no order of them.")
        self.select(beams)

    def _reserve(self, tokens: int) -> None:
        """Stores with room for so many real tokens of each sentence."""
        assert self._shape is not None
        if self._stores and tokens <= self._capacity:
            return
        capacity, sentences = self._capacity, len(self._is_real)
        if tokens > capacity:
            capacity = -(-tokens // BLOCK) * BLOCK
        if self._stores:
            stores = self._rebuilt(np.arange(sentences), capacity)
        else:
            layers, heads, width, dtype, device, *_ = self._shape
            size = sentences * capacity, heads, width
            stores = tuple(
                SourceKeysValues(zeros(size, dtype, device), zeros(size, dtype, device)) for _ in range(layers)
            )
        self._stores, self._capacity = stores, capacity

    def _rebuilt(self, chosen: Int[np.ndarray, " b"], capacity: int) -> tuple[SourceKeysValues, ...]:
        """The stores of these sentences, with room for so many tokens of each; nothing else is changed."""
        taken = int(self._is_real.sum(axis=1).max(initial=0))
        return tuple(
            SourceKeysValues(*(_rebuilt(array, chosen, taken, self._capacity, capacity) for array in store))
            for store in self._stores
        )


def _rebuilt(
    old: Float[Array, "old_rows H W"], chosen: Int[np.ndarray, " b"], taken: int, old_capacity: int, capacity: int
) -> Float[Array, "rows H W"]:
    """Another store of these sentences, with the rows of each that are taken."""
    xp, features = array_namespace(old), old.shape[1:]
    old_stretches = xp.reshape(old, (-1, old_capacity, *features))
    new = xp.zeros((len(chosen), capacity, *features), dtype=old.dtype, device=old.device)
    for place, sentence in enumerate(chosen.tolist()):
        new[place, :taken, ...] = old_stretches[sentence, :taken, ...]
    return xp.reshape(new, (-1, *features))


class CacheStep:
    """One forward pass over a cache: where its new tokens go, and where all tokens lie.

    Attributes:
        is_real: [B, P + T], of all tokens, the new ones last.
        lengths: [B], how many tokens of each sentence are real then.
        source: what cross-attention sees; kept by the cache from the first pass on.
    """

    def __init__(self, cache: KeyValueCache, is_real: Bool[np.ndarray, "B T"], ids: Int[np.ndarray, "B T"]) -> None:
        """See `KeyValueCache.begin`."""
        self.cache, self._is_new_real = cache, is_real
        self.source = cache.source
        self.is_real = np.concatenate([cache._is_real, is_real], axis=1)
        self._ids = np.concatenate([cache._ids, ids], axis=1)
        self.lengths = self.is_real.sum(axis=1)

    @property
    def key(self) -> Spans:
        """The spans of all keys in the stores, for packed masks."""
        return Spans(self._starts, self.lengths)

    def layers(self, padded: bool) -> tuple["LayerStep", ...]:
        """The stores of all layers, to add to.

        Args:
            padded: whether new keys come, and all are returned, as rectangles; otherwise they come packed, and the
                stores are returned as they are.
        """
        assert self.cache._shape is not None
        device, starts = self.cache._shape.device, self._starts[:, None]
        places = starts + self.is_real.cumsum(axis=1) - 1
        rows = places[:, -self._is_new_real.shape[1] :][self._is_new_real]
        came_at = np.flatnonzero(self._is_new_real)
        indices = [rows, came_at, np.where(self.is_real, places, starts)] if padded else [rows]
        on_device = [to_device(index, device) for index in indices]
        return tuple(LayerStep(store, *on_device) for store in self.cache._stores)

    def commit(self) -> None:
        """The new tokens are there from now on."""
        self.cache._is_real, self.cache._ids = self.is_real, self._ids
        self.cache.source = self.source

    @property
    def _starts(self) -> Int[np.ndarray, " B"]:
        return np.arange(len(self.is_real)) * self.cache._capacity


class LayerStep:
    """The store of one layer during one forward pass: a `layers.self_attention.Past`."""

    def __init__(
        self,
        store: SourceKeysValues,
        rows: Int[Array, " N"],
        came_at: Int[Array, " N"] | None = None,
        places: Int[Array, "B S"] | None = None,
    ) -> None:
        """See `CacheStep.layers`.

        Args:
            store: of all sentences.
            rows: where the new real tokens go.
            came_at: where these lie in the rectangle of new tokens, if they come in one.
            places: the row of every token so far, if they are asked for as a rectangle; at padding, of any.
        """
        self._store, self._rows, self._came_at, self._places = store, rows, came_at, places

    def part(self, tokens: slice) -> "LayerStep":
        """The same for some of the packed new tokens, when several threads share them."""
        return LayerStep(self._store, self._rows[tokens])

    def append(
        self, key: Float[Array, "*new H W"], value: Float[Array, "*new H W"]
    ) -> tuple[Float[Array, "*keys H W"], Float[Array, "*keys H W"]]:
        """Store the new tokens' keys and values; return those of all tokens."""
        for store, new in zip(self._store, (key, value), strict=True):
            store[self._rows] = new if self._came_at is None else new.reshape(-1, *new.shape[-2:])[self._came_at]
        if self._places is None:
            return self._store.key, self._store.value
        return self._store.key[self._places], self._store.value[self._places]
