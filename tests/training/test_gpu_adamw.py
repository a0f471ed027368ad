"""GpuAdamW, its kernels executed in emulation, against AdamW on the CPU."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest

from tests.cuda_emulator import (
    BARRIER,
    EmulatedGpu,
    Schedule,
    number_of_barriers,
    run_sanitized,
    some_of,
    why_not,
    without,
)
from tests.ops.calls import DTYPES
from tests.training.test_adamw import SETTING, rate_of
from xlmr_np import trees
from xlmr_np.ops.cuda import adamw as kernels
from xlmr_np.ops.threads import Threads
from xlmr_np.row_sparse import RowSparse
from xlmr_np.training.adamw import AdamW
from xlmr_np.training.gpu_adamw import GpuAdamW
from xlmr_np.training.lazy_table import LazyTable

pytestmark = pytest.mark.skipif(why_not() is not None, reason=f"kernels cannot be executed here: {why_not()}")

VOCABULARY, WIDTH, STEPS = 41, 37, 6
LARGEST_NORM = 40.0  # gradients of odd steps are smaller, those of even ones larger
SCHEDULES = [Schedule(0), Schedule(3), Schedule(8)]


class Params(NamedTuple):
    """A table, and tensors of less than a warp, of one number, of several blocks with a rest, and of none."""

    few: np.ndarray
    table: np.ndarray
    one: np.ndarray
    many: np.ndarray
    none: np.ndarray


DECAYS = Params(few=False, table=True, one=True, many=True, none=True)
SHAPES = Params((3,), (VOCABULARY, WIDTH), (1,), (65_537,), (0, 5))
HALVES = Params("float16", "bfloat16", "bfloat16", "float16", "float16")
EVERY_TYPE = Params("float16", "bfloat16", "float64", "float32", "float16")


def start(dtype: str = "float32") -> Params:
    random = np.random.default_rng(0)
    return Params(*(random.normal(size=shape).astype(dtype) for shape in SHAPES))


def gradients_of(step: int, dtypes: Params | str = "float64", scale: float = 1.0) -> Params:
    """Rows 30 and above are never reached, and the others now and then."""
    random = np.random.default_rng(100 + step)
    dtypes = dtypes if isinstance(dtypes, Params) else Params(*[dtypes] * 5)
    index = np.unique(random.integers(0, min(30, 4 + 5 * step), 6))
    size = scale * (0.3 if step % 2 == 0 else 0.05)
    shapes = SHAPES._replace(table=(len(index), WIDTH))
    arrays = [
        (size * random.normal(size=shape)).astype(DTYPES[dtype]) for shape, dtype in zip(shapes, dtypes, strict=True)
    ]
    gradients = Params(*arrays)
    return gradients._replace(table=RowSparse(index, gradients.table, VOCABULARY))


def widened(gradients: Params, dtype: str) -> Params:
    """In one type, for the CPU."""

    def widen(leaf: np.ndarray | RowSparse) -> np.ndarray | RowSparse:
        if isinstance(leaf, RowSparse):
            return RowSparse(leaf.index, leaf.rows.astype(dtype), leaf.number_of_rows)
        return leaf.astype(dtype)

    return trees.map_leaves(widen, gradients)


def on_gpu(params: Params, gpu: EmulatedGpu | None = None, **more: object) -> GpuAdamW:
    return GpuAdamW(gpu or EmulatedGpu(), params, DECAYS, SETTING, table=params.table, **more)


def on_cpu(params: Params) -> AdamW:
    return AdamW(params, DECAYS, SETTING, Threads(1))


def steps(optimizer: AdamW | GpuAdamW, which: range = range(STEPS), **more: object) -> list[float]:
    """Their norms."""
    return [optimizer.clipped_update(gradients_of(step, **more), rate_of(step), LARGEST_NORM) for step in which]


def check_close(ours: trees.Tree, theirs: trees.Tree, dtype: str) -> None:
    # float32: a few roundings of a parameter of up to 4, and of steps of 0.25 whose norm the CPU sums in float32.
    tolerance = {"float64": 1e-12, "float32": 2e-6}[dtype]
    for our, their in zip(trees.leaves(ours), trees.leaves(theirs), strict=True):
        assert our.dtype == dtype
        np.testing.assert_allclose(our, their, rtol=tolerance, atol=tolerance)


def bits(tree: trees.Tree) -> list[bytes]:
    return [leaf.tobytes() for leaf in trees.leaves(tree)]


def everything(optimizer: GpuAdamW, *more: trees.Tree) -> list[bytes]:
    """All bytes that updates may write."""
    return bits((*optimizer._leaves, *optimizer._means, *optimizer._squares, optimizer._reached, *more))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_updates_are_those_of_the_cpu(dtype: str) -> None:
    """With clipping at some steps, with and without decay; also of the table's rows that were never reached."""
    ours, theirs = start(dtype), start(dtype)
    optimizer, expected = on_gpu(ours), on_cpu(theirs)
    tolerance = {"float64": 1e-14, "float32": 1e-5}[dtype]  # the CPU sums in the type, ours in float64
    for step in range(STEPS):
        norm, their_norm = (steps(each, range(step, step + 1), dtypes=dtype)[0] for each in (optimizer, expected))
        assert norm == pytest.approx(their_norm, rel=tolerance)
        assert (norm > LARGEST_NORM) == (step % 2 == 0)
        assert optimizer.steps == expected.steps == step + 1
        check_close(ours, theirs, dtype)
    states = optimizer.state(), expected.state()
    for name in ("few", "one", "many"):
        number = Params._fields.index(name)
        for kind in ("mean", "square"):
            check_close(*(state[f"{kind}.{number}"] for state in states), dtype)


