"""Pulled images as an archive or a directory."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, Sequence

from ..archive.bundle import BundledImage, docker_parts
from ..archive.writers import (
    BlobStore,
    naming_output,
    new_directory,
    replacing,
    write_directory,
    write_tar,
)
from ..blobs import is_document
from ..cache import Cache
from ..cancellation import Cancellation
from ..errors import UsageError
from ..oci import Digest
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
    no_clobber: bool = False,
) -> None:
    """Write *images* in the *form* of FORMATS to *output*, a path or an open file.

    A path gets its name in one step. Raises UsageError for what the form cannot hold,
    and for an *output* that exists with *no_clobber*; PusherError when it cannot be
    written, ContentMismatch, Cancelled.
    """
    bundle = [bundled(cache, image, docker=form == DOCKER_ARCHIVE) for image in images]
    store = BlobStore(cache.open_blob, cancellation)
    docker = form == DOCKER_ARCHIVE
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


def bundled(cache: Cache, image: PulledImage, *, docker: bool) -> BundledImage:
    """*image* as the writers take it. Raises UsageError when docker cannot load it."""
    reachable = cache.reachable(image.chosen)
    held = [blob for blob in reachable.values() if cache.has(blob)]
    blobs = tuple(sorted(held, key=lambda blob: not is_document(blob)))
    config: Digest | None = None
    layers: tuple[Digest, ...] = ()
    if docker:
        raw = cache.read_document(image.chosen)
        config, layers = docker_parts(str(image.reference), image.chosen, raw)
    missing = [digest for digest in layers if not cache.has(reachable[digest])]
    if missing:
        raise UsageError(
            f"{image.reference}: layer {missing[0].short} is only where its urls "
            "point, which docker cannot load: use --format oci-archive"
        )
    return BundledImage(image.chosen, _names(image), blobs, config, layers)


def _names(image: PulledImage) -> tuple[str, ...]:
    """The reference without its digest, which is no name to load an image by."""
    reference = image.reference
    if reference.tag is None and reference.digest is not None:
        return ()
    return (str(reference.with_tag(reference.tag or "latest").with_digest(None)),)
