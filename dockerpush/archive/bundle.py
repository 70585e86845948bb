"""Images to be written as one OCI layout, and where everything lies in the tar of it.

A docker-archive is an OCI layout with a ``manifest.json`` beside ``index.json``, as
docker has written it since 25.0: blobs keep their bytes, so the digest of the manifest
outlives the way through it. ``index.json`` names the whole of a multi-platform image,
``manifest.json`` one platform of it. The JSON comes first and layers last, so that a
reader of a pipe knows what it needs. The same images give the same bytes. Pure.
"""

from __future__ import annotations

import tarfile
from typing import Any, Iterable, Sequence

from ..oci import OCI_INDEX, Descriptor, Digest, Index, dump_json
from ..values import replace, value
from .layout import FULL_NAME, REF_NAME, is_tag

LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
"""(image-spec, image-layout.md, oci-layout file)"""

_BLOCK = tarfile.BLOCKSIZE
_END = b"\0" * (2 * _BLOCK)


@value
class BundledImage:
    """An image to be written: what ``index.json`` names, and under which names.

    *blobs* is everything that *root* needs, itself included, documents first. *config*
    and *layers* are those of the one image of *root* that ``manifest.json`` names; None
    and nothing when docker cannot load it.
    """

    root: Descriptor
    names: tuple[str, ...]
    blobs: tuple[Descriptor, ...]
    config: Digest | None = None
    layers: tuple[Digest, ...] = ()


@value
class Piece:
    """A part of a tar at the byte *offset*: *content*, or the bytes of *blob*."""

    offset: int
    content: bytes = b""
    blob: Descriptor | None = None


@value
class TarLayout:
    """A tar of *size* bytes: *pieces* in their order, without a gap."""

    pieces: tuple[Piece, ...]
    size: int


def tar_layout(images: Sequence[BundledImage], *, docker: bool) -> TarLayout:
    """The tar of *images*.

    For *docker* it has a manifest.json for those that docker can load, if any can.
    """
    blobs = all_blobs(images)
    making = _Making()
    making.file("oci-layout", LAYOUT)
    making.file("index.json", index_of(images, docker=docker).to_bytes())
    records = _docker_records(images) if docker else []
    if records:
        making.file("manifest.json", dump_json(records))
    for folder in ("blobs", *sorted({f"blobs/{d.algorithm}" for d in blobs})):
        making.add(_header(folder, tarfile.DIRTYPE, 0))
    for blob in blobs.values():
        making.add(_header(path_of(blob.digest), tarfile.REGTYPE, blob.size))
        making.blob(blob)
    making.add(_END)
    return making.done()


class _Making:
    def __init__(self) -> None:
        self._pieces: list[Piece] = []
        self._content = bytearray()
        self._offset = 0

    def add(self, content: bytes) -> None:
        self._content += content

    def file(self, name: str, content: bytes) -> None:
        self.add(_header(name, tarfile.REGTYPE, len(content)))
        self.add(content + b"\0" * (-len(content) % _BLOCK))

    def blob(self, blob: Descriptor) -> None:
        self._flush()
        self._pieces.append(Piece(self._offset, blob=blob))
        self._offset += blob.size
        self.add(b"\0" * (-blob.size % _BLOCK))

    def done(self) -> TarLayout:
        self._flush()
        return TarLayout(tuple(self._pieces), self._offset)

    def _flush(self) -> None:
        if self._content:
            self._pieces.append(Piece(self._offset, bytes(self._content)))
            self._offset += len(self._content)
            self._content.clear()


def path_of(digest: Digest) -> str:
    """Where a layout has the blob *digest* (image-spec, image-layout.md, Blobs)."""
    return f"blobs/{digest.algorithm}/{digest.hex}"


def all_blobs(images: Iterable[BundledImage]) -> dict[Digest, Descriptor]:
    """Every blob once, the small ones that are JSON first."""
    found = {blob.digest: blob for image in images for blob in image.blobs}
    layers = {digest for image in images for digest in image.layers}
    return dict(
        sorted(
            found.items(),
            key=lambda item: item[0] in layers or not _is_json(item[1]),
        )
    )


def _is_json(blob: Descriptor) -> bool:
    return blob.media_type.endswith("json")


def index_of(images: Iterable[BundledImage], *, docker: bool = False) -> Index:
    """An entry for each name; for *docker* those of indexes as docker save has them."""
    entries = []
    for image in images:
        if not image.names:
            entries.append(image.root)
        entries += [_named(image.root, name, short=docker) for name in image.names]
    return Index(OCI_INDEX, tuple(entries))


def _named(root: Descriptor, name: str, *, short: bool) -> Descriptor:
    """podman reads one annotation, *short* the tag alone; containerd the full one."""
    before = root.annotations or {}
    said = {key: before[key] for key in before if key not in (FULL_NAME, REF_NAME)}
    if not is_tag(name):
        said[FULL_NAME] = name
    tag = name.rpartition(":")[2]
    return replace(
        root, annotations={**said, REF_NAME: tag if short and is_tag(tag) else name}
    )


def merged(before: Index | None, added: Index) -> Index:
    """*before* with the entries of *added*, which take their names from others."""
    taken = {name_of(entry) for entry in added.manifests}
    digests = {entry.digest for entry in added.manifests}
    kept = [
        entry
        for entry in (before.manifests if before else ())
        if (name_of(entry) or entry.digest) not in taken | digests
    ]
    return replace(before or added, manifests=(*kept, *added.manifests))


def name_of(entry: Descriptor) -> str | None:
    """What an entry of ``index.json`` is called; None for one without a name."""
    return (entry.annotations or {}).get(REF_NAME)


def _docker_records(images: Iterable[BundledImage]) -> list[dict[str, Any]]:
    """manifest.json: an entry for each image that docker loads, under all its names."""
    records: dict[tuple[Digest, tuple[Digest, ...]], dict[str, Any]] = {}
    for image in images:
        if image.config is None:
            continue
        record = records.setdefault(
            (image.config, image.layers),
            {
                "Config": path_of(image.config),
                "RepoTags": [],
                "Layers": [path_of(digest) for digest in image.layers],
            },
        )
        names = record["RepoTags"]
        names += [n for n in image.names if n not in names and "@" not in n]
    return list(records.values())


def _header(name: str, kind: bytes, size: int) -> bytes:
    """A header without owner and time; GNU's form tells sizes beyond 8 GiB."""
    header = tarfile.TarInfo(name)
    header.type, header.size = kind, size
    header.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    return header.tobuf(tarfile.GNU_FORMAT)
