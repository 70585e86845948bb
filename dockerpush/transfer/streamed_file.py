"""A file of an archive that goes by, and who else sees its bytes as they are read."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Callable

from ..archive.spooled import Spool
from ..oci import Digest
from ..system.streams import RawReader
from ..upload.content import PIECE
from .prepare import Sample

if TYPE_CHECKING:
    from hashlib import _Hash

    from ..archive.forward import ForwardArchive


class StreamedFile(RawReader):
    """The current file of *archive*, read once, forward.

    *report* gets the count of bytes read. A *spool*, a *sample* and a *hasher* see the
    bytes where they are given.
    """

    def __init__(
        self,
        archive: ForwardArchive,
        report: Callable[[int], None],
        spool: Spool | None,
        sample: Sample | None,
        hasher: _Hash | None,
    ) -> None:
        super().__init__()
        self._archive = archive
        self._report = report
        self._spool = spool
        self._sample = sample
        self._hasher = hasher

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        """Fill *buffer* with what comes next; 0 at the end of the file."""
        view = memoryview(buffer).cast("B")
        count = self._archive.readinto(view)
        if count:
            piece = view[:count]
            self._report(count)
            if self._spool is not None:
                self._spool.write(bytes(piece))
            if self._sample is not None:
                self._sample.feed(piece)
            if self._hasher is not None:
                self._hasher.update(piece)
        return count

    def read_all(self, named: Digest | None) -> Digest:
        """Have all of it seen; its digest, of the algorithm that *named* has."""
        self._hasher = named.hasher() if named else hashlib.sha256()
        buffer = memoryview(bytearray(PIECE))
        while self.readinto(buffer):
            pass
        return Digest.from_hash(self._hasher)
