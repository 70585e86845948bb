"""The one uploader: makes a repository hold a blob with the fewest bytes sent.

It looks whether the blob is there, mounts it from a repository that holds it, and only
then sends it, as `BlobUpload` does. Any number of threads may use one Uploader; each
blob has one thread.
"""

from __future__ import annotations

import logging
from typing import Sequence

from ..cancellation import Cancellation
from ..errors import RegistryError, TransientError
from ..events import BlobFinished, BlobStarted, OnEvent, Outcome, ignore
from ..oci import Descriptor
from ..rate import RateLimiter
from ..registry.client import RegistryClient, Upload
from ..registry.retry import RetryPolicy
from ..registry.uploads import UploadSessions
from .blob_upload import BlobUpload
from .learned import LearnedLimits
from .prepared import CheckedContent, PreparedBlob, unlimited
from .session import UploadSession, UploadTarget

log = logging.getLogger(__name__)

MOUNT_SOURCES = 4
"""Repositories that are tried for a mount; each costs a request that may be in vain."""


class Uploader:
    """Uploads blobs into *repository* of the registry that *client* talks to."""

    def __init__(
        self,
        client: RegistryClient,
        repository: str,
        limits: LearnedLimits,
        policy: RetryPolicy,
        *,
        cancellation: Cancellation,
        on_event: OnEvent = ignore,
        sessions: UploadSessions | None = None,
        rate: RateLimiter | None = None,
    ) -> None:
        """*sessions* keeps sessions for another run, *rate* is shared with others."""
        self._target = UploadTarget(
            client, repository, limits, policy, cancellation, on_event, sessions
        )
        self._rate = rate
        self._refused: set[str] = set()

    def upload(
        self,
        blob: PreparedBlob,
        *,
        mount_from: Sequence[str] = (),
        known_absent: bool = False,
    ) -> Outcome:
        """Make the repository hold *blob*, and say how.

        *mount_from* are repositories of the same registry that are known to hold it;
        *known_absent* means that the caller has just looked. Raises RegistryError,
        NetworkError, ContentMismatch and ArchiveError, which name the blob, Cancelled.
        """
        outcome = self._ensure(blob, mount_from, known_absent=known_absent)
        descriptor = blob.descriptor
        self._target.on_event(
            BlobFinished(blob.key, descriptor.digest, descriptor.size, outcome)
        )
        return outcome

    def _ensure(
        self, blob: PreparedBlob, mount_from: Sequence[str], *, known_absent: bool
    ) -> Outcome:
        self._target.cancellation.check()
        if not known_absent and self._is_there(blob.descriptor):
            return Outcome.EXISTS
        mounted, opened = self._mount(blob.descriptor, mount_from)
        if mounted:
            return Outcome.MOUNTED
        self._send(blob, opened)
        return Outcome.UPLOADED

    def _is_there(self, descriptor: Descriptor) -> bool:
        """True when the repository holds the blob, and all of it."""
        client, repository = self._target.client, self._target.repository
        return client.blob_size(repository, descriptor.digest) == descriptor.size

    def _mount(
        self, descriptor: Descriptor, sources: Sequence[str]
    ) -> tuple[bool, Upload | None]:
        """Whether the blob was mounted; if not, the session that was opened, if any.

        A registry that cannot mount says so by any status at all (401 by Harbor, 403,
        404, 405), which is no failure of ours; a source that did is not tried again.
        """
        target = self._target
        promising = [source for source in sources if source not in self._refused]
        for source in promising[:MOUNT_SOURCES]:
            try:
                opened = target.client.start_upload(
                    target.repository, mount=descriptor.digest, source=source
                )
            except (RegistryError, TransientError) as error:
                log.info("no mount from %s: %s", source, error)
                self._refused.add(source)
            else:
                return opened is None, opened
        return False, None

    def _send(self, blob: PreparedBlob, opened: Upload | None) -> None:
        target, descriptor = self._target, blob.descriptor
        target.on_event(BlobStarted(blob.key, descriptor.digest, descriptor.size))
        take = self._take if self._rate is not None else unlimited
        with (
            CheckedContent(
                blob, target.cancellation, target.on_event, take=take
            ) as content,
            UploadSession(target, descriptor, opened) as session,
        ):
            BlobUpload(target, descriptor, content, session).run()

    def _take(self, count: int) -> int:
        assert self._rate is not None
        return self._rate.take(count, self._target.cancellation)
