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

from ..archive.stored import Compression, compression_of_type, layer_type
from ..documents import Walk
from ..errors import (
    ContentMismatch,
    InvalidDigest,
    InvalidJSON,
    NotFoundInRegistry,
)
from ..events import BlobFinished, Outcome
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
from ..values import field, replace, value
from .plan import Method, PlannedBlob
from .source import RegistrySource
from .target import Target, UploadResult

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
    *blobs* are all digests that it names, *digest* is its own. *is_new* says that there
    is no image, as there is no such repository yet.
    """

    layers: Layers
    blobs: frozenset[Digest]
    digest: Digest | None = None
    is_new: bool = False

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
        return EMPTY


EMPTY = TargetImage({}, frozenset())


class Knowledge:
    """What is known about the layers of one push to *target*, None for a directory.

    *name* is the compression as ``blobs.json`` names it. *trusted* is the image under
    the target's tag where its word counts for this push. *blobs* None: no such file.
    """

    def __init__(
        self,
        target: Reference | None,
        compression: Compression,
        *,
        name: str,
        trusted: TargetImage = EMPTY,
        blobs: KnownBlobs | None = None,
    ) -> None:
        self._target = target
        self._compression = compression
        self._media_type = layer_type(compression, docker=False)
        self._name = name
        self._trusted = trusted
        self._blobs = blobs

    def reusable_layers(self, blobs: Iterable[PlannedBlob]) -> dict[str, Descriptor]:
        """What those of *blobs* became before that have to be compressed, by key."""
        found = {blob.key: self._reusable(blob) for blob in blobs}
        return {key: layer for key, layer in found.items() if layer is not None}

    def _reusable(self, blob: PlannedBlob) -> Descriptor | None:
        diff_id = blob.stored.diff_id
        if blob.method is not Method.COMPRESS or diff_id is None:
            return None
        return self.reusable_layer(diff_id)

    def reusable_layer(self, diff_id: Digest) -> Descriptor | None:
        """What the layer *diff_id* became before; a trusted image comes first."""
        found = self._trusted.layers.get((diff_id, self._compression))
        found = found or self._own(diff_id, self._name)
        if found is None:
            return None
        return Descriptor(self._media_type, found.digest, found.size)

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
        return self.reusable_layer(diff_id) is not None

    def _own(self, diff_id: Digest, name: str) -> Descriptor | None:
        """What runs with this state directory made of the layer *diff_id*."""
        return self._blobs.layer(diff_id, name) if self._blobs is not None else None

    def invalidate(self, blobs: Iterable[PlannedBlob]) -> Knowledge:
        """Forget what *blobs* became, which the registry lost, in other runs too.

        What is left learns as before, without the word of the target's image.
        """
        if self._blobs is not None:
            for blob in blobs:
                layer, diff_id = self._reusable(blob), blob.stored.diff_id
                if layer and diff_id and not self._is_trusted(diff_id):
                    self._blobs.forget_layer(diff_id, self._name)
                    if self._target:
                        self._blobs.forget_holder(layer.digest, self._target)
            self._blobs.save()
        return Knowledge(
            self._target, self._compression, name=self._name, blobs=self._blobs
        )

    def learn(
        self, blobs: Iterable[PlannedBlob], results: Mapping[str, UploadResult]
    ) -> None:
        """Remember pairs that this run made, and the layers that the target holds.

        Nothing of what was taken on the word of a trusted image is remembered.
        """
        if self._blobs is None:
            return
        for blob in blobs:
            result, diff_id = results.get(blob.key), blob.stored.diff_id
            if result is None or blob.stored.member is None:
                continue
            if result.made_from is not None:
                self._learn_pair(result.made_from, result.descriptor)
            elif blob.method is Method.COMPRESS and self._is_trusted(diff_id):
                continue
            if self._target:
                self._blobs.add_holder(result.descriptor.digest, self._target)
        self._blobs.save()

    def _learn_pair(self, diff_id: Digest, became: Descriptor) -> None:
        assert self._blobs is not None
        layer = Descriptor("", became.digest, became.size)
        self._blobs.add_layer(diff_id, self._name, layer)

    def _is_trusted(self, diff_id: Digest | None) -> bool:
        return (diff_id, self._compression) in self._trusted.layers


@value
class Shortcuts:
    """Blobs of one push that need be neither read nor sent, found before it begins.

    *tagged* is the image under the target's tag, None when nobody has looked. The
    registry is not asked for what it names, unless it turns out to lack one, which is
    when they are *doubted*. *done* is what became of blobs, by
    key, that an archive gave before there was a plan.
    """

    target: Target
    known: Knowledge
    jobs: int
    tagged: TargetImage | None = None
    doubted: bool = False
    done: Mapping[str, UploadResult] = field(default_factory=dict)

    @property
    def held(self) -> frozenset[Digest]:
        """Digests that the registry is not asked for."""
        if self.tagged is None or self.doubted:
            return frozenset()
        return self.tagged.blobs

    def find(self, blobs: Sequence[PlannedBlob]) -> dict[str, UploadResult]:
        """Those of *blobs* that the target has, or could mount unread, by key."""
        found = {
            blob.key: self.done[blob.key] for blob in blobs if blob.key in self.done
        }
        rest = [blob for blob in blobs if blob.key not in found]
        layers = self.known.reusable_layers(rest)
        present = self.present(rest)
        present.update(self._mounted(layers, present))
        for blob in rest:
            descriptor = layers.get(blob.key) or blob.descriptor
            if descriptor is not None and descriptor.digest in present:
                outcome = present[descriptor.digest]
                found[blob.key] = UploadResult(descriptor, outcome)
                self.target.on_event(
                    BlobFinished(blob.key, descriptor.digest, descriptor.size, outcome)
                )
        return found

    def present(self, blobs: Sequence[PlannedBlob]) -> dict[Digest, Outcome]:
        """What the target has of *blobs*, as far as their digests can be known.

        REUSED is a compressed layer that is not made again, EXISTS any other blob.
        """
        layers = self.known.reusable_layers(blobs).values()
        outcomes = dict.fromkeys((one.digest for one in layers), Outcome.REUSED)
        wanted = wanted_blobs(blobs, layers)
        asked = [one for digest, one in wanted.items() if digest not in self.held]
        there = self.target.has(asked, jobs=self.jobs)
        return {
            digest: outcomes.get(digest, Outcome.EXISTS)
            for digest in wanted
            if digest in self.held or digest in there
        }

    def _mounted(
        self, layers: Mapping[str, Descriptor], present: Mapping[Digest, Outcome]
    ) -> dict[Digest, Outcome]:
        """What can be mounted from other repositories, if a mount is believed."""
        if self.doubted:
            return {}
        candidates = {
            layer: self.target.mount_candidates(layer.digest)
            for layer in layers.values()
            if layer.digest not in present
        }
        asked = {layer: names for layer, names in candidates.items() if names}
        mounted = self.target.mounted(asked, jobs=self.jobs)
        return dict.fromkeys(mounted, Outcome.MOUNTED)

    def learn(
        self, blobs: Sequence[PlannedBlob], results: Mapping[str, UploadResult]
    ) -> None:
        """Remember what became of *blobs*."""
        self.known.learn(blobs, results)

    def invalidate(self, blobs: Sequence[PlannedBlob]) -> Shortcuts:
        """Only those that the registry says it has; in other runs, too."""
        self.target.is_new = False
        return replace(self, known=self.known.invalidate(blobs), doubted=True)

    def are_used(self, blobs: Sequence[PlannedBlob]) -> bool:
        """True when something of *blobs* may be left out by what is remembered."""
        return not self.done and bool(self.held or self.known.reusable_layers(blobs))


def wanted_blobs(
    blobs: Iterable[PlannedBlob], layers: Iterable[Descriptor]
) -> dict[Digest, Descriptor]:
    """What can be named before it is read: of *blobs* and of reusable *layers*."""
    named = [blob.descriptor for blob in blobs]
    return {one.digest: one for one in (*named, *layers) if one}


def _read_image(
    client: RegistryClient, repository: str, tag: str, *, trusted: bool
) -> TargetImage:
    try:
        descriptor, raw = client.read_manifest(repository, tag)
    except NotFoundInRegistry as error:
        if error.code != "NAME_UNKNOWN":
            raise
        return replace(EMPTY, is_new=True)
    manifests: Sequence[Manifest]
    if descriptor.media_type in INDEX_TYPES:
        children = Index.from_bytes(raw, descriptor.media_type).manifests[:PLATFORMS]
        source = RegistrySource(client, repository)
        walk = Walk(f"{repository}:{tag}")
        manifests = []
        for child in children:
            if child.media_type in MANIFEST_TYPES and walk.enters(child):
                found = source.child(child)
                walk.takes(found.raw, child.size)
                manifests.append(_manifest(found.descriptor, found.raw))
    else:
        manifests = [_manifest(descriptor, raw)]
    layers: dict[tuple[Digest, Compression], Descriptor] = {}
    blobs: set[Digest] = set()
    for manifest in manifests:
        blobs.update(layer.digest for layer in manifest.layers if not layer.urls)
        blobs.add(manifest.config.digest)
        if trusted:
            layers.update(_layers(client, repository, manifest))
    return TargetImage(layers, frozenset(blobs), descriptor.digest)


def _manifest(descriptor: Descriptor, raw: bytes) -> Manifest:
    return Manifest.from_bytes(raw, descriptor.media_type)


def _layers(
    client: RegistryClient, repository: str, manifest: Manifest
) -> dict[tuple[Digest, Compression], Descriptor]:
    """Layers by diff_id, as the image's config says; none for an artifact."""
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
