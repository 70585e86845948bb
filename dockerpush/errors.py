"""Every exception that dockerpush raises, all derived from PusherError.

A subclass exists only where a caller reacts differently to it; `dockerpush.cli` turns
each into one line and an exit code. Messages are lower case, quote the input, say what
was wanted and what to do next, and never hold a secret.
"""

from __future__ import annotations

import errno
from http import HTTPStatus
from typing import Sequence

STATUS_PHRASES = {status.value: status.phrase for status in HTTPStatus}


WRITE_ELSEWHERE = "make room, or write it elsewhere"
"""What to do about a full disk, where nothing else is known of the place."""

SMALLER_FILES = (
    "the file system, or ulimit -f, allows no larger file: write it elsewhere, or an "
    "archive with --split fat32"
)
"""What to do where a file may not be as large as it gets."""

MORE_FILES = "allow more (ulimit -n), or use fewer --jobs"
"""What to do when no more files or connections can be opened."""

MORE_TEMP_SPACE = "free some space there, or set TMPDIR to a larger directory"
"""What to do when temp files find no room."""


class PusherError(Exception):
    """Base of every error that dockerpush raises on purpose.

    *task* is what failed, where the message begins with it: ``cannot read H/app:1``.
    """

    task = ""

    def during(self, task: str, why: str = "") -> PusherError:
        """The same failure, as one of *task*, for the reason *why* if that is given."""
        why = why or str(self)[len(self.task) + 2 * bool(self.task) :]
        self.task, self.args = task, (f"{task}: {why}" if task else why,)
        return self

    def with_advice(self, advice: str) -> PusherError:
        """The same failure, with what to do about it after its message."""
        self.args = (f"{self}; {advice}",)
        return self


class UsageError(PusherError):
    """The command line or the settings ask for something that cannot be."""


class InvalidReference(PusherError, ValueError):
    """A text is not an image reference."""


class InvalidDigest(PusherError, ValueError):
    """A text is not ``algorithm:hex`` of an algorithm that we can verify."""


class InvalidJSON(PusherError, ValueError):
    """A JSON document does not have the shape that its specification gives it."""


class NotFound(PusherError):
    """A file, an image in an archive, or something in a registry does not exist."""


def file_error(what: str, error: OSError) -> PusherError:
    """The error that *what*, a file, cannot be used: NotFound when it is not there.

    UsageError for a name that no file can have.
    """
    kind = NotFound if isinstance(error, FileNotFoundError) else PusherError
    kind = UsageError if error.errno == errno.ENAMETOOLONG else kind
    return kind(f"{what}: {reason_of(error)}{about_room(error)}")


def about_room(error: OSError, room: str = WRITE_ELSEWHERE) -> str:
    """What to do when *error* is a full disk, which *room* says, or a large file."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"; {room}"
    return f"; {SMALLER_FILES}" if error.errno == errno.EFBIG else ""


def some_of(names: Sequence[str], most: int) -> str:
    """The first *most* of *names*, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def reason_of(error: Exception) -> str:
    """Why the system refused something, as the middle of a sentence."""
    reason = (getattr(error, "strerror", None) or str(error)).lower()
    is_limit = getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE)
    return f"{reason}; {MORE_FILES}" if is_limit else reason


class ArchiveError(PusherError):
    """An archive is broken, incomplete or hostile."""


class ContentMismatch(PusherError):
    """Bytes do not have the digest or the size that was promised for them."""


class StateError(PusherError):
    """A file of the state directory cannot be read or written, and must be."""


class CacheError(StateError):
    """The cache cannot be used: what is left to do may go without it."""


class HelperFailed(PusherError):
    """A credential helper is missing, failed, or did not answer in time."""


class Cancelled(PusherError):
    """The work was asked to stop before it was done."""


class SomeFailed(PusherError):
    """Of several independent pieces of work, some failed; each was reported."""


class NetworkError(PusherError):
    """The registry, or a proxy before it, cannot be reached or trusted."""


class TransientError(NetworkError):
    """A failure that is temporary: a broken connection, a time-out, a 5xx.

    *status* is the HTTP status where there was an answer; *retry_after* the seconds
    that the server asked us to wait; *sending* is true when the connection broke while
    a request body was on its way, so that nobody knows how much the registry has.
    *unreachable* is true when a host that answered before took no connection; *hung_up*
    when one that was made broke: either may be an outage, which counts time instead of
    tries.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
        sending: bool = False,
        unreachable: bool = False,
        hung_up: bool = False,
    ) -> None:
        super().__init__(message)
        self.unreachable = unreachable
        self.hung_up = hung_up
        self.status = status
        self.retry_after = retry_after
        self.sending = sending


class TooSlow(TransientError):
    """A transfer that stayed below the least rate; some progress does not excuse it."""


class RegistryError(PusherError):
    """The registry gave a definite answer that we did not ask for.

    *status* is the HTTP status, *code* the registry's own error code, such as
    ``MANIFEST_UNKNOWN``, or "" (distribution-spec, Error Codes); *detail* its message;
    *answer* the status and its name, as in ``404 Not Found``. *range* is where an
    upload session stands as a 416 says, or "".
    """

    range = ""

    def __init__(
        self, method: str, url: str, status: int, code: str = "", detail: str = ""
    ) -> None:
        self.answer = f"{status} {STATUS_PHRASES.get(status, 'non-standard status')}"
        said = ": ".join(part for part in (code, detail) if part)
        super().__init__(f"{method} {url}: {self.answer}" + (said and f": {said}"))
        self.status = status
        self.code = code
        self.detail = detail

    def in_words(self, text: str) -> RegistryError:
        """The same failure, which *text* explains in the words of the user's task."""
        self.during("", text)
        return self


class Unauthorized(RegistryError):
    """The registry refuses these credentials, or asks for some (401, 403)."""


class NotFoundInRegistry(RegistryError, NotFound):
    """The registry has no such repository, manifest, blob or upload session (404)."""
