"""A blob's bytes as one stream, whatever happens to the connection meanwhile."""

from __future__ import annotations

from types import TracebackType
from typing import Callable

from ..errors import TransientError
from ..events import OnEvent
from ..system.cancellation import Cancellation
from .blob_calls import BlobReader
from .retry import RetryPolicy, announce

Open = Callable[[int], BlobReader]


class Download:
    """The bytes of a blob from *offset* on; a break goes on where it stopped.

    Whoever reads checks the digest. Raises TransientError when *policy*'s attempts are
    used up without a byte in between, Cancelled, and what *open_at* raises.
    """

    def __init__(
        self,
        open_at: Open,
        policy: RetryPolicy,
        cancellation: Cancellation,
        *,
        on_event: OnEvent,
        what: str,
        offset: int = 0,
    ) -> None:
        self._open_at = open_at
        self._policy = policy
        self._cancellation = cancellation
        self._on_event = on_event
        self._what = what
        self._position = offset
        self._failures = 0
        self._reader: BlobReader | None = None

    def __enter__(self) -> Download:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill *buffer* as far as the next bytes go; 0 at the end."""
        while True:
            try:
                if self._reader is None:
                    self._reader = self._open_at(self._position)
                count = self._reader.readinto(buffer)
            except TransientError as error:
                self._wait_after(error)
                continue
            self._position += count
            if count:
                self._failures = 0
            return count

    def close(self) -> None:
        """Give the connection back."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _wait_after(self, error: TransientError) -> None:
        self.close()
        self._failures += 1
        delay = self._policy.delay(self._failures, error.retry_after)
        if delay is None:
            raise error
        announce(error, delay, self._what, self._on_event)
        self._cancellation.wait(delay)
