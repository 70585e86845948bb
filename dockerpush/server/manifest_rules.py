"""What the registry must know of a manifest: what it needs, and what it refers to."""

from __future__ import annotations

from typing import Any

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
from ..values import value
from .protocol_errors import MANIFEST_INVALID, ProtocolError
from .storage import RawManifest, Reference


@value
class Needs:
    """Digests without which a manifest is not complete."""

    blobs: tuple[Digest, ...] = ()
    manifests: tuple[Digest, ...] = ()


def parse_manifest(raw: bytes, media_type: str) -> Manifest | Index:
    """*raw* as what *media_type* (or, without one, the document) says it is.

    Raises ProtocolError (MANIFEST_INVALID).
    """
    try:
        record = require(parse_json(raw, "manifest"), dict, "manifest")
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
        record = require(parse_json(raw, "manifest"), dict, "manifest")
        return str(optional(record, "mediaType", str, "manifest") or "")
    except InvalidJSON as error:
        raise ProtocolError(400, MANIFEST_INVALID, str(error)) from error


def needs_of(manifest: Manifest | Index) -> Needs:
    """Config and layers, or children; not what may be fetched elsewhere (``urls``)."""
    if isinstance(manifest, Index):
        return Needs(manifests=tuple(child.digest for child in manifest.manifests))
    parts = (manifest.config, *manifest.layers)
    return Needs(blobs=tuple(part.digest for part in parts if not part.urls))


def reference_of(manifest: Manifest | Index, stored: RawManifest) -> Reference | None:
    """What *manifest*, stored as *stored*, says of its subject, if it has one.

    (distribution-spec, Listing Referrers.)
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
        annotations=manifest.annotations,
        artifact_type=kind,
    )
    return Reference(manifest.subject.digest, entry.to_json())


def index_of(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """An image index of *entries*, as the referrers API gives it."""
    return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
