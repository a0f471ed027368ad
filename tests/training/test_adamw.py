"""AdamW against torch's, and lazy tables against dense ones."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch

from xlmr_np.ops.threads import Threads
from xlmr_np.row_sparse import RowSparse
from xlmr_np.training.adamw import AdamW, AdamWSetting, is_decayed
from xlmr_np.training.clipping import clipping_factor, global_norm
from xlmr_np.training.lazy_table import LazyTable

SETTING = AdamWSetting(0.9, 0.98, 1e-7, 0.1)
VOCABULARY, WIDTH, STEPS = 30, 4, 25


class Params(NamedTuple):
    """A table and what comes after it."""

    table: object
    weight: np.ndarray
    bias: np.ndarray


DECAYS = Params(True, True, False)
RANDOM = np.random.default_rng(0)
START = Params(RANDOM.normal(size=(VOCABULARY, WIDTH)), RANDOM.normal(size=(7, 600)), RANDOM.normal(size=7))


def rate_of(step: int) -> float:
    return 0.05 * (1 + step % 5)


def gradients_of(step: int) -> Params:
    """Rows 20 and above are never reached, and the others now and then."""
    random = np.random.default_rng(step)
    index = np.unique(random.integers(0, min(20, 2 + step), 3))
    rows = RowSparse(index, random.normal(size=(len(index), WIDTH)), VOCABULARY)
    return Params(rows, random.normal(size=START.weight.shape), random.normal(size=START.bias.shape))


def own(dtype: str = "float64", is_lazy: bool = False) -> Params:
    table = START.table.astype(dtype)
    if is_lazy:
        table.flags.writeable = False
    return Params(LazyTable(table) if is_lazy else table, START.weight.astype(dtype), START.bias.astype(dtype))


def test_updates_are_those_of_torch() -> None:
    tensors = [torch.tensor(each, requires_grad=True) for each in START]
    groups = [
        {"params": tensors[:2], "weight_decay": SETTING.weight_decay},
        {"params": tensors[2:], "weight_decay": 0.0},
    ]
    theirs = torch.optim.AdamW(groups, betas=SETTING[:2], eps=SETTING.eps)
    params = own()
    ours = AdamW(params, DECAYS, SETTING, Threads(2))
    for step in range(STEPS):
        gradients = gradients_of(step)
        for tensor, gradient in zip(tensors, gradients, strict=True):
            dense = gradient.to_dense() if isinstance(gradient, RowSparse) else gradient
            tensor.grad = torch.tensor(dense)
        for group in theirs.param_groups:
            group["lr"] = rate_of(step)
        norm = float(torch.nn.utils.clip_grad_norm_(tensors, 30.0))
        theirs.step()
        assert global_norm(gradients) == pytest.approx(norm, rel=1e-12)  # sums in another order
        ours.update(gradients, rate_of(step), clipping_factor(norm, 30.0))
        for our, their in zip(params, tensors, strict=True):
            np.testing.assert_allclose(our, their.detach().numpy(), rtol=1e-12, atol=1e-13)  # float64, 25 steps


@pytest.mark.parametrize("norm", [0.0, 0.5, 1.0, 3.0])
def test_clipping_leaves_small_gradients_alone(norm: float) -> None:
    assert clipping_factor(norm, 1.0) == pytest.approx(min(1.0, 1 / (norm + 1e-6)), rel=1e-15)  # one rounding


@pytest.mark.parametrize("largest_norm", [30.0, 1e4])
def test_a_clipped_update_clips_what_the_loss_was_scaled_by(largest_norm: float) -> None:
    """As norm, factor and update one after the other; a power of two changes no bit."""
    ours, theirs = own(), own()
    one, other = (AdamW(each, DECAYS, SETTING, Threads(1)) for each in (ours, theirs))
    for step in range(3):
        gradients = gradients_of(step)
        rows = RowSparse(gradients.table.index, 1024 * gradients.table.rows, VOCABULARY)
        scaled = Params(rows, 1024 * gradients.weight, 1024 * gradients.bias)
        norm = one.clipped_update(scaled, rate_of(step), largest_norm, 1024.0, [np.float32(2.5)])
        assert norm == one.norm(gradients) == global_norm(gradients)
        assert (norm > largest_norm) == (largest_norm == 30.0)
        other.update(gradients, rate_of(step), clipping_factor(norm, largest_norm))
        for our, their in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(our, their)


@pytest.mark.parametrize("is_lazy", [False, True])
@pytest.mark.parametrize("bad", [np.inf, np.nan])
@pytest.mark.parametrize("where", ["table", "bias", "a loss"])
def test_what_is_not_finite_changes_nothing(where: str, bad: float, is_lazy: bool) -> None:
    params = own(is_lazy=is_lazy)
    optimizer = AdamW(params, DECAYS, SETTING, Threads(1))
    optimizer.clipped_update(gradients_of(0), 0.1, 1.0)
    before = [np.array(each) for each in (*params, *optimizer.state().values())]
    gradients, losses = gradients_of(5), [np.array(bad if where == "a loss" else 1.0)]
    if where != "a loss":
        (gradients.bias if where == "bias" else gradients.table.rows)[-1] = bad
    assert not np.isfinite(optimizer.norm(gradients, losses))
    assert not np.isfinite(optimizer.clipped_update(gradients, 0.1, 1.0, 1.0, losses))
    assert optimizer.steps == 1
    for ours, theirs in zip((*params, *optimizer.state().values()), before, strict=True):
        np.testing.assert_array_equal(np.array(ours), theirs)


@pytest.mark.parametrize("saved_after", [None, 1, 10, 24])
def test_lazy_rows_equal_dense_ones_for_every_reader(saved_after: int | None) -> None:
    """To 1e-12, at every step, rows that were never reached among them; saving in between changes nothing."""
    dense, lazy = own(), own(is_lazy=True)
    dense_optimizer, lazy_optimizer = (AdamW(each, DECAYS, SETTING, Threads(1)) for each in (dense, lazy))
    some = np.array([[0, 29], [5, 5]])
    for step in range(STEPS):
        dense_optimizer.update(gradients_of(step), rate_of(step))
        lazy_optimizer.update(gradients_of(step), rate_of(step))
        np.testing.assert_allclose(np.asarray(lazy.table), dense.table, rtol=1e-12)  # one product of factors for many
        np.testing.assert_allclose(lazy.table[some], dense.table[some], rtol=1e-12)  # the same
        if step == saved_after:
            state = {name: np.array(each) for name, each in lazy_optimizer.state().items()}
            lazy = Params(LazyTable(np.asarray(lazy.table)), lazy.weight.copy(), lazy.bias.copy())
            lazy_optimizer = AdamW(lazy, DECAYS, SETTING, Threads(1))
            lazy_optimizer.restore(state)
            assert lazy_optimizer.steps == step + 1
    assert set(lazy.table.reached.tolist()) <= set(range(20))
    for our, their in zip(lazy[1:], dense[1:], strict=True):
        np.testing.assert_array_equal(our, their)


def test_what_was_loaded_is_never_written_to() -> None:
    params = own(is_lazy=True)
    before = params.table.stored.copy()
    AdamW(params, DECAYS, SETTING, Threads(1)).update(gradients_of(3), 0.1)
    np.testing.assert_array_equal(params.table.stored, before)
    assert not np.array_equal(np.asarray(params.table), before)


def test_rows_that_are_read_are_copies() -> None:
    table = own(is_lazy=True).table
    table.reach(np.array([3]))
    for index in (np.array([3]), np.array([4])):
        table[index][:] = 0
    np.testing.assert_array_equal(np.asarray(table), START.table)
    with pytest.raises(ValueError, match="only be read as a copy"):
        np.asarray(table, copy=False)


def test_a_run_that_goes_on_is_the_run_that_was_never_interrupted() -> None:
    """In bits, in float32, if the table is folded into one array where it was saved."""
    params = own("float32")
    optimizer = AdamW(params, DECAYS, SETTING, Threads(2))
    for step in range(STEPS):
        optimizer.update(gradients_of(step), rate_of(step))
        if step == 10:
            saved = Params(*(each.copy() for each in params)), optimizer.state()
            again = AdamW(saved[0], DECAYS, SETTING, Threads(1))
            again.restore(saved[1])
        if step > 10:
            again.update(gradients_of(step), rate_of(step))
    for our, their in zip(saved[0], params, strict=True):
        np.testing.assert_array_equal(our, their)


def read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


@pytest.mark.parametrize("change", [np.asfortranarray, read_only, lambda array: np.repeat(array, 2, 1)[:, ::2]])
def test_arrays_that_updates_would_miss_are_refused(change: Callable[[np.ndarray], np.ndarray]) -> None:
    params = own()
    params = params._replace(weight=change(params.weight))
    with pytest.raises(ValueError, match=r"A parameter of shape \(7, 600\) is no writable array in C order"):
        AdamW(params, DECAYS, SETTING, Threads(1))


def test_the_state_of_another_model_is_refused() -> None:
    state = AdamW(own(), DECAYS, SETTING, Threads(1)).state()
    other = own()._replace(bias=np.zeros(9))
    with pytest.raises(ValueError, match=r"mean\.2 is float64 \(7,\), but the parameter is float64 \(9,\)"):
        AdamW(other, DECAYS, SETTING, Threads(1)).restore(state)


@pytest.mark.parametrize(
    ("name", "decays"),
    [
        ("roberta.embeddings.word_embeddings.weight", True),
        ("roberta.embeddings.position_embeddings.weight", True),
        ("roberta.embeddings.LayerNorm.weight", False),
        ("roberta.encoder.layer.0.attention.self.query.weight", True),
        ("roberta.encoder.layer.0.attention.self.query.bias", False),
        ("roberta.encoder.layer.11.output.LayerNorm.bias", False),
        ("lm_head.layer_norm.weight", False),
        ("lm_head.dense.weight", True),
        ("lm_head.bias", False),
        ("classifier.out_proj.weight", True),
    ],
)
def test_what_decays(name: str, decays: bool) -> None:
    assert is_decayed(name) is decays
