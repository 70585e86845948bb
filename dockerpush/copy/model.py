"""The values of a copy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Mapping

from ..events import Outcome
from ..oci import Descriptor, Platform


@dataclass(frozen=True)
class CopyOptions:
    """How to copy.

    *platforms* narrows an index, empty takes all of it. *referrers* takes along what
    speaks of the image (signatures, SBOMs). *jobs* blobs go at a time.
    """

    platforms: tuple[Platform, ...] = ()
    referrers: bool = False
    jobs: int = 3


@dataclass(frozen=True)
class CopyResult:
    """What a copy left at its target.

    *manifests* were stored, *referrers* of them as such; *blobs* counts by how they
    came to be there, *sent* is the bytes that were sent for them.
    """

    descriptor: Descriptor
    manifests: int = 0
    referrers: int = 0
    blobs: Mapping[Outcome, int] = field(default_factory=dict)
    sent: int = 0
