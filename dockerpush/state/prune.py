"""What a cache may do without, and its removal; safe beside runs that use it."""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path
from typing import Iterator

from ..errors import InvalidDigest
from ..oci import Digest
from ..system.files import try_lock
from ..values import value
from .cache import Cache, CachedImage


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
    has pinned stays. Raises StateError.
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
        with try_lock(lock) as dead:
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
        if keep_since is None or status.st_mtime < keep_since:
            with try_lock(lock) as free:
                if free:
                    lock.unlink()
            if free:
                yield path, status.st_size


def _files(folder: Path, pattern: str) -> list[Path]:
    return sorted(folder.glob(pattern)) if folder.is_dir() else []
