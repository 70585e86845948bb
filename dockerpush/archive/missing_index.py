"""One name for several platforms without an index above them: the archive lacks one.

Nothing forbids two entries of index.json, or of manifest.json, with one name
(github.com/opencontainers/image-spec issue 581). Where they are for different
platforms they are one image, under an index that is made here.
"""

from __future__ import annotations

from typing import Iterable, Iterator, Sequence

from ..oci import OCI_INDEX, Descriptor, Index, Platform, dump_json
from ..platforms import normalised
from ..values import replace
from .layout import FULL_NAME, REF_NAME
from .member_names import canonical
from .stored import StoredImage, StoredIndex, StoredManifest, manifests

_UNKNOWN = Platform("unknown", "unknown")


def platform_of(manifest: StoredManifest) -> Platform:
    """Where *manifest* runs; ``unknown/unknown`` for what is no image."""
    if manifest.descriptor and manifest.descriptor.platform:
        return manifest.descriptor.platform
    if manifest.image_config:
        return manifest.image_config.platform
    return _UNKNOWN


def joined_platforms(images: Sequence[StoredImage]) -> tuple[StoredImage, ...]:
    """*images*, those of one name and of different platforms under one index."""
    holders = _holders(images)
    shared: dict[tuple[int, ...], set[str]] = {}
    for key, places in holders.items():
        if len(places) > 1 and _differ([images[place] for place in places]):
            shared.setdefault(tuple(places), set()).add(key)
    found: list[StoredImage] = []
    taken = set().union(*shared.values())
    for place, image in enumerate(images):
        for together, keys in shared.items():
            if together[0] == place:
                found.append(_under_index([images[one] for one in together], keys))
        rest = _without(image, taken)
        if rest.names or rest.tags or not _keys(image):
            found.append(rest)
    return tuple(found)


def _holders(images: Iterable[StoredImage]) -> dict[str, list[int]]:
    """By each name and tag, the places of the images that have it."""
    found: dict[str, list[int]] = {}
    for place, image in enumerate(images):
        for key in _keys(image):
            found.setdefault(key, []).append(place)
    return found


def _keys(image: StoredImage) -> list[str]:
    return [*map(canonical, image.names), *image.tags]


def _without(image: StoredImage, taken: set[str]) -> StoredImage:
    return replace(
        image,
        names=tuple(name for name in image.names if canonical(name) not in taken),
        tags=tuple(tag for tag in image.tags if tag not in taken),
    )


def _differ(images: Iterable[StoredImage]) -> bool:
    """True when each of *images* is for one platform, and no two for the same.

    An index among them stays as it is: joining it would cost it its digest, and what it
    says beside its manifests.
    """
    seen: set[Platform] = set()
    for image in images:
        found = {normalised(platform_of(one)) for one in _runnable(image)}
        if isinstance(image.root, StoredIndex) or len(found) != 1 or found & seen:
            return False
        seen |= found
    return True


def _runnable(image: StoredImage) -> list[StoredManifest]:
    found = manifests(image.root or image.entry)
    return [one for one in found if platform_of(one).os != _UNKNOWN.os]


def _under_index(images: Sequence[StoredImage], keys: set[str]) -> StoredImage:
    children = tuple(child for image in images for child in _children(image))
    known = [child.descriptor for child in children]
    raw = b""
    if all(known):
        raw = Index(OCI_INDEX, tuple(one for one in known if one)).to_bytes()
    told = raw or dump_json([str(one.config_descriptor.digest) for one in children])
    first = images[0]
    return StoredImage(
        tuple(name for name in first.names if canonical(name) in keys),
        tuple(tag for tag in first.tags if tag in keys),
        None,
        StoredIndex(Descriptor.of(OCI_INDEX, told), raw, children),
    )


def _children(image: StoredImage) -> Iterator[StoredManifest]:
    """The manifests of *image* as an index names them: where each runs, no names."""
    for manifest in manifests(image.root or image.entry):
        descriptor = manifest.descriptor
        if descriptor is None:
            yield manifest
            continue
        annotations = {
            key: value
            for key, value in (descriptor.annotations or {}).items()
            if key not in (FULL_NAME, REF_NAME)
        }
        platform = platform_of(manifest)
        yield replace(
            manifest,
            descriptor=replace(
                descriptor,
                annotations=annotations or None,
                platform=None if platform == _UNKNOWN else platform,
            ),
        )