@pytest.mark.parametrize("loss_scale", [1.0, 2.0**12])
def test_gradients_of_all_types_and_half_precision_copies(loss_scale: float) -> None:
    """Copies are the rounded parameters, bit for bit, where a row only decays, too."""
    ours, theirs = start(), start()
    copies = Params(*(leaf.astype(DTYPES[dtype]) for leaf, dtype in zip(ours, HALVES, strict=True)))
    optimizer, expected = on_gpu(ours, copies=copies), on_cpu(theirs)
    for step in range(STEPS):
        gradients = gradients_of(step, EVERY_TYPE, loss_scale)
        norms = (
            each.clipped_update(own, rate_of(step), LARGEST_NORM, loss_scale)
            for each, own in ((optimizer, gradients), (expected, widened(gradients, "float32")))
        )
        assert next(norms) == pytest.approx(next(norms), rel=1e-5)  # the CPU sums in float32
        check_close(ours, theirs, "float32")
        for copied, leaf in zip(copies, ours, strict=True):
            assert copied.tobytes() == leaf.astype(copied.dtype).tobytes()


def test_gradients_of_any_strides() -> None:
    ours, theirs = start("float64"), start("float64")
    optimizer, expected = on_gpu(ours), on_gpu(theirs)
    gradients = gradients_of(3)
    rows = RowSparse(np.repeat(gradients.table.index, 2)[::2], np.asfortranarray(gradients.table.rows), VOCABULARY)
    strided = gradients._replace(table=rows, many=np.repeat(gradients.many, 2)[::2])
    assert optimizer.clipped_update(strided, 0.1, 1.0) == expected.clipped_update(gradients, 0.1, 1.0)
    assert bits(ours) == bits(theirs)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_table_with_row_sparse_gradients_is_as_one_with_dense_gradients(dtype: str) -> None:
    """Bit for bit where nothing is clipped, as a mean of zero stays zero."""
    sparse, dense = start(dtype), start(dtype)
    lazy, whole = on_gpu(sparse), GpuAdamW(EmulatedGpu(), dense, DECAYS, SETTING)
    for step in range(STEPS):
        for optimizer in (lazy, whole):
            optimizer.clipped_update(gradients_of(step, dtype), rate_of(step), np.inf)
        assert bits(sparse) == bits(dense)
    assert 0 < lazy._reached.sum() < VOCABULARY
    assert bits(tuple(lazy._means)) == bits(tuple(whole._means))


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_rows_without_gradient_are_touched_only_to_decay(weight_decay: float) -> None:
    """Where there is no decay, a NaN there would stay as it is, and so does what the copy has."""
    params, before = start(), start()
    copies = Params(*(np.full_like(leaf, 7, DTYPES["float16"]) for leaf in params))
    setting = SETTING._replace(weight_decay=weight_decay)
    optimizer = GpuAdamW(EmulatedGpu(), params, DECAYS, setting, copies, params.table)
    steps(optimizer)
    assert not optimizer._reached[30:].any()
    if weight_decay == 0.0:
        np.testing.assert_array_equal(params.table[30:], before.table[30:])
        assert (copies.table[30:] == 7).all()
    else:
        assert (np.abs(params.table[30:]) < np.abs(before.table[30:])).all()


