"""The upload of one blob: one request after another, and a decision after each failure.

Rules: what is tried again is counted against the policy until the acknowledged offset
is beyond every earlier one, so an upload that does not get on ends. What was learned
about the host (`LearnedLimits`) changes a value each time, so that ends as well. The
session is cancelled on a definite failure, and kept on one that a later run can make
good.
"""

from __future__ import annotations

import contextlib
import enum
from typing import Callable, ClassVar, Mapping, Union

from ..errors import (
    Cancelled,
    NetworkError,
    PusherError,
    RegistryError,
    TransientError,
)
from ..events import (
    Retrying,
)
from ..oci import Descriptor
from ..registry.debug import uploads_log
from ..registry.retry import Attempts, announce
from ..registry.uploads import Upload
from ..values import replace, value
from .content import CheckedContent
from .limits import (
    SMALLEST_CHUNK,
    Fault,
    Observed,
    Status,
    Tail,
    fault_of,
    observed_in,
)
from .link import SlowLink, TimedBody
from .open_session import UploadSession, UploadTarget


class RequestKind(enum.Enum):
    """The kinds of request that an upload is made of."""

    OPEN = "POST that opens the upload"
    POST = "POST with the whole blob"
    WHOLE = "PUT with the whole blob"
    CHUNK = "PATCH with a chunk"
    CLOSE = "closing PUT"


@value
class UploadRequest:
    """A request and the bytes of the blob that it carries, from *start* to *end*."""

    kind: RequestKind
    start: int = 0
    end: int = 0

    @property
    def size(self) -> int:
        """Bytes of the body."""
        return self.end - self.start


_OPEN = UploadRequest(RequestKind.OPEN)


