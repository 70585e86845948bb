"""Archives of every shape, built by hand, small, and the same each time.

An archive is first a dict: member name → bytes, or a `Link`. `tar` and `folder` put it
on disk. What real tools write is quoted where a shape comes from (see `real` for
archives that they wrote themselves).
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Mapping, Union

OCI = "application/vnd.oci.image."
MANIFEST = OCI + "manifest.v1+json"
INDEX = OCI + "index.v1+json"
CONFIG = OCI + "config.v1+json"
LAYER = OCI + "layer.v1.tar"


@dataclass(frozen=True)
class Link:
    """A symbolic link to *target*, or a hard one."""

    target: str
    hard: bool = False


Files = dict[str, Union[bytes, Link]]


def sha256(content: bytes) -> str:
    """The hex digits alone."""
    return hashlib.sha256(content).hexdigest()


def digest(content: bytes) -> str:
    return "sha256:" + sha256(content)


def dump(value: Any) -> bytes:
    return json.dumps(value).encode()


def layer(text: str) -> bytes:
    """A layer: a tar with one file that holds *text*."""
    return packed({"etc/motd": text.encode()})


def packed(
    files: Mapping[str, bytes | Link], format: int = tarfile.PAX_FORMAT
) -> bytes:
    """A tar with *files*, in their order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            if isinstance(content, Link):
                member.type = tarfile.LNKTYPE if content.hard else tarfile.SYMTYPE
                member.linkname = content.target
                archive.addfile(member)
            else:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def tar(path: Path, files: Mapping[str, bytes | Link]) -> Path:
    """*files* as the tar *path*."""
    path.write_bytes(packed(files))
    return path


def folder(path: Path, files: Mapping[str, bytes | Link]) -> Path:
    """*files* in the directory *path*, which is made."""
    for name, content in files.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Link):
            file.symlink_to(content.target)
        else:
            file.write_bytes(content)
    return path


@dataclass(frozen=True)
class Image:
    """An image to be put into archives; *layers* are uncompressed tars."""

    layers: tuple[bytes, ...]
    tags: tuple[str, ...] = ()
    architecture: str = "amd64"
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, *texts: str, tags: tuple[str, ...] = (), **more: Any) -> Image:
        """An image with a layer for each of *texts*."""
        return cls(tuple(map(layer, texts)), tags, **more)

    @property
    def diff_ids(self) -> list[str]:
        return [digest(content) for content in self.layers]

    @property
    def config(self) -> bytes:
        """The exact bytes of its config."""
        record = {
            "architecture": self.architecture,
            "os": "linux",
            "config": {"Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": self.diff_ids},
            **self.extra,
        }
        return dump(record)


def legacy(*images: Image) -> Files:
    """docker save up to 24: ``ID/layer.tar``, or a link to a layer seen before."""
    files: Files = {}
    entries = []
    seen: dict[str, str] = {}
    for image in images:
        names = []
        for number, content in enumerate(image.layers):
            name = sha256(image.config + bytes([number]))
            files[f"{name}/VERSION"] = b"1.0"
            files[f"{name}/json"] = dump({"id": name})
            known = seen.setdefault(digest(content), name)
            files[f"{name}/layer.tar"] = (
                content if known == name else Link(f"../{known}/layer.tar")
            )
            names.append(f"{name}/layer.tar")
        files[f"{sha256(image.config)}.json"] = image.config
        entries.append(
            {
                "Config": f"{sha256(image.config)}.json",
                "RepoTags": list(image.tags) or None,
                "Layers": names,
            }
        )
    files["manifest.json"] = dump(entries)
    files["repositories"] = b"{}"
    return files


def named_by_digest(image: Image) -> Files:
    """A docker-archive whose layers are called by their digests, as docker 25 does."""
    names = [blob(layer) for layer in image.layers]
    config = blob(image.config)
    entry = {"Config": config, "RepoTags": list(image.tags), "Layers": names}
    files = dict(zip(names, image.layers))
    return {**files, config: image.config, "manifest.json": dump([entry])}


