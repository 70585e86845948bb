"""Pulled images as an archive or a directory."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, Sequence

from ..archive.bundle import BundledImage
from ..archive.writers import (
    BlobStore,
    naming_output,
    new_directory,
    replacing,
    write_directory,
    write_tar,
)
from ..cache import Cache
from ..cancellation import Cancellation
from ..copy.loadable import ForDocker, completed
from ..documents import is_document
from ..errors import ContentMismatch
from ..events import OnEvent, ignore
from ..oci import Descriptor
from ..push.manifests import Document
from .model import PulledImage

DOCKER_ARCHIVE = "docker-archive"
OCI_ARCHIVE = "oci-archive"
OCI_DIRECTORY = "oci-dir"
FORMATS = (DOCKER_ARCHIVE, OCI_ARCHIVE, OCI_DIRECTORY)


def export(
    images: Sequence[PulledImage],
    cache: Cache,
    output: Path | BinaryIO,
    *,
    form: str,
    cancellation: Cancellation,
    for_docker: ForDocker | None = None,
    no_clobber: bool = False,
    on_event: OnEvent = ignore,
) -> None:
    """Write *images* in the *form* of FORMATS to *output*, a path or an open file.

    *for_docker* says what docker gets of a docker-archive. A path gets its name in one
    step. Raises UsageError for what *for_docker* refuses, and for an *output* that
    exists with *no_clobber*; PusherError when it cannot be written, ContentMismatch,
    Cancelled.
    """
    docker = form == DOCKER_ARCHIVE
    bundle = [_bundled(cache, image) for image in images]
    if docker:
        bundle = [
            _completed(cache, image, one, for_docker or ForDocker(), on_event)
            for image, one in zip(images, bundle)
        ]
    store = BlobStore(cache.open_blob, cancellation)
    with naming_output(output):
        if not isinstance(output, Path):
            write_tar(output, bundle, store, docker=docker)
            output.flush()
        elif form == OCI_DIRECTORY:
            with new_directory(output) as directory:
                write_directory(directory, bundle, store)
        else:
            with replacing(output, no_clobber=no_clobber) as file:
                write_tar(file, bundle, store, docker=docker)


def _bundled(cache: Cache, image: PulledImage) -> BundledImage:
    """*image* as the writers take it."""
    reachable = cache.reachable(image.chosen)
    held = [blob for blob in reachable.values() if _is_held(cache, image, blob)]
    blobs = tuple(sorted(held, key=lambda blob: not is_document(blob)))
    return BundledImage(image.chosen, _names(image), blobs)


def _completed(
    cache: Cache,
    image: PulledImage,
    bundled: BundledImage,
    docker: ForDocker,
    on_event: OnEvent,
) -> BundledImage:
    """*bundled* with what docker loads of it. Raises UsageError."""
    reader = _CachedDocuments(cache, image)
    return completed(
        bundled,
        reader.child(image.chosen),
        reader,
        name=str(image.reference),
        docker=docker,
        on_event=on_event,
    )


class _CachedDocuments:
    """Manifests and configs of *image*, all of which the cache holds."""

    def __init__(self, cache: Cache, image: PulledImage) -> None:
        self.place = image.reference.registry
        self.repository = image.reference.repository
        self._cache = cache

    def child(self, descriptor: Descriptor) -> Document:
        """The manifest that *descriptor* names."""
        return Document(descriptor, self.read_blob(descriptor))

    def read_blob(self, descriptor: Descriptor) -> bytes:
        """The whole of a small blob, checked. Raises ContentMismatch."""
        content = self._cache.read_document(descriptor)
        if content is None:
            raise ContentMismatch(
                f"blob {descriptor.digest} is gone from the cache: pull again"
            )
        return content


def _is_held(cache: Cache, image: PulledImage, blob: Descriptor) -> bool:
    """False for what is only where its urls point. Raises ContentMismatch."""
    if cache.has(blob):
        return True
    if not blob.urls:
        raise ContentMismatch(
            f"{image.reference}: blob {blob.digest} is gone from the cache; pull the "
            "image again"
        )
    return False


def _names(image: PulledImage) -> tuple[str, ...]:
    """The reference without its digest, which is no name to load an image by."""
    reference = image.reference
    if reference.tag is None and reference.digest is not None:
        return ()
    return (str(reference.with_tag(reference.tag or "latest").with_digest(None)),)
