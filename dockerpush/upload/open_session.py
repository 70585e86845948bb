"""An upload session as the registry holds it and as we know it.

Rules: the acknowledged offset counts, never what was sent. What a registry says about
its own offset is believed only where it is plausible. What a session file holds is a
hint: the registry is asked before anything is built on it.
"""

from __future__ import annotations

import contextlib
from types import TracebackType

from ..errors import (
    NetworkError,
    NotFoundInRegistry,
    PusherError,
    RegistryError,
    TransientError,
    Unauthorized,
)
from ..events import OnEvent
from ..oci import Descriptor
from ..registry.client import RegistryClient
from ..registry.debug import uploads_log
from ..registry.retry import RetryPolicy
from ..registry.uploads import Upload, reported_offset
from ..state.upload_sessions import ClaimedUpload, UploadSessions
from ..system.cancellation import Cancellation
from ..values import replace, value
from .limits import LearnedLimits, Observed, Status, believable


@value
class UploadTarget:
    """The repository that blobs go to, and what all their uploads share."""

    client: RegistryClient
    repository: str
    limits: LearnedLimits
    policy: RetryPolicy
    cancellation: Cancellation
    on_event: OnEvent
    sessions: UploadSessions | None = None


class UploadSession:
    """The session of one blob; `upload` is None while there is none.

    `offset` is how many bytes the registry has acknowledged. `resumed` is true once
    a break lies behind it, so that nobody knows for sure what the registry holds;
    `chunk_size` is bytes, and only that of a session that an earlier run began.
    """

    def __init__(
        self,
        target: UploadTarget,
        descriptor: Descriptor,
        opened: Upload | None = None,
        offset: int = 0,
    ) -> None:
        """*opened* is a session that is open already (of a mount that was refused).

        It has *offset* bytes of the blob; then none of an earlier run is looked for.
        """
        self.upload = opened
        self.offset = offset
        self.resumed = offset > 0
        self.chunk_size: int | None = None
        self._target = target
        self._descriptor = descriptor
        self._claim: ClaimedUpload | None = None
        self._claimed = False
        self._may_adopt = offset == 0
        self._off_by_one = False
        self._one_byte = False

    def __enter__(self) -> UploadSession:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._claim is not None:
            self._claim.close()

    def is_saved(self) -> bool:
        """True when another run may have left a session of the blob."""
        target = self._target
        return (
            self._may_adopt
            and target.sessions is not None
            and (
                target.sessions.may_have(
                    target.client.registry, target.repository, self._descriptor.digest
                )
            )
        )

    def adopt(self) -> bool:
        """Continue with what an earlier run left; False when it left nothing.

        Does so once. A session that is gone has shown at least how fast the link was.
        """
        claim = self._claim_once() if self._may_adopt else None
        self._may_adopt = False
        saved = claim.saved if claim is not None else None
        if saved is None or saved.offset > self._descriptor.size:
            return False
        if saved.chunk_size < self._descriptor.size:
            self._target.limits.went_in(saved.chunk_size)
        fresh = self.upload
        self.upload, self.offset = Upload(saved.location, saved.offset), saved.offset
        end = min(saved.offset + saved.chunk_size, self._descriptor.size)
        if not self._ask_saved(end):
            self.upload, self.offset, self.resumed = fresh, 0, False
            return True
        self.chunk_size = saved.chunk_size
        uploads_log.info("%s: resumed at byte %d", self._descriptor.digest, self.offset)
        if fresh is not None:
            self._cancel(fresh)
        return True

    def _ask_saved(self, end: int) -> bool:
        """`ask` for a session that may be anywhere, or nowhere any more."""
        try:
            useful = self.ask(end)
        except NetworkError as error:
            # Its file stays until a new session is recorded: the network may be down.
            uploads_log.info("%s: not resumed: %s", self._descriptor.digest, error)
            return False
        if not useful:
            self.drop()
        return useful

    def open(self) -> None:
        """Have the registry open a session.

        Raises TransientError, which says so when the repository may be what is missing.
        """
        client, repository = self._target.client, self._target.repository
        try:
            self.upload = client.start_upload(repository)
        except TransientError as error:
            if not error.hung_up:
                raise
            client.has_blob(repository, self._descriptor)  # waits for one that is down
            self.upload = self._start_again()

    def _start_again(self) -> Upload | None:
        client, repository = self._target.client, self._target.repository
        try:
            return client.start_upload(repository)
        except TransientError as error:
            if not error.hung_up:
                raise
            error.hung_up = False
            error.with_advice(
                "the registry answers other requests, so the repository "
                f"{repository!r} may be missing there (Amazon ECR hangs up then): "
                "create it, or check that you may push to it"
            )
            raise

    def acknowledged(self, upload: Upload) -> None:
        """The registry took a chunk, up to the offset of *upload*."""
        self.upload, self.offset = upload, upload.offset

    def record(self, chunk_size: int) -> None:
        """Keep the session for another run, where that can be done."""
        claim = self._claim_once()
        if claim is not None and self.upload is not None:
            claim.record(self.upload.location, self.offset, chunk_size)

    def ask(self, end: int) -> bool:
        """Ask where the session stands, at *end* at most; False when it is no use.

        A host whose status is worth nothing is not asked, and taken to stand at the
        acknowledged offset. Raises TransientError when there is no answer.
        """
        client, limits = self._target.client, self._target.limits
        assert self.upload is not None, "only an open session can be asked"
        self.resumed = True
        if limits.current.status is Status.NEVER:
            return True
        try:
            answer = client.upload_status(self._target.repository, self.upload)
        except NotFoundInRegistry:
            uploads_log.info("%s: its session is gone", self._descriptor.digest)
            return False
        except Unauthorized:
            raise
        except RegistryError as error:
            limits.observe(Observed.STATUS_WRONG)
            return error.status != 416
        self.upload = replace(answer, offset=self.offset)
        return self._believe(answer.offset, end)

    def stands_at(self, told: str, end: int) -> bool:
        """Continue from where a 416 says that the session stands, at *end* at most.

        False when its Range says nothing that gets us on.
        """
        reported, before = reported_offset(told), self.offset
        if reported is None or self._status is Status.NEVER:
            return False
        offset = believable(reported, before, end - before, self._status)
        if offset is None or offset == before:
            return False
        self.offset, self.resumed = offset, True
        return True

    @property
    def _status(self) -> Status:
        limits = self._target.limits.current
        return Status.OFF_BY_ONE if self._off_by_one else limits.status

    def _believe(self, told: int, end: int) -> bool:
        """Stand where the registry says, if that can be."""
        if self.offset == told == 0:
            offset: int | None = 0  # an empty session has no last byte to count from
        else:
            offset = believable(told, self.offset, end - self.offset, self._status)
        if offset is None:
            self._target.limits.observe(Observed.STATUS_WRONG)
            return False
        self.offset = offset
        return True

    def retry_one_byte_off(self) -> bool:
        """The registry refused the offset that it named: try the other meaning.

        Its Range may end with the count of bytes, and ``0-0`` may mean one byte instead
        of none. False when that was tried before, or cannot be.
        """
        if self._off_by_one or self._one_byte or not self.resumed:
            return False
        if self.offset == 0:
            self._one_byte = self._descriptor.size > 1
            self.offset += self._one_byte
            return self._one_byte
        self._off_by_one = True
        self.offset -= 1
        return True

    def finished(self) -> None:
        """The registry has the blob, and the session is over."""
        if self._claim is not None:
            self._claim.forget()

    def drop(self) -> None:
        """There is nothing to continue with: the next request opens a new session."""
        self.upload, self.offset, self.resumed = None, 0, False
        self.chunk_size = None
        if self._claim is not None:
            self._claim.forget()

    def cancel(self) -> None:
        """Have the registry throw the session away, as far as it lets us."""
        if self.upload is not None:
            self._cancel(self.upload)
        self.drop()

    def _cancel(self, upload: Upload) -> None:
        with contextlib.suppress(PusherError):
            self._target.client.cancel_upload(self._target.repository, upload)

    def _claim_once(self) -> ClaimedUpload | None:
        target = self._target
        if not self._claimed and target.sessions is not None:
            self._claim = target.sessions.claim(
                target.client.registry, target.repository, self._descriptor.digest
            )
        self._claimed = True
        return self._claim
