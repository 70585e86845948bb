"""Bytes that are kept for a while: in memory while they are few, then in a temp file.

A temp file is unlinked from the start, so nothing of it outlives the process.
"""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path
from typing import BinaryIO, Iterator, Mapping

from ..errors import MORE_TEMP_SPACE, PusherError, reason_of
from ..system.files import SharedFile
from .tar import Window

MEMORY_LIMIT = 256 * 1024
"""Bytes up to which a spool needs no file."""

DOCUMENTS_BUDGET = 256 * 1024 * 1024
"""Bytes of temp disk that the documents of an archive may take together."""


def temp_directory(environ: Mapping[str, str]) -> Path:
    """``$TMPDIR``, else ``/var/tmp``, else the system's own.

    ``/tmp`` comes last because it is often memory.
    """
    for name in (environ.get("TMPDIR"), "/var/tmp"):
        if name and Path(name).is_dir() and os.access(name, os.W_OK):
            return Path(name)
    return Path(tempfile.gettempdir())


class Spool:
    """At most *limit* bytes that are written once, then read from any offset.

    It is written by one thread, and read by the one that owns it after that.
    """

    def __init__(self, directory: Path, limit: int | None = None) -> None:
        self._directory = directory
        self._limit = limit
        self._memory: bytearray | None = bytearray()
        self._file: BinaryIO | None = None
        self._shared: SharedFile | None = None
        self.size = 0

    def write(self, data: bytes | memoryview) -> int:
        """Append *data*. Raises SpoolError when the disk is full, or for the limit."""
        size = len(data)
        self.size += size
        if self._limit is not None and self.size > self._limit:
            raise SpoolError(
                f"cannot write more than {self._limit} bytes to {self._directory}: "
                f"{MORE_TEMP_SPACE}"
            )
        if self._memory is not None:
            self._memory += data
            if len(self._memory) <= MEMORY_LIMIT:
                return size
            data, self._memory = memoryview(self._memory), None
        self._write_file(data)
        return size

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

    def _write_file(self, data: bytes | memoryview) -> None:
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
                f"cannot write a temp file in {self._directory}: {reason_of(error)}; "
                f"{MORE_TEMP_SPACE}"
            ) from error


class SpoolError(PusherError):
    """The temp directory does not take what a spool needs."""


class KeptFiles(Mapping[str, bytes]):
    """Small files by their names, in one spool; only where they lie is in memory."""

    def __init__(self) -> None:
        self._spool = Spool(temp_directory(os.environ))
        self._places: dict[str, tuple[int, int]] = {}

    def __getitem__(self, name: str) -> bytes:
        start, size = self._places[name]
        content = bytearray(size)
        view = memoryview(content)
        with self._spool.open_at(start) as reader:
            while view:
                view = view[reader.readinto(view) :]
        return bytes(content)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def has_room(self, size: int, share: float = 1.0) -> bool:
        """True when *size* more bytes are within a *share* of DOCUMENTS_BUDGET."""
        return self._spool.size + size <= DOCUMENTS_BUDGET * share

    def open_at(self, name: str, offset: int = 0) -> io.BytesIO:
        """A reader of what is under *name*, from *offset* on."""
        return io.BytesIO(self[name][offset:])

    def keep(self, name: str, content: bytes) -> None:
        """Keep *content* under *name*. Raises SpoolError when the disk is full."""
        self._places[name] = self._spool.size, len(content)
        self._spool.write(content)

    def forget(self, name: str) -> None:
        """There is nothing under *name* any more."""
        self._places.pop(name, None)

    def close(self) -> None:
        """Give the space back."""
        self._spool.close()
        self._places.clear()
