"""A plain tar file as a source of members, and a window on each of them.

A window reads the bytes of one member, independently of all others.
"""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Callable

from ..errors import ArchiveError, PusherError, reason_of
from ..system.streams import RawReader
from .headers import BLOCK, SAVE_AGAIN, TarStream
from .sniff import check_tar
from .stored import Member
from .volumes import RandomAccess, blame, open_file

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


def _nothing() -> None:
    """What closing a window does to a file that belongs to somebody else."""


class Window(RawReader):
    """*size* bytes of *file* from *offset* on, as a seekable file of their own.

    *name* stands in errors. Closing it calls *on_close*. Any number of windows on one
    file may be read by as many threads, each window by one.
    """

    def __init__(
        self,
        file: RandomAccess,
        offset: int,
        size: int,
        name: str,
        *,
        on_close: Callable[[], None] = _nothing,
    ) -> None:
        super().__init__()
        self._file = file
        self._offset = offset
        self._size = size
        self._name = name
        self._on_close = on_close
        self._position = 0

    def seekable(self) -> bool:
        """Always; seeking costs nothing."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill *buffer*; the count of bytes read, 0 at the end of the window.

        Raises ArchiveError when the file ends before the window does.
        """
        left = max(self._size - self._position, 0)
        view = memoryview(buffer).cast("B")[:left]
        if not view:
            return 0
        try:
            count = self._fill(view)
        except OSError as error:
            reason = reason_of(error)
            raise ArchiveError(f"{self._name}: cannot be read: {reason}") from error
        if count == 0:
            raise ArchiveError(
                f"{self._name}: truncated: the file ends {left} bytes too early; "
                f"{SAVE_AGAIN}"
            )
        self._position += count
        return count

    def _fill(self, view: memoryview) -> int:
        return self._file.readinto(view, self._offset + self._position)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Continue from another offset of the window; returns it."""
        base = {os.SEEK_CUR: self._position, os.SEEK_END: self._size}.get(whence, 0)
        if base + offset < 0:
            raise ValueError(f"seek before the beginning: {base + offset}")
        self._position = base + offset
        return self._position

    def close(self) -> None:
        """Give back what the window was opened with."""
        if not self.closed:
            super().close()
            self._on_close()


class SparseWindow(Window):
    """The content of the sparse *member* from *start* on, with zeros for its holes."""

    def __init__(self, file: RandomAccess, member: Member, start: int) -> None:
        super().__init__(file, member.offset, member.size - start, member.name)
        assert member.sparse is not None, "a sparse member has a map"
        self._map = member.sparse
        self._start = start

    def _fill(self, view: memoryview) -> int:
        return self._map.fill(view, self._start + self._position, self._read_piece)

    def _read_piece(self, view: memoryview, offset: int) -> int:
        return self._file.readinto(view, self._offset + offset)


_BUFFER = 4096
"""Bytes read for a header: more would be thrown away at the next content."""


class TarSource:
    """The members of the plain tar at *path*, or of its volumes, open until `close`.

    Only headers are read, content is moved over. Raises OSError when the file cannot be
    opened, ArchiveError when it is no sound tar.
    """

    def __init__(self, path: Path) -> None:
        with contextlib.ExitStack() as stack:
            self._file = open_file(path)
            stack.callback(self._file.close)
            try:
                self.members = self._scan(path)
            except PusherError as error:
                self.blame(error)
                raise
            stack.pop_all()

    def open_member(self, member: Member, offset: int) -> io.RawIOBase:
        """A reader of *member* from *offset* on, independent of all others."""
        if member.sparse is not None:
            return SparseWindow(self._file, member, offset)
        return Window(
            self._file, member.offset + offset, member.size - offset, member.name
        )

    def blame(self, error: object) -> None:
        """Add to *error* which volumes are damaged."""
        blame(error, self._file)

    def close(self) -> None:
        """Close the file for all readers."""
        self._file.close()

    def _scan(self, path: Path) -> dict[str, Member]:
        size = self._file.size()
        head = memoryview(bytearray(min(size, BLOCK)))
        with Window(self._file, 0, size, path.name) as window:
            count = window.readinto(head)
            check_tar(bytes(head[:count]), path)
            window.seek(0)
            with io.BufferedReader(window, _BUFFER) as reader:
                return {member.name: member for member in TarStream(reader)}
