"""The cache of pulled images: every blob once, by its digest, for any number of runs.

Rules: a file below ``blobs/`` was hashed before it got its name. A run pins what it
needs before it looks whether it is there, and prune keeps what a live run has pinned;
both happen under the directory's own lock, which is held for moments only. A partial
file has one live owner, who holds the lock beside it, and is handed to the next run.
All of it can be lost: it costs a download, nothing else.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Iterable, Iterator

from .cancellation import Cancellation
from .errors import InvalidDigest, InvalidJSON, StateError
from .oci import (
    INDEX_TYPES,
    JSON_LIMIT,
    MANIFEST_TYPES,
    Descriptor,
    Digest,
    Index,
    Manifest,
    parse_json,
    require,
    required,
)
from .system import locked, try_lock

GUARD_TIMEOUT = 30.0
"""Seconds to wait for the directory's lock; a prune of many images needs a few."""

PIECE = 1024 * 1024
"""Bytes that are hashed at a time."""

DEPTH_LIMIT = 8
"""Indexes inside indexes that are followed."""

_STEP = 0.1  # seconds between two looks at a partial file that another run has


@dataclass(frozen=True)
class CachedImage:
    """What a reference named when it was pulled; *used_at* is seconds since the epoch.

    *root* is a manifest or an index; of the images of an index, those may be missing
    that nobody asked for.
    """

    reference: str
    root: Descriptor
    used_at: float


class Cache:
    """The files below *directory*, which is made when it is written to.

    Any number of threads and processes may use it. Everything raises StateError when
    the file system does not allow it.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path_of(self, digest: Digest) -> Path:
        """Where the blob *digest* is, if it is there."""
        return self.directory / "blobs" / digest.algorithm / digest.hex

    def has(self, descriptor: Descriptor) -> bool:
        """True when the blob is there, in its full size."""
        return self.size_of(descriptor.digest) == descriptor.size

    def size_of(self, digest: Digest) -> int | None:
        """Bytes of the blob on disk; None when it is not there."""
        try:
            return self.path_of(digest).stat().st_size
        except OSError:
            return None

    def open_blob(self, digest: Digest, offset: int = 0) -> BinaryIO:
        """The blob from *offset* on, unbuffered; the caller closes it."""
        with failing(f"blob {digest.short} of the cache"):
            file = self.path_of(digest).open("rb", buffering=0)
            file.seek(offset)
            return file

    def read_document(self, descriptor: Descriptor) -> bytes | None:
        """The bytes of a manifest, index or config; None unless they are right."""
        if descriptor.size > JSON_LIMIT or not self.has(descriptor):
            return None
        with self.open_blob(descriptor.digest) as file:
            raw = file.read(descriptor.size)
        hasher = descriptor.digest.hasher()
        hasher.update(raw)
        return raw if Digest.from_hash(hasher) == descriptor.digest else None

    def put(self, digest: Digest, raw: bytes) -> None:
        """Keep *raw*, whose digest the caller has checked."""
        self._write(self.path_of(digest), raw)

    def remove(self, digest: Digest) -> None:
        """Forget the blob *digest*, which turned out to be damaged."""
        with failing(f"blob {digest.short} of the cache"):
            self.path_of(digest).unlink(missing_ok=True)

    def blobs(self) -> Iterator[tuple[Digest, os.stat_result]]:
        """Every blob, in no order."""
        for folder in _entries(self.directory / "blobs"):
            for entry in _entries(Path(folder.path)):
                with contextlib.suppress(InvalidDigest, FileNotFoundError):
                    yield Digest(f"{folder.name}:{entry.name}"), entry.stat()

    def record(self, reference: str, root: Descriptor) -> None:
        """Remember that *reference* names *root*, and that it was used now."""
        record = {"version": 1, "reference": reference, **_root_json(root)}
        self._write(self._image_path(reference), json.dumps(record).encode())

    def forget(self, reference: str) -> None:
        """Remember *reference* no more; its blobs stay until the next prune."""
        with failing(f"{reference} of the cache"):
            self._image_path(reference).unlink(missing_ok=True)

    def find(self, reference: str) -> CachedImage | None:
        """What *reference* named when it was pulled last."""
        found = _read_image(self._image_path(reference))
        return found if found and found.reference == reference else None

    def images(self) -> list[CachedImage]:
        """Every image, the one used last first."""
        paths = (Path(entry.path) for entry in _entries(self.directory / "images"))
        found = [_read_image(path) for path in paths if path.suffix == ".json"]
        known = [image for image in found if image is not None]
        return sorted(known, key=lambda image: image.used_at, reverse=True)

    def reachable(self, root: Descriptor) -> dict[Digest, Descriptor]:
        """*root* and everything below it, as far as the documents are in the cache."""
        found: dict[Digest, Descriptor] = {}
        self._reach(root, found, DEPTH_LIMIT)
        return found

    def pins(self) -> Pins:
        """What this run is going to need; to be used in a ``with``."""
        return Pins(self)

    @contextlib.contextmanager
    def partial(self, digest: Digest, cancellation: Cancellation) -> Iterator[Partial]:
        """The beginning of the blob *digest*, ours alone for the ``with``.

        Another run or thread that has it is waited for. Raises Cancelled.
        """
        path = self.directory / "partial" / f"{digest.algorithm}-{digest.hex}"
        lock = path.with_name(f"{path.name}.lock")
        with contextlib.ExitStack() as stack:
            while not self._claimed(lock, stack):
                cancellation.wait(_STEP)
            try:
                yield Partial(path, self.path_of(digest))
            finally:
                with contextlib.suppress(OSError, StateError), self.guarded():
                    lock.unlink()

    def _claimed(self, lock: Path, stack: contextlib.ExitStack) -> bool:
        with self.guarded():
            lock.parent.mkdir(mode=0o700, exist_ok=True)
            with contextlib.ExitStack() as mine:
                free = mine.enter_context(try_lock(lock))
                if free:
                    stack.push(mine.pop_all())
                return free

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """Hold the directory's own lock for a moment."""
        with failing(f"the cache {self.directory}"):
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with locked(self.directory / ".lock", timeout=GUARD_TIMEOUT):
                yield

    def _reach(
        self, node: Descriptor, found: dict[Digest, Descriptor], depth: int
    ) -> None:
        if node.digest in found or not depth:
            return
        found[node.digest] = node
        raw = self.read_document(node)
        for child in children_of(node, raw) if raw is not None else ():
            if is_document(child):
                self._reach(child, found, depth - 1)
            else:
                found.setdefault(child.digest, child)

    def _image_path(self, reference: str) -> Path:
        name = hashlib.sha256(reference.encode()).hexdigest()[:32]
        return self.directory / "images" / f"{name}.json"

    def _write(self, path: Path, raw: bytes) -> None:
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        with failing(f"the cache {self.directory}"):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                part.write_bytes(raw)
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)


