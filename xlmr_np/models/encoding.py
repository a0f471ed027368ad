"""Running the encoder for a model class: for inference, and for training with what its backward pass needs."""

import inspect
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, TypedDict

import numpy as np

from xlmr_np import trees
from xlmr_np.arrays import Array, array_namespace, as_generator, compute_dtype, to_device, to_numpy
from xlmr_np.decoding.cache import CachedSource, CacheStep, KeyValueCache, StoreShape, check_past
from xlmr_np.encoder import (
    Asking,
    EncoderCache,
    EncoderDropout,
    EncoderParams,
    encoder_backward,
    encoder_forward,
    encoder_steps,
)
from xlmr_np.inputs import (
    Caching,
    EncoderInputs,
    in_layout,
    is_first,
    pack,
    prepare_inputs,
    real_rows,
    rectangle,
    token_places,
    unpack,
    with_source,
)
from xlmr_np.inputs_on_gpu import are_on_gpu, prepare_inputs_on_gpu, stays_on_gpu
from xlmr_np.labels import check_smoothing
from xlmr_np.layers.attention import AttentionCache, Mask, PackedMask, PaddedMask, Spans
from xlmr_np.layers.cross_attention import SourceKeysValues, source_forward
from xlmr_np.layers.dropout import Dropout, Philox, TokenKey
from xlmr_np.layers.encoder_layer import EncoderSetting, Source
from xlmr_np.layers.self_attention import LayerDropout
from xlmr_np.losses.cross_entropy import IGNORED_LABEL
from xlmr_np.models.on_device import on_device
from xlmr_np.models.pretrained import ATTENTION_LAYOUTS, ModelParams, XLMRobertaPreTrainedModel
from xlmr_np.ops import Ops
from xlmr_np.ops.cpu.shards import Shard, cut
from xlmr_np.outputs import ModelOutput
from xlmr_np.row_sparse import RowSparse

CACHE_ARGUMENTS = ("past_key_values", "use_cache", "cache_position")


class Requests(TypedDict, total=False):
    """What a call may ask for besides its result; what it leaves out or sets to None, the config says.

    Keys:
        output_attentions: also return the attention probabilities, and those of cross-attention.
        output_hidden_states: also return the hidden states of all steps (True), or of some (an index or a list of them:
            the others are None).
        return_dict: False returns a plain tuple in place of a record.
    """

    output_attentions: bool | None
    output_hidden_states: bool | int | list[int] | None
    return_dict: bool | None


class Encoded(NamedTuple):
    """What the encoder made of some inputs: the last hidden state, and what was requested.

    Its rows are of the N real tokens, or of those of them that are read.
    """

    rows: Array  # [N, D]
    hidden_states: tuple[Array | None, ...] | None
    past_key_values: KeyValueCache | None
    attentions: tuple[Array, ...] | None
    cross_attentions: tuple[Array, ...] | None


class TrainingPass(NamedTuple):
    """A forward pass of the encoder, with all that its backward pass needs."""

    rows: Array  # as `Encoded.rows`
    cache: EncoderCache
    dropout: EncoderDropout
    asking: Asking | None
    read: Array | None  # [N], True at the tokens that the rows are of; None: all


class DropoutKeys:
    """Draws the key of every place where something is dropped; without a generator nothing is.

    Raises:
        TypeError: the generator is none, but a seed for example.
    """

    def __init__(self, generator: np.random.Generator | None) -> None:
        self.generator = None if generator is None else as_generator(generator)

    def attention(
        self, rate: float, places: tuple[Array, Array] | None, source_rows: Array | None = None
    ) -> Dropout | None:
        """For attention probabilities; in the padded layout, of tokens that stand at these places.

        The tokens of a source have rows of their own.
        """
        key = self._draw(rate)
        if key is None:
            return None
        return Dropout(rate, key if places is None else TokenKey(key, *places, source_rows))

    def tokens(self, rate: float, sentences: Array, rows: Array) -> Dropout | None:
        """For the features of tokens that stand in these sentences, as their rows of these numbers."""
        key = self._draw(rate)
        return None if key is None else Dropout(rate, TokenKey(key, sentences, rows))

    def _draw(self, rate: float) -> Philox | None:
        if self.generator is None or rate == 0:
            return None
        low, high = self.generator.integers(2**32, size=2).tolist()
        return Philox(low, high)


