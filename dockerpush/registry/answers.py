"""Answers of a registry: as they come, as a blob's bytes, and as an error's words."""

from __future__ import annotations

import http.client
import logging
import zlib
from typing import TYPE_CHECKING, Any, Callable

import urllib3.exceptions

from ..errors import (
    NetworkError,
    NotFoundInRegistry,
    PusherError,
    RegistryError,
    TransientError,
    Unauthorized,
)
from ..events import OnEvent
from ..expressions import expression
from ..oci import JSON_LIMIT
from ..strict_json import glance
from ..system.cancellation import Cancellation
from ..system.rate import RateLimiter
from ..system.streams import Closeable
from .debug import one_line, show_url
from .failures import speaks_tls, translated
from .locations import UrlParts
from .refusals import Asked
from .retry import (
    TRANSIENT_STATUSES,
    Attempts,
    RetryPolicy,
    announce,
    parse_retry_after,
)

if TYPE_CHECKING:
    from urllib3.response import BaseHTTPResponse

    from .meter import Meter

log = logging.getLogger(__name__)

PIECE = 256 * 1024
"""Bytes that a piece of a body should have: a link of 20 KB/s takes one in 13 s."""
PACKED_LIMIT = 1024 * 1024
"""Bytes of a blob that is looked at as a whole where its label says gzip."""
LEFTOVER = 64 * 1024
"""Bytes of an answer worth reading to keep its connection."""
ERROR_LIMIT = 64 * 1024
"""Bytes of an error's body that are read."""

_WANTS_TLS = (
    "sent an http request to an https server",
    "plain http request was sent to https port",
)
DOCUMENT_SECONDS, ERROR_SECONDS, DRAIN_SECONDS = 900.0, 20.0, 5.0
"""How long the body of a document, of an error, and what nobody wants may take."""
_INVISIBLE = expression(r"(?is)<(script|style|head)\b.*?(</\1>|\Z)|<!--.*?(-->|\Z)")
_TAG = expression(r"<[^<>]*>")
_TITLE = expression(r"(?is)<title[^<>]*>(.*?)(?:</title>|\Z)")


class Answer(Closeable):
    """An answer: status and headers now, the body as it is read."""

    def __init__(
        self,
        raw: BaseHTTPResponse,
        method: str,
        url: str,
        cancellation: Cancellation,
        rate: RateLimiter | None = None,
        task: str = "",
    ) -> None:
        """*task* names what fails when the connection breaks inside the body."""
        self._raw = raw
        # urllib3 would copy every byte once more on its way to us
        inner: Any = getattr(raw, "_original_response", None)
        self._meter: Meter | None = getattr(inner, "meter", None)
        self._body: Any = inner if self._meter else raw
        self._cancellation = cancellation
        self._rate = rate
        self._task = task
        self._read = 0
        self._ended = False
        self.method = method
        self.url = url
        self.status = raw.status

    @property
    def host(self) -> str:
        """``host:port`` that answered."""
        return UrlParts.parse(self.url).origin.host_port

    def header(self, name: str) -> str | None:
        """The header *name*, None when it is not there."""
        value = self._raw.headers.get(name)
        return value if value is None else str(value)

    def header_lines(self, name: str) -> list[str]:
        """Every line of the header *name*, not joined."""
        return [str(line) for line in self._raw.headers.getlist(name)]

    @property
    def size(self) -> int | None:
        """Content-Length in bytes, None when there is no usable one."""
        text = (self.header("Content-Length") or "").strip()
        return int(text) if text.isascii() and text.isdigit() else None

    @property
    def encoding(self) -> str:
        """How the body is encoded, as its header says: "" for not at all."""
        return (self.header("Content-Encoding") or "").strip().lower()

    def read(self, limit: int) -> bytes:
        """At most *limit* bytes of the rest of the body."""
        pieces: list[bytes] = []
        while limit > 0 and (piece := self._next(min(limit, PIECE))):
            pieces.append(piece)
            limit -= len(piece)
        return b"".join(pieces)

    def read_json(self, what: str, limit: int = JSON_LIMIT) -> bytes:
        """The whole body. Raises NetworkError when it is above *limit* bytes."""
        too_large = NetworkError(
            f"{self.host} sent {what} of more than {limit} bytes; it may not be a "
            "registry"
        )
        if (self.size or 0) > limit:
            raise too_large
        self.end_within(DOCUMENT_SECONDS)
        content = self.read(limit + 1)
        content = unpacked(content, self.encoding, limit + 1)
        if len(content) > limit:
            raise too_large
        return content

    def end_within(self, seconds: float) -> None:
        """Have what is read from now on fail after *seconds*."""
        if self._meter is not None:
            self._meter.end_within(seconds)

    def readinto(self, buffer: memoryview) -> int:
        """Fill *buffer* as far as the next bytes go; 0 at the end of the body."""
        self._cancellation.check()
        if self._rate is not None:
            buffer = buffer[: self._rate.grant]
        try:
            count: int = self._body.readinto(buffer)
        except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as e:
            self.part()
            self._cancellation.check()
            raise translated(self.host, e).during(self._task) from e
        except PusherError:
            self.part()
            raise
        self._read += count
        if not count:
            self._check_end()
        elif self._rate is not None:  # no socket waits meanwhile
            self._rate.take_all(count, self._cancellation)
        return count

    def _next(self, count: int) -> bytes:
        buffer = bytearray(count)
        return bytes(buffer[: self.readinto(memoryview(buffer))])

    def _check_end(self) -> None:
        self._cancellation.check()
        self._ended = True
        missing = 0 if self._is_bodiless else (self.size or 0) - self._read
        if missing > 0:
            cut = http.client.IncompleteRead(b"", missing)
            raise translated(self.host, cut).during(self._task)

    def part(self) -> None:
        """Have no other request use the connection of this answer."""
        self._raw.close()
        self._ended = True

    def close(self) -> None:
        """Give the connection back, or close it when too much is left to read."""
        if not self._ended and self._is_short:
            self._drain()
        if not self._ended:
            self._raw.close()
        self._raw.release_conn()

    @property
    def _is_short(self) -> bool:
        """True when little is left to read, and its end will be seen.

        Without a length the end is that of the connection, which may stay open.
        """
        if self._is_bodiless or getattr(self._raw, "chunked", False):
            return True
        return self.size is not None and self.size <= LEFTOVER

    @property
    def _is_bodiless(self) -> bool:
        return self.method == "HEAD" or self.status in (204, 304)

    def _drain(self) -> None:
        self.end_within(DRAIN_SECONDS)
        try:
            self.read(LEFTOVER)
            if not self._ended:
                self._next(1)
        except PusherError as error:
            log.debug("could not read the rest of an answer: %s", error)


