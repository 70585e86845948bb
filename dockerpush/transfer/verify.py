"""Proof that a registry holds what an archive holds: everything is read back.

Every manifest of the archive's image must be found under the reference, with the same
config, and every layer is downloaded, hashed as it is stored, unpacked, and hashed
again: the first must be what the manifest says, the second the config's diff_id. Memory
is bounded, nothing is written to disk.
"""

from __future__ import annotations

from functools import partial
from typing import Container, Iterable, Iterator, Mapping

from ..archive.decompress import StoredDigests, digests, peeked
from ..archive.sniff import compression_of
from ..archive.stored import (
    Compression,
    StoredBlob,
    StoredImage,
    StoredManifest,
    StoredOther,
    compression_of_type,
    leaves,
    manifests,
)
from ..documents import SUBJECT_ANNOTATION, RawManifest, Walk, visit
from ..errors import ContentMismatch
from ..events import BlobFinished, BlobPlanned, BlobStarted, BytesSent, Outcome
from ..oci import MANIFEST_TYPES, Descriptor, Digest, Manifest
from ..reference import Reference
from ..system.workers import Lanes
from ..upload.limits import is_small
from ..values import value
from .choices import BlobForecast
from .known import Knowledge, Shortcuts
from .push_image import forecast
from .registry_target import RegistryTarget
from .source import RegistrySource, Source
from .tree import Walker, child


@value
class Verified:
    """What was compared: the digest under the reference, blobs and bytes read back."""

    digest: Digest
    manifests: int
    blobs: int
    size: int


def verify_image(
    target: RegistryTarget, image: StoredImage, reference: str, *, jobs: int
) -> Verified:
    """Compare *image* of an archive with what *reference* (tag or digest) names.

    Raises ContentMismatch, which names the first difference; NotFoundInRegistry,
    RegistryError, NetworkError, Cancelled.
    """
    client, repository = target.client, target.repository
    descriptor, raw = client.read_manifest(repository, reference)
    named = dict(_remote_manifests(target, RawManifest(descriptor, raw)))
    remote = {digest: found for digest, found in named.items() if found is not None}
    pairs = [
        pair
        for manifest in manifests(image.root or image.entry)
        if manifest.complete and not _lost_its_subject(manifest, remote)
        for pair in _pairs(manifest, remote.values())
    ]
    for leaf in leaves(image.root):
        if isinstance(leaf, StoredOther) and leaf.complete:
            pairs += _other_pairs(target, leaf, named)
    blobs = {layer.digest: (layer, stored) for layer, stored in pairs}
    _announce(target, (layer for layer, _ in blobs.values() if not layer.urls))
    with Lanes(target.cancellation, jobs, name="verify") as lanes:
        reading = [
            lanes.lane(small=is_small(layer)).add(_verify_layer, target, layer, stored)
            for layer, stored in blobs.values()
        ]
        lanes.wait(reading)
    size = sum(layer.size for layer, _ in blobs.values())
    return Verified(descriptor.digest, len(remote), len(blobs), size)


def _announce(target: RegistryTarget, blobs: Iterable[Descriptor]) -> None:
    """Have *blobs* count in the progress as those that are read back."""
    for blob in blobs:
        target.on_event(BlobPlanned(str(blob.digest), blob.size))


def _remote_manifests(
    target: RegistryTarget, root: RawManifest
) -> Iterator[tuple[Digest, Manifest | None]]:
    """What *root* and indexes below it name, None for what is no image's manifest."""
    source = RegistrySource(target.client, target.repository)
    walk = Walk(f"{target.place}/{target.repository}")
    for node, raw, children in visit(root, partial(child, source), walk):
        if node.media_type in MANIFEST_TYPES:
            if raw is None:
                raw = child(source, node).raw
                walk.takes(raw, node.size)
            yield node.digest, Manifest.from_bytes(raw, node.media_type)
        else:
            yield node.digest, None
        for blob in children.blobs:
            yield blob.digest, None


