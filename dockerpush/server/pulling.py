"""The endpoints of blobs, manifests and lists."""

from __future__ import annotations

import hashlib

from ..oci import JSON_LIMIT, Digest
from .body import read_all
from .checked_names import Repository, Tag, parse_digest, parse_reference
from .embedded import Registry
from .listing import page_of_names, page_of_referrers
from .manifest_rules import index_of, stated_type
from .messages import (
    Request,
    Response,
    Span,
    index_response,
    json_response,
    media_type_of,
    parse_range,
)
from .protocol_errors import (
    DIGEST_INVALID,
    MANIFEST_INVALID,
    SIZE_INVALID,
    ProtocolError,
)
from .storage import RawManifest


class BlobEndpoints:
    """``/v2/<name>/blobs/<digest>``"""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def read(self, request: Request, name: Repository, item: str) -> Response:
        """The blob or a part of it (Pulling blobs)."""
        digest = parse_digest(item)
        size = self._registry.blob_size(name, digest)
        headers = {
            "Content-Type": "application/octet-stream",
            "Accept-Ranges": "bytes",
            "Docker-Content-Digest": str(digest),
        }
        if request.method == "HEAD":
            return Response(200, headers, b"", size)
        whole = request.headers.first("If-Range") is not None  # we give no validators
        span = None if whole else parse_range(request.headers.first("Range"), size)
        start, count = span or (0, size)
        content = self._registry.open_blob(name, digest, start, count)
        if span is None:
            return Response(200, headers, Span(content, count), count)
        headers["Content-Range"] = f"bytes {start}-{start + count - 1}/{size}"
        return Response(206, headers, Span(content, count), count)

    def delete(self, request: Request, name: Repository, item: str) -> Response:
        """Deleting Blobs."""
        self._registry.delete_blob(name, parse_digest(item))
        return Response.of(202, {})


class ManifestEndpoints:
    """``/v2/<name>/manifests/<reference>``, tags and referrers."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def read(self, request: Request, name: Repository, item: str) -> Response:
        """The manifest, byte for byte (Pulling manifests)."""
        manifest = self._registry.manifest(name, parse_reference(item))
        headers = {
            "Content-Type": manifest.media_type,
            "Docker-Content-Digest": str(manifest.digest),
        }
        return Response.of(200, headers, manifest.raw)

    def put(self, request: Request, name: Repository, item: str) -> Response:
        """Pushing Manifests, under a tag, a digest, or a digest with tags."""
        reference = parse_reference(item)
        if reference is None:
            raise ProtocolError(400, MANIFEST_INVALID, f"not a tag: {item[:160]!r}")
        asked = [item] if isinstance(reference, Tag) else []
        tags = _parse_tags(asked + request.query.get("tag", []))
        manifest = _read_manifest(request, reference)
        subject = self._registry.put_manifest(name, manifest, tags)
        headers = {
            "Location": f"/v2/{name}/manifests/{manifest.digest}",
            "Docker-Content-Digest": str(manifest.digest),
        }
        if subject is not None:
            headers["OCI-Subject"] = str(subject)
        if tags:
            headers["OCI-Tag"] = ", ".join(tags)
        return Response.of(201, headers)

    def delete(self, request: Request, name: Repository, item: str) -> Response:
        """Deleting tags, Deleting Manifests."""
        self._registry.delete_manifest(name, parse_reference(item))
        return Response.of(202, {})

    def tags(self, request: Request, name: Repository, item: str) -> Response:
        """Listing Tags."""
        page, headers = page_of_names(request, self._registry.tags(name))
        return json_response({"name": name, "tags": page}, headers)

    def referrers(self, request: Request, name: Repository, item: str) -> Response:
        """Listing Referrers."""
        entries = self._registry.referrers(name, parse_digest(item))
        page, headers = page_of_referrers(request, entries)
        return index_response(index_of(page), headers)

    def catalog(self, request: Request) -> Response:
        """``/v2/_catalog``, which Docker's registry had before the specification."""
        page, headers = page_of_names(request, self._registry.repositories())
        return json_response({"repositories": page}, headers)


def _parse_tags(texts: list[str]) -> tuple[Tag, ...]:
    tags = []
    for text in texts:
        tag = Tag.parse(text)
        if tag is None:
            raise ProtocolError(400, MANIFEST_INVALID, f"not a tag: {text[:160]!r}")
        tags.append(tag)
    return tuple(dict.fromkeys(tags))


def _read_manifest(request: Request, reference: Tag | Digest) -> RawManifest:
    """The body, which has the digest that *reference* is, if it is one."""
    raw = read_all(request.body, JSON_LIMIT)
    if raw is None:
        message = f"a manifest may have {JSON_LIMIT} bytes"
        raise ProtocolError(413, SIZE_INVALID, message)
    algorithm = reference.algorithm if isinstance(reference, Digest) else "sha256"
    digest = Digest.from_hash(hashlib.new(algorithm, raw))
    if isinstance(reference, Digest) and digest != reference:
        message = f"wanted {reference}, the bytes received are {digest}"
        raise ProtocolError(400, DIGEST_INVALID, message)
    content_type = media_type_of(request.headers.first("Content-Type") or "")
    return RawManifest(content_type or stated_type(raw), digest, raw)
