"""When to try again, and how long to wait before."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockerpush.errors import Cancelled, RegistryError, TransientError
from dockerpush.events import Notice, Retrying
from dockerpush.registry.retry import RetryPolicy, parse_retry_after, retrying
from dockerpush.system.cancellation import Cancellation


def policy(**settings) -> RetryPolicy:
    settings.setdefault("random", lambda: 0.0)
    return RetryPolicy(**settings)


class Failing:
    """Fails with *errors*, one after another, then gives 7."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self) -> int:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return 7


def test_delays_double_up_to_the_cap():
    slow = policy(attempts=8, base=1.0, cap=10.0)
    delays = [slow.delay(attempt) for attempt in range(1, 9)]
    assert delays == [1, 2, 4, 8, 10, 10, 10, None]


def test_jitter_only_shortens():
    assert policy(random=lambda: 1.0, jitter=0.5).delay(2) == 1.0
    assert policy(random=lambda: 0.5, jitter=0.5).delay(2) == 1.5


def test_what_the_server_asks_for_is_waited_for_up_to_a_limit():
    waiting = policy(longest_wait=120.0)
    assert waiting.delay(1, 7.0) == 7.0
    assert waiting.delay(1, 0.0) == 0.0
    assert waiting.delay(1, 21_600.0) == 120.0
    assert waiting.delay(4, 7.0) is None


def test_a_very_late_attempt_does_not_overflow():
    assert policy(attempts=10**9, cap=30.0).delay(10**8) == 30.0


def test_transient_failures_are_tried_again_and_reported():
    events, call = [], Failing(TransientError("reset"), TransientError("503"))
    with Cancellation() as cancellation:
        result = retrying(
            call, policy(base=0.0), cancellation, on_event=events.append, what="blob x"
        )
    assert (result, call.calls) == (7, 3)
    assert events == [Retrying("blob x", "reset", 0.0), Retrying("blob x", "503", 0.0)]


def test_a_longer_wait_than_allowed_is_reported():
    """docker/buildx#3630."""
    events, call = [], Failing(TransientError("429", retry_after=3600.0))
    with Cancellation() as cancellation:
        retrying(
            call,
            policy(longest_wait=0.0),
            cancellation,
            on_event=events.append,
            what="tags",
        )
    assert events[0] == Notice("tags: the registry asks for 3600 s, waiting 0 s")


def test_the_last_failure_is_raised():
    call = Failing(*(TransientError(str(number)) for number in range(9)))
    with Cancellation() as cancellation, pytest.raises(TransientError, match="2"):
        retrying(call, policy(attempts=3, base=0.0), cancellation, what="x")
    assert call.calls == 3


def test_a_definite_failure_is_not_tried_again():
    call = Failing(RegistryError("GET", "u", 400))
    with Cancellation() as cancellation, pytest.raises(RegistryError):
        retrying(call, policy(), cancellation, what="x")
    assert call.calls == 1


def test_a_wait_ends_when_cancelled():
    call = Failing(TransientError("no", retry_after=60.0))

    def stop(event) -> None:
        cancellation.cancel("enough")

    started = time.monotonic()
    with Cancellation() as cancellation, pytest.raises(Cancelled, match="enough"):
        retrying(call, policy(), cancellation, on_event=stop, what="x")
    assert time.monotonic() - started < 5


def test_nothing_is_tried_once_cancelled():
    call = Failing()
    with Cancellation() as cancellation:
        cancellation.cancel("enough")
        with pytest.raises(Cancelled):
            retrying(call, policy(), cancellation, what="x")
    assert call.calls == 0


class Clock:
    """A clock that only waits move."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waits: list[float] = []

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds

    def check(self) -> None:
        """Nobody cancels."""


def down() -> TransientError:
    return TransientError("connection refused", unreachable=True)


def test_an_outage_is_waited_out_by_the_clock():
    """Far more tries than a failure that is none gets."""
    clock = Clock()
    patient = policy(attempts=4, patience=60.0, clock=clock, jitter=0.0)
    call = Failing(*(down() for _ in range(13)))
    assert retrying(call, patient, clock, what="x") == 7
    assert clock.waits[:4] == [1.0, 2.0, 4.0, 5.0] and max(clock.waits) == 5.0


def test_an_outage_that_lasts_is_reported_as_one():
    clock = Clock()
    patient = policy(attempts=4, patience=60.0, clock=clock, jitter=0.0)
    call = Failing(*(down() for _ in range(99)))
    with pytest.raises(TransientError, match=r"was down for 6\d s: run the same"):
        retrying(call, patient, clock, what="x")
    assert 60 <= clock.now < 66


def test_silence_counts_tries_and_so_do_hang_ups_where_they_may_mean_no():
    clock = Clock()
    patient = policy(attempts=3, patience=60.0, clock=clock, jitter=0.0)
    silent = Failing(*(TransientError("no answer within 6 s") for _ in range(9)))
    with pytest.raises(TransientError, match="no answer"):
        retrying(silent, patient, clock, what="x")
    cut = Failing(*(TransientError("broke", hung_up=True) for _ in range(9)))
    with pytest.raises(TransientError, match="broke"):
        retrying(cut, patient, clock, what="x", hang_ups=False)
    assert (silent.calls, cut.calls) == (3, 3)


def test_whoever_wants_no_second_try_gets_none_in_an_outage():
    clock = Clock()
    call = Failing(down(), down())
    once = policy(attempts=1, patience=60.0, clock=clock)
    with pytest.raises(TransientError, match="refused"):
        retrying(call, once, clock, what="x")
    assert call.calls == 1


NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        (" 120 ", 120.0),
        (formatdate(NOW + 30, usegmt=True), 30.0),
        (formatdate(NOW - 30, usegmt=True), 0.0),
        ("Mon, 32 Foo 2026", None),
        ("-3", None),
        ("1.5", None),
        ("٣", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value, seconds):
    assert parse_retry_after(value, lambda: NOW) == seconds


@given(st.text())
def test_any_retry_after_is_seconds_or_nothing(text):
    seconds = parse_retry_after(text, lambda: NOW)
    assert seconds is None or seconds >= 0
