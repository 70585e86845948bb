"""The cache of pulled images: every blob once, by its digest, for any number of runs.

Rules: a file below ``blobs/`` was hashed before it got its name. A run pins what it
needs before it looks whether it is there, and prune keeps what a live run has pinned;
both happen under the directory's own lock, which is held for moments only. `prune` and
`remove` are safe beside runs that use the cache. All of it is safe to delete: that
costs a download, nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections import Counter
from pathlib import Path
from shutil import disk_usage
from types import TracebackType
from typing import Any, Iterable, Iterator

from ..errors import CacheError, InvalidDigest, InvalidJSON, StateError, reason_of
from ..oci import JSON_LIMIT, Descriptor, Digest, parse_json, require, required
from ..system.cancellation import Cancellation
from ..system.files import NotOurFile, open_own, open_trusted, try_lock
from ..system.workers import in_parallel
from ..values import value
from .blobs import BlobDirectory, digest_of_file


@value
class CachedImage:
    """What a reference named when it was pulled; *used_at* is seconds since the epoch.

    *root* is a manifest or an index; of the images of an index, those may be missing
    that nobody asked for.
    """

    reference: str
    root: Descriptor
    used_at: float


PRUNE = "'dockerpush cache prune' makes room"


class Cache(BlobDirectory):
    """The files below *directory*, which is made when it is written to.

    Any number of threads and processes may use it. Everything raises CacheError when
    the file system does not allow it.
    """

    error = CacheError

    def __init__(self, directory: Path, *, room: str = PRUNE) -> None:
        """*room* says what to do when the disk is full."""
        super().__init__(
            directory, what="the cache", room=room, mode=0o700, partials="partial"
        )

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
        with self.failing():
            self._image_path(reference).unlink(missing_ok=True)

    def find(self, reference: str) -> CachedImage | None:
        """What *reference* named when it was pulled last."""
        found = _read_image(self._image_path(reference))
        return found if found and found.reference == reference else None

    def document_with(self, digest: Digest) -> tuple[Descriptor, bytes] | None:
        """The manifest *digest* of an image that was pulled, and its bytes."""
        for image in self.images():
            if image.root.digest == digest:
                raw = self.read_document(image.root)
                return None if raw is None else (image.root, raw)
        return None

    def images(self) -> list[CachedImage]:
        """Every image, the one used last first."""
        paths = (Path(entry.path) for entry in _entries(self.directory / "images"))
        found = [_read_image(path) for path in paths if path.suffix == ".json"]
        known = [image for image in found if image is not None]
        return sorted(known, key=lambda image: image.used_at, reverse=True)

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """Hold the cache's own lock for a moment; another run may keep it too long."""
        try:
            with super().guarded():
                yield
        except StateError as error:
            raise CacheError(str(error)) from error

    def check_room(self, blobs: Iterable[Descriptor]) -> None:
        """Check that the disk has room for *blobs*. Raises CacheError."""
        missing = sum(blob.size for blob in blobs if not self.has(blob))
        free = disk_usage(self.directory).free
        if missing > free:
            raise CacheError(
                f"the disk of the cache {self.directory} has {free / 2**20:.1f} MiB "
                f"free, and the image needs {missing / 2**20:.1f} MiB; {self._room}, "
                "or use pull --no-cache -o FILE"
            )

    def pins(self) -> Pins:
        """What this run is going to need; to be used in a ``with``."""
        return Pins(self)

    def _image_path(self, reference: str) -> Path:
        name = hashlib.sha256(reference.encode()).hexdigest()[:32]
        return self.directory / "images" / f"{name}.json"


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
        with self._cache.guarded(), open_own(self._path) as file:
            file.seek(0, os.SEEK_END)
            file.write(text.encode())


def _root_json(root: Descriptor) -> dict[str, Any]:
    return {
        "mediaType": root.media_type,
        "digest": str(root.digest),
        "size": root.size,
    }


def _read_image(path: Path) -> CachedImage | None:
    """The image of *path*; None for a file that is absent, broken or not ours."""
    try:
        with open_trusted(path) as file:
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
        raise CacheError(f"{folder}: {reason_of(error)}") from error


