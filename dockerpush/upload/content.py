"""A blob that is ready to be sent, and its bytes in pieces that are checked on the way.

Rules: every byte is hashed once, however often it is sent; the last piece of a blob is
held back until digest and size agree with the descriptor, so that no registry can ever
close a blob that is not what we promised.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Callable, Iterator, Protocol

from ..errors import ArchiveError, ContentMismatch, reason_of
from ..events import BytesSent, OnEvent
from ..oci import Descriptor, Digest
from ..system.cancellation import Cancellation
from ..system.streams import Closeable
from ..values import value

if TYPE_CHECKING:
    from .open_session import UploadSession

PIECE = 256 * 1024
"""Bytes read and sent at a time: a link of 20 KB/s moves them within a quarter of the
60 seconds that a socket may stand still."""


class BlobReader(Protocol):
    """What `PreparedBlob.open_at` gives: bytes from there on, until it is closed."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill *buffer* from its start; the count of bytes, 0 at the end."""

    def close(self) -> None:
        """Give back what the reader holds."""


class FileReader:
    """A reader of a file, whose failures are not those of what it is copied to."""

    def __init__(self, reader: BlobReader, place: str) -> None:
        self._reader = reader
        self._place = place

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill *buffer* as far as the next bytes go; 0 at the end."""
        try:
            return self._reader.readinto(buffer) or 0
        except OSError as error:
            raise ArchiveError(
                f"{self._place}: cannot be read: {reason_of(error)}"
            ) from error

    def close(self) -> None:
        """Close the file."""
        self._reader.close()


class Blob(Protocol):
    """What is sent: *descriptor* is None until it is complete, *key* names it."""

    @property
    def key(self) -> str: ...  # noqa: D102

    @property
    def descriptor(self) -> Descriptor | None: ...  # noqa: D102

    @property
    def open_at(self) -> Callable[[int], BlobReader]: ...  # noqa: D102


class Begun(Protocol):
    """What has sent parts of a blob before its digest was known."""

    @property
    def content(self) -> CheckedContent:
        """The bytes, hashed as far as they were sent."""

    def continued(self) -> UploadSession | None:
        """The session that has them; None where there is none any more."""


@value
class PreparedBlob:
    """A blob whose digest and size are known, and whose bytes can be read again.

    *key* names it in events. *open_at* opens a reader at an offset in bytes, any number
    of times. *release* gives back what keeps the bytes (a temp file, a budget); whoever
    made the blob calls it once, when the registry has the blob or the run has ended.
    *from_network* says that wrong bytes may be right when they are read once more.
    *made_from* is the digest of the content that this run compressed into the blob,
    None when it did not. *early* has sent parts of it, if anything has.
    """

    key: str
    descriptor: Descriptor
    open_at: Callable[[int], BlobReader]
    release: Callable[[], None] = lambda: None
    from_network: bool = False
    made_from: Digest | None = None
    early: Begun | None = None


class Pieces:
    """A part of a content, from its start each time that it is iterated."""

    def __init__(self, content: CheckedContent, start: int, end: int) -> None:
        self._content = content
        self._start = start
        self._end = end

    def __iter__(self) -> Iterator[memoryview]:
        return self._content.read_pieces(self._start, self._end)


class CheckedContent(Closeable):
    """The bytes of *blob* for one upload, hashed and reported as they go.

    One thread uses it. `position` is how far the bytes were handed out; going back is
    reported as a negative BytesSent, and what was hashed is not hashed again. A *piece*
    has at most so many bytes. Nothing is promised of a *blob* without a descriptor.
    """

    def __init__(
        self,
        blob: Blob,
        cancellation: Cancellation,
        on_event: OnEvent,
        *,
        piece: int = PIECE,
    ) -> None:
        descriptor = blob.descriptor
        self._piece = piece
        self.position = 0
        self._blob = blob
        self._cancellation = cancellation
        self._on_event = on_event
        self._hasher = descriptor.digest.hasher() if descriptor else hashlib.sha256()
        self._hashed = 0
        size = min(PIECE, descriptor.size) if descriptor else PIECE
        self._buffer = memoryview(bytearray(max(1, size)))
        self._reader: BlobReader | None = None
        self._read = 0

    def close(self) -> None:
        """Close the reader, if one is open."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def take_back(self) -> None:
        """Nothing of what was handed out counts: it does not become the blob."""
        self._on_event(BytesSent(self._blob.key, -self.position))
        self.position = 0

    def start_at(self, offset: int) -> None:
        """Continue at *offset*; what lies before it and was never hashed is hashed now.

        Raises ContentMismatch when the content ends before, ArchiveError when it
        cannot be read, Cancelled.
        """
        while self._hashed < offset:
            self._hash(self._read_piece(self._hashed, offset), self._hashed)
        if offset != self.position:
            self._on_event(BytesSent(self._blob.key, offset - self.position))
            self.position = offset

    def pieces(self, start: int, end: int) -> Pieces:
        """The bytes from *start* to *end*, in views of one buffer that is used again.

        Iterating raises as `start_at` does, and as `verify` does instead of giving the
        last piece of the content.
        """
        return Pieces(self, start, end)

    def read_pieces(self, start: int, end: int) -> Iterator[memoryview]:
        """As `pieces`, once."""
        self.start_at(start)
        while self.position < end:
            piece = self._read_piece(
                self.position, min(end, self.position + self._piece)
            )
            self._hash(piece, self.position)
            descriptor = self._blob.descriptor
            if descriptor and self.position + len(piece) == descriptor.size:
                self.verify()
            yield piece
            self.position += len(piece)
            self._on_event(BytesSent(self._blob.key, len(piece)))

    def verify(self) -> None:
        """Raises ContentMismatch unless all of the content is what was promised.

        To be called when all of it was read.
        """
        descriptor = self._blob.descriptor
        assert descriptor is not None, "only what is complete can be verified"
        found = Digest.from_hash(self._hasher)
        if self._hashed != descriptor.size or found != descriptor.digest:
            raise self._mismatch(f"its {self._hashed} bytes are {found}")
        if self._reader is None or self._read < descriptor.size:
            return
        if self._fill(self._reader, memoryview(bytearray(1))):
            raise self._mismatch("it is longer than its descriptor")

    def _hash(self, piece: memoryview, offset: int) -> None:
        """Hash what of *piece*, which stands at *offset*, was not hashed before."""
        fresh = piece[self._hashed - offset :]
        self._hasher.update(fresh)
        self._hashed += len(fresh)

    def _read_piece(self, offset: int, end: int) -> memoryview:
        """Up to PIECE bytes from *offset*, none of them beyond *end*."""
        self._cancellation.check()
        piece = self._buffer[: end - offset]
        count = self._fill(self._open_at(offset), piece)
        self._read = offset + count
        if count < len(piece):
            raise self._mismatch(f"it ends after {self._read} bytes")
        return piece

    def _open_at(self, offset: int) -> BlobReader:
        """A reader that stands at *offset*: the one there is, or a new one."""
        if self._reader is None or self._read != offset:
            self.close()
            self._reader = self._blob.open_at(offset)
            self._read = offset
        return self._reader

    def _fill(self, reader: BlobReader, buffer: memoryview) -> int:
        """Read until *buffer* is full or the content ends; the count of bytes."""
        count = 0
        try:
            while count < len(buffer):
                got = reader.readinto(buffer[count:])
                if not got:
                    break
                count += got
        except OSError as error:
            # Not to be taken for a broken connection by whoever sends the pieces.
            raise ArchiveError(
                f"{self._name}: cannot be read: {reason_of(error)}"
            ) from error
        return count

    def _mismatch(self, found: str) -> ContentMismatch:
        descriptor = self._blob.descriptor
        if descriptor:
            found = f"wanted {descriptor.size} bytes of that digest, but {found}"
        return ContentMismatch(
            f"{self._name}: {found}; the source is damaged or was changed, get it again"
        )

    @property
    def _name(self) -> str:
        descriptor = self._blob.descriptor
        return f"blob {descriptor.digest if descriptor else self._blob.key}"
