"""Images for different platforms under one name: an index is put over them."""

from __future__ import annotations

from collections import Counter
from typing import Iterator, Mapping, Sequence

from ..archive.layout import FULL_NAME, REF_NAME
from ..archive.stored import StoredImage, platform_of
from ..documents import RawManifest, Walk
from ..errors import NotFound, UsageError
from ..events import Outcome
from ..oci import INDEX_TYPES, OCI_INDEX, Descriptor, Index, Platform
from ..platforms import best_match, normalised
from ..values import replace, value
from .choices import PushResult
from .manifests import named_before, store
from .plan import images_in
from .registry_target import RegistryTarget


@value
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

    None for an image that has nothing for them. What an archive names and does not hold
    counts only where it holds nothing. Raises UsageError when an image does not say
    what it is for, or two are for the same platform; NotFound when none is for a
    platform that is wanted.
    """
    have = [_platforms(image) for image in images]
    kept = _kept([platform for some in have for platform in some], wanted)
    found: list[Part | None] = []
    taken: set[Platform] = set()
    for image, platforms in zip(images, have):
        chosen = [one for one in platforms if normalised(one) in kept]
        twice = [str(one) for one in chosen if normalised(one) in taken]
        if twice:
            raise UsageError(
                f"two of the archives are for {', '.join(twice)}: an index holds a "
                "platform once; push them to different tags"
            )
        taken.update(map(normalised, chosen))
        part = Part(image, tuple(chosen), narrowed=len(chosen) < len(platforms))
        found.append(part if chosen else None)
    return found


def _kept(have: Sequence[Platform], wanted: Sequence[Platform]) -> set[Platform]:
    """Those of *have* that are joined, normalised: all, or the best for *wanted*."""
    if not wanted:
        return set(map(normalised, have))
    kept = set()
    for platform in wanted:
        place = best_match(platform, have)
        if place is None:
            names = sorted(set(map(str, have)))
            raise NotFound(
                f"none of the archives holds an image for {platform}, only for "
                f"{', '.join(names)}"
            )
        kept.add(normalised(have[place]))
    return kept


def store_joined(
    target: RegistryTarget,
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
        for entry in _entries(
            target, result.descriptor, part.platforms[0], Walk(target.repository)
        )
    )
    raw = Index(OCI_INDEX, entries).to_bytes()
    document = RawManifest(Descriptor.of(OCI_INDEX, raw), raw)
    blobs: Counter[Outcome] = Counter()
    for _, result in parts:
        blobs.update(result.blobs)
    before = named_before(target, tags) if blobs[Outcome.UPLOADED] else None
    descriptor = store(target, [document], tags)
    return PushResult(
        target.repository,
        tuple(tags),
        descriptor,
        blobs,
        sum(result.sent for _, result in parts),
        None if before == descriptor.digest else before,
        sum(result.lost for _, result in parts),
    )


def _entries(
    target: RegistryTarget,
    stored: Descriptor,
    platform: Platform,
    walk: Walk,
    depth: int = 0,
) -> Iterator[Descriptor]:
    if stored.media_type not in INDEX_TYPES:
        yield replace(
            stored,
            platform=stored.platform or platform,
            annotations=_without_names(stored.annotations),
        )
        return
    if not walk.enters(stored, depth):
        return
    named = str(stored.digest)
    _, raw = target.client.read_manifest(target.repository, named)
    walk.takes(raw, stored.size)
    for child in Index.from_bytes(raw, stored.media_type).manifests:
        if child.media_type in INDEX_TYPES:
            yield from _entries(target, child, platform, walk, depth + 1)
        else:
            yield child


def _without_names(annotations: Mapping[str, str] | None) -> dict[str, str] | None:
    """*annotations* without those by which only the archive called its image."""
    kept = {
        key: value
        for key, value in (annotations or {}).items()
        if key not in (FULL_NAME, REF_NAME)
    }
    return kept or None


def _platforms(image: StoredImage) -> list[Platform]:
    """Where the images of *image* run that are complete, else where any does."""
    nodes = images_in(image.root or image.entry)
    whole = [node for node in nodes if node.complete]
    if not nodes:
        name = (*image.names, "an image without a name")[0]
        raise UsageError(f"{name} does not say which platform it is for")
    return [platform_of(node) for node in whole or nodes]
