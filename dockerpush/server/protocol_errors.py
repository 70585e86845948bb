"""What the embedded registry answers when it will not do what it was asked.

Codes and the JSON shape are those of the distribution-spec, Error Codes. A
`ProtocolError` is an answer; `Disconnected` and `SlowClient` end a connection;
`ServerError` is for whoever starts the server.
"""

from __future__ import annotations

from typing import Mapping

from ..errors import NotFound, PusherError, UsageError
from ..oci import dump_json

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


def kept_elsewhere(what: str) -> ProtocolError:
    """*what* comes from an archive that is served as it is."""
    message = f"{what} is served from an archive and cannot be changed"
    return ProtocolError(405, DENIED, message, headers={"Allow": "GET, HEAD"})