def test_without_any_row_in_the_tables_gradient() -> None:
    params = start()
    optimizer = on_gpu(params)
    empty = RowSparse(np.zeros(0, np.int64), np.zeros((0, WIDTH), np.float32), VOCABULARY)
    for _ in range(2):
        assert optimizer.clipped_update(gradients_of(1)._replace(table=empty), 0.1, 1.0) > 0
    assert not optimizer._reached.any()


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("where", ["few", "table", "many", "a loss"])
def test_what_is_not_finite_changes_nothing(where: str, bad: float) -> None:
    """Not a byte; and the run goes on as if the step had not been."""
    params, others = start(), start()
    copies = Params(*(leaf.astype(np.float16) for leaf in params))
    optimizer, other = on_gpu(params, copies=copies), on_gpu(others)
    steps(optimizer, range(3))
    steps(other, range(3))
    gradients, losses = gradients_of(3, "float16"), [np.asarray(np.float32(2.0))]
    if where == "a loss":
        losses.append(np.asarray(np.float32(bad)))
    elif where == "table":
        gradients.table.rows[2, 5] = bad
    else:
        getattr(gradients, where)[-1] = bad
    before = everything(optimizer, copies)
    with np.errstate(invalid="ignore"):
        assert not np.isfinite(optimizer.norm(gradients, losses))
        assert not np.isfinite(optimizer.clipped_update(gradients, 0.1, LARGEST_NORM, losses=losses))
    assert everything(optimizer, copies) == before
    assert optimizer.steps == 3
    steps(optimizer, range(3, 5))
    steps(other, range(3, 5))
    assert bits(params) == bits(others)


def test_a_gradient_that_overflowed_in_half_precision_only_when_squared_counts() -> None:
    gradients = gradients_of(1)._replace(few=np.full(3, 6e4, np.float16), one=np.full(1, 1e30, np.float32))
    norm = on_gpu(start()).clipped_update(gradients, 0.1, 1.0, 1024.0)
    assert norm == pytest.approx(1e30 / 1024, rel=1e-6)  # float32 of 1e30


def test_norm_is_that_of_the_update() -> None:
    optimizer, losses = on_gpu(start()), [np.asarray(np.float32(1.0))]
    norm = optimizer.norm(gradients_of(2), losses, 8.0)
    assert norm == optimizer.clipped_update(gradients_of(2), 0.1, 1.0, 8.0, losses)


def test_nothing_is_waited_for_between_launches() -> None:
    """A step is four launches, of any number of parameters."""
    gpu = EmulatedGpu()
    steps(on_gpu(start(), gpu), range(1))
    names = [kernel.expression for kernel in gpu.launches]
    assert names == ["sum_squares", "clip", "update<float>", "update_rows<float>"]
    assert set(gpu.launches) <= set(kernels.kernels())


@pytest.mark.parametrize("ways", [("GPU", "GPU"), ("GPU", "CPU"), ("CPU", "GPU")])
def test_a_run_goes_on_on_the_other_kind_of_device(ways: tuple[str, str]) -> None:
    """With the rows of the table reached in any order."""
    make: dict[str, Callable[[Params], AdamW | GpuAdamW]] = {
        "GPU": on_gpu,
        "CPU": lambda params: on_cpu(params._replace(table=LazyTable(params.table))),
    }

    def as_array(optimizer: AdamW | GpuAdamW) -> Params:
        return Params(*(np.array(leaf) for leaf in optimizer._leaves))

    whole = on_gpu(start("float64"))
    steps(whole)
    first = make[ways[0]](start("float64"))
    steps(first, range(3))
    state = {name: np.array(array) for name, array in first.state().items()}
    if ways[0] == "GPU":  # as a CPU may have reached them
        order = np.random.default_rng(0).permutation(len(state["reached.1"]))
        state |= {name: state[name][order] for name in ("reached.1", "mean.1", "square.1")}
    second = make[ways[1]](as_array(first))
    if isinstance(second, GpuAdamW):  # as after another run
        second._reached[33] = True
        second._means[1][...] = 5
    second.restore(state)
    assert second.steps == 3
    steps(second, range(3, STEPS))
    check_close(as_array(second), as_array(whole), "float64")
    assert second.state().keys() == state.keys()
    reached = second.state()["reached.1"]
    assert sorted(reached) == np.flatnonzero(whole._reached).tolist()
    places = np.searchsorted(whole.state()["reached.1"], reached)
    check_close(second.state()["square.1"], whole.state()["square.1"][places], "float64")


