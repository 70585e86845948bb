"""What is known of layers before they are read, so that nothing is done twice.

Two sources: ``blobs.json`` of earlier runs on this machine, which offers hints that the
registry is asked about; and the image that is under the target's tag now, whose blobs
the target repository holds, whose config names the diff_ids beside its layers, and that
serves a machine without any state as well. Nothing here is needed for a push.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Iterable, Mapping, Sequence

from ..archive.model import Compression
from ..errors import (
    Cancelled,
    ContentMismatch,
    InvalidDigest,
    InvalidJSON,
    RegistryError,
)
from ..oci import (
    INDEX_TYPES,
    JSON_LIMIT,
    MANIFEST_TYPES,
    Descriptor,
    Digest,
    ImageConfig,
    Index,
    Manifest,
)
from ..reference import Reference
from .manifests import SentBlob
from .plan import Method, Plan, PlannedBlob

if TYPE_CHECKING:
    from ..registry.client import RegistryClient
    from ..stores import KnownBlobs

log = logging.getLogger(__name__)

PLATFORMS = 4
"""Images of an index that are looked at; each costs two requests."""

Layers = Mapping["tuple[Digest, Compression]", Descriptor]


@dataclass(frozen=True)
class TargetImage:
    """The image that is under the target's tag: its layers and all its blobs."""

    layers: Layers
    blobs: frozenset[Digest]

    @classmethod
    def read(
        cls, client: RegistryClient, repository: str, tags: Iterable[str]
    ) -> TargetImage:
        """What the first of *tags* that there is says; nothing when none is.

        An image that cannot be understood teaches nothing, and stops nothing. Raises
        NetworkError and Cancelled.
        """
        for tag in tags:
            try:
                return _read_image(client, repository, tag)
            except Cancelled:
                raise
            except _UNUSABLE as error:
                log.info("nothing learned from %s:%s: %s", repository, tag, error)
        return NOTHING


_UNUSABLE = (RegistryError, InvalidJSON, InvalidDigest, ContentMismatch)

NOTHING = TargetImage({}, frozenset())


class Knowledge:
    """What is known about the layers of one push to *target*.

    *name* is the compression as ``blobs.json`` names it. *blobs* None: no such file.
    """

    def __init__(
        self,
        target: Reference,
        compression: Compression,
        *,
        name: str,
        image: TargetImage = NOTHING,
        blobs: KnownBlobs | None = None,
    ) -> None:
        self._target = target
        self._compression = compression
        self._name = name
        self._image = image
        self._blobs = blobs

    @property
    def held(self) -> frozenset[Digest]:
        """Blobs that the target repository holds for certain, as far as it goes."""
        return self._image.blobs

    def offer(self, blob: PlannedBlob) -> SentBlob | None:
        """What the layer became before, if it has to be compressed and did."""
        diff_id = blob.stored.diff_id
        if blob.method is not Method.COMPRESS or diff_id is None:
            return None
        return self.offer_for(diff_id)

    def offer_for(self, diff_id: Digest) -> SentBlob | None:
        """What the layer *diff_id* became before."""
        found = self._image.layers.get((diff_id, self._compression))
        if found is None and self._blobs is not None:
            found = self._blobs.layer(diff_id, self._name)
        return SentBlob(found.digest, found.size, self._compression) if found else None

    def offers(self, plan: Plan) -> dict[str, SentBlob]:
        """Every offer for *plan*, by the key of the layer."""
        found = {blob.key: self.offer(blob) for blob in plan.blobs}
        return {key: sent for key, sent in found.items() if sent is not None}

    def stays_raw(self, diff_id: Digest) -> bool:
        """True when the target's image holds this layer without compression."""
        return (diff_id, Compression.NONE) in self._image.layers

    def was_compressed(self, diff_id: Digest) -> bool:
        """True when this layer was worth compressing before."""
        if (diff_id, self._compression) in self._image.layers:
            return True
        return bool(self._blobs and self._blobs.layer(diff_id, self._name))

    def holders(self, digest: Digest) -> list[str]:
        """Other repositories of the same registry that held *digest*."""
        if self._blobs is None:
            return []
        found = self._blobs.holders(digest, self._target.registry)
        own = self._target.repository
        return [
            reference.repository for reference in found if reference.repository != own
        ]

    def doubted(self, offers: Mapping[str, SentBlob], plan: Plan) -> Knowledge:
        """Forget *offers*, which the registry does not know; what is left to know."""
        if self._blobs is not None:
            for blob in plan.blobs:
                if blob.key in offers and blob.stored.diff_id:
                    self._blobs.forget_layer(blob.stored.diff_id, self._name)
                    self._blobs.forget_holder(offers[blob.key].digest, self._target)
        return Knowledge(self._target, self._compression, name=self._name)

    def learn(self, plan: Plan, sent: Mapping[str, SentBlob]) -> None:
        """Remember what the layers of *plan* became, and that the target holds them."""
        if self._blobs is None:
            return
        for blob in plan.blobs:
            became = sent.get(blob.key)
            if became is None:
                continue
            self._blobs.add_holder(became.digest, self._target)
            compressed = became.compression is self._compression
            if blob.method is Method.COMPRESS and compressed and blob.stored.diff_id:
                descriptor = Descriptor("", became.digest, became.size)
                self._blobs.add_layer(blob.stored.diff_id, self._name, descriptor)
        self._blobs.save()