class EncoderModel(XLMRobertaPreTrainedModel):
    """A model that can run its encoder."""

    forward: Callable[..., Any]
    reads_first_tokens: ClassVar[bool] = False  # and no others, of the last hidden state

    def __call__(self, *arguments: Any, **named_arguments: Any) -> Any:
        """The same as `forward`."""
        return self.forward(*arguments, **named_arguments)

    def _prepare(self, output_attentions: bool = False, **arguments: Any) -> EncoderInputs:
        """Check and lay out the arguments of a forward pass, on the model's device."""
        caching = self._caching(**{name: arguments.pop(name, None) for name in CACHE_ARGUMENTS}, **arguments)
        is_on_gpu = are_on_gpu(arguments, self.device)
        source = {name: arguments.pop(name, None) for name in ("encoder_hidden_states", "encoder_attention_mask")}
        inputs = self._prepare_tokens(output_attentions, is_on_gpu, arguments, caching)
        is_cached = inputs.step is not None and inputs.step.source is not None
        if not is_cached or any(each is not None for each in source.values()):
            inputs = with_source(inputs, self.config, **source, dtype=self._compute_dtype)
        inputs = trees.map_leaves(self._to_device, inputs)
        return self._with_cached_source(inputs) if self.config.add_cross_attention and inputs.step else inputs

    def _uses_cache(
        self, use_cache: bool | None, past_key_values: Any, attention_mask: Any, has_labels: bool = False
    ) -> bool:
        """Whether a forward pass is to keep keys and values: as the call says, or the config, where it makes sense."""
        if use_cache is not None or past_key_values is not None:
            return use_cache is None or bool(use_cache)
        if attention_mask is not None and not hasattr(attention_mask, "ndim"):
            attention_mask = rectangle("attention_mask", attention_mask)
        says_who_sees_whom = attention_mask is not None and attention_mask.ndim > 2
        return self.config.use_cache and not has_labels and not says_who_sees_whom

    def _caching(
        self,
        past_key_values: Any,
        use_cache: bool | None,
        cache_position: Any,
        input_ids: Any = None,
        inputs_embeds: Any = None,
        **others: Any,
    ) -> Caching | None:
        """The cache that a forward pass adds to: the given one, or a new one if that is asked for.

        Raises:
            TypeError: the given one is none of ours.
            ValueError: only decoders have one; `cache_position` says otherwise than the cache; there is one, and
                `use_cache` is False.
        """
        check_past(past_key_values, use_cache)
        cache = past_key_values
        if cache is not None and not self.config.is_decoder:
            raise ValueError("past_key_values are given, but only decoders (is_decoder=True) keep earlier tokens.")
        if cache is None and use_cache and self.config.is_decoder:
            cache = KeyValueCache()
        seen = 0 if cache is None else cache.get_seq_length()
        new = input_ids if inputs_embeds is None else inputs_embeds
        if cache_position is not None and new is not None:
            axes = rectangle("The input", new).shape
            expected = range(seen, seen + axes[1]) if len(axes) > 1 else range(0)
            if expected and not np.array_equal(rectangle("cache_position", cache_position), expected):
                raise ValueError(
                    f"cache_position is {cache_position!r:.80}; with {seen} tokens in the cache it can only be "
                    f"{expected[0]} to {expected[-1]}. Leave it out."
                )
        if cache is None:
            return None
        config = self.config
        shape = StoreShape(
            config.num_hidden_layers,
            config.num_attention_heads,
            config.hidden_size // config.num_attention_heads,
            np.dtype(self._compute_dtype),
            self.device,
            config.add_cross_attention,
            self.identity,
        )
        return Caching(cache, shape)

    def _with_cached_source(self, inputs: EncoderInputs) -> EncoderInputs:
        """The inputs with the keys and values of their source in its place, which the cache has, or gets here.

        Raises:
            ValueError: another source is given than that in the cache.
        """
        step, params, setting = inputs.step, *self._encoder(inputs)
        assert step is not None
        if step.source is None:
            assert isinstance(inputs.source, Source)
            states, is_real = inputs.source.states, inputs.source_is_real
            rows = states if isinstance(inputs.mask, PackedMask) else pack(states, is_real)
            keys_values = tuple(
                source_forward(rows, layer.cross_attention, setting.num_heads, self.engine.inference)[0]
                for layer in params.layers
                if layer.cross_attention is not None
            )
            step.source = CachedSource.of(keys_values, to_numpy(is_real), rows)
        elif isinstance(inputs.source, Source):
            is_packed = isinstance(inputs.mask, PackedMask)
            rows = inputs.source.states if is_packed else pack(inputs.source.states, inputs.source_is_real)
            step.source.check_same(to_numpy(inputs.source_is_real), rows)
        kept = step.source
        is_real = self._to_device(kept.is_real)
        if isinstance(inputs.mask, PackedMask):
            mask: Mask = PackedMask(inputs.mask.query, Spans(*map(self._to_device, kept.spans)))
            sources = tuple(Source(each, mask) for each in kept.layers)
        else:
            mask = PaddedMask(is_real[:, None, None, :])
            rows, xp = self._to_device(kept.rows), array_namespace(kept.states)
            sources = tuple(
                Source(SourceKeysValues(*(unpack(xp.take(packed, rows, axis=0), is_real) for packed in each)), mask)
                for each in kept.layers
            )
        return inputs._replace(source=sources, source_is_real=is_real)

    def _prepare_tokens(
        self, output_attentions: bool, is_on_gpu: bool, arguments: dict[str, Any], caching: Caching | None
    ) -> EncoderInputs:
        """The model's own inputs, on the host or on its GPU."""
        padded = output_attentions or ATTENTION_LAYOUTS[self.attn_implementation.removeprefix("paged|")] == "padded"
        gpu = self.engine.gpu
        counts_by_mask = self.config.is_decoder and arguments.get("attention_mask") is not None
        goes_by_host = padded or caching is not None or counts_by_mask
        if is_on_gpu and gpu is not None and stays_on_gpu(**arguments) and not goes_by_host:
            arguments.pop("inputs_embeds", None)
            return prepare_inputs_on_gpu(gpu, self.config, **arguments)
        inputs = prepare_inputs(self.config, **arguments, padded=padded, caching=caching)
        if inputs.token_table is None:
            return inputs
        # lists and NumPy's own results are float64; the model stays in its type
        return inputs._replace(token_table=inputs.token_table.astype(self._compute_dtype, copy=False))

    @property
    def _compute_dtype(self) -> np.dtype:
        """The type in which the model computes; half-precision weights are widened on a CPU."""
        embeddings = self.params.encoder.embeddings
        return compute_dtype(embeddings.layer_norm.weight) if self.engine.gpu is None else embeddings.token.dtype

    def _to_device(self, leaf: Any) -> Any:
        """Arrays on the model's device; numbers stay."""
        return to_device(leaf, self.device) if hasattr(leaf, "shape") else leaf

    def _encoder(self, inputs: EncoderInputs) -> tuple[EncoderParams, EncoderSetting]:
        """The encoder's parameters, with the users' own embeddings in place of the token table, and its setting."""
        config, params = self.config, self.params.encoder
        if inputs.token_table is not None:
            params = params._replace(embeddings=params.embeddings._replace(token=inputs.token_table))
        return params, EncoderSetting(config.num_attention_heads, config.hidden_act, config.layer_norm_eps)

    def _encode(self, inputs: EncoderInputs, requests: Requests | None = None, read: Array | None = None) -> Encoded:
        """Run the encoder for inference; the head reads the last hidden state where `read` [N] is True, or all.

        Without requests nothing else is returned, whatever the config says.
        """
        params, setting = self._encoder(inputs)
        read = self._read(inputs, read)
        output_attentions = requests is not None and self._wants_attentions(requests)
        requested = False if requests is None else requests.get("output_hidden_states")
        selected = _selected_steps(
            self.config.output_hidden_states or False if requested is None else requested, len(params.layers) + 1
        )
        attentions: list[Array] = []
        cross_attentions: list[Array] = []
        all_ask = len(params.layers) in selected

        def run(part: EncoderInputs, own_read: Array | None, ops: Ops) -> list[Array]:
            """The hidden states that are selected, and the last."""
            states = []
            asking = None if all_ask else _asking(part.mask, own_read, part.source)
            index = part.ids, part.token_types, part.positions
            steps = encoder_steps(
                *index, params, part.mask, setting, ops, past=part.past, asking=asking, source=part.source
            )
            for step, (x, cache) in enumerate(steps):
                if step in selected:
                    states.append(x)
                if output_attentions and step > 0:
                    attentions.append(_of_real_queries(cache.attention.attention, part))
                    if part.source is not None:
                        cross_attentions.append(_of_real_queries(cache.cross_attention.attention, part))
            return [*states, x]

        if output_attentions:
            attention = self.engine.attention_with_probabilities
            states = run(inputs, read, self.engine.inference._replace(attention=attention))
        else:
            states = self._run_in_shards(run, inputs, read)
        *hidden_states, last = (real_rows(state, inputs) for state in states)
        if read is not None and (all_ask or not isinstance(inputs.mask, PackedMask)):
            last = pack(last, read)
        self._checked(last)
        chosen = dict(zip(sorted(selected), hidden_states, strict=True))
        return Encoded(
            last,
            tuple(
                unpack(chosen[step], inputs.is_real) if step in selected else None
                for step in range(len(params.layers) + 1)
            )
            if selected
            else None,
            None if inputs.step is None else inputs.step.cache,
            tuple(attentions) if output_attentions else None,
            tuple(cross_attentions) if output_attentions and inputs.source is not None else None,
        )

    def _checked(self, *results: Array) -> None:
        """Refuse results beyond the range of float16, if that is what the model computes in (FloatingPointError)."""
        if self.engine.check is not None and self._compute_dtype == np.float16:
            for result in results:
                self.engine.check(result)

    def _read(self, inputs: EncoderInputs, read: Array | None) -> Array | None:
        """Which of the N real tokens the head reads, given which of them are asked for; None: all."""
        return is_first(inputs.is_real) if self.reads_first_tokens else read

    def _run_in_shards(
        self,
        run: Callable[[EncoderInputs, Array | None, Ops], list[Array]],
        inputs: EncoderInputs,
        read: Array | None,
    ) -> list[Array]:
        """Results by row of all inputs at once; on a CPU, if they are long enough, of some sentences for each thread.

        Half-precision weights are converted for every product anew, so that all sentences share one. Sentences with a
        source stay together: what they cost is not in their own lengths.
        """
        config, mask, sharding = self.config, inputs.mask, self.engine.sharding
        if sharding is None:
            return run(inputs, read, self.engine.inference)
        shards = []
        if isinstance(mask, PackedMask) and inputs.source is None and not _is_converted(self.params.encoder):
            token_cost = 2 * config.hidden_size + config.intermediate_size
            shards = cut(mask, token_cost, sharding.threads.number, keys_are_shared=inputs.past is not None)
        if not shards:
            with sharding.threads.held_together():
                return run(inputs, read, self.engine.inference)

        def run_shard(shard: Shard) -> list[Array]:
            ids, token_types, positions = (each[shard.tokens] for each in inputs[:3])
            past = None if inputs.past is None else tuple(layer.part(shard.tokens) for layer in inputs.past)
            return run(
                inputs._replace(ids=ids, token_types=token_types, positions=positions, mask=shard.mask, past=past),
                None if read is None else read[shard.tokens],
                sharding.inference,
            )

        parts = sharding.threads.run(run_shard, shards)
        return [array_namespace(part[0]).concat(part, axis=0) for part in zip(*parts, strict=True)]

    def _wants_attentions(self, requests: Requests) -> bool:
        requested = requests.get("output_attentions")
        return bool(self.config.output_attentions if requested is None else requested)

    def _run(self, requests: Requests, **arguments: Any) -> tuple[EncoderInputs, Encoded]:
        """What most forward passes begin with."""
        inputs = self._requested_inputs(requests, **arguments)
        return inputs, self._encode(inputs, requests)

    def _requested_inputs(self, requests: Requests, **arguments: Any) -> EncoderInputs:
        """The inputs of a forward pass, in the layout that the requests need."""
        unknown = requests.keys() - Requests.__annotations__.keys()
        if unknown:
            raise TypeError(f"{type(self).__name__}.forward() got unknown arguments: {', '.join(sorted(unknown))}.")
        return self._prepare(self._wants_attentions(requests), **arguments)

    def _returned(self, output: ModelOutput, requests: Requests, step: CacheStep | None = None) -> Any:
        """The record, or its tuple if the call or the config asks for that; its cache has the step's tokens now."""
        if step is not None:
            step.commit()
        requested = requests.get("return_dict")
        wants_record = self.config.return_dict if requested is None else requested
        return output.to_tuple() if wants_record is False else output

    def _arguments(self, batch: dict[str, Any]) -> dict[str, Any]:
        """What a training step takes of the arguments of `forward`: all but requests, under the same checks."""
        arguments = inspect.signature(self.forward).bind(**batch).arguments
        requests = arguments.pop("requests", {})
        if requests:
            raise TypeError(f"A training step of {type(self).__name__} takes no {', '.join(sorted(requests))}.")
        if arguments.get("past_key_values") is not None:
            raise ValueError("A training step computes all tokens; it takes no past_key_values.")
        for name in CACHE_ARGUMENTS:
            arguments.pop(name, None)  # they change no loss
        return arguments

    def _encode_for_training(
        self, inputs: EncoderInputs, keys: DropoutKeys, checkpoint_layers: bool, read: Array | None = None
    ) -> TrainingPass:
        """Run the encoder and keep what `_encoder_gradients` needs; the head reads where `read` [N] is True, or all."""
        if not to_numpy(inputs.is_real).any():
            raise ValueError("The batch holds no real token; there is nothing to learn from.")
        params, setting = self._encoder(inputs)
        read = self._read(inputs, read)
        # What is dropped of attention depends on a query's place among those that ask: for first tokens the same.
        drops_attention = keys.generator is not None and self.config.attention_probs_dropout_prob > 0
        all_ask = isinstance(inputs.mask, PackedMask) and inputs.mask.is_causal  # a backward pass wants all their keys
        all_ask = all_ask or (drops_attention and not self.reads_first_tokens)
        asking = None if all_ask else _asking(inputs.mask, read, inputs.source)
        dropout = self._encoder_dropout(inputs, keys, asking)
        x, cache = encoder_forward(
            inputs.ids,
            inputs.token_types,
            inputs.positions,
            params,
            inputs.mask,
            setting,
            self.engine.training,
            dropout,
            self.engine.inference if checkpoint_layers else None,
            asking,
            _own_source(inputs),
        )
        rows = real_rows(x, inputs)
        if read is not None and asking is None:
            rows = pack(rows, read)
        return TrainingPass(rows, cache, dropout, asking, read)

    def _encoder_dropout(self, inputs: EncoderInputs, keys: DropoutKeys, asking: Asking | None) -> EncoderDropout:
        config = self.config
        is_packed = isinstance(inputs.mask, PackedMask)
        places = token_places(inputs.is_real)
        if is_packed:
            places = pack(places[0], inputs.is_real), pack(places[1], inputs.is_real)
        last_places = places
        if asking is not None:
            xp = array_namespace(asking.rows)
            last_places = xp.take(places[0], asking.rows), xp.take(places[1], asking.rows)
        source_rows = None
        if inputs.source_is_real is not None and not is_packed:
            _, source_rows = token_places(inputs.source_is_real)

        def of_layer(own_places: tuple[Array, Array]) -> LayerDropout:
            """Those of cross-attention last, so that they change none of the others."""
            in_layout = None if is_packed else places
            self_attention = (
                keys.attention(config.attention_probs_dropout_prob, in_layout),
                keys.tokens(config.hidden_dropout_prob, *own_places),
                keys.tokens(config.hidden_dropout_prob, *own_places),
            )
            if inputs.source is None:
                return LayerDropout(*self_attention)
            return LayerDropout(
                *self_attention,
                keys.attention(config.attention_probs_dropout_prob, in_layout, source_rows),
                keys.tokens(config.hidden_dropout_prob, *own_places),
            )

        layers = len(self.params.encoder.layers)
        return EncoderDropout(
            keys.tokens(config.hidden_dropout_prob, *places),
            tuple(of_layer(own_places) for own_places in [places] * (layers - 1) + [last_places]),
        )

    def _encoder_gradients(
        self, d_rows: Array, inputs: EncoderInputs, training_pass: TrainingPass
    ) -> tuple[Array | None, EncoderParams]:
        """The gradients of `encoder_hidden_states` [B, S, D], if there are any, and of the encoder's parameters.

        Args:
            d_rows: the gradients of the rows that the head has read.
            inputs: of the forward pass.
            training_pass: the forward pass.
        """
        params, setting = self._encoder(inputs)
        asking, read = training_pass.asking, training_pass.read
        if asking is None:
            d_rows = in_layout(d_rows if read is None else unpack(d_rows, read), inputs)
        d_states, gradients = encoder_backward(
            d_rows,
            training_pass.cache,
            inputs.ids,
            inputs.token_types,
            inputs.positions,
            params,
            inputs.mask,
            setting,
            self.engine.training,
            self.config.pad_token_id,
            training_pass.dropout,
            asking,
            _own_source(inputs),
        )
        if d_states is not None and isinstance(inputs.mask, PackedMask):
            d_states = unpack(d_states, inputs.source_is_real)
        if inputs.token_table is not None:
            embeddings = gradients.embeddings._replace(token=self._no_token_gradient(d_rows))
            gradients = gradients._replace(embeddings=embeddings)
        return d_states, gradients

    def _no_token_gradient(self, like: Array) -> RowSparse:
        """The gradient of a token table from which nothing was looked up."""
        xp = array_namespace(like)
        no_rows = xp.zeros((0,), dtype=xp.int64, device=like.device)
        return RowSparse(no_rows, like[:0, :], self.params.encoder.embeddings.token.shape[0])


