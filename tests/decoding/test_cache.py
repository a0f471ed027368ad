"""What is done to a cache between forward passes, and what may go wrong in them."""

from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.decoding.decoders import CAUSAL, MODEL, VOCABULARY, WIDTH, decoder, in_steps, random_source, result
from tests.decoding.quick import quick_steps
from tests.reference_models import TINY, random_ids
from xlmr_np.decoding import cache as cache_module
from xlmr_np.decoding.cache import BLOCK, KeyValueCache
from xlmr_np.ops import Op

LAYERS = TINY["num_hidden_layers"]
ROW_BYTES = 2 * LAYERS * WIDTH * 8  # keys and values of a token in float64


def filled(model: Any, ids: np.ndarray, **source: Any) -> KeyValueCache:
    return model(ids, use_cache=True, **source).past_key_values


# --- crop, select, reorder, growth ---


@st.composite
def changes(draw: Callable[..., Any]) -> list[tuple[str, Any]]:
    """What happens to a cache, in turn: tokens come, all but the first are forgotten, sentences are chosen."""
    steps: list[tuple[str, Any]] = []
    length, rows = 0, draw(st.integers(1, 3))
    steps.append(("rows", rows))
    for _ in range(draw(st.integers(1, 6))):
        kinds = ["feed"] * (length < 20) + ["crop", "select", "reorder"] * (length > 0)
        kind = draw(st.sampled_from(kinds))
        if kind == "feed":
            number = draw(st.integers(1, 8))
            length += number
            steps.append((kind, number))
        elif kind == "crop":
            kept = draw(st.integers(-length, length))
            length = length + kept if kept < 0 else kept
            steps.append((kind, kept))
        else:
            size = rows if kind == "reorder" else draw(st.integers(1, 4))
            chosen = draw(st.lists(st.integers(0, rows - 1), min_size=size, max_size=size))
            rows = size
            steps.append((kind, chosen))
    return steps


def check_changes(
    steps: list[tuple[str, Any]], block: int, capacity: int, has_source: bool, padding: float, layout: str, seed: int
) -> None:
    """After every change, the cache goes on like one that was made of the same tokens at once."""
    (_, rows), *steps = steps
    random = np.random.default_rng(seed)
    model = decoder(has_source=has_source)
    source = random_source(rows, seed) if has_source else {}
    ids, past = np.ones((rows, 0), int), KeyValueCache(capacity)
    model.set_attn_implementation(layout)
    try:
        with mock.patch.object(cache_module, "BLOCK", block):
            for kind, change in [*steps, ("feed", 2)]:
                if kind == "feed":
                    new = random.integers(4, VOCABULARY, (rows, change))
                    new[random.random(new.shape) < padding] = 1
                    ids = np.concatenate([ids, new], axis=1)
                    is_first = past.get_seq_length() == 0 and past.source is None
                    ours = model(new, ids != 1, past_key_values=past, **(source if is_first else {})).logits
                    expected = model(ids, use_cache=False, **source).logits[:, -change:]
                    np.testing.assert_allclose(ours, expected, atol=1e-10)  # float64, sums in another order
                elif kind == "crop":
                    past.crop(change)
                    ids = ids[:, :change]
                else:
                    getattr(past, kind)(change)
                    ids, source = ids[change], {name: each[change] for name, each in source.items()}
                    rows = len(ids)
                assert past.get_seq_length() == ids.shape[1]
                np.testing.assert_array_equal(past.is_real, ids != 1)
    finally:
        model.set_attn_implementation("sdpa")


every_change = given(
    steps=changes(),
    block=st.integers(1, 6),
    capacity=st.sampled_from([0, 3, 40]),
    has_source=st.booleans(),
    padding=st.sampled_from([0.0, 0.4]),
    layout=st.sampled_from(["sdpa", "eager"]),
    seed=st.integers(0, 999),
)


@settings(max_examples=100)
@every_change
def test_a_changed_cache_is_one_made_anew(**case: Any) -> None:
    with quick_steps():
        check_changes(**case)


@pytest.mark.exhaustive
@settings(max_examples=2000, derandomize=False)
@every_change
def test_a_changed_cache_is_one_made_anew_in_full(**case: Any) -> None:
    with quick_steps():
        check_changes(**case)


