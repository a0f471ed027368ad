"""The threads of the CPU engine: one BLAS thread each, and never more of them at work than there are to share.

BLAS libraries bring threads of their own, which leave element-wise work to one of them. Here the parts of a task run
on threads of ours instead, and BLAS is held to one thread meanwhile. That limit belongs to the whole process, so it is
counted: the first task sets it, or whoever holds several together, and the last one to finish takes it back. (So it
does for OpenBLAS as NumPy's own packages bring it. MKL, and OpenBLAS built on OpenMP, have a limit for each thread:
there, set OMP_NUM_THREADS=1 and say num_threads= yourself.)
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from itertools import pairwise
from queue import SimpleQueue
from typing import Any


class Threads:
    """So many threads, the caller's own among them, which work on the parts of one task.

    Several callers share the process's threads: whoever finds them busy does its parts alone. How a task is cut into
    parts never depends on that, so that results do not either.
    """

    def __init__(self, number: int) -> None:
        self.number = number

    def run(self, function: Callable[[Any], Any], parts: Sequence[Any]) -> list[Any]:
        """The results of the function for every part, in order; parts are begun in order too.

        An exception of a part is raised when all parts that were begun are done.
        """
        results: list[Any] = [None] * len(parts)
        waiting = deque(enumerate(parts))

        def work() -> None:
            while waiting:
                try:
                    place, part = waiting.popleft()
                except IndexError:  # another thread was quicker
                    return
                try:
                    results[place] = function(part)
                except BaseException:
                    waiting.clear()
                    raise

        finished: SimpleQueue[BaseException | None] = SimpleQueue()
        helpers = _crew.begin(min(self.number, len(parts)) - 1, self.number)
        asked = 0
        try:
            for _ in range(helpers):
                asked += 1
                _crew.tasks.put((work, finished))
            work()
        finally:
            waiting.clear()
            try:
                errors = _all_answers(finished, asked)
            finally:
                _crew.end(helpers)
        for error in errors:
            if error is not None:
                raise error
        return results

    def held_together(self) -> AbstractContextManager[None]:
        """Tasks within it follow each other closely: the limit on BLAS stays in between, which saves time."""
        return _crew.limited_blas()

    def ranges(self, size: int, smallest: int = 1) -> list[slice]:
        """The numbers from 0 to `size`, cut into as many nearly equal ranges as there are threads.

        Fewer if they would be shorter than `smallest`, but always one.
        """
        number = max(1, min(self.number, size // smallest))
        edges = [size * part // number for part in range(number + 1)]
        return [slice(start, stop) for start, stop in pairwise(edges)]


def _all_answers(finished: "SimpleQueue[BaseException | None]", number: int) -> list[BaseException | None]:
    """What the helpers say when they are done; an interrupt has to wait, as they still write into our arrays."""
    answers: list[BaseException | None] = []
    interrupt = None
    while len(answers) < number:
        try:
            answers.append(finished.get())
        except KeyboardInterrupt as raised:
            interrupt = raised
    if interrupt is not None:
        raise interrupt
    return answers


class _Alone(Threads):
    """No threads but the caller's, which works on a part already: BLAS is limited, and there is nobody to ask."""

    def __init__(self) -> None:
        super().__init__(1)

    def run(self, function: Callable[[Any], Any], parts: Sequence[Any]) -> list[Any]:
        return [function(part) for part in parts]


ALONE = _Alone()


