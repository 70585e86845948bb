"""What happens during a transfer, as immutable values.

The library hands them to one callable (`OnEvent`); the command line draws them, tests
collect them. They may come from any thread, one after another for one blob. *key* names
one blob of one run, from the first event about it to the last; *size* and *count* are
bytes.
"""

from __future__ import annotations

import enum
from typing import Callable, Union

from .oci import Digest
from .values import value


class Outcome(enum.Enum):
    """How a blob came to be in the target repository."""

    UPLOADED = "uploaded"
    EXISTS = "exists"
    MOUNTED = "mounted"
    REUSED = "reused"


@value
class BlobPlanned:
    """A blob is part of the run; *size* is an upper bound until it has started."""

    key: str
    size: int


@value
class BytesRead:
    """*count* more bytes of a layer were read to compress or to hash it."""

    key: str
    count: int


@value
class BytesSaved:
    """*count* more bytes were written to an archive; *what* is done, in words."""

    what: str
    count: int


@value
class BlobStarted:
    """A blob is about to be moved, and its descriptor is known now."""

    key: str
    digest: Digest
    size: int


@value
class BytesSent:
    """*count* more bytes were sent, received or read back; negative: once more.

    A blob that is compressed may be sent before it has started, while it is made.
    """

    key: str
    count: int


@value
class BlobFinished:
    """The target repository holds the blob."""

    key: str
    digest: Digest
    size: int
    outcome: Outcome


@value
class Retrying:
    """An attempt failed and another one follows after *delay* seconds."""

    what: str
    reason: str
    delay: float


@value
class ManifestStored:
    """The registry acknowledged a manifest; *tag* is None for one named by digest."""

    repository: str
    digest: Digest
    tag: str | None


@value
class Notice:
    """Something that the user should know, but that stops nothing.

    A *minor* one needs no action: who asked for quiet does not want it. A *warning*
    says that the run did less than it could.
    """

    text: str
    minor: bool = False
    warning: bool = False


Event = Union[
    BlobPlanned,
    BytesRead,
    BytesSaved,
    BlobStarted,
    BytesSent,
    BlobFinished,
    Retrying,
    ManifestStored,
    Notice,
]
OnEvent = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The listener of whoever does not want to know."""
