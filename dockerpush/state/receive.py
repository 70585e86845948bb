"""A blob from a source that may break or lie into a file, hashed as it is written."""

from __future__ import annotations

from typing import BinaryIO, Callable, Protocol

from ..errors import ContentMismatch
from ..events import BlobFinished, BlobStarted, BytesSent, OnEvent, Outcome, Retrying
from ..oci import Descriptor, Digest
from ..system.cancellation import Cancellation
from ..values import replace, value
from .blobs import Partial, failing

PIECE = 256 * 1024
"""Bytes received and written at a time."""


class Reader(Protocol):
    """Bytes from somewhere on, until it is closed."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill *buffer* from its start; the count of bytes, 0 at the end."""

    def close(self) -> None:
        """Give back what the reader holds."""


OpenAt = Callable[[int], Reader]


@value
class Place:
    """Where a blob is written to: *file* from byte *start* on.

    *have* is how many bytes of it an earlier run has left there. *on_written* gets the
    count of those that are there by now, after each piece.
    """

    file: BinaryIO
    start: int = 0
    have: int = 0
    on_written: Callable[[int], None] = lambda count: None


@value
class _Found:
    """What a blob turned out to be; *received* bytes of it came from the source."""

    digest: Digest
    size: int
    received: int


def receive(
    descriptor: Descriptor,
    open_at: OpenAt,
    place: Place,
    *,
    cancellation: Cancellation,
    on_event: OnEvent,
) -> int:
    """Have *place* hold the blob; how many bytes came from the source for it.

    What an earlier run left is gone on with. A blob that turns out wrong is fetched
    once more from its first byte, since a cache or a proxy on the way may have lied.
    Raises ContentMismatch when it is still not what *descriptor* says, Cancelled,
    OSError when it cannot be written, and what the reader raises.
    """
    digest = descriptor.digest
    key = str(digest)
    on_event(BlobStarted(key, digest, descriptor.size))
    found = _Receiving(descriptor, open_at, place, cancellation, on_event).run()
    if found.digest != digest:
        on_event(BytesSent(key, -found.size))
        on_event(Retrying(f"blob {digest.short}", _told(found), 0.0))
        place = replace(place, have=0)
        again = _Receiving(descriptor, open_at, place, cancellation, on_event).run()
        found = replace(again, received=found.received + again.received)
    if found.digest != digest:
        place.on_written(0)
        raise ContentMismatch(
            f"blob {digest}: wanted {descriptor.size} bytes of that digest, but "
            f"{_told(found)}; nothing of it was kept"
        )
    on_event(BlobFinished(key, digest, descriptor.size, Outcome.UPLOADED))
    return found.received


def receive_partial(
    partial: Partial,
    descriptor: Descriptor,
    open_at: OpenAt,
    *,
    cancellation: Cancellation,
    on_event: OnEvent,
) -> int:
    """The same into the file *partial*, which gets its name when it is complete.

    Raises StateError when it cannot be written.
    """
    if partial.size() > descriptor.size:
        partial.discard()
    failure = None
    with failing(str(partial.path)), partial.open() as file:
        place = Place(file, have=partial.size())
        try:
            received = receive(
                descriptor,
                open_at,
                place,
                cancellation=cancellation,
                on_event=on_event,
            )
        except ContentMismatch as error:
            failure = error
    if failure is not None:
        partial.discard()
        raise failure
    partial.keep()
    return received


def _told(found: _Found) -> str:
    return f"the source gave {found.size} bytes that are {found.digest}"


class _Receiving:
    """One attempt at the bytes of a blob."""

    def __init__(
        self,
        descriptor: Descriptor,
        open_at: OpenAt,
        place: Place,
        cancellation: Cancellation,
        on_event: OnEvent,
    ) -> None:
        self._descriptor = descriptor
        self._open_at = open_at
        self._place = place
        self._cancellation = cancellation
        self._on_event = on_event
        self._hasher = descriptor.digest.hasher()
        self._buffer = memoryview(bytearray(max(1, min(PIECE, descriptor.size))))

    def run(self) -> _Found:
        """Read until the end, or one piece beyond the size there should be."""
        self._place.file.seek(self._place.start)
        offset = self._read_again()
        received = self._receive(offset)
        return _Found(Digest.from_hash(self._hasher), offset + received, received)

    def _read_again(self) -> int:
        """Hash what is there already; how many bytes that is."""
        offset = 0
        while offset < self._place.have:
            piece = self._buffer[: self._place.have - offset]
            count = self._place.file.readinto(piece)  # type: ignore[attr-defined]
            if not count:
                break
            self._cancellation.check()
            self._took(piece[:count])
            offset += count
        return offset

    def _receive(self, offset: int) -> int:
        missing = self._descriptor.size - offset
        if not missing and self._descriptor.size:
            return 0
        received = 0
        reader = self._open_at(offset)
        try:
            while count := reader.readinto(self._buffer):
                self._cancellation.check()
                piece = self._buffer[:count]
                received += count
                self._took(piece)
                if received > missing:
                    break
                _write_all(self._place.file, piece)
                self._place.on_written(offset + received)
        finally:
            reader.close()
        return received

    def _took(self, piece: memoryview) -> None:
        self._hasher.update(piece)
        self._on_event(BytesSent(str(self._descriptor.digest), len(piece)))


def _write_all(file: BinaryIO, piece: memoryview) -> None:
    """A full disk may take a part of a piece."""
    while piece:
        piece = piece[file.write(piece) :]
