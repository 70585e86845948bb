"""Blobs, manifests, tags and referrers in a directory.

One lock guards every change of what a repository holds, so that a manifest is checked
and linked, a tag moved, or a blob deleted, as if nothing else went on. Content is
written and hashed before, outside the lock. Readers take no lock: each file is whole
whenever it is there, and content that vanishes under a link counts as absent.

A lock of the system is held beside it, so that `serve --gc` can work on the directory
of a server that runs.
"""

from __future__ import annotations

import contextlib
import heapq
import threading
from pathlib import Path
from typing import Any, BinaryIO, Callable, Iterable, Iterator

from ..errors import StateError
from ..oci import Digest, dump_json, parse_json
from ..system import files
from ..values import value
from .checked_names import Repository, Tag
from .holdings import Holdings, Space
from .messages import busy
from .store_layout import StoreLayout, move, names_in, read_small, remove

CHANGE_SECONDS = 60.0
"""How long `serve --gc` in another process may take to remove what it found."""


@value
class ServedManifest:
    """A manifest as it was put: its type, and its exact bytes."""

    media_type: str
    digest: Digest
    raw: bytes


@value
class Referrer:
    """An entry of a referrers list: *entry* refers to *subject*."""

    subject: Digest
    entry: dict[str, Any]


class Storage:
    """What the registry keeps in its directory."""

    def __init__(self, layout: StoreLayout, space: Space) -> None:
        self.layout = layout
        self._space = space
        self._holdings = Holdings(layout, space)
        self._collected: object = None
        self._lock = threading.Lock()  # guards the links, tags and referrers

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Nobody else changes what the repositories hold, for the ``with``.

        Raises ProtocolError (503) when somebody does for too long.
        """
        with self._lock, contextlib.ExitStack() as stack:
            try:
                lock = files.locked(self.layout.changes, timeout=CHANGE_SECONDS)
                stack.enter_context(lock)
            except StateError as error:
                raise busy("changes", 10) from error
            collected = _stamp(self.layout.collected)
            if collected != self._collected:
                self._collected = collected
                self._holdings.load()
            yield

    def load(self) -> None:
        """Count what there is. Raises OSError."""
        with self._lock:
            self._collected = _stamp(self.layout.collected)
            self._holdings.load()

    def repositories(self) -> list[str]:
        """Repositories in which something was stored, in the order of ASCII."""
        with self._lock:
            return self._holdings.repositories()

    # Reading

    def has_repository(self, name: Repository) -> bool:
        """True once a blob, a manifest or a tag was stored in it."""
        path = self.layout.repository(name)
        return any((path / kind).is_dir() for kind in ("_manifests", "_blobs"))

    def blob_size(self, name: Repository, digest: Digest) -> int | None:
        """Bytes of a blob of the repository; None when it has none such."""
        if not self.layout.blob_link(name, digest).exists():
            return None
        return self.content_size(digest)

    def content_size(self, digest: Digest) -> int | None:
        """Bytes of a blob of any repository."""
        try:
            return self.layout.content(digest).stat().st_size
        except FileNotFoundError:
            return None

    def open_blob(self, name: Repository, digest: Digest) -> BinaryIO | None:
        """The blob from its first byte, without a buffer, for the caller to close."""
        if not self.layout.blob_link(name, digest).exists():
            return None
        try:
            return self.layout.content(digest).open("rb", buffering=0)
        except FileNotFoundError:
            return None

    def open_manifest(
        self, name: Repository, digest: Digest
    ) -> tuple[str, BinaryIO] | None:
        """The media type of a manifest of the repository, and a file to be closed."""
        media_type = read_small(self.layout.manifest_link(name, digest))
        if media_type is None:
            return None
        with contextlib.suppress(FileNotFoundError):
            file = self.layout.content(digest).open("rb", buffering=0)
            return media_type.decode(), file
        return None

    def manifest(self, name: Repository, digest: Digest) -> ServedManifest | None:
        """A manifest of the repository."""
        found = self.open_manifest(name, digest)
        if found is None:
            return None
        with found[1] as file:
            return ServedManifest(found[0], digest, file.read())

    def has_manifest(self, name: Repository, digest: Digest) -> bool:
        """True when `manifest` would give one."""
        link = self.layout.manifest_link(name, digest)
        return link.exists() and self.content_size(digest) is not None

    def tagged(self, name: Repository, tag: Tag) -> Digest | None:
        """What a tag stands for."""
        text = read_small(self.layout.tag(name, tag))
        return None if text is None else Digest(text.decode())

    def tagged_at(self, name: Repository, tag: Tag) -> float | None:
        """When a tag was stored, in seconds since 1970."""
        try:
            return self.layout.tag(name, tag).stat().st_mtime
        except FileNotFoundError:
            return None

    def tags(self, name: Repository) -> set[str]:
        """Every tag of the repository."""
        files = names_in(self.layout.tags(name))
        return {tag for file in files if (tag := Tag.from_file_name(file))}

    def referrers(
        self, name: Repository, subject: Digest, after: str
    ) -> Iterator[dict[str, Any]]:
        """The descriptors of what refers to *subject*, in the order of digests.

        Only those of a digest above *after*. Each is read when it is asked for.
        """
        directory = self.layout.referrers(name, subject)
        names = (file.replace("-", ":", 1) for file in names_in(directory))
        waiting = [digest for digest in names if digest > after]
        heapq.heapify(waiting)
        while waiting:
            raw = read_small(directory / heapq.heappop(waiting).replace(":", "-"))
            if raw is not None:
                yield parse_json(raw, "referrer")

    # Writing

    def adopt(self, upload: Path, name: Repository, digest: Digest) -> None:
        """Let the repository hold the blob *digest*, which *upload* was proven to be.

        The link comes first: a server killed between the two still has the upload.
        """
        with self.changing():
            known = self.content_size(digest) or 0
            self._link_blob(name, digest)
            move(upload, self.layout.content(digest))
            self._space.store((self.content_size(digest) or 0) - known)

    def mount(self, name: Repository, digest: Digest) -> bool:
        """Let the repository hold a blob that another one does; false when none."""
        with self.changing():
            if self.content_size(digest) is None:
                return False
            self._link_blob(name, digest)
            return True

    def put_manifest(
        self,
        name: Repository,
        manifest: ServedManifest,
        *,
        tags: Iterable[Tag],
        reference: Referrer | None,
        check: Callable[[], None],
    ) -> None:
        """Store *manifest*, what it refers to, and the tags, in this order.

        *check* runs under the lock and raises when something it needs is absent.
        """
        with self.changing():
            check()
            if self.content_size(manifest.digest) is None:
                with self._space.room_for(len(manifest.raw)):
                    content = self.layout.content(manifest.digest)
                    self.layout.write(content, manifest.raw)
                self._space.store(len(manifest.raw))
            link = self.layout.manifest_link(name, manifest.digest)
            known = link.exists()
            self.layout.write(link, manifest.media_type.encode())
            if not known:
                self._holdings.add(name, manifest.digest)
            if reference is not None:
                path = self._referrer(name, reference.subject, manifest.digest)
                self.layout.write(path, dump_json(reference.entry))
            for tag in tags:
                self.layout.write(self.layout.tag(name, tag), manifest.digest.encode())

    def delete_tag(self, name: Repository, tag: Tag) -> bool:
        """Forget a tag, not the manifest; false when there is none."""
        with self.changing():
            return remove(self.layout.tag(name, tag))

    def delete_manifest(
        self, name: Repository, digest: Digest, subject: Digest | None
    ) -> bool:
        """Forget a manifest, the tags on it, and that it refers to *subject*."""
        with self.changing():
            for tag in self.tags(name):
                if self.tagged(name, Tag(tag)) == digest:
                    remove(self.layout.tag(name, Tag(tag)))
            if subject is not None:
                remove(self._referrer(name, subject, digest))
            return self._unlink(self.layout.manifest_link(name, digest), digest)

    def delete_blob(self, name: Repository, digest: Digest) -> bool:
        """Forget a blob of one repository; its bytes go with the last one."""
        with self.changing():
            return self._unlink(self.layout.blob_link(name, digest), digest)

    def _unlink(self, link: Path, digest: Digest) -> bool:
        """Remove a link, and the content with the last one; false when it is absent."""
        if not remove(link):
            return False
        if self._holdings.remove(digest):
            size = self.content_size(digest) or 0
            if remove(self.layout.content(digest)):
                self._space.store(-size)
        return True

    def _link_blob(self, name: Repository, digest: Digest) -> None:
        """Let the repository hold a blob; an old link is as young as a new one then."""
        path = self.layout.blob_link(name, digest)
        if path.exists():
            path.touch()
            return
        self.layout.write(path, b"")
        self._holdings.add(name, digest)

    def _referrer(self, name: Repository, subject: Digest, digest: Digest) -> Path:
        file = f"{digest.algorithm}-{digest.hex}"
        return self.layout.referrers(name, subject) / file


def _stamp(path: Path) -> object:
    """What changes when another file is put in place of *path*."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns
