"""A directory as a source of members: an OCI layout, ``dir:``, or an unpacked tar.

Links are followed while they stay in the directory; those that leave it are members
that nobody can read, so that an image that does not need them can still be pushed.
"""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from typing import Iterator

from ..errors import ArchiveError
from ..system.files import SharedFile
from .headers import HEADER_LIMIT
from .member_names import quoted
from .stored import Kind, Member
from .window import Window

DEPTH_LIMIT = 4
"""Folders below the directory; ``blobs/sha256/HEX`` and ``ID/layer.tar`` need fewer."""

_MARKERS = ("index.json", "manifest.json", "oci-layout", "repositories")


class DirectorySource:
    """The files of the directory at *path*, each opened anew by every reader.

    Raises OSError when it cannot be listed, ArchiveError when it is no archive.
    """

    def __init__(self, path: Path) -> None:
        self._root = _real(path)
        self.members: dict[str, Member] = {}
        if not any((path / name).exists() for name in _MARKERS):
            raise ArchiveError(
                "the directory holds no image: wanted index.json or manifest.json in it"
            )
        for member in self._walk(self._root, "", 0):
            self.members[member.name] = member
            if len(self.members) > HEADER_LIMIT:
                raise ArchiveError(f"more than {HEADER_LIMIT} files below it")

    def open_member(self, member: Member, offset: int) -> io.RawIOBase:
        """A reader of *member* from *offset* on, with a file handle of its own."""
        path = _real(self._root / member.name)
        if not self._holds(path):
            raise ArchiveError(f"{quoted(member.name)}: a {Kind.OUTSIDE.value}")
        try:
            file = SharedFile.open(path)
        except OSError as error:
            reason = error.strerror or str(error)
            raise ArchiveError(
                f"{quoted(member.name)}: cannot be read: {reason}"
            ) from error
        return Window(
            file, offset, member.size - offset, member.name, on_close=file.close
        )

    def close(self) -> None:
        """Nothing, since every reader has a file of its own."""

    def _walk(self, folder: Path, prefix: str, depth: int) -> Iterator[Member]:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = prefix + entry.name
                member = self._member(entry, name)
                yield member
                if member.kind is Kind.DIRECTORY and depth < DEPTH_LIMIT:
                    yield from self._walk(Path(entry.path), name + "/", depth + 1)

    def _member(self, entry: os.DirEntry[str], name: str) -> Member:
        if entry.is_symlink() and not self._holds(_real(entry.path)):
            return Member(name, Kind.OUTSIDE)
        with contextlib.suppress(OSError):  # a loop of links, or a file that went away
            if entry.is_dir():
                return Member(name, Kind.DIRECTORY)
            if entry.is_file():
                return Member(name, Kind.FILE, entry.stat().st_size)
        return Member(name, Kind.OTHER)

    def _holds(self, path: Path) -> bool:
        return path == self._root or self._root in path.parents


def _real(path: str | Path) -> Path:
    """*path* without links; `Path.resolve` fails on loops before Python 3.13."""
    return Path(os.path.realpath(path))
