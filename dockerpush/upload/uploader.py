"""The one uploader: makes a repository hold a blob with the fewest bytes sent.

It looks whether the blob is there, mounts it from a repository that holds it, and only
then sends it, as `BlobUpload` does. Any number of threads may use one Uploader; each
blob has one thread.
"""

from __future__ import annotations

import logging
from typing import Sequence

from ..errors import (
    ContentMismatch,
    PusherError,
    RegistryError,
    TransientError,
    Unauthorized,
)
from ..events import (
    BlobFinished,
    BlobStarted,
    OnEvent,
    Outcome,
    Retrying,
    ignore,
)
from ..oci import Descriptor
from ..registry.client import RegistryClient
from ..registry.refusals import short
from ..registry.retry import RetryPolicy
from ..registry.uploads import Upload
from ..state.upload_sessions import UploadSessions
from ..system.cancellation import Cancellation
from ..system.files import HAS_PREAD
from ..values import replace
from .blob_upload import BlobUpload
from .content import CheckedContent, PreparedBlob
from .early import EarlyUpload, GrowingBlob
from .limits import LearnedLimits
from .open_session import UploadSession, UploadTarget

log = logging.getLogger(__name__)


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
        pause: float = 0.0,
    ) -> None:
        """*sessions* keeps sessions for another run.

        *pause* is a time in seconds to wait after each blob that was sent.
        """
        self._target = UploadTarget(
            client, repository, limits, policy, cancellation, on_event, sessions
        )
        self._pause = pause

    def may_be_early(self) -> bool:
        """True when `early` may send blobs that are still being made.

        False where an earlier run has left a session, which has more of a blob; and
        where a file that is written cannot be read beside that.
        """
        target = self._target
        sessions, registry = target.sessions, target.client.registry
        if sessions and sessions.has_any(registry, target.repository):
            return False
        return HAS_PREAD

    def early(self, blob: GrowingBlob) -> EarlyUpload:
        """An upload of *blob* that begins before it is complete."""
        return EarlyUpload(self._target, blob)

    def upload(
        self,
        blob: PreparedBlob,
        *,
        mount_from: Sequence[str] = (),
        known_absent: bool = False,
    ) -> Outcome:
        """Make the repository hold *blob*, and say how.

        *mount_from* are repositories of the same registry that are known to hold it,
        the likeliest first; *known_absent* means that the caller has just looked.
        Raises RegistryError, NetworkError, ContentMismatch and ArchiveError, which name
        the blob, Cancelled.
        """
        descriptor = blob.descriptor
        try:
            outcome = self._ensure(blob, mount_from, known_absent=known_absent)
        except (TransientError, RegistryError) as error:
            self._name(descriptor, error)
            raise
        self._target.on_event(
            BlobFinished(blob.key, descriptor.digest, descriptor.size, outcome)
        )
        if self._pause and outcome is Outcome.UPLOADED:
            self._target.cancellation.wait(self._pause)
        return outcome

    def _name(self, blob: Descriptor, error: PusherError) -> None:
        """Have *error* name *blob*, unless it is one for all blobs, or of a source."""
        repository = f"{self._target.client.registry}/{self._target.repository}"
        is_ours = error.task.endswith(f" {repository}")
        if is_ours and not isinstance(error, Unauthorized):
            error.during(f"cannot push blob {short(blob.digest)} to {repository}")

    def _ensure(
        self, blob: PreparedBlob, mount_from: Sequence[str], *, known_absent: bool
    ) -> Outcome:
        self._target.cancellation.check()
        client, repository = self._target.client, self._target.repository
        if not known_absent and client.has_blob(repository, blob.descriptor):
            return Outcome.EXISTS
        session = blob.early.continued() if blob.early else None
        if session is not None:
            return self._continue(blob, session)
        outcome, opened = self.mount(blob.descriptor, mount_from)
        if outcome is Outcome.UPLOADED:
            self._send(blob, opened)
        return outcome

    def mount(
        self, descriptor: Descriptor, sources: Sequence[str]
    ) -> tuple[Outcome, Upload | None]:
        """MOUNTED, or UPLOADED for what must be sent, with the session if there is one.

        Only the first of *sources* is tried: what keeps a registry from mounting
        rarely depends on the source, and each try costs a request. Some registries say
        that they mounted and did not (201 for nothing): one that lied is not asked any
        more.
        """
        client, repository = self._target.client, self._target.repository
        for source in sources[:1] if self._target.limits.mounts is not False else ():
            try:
                opened = client.start_upload(
                    repository, mount=descriptor.digest, source=source
                )
            except TransientError as error:
                if error.status is None:
                    raise
                log.info("no mount from %s: %s", source, error)
            else:
                if opened is None and self._is_mounted(descriptor):
                    return Outcome.MOUNTED, None
                return Outcome.UPLOADED, opened
        return Outcome.UPLOADED, None

    def _is_mounted(self, descriptor: Descriptor) -> bool:
        """True when the answer to a mount is true, as its host's first one shows."""
        target, limits = self._target, self._target.limits
        if limits.mounts is None:
            limits.mounts = target.client.holds_blob(target.repository, descriptor)
        if limits.mounts is False:
            log.info("no mount of %s: it is not there", descriptor.digest)
        return limits.mounts is not False

    def _continue(self, blob: PreparedBlob, session: UploadSession) -> Outcome:
        """Send the rest of a blob; all of it, where the registry refuses that."""
        early = blob.early
        assert early is not None, "it has begun the session"
        try:
            self._send_into(session, blob, early.content)
        except RegistryError as error:
            log.info("%s: sent once more: %s", blob.descriptor.digest, error)
            self._target.limits.takes_early = False
            early.content.take_back()
            self._send(blob, None)
        return Outcome.UPLOADED

    def _send(self, blob: PreparedBlob, opened: Upload | None) -> None:
        target = self._target
        content = CheckedContent(
            blob, target.cancellation, target.on_event, piece=target.client.piece_size
        )
        session = UploadSession(target, blob.descriptor, opened)
        try:
            self._send_into(session, blob, content)
        except ContentMismatch as error:
            if not blob.from_network:
                raise
            what = f"blob {blob.descriptor.digest.short}"
            content.take_back()
            target.on_event(Retrying(what, str(error), 0))
            self._send(replace(blob, from_network=False), None)

    def _send_into(
        self, session: UploadSession, blob: PreparedBlob, content: CheckedContent
    ) -> None:
        target, descriptor = self._target, blob.descriptor
        target.on_event(BlobStarted(blob.key, descriptor.digest, descriptor.size))
        with content, session:
            BlobUpload(target, descriptor, content, session).run()
