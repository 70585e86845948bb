"""A blob that is sent while it is being made, before anybody knows its digest.

One thread makes it: it writes a spool, and names the result at the end. An uploader
sends meanwhile what is complete, in parts (distribution-spec, "Pushing a blob in
chunks"). The upload of the whole blob continues in that session, which only a PUT with
the right digest can close. A part that fails ends the early upload, never the push: the
rest waits until the digest is known, as it does everywhere else.
"""

from __future__ import annotations

import contextlib
import threading

from ..archive.spooled import Spool
from ..errors import Cancelled, NetworkError, PusherError, RegistryError
from ..oci import Descriptor
from ..registry.debug import uploads_log
from ..registry.uploads import Upload
from ..system.cancellation import Cancellation
from ..system.streams import Closeable
from ..system.workers import STEP
from ..values import replace
from .content import BlobReader, CheckedContent, PreparedBlob
from .limits import LONG, MIB, SMALLEST_CHUNK, LearnedLimits, Status
from .link import SlowLink, TimedBody
from .open_session import UploadSession, UploadTarget

PART = 10 * MIB
"""Bytes that are worth a request: what distribution's S3 driver writes at a time."""

SOON = 2.0
"""Seconds that a part should take: no run resumes what was early, and the rest waits
for the part that is under way."""

LEAST = 4 * PART
"""Bytes of a content that is sent early: what is shorter is ready soon enough."""


class GrowingBlob:
    """A blob that one thread writes to *spool* while another one reads it.

    *key* names it in events. `descriptor` is None until it is complete.
    """

    def __init__(self, key: str, spool: Spool) -> None:
        self.key = key
        self.spool = spool
        self.descriptor: Descriptor | None = None
        self._size = 0
        self._made: PreparedBlob | None = None
        self._changed = threading.Condition()  # guards the two above

    def write(self, data: bytes | memoryview) -> None:
        """Append *data*. Raises what the spool raises."""
        self.spool.write(data)
        with self._changed:
            self._size += len(data)
            self._changed.notify_all()

    def open_at(self, offset: int) -> BlobReader:
        """A reader of what was written until now, from *offset* on."""
        return self.spool.open_at(offset)

    def end(self, made: PreparedBlob, *, of_spool: bool) -> None:
        """Nothing is written any more: *made* is the blob to send.

        Without *of_spool* it has other bytes than what was written.
        """
        with self._changed:
            self._made = made
            if of_spool:
                self.descriptor = made.descriptor
            self._changed.notify_all()

    def wait_for(self, size: int, cancellation: Cancellation) -> int:
        """How much was written, once that is *size* bytes; 0 when no more follows.

        Raises Cancelled.
        """
        with self._changed:
            while self._made is None and self._size < size:
                self._changed.wait(STEP)
                cancellation.check()
            return self._size if self._made is None else 0

    def made(self, cancellation: Cancellation) -> PreparedBlob:
        """The blob, once it is complete. Raises Cancelled."""
        with self._changed:
            while self._made is None:
                self._changed.wait(STEP)
                cancellation.check()
            return self._made


class EarlyUpload(Closeable):
    """The session that parts of *blob* go into; closing it throws it away.

    One thread uses it. `continued` takes over what `run` has sent.
    """

    def __init__(self, target: UploadTarget, blob: GrowingBlob) -> None:
        self.content = CheckedContent(
            blob, target.cancellation, target.on_event, piece=target.client.piece_size
        )
        self._target = target
        self._blob = blob
        self._upload: Upload | None = None
        self._offset = 0
        self._sending = 0

    def close(self) -> None:
        """Have the registry forget the session, unless it was `continued`."""
        upload, self._upload = self._upload, None
        if upload is not None:
            self.content.take_back()
            with contextlib.suppress(PusherError):
                self._target.client.cancel_upload(self._target.repository, upload)
        self.content.close()

    def run(self) -> None:
        """Send what is complete until the blob is, or until a part fails.

        Raises Cancelled.
        """
        try:
            while size := self._next_part():
                self._send_part(size)
        except Cancelled:
            raise
        except PusherError as error:
            uploads_log.info(
                "%s: waits until it is complete: %s", self._blob.key, error
            )
            if not isinstance(error, SlowLink):
                self._target.limits.takes_early = False

    def made(self) -> PreparedBlob:
        """The blob, once it is complete, with what `run` has sent. Raises Cancelled."""
        return replace(self._blob.made(self._target.cancellation), early=self)

    def continued(self) -> UploadSession | None:
        """The session of the whole blob, at the end of what was sent; None for none.

        To be called when the blob is complete.
        """
        self.content.close()  # what was read from ends where the spool did
        upload, descriptor = self._upload, self._blob.descriptor
        if upload is None or descriptor is None:
            return None
        self._upload = None
        session = UploadSession(self._target, descriptor, upload, self._offset)
        if not self._sending or self._asked(session):
            return session
        session.cancel()
        self.content.take_back()
        return None

    def _asked(self, session: UploadSession) -> bool:
        """True when the registry says how much it has of a part that broke."""
        if self._target.limits.current.status is Status.NEVER:
            return False
        with contextlib.suppress(NetworkError, RegistryError):
            return session.ask(self._offset + self._sending)
        return False

    def _next_part(self) -> int:
        """Bytes of the next part, 0 when nothing more is sent early."""
        target = self._target
        least, most = _part_sizes(target.limits)
        if not least:
            return 0
        there = self._blob.wait_for(self._offset + least, target.cancellation)
        return min((there - self._offset) // least * least, most) if there else 0

    def _send_part(self, size: int) -> None:
        target, start = self._target, self._offset
        if self._upload is None:
            self._open()
            return  # it may have told which sizes it wants
        self.content.close()  # as above
        self.content.start_at(start)
        target.limits.wait_for_turn(target.cancellation)
        self._sending = size
        started = target.limits.clock()
        upload = replace(self._upload, offset=start)
        self._upload = target.client.send_chunk(
            target.repository, upload, self._body(start, size), size
        )
        target.limits.took(size, target.limits.clock() - started)
        self._offset, self._sending = self._upload.offset, 0

    def _open(self) -> None:
        target = self._target
        self._upload = upload = target.client.start_upload(target.repository)
        assert upload is not None, "nothing was to be mounted"
        target.limits.advertised(upload.min_chunk, upload.max_chunk)

    def _body(self, start: int, size: int) -> TimedBody:
        limits = self._target.limits

        def is_too_slow(rate: float) -> bool:
            return start == 0 and size > rate * LONG

        pieces = self.content.pieces(start, start + size)
        return TimedBody(pieces, limits.clock, limits.measured, is_too_slow)


def _part_sizes(learned: LearnedLimits) -> tuple[int, int]:
    """Bytes of the smallest and of the largest part; zeros where none is sent.

    A host of which nothing is known takes parts of all sizes, as far as it says nothing
    else; where something is known of a host, there is a reason for it. The first part
    is small, and shows how fast the link is.
    """
    limits, rate = learned.current, learned.rate
    if not (learned.takes_early and limits.adapts and limits.chunked):
        return 0, 0
    if limits.equal_chunks:
        return 0, 0
    there = int(rate * SOON) // MIB * MIB if rate else 0
    least = max(min(PART, there), SMALLEST_CHUNK, limits.chunk_min)
    most = max(min(limits.chunk_size, there), least)
    return min(least, limits.chunk_size), min(most, limits.chunk_size)
