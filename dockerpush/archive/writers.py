"""Archives written: OCI layouts, in a tar or a directory, that docker can load as well.

A docker-archive is an OCI layout with a ``manifest.json`` beside ``index.json``, as
docker has written it since 25.0: blobs keep their bytes, so the digest of the manifest
outlives the way through it. The JSON comes first and layers last, so that a reader of a
pipe knows what it needs. The same images give the same bytes.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Callable, Iterable, Iterator, Sequence

from ..cancellation import Cancellation
from ..errors import ArchiveError, ContentMismatch, InvalidDigest, InvalidJSON
from ..oci import (
    JSON_LIMIT,
    OCI_INDEX,
    Descriptor,
    Digest,
    Index,
    dump_json,
)
from ..system import locked
from .layout import FULL_NAME, REF_NAME

PIECE = 1024 * 1024
"""Bytes that are copied at a time."""

LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
"""(image-spec, image-layout.md, oci-layout file)"""

LOCK_TIMEOUT = 60.0
"""Seconds to wait for another writer of one directory's index."""

_BLOCK = tarfile.BLOCKSIZE
_END = b"\0" * (2 * _BLOCK)

OpenBlob = Callable[[Digest], BinaryIO]


@dataclass(frozen=True)
class BundledImage:
    """An image to be written: what ``index.json`` names, and under which names.

    *blobs* is everything that *root* needs, itself included, documents first. *config*
    and *layers* are for ``manifest.json``; None and nothing where docker cannot load
    it.
    """

    root: Descriptor
    names: tuple[str, ...]
    blobs: tuple[Descriptor, ...]
    config: Digest | None = None
    layers: tuple[Digest, ...] = ()


@dataclass(frozen=True)
class BlobStore:
    """Where the bytes come from; they are hashed again on their way."""

    open_blob: OpenBlob
    cancellation: Cancellation

    def copy(self, blob: Descriptor, write: Callable[[bytes], object]) -> None:
        """Give all bytes of *blob* to *write*.

        Raises ContentMismatch, before or after the last of them, when they are not what
        they should be; Cancelled.
        """
        hasher, size = blob.digest.hasher(), 0
        with contextlib.closing(self.open_blob(blob.digest)) as file:
            while piece := file.read(min(PIECE, blob.size - size + 1)):
                self.cancellation.check()
                size += len(piece)
                if size > blob.size:
                    break
                hasher.update(piece)
                write(piece)
        if size != blob.size or Digest.from_hash(hasher) != blob.digest:
            raise ContentMismatch(
                f"blob {blob.digest} is damaged on disk: 'dockerpush cache verify' "
                "removes it, then pull again"
            )


def write_tar(
    file: BinaryIO, images: Sequence[BundledImage], store: BlobStore, *, docker: bool
) -> None:
    """Write *images* as one tar: an OCI layout, for *docker* with a manifest.json.

    *file* need not be seekable. Raises OSError, and what `BlobStore.copy` raises.
    """
    blobs = _all_blobs(images)
    _add_bytes(file, "oci-layout", LAYOUT)
    _add_bytes(file, "index.json", _index(images).to_bytes())
    if docker:
        _add_bytes(file, "manifest.json", _docker_json(images))
    for folder in ("blobs", *sorted({f"blobs/{d.algorithm}" for d in blobs})):
        _add_header(file, folder, tarfile.DIRTYPE, 0)
    for blob in blobs.values():
        _add_header(file, path_of(blob.digest), tarfile.REGTYPE, blob.size)
        store.copy(blob, file.write)
        file.write(b"\0" * (-blob.size % _BLOCK))
    file.write(_END)


def write_directory(
    path: Path, images: Sequence[BundledImage], store: BlobStore
) -> None:
    """Add *images* to the OCI layout in the directory *path*, which may be empty.

    Blobs get their names when they are complete; ``index.json`` is replaced last, and
    an image takes the place of another of its name. Raises OSError, ArchiveError for a
    directory with something else in it, StateError when another run holds the index,
    and what `BlobStore.copy` raises.
    """
    read_index(path)  # refuses what is no layout, before anything is written
    for blob in _all_blobs(images).values():
        final = path / path_of(blob.digest)
        if not (final.is_file() and final.stat().st_size == blob.size):
            final.parent.mkdir(parents=True, exist_ok=True)
            with replacing(final) as file:
                store.copy(blob, file.write)
    with locked(path / ".index.lock", timeout=LOCK_TIMEOUT):
        after = _merged(read_index(path), _index(images))
        _replace(path / "oci-layout", LAYOUT)
        _replace(path / "index.json", after.to_bytes())


