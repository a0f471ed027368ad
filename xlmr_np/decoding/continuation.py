"""A batch of texts that a model continues, token by token."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from xlmr_np.arrays import Array, at_least_float32, to_numpy
from xlmr_np.decoding.cache import KeyValueCache
from xlmr_np.outputs import CausalLMOutput


class Prompt(NamedTuple):
    """What B texts begin with; the last token of each is real."""

    ids: Int[np.ndarray, "B T"]  # none (T is 0) where there are embeddings
    is_real: Bool[np.ndarray, "B T"]
    embeddings: Float[np.ndarray, "B T D"] | None = None
    source: dict[str, Any] | None = None  # encoder_hidden_states and encoder_attention_mask, for cross-attention


class Continuation:
    """The texts, and what the model knows of them.

    Attributes:
        ids: [B, T], the tokens so far; of a prompt that was given as embeddings, none.
        is_real: [B, T], False at padding, before a text and behind its end; of embeddings too.
        cache: of keys and values, or None.
        outputs: of the forward passes, if they were asked for.
    """

    def __init__(
        self, model: Any, prompt: Prompt, cache: KeyValueCache | None, position_mode: str, **requests: bool
    ) -> None:
        """Before anything is computed.

        Args:
            model: an `XLMRobertaForCausalLM`.
            prompt: what the texts begin with.
            cache: keeps keys and values; if it holds some already, they are of the prompt's first tokens. None computes
                all tokens anew for each next one.
            position_mode: see `GenerationConfig`.
            **requests: `output_attentions` and `output_hidden_states`; with any of them, outputs are kept.
        """
        self.ids, self.is_real = prompt.ids, prompt.is_real
        self.outputs: list[CausalLMOutput] = []
        self.cache, self._model, self._requests = cache, model, requests
        self._embeddings, self._source = prompt.embeddings, prompt.source or {}
        self._counts_from_zero = position_mode == "huggingface"

    @property
    def are_real(self) -> Bool[np.ndarray, "B T"]:
        """Of `ids`, those that are no padding."""
        return self.is_real[:, self.is_real.shape[1] - self.ids.shape[1] :]

    def logits(self) -> Float[Array, "B V"]:
        """Of the next token of every text, in at least float32; zeros for texts that have ended."""
        seen = 0 if self.cache is None else self.cache.get_seq_length()
        positions = None
        if self._counts_from_zero:
            positions = np.maximum(self.is_real.cumsum(axis=1)[:, seen:] - 1, 0)
        output = self._model.forward(
            **self._tokens(seen),
            attention_mask=self.is_real,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=self.cache is not None,
            logits_to_keep=1,
            **self._source,
            **self._requests,
            return_dict=True,
        )
        if self.cache is not None:
            self._source = {}  # the cache has its keys and values
        if any(self._requests.values()):
            self.outputs.append(output)
        return at_least_float32(output.logits[:, -1, :])

    def _tokens(self, seen: int) -> dict[str, Any]:
        """The tokens from number `seen` on, as the model takes them."""
        if self._embeddings is None:
            return {"input_ids": self.ids[:, seen:]}
        from_embeddings = self._embeddings.shape[1]
        if seen >= from_embeddings:
            return {"input_ids": self.ids[:, seen - from_embeddings :]}
        if self.ids.shape[1] == 0:
            return {"inputs_embeds": self._embeddings[:, seen:]}
        table = self._model.get_input_embeddings()
        generated = to_numpy(at_least_float32(table[self.ids]))
        return {"inputs_embeds": np.concatenate([self._embeddings, generated], axis=1)[:, seen:]}

    def append(self, tokens: Int[np.ndarray, " B"], goes_on: Bool[np.ndarray, " B"]) -> None:
        """One more token for each text, which is padding where the text does not go on."""
        self.ids = np.concatenate([self.ids, tokens[:, None]], axis=1)
        self.is_real = np.concatenate([self.is_real, goes_on[:, None]], axis=1)

    def select(self, texts: Int[np.ndarray, " b"]) -> None:
        """Go on with the texts of these numbers, of which one may come more than once."""
        self.ids, self.is_real = self.ids[texts], self.is_real[texts]
        if self._embeddings is not None:
            self._embeddings = self._embeddings[texts]
        if self.cache is not None:
            self.cache.select(texts)
        self._source = {name: None if each is None else to_numpy(each)[texts] for name, each in self._source.items()}
