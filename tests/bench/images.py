"""Images to measure with, and the same layers as files for the floor."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import sysconfig
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

from dockerpush.oci import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST
from tests.support.images import MIB, config_of, digest_of, large_archive, tar_of

LAYERS = 3
SMALL_LAYERS = 100
SMALL_LAYER_SIZE = 64 * 1024
LARGEST_FILE = 8 * MIB
COPY_SIZE = 4 * MIB


@dataclass(frozen=True)
class Blob:
    """A layer as a file of its own: what the floor sends."""

    digest: str
    path: Path


@dataclass(frozen=True)
class Image:
    """An archive, the *size* of its layers in bytes, and the layers beside it.

    There are no layers beside it where no floor sends them.
    """

    archive: Path
    size: int
    blobs: tuple[Blob, ...]


def incompressible_image(directory: Path, size: int) -> Image:
    """Three layers of random bytes, *size* in all."""
    archive = directory / f"incompressible-{size}.tar"
    mib = size // MIB
    sizes = [(mib + number) // LAYERS * MIB for number in range(LAYERS)]
    large_archive(archive, sizes, compressible=False)
    return _with_blobs(archive)


def compressible_image(directory: Path, size: int) -> Image:
    """Three layers of real files of this system, *size* in all."""
    files = real_files()
    paths = [directory / f"compressible-{number}.layer" for number in range(LAYERS)]
    for number, path in enumerate(paths):
        fill_layer(path, files, size // LAYERS, prefix=f"opt/{number}")
    return _archive_of(directory / "compressible.tar", paths)


def small_layers_image(directory: Path) -> Image:
    """A hundred small layers of text that shrinks to about a third."""
    generator = random.Random(1)
    paths = []
    for number in range(SMALL_LAYERS):
        words = (f"{generator.getrandbits(24):x}" for _ in range(SMALL_LAYER_SIZE // 7))
        path = directory / f"small-{number}.layer"
        with tarfile.open(path, "w") as tar:
            add(tar, f"etc/{number}.conf", " ".join(words).encode())
        paths.append(path)
    return _archive_of(directory / "small-layers.tar", paths)


def many_images(directory: Path, repository: str, count: int) -> Image:
    """*count* images of one tiny layer each, tagged 0, 1 and so on."""
    archive, entries, size = directory / "many.tar", [], 0
    with tarfile.open(archive, "w") as tar:
        for number in range(count):
            layer = tar_of({f"etc/{number}.conf": b"%d\n" % number})
            add(tar, f"{number}/layer.tar", layer)
            add(tar, f"{number}.json", config_of([digest_of(layer)]))
            entry = {
                "Config": f"{number}.json",
                "RepoTags": [f"{repository}:{number}"],
                "Layers": [f"{number}/layer.tar"],
            }
            entries.append(entry)
            size += len(layer)
        add(tar, "manifest.json", json.dumps(entries).encode())
    return Image(archive, size, ())


def real_files() -> Iterator[Path]:
    """Programs, libraries, documents of this system, again and again."""
    roots = [Path(sysconfig.get_path("stdlib")), *map(Path, ("/usr/lib", "/usr/share"))]
    while True:
        found = False
        for root in roots:
            for folder, names, files in os.walk(root):
                names.sort()
                for name in sorted(files):
                    path = Path(folder, name)
                    if _is_usable(path):
                        found = True
                        yield path
        if not found:
            raise FileNotFoundError(f"no files to make an image of below {roots}")


def _is_usable(path: Path) -> bool:
    try:
        size = path.stat().st_size
    except OSError:
        return False
    usable = path.is_file() and not path.is_symlink() and os.access(path, os.R_OK)
    return usable and 0 < size <= LARGEST_FILE


def fill_layer(path: Path, files: Iterator[Path], size: int, *, prefix: str) -> None:
    """Write a layer of *files* to *path* until it has *size* bytes."""
    with tarfile.open(path, "w") as tar:
        while tar.offset < size:
            source = next(files)
            tar.add(source, f"{prefix}/{tar.offset}{source}", recursive=False)


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a member to *tar*."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _archive_of(archive: Path, layers: list[Path]) -> Image:
    blobs = []
    with tarfile.open(archive, "w") as tar:
        for number, path in enumerate(layers):
            tar.add(path, f"{number}/layer.tar", recursive=False)
            with path.open("rb") as file:
                blobs.append(Blob("sha256:" + file_sum(file), path))
        config = config_of([blob.digest for blob in blobs])
        entry = {
            "Config": "config.json",
            "RepoTags": ["bench/image:1"],
            "Layers": [f"{number}/layer.tar" for number in range(len(layers))],
        }
        add(tar, "config.json", config)
        add(tar, "manifest.json", json.dumps([entry]).encode())
    blobs.append(_config_blob(archive, config))
    return Image(archive, sum(path.stat().st_size for path in layers), tuple(blobs))


def _with_blobs(archive: Path) -> Image:
    """The image in *archive*, its layers copied out of it."""
    blobs = []
    with tarfile.open(archive) as tar:
        config = tar.extractfile("c.json").read()
        diff_ids = json.loads(config)["rootfs"]["diff_ids"]
        for number, diff_id in enumerate(diff_ids):
            path = archive.with_suffix(f".{number}.layer")
            with path.open("wb") as target:
                source = tar.extractfile(f"{number}/layer.tar")
                while block := source.read(COPY_SIZE):
                    target.write(block)
            blobs.append(Blob(diff_id, path))
    size = sum(blob.path.stat().st_size for blob in blobs)
    return Image(archive, size, (*blobs, _config_blob(archive, config)))


def oci_layout(image: Image, directory: Path) -> Path:
    """*image* as an OCI layout with the tag 1, made of links to its blobs."""
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)

    def linked(blob: Blob, media_type: str) -> dict[str, object]:
        place = blobs / blob.digest.partition(":")[2]
        if not place.exists():
            os.link(blob.path, place)
        size = place.stat().st_size
        return {"mediaType": media_type, "digest": blob.digest, "size": size}

    *layers, config = image.blobs
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": linked(config, OCI_CONFIG),
            "layers": [linked(layer, OCI_LAYER) for layer in layers],
        }
    ).encode()
    (blobs / digest_of(manifest).partition(":")[2]).write_bytes(manifest)
    root = {
        "mediaType": OCI_MANIFEST,
        "digest": digest_of(manifest),
        "size": len(manifest),
        "annotations": {"org.opencontainers.image.ref.name": "1"},
    }
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [root]}
    (directory / "index.json").write_text(json.dumps(index))
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return directory


def _config_blob(archive: Path, config: bytes) -> Blob:
    path = archive.with_suffix(".config")
    path.write_bytes(config)
    return Blob(digest_of(config), path)


def file_sum(file: io.BufferedReader) -> str:
    """The SHA-256 of *file*, in hexadecimal."""
    hasher = hashlib.sha256()
    while block := file.read(COPY_SIZE):
        hasher.update(block)
    return hasher.hexdigest()
