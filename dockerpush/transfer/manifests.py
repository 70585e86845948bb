"""The manifests of a push as documents, once every blob's descriptor is known. Pure."""

from __future__ import annotations

from typing import Iterator, Mapping

from ..archive.stored import Compression, StoredBlob, StoredManifest, layer_type
from ..errors import ArchiveError
from ..oci import (
    OCI_CONFIG,
    OCI_MANIFEST,
    Descriptor,
    Digest,
    Index,
    Manifest,
)
from ..values import replace, value
from .plan import PlannedIndex, PlannedManifest, PlannedNode


@value
class SentBlob:
    """What a layer is in the registry: digest, size in bytes, and its packing.

    *made_from* is the digest of the content that this run compressed into it, None when
    it did not. *trusted* says that only the word of the target's image connects it with
    the layer.
    """

    digest: Digest
    size: int
    compression: Compression
    made_from: Digest | None = None
    trusted: bool = False


@value
class Document:
    """A manifest or an index, ready to be stored."""

    descriptor: Descriptor
    raw: bytes


def documents(node: PlannedNode, sent: Mapping[str, SentBlob]) -> tuple[Document, ...]:
    """What is to be stored for *node*, children first and *node* last.

    *sent* maps the key of every layer that is not foreign to what it became.
    """
    return tuple(_documents(node, sent))


def _documents(node: PlannedNode, sent: Mapping[str, SentBlob]) -> Iterator[Document]:
    if isinstance(node, PlannedManifest):
        yield _manifest_document(node, sent)
        return
    entries = []
    for child in node.children:
        made = documents(child, sent)
        yield from made
        entries.append(_entry(child, made[-1].descriptor))
    yield _index_document(node, entries)


def _entry(child: PlannedNode, now: Descriptor) -> Descriptor:
    """What an index says of *child*, which is stored as *now*."""
    before = child.stored.descriptor
    if before is not None:
        return replace(
            before, media_type=now.media_type, digest=now.digest, size=now.size
        )
    config = child.stored.image_config if isinstance(child, PlannedManifest) else None
    return replace(now, platform=config.platform if config else None)


def _index_document(node: PlannedIndex, entries: list[Descriptor]) -> Document:
    stored = node.stored
    if node.verbatim:
        return Document(stored.descriptor, stored.raw)
    media_type = stored.descriptor.media_type
    if stored.raw:
        index = Index.from_bytes(stored.raw, media_type)
    else:
        index = Index(media_type, ())
    raw = replace(index, manifests=tuple(entries)).to_bytes()
    return Document(Descriptor.of(index.media_type, raw), raw)


def _manifest_document(node: PlannedManifest, sent: Mapping[str, SentBlob]) -> Document:
    stored = node.stored
    if node.verbatim and stored.raw is not None and stored.descriptor is not None:
        return Document(stored.descriptor, stored.raw)
    before = _manifest_before(stored)
    pairs = list(zip(node.layers, stored.layers))
    after = replace(
        before,
        layers=tuple(_layer(before, layer, sent.get(key)) for key, layer in pairs),
    )
    if after.media_type != OCI_MANIFEST and not _all_docker(after):
        after = _as_oci(after, [sent.get(key) for key, _ in pairs])
    raw = after.to_bytes()
    return Document(Descriptor.of(after.media_type, raw), raw)


def _manifest_before(stored: StoredManifest) -> Manifest:
    if stored.raw is not None and stored.descriptor is not None:
        return Manifest.from_bytes(stored.raw, stored.descriptor.media_type)
    config = replace(stored.config_descriptor, media_type=OCI_CONFIG)
    return Manifest(OCI_MANIFEST, config, ())


def _layer(before: Manifest, layer: StoredBlob, sent: SentBlob | None) -> Descriptor:
    """The layer's descriptor: the archive's own when its bytes stayed the same."""
    old = layer.descriptor
    if sent is None or (old and old.digest == sent.digest):
        if old is None:
            raise ArchiveError(f"layer {layer.diff_id} is not in the archive")
        return replace(old, media_type=layer.actual_type)
    docker = before.media_type != OCI_MANIFEST
    media_type = layer_type(sent.compression, docker=docker)
    if old is None:
        return Descriptor(media_type, sent.digest, sent.size)
    return replace(old, media_type=media_type, digest=sent.digest, size=sent.size)


def _all_docker(manifest: Manifest) -> bool:
    return all(
        layer.media_type.startswith("application/vnd.docker.")
        for layer in manifest.layers
    )


def _as_oci(manifest: Manifest, sent: list[SentBlob | None]) -> Manifest:
    """*manifest* with OCI media types throughout, since zstd has no Docker one."""
    return replace(
        manifest,
        media_type=OCI_MANIFEST,
        config=replace(manifest.config, media_type=OCI_CONFIG),
        layers=tuple(
            replace(layer, media_type=layer_type(blob.compression, docker=False))
            if blob
            else layer
            for layer, blob in zip(manifest.layers, sent)
        ),
    )
