"""One blob or manifest from a registry into the cache, checked on its way."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import BinaryIO

from ..cache import Cache, Partial, Pins, failing
from ..cancellation import Cancellation
from ..errors import ContentMismatch
from ..events import (
    BlobFinished,
    BlobStarted,
    BytesSent,
    OnEvent,
    Outcome,
    Retrying,
)
from ..oci import Descriptor, Digest
from ..registry.client import RegistryClient

PIECE = 256 * 1024
"""Bytes received and written at a time."""

JOBS = 3


@dataclass(frozen=True)
class PullSource:
    """Where a pull comes from, where it goes, and everything it shares with others."""

    client: RegistryClient
    repository: str
    cache: Cache
    pins: Pins
    cancellation: Cancellation
    on_event: OnEvent
    jobs: int = JOBS

    def within(self, cancellation: Cancellation) -> PullSource:
        """The same for a part of the work that can end alone."""
        return replace(self, cancellation=cancellation)


def fetch_document(source: PullSource, descriptor: Descriptor) -> bytes:
    """The bytes of a manifest or index, which the cache holds then.

    Raises ContentMismatch when they are not what *descriptor* says.
    """
    source.pins.add([descriptor.digest])
    raw = source.cache.read_document(descriptor)
    if raw is not None:
        return raw
    named = str(descriptor.digest)
    found, raw = source.client.read_manifest(source.repository, named)
    if found.size != descriptor.size or found.media_type != descriptor.media_type:
        raise ContentMismatch(
            f"manifest {descriptor.digest}: {found.size} bytes of {found.media_type}, "
            f"the index says {descriptor.size} of {descriptor.media_type}"
        )
    source.cache.put(descriptor.digest, raw)
    return raw


def fetch_blob(source: PullSource, descriptor: Descriptor) -> int:
    """Make the cache hold the blob; how many bytes came over the wire for it.

    What an earlier run left is gone on with. A blob that turns out wrong is fetched
    once more from its first byte, since a cache or a proxy on the way may have lied.
    Raises ContentMismatch when it is still not what *descriptor* says; nothing is kept.
    """
    digest = descriptor.digest
    with source.cache.partial(digest, source.cancellation) as partial:
        if source.cache.has(descriptor):
            _finished(source, descriptor, Outcome.EXISTS)
            return 0
        source.on_event(BlobStarted(digest, digest, descriptor.size))
        found = _Fetch(source, descriptor, partial).run()
        if found.digest != digest:
            source.on_event(BytesSent(digest, -found.size))
            source.on_event(Retrying(f"blob {digest.short}", _told(found), 0.0))
            partial.discard()
            again = _Fetch(source, descriptor, partial).run()
            found = replace(again, received=found.received + again.received)
        if found.digest != digest:
            partial.discard()
            raise ContentMismatch(
                f"blob {digest}: wanted {descriptor.size} bytes of that digest, but "
                f"{_told(found)}; nothing of it was kept"
            )
        partial.keep()
        _finished(source, descriptor, Outcome.UPLOADED)
        return found.received


def _finished(source: PullSource, descriptor: Descriptor, outcome: Outcome) -> None:
    digest = descriptor.digest
    source.on_event(BlobFinished(digest, digest, descriptor.size, outcome))


@dataclass(frozen=True)
class _Found:
    """What a blob turned out to be; *received* bytes of it came over the wire."""

    digest: Digest
    size: int
    received: int


def _told(found: _Found) -> str:
    return f"the registry gave {found.size} bytes that are {found.digest}"


class _Fetch:
    """The bytes of one blob into its partial file, hashed as they are written."""

    def __init__(
        self, source: PullSource, descriptor: Descriptor, partial: Partial
    ) -> None:
        self._source = source
        self._descriptor = descriptor
        self._partial = partial
        self._hasher = descriptor.digest.hasher()
        self._buffer = memoryview(bytearray(PIECE))

    def run(self) -> _Found:
        """Read until the end, or one piece beyond the size there should be."""
        if self._partial.size() > self._descriptor.size:
            self._partial.discard()
        with failing(str(self._partial.path)):
            file = self._partial.path.open("a+b", buffering=0)
        with file:
            offset = self._read_again(file)
            received = self._receive(file, offset)
        digest = Digest.from_hash(self._hasher)
        return _Found(digest, offset + received, received)

    def _read_again(self, file: BinaryIO) -> int:
        """Hash what is there already; how many bytes that is."""
        file.seek(0)
        offset = 0
        while count := file.readinto(self._buffer):  # type: ignore[attr-defined]
            self._source.cancellation.check()
            self._took(self._buffer[:count])
            offset += count
        return offset

    def _receive(self, file: BinaryIO, offset: int) -> int:
        source, digest = self._source, self._descriptor.digest
        missing = self._descriptor.size - offset
        if not missing and self._descriptor.size:
            return 0
        received = 0
        with source.client.download(source.repository, digest, offset) as download:
            while count := download.readinto(self._buffer):
                source.cancellation.check()
                piece = self._buffer[:count]
                received += count
                self._took(piece)
                if received > missing:
                    break
                with failing(str(self._partial.path)):
                    _write_all(file, piece)
        return received

    def _took(self, piece: memoryview) -> None:
        self._hasher.update(piece)
        self._source.on_event(BytesSent(self._descriptor.digest, len(piece)))


def _write_all(file: BinaryIO, piece: memoryview) -> None:
    """A full disk may take a part of a piece."""
    while piece:
        piece = piece[file.write(piece) :]
