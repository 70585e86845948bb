"""From an index to a part of it: the images for some platforms."""

from __future__ import annotations

from typing import Iterator, Protocol, Sequence

from ..documents import part_of_index, stays, subject_of
from ..errors import InvalidDigest, InvalidJSON, NotFound
from ..events import Notice
from ..oci import (
    INDEX_TYPES,
    JSON_LIMIT,
    MANIFEST_TYPES,
    Descriptor,
    ImageConfig,
    Manifest,
    Platform,
)
from ..platforms import best_match
from .copy_options import TakenPlatform
from .manifests import Document
from .source import Named, label
from .tree import DEEPEST, index_of

_NO_PLATFORM = Platform("unknown", "unknown")
"""What buildkit says of an attestation."""


class Narrowable(Named, Protocol):
    """What is asked for manifests and configs."""

    def child(self, descriptor: Descriptor) -> Document:
        """The manifest that *descriptor* names."""

    def read_blob(self, descriptor: Descriptor) -> bytes:
        """The whole of a small blob, checked."""


def narrowed(
    source: Narrowable, root: Document, platforms: Sequence[Platform]
) -> Document:
    """*root* with the images for *platforms* alone, and what speaks of them.

    The bytes of *root* stay as they are when nothing is left out; a single image is
    taken out of its index. Raises NotFound, which tells what there is.
    """
    if root.descriptor.media_type not in INDEX_TYPES:
        _places(source, [_platform(source, root)], platforms)
        return root
    entries = list(_entries(source, root))
    images = [entry for entry in entries if not _is_about_another(entry)]
    have = [_entry_platform(source, entry) for entry in images]
    wanted = {images[place].digest for place in _places(source, have, platforms)}
    kept = tuple(entry for entry in entries if stays(entry, wanted))
    if kept == index_of(root).manifests:
        return root
    if len(wanted) == 1:
        return source.child(next(e for e in images if e.digest in wanted))
    return Document(*part_of_index(root.raw, root.descriptor.media_type, kept))


def images_of(
    source: Narrowable, root: Document
) -> list[tuple[Descriptor, Platform | None]]:
    """The entries of the index *root* that are no attestations, and their platforms.

    Those of inner indexes are among them.
    """
    found = [
        (entry, _entry_platform(source, entry))
        for entry in _entries(source, root)
        if not _is_about_another(entry)
    ]
    return [pair for pair in found if pair[1] != _NO_PLATFORM]


def taken_of(
    source: Narrowable, whole: Document, part: Descriptor, platform: Platform
) -> TakenPlatform | None:
    """What to say of *part*, taken of *whole* for *platform*; None if it is all."""
    if part.digest == whole.descriptor.digest:
        return None
    return TakenPlatform(platform, len(images_of(source, whole)))


def narrowing_notice(
    whole: Descriptor, part: Descriptor, platforms: Sequence[Platform]
) -> Notice:
    """What to say when *part* is what is left of *whole* for *platforms*."""
    return Notice(
        f"only {', '.join(map(str, platforms))}: the digest becomes {part.digest}, "
        f"that of the whole is {whole.digest}"
    )


def _places(
    source: Narrowable, have: Sequence[Platform | None], platforms: Sequence[Platform]
) -> list[int]:
    """Which of *have* are wanted."""
    found = []
    for wanted in platforms:
        place = best_match(wanted, have)
        if place is None:
            names = ", ".join(sorted({str(one) for one in have if one}))
            raise NotFound(
                f"{label(source)} holds no image for "
                f"{wanted}, only for {names or 'nothing known'}"
            )
        found.append(place)
    return found


def _entries(
    source: Narrowable, document: Document, depth: int = 0
) -> Iterator[Descriptor]:
    """What the index *document* names, the insides of inner indexes instead."""
    for entry in index_of(document).manifests:
        if entry.media_type in INDEX_TYPES and depth < DEEPEST:
            yield from _entries(source, source.child(entry), depth + 1)
        else:
            yield entry


def _entry_platform(source: Narrowable, entry: Descriptor) -> Platform | None:
    if entry.platform is not None or entry.media_type not in MANIFEST_TYPES:
        return entry.platform
    return _platform(source, source.child(entry))


def _platform(source: Narrowable, document: Document) -> Platform | None:
    """What the config of a manifest says; None when that is no image's."""
    manifest = Manifest.from_bytes(document.raw, document.descriptor.media_type)
    if manifest.config.size > JSON_LIMIT:
        return None
    raw = source.read_blob(manifest.config)
    try:
        return ImageConfig.from_bytes(raw).platform
    except (InvalidJSON, InvalidDigest):
        return None


def _is_about_another(entry: Descriptor) -> bool:
    return bool(subject_of(entry) or entry.artifact_type)
