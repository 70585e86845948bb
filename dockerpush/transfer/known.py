"""What is known of layers before they are read, so that nothing is done twice.

A pair (diff_id, compressed blob) decides what is published under our name, so it counts
only when this state directory's own runs made it: one run compressed the content and
hashed both sides. Nothing else is a pair:

- The image under the target's tag: anybody who may push there can write a config that
  names our diff_id beside a layer of theirs. It serves only with ``--trust-target``,
  for that push alone, and is never remembered. Without it, the image's manifest is at
  most a hint that the repository holds a blob of a digest that we know already.
- An archive that holds a compressed layer: the layer goes as it is, under the name that
  the archive gives it, and never stands for another archive's raw layer.
- A blob that is found or mounted by its digest: the digest came from a pair of our own,
  or from hashing, and the registry says only whether the blob is there.
- What pull, copy, sync, serve and verify see: they remember no pairs.

Nothing here is needed for a push.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Iterable, Mapping, Sequence

from ..archive.stored import Compression, compression_of_type
from ..errors import (
    ContentMismatch,
    InvalidDigest,
    InvalidJSON,
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
from ..registry.looks import unless_refused
from ..values import value
from .manifests import SentBlob
from .plan import Method, Plan, PlannedBlob

if TYPE_CHECKING:
    from ..registry.client import RegistryClient
    from ..state.known_blobs import KnownBlobs

PLATFORMS = 4
"""Images of an index that are looked at; each costs a request, or two with trust."""

RAW = "raw"
"""How ``blobs.json`` names layers that would not shrink."""

Layers = Mapping["tuple[Digest, Compression]", Descriptor]


@value
class TargetImage:
    """The image that is under the target's tag, by its own word.

    *layers* are those that its config pairs with diff_ids, none unless it is trusted;
    *blobs* are all digests that it names.
    """

    layers: Layers
    blobs: frozenset[Digest]

    @classmethod
    def read(
        cls,
        client: RegistryClient,
        repository: str,
        tags: Iterable[str],
        *,
        trusted: bool,
    ) -> TargetImage:
        """What the first of *tags* that exists says; nothing when none does.

        Configs are read only when the image is *trusted*. An image that cannot be
        understood teaches nothing, and stops nothing. Raises NetworkError and
        Cancelled.
        """
        for tag in tags:
            read = partial(_read_image, client, repository, tag, trusted=trusted)
            found = unless_refused(read)
            if found is not None:
                return found
        return NOTHING


NOTHING = TargetImage({}, frozenset())


class Knowledge:
    """What is known about the layers of one push to *target*.

    *name* is the compression as ``blobs.json`` names it. *trusted* is the image under
    the target's tag where its word counts for this push. *blobs* None: no such file.
    """

    def __init__(
        self,
        target: Reference,
        compression: Compression,
        *,
        name: str,
        trusted: TargetImage = NOTHING,
        blobs: KnownBlobs | None = None,
    ) -> None:
        self._target = target
        self._compression = compression
        self._name = name
        self._trusted = trusted
        self._blobs = blobs

    def offer(self, blob: PlannedBlob) -> SentBlob | None:
        """What the layer became before, if it has to be compressed and did."""
        diff_id = blob.stored.diff_id
        if blob.method is not Method.COMPRESS or diff_id is None:
            return None
        return self.offer_for(diff_id)

    def offer_for(self, diff_id: Digest) -> SentBlob | None:
        """What the layer *diff_id* became before; a trusted image comes first."""
        found = self._trusted.layers.get((diff_id, self._compression))
        if found is not None:
            return SentBlob(found.digest, found.size, self._compression, trusted=True)
        found = self._own(diff_id, self._name)
        return SentBlob(found.digest, found.size, self._compression) if found else None

    def offers(self, plan: Plan) -> dict[str, SentBlob]:
        """Every offer for *plan*, by the key of the layer."""
        found = {blob.key: self.offer(blob) for blob in plan.blobs}
        return {key: sent for key, sent in found.items() if sent is not None}

    def stays_raw(self, diff_id: Digest) -> bool:
        """True when this layer was not worth compressing before."""
        if (diff_id, Compression.NONE) in self._trusted.layers:
            return True
        return self._own(diff_id, RAW) is not None

    def keep_raw(self, diff_id: Digest, size: int) -> None:
        """A look at this layer of *size* bytes has shown that it does not shrink."""
        if self._blobs is not None:
            self._blobs.add_layer(diff_id, RAW, Descriptor("", diff_id, size))

    def was_compressed(self, diff_id: Digest) -> bool:
        """True when this layer was worth compressing before."""
        return self.offer_for(diff_id) is not None

    def _own(self, diff_id: Digest, name: str) -> Descriptor | None:
        """What runs with this state directory made of the layer *diff_id*."""
        return self._blobs.layer(diff_id, name) if self._blobs is not None else None

    def doubted(self, offers: Mapping[str, SentBlob], plan: Plan) -> Knowledge:
        """Forget *offers*, which the registry does not know, in other runs too.

        What is left learns as before, without the word of the target's image.
        """
        if self._blobs is not None:
            for blob in plan.blobs:
                offer, diff_id = offers.get(blob.key), blob.stored.diff_id
                if offer and diff_id and not offer.trusted:
                    self._blobs.forget_layer(diff_id, self._name)
                    self._blobs.forget_holder(offer.digest, self._target)
            self._blobs.save()
        return Knowledge(
            self._target, self._compression, name=self._name, blobs=self._blobs
        )

    def learn(self, plan: Plan, sent: Mapping[str, SentBlob]) -> None:
        """Remember the pairs that this run made, and what the target holds.

        Nothing of what was taken by the word of a trusted image is remembered.
        """
        if self._blobs is None:
            return
        for blob in plan.blobs:
            became = sent.get(blob.key)
            if became is None or became.trusted:
                continue
            self._blobs.add_holder(became.digest, self._target)
            if became.made_from is not None:
                descriptor = Descriptor("", became.digest, became.size)
                self._blobs.add_layer(became.made_from, self._name, descriptor)
        self._blobs.save()


def _read_image(
    client: RegistryClient, repository: str, tag: str, *, trusted: bool
) -> TargetImage:
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
        if trusted:
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