def test_growth_over_real_blocks() -> None:
    model = decoder(max_position_embeddings=3 * BLOCK + 4)
    ids = random_ids([3 * BLOCK, BLOCK + 1], side="left")
    lengths = [BLOCK - 1, 1, 1, BLOCK, BLOCK - 2, 1]
    sizes, steps = [], []
    for output in in_steps(model, ids, ids != 1, lengths):
        sizes.append(output.past_key_values.nbytes / (2 * BLOCK * ROW_BYTES))
        steps.append(output.logits)
    assert sizes == [1, 1, 2, 3, 3, 3]
    np.testing.assert_allclose(
        np.concatenate(steps, axis=1),
        model(ids, use_cache=False).logits[:, : sum(lengths)],
        atol=1e-10,  # float64
    )


def test_a_cache_with_room_does_not_grow() -> None:
    model, ids = decoder(), random_ids([20, 20, 20])
    past = KeyValueCache(20)
    assert past.nbytes == past.get_seq_length() == 0
    sizes = {step.past_key_values.nbytes for step in in_steps(model, ids, ids != 1, [7, 1, 5, 7], past)}
    assert sizes == {3 * 20 * ROW_BYTES}
    past.crop(4)
    past.reorder([2, 0, 0])
    model(ids[:, 4:], past_key_values=past)
    assert past.nbytes == 3 * 20 * ROW_BYTES
    past.select([1])
    assert past.nbytes == 20 * ROW_BYTES


def test_padding_takes_no_room() -> None:
    ids = random_ids([5, 3], side="left")
    ids = np.concatenate([np.ones((2, 4 * BLOCK), int), ids], axis=1)
    model = decoder(max_position_embeddings=8)
    past = filled(model, ids)
    assert past.nbytes == 2 * BLOCK * ROW_BYTES
    assert past.get_seq_length() == 4 * BLOCK + 5


def test_a_source_is_kept_once_for_all_that_share_it() -> None:
    model, source = decoder(has_source=True), random_source(2)
    past = filled(model, random_ids([4, 4]), **source)
    real = int(source["encoder_attention_mask"].sum())
    assert past.nbytes == (2 * BLOCK + real) * ROW_BYTES
    past.select(np.repeat([0, 1], 5))
    assert past.nbytes == (10 * BLOCK + real) * ROW_BYTES


def test_what_is_returned_is_no_way_in() -> None:
    past = filled(decoder(), random_ids([4]))
    past.is_real[:] = False
    assert past.is_real.all()


def test_order_as_it_was_copies_nothing() -> None:
    past = filled(decoder(), random_ids([4, 4]))
    stores = past._stores
    past.reorder([0, 1])
    assert past._stores is stores


# --- passes that fail ---


class Interrupting:
    """An operation of an engine in which, the n-th time, somebody presses Ctrl-C."""

    def __init__(self, op: Op, number: int) -> None:
        self.op, self.number = op, number

    def __call__(self, *arguments: Any) -> Any:
        self.number -= 1
        if self.number == 0:
            raise KeyboardInterrupt
        return self.op.forward(*arguments)


INTERRUPTED = [("embed", 1), ("attention", 1), ("feed_forward", 1), ("attention", 2), ("feed_forward", 2)]


def failing(model: Any, name: str, number: int, shards: bool = False) -> Any:
    """The model's engine with such an operation."""
    engine = model.engine
    ops = engine.inference
    if not shards:
        broken = Op(Interrupting(getattr(ops, name), number))
        return engine._replace(inference=ops._replace(**{name: broken}))
    ops = engine.sharding.inference
    broken = Op(Interrupting(getattr(ops, name), number))
    return engine._replace(sharding=engine.sharding._replace(inference=ops._replace(**{name: broken})))


@pytest.mark.usefixtures("quick_steps")
@pytest.mark.parametrize("is_first", [True, False], ids=["first pass", "later pass"])
@pytest.mark.parametrize("has_source", [False, True], ids=["alone", "with a source"])
@pytest.mark.parametrize(("name", "number"), [*INTERRUPTED, ("linear_activation", 1), ("layer_norm", 1)])
def test_an_interrupted_pass_changes_nothing(name: str, number: int, has_source: bool, is_first: bool) -> None:
    """Wherever it is interrupted, in the head too; and also where it made the stores grow."""
    model, ids = decoder(has_source=has_source), random_ids([8, 8, 8])
    source = random_source(3) if has_source else {}
    expected = model(ids, use_cache=False, **source).logits
    with mock.patch.object(cache_module, "BLOCK", 2):
        past = KeyValueCache()
        if not is_first:
            model(ids[:, :3], past_key_values=past, **source)
        seen = past.get_seq_length()
        engine = model.engine
        model.engine = failing(model, name, number)
        try:
            for other in (ids[:, :5], 4 + ids[:, :2] % 50):  # which leave rows of other tokens behind
                with pytest.raises(KeyboardInterrupt):
                    model(other, past_key_values=past, **source)
                model.engine = failing(model, name, number)
        finally:
            model.engine = engine
        assert past.get_seq_length() == seen
        assert (past.source is None) == (is_first or not has_source)
        ours = model(ids[:, seen : seen + 2], past_key_values=past, **source).logits
        np.testing.assert_allclose(ours, expected[:, seen : seen + 2], atol=1e-10)  # float64, sums in another order


