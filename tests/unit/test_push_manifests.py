"""Manifests as documents, built from what the layers became."""

from __future__ import annotations

import json
from functools import partial

from stored import (
    AMD64,
    ARM64,
    docker_entry,
    gzip_layer,
    oci_index,
    oci_manifest,
    raw_layer,
)

from dockerpush.archive.stored import StoredImage
from dockerpush.oci import (
    DOCKER_LAYER,
    DOCKER_MANIFEST,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    Descriptor,
    Digest,
    Index,
    Manifest,
)
from dockerpush.transfer.manifests import documents
from dockerpush.transfer.plan import plan_push
from dockerpush.transfer.prepare import raw_layer_decision
from dockerpush.values import replace

RAW = raw_layer(b"raw layer")
PACKED = gzip_layer(b"packed", Digest.of(b"inside"))
GZIPPED = Descriptor(OCI_LAYER_GZIP, Digest.of(b"gzipped"), 7)
ZSTD = Descriptor(OCI_LAYER_ZSTD, Digest.of(b"zstd"), 4)
UNCHANGED = Descriptor(OCI_LAYER_GZIP, PACKED.digest, PACKED.size)


def planned(*, root=None, entry=None, compress=True):
    decide = partial(raw_layer_decision, compress=compress)
    return plan_push(StoredImage((), (), entry, root), decide).root


def test_an_untouched_manifest_keeps_its_bytes():
    stored = oci_manifest([PACKED])
    (document,) = documents(planned(root=stored), {PACKED.digest: UNCHANGED})
    assert document.raw == stored.raw


def test_a_docker_archive_gets_an_oci_manifest():
    entry = docker_entry([RAW, RAW])
    (document,) = documents(planned(entry=entry), {RAW.digest: GZIPPED})
    manifest = Manifest.from_bytes(document.raw)
    assert document.descriptor == Descriptor.of(OCI_MANIFEST, document.raw)
    assert manifest.config.digest == Digest.of(entry.config)
    assert manifest.layers == (
        Descriptor(OCI_LAYER_GZIP, GZIPPED.digest, 7),
        Descriptor(OCI_LAYER_GZIP, GZIPPED.digest, 7),
    )


def test_the_same_layers_make_the_same_bytes():
    made = [
        documents(planned(entry=docker_entry([RAW])), {RAW.digest: GZIPPED})
        for _ in range(2)
    ]
    assert made[0] == made[1]


def test_a_rewritten_manifest_keeps_what_was_not_about_the_layer():
    stored = oci_manifest([RAW, PACKED])
    record = json.loads(stored.raw)
    record["annotations"] = {"org.example": "kept"}
    stored = replace(stored, raw=json.dumps(record).encode())
    sent = {RAW.digest: GZIPPED, PACKED.digest: UNCHANGED}
    (document,) = documents(planned(root=stored), sent)
    manifest = Manifest.from_bytes(document.raw)
    assert manifest.annotations == {"org.example": "kept"}
    assert [layer.media_type for layer in manifest.layers] == [OCI_LAYER_GZIP] * 2
    assert manifest.layers[1] == PACKED.descriptor


def test_zstd_in_a_docker_manifest_makes_it_an_oci_one():
    layer = replace(RAW, descriptor=replace(RAW.descriptor, media_type=DOCKER_LAYER))
    stored = oci_manifest([layer])
    record = {**json.loads(stored.raw), "mediaType": DOCKER_MANIFEST}
    stored = replace(
        stored,
        raw=json.dumps(record).encode(),
        descriptor=replace(stored.descriptor, media_type=DOCKER_MANIFEST),
    )
    (document,) = documents(planned(root=stored), {RAW.digest: ZSTD})
    assert document.descriptor.media_type == OCI_MANIFEST
    assert Manifest.from_bytes(document.raw).layers[0].media_type == OCI_LAYER_ZSTD
    (gzipped,) = documents(planned(root=stored), {RAW.digest: GZIPPED})
    assert gzipped.descriptor.media_type == DOCKER_MANIFEST


def test_children_come_before_their_index_and_keep_their_platform():
    root = oci_index([oci_manifest([RAW], AMD64), oci_manifest([PACKED], ARM64)])
    sent = {RAW.digest: GZIPPED, PACKED.digest: UNCHANGED}
    first, second, last = documents(planned(root=root), sent)
    index = Index.from_bytes(last.raw)
    assert [entry.digest for entry in index.manifests] == [
        first.descriptor.digest,
        second.descriptor.digest,
    ]
    assert [entry.platform for entry in index.manifests] == [AMD64, ARM64]
    assert second.raw == root.manifests[1].raw


def test_an_untouched_index_keeps_its_bytes():
    root = oci_index([oci_manifest([PACKED], AMD64), oci_manifest([PACKED], ARM64)])
    made = documents(planned(root=root), {PACKED.digest: UNCHANGED})
    assert made[-1].raw == root.raw
