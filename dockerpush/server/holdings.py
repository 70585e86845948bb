"""What the store holds, counted: bytes, links, repositories.

Nobody has to walk the directory for a number.
"""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import Iterator

from ..oci import Digest
from .checked_names import Repository
from .messages import STORAGE_FULL, UNKNOWN, ProtocolError
from .store_layout import StoreLayout, names_in

LINK_KINDS = ("_blobs", "_manifests")


class Holdings:
    """How many links each digest has; see `StoreLayout`.

    Whoever calls holds the lock of the storage. A digest takes some 200 bytes.
    """

    def __init__(self, layout: StoreLayout, space: Space) -> None:
        self._layout = layout
        self._space = space
        self._links: dict[bytes, int] = {}
        self._repositories: set[str] = set()
        self._sorted: list[str] | None = None

    def load(self) -> None:
        """Count what lies in the directory."""
        self._links.clear()
        self._repositories.clear()
        self._sorted = None
        for name in self._layout.repositories():
            for digest in linked(self._layout.repository(name), LINK_KINDS):
                self.add(name, digest)
        size = sum(_size_of(path) for _, path in contents(self._layout.blobs))
        self._space.store(size - self._space.stored)

    def add(self, name: Repository, digest: Digest) -> None:
        """The repository has one link more to the digest."""
        key = _key(digest)
        self._links[key] = self._links.get(key, 0) + 1
        if name not in self._repositories:
            self._repositories.add(str(name))
            self._sorted = None

    def remove(self, digest: Digest) -> bool:
        """A repository has one link less to the digest; true when it was the last."""
        key = _key(digest)
        count = self._links.pop(key, 0)
        if count > 1:
            self._links[key] = count - 1
        return count <= 1

    def is_linked(self, digest: Digest) -> bool:
        """True when a repository holds the digest."""
        return _key(digest) in self._links

    def repositories(self) -> list[str]:
        """Repositories in which something was stored, in the order of ASCII."""
        if self._sorted is None:
            self._sorted = sorted(self._repositories)
        return self._sorted


def linked(repository: Path, kinds: tuple[str, ...]) -> Iterator[Digest]:
    """The digests of the links in the directories *kinds* of a repository."""
    for kind in kinds:
        for algorithm in names_in(repository / kind):
            for name in names_in(repository / kind / algorithm):
                yield Digest(f"{algorithm}:{name}")


def contents(blobs: Path) -> Iterator[tuple[Digest, Path]]:
    """All content below the directory *blobs*."""
    for algorithm in names_in(blobs):
        for start in names_in(blobs / algorithm):
            for name in names_in(blobs / algorithm / start):
                path = blobs / algorithm / start / name
                yield Digest(f"{algorithm}:{name}"), path


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _key(digest: Digest) -> bytes:
    return bytes.fromhex(digest.hex)  # no two algorithms give the same length


class Space:
    """Counts bytes of content and of uploads; *limit* is for both, None for any."""

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit
        self._lock = threading.Lock()  # guards stored and received
        self.stored = 0
        self.received = 0

    def fits(self, count: int) -> bool:
        """True when *count* bytes more are within the limit."""
        return self._limit is None or self.stored + self.received + count <= self._limit

    def receive(self, count: int) -> None:
        """An upload grows by *count* bytes. Raises ProtocolError (507)."""
        with self._lock:
            if count > 0 and not self.fits(count):
                raise ProtocolError(
                    STORAGE_FULL,
                    UNKNOWN,
                    f"the registry is full: it may keep {self._limit} bytes; delete "
                    "what is not needed, or have its operator raise --max-size",
                )
            self.received += count

    @contextlib.contextmanager
    def room_for(self, count: int) -> Iterator[None]:
        """Keep room for *count* bytes for the ``with``. Raises ProtocolError (507)."""
        self.receive(count)
        try:
            yield
        finally:
            self.receive(-count)

    def store(self, count: int) -> None:
        """Content of *count* bytes came, or went when it is negative."""
        with self._lock:
            self.stored += count
