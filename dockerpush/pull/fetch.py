"""One blob or manifest from a registry into the cache, checked on its way."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..cache import Cache, Pins
from ..cancellation import Cancellation
from ..errors import ContentMismatch
from ..events import BlobFinished, OnEvent, Outcome
from ..oci import Descriptor
from ..receive import receive_partial
from ..registry.client import RegistryClient

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

    Raises ContentMismatch when it is not what *descriptor* says; nothing is kept then.
    """
    digest = descriptor.digest
    with source.cache.partial(digest, source.cancellation) as partial:
        if source.cache.has(descriptor):
            source.on_event(
                BlobFinished(str(digest), digest, descriptor.size, Outcome.EXISTS)
            )
            return 0
        return receive_partial(
            partial,
            descriptor,
            lambda offset: source.client.download(source.repository, digest, offset),
            cancellation=source.cancellation,
            on_event=source.on_event,
        )