class Pins:
    """Digests that prune leaves alone while the ``with`` lasts, also if we are slow."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._path = cache.directory / "runs" / f"{secrets.token_hex(8)}.pins"
        self._lock = contextlib.ExitStack()

    def __enter__(self) -> Pins:
        with self._cache.guarded():
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            self._lock.enter_context(try_lock(self._path.with_suffix(".lock")))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError, StateError), self._cache.guarded():
            self._path.unlink(missing_ok=True)
            self._path.with_suffix(".lock").unlink()
        self._lock.close()

    def add(self, digests: Iterable[Digest]) -> None:
        """Keep the blobs *digests*, those that are there and those that will be."""
        text = "".join(f"{digest}\n" for digest in digests)
        with self._cache.guarded(), self._path.open("a") as file:
            file.write(text)


@dataclass(frozen=True)
class Partial:
    """The beginning of a blob at *path*, which becomes *final* when it is complete."""

    path: Path
    final: Path

    def size(self) -> int:
        """Bytes that an earlier run, or this one, has left; 0 for none."""
        return self.path.stat().st_size if self.path.exists() else 0

    def keep(self) -> None:
        """It is complete, and was hashed: give it its name."""
        with failing(f"{self.final}"):
            self.final.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path.replace(self.final)

    def discard(self) -> None:
        """Nothing of it is of any use."""
        with failing(f"{self.path}"):
            self.path.unlink(missing_ok=True)


def is_document(descriptor: Descriptor) -> bool:
    """True for a manifest or an index."""
    return descriptor.media_type in (*INDEX_TYPES, *MANIFEST_TYPES)


def children_of(node: Descriptor, raw: bytes) -> tuple[Descriptor, ...]:
    """What *raw*, the bytes of *node*, names: manifests, or a config and layers.

    Nothing for a document that is neither, which only a layer can be.
    """
    try:
        if node.media_type in INDEX_TYPES:
            return Index.from_bytes(raw, node.media_type).manifests
        if node.media_type in MANIFEST_TYPES:
            manifest = Manifest.from_bytes(raw, node.media_type)
            return (manifest.config, *manifest.layers)
    except (InvalidJSON, InvalidDigest):
        return ()
    return ()


@contextlib.contextmanager
def failing(what: str) -> Iterator[None]:
    """Turn an OSError into a StateError that says *what* cannot be used, and why."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        hint = ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "; 'dockerpush cache prune' makes room"
        raise StateError(f"{what}: {reason}{hint}") from error


def _root_json(root: Descriptor) -> dict[str, Any]:
    return {
        "mediaType": root.media_type,
        "digest": str(root.digest),
        "size": root.size,
    }


def _read_image(path: Path) -> CachedImage | None:
    """The image that *path* speaks of; None for a file that is absent or broken."""
    try:
        with path.open("rb") as file:
            raw = file.read(JSON_LIMIT)
            used_at = os.fstat(file.fileno()).st_mtime
        record = require(parse_json(raw, path.name), dict, path.name)
        reference = required(record, "reference", str, path.name)
        return CachedImage(reference, Descriptor.from_json(record), used_at)
    except (OSError, InvalidJSON, InvalidDigest):
        return None


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What *folder* holds; nothing when it is not there."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise StateError(f"{folder}: {error.strerror}") from error


def damaged(cache: Cache, cancellation: Cancellation) -> list[Digest]:
    """The blobs that were not what their name says; they are removed.

    Raises StateError, Cancelled.
    """
    wrong = []
    for digest, _ in sorted(cache.blobs(), key=lambda found: found[0]):
        path = cache.path_of(digest)
        try:
            found = _digest_of(path, digest, cancellation)
        except FileNotFoundError:  # pruned meanwhile
            continue
        except OSError as error:
            raise StateError(f"{path}: {error.strerror}") from error
        if found != digest:
            cache.remove(digest)
            wrong.append(digest)
    return wrong


def _digest_of(path: Path, like: Digest, cancellation: Cancellation) -> Digest:
    hasher = like.hasher()
    with path.open("rb", buffering=0) as file:
        while piece := file.read(PIECE):
            cancellation.check()
            hasher.update(piece)
    return Digest.from_hash(hasher)
