"""Archives and OCI directories, written: complete, or not under their final name."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Callable, Iterator, Sequence

from ..blobs import LOCK, PARTIALS
from ..cancellation import Cancellation
from ..errors import (
    ArchiveError,
    ContentMismatch,
    InvalidDigest,
    InvalidJSON,
    PusherError,
    UsageError,
)
from ..oci import (
    JSON_LIMIT,
    OCI_INDEX,
    Descriptor,
    Digest,
    Index,
)
from ..system import claim
from .bundle import (
    LAYOUT,
    BundledImage,
    all_blobs,
    index_of,
    merged,
    path_of,
    tar_layout,
)

LOCK_TIMEOUT = 60.0
"""Seconds to wait for another writer of one directory's index."""

PIECE = 1024 * 1024
"""Bytes that are copied at a time."""

OpenBlob = Callable[[Digest], BinaryIO]


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
    for piece in tar_layout(images, docker=docker).pieces:
        if piece.blob is None:
            file.write(piece.content)
        else:
            store.copy(piece.blob, file.write)


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
    for blob in all_blobs(images).values():
        final = path / path_of(blob.digest)
        if not (final.is_file() and final.stat().st_size == blob.size):
            final.parent.mkdir(parents=True, exist_ok=True)
            with replacing(final) as file:
                store.copy(blob, file.write)
    add_to_index(path, index_of(images))


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
    """True for a directory with files in it, none of them those of a layout.

    What a run that has just begun puts there, or one that was killed then, is no file.
    """
    names = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
    names -= {LOCK, PARTIALS}
    return bool(names) and not names & {"blobs", "oci-layout"}


def add_to_index(path: Path, added: Index) -> None:
    """Have the OCI layout in *path* name what *added* does, in one step.

    Raises OSError, ArchiveError, StateError when another run holds the index.
    """
    with claim(path / LOCK, timeout=LOCK_TIMEOUT):
        after = merged(read_index(path), added)
        _replace(path / "oci-layout", LAYOUT)
        _replace(path / "index.json", after.to_bytes())


def _replace(path: Path, content: bytes) -> None:
    """Who holds the lock is alone with the part, also with one that was left."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def naming_output(output: Path | BinaryIO) -> Iterator[None]:
    """Turn what the system says about *output* into errors that a user is told.

    UsageError for one that exists, else PusherError; a reader who has gone away is
    nobody's fault.
    """
    name = output if isinstance(output, Path) else "standard output"
    try:
        yield
    except BrokenPipeError:
        raise
    except FileExistsError as error:
        raise UsageError(f"{name} exists, and stays as it is") from error
    except OSError as error:
        raise PusherError(
            f"{name}: cannot be written: {error.strerror or error}"
        ) from error


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
        give_name(part, path, no_clobber=no_clobber)
    finally:
        part.unlink(missing_ok=True)


def give_name(part: Path, path: Path, *, no_clobber: bool) -> None:
    """*part*, which is complete, becomes *path*. Raises OSError."""
    if no_clobber:
        _give_free_name(part, path)
    else:
        part.replace(path)


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
