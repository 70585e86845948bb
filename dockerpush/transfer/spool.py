"""Temp space: spools for compressed layers, and the budget that admits them.

Rules: the producer thread admits a spool before it writes the first byte to it, and
waits while the budget is used up; an uploader releases it once the registry has
acknowledged the blob. Closing the TempSpace closes whatever is left, so that nothing
outlives a push.

The threads and the temp space of one push, all gone when it ends.
"""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Iterator

from ..archive.spooled import Spool, temp_directory
from ..system.cancellation import Cancellation
from ..system.files import free_space
from ..system.workers import Lanes, Workers, block_threads
from ..values import value
from .choices import PushOptions

SHARE_OF_FREE = 0.9
"""How much of the free space the spools may take; the rest is other people's."""


class TempSpace:
    """A directory for spools and the bytes that all of them together may take."""

    def __init__(self, directory: Path, budget: int | None = None) -> None:
        """*budget* is bytes; None takes it from the free space."""
        self.directory = directory
        if budget is None:
            budget = int(free_space(directory) * SHARE_OF_FREE)
        self.budget = budget
        self._used = 0
        self._spools: dict[Spool, int] = {}
        self._changed = threading.Condition()  # guards the two above

    def __enter__(self) -> TempSpace:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for spool in tuple(self._spools):
            self.release(spool)

    def admit(self, size: int, cancellation: Cancellation) -> Spool | None:
        """A spool that may grow to *size* bytes; None when that can never be.

        Waits for others to be released. Raises Cancelled.
        """
        if size > self.budget:
            return None
        spool = Spool(self.directory, self.budget)
        with self._changed:
            while self._used + size > self.budget:
                self._changed.wait(0.2)
                cancellation.check()
            self._used += size
            self._spools[spool] = size
        return spool

    def settle(self, spool: Spool) -> None:
        """*spool* is complete: what it did not need is free for others."""
        with self._changed:
            self._used += spool.size - self._spools[spool]
            self._spools[spool] = spool.size
            self._changed.notify_all()

    def release(self, spool: Spool) -> None:
        """Close *spool* and give its bytes back; harmless when repeated."""
        spool.close()
        with self._changed:
            self._used -= self._spools.pop(spool, 0)
            self._changed.notify_all()


@value
class Pools:
    """*producer* is one thread that reads, *blocks* compress, *uploads* send."""

    space: TempSpace
    blocks: Workers
    uploads: Lanes
    producer: Workers


@contextmanager
def open_pools(options: PushOptions, cancellation: Cancellation) -> Iterator[Pools]:
    """Pools for one push; leaving the ``with`` joins every thread, then frees space."""
    directory = options.temp_directory or temp_directory(os.environ)
    with ExitStack() as stack:
        space = stack.enter_context(TempSpace(directory, options.temp_budget))

        def workers(count: int, name: str) -> Workers:
            return stack.enter_context(Workers(cancellation, count, name=name))

        blocks = workers(block_threads(), "block")
        uploads = stack.enter_context(Lanes(cancellation, options.jobs, name="upload"))
        yield Pools(space, blocks, uploads, workers(1, "producer"))