def damaged(cache: Cache, cancellation: Cancellation) -> list[Digest]:
    """The blobs that were not what their name says; they are removed.

    Raises CacheError, Cancelled.
    """
    held = sorted(digest for digest, _ in cache.blobs())

    def is_damaged(digest: Digest) -> bool:
        path = cache.path_of(digest)
        try:
            return digest_of_file(path, digest, cancellation.check) != digest
        except FileNotFoundError:  # pruned meanwhile
            return False
        except OSError as error:
            raise CacheError(f"{path}: {reason_of(error)}") from error

    found = zip(held, in_parallel(is_damaged, held, cancellation))
    wrong = [digest for digest, is_wrong in found if is_wrong]
    for digest in wrong:
        cache.remove(digest)
    return wrong


@value
class Pruned:
    """What was removed, or would be: references, files, and their bytes."""

    images: tuple[str, ...]
    files: int
    size: int


def prune(
    cache: Cache,
    *,
    keep_since: float | None = None,
    max_size: int | None = None,
    dry_run: bool = False,
) -> Pruned:
    """Remove blobs that no image has, and images by age and then by size.

    *keep_since* is seconds since the epoch: images used before are removed, and what no
    image has only if it is older too; None keeps all images. *max_size* is bytes, to
    which images are removed, those first that were used longest ago. What a live run
    has pinned stays. Raises CacheError.
    """
    with cache.guarded():
        uses = [_Use(cache, image) for image in cache.images()]
        kept = [use for use in uses if use.image.used_at >= (keep_since or 0)]
        if max_size is not None:
            kept = _fitting(kept, max_size)
        gone = [use for use in uses if use not in kept]
        needed = _pinned(cache).union(*(use.sizes for use in kept))
        released = set[Digest]().union(*(use.sizes for use in gone)) - needed
        doomed = [
            *_loose(cache, needed, released, keep_since),
            *_partials(cache, keep_since),
        ]
        if not dry_run:
            for use in gone:
                cache.forget(use.image.reference)
            for path, _ in doomed:
                path.unlink(missing_ok=True)
    size = sum(size for _, size in doomed)
    return Pruned(tuple(use.image.reference for use in gone), len(doomed), size)


class _Use:
    """An image with the blobs that it takes on disk, in bytes."""

    def __init__(self, cache: Cache, image: CachedImage) -> None:
        self.image = image
        sizes = {digest: cache.size_of(digest) for digest in cache.occupied(image.root)}
        self.sizes = {
            digest: size for digest, size in sizes.items() if size is not None
        }


def _fitting(uses: list[_Use], max_size: int) -> list[_Use]:
    """The first of *uses* (those used last) that take *max_size* bytes together."""
    sharing = Counter(digest for use in uses for digest in use.sizes)
    total = sum({digest: s for use in uses for digest, s in use.sizes.items()}.values())
    kept = list(uses)
    while kept and total > max_size:
        for digest, size in kept.pop().sizes.items():
            sharing[digest] -= 1
            total -= 0 if sharing[digest] else size
    return kept


def _pinned(cache: Cache) -> set[Digest]:
    """What live runs need; the files of dead ones are removed."""
    found: set[Digest] = set()
    for lock in _files(cache.directory / "runs", "*.lock"):
        pins = lock.with_suffix(".pins")
        dead = _is_free(lock)
        if not dead and pins.exists():
            found.update(_digests(pins.read_text()))
        if dead:
            pins.unlink(missing_ok=True)
            lock.unlink(missing_ok=True)
    return found


def _digests(text: str) -> Iterator[Digest]:
    for line in text.splitlines():
        with contextlib.suppress(InvalidDigest):
            yield Digest(line)


def _loose(
    cache: Cache, needed: set[Digest], released: set[Digest], keep_since: float | None
) -> Iterator[tuple[Path, int]]:
    for digest, status in cache.blobs():
        old = keep_since is None or status.st_mtime < keep_since
        if digest not in needed and (old or digest in released):
            yield cache.path_of(digest), status.st_size


def _partials(cache: Cache, keep_since: float | None) -> Iterator[tuple[Path, int]]:
    """Beginnings of blobs that nobody is downloading now, and locks of dead runs."""
    for path in _files(cache.directory / "partial", "*"):
        if path.suffix == ".lock":
            continue
        status = path.stat()
        lock = path.with_name(f"{path.name}.lock")
        is_old = keep_since is None or status.st_mtime < keep_since
        if is_old and _is_free(lock):
            lock.unlink()
            yield path, status.st_size


def _is_free(lock: Path) -> bool:
    """True when no run holds *lock*; False for that of another user, who may."""
    try:
        with try_lock(lock) as free:
            return free
    except NotOurFile:
        return False


def _files(folder: Path, pattern: str) -> list[Path]:
    return sorted(folder.glob(pattern)) if folder.is_dir() else []
