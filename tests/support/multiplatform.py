"""OCI layouts of several platforms, with an attestation, made by hand."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

from images import digest_of, tar_of

from dockerpush.oci import OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST

LAYER_SIZE = 50_000


def write_blob(path: Path, media_type: str, content: bytes) -> dict[str, Any]:
    """Put *content* into the layout at *path*; its descriptor."""
    digest = digest_of(content)
    blob = path / "blobs/sha256" / digest.partition(":")[2]
    blob.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(content)
    return {"mediaType": media_type, "digest": digest, "size": len(content)}


def write_image(path: Path, architecture: str) -> dict[str, Any]:
    """An image of two layers, one of which all platforms share; its descriptor."""
    platform = {"architecture": architecture, "os": "linux"}
    tars = [
        tar_of({f"{seed}": random.Random(seed).randbytes(LAYER_SIZE)})
        for seed in ("shared", architecture)
    ]
    config = {
        **platform,
        "created": "2024-01-02T03:04:05Z",
        "config": {"Labels": {"made-for": architecture}, "Cmd": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(tar) for tar in tars]},
    }
    layers = [
        write_blob(path, OCI_LAYER_GZIP, gzip.compress(tar, mtime=0)) for tar in tars
    ]
    return {**write_manifest(path, config, layers), "platform": platform}


def write_manifest(path: Path, config: Any, layers: list[Any]) -> dict[str, Any]:
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": write_blob(path, OCI_CONFIG, json.dumps(config).encode()),
        "layers": layers,
    }
    return write_blob(path, OCI_MANIFEST, json.dumps(manifest).encode())


def write_attestation(path: Path, subject: dict[str, Any]) -> dict[str, Any]:
    """What buildkit says of the image *subject*; its descriptor."""
    statement = json.dumps({"predicateType": "https://slsa.dev/provenance/v0.2"})
    layer = write_blob(path, "application/vnd.in-toto+json", statement.encode())
    unknown = {"architecture": "unknown", "os": "unknown"}
    config = {**unknown, "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]}}
    annotations = {
        "vnd.docker.reference.digest": subject["digest"],
        "vnd.docker.reference.type": "attestation-manifest",
    }
    found = write_manifest(path, config, [layer])
    return {**found, "platform": unknown, "annotations": annotations}


def write_index(path: Path, children: list[dict[str, Any]]) -> dict[str, Any]:
    record = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": children}
    return write_blob(path, OCI_INDEX, json.dumps(record).encode())


def finish(path: Path, *roots: dict[str, Any]) -> None:
    """Write what makes the directory a layout of *roots*."""
    entries = [
        {**root, "annotations": {"org.opencontainers.image.ref.name": f"v{number}"}}
        for number, root in enumerate(roots, 1)
    ]
    (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    record = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    (path / "index.json").write_text(json.dumps(record))


def write_layout(path: Path) -> dict[str, Any]:
    """A layout of one index: amd64, arm64, and an attestation; the index."""
    images = [write_image(path, name) for name in ("amd64", "arm64")]
    root = write_index(path, [*images, write_attestation(path, images[0])])
    finish(path, root)
    return root
