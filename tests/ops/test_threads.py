"""Parts of a task on several threads: their order, their errors, BLAS meanwhile, callers at once, and forks."""

import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_info, threadpool_limits

from xlmr_np.ops.threads import Threads, check_number_of_threads, default_number_of_threads


def blas_threads() -> dict[str, int]:
    """The number of threads of NumPy's BLAS, by its file; other packages may load libraries of their own."""
    numbers = {each["filepath"]: each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}
    return {path: number for path, number in numbers.items() if "numpy.libs" in path} or numbers


@pytest.fixture(params=[1, 2, 3], ids=lambda number: f"{number} BLAS threads")
def blas(request: pytest.FixtureRequest) -> Iterator[dict[str, int]]:
    """BLAS with some number of threads."""
    with threadpool_limits(request.param, user_api="blas"):
        before = blas_threads()
        assert set(before.values()) <= {request.param}
        yield before


@pytest.mark.parametrize("number", [1, 2, 3, 8])
@given(parts=st.lists(st.integers(), max_size=40))
def test_results_come_in_the_order_of_the_parts(number: int, parts: list[int]) -> None:
    assert Threads(number).run(lambda part: (part, -part), parts) == [(part, -part) for part in parts]


@given(number=st.integers(1, 9), size=st.integers(0, 500), smallest=st.integers(1, 100))
def test_ranges_cover_everything_once(number: int, size: int, smallest: int) -> None:
    ranges = Threads(number).ranges(size, smallest)
    assert [place for each in ranges for place in range(each.start, each.stop)] == list(range(size))
    lengths = [each.stop - each.start for each in ranges]
    assert 1 <= len(ranges) <= number
    assert max(lengths) - min(lengths) <= 1
    assert len(ranges) == 1 or min(lengths) >= smallest
    assert len(ranges) == max(1, min(number, size // smallest))


def test_one_thread_is_the_caller_s_own() -> None:
    places = Threads(1).run(lambda part: (part, threading.get_ident()), range(20))
    assert places == [(part, threading.get_ident()) for part in range(20)]


def test_no_part_waits_where_nobody_works() -> None:
    """Two parts that need each other are done by two threads at once, one of them the caller's."""
    meeting = threading.Barrier(2, timeout=30)

    def part(_: int) -> int:
        meeting.wait()
        return threading.get_ident()

    threads = Threads(2).run(part, range(2))
    assert len(set(threads)) == 2
    assert threading.get_ident() in threads


class Peak:
    """How many parts were worked on at once, at most."""

    def __init__(self) -> None:
        self.lock, self.now, self.most = threading.Lock(), 0, 0

    def __call__(self, part: int) -> int:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.002)
        with self.lock:
            self.now -= 1
        return part


@pytest.mark.parametrize("number", [1, 2, 3])
def test_never_more_threads_than_asked_for(number: int) -> None:
    peak = Peak()
    assert Threads(number).run(peak, range(30)) == list(range(30))
    assert peak.most <= number


def at_once(function: Callable[[int], Any], callers: int) -> list[Any]:
    """What a function returns in several threads that begin together."""
    start, results, errors = threading.Barrier(callers, timeout=30), [None] * callers, []

    def call(caller: int) -> None:
        try:
            start.wait()
            results[caller] = function(caller)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=call, args=(caller,)) for caller in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in threads)
    if errors:
        raise errors[0]
    return results


@pytest.mark.parametrize("callers", [2, 4])
def test_several_callers_share_the_threads(callers: int) -> None:
    peak, before = Peak(), blas_threads()
    results = at_once(lambda caller: [Threads(2).run(peak, range(caller, caller + 20)) for _ in range(5)], callers)
    assert results == [[list(range(caller, caller + 20))] * 5 for caller in range(callers)]
    assert peak.most <= callers + 1  # helpers are lent only to a caller that finds them idle
    assert blas_threads() == before


