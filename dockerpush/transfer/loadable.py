"""What docker loads from an archive: the one image that ``manifest.json`` names.

docker and podman read ``manifest.json``, which knows no platforms: it names one image
of an index. What they cannot load has no entry there.
"""

from __future__ import annotations

from typing import Callable, Iterator, NamedTuple

from ..archive.bundle import BundledImage
from ..archive.stored import ENCRYPTED
from ..errors import UsageError
from ..events import Notice, OnEvent
from ..oci import (
    DOCKER_CONFIG,
    INDEX_TYPES,
    MANIFEST_TYPES,
    OCI_CONFIG,
    Descriptor,
    Digest,
    Manifest,
    Platform,
)
from ..platforms import best_match
from ..values import replace
from .manifests import Document
from .tree import Narrowable, images_of

LINUX_AMD64 = Platform("linux", "amd64")
"""The platform that docker gets of an index when nobody says more."""

_LAYER_TYPES = (
    "application/vnd.oci.image.layer.",
    "application/vnd.docker.image.rootfs.",
)


class ForDocker(NamedTuple):
    """How an archive gets its ``manifest.json``.

    It names the image for *preferred*, where the index has one, else the first. What
    docker cannot load is refused when it is *required*; else there is a note.
    """

    preferred: Platform | None = LINUX_AMD64
    required: bool = False


class NotLoadable(UsageError):
    """Docker cannot load it; the text says why."""


def completed(
    image: BundledImage,
    root: Document,
    source: Narrowable,
    *,
    name: str,
    docker: ForDocker,
    on_event: OnEvent,
) -> BundledImage:
    """*image*, whose manifest is *root*, with what ``manifest.json`` says of it.

    Raises UsageError, which calls it *name*, for what docker cannot load and is
    *required*, and what *source* raises.
    """
    held = {blob.digest for blob in image.blobs}
    try:
        manifest = _image_of(source, root, docker.preferred)
        layers = _layers(manifest, held.__contains__)
    except NotLoadable as error:
        if docker.required:
            raise UsageError(
                f"{name}: {error}, which docker cannot load: make it an oci-archive"
            ) from error
        on_event(
            Notice(
                f"{name}: {error}, which docker cannot load: left out of the "
                "archive's manifest.json"
            )
        )
        return image
    return replace(image, config=manifest.config.digest, layers=layers)


def _image_of(
    source: Narrowable, root: Document, preferred: Platform | None
) -> Manifest:
    """The manifest of the image that docker gets. Raises NotLoadable."""
    if root.descriptor.media_type not in INDEX_TYPES:
        return _image(root)
    entries = images_of(source, root)
    place = best_match(preferred, [one for _, one in entries]) if preferred else None
    if place is not None:
        return _image(source.child(entries[place][0]))
    first = next(_loadable(source, [entry for entry, _ in entries]), None)
    if first is None:
        raise NotLoadable("it is an index without an image")
    return first


def _loadable(source: Narrowable, entries: list[Descriptor]) -> Iterator[Manifest]:
    """The manifests among *entries* that are those of images."""
    for entry in entries:
        if entry.media_type in MANIFEST_TYPES:
            manifest = _parsed(source.child(entry))
            if _is_image(manifest):
                yield manifest


def _image(document: Document) -> Manifest:
    if document.descriptor.media_type in MANIFEST_TYPES:
        manifest = _parsed(document)
        if _is_image(manifest):
            return manifest
        kind = manifest.artifact_type or manifest.config.media_type
    else:
        kind = document.descriptor.media_type
    raise NotLoadable(f"it is an artifact ({kind})")


def _parsed(document: Document) -> Manifest:
    return Manifest.from_bytes(document.raw, document.descriptor.media_type)


def _is_image(manifest: Manifest) -> bool:
    return not manifest.artifact_type and manifest.config.media_type in (
        OCI_CONFIG,
        DOCKER_CONFIG,
    )


def _layers(
    manifest: Manifest, is_held: Callable[[Digest], bool]
) -> tuple[Digest, ...]:
    """Its layers, all of them tars that are there. Raises NotLoadable."""
    for layer in manifest.layers:
        if layer.media_type.endswith(ENCRYPTED):
            raise NotLoadable(f"layer {layer.digest.short} is encrypted")
        if not layer.media_type.startswith(_LAYER_TYPES):
            raise NotLoadable(
                f"layer {layer.digest.short} is no tar ({layer.media_type})"
            )
        if not is_held(layer.digest):
            raise NotLoadable(
                f"layer {layer.digest.short} is only where its urls point"
            )
    return tuple(layer.digest for layer in manifest.layers)
