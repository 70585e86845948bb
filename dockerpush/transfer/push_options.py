"""What a push may be told, as one immutable value."""

from __future__ import annotations

from pathlib import Path

from ..oci import Platform
from ..values import value

JOBS = 3


@value
class PushOptions:
    """How to push.

    *compress* says what becomes of raw layers: ``gzip``, ``zstd``, ``none``, or
    ``auto``, which is gzip unless a layer does not shrink. *compress_level* is the
    compressor's own, None for its default. *temp_directory* and *temp_budget* (bytes)
    bound the spools; None finds both. *platforms* narrows an index, empty takes all.
    *strict* fails when the archive lacks a platform that its index names.
    *trust_target* takes compressed layers from the image under the target's tag, by the
    word of its config: whoever may write that tag chooses what is published. A level
    that is asked for takes none.
    """

    compress: str = "auto"
    compress_level: int | None = None
    jobs: int = JOBS
    temp_directory: Path | None = None
    temp_budget: int | None = None
    platforms: tuple[Platform, ...] = ()
    strict: bool = False
    trust_target: bool = False