@pytest.mark.usefixtures("quick_steps")
def test_an_interrupted_shard_changes_nothing() -> None:
    model = decoder(num_threads=2)
    ids = random_ids([2] * 400)
    past = filled(model, ids[:, :1])
    engine = model.engine
    for name, number in INTERRUPTED:
        model.engine = failing(model, name, number, shards=True)
        try:
            with pytest.raises(KeyboardInterrupt):
                model(4 + ids[:, 1:] % 50, past_key_values=past)
        finally:
            model.engine = engine
    ours = model(ids[:, 1:], past_key_values=past).logits
    np.testing.assert_allclose(ours, model(ids).logits[:, 1:], atol=1e-10)  # float64, sums in another order


@pytest.mark.parametrize("method", ["select", "growth"])
def test_too_little_memory_changes_nothing(method: str) -> None:
    """Where stores are copied, the old ones stay until all new ones are there."""
    model, ids = decoder(), random_ids([8, 8])
    past = filled(model, ids[:, :3])
    zeros, calls = np.zeros, []

    def failing_zeros(shape: Any, *arguments: Any, **settings: Any) -> Any:
        if len(shape) == 4:
            calls.append(shape)
            if len(calls) == 2:
                raise MemoryError
        return zeros(shape, *arguments, **settings)

    change = {"select": lambda: past.select([1, 0, 0]), "growth": lambda: past._reserve(BLOCK + 1)}[method]
    with mock.patch.object(np, "zeros", failing_zeros), pytest.raises(MemoryError):
        change()
    assert len(calls) == 2
    ours = model(ids[:, 3:], past_key_values=past).logits
    np.testing.assert_allclose(ours, model(ids).logits[:, 3:], atol=1e-10)  # float64, sums in another order


WRONG_PASSES: dict[str, dict[str, Any]] = {
    "an unknown token": {"input_ids": [[5, VOCABULARY]] * 3},
    "floats": {"input_ids": [[5.0, 6.0]] * 3},
    "no tokens": {"input_ids": np.ones((3, 0), int)},
    "ids and embeddings": {"inputs_embeds": np.ones((3, 2, WIDTH))},
    "a mask of the new tokens alone": {"attention_mask": np.ones((3, 2))},
    "an unknown position": {"position_ids": [[0, 34]]},
    "too many tokens": {"input_ids": np.full((3, 33), 5)},
    "an unknown token type": {"token_type_ids": [[0, 1]] * 3},
    "an unknown hidden state": {"output_hidden_states": [9]},
    "an unknown place": {"logits_to_keep": [2]},
    "an unknown label": {"labels": [[5, VOCABULARY]] * 3},
    "an unknown argument": {"output_attention": True},
}


@pytest.mark.parametrize("what", WRONG_PASSES)
def test_a_pass_that_is_refused_changes_nothing(what: str) -> None:
    model, ids = decoder(), random_ids([8, 8, 8])
    expected = model(ids, use_cache=False).logits
    for seen in (0, 4):
        past = filled(model, ids[:, :seen]) if seen else KeyValueCache()
        tokens = {"input_ids": ids[:, seen : seen + 2], "past_key_values": past}
        if seen or what != "a mask of the new tokens alone":
            with pytest.raises((ValueError, TypeError)):
                model(**{**tokens, **WRONG_PASSES[what]})
        assert past.get_seq_length() == seen
        ours = model(ids[:, seen:], past_key_values=past).logits
        np.testing.assert_allclose(ours, expected[:, seen:], atol=1e-10)  # float64, sums in another order


def test_an_empty_cache_fits_every_model_and_batch() -> None:
    """Also after a pass that failed, and when it was cropped to nothing."""
    model, ids = decoder(), random_ids([8, 8, 8])
    past = KeyValueCache()
    with pytest.raises(ValueError, match="position_ids"):
        model(ids, past_key_values=past, position_ids=[[50] * 8])
    model(ids[:2], past_key_values=past)
    past.crop(0)
    other = decoder(num_attention_heads=2, dtype="float32")
    other(ids[:, :4], past_key_values=past)
    ours = other(ids[:, 4:], past_key_values=past).logits
    np.testing.assert_allclose(ours, other(ids).logits[:, 4:], atol=1e-4)  # float32, through all layers


