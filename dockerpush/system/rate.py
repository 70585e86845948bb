"""A limit in bytes a second that all bytes of a run share, sent and received.

Each caller reserves the next free slot of time and waits for it, so nobody is starved.
A grant is worth a twentieth of a second: bytes flow evenly, and nothing between us and
the registry sees a pause that it could take for death.
"""

from __future__ import annotations

import threading
import time
from typing import Callable

from .cancellation import Cancellation

GRANT = 0.05
"""Seconds that the bytes of one grant are worth."""

CREDIT = 0.1
"""Seconds of unused time that may be made good: what waits overran, never a burst."""


class RateLimiter:
    """Lets *bytes_per_second* pass, counted over all threads that call `take`.

    *clock* gives seconds that only grow; *wait* sleeps, and raises Cancelled when the
    cancellation that it is given is raised.
    """

    def __init__(
        self,
        bytes_per_second: int,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[Cancellation, float], None] = Cancellation.wait,
    ) -> None:
        if bytes_per_second < 1:
            raise ValueError(f"not a rate in bytes a second: {bytes_per_second}")
        self._rate = bytes_per_second
        self._grant = max(1, int(bytes_per_second * GRANT))
        self._clock = clock
        self._wait = wait
        self._lock = threading.Lock()  # guards _free_at
        self._free_at = clock()

    @property
    def grant(self) -> int:
        """Bytes that `take` lets pass at a time, at most."""
        return self._grant

    def take(self, count: int, cancellation: Cancellation) -> int:
        """Wait until bytes may pass; how many of *count*, at least 1 if it is.

        Call it again for the rest. Raises Cancelled.
        """
        cancellation.check()
        granted = min(count, self._grant)
        if granted <= 0:
            return 0
        with self._lock:
            now = self._clock()
            start = max(self._free_at, now - CREDIT)
            self._free_at = start + granted / self._rate
        if start > now:
            self._wait(cancellation, start - now)
        return granted

    def take_all(self, count: int, cancellation: Cancellation) -> None:
        """Wait until all of *count* bytes may pass. Raises Cancelled."""
        while count > 0:
            count -= self.take(count, cancellation)
