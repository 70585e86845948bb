"""One image from a registry into another: nothing on disk, nothing held in memory.

Every blob streams from the source into the uploader, which looks whether the target
has it, mounts it where both are in one registry, and otherwise sends it, hashed on the
way. Manifests keep their bytes, and are stored children first, the tags last of all.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Iterable, Sequence

from ..errors import RegistryError
from ..events import BlobFinished, BlobPlanned, ManifestStored, Notice, Outcome
from ..oci import Descriptor
from ..push.manifests import Document
from ..sync import Share
from ..workers import Workers
from .model import CopyOptions, CopyResult
from .narrow import narrowed, narrowing_notice
from .sources import Source
from .targets import Target
from .tree import Tree, Walker

_LOST = ("MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN")


def copy_image(
    source: Source,
    target: Target,
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


class _Copy:
    def __init__(
        self,
        source: Source,
        target: Target,
        options: CopyOptions,
        share: Share,
    ) -> None:
        self._source = source
        self._target = target
        self._options = options
        self._share = share
        self._registries = (source.place, target.place)
        self._walker = Walker(source, self._is_held)
        self._trusting = not options.referrers

    def run(self, reference: str, tags: Sequence[str]) -> CopyResult:
        """Copy; once more without trust when the target lost what it should have."""
        with self._share.permit(self._target.cancellation, *self._registries):
            whole = self._source.read(reference)
            root = self._narrowed(whole) if self._options.platforms else whole
            tags = [
                str(root.descriptor.digest) if tag == whole.descriptor.digest else tag
                for tag in tags
            ]
            if self._trusting and all(
                self._target.named(tag) == root.descriptor.digest for tag in tags
            ):
                return CopyResult(root.descriptor)
            tree = self._walker.tree(root)
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
            tree = self._walker.tree(root)
        return self._store(tree, root, tags)

    def _narrowed(self, root: Document) -> Document:
        found = narrowed(self._source, root, self._options.platforms)
        if found.descriptor.digest != root.descriptor.digest:
            self._target.on_event(
                narrowing_notice(
                    root.descriptor, found.descriptor, self._options.platforms
                )
            )
        return found

    def _is_held(self, document: Descriptor) -> bool:
        """True when the target has this manifest, and so everything that it needs."""
        return self._trusting and self._target.holds(document)

    def _store(self, tree: Tree, root: Document, tags: Sequence[str]) -> CopyResult:
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
        target.put(document, reference)
        tag = None if reference == descriptor.digest else reference
        target.on_event(ManifestStored(target.repository, descriptor.digest, tag))

    def _send(self, blobs: Sequence[Descriptor]) -> list[tuple[Descriptor, Outcome]]:
        target = self._target
        if not blobs:
            return []
        for blob in blobs:
            target.on_event(BlobPlanned(str(blob.digest), blob.size))
        mounts = {b.digest: target.mounts(self._source, b.digest) for b in blobs}
        jobs = min(self._options.jobs, len(blobs))
        with Workers(target.cancellation, jobs, name="copy") as workers:
            sending = [
                workers.submit(self._send_one, blob, mounts[blob.digest])
                for blob in blobs
            ]
            outcomes = workers.wait(sending)
        target.learn(blobs)
        return list(zip(blobs, outcomes))

    def _send_one(self, blob: Descriptor, mounts: Sequence[str]) -> Outcome:
        """A worker thread's work."""
        target, cancellation = self._target, self._target.cancellation
        with self._share.blob(cancellation, target.place, blob.digest) as arrived:
            if target.repository in arrived:
                target.on_event(
                    BlobFinished(
                        str(blob.digest), blob.digest, blob.size, Outcome.EXISTS
                    )
                )
                return Outcome.EXISTS
            with self._share.permit(cancellation, *self._registries):
                outcome = target.bring(
                    blob,
                    partial(self._source.open_blob, blob.digest),
                    [*arrived, *mounts],
                )
            arrived.append(target.repository)
        return outcome

    def _copy_referrers(
        self, tree: Tree
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
            found = Tree(seen=tree.seen)
            with self._share.permit(target.cancellation, *self._registries):
                listed = source.referrers(subject)
                for referrer in listed:
                    self._walker.add(referrer, found)
            arrived += self._send(list(found.blobs.values()))
            self._put_all(found.documents)
            if listed:
                with self._share.permit(target.cancellation, *self._registries):
                    target.list_referrers(subject, listed)
            subjects += [document.descriptor.digest for document in found.documents]
            count += len(found.documents)
        return count, arrived