# --- bad input ---


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda past: past.crop(5), "holds 4 tokens of a sentence; it cannot be cropped to 5"),
        (lambda past: past.crop(-5), "cannot be cropped to -5"),
        (lambda past: past.crop(2.0), "cannot be cropped to 2.0"),
        (lambda past: past.select([0, 2]), r"holds the sentences 0 to 1; \[0, 2\] asks for others"),
        (lambda past: past.select([-1]), "asks for others"),
        (lambda past: past.select([0.0]), "asks for others"),
        (lambda past: past.select([True, False]), "asks for others"),
        (lambda past: past.select(1), "1 asks for others"),
        (lambda past: past.select([[0, 1]]), "asks for others"),
        (lambda past: past.reorder([0]), r"holds 2 sentences; \[0\] is no order of them"),
        (lambda past: past.reorder(0), "0 is no order of them"),
        (lambda past: past.reorder([0, 3]), "asks for others"),
    ],
)
def test_wrong_changes(change: Callable[[KeyValueCache], None], message: str) -> None:
    model, ids = decoder(), random_ids([6, 6])
    past = filled(model, ids[:, :4])
    with pytest.raises(ValueError, match=message):
        change(past)
    ours = model(ids[:, 4:], past_key_values=past).logits
    np.testing.assert_allclose(ours, model(ids).logits[:, 4:], atol=1e-10)  # float64, sums in another order


@pytest.mark.parametrize("capacity", [-1, 2.0, True, "5", None])
def test_wrong_capacities(capacity: Any) -> None:
    with pytest.raises(ValueError, match=f"capacity must be a number of tokens, not {capacity!r}"):
        KeyValueCache(capacity)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_attention_heads": 2}, "filled by another model: .*heads=3, width=8.*heads=2, width=12"),
        ({"num_hidden_layers": 3}, "layers=2.*layers=3"),
        ({"dtype": "float32"}, "float64.*float32"),
    ],
)
@pytest.mark.parametrize("class_name", [CAUSAL, MODEL])
def test_a_cache_of_another_model(class_name: str, changes: dict[str, Any], message: str) -> None:
    past = filled(decoder(), random_ids([4]))
    with pytest.raises(ValueError, match=message):
        decoder(class_name, **changes)(random_ids([4]), past_key_values=past)


def test_tokens_in_the_cache_count_for_the_limit() -> None:
    past = filled(decoder(), random_ids([4, 3], side="left"))
    new = random_ids([29, 29])
    with pytest.raises(ValueError, match="Sequence 0 has 33 tokens, and this model takes at most 32"):
        decoder()(new, past_key_values=past)
    assert decoder()(new[:, 1:], past_key_values=past).logits.shape == (2, 28, VOCABULARY)


def test_stale_caches() -> None:
    model, ids = decoder(), random_ids([6, 6], side="left")
    past = filled(model, ids[:, :4])
    with pytest.raises(ValueError, match=r"holds 2 sentences, and 3 came; select\(\) chooses some"):
        model(ids[[0, 1, 1], 4:], past_key_values=past)
    mask = np.ones((2, 6), int)
    mask[1, 2] = 0
    with pytest.raises(ValueError, match=r"attention_mask\[1, 2\] is 0.0, but that token was real when it came"):
        model(ids[:, 4:], mask.astype(np.float64), past_key_values=past)
    for shape in ((2, 2), (2, 7), (1, 6), (2, 6, 6)):
        with pytest.raises(ValueError, match=r"with 4 cached tokens a sentence and 2 new ones it must be \(2, 6\)"):
            model(ids[:, 4:], np.ones(shape), past_key_values=past)
    for wrong in (np.full((2, 6), np.nan), [["a"] * 6] * 2):
        with pytest.raises(ValueError, match="attention_mask must hold booleans or numbers"):
            model(ids[:, 4:], wrong, past_key_values=past)
    padded = filled(model, random_ids([2, 4], side="left"))
    with pytest.raises(ValueError, match=r"attention_mask\[0, 0\] is 1, but that token was hidden"):
        model(ids[:, 4:], np.ones((2, 6), int), past_key_values=padded)


