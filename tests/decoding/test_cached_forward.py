"""Step by step on a cache, a decoder says what it says of all tokens at once."""

from collections import Counter
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cuda_emulator import EmulatedGpu, why_not
from tests.decoding.decoders import CAUSAL, MODEL, VOCABULARY, WIDTH, decoder, in_steps, random_source, result
from tests.decoding.quick import quick_steps
from tests.models.test_gpu_engine import LENGTHS, SHAPE, TOLERANCE, model_of
from tests.reference_models import random_ids
from xlmr_np.decoding.cache import KeyValueCache, LayerStep
from xlmr_np.ops import Op

LAYOUTS = ["sdpa", "eager"]


@st.composite
def masks(draw: Callable[..., Any]) -> np.ndarray:
    """[B, T] with padding on the left, on the right, on both sides or anywhere; a row may have no real token."""
    batch, length = draw(st.integers(1, 4)), draw(st.integers(1, 12))
    kind = draw(st.sampled_from(["none", "left", "right", "both", "holes"]))
    random = np.random.default_rng(draw(st.integers(0, 999)))
    if kind == "holes":
        return random.random((batch, length)) < 0.6
    number = np.sort(random.integers(0, length + 1, (batch, 2)), axis=1)
    first = number[:, :1] if kind in ("left", "both") else np.zeros((batch, 1))
    stop = number[:, 1:] if kind in ("right", "both") else np.full((batch, 1), length)
    places = np.arange(length)
    return (places >= first) & (places < stop)


@st.composite
def masks_and_cuts(draw: Callable[..., Any]) -> tuple[np.ndarray, list[int]]:
    mask = draw(masks())
    edges = draw(st.sets(st.integers(1, mask.shape[1] - 1), max_size=4)) if mask.shape[1] > 1 else set()
    return mask, np.diff([0, *sorted(edges), mask.shape[1]]).tolist()


def check_steps(
    mask_and_cuts: tuple[np.ndarray, list[int]],
    class_name: str,
    implementation: str,
    form: str,
    has_source: bool,
    num_threads: int,
    output_attentions: bool,
    seed: int,
) -> None:
    is_real, lengths = mask_and_cuts
    random = np.random.default_rng(seed)
    model = decoder(class_name, has_source, num_threads)
    tokens = {
        "ids": np.where(is_real, random.integers(4, VOCABULARY, is_real.shape), 1),
        "masked ids": random.integers(4, VOCABULARY, is_real.shape),
        "embeddings": random.normal(size=(*is_real.shape, WIDTH)),
    }[form]
    source = random_source(len(is_real), seed) if has_source else {}
    requests = {"output_hidden_states": True, "output_attentions": output_attentions, **source}
    model.set_attn_implementation(implementation)
    try:
        name = "inputs_embeds" if form == "embeddings" else "input_ids"
        full = model(**{name: tokens}, attention_mask=is_real, use_cache=False, **requests)
        steps = list(in_steps(model, tokens, is_real, lengths, **requests))
    finally:
        model.set_attn_implementation("sdpa")
    assert "past_key_values" not in full
    together = np.concatenate([result(step) for step in steps], axis=1)
    np.testing.assert_allclose(together, result(full), atol=1e-10)  # float64, sums in another order
    assert not together[~is_real].any()
    for layer, expected in enumerate(full.hidden_states):
        ours = np.concatenate([step.hidden_states[layer] for step in steps], axis=1)
        np.testing.assert_allclose(ours, expected, atol=1e-10)  # float64, sums in another order
    if not output_attentions:
        return
    stops = np.cumsum(lengths)
    for length, stop, step in zip(lengths, stops, steps, strict=True):
        for ours, expected in zip(step.attentions, full.attentions, strict=True):
            np.testing.assert_allclose(ours, expected[:, :, stop - length : stop, :stop], atol=1e-10)  # float64
        for ours, expected in zip(step.cross_attentions or (), full.cross_attentions or (), strict=True):
            np.testing.assert_allclose(ours, expected[:, :, stop - length : stop], atol=1e-10)  # the order of sums


every_pass = given(
    mask_and_cuts=masks_and_cuts(),
    class_name=st.sampled_from([CAUSAL, MODEL]),
    implementation=st.sampled_from(LAYOUTS),
    form=st.sampled_from(["ids", "masked ids", "embeddings"]),
    has_source=st.booleans(),
    num_threads=st.sampled_from([1, 2]),
    output_attentions=st.booleans(),
    seed=st.integers(0, 999),
)


@settings(max_examples=10)
@every_pass
def test_shapes_of_steps(**case: Any) -> None:
    """The same as the next test, with the checks of shapes that it leaves out."""
    check_steps(**case)


