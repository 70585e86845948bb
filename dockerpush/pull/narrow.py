"""The part of an image that is for some platforms."""

from __future__ import annotations

from typing import Iterator, Sequence

from ..blobs import DEPTH_LIMIT, children_of
from ..errors import InvalidDigest, InvalidJSON, NotFound
from ..events import Notice
from ..oci import (
    INDEX_TYPES,
    JSON_LIMIT,
    MANIFEST_TYPES,
    Descriptor,
    Digest,
    ImageConfig,
    Index,
    Manifest,
    Platform,
)
from ..platforms import best_match
from .fetch import PullSource, fetch_blob, fetch_document


def narrowed(
    source: PullSource, root: Descriptor, platforms: Sequence[Platform]
) -> Descriptor:
    """The manifest of *root* for the only one of *platforms*, or an index of several.

    Such an index is made here, so its digest is not that of *root*. Raises NotFound,
    which names what there is.
    """
    images = list(_images(source, root, 0))
    have = [platform for _, platform in images]
    chosen: dict[Digest, Descriptor] = {}
    for wanted in platforms:
        place = best_match(wanted, have)
        if place is None:
            named = sorted({str(platform) for platform in have if platform})
            raise NotFound(
                f"no image for {wanted} below {root.digest.short}, only for "
                f"{', '.join(named) or 'unknown platforms'}; choose with --platform"
            )
        image = images[place][0]
        chosen[image.digest] = image
    if len(chosen) == 1:
        return next(iter(chosen.values()))
    return _index_of(source, root, tuple(chosen.values()))


def _images(
    source: PullSource, node: Descriptor, depth: int
) -> Iterator[tuple[Descriptor, Platform | None]]:
    """The image manifests that are *node* or below it, and where they run."""
    if node.media_type in MANIFEST_TYPES:
        yield node, node.platform or _platform_of(source, node)
    elif node.media_type in INDEX_TYPES and depth < DEPTH_LIMIT:
        for child in children_of(node, fetch_document(source, node)):
            yield from _images(source, child, depth + 1)


def _platform_of(source: PullSource, node: Descriptor) -> Platform | None:
    """What the config of an image says; None for an artifact."""
    raw = fetch_document(source, node)
    config = Manifest.from_bytes(raw, node.media_type).config
    if config.size > JSON_LIMIT:
        return None
    source.pins.add([config.digest])
    fetch_blob(source, config)
    content = source.cache.read_document(config)
    try:
        return ImageConfig.from_bytes(content).platform if content else None
    except (InvalidJSON, InvalidDigest):
        return None


def _index_of(
    source: PullSource, root: Descriptor, images: tuple[Descriptor, ...]
) -> Descriptor:
    """An index of *images* alone, in the cache."""
    raw = Index(root.media_type, images).to_bytes()
    made = Descriptor.of(root.media_type, raw)
    source.pins.add([made.digest])
    source.cache.put(made.digest, raw)
    source.on_event(
        Notice(f"only {len(images)} platforms: the index is a new one, {made.digest}")
    )
    return made