@pytest.mark.parametrize("layout", ["sdpa", "eager"])
def test_other_states_than_those_in_the_cache(layout: str) -> None:
    """The reference does not look at them."""
    model, ids, source = decoder(has_source=True), random_ids([6, 6]), random_source(2, seed=3)
    past = filled(model, ids[:, :4], **source)
    expected = model(ids, use_cache=False, **source).logits[:, 4:]
    other_states, other_mask = dict(source), dict(source)
    other_states["encoder_hidden_states"] = source["encoder_hidden_states"].copy()
    row, place = np.argwhere(source["encoder_attention_mask"])[-1]
    other_states["encoder_hidden_states"][row, place, 0] += 1
    other_mask["encoder_attention_mask"] = source["encoder_attention_mask"].copy()
    other_mask["encoder_attention_mask"][row, place] = False
    shorter = {name: each[:, :-1] for name, each in source.items()}
    swapped = {name: each[::-1] for name, each in source.items()}
    model.set_attn_implementation(layout)
    try:
        for wrong in (other_states, other_mask, shorter, swapped):
            with pytest.raises(ValueError, match="not those whose keys and values the cache has"):
                model(ids[:, 4:], past_key_values=past, **wrong)
        with pytest.raises(ValueError, match="encoder_attention_mask is given without"):
            model(ids[:, 4:], past_key_values=past, encoder_attention_mask=source["encoder_attention_mask"])
        ours = model(ids[:, 4:], past_key_values=past, **source).logits
    finally:
        model.set_attn_implementation("sdpa")
    np.testing.assert_allclose(ours, expected, atol=1e-10)  # float64, sums in another order
    past.select([1, 1, 0])
    chosen = {name: each[[1, 1, 0]] for name, each in source.items()}
    with pytest.raises(ValueError, match="not those whose keys and values"):
        model(ids[[1, 1, 0], 4:], past_key_values=past, **{name: each[[1, 0, 1]] for name, each in source.items()})
    assert result(model(ids[[1, 1, 0], 4:], past_key_values=past, **chosen)).shape == (3, 2, VOCABULARY)


def test_a_cache_of_a_model_with_a_source_is_none_for_one_without() -> None:
    past = filled(decoder(has_source=True), random_ids([4]), **random_source(1))
    with pytest.raises(ValueError, match=r"filled by another model: .*sees_source=True.*sees_source=False"):
        decoder()(random_ids([4]), past_key_values=past)
    past = filled(decoder(), random_ids([4]))
    with pytest.raises(ValueError, match=r"sees_source=False.*sees_source=True"):
        decoder(has_source=True)(random_ids([4]), past_key_values=past, **random_source(1))


@pytest.mark.parametrize("class_name", [CAUSAL, MODEL])
@pytest.mark.parametrize("past", [(), ((np.ones(3), np.ones(3)),), "cache", 5], ids=repr)
def test_what_is_no_cache(class_name: str, past: Any) -> None:
    with pytest.raises(TypeError, match="past_key_values must be a KeyValueCache, as a forward pass returns it, not "):
        decoder(class_name)(random_ids([4]), past_key_values=past)


@pytest.mark.parametrize("class_name", [CAUSAL, MODEL])
def test_contradictory_arguments(class_name: str) -> None:
    model = decoder(class_name)
    past = filled(model, random_ids([4]))
    with pytest.raises(ValueError, match="past_key_values are given with use_cache=False"):
        model(random_ids([4]), past_key_values=past, use_cache=False)
    with pytest.raises(ValueError, match="For masks that say who sees whom, pass use_cache=False"):
        model(random_ids([4]), np.tri(4)[None], use_cache=True)
    for wrong in ([0, 1], [4, 5, 6], 4, [[4, 5]], ["a", "b"]):
        with pytest.raises(ValueError, match="with 4 tokens in the cache it can only be 4 to 5"):
            model(random_ids([2]), past_key_values=past, cache_position=wrong)
    with pytest.raises(ValueError, match="it can only be 0 to 1"):
        model(random_ids([2]), cache_position=[1, 2], use_cache=False)
    assert past.get_seq_length() == 4


def test_an_encoder_has_no_cache() -> None:
    from xlmr_np import XLMRobertaConfig, XLMRobertaModel

    encoder = XLMRobertaModel(XLMRobertaConfig(**TINY), dtype="float64")
    with pytest.raises(ValueError, match=r"only decoders \(is_decoder=True\) keep earlier tokens"):
        encoder(random_ids([4]), past_key_values=KeyValueCache())
    assert "past_key_values" not in encoder(random_ids([4]), use_cache=True)


def test_a_training_step_takes_no_cache() -> None:
    model, ids = decoder(), random_ids([4])
    past = filled(model, ids)
    for step in (model.loss, model.loss_and_gradients):
        with pytest.raises(ValueError, match="it takes no past_key_values"):
            step(input_ids=ids, labels=ids, past_key_values=past)
    assert float(model.loss(input_ids=ids, labels=ids, use_cache=True)) == float(model.loss(input_ids=ids, labels=ids))
