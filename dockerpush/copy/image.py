"""One image from a registry into another: nothing on disk, nothing held in memory.

Every blob streams from the source into the uploader, which looks whether the target
has it, mounts it where both are in one registry, and otherwise sends it, hashed on the
way. Manifests keep their bytes, and are stored children first, the tags last of all.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import Iterable, Sequence

from ..errors import ContentMismatch, RegistryError
from ..events import BlobFinished, BlobPlanned, ManifestStored, Notice, Outcome
from ..oci import INDEX_TYPES, MANIFEST_TYPES, OCI_INDEX, Descriptor, Digest, Index
from ..push import PushTarget
from ..push.manifests import Document
from ..push.prepared import PreparedBlob
from ..reference import Reference
from ..sync import Share
from ..workers import Workers
from .model import (
    DEEPEST,
    CopyOptions,
    CopyResult,
    CopySource,
    SourceFailed,
    blobs_of,
    index_of,
)
from .narrow import narrowed

MOST_MANIFESTS = 2000
"""Manifests of one image, its referrers included."""


_LOST = ("MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN")


def copy_image(
    source: CopySource,
    target: PushTarget,
    reference: str,
    *,
    tags: Sequence[str],
    options: CopyOptions | None = None,
    share: Share | None = None,
) -> CopyResult:
    """Make *target* hold what *reference* (tag or digest) names, under each of *tags*.

    A tag that is a digest stores the image without one. Raises NotFoundInRegistry,
    RegistryError, NetworkError, ContentMismatch, InvalidJSON, NotFound for a platform
    that is not there, Cancelled; then no tag was moved.
    """
    copy = _Copy(source, target, options or CopyOptions(), share or Share())
    return copy.run(reference, tags)


@dataclass
class _Tree:
    """What there is to store: *documents* children first, *blobs* by digest."""

    documents: list[Document] = field(default_factory=list)
    blobs: dict[Digest, Descriptor] = field(default_factory=dict)
    seen: set[Digest] = field(default_factory=set)
    trusted: bool = False


class _Copy:
    def __init__(
        self,
        source: CopySource,
        target: PushTarget,
        options: CopyOptions,
        share: Share,
    ) -> None:
        self._source = source
        self._target = target
        self._options = options
        self._share = share
        self._registries = (source.client.registry, target.client.registry)
        self._trusting = not options.referrers

    def run(self, reference: str, tags: Sequence[str]) -> CopyResult:
        """Copy; once more without trust when the target lost what it should have."""
        with self._share.permit(self._target.cancellation, *self._registries):
            root = self._source.read(reference)
            if self._options.platforms:
                root = self._narrowed(root)
            if self._trusting and all(self._names(tag, root) for tag in tags):
                return CopyResult(root.descriptor)
            tree = self._tree(root)
        try:
            return self._store(tree, root, tags)
        except RegistryError as error:
            if error.code not in _LOST or not tree.trusted:
                raise
        self._target.on_event(
            Notice("the registry lost blobs of an image that it holds: sending them")
        )
        self._trusting = False
        with self._share.permit(self._target.cancellation, *self._registries):
            tree = self._tree(root)
        return self._store(tree, root, tags)

    def _narrowed(self, root: Document) -> Document:
        platforms = self._options.platforms
        found = narrowed(self._source, root, platforms)
        if found.descriptor.digest != root.descriptor.digest:
            self._target.on_event(
                Notice(
                    f"only {', '.join(map(str, platforms))}: the digest becomes "
                    f"{found.descriptor.digest}, that of the whole is "
                    f"{root.descriptor.digest}"
                )
            )
        return found

    def _names(self, reference: str, root: Document) -> bool:
        """True when the target has *root* under *reference* already."""
        target = self._target
        found = target.client.manifest_descriptor(target.repository, reference)
        return found is not None and found.digest == root.descriptor.digest

    def _tree(self, root: Document) -> _Tree:
        tree = _Tree()
        if self._is_held(root.descriptor.digest):
            tree.trusted = True
            tree.documents.append(root)
        else:
            self._walk(root, tree)
        return tree

    def _is_held(self, digest: Digest) -> bool:
        """True when the target has this manifest, and so everything that it needs."""
        target = self._target
        if not self._trusting:
            return False
        return (
            target.client.manifest_descriptor(target.repository, str(digest))
            is not None
        )

    def _walk(self, document: Document, tree: _Tree, depth: int = 0) -> None:
        """Add *document* to *tree*, after all that it needs."""
        if depth > DEEPEST or len(tree.seen) > MOST_MANIFESTS:
            raise ContentMismatch(
                f"{self._source.repository}: more than {DEEPEST} levels of indexes or "
                f"{MOST_MANIFESTS} manifests; refused"
            )
        tree.seen.add(document.descriptor.digest)
        if document.descriptor.media_type in INDEX_TYPES:
            for child in index_of(document).manifests:
                self._walk_child(child, tree, depth)
        else:
            for blob in blobs_of(document):
                tree.blobs.setdefault(blob.digest, blob)
        tree.documents.append(document)

    def _walk_child(self, child: Descriptor, tree: _Tree, depth: int) -> None:
        if child.digest in tree.seen:
            return
        if child.media_type not in (*MANIFEST_TYPES, *INDEX_TYPES):
            tree.blobs.setdefault(child.digest, child)
        elif self._is_held(child.digest):
            tree.seen.add(child.digest)
            tree.trusted = True
        else:
            self._walk(self._source.read(str(child.digest)), tree, depth + 1)

    def _store(self, tree: _Tree, root: Document, tags: Sequence[str]) -> CopyResult:
        target = self._target
        arrived = self._send(list(tree.blobs.values()))
        self._put_all(tree.documents[:-1])
        about = 0
        more: list[tuple[Descriptor, Outcome]] = []
        if self._options.referrers:
            about, more = self._copy_referrers(tree)
        with self._share.permit(target.cancellation, *self._registries):
            for tag in tags:
                self._put(root, tag)
        arrived += more
        return CopyResult(
            root.descriptor,
            len(tree.documents) + about,
            about,
            Counter(outcome for _, outcome in arrived),
            sum(blob.size for blob, done in arrived if done is Outcome.UPLOADED),
        )

    def _put_all(self, documents: Iterable[Document]) -> None:
        with self._share.permit(self._target.cancellation, *self._registries):
            for document in documents:
                self._put(document, str(document.descriptor.digest))

    def _put(self, document: Document, reference: str) -> None:
        target, descriptor = self._target, document.descriptor
        target.client.put_manifest(
            target.repository, reference, document.raw, descriptor.media_type
        )
        tag = None if reference == descriptor.digest else reference
        target.on_event(ManifestStored(target.repository, descriptor.digest, tag))

    def _send(self, blobs: Sequence[Descriptor]) -> list[tuple[Descriptor, Outcome]]:
        target = self._target
        if not blobs:
            return []
        for blob in blobs:
            target.on_event(BlobPlanned(str(blob.digest), blob.size))
        holders = {blob.digest: self._holders(blob.digest) for blob in blobs}
        jobs = min(self._options.jobs, len(blobs))
        with Workers(target.cancellation, jobs, name="copy") as workers:
            sending = [
                workers.submit(self._send_one, blob, holders[blob.digest])
                for blob in blobs
            ]
            outcomes = workers.wait(sending)
        self._learn(blobs)
        return list(zip(blobs, outcomes))

    def _holders(self, digest: Digest) -> list[str]:
        """Repositories of the target's registry that may have the blob."""
        source, target = self._source, self._target
        found = []
        if source.client.registry == target.client.registry:
            found.append(source.repository)
        if target.blobs is not None:
            known = target.blobs.holders(digest, target.client.registry)
            found += [reference.repository for reference in known]
        return [name for name in found if name != target.repository]

    def _learn(self, blobs: Sequence[Descriptor]) -> None:
        target = self._target
        if target.blobs is not None:
            place = Reference(target.client.registry, target.repository)
            for blob in blobs:
                target.blobs.add_holder(blob.digest, place)
            target.blobs.save()

    def _send_one(self, blob: Descriptor, holders: Sequence[str]) -> Outcome:
        """A worker thread's work."""
        target, cancellation = self._target, self._target.cancellation
        with self._share.blob(
            cancellation, target.client.registry, blob.digest
        ) as arrived:
            if target.repository in arrived:
                target.on_event(
                    BlobFinished(
                        str(blob.digest), blob.digest, blob.size, Outcome.EXISTS
                    )
                )
                return Outcome.EXISTS
            with self._share.permit(cancellation, *self._registries):
                outcome = self._upload(blob, [*arrived, *holders])
            arrived.append(target.repository)
        return outcome

    def _upload(self, blob: Descriptor, mount_from: Sequence[str]) -> Outcome:
        prepared = PreparedBlob(
            str(blob.digest), blob, partial(self._source.open_blob, blob.digest)
        )
        try:
            return self._target.uploader.upload(prepared, mount_from=mount_from)
        except SourceFailed as failed:
            raise failed.error from failed

    def _copy_referrers(
        self, tree: _Tree
    ) -> tuple[int, list[tuple[Descriptor, Outcome]]]:
        """Store what refers to the manifests of *tree*, and what refers to that.

        How many manifests, and their blobs. It is done before the image has its tag: a
        registry takes what refers to a manifest that is still to come.
        """
        source, target = self._source, self._target
        subjects = [document.descriptor.digest for document in tree.documents]
        count = 0
        arrived: list[tuple[Descriptor, Outcome]] = []
        for subject in subjects:  # grows meanwhile
            found = _Tree(seen=tree.seen)
            with self._share.permit(target.cancellation, *self._registries):
                listed = source.client.referrers(source.repository, subject)
                for referrer in listed:
                    self._walk_child(referrer, found, depth=0)
            arrived += self._send(list(found.blobs.values()))
            self._put_all(found.documents)
            if listed:
                with self._share.permit(target.cancellation, *self._registries):
                    self._list_referrers(subject, listed)
            subjects += [document.descriptor.digest for document in found.documents]
            count += len(found.documents)
        return count, arrived

    def _list_referrers(self, subject: Digest, listed: Sequence[Descriptor]) -> None:
        """Where the registry keeps no list itself, keep it under a tag.

        (distribution-spec, Pushing Manifests with Subject)
        """
        target = self._target
        known = target.client.referrers(target.repository, subject)
        have = {referrer.digest for referrer in known}
        missing = [referrer for referrer in listed if referrer.digest not in have]
        if missing:
            raw = Index(OCI_INDEX, (*known, *missing)).to_bytes()
            tag = f"{subject.algorithm}-{subject.hex[:64]}"
            self._put(Document(Descriptor.of(OCI_INDEX, raw), raw), tag)
