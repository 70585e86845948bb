"""How many bytes the registry keeps, and how many it may keep."""

from __future__ import annotations

import contextlib
import threading
from typing import Iterator

from .messages import STORAGE_FULL, UNKNOWN, ProtocolError


class Space:
    """Counts bytes of content and of uploads; *limit* is for both, None for any."""

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit
        self._lock = threading.Lock()  # guards stored and received
        self.stored = 0
        self.received = 0

    def fits(self, count: int) -> bool:
        """True when *count* bytes more are within the limit."""
        return self._limit is None or self.stored + self.received + count <= self._limit

    def receive(self, count: int) -> None:
        """An upload grows by *count* bytes. Raises ProtocolError (507)."""
        with self._lock:
            if count > 0 and not self.fits(count):
                raise ProtocolError(
                    STORAGE_FULL,
                    UNKNOWN,
                    f"the registry is full: it may keep {self._limit} bytes; delete "
                    "what is not needed, or have its operator raise --max-size",
                )
            self.received += count

    @contextlib.contextmanager
    def room_for(self, count: int) -> Iterator[None]:
        """Keep room for *count* bytes for the ``with``. Raises ProtocolError (507)."""
        self.receive(count)
        try:
            yield
        finally:
            self.receive(-count)

    def store(self, count: int) -> None:
        """Content of *count* bytes came, or went when it is negative."""
        with self._lock:
            self.stored += count
