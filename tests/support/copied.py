"""Images in a registry as tests of copy and sync put them there and look at them."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

from images import config_of, digest_of, tar_of

from dockerpush.oci import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST

TYPES = f"{OCI_INDEX}, {OCI_MANIFEST}"


class Layout:
    """An OCI directory with images of several platforms."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.blobs = path / "blobs" / "sha256"
        self.blobs.mkdir(parents=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

    def put(self, content: bytes) -> dict:
        digest = digest_of(content)
        (self.blobs / digest[7:]).write_bytes(content)
        return {"digest": digest, "size": len(content)}

    def document(self, value: dict, media_type: str) -> dict:
        value = {"schemaVersion": 2, "mediaType": media_type, **value}
        # as no program of ours would write it: the bytes must survive
        return {
            "mediaType": media_type,
            **self.put(json.dumps(value, indent=3).encode()),
        }

    def image(self, os_name: str, architecture: str, *, size: int = 3000) -> dict:
        layer = tar_of({"which": architecture.encode(), "data": os.urandom(size)})
        config = {
            "os": os_name,
            "architecture": architecture,
            "rootfs": {"type": "layers", "diff_ids": [digest_of(layer)]},
        }
        found = self.document(
            {
                "config": {
                    "mediaType": "application/vnd.oci.image.config.v1+json",
                    **self.put(json.dumps(config).encode()),
                },
                "layers": [
                    {
                        "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                        **self.put(gzip.compress(layer, 1)),
                    }
                ],
            },
            OCI_MANIFEST,
        )
        return {**found, "platform": {"os": os_name, "architecture": architecture}}

    def attestation(self, subject: dict) -> dict:
        found = self.image("unknown", "unknown")
        return {
            **found,
            "annotations": {
                "vnd.docker.reference.digest": subject["digest"],
                "vnd.docker.reference.type": "attestation-manifest",
            },
        }

    def index(self, *children: dict) -> dict:
        return self.document({"manifests": list(children)}, OCI_INDEX)

    def root(self, entry: dict, tag: str = "1") -> None:
        annotations = {"org.opencontainers.image.ref.name": tag}
        record = {
            "schemaVersion": 2,
            "manifests": [{**entry, "annotations": annotations}],
        }
        (self.path / "index.json").write_text(json.dumps(record))

    def send(self, host: str, repository: str, tag: str = "1") -> None:
        """By skopeo, bytes unchanged."""
        subprocess.run(
            [
                *("skopeo", "--insecure-policy", "copy", "-q", "--all"),
                *("--preserve-digests", "--dest-tls-verify=false"),
                *(f"oci:{self.path}:{tag}", f"docker://{host}/{repository}:{tag}"),
            ],
            check=True,
            capture_output=True,
        )


def read(host: str, repository: str, reference: str, kind: str = "manifests") -> bytes:
    request = urllib.request.Request(
        f"http://{host}/v2/{repository}/{kind}/{reference}", headers={"Accept": TYPES}
    )
    with urllib.request.urlopen(request) as answer:
        return answer.read()


def put(host: str, repository: str, reference: str, raw: bytes, kind: str) -> None:
    request = urllib.request.Request(
        f"http://{host}/v2/{repository}/manifests/{reference}",
        data=raw,
        method="PUT",
        headers={"Content-Type": kind},
    )
    urllib.request.urlopen(request).close()


def delete(host: str, what: str) -> None:
    url = f"http://{host}/v2/{what}"
    urllib.request.urlopen(urllib.request.Request(url, method="DELETE")).close()


def assert_whole(host: str, repository: str, raw: bytes) -> int:
    """Everything that the document *raw* names is there and right; how much."""
    record, count = json.loads(raw), 0
    for child in record.get("manifests", ()):
        below = read(host, repository, child["digest"])
        assert digest_of(below) == child["digest"]
        count += 1 + assert_whole(host, repository, below)
    for blob in (record.get("layers") or []) + [record.get("config")] * (
        "config" in record
    ):
        assert (
            digest_of(read(host, repository, blob["digest"], "blobs")) == blob["digest"]
        )
        count += 1
    return count


def store(
    host: str, repository: str, layers: list[bytes], tag: str = "1", **config_keys: str
) -> None:
    """An image of *layers* as repository:tag, without any client of ours."""
    config = config_of([digest_of(layer) for layer in layers], **config_keys)
    kinds = [OCI_CONFIG, *[OCI_LAYER] * len(layers)]
    described = []
    for kind, blob in zip(kinds, (config, *layers)):
        digest = digest_of(blob)
        url = f"http://{host}/v2/{repository}/blobs/uploads/?digest={digest}"
        request = urllib.request.Request(url, data=blob, method="POST")
        request.add_header("Content-Type", "application/octet-stream")
        urllib.request.urlopen(request).close()
        described.append({"mediaType": kind, "digest": digest, "size": len(blob)})
    record = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": described[0],
        "layers": described[1:],
    }
    put(host, repository, tag, json.dumps(record).encode(), OCI_MANIFEST)


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def actions(done) -> dict[str, str]:
    """Target → action, as the report has it."""
    return {
        image["target"].partition("/")[2]: image["action"]
        for image in done.json["images"]
    }
