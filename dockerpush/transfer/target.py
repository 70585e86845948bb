"""Where images go: a repository of a registry, an OCI directory, the cache."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, Sequence

from ..archive.writers import BundledImage, add_to_index, index_of, name_of, read_index
from ..documents import RawManifest
from ..events import BlobFinished, OnEvent, Outcome
from ..oci import OCI_INDEX, Descriptor, Digest, Index
from ..state.blobs import BlobDirectory, failing, receive_partial
from ..state.cache import Cache, Pins
from ..system.cancellation import Cancellation
from ..upload.content import PreparedBlob
from .plan import PlannedBlob, PlannedImage, unique
from .registry_target import UploadResult
from .source import Named, Source
from .store import DocumentTarget


class Target(Named, DocumentTarget, Protocol):
    """What the engine asks of a target; several threads do. It raises PusherError."""

    cancellation: Cancellation

    @property
    def jobs(self) -> int | None:
        """Blobs that may come at a time, None: as many as the caller likes."""

    def begin(self, images: Sequence[PlannedImage]) -> Sequence[PlannedBlob]:
        """All that is going to come; the blobs, in the order that they are wanted."""

    def digest_of(self, reference: str) -> Digest | None:
        """What *reference* names there."""

    def has_document(self, document: Descriptor) -> bool:
        """True for a manifest that is there with all that it needs."""

    def mount_candidates(self, source: Source, digest: Digest) -> list[str]:
        """Repositories that the blob may be mounted from."""

    def put_blob(self, blob: PreparedBlob, mounts: Sequence[str]) -> UploadResult:
        """Have the target hold *blob*."""

    def learn(self, blobs: Sequence[Descriptor]) -> None:
        """Remember for other runs that these are there."""


class DirectoryTarget:
    """An OCI directory, made when it is missing; an image's tag is its name there.

    Blobs and manifests get their names when they are complete, children first, and
    ``index.json`` names what is whole. Raises ArchiveError for a directory with
    something else in it.
    """

    repository = ""
    jobs: int | None = None

    def __init__(
        self, path: Path, cancellation: Cancellation, on_event: OnEvent
    ) -> None:
        self.place = str(path)
        self.cancellation = cancellation
        self.on_event = on_event
        self._path = path
        self._blobs = BlobDirectory(path, what="the directory")
        self._referrers: set[Digest] = set()
        self._entries()

    def begin(self, images: Sequence[PlannedImage]) -> Sequence[PlannedBlob]:
        """The blobs of all that is going to come."""
        for image in images:
            for listed in image.plan.listed.values():
                self._referrers.update(referrer.digest for referrer in listed)
        return unique(blob for image in images for blob in image.plan.moving)

    def digest_of(self, reference: str) -> Digest | None:
        """The digest of what is called *reference* there."""
        entry = self.entry(reference)
        return entry.digest if entry else None

    def entry(self, name: str) -> Descriptor | None:
        """What is called *name*; None unless it is there with all that it needs."""
        for entry in self._entries():
            if name_of(entry) == name:
                return entry if self.has_document(entry) else None
        return None

    def names(self) -> list[str]:
        """What the images are called that are there."""
        return [name for entry in self._entries() if (name := name_of(entry))]

    def has_document(self, document: Descriptor) -> bool:
        """True for a manifest that is there with all that it needs."""
        return self._blobs.is_whole(document)

    def mount_candidates(self, source: Source, digest: Digest) -> list[str]:
        """None: a directory has one place for a blob."""
        return []

    def put_blob(self, blob: PreparedBlob, mounts: Sequence[str]) -> UploadResult:
        """Have the directory hold *blob*; resumes what an earlier run left."""
        return put_file(
            self._blobs,
            blob,
            cancellation=self.cancellation,
            on_event=self.on_event,
        )

    def learn(self, blobs: Sequence[Descriptor]) -> None:
        """Nothing: the directory is looked into the next time."""

    def put_document(self, document: RawManifest, reference: str) -> bool:
        """Store a manifest; the index names it unless *reference* is its digest.

        False for one that the index has to name as well, which is how it lists it.
        """
        digest = document.descriptor.digest
        with failing(f"the directory {self._path}"):
            self._blobs.put(digest, document.raw)
            if reference != digest:
                image = BundledImage(document.descriptor, (reference,), ())
                add_to_index(self._path, index_of([image]))
        return digest not in self._referrers

    def list_referrers(self, subject: Digest, listed: Sequence[Descriptor]) -> None:
        """Have the index name these, which is how a directory lists them."""
        with failing(f"the directory {self._path}"):
            add_to_index(self._path, Index(OCI_INDEX, tuple(listed)))

    def _entries(self) -> Sequence[Descriptor]:
        with failing(f"the directory {self._path}"):
            index = read_index(self._path)
        return index.manifests if index else ()


class CacheTarget:
    """The cache, in which images are called by their full references.

    What the run needs is pinned before it is looked for, so that no prune takes it.
    """

    repository = ""
    jobs: int | None = None

    def __init__(
        self,
        cache: Cache,
        pins: Pins,
        cancellation: Cancellation,
        on_event: OnEvent,
    ) -> None:
        self.place = str(cache.directory)
        self.cancellation = cancellation
        self.on_event = on_event
        self._cache = cache
        self._pins = pins

    def begin(self, images: Sequence[PlannedImage]) -> Sequence[PlannedBlob]:
        """The blobs of all that is going to come, pinned."""
        blobs = unique(blob for image in images for blob in image.plan.moving)
        wanted = [blob for one in blobs if (blob := one.descriptor)]
        self._pins.add([blob.digest for blob in wanted])
        self._cache.check_room(wanted)
        for image in images:
            documents = (one.descriptor.digest for one in image.plan.documents)
            self._pins.add(documents)
        return blobs

    def digest_of(self, reference: str) -> Digest | None:
        """The digest of what *reference* names, when all of it is there."""
        found = self._cache.find(reference)
        return found.root.digest if found and self.has_document(found.root) else None

    def has_document(self, document: Descriptor) -> bool:
        """True for a manifest that is there with all that it needs."""
        self._pins.add(self._cache.occupied(document))
        return self._cache.is_whole(document)

    def mount_candidates(self, source: Source, digest: Digest) -> list[str]:
        """None: the cache has one place for a blob."""
        return []

    def put_blob(self, blob: PreparedBlob, mounts: Sequence[str]) -> UploadResult:
        """Have the cache hold *blob*; resumes what an earlier run left."""
        return put_file(
            self._cache,
            blob,
            cancellation=self.cancellation,
            on_event=self.on_event,
        )

    def learn(self, blobs: Sequence[Descriptor]) -> None:
        """Nothing: the cache is looked into the next time."""

    def put_document(self, document: RawManifest, reference: str) -> bool:
        """Store a manifest; *reference* names it unless that is its digest."""
        digest = document.descriptor.digest
        self._cache.put(digest, document.raw)
        if reference != digest:
            self._cache.record(reference, document.descriptor)
        return True

    def list_referrers(self, subject: Digest, listed: Sequence[Descriptor]) -> None:
        """Nothing: the cache keeps no list of them."""


def put_file(
    blobs: BlobDirectory,
    blob: PreparedBlob,
    *,
    cancellation: Cancellation,
    on_event: OnEvent,
) -> UploadResult:
    """Have *blobs* hold *blob*. Raises ContentMismatch, StateError, Cancelled."""
    wanted = blob.descriptor
    with blobs.partial(wanted.digest, cancellation) as partial:
        if blobs.has(wanted):
            on_event(BlobFinished(blob.key, wanted.digest, wanted.size, Outcome.EXISTS))
            return UploadResult(wanted, Outcome.EXISTS)
        moved = receive_partial(
            partial,
            wanted,
            blob.open_at,
            cancellation=cancellation,
            on_event=on_event,
        )
    return UploadResult(wanted, Outcome.UPLOADED, moved)
