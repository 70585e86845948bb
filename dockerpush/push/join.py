"""Several images, each for one platform, under one name: an index is put over them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Iterable, Sequence

from ..archive.model import StoredImage, manifests
from ..errors import UsageError
from ..events import Outcome
from ..oci import OCI_INDEX, Descriptor, Index, Platform
from .manifests import Document
from .transfer import PushResult, PushTarget, store


def platforms_of(images: Iterable[StoredImage]) -> list[Platform]:
    """The platform of each of *images*.

    Raises UsageError when one is for several, or does not say, or two are for the same.
    """
    found: list[Platform] = []
    for image in images:
        platform = _platform(image)
        if platform in found:
            raise UsageError(
                f"two of the archives are for {platform}: an index names a platform "
                "once; push them to different tags"
            )
        found.append(platform)
    return found


def store_joined(
    target: PushTarget,
    parts: Sequence[tuple[Platform, PushResult]],
    *,
    tags: Sequence[str],
) -> PushResult:
    """Store an index of *parts*, which *target* holds already, under each of *tags*.

    The same parts in the same order give the same digest. Raises RegistryError,
    NetworkError, Cancelled; then no tag was moved.
    """
    entries = tuple(
        replace(result.descriptor, platform=platform) for platform, result in parts
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


def _platform(image: StoredImage) -> Platform:
    found = list(manifests(image.root or image.entry))
    name = (*image.names, "an image without a name")[0]
    if len(found) != 1:
        raise UsageError(
            f"{name} is for {len(found)} platforms, and only images for one each can "
            "be joined under one -t"
        )
    (manifest,) = found
    if manifest.descriptor and manifest.descriptor.platform:
        return manifest.descriptor.platform
    if manifest.image_config is None:
        raise UsageError(f"{name} does not say which platform it is for")
    return manifest.image_config.platform