def test_the_state_of_another_model_is_refused() -> None:
    """And nothing is restored of it."""
    optimizer = on_gpu(start())
    state = optimizer.state()
    before = everything(optimizer)
    for change, message in (
        ({"mean.3": np.ones(7, np.float32)}, r"mean\.3 is float32 \(7,\), but the parameter is float32 \(65537,\)"),
        ({"square.0": np.ones(3)}, r"square\.0 is float64 \(3,\)"),
        ({"mean.0": np.ones(3, np.float32), "square.4": np.ones((2, 5), np.float32)}, r"square\.4 is"),
        ({"reached.1": np.array([3, 3])}, "no index of distinct rows of a table of 41"),
        ({"reached.1": np.array([41])}, "no index of distinct rows of a table of 41"),
        ({"reached.1": np.array([5])}, r"mean\.1 is float32 \(0, 37\), but the parameter is float32 \(1, 37\)"),
    ):
        with pytest.raises(ValueError, match=message):
            optimizer.restore({**state, **change})
    del state["square.2"]
    with pytest.raises(KeyError):
        optimizer.restore(state)
    assert everything(optimizer) == before


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_same_bits_under_all_schedules(schedule: Schedule) -> None:
    runs = []
    for gpu in (EmulatedGpu(), EmulatedGpu(schedule)):
        params = start()
        copies = Params(*(leaf.astype(np.float16) for leaf in params))
        optimizer = on_gpu(params, gpu, copies=copies)
        runs.append((steps(optimizer, range(3), dtypes=EVERY_TYPE), everything(optimizer, copies)))
    assert runs[0] == runs[1]


def read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


@pytest.mark.parametrize("change", [np.asfortranarray, read_only, lambda array: np.repeat(array, 2, 1)[:, ::2]])
def test_arrays_that_kernels_cannot_write_are_refused(change: Callable[[np.ndarray], np.ndarray]) -> None:
    params = start()
    changed = params._replace(table=change(params.table))
    with pytest.raises(ValueError, match=r"A parameter of shape \(41, 37\) is no writable array in C order"):
        on_gpu(changed)
    copies = Params(*(leaf.astype(np.float16) for leaf in params))
    copies = copies._replace(table=change(copies.table))
    with pytest.raises(ValueError, match=r"A copy of shape \(41, 37\) is no writable array in C order"):
        on_gpu(params, copies=copies)


def test_what_does_not_fit_together_is_refused() -> None:
    params, doubles = start(), start("float64")
    halves = Params(*(leaf.astype(np.float16) for leaf in params))
    with pytest.raises(ValueError, match="Parameters of float32 and float64; all must be float32, or all float64"):
        on_gpu(params._replace(many=doubles.many))
    with pytest.raises(ValueError, match="Parameters of float16 and float16"):
        on_gpu(halves)
    for given, copies in (
        (doubles, halves),
        (params, params),
        (params, halves._replace(one=np.zeros(2, np.float16))),
    ):
        with pytest.raises(ValueError, match=r"A copy is .* it must be float16 or bfloat16 of the same shape"):
            on_gpu(given, copies=copies)
    for table in (params.few, params.table.copy()):
        with pytest.raises(ValueError, match="is no matrix that is once among the parameters"):
            GpuAdamW(EmulatedGpu(), params, DECAYS, SETTING, table=table)
    optimizer, gradients = on_gpu(params), gradients_of(0)
    longer = RowSparse(gradients.table.index, gradients.table.rows, VOCABULARY + 1)
    for wrong in (gradients._replace(few=np.zeros(4)), gradients._replace(table=longer)):
        with pytest.raises(ValueError, match=r"A gradient of shape .* came for parameter"):
            optimizer.clipped_update(wrong, 0.1, 1.0)
    with pytest.raises(ValueError, match="A gradient is int64; it must be one of float64, float32, float16, bfloat16"):
        optimizer.clipped_update(gradients._replace(few=np.zeros(3, np.int64)), 0.1, 1.0)


@pytest.mark.exhaustive
def test_nothing_outside_of_arrays_is_touched() -> None:
    done = run_sanitized("""
import numpy as np
from tests.cuda_emulator import EmulatedGpu
from tests.training.test_gpu_adamw import EVERY_TYPE, Params, on_gpu, start, steps
params = start()
copies = Params(*(leaf.astype(np.float16) for leaf in params))
steps(on_gpu(params, EmulatedGpu(sanitize=True), copies=copies), range(3), dtypes=EVERY_TYPE)
print("done")
""")
    assert done.stdout == "done\n", done.stderr


