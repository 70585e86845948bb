"""The options of a push and a copy, and their results, as immutable values."""

from __future__ import annotations

from pathlib import Path
from typing import Mapping, NamedTuple, Sequence

from ..events import Notice, Outcome
from ..oci import Descriptor, Digest, Platform
from ..reference import Reference
from ..values import field, value

JOBS = 3
SEND = "send"

DOCKER_ARCHIVE = "docker-archive"
OCI_ARCHIVE = "oci-archive"
OCI_DIRECTORY = "oci-dir"
FORMS = (DOCKER_ARCHIVE, OCI_ARCHIVE, OCI_DIRECTORY)
"""In what images can be written to files."""


@value
class PushOptions:
    """How to push.

    *compress* says what becomes of raw layers: ``gzip``, ``zstd``, ``none``, or
    ``auto``, which is gzip unless a layer does not shrink. With *recompress* all other
    layers become that as well (not ``auto``). *compress_level* is the
    compressor's own, None for its default. *temp_directory* and *temp_budget* (bytes)
    bound the spools; None finds both. *platforms* narrows an index, empty takes all.
    *strict* fails when the archive lacks a platform that its index names.
    *trust_target* takes compressed layers from the image under the target's tag, as its
    config says: whoever may write that tag chooses what is published. A level that is
    asked for takes none.
    """

    compress: str = "auto"
    compress_level: int | None = None
    jobs: int = JOBS
    temp_directory: Path | None = None
    temp_budget: int | None = None
    platforms: tuple[Platform, ...] = ()
    strict: bool = False
    trust_target: bool = False
    recompress: bool = False


@value
class CopyOptions:
    """How to copy.

    *platforms* narrows an index, empty takes all of it. *referrers* takes along what
    refers to the image (signatures, SBOMs). *jobs* blobs go at a time.
    """

    platforms: tuple[Platform, ...] = ()
    referrers: bool = False
    jobs: int = 3


class TakenPlatform(NamedTuple):
    """The one *platform* that was taken of an index of *total*, as nobody chose."""

    platform: Platform
    total: int

    def notice(self, place: str, advice: str, of: str = "") -> Notice:
        """The warning that *place* does not hold the others *of* an image."""
        return Notice(
            f"{place} holds {self.platform} only{of}, 1 of {self.total} platforms; "
            f"{advice} keeps them",
            warning=True,
        )


@value
class PushResult:
    """What a push left in the registry.

    *blobs* counts the blobs by how they came to be there; *sent* is bytes that were
    sent for them. *replaced* is what the first of *tags* named before, where that is
    known and another image. *lost* counts what was left out, since it refers to an
    image that got another digest.
    """

    repository: str
    tags: tuple[str, ...]
    descriptor: Descriptor
    blobs: Mapping[Outcome, int]
    sent: int
    replaced: Digest | None = None
    lost: int = 0


@value
class BlobForecast:
    """What a push would do with one blob; *size* is bytes, before compression."""

    name: str
    size: int
    action: str

    @property
    def is_sent(self) -> bool:
        """True when bytes of it would go over the wire."""
        return self.action.endswith(SEND)


@value
class CopyResult:
    """What a copy left at its target.

    *manifests* were stored, *referrers* of them as such; *blobs* counts by how they
    came to be there, *sent* is the bytes that moved for them. *taken* is set when a
    default platform was taken of an index. *whole* is what the reference names at the
    source, of which *descriptor* may be a part. *replaced* is what its first name at
    the target named before, where that is known and another image. *lost* counts what
    was left out, since it refers to an image that got another digest.
    """

    descriptor: Descriptor
    manifests: int = 0
    referrers: int = 0
    blobs: Mapping[Outcome, int] = field(default_factory=dict)
    sent: int = 0
    taken: TakenPlatform | None = None
    whole: Descriptor | None = None
    replaced: Digest | None = None
    lost: int = 0

    def as_push(self, repository: str, tags: Sequence[str]) -> PushResult:
        """The same, as the result of a push to *tags* of *repository*."""
        return PushResult(
            repository,
            tuple(tags),
            self.descriptor,
            self.blobs,
            self.sent,
            self.replaced,
            self.lost,
        )


class PulledImage(NamedTuple):
    """An image that was pulled.

    *root* is what the reference names in the registry, *chosen* what was asked for: the
    same, or the manifest for one platform, or an index of those for several. *blobs*
    counts its configs and layers, *received* is bytes that came over the wire for them.
    *taken* is the platform that was taken of *root*, as nobody chose.
    """

    reference: Reference
    root: Descriptor
    chosen: Descriptor
    blobs: int
    received: int
    taken: TakenPlatform | None = None