def _read_image(client: RegistryClient, repository: str, tag: str) -> TargetImage:
    descriptor, raw = client.read_manifest(repository, tag)
    manifests: Sequence[Manifest]
    if descriptor.media_type in INDEX_TYPES:
        children = Index.from_bytes(raw, descriptor.media_type).manifests[:PLATFORMS]
        manifests = [
            _manifest(*client.read_manifest(repository, str(child.digest)))
            for child in children
            if child.media_type in MANIFEST_TYPES
        ]
    else:
        manifests = [_manifest(descriptor, raw)]
    layers: dict[tuple[Digest, Compression], Descriptor] = {}
    blobs: set[Digest] = set()
    for manifest in manifests:
        blobs.update(layer.digest for layer in manifest.layers if not layer.urls)
        blobs.add(manifest.config.digest)
        layers.update(_layers(client, repository, manifest))
    return TargetImage(layers, frozenset(blobs))


def _manifest(descriptor: Descriptor, raw: bytes) -> Manifest:
    return Manifest.from_bytes(raw, descriptor.media_type)


def _layers(
    client: RegistryClient, repository: str, manifest: Manifest
) -> dict[tuple[Digest, Compression], Descriptor]:
    """Layers by diff_id, as the image's config tells; none for an artifact."""
    try:
        config = ImageConfig.from_bytes(
            _read_config(client, repository, manifest.config)
        )
    except (InvalidJSON, InvalidDigest, ContentMismatch):
        return {}
    if len(config.diff_ids) != len(manifest.layers):
        return {}
    found = {}
    for diff_id, layer in zip(config.diff_ids, manifest.layers):
        compression = compression_of_type(layer.media_type)
        raw = compression is Compression.NONE
        if compression is not None and (not raw or layer.digest == diff_id):
            found[diff_id, compression] = layer
    return found


def _read_config(
    client: RegistryClient, repository: str, descriptor: Descriptor
) -> bytes:
    """The config, whose bytes are checked against its digest."""
    if descriptor.size > JSON_LIMIT:
        raise InvalidJSON(f"config {descriptor.digest.short}: too large")
    return client.read_blob(repository, descriptor)


def compression_of_type(media_type: str) -> Compression | None:
    """How a layer of *media_type* is packed; None when it is no layer of files."""
    if "foreign" in media_type or "nondistributable" in media_type:
        return None
    for ending, compression in _ENDINGS:
        if media_type.endswith(ending):
            return compression
    return None


_ENDINGS = (
    (".tar", Compression.NONE),
    (".tar+gzip", Compression.GZIP),
    (".tar.gzip", Compression.GZIP),
    (".tar+zstd", Compression.ZSTD),
    (".tar.zstd", Compression.ZSTD),
)
