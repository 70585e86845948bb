"""Requests, responses, errors and header values as data; no socket.

The codes of errors and their JSON are those of the distribution-spec, Error Codes. A
`ProtocolError` is an answer; `Disconnected` and `SlowClient` end a connection;
`ServerError` is for whoever starts the server.
"""

from __future__ import annotations

from typing import Mapping, Protocol

from ..errors import NotFound, PusherError, UsageError
from ..expressions import expression
from ..oci import OCI_INDEX, dump_json
from ..values import value

BLOB_UNKNOWN = "BLOB_UNKNOWN"
BLOB_UPLOAD_INVALID = "BLOB_UPLOAD_INVALID"
BLOB_UPLOAD_UNKNOWN = "BLOB_UPLOAD_UNKNOWN"
DENIED = "DENIED"
DIGEST_INVALID = "DIGEST_INVALID"
MANIFEST_BLOB_UNKNOWN = "MANIFEST_BLOB_UNKNOWN"
MANIFEST_INVALID = "MANIFEST_INVALID"
MANIFEST_UNKNOWN = "MANIFEST_UNKNOWN"
NAME_INVALID = "NAME_INVALID"
NAME_UNKNOWN = "NAME_UNKNOWN"
SIZE_INVALID = "SIZE_INVALID"
TOOMANYREQUESTS = "TOOMANYREQUESTS"
UNAUTHORIZED = "UNAUTHORIZED"
UNKNOWN = "UNKNOWN"
UNSUPPORTED = "UNSUPPORTED"

READING = ("GET", "HEAD")
"""Methods that change nothing."""

STORAGE_FULL = 507
"""The status when there is no room for what comes."""


class ServerError(PusherError):
    """The embedded registry cannot start; the message says what to change."""


class UserFileError(ServerError, UsageError):
    """A file of users and passwords cannot be used, so nothing is served."""


class UserNotFound(ServerError, NotFound):
    """There is no such file of users and passwords, or no such user in it."""


class Disconnected(PusherError):
    """The client is gone in the middle of a request; nobody is left to answer."""


class SlowClient(PusherError):
    """The client sends nothing, or next to nothing, for too long."""


class ProtocolError(PusherError):
    """An answer with *status* and one error of *code*, repeated for each of *details*.

    *headers* go with it.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        headers: Mapping[str, str] | None = None,
        details: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = dict(headers or {})
        self.details = details

    def body(self) -> bytes:
        """The JSON document that the specification wants."""
        error = {"code": self.code, "message": self.message}
        each = [{**error, "detail": detail} for detail in self.details] or [error]
        return dump_json({"errors": each})


def blob_unknown(digest: str) -> ProtocolError:
    """There is no blob *digest* in the repository."""
    return ProtocolError(
        404, BLOB_UNKNOWN, f"blob unknown to this repository: {digest}"
    )


def manifest_unknown(reference: str) -> ProtocolError:
    """There is no manifest under *reference* in the repository."""
    message = f"manifest unknown to this repository: {reference[:160]}"
    return ProtocolError(404, MANIFEST_UNKNOWN, message)


def upload_unknown() -> ProtocolError:
    """The session is finished, cancelled or expired, or never was."""
    message = "no such upload session: start over with a POST"
    return ProtocolError(404, BLOB_UPLOAD_UNKNOWN, message)


def busy(what: str, seconds: int) -> ProtocolError:
    """There is too much of *what* just now; a client tries again after *seconds*."""
    headers = {"Retry-After": str(seconds)}
    message = f"too many {what} at once: try again in a moment"
    return ProtocolError(503, TOOMANYREQUESTS, message, headers=headers)


def kept_elsewhere(what: str) -> ProtocolError:
    """*what* comes from an archive that is served as it is."""
    message = f"{what} is served from an archive and cannot be changed"
    return ProtocolError(405, DENIED, message, headers={"Allow": "GET, HEAD"})


_BYTE_RANGE = expression(r"bytes=(\d{0,18})-(\d{0,18})")
_CONTENT_RANGE = expression(r"(\d{1,18})-(\d{1,18})")


class OpenBlob(Protocol):
    """An open blob: a plain file, or a reader that an archive gave."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill *buffer*; the count of bytes, 0 at the end."""

    def close(self) -> None:
        """Give back what was opened."""


class Incoming(Protocol):
    """A request's body, of known or unknown length."""

    length: int | None
    """Bytes in all; None when only the end of the body tells."""

    def readinto(self, buffer: memoryview) -> int:
        """Fill *buffer*; the count of bytes, 0 at the end.

        Raises Disconnected when the body ends early, SlowClient, or ProtocolError.
        """