def _other_pairs(
    target: RegistryTarget, stored: StoredOther, named: Container[Digest]
) -> list[tuple[Descriptor, StoredBlob]]:
    """The blobs of what goes byte for byte, which has to be *named* in the registry."""
    digest = stored.descriptor.digest
    if digest not in named:
        raise ContentMismatch(
            f"the registry's index does not name {digest}, the archive's does; push it "
            "again"
        )
    if stored.raw is not None:
        target.client.read_manifest(target.repository, str(digest))
    return [(one.descriptor, one) for one in stored.layers if one.descriptor]


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


def _verify_layer(
    target: RegistryTarget, layer: Descriptor, stored: StoredBlob
) -> None:
    if stored.member is None:  # a foreign layer, which stays where its urls point
        return
    wanted = stored.diff_id
    as_it_is = wanted is None or compression_of_type(layer.media_type) is None
    if as_it_is:
        wanted = stored.digest
    found = _read_back(target, layer, is_packed=not as_it_is)
    holds = found.digest if as_it_is else found.diff_id
    if holds.contradicts(wanted):
        raise ContentMismatch(
            f"layer {layer.digest} of the registry holds {holds}, the "
            f"archive's layer is {wanted}; push it again"
        )


def _read_back(
    target: RegistryTarget, blob: Descriptor, *, is_packed: bool
) -> StoredDigests:
    """A worker thread's work: read *blob*, and what it holds if it *is_packed*."""
    key, digest, size = str(blob.digest), blob.digest, blob.size
    target.on_event(BlobStarted(key, digest, size))
    head, reader = peeked(target.client.download(target.repository, digest))
    found = digests(
        reader,
        compression_of(head) if is_packed else Compression.NONE,
        cancellation=target.cancellation,
        on_read=lambda count: target.on_event(BytesSent(key, count)),
        name=f"blob {digest.short} of the registry",
        named=digest,
    )
    target.on_event(BlobFinished(key, digest, size, Outcome.UPLOADED))
    if found.digest != digest:
        raise ContentMismatch(
            f"blob {digest}: the registry gave bytes with the digest {found.digest}"
        )
    return found


def dry_run_copy(
    source: Source, root: RawManifest, target: RegistryTarget, *, jobs: int
) -> list[BlobForecast]:
    """What a copy of *root* to *target* would do with each blob.

    Raises what *source* does, RegistryError, NetworkError, Cancelled.
    """
    name = Reference(target.place, target.repository)
    known = Knowledge(name, Compression.GZIP, name=Compression.GZIP.value)
    plan = Walker(source).walk(root).plan()
    return forecast(plan, Shortcuts(target, known, jobs))


def verify_copy(
    source: Source,
    root: RawManifest,
    target: RegistryTarget,
    reference: str,
    *,
    jobs: int,
) -> Verified:
    """Read everything back that *root* of *source* needs from *target*.

    *reference* is the tag or digest that it has there. Raises ContentMismatch, which
    names the first difference, NotFoundInRegistry, RegistryError, NetworkError,
    Cancelled.
    """
    client, repository = target.client, target.repository
    found, raw = client.read_manifest(repository, reference)
    if raw != root.raw:
        raise ContentMismatch(
            f"{repository}:{reference} is {found.digest} in the registry, the source "
            f"has {root.descriptor.digest}; push it again"
        )
    plan = Walker(source).walk(root).plan()
    blobs = [one for blob in plan.moving if (one := blob.descriptor)]
    _announce(target, blobs)
    with Lanes(target.cancellation, jobs, name="verify") as lanes:
        reading = [
            lanes.lane(small=True).add(
                client.read_manifest, repository, str(document.descriptor.digest)
            )
            for document in plan.documents[:-1]
        ]
        lanes.wait(reading)
        read = partial(_read_back, target, is_packed=False)
        lanes.wait([lanes.lane(small=is_small(one)).add(read, one) for one in blobs])
    return Verified(
        found.digest,
        len(plan.documents),
        len(blobs),
        sum(blob.size for blob in blobs),
    )
