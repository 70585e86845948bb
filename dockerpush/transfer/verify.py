"""Proof that a registry holds what an archive holds: everything is read back.

Every manifest of the archive's image must be found under the reference, with the same
config, and every layer is downloaded, hashed as it is stored, unpacked, and hashed
again: the first must be what the manifest says, the second the config's diff_id. Memory
is bounded, nothing is written to disk.
"""

from __future__ import annotations

from typing import Iterable, Iterator, Mapping

from ..archive.decompress import digests, peeked
from ..archive.sniff import compression_of
from ..archive.stored import (
    Compression,
    StoredBlob,
    StoredImage,
    StoredManifest,
    compression_of_type,
    manifests,
)
from ..documents import SUBJECT_ANNOTATION
from ..errors import ContentMismatch
from ..events import BytesRead
from ..oci import INDEX_TYPES, MANIFEST_TYPES, Descriptor, Digest, Index, Manifest
from ..system.workers import Workers
from ..values import value
from .registry_target import PushTarget


@value
class Verified:
    """What was compared: the digest under the reference, blobs and bytes read back."""

    digest: Digest
    manifests: int
    blobs: int
    size: int


def verify_image(
    target: PushTarget, image: StoredImage, reference: str, *, jobs: int
) -> Verified:
    """Compare *image* of an archive with what *reference* (tag or digest) names.

    Raises ContentMismatch, which names the first difference; NotFoundInRegistry,
    RegistryError, NetworkError, Cancelled.
    """
    client, repository = target.client, target.repository
    descriptor, raw = client.read_manifest(repository, reference)
    remote = dict(_remote_manifests(target, descriptor, raw))
    pairs = [
        pair
        for manifest in manifests(image.root or image.entry)
        if manifest.complete and not _lost_its_subject(manifest, remote)
        for pair in _pairs(manifest, remote.values())
    ]
    blobs = {layer.digest: (layer, stored) for layer, stored in pairs}
    with Workers(target.cancellation, jobs, name="verify") as workers:
        reading = [
            workers.submit(_verify_layer, target, layer, stored)
            for layer, stored in blobs.values()
        ]
        workers.wait(reading)
    size = sum(layer.size for layer, _ in blobs.values())
    return Verified(descriptor.digest, len(remote), len(blobs), size)


def _remote_manifests(
    target: PushTarget, descriptor: Descriptor, raw: bytes
) -> Iterator[tuple[Digest, Manifest]]:
    if descriptor.media_type not in INDEX_TYPES:
        yield descriptor.digest, Manifest.from_bytes(raw, descriptor.media_type)
        return
    for child in Index.from_bytes(raw, descriptor.media_type).manifests:
        if child.media_type in (*MANIFEST_TYPES, *INDEX_TYPES):
            found = target.client.read_manifest(target.repository, str(child.digest))
            yield from _remote_manifests(target, *found)


def _lost_its_subject(
    stored: StoredManifest, remote: Mapping[Digest, Manifest]
) -> bool:
    """True for an attestation whose image was stored under another digest.

    A push leaves it out then, and says so.
    """
    annotations = (stored.descriptor and stored.descriptor.annotations) or {}
    subject = annotations.get(SUBJECT_ANNOTATION)
    return subject is not None and subject not in remote


def _pairs(
    stored: StoredManifest, remote: Iterable[Manifest]
) -> list[tuple[Descriptor, StoredBlob]]:
    """The layers of the one of *remote* that has the config of *stored*."""
    config = stored.config_descriptor.digest
    for manifest in remote:
        if manifest.config.digest != config:
            continue
        if len(manifest.layers) != len(stored.layers):
            raise ContentMismatch(
                f"the registry's image {config.short} has {len(manifest.layers)} "
                f"layers, the archive's has {len(stored.layers)}"
            )
        return list(zip(manifest.layers, stored.layers))
    raise ContentMismatch(
        f"the registry does not hold the image with the config {config}; push it again"
    )


def _verify_layer(target: PushTarget, layer: Descriptor, stored: StoredBlob) -> None:
    if layer.urls:
        return
    wanted = stored.diff_id
    as_it_is = wanted is None or compression_of_type(layer.media_type) is None
    if as_it_is:
        wanted = stored.digest
    head, reader = peeked(target.client.download(target.repository, layer.digest))
    found = digests(
        reader,
        Compression.NONE if as_it_is else compression_of(head),
        cancellation=target.cancellation,
        on_read=lambda count: target.on_event(BytesRead(str(layer.digest), count)),
        name=f"layer {layer.digest.short} of the registry",
        named=layer.digest,
    )
    if found.digest != layer.digest:
        raise ContentMismatch(
            f"layer {layer.digest}: the registry gave bytes with the digest "
            f"{found.digest}"
        )
    holds = found.digest if as_it_is else found.diff_id
    if holds.contradicts(wanted):
        raise ContentMismatch(
            f"layer {layer.digest} of the registry holds {holds}, the "
            f"archive's layer is {wanted}; push it again"
        )
