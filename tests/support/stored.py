"""Stored images as values, for tests that need no archive on disk."""

from __future__ import annotations

import json

from dockerpush.archive.stored import (
    Compression,
    StoredBlob,
    StoredIndex,
    StoredManifest,
)
from dockerpush.oci import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    Descriptor,
    Digest,
    ImageConfig,
    Index,
    Manifest,
    Platform,
)
from dockerpush.values import replace

AMD64 = Platform("linux", "amd64")
ARM64 = Platform("linux", "arm64")


def config_bytes(diff_ids: list[Digest], platform: Platform = AMD64) -> bytes:
    record = {**platform.to_json(), "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    return json.dumps(record).encode()


def raw_layer(content: bytes) -> StoredBlob:
    """A raw layer as an OCI layout holds it."""
    descriptor = Descriptor.of(OCI_LAYER, content)
    digest = descriptor.digest
    return StoredBlob(
        f"blobs/sha256/{digest.hex}",
        len(content),
        Compression.NONE,
        digest,
        digest,
        descriptor,
    )


def gzip_layer(content: bytes, diff_id: Digest) -> StoredBlob:
    descriptor = Descriptor.of(OCI_LAYER_GZIP, content)
    return StoredBlob(
        f"blobs/sha256/{descriptor.digest.hex}",
        len(content),
        Compression.GZIP,
        descriptor.digest,
        diff_id,
        descriptor,
    )


def oci_manifest(
    layers: list[StoredBlob],
    platform: Platform = AMD64,
    annotations: dict[str, str] | None = None,
) -> StoredManifest:
    config = config_bytes([layer.diff_id for layer in layers], platform)
    config_descriptor = Descriptor.of(OCI_CONFIG, config)
    manifest = Manifest(
        OCI_MANIFEST, config_descriptor, tuple(layer.descriptor for layer in layers)
    )
    raw = manifest.to_bytes()
    descriptor = replace(
        Descriptor.of(OCI_MANIFEST, raw), platform=platform, annotations=annotations
    )
    return StoredManifest(
        descriptor,
        raw,
        config_descriptor,
        config,
        ImageConfig.from_bytes(config),
        tuple(layers),
    )


def docker_entry(layers: list[StoredBlob]) -> StoredManifest:
    config = config_bytes([layer.diff_id for layer in layers])
    return StoredManifest(
        None,
        None,
        Descriptor.of(OCI_CONFIG, config),
        config,
        ImageConfig.from_bytes(config),
        tuple(replace(layer, descriptor=None) for layer in layers),
    )


def oci_index(children: list) -> StoredIndex:
    raw = Index(OCI_INDEX, tuple(child.descriptor for child in children)).to_bytes()
    return StoredIndex(Descriptor.of(OCI_INDEX, raw), raw, tuple(children))
