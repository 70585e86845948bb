"""Blobs, manifests, tags and referrers in a directory.

One lock guards every change of what a repository holds, so that a manifest is checked
and linked, a tag moved, or a blob deleted, as if nothing else went on. Content is
written and hashed before, outside the lock. Readers take no lock: each file is whole
whenever it is there, and content that vanishes under a link counts as absent.

Where things lie in the registry's directory, and how they get there in one step.

::

    blobs/<algorithm>/<xx>/<hex>                      content, also of manifests
    repositories/<name>/_blobs/<algorithm>/<hex>      empty: the repository holds it
    repositories/<name>/_manifests/<algorithm>/<hex>  its media type
    repositories/<name>/_tags/<tag>=<capitals>        a digest
    repositories/<name>/_referrers/<subject>/<hex>/<algorithm>-<hex>   a descriptor
    repositories/<name>/_uploads/<uuid>               bytes received so far
    incomplete/                                       emptied at the start
    lock                                              held by the server that writes

No component of a repository name starts with an underscore, so the two never meet.
Files appear under their final name by a rename and are complete then; nothing is
flushed to the disk by force, so this holds for a killed server, not for a power cut.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import uuid
from pathlib import Path
from typing import Any, BinaryIO, Callable, Iterable, Iterator

from ..oci import Digest, dump_json
from ..values import value
from .checked_names import Repository, SessionId, Tag


class Layout:
    """The paths below *root*; only checked names go in."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.incomplete = root / "incomplete"
        self.lock = root / "lock"
        self._blobs = root / "blobs"
        self._repositories = root / "repositories"

    def repository(self, name: Repository) -> Path:
        """The directory of one repository."""
        return self._repositories / name

    def content(self, digest: Digest) -> Path:
        """The bytes of a blob or a manifest."""
        return self._blobs / digest.algorithm / digest.hex[:2] / digest.hex

    def blob_link(self, name: Repository, digest: Digest) -> Path:
        """There when the repository holds the blob."""
        return self.repository(name) / "_blobs" / digest.algorithm / digest.hex

    def manifest_link(self, name: Repository, digest: Digest) -> Path:
        """There when the repository holds the manifest; its media type."""
        return self.repository(name) / "_manifests" / digest.algorithm / digest.hex

    def tag(self, name: Repository, tag: Tag) -> Path:
        """The digest that a tag stands for."""
        return self.tags(name) / tag.file_name

    def tags(self, name: Repository) -> Path:
        """The directory of all tags."""
        return self.repository(name) / "_tags"

    def referrers(self, name: Repository, subject: Digest) -> Path:
        """The directory of the descriptors of what refers to *subject*."""
        directory = self.repository(name) / "_referrers"
        return directory / subject.algorithm / subject.hex

    def upload(self, name: Repository, session: SessionId) -> Path:
        """The bytes that a session received."""
        return self.uploads(name) / session

    def uploads(self, name: Repository) -> Path:
        """The directory of all sessions."""
        return self.repository(name) / "_uploads"

    def repositories(self) -> Iterator[Repository]:
        """Every repository there is, in no order; those without content as well."""
        for path, directories, _ in os.walk(self._repositories):
            if any(name.startswith("_") for name in directories):
                relative = Path(path).relative_to(self._repositories)
                yield Repository(relative.as_posix())
            directories[:] = [name for name in directories if name[:1] != "_"]

    def write(self, path: Path, content: bytes) -> None:
        """Let *path* hold *content* from one moment to the next."""
        temporary = self.incomplete / uuid.uuid4().hex
        try:
            temporary.write_bytes(content)
            move(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


def move(source: Path, target: Path) -> None:
    """Rename, making the directories of *target* where they are missing."""
    try:
        source.replace(target)
    except FileNotFoundError:
        target.parent.mkdir(parents=True, exist_ok=True)
        source.replace(target)


def names_in(directory: Path) -> list[str]:
    """The names in *directory*; none when it does not exist."""
    try:
        return os.listdir(directory)  # noqa: PTH208 (no Path is needed for each)
    except FileNotFoundError:
        return []


def read_small(path: Path) -> bytes | None:
    """What a file of a few bytes holds; None when there is none."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def remove(path: Path) -> bool:
    """Delete a file; false when there is none."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
        return True
    return False


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
