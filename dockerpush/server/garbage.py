"""Blobs that no manifest of their repository names, and how they are removed.

Strategy. What the manifests name is read first, and nobody waits for that. Then nothing
changes for a moment: the manifests that came meanwhile are read, and what is still
unnamed goes. What is younger than an hour stays: its manifest may be on its way. A
server on the same directory notices by a file, see `Storage.changing`.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from pathlib import Path

from ..errors import NotFound
from ..oci import Digest, Index
from ..values import value
from .checked_names import Repository
from .holdings import Holdings, Space, contents, linked
from .messages import ProtocolError, ServerError
from .read_only import parse_manifest
from .storage import Storage
from .store_layout import StoreLayout, remove

YOUNG = 3600.0
"""Seconds for which a blob waits for its manifest."""


@value
class Collected:
    """What was removed: *files* of *size* bytes.

    *unread* are repositories with a manifest that cannot be read; they keep everything.
    """

    files: int
    size: int
    unread: tuple[str, ...] = ()


@value
class _Repository:
    """Blobs of the repository *name* that none of the *manifests* names."""

    name: Repository
    manifests: frozenset[Digest]
    unnamed: frozenset[Digest]


def collect(directory: Path, *, dry_run: bool = False) -> Collected:
    """Remove what no manifest names from a registry's *directory*.

    Raises NotFound when there is no such directory, ServerError when it is another one,
    or cannot be written.
    """
    layout = StoreLayout(directory)
    if not directory.is_dir():
        raise NotFound(f"{directory}: no such directory")
    if not layout.blobs.is_dir() and not layout.incomplete.is_dir():
        raise ServerError(
            f"{directory}: no registry has stored anything there; name the directory "
            "that serve --dir names"
        )
    collector = _Collector(layout)
    try:
        found = [collector.look(name) for name in layout.repositories()]
        if dry_run:
            return collector.sweep(found, dry_run=True)
        with Storage(layout, Space()).changing():
            return collector.sweep(found, dry_run=False)
    except (OSError, ProtocolError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ServerError(f"cannot clean {directory}: {reason}") from error


class _Collector:
    def __init__(self, layout: StoreLayout) -> None:
        self._layout = layout
        self._unread: set[str] = set()
        self._now = time.time()

    def look(self, name: Repository) -> _Repository:
        """Which old blobs of a repository nothing names."""
        path = self._layout.repository(name)
        manifests = frozenset(linked(path, ("_manifests",)))
        unnamed = {
            digest
            for digest in linked(path, ("_blobs",))
            if self._is_old(self._layout.blob_link(name, digest))
        }
        for digest in manifests if unnamed else ():
            unnamed -= self._named(name, digest)
        return _Repository(name, manifests, frozenset(unnamed))

    def sweep(self, found: list[_Repository], *, dry_run: bool) -> Collected:
        """Remove what *found* has, and content without a link; or only count it."""
        holdings = Holdings(self._layout, Space())
        holdings.load()
        files = size = 0
        for repository in found:
            for digest in self._still_unnamed(repository):
                holdings.remove(digest)
                if not dry_run:
                    remove(self._layout.blob_link(repository.name, digest))
        for digest, path in contents(self._layout.blobs):
            if not holdings.is_linked(digest) and self._is_old(path):
                files, size = files + 1, size + path.stat().st_size
                if not dry_run:
                    remove(path)
        if not dry_run:
            self._layout.write(self._layout.collected, uuid.uuid4().bytes)
        return Collected(files, size, tuple(sorted(self._unread)))

    def _still_unnamed(self, repository: _Repository) -> frozenset[Digest]:
        """What is unnamed now, after other manifests and uploads came."""
        path = self._layout.repository(repository.name)
        unnamed = set(repository.unnamed)
        for digest in linked(path, ("_manifests",)) if unnamed else ():
            if digest not in repository.manifests:
                unnamed -= self._named(repository.name, digest)
        if repository.name in self._unread:
            return frozenset()
        links = ((one, self._layout.blob_link(repository.name, one)) for one in unnamed)
        return frozenset(digest for digest, link in links if self._is_old(link))

    def _named(self, name: Repository, digest: Digest) -> set[Digest]:
        """What a manifest names; one that cannot be read may name anything."""
        try:
            kind = self._layout.manifest_link(name, digest).read_text()
            raw = self._layout.content(digest).read_bytes()
            manifest = parse_manifest(raw, kind)
        except FileNotFoundError:  # deleted meanwhile
            return set()
        except (ProtocolError, UnicodeDecodeError):
            self._unread.add(str(name))
            return set()
        if isinstance(manifest, Index):
            return {child.digest for child in manifest.manifests}
        return {part.digest for part in (manifest.config, *manifest.layers)}

    def _is_old(self, path: Path) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return self._now - path.stat().st_mtime > YOUNG
        return False