class TaskModel(EncoderModel):
    """A model with a head and a loss: some arguments of its `forward` are labels, and some say how to take them."""

    loss_and_gradients: Callable[..., tuple[Any, ModelParams]]
    label_names: ClassVar[tuple[str, ...]] = ("labels",)
    label_settings: ClassVar[tuple[str, ...]] = ()

    def _targets(self, inputs: EncoderInputs, **labels: Any) -> Any:
        """The checked labels with what the loss needs besides, or None if there are none.

        The record has `labels`, and `smoothed(smoothing)`, which is another record.
        """
        raise NotImplementedError

    @on_device
    def number_of_labels(self, **batch: Any) -> int:
        """How many labels the loss of a training step is the mean of; for questions, those of the start.

        Args:
            **batch: as for `loss_and_gradients`.

        Raises:
            ValueError, TypeError: as there.
        """
        labels = to_numpy(next(trees.leaves(self._training_inputs(batch)[1].labels)))
        return int((labels != IGNORED_LABEL).sum()) if labels.dtype.kind in "iu" else len(labels)

    def _training_inputs(self, batch: dict[str, Any], label_smoothing: float = 0.0) -> tuple[EncoderInputs, Any]:
        """The inputs of a training step, and the checked labels."""
        smoothing = check_smoothing(label_smoothing)
        arguments = self._arguments(batch)
        labels = {name: arguments.pop(name, None) for name in self.label_names + self.label_settings}
        inputs = self._prepare(**arguments)
        targets = self._targets(inputs, **labels)
        if targets is None:
            raise ValueError(f"A training step of {type(self).__name__} needs {' and '.join(self.label_names)}.")
        return inputs, targets.smoothed(smoothing) if smoothing else targets