class _Crew:
    """The process's helping threads, and the limit on BLAS that holds while any task runs or is about to.

    The threads are daemons: they hold nothing that must be put away at exit.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.tasks: SimpleQueue[tuple[Callable[[], None], SimpleQueue[BaseException | None]]] = SimpleQueue()
        self.started = 0
        self.running = 0  # tasks, one within another counted too
        self.lent = 0  # helpers at work
        self.limits = 0  # who needs the limit on BLAS: tasks, and what holds it for tasks to come
        self.blas_before: list[int] = []  # the numbers of threads that BLAS had before the first of them

    def begin(self, wanted: int, limit: int) -> int:
        """Begin a task; lend it up to so many helpers, as long as not more than `limit` threads are at work."""
        with self.lock:
            helpers = max(0, min(wanted, limit - self.running - 1 - self.lent))
            while self.started < self.lent + helpers:
                thread = threading.Thread(target=self._serve, name=f"xlmr_np_{self.started}", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the system gives no more threads
                    helpers = self.started - self.lent
                    break
                self.started += 1
            self._limit_blas()
            self.running += 1
            self.lent += helpers
            return helpers

    def end(self, helpers: int) -> None:
        """End a task, and take its helpers back."""
        with self.lock:
            self.lent -= helpers
            self.running -= 1
            self._lift_limit()

    @contextmanager
    def limited_blas(self) -> Iterator[None]:
        """The limit on BLAS holds meanwhile, so that the tasks within need not set it and take it back."""
        with self.lock:
            self._limit_blas()
        try:
            yield
        finally:
            with self.lock:
                self._lift_limit()

    def _limit_blas(self) -> None:
        if self.limits == 0:
            libraries = _blas_libraries()
            self.blas_before = [library.get_num_threads() for library in libraries]
            for library in libraries:
                _set_blas_threads(library, 1)
        self.limits += 1

    def _lift_limit(self) -> None:
        self.limits -= 1
        if self.limits == 0:
            self.give_blas_back()

    def give_blas_back(self) -> None:
        """Set the numbers of threads that BLAS had."""
        for library, number in zip(_blas_libraries(), self.blas_before, strict=False):
            _set_blas_threads(library, number)
        self.blas_before = []

    def _serve(self) -> None:
        while True:
            work, finished = self.tasks.get()
            error = None
            try:
                work()
            except BaseException as raised:  # it is the caller's: raised there
                error = raised
            finished.put(error)
            del work, finished, error  # or they would keep their arrays until the next task comes


@cache
def _blas_libraries() -> list[Any]:
    """The BLAS libraries of this process whose number of threads can be set: NumPy's own, and others' if loaded."""
    import numpy  # noqa: F401  # whose BLAS is only found once it is there
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas").lib_controllers


def _set_blas_threads(library: Any, number: int) -> None:
    """Set the number of threads of one library.

    From 3.8 on, threadpoolctl heeds only the first thread that asks, so that threads do not fight over the number; here
    the crew's lock sees to that, whichever thread it is.
    """
    getattr(library, "_real_set_num_threads", library.set_num_threads)(number)


def default_number_of_threads() -> int:
    """As many as BLAS would use, which knows the processors at hand, OMP_NUM_THREADS and its own variables.

    All processors, if the number of threads of this BLAS cannot be asked for.
    """
    with _crew.lock:
        numbers = _crew.blas_before or [each.get_num_threads() for each in _blas_libraries()]
    return min(numbers, default=os.cpu_count() or 1)


def check_number_of_threads(number: Any) -> int:
    """A number of threads that a user asks for; None asks for the default.

    Raises:
        TypeError, ValueError: it is not a positive integer.
    """
    if number is None:
        return default_number_of_threads()
    if not isinstance(number, int) or isinstance(number, bool):
        raise TypeError(f"num_threads must be a positive integer, or None for all processors; it is {number!r}.")
    if number < 1:
        raise ValueError(f"num_threads must be at least 1; it is {number}.")
    return number


def small_products_are_fast() -> bool:
    """Whether BLAS has kernels for small matrix products, as OpenBLAS has for processors with AVX-512."""
    return any(getattr(library, "architecture", None) in _FAST_ON for library in _blas_libraries())


_FAST_ON = ("SkylakeX", "Cooperlake", "SapphireRapids")  # OpenBLAS's names of the kernels it has chosen


def _after_fork() -> None:
    """In a forked child there are no helpers, and a lock may be held by a thread that is not there."""
    global _crew
    _crew.give_blas_back()
    _crew = _Crew()


_crew = _Crew()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
