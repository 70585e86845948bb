"""What a push may be told, as one immutable value."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..oci import Platform

MONOLITHIC_LIMIT = 100_000_000
"""Bytes that go in one PUT; proxies commonly cut requests above 100 MB."""

CHUNK_SIZE = 50 * 1024 * 1024
"""Bytes of one PATCH: a multiple of the 10 MiB parts that storage back ends like."""

JOBS = 3


@dataclass(frozen=True)
class PushOptions:
    """How to push.

    *compress* is ``gzip``, ``zstd``, ``none`` or ``auto`` and says what becomes of raw
    layers; *compress_level* is the compressor's own, None for its default. *chunk_size*
    is bytes of one PATCH. *temp_directory* and *temp_budget* (bytes) bound the spools;
    None finds both. *platforms* narrows an index, empty takes all. *strict* fails when
    the archive lacks a platform that its index names.
    """

    compress: str = "gzip"
    compress_level: int | None = None
    jobs: int = JOBS
    chunk_size: int = CHUNK_SIZE
    temp_directory: Path | None = None
    temp_budget: int | None = None
    platforms: tuple[Platform, ...] = ()
    strict: bool = False