@settings(max_examples=150)
@every_pass
def test_steps_say_what_one_pass_says(**case: Any) -> None:
    with quick_steps():
        check_steps(**case)


@pytest.mark.exhaustive
@settings(max_examples=4000, derandomize=False)
@every_pass
def test_steps_say_what_one_pass_says_in_full(**case: Any) -> None:
    with quick_steps():
        check_steps(**case)


@settings(max_examples=60)
@given(
    mask_and_cuts=masks_and_cuts(),
    implementation=st.sampled_from(LAYOUTS),
    has_source=st.booleans(),
    seed=st.integers(0, 99),
)
def test_logits_to_keep_of_a_step(
    mask_and_cuts: tuple[np.ndarray, list[int]], implementation: str, has_source: bool, seed: int
) -> None:
    """Those are places of the step's own tokens."""
    with quick_steps():
        check_kept(mask_and_cuts, implementation, has_source, seed)


def check_kept(mask_and_cuts: tuple[np.ndarray, list[int]], implementation: str, has_source: bool, seed: int) -> None:
    is_real, lengths = mask_and_cuts
    random = np.random.default_rng(seed)
    model = decoder(has_source=has_source)
    ids = np.where(is_real, random.integers(4, VOCABULARY, is_real.shape), 1)
    source = random_source(len(ids), seed) if has_source else {}
    full = model(ids, is_real, use_cache=False, **source).logits
    past, seen = None, 0
    model.set_attn_implementation(implementation)
    try:
        for length in lengths:
            stop = seen + length
            chosen = random.random((len(ids), length)) < 0.5
            kept, expected = [
                (1, full[:, stop - 1 : stop]),
                (length, full[:, seen:stop]),
                ([length - 1, 0], full[:, [stop - 1, seen]]),
                (chosen, full[:, seen:stop][chosen]),
            ][int(random.integers(4))]
            tokens = {"attention_mask": is_real[:, :stop], "past_key_values": past, "use_cache": True}
            output = model(ids[:, seen:stop], **tokens, logits_to_keep=kept, **source)
            np.testing.assert_allclose(output.logits, expected, atol=1e-10)  # float64, sums in another order
            past, seen = output.past_key_values, stop
    finally:
        model.set_attn_implementation("sdpa")


@pytest.mark.parametrize("class_name", [CAUSAL, MODEL])
def test_shards_share_a_cache(class_name: str) -> None:
    """Batches that are long enough are cut into shards for the threads, the prompts as well as single tokens."""
    model, alone = decoder(class_name, num_threads=2), decoder(class_name)
    is_real = np.random.default_rng(0).random((420, 4)) < 0.8
    is_real[:, -1] |= ~is_real.any(axis=1)
    is_real[:, 3:] |= np.arange(420)[:, None] < 400
    ids = np.where(is_real, np.random.default_rng(1).integers(4, VOCABULARY, is_real.shape), 1)
    full = result(alone(ids, is_real, use_cache=False))
    with mock.patch.object(LayerStep, "part", autospec=True, side_effect=LayerStep.part) as part:
        steps = [result(step) for step in in_steps(model, ids, is_real, [3, 1])]
        assert part.call_count >= 2 * 2 * 2  # steps, shards and layers
        last = (
            result(list(in_steps(model, ids, is_real, [3, 1], logits_to_keep=1))[1]) if class_name == CAUSAL else None
        )
    np.testing.assert_allclose(np.concatenate(steps, axis=1), full, atol=1e-10)  # float64, sums in another order
    if last is not None:
        np.testing.assert_allclose(last, full[:, -1:], atol=1e-10)  # float64, sums in another order


@pytest.mark.parametrize("implementation", LAYOUTS)
@pytest.mark.parametrize("form", ["ids", "embeddings"])
def test_a_position_is_the_number_of_real_tokens_before(implementation: str, form: str) -> None:
    """Plus pad_token_id + 1: whatever the padding, with and without a cache, of ids and of embeddings."""
    model, random = decoder(), np.random.default_rng(0)
    is_real = np.array([[0, 0, 1, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 1, 1]], bool)
    positions = np.where(is_real, is_real.cumsum(axis=1) - 1 + model.config.pad_token_id + 1, 1)
    tokens = np.where(is_real, random.integers(4, VOCABULARY, is_real.shape), 1)
    name = "input_ids" if form == "ids" else "inputs_embeds"
    tokens = tokens if form == "ids" else random.normal(size=(*is_real.shape, WIDTH))
    expected = model(**{name: tokens}, attention_mask=is_real, position_ids=positions, use_cache=False).logits
    model.set_attn_implementation(implementation)
    steps = [step.logits for step in in_steps(model, tokens, is_real, [1, 2, 1, 3])]
    model.set_attn_implementation("sdpa")
    np.testing.assert_allclose(np.concatenate(steps, axis=1), expected, atol=1e-10)  # float64, sums in another order
    assert (
        np.abs(model(**{name: tokens}, attention_mask=is_real, position_ids=positions - 1).logits - expected).max() > 1
    )