def test_blas_has_one_thread_meanwhile_and_its_own_again_afterwards(blas: dict[str, int]) -> None:
    seen = Threads(2).run(lambda _: blas_threads(), range(4))
    assert all(set(each.values()) == {1} for each in seen)
    assert blas_threads() == blas


@pytest.mark.parametrize("first_is_main", [True, False])
def test_blas_has_its_threads_again_only_when_the_last_caller_is_done(
    blas: dict[str, int], first_is_main: bool
) -> None:
    """Whichever of two threads began first ends first; the other still works with one BLAS thread."""
    first_is_in, second_is_in, first_is_out = (threading.Event() for _ in range(3))
    seen = []

    def first_part(_: int) -> None:
        first_is_in.set()
        seen.append(blas_threads())
        assert second_is_in.wait(30)

    def second_part(_: int) -> None:
        second_is_in.set()
        assert first_is_out.wait(30)
        seen.append(blas_threads())

    def first() -> None:
        Threads(1).run(first_part, [0])
        first_is_out.set()

    def second() -> None:
        assert first_is_in.wait(30)
        Threads(1).run(second_part, [0])

    in_main, elsewhere = (first, second) if first_is_main else (second, first)
    other = threading.Thread(target=elsewhere)
    other.start()
    in_main()
    other.join(timeout=60)
    assert [set(each.values()) for each in seen] == [{1}, {1}]
    assert blas_threads() == blas


def test_blas_stays_limited_between_tasks_that_are_held_together(blas: dict[str, int]) -> None:
    threads = Threads(2)
    with threads.held_together():
        seen = [blas_threads(), *threads.run(lambda _: blas_threads(), range(2)), blas_threads()]
    assert all(set(each.values()) == {1} for each in seen)
    assert blas_threads() == blas
    with pytest.raises(ZeroDivisionError), threads.held_together():
        threads.run(lambda number: 1 // number, range(2))
    assert blas_threads() == blas


def test_blas_stays_limited_while_anyone_holds_it(blas: dict[str, int]) -> None:
    with Threads(2).held_together():
        with Threads(1).held_together():
            Threads(2).run(lambda _: None, range(2))
        assert set(blas_threads().values()) == {1}
    assert blas_threads() == blas


def test_blas_is_limited_for_callers_in_any_thread(blas: dict[str, int]) -> None:
    """Not only in the thread that limited it first."""
    seen = [Threads(1).run(lambda _: blas_threads(), [0])]
    seen += at_once(lambda _: Threads(2).run(lambda _: blas_threads(), range(2)), 1)
    assert all(set(each.values()) == {1} for run in seen for each in run)
    assert blas_threads() == blas


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("wrong", [0, 5, 9])
def test_an_error_of_a_part_reaches_the_caller(number: int, wrong: int, blas: dict[str, int]) -> None:
    running = Peak()

    def part(each: int) -> int:
        if each == wrong:
            raise KeyError(f"part {each}")
        return running(each)

    with pytest.raises(KeyError, match=f"part {wrong}"):
        Threads(number).run(part, range(10))
    assert running.now == 0  # all parts that were begun are done
    assert blas_threads() == blas
    assert Threads(number).run(lambda each: each, range(10)) == list(range(10))


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError])
@pytest.mark.parametrize("in_caller", [False, True], ids=["in a helper", "in the caller"])
def test_an_error_of_any_kind_stops_the_rest(in_caller: bool, error: type[BaseException]) -> None:
    """And is raised in the caller, whichever thread it came up in."""
    caller, before, begun = threading.get_ident(), blas_threads(), []

    def part(number: int) -> None:
        begun.append(number)
        time.sleep(0.002)
        if (threading.get_ident() == caller) == in_caller:
            raise error

    with pytest.raises(error):
        Threads(2).run(part, range(300))
    assert len(begun) < 150
    assert blas_threads() == before
    assert Threads(2).run(lambda each: each, range(10)) == list(range(10))


