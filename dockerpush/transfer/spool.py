"""Temp space: spools for compressed layers, and the budget that admits them.

Rules: the producer thread admits a spool before it writes the first byte to it, and
waits while the budget is used up; an uploader releases it once the registry has
acknowledged the blob. A spool is in memory while it is small, then in an unlinked temp
file. Closing the TempSpace closes whatever is left, so that nothing outlives a push.

The threads and the temp space of one push, all gone when it ends.
"""

from __future__ import annotations

import io
import os
import tempfile
import threading
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Iterator, Mapping

from ..archive.tar import Window
from ..errors import PusherError
from ..system.cancellation import Cancellation
from ..system.files import SharedFile, free_space
from ..system.workers import Workers, block_threads
from ..values import value
from .choices import PushOptions

MEMORY_LIMIT = 256 * 1024
"""Bytes up to which a spool needs no file."""

SHARE_OF_FREE = 0.9
"""How much of the free space the spools may take; the rest is other people's."""


def temp_directory(environ: Mapping[str, str]) -> Path:
    """``$TMPDIR``, else ``/var/tmp``, else the system's own.

    ``/tmp`` comes last because it is often memory.
    """
    for name in (environ.get("TMPDIR"), "/var/tmp"):
        if name and Path(name).is_dir() and os.access(name, os.W_OK):
            return Path(name)
    return Path(tempfile.gettempdir())


class Spool:
    """Bytes that are written once, then read from any offset.

    It is written by one thread, and read by the one that owns it after that.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._memory: bytearray | None = bytearray()
        self._file: BinaryIO | None = None
        self._shared: SharedFile | None = None
        self.size = 0

    def write(self, data: bytes) -> int:
        """Append *data*. Raises PusherError when the disk is full."""
        self.size += len(data)
        if self._memory is not None:
            self._memory += data
            if len(self._memory) <= MEMORY_LIMIT:
                return len(data)
            data, self._memory = bytes(self._memory), None
        self._write_file(data)
        return len(data)

    def open_at(self, offset: int) -> io.RawIOBase | io.BytesIO:
        """A reader of everything from *offset* on, which the caller closes."""
        if self._memory is not None:
            return io.BytesIO(memoryview(self._memory)[offset:])
        assert self._shared is not None, "a spool is read after it was written"
        return Window(self._shared, offset, self.size - offset, "spool")

    def close(self) -> None:
        """Give the space back."""
        self._memory = None
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write_file(self, data: bytes) -> None:
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(  # noqa: SIM115
                    prefix="dockerpush-", dir=self._directory, buffering=0
                )
                self._shared = SharedFile(self._file)
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise SpoolError(
                f"cannot write a temp file in {self._directory}: {error.strerror}; "
                "free some space there, or set TMPDIR to a larger directory"
            ) from error


class SpoolError(PusherError):
    """The temp directory does not take what a spool needs."""


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
        spool = Spool(self.directory)
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
    uploads: Workers
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
        uploads = workers(options.jobs, "upload")
        yield Pools(space, blocks, uploads, workers(1, "producer"))
