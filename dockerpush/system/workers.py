"""The one place that makes threads, joins them, and decides whose failure counts.

A transfer holds several `Workers`, which share one Cancellation: the producer (one
thread that reads), the block pool (`block_threads` threads that compress), and the
uploaders, in two `Lanes`. The first failure in any of them cancels the others, and what
the caller gets to see is that failure, never the Cancelled of a sibling.
"""

from __future__ import annotations

import contextlib
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Any, Callable, Iterable, Iterator, Sequence, TypeVar

from ..errors import Cancelled
from .cancellation import Cancellation

T = TypeVar("T")
Item = TypeVar("Item")

STACK_SIZE = 2 * 1024 * 1024
"""Bytes of address space for a thread's stack. The usual 8 MiB keep a dozen threads
from starting under a tight ``ulimit -v``; in 1 MiB, Python 3.13 dies on deeply nested
JSON before it reaches its own recursion limit."""

STEP = 0.2
"""Seconds between two looks at signals while the main thread waits: a lock that is
waited for without a time limit hides Ctrl-C on Windows."""

_stack_size = threading.Lock()  # guards threading.stack_size, which is global


MOST_SMALL = 16
"""How many small things are under way at a time unless more large ones may be."""


def wide(jobs: int) -> int:
    """How many small things may be under way where *jobs* large ones may be.

    What is small waits for answers, so more of it fits into the same time. Who asks for
    one job at a time gets one.
    """
    return jobs if jobs == 1 else max(jobs, min(4 * jobs, MOST_SMALL))


def block_threads() -> int:
    """How many threads compress blocks: one for each core, at most 8."""
    return min(os.cpu_count() or 1, 8)


class Workers:
    """Up to *count* threads named ``push-NAME_N``, which live as long as the ``with``.

    Leaving the ``with`` joins them all, after cancelling when it is left by an error.
    It raises the first failure of any work, unless the body has a cause of its own
    (anything but Cancelled).
    """

    def __init__(
        self,
        cancellation: Cancellation,
        count: int,
        *,
        name: str = "worker",
        waiting: int = 2,
    ) -> None:
        """*waiting* pieces of work may be admitted beyond the *count* that run."""
        self.count = count
        self._cancellation = cancellation
        self._executor = ThreadPoolExecutor(count, f"push-{name}")
        self._permits = threading.Semaphore(count + waiting)
        self._lock = threading.Lock()  # guards the two below
        self._unfinished: set[Future[Any]] = set()
        self._cause: BaseException | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._cancellation.cancel("an earlier failure stopped this work")
        try:
            self._join()
            if error is None or isinstance(error, Cancelled):
                self._raise_cause()
            if error is None:
                self._cancellation.check()
        finally:
            self._cause = None  # it holds frames, and they hold this object

    def submit(self, work: Callable[..., T], *arguments: Any) -> Future[T]:
        """Run ``work(*arguments)`` in a thread; waits until there is room for it.

        Raises Cancelled when the work would never start. Not to be called from a
        thread of the same pool, which would wait for itself.
        """
        while not self._permits.acquire(timeout=STEP):
            self._cancellation.check()
        try:
            future = self.add(work, *arguments)
        except BaseException:
            self._permits.release()
            raise
        future.add_done_callback(lambda _: self._permits.release())
        return future

    def add(self, work: Callable[..., T], *arguments: Any) -> Future[T]:
        """As `submit`, without waiting: for work that holds nothing until it begins."""
        self._cancellation.check()
        with _small_stacks():
            future = self._executor.submit(self._run, work, *arguments)
        with self._lock:
            self._unfinished.add(future)
        future.add_done_callback(self._finished)
        return future

    def wait(self, futures: Iterable[Future[T]]) -> list[T]:
        """The results in the order of *futures*, once all are there.

        Raises the first failure of any work of this pool, or Cancelled.
        """
        futures = tuple(futures)
        _wait(futures)
        self._raise_cause()
        self._cancellation.check()
        return [future.result() for future in futures]

    def _run(self, work: Callable[..., T], *arguments: Any) -> T:
        self._cancellation.check()
        try:
            return work(*arguments)
        except BaseException as error:
            self._failed(error)
            raise

    def _failed(self, error: BaseException) -> None:
        """Keep *error* if it is a cause: what fails once cancelled only follows."""
        with self._lock:
            if self._cause is None and not self._cancellation.cancelled:
                self._cause = error
        self._cancellation.cancel("an earlier failure stopped this work")

    def _finished(self, future: Future[Any]) -> None:
        with self._lock:
            self._unfinished.discard(future)

    def _raise_cause(self) -> None:
        if self._cause is not None:
            raise self._cause

    def _join(self) -> None:
        with self._lock:
            unfinished = tuple(self._unfinished)
        _wait(unfinished)
        self._executor.shutdown()


def in_parallel(
    work: Callable[[Item], T], items: Sequence[Item], cancellation: Cancellation
) -> list[T]:
    """What *work* returns for each of *items*; the cores share them.

    For what reads and hashes: more threads than cores gain nothing. Raises the first
    failure of *work*, or Cancelled.
    """
    count = min(block_threads(), len(items))
    if count < 2:
        return [work(item) for item in items]
    with cancellation.child() as child, Workers(child, count, name="read") as workers:
        return workers.wait([workers.add(work, item) for item in items])


class Lanes:
    """*jobs* threads for what is large, and `wide` ones beside them for what is small.

    One job means one thread, which does everything in the order in which it comes.
    """

    def __init__(self, cancellation: Cancellation, jobs: int, *, name: str) -> None:
        self._stack = contextlib.ExitStack()
        self._large = self._small = Workers(cancellation, jobs, name=name)
        if jobs > 1:
            self._small = Workers(cancellation, wide(jobs), name=f"small-{name}")

    def __enter__(self) -> Lanes:
        for workers in {self._large, self._small}:
            self._stack.enter_context(workers)
        return self

    def __exit__(self, *failure: Any) -> None:
        self._stack.__exit__(*failure)

    def lane(self, *, small: bool) -> Workers:
        """The threads for what is *small*, or is not."""
        return self._small if small else self._large

    def wait(self, futures: Iterable[Future[T]]) -> list[T]:
        """As `Workers.wait`, of both lanes; `__exit__` says whose failure counts."""
        return self._large.wait(futures)


def run_detached(call: Callable[[], T], cancellation: Cancellation, name: str) -> T:
    """What *call* returns; when cancelled before that, its thread is left behind.

    For what the system cannot interrupt, such as a name look-up. *call* returns its
    failures. Raises Cancelled.
    """
    results: list[T] = []
    thread = threading.Thread(
        target=lambda: results.append(call()), name=name, daemon=True
    )
    with _small_stacks():
        thread.start()
    while thread.is_alive():
        thread.join(STEP)
        cancellation.check()
    return results[0]


@contextlib.contextmanager
def ticker(seconds: float, tick: Callable[[], None]) -> Iterator[None]:
    """Call *tick* from a thread every so many *seconds* during the ``with``."""
    done = threading.Event()

    def run() -> None:
        while not done.wait(seconds):
            tick()

    thread = threading.Thread(target=run, name="push-ticker", daemon=True)
    with _small_stacks():
        thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _wait(futures: tuple[Future[Any], ...]) -> None:
    while wait(futures, STEP).not_done:
        pass


@contextlib.contextmanager
def _small_stacks() -> Iterator[None]:
    """Threads that start within get STACK_SIZE."""
    with _stack_size:
        usual = threading.stack_size(STACK_SIZE)
        try:
            yield
        finally:
            threading.stack_size(usual)
