"""What packing, shards and threads must not change: a sentence's output, whatever stands beside it and works on it."""

import sys
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import xlmr_np
from tests.ops.test_threads import at_once, blas_threads
from tests.reference_models import TINY
from xlmr_np import XLMRobertaConfig, XLMRobertaForMaskedLM, XLMRobertaModel, trees
from xlmr_np.models import encoding
from xlmr_np.row_sparse import RowSparse

TOLERANCE = 2e-6  # float32's own rounding, on outputs of order one; larger ones count by size
LONGEST = 510
MODEL, SEQUENCE, MASKED = "XLMRobertaModel", "XLMRobertaForSequenceClassification", "XLMRobertaForMaskedLM"
CAUSAL, CHOICE = "XLMRobertaForCausalLM", "XLMRobertaForMultipleChoice"
CLASSES = (MODEL, SEQUENCE, MASKED, CAUSAL)
EVERY_CLASS = pytest.mark.parametrize("class_name", CLASSES)
HALF_TYPES = pytest.mark.parametrize("stored", ["float16", "bfloat16"])


def random_model(class_name: str, num_threads: int | None = None, **settings: Any) -> Any:
    """All of its parameters random, biases and norms too."""
    config = XLMRobertaConfig(
        **{**TINY, "max_position_embeddings": LONGEST + 2, "initializer_range": 0.2, "num_labels": 4}
    )
    model = getattr(xlmr_np, class_name)(
        config, generator=np.random.default_rng(0), num_threads=num_threads, **settings
    )
    random = np.random.default_rng(1)
    model.params = trees.map_leaves(
        lambda leaf: (leaf + 0.1 * random.normal(size=leaf.shape)).astype(leaf.dtype), model.params
    )
    return model


shared_model = cache(random_model)


def random_sentences(lengths: list[int], seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.integers(4, TINY["vocab_size"], length) for length in lengths]


class Laid(NamedTuple):
    """Sentences in a rectangle: row `rows[i]` holds sentence i, from column `starts[i]` on."""

    ids: np.ndarray
    rows: list[int]
    starts: list[int]

    def place(self, i: int, length: int) -> tuple[int, slice]:
        return self.rows[i], slice(self.starts[i], self.starts[i] + length)

    def values(self, sentences: list[np.ndarray], filling: int) -> np.ndarray:
        """An array like the ids, with these values at the sentences' places."""
        array = np.full(self.ids.shape, filling)
        for i, each in enumerate(sentences):
            array[self.place(i, len(each))] = each
        return array


def lay(sentences: list[np.ndarray], extra: int, side: str, random: np.random.Generator) -> Laid:
    """In any order, with padding on one side, or anywhere around them."""
    width = max(map(len, sentences)) + extra
    starts = {
        "right": [0] * len(sentences),
        "left": [width - len(each) for each in sentences],
        "around": [int(random.integers(width - len(each) + 1)) for each in sentences],
    }[side]
    laid = Laid(np.ones((len(sentences), width), np.int64), random.permutation(len(sentences)).tolist(), starts)
    return laid._replace(ids=laid.values(sentences, 1))


