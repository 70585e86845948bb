"""The one place that turns errors into exit codes, which the README promises."""

from __future__ import annotations

from ..errors import (
    ArchiveError,
    ContentMismatch,
    InvalidDigest,
    InvalidJSON,
    InvalidReference,
    NetworkError,
    NotFound,
    PusherError,
    SomeFailed,
    TransientError,
    Unauthorized,
    UsageError,
)

DONE = 0
OTHER = 1
USAGE = 2
DENIED = 3
NOT_FOUND = 4
NETWORK = 5
CONTENT = 6
SOME_FAILED = 7
CLOSED_PIPE = 141

_CODES: tuple[tuple[type[PusherError], int], ...] = (
    (UsageError, USAGE),
    (InvalidReference, USAGE),
    (Unauthorized, DENIED),
    (NotFound, NOT_FOUND),
    (NetworkError, NETWORK),
    (ArchiveError, CONTENT),
    (ContentMismatch, CONTENT),
    (InvalidJSON, CONTENT),
    (InvalidDigest, CONTENT),
    (SomeFailed, SOME_FAILED),
)


def exit_code(error: PusherError) -> int:
    """The exit code for *error*; a server's 5xx is its failure, not the network's."""
    if isinstance(error, TransientError) and error.status is not None:
        return OTHER
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code
    return OTHER
