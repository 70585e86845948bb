"""What an answer may take on its way: bytes, seconds, and a least rate.

Every byte that comes from a registry passes here, below http.client, which by itself
reads interim answers, headers and trailers without end. Only the time in which we wait
for the other side counts: a transfer that we slow down ourselves is not slow.
"""

from __future__ import annotations

import io
import time
from typing import TYPE_CHECKING, Any

from ..errors import NetworkError, TooSlow, TransientError
from ..system.streams import RawReader

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

HEAD_BYTES = 256 * 1024
"""Bytes of all headers of an answer, its interim answers included; curl takes 300 KB.

Whoever works on a closing PUT for an hour may say 102 every few seconds.
"""
INTERIM_SECONDS = 3600.0
"""How long interim answers may go on."""
FRAMING, FRAMING_SHARE = 128 * 1024, 16
"""Bytes of chunk sizes and trailers: in all, and for each byte of the content."""
SLOW_SECONDS = 300.0
"""How long a transfer may stay below the least rate: a proxy that looks for viruses
lets a few bytes through while it fetches the rest."""


class Pace:
    """The rate of one transfer, of which *label* says what it is.

    *least_rate* is bytes a second, 0 for as slow as it likes.
    """

    def __init__(self, label: str, least_rate: float) -> None:
        self._label = label
        self._least_rate = least_rate
        self._bytes = 0
        self._seconds = 0.0

    def took(self, count: int, seconds: float) -> None:
        """Take note that *count* bytes were waited for, or sent, *seconds* long.

        Raises TooSlow.
        """
        self._bytes += count
        self._seconds += seconds
        if self._seconds < SLOW_SECONDS:
            return
        if self._bytes < self._least_rate * self._seconds:
            raise TooSlow(
                f"{self._label}: {self._bytes} bytes in {self._seconds:.0f} s, slower "
                "than --min-rate allows"
            )
        self._bytes, self._seconds = 0, 0.0


class Meter:
    """How far one answer has come, its interim answers included.

    *seconds* is how long one head may take from its first byte on.
    """

    def __init__(
        self, label: str, seconds: float = 60.0, least_rate: float = 0.0
    ) -> None:
        self._label = label
        self._seconds = seconds
        self._pace = Pace(label, least_rate)
        self._is_head, self._is_awaited = True, True
        self._left = HEAD_BYTES
        self._end = self._last = time.monotonic() + max(INTERIM_SECONDS, 60 * seconds)

    def await_head(self) -> None:
        """One more head is going to come, or has begun to."""
        self._is_awaited, self._end = True, self._last

    def begin_body(self) -> None:
        """The last head is complete."""
        self._is_head, self._left = False, FRAMING
        self._end = float("inf")

    def allow(self, count: int) -> None:
        """*count* bytes of the content are asked for."""
        self._left = FRAMING + FRAMING_SHARE * count

    def end_within(self, seconds: float) -> None:
        """The rest of the body has *seconds* from now on."""
        self._end = time.monotonic() + seconds

    def took(self, count: int, seconds: float) -> None:
        """Take note of *count* bytes that were waited for *seconds* long.

        Raises NetworkError when they are too many, TransientError when they took too
        long, TooSlow.
        """
        now = time.monotonic()
        self._left -= count
        if not self._is_head:
            self._pace.took(count, seconds)
        elif count and self._is_awaited:
            self._is_awaited = False
            self._end = min(self._end, now + self._seconds)
        what = "headers" if self._is_head else "body"
        if self._left < 0:
            raise NetworkError(
                f"{self._label}: the answer's {what} has no end; the registry, or a "
                "proxy before it, is broken"
            )
        if now > self._end:
            raise TransientError(f"{self._label}: the answer's {what} came too slowly")


class MeteredReader(io.BufferedReader):
    """A reader of answers that reports to *meter* what it reads."""

    def __init__(self, raw: Any, meter: Meter) -> None:
        """*raw* is what a socket's ``makefile`` reads from."""
        super().__init__(_MeteredIO(raw, meter))
        self.meter = meter


class _MeteredIO(RawReader):
    def __init__(self, raw: Any, meter: Meter) -> None:
        super().__init__()
        self._raw = raw
        self._meter = meter

    def fileno(self) -> int:
        return int(self._raw.fileno())

    def readinto(self, buffer: WriteableBuffer) -> int | None:
        began = time.monotonic()
        count: int | None = self._raw.readinto(buffer)
        if count is not None:
            self._meter.took(count, time.monotonic() - began)
        return count

    def close(self) -> None:
        try:
            self._raw.close()
        finally:
            super().close()
