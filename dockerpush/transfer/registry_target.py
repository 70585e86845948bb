"""A repository as a target: what is there, and how the rest gets there."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Callable, Mapping, NamedTuple, Sequence

from ..errors import Cancelled, PusherError
from ..events import OnEvent, Outcome
from ..oci import Descriptor, Digest
from ..reference import Reference
from ..registry.client import RegistryClient
from ..registry.looks import unless_refused
from ..registry.uploads import Upload
from ..system.cancellation import Cancellation
from ..system.workers import Workers
from ..upload.blob_upload import Uploader
from ..upload.content import BlobReader, PreparedBlob
from ..values import value
from .manifests import Document
from .store import as_referrer, keep_referrers

if TYPE_CHECKING:
    from ..state.known_blobs import KnownBlobs
    from .found import Found
    from .source import Source


log = logging.getLogger(__name__)


@value
class PushTarget:
    """Where a push goes, and everything it shares with others.

    *blobs* is what earlier runs left in the state directory, None for nothing.
    *reference* is the tag or the digest that was asked for, also where it is written
    only after several pushes.
    """

    client: RegistryClient
    repository: str
    uploader: Uploader
    cancellation: Cancellation
    on_event: OnEvent
    blobs: KnownBlobs | None = None
    reference: str = ""


class Arrival(NamedTuple):
    """How a blob came to the target, and how many of its bytes moved for that."""

    outcome: Outcome
    moved: int = 0


class RegistryTarget:
    """A repository of a registry."""

    jobs: int | None = None

    def __init__(self, target: PushTarget) -> None:
        self.place = target.client.registry
        self.repository = target.repository
        self.cancellation = target.cancellation
        self.on_event = target.on_event
        self._target = target

    def begin(self, found: Sequence[Found]) -> Sequence[Descriptor]:
        """The blobs of all that is going to come, each once."""
        blobs = {d: blob for one in found for d, blob in one.tree.blobs.items()}
        return list(blobs.values())

    def digest_of(self, reference: str) -> Digest | None:
        """What *reference* names there, None when the registry does not tell."""
        found = unless_refused(
            lambda: self._target.client.manifest_descriptor(self.repository, reference)
        )
        return found.digest if found is not None else None

    def holds(self, document: Descriptor) -> bool:
        """True for a manifest that is there: a registry takes none without the rest."""
        return self.digest_of(str(document.digest)) is not None

    def has(self, blobs: Sequence[Descriptor], *, jobs: int) -> set[Digest]:
        """Those of *blobs* that are there, as far as the registry tells.

        *jobs* are looked for at a time.
        """
        target = self._target

        def look(blob: Descriptor) -> bool:
            return target.client.has_blob(self.repository, blob)

        there = zip(blobs, self._in_parallel(look, blobs, jobs))
        return {blob.digest for blob, is_there in there if is_there}

    def mounted(
        self, blobs: Mapping[Descriptor, Sequence[str]], *, jobs: int
    ) -> set[Digest]:
        """Those of *blobs* that could be mounted from one of their repositories."""

        def mount(blob: Descriptor) -> bool:
            return self.mount(blob, blobs[blob])

        done = zip(blobs, self._in_parallel(mount, list(blobs), jobs))
        return {blob.digest for blob, is_there in done if is_there}

    def mount(self, blob: Descriptor, repositories: Sequence[str]) -> bool:
        """True when *blob* could be mounted, without reading a byte of it."""
        outcome, opened = self._target.uploader.mount(blob, repositories)
        if opened is not None:
            self._cancel(opened)
        return outcome is Outcome.MOUNTED

    def _cancel(self, upload: Upload) -> None:
        try:
            self._target.client.cancel_upload(self.repository, upload)
        except Cancelled:
            raise
        except PusherError as error:
            log.info("an upload was left open: %s", error)

    def _in_parallel(
        self, ask: Callable[[Descriptor], bool], blobs: Sequence[Descriptor], jobs: int
    ) -> list[bool]:
        """The answers for *blobs*.

        The first is asked for alone: it finds out whether the registry speaks TLS and
        whom it wants to know, so that the others need not, each for itself.
        """
        found = [ask(blob) for blob in blobs[:1]]
        rest = blobs[1:]
        if not rest:
            return found
        with Workers(self.cancellation, min(jobs, len(rest)), name="look") as workers:
            return found + workers.wait([workers.submit(ask, blob) for blob in rest])

    def mount_candidates(self, source: Source, digest: Digest) -> list[str]:
        """Repositories of this registry that may have the blob."""
        own = [source.repository] if source.place == self.place else []
        held = self.holders(digest)
        return [*(name for name in own if name != self.repository), *held]

    def holders(self, digest: Digest) -> list[str]:
        """Other repositories of this registry that earlier runs left the blob in."""
        if self._target.blobs is None:
            return []
        known = self._target.blobs.holders(digest, self.place)
        names = (reference.repository for reference in known)
        return [name for name in names if name != self.repository]

    def put_blob(
        self,
        blob: Descriptor,
        open_at: Callable[[int], BlobReader],
        mounts: Sequence[str],
    ) -> Arrival:
        """Have the repository hold *blob*."""
        key = str(blob.digest)
        prepared = PreparedBlob(
            key, blob, lambda start: SourceReader(open_at(start)), from_network=True
        )
        try:
            outcome = self._target.uploader.upload(prepared, mount_from=mounts)
            return Arrival(outcome, blob.size * (outcome is Outcome.UPLOADED))
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

    def put_document(self, document: Document, reference: str) -> bool:
        """Store a manifest under *reference*, its digest or a tag.

        False when it has a subject of which the registry said nothing.
        """
        stored = self._target.client.store_manifest(
            self.repository, reference, document.raw, document.descriptor.media_type
        )
        return stored.subject is not None or as_referrer(document) is None

    def list_referrers(self, subject: Digest, listed: Sequence[Descriptor]) -> None:
        """Where the registry keeps no list itself, keep it under a tag."""
        client = self._target.client
        keep_referrers(client, self.repository, subject, listed, on_event=self.on_event)


class SourceFailed(Cancelled):
    """The source cannot be read: *error*.

    For the uploader this is a cancellation: it must not take the source's failure for
    one of the target, and keeps the session for another run.
    """

    def __init__(self, error: PusherError) -> None:
        super().__init__(str(error))
        self.error = error


class SourceReader:
    """The bytes of a source, whose failures are told apart from the target's."""

    def __init__(self, reader: BlobReader) -> None:
        self._reader = reader

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill *buffer* as far as the next bytes go; 0 at the end."""
        try:
            return self._reader.readinto(buffer) or 0
        except Cancelled:
            raise
        except PusherError as error:
            raise SourceFailed(error) from error

    def close(self) -> None:
        """Give back what the reader holds."""
        self._reader.close()
