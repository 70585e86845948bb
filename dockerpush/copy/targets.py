"""Where a copy goes: a repository of a registry, or an OCI directory."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, Sequence

from ..archive.bundle import BundledImage, index_of, name_of
from ..archive.writers import add_to_index, read_index
from ..blobs import DEPTH_LIMIT, BlobDirectory, failing
from ..cancellation import Cancellation
from ..documents import children_of, is_document
from ..errors import InvalidDigest, InvalidJSON
from ..events import BlobFinished, OnEvent, Outcome
from ..oci import OCI_INDEX, Descriptor, Digest, Index
from ..push.manifests import Document
from ..push.prepared import PreparedBlob
from ..push.transfer import PushTarget
from ..receive import OpenAt, receive_partial
from ..reference import Reference
from .sources import Named, Source, SourceFailed, SourceReader


class Target(Named, Protocol):
    """What a copy asks of its target; several threads do. It raises PusherError."""

    cancellation: Cancellation
    on_event: OnEvent

    def named(self, reference: str) -> Digest | None:
        """What *reference* names there."""

    def holds(self, document: Descriptor) -> bool:
        """True for a manifest that is there with all that it needs."""

    def mounts(self, source: Source, digest: Digest) -> list[str]:
        """Repositories that the blob may be mounted from."""

    def bring(
        self, blob: Descriptor, open_at: OpenAt, mounts: Sequence[str]
    ) -> Outcome:
        """Have the target hold *blob*."""

    def learn(self, blobs: Sequence[Descriptor]) -> None:
        """Remember for other runs that these are there."""

    def put(self, document: Document, reference: str) -> None:
        """Store a manifest under *reference*, its digest or a tag."""

    def list_referrers(self, subject: Digest, listed: Sequence[Descriptor]) -> None:
        """Have the target list these referrers of *subject*, which it holds."""


class RegistryTarget:
    """A repository of a registry."""

    def __init__(self, target: PushTarget) -> None:
        self.place = target.client.registry
        self.repository = target.repository
        self.cancellation = target.cancellation
        self.on_event = target.on_event
        self._target = target

    def named(self, reference: str) -> Digest | None:
        """What *reference* names there."""
        found = self._target.client.manifest_descriptor(self.repository, reference)
        return found.digest if found is not None else None

    def holds(self, document: Descriptor) -> bool:
        """True for a manifest that is there: a registry takes none without the rest."""
        return self.named(str(document.digest)) is not None

    def mounts(self, source: Source, digest: Digest) -> list[str]:
        """Repositories of this registry that may have the blob."""
        found = [source.repository] if source.place == self.place else []
        if self._target.blobs is not None:
            known = self._target.blobs.holders(digest, self.place)
            found += [reference.repository for reference in known]
        return [name for name in found if name != self.repository]

    def bring(
        self, blob: Descriptor, open_at: OpenAt, mounts: Sequence[str]
    ) -> Outcome:
        """Have the repository hold *blob*."""
        key = str(blob.digest)
        prepared = PreparedBlob(
            key, blob, lambda start: SourceReader(open_at(start)), from_network=True
        )
        try:
            return self._target.uploader.upload(prepared, mount_from=mounts)
        except SourceFailed as failed:
            raise failed.error from failed

    def learn(self, blobs: Sequence[Descriptor]) -> None:
        """Remember for other runs that these are there."""
        known = self._target.blobs
        if known is not None:
            place = Reference(self.place, self.repository)
            for blob in blobs:
                known.add_holder(blob.digest, place)
            known.save()

    def put(self, document: Document, reference: str) -> None:
        """Store a manifest under *reference*, its digest or a tag."""
        self._target.client.put_manifest(
            self.repository, reference, document.raw, document.descriptor.media_type
        )

    def list_referrers(self, subject: Digest, listed: Sequence[Descriptor]) -> None:
        """Where the registry keeps no list itself, keep it under a tag.

        (distribution-spec, Pushing Manifests with Subject)
        """
        known = self._target.client.referrers(self.repository, subject)
        have = {referrer.digest for referrer in known}
        missing = [referrer for referrer in listed if referrer.digest not in have]
        if missing:
            raw = Index(OCI_INDEX, (*known, *missing)).to_bytes()
            tag = f"{subject.algorithm}-{subject.hex[:64]}"
            self.put(Document(Descriptor.of(OCI_INDEX, raw), raw), tag)


class DirectoryTarget:
    """An OCI directory, made when it is missing; an image's tag is its name there.

    Blobs and manifests get their names when they are complete, children first, and
    ``index.json`` names what is whole. Raises ArchiveError for a directory with
    something else in it.
    """

    repository = ""

    def __init__(
        self, path: Path, cancellation: Cancellation, on_event: OnEvent
    ) -> None:
        self.place = str(path)
        self.cancellation = cancellation
        self.on_event = on_event
        self._path = path
        self._blobs = BlobDirectory(path, what="the directory")
        self._entries()

    def named(self, reference: str) -> Digest | None:
        """The digest of what is called *reference* there."""
        entry = self.entry(reference)
        return entry.digest if entry else None

    def entry(self, name: str) -> Descriptor | None:
        """What is called *name*; None unless it is there with all that it needs."""
        for entry in self._entries():
            if name_of(entry) == name:
                return entry if self.holds(entry) else None
        return None

    def names(self) -> list[str]:
        """What the images are called that are there."""
        return [name for entry in self._entries() if (name := name_of(entry))]

    def holds(self, document: Descriptor) -> bool:
        """True for a manifest that is there with all that it needs."""
        return self._is_whole(document, DEPTH_LIMIT)

    def mounts(self, source: Source, digest: Digest) -> list[str]:
        """None: a directory has one place for a blob."""
        return []

    def bring(
        self, blob: Descriptor, open_at: OpenAt, mounts: Sequence[str]
    ) -> Outcome:
        """Have the directory hold *blob*; what an earlier run left is gone on with."""
        key = str(blob.digest)
        with self._blobs.partial(blob.digest, self.cancellation) as partial:
            if self._blobs.has(blob):
                self.on_event(BlobFinished(key, blob.digest, blob.size, Outcome.EXISTS))
                return Outcome.EXISTS
            receive_partial(
                partial,
                blob,
                open_at,
                cancellation=self.cancellation,
                on_event=self.on_event,
            )
        return Outcome.UPLOADED

    def learn(self, blobs: Sequence[Descriptor]) -> None:
        """Nothing: the directory is looked into the next time."""

    def put(self, document: Document, reference: str) -> None:
        """Store a manifest; the index names it unless *reference* is its digest."""
        digest = document.descriptor.digest
        with failing(f"the directory {self._path}"):
            self._blobs.put(digest, document.raw)
            if reference != digest:
                image = BundledImage(document.descriptor, (reference,), ())
                add_to_index(self._path, index_of([image]))

    def list_referrers(self, subject: Digest, listed: Sequence[Descriptor]) -> None:
        """Have the index name these, which is how a directory lists them."""
        with failing(f"the directory {self._path}"):
            add_to_index(self._path, Index(OCI_INDEX, tuple(listed)))

    def _entries(self) -> Sequence[Descriptor]:
        with failing(f"the directory {self._path}"):
            index = read_index(self._path)
        return index.manifests if index else ()

    def _is_whole(self, node: Descriptor, depth: int) -> bool:
        """False as well for what cannot be read: who copies it again says why."""
        raw = self._blobs.read_document(node) if depth >= 0 else None
        if raw is None or not is_document(node):
            return False
        try:
            children = children_of(node, raw)
        except (InvalidJSON, InvalidDigest):
            return False
        return all(self._blobs.has(blob) or blob.urls for blob in children.blobs) and (
            all(self._is_whole(child, depth - 1) for child in children.documents)
        )