def _own_source(inputs: EncoderInputs) -> Source | None:
    """What cross-attention sees in a pass without a cache."""
    assert isinstance(inputs.source, Source | None)
    return inputs.source


def _of_real_queries(cache: AttentionCache, part: EncoderInputs) -> Array:
    """The attention probabilities [B, H, T, S], with zeros where a query is padding."""
    probabilities = cache.softmax.probabilities
    xp = array_namespace(probabilities)
    return probabilities * xp.astype(part.is_real, probabilities.dtype)[:, None, :, None]


def _asking(mask: Mask, read: Array | None, source: Source | tuple[Source, ...] | None) -> Asking | None:
    """The tokens that are read [N], if not all of them are and the layout is packed."""
    if read is None or not isinstance(mask, PackedMask):
        return None
    (rows,) = array_namespace(read).nonzero(read)
    own_mask, sentences = _runs(mask, rows) if mask.is_causal else (_parts(mask, read), slice(None))
    if source is None:
        return Asking(rows, own_mask)
    source_mask = source.mask if isinstance(source, Source) else source[0].mask  # they have the same
    assert isinstance(source_mask, PackedMask)  # as the tokens' is
    of_sources = Spans(*(each[sentences] for each in source_mask.key))
    return Asking(rows, own_mask, PackedMask(own_mask.query, of_sources))


