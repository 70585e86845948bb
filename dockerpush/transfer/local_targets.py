"""Targets on this machine: an OCI directory, the cache, what is filled through it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Sequence

from ..archive.writers import (
    BundledImage,
    add_needs,
    add_to_index,
    index_of,
    name_of,
    read_index,
)
from ..documents import RawManifest, is_document
from ..errors import WRITE_ELSEWHERE, ContentMismatch
from ..events import BlobFinished, OnEvent, Outcome
from ..oci import OCI_INDEX, Descriptor, Digest, Index
from ..state.blobs import BlobDirectory, receive_partial
from ..state.cache import Cache, Pins
from ..system.cancellation import Cancellation
from ..upload.content import PreparedBlob
from ..values import replace
from .inventory import NOTHING_HELD, HeldBlobs, LeftOut
from .plan import PlannedBlob, PlannedImage
from .target import Target, UploadResult


class DirectoryTarget(Target):
    """An OCI directory, made when it is missing; an image's tag is its name there.

    Blobs and manifests get their names when they are complete, children first, and
    ``index.json`` names what is whole. What *have* holds is left out, and
    ``needs.json`` says so. Raises ArchiveError for a directory with something else in
    it.
    """

    def __init__(
        self,
        path: Path,
        cancellation: Cancellation,
        on_event: OnEvent,
        have: HeldBlobs = NOTHING_HELD,
        *,
        what: str = "the directory",
        room: str = WRITE_ELSEWHERE,
    ) -> None:
        """An error says *what* it is about, and *room* what to do about a full disk."""
        super().__init__(str(path), cancellation, on_event)
        self._left_out = LeftOut(have)
        self._path = path
        self._blobs = BlobDirectory(path, what=what, room=room)
        self._referrers: set[Digest] = set()
        self._entries()

    def begin(self, images: Sequence[PlannedImage]) -> Sequence[PlannedBlob]:
        """The blobs of all that is going to come."""
        for image in images:
            for listed in image.plan.listed.values():
                self._referrers.update(referrer.digest for referrer in listed)
        return self._left_out.without(super().begin(images))

    def has(self, blobs: Sequence[Descriptor], *, jobs: int) -> set[Digest]:
        """Those of *blobs* that are there."""
        return {blob.digest for blob in blobs if self._blobs.has(blob)}

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
        """True for a manifest that is there with all that it needs, or left out."""
        return self._blobs.is_whole(document, self._left_out.takes)

    def put_blob(self, blob: PreparedBlob, mounts: Sequence[str]) -> UploadResult:
        """Have the directory hold *blob*; resumes what an earlier run left."""
        return put_file(
            self._blobs,
            blob,
            cancellation=self.cancellation,
            on_event=self.on_event,
        )

    def take_file(self, blob: Descriptor, path: Path) -> bool:
        """One file under two names, where the file system can; nothing is written."""
        return self._blobs.link(blob, path)

    def put_document(self, document: RawManifest, reference: str) -> bool:
        """Store a manifest; the index names it unless *reference* is its digest.

        False for one that the index has to name as well, which is how it lists it.
        """
        digest = document.descriptor.digest
        with self._blobs.failing():
            if not self._left_out.takes(document.descriptor):
                self._blobs.put(digest, document.raw)
            if reference != digest:
                image = BundledImage(document.descriptor, (reference,), ())
                self._add(index_of([image]))
        return digest not in self._referrers

    def name_left_out(self, images: Sequence[tuple[str, Descriptor]]) -> None:
        """Have the index name *images*, whose manifests are left out, in one step."""
        found = [BundledImage(root, (name,), ()) for name, root in images]
        if found and all(self._left_out.takes(one.root) for one in found):
            with self._blobs.failing():
                self._add(index_of(found))

    def _add(self, entries: Index) -> None:
        """What is left out is written down before the index names who needs it."""
        (self._path / "blobs").mkdir(parents=True, exist_ok=True)
        add_needs(self._path, self._left_out.needs)
        add_to_index(self._path, entries, self._is_there)

    def list_referrers(self, subject: Digest, listed: Sequence[Descriptor]) -> None:
        """Have the index name these, which is how a directory lists them."""
        with self._blobs.failing():
            self._add(Index(OCI_INDEX, tuple(listed)))

    def _is_there(self, entry: Descriptor) -> bool:
        if not is_document(entry):
            return self._blobs.has(entry) or self._left_out.takes(entry)
        return self._blobs.is_whole(entry, self._left_out.takes)

    def _entries(self) -> Sequence[Descriptor]:
        with self._blobs.failing():
            index = read_index(self._path)
        return index.manifests if index else ()


class CacheTarget(Target):
    """The cache, in which images are called by their full references.

    What the run needs is pinned before it is looked for, so that no prune takes it.
    """

    def __init__(
        self,
        cache: Cache,
        pins: Pins,
        cancellation: Cancellation,
        on_event: OnEvent,
    ) -> None:
        super().__init__(str(cache.directory), cancellation, on_event)
        self._cache = cache
        self._pins = pins

    def begin(self, images: Sequence[PlannedImage]) -> Sequence[PlannedBlob]:
        """The blobs of all that is going to come, pinned."""
        blobs = super().begin(images)
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

    def put_blob(self, blob: PreparedBlob, mounts: Sequence[str]) -> UploadResult:
        """Have the cache hold *blob*; resumes what an earlier run left."""
        return put_file(
            self._cache,
            blob,
            cancellation=self.cancellation,
            on_event=self.on_event,
        )

    def put_document(self, document: RawManifest, reference: str) -> bool:
        """Store a manifest; *reference* names it unless that is its digest."""
        digest = document.descriptor.digest
        self._cache.put(digest, document.raw)
        if reference != digest:
            self._cache.record(reference, document.descriptor)
        return True


class ThroughCache(Target):
    """The cache, and a second target that is filled from it, blob by blob."""

    def __init__(self, cached: CacheTarget, cache: Cache, then: Target) -> None:
        super().__init__(then.place, cached.cancellation, cached.on_event)
        self._cached = cached
        self._cache = cache
        self._then = then

    @property
    def jobs(self) -> int | None:
        """As many as the second target takes."""
        return self._then.jobs

    def begin(self, images: Sequence[PlannedImage]) -> Sequence[PlannedBlob]:
        """The blobs of all that is going to come, as the second target wants them."""
        self._cached.begin(images)
        return self._then.begin(images)

    def put_blob(self, blob: PreparedBlob, mounts: Sequence[str]) -> UploadResult:
        """Have both hold *blob*; one that is damaged in the cache is fetched again."""
        result = self._cached.put_blob(blob, mounts)
        is_fresh = result.outcome is Outcome.UPLOADED
        path = self._cache.path_of(blob.descriptor.digest)
        if is_fresh and self._then.take_file(blob.descriptor, path):
            return result
        try:
            self._fill(blob)
        except ContentMismatch:
            self._cache.remove(blob.descriptor.digest)
            if self.jobs == 1:
                raise  # what was written cannot be taken back
            result = self._cached.put_blob(blob, mounts)
            self._fill(blob)
        return result

    def _fill(self, blob: PreparedBlob) -> None:
        cached = partial(self._cache.open_blob, blob.descriptor.digest)
        self._then.put_blob(replace(blob, open_at=cached, from_network=False), [])

    def put_document(self, document: RawManifest, reference: str) -> bool:
        """Store a manifest in both; *reference* is a name of the second alone."""
        self._cached.put_document(document, str(document.descriptor.digest))
        return self._then.put_document(document, reference)

    def list_referrers(self, subject: Digest, listed: Sequence[Descriptor]) -> None:
        """Have the second target list these referrers of *subject*."""
        self._then.list_referrers(subject, listed)


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
            return UploadResult(wanted, Outcome.EXISTS, 0, blob.made_from)
        moved = receive_partial(
            partial,
            wanted,
            blob.open_at,
            cancellation=cancellation,
            on_event=on_event,
            key=blob.key,
        )
    return UploadResult(wanted, Outcome.UPLOADED, moved, blob.made_from)