@pytest.mark.parametrize("outer", [1, 2, 3])
@pytest.mark.parametrize("inner", [1, 2, 5])
def test_parts_may_have_parts(outer: int, inner: int) -> None:
    before = blas_threads()
    sums = Threads(outer).run(lambda row: sum(Threads(inner).run(lambda each: row * each, range(9))), range(7))
    assert sums == [36 * row for row in range(7)]
    assert blas_threads() == before


def test_a_thread_that_is_done_keeps_no_arrays() -> None:
    """What a task was made of can be freed at once, though the threads go on waiting for the next."""
    array = np.zeros(1000)
    gone = weakref.ref(array)
    Threads(2).run(Keeps(array), range(4))
    del array
    gc.collect()
    deadline = time.monotonic() + 5
    while gone() is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert gone() is None


class Keeps:
    """A task that holds an array."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __call__(self, _: int) -> float:
        time.sleep(0.005)
        return float(self.array.sum())


@pytest.mark.parametrize("wrong", [1.5, True, "2", [2], np.float32(2)], ids=repr)
def test_a_number_of_threads_is_an_integer(wrong: object) -> None:
    with pytest.raises(TypeError, match="num_threads must be a positive integer"):
        check_number_of_threads(wrong)


@pytest.mark.parametrize("wrong", [0, -1])
def test_a_number_of_threads_is_positive(wrong: int) -> None:
    with pytest.raises(ValueError, match=f"num_threads must be at least 1; it is {wrong}"):
        check_number_of_threads(wrong)


def test_the_default_is_what_blas_would_use(blas: dict[str, int]) -> None:
    expected = max(blas.values())
    assert default_number_of_threads() == check_number_of_threads(None) == expected
    assert check_number_of_threads(7) == 7
    inside = Threads(2).run(lambda _: default_number_of_threads(), range(2))
    assert inside == [expected] * 2


def run_python(script: str, **environment: str) -> str:
    """What a fresh interpreter prints; it must end well."""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("variable", ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"])
def test_the_environment_says_how_many(variable: str) -> None:
    if not any("openblas" in path for path in blas_threads()):
        pytest.skip("NumPy's BLAS is not OpenBLAS, whose variables these are")
    script = "from xlmr_np.ops.threads import default_number_of_threads; print(default_number_of_threads())"
    others = {"OMP_NUM_THREADS": "", "OPENBLAS_NUM_THREADS": "", "GOTO_NUM_THREADS": ""}
    assert run_python(script, **{**others, variable: "1"}).strip() == "1"


FORKS = """
import os, signal, sys, threading, time
import numpy as np
from threadpoolctl import threadpool_info
from xlmr_np.ops.threads import Threads, default_number_of_threads

def blas():
    return [each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"]

matrices = np.random.default_rng(0).normal(size=(6, 200, 200))

def square(i):
    return matrices[i] @ matrices[i]

def squares():
    return Threads(2).run(square, range(6))

before, expected = blas(), squares()
number = default_number_of_threads()
done = threading.Event()
def work():
    while not done.is_set():
        squares()

others = [threading.Thread(target=work) for _ in range(BUSY)]
for each in others:
    each.start()
failures = []
for _ in range(5):
    time.sleep(0.02)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            same = all(np.array_equal(a, b) for a, b in zip(squares(), expected))
            code = 0 if same and blas() == before and default_number_of_threads() == number else 2
        finally:
            os._exit(code)
    deadline = time.monotonic() + 30
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended or time.monotonic() > deadline:
            break
        time.sleep(0.01)
    if not ended:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        failures.append("a child hung")
    elif status:
        failures.append(os.waitstatus_to_exitcode(status))
done.set()
for each in others:
    each.join()
assert all(np.array_equal(a, b) for a, b in zip(squares(), expected))
assert blas() == before
print(failures)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("busy", [0, 2], ids=["while nobody works", "while others work"])
def test_a_forked_child_computes_too(busy: int) -> None:
    assert run_python(FORKS.replace("BUSY", str(busy))).strip() == "[]"
