"""Where things lie in the registry's directory, and how they get there in one step.

::

    blobs/<algorithm>/<xx>/<hex>                      content, also of manifests
    repositories/<name>/_blobs/<algorithm>/<hex>      empty: the repository holds it
    repositories/<name>/_manifests/<algorithm>/<hex>  its media type
    repositories/<name>/_tags/<tag>=<capitals>        a digest
    repositories/<name>/_referrers/<subject>/<hex>/<algorithm>-<hex>   a descriptor
    repositories/<name>/_uploads/<uuid>               bytes received so far
    incomplete/                                       emptied at the start
    lock                                              held by the server that writes
    changes                                           held by whoever changes something
    collected                                         changes when `serve --gc` ran

No component of a repository name starts with an underscore, so the two never meet.
Files appear under their final name by a rename and are complete then; nothing is
flushed to the disk by force, so this holds for a killed server, not for a power cut.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path
from typing import Iterator

from ..oci import Digest
from ..system import files
from .checked_names import Repository, SessionId, Tag

ATTEMPTS = 20
"""How often a directory is made that is removed at once, as it is empty."""


class StoreLayout:
    """The paths below *root*; only checked names go in."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.incomplete = root / "incomplete"
        self.lock = root / "lock"
        self.changes = root / "changes"
        self.collected = root / "collected"
        self.blobs = root / "blobs"
        self._repositories = root / "repositories"

    def repository(self, name: Repository) -> Path:
        """The directory of one repository."""
        return self._repositories / name

    def content(self, digest: Digest) -> Path:
        """The bytes of a blob or a manifest."""
        return self.blobs / digest.algorithm / digest.hex[:2] / digest.hex

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

    def prune(self, name: Repository) -> None:
        """Remove the directories of a repository in which nothing was stored."""
        path = self.uploads(name)
        with contextlib.suppress(OSError):  # the first that holds something
            while path != self._repositories:
                path.rmdir()
                path = path.parent

    def write(self, path: Path, content: bytes) -> None:
        """Write *content* to *path*, whole or not at all."""
        temporary = self.incomplete / uuid.uuid4().hex
        try:
            with files.open_new(temporary) as file:
                files.write_whole(file, content)
            move(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


def move(source: Path, target: Path) -> None:
    """Rename, making the directories of *target* where they are missing."""
    for _ in range(ATTEMPTS):
        with contextlib.suppress(FileNotFoundError):
            source.replace(target)
            return
        make_parent(target)
    source.replace(target)


def make_parent(path: Path) -> None:
    """Make the directory of *path*, which may be removed again at once."""
    with contextlib.suppress(FileNotFoundError, FileExistsError):
        path.parent.mkdir(parents=True, exist_ok=True)


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