def _parts(mask: PackedMask, read: Array) -> PackedMask:
    """Of a bidirectional model: a token sees the same from wherever it stands among those of its sentence that ask."""
    xp = array_namespace(read)
    read_before = xp.cumulative_sum(xp.astype(read, mask.query.starts.dtype), include_initial=True)
    starts = xp.take(read_before, mask.query.starts)
    stops = xp.take(read_before, mask.query.starts + mask.query.lengths)
    return PackedMask(Spans(starts, stops - starts), mask.key)


def _runs(mask: PackedMask, rows: Array) -> tuple[PackedMask, Array]:
    """Of a causal model: every run of neighbours that ask is a sequence of its own; and of which sentence each is.

    The last query of a sequence sees all of its keys, so that a run has those up to its last token. Runs of a sentence
    share keys, and no backward pass is made for that.
    """
    xp = array_namespace(rows)
    of_row = xp.searchsorted(mask.query.starts, rows, side="right") - 1  # empty sentences begin where the next one does
    goes_on = (rows[1:] == rows[:-1] + 1) & (of_row[1:] == of_row[:-1])
    (starts,) = xp.nonzero(xp.concat([xp.ones_like(rows[:1], dtype=xp.bool), ~goes_on]))
    stops = xp.concat([starts[1:], xp.full_like(starts[:1], rows.shape[0])])
    sentences = xp.take(of_row, starts)
    starts_of_query, lengths_of_query, starts_of_key, lengths_of_key = (
        xp.take(each, sentences) for spans in (mask.query, mask.key) for each in spans
    )
    behind = starts_of_query + lengths_of_query - 1 - xp.take(rows, stops - 1)  # tokens of the sentence after the run
    keys = Spans(starts_of_key, lengths_of_key - behind)
    return PackedMask(Spans(starts, stops - starts), keys, is_causal=True), sentences


def _is_converted(params: EncoderParams) -> bool:
    """Whether the layers' matrices are stored in another type than they are computed in."""
    return any(
        layer.feed_forward.intermediate.weight.dtype != compute_dtype(layer.feed_forward.intermediate.weight)
        for layer in params.layers
    )


def _selected_steps(request: bool | int | list[int], number_of_steps: int) -> frozenset[int]:
    """Which hidden states a caller wants: all, none, or those of some indices (negative ones from the end)."""
    if isinstance(request, bool | np.bool_):
        return frozenset(range(number_of_steps) if request else ())
    indices = list(request) if isinstance(request, list | tuple) else [request]
    for index in indices:
        if not isinstance(index, int | np.integer) or not -number_of_steps <= index < number_of_steps:
            raise ValueError(
                f"output_hidden_states asks for {index!r}; they are 0 to {number_of_steps - 1}, and True means all."
            )
    return frozenset(index % number_of_steps for index in indices)
