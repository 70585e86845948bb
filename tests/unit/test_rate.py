"""The limit that uploads share: even, fair, exact over time."""

from __future__ import annotations

import threading
import time
from typing import Iterator

import pytest

from dockerpush.errors import Cancelled
from dockerpush.system.cancellation import Cancellation
from dockerpush.system.rate import RateLimiter


class FakeTime:
    """A clock that only waiting moves, and that may oversleep."""

    def __init__(self, overrun: float = 0.0) -> None:
        self.now = 1000.0
        self.waits: list[float] = []
        self._overrun = overrun

    def clock(self) -> float:
        return self.now

    def wait(self, cancellation: Cancellation, seconds: float) -> None:
        cancellation.check()
        self.waits.append(seconds)
        self.now += seconds + self._overrun


@pytest.fixture
def cancellation() -> Iterator[Cancellation]:
    with Cancellation() as one:
        yield one


def send(limiter: RateLimiter, count: int, cancellation: Cancellation) -> None:
    while count:
        count -= limiter.take(count, cancellation)


@pytest.mark.parametrize("rate", [1, 19, 1000, 10_000_000])
def test_bytes_take_the_time_that_the_rate_says(
    rate: int, cancellation: Cancellation
) -> None:
    fake = FakeTime()
    limiter = RateLimiter(rate, fake.clock, fake.wait)
    send(limiter, rate * 10, cancellation)
    send(limiter, 1, cancellation)
    assert fake.now - 1000.0 == pytest.approx(10, rel=0.02)


@pytest.mark.parametrize("rate", [20, 1000, 10_000_000])
def test_no_pause_is_long_however_much_is_asked_for(
    rate: int, cancellation: Cancellation
) -> None:
    fake = FakeTime()
    limiter = RateLimiter(rate, fake.clock, fake.wait)
    send(limiter, rate * 5, cancellation)
    assert max(fake.waits) <= 0.051


def test_what_waits_overrun_is_made_good(cancellation: Cancellation) -> None:
    """Timers wake late; without credit every grant would lose that time."""
    fake = FakeTime(overrun=0.004)
    limiter = RateLimiter(100_000, fake.clock, fake.wait)
    send(limiter, 1_000_000, cancellation)
    assert fake.now - 1000.0 == pytest.approx(10, rel=0.01)


def test_idle_time_is_not_saved_up_for_a_burst(cancellation: Cancellation) -> None:
    fake = FakeTime()
    limiter = RateLimiter(1000, fake.clock, fake.wait)
    fake.now += 3600
    send(limiter, 1000, cancellation)
    assert fake.now - 4600.0 >= 0.8


def test_a_cancelled_run_neither_waits_nor_sends(cancellation: Cancellation) -> None:
    fake = FakeTime()
    limiter = RateLimiter(1000, fake.clock, fake.wait)
    cancellation.cancel("enough")
    with pytest.raises(Cancelled, match="enough"):
        limiter.take(10, cancellation)
    assert fake.waits == []


def test_nothing_asked_for_is_nothing_granted(cancellation: Cancellation) -> None:
    assert RateLimiter(1).take(0, cancellation) == 0


@pytest.mark.parametrize("rate", [0, -5])
def test_a_rate_that_lets_nothing_pass_is_refused(rate: int) -> None:
    with pytest.raises(ValueError, match="not a rate"):
        RateLimiter(rate)


def test_threads_share_the_rate_and_none_starves(cancellation: Cancellation) -> None:
    """For real, on a machine that others use too."""
    limiter = RateLimiter(1_000_000)
    sent = [0, 0, 0, 0]
    start = time.monotonic()

    def work(number: int) -> None:
        while time.monotonic() - start < 0.6:
            sent[number] += limiter.take(50_000, cancellation)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - start
    assert sum(sent) <= 1_000_000 * seconds + 4 * 50_000 + 100_000
    assert sum(sent) >= 200_000
    assert min(sent) >= 50_000


def test_cancelling_wakes_who_waits() -> None:
    """For real: a slow rate's wait ends at once."""
    with Cancellation() as cancellation:
        limiter = RateLimiter(1)
        timer = threading.Timer(0.1, cancellation.cancel, ("stop",))
        timer.start()
        start = time.monotonic()
        with pytest.raises(Cancelled):
            send(limiter, 100, cancellation)
        timer.join()
        assert time.monotonic() - start < 0.9


def test_all_of_it_passes_in_grants(cancellation: Cancellation) -> None:
    fake = FakeTime()
    limiter = RateLimiter(1000, fake.clock, fake.wait)
    assert limiter.grant == 50
    limiter.take_all(1000, cancellation)
    limiter.take_all(0, cancellation)
    assert fake.now == pytest.approx(1000.95, abs=0.06)