class BlobUpload:
    """Sends *content* into *session* until the registry has the blob."""

    def __init__(
        self,
        target: UploadTarget,
        descriptor: Descriptor,
        content: CheckedContent,
        session: UploadSession,
    ) -> None:
        self._target = target
        self._descriptor = descriptor
        self._digest = descriptor.digest
        self._size = descriptor.size
        self._content = content
        self._session = session
        self._limits = target.limits.current
        self._rate = target.limits.rate
        self._request = _OPEN
        self._attempts = Attempts(target.policy)
        self._furthest = 0
        self._lost: set[UploadRequest] = set()
        self._cut: UploadRequest | None = None
        self._unanswered: UploadRequest | None = None
        self._token_renewed = False

    def run(self) -> None:
        """Return once the registry has the blob.

        Raises RegistryError for a definite answer, TransientError when the policy's
        attempts are used up, ContentMismatch or ArchiveError for content that is not
        what was promised, Cancelled.
        """
        try:
            self._run()
        except (Cancelled, TransientError):
            raise  # the session is kept: another run may go on with it
        except PusherError:
            self._session.cancel()
            raise

    def _run(self) -> None:
        while True:
            try:
                self._request = self._next_request()
                if self._send(self._request):
                    return
            except SlowLink as slow:
                self._go_in_parts(slow)
            except (TransientError, RegistryError) as error:
                if self._recover(error):
                    return

    def _next_request(self) -> UploadRequest:
        """What is to be sent now."""
        session, size = self._session, self._size
        self._learn()
        if self._may_resume() and session.adopt():
            self._rate = self._rate or self._target.limits.rate
            self._learn()
        whole = self._goes_whole()
        if session.upload is None:
            posts = whole and size > 0 and self._may_post()
            return UploadRequest(RequestKind.POST, 0, size) if posts else _OPEN
        if whole:
            return UploadRequest(RequestKind.WHOLE, 0, size)
        if session.offset == size:
            return UploadRequest(RequestKind.CLOSE, size, size)
        end = session.offset + self._limits.next_chunk(session.offset, size)
        tail = end == size and self._limits.tail is Tail.PUT
        return UploadRequest(
            RequestKind.CLOSE if tail else RequestKind.CHUNK, session.offset, end
        )

    def _may_post(self) -> bool:
        return self._target.limits.posts(self._size, self._target.cancellation)

    def _learn(self) -> None:
        """Take over what is known of the host now, for this blob."""
        session, before = self._session, self._limits.chunk_size
        upload = session.upload
        if upload is not None:
            self._target.limits.advertised(upload.min_chunk, upload.max_chunk)
        limits = self._target.limits.current.for_blob(self._size)
        limits = limits.for_link(self._size, self._rate)
        if session.chunk_size is not None and session.chunk_size < limits.chunk_size:
            limits = limits.with_chunk(session.chunk_size)
        self._limits = limits
        if limits.equal_chunks and session.offset and limits.chunk_size != before:
            session.cancel()

    def _may_resume(self) -> bool:
        """True when an earlier run may have left a session, which had parts."""
        return not self._goes_whole() or (
            self._limits.adapts and self._session.is_saved()
        )

    def _goes_whole(self) -> bool:
        upload = self._session.upload
        if self._session.offset or not self._limits.is_monolithic(self._size):
            return False
        largest = upload.max_chunk if upload is not None else None
        return largest is None or self._size <= largest

    def _send(self, request: UploadRequest) -> bool:
        """Do *request*; True when the registry has the blob."""
        target, session = self._target, self._session
        target.cancellation.check()
        if request.kind is RequestKind.OPEN:
            session.open()
            return False
        self._content.start_at(request.start)
        target.limits.wait_for_turn(target.cancellation)
        if request.kind is RequestKind.POST:
            return self._post(request)
        if request.kind is RequestKind.CHUNK:
            self._send_chunk(request)
            return False
        self._finish(request)
        return True

    def _post(self, request: UploadRequest) -> bool:
        """Send the blob with the request that would open its upload.

        A registry that answers with a session gets the blob there. The first one that
        says it has the blob is asked whether that is so.
        """
        target, limits = self._target, self._target.limits
        pieces = self._content.pieces(0, request.end)
        known = verdict = limits.current.single_post
        try:
            self._session.upload = target.client.post_blob(
                target.repository, self._digest, pieces, request.size
            )
            verdict = self._session.upload is None and (known or self._is_held())
            if verdict:
                uploads_log.debug("%s: sent whole in one POST", self._digest)
        except (TransientError, RegistryError) as error:
            may_pass = known and isinstance(error, TransientError)
            if not may_pass and error.status not in (401, 429):
                verdict = False
            raise
        finally:
            if verdict != known:
                seen = Observed.POST_TAKEN if verdict else Observed.POST_REFUSED
                limits.observe(seen)
            limits.end_post()
        return bool(verdict)

    def _is_held(self) -> bool:
        target = self._target
        return target.client.has_blob(target.repository, self._descriptor)

    def _send_chunk(self, request: UploadRequest) -> None:
        target, session = self._target, self._session
        upload = self._upload_at(request.start)
        session.record(self._limits.chunk_size)
        started = target.limits.clock()
        answer = target.client.send_chunk(
            target.repository, upload, self._body(request), request.size
        )
        target.limits.took(request.size, target.limits.clock() - started)
        self._token_renewed = False
        session.acknowledged(answer)
        session.record(self._limits.chunk_size)

    def _finish(self, request: UploadRequest) -> None:
        client, repository = self._target.client, self._target.repository
        upload = self._upload_at(request.start)
        if not request.size:
            self._content.verify()
            client.finish_upload(repository, upload, self._digest)
        else:
            if self._limits.adapts and request.size > SMALLEST_CHUNK:
                self._session.record(request.size)  # some keep what came of it
            body = self._body(request)
            client.finish_upload(
                repository, upload, self._digest, body=body, size=request.size
            )
        self._session.finished()

    def _body(self, request: UploadRequest) -> TimedBody:
        """The bytes of *request*; the first one of a blob stops where it takes long."""
        limits = self._target.limits

        def is_too_slow(rate: float) -> bool:
            adapted = self._limits.for_link(self._size, rate)
            return request.start == 0 and adapted != self._limits

        pieces = self._content.pieces(request.start, request.end)
        return TimedBody(pieces, limits.clock, limits.measured, is_too_slow)

    def _go_in_parts(self, slow: SlowLink) -> None:
        """Send the rest in chunks, from where the session stands."""
        target, session = self._target, self._session
        uploads_log.info("%s: continues in chunks: %s", self._digest, slow)
        self._rate = target.limits.rate
        keeps = target.limits.current.status is not Status.NEVER
        with contextlib.suppress(NetworkError, RegistryError):
            if keeps and session.ask(self._request.end):
                return
        session.cancel()

    def _upload_at(self, offset: int) -> Upload:
        upload = self._session.upload
        assert upload is not None, "a request with a body needs a session"
        return replace(upload, offset=offset)

    def _recover(self, error: TransientError | RegistryError) -> bool:
        """Get ready for another try; True when the registry has the blob after all.

        Raises *error* when there is nothing left to try.
        """
        self._target.cancellation.check()
        fault = fault_of(error)
        if fault in (Fault.BROKEN, Fault.SESSION_LOST) and self._is_there():
            return True
        uploads_log.info("%s: %s: %s", self._digest, fault.value, error)
        if self._request.kind is RequestKind.OPEN:
            raise error  # the client has tried often enough
        if self._request.kind is RequestKind.POST:
            self._after_post(fault, error)
            return False
        self._RECOVERIES[fault](self, error)
        return False

    def _is_there(self) -> bool:
        """True when only the answer was lost, not the request that closed the blob."""
        if self._request.kind in (RequestKind.OPEN, RequestKind.CHUNK):
            return False
        if self._content.position < self._size:
            return False
        if not self._is_held():
            return False
        self._session.finished()
        return True

    def _after_post(self, fault: Fault, error: TransientError | RegistryError) -> None:
        """Try again, or continue as with every registry: the answer to that counts."""
        limits = self._target.limits
        if fault is Fault.TOKEN:
            self._after_expired_token(error)
        elif limits.current.single_post or error.status == 429:
            if error.status == 429:
                limits.observe(Observed.THROTTLED)
            self._count(error)

    def _after_break(self, error: TransientError | RegistryError) -> None:
        request, session = self._request, self._session
        if isinstance(error, TransientError):
            self._learn_from_break(error)
        self._count(error)
        if request.kind is RequestKind.WHOLE or not session.ask(request.end):
            session.drop()

    def _learn_from_break(self, error: TransientError) -> None:
        """Two cuts of one body count as a limit of its size."""
        request, limits = self._request, self._target.limits
        if self._content.position == request.end:
            self._unanswered = request
        if error.status == 429:
            limits.observe(Observed.THROTTLED)
        if error.sending and request.size:
            if self._cut == request:
                limits.observe(Observed.TOO_LARGE, request.size)
            self._cut = request

    def _after_lost_session(self, error: TransientError | RegistryError) -> None:
        request = self._request
        again = request in self._lost
        self._lost.add(request)
        if again and self._switch():
            return
        self._count(error)
        self._session.drop()

    def _after_limit(self, error: TransientError | RegistryError) -> None:
        request = self._request
        observed = observed_in(error) if isinstance(error, RegistryError) else None
        if observed is None or not request.size:
            raise error
        if not self._target.limits.observe(observed, request.size):
            raise _too_large(error, request)
        if observed is Observed.CHUNK_TOO_SMALL:
            self._session.cancel()

    def _after_wrong_offset(self, error: TransientError | RegistryError) -> None:
        request, session = self._request, self._session
        if request.kind is RequestKind.WHOLE:
            self._after_lost_session(error)
            return
        self._count(error)
        told = error.range if isinstance(error, RegistryError) else ""
        if session.stands_at(told, request.end):
            return
        if not session.ask(request.end):
            session.cancel()
        elif session.offset == request.start:
            self._correct_offset(told)

    def _correct_offset(self, told: str) -> None:
        """The registry refused the offset that it names, or names none."""
        request, session = self._request, self._session
        if told and session.offset == 0 and session.retry_one_byte_off():
            return
        if request == self._unanswered:
            self._unanswered = None
            session.offset = request.end
        elif not session.retry_one_byte_off():
            session.cancel()

    def _after_expired_token(self, error: TransientError | RegistryError) -> None:
        if self._token_renewed:
            raise error
        self._token_renewed = True

    def _after_refusal(self, error: TransientError | RegistryError) -> None:
        if not self._switch():
            raise error

    def _switch(self) -> bool:
        """Change from whole to chunks, or the other way; False if impossible."""
        request, limits = self._request, self._target.limits
        if request.kind is RequestKind.WHOLE:
            observed = Observed.MONOLITHIC_REFUSED
        elif (
            request.kind is RequestKind.CHUNK
            and request.start <= self._limits.chunk_size
        ):
            observed = Observed.CHUNKS_REFUSED
        else:
            return False
        if not limits.observe(observed):
            return False
        self._session.cancel()
        return True

    def _after_corruption(self, error: TransientError | RegistryError) -> None:
        """A session that was resumed may hold something twice; a fresh one cannot."""
        if not self._session.resumed:
            raise error
        self._count(error)
        self._session.cancel()

    def _give_up(self, error: TransientError | RegistryError) -> None:
        raise error

    def _count(self, error: TransientError | RegistryError) -> None:
        """Wait before another try. Raises *error* when the policy has no more."""
        target, offset = self._target, self._session.offset
        if offset > self._furthest:
            self._furthest = offset
            self._attempts.succeeded()
        delay = self._attempts.delay_after(error)
        what = f"blob {self._digest.short}: {self._request.kind.value}"
        if isinstance(error, TransientError):
            announce(error, delay, what, target.on_event)
        else:
            target.on_event(Retrying(what, str(error), delay))
        target.cancellation.wait(delay)

    _RECOVERIES: ClassVar[Mapping[Fault, Recovery]] = {
        Fault.BROKEN: _after_break,
        Fault.SESSION_LOST: _after_lost_session,
        Fault.LIMIT: _after_limit,
        Fault.WRONG_OFFSET: _after_wrong_offset,
        Fault.TOKEN: _after_expired_token,
        Fault.REFUSED: _after_refusal,
        Fault.CORRUPTED: _after_corruption,
        Fault.DEFINITE: _give_up,
    }


Recovery = Callable[[BlobUpload, Union[TransientError, RegistryError]], None]


def _too_large(error: PusherError, request: UploadRequest) -> PusherError:
    return error.with_advice(
        f"the registry, or a proxy in front of it, accepts no "
        f"{request.kind.value} of {request.size} bytes, and dockerpush cannot send "
        "less: raise the limit there (nginx: client_max_body_size)"
    )