def test_given_positions_replace_those_counted() -> None:
    model, ids = decoder(), random_ids([6, 6])
    positions = np.array([[9, 4, 4, 20, 3, 7]])
    expected = model(ids, position_ids=positions).logits
    first = model(ids[:, :4], position_ids=positions[:, :4])
    second = model(ids[:, 4:], position_ids=positions[:, 4:], past_key_values=first.past_key_values)
    np.testing.assert_allclose(np.concatenate([first.logits, second.logits], axis=1), expected, atol=1e-10)  # float64


def test_without_a_mask_padding_is_found_by_its_id() -> None:
    model, ids = decoder(), random_ids([3, 7, 5], side="left")
    expected = model(ids, ids != 1).logits
    first = model(ids[:, :4])
    second = model(ids[:, 4:], past_key_values=first.past_key_values)
    assert second.past_key_values is first.past_key_values
    np.testing.assert_allclose(np.concatenate([first.logits, second.logits], axis=1), expected, atol=1e-10)  # float64


@pytest.mark.parametrize("implementation", LAYOUTS)
def test_tokens_to_come_do_not_change_earlier_ones(implementation: str) -> None:
    model, ids = decoder(), random_ids([9])
    others = np.concatenate([ids[:, :5], 4 + (ids[:, 5:] - 3) % 57], axis=1)
    model.set_attn_implementation(implementation)
    (ours, theirs) = (model(each, use_cache=False).logits for each in (ids, others))
    for each in (ids, others):  # all in one step behind one earlier token
        *_, step = in_steps(model, each, np.ones((1, 9), bool), [1, 8])
        np.testing.assert_allclose(step.logits[:, :4], ours[:, 1:5], atol=1e-10)  # float64, sums in another order
    model.set_attn_implementation("sdpa")
    np.testing.assert_array_equal(ours[:, :5], theirs[:, :5])
    assert (np.abs(ours - theirs)[:, 5:].max(axis=-1) > 1e-3).all()


def test_a_source_is_given_once_or_again() -> None:
    model, source, ids = decoder(has_source=True), random_source(3), random_ids([6, 6, 6])
    expected = model(ids, use_cache=False, **source).logits[:, 4:]
    for layout in LAYOUTS:
        model.set_attn_implementation(layout)
        past = model(ids[:, :4], **source).past_key_values
        once = model(ids[:, 4:5], past_key_values=past).logits
        again = model(ids[:, 5:], past_key_values=past, **source).logits
        model.set_attn_implementation("sdpa")
        np.testing.assert_allclose(np.concatenate([once, again], axis=1), expected, atol=1e-10)  # the order of sums


@pytest.mark.parametrize("layouts", [("sdpa", "eager"), ("eager", "sdpa")])
def test_layouts_share_a_cache(layouts: tuple[str, str]) -> None:
    model, source, ids = decoder(has_source=True), random_source(2), random_ids([6, 4], side="left")
    expected = model(ids, use_cache=False, **source).logits
    past, steps = None, []
    for layout, part in zip(layouts, (slice(0, 3), slice(3, 6)), strict=True):
        model.set_attn_implementation(layout)
        output = model(ids[:, part], past_key_values=past, **(source if past is None else {}))
        past = output.past_key_values
        steps.append(output.logits)
    model.set_attn_implementation("sdpa")
    np.testing.assert_allclose(np.concatenate(steps, axis=1), expected, atol=1e-10)  # float64, sums in another order


@pytest.mark.parametrize("class_name", [CAUSAL, MODEL])
def test_when_a_cache_comes_back(class_name: str) -> None:
    """As the call says, or the config; with labels, or a mask that says who sees whom, only if it is asked for."""
    model, ids = decoder(class_name), random_ids([5])
    assert isinstance(model(ids).past_key_values, KeyValueCache)
    assert sum(isinstance(each, KeyValueCache) for each in model(ids, return_dict=False)) == 1
    assert "past_key_values" not in model(ids, use_cache=False)
    assert "past_key_values" not in model(ids, np.tri(5)[None])
    if class_name == CAUSAL:
        assert "past_key_values" not in model(ids, labels=ids)
        assert "past_key_values" in model(ids, labels=ids, use_cache=True)
    model.config.use_cache = False
    assert "past_key_values" not in model(ids)
    assert "past_key_values" in model(ids, use_cache=True)
    past = model(ids, use_cache=True).past_key_values
    assert model(ids, past_key_values=past).past_key_values is past
    model.config.use_cache = True


