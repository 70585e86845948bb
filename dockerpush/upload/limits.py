"""What each registry allows in an upload, and what a failed request says about that.

`HostLimits` are values: `default_limits` has those that are known of a host, each from
somebody's bug report. No other module decides by the name of a registry how to upload.
`LearnedLimits` are those of one run, which the answers of the host change; its threads
share them. `fault_of` says what a failed request means for its upload: the same status
means different things at different registries, and then the text decides.
"""

from __future__ import annotations

import enum
import threading
import time
from fnmatch import fnmatchcase
from typing import Callable

from ..errors import PusherError, RegistryError, TransientError, Unauthorized
from ..oci import Descriptor
from ..system.cancellation import Cancellation
from ..system.workers import STEP
from ..values import replace, value

MIB = 1024 * 1024
ONE_PUT = 100_000_000
"""Bytes that one PUT carries unless a host's limits say otherwise: what Cloudflare's
smallest plan lets through."""
CHUNK = 50 * MIB
"""Bytes of a chunk by default: below Cloudflare's limit, a multiple of the 10 MiB that
distribution's S3 driver writes at a time."""
SMALLEST_CHUNK = MIB
"""Where halving ends: nginx lets a body of 1 MiB through by default."""
SMALL = MIB
"""Bytes below which a blob is small: what it costs is requests, not bytes."""
FIRST_POST = 64 * 1024
"""Bytes that a blob may have by which a host shows whether it takes one in a POST."""


def is_small(blob: Descriptor) -> bool:
    """True when what *blob* costs is requests, not bytes."""
    return blob.size < SMALL


LONG = 20.0
"""Seconds that a request with a body should take at most; a break costs all of them."""
PART = 10.0
"""Seconds that a chunk should take where a whole blob would take too long."""


class Tail(enum.Enum):
    """Where the last bytes of a chunked upload go."""

    PATCH = "in a PATCH like the others, then an empty PUT"
    PUT = "in the closing PUT, with Content-Range"


class Status(enum.Enum):
    """What a GET on the upload session is worth."""

    ASK = "asked, and believed when plausible"
    OFF_BY_ONE = "ends with the count of bytes, not with the last byte"
    NEVER = "wrong, or not there"


class Observed(enum.Enum):
    """What an answer taught us about a host."""

    TOO_LARGE = "a body of this size does not pass (413, or cut twice at one size)"
    CHUNK_TOO_LARGE = "a PATCH of this size is refused (416 that means size)"
    CHUNK_TOO_SMALL = "a PATCH of this size is refused for being small"
    MONOLITHIC_REFUSED = "a PUT with the whole blob is refused"
    CHUNKS_REFUSED = "a second PATCH, or any, is refused"
    STATUS_WRONG = "the session's status cannot be true"
    THROTTLED = "too many requests (429)"
    POST_TAKEN = "a POST with the whole blob stores it"
    POST_REFUSED = "a POST with the whole blob does not store it"


