"""What an archive offers to be served as it lies there, described by the caller.

The server reads no archives itself: whoever opens one hands in a `ReadOnlySource`. Its
bytes are not copied. As nobody has hashed them here, the first reader of a blob gets
its last bytes only when the digest turned out right (`CheckedReader`).
`parse_manifest` says what a manifest needs, and what it refers to.
"""

from __future__ import annotations

from typing import Any, Callable, Mapping

from ..documents import is_document
from ..errors import InvalidDigest, InvalidJSON
from ..oci import (
    INDEX_TYPES,
    MANIFEST_TYPES,
    OCI_INDEX,
    Descriptor,
    Digest,
    Index,
    Manifest,
    optional,
    parse_json,
    require,
)
from ..strict_json import ANY
from ..values import value
from .checked_names import Repository, Tag
from .messages import MANIFEST_INVALID, Disconnected, OpenBlob, ProtocolError
from .storage import Referrer, ServedManifest

MOST_VALUES = 200_000
"""Values in a manifest; an index of 4 MiB with 14,000 platforms has 130,000."""

ANNOTATIONS = 2 * 1024 * 1024
"""Bytes of annotations that a list of referrers repeats of each of them."""


@value
class Needs:
    """Digests without which a manifest is not complete.

    *either* may be manifests or blobs: their type is not known.
    """

    blobs: tuple[Digest, ...] = ()
    manifests: tuple[Digest, ...] = ()
    either: tuple[Digest, ...] = ()


def parse_manifest(raw: bytes, media_type: str) -> Manifest | Index:
    """*raw* as what *media_type* (or, without one, the document) says it is.

    Raises ProtocolError (MANIFEST_INVALID).
    """
    try:
        _check_values(raw)
        record = require(parse_json(raw, "manifest", ANY), dict, "manifest")
        stated = record.get("mediaType") or ""
        if media_type and stated and stated != media_type:
            message = f"Content-Type is {media_type}, mediaType is {stated!r}"
            raise InvalidJSON(message[:200])
        known = media_type or stated
        if known in MANIFEST_TYPES:
            return Manifest.from_bytes(raw, known)
        if known in INDEX_TYPES:
            return Index.from_bytes(raw, known)
        raise InvalidJSON(f"not a manifest of a known type: {known!r:.120}")
    except (InvalidJSON, InvalidDigest) as error:
        raise ProtocolError(400, MANIFEST_INVALID, str(error)) from error


def stated_type(raw: bytes) -> str:
    """The media type that the document gives itself, "" when it gives none."""
    try:
        _check_values(raw)
        record = require(parse_json(raw, "manifest", ANY), dict, "manifest")
        return str(optional(record, "mediaType", str, "manifest") or "")
    except InvalidJSON as error:
        raise ProtocolError(400, MANIFEST_INVALID, str(error)) from error


def _check_values(raw: bytes) -> None:
    """Raises InvalidJSON for what would take far more memory than it has bytes."""
    if raw.count(b",") + raw.count(b"[") + raw.count(b"{") > MOST_VALUES:
        raise InvalidJSON(f"manifest: more than {MOST_VALUES} values")


def needs_of(manifest: Manifest | Index) -> Needs:
    """Config and layers, or children; not what may be fetched elsewhere (``urls``).

    The children of an index may be blobs, as in a cache of BuildKit.
    """
    if isinstance(manifest, Index):
        children = [child for child in manifest.manifests if not child.urls]
        return Needs(
            manifests=tuple(one.digest for one in children if is_document(one)),
            either=tuple(one.digest for one in children if not is_document(one)),
        )
    parts = (manifest.config, *manifest.layers)
    return Needs(blobs=tuple(part.digest for part in parts if not part.urls))


def reference_of(manifest: Manifest | Index, stored: ServedManifest) -> Referrer | None:
    """What *manifest*, stored as *stored*, says of its subject, if it has one.

    (distribution-spec, Listing Referrers.) Annotations beyond `ANNOTATIONS` are in the
    manifest alone.
    """
    if manifest.subject is None:
        return None
    kind = manifest.artifact_type
    if not kind and isinstance(manifest, Manifest):
        kind = manifest.config.media_type
    entry = Descriptor(
        stored.media_type,
        stored.digest,
        len(stored.raw),
        annotations=_capped(manifest.annotations),
        artifact_type=kind,
    )
    return Referrer(manifest.subject.digest, entry.to_json())


