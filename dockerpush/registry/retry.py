"""The one owner of retries: which failures may pass, how often and how long to wait.

A policy decides, `retrying` acts. Nothing below it (urllib3) and nothing above it
repeats a request by itself, except the uploader, which owns the requests with a body.
"""

from __future__ import annotations

import logging
import random
import time
from email.utils import parsedate_to_datetime
from typing import Callable, TypeVar

from ..errors import PusherError, TooSlow, TransientError
from ..events import Notice, OnEvent, Retrying, ignore
from ..system.cancellation import Cancellation
from ..values import field, replace, value

log = logging.getLogger(__name__)

T = TypeVar("T")

SHORTEST_PAUSE = 0.1
"""Seconds between two looks whether an outage is over."""

TRANSIENT_STATUSES = frozenset({408, 425, 429, *range(500, 600)} - {501})
"""Statuses that may be different next time; every other one is a definite answer.

501 is one: what a server has not got today it has not got in a second either.
"""


@value
class RetryPolicy:
    """How often to try and how long to wait in between; all times are seconds.

    *attempts* counts the first one too. The delays are *base*, twice that, and so on,
    up to *cap*, each shortened by a random part of up to *jitter* (0 to 1). What a
    server asks for by Retry-After is waited for in full, up to *longest_wait*. An
    outage of a host that answered before may last *patience*, by *clock*, with at most
    *outage_cap* between two tries; 0: it is a failure like others.
    """

    attempts: int = 4
    base: float = 1.0
    cap: float = 30.0
    jitter: float = 0.5
    longest_wait: float = 120.0
    patience: float = 0.0
    outage_cap: float = 5.0
    random: Callable[[], float] = field(default=random.random, repr=False)
    clock: Callable[[], float] = field(default=time.monotonic, repr=False)

    def delay(self, attempt: int, retry_after: float | None = None) -> float | None:
        """Seconds to wait after failed attempt number *attempt*, from 1 on.

        None means that it was the last one.
        """
        if attempt >= self.attempts:
            return None
        if retry_after is not None:
            return min(max(retry_after, 0.0), self.longest_wait)
        doublings = min(attempt - 1, 32)
        delay = min(self.cap, self.base * float(2**doublings))
        return delay * (1 - self.jitter * self.random())


class Attempts:
    """The tries of one piece of work: failures count, and outages last.

    With *hang_ups* a connection that breaks is an outage like one that is refused.
    """

    def __init__(self, policy: RetryPolicy, *, hang_ups: bool = True) -> None:
        self._policy = policy
        self._hang_ups = hang_ups
        self._failures = 0
        self._outages = 0
        self._slow = 0
        self._down_since = 0.0

    def succeeded(self) -> None:
        """The work has got on: what failed before does not count any more."""
        self._failures = self._outages = 0

    def delay_after(self, error: PusherError) -> float:
        """Seconds to wait after *error* before the next try.

        Raises *error*, or what says that the host was down, when there is none.
        """
        policy = self._policy
        self._slow += isinstance(error, TooSlow)
        if self._slow >= policy.attempts:
            raise error
        if isinstance(error, TransientError) and self._is_outage(error):
            return self._wait_out(error)
        self._failures, self._outages = self._failures + 1, 0
        asked = error.retry_after if isinstance(error, TransientError) else None
        delay = policy.delay(self._failures, asked)
        if delay is None:
            raise error
        return delay

    def _is_outage(self, error: TransientError) -> bool:
        broke = error.unreachable or (error.hung_up and self._hang_ups)
        return broke and self._policy.attempts > 1 and self._policy.patience > 0

    def _wait_out(self, error: TransientError) -> float:
        policy, now = self._policy, self._policy.clock()
        if not self._outages:
            self._down_since = now
        self._outages += 1
        if now - self._down_since >= policy.patience:
            error.unreachable = True
            down = f"{now - self._down_since:.0f} s"
            raise error.with_advice(
                f"the registry, or the network, was down for {down}: run the same "
                "command again"
            )
        delay = replace(policy, attempts=self._outages + 1).delay(self._outages)
        return min(max(SHORTEST_PAUSE, delay or 0.0), policy.outage_cap)


def retrying(
    call: Callable[[], T],
    policy: RetryPolicy,
    cancellation: Cancellation,
    *,
    on_event: OnEvent = ignore,
    what: str,
    hang_ups: bool = True,
) -> T:
    """*call()* until it succeeds; only TransientError earns another attempt.

    *what* names the work for people, *hang_ups* is as for `Attempts`. Raises the last
    TransientError, Cancelled, or whatever else *call* raises, at once.
    """
    attempts = Attempts(policy, hang_ups=hang_ups)
    while True:
        cancellation.check()
        try:
            return call()
        except TransientError as error:
            delay = attempts.delay_after(error)
            announce(error, delay, what, on_event)
            cancellation.wait(delay)


def announce(error: TransientError, delay: float, what: str, on_event: OnEvent) -> None:
    """Say that *what* failed by *error* and is tried again after *delay* seconds.

    A server that asked for a longer wait than it gets is mentioned aloud.
    """
    if error.retry_after is not None and error.retry_after > delay:
        asked = f"{error.retry_after:.0f} s"
        on_event(
            Notice(f"{what}: the registry asks for {asked}, waiting {delay:.0f} s")
        )
    on_event(Retrying(what, str(error), delay))
    log.info("%s: waiting %.1fs after: %s", what, delay, error)


def parse_retry_after(
    value: str | None, now: Callable[[], float] = time.time
) -> float | None:
    """Seconds that a Retry-After header asks for (RFC 9110, 10.2.3).

    Takes seconds and dates, the latter against the wall clock *now*; None for no header
    and for nonsense. Never negative.
    """
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:12])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now())
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