@value
class HostLimits:
    """How blobs go to one host; sizes are bytes.

    *monolithic_max* is the largest blob to send in one PUT, None for any size.
    *chunk* is the size to start with, kept between *chunk_min* and *chunk_max*. With
    *equal_chunks* all but the last must have one size. *pace* is the time in seconds
    that must pass between the starts of two requests with a body. *single_post* is
    whether a POST with ``?digest=`` stores a whole blob, None where that is to be found
    out (distribution-spec, "POST then PUT" and "Single POST"). A host that *adapts*
    takes chunks of any size, so they may be as small as a slow link wants them.
    """

    monolithic: bool = True
    monolithic_max: int | None = ONE_PUT
    chunked: bool = True
    chunk: int = CHUNK
    chunk_min: int = 1
    chunk_max: int | None = None
    equal_chunks: bool = False
    tail: Tail = Tail.PATCH
    status: Status = Status.ASK
    pace: float = 0.0
    single_post: bool | None = False
    adapts: bool = False

    @property
    def chunk_size(self) -> int:
        """Bytes of the next chunk, both bounds applied; the maximum wins."""
        size = max(self.chunk, self.chunk_min)
        return size if self.chunk_max is None else min(size, self.chunk_max)

    def is_monolithic(self, size: int) -> bool:
        """True when a blob of *size* bytes goes in one PUT."""
        if not self.chunked or not self.monolithic:
            return not self.chunked
        return self.monolithic_max is None or size <= self.monolithic_max

    def next_chunk(self, offset: int, size: int) -> int:
        """Bytes to send at *offset* of a blob of *size* bytes.

        Leaves no tail of one byte, which serverless-registry refuses
        (cloudflare/serverless-registry, src/chunk.ts): the tail joins its chunk, or
        where that may not grow, the split moves. For equal chunks see `for_blob`.
        """
        left, chunk = size - offset, self.chunk_size
        if left <= chunk:
            return left
        if left > chunk + 1 or self.equal_chunks:
            return chunk
        if self.chunk_max is None or self.chunk_max > chunk:
            return left
        return max(chunk - 1, 1)

    def for_blob(self, size: int) -> HostLimits:
        """These limits with a chunk size that leaves no one-byte tail of *size*.

        Only equal chunks need it, and only before the first byte is sent.
        """
        chunk = self.chunk_size
        if not self.equal_chunks or size <= chunk or size % chunk != 1:
            return self
        smaller = chunk - 1 if chunk - 1 >= self.chunk_min else chunk + 1
        return replace(self, chunk=smaller)

    def for_link(self, size: int, rate: float | None) -> HostLimits:
        """These limits for a blob of *size* bytes over a link of *rate* bytes a second.

        None: nobody knows it. Requests that would take too long become smaller.
        """
        request = size if self.is_monolithic(size) else self.chunk_size
        if not rate or not self.adapts or self.equal_chunks or not self.chunked:
            return self
        if min(request, size) <= rate * LONG:
            return self
        part = int(rate * PART) // MIB * MIB
        chunk = max(part, SMALLEST_CHUNK, self.chunk_min)
        if chunk >= min(request, size):
            return self
        return replace(self, chunk=chunk, monolithic_max=chunk)

    def with_chunk(self, size: int) -> HostLimits:
        """These limits when the user asks for chunks of *size* bytes."""
        return replace(self, chunk=max(1, size))

    def advertised(self, minimum: int | None, maximum: int | None) -> HostLimits:
        """These limits after OCI-Chunk-Min-Length and OCI-Chunk-Max-Length.

        A host that says the maximum too wants equal chunks, as serverless-registry
        does (distribution-spec#485).
        """
        if minimum is None and maximum is None:
            return self
        limits = self
        if minimum is not None:
            limits = replace(limits, chunk_min=max(1, minimum))
        if maximum is None or maximum < 1:
            return limits
        lower = min(maximum, limits.chunk_max or maximum)
        return replace(limits, chunk_max=lower, equal_chunks=True)

    def observe(self, observed: Observed, size: int = 0) -> HostLimits:
        """These limits after *observed* of a body of *size* bytes.

        Equal to these when there is nowhere left to go: then the failure is definite.
        """
        if observed is Observed.TOO_LARGE:
            return self._halved(size)
        if observed is Observed.CHUNK_TOO_LARGE:
            return self._shrunk(4 * MIB if size > 4 * MIB else size // 2)
        if observed is Observed.CHUNK_TOO_SMALL:
            return replace(self, chunk_min=max(self.chunk_min, 5 * MIB))
        if observed is Observed.MONOLITHIC_REFUSED and self.chunked:
            return replace(self, monolithic=False)
        if observed is Observed.CHUNKS_REFUSED and self.monolithic:
            return replace(self, chunked=False)
        if observed is Observed.STATUS_WRONG:
            return replace(self, status=Status.NEVER)
        if observed is Observed.THROTTLED:
            return replace(self, pace=min(8.0, max(0.5, self.pace * 2)))
        return replace(self, single_post=observed is Observed.POST_TAKEN)

    def _halved(self, size: int) -> HostLimits:
        if not self.chunked:
            return self
        within = self._shrunk(max(SMALLEST_CHUNK, size // 2))
        largest = size - 1
        if self.monolithic_max is not None:
            largest = min(largest, self.monolithic_max)
        return within if within == self else replace(within, monolithic_max=largest)

    def _shrunk(self, size: int) -> HostLimits:
        if not self.chunked or size < max(self.chunk_min, SMALLEST_CHUNK):
            return self
        if self.chunk_max is not None and self.chunk_max <= size:
            return self
        return replace(self, chunk_max=size)


_ONE_PUT_ONLY = HostLimits(chunked=False, monolithic_max=None, status=Status.NEVER)

_HOSTS: tuple[tuple[str, HostLimits], ...] = (
    # 416 for a PATCH above 4 MiB (rust-oci-client#35); a PUT of any size is fine
    ("ghcr.io", HostLimits(monolithic_max=None, chunk=4 * MIB, chunk_max=4 * MIB)),
    # no chunks (dotnet/sdk-container-builds#287)
    ("*.pkg.dev", _ONE_PUT_ONLY),
    ("gcr.io", _ONE_PUT_ONLY),
    ("*.gcr.io", _ONE_PUT_ONLY),
    # status stuck at the first chunk (aws/containers-roadmap#2831), an empty closing
    # PUT fails (tart#159), parts below 5 MiB fail (dotnet/sdk-container-builds#424)
    (
        "*.dkr.ecr.*.amazonaws.com*",
        HostLimits(
            monolithic_max=None,
            chunk_min=5 * MIB,
            tail=Tail.PUT,
            status=Status.NEVER,
        ),
    ),
    # chunks get stuck and the status is always 404 (dotnet/sdk#33019)
    ("public.ecr.aws", _ONE_PUT_ONLY),
    # 413 above some 20 MB (goharbor/harbor#23015)
    ("*.azurecr.io", HostLimits(monolithic_max=20_000_000, chunk=16 * MIB)),
    # chunks sometimes end in 404 (regclient#323)
    ("docker.io", HostLimits(monolithic_max=None, chunk=100 * MIB)),
    ("registry-1.docker.io", HostLimits(monolithic_max=None, chunk=100 * MIB)),
    # the status ends with the count of bytes (quay/quay, endpoints/v2/blob.py)
    ("quay.io", HostLimits(status=Status.OFF_BY_ONE)),
)


def default_limits(host: str) -> HostLimits:
    """The limits to start with at *host* (``name[:port]``).

    Whether it takes a blob in one POST is found out where nothing is known of it.
    """
    name = host.lower().partition(":")[0]
    for pattern, limits in _HOSTS:
        if fnmatchcase(name, pattern):
            return limits
    return HostLimits(single_post=None, adapts=True)


_SIZE_WORDS = ("too large", "too big", "exceeds", "maximum permissible")
_SMALL_WORDS = ("too small", "parttoosmall", "smaller than")


def observed_in(error: RegistryError) -> Observed | None:
    """What a definite answer to a request with a body says about limits.

    None when it says nothing about them. A 416 without words about sizes means that
    the offset was wrong, which is not a limit.
    """
    text = f"{error.code} {error.detail}".lower()
    if error.status == 413:
        return Observed.TOO_LARGE
    if any(word in text for word in _SMALL_WORDS):
        return Observed.CHUNK_TOO_SMALL
    if error.status == 416 and any(word in text for word in _SIZE_WORDS):
        return Observed.CHUNK_TOO_LARGE
    if error.status == 429:
        return Observed.THROTTLED
    return None


def believable(
    reported: int, acknowledged: int, sent: int, status: Status = Status.ASK
) -> int | None:
    """The offset to continue from, or None when the session must start over.

    *reported* is what the session's status says, *acknowledged* the offset after the
    last chunk that was answered, *sent* how many more bytes the registry may have. A
    report one above all that was sent is a registry that says the count (Gitea, Quay).
    """
    if status is Status.NEVER:
        return None
    if status is Status.OFF_BY_ONE:
        reported -= 1
    if acknowledged <= reported <= acknowledged + sent:
        return reported
    return acknowledged + sent if reported == acknowledged + sent + 1 else None


_BODY_SIZES = (Observed.TOO_LARGE, Observed.CHUNK_TOO_LARGE)


class LearnedLimits:
    """The limits of one host: *limits* at first, then what its answers made of them.

    *clock* gives seconds that only grow.
    """

    def __init__(
        self, limits: HostLimits, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limits = limits
        self.clock = clock
        self._changed = threading.Condition()  # guards all but mounts
        self._free_at = clock()
        self.mounts: bool | None = None
        """Whether a mount that is answered with success is one; None: not known yet."""
        self.rate: float | None = None
        """Bytes a second of the last request that has told, None: not known yet."""
        self.takes_early = True
        """Whether no part of a blob was refused that was sent while it was made."""
        self._is_posting = False

    @property
    def current(self) -> HostLimits:
        """The limits as they are known now."""
        return self._limits

    def advertised(self, minimum: int | None, maximum: int | None) -> None:
        """The host sent OCI-Chunk-Min-Length or OCI-Chunk-Max-Length."""
        with self._changed:
            self._limits = self._limits.advertised(minimum, maximum)

    def observe(self, observed: Observed, size: int = 0) -> bool:
        """Learn from *observed* of a body of *size* bytes.

        True when the next try will differ from the last; that is also so when another
        thread has learned the same before.
        """
        with self._changed:
            before = self._limits
            if observed in _BODY_SIZES and _avoids(before, size):
                return True
            self._limits = before.observe(observed, size)
            return self._limits != before

    def took(self, size: int, seconds: float) -> None:
        """A chunk of *size* bytes was answered after so many *seconds*."""
        if size >= SMALLEST_CHUNK:
            self.rate = size / max(seconds, 0.001)

    def measured(self, rate: float) -> None:
        """A body that is under way goes at *rate* bytes a second."""
        self.rate = rate

    def went_in(self, part: int) -> None:
        """An earlier run sent a blob in chunks of *part* bytes.

        Until a body shows more, the link counts as one that takes as long for it.
        """
        if self.rate is None:
            self.rate = part / PART

    def posts(self, size: int, cancellation: Cancellation) -> bool:
        """True when a blob of *size* bytes should go in one POST.

        As long as nobody knows whether the host takes that, one small blob is tried,
        until `end_post`, and others wait for what comes of it. Raises Cancelled.
        """
        if size > (FIRST_POST if self._limits.single_post is None else SMALL):
            return False
        with self._changed:
            while self._limits.single_post is None and self._is_posting:
                self._changed.wait(STEP)
                cancellation.check()
            first = self._limits.single_post is None
            self._is_posting = first
            return first or bool(self._limits.single_post)

    def end_post(self) -> None:
        """The blob that was tried has shown what it can."""
        with self._changed:
            self._is_posting = False
            self._changed.notify_all()

    def wait_for_turn(self, cancellation: Cancellation) -> None:
        """Wait as long as the host's pace asks for. Raises Cancelled."""
        with self._changed:
            now = self.clock()
            start = max(now, self._free_at)
            self._free_at = start + self._limits.pace
        if start > now:
            cancellation.wait(start - now)


def limits_for(limits: HostLimits, chunk_size: int | None) -> HostLimits:
    """*limits* when the user asks for chunks of *chunk_size* bytes.

    Whoever asks for smaller requests than usual means the one PUT as well. None, or the
    usual size, asks for nothing.
    """
    if chunk_size is None or chunk_size == CHUNK:
        return limits
    wanted = replace(limits.with_chunk(chunk_size), adapts=False)
    if limits.monolithic_max is None or not limits.chunked:
        return wanted
    return replace(wanted, monolithic_max=chunk_size)


def _avoids(limits: HostLimits, size: int) -> bool:
    """True when a body of *size* bytes would not be sent any more."""
    return not limits.is_monolithic(size) and limits.chunk_size < size


class Fault(enum.Enum):
    """What is wrong, and so what may be done about it."""

    BROKEN = "a temporary failure"
    SESSION_LOST = "the registry does not know the upload session any more"
    LIMIT = "the body has a size that does not pass"
    WRONG_OFFSET = "the registry stands elsewhere than we do"
    TOKEN = "the token has expired on the way"
    REFUSED = "the registry does not take a blob in this way"
    CORRUPTED = "the registry has other bytes than we sent"
    DEFINITE = "nothing that we can do helps"


_DEFINITE_CODES = frozenset(
    {"NAME_UNKNOWN", "NAME_INVALID", "DENIED", "UNAUTHORIZED", "TOOMANYREQUESTS"}
)
_REFUSALS = frozenset({400, 404, 405, 409, 411, 415, 422, 501})


def fault_of(error: PusherError) -> Fault:
    """What *error*, the end of a request of an upload, means."""
    if isinstance(error, TransientError):
        return Fault.BROKEN
    if not isinstance(error, RegistryError):
        return Fault.DEFINITE
    if isinstance(error, Unauthorized):
        return Fault.TOKEN if error.status == 401 else Fault.DEFINITE
    return _fault_of_answer(error)


def _fault_of_answer(error: RegistryError) -> Fault:
    observed = observed_in(error)
    if observed is not None and observed is not Observed.THROTTLED:
        return Fault.LIMIT
    if error.code == "DIGEST_INVALID":
        return Fault.CORRUPTED
    if error.code in _DEFINITE_CODES:
        return Fault.DEFINITE
    if error.status == 416:
        return Fault.WRONG_OFFSET
    if error.status == 404 or error.code.startswith("BLOB_UPLOAD_"):
        return Fault.SESSION_LOST
    return Fault.REFUSED if error.status in _REFUSALS else Fault.DEFINITE