FAULTS = {
    "the rest of a tensor is not added": (r"min\(part\.first \+ BLOCK, gradient\.size\)", "part.first"),
    "a warp is not added": (r"int warp = 1;", "int warp = 2;"),
    "no clipping": (r"factor < 1 \? factor : 1", "1"),
    "clipping makes larger": (r"factor < 1 \? factor : 1", "factor"),
    "the norm is that of scaled gradients": (r"sqrt\(sum\) / loss_scale", "sqrt(sum)"),
    "gradients stay scaled": (r"\(factor < 1 \? factor : 1\) / loss_scale", "(factor < 1 ? factor : 1)"),
    "tensors are updated in a step that does not count": (r"if \(!is_finite\(clipping\)\) return;", ""),
    "rows are updated in a step that does not count": (r"\|\| !is_finite\(clipping\)", ""),
    "the mean forgets nothing": (r"beta1 \* mean", "mean"),
    "the square is the gradient": (r"\(gradient \* gradient\)", "gradient"),
    "no correction of the square": (r" \* root_scale", ""),
    "no eps": (r"root_scale \+ eps", "root_scale"),
    "no decay": (r"kept \* parameter -", "parameter -"),
    "everything decays": (r"tensor\.decays \? kept : Number\(1\)", "kept"),
    "no factor": (r"gradients\[i\] \* factor", "gradients[i]"),
    "the last numbers of a span are left out": (
        r"if \(place >= last\) continue;\n        write",
        "if (place >= last - 1) continue;\n        write",
    ),
    "the mean is not written": (r"mean\[place\] = means\[i\];", ""),
    "no copies": (r"if \(copy == 0\) return;", "return;"),
    "copies of one type only": (r"copy_type == FLOAT16", "true"),
    "copies of a tensor's first part": (r"tensor\.copy \+ 2 \* part\.first", "tensor.copy"),
    "copies of the first row": (r"table->copy \+ 2 \* first", "table->copy"),
    "a row's gradient comes from another": (r"static_cast<long long>\(place\) \* width", "0 * width"),
    "a row beside those of the gradient has one": (r"low < length && index\[low\] == row", "low < length"),
    "rows are not marked": (r"reached\[row\] = true;", ";"),
    "rows that were reached only decay": (r"place < 0 && !reached\[row\]", "place < 0"),
    "rows that were not reached do not decay": (r"if \(span\.kept == 1\) return;", "return;"),
}


def scenario(gpu: EmulatedGpu) -> list[np.ndarray]:
    """What some steps in mixed precision leave, one that does not count among them."""
    params = start()
    params = params._replace(many=params.many[:16_500].copy())
    copies = Params(*(leaf.astype(DTYPES[dtype]) for leaf, dtype in zip(params, HALVES, strict=True)))
    optimizer = on_gpu(params, gpu, copies=copies)
    for step in (0, 1, 2):
        gradients = gradients_of(step, EVERY_TYPE, 256.0)
        gradients = gradients._replace(many=3 * gradients.many[:16_500], one=np.array([256e-7]))  # as small as eps
        if step == 1:
            optimizer.clipped_update(gradients._replace(one=np.array([np.inf])), 0.1, 1.0)
            norm = optimizer.clipped_update(gradients, 0.1, 1e4, 256.0)
        else:
            norm = optimizer.clipped_update(gradients, 0.1, 20.0, 256.0)
    arrays = [*params, *copies, *optimizer._means, *optimizer._squares, optimizer._reached, np.array(norm)]
    return [array.astype(np.float64) for array in arrays]


@pytest.fixture(scope="module")
def expected() -> list[np.ndarray]:
    return scenario(EmulatedGpu())


def matches(gpu: EmulatedGpu, expected: list[np.ndarray]) -> bool:
    return all(np.array_equal(*pair, equal_nan=True) for pair in zip(scenario(gpu), expected, strict=True))


@pytest.mark.parametrize("fault", some_of(FAULTS))
def test_a_fault_is_seen(fault: str, expected: list[np.ndarray]) -> None:
    pattern, instead = FAULTS[fault]
    with np.errstate(all="ignore"):
        assert not matches(EmulatedGpu(edit=without(pattern, 0, instead)), expected)


@pytest.mark.parametrize("barrier", range(number_of_barriers("adamw.cu")))
def test_a_missing_barrier_is_seen(barrier: int, expected: list[np.ndarray]) -> None:
    """Under one schedule at least."""
    schedules = [Schedule(seed) for seed in range(8)]
    assert all(matches(EmulatedGpu(schedule), expected) for schedule in schedules)
    edit = without(BARRIER, barrier)
    with np.errstate(all="ignore"):
        assert not all(matches(EmulatedGpu(schedule, edit=edit), expected) for schedule in schedules)