def read_index(path: Path) -> Index | None:
    """The index of the OCI layout in *path*; None when there is nothing there yet.

    Raises ArchiveError when the directory holds something else, OSError.
    """
    try:
        with (path / "index.json").open("rb") as file:
            return Index.from_bytes(file.read(JSON_LIMIT + 1), OCI_INDEX)
    except (FileNotFoundError, NotADirectoryError):
        if _holds_something_else(path):
            raise ArchiveError(
                f"{path}: not empty, and no OCI layout: choose another directory"
            ) from None
        return None
    except (InvalidJSON, InvalidDigest) as error:
        raise ArchiveError(f"{path}/index.json: {error}") from error


def _holds_something_else(path: Path) -> bool:
    """True for a directory with files in it, none of them those of a layout."""
    names = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
    return bool(names) and not names & {"blobs", "oci-layout"}


def path_of(digest: Digest) -> str:
    """Where a layout has the blob *digest* (image-spec, image-layout.md, Blobs)."""
    return f"blobs/{digest.algorithm}/{digest.hex}"


@contextlib.contextmanager
def replacing(path: Path, *, no_clobber: bool = False) -> Iterator[BinaryIO]:
    """A new file that becomes *path* when the ``with`` ends well, and is gone if not.

    Two writers do not disturb each other: the last one stays. With *no_clobber* the
    first one does, and FileExistsError is raised. A device or a pipe is written to as
    it is. Raises OSError.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    part = part_of(path)
    try:
        with part.open("xb") as file:
            yield file
        if no_clobber:
            _give_free_name(part, path)
        else:
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _give_free_name(part: Path, path: Path) -> None:
    """Name *part* *path* too, unless that name is taken: FileExistsError then."""
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except OSError:  # exFAT, the file system of sticks and disks, has no hard links
        if path.exists():
            raise FileExistsError(path) from None
        part.replace(path)


@contextlib.contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """A new directory that becomes *path* when the ``with`` ends well.

    *path* itself when it is there and not empty: it is added to. Raises OSError.
    """
    if path.is_dir() and any(path.iterdir()):
        yield path
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(path)
    part.mkdir()
    try:
        yield part
        part.replace(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def part_of(path: Path) -> Path:
    """A name beside *path* for what is not complete yet, another one each time."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")


def _replace(path: Path, content: bytes) -> None:
    with replacing(path) as file:
        file.write(content)


def _all_blobs(images: Iterable[BundledImage]) -> dict[Digest, Descriptor]:
    """Every blob once, the small ones that are JSON first."""
    found = {blob.digest: blob for image in images for blob in image.blobs}
    layers = {digest for image in images for digest in image.layers}
    return dict(sorted(found.items(), key=lambda item: item[0] in layers))


def _index(images: Iterable[BundledImage]) -> Index:
    """An entry for each name: podman reads one annotation, containerd the other."""
    entries = []
    for image in images:
        if not image.names:
            entries.append(image.root)
        for name in image.names:
            said = {**(image.root.annotations or {}), FULL_NAME: name, REF_NAME: name}
            entries.append(replace(image.root, annotations=said))
    return Index(OCI_INDEX, tuple(entries))


def _merged(before: Index | None, added: Index) -> Index:
    """*before* with the entries of *added*, which take their names from others."""
    taken = {_name(entry) for entry in added.manifests}
    digests = {entry.digest for entry in added.manifests}
    kept = [
        entry
        for entry in (before.manifests if before else ())
        if (_name(entry) or entry.digest) not in taken | digests
    ]
    return replace(before or added, manifests=(*kept, *added.manifests))


def _name(entry: Descriptor) -> str | None:
    return (entry.annotations or {}).get(REF_NAME)


def _docker_json(images: Sequence[BundledImage]) -> bytes:
    """manifest.json: one entry for each image, under all its names."""
    records: dict[Digest, dict[str, Any]] = {}
    for image in images:
        if image.config is None:
            raise ArchiveError(
                f"{image.root.digest.short} is no image that docker can load: use "
                "--format oci-archive"
            )
        record = records.setdefault(
            image.root.digest,
            {
                "Config": path_of(image.config),
                "RepoTags": [],
                "Layers": [path_of(digest) for digest in image.layers],
            },
        )
        record["RepoTags"] += [n for n in image.names if n not in record["RepoTags"]]
    return dump_json(list(records.values()))


def _add_bytes(file: BinaryIO, name: str, content: bytes) -> None:
    _add_header(file, name, tarfile.REGTYPE, len(content))
    file.write(content + b"\0" * (-len(content) % _BLOCK))


def _add_header(file: BinaryIO, name: str, kind: bytes, size: int) -> None:
    """A header without owner and time; GNU's form tells sizes beyond 8 GiB."""
    header = tarfile.TarInfo(name)
    header.type, header.size = kind, size
    header.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    file.write(header.tobuf(tarfile.GNU_FORMAT))