def unpacked(content: bytes, encoding: str, limit: int) -> bytes:
    """*content*, at most *limit* bytes, without the gzip that its *encoding* names.

    Proxies pack what nobody asked them to. What is no gzip, whatever the label says,
    is left alone.
    """
    if encoding != "gzip" or not content.startswith(b"\x1f\x8b"):
        return content
    try:
        return zlib.decompressobj(31).decompress(content, limit)
    except zlib.error:
        return content


class BlobAnswer(Closeable):
    """The bytes of a blob as they come; *size* is that of the whole, if it is known."""

    def __init__(self, response: Answer, size: int | None, *, skip: int = 0) -> None:
        self._response = response
        self._skip = skip
        self._first = memoryview(b"")  # read already
        self.size = size
        self.encoding = response.encoding
        kind = (response.header("Content-Type") or "").strip().lower()
        self.is_page = kind.startswith("text/html")  # which a login page is, no blob

    @classmethod
    def at(cls, response: Answer, offset: int) -> BlobAnswer:
        """From the answer to a request for all bytes from *offset* on.

        A server that does not know ranges sends everything, of which the beginning is
        then skipped. Raises TransientError for another range than was asked for.
        """
        if response.status == 416 and offset:
            response.close()
            return cls(response, offset)
        if response.status != 206:
            return cls(response, response.size, skip=offset)
        told = (response.header("Content-Range") or "").strip()
        start, _, total = told.partition(" ")[2].partition("/")
        if start.partition("-")[0] != str(offset):
            response.close()
            raise TransientError(
                f"{response.host} sent the wrong part of a blob: asked for byte "
                f"{offset}, got {told!r}"
            )
        return cls(response, int(total) if total.isdigit() else None)

    def unpack_unless(self, is_right: Callable[[bytes], bool]) -> None:
        """Take off the gzip of a small blob that is labelled so, unless it *is_right*.

        It may be that of the blob itself, and then the label is wrong.
        """
        if self.encoding != "gzip" or self._skip:
            return
        content = self._response.read(PACKED_LIMIT)
        if len(content) < PACKED_LIMIT and not is_right(content):
            content = unpacked(content, self.encoding, JSON_LIMIT)
            self.size = len(content)
        self._first = memoryview(content)

    def readinto(self, buffer: memoryview) -> int:
        """Fill *buffer* as far as the next bytes go; 0 at the end.

        Raises TransientError when the connection breaks, Cancelled.
        """
        if self._first:
            count = min(len(buffer), len(self._first))
            buffer[:count], self._first = self._first[:count], self._first[count:]
            return count
        while self._skip:
            scratch = memoryview(bytearray(min(PIECE, self._skip)))
            count = self._response.readinto(scratch)
            if not count:
                return 0
            self._skip -= count
        return self._response.readinto(buffer)

    def read(self, size: int = PIECE) -> bytes:
        """At most *size* bytes, b"" at the end."""
        buffer = bytearray(size)
        return bytes(buffer[: self.readinto(memoryview(buffer))])

    def close(self) -> None:
        """Give the connection back."""
        self._response.close()


