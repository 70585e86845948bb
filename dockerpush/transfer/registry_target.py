"""A repository as a target: what is there, and how the rest gets there."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import (
    TYPE_CHECKING,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)

from ..documents import RawManifest
from ..errors import Cancelled, PusherError
from ..events import OnEvent, Outcome, ignore
from ..oci import Descriptor, Digest
from ..reference import Reference
from ..registry.client import RegistryClient
from ..registry.setup import retry_policy
from ..registry.uploads import Upload
from ..settings.config import Settings
from ..state.directory import StateDirectory
from ..state.known_blobs import KnownBlobs
from ..state.upload_sessions import UploadSessions
from ..system.cancellation import Cancellation
from ..system.workers import Workers, wide
from ..upload.content import BlobReader, PreparedBlob
from ..upload.early import EarlyUpload, GrowingBlob
from ..upload.limits import LearnedLimits, default_limits, is_small, limits_for
from ..upload.uploader import Uploader
from ..values import replace
from .manifests import as_referrer, keep_referrers
from .target import Target, UploadResult

if TYPE_CHECKING:
    from .source import Source


log = logging.getLogger(__name__)


def first_limits(registry: str, settings: Settings) -> LearnedLimits:
    """What is known of uploads to *registry* before the first one."""
    limits = limits_for(default_limits(registry), settings.blob_chunk)
    pace = max(limits.pace, settings.chunk_delay)
    return LearnedLimits(replace(limits, pace=pace))


@contextmanager
def open_target(
    client: RegistryClient,
    reference: Reference,
    settings: Settings,
    *,
    cancellation: Cancellation,
    on_event: OnEvent,
    state: StateDirectory | None = None,
    limits: LearnedLimits | None = None,
) -> Iterator[RegistryTarget]:
    """The repository of *reference*, for one image.

    *state* is where upload sessions and known blobs are kept for other runs, None for
    nowhere. *limits* are what other images have taught of the registry, if any did.
    """
    with cancellation.child() as child:
        uploader = Uploader(
            client,
            reference.repository,
            limits or first_limits(reference.registry, settings),
            retry_policy(settings),
            cancellation=child,
            on_event=on_event,
            sessions=UploadSessions(state.path / "uploads") if state else None,
            pause=settings.layer_delay,
        )
        yield RegistryTarget(
            client,
            reference.repository,
            uploader,
            child,
            on_event=on_event,
            blobs=KnownBlobs(state) if state else None,
            reference=reference.tag or str(reference.digest or ""),
        )


class RegistryTarget(Target):
    """A repository of the registry that *client* talks to.

    *blobs* is what earlier runs left in the state directory, None for nothing.
    *reference* is the tag or the digest that was asked for, also where it is written
    only after several pushes.
    """

    def __init__(
        self,
        client: RegistryClient,
        repository: str,
        uploader: Uploader,
        cancellation: Cancellation,
        *,
        on_event: OnEvent = ignore,
        blobs: KnownBlobs | None = None,
        reference: str = "",
    ) -> None:
        super().__init__(client.registry, cancellation, on_event, repository)
        self.client = client
        self.uploader = uploader
        self.blobs = blobs
        self.reference = reference
        self.is_new = False
        """Whether the registry has said that there is no such repository yet.

        Small blobs are not looked for then: to look costs as much as to send."""
        self._absent: frozenset[Digest] = frozenset()
        self._lost: frozenset[Digest] = frozenset()

    def digest_of(self, reference: str) -> Digest | None:
        """What *reference* names there, None when the registry does not say."""
        found = self.client.find_manifest(self.repository, reference)
        return found.digest if found is not None else None

    def has_document(self, document: Descriptor) -> bool:
        """True for a manifest that is there: a registry takes none without the rest."""
        return self.digest_of(str(document.digest)) is not None

    def has(self, blobs: Sequence[Descriptor], *, jobs: int) -> set[Digest]:
        """Those of *blobs* that are there, as far as the registry says.

        *jobs* large blobs may move at a time, so more are looked for. What is not there
        is not looked for again.
        """

        def look(blob: Descriptor) -> bool:
            if self._is_absent(blob):
                return False
            return self.client.has_blob(self.repository, blob)

        answers = zip(blobs, self._in_parallel(look, blobs, jobs))
        there = {blob.digest for blob, is_there in answers if is_there}
        self._absent = (self._absent | {blob.digest for blob in blobs}) - there
        return there

    def _is_absent(self, blob: Descriptor) -> bool:
        """True when nobody needs to look for *blob*."""
        return blob.digest in self._lost or (self.is_new and is_small(blob))

    def invalidate(self, digests: Iterable[Digest]) -> None:
        """These are not there, whatever the registry says, nor where they were known.

        A registry may say that it mounted a blob, and not have it
        (MANIFEST_BLOB_UNKNOWN).
        """
        self._lost |= frozenset(digests)
        if self.blobs is not None:
            for digest in self._lost:
                for holder in self.blobs.holders(digest, self.place):
                    self.blobs.forget_holder(digest, holder)
            self.blobs.save()

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
        if blob.digest in self._lost:
            return False
        outcome, opened = self.uploader.mount(blob, repositories)
        if opened is not None:
            self._cancel(opened)
        return outcome is Outcome.MOUNTED

    def _cancel(self, upload: Upload) -> None:
        try:
            self.client.cancel_upload(self.repository, upload)
        except Cancelled:
            raise
        except PusherError as error:
            log.info("an upload was left open: %s", error)

    def _in_parallel(
        self, ask: Callable[[Descriptor], bool], blobs: Sequence[Descriptor], jobs: int
    ) -> list[bool]:
        """The answers for *blobs*.

        Where nothing was asked before, the first is asked for alone: it finds out
        whether the registry speaks TLS and whom it wants to know, so that the others
        need not, each for itself.
        """
        first = len(blobs) if len(blobs) < 2 else int(not self.client.was_reached)
        found = [ask(blob) for blob in blobs[:first]]
        rest = blobs[first:]
        if not rest:
            return found
        count = min(wide(jobs), len(rest))
        with Workers(self.cancellation, count, name="look") as workers:
            return found + workers.wait([workers.submit(ask, blob) for blob in rest])

    def mount_candidates(
        self, digest: Digest, source: Source | None = None
    ) -> list[str]:
        """Other repositories of this registry that *source* is, or earlier runs know.

        None of them has to have the blob by now.
        """
        names = list(source.repositories(self.place, digest)) if source else []
        if self.blobs is not None:
            known = self.blobs.holders(digest, self.place)
            names += [reference.repository for reference in known]
        return [name for name in names if name != self.repository]

    def may_be_early(self) -> bool:
        """True unless an earlier run has left something to continue."""
        return self.uploader.may_be_early()

    def early(self, blob: GrowingBlob) -> EarlyUpload:
        """What sends *blob* while it is being made."""
        return self.uploader.early(blob)

    def put_blob(self, blob: PreparedBlob, mounts: Sequence[str]) -> UploadResult:
        """Have the repository hold *blob*."""
        descriptor = blob.descriptor
        is_lost = descriptor.digest in self._lost
        safe = replace(blob, open_at=lambda start: SourceReader(blob.open_at(start)))
        try:
            outcome = self.uploader.upload(
                safe,
                mount_from=() if is_lost else mounts,
                known_absent=descriptor.digest in self._absent
                or self._is_absent(descriptor),
            )
        except SourceFailed as failed:
            raise failed.error from failed
        moved = descriptor.size * (outcome is Outcome.UPLOADED)
        return UploadResult(descriptor, outcome, moved, blob.made_from)

    def learn(self, blobs: Sequence[Descriptor]) -> None:
        """Remember for other runs that these are there."""
        if self.blobs is not None:
            place = Reference(self.place, self.repository)
            for blob in blobs:
                self.blobs.add_holder(blob.digest, place)
            self.blobs.save()

    def put_document(self, document: RawManifest, reference: str) -> bool:
        """Store a manifest under *reference*, its digest or a tag.

        False when it has a subject that the registry did not confirm.
        """
        stored = self.client.store_manifest(
            self.repository, reference, document.raw, document.descriptor.media_type
        )
        return stored.subject is not None or as_referrer(document) is None

    def list_referrers(self, subject: Digest, listed: Sequence[Descriptor]) -> None:
        """Where the registry keeps no list itself, keep it under a tag."""
        keep_referrers(
            self.client, self.repository, subject, listed, on_event=self.on_event
        )


class SourceFailed(Cancelled):
    """The source cannot be read: *error*.

    For the uploader this is a cancellation: it must not take the source's failure for
    one of the target, and keeps the session for another run.
    """

    def __init__(self, error: PusherError) -> None:
        super().__init__(str(error))
        self.error = error


class SourceReader:
    """The bytes of a source, whose failures are distinguished from the target's."""

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
