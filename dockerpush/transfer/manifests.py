"""The manifests of a push as documents, once every blob's descriptor is known. Pure."""

from __future__ import annotations

from typing import Iterator, Mapping

from ..archive.stored import (
    StoredBlob,
    StoredManifest,
    compression_of_type,
    layer_type,
)
from ..documents import RawManifest
from ..errors import ArchiveError
from ..oci import (
    OCI_CONFIG,
    OCI_MANIFEST,
    Descriptor,
    Index,
    Manifest,
)
from ..values import replace
from .plan import PlannedIndex, PlannedManifest, PlannedNode, PlannedOther


def documents(
    node: PlannedNode, became: Mapping[str, Descriptor]
) -> tuple[RawManifest, ...]:
    """What is to be stored for *node*, children first and *node* last.

    *became* maps the key of every layer that is not foreign to what it became, the
    media type being one of OCI's where it was compressed.
    """
    return tuple(_documents(node, became))


def _documents(
    node: PlannedNode, became: Mapping[str, Descriptor]
) -> Iterator[RawManifest]:
    if isinstance(node, PlannedManifest):
        yield _manifest_document(node, became)
        return
    if isinstance(node, PlannedOther):
        if node.stored.raw is not None:
            yield RawManifest(node.stored.descriptor, node.stored.raw)
        return
    entries = []
    for child in node.children:
        made = documents(child, became)
        yield from made
        entries.append(_entry(child, made[-1].descriptor if made else None))
    yield _index_document(node, entries)


def _entry(child: PlannedNode, now: Descriptor | None) -> Descriptor:
    """What an index says of *child*, which is stored as *now*; None for a blob."""
    before = child.stored.descriptor
    if now is None:
        assert before is not None, "only an index names a blob"
        return before
    if before is not None:
        return replace(
            before, media_type=now.media_type, digest=now.digest, size=now.size
        )
    config = child.stored.image_config if isinstance(child, PlannedManifest) else None
    return replace(now, platform=config.platform if config else None)


def _index_document(node: PlannedIndex, entries: list[Descriptor]) -> RawManifest:
    stored = node.stored
    if node.verbatim:
        return RawManifest(stored.descriptor, stored.raw)
    media_type = stored.descriptor.media_type
    if stored.raw:
        index = Index.from_bytes(stored.raw, media_type)
    else:
        index = Index(media_type, ())
    raw = replace(index, manifests=tuple(entries)).to_bytes()
    return RawManifest(Descriptor.of(index.media_type, raw), raw)


def _manifest_document(
    node: PlannedManifest, became: Mapping[str, Descriptor]
) -> RawManifest:
    stored = node.stored
    if node.verbatim and stored.raw is not None and stored.descriptor is not None:
        return RawManifest(stored.descriptor, stored.raw)
    before = _manifest_before(stored)
    pairs = list(zip(node.layers, stored.layers))
    after = replace(
        before,
        layers=tuple(_layer(before, layer, became.get(key)) for key, layer in pairs),
    )
    if after.media_type != OCI_MANIFEST and not _all_docker(after):
        after = _as_oci(after)
    raw = after.to_bytes()
    return RawManifest(Descriptor.of(after.media_type, raw), raw)


def _manifest_before(stored: StoredManifest) -> Manifest:
    if stored.raw is not None and stored.descriptor is not None:
        return Manifest.from_bytes(stored.raw, stored.descriptor.media_type)
    config = replace(stored.config_descriptor, media_type=OCI_CONFIG)
    return Manifest(OCI_MANIFEST, config, ())


def _layer(before: Manifest, layer: StoredBlob, now: Descriptor | None) -> Descriptor:
    """The layer's descriptor: the archive's own when its bytes stayed the same."""
    old = layer.descriptor
    if now is None or (old and old.digest == now.digest):
        if old is None:
            raise ArchiveError(f"layer {layer.diff_id} is not in the archive")
        return replace(old, media_type=layer.actual_type)
    media_type = now.media_type
    compression = compression_of_type(media_type)
    if compression is not None:
        docker = before.media_type != OCI_MANIFEST
        media_type = layer_type(compression, docker=docker)
    if old is None:
        return replace(now, media_type=media_type)
    return replace(old, media_type=media_type, digest=now.digest, size=now.size)


def _all_docker(manifest: Manifest) -> bool:
    return all(
        layer.media_type.startswith("application/vnd.docker.")
        for layer in manifest.layers
    )


def _as_oci(manifest: Manifest) -> Manifest:
    """*manifest* with OCI media types throughout, since zstd has no Docker one."""
    return replace(
        manifest,
        media_type=OCI_MANIFEST,
        config=replace(manifest.config, media_type=OCI_CONFIG),
        layers=tuple(map(_as_oci_layer, manifest.layers)),
    )


def _as_oci_layer(layer: Descriptor) -> Descriptor:
    compression = compression_of_type(layer.media_type)
    if compression is None:
        return layer
    return replace(layer, media_type=layer_type(compression, docker=False))