def _capped(annotations: Mapping[str, str] | None) -> dict[str, str]:
    """The first of *annotations* that have some KiB together."""
    kept: dict[str, str] = {}
    room = ANNOTATIONS
    for key, text in (annotations or {}).items():
        room -= len(key) + len(text)
        if room < 0:
            break
        kept[key] = text
    return kept


def index_of(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """An image index of *entries*, as the referrers API gives it."""
    return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}


@value
class SourceBlob:
    """*size* bytes; *open_at* gives an independent reader from an offset on."""

    size: int
    open_at: Callable[[int], OpenBlob]


class ReadOnlySource:
    """Images of an archive or an OCI directory.

    *repositories* maps a repository name to its tags, and these to manifests; every
    blob and manifest of the source is found in each of these repositories. Raises
    ProtocolError for a name that is not one.
    """

    def __init__(
        self,
        repositories: Mapping[str, Mapping[str, Digest]],
        manifests: Mapping[Digest, ServedManifest],
        blobs: Mapping[Digest, SourceBlob],
    ) -> None:
        self.repositories = repositories
        self.manifests = manifests
        self.blobs = blobs
        self._referrers: dict[Digest, list[dict[str, Any]]] = {}
        self._checked: set[Digest] = set()
        for name in self.repositories:
            Repository(name)
        for digest in sorted(self.manifests):
            manifest = self.manifests[digest]
            parsed = parse_manifest(manifest.raw, manifest.media_type)
            reference = reference_of(parsed, manifest)
            if reference is not None:
                entries = self._referrers.setdefault(reference.subject, [])
                entries.append(reference.entry)

    def has(self, name: Repository) -> bool:
        """True when the source has images for this repository."""
        return name in self.repositories

    def tagged(self, name: Repository, tag: Tag) -> Digest | None:
        """What a tag stands for."""
        return self.repositories.get(name, {}).get(tag)

    def manifest(self, name: Repository, digest: Digest) -> ServedManifest | None:
        """A manifest of the repository."""
        return self.manifests.get(digest) if self.has(name) else None

    def referrers(self, name: Repository, subject: Digest) -> list[dict[str, Any]]:
        """The descriptors of what refers to *subject*."""
        return self._referrers.get(subject, []) if self.has(name) else []

    def blob_size(self, name: Repository, digest: Digest) -> int | None:
        """Bytes of a blob of the repository."""
        blob = self.blobs.get(digest) if self.has(name) else None
        return None if blob is None else blob.size

    def open_blob(self, digest: Digest, start: int, count: int) -> OpenBlob:
        """*count* bytes of a blob that there is."""
        blob = self.blobs[digest]
        reader = blob.open_at(start)
        if digest in self._checked or count < blob.size:
            return reader
        return CheckedReader(reader, digest, count, self._checked.add)


class CheckedReader:
    """A reader of a whole blob that keeps its end back until the digest is right."""

    def __init__(
        self,
        reader: OpenBlob,
        digest: Digest,
        size: int,
        on_checked: Callable[[Digest], None],
    ) -> None:
        self._reader = reader
        self._digest = digest
        self._hasher = digest.hasher()
        self._remaining = size
        self._on_checked = on_checked

    def readinto(self, buffer: memoryview, /) -> int:
        """As the reader; raises Disconnected instead of giving wrong last bytes."""
        count = self._reader.readinto(buffer) or 0
        self._hasher.update(buffer[:count])
        self._remaining -= count
        if count and self._remaining == 0:
            if Digest.from_hash(self._hasher) != self._digest:
                raise Disconnected(f"the archive's bytes are not {self._digest}")
            self._on_checked(self._digest)
        return count

    def close(self) -> None:
        """Close the reader."""
        self._reader.close()
