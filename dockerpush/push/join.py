"""Images for different platforms under one name: an index is put over them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Iterator, Sequence

from ..archive.model import StoredImage, manifests
from ..errors import NotFound, UsageError
from ..events import Outcome
from ..oci import INDEX_TYPES, OCI_INDEX, Descriptor, Index, Platform
from ..platforms import best_match
from .manifests import Document
from .plan import platform_of
from .transfer import PushResult, PushTarget, store


@dataclass(frozen=True)
class Part:
    """An image that is joined with others: those of *image* for *platforms*.

    *narrowed* is true when it has images for other platforms, which stay where they
    are.
    """

    image: StoredImage
    platforms: tuple[Platform, ...]
    narrowed: bool


def parts_of(
    images: Sequence[StoredImage], wanted: Sequence[Platform]
) -> list[Part | None]:
    """What of each of *images* is joined: all, or what is for one of *wanted*.

    None for an image that has nothing for them. Raises UsageError when one does not
    say what it is for, or two are for the same platform; NotFound when none is for a
    platform that is wanted.
    """
    found: list[Part | None] = []
    taken: set[Platform] = set()
    for image in images:
        have = _platforms(image)
        chosen = _chosen(have, wanted) if wanted else have
        twice = taken.intersection(chosen)
        if twice:
            raise UsageError(
                f"two of the archives are for {', '.join(map(str, twice))}: an index "
                "names a platform once; push them to different tags"
            )
        taken.update(chosen)
        part = Part(image, tuple(chosen), narrowed=len(chosen) < len(have))
        found.append(part if chosen else None)
    for platform in wanted:
        if best_match(platform, list(taken)) is None:
            raise NotFound(f"none of the archives holds an image for {platform}")
    return found


def _chosen(have: Sequence[Platform], wanted: Sequence[Platform]) -> list[Platform]:
    places = {best_match(platform, have) for platform in wanted}
    return [platform for place, platform in enumerate(have) if place in places]


def store_joined(
    target: PushTarget,
    parts: Sequence[tuple[Part, PushResult]],
    *,
    tags: Sequence[str],
) -> PushResult:
    """Store an index of *parts*, which *target* holds already, under each of *tags*.

    What was pushed as an index gives its entries, attestations included. The same parts
    in the same order give the same digest. Raises RegistryError, NetworkError,
    Cancelled; then no tag was moved.
    """
    entries = tuple(
        entry
        for part, result in parts
        for entry in _entries(target, result.descriptor, part.platforms[0])
    )
    raw = Index(OCI_INDEX, entries).to_bytes()
    document = Document(Descriptor.of(OCI_INDEX, raw), raw)
    descriptor = store(target, [document], tags)
    blobs: Counter[Outcome] = Counter()
    for _, result in parts:
        blobs.update(result.blobs)
    return PushResult(
        target.repository,
        tuple(tags),
        descriptor,
        blobs,
        sum(result.sent for _, result in parts),
    )


def _entries(
    target: PushTarget, stored: Descriptor, platform: Platform
) -> Iterator[Descriptor]:
    if stored.media_type not in INDEX_TYPES:
        yield replace(stored, platform=stored.platform or platform)
        return
    named = str(stored.digest)
    _, raw = target.client.read_manifest(target.repository, named)
    for child in Index.from_bytes(raw, stored.media_type).manifests:
        if child.media_type in INDEX_TYPES:
            yield from _entries(target, child, platform)
        else:
            yield child


def _platforms(image: StoredImage) -> list[Platform]:
    """Where the images of *image* run, without what only speaks of them."""
    name = (*image.names, "an image without a name")[0]
    nodes = list(manifests(image.root or image.entry))
    found = [platform_of(node) for node in nodes if node.image_config is not None]
    known = [platform for platform in found if platform.os != "unknown"]
    if not known:
        raise UsageError(f"{name} does not say which platform it is for")
    return known
