"""Blobs, manifests, tags and referrers in a directory.

One lock guards every change of what a repository holds, so that a manifest is checked
and linked, a tag moved, or a blob deleted, as if nothing else went on. Content is
written and hashed before, outside the lock. Readers take no lock: each file is whole
whenever it is there, and content that vanishes under a link counts as absent.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any, BinaryIO, Callable, Iterable

from ..oci import Digest, dump_json
from ..values import value
from .checked_names import Repository, Tag
from .paths import Layout, move, names_in, read_small, remove


@value
class RawManifest:
    """A manifest as it was put: its type, and its exact bytes."""

    media_type: str
    digest: Digest
    raw: bytes


@value
class Reference:
    """An entry of a referrers list: *entry* refers to *subject*."""

    subject: Digest
    entry: dict[str, Any]


class Storage:
    """What the registry keeps in its directory."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._lock = threading.Lock()  # guards the links, tags and referrers

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

    def manifest(self, name: Repository, digest: Digest) -> RawManifest | None:
        """A manifest of the repository."""
        media_type = read_small(self.layout.manifest_link(name, digest))
        raw = read_small(self.layout.content(digest)) if media_type else None
        if media_type is None or raw is None:
            return None
        return RawManifest(media_type.decode(), digest, raw)

    def has_manifest(self, name: Repository, digest: Digest) -> bool:
        """True when `manifest` would give one."""
        link = self.layout.manifest_link(name, digest)
        return link.exists() and self.content_size(digest) is not None

    def tagged(self, name: Repository, tag: Tag) -> Digest | None:
        """What a tag stands for."""
        text = read_small(self.layout.tag(name, tag))
        return None if text is None else Digest(text.decode())

    def tags(self, name: Repository) -> set[str]:
        """Every tag of the repository."""
        files = names_in(self.layout.tags(name))
        return {tag for file in files if (tag := Tag.from_file_name(file))}

    def referrers(self, name: Repository, subject: Digest) -> list[dict[str, Any]]:
        """The descriptors of what refers to *subject*, in the order of digests."""
        directory = self.layout.referrers(name, subject)
        raw = (read_small(directory / file) for file in sorted(names_in(directory)))
        return [json.loads(text) for text in raw if text is not None]

    # Writing

    def adopt(self, upload: Path, name: Repository, digest: Digest) -> None:
        """Let the repository hold the blob *digest*, which *upload* was proven to be.

        The link comes first: a server killed between the two still has the upload.
        """
        with self._lock:
            self._link(self.layout.blob_link(name, digest), b"")
            move(upload, self.layout.content(digest))

    def mount(self, name: Repository, digest: Digest) -> bool:
        """Let the repository hold a blob that another one does; false when none."""
        with self._lock:
            if self.content_size(digest) is None:
                return False
            self._link(self.layout.blob_link(name, digest), b"")
            return True

    def put_manifest(
        self,
        name: Repository,
        manifest: RawManifest,
        *,
        tags: Iterable[Tag],
        reference: Reference | None,
        check: Callable[[], None],
    ) -> None:
        """Store *manifest*, what it refers to, and the tags, in this order.

        *check* runs under the lock and raises when something it needs is absent.
        """
        content = self.layout.content(manifest.digest)
        with self._lock:
            check()
            if self.content_size(manifest.digest) is None:
                self.layout.write(content, manifest.raw)
            link = self.layout.manifest_link(name, manifest.digest)
            self.layout.write(link, manifest.media_type.encode())
            if reference is not None:
                path = self._referrer(name, reference.subject, manifest.digest)
                self.layout.write(path, dump_json(reference.entry))
            for tag in tags:
                self.layout.write(self.layout.tag(name, tag), manifest.digest.encode())

    def delete_tag(self, name: Repository, tag: Tag) -> bool:
        """Forget a tag, not the manifest; false when there is none."""
        with self._lock:
            return remove(self.layout.tag(name, tag))

    def delete_manifest(
        self, name: Repository, digest: Digest, subject: Digest | None
    ) -> bool:
        """Forget a manifest, the tags on it, and that it refers to *subject*."""
        with self._lock:
            for tag in self.tags(name):
                if self.tagged(name, Tag(tag)) == digest:
                    remove(self.layout.tag(name, Tag(tag)))
            if subject is not None:
                remove(self._referrer(name, subject, digest))
            found = remove(self.layout.manifest_link(name, digest))
            self._drop_unused(digest)
            return found

    def delete_blob(self, name: Repository, digest: Digest) -> bool:
        """Forget a blob of one repository; its bytes go with the last one."""
        with self._lock:
            found = remove(self.layout.blob_link(name, digest))
            self._drop_unused(digest)
            return found

    def _drop_unused(self, digest: Digest) -> None:
        for name in self.layout.repositories():
            links = (self.layout.blob_link, self.layout.manifest_link)
            if any(link(name, digest).exists() for link in links):
                return
        remove(self.layout.content(digest))

    def _link(self, path: Path, content: bytes) -> None:
        if not path.exists():
            self.layout.write(path, content)

    def _referrer(self, name: Repository, subject: Digest, digest: Digest) -> Path:
        file = f"{digest.algorithm}-{digest.hex}"
        return self.layout.referrers(name, subject) / file
