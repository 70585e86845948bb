"""Threads: one maker, one join, and the cause wins over what it cancelled."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Iterator

import pytest

from dockerpush.errors import ArchiveError, Cancelled, NetworkError
from dockerpush.system.cancellation import Cancellation
from dockerpush.system.workers import STACK_SIZE, Workers, block_threads


@pytest.fixture
def cancellation() -> Iterator[Cancellation]:
    with Cancellation() as made:
        yield made
    assert [t.name for t in threading.enumerate() if t.name.startswith("push")] == []


def fail(error: BaseException) -> None:
    raise error


def stall(cancellation: Cancellation, error: BaseException | None = None) -> None:
    """Work until cancelled; then fail with *error*, as a socket that was shut does."""
    try:
        cancellation.wait(30)
    except Cancelled:
        if error is not None:
            raise error from None
        raise


def test_results_come_in_the_order_of_the_work(cancellation: Cancellation) -> None:
    with Workers(cancellation, 3) as workers:
        futures = [workers.submit(pow, number, 2) for number in range(20)]
        assert workers.wait(futures) == [number**2 for number in range(20)]


def test_threads_bear_the_name_of_their_job(cancellation: Cancellation) -> None:
    with Workers(cancellation, 1, name="upload") as workers:
        thread = workers.submit(threading.current_thread).result()
    assert thread.name.startswith("push-upload")
    assert not thread.is_alive()


def test_no_more_is_admitted_than_runs_and_waits(cancellation: Cancellation) -> None:
    go, admitted = threading.Event(), []
    feeding = Workers(cancellation, 1, name="feeder")

    def feed() -> None:
        for number in range(9):
            workers.submit(go.wait)
            admitted.append(number)

    with Workers(cancellation, 2, waiting=1) as workers, feeding as feeder:
        future = feeder.submit(feed)
        time.sleep(0.1)
        before = len(admitted)
        go.set()
        feeder.wait([future])
    assert (before, len(admitted)) == (3, 9)


def test_the_cause_wins_over_the_siblings_it_cancelled(
    cancellation: Cancellation,
) -> None:
    with (
        pytest.raises(ArchiveError, match="cause"),
        Workers(cancellation, 3) as workers,
    ):
        futures = [
            workers.submit(stall, cancellation),
            workers.submit(stall, cancellation, NetworkError("socket was shut")),
            workers.submit(fail, ArchiveError("the cause")),
        ]
        workers.wait(futures)
    assert cancellation.cancelled


@pytest.mark.parametrize("failing", ["outer", "inner"])
def test_the_cause_wins_whichever_pool_it_comes_from(
    cancellation: Cancellation, failing: str
) -> None:
    pools = Workers(cancellation, 1), Workers(cancellation, 1)
    with (
        pytest.raises(ArchiveError, match="cause"),
        pools[0] as outer,
        pools[1] as inner,
    ):
        bad, good = (outer, inner) if failing == "outer" else (inner, outer)
        future = good.submit(stall, cancellation)
        bad.submit(fail, ArchiveError("the cause"))
        good.wait([future])


def test_a_failure_nobody_waited_for_is_raised_at_the_end(
    cancellation: Cancellation,
) -> None:
    with pytest.raises(ArchiveError), Workers(cancellation, 1) as workers:
        workers.submit(fail, ArchiveError("unseen"))


def test_an_error_of_the_body_cancels_and_stays(cancellation: Cancellation) -> None:
    with pytest.raises(ZeroDivisionError), Workers(cancellation, 1) as workers:
        workers.submit(stall, cancellation)
        raise ZeroDivisionError
    assert cancellation.cancelled


def test_work_dropped_by_a_cancellation_is_never_silent(
    cancellation: Cancellation,
) -> None:
    with pytest.raises(Cancelled, match="end"), Workers(cancellation, 1) as workers:
        workers.submit(stall, cancellation)
        cancellation.cancel("the end")


def test_a_full_pool_admits_nothing_once_cancelled(cancellation: Cancellation) -> None:
    go, started = threading.Event(), []
    with pytest.raises(Cancelled), Workers(cancellation, 1, waiting=0) as workers:
        workers.submit(go.wait)
        timer = threading.Timer(0.05, cancellation.cancel)
        timer.start()
        try:
            workers.submit(started.append, 1)
        finally:
            go.set()
            timer.join()
    assert started == []


@pytest.mark.skipif(os.name == "nt", reason="no signals between threads on Windows")
def test_ctrl_c_at_the_wait_stops_the_workers(cancellation: Cancellation) -> None:
    main = threading.main_thread().ident
    assert main is not None
    # A job in the background of a shell ignores SIGINT, and pytest with it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.1, signal.pthread_kill, (main, signal.SIGINT))
    started = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt), Workers(cancellation, 1) as workers:
            future = workers.submit(stall, cancellation)
            timer.start()
            workers.wait([future])
    finally:
        signal.signal(signal.SIGINT, before)
    timer.join()
    assert time.monotonic() - started < 5


def test_small_stacks_are_for_our_threads_alone(cancellation: Cancellation) -> None:
    usual = threading.stack_size()
    with Workers(cancellation, 2) as workers:
        workers.wait([workers.submit(time.sleep, 0.01) for _ in range(4)])
    assert threading.stack_size() == usual
    assert usual != STACK_SIZE


def test_blocks_are_compressed_by_eight_threads_at_most() -> None:
    assert 1 <= block_threads() <= 8