@value
class Headers:
    """Header fields in the order they came; names without case, repeats kept."""

    pairs: tuple[tuple[str, str], ...] = ()

    def values(self, name: str) -> list[str]:
        """Every value of the field *name*."""
        wanted = name.lower()
        return [
            value.strip(" \t") for key, value in self.pairs if key.lower() == wanted
        ]

    def first(self, name: str) -> str | None:
        """The first value of the field *name*; None when it is absent."""
        values = self.values(name)
        return values[0] if values else None


@value
class Request:
    """What a client asks; *path* is decoded, *query* holds every value of a key.

    *address* is where it comes from.
    """

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Headers
    body: Incoming
    address: str = ""

    def parameter(self, name: str) -> str | None:
        """The first value of a query parameter; None when it is absent."""
        values = self.query.get(name)
        return values[0] if values else None


@value
class Span:
    """*count* bytes of an open blob, from where it stands; whoever sends it closes."""

    content: OpenBlob
    count: int


@value
class Response:
    """What goes back. *size* is bytes of content, also where none is sent (HEAD).

    *why* is for the access log.
    """

    status: int
    headers: Mapping[str, str]
    content: bytes | Span
    size: int
    why: str = ""

    @classmethod
    def of(
        cls, status: int, headers: Mapping[str, str], content: bytes = b""
    ) -> Response:
        """A response that is all there."""
        return cls(status, headers, content, len(content))


def json_response(value: object, headers: Mapping[str, str] | None = None) -> Response:
    """200 with *value* as JSON."""
    typed = {"Content-Type": "application/json", **(headers or {})}
    return Response.of(200, typed, dump_json(value))


def index_response(value: object, headers: Mapping[str, str]) -> Response:
    """200 with *value* as an image index."""
    return Response.of(200, {"Content-Type": OCI_INDEX, **headers}, dump_json(value))


def error_response(error: ProtocolError) -> Response:
    """*error* as the specification wants it."""
    headers = {"Content-Type": "application/json", **error.headers}
    body = error.body()
    return Response(error.status, headers, body, len(body), error.message)


def media_type_of(content_type: str) -> str:
    """*content_type* without parameters, in lower case (RFC 9110, 8.3.1)."""
    return content_type.partition(";")[0].strip().lower()


def parse_range(text: str | None, size: int) -> tuple[int, int] | None:
    """The (start, count) that a Range header asks for; None for the whole blob.

    Several ranges, other units and nonsense mean the whole (RFC 9110, 14.2). Raises
    ProtocolError (416) for a range that lies outside, or ends before it starts.
    """
    match = _BYTE_RANGE.fullmatch(text.strip()) if text else None
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        start, end = max(size - int(match[2]), 0), size - 1
        valid = int(match[2]) > 0 and size > 0
    else:
        start, end = int(match[1]), min(int(match[2] or size - 1), size - 1)
        valid = start <= end
    if not valid:
        headers = {"Content-Range": f"bytes */{size}"}
        message = f"the blob has {size} bytes: no such range"
        raise ProtocolError(416, SIZE_INVALID, message, headers=headers)
    return start, end - start + 1


def parse_content_range(text: str | None, length: int | None) -> int | None:
    """Where a chunk of *length* bytes starts; None when the header is absent.

    (distribution-spec, Pushing a blob in chunks.) Raises ProtocolError (400) when the
    header is malformed or does not agree with the length.
    """
    if text is None:
        return None
    match = _CONTENT_RANGE.fullmatch(text.strip())
    if match is None or int(match[2]) < int(match[1]):
        message = f"not a Content-Range of the form <start>-<end>: {text[:80]!r}"
        raise ProtocolError(400, BLOB_UPLOAD_INVALID, message)
    start, count = int(match[1]), int(match[2]) - int(match[1]) + 1
    if length is not None and length != count:
        message = f"Content-Range {text[:80]!r} does not agree with {length} bytes"
        raise ProtocolError(400, SIZE_INVALID, message)
    return start


def parse_count(text: str | None) -> int | None:
    """The ``n`` of a listing; None when it is absent. Raises ProtocolError (400)."""
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        message = f"n: wanted a number, got {text[:80]!r}"
        raise ProtocolError(400, UNSUPPORTED, message)
    return int(text)


def upload_range(size: int) -> str:
    """The Range header of a session that holds *size* bytes.

    An empty session says ``0-0``, as the reference implementation does: clients break
    on ``0--1`` (gitea issue 34724).
    """
    return f"0-{max(size - 1, 0)}"
