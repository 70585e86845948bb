"""The values of a copy, and how it reads from its source."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Mapping

from ..errors import Cancelled, PusherError
from ..events import Outcome
from ..oci import Descriptor, Digest, Index, Manifest, Platform
from ..push.manifests import Document
from ..registry.client import RegistryClient
from ..registry.downloads import Download

DEEPEST = 8
"""Indexes within indexes that are followed."""


@dataclass(frozen=True)
class CopySource:
    """Where a copy comes from."""

    client: RegistryClient
    repository: str

    def read(self, reference: str) -> Document:
        """The manifest that *reference*, a tag or a digest, names."""
        return Document(*self.client.read_manifest(self.repository, reference))

    def open_blob(self, digest: Digest, offset: int) -> SourceReader:
        """The bytes of the blob from *offset* on."""
        return SourceReader(self.client.download(self.repository, digest, offset))


@dataclass(frozen=True)
class CopyOptions:
    """How to copy.

    *platforms* narrows an index, empty takes all of it. *referrers* takes along what
    speaks of the image (signatures, SBOMs). *jobs* blobs go at a time.
    """

    platforms: tuple[Platform, ...] = ()
    referrers: bool = False
    jobs: int = 3


@dataclass(frozen=True)
class CopyResult:
    """What a copy left in the target repository.

    *manifests* were stored, *referrers* of them as such; *blobs* counts by how they
    came to be there, *sent* is the bytes that were sent for them.
    """

    descriptor: Descriptor
    manifests: int = 0
    referrers: int = 0
    blobs: Mapping[Outcome, int] = field(default_factory=dict)
    sent: int = 0


class SourceFailed(Cancelled):
    """The source cannot be read: *error*.

    For the uploader this is a cancellation: it must not take the source's failure for
    one of the target, and keeps the session for another run.
    """

    def __init__(self, error: PusherError) -> None:
        super().__init__(str(error))
        self.error = error


class SourceReader:
    """The bytes of a download, whose failures are told apart from the target's."""

    def __init__(self, download: Download) -> None:
        self._download = download

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill *buffer* as far as the next bytes go; 0 at the end."""
        try:
            return self._download.readinto(buffer)
        except Cancelled:
            raise
        except PusherError as error:
            raise SourceFailed(error) from error

    def close(self) -> None:
        """Give the connection back."""
        self._download.close()


def index_of(document: Document) -> Index:
    """What the index *document* says. Raises InvalidJSON."""
    return Index.from_bytes(document.raw, document.descriptor.media_type)


def blobs_of(document: Document) -> list[Descriptor]:
    """Config and layers of a manifest, those apart that are to be had elsewhere."""
    manifest = Manifest.from_bytes(document.raw, document.descriptor.media_type)
    return [blob for blob in (manifest.config, *manifest.layers) if not blob.urls]