def test_cache_position_may_be_said() -> None:
    model, ids = decoder(), random_ids([6])
    expected = model(ids).logits
    past = model(ids[:, :4], cache_position=np.arange(4)).past_key_values
    ours = model(ids[:, 4:], past_key_values=past, cache_position=[4, 5]).logits
    np.testing.assert_allclose(ours, expected[:, 4:], atol=1e-10)  # float64, sums in another order


def test_float32_and_half_precision_weights() -> None:
    """Halves are computed in float32 on a CPU, and so are kept keys and values."""
    ids = random_ids([9, 5], side="left")
    for dtype in ("float16", "float32"):
        model = decoder(dtype=dtype)
        expected = model(ids, use_cache=False).logits
        outputs = list(in_steps(model, ids, ids != 1, [4, 1, 4]))
        assert outputs[0].logits.dtype == np.float32
        assert outputs[0].past_key_values.nbytes == 2 * 2 * 2 * 64 * WIDTH * 4  # layers, sentences, keys and values
        together = np.concatenate([output.logits for output in outputs], axis=1)
        np.testing.assert_allclose(together, expected, atol=2e-5 * np.abs(expected).max())  # float32


# On a GPU


@pytest.mark.skipif(why_not() is not None, reason=f"kernels cannot be executed here: {why_not()}")
@pytest.mark.parametrize("has_source", [False, True], ids=["alone", "with a source"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_kernels_on_a_cache(dtype: str, has_source: bool) -> None:
    changes: dict[str, Any] = {"is_decoder": True, "add_cross_attention": has_source}
    ours, exact = (model_of(CAUSAL, dtype, on_gpu, **changes) for on_gpu in (True, False))
    assert isinstance(ours.engine.gpu, EmulatedGpu)
    ids = random_ids([length or 1 for length in LENGTHS], SHAPE["vocab_size"], side="left")
    source, rounded = {}, {}
    if has_source:
        states = np.random.default_rng(0).normal(size=(len(ids), 7, SHAPE["hidden_size"])).astype(ours.dtype)
        mask = np.arange(7) < np.array([7, 5, 0, 3, 1, 2])[:, None]
        rounded = {"encoder_hidden_states": states, "encoder_attention_mask": mask}
        source = {**rounded, "encoder_hidden_states": states.astype(np.float64)}
    expected = exact(ids, use_cache=False, **source).logits
    outputs = list(in_steps(ours, ids, ids != 1, [12, 1, 6, 1], **rounded))
    together = np.concatenate([output.logits for output in outputs], axis=1).astype(np.float64)
    assert np.abs(together - expected).max() <= TOLERANCE[dtype] * np.abs(expected).max()
    past = outputs[-1].past_key_values
    past.crop(19)
    past.select([5, 0, 0])
    chosen = ours(ids[[5, 0, 0], 19:], ids[[5, 0, 0]] != 1, past_key_values=past).logits.astype(np.float64)
    assert np.abs(chosen - expected[[5, 0, 0], 19:]).max() <= TOLERANCE[dtype] * np.abs(expected).max()


# What a step costs


@pytest.mark.parametrize("has_source", [False, True], ids=["alone", "with a source"])
def test_a_step_computes_its_new_tokens_and_nothing_else(has_source: bool) -> None:
    """Whatever came before: the rows that each operation gets are those of the step's real tokens."""
    model, source = decoder(MODEL, has_source), random_source(3) if has_source else {}
    states = int(source["encoder_attention_mask"].sum()) if has_source else 0
    rows: Counter[str] = Counter()

    def counting(name: str, op: Op) -> Op:
        def forward(x: Any, *arguments: Any) -> Any:
            rows[name] += len(x)
            return op.forward(x, *arguments)

        return Op(forward)

    engine = model.engine
    ops = engine.inference
    names = ("embed", "linears", "attention", "add_norm", "feed_forward")
    model.engine = engine._replace(
        inference=ops._replace(**{name: counting(name, getattr(ops, name)) for name in names})
    )
    ids = random_ids([30, 30, 30])
    lengths, layers = [3] + [1] * 20 + [7], model.config.num_hidden_layers
    expected = {"embed": 1, "linears": layers, "attention": layers, "add_norm": layers, "feed_forward": layers}
    if has_source:
        expected |= dict.fromkeys(("linears", "attention", "add_norm"), 2 * layers)
    try:
        past = KeyValueCache()
        for length in lengths:
            rows.clear()
            seen = past.get_seq_length()
            model(ids[:, seen : seen + length], past_key_values=past, **({} if seen else source))
            rows["linears"] -= 0 if seen else states * layers  # keys and values of the source, once
            assert rows == {name: 3 * length * number for name, number in expected.items()}
    finally:
        model.engine = engine
