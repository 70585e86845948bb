"""What a pull leaves, as a value."""

from __future__ import annotations

from dataclasses import dataclass

from ..copy.model import TakenPlatform
from ..oci import Descriptor
from ..reference import Reference


@dataclass(frozen=True)
class PulledImage:
    """An image that the cache holds.

    *root* is what the reference names in the registry, *chosen* what was asked for: the
    same, or the manifest for one platform, or an index of those for several. *blobs*
    counts its configs and layers, *received* is bytes that came over the wire for them.
    *taken* is set when a default platform was taken of an index.
    """

    reference: Reference
    root: Descriptor
    chosen: Descriptor
    blobs: int
    received: int
    taken: TakenPlatform | None = None