def simple(
    image: Image,
    layers: Mapping[str, bytes | Link] | None = None,
    config: str = "config.json",
    **entry: Any,
) -> Files:
    """A docker-archive with files of any name: *layers* by name, in order."""
    named = layers
    if named is None:
        named = {f"{sha256(item)}.tar": item for item in image.layers}
    record = {
        "Config": config,
        "RepoTags": list(image.tags),
        "Layers": list(named),
        **entry,
    }
    return {config: image.config, **named, "manifest.json": dump([record])}


def descriptor(media_type: str, content: bytes, **more: Any) -> dict[str, Any]:
    """What a manifest or index says of *content*."""
    return {
        "mediaType": media_type,
        "digest": digest(content),
        "size": len(content),
        **more,
    }


def blob(content: bytes) -> str:
    """The name that *content* has in a layout."""
    return f"blobs/sha256/{sha256(content)}"


@dataclass(frozen=True)
class Layout:
    """The pieces of an OCI layout: *blobs* by name, *entries* of index.json."""

    blobs: Files
    entries: tuple[dict[str, Any], ...]

    def files(self) -> Files:
        """Everything, index.json first, as skopeo's oci-archive has it."""
        index = {"schemaVersion": 2, "manifests": list(self.entries)}
        return {
            "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
            "index.json": dump(index),
            **self.blobs,
        }

    def annotated(self, **annotations: str) -> Layout:
        """The same, each entry with *annotations* (``name``, ``ref``)."""
        keys = {
            "name": "io.containerd.image.name",
            "ref": "org.opencontainers.image.ref.name",
        }
        added = {keys[key]: value for key, value in annotations.items()}
        return Layout(
            self.blobs, tuple({**entry, "annotations": added} for entry in self.entries)
        )


def gzipped(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def manifest_of(image: Image, layers: list[bytes], media_type: str) -> bytes:
    """The image manifest that names *layers*, stored as they are."""
    return dump(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, image.config),
            "layers": [descriptor(media_type, content) for content in layers],
        }
    )


def layout(*images: Image, raw: bool = False) -> Layout:
    """An OCI layout with an entry for each image, layers gzipped unless *raw*."""
    blobs: Files = {}
    entries = []
    for image in images:
        stored = [item if raw else gzipped(item) for item in image.layers]
        manifest = manifest_of(image, stored, LAYER if raw else LAYER + "+gzip")
        for content in (manifest, image.config, *stored):
            blobs[blob(content)] = content
        platform = {"os": "linux", "architecture": image.architecture}
        entries.append(descriptor(MANIFEST, manifest, platform=platform))
    return Layout(blobs, tuple(entries))


def nested(inner: Layout) -> Layout:
    """A layout whose one entry is an index of the entries of *inner*."""
    index = dump(
        {"schemaVersion": 2, "mediaType": INDEX, "manifests": list(inner.entries)}
    )
    return Layout({**inner.blobs, blob(index): index}, (descriptor(INDEX, index),))


def attestation(image: Image) -> Layout:
    """What buildkit adds beside *image*: a manifest for a platform that is none."""
    statement = dump({"_type": "https://in-toto.io/Statement/v0.1"})
    config = dump(
        {
            "architecture": "unknown",
            "os": "unknown",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [digest(statement)]},
        }
    )
    manifest = dump(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, config),
            "layers": [descriptor("application/vnd.in-toto+json", statement)],
        }
    )
    about = {
        "vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": layout(image).entries[0]["digest"],
    }
    entry = descriptor(
        MANIFEST,
        manifest,
        annotations=about,
        platform={"os": "unknown", "architecture": "unknown"},
    )
    return Layout(
        {blob(item): item for item in (statement, config, manifest)}, (entry,)
    )


def both(inner: Layout, *images: Image, raw: bool = False) -> Files:
    """docker save from 25 on: the layout *inner*, and manifest.json for *images*."""
    entries = []
    for image in images:
        stored = [item if raw else gzipped(item) for item in image.layers]
        entries.append(
            {
                "Config": blob(image.config),
                "RepoTags": list(image.tags) or None,
                "Layers": [blob(content) for content in stored],
            }
        )
    return {**inner.files(), "manifest.json": dump(entries), "repositories": b"{}"}
