"""A plain tar file as a source of members."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

from ..system.files import SharedFile
from .blocks import BLOCK
from .headers import TarStream
from .sniff import check_tar
from .stored import Member
from .window import Window

_BUFFER = 4096
"""Bytes read for a header: more would be thrown away at the next content."""


class TarSource:
    """The members of the plain tar at *path*, which stays open until `close`.

    Only headers are read, content is moved over. Raises OSError when the file cannot be
    opened, ArchiveError when it is no sound tar.
    """

    def __init__(self, path: Path) -> None:
        with contextlib.ExitStack() as stack:
            self._file = SharedFile.open(path)
            stack.callback(self._file.close)
            self.members = self._scan(path)
            stack.pop_all()

    def open_member(self, member: Member, offset: int) -> io.RawIOBase:
        """A reader of *member* from *offset* on, independent of all others."""
        return Window(
            self._file, member.offset + offset, member.size - offset, member.name
        )

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