def outputs_of(model: Any, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Whatever the model puts out, by name; all hidden states under names of their own."""
    output = model(ids, output_hidden_states=True)
    arrays = {f"hidden state {step}": each for step, each in enumerate(output.hidden_states)}
    names = ("last_hidden_state", "pooler_output") if isinstance(model, XLMRobertaModel) else ("logits",)
    return arrays | {name: output[name] for name in names}


def largest(x: np.ndarray) -> float:
    """The largest magnitude, 0 of nothing."""
    return float(np.abs(x).max(initial=0))


def assert_close(ours: np.ndarray, expected: np.ndarray, tolerance: float = TOLERANCE) -> None:
    assert ours.dtype == np.float32
    assert ours.shape == expected.shape
    error, size = largest(ours - expected), max(1.0, largest(expected))
    assert error <= tolerance * size


def assert_as_alone(model: Any, sentences: list[np.ndarray], laid: Laid, alone: list[dict[str, np.ndarray]]) -> None:
    """Every sentence has the outputs that it has alone, and padding has zeros."""
    together = outputs_of(model, laid.ids)
    is_padding = laid.ids == 1
    for name, array in together.items():
        has_tokens = array.shape[:2] == laid.ids.shape and array.ndim == 3
        assert not (has_tokens and array[is_padding].any())
        for i, sentence in enumerate(sentences):
            row, columns = laid.place(i, len(sentence))
            expected = alone[i][name][0]
            if has_tokens:
                assert_close(array[row, columns], expected[: len(sentence)])
            else:
                assert_close(array[row], expected)


@pytest.mark.parametrize("examples", [8, pytest.param(500, marks=pytest.mark.exhaustive)])
@EVERY_CLASS
def test_a_sentence_does_not_depend_on_its_company(class_name: str, examples: int) -> None:
    """Neither neighbours, nor their order, nor the side and amount of padding change its output."""

    @settings(max_examples=examples)
    @given(
        lengths=st.lists(st.integers(1, 70), min_size=1, max_size=5),
        extra=st.integers(0, 20),
        side=st.sampled_from(["right", "left", "around"]),
        num_threads=st.sampled_from([None, 1, 2, 3]),
        seed=st.integers(0, 1000),
    )
    def compare(lengths: list[int], extra: int, side: str, num_threads: int | None, seed: int) -> None:
        model, sentences = shared_model(class_name, num_threads), random_sentences(lengths, seed)
        laid = lay(sentences, extra, side, np.random.default_rng(seed))
        assert_as_alone(model, sentences, laid, [outputs_of(model, each[None]) for each in sentences])

    compare()


@settings(max_examples=12)
@given(
    lengths=st.lists(st.integers(0, 300), min_size=1, max_size=5),
    class_name=st.sampled_from([SEQUENCE, CHOICE]),
    num_threads=st.sampled_from([None, 1, 2, 3]),
    seed=st.integers(0, 1000),
)
@example(lengths=[0], class_name=SEQUENCE, num_threads=2, seed=0)
@example(lengths=[300, 0, 200, 290], class_name=SEQUENCE, num_threads=2, seed=0)  # in shards
def test_first_tokens_have_the_states_that_they_have_among_all(
    lengths: list[int], class_name: str, num_threads: int | None, seed: int
) -> None:
    """Whoever asks for hidden states gets those of all tokens, and the same logits."""
    model, sentences = shared_model(class_name, num_threads), random_sentences(lengths, seed)
    laid = lay(sentences, 1, "right", np.random.default_rng(seed))
    ids = laid.ids[None] if class_name == CHOICE else laid.ids
    logits, expected = model(ids).logits, model(ids, output_hidden_states=[-1]).logits
    is_possible = np.isfinite(expected)  # a choice without tokens is not
    np.testing.assert_array_equal(np.isfinite(logits), is_possible)
    assert_close(logits[is_possible], expected[is_possible])
    (every, *_), (first, *others) = (model(ids, output_hidden_states=asked).hidden_states for asked in (True, [0]))
    assert_close(first, every)
    assert others == [None] * len(others)


@pytest.mark.parametrize("is_decoder", [False, True], ids=["", "decoder"])
def test_first_tokens_learn_the_same_in_both_layouts(is_decoder: bool) -> None:
    """A decoder's first token sees itself alone, and is no way to read a sentence, but that is what its config says."""
    model = random_model(SEQUENCE)
    model.config.is_decoder = is_decoder
    laid = lay(random_sentences([7, 0, 3, 5]), 2, "left", np.random.default_rng(0))
    labels = np.where((laid.ids != 1).any(axis=1), 2, -100)
    packed, packed_gradients = model.loss_and_gradients(input_ids=laid.ids, labels=labels)
    model.set_attn_implementation("eager")
    padded, padded_gradients = model.loss_and_gradients(input_ids=laid.ids, labels=labels)
    assert_close(packed.logits, padded.logits)
    for ours, theirs in zip(trees.leaves(packed_gradients), trees.leaves(padded_gradients), strict=True):
        assert_close(dense(ours), dense(theirs), 1e-5)  # gradients are sums over all tokens


@settings(max_examples=8)
@given(
    lengths=st.lists(st.integers(1, 50), min_size=2, max_size=6),
    extra=st.integers(0, 20),
    side=st.sampled_from(["left", "around"]),
    class_name=st.sampled_from([SEQUENCE, MASKED]),
    seed=st.integers(0, 1000),
)
def test_losses_do_not_depend_on_padding(lengths: list[int], extra: int, side: str, class_name: str, seed: int) -> None:
    """In inference and in training, where the gradients do not depend on it either."""
    model, sentences = shared_model(class_name), random_sentences(lengths, seed)
    random = np.random.default_rng(seed)
    classes = random.integers(0, 4, len(lengths))
    targets = [np.where(random.random(len(each)) < 0.6, each[::-1], -100) for each in sentences]
    results = []
    for laid in (lay(sentences, 0, "right", random), lay(sentences, extra, side, random)):
        labels = laid.values(targets, -100) if class_name == MASKED else np.argsort(laid.rows)
        if class_name == SEQUENCE:
            labels = classes[labels]
        output, gradients = model.loss_and_gradients(input_ids=laid.ids, labels=labels)
        results.append((model(laid.ids, labels=labels).loss, output.loss, gradients))
    (loss, trained, gradients), (other_loss, other_trained, other_gradients) = results
    for each in (trained, other_loss, other_trained):
        np.testing.assert_allclose(each, loss, rtol=TOLERANCE)
    pairs = [
        (dense(one), dense(other))
        for one, other in zip(trees.leaves(gradients), trees.leaves(other_gradients), strict=True)
    ]
    rounding = 1e-6 * max(largest(one) for one, _ in pairs)
    for one, other in pairs:
        error, size = largest(one - other), largest(one)
        assert error <= 1e-4 * size + rounding  # a key's bias has no gradient but rounding


def dense(gradient: Any) -> np.ndarray:
    return gradient.to_dense() if isinstance(gradient, RowSparse) else gradient


# Shards


@pytest.fixture
def numbers_of_shards(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Into how many shards the encoder cut its batches."""
    numbers: list[int] = []
    cut = encoding.cut

    def counted(*arguments: Any, **named: Any) -> Any:
        shards = cut(*arguments, **named)
        numbers.append(len(shards))
        return shards

    monkeypatch.setattr(encoding, "cut", counted)
    return numbers


def assorted_lengths(seed: int) -> list[int]:
    """Thousands of tokens in sentences that can be shared out well, two of them empty."""
    random = np.random.default_rng(seed)
    lengths = [*random.integers(100, 160, 30).tolist(), 1, 2, 0, 0]
    random.shuffle(lengths)
    return lengths


@cache
def alone(class_name: str, seed: int) -> tuple[list[np.ndarray], list[dict[str, np.ndarray]]]:
    """Assorted sentences, and the outputs of each alone."""
    sentences = random_sentences(assorted_lengths(seed), seed)
    model = shared_model(class_name, 1)
    nothing = np.ones((1, 1), np.int64)
    return sentences, [outputs_of(model, each[None] if len(each) else nothing) for each in sentences]


@pytest.mark.parametrize(
    ("class_name", "side", "num_threads"),
    [(MODEL, "right", 1), (MODEL, "around", 3), (SEQUENCE, "left", 2), (MASKED, "around", 2), (CAUSAL, "left", 2)],
)
def test_shards_equal_single_sentences(
    class_name: str, side: str, num_threads: int, numbers_of_shards: list[int]
) -> None:
    sentences, expected = alone(class_name, 1)
    assert sum(map(len, sentences)) > 3500
    laid = lay(sentences, 3, side, np.random.default_rng(0))
    assert_as_alone(shared_model(class_name, num_threads), sentences, laid, expected)
    assert numbers_of_shards[-1] > 2


@pytest.mark.parametrize(
    "lengths",
    [
        [LONGEST] * 9,
        [1] * 1200,
        [LONGEST, *[1] * 900],
        [*[1] * 900, LONGEST],
        [0, *[300] * 8, 0],
        [*[2] * 300, *[LONGEST] * 3, *[2] * 300],
    ],
    ids=["equal", "single tokens", "long one first", "long one last", "nothing at the ends", "long ones inside"],
)
@pytest.mark.parametrize("num_threads", [2, pytest.param(3, marks=pytest.mark.exhaustive)])
def test_lengths_that_are_hard_to_share_out(lengths: list[int], num_threads: int) -> None:
    """Against the batch in parts of a few sentences, which are too short for shards."""
    model, sentences = shared_model(MODEL, num_threads), random_sentences(lengths)
    laid = lay(sentences, 0, "right", np.random.default_rng(0))
    together = model(laid.ids).last_hidden_state
    single = shared_model(MODEL, 1)
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    for first in range(0, len(order), 250):
        some = [i for i in order[first : first + 250] if lengths[i]]
        if not some:
            continue
        part = lay([sentences[i] for i in some], 0, "right", np.random.default_rng(0))
        expected = single(part.ids).last_hidden_state
        for place, i in enumerate(some):
            assert_close(together[laid.place(i, lengths[i])], expected[part.place(place, lengths[i])])
    assert not together[laid.ids == 1].any()


def test_two_runs_in_shards_are_identical() -> None:
    sentences = random_sentences(assorted_lengths(1))
    ids = lay(sentences, 0, "right", np.random.default_rng(0)).ids
    for num_threads in (1, 2, 3):
        model = shared_model(MASKED, num_threads)
        first, second = (outputs_of(model, ids) for _ in range(2))
        for name, array in first.items():
            np.testing.assert_array_equal(second[name], array)


# Threads


@EVERY_CLASS
def test_the_number_of_threads_changes_nothing_but_rounding(class_name: str, tmp_path: Path) -> None:
    shared_model(class_name).save_pretrained(tmp_path)
    model_class = getattr(xlmr_np, class_name)
    sentences = random_sentences([50, 3, 17, 120])
    ids = lay(sentences, 0, "right", np.random.default_rng(0)).ids
    expected = outputs_of(shared_model(class_name, 1), ids)
    for num_threads in (None, 1, 2, 3):
        model = model_class.from_pretrained(tmp_path, num_threads=num_threads)
        for name, array in outputs_of(model, ids).items():
            assert_close(array, expected[name])


@pytest.mark.parametrize(
    ("wrong", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError), ("2", TypeError)]
)
def test_a_number_of_threads_is_a_positive_integer(wrong: Any, error: type[Exception], tmp_path: Path) -> None:
    model = shared_model(MODEL)
    model.save_pretrained(tmp_path)
    message = rf"num_threads must be .*{wrong}"
    with pytest.raises(error, match=message):
        XLMRobertaModel(model.config, num_threads=wrong)
    with pytest.raises(error, match=message):
        XLMRobertaModel.from_pretrained(tmp_path, num_threads=wrong)


def gradients_of(model: Any, ids: np.ndarray) -> list[np.ndarray]:
    """All gradients of a training step that predicts the very tokens, or a class, with something dropped."""
    labels = np.where(ids == 1, -100, ids) if isinstance(model, XLMRobertaForMaskedLM) else ids[:, 0] % 4
    output, gradients = model.loss_and_gradients(np.random.default_rng(3), input_ids=ids, labels=labels)
    return [np.asarray(output.loss), *(dense(leaf) for leaf in trees.leaves(gradients))]


@pytest.mark.parametrize("times", [2, pytest.param(100, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize(("num_threads", "callers"), [(1, 2), (2, 2), (2, 4), (3, 4)])
@pytest.mark.parametrize("class_name", [SEQUENCE, MASKED])
def test_threads_that_share_a_model_get_what_they_get_alone(
    class_name: str, num_threads: int, callers: int, times: int
) -> None:
    """Exactly; half of them infer, in shards, and half of them train."""
    model = shared_model(class_name, num_threads)
    batches = [
        lay(random_sentences([200 + 7 * each, 90, 300, 40, 220], each), 0, "right", np.random.default_rng(each)).ids
        for each in range(callers)
    ]
    tasks: list[Callable[[], list[np.ndarray]]] = [
        (lambda ids=ids: list(outputs_of(model, ids).values()))
        if caller % 2 == 0
        else (lambda ids=ids: gradients_of(model, ids[:, :40]))
        for caller, ids in enumerate(batches)
    ]
    expected, before = [task() for task in tasks], blas_threads()

    def call(caller: int) -> None:
        for _ in range(times):
            for ours, theirs in zip(tasks[caller](), expected[caller], strict=True):
                np.testing.assert_array_equal(ours, theirs)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)  # threads take turns a thousand times as often as usual
    try:
        at_once(call, callers)
    finally:
        sys.setswitchinterval(interval)
    assert blas_threads() == before


def test_models_of_different_threads_run_at_once() -> None:
    models = [shared_model(MODEL, num_threads) for num_threads in (1, 2, 3)]
    ids = lay(random_sentences([300, 120, 400, 50, 60, 200]), 0, "right", np.random.default_rng(0)).ids
    expected, before = [model(ids).last_hidden_state for model in models], blas_threads()
    results = at_once(lambda caller: [models[caller](ids).last_hidden_state for _ in range(5)], 3)
    for arrays, alone_ in zip(results, expected, strict=True):
        for array in arrays:
            np.testing.assert_array_equal(array, alone_)
    assert blas_threads() == before


def test_a_model_in_another_thread_than_the_main_one() -> None:
    model = shared_model(MASKED, 2)
    ids = lay(random_sentences([300, 120, 400, 50]), 0, "right", np.random.default_rng(0)).ids
    expected = outputs_of(model, ids)
    results: list[dict[str, np.ndarray]] = []
    other = threading.Thread(target=lambda: results.append(outputs_of(model, ids)))
    other.start()
    other.join(timeout=60)
    (ours,) = results
    for name, array in expected.items():
        np.testing.assert_array_equal(ours[name], array)


def test_an_error_in_a_shard_reaches_the_caller() -> None:
    """And leaves BLAS and the model as they were."""
    model = shared_model(MODEL, 2)
    ids = lay(random_sentences(assorted_lengths(2)), 0, "right", np.random.default_rng(0)).ids
    expected, before = model(ids).last_hidden_state, blas_threads()
    params = model.params
    layer = params.encoder.layers[1]
    broken = layer._replace(feed_forward=trees.map_leaves(lambda leaf: leaf[:5], layer.feed_forward))
    model.params = params._replace(encoder=params.encoder._replace(layers=(params.encoder.layers[0], broken)))
    try:
        with pytest.raises(Exception):  # noqa: B017, PT011  (found by NumPy or by the shape checks, each in its words)
            model(ids)
    finally:
        model.params = params
    assert blas_threads() == before
    np.testing.assert_array_equal(model(ids).last_hidden_state, expected)


# Half precision


def widened(model: Any) -> Any:
    """A model with the same weights in float32."""
    wide = random_model(type(model).__name__, model.num_threads)
    wide.params = trees.map_leaves(lambda leaf: leaf.astype(np.float32), model.params)
    return wide


@HALF_TYPES
@EVERY_CLASS
def test_half_precision_weights_compute_in_float32(class_name: str, stored: str, tmp_path: Path) -> None:
    """As those same weights do that were converted before, made or loaded; short batches and long ones."""
    made = random_model(class_name, 2, dtype=stored)
    made.save_pretrained(tmp_path)
    loaded = getattr(xlmr_np, class_name).from_pretrained(tmp_path, num_threads=2)
    wide = widened(made)
    for lengths in ([5], [40, 3, 17], [300, 450, 20, 500, 100, 200, 333, 1]):
        ids = lay(random_sentences(lengths), 0, "right", np.random.default_rng(0)).ids
        expected = outputs_of(wide, ids)
        for model in (made, loaded):
            assert model.dtype == stored
            for name, array in outputs_of(model, ids).items():
                assert_close(array, expected[name], 2e-5)


@HALF_TYPES
@pytest.mark.parametrize("class_name", [SEQUENCE, MASKED])
def test_half_precision_weights_train_in_float32(class_name: str, stored: str) -> None:
    model = random_model(class_name, 2, dtype=stored)
    ids = lay(random_sentences([30, 12, 40]), 0, "left", np.random.default_rng(0)).ids
    expected = gradients_of(widened(model), ids)
    rounding = 1e-6 * max(map(largest, expected))
    for ours, theirs in zip(gradients_of(model, ids), expected, strict=True):
        assert ours.dtype == np.float32
        error, size = largest(ours - theirs), largest(theirs)
        assert error <= 1e-4 * size + rounding  # a key's bias has no gradient but rounding


@HALF_TYPES
def test_half_precision_predictions(stored: str) -> None:
    model = random_model(MASKED, 2, dtype=stored)
    wide = widened(model)
    ids = lay(random_sentences([30, 12, 40]), 0, "left", np.random.default_rng(0)).ids
    where = (ids != 1) & (np.arange(ids.shape[1]) % 7 == 0)
    ours, expected = (each.predict(ids, where=where, k=5) for each in (model, wide))
    assert_close(ours.logits, expected.logits, 2e-5)
    assert_close(ours.log_sum_exp, expected.log_sum_exp, 2e-5)
    np.testing.assert_array_equal(ours.ids, expected.ids)