class Download(Closeable):
    """The bytes of a blob from *offset* on; a break continues where it stopped.

    Whoever reads checks the digest. Raises TransientError when *policy*'s attempts are
    used up without a byte in between, Cancelled, and what *open_at* raises.
    """

    def __init__(
        self,
        open_at: Callable[[int], BlobAnswer],
        policy: RetryPolicy,
        cancellation: Cancellation,
        *,
        on_event: OnEvent,
        what: str,
        offset: int = 0,
    ) -> None:
        self._open_at = open_at
        self._attempts = Attempts(policy)
        self._cancellation = cancellation
        self._on_event = on_event
        self._what = what
        self._position = offset
        self._reader: BlobAnswer | None = None

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill *buffer* as far as the next bytes go; 0 at the end."""
        while True:
            try:
                if self._reader is None:
                    self._reader = self._open_at(self._position)
                count = self._reader.readinto(buffer)
            except TransientError as error:
                self._wait_after(error)
                continue
            self._position += count
            if count:
                self._attempts.succeeded()
            return count

    def close(self) -> None:
        """Give the connection back."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _wait_after(self, error: TransientError) -> None:
        self.close()
        delay = self._attempts.delay_after(error)
        announce(error, delay, self._what, self._on_event)
        self._cancellation.wait(delay)


def failure(response: Answer, asked: Asked, advice: str = "") -> PusherError:
    """The error that *response* stands for; reads its body, and does not close it.

    It is in the words of what was *asked*; *advice* is appended. TransientError for the
    statuses of temporary failures, Unauthorized for 401 and 403, NotFoundInRegistry for
    404.
    """
    status, url = response.status, show_url(response.url)
    code, detail = explanation(_body(response))
    if status == 400 and any(words in detail.lower() for words in _WANTS_TLS):
        return speaks_tls(response.host)
    kind = {401: Unauthorized, 403: Unauthorized, 404: NotFoundInRegistry}.get(
        status, RegistryError
    )
    error = kind(response.method, url, status, code, detail)
    log.info("%s", error)
    said = ": ".join(part for part in (code, detail) if part)
    task, why = asked.explained(status, error.answer, said)
    error.during(task, f"{why}; {advice}" if advice else why)
    if status == 416:
        error.range = response.header("Range") or ""
    if status in TRANSIENT_STATUSES:
        wait = parse_retry_after(response.header("Retry-After"))
        passing = TransientError(str(error), status=status, retry_after=wait)
        passing.task = task
        return passing
    return error


def _body(response: Answer) -> bytes:
    response.end_within(ERROR_SECONDS)
    try:
        content = response.read(ERROR_LIMIT)
        return unpacked(content, response.encoding, ERROR_LIMIT)
    except NetworkError:
        return b""  # the status says enough


def explanation(body: bytes) -> tuple[str, str]:
    """(code, message) of an error's *body*; each may be "".

    Knows the registry's JSON (distribution-spec, Error Codes), other JSON with a
    message, HTML of proxies, and plain text.
    """
    text = body.decode("utf-8", "replace")
    try:
        record = glance(text)
    except (ValueError, RecursionError):
        return "", one_line(_visible(text))
    if not isinstance(record, dict):
        return "", one_line(str(record))
    errors = record.get("errors")
    if isinstance(errors, list) and errors:
        return _from_list(errors)
    words = (record.get(key) for key in ("message", "error_description", "error"))
    said = next((word for word in words if isinstance(word, str) and word), "")
    code = record.get("code")
    return one_line(code if isinstance(code, str) else "", 80), one_line(said)


def _from_list(errors: list[Any]) -> tuple[str, str]:
    known = [error for error in errors[:5] if isinstance(error, dict)]
    codes = [error["code"] for error in known if isinstance(error.get("code"), str)]
    said: list[str] = []
    for error in known:
        words = [error.get("message"), _about(error.get("detail"))]
        said.append(" ".join(word for word in words if isinstance(word, str) and word))
    return (
        one_line(codes[0], 80) if codes else "",
        one_line("; ".join(dict.fromkeys(part for part in said if part))),
    )


def _about(detail: Any) -> str:
    """What *detail* adds to a message: its text, or the digest that it is about."""
    if isinstance(detail, dict):
        detail = detail.get("digest") or detail.get("Digest") or ""
    return f"({detail})" if isinstance(detail, str) and detail else ""


def _visible(text: str) -> str:
    if "<" not in text:
        return text
    import html  # a table of 2,000 names, for answers that hardly ever come

    plain = html.unescape(_TAG.sub(" ", _INVISIBLE.sub(" ", text))).strip()
    title = _TITLE.search(text)
    return plain or (html.unescape(title[1]) if title else "")
