"""What the uploads of one run have learned about their host; threads share it."""

from __future__ import annotations

import threading
import time
from typing import Callable

from ..system.cancellation import Cancellation
from ..values import replace
from .limits import CHUNK, HostLimits, Observed

_BODY_SIZES = (Observed.TOO_LARGE, Observed.CHUNK_TOO_LARGE)


class LearnedLimits:
    """The limits of one host: *limits* at first, then what its answers made of them.

    *clock* gives seconds that only grow.
    """

    def __init__(
        self, limits: HostLimits, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limits = limits
        self._clock = clock
        self._lock = threading.Lock()  # guards _limits and _free_at
        self._free_at = clock()

    @property
    def current(self) -> HostLimits:
        """The limits as they are known now."""
        return self._limits

    def advertised(self, minimum: int | None, maximum: int | None) -> None:
        """The host said OCI-Chunk-Min-Length or OCI-Chunk-Max-Length."""
        with self._lock:
            self._limits = self._limits.advertised(minimum, maximum)

    def observe(self, observed: Observed, size: int = 0) -> bool:
        """Learn from *observed* of a body of *size* bytes.

        True when the next try will differ from the last; that is also so when another
        thread has learned the same before.
        """
        with self._lock:
            before = self._limits
            if observed in _BODY_SIZES and _avoids(before, size):
                return True
            self._limits = before.observe(observed, size)
            return self._limits != before

    def wait_for_turn(self, cancellation: Cancellation) -> None:
        """Wait as long as the host's pace asks for. Raises Cancelled."""
        with self._lock:
            now = self._clock()
            start = max(now, self._free_at)
            self._free_at = start + self._limits.pace
        if start > now:
            cancellation.wait(start - now)


def limits_for(limits: HostLimits, chunk_size: int | None) -> HostLimits:
    """*limits* when the user asks for chunks of *chunk_size* bytes.

    Whoever asks for smaller requests than usual means the one PUT as well. None, or the
    usual size, asks for nothing.
    """
    if chunk_size is None or chunk_size == CHUNK:
        return limits
    wanted = limits.with_chunk(chunk_size)
    if limits.monolithic_max is None or not limits.chunked:
        return wanted
    return replace(wanted, monolithic_max=chunk_size)


def _avoids(limits: HostLimits, size: int) -> bool:
    """True when a body of *size* bytes would not be sent any more."""
    return not limits.is_monolithic(size) and limits.chunk_size < size
