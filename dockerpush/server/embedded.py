"""The registry as an object: archives first, then the directory, no HTTP."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Iterable, Iterator, Sequence, Union

from ..errors import reason_of
from ..oci import Digest
from ..system import files
from .checked_names import Repository, SessionId, Tag
from .holdings import Space
from .messages import (
    MANIFEST_BLOB_UNKNOWN,
    NAME_UNKNOWN,
    Incoming,
    OpenBlob,
    ProtocolError,
    ServerError,
    blob_unknown,
    kept_elsewhere,
    manifest_unknown,
)
from .read_only import Needs, ReadOnlySource, needs_of, parse_manifest, reference_of
from .storage import ServedManifest, Storage
from .store_layout import StoreLayout, names_in, remove
from .upload_files import Uploads

WEEK = 7 * 24 * 3600.0

IN_MEMORY = 64 * 1024
"""Bytes of a manifest that is received, or of a list that is sent, in memory."""

Content = Union[bytes, OpenBlob]


class Registry:
    """Images in *directory*, and in the archives of *sources*, which come first.

    *read_only* refuses every change, and needs no directory to exist.
    *min_chunk* is announced as OCI-Chunk-Min-Length, in bytes. *sparse* accepts
    manifests whose blobs or children are absent. *max_size* is how many bytes there may
    be of blobs, manifests and uploads. Without *deletes* nothing that was stored goes.
    """

    def __init__(
        self,
        directory: Path,
        *,
        read_only: bool = False,
        sources: Sequence[ReadOnlySource] = (),
        min_chunk: int | None = None,
        sparse: bool = False,
        max_size: int | None = None,
        deletes: bool = True,
    ) -> None:
        self.read_only = read_only
        self.deletes = deletes and not read_only
        self.min_chunk = min_chunk
        self._sparse = sparse
        self._sources = tuple(sources)
        self._layout = StoreLayout(Path(directory))
        self.space = Space(max_size)
        self._storage = Storage(self._layout, self.space)
        self._uploads = Uploads(self._layout, WEEK, self.space)
        self.large_json = threading.Lock()
        """Held by whoever has a manifest or a list in memory: one at a time."""
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Registry:
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def open(self) -> None:
        """Claim the directory for writing, and clear what a killed server left.

        Raises ServerError when another server has it, or when it cannot be written.
        """
        if self.read_only:
            return
        root = self._layout.root
        try:
            files.make_directories(root)
            self._layout.incomplete.mkdir(exist_ok=True)
            held = self._open.enter_context(files.try_lock(self._layout.lock))
            if not held:
                raise ServerError(
                    f"{root}: another server uses this directory; stop it, or serve "
                    "another directory or this one read-only"
                )
            for name in names_in(self._layout.incomplete):
                remove(self._layout.incomplete / name)
            self._uploads.load()
            self._storage.load()
        except OSError as error:
            self.close()
            reason = reason_of(error)
            raise ServerError(
                f"cannot store in {root}: {reason}; name another directory"
            ) from error
        except ServerError:
            self.close()
            raise

    def close(self) -> None:
        """Give the directory back."""
        self._open.close()

    def is_healthy(self) -> bool:
        """False when the directory that a server writes to is gone."""
        return self.read_only or self._layout.incomplete.is_dir()

    # Blobs

    def blob_size(self, name: Repository, digest: Digest) -> int:
        """Bytes. Raises ProtocolError (BLOB_UNKNOWN)."""
        for source in self._sources:
            size = source.blob_size(name, digest)
            if size is not None:
                return size
        size = self._storage.blob_size(name, digest)
        if size is None:
            raise blob_unknown(digest)
        return size

    def open_blob(
        self, name: Repository, digest: Digest, start: int, count: int
    ) -> OpenBlob:
        """A reader that stands at *start*. Raises ProtocolError (BLOB_UNKNOWN)."""
        for source in self._sources:
            if source.blob_size(name, digest) is not None:
                return source.open_blob(digest, start, count)
        file = self._storage.open_blob(name, digest)
        if file is None:
            raise blob_unknown(digest)
        file.seek(start)
        return file  # type: ignore[return-value]

    def mount(self, name: Repository, digest: Digest, origin: str | None) -> bool:
        """Take a blob over from the repository *origin*; false when it cannot be done.

        Without *origin*, from any (distribution-spec, Mounting a blob from another
        repository).
        """
        if origin and self._storage.blob_size(Repository(origin), digest) is None:
            return False
        return self._storage.mount(name, digest)

    def delete_blob(self, name: Repository, digest: Digest) -> None:
        """Raises ProtocolError: unknown, or part of an archive."""
        if any(source.blob_size(name, digest) is not None for source in self._sources):
            raise kept_elsewhere(f"blob {digest}")
        if not self._storage.delete_blob(name, digest):
            raise blob_unknown(digest)

    # Upload sessions

    def start_upload(
        self, name: Repository, algorithm: str, address: str = ""
    ) -> SessionId:
        """A new session, which expects a blob with a digest of *algorithm*.

        Raises ProtocolError (503) when there are too many, also of one *address*.
        """
        return self._uploads.start(name, algorithm, address)

    def upload_count(self) -> int:
        """How many sessions are open."""
        return len(self._uploads)

    def upload_size(self, name: Repository, session: SessionId) -> int:
        """Bytes received. Raises ProtocolError (BLOB_UPLOAD_UNKNOWN)."""
        return self._uploads.find(name, session).size()

    def append(
        self, name: Repository, session: SessionId, body: Incoming, start: int | None
    ) -> int:
        """Receive a chunk; how many bytes there are then. See Session.append."""
        return self._uploads.find(name, session).append(body, start)

    def finish_upload(
        self,
        name: Repository,
        session: SessionId,
        body: Incoming,
        *,
        start: int | None,
        digest: Digest,
    ) -> None:
        """Receive the last chunk and let the repository hold the blob.

        See Session.finish.
        """

        def adopt(path: Path) -> None:
            self._storage.adopt(path, name, digest)

        found = self._uploads.find(name, session)
        try:
            found.finish(body, start, digest=digest, adopt=adopt)
        finally:
            self._uploads.forget_if_gone(name, session)

    def cancel_upload(self, name: Repository, session: SessionId) -> None:
        """Forget a session. Raises ProtocolError (BLOB_UPLOAD_UNKNOWN)."""
        self._uploads.find(name, session)
        self._uploads.forget(name, session)

    def drop_upload(self, name: Repository, session: SessionId) -> None:
        """Forget a session, if it is still there."""
        self._uploads.forget(name, session)

    # Manifests

    def resolve(self, name: Repository, reference: Tag | Digest | None) -> Digest:
        """The digest of a tag, or *reference* itself. Raises ProtocolError (404)."""
        if isinstance(reference, Digest):
            return reference
        found = None if reference is None else self._tagged(name, reference)
        if found is None:
            self._check_repository(name)
            raise manifest_unknown(reference or "not a tag")
        return found

    def open_manifest(
        self, name: Repository, reference: Tag | Digest | None
    ) -> tuple[str, Digest, Content, int]:
        """Media type, digest, content and size; a file is to be closed.

        Raises ProtocolError (MANIFEST_UNKNOWN or NAME_UNKNOWN).
        """
        digest = self.resolve(name, reference)
        for source in self._sources:
            found = source.manifest(name, digest)
            if found is not None:
                return found.media_type, digest, found.raw, len(found.raw)
        opened = self._storage.open_manifest(name, digest)
        size = self._storage.content_size(digest)
        if opened is None or size is None:
            self._check_repository(name)
            raise manifest_unknown(reference or digest)
        return opened[0], digest, opened[1], size  # type: ignore[return-value]

    def manifest(
        self, name: Repository, reference: Tag | Digest | None
    ) -> ServedManifest:
        """Raises ProtocolError (MANIFEST_UNKNOWN or NAME_UNKNOWN)."""
        media_type, digest, content, _ = self.open_manifest(name, reference)
        if isinstance(content, bytes):
            return ServedManifest(media_type, digest, content)
        with contextlib.closing(content):
            return ServedManifest(media_type, digest, content.read())  # type: ignore[attr-defined]

    def tagged_at(self, name: Repository, tag: Tag) -> float | None:
        """When a tag came, in seconds of the epoch; None for one of an archive."""
        if any(source.tagged(name, tag) for source in self._sources):
            return None
        return self._storage.tagged_at(name, tag)

    def spool(self) -> IO[bytes]:
        """A file for JSON of any size, which is in memory as long as it is small."""
        return tempfile.SpooledTemporaryFile(IN_MEMORY)

    def put_manifest(
        self, name: Repository, manifest: ServedManifest, tags: Iterable[Tag]
    ) -> Digest | None:
        """Store a manifest whose digest was checked; the digest of its subject.

        Raises ProtocolError: MANIFEST_INVALID, MANIFEST_BLOB_UNKNOWN, or a tag that an
        archive keeps.
        """
        tags = tuple(tags)
        for tag in tags:
            if any(source.tagged(name, tag) for source in self._sources):
                raise kept_elsewhere(f"tag {tag}")
        parsed = parse_manifest(manifest.raw, manifest.media_type)
        needs, reference = needs_of(parsed), reference_of(parsed, manifest)
        self._storage.put_manifest(
            name,
            manifest,
            tags=tags,
            reference=reference,
            check=lambda: self._check_needs(name, needs),
        )
        return None if reference is None else reference.subject

    def delete_manifest(self, name: Repository, reference: Tag | Digest | None) -> None:
        """Forget a tag, or a manifest with all its tags.

        Raises ProtocolError: unknown, or part of an archive.
        """
        if reference is None:
            raise manifest_unknown("not a tag")
        if isinstance(reference, Digest):
            done = self._delete_by_digest(name, reference)
        elif any(source.tagged(name, reference) for source in self._sources):
            raise kept_elsewhere(f"tag {reference}")
        else:
            done = self._storage.delete_tag(name, reference)
        if not done:
            self._check_repository(name)
            raise manifest_unknown(reference)

    # Listings

    def tags(self, name: Repository) -> list[str]:
        """In the order of ASCII. Raises ProtocolError (NAME_UNKNOWN)."""
        self._check_repository(name)
        found = self._storage.tags(name)
        for source in self._sources:
            found.update(source.repositories.get(name, ()))
        return sorted(found)

    def referrers(
        self, name: Repository, subject: Digest, after: str
    ) -> Iterator[dict[str, Any]]:
        """The descriptors of what refers to *subject*, in the order of their digests.

        Only those of a digest above *after*. Each is read when it is asked for.
        """
        lists = [self._storage.referrers(name, subject, after)]
        for source in self._sources:
            entries = source.referrers(name, subject)
            lists.append(entry for entry in entries if entry["digest"] > after)
        last = ""
        for entry in heapq.merge(*lists, key=lambda entry: str(entry["digest"])):
            if entry["digest"] != last:
                yield entry
            last = entry["digest"]

    def repositories(self) -> list[str]:
        """Every repository that holds something, in the order of ASCII."""
        if self.read_only:
            names = self._layout.repositories()
            found = {str(name) for name in names if self._storage.has_repository(name)}
        else:
            found = set(self._storage.repositories())
        for source in self._sources:
            found.update(source.repositories)
        return sorted(found)

    # Helpers

    def _tagged(self, name: Repository, tag: Tag) -> Digest | None:
        for source in self._sources:
            digest = source.tagged(name, tag)
            if digest is not None:
                return digest
        return self._storage.tagged(name, tag)

    def _delete_by_digest(self, name: Repository, digest: Digest) -> bool:
        if any(source.manifest(name, digest) for source in self._sources):
            raise kept_elsewhere(f"manifest {digest}")
        stored = self._storage.manifest(name, digest)
        if stored is None:
            return False
        return self._storage.delete_manifest(name, digest, _subject_of(stored))

    def _check_repository(self, name: Repository) -> None:
        if self._storage.has_repository(name):
            return
        if not any(source.has(name) for source in self._sources):
            raise ProtocolError(404, NAME_UNKNOWN, f"no such repository: {name}")

    def _check_needs(self, name: Repository, needs: Needs) -> None:
        if self._sparse:
            return
        blobs, manifests = dict.fromkeys(needs.blobs), dict.fromkeys(needs.manifests)
        absent = (digest for digest in blobs if not self._has_blob(name, digest))
        childless = (one for one in manifests if not self._has_manifest(name, one))
        others = (
            one
            for one in dict.fromkeys(needs.either)
            if not (self._has_blob(name, one) or self._has_manifest(name, one))
        )
        gone = itertools.chain(absent, childless, others)
        details = tuple(itertools.islice(gone, 100))
        if details:
            message = "the manifest needs what this repository does not hold"
            raise ProtocolError(400, MANIFEST_BLOB_UNKNOWN, message, details=details)

    def _has_blob(self, name: Repository, digest: Digest) -> bool:
        sizes = (source.blob_size(name, digest) for source in self._sources)
        if any(size is not None for size in sizes):
            return True
        return self._storage.blob_size(name, digest) is not None

    def _has_manifest(self, name: Repository, digest: Digest) -> bool:
        if any(source.manifest(name, digest) for source in self._sources):
            return True
        return self._storage.has_manifest(name, digest)


def _subject_of(stored: ServedManifest) -> Digest | None:
    """What a manifest refers to; None also for one that an older server took."""
    try:
        parsed = parse_manifest(stored.raw, stored.media_type)
    except ProtocolError:
        return None
    reference = reference_of(parsed, stored)
    return None if reference is None else reference.subject
